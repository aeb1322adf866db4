"""The rows of bench.py about VITS at the size of LJSpeech (36.3 M parameters): synthesis, batches, streams, training.

Peers: `transformers` (VitsModel) and, where the variable VITS_CHECKOUT names a checkout of jaywalnut310/vits, that
code, both with weight norm folded; for training the `Vits` of coqui-tts with its own criteria and optimisers. Ours
takes the peer's random weights through our converters, both noise scales are 0, and the waves must agree before
anything is timed.
"""

# pyright: reportMissingImports=false

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SYMBOLS = 100
FRAMES_PER_SYMBOL = 2.5


def synthesis(rounds: int) -> list[dict[str, Any]]:
    """100 ids to wave, one sentence, beside each peer that is here."""
    import bench

    ids = np.random.default_rng(0).integers(1, 38, SYMBOLS).astype(np.int32)
    rows = []
    for name, make in (("transformers", _transformers), ("jaywalnut310", _jaywalnut310)):
        if not (made := make(ids)):
            continue
        weights, config, theirs = made
        speaker = _speaker(weights, config)
        wave = speaker.speak([_piece(ids)])[0].wave
        bench.require_same(theirs(), wave)
        rows.append(
            bench.compare(
                f"vits, peer {name}", "CPU s per s of audio", config.mel.sample_rate / len(wave), rounds,
                ours=lambda speaker=speaker: speaker.speak([_piece(ids)]), peer=theirs,
            )
        )  # fmt: skip
    return rows or [_alone("vits", rounds, ids)]


def batches(rounds: int) -> list[dict[str, Any]]:
    """16 sentences at once beside 16 one by one, in wall seconds: what a batch gains is what more cores find to do."""
    rng = np.random.default_rng(0)
    lines = [_piece(rng.integers(1, 38, n).astype(np.int32)) for n in rng.integers(60, 120, 16)]
    speaker = _speaker(*_own())
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds + 1):
        start = time.perf_counter()
        speaker.speak(lines)
        middle = time.perf_counter()
        for line in lines:
            speaker.speak([line])
        times["ours"].append(middle - start)
        times["peer"].append(time.perf_counter() - middle)
    return [_wall("vits, 16 sentences at once, peer: one by one", times, 1)]


def stream(rounds: int) -> list[dict[str, Any]]:
    """The wait for the first chunk of a sentence of 100 ids beside the time of the whole, in wall seconds."""
    ids = np.random.default_rng(0).integers(1, 38, SYMBOLS).astype(np.int32)
    speaker = _speaker(*_own())
    first, whole = [], []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        chunks = speaker.stream(_piece(ids))
        next(chunks)
        first.append(time.perf_counter() - start)
        for _ in chunks:
            pass
        start = time.perf_counter()
        speaker.speak([_piece(ids)])
        whole.append(time.perf_counter() - start)
    return [_wall("vits, first chunk, peer: the whole sentence", {"ours": first, "peer": whole}, 2)]


def _wall(row: str, times: dict[str, list[float]], warm_up: int) -> dict[str, Any]:
    ours, peer = (times[name][warm_up:] for name in ("ours", "peer"))
    ratio = statistics.median(a / b for a, b in zip(ours, peer))
    figures = {"ours": statistics.median(ours), "peer": statistics.median(peer), "ratio": ratio}
    return {"row": row, "unit": "s wall"} | figures | {"rounds": times}


def training(rounds: int) -> list[dict[str, Any]]:
    """One step of both nets, B=4, 100 ids and 400 frames, segments of 8192 samples."""
    import bench
    import jax.numpy as jnp

    from jaxtts.models.vits import Config, build_task

    config = Config(num_symbols=67, dtype=bench.training_dtype())
    rng, hop = np.random.default_rng(0), config.mel.hop_length
    batch = {
        "text": rng.integers(1, 67, (4, SYMBOLS)),
        "text_lengths": np.full(4, SYMBOLS),
        "wave": 0.1 * rng.standard_normal((4, 400 * hop), np.float32),
        "wave_lengths": np.full(4, 400 * hop),
    }
    ours = bench.training_step(build_task(config), {name: jnp.asarray(x) for name, x in batch.items()})
    peer = _coqui_step(batch, ours.parameters, bench.on_gpu()) if bench.optional("torch") else None
    return ours.rows("vits_step", rounds, peer)


def _coqui_step(batch: dict[str, Any], parameters: dict[str, int], gpu: bool) -> Callable[[], Any] | None:
    import bench

    if not bench.optional("TTS"):
        return None
    import torch
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import Vits

    device = "cuda" if gpu else "cpu"
    net = Vits(VitsConfig()).to(device).train()
    inside = sum(p.numel() for n, p in net.named_parameters() if n.startswith("disc."))
    outside = sum(p.numel() for p in net.parameters()) - inside
    if (outside, inside) != (parameters["generator"], parameters["discriminator"]):
        raise SystemExit(f"the peer has {outside} and {inside} parameters, we {parameters}")
    criteria, optimizers = [c.to(device) for c in net.get_criterion()], net.get_optimizer()
    given = {name: torch.from_numpy(np.asarray(x)).to(device) for name, x in batch.items()}
    if gpu:
        net.forward = torch.compile(net.forward)
        net.disc = torch.compile(net.disc)

    def step() -> None:
        # Its loader makes spectrograms on the device for each batch, as our step does.
        made = net.format_batch_on_device(
            {
                "tokens": given["text"], "token_lens": given["text_lengths"], "waveform": given["wave"][:, None],
                "waveform_rel_lens": torch.ones(4, device=device), "d_vectors": None, "speaker_ids": None,
                "language_ids": None,
            }
        )  # fmt: skip
        for index, (criterion, optimizer) in enumerate(zip(criteria, optimizers)):
            net.disc.requires_grad_(index == 0)
            with torch.autocast(device, torch.bfloat16, enabled=gpu):
                _, losses = net.train_step(made, criterion, index)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    return step


def _transformers(ids: np.ndarray) -> tuple[dict[str, np.ndarray], Any, Callable[[], np.ndarray]] | None:
    import bench

    torch, transformers = bench.optional("torch"), bench.optional("transformers")
    if not torch or not transformers:
        return None
    from torch.nn.utils import parametrize

    from jaxtts.models.vits.convert import hf_config_from, hf_convert
    from jaxtts.nn.functional import fold_weight_norm, named

    torch.manual_seed(0)
    net = transformers.VitsModel(transformers.VitsConfig(noise_scale=0.0, noise_scale_duration=0.0)).eval()
    net.duration_predictor.flows[0].translate.data[0] = -np.log(FRAMES_PER_SYMBOL)
    weights = {name: x.numpy() for name, x in net.state_dict().items()}
    config = hf_config_from(net.config.to_dict())
    tensors = named(fold_weight_norm(hf_convert(weights, config)))
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    text = torch.from_numpy(ids)[None].long()

    def run() -> np.ndarray:
        with torch.inference_mode():
            return net(text).waveform[0].numpy()

    return {n: np.asarray(x) for n, x in tensors.items()}, config, run


def _jaywalnut310(ids: np.ndarray) -> tuple[dict[str, np.ndarray], Any, Callable[[], np.ndarray]] | None:
    import bench

    torch, checkout = bench.optional("torch"), os.environ.get("VITS_CHECKOUT")
    if not torch or not checkout:
        return None
    import json

    from jaxtts.models.vits.convert import config_from, convert
    from jaxtts.nn.functional import fold_weight_norm, named

    sys.path.insert(0, checkout)
    for name in ("scipy", "monotonic_align"):  # which speaking does not need
        sys.modules.setdefault(name, ModuleType(name))
    import models

    torch.manual_seed(0)
    values = json.loads(Path(checkout, "configs/ljs_base.json").read_text())
    net = models.SynthesizerTrn(178, 513, 32, **values["model"]).eval()
    net.dp.flows[0].m.data[0] = -np.log(FRAMES_PER_SYMBOL)
    config = config_from(values)
    tensors = named(fold_weight_norm(convert({name: x.numpy() for name, x in net.state_dict().items()}, config)))
    net.dec.remove_weight_norm()
    for flow in net.flow.flows[::2]:
        flow.enc.remove_weight_norm()
    text, lengths = torch.from_numpy(ids)[None].long(), torch.tensor([len(ids)])

    def run() -> np.ndarray:
        with torch.inference_mode():
            return net.infer(text, lengths, noise_scale=0.0, noise_scale_w=0.0)[0][0, 0].numpy()

    return {n: np.asarray(x) for n, x in tensors.items()}, config, run


def _own() -> tuple[dict[str, np.ndarray], Any]:
    """Random weights that speak 2.5 frames for each symbol."""
    from flax import nnx

    from jaxtts.models.vits import Config, Model
    from jaxtts.nn.functional import fold_weight_norm, named, split

    tensors = named(fold_weight_norm(split(Model(Config(), rngs=nnx.Rngs(0)))[1]))
    tensors = {n: np.array(x) for n, x in tensors.items()}
    tensors["duration_predictor.flows.affine.bias"][0] = -np.log(FRAMES_PER_SYMBOL)
    return tensors, Config()


def _alone(row: str, rounds: int, ids: np.ndarray) -> dict[str, Any]:
    import bench

    tensors, config = _own()
    speaker = _speaker(tensors, config)
    seconds = len(speaker.speak([_piece(ids)])[0].wave) / config.mel.sample_rate
    return bench.compare(row, "CPU s per s of audio", 1 / seconds, rounds, ours=lambda: speaker.speak([_piece(ids)]))


def _speaker(tensors: dict[str, np.ndarray], config: Any) -> Any:
    """The compiled side of a voice, as `Voice` uses it."""
    from dataclasses import replace

    from jaxtts.config import to_dict
    from jaxtts.synth.folder import Part, VoiceFiles
    from jaxtts.synth.speak import Speaker
    from jaxtts.text import TextSpec

    part = Part("vits", to_dict(replace(config, weight_norm=False)), config.mel, tensors)
    return Speaker(VoiceFiles("bench", TextSpec(), {"model": part}, frames_per_symbol=FRAMES_PER_SYMBOL))


def _piece(ids: np.ndarray) -> Any:
    from jaxtts.synth.voice import Manner, Piece

    return Piece(ids, 0, "", 0.0, 0.0, np.ones(len(ids), np.float32), Manner(0, 1.0, 0.0, 0.0, 0))
