"""The rows of bench.py about Tacotron 2 at its published size (28.2 M parameters): decoding, batches, training.

Peers: NVIDIA/tacotron2, where the variable TACOTRON2_CHECKOUT names a checkout of it, and the `Tacotron2` of coqui-tts,
which have one text at a time. For decoding ours takes NVIDIA's random weights through our converter, and without the
pre-net's dropout both must make the same frames before anything is timed. Every run makes 500 frames: the decision to
stop is put out of reach on both sides.
"""

# pyright: reportMissingImports=false

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

SYMBOLS, FRAMES = 100, 500


def decoding(rounds: int) -> list[dict[str, Any]]:
    """One text and 16 at once: CPU time a frame, beside each peer that is here with one text."""
    import bench
    import jax

    from jaxtts.models.tacotron2 import Config, Model
    from jaxtts.models.tacotron2.convert import convert
    from jaxtts.nn.functional import merge, rngs_for_shapes, structure

    torch = bench.optional("torch")
    nvidia = _nvidia() if torch else None
    config = Config(stop_threshold=1.0)
    if nvidia:
        with torch.no_grad():
            net = nvidia.model.Tacotron2(_hparams(nvidia)).eval()
        params = convert({name: x.numpy() for name, x in net.state_dict().items()}, config)
    else:
        from flax import nnx

        from jaxtts.nn.functional import merged, split

        params = merged(*split(Model(config, rngs=nnx.Rngs(0)))[1:])
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]

    @jax.jit
    def infer(params: Any, text: Any, lengths: Any, seeds: Any) -> Any:
        return merge(graph, params).infer(text, lengths, max_frames=FRAMES, seeds=seeds)

    ids = np.random.default_rng(0).integers(1, 148, (16, SYMBOLS)).astype(np.int32)

    def ours(batch: int, seeds: bool = True) -> Any:
        drawn = np.arange(batch, dtype=np.uint32) if seeds else None
        return jax.block_until_ready(infer(params, ids[:batch], np.full(batch, SYMBOLS, np.int32), drawn))

    peers: dict[str, Callable[[], Any] | None] = {}
    if nvidia:
        peers["NVIDIA"] = _quietly(lambda: net.inference(torch.from_numpy(ids[:1]).long()))
        with _no_dropout(nvidia.model.F):
            theirs = peers["NVIDIA"]()[1][0].T
        bench.require_same(theirs.detach().numpy(), ours(1, seeds=False)[0][0])
    if torch and (coqui := _coqui(ids[:1])):
        peers["coqui-tts"] = coqui
    rows, scale = [], 1e3 / FRAMES
    for name, theirs in (peers or {"none": None}).items():
        for batch in (1, 16):
            row = bench.compare(
                f"tacotron2, {batch} at once, peer {name}", "CPU ms per frame", scale, rounds,
                ours=lambda batch=batch: ours(batch), peer=theirs,
            )  # fmt: skip
            for side in ("ours", "ratio"):
                if side in row:
                    row[side] /= batch
            rows.append(row)
    return rows


def training(rounds: int) -> list[dict[str, Any]]:
    """One step, B=8, 100 symbols, 500 frames; the peer is NVIDIA's."""
    import bench
    import jax.numpy as jnp

    from jaxtts.models.tacotron2 import Config, build_task

    rng = np.random.default_rng(0)
    batch = {
        "text": rng.integers(1, 148, (8, SYMBOLS)).astype(np.int32),
        "text_lengths": np.full(8, SYMBOLS, np.int32),
        "mel": rng.standard_normal((8, FRAMES, 80), np.float32),
        "mel_lengths": np.full(8, FRAMES, np.int32),
    }
    task = build_task(Config(dtype=bench.training_dtype()))
    ours = bench.training_step(task, {name: jnp.asarray(x) for name, x in batch.items()})
    peer = _nvidia_step(batch, ours.parameters["model"], bench.on_gpu()) if bench.optional("torch") else None
    return ours.rows("tacotron2_step", rounds, peer)


def _nvidia() -> SimpleNamespace | None:
    """The modules of NVIDIA's checkout; its masks work without CUDA."""
    import torch

    if not (checkout := os.environ.get("TACOTRON2_CHECKOUT")):
        return None
    sys.path.insert(0, checkout)
    modules = SimpleNamespace(**{name: importlib.import_module(name) for name in ("model", "loss_function")})
    sys.path.remove(checkout)

    def mask(lengths: Any) -> Any:
        return torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]

    modules.model.get_mask_from_lengths = mask
    return modules


def _hparams(nvidia: SimpleNamespace) -> SimpleNamespace:
    """The published ones (hparams.py)."""
    return SimpleNamespace(
        n_symbols=148, symbols_embedding_dim=512, encoder_kernel_size=5, encoder_n_convolutions=3,
        encoder_embedding_dim=512, n_frames_per_step=1, decoder_rnn_dim=1024, prenet_dim=256,
        max_decoder_steps=FRAMES, gate_threshold=1.0, p_attention_dropout=0.1, p_decoder_dropout=0.1,
        attention_rnn_dim=1024, attention_dim=128, attention_location_n_filters=32,
        attention_location_kernel_size=31, postnet_embedding_dim=512, postnet_kernel_size=5,
        postnet_n_convolutions=5, mask_padding=True, n_mel_channels=80, fp16_run=False,
    )  # fmt: skip


def _coqui(ids: np.ndarray) -> Callable[[], Any] | None:
    import bench

    if not bench.optional("TTS"):
        return None
    import torch
    from TTS.tts.configs.tacotron2_config import Tacotron2Config
    from TTS.tts.models.tacotron2 import Tacotron2

    net = Tacotron2(Tacotron2Config(num_chars=148, r=1, out_channels=80, max_decoder_steps=FRAMES)).eval()
    net.decoder.max_decoder_steps, net.decoder.stop_threshold = FRAMES - 1, 2.0
    given = torch.from_numpy(ids).long()
    run = _quietly(lambda: net.inference(given))
    frames = run()["model_outputs"].shape[1]
    if frames != FRAMES:
        raise SystemExit(f"the peer makes {frames} frames, not {FRAMES}: the comparison would mean nothing")
    return run


def _nvidia_step(batch: dict[str, np.ndarray], parameters: int, gpu: bool) -> Callable[[], Any] | None:
    import torch

    if not (nvidia := _nvidia()):
        return None
    device = "cuda" if gpu else "cpu"
    net = nvidia.model.Tacotron2(_hparams(nvidia)).to(device).train()
    if (count := sum(p.numel() for p in net.parameters())) != parameters:
        raise SystemExit(f"the peer has {count} parameters, we {parameters}")
    loss = nvidia.loss_function.Tacotron2Loss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-6)
    given = {name: torch.from_numpy(x).to(device) for name, x in batch.items()}
    mel = given["mel"].swapaxes(1, 2).contiguous()
    gate = torch.zeros(mel.shape[0], FRAMES, device=device)
    gate[:, -1] = 1.0
    inputs = (given["text"].long(), given["text_lengths"].long(), mel, SYMBOLS, given["mel_lengths"].long())

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            value = loss(net(inputs), (mel, gate))
        net.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    return step


def _quietly(call: Callable[[], Any]) -> Callable[[], Any]:
    """Without gradients and without the warning that the last frame was reached."""
    import torch

    def run() -> Any:
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            return call()

    return run


@contextlib.contextmanager
def _no_dropout(functional: Any) -> Any:
    kept = functional.dropout
    functional.dropout = lambda x, *_, **__: x
    try:
        yield
    finally:
        functional.dropout = kept
