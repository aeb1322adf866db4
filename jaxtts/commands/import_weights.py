"""`jaxtts import-weights`: a checkpoint of another toolkit as a model folder of ours."""

import argparse
from pathlib import Path

HELP = """Bring a checkpoint of another toolkit here, once.

Reads Hugging Face VitsModel folders (MMS, vits-ljs ...), jaywalnut310's VITS (G_*.pth) and Glow-TTS, Coqui's VITS and
Glow-TTS, Piper's training checkpoints (.ckpt), HiFi-GAN generators (g_*), r9y9's WaveNets (checkpoint_*.pth) and
kan-bayashi's Parallel WaveGANs (checkpoint-*.pkl), each with its configuration beside it; nothing in them is executed.
The result is a folder for `jaxtts say --voice` (VITS) or `--acoustic` and `--vocoder`, `jaxtts vocode`,
`jaxtts export-voice` and for training on."""
EXAMPLES = """\
  jaxtts import-weights facebook/mms-tts-eng imported/mms
  jaxtts import-weights G_400000.pth imported/ljs --config configs/ljs_base.json
  jaxtts import-weights g_02500000 imported/hifigan
  jaxtts import-weights tts_models--en--ljspeech--glow-tts imported/glow
  jaxtts export-voice voices/lj --acoustic imported/glow --vocoder imported/hifigan"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("source", type=Path, metavar="SRC", help="the checkpoint's folder, or the file of its weights")
    parser.add_argument("folder", type=Path, metavar="DST", help="where the model goes")
    parser.add_argument("--config", type=Path, metavar="FILE", help="its config (default: the one beside SRC)")
    parser.add_argument("--language", metavar="NAME", help="the one to speak, of a model of several (default: first)")
    parser.add_argument("--mel-spec", metavar="NAME", help="its mels where the config cannot say, e.g. hifigan")


def run(args: argparse.Namespace) -> None:
    """Imports."""
    from jaxtts.interop import read
    from jaxtts.nn.functional import count_parameters, nested
    from jaxtts.train.checkpoint import export

    found = read(args.source, config=args.config, language=args.language, mel_spec=args.mel_spec).folded()
    description = {
        "model": found.model,
        "mel": found.mel.to_dict(),
        "speakers": list(found.speakers),
        "defaults": found.defaults,
        "missing": found.missing,
        "source": f"{found.kind}: {args.source.name}",
    }
    if found.text is not None:
        description["text"] = found.text.to_dict()
    params = nested(found.tensors)
    export(args.folder, params, found.config, description)
    print(f"{args.folder}: {found.kind}, {count_parameters(params):,} parameters, weight norm folded")
    if found.missing:
        print(f"It does not speak alone, for it lacks {found.missing}.")
