#!/usr/bin/env python3
"""Times our code beside its peers, both in one process on one core, and prints the ratio.

    python tools/bench.py                 all rows
    python tools/bench.py mas hifigan     these
    python tools/bench.py --rounds 9 --json bench.json

Rows: mas (peer: the compiled package monotonic-alignment-search as its users call it), hifigan (peer: the V1
generator in torch, eager and in its best float32 form), voice (the embedded voice from text to wave), cold (from
process start to a written file). Peers need `pip install "jaxtts[reference]"`; a row without its peer is printed
without a ratio.

A figure is CPU time of the whole process, not wall time: it holds on a busy machine. Ours and the peer's calls
alternate; the ratio is the median of the rounds' ratios, below 1 where we are faster. The process is bound to one
core before jax or torch start, as both lose more to each other than they gain from a second one.
"""

import argparse
import functools
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SENTENCE = "The birch canoe slid on the smooth planks, and the stale smell of old beer lingers."


def main(argv: list[str] | None = None) -> int:
    rows: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "mas": mas, "hifigan": hifigan, "voice": voice, "cold": cold,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(rows)}; default all")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds a row (default 7)")
    parser.add_argument("--cores", type=int, default=1, help="cores the process may use (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    args = parser.parse_args(argv)
    unknown = [r for r in args.rows if r not in rows]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(rows)}")
    bind(args.cores)
    import jax

    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
    print(f"# {processor()}, {args.cores} core(s), Python {platform.python_version()}, jax {jax.__version__}")
    print(f"{'row':34} {'ours':>12} {'peer':>12} {'ratio':>7}  unit")
    results = []
    for name in args.rows or rows:
        for result in rows[name](args.rounds):
            results.append(result)
            peer, ratio = result.get("peer"), result.get("ratio")
            print(
                f"{result['row']:34} {result['ours']:12.4g} {'-' if peer is None else f'{peer:.4g}':>12} "
                f"{'-' if ratio is None else f'{ratio:.3f}':>7}  {result['unit']}",
                flush=True,
            )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0


def bind(cores: int) -> None:
    """Limits this process to some cores, and the libraries' thread pools with it."""
    os.environ.update(OMP_NUM_THREADS=str(cores), MKL_NUM_THREADS=str(cores), NPROC=str(cores))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def optional(name: str) -> Any:
    """A peer's package, or None where it is not installed; torch is held to one thread."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return None
    if name == "torch":
        module.set_num_threads(1)
    return module


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def compare(row: str, unit: str, scale: float, rounds: int, **calls: Callable[[], Any] | None) -> dict[str, Any]:
    """Alternates ours() and peer(); each is called once to warm up and then as often as fills about 0.2 s."""
    times: dict[str, list[float]] = {name: [] for name, call in calls.items() if call}
    repeats = {}
    for name, call in calls.items():
        if call:
            call()
            start = time.process_time()
            call()
            repeats[name] = max(1, int(0.2 / max(time.process_time() - start, 1e-6)))
    for _ in range(rounds):
        for name in times:
            call = calls[name]
            assert call
            start = time.process_time()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.process_time() - start) / repeats[name] * scale)
    result: dict[str, Any] = {"row": row, "unit": unit, "ours": statistics.median(times["ours"]), "rounds": times}
    if "peer" in times:
        result["peer"] = statistics.median(times["peer"])
        result["ratio"] = statistics.median(a / b for a, b in zip(times["ours"], times["peer"], strict=True))
    return result


def mas(rounds: int) -> list[dict[str, Any]]:
    """Monotonic alignment search from log-likelihoods to the path."""
    import jax
    import jax.numpy as jnp

    from jaxtts.nn.alignment import monotonic_alignment_search

    torch, peer_package = optional("torch"), optional("monotonic_alignment_search")
    search = jax.jit(monotonic_alignment_search)
    rows = []
    for batch, text, frames in [(16, 100, 400), (32, 200, 800), (32, 400, 1600)]:
        rng = np.random.default_rng(0)
        values = rng.standard_normal((batch, text, frames), np.float32)
        text_lengths = rng.integers(text // 2, text + 1, batch)
        frame_lengths = np.maximum(rng.integers(frames // 2, frames + 1, batch), text_lengths)
        ours = jnp.asarray(values.transpose(2, 0, 1)), jnp.asarray(text_lengths), jnp.asarray(frame_lengths)
        peer: Callable[[], Any] | None = None
        if peer_package and torch:
            mask = (np.arange(text)[:, None] < text_lengths[:, None, None]) & (
                np.arange(frames) < frame_lengths[:, None, None]
            )
            log_p, mask = torch.from_numpy(values), torch.from_numpy(mask.astype(np.float32))
            found = peer_package.maximum_path(log_p, mask).numpy().sum(-1)
            if not np.array_equal(found, np.asarray(search(*ours))):
                raise SystemExit("the peer's durations differ from ours: the comparison would mean nothing")

            peer = functools.partial(peer_package.maximum_path, log_p, mask)

        rows.append(
            compare(
                f"mas ({batch}, {text}, {frames})",
                "ms per call",
                1e3,
                rounds,
                ours=lambda ours=ours: jax.block_until_ready(search(*ours)),
                peer=peer,
            )
        )
    return rows


def hifigan(rounds: int) -> list[dict[str, Any]]:
    """HiFi-GAN V1, mel to wave, float32, weight norm folded on both sides."""
    import jax
    from flax import nnx

    from jaxtts.models.hifigan import Config, Model
    from jaxtts.nn.functional import merge, split

    frames = 256
    seconds = frames * 256 / 22050
    mel = np.random.default_rng(0).standard_normal((1, frames, 80), np.float32)
    structure, params, rest = split(Model(Config.v1().folded(), rngs=nnx.Rngs(0)))
    generate = jax.jit(lambda params, mel: merge(structure, params, rest).infer(mel))
    mel_jax = jax.device_put(mel)

    def ours():
        return jax.block_until_ready(generate(params, mel_jax))

    torch = optional("torch")
    if not torch:
        return [compare("hifigan v1", "CPU s per s of audio", 1 / seconds, rounds, ours=ours)]
    torch.manual_seed(0)
    generator = torch_hifigan().eval()
    mel_torch = torch.from_numpy(mel.transpose(0, 2, 1).copy())

    def eager():
        with torch.inference_mode():
            return generator(mel_torch)

    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(generator, mel_torch))

    def best():
        with torch.inference_mode():
            return frozen(mel_torch)

    unit = "CPU s per s of audio"
    return [
        compare("hifigan v1, peer torch eager", unit, 1 / seconds, rounds, ours=ours, peer=eager),
        compare("hifigan v1, peer torch frozen", unit, 1 / seconds, rounds, ours=ours, peer=best),
    ]


def torch_hifigan() -> Any:
    """The V1 generator of arXiv 2010.05646 table 5 in torch, as its users run it (weight norm folded)."""
    torch = importlib.import_module("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, channels: int, kernel: int):
            super().__init__()
            same = [(kernel - 1) * d // 2 for d in (1, 3, 5)]
            self.dilated = nn.ModuleList(
                nn.Conv1d(channels, channels, kernel, dilation=d, padding=p) for d, p in zip((1, 3, 5), same)
            )
            self.plain = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=same[0]) for _ in range(3))

        def forward(self, x):
            for dilated, plain in zip(self.dilated, self.plain):
                y = dilated(functional.leaky_relu(x, 0.1))
                x = x + plain(functional.leaky_relu(y, 0.1))
            return x

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv1d(80, 512, 7, padding=3)
            widths = [512, 256, 128, 64, 32]
            kernels, rates = (16, 16, 4, 4), (8, 8, 2, 2)
            self.ups = nn.ModuleList(
                nn.ConvTranspose1d(a, b, k, r, padding=(k - r) // 2)
                for a, b, k, r in zip(widths, widths[1:], kernels, rates)
            )
            self.blocks = nn.ModuleList(nn.ModuleList(Block(c, k) for k in (3, 7, 11)) for c in widths[1:])
            self.last = nn.Conv1d(32, 1, 7, padding=3)

        def forward(self, x):
            x = self.first(x)
            for up, blocks in zip(self.ups, self.blocks):
                x = up(functional.leaky_relu(x, 0.1))
                x = torch.stack([block(x) for block in blocks]).sum(0) / 3
            return torch.tanh(self.last(functional.leaky_relu(x)))

    return Generator()


def voice(rounds: int) -> list[dict[str, Any]]:
    """The embedded voice, text to wave in a warm process."""
    import jaxtts

    loaded = jaxtts.load()
    seconds = loaded.synthesize(SENTENCE).duration
    row = compare(
        "voice, one sentence", "CPU s per s of audio", 1 / seconds, rounds, ours=lambda: loaded.synthesize(SENTENCE)
    )
    batch = [SENTENCE] * 8
    seconds = sum(audio.duration for audio in loaded.synthesize(batch))
    many = compare(
        "voice, eight sentences", "CPU s per s of audio", 1 / seconds, rounds, ours=lambda: loaded.synthesize(batch)
    )
    return [row, many]


def cold(rounds: int) -> list[dict[str, Any]]:
    """`jaxtts say` from process start to file, in wall seconds: with an empty cache, then with a full one."""
    first, warm = [], []
    for _ in range(max(3, rounds // 2)):
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"XDG_CACHE_HOME": folder}
            command = [sys.executable, "-m", "jaxtts", "say", SENTENCE, "-o", f"{folder}/out.wav"]
            for times in (first, warm):
                start = time.perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                times.append(time.perf_counter() - start)
    return [
        {"row": "say, first time ever", "unit": "s wall", "ours": statistics.median(first), "rounds": first},
        {"row": "say, warm cache", "unit": "s wall", "ours": statistics.median(warm), "rounds": warm},
    ]


if __name__ == "__main__":
    sys.exit(main())
