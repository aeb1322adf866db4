"""Records folders as transformers 5.23, coqui-tts 0.28 and Lightning write them, with what their models say.

    python tests/golden/interop/record.py

Needs torch, transformers, uroman and coqui-tts. Models are tiny and their weights random; the duration predictor of
coqui-tts, whose width is fixed there, is made narrower. The noises are off. What was said is in spoken.npz; what the
tokenizers of both make of a few texts, under several vocabularies and settings, in tokens.json. The weights of Piper's
checkpoint are those of ../vits, under the names and with the settings that its trainer saves.
"""

# pyright: reportMissingImports=false

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
import uroman
from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
from TTS.tts.layers.vits.stochastic_duration_predictor import StochasticDurationPredictor
from TTS.tts.models import vits
from TTS.tts.utils.text.tokenizer import TTSTokenizer

HERE = Path(__file__).parent
TEXTS = [
    "Hello world", "kite", "like a duck", "kk", "k k", "Kick it now!", "It's a test", "naïve café", "ABC Def",
    "The price is 35 dollars", "don’t", "“quoted” text", "em—dash", "double  inner  spaces", "emoji 😀 here",
    "ßtraße", "İstanbul", "привет мир", "नमस्ते दुनिया", "țară și înțeles", "ÉCOLE", "a_b", "semi;colon", "50% off",
    "(parens)", "Dr. Smith paid $3.50 & left; didn't he", "1984 was 2 years ago", "the 22nd of 1,200 in 2005 or 1900",
]  # fmt: skip
LETTERS = "_ abcdefghijklmnopqrstuvwxyz"
MMS = "k'zyudhesw–3cp-1jmi flo0bra42n_xvtq56g"
TOKENIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mms": (MMS, {"pad_token": "k", "language": "eng"}),
    "marks": (LETTERS + "'-,.!?éü", {"language": "eng"}),
    "capitals": ("_ ABCdefghijklmnopqrstuvwxyzabcÉ'!", {"language": "xyz"}),
    "no_blank": (LETTERS, {"add_blank": False, "language": "eng"}),
    "as_it_is": (LETTERS + "AB.", {"normalize": False, "language": "eng"}),
    "romanian": (LETTERS + "ţăâî", {"language": "ron"}),
    "romanised": (LETTERS + "'", {"is_uroman": True, "language": "rus"}),
}
CLEANERS = (None, "basic_cleaners", "english_cleaners", "multilingual_cleaners")


def randomize(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.ndim > 1 else 0.1
            start = 0.7 if name.endswith(("original0", "gamma")) or "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(start + scale * torch.randn_like(parameter))


def hugging_face(folder: Path) -> dict[str, np.ndarray]:
    config = transformers.VitsConfig(
        vocab_size=40, hidden_size=8, flow_size=4, ffn_dim=12, num_hidden_layers=1, spectrogram_bins=17,
        upsample_rates=[4, 2], upsample_kernel_sizes=[8, 4], upsample_initial_channel=8, resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]], posterior_encoder_num_wavenet_layers=2, depth_separable_num_layers=2,
        prior_encoder_num_wavenet_layers=2, duration_predictor_flow_bins=4, num_speakers=3, speaker_embedding_size=4,
        speaking_rate=0.8,
    )  # fmt: skip
    model = transformers.VitsModel(config).eval()
    randomize(model)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(folder, *TOKENIZERS["mms"])
    model.noise_scale = model.noise_scale_duration = 0.0
    ids = tokenizer("hello there")["input_ids"]
    with torch.no_grad():
        wave = model(torch.tensor([ids]), speaker_id=2).waveform[0]
    return {"hf/ids": np.array(ids), "hf/wave": wave.numpy()}


def make_tokenizer(folder: Path, vocabulary: str, settings: dict[str, Any]) -> transformers.VitsTokenizer:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "vocab.json"
        path.write_text(json.dumps({c: i for i, c in enumerate(vocabulary)}))
        tokenizer = transformers.VitsTokenizer(str(path), phonemize=False, **settings)
        tokenizer.save_pretrained(folder)
    return tokenizer


def coqui(folder: Path) -> dict[str, np.ndarray]:
    args = VitsArgs(
        hidden_channels=8, hidden_channels_ffn_text_encoder=12, num_layers_text_encoder=1, out_channels=17,
        num_layers_posterior_encoder=2, num_layers_flow=2, upsample_rates_decoder=[4, 2],
        upsample_kernel_sizes_decoder=[8, 4], upsample_initial_channel_decoder=8, resblock_kernel_sizes_decoder=[3],
        resblock_dilation_sizes_decoder=[[1, 3]], resblock_type_decoder="2", init_discriminator=False,
        use_speaker_embedding=True, speaker_embedding_channels=4, use_language_embedding=True, embedded_language_dim=2,
        speakers_file=str(folder / "speakers.json"), language_ids_file=str(folder / "language_ids.json"),
    )  # fmt: skip
    (folder / "speakers.json").write_text('{"ann": 0, "bob": 2, "cem": 1}')
    (folder / "language_ids.json").write_text('{"en": 1, "fr-fr": 0}')
    config = VitsConfig(model_args=args, text_cleaner="multilingual_cleaners")
    config.audio.update({"fft_size": 32, "hop_length": 8, "win_length": 32, "sample_rate": 8000})
    tokenizer, config = TTSTokenizer.init_from_config(config)
    config.model_args.num_chars = tokenizer.characters.num_chars

    def narrow(in_channels, _width, *rest, **options):
        return StochasticDurationPredictor(in_channels, 8, *rest, **options)

    with mock.patch.object(vits, "StochasticDurationPredictor", narrow):
        model = vits.Vits(config, None, tokenizer).eval()
    randomize(model)
    for args_of in (config, config.model_args):
        args_of.speakers_file = "/where/it/was/trained/speakers.json"
    config.model_args.language_ids_file = "/where/it/was/trained/language_ids.json"
    config.save_json(str(folder / "config.json"))
    torch.save({"model": model.state_dict(), "step": 3, "optimizer": [{"state": {}}]}, folder / "best_model.pth")
    model.inference_noise_scale = model.inference_noise_scale_dp = 0.0
    ids = torch.tensor([[5, 9, 3, 22, 7, 31, 2]])
    found = {"coqui/ids": ids[0].numpy()}
    for name, speaker in (("bob", 2), ("cem", 1)):
        for language, number in (("en", 1), ("fr-fr", 0)):
            given = {"speaker_ids": torch.tensor([speaker]), "language_ids": torch.tensor([number])}
            found[f"coqui/{name}.{language}"] = model.inference(ids, given)["model_outputs"][0, 0].numpy()
    return found


class AttributeDict(dict):
    """Stands for Lightning's, which is a class of its own to a pickle."""


def piper(folder: Path) -> None:
    with np.load(HERE.parent / "vits" / "cases.npz") as cases:
        config = json.loads(str(cases["stochastic/meta"]))["config"]
        weights = {
            n.removeprefix("stochastic/w/"): torch.tensor(cases[n]) for n in cases if n.startswith("stochastic/w/")
        }
    sizes = {n: config[n] for n in ("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers")}
    shape = {n: config[n] for n in config if n.startswith(("resblock", "upsample"))}
    given = sizes | shape | {"filter_length": 16, "hop_length": 8, "win_length": 16, "mel_channels": 4}
    given |= {"num_symbols": 12, "num_speakers": 1, "gin_channels": 0, "use_sdp": True, "segment_size": 32,
              "mel_fmax": None, "dataset": [Path("dataset.jsonl")]}  # fmt: skip
    state = {f"model_g.{n}": x for n, x in weights.items()} | {"model_d.convs.0.bias": torch.zeros(2)}
    torch.save(
        {"epoch": 1, "state_dict": state, "hyper_parameters": AttributeDict(given)}, folder / "epoch=1-step=9.ckpt"
    )
    symbols = ["_", "^", "$", " ", "!", ",", ".", "ɛ", "a", "b", "c", "\u0327"]
    described = {
        "audio": {"sample_rate": 8000, "quality": "tiny"}, "espeak": {"voice": "en-us"}, "language": {"code": "en-us"},
        "inference": {"noise_scale": 0.6, "length_scale": 1.1, "noise_w": 0.7}, "phoneme_type": "espeak",
        "phoneme_map": {}, "phoneme_id_map": {s: [n] for n, s in enumerate(symbols)}, "num_symbols": 12,
        "num_speakers": 1, "speaker_id_map": {},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described, indent=1))


def tokens() -> dict[str, Any]:
    found: dict[str, Any] = {"hf": {}, "coqui": {}}
    for name, (vocabulary, settings) in TOKENIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = make_tokenizer(Path(folder), vocabulary, settings)
            files = {p.name: json.loads(p.read_text()) for p in Path(folder).glob("*.json")}
        found["hf"][name] = {"files": files, "ids": {text: tokenizer(text)["input_ids"] for text in TEXTS}}
    for cleaner in CLEANERS:
        config = VitsConfig(text_cleaner=cleaner, add_blank=cleaner is not None)
        tokenizer, config = TTSTokenizer.init_from_config(config)
        ids = {text: tokenizer.text_to_ids(text, language="en") for text in TEXTS}
        kept = {n: config.to_dict()[n] for n in ("model", "text_cleaner", "add_blank", "use_phonemes", "characters")}
        found["coqui"][str(cleaner)] = {"config": kept, "ids": ids}
    return found


def main() -> None:
    spoken: dict[str, np.ndarray] = {}
    one = uroman.Uroman()
    with mock.patch.object(uroman, "Uroman", lambda: one):  # or transformers reads its tables for each text
        for name, make in (("hf", hugging_face), ("coqui", coqui), ("piper", piper)):
            torch.manual_seed(0)
            shutil.rmtree(HERE / name, ignore_errors=True)
            (HERE / name).mkdir()
            spoken |= make(HERE / name) or {}
        (HERE / "tokens.json").write_text(json.dumps(tokens(), ensure_ascii=False) + "\n")
    np.savez_compressed(HERE / "spoken.npz", **spoken)


if __name__ == "__main__":
    main()
