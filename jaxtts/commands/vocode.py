"""`jaxtts vocode`: mel or recording in, sound out."""

import argparse
from pathlib import Path

HELP = """Turn a mel spectrogram into sound, or a recording into its mel spectrogram and back (copy synthesis): how a
vocoder sounds when the mels are perfect."""
EXAMPLES = """\
  jaxtts vocode recording.wav -o copy.wav --vocoder runs/vocos
  jaxtts vocode mel.npy -o out.wav --vocoder runs/hifigan
  jaxtts vocode recording.wav -o copy.wav --vocoder runs/waveglow --sigma 0.6 --denoise 0.05
  jaxtts vocode recording.wav -o rough.wav --vocoder griffin-lim --mel-spec tacotron2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("input", type=Path, metavar="IN", help="sound file, or .npy with frames [T, mels]")
    parser.add_argument("-o", "--output", "--out-path", "--output-file", required=True, metavar="OUT")
    parser.add_argument(
        "--vocoder",
        "--model",
        metavar="VOCODER",
        help="voice or training folder, or griffin-lim (default: the embedded voice's)",
    )
    parser.add_argument("--sigma", type=float, metavar="X", help="temperature of a vocoder with noise (WaveGlow)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of that noise, or of a WaveNet's draws (0)")
    parser.add_argument(
        "--exact", action="store_true", help="a WaveNet draws all samples in one row, not half seconds side by side"
    )
    parser.add_argument(
        "--weights-dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="a WaveNet reads its weights in fewer bits: meant for GPUs, where it was not timed yet (default float32)",
    )
    parser.add_argument(
        "--denoise", type=float, default=0.0, metavar="X", help="take X of the vocoder's own hum away (default 0)"
    )
    parser.add_argument("--mel-spec", metavar="NAME", help="of griffin-lim's frames (default hifigan)")


def run(args: argparse.Namespace) -> None:
    """Vocodes."""
    from jaxtts.audio.io import save
    from jaxtts.audio.spec import mel_spec
    from jaxtts.synth.folder import GRIFFIN_LIM
    from jaxtts.synth.vocode import Vocoder
    from jaxtts.synth.voice import find

    if args.mel_spec and args.vocoder != GRIFFIN_LIM:
        raise ValueError("--mel-spec is for griffin-lim only: a trained vocoder knows its own")
    path = args.vocoder if args.vocoder == GRIFFIN_LIM else find(args.vocoder)
    spec = mel_spec(args.mel_spec) if args.mel_spec else None
    vocoder = Vocoder(path, spec, weights_dtype=args.weights_dtype)
    mel = vocoder.features(args.input)
    wave = vocoder.wave(mel, seed=args.seed, sigma=args.sigma, denoise=args.denoise, exact=args.exact)
    save(args.output, wave, vocoder.mel.sample_rate)
    print(f"{args.output}: {len(wave) / vocoder.mel.sample_rate:.2f} s, {len(mel)} {vocoder.mel.name} frames")
