"""Records small Tacotrons of coqui-tts and of Real-Time-Voice-Cloning, their inputs and outputs: cases.npz, and a
Tacotron 2 of coqui-tts: ../tacotron2/coqui.npz.

    pip install coqui-tts==0.28.0 torch
    python tests/golden/tacotron/record.py CHECKOUT      # of CorentinJ/Real-Time-Voice-Cloning, commit 865eba8

The names are those of tools/parity.py's cases: <case>/meta (JSON), <case>/w/<name>, <case>/in.<name>,
<case>/out.<name>. The widths that coqui-tts writes into its code are replaced by small ones there; the dropout of
Real-Time-Voice-Cloning's pre-nets, which is never off, is off or given. Weights and batch statistics are random.
"""

# pyright: reportMissingImports=false

import importlib.metadata
import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

BASE = {
    "r": 2, "memory_size": -1, "max_decoder_steps": 12, "encoder_in_features": 8,
    "decoder_in_features": 8, "decoder_output_dim": 8, "out_channels": 9, "attention_norm": "sigmoid",
}  # fmt: skip
COQUI = {
    "coqui_sigmoid": BASE,
    "coqui_forward": BASE
    | {"r": 3, "memory_size": 5, "attention_norm": "softmax", "use_forward_attn": True, "transition_agent": True},
}
COQUI2 = {
    "r": 3, "max_decoder_steps": 6, "encoder_in_features": 12, "decoder_in_features": 12, "out_channels": 7,
    "decoder_output_dim": 7,
    "attention_norm": "sigmoid", "use_forward_attn": True, "transition_agent": True,
}  # fmt: skip
WIDTHS = {"256": "8", "128": "4"}
WIDTHS2 = {"512": "12", "1024": "10", "256": "8", "128": "4"}
RTVC = {
    "embed_dims": 7, "num_chars": 12, "encoder_dims": 6, "decoder_dims": 8, "n_mels": 5, "fft_bins": 5,
    "postnet_dims": 8, "encoder_K": 3, "lstm_dims": 10, "postnet_K": 2, "num_highways": 2, "dropout": 0.5,
    "stop_threshold": -3.4, "speaker_embedding_size": 4,
}  # fmt: skip


def narrow(name: str, widths: dict[str, str]) -> Any:
    """A module of coqui-tts with other widths."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text()
    source = re.sub(rf"\b({'|'.join(widths)})\b", lambda match: widths[match[0]], source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


def randomize(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var") or re.search(r"\.(bn|bnorm|batch_normalization)\.weight$", name):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dtype.is_floating_point and tensor.ndim == 1:
                tensor.normal_(0, 0.3)
            elif tensor.dtype.is_floating_point and tensor.ndim > 1:
                tensor.mul_(1.5)
    return net.eval()


def package() -> None:
    """coqui-tts without its own __init__, which asks for packages that Tacotron does not need."""
    root = importlib.metadata.distribution("coqui-tts").locate_file("TTS")
    found: Any = types.ModuleType("TTS")
    found.__path__ = [str(root)]
    sys.modules.update({"TTS": found, "torchaudio": types.ModuleType("torchaudio")})


@torch.no_grad()
def coqui(values: dict[str, Any], version: int, r: int) -> tuple[dict, dict, dict]:
    from TTS.tts.configs.tacotron2_config import Tacotron2Config
    from TTS.tts.configs.tacotron_config import TacotronConfig

    name, widths = ("tacotron", WIDTHS) if version == 1 else ("tacotron2", WIDTHS2)
    narrow(f"TTS.tts.layers.tacotron.{name}", widths)
    module = narrow(f"TTS.tts.models.{name}", widths)
    if version == 1:
        net: Any = module.Tacotron(TacotronConfig(audio=None, **values))
    else:
        net = module.Tacotron2(Tacotron2Config(audio=None, **values))
    randomize(net)
    net.decoder.set_r(r)
    bins = values["decoder_output_dim" if version == 1 else "out_channels"]
    x = {"text": torch.randint(1, 12, (2, 8)), "text_lengths": torch.tensor([8, 5])}
    x |= {"mel_specs": torch.randn(2, 12, bins), "mel_lengths": torch.tensor([12, 7])}
    x["text"][1, 5:] = 0
    x["mel_specs"][1, 7:] = 0
    out: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Any:
        def hook(module: Any, given: Any, made: torch.Tensor) -> None:
            out.setdefault(name, made.clone())

        return hook

    net.encoder.register_forward_hook(listen("encoder"))
    if version == 1:
        net.encoder.prenet.register_forward_hook(listen("encoder_prenet"))
        net.postnet.register_forward_hook(listen("postnet_cbhg"))
    whole = net(x["text"], x["text_lengths"], x["mel_specs"], x["mel_lengths"])
    spoken = net.inference(x["text"][:1])
    for name in ("model_outputs", "decoder_outputs", "alignments", "stop_tokens"):
        out[name], out[f"inference.{name}"] = whole[name], spoken[name]
    return net.state_dict(), x, out


@torch.no_grad()
def rtvc() -> tuple[dict, dict, dict]:
    from synthesizer.models import tacotron as reference

    net: Any = randomize(reference.Tacotron(**RTVC))
    net.r = 2
    x = {"x": torch.randint(1, 12, (2, 9)), "mel": torch.randn(2, 5, 14), "speaker_embedding": torch.randn(2, 4)}
    x["x"][1, 6:] = 0
    x["encoder_prenet_mask"] = torch.randint(0, 2, (2, 2, 9, 6), dtype=torch.int8)
    x["decoder_prenet_mask"] = torch.randint(0, 2, (7, 2, 2, 16), dtype=torch.int8)
    queue = [*x["encoder_prenet_mask"], *x["decoder_prenet_mask"].flatten(0, 1)]
    out: dict[str, torch.Tensor] = {}
    for case in ("nodrop", "drop"):
        masks = iter(queue) if case == "drop" else None
        reference.F.dropout = lambda h, p, training, masks=masks: h if masks is None else h * next(masks) / (1 - p)
        if case == "nodrop":
            out["nodrop.encoder"] = net.encoder(x["x"], x["speaker_embedding"])
        found = net(x["x"], x["mel"], x["speaker_embedding"])
        out |= {f"{case}.{name}": v for name, v in zip(("mel", "linear", "attention", "stop"), found)}
        if case == "nodrop":
            found = net.generate(x["x"], x["speaker_embedding"], 14)
            net.eval()
            out |= {f"generate.{name}": v for name, v in zip(("mel", "linear", "attention"), found)}
    return net.state_dict(), x, out


def main(checkout: str) -> None:
    sys.path.insert(0, checkout)
    package()
    cases: dict[str, np.ndarray] = {}

    def add(case: str, system: str, config: dict[str, Any], weights: dict, inputs: dict, outputs: dict) -> None:
        cases[f"{case}/meta"] = np.array(json.dumps({"system": system, "config": config}))
        arrays = {f"w/{k}": v for k, v in weights.items()}
        arrays |= {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": v for k, v in outputs.items()}
        cases.update({f"{case}/{k}": v.detach().numpy() for k, v in arrays.items()})

    def save(path: Path) -> None:
        np.savez_compressed(path, **cases)  # pyright: ignore[reportArgumentType]
        cases.clear()

    here = Path(__file__).parent
    torch.manual_seed(0)
    add("coqui", "coqui_tacotron2", COQUI2 | {"r": 2}, *coqui(COQUI2, 2, 2))
    save(here.parent / "tacotron2" / "coqui.npz")
    for case, values in COQUI.items():
        torch.manual_seed(0)
        add(case, "coqui_tacotron", values, *coqui(values, 1, values["r"]))
    torch.manual_seed(0)
    add("rtvc", "rtvc_tacotron", RTVC, *rtvc())
    save(here / "cases.npz")


if __name__ == "__main__":
    main(sys.argv[1])
