#!/usr/bin/env python3
"""Times our code beside its peers, both in one process on one core, and prints the ratio.

    python tools/bench.py                 all rows
    python tools/bench.py mas hifigan     these
    python tools/bench.py --rounds 9 --json bench.json

Rows: mas (peer: the compiled package monotonic-alignment-search as its users call it), hifigan (peer: the V1
generator in torch, eager and in its best float32 form), voice (the embedded voice from text to wave), stream (the
wait for the first sound of `Voice.stream`), cold (from process start to a written file), glow_tts_step and
hifigan_step (one full training step beside torch's, bench_peers.py), loader (the wait for batches in a training run),
vits, vits_batch, vits_stream and vits_step (bench_vits.py), tacotron2 and tacotron2_step (bench_tacotron2.py),
waveglow, wavernn and wavenet (files of these names). Peers need `pip install "jaxtts[reference]"`; a row without its
peer is printed without a ratio.

A figure is CPU time of the whole process, not wall time, unless its unit says so: it holds on a busy machine. Ours and
the peer's calls alternate; the ratio is the median of the rounds' ratios, below 1 where we are faster. The process is
bound to one core before jax or torch start, as both lose more to each other than they gain from a second one.

With JAX_PLATFORMS=cuda the training steps run on the GPU instead: wall time, bfloat16 on both sides, torch through
torch.compile, and beside them the share that our step reaches of the FLOP/s of a large matrix product.
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
from pathlib import Path
from typing import Any, NamedTuple

import bench_tacotron2
import bench_vits
import bench_waveglow
import bench_wavenet
import bench_wavernn
import numpy as np

SENTENCE = "The birch canoe slid on the smooth planks, and the stale smell of old beer lingers."


def main(argv: list[str] | None = None) -> int:
    rows: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "mas": mas, "hifigan": hifigan, "voice": voice, "stream": stream, "cold": cold,
        "glow_tts_step": glow_tts_step, "hifigan_step": hifigan_step, "loader": loader, "vits": bench_vits.synthesis,
        "vits_batch": bench_vits.batches, "vits_stream": bench_vits.stream, "vits_step": bench_vits.training,
        "tacotron2": bench_tacotron2.decoding, "tacotron2_step": bench_tacotron2.training,
        "waveglow": bench_waveglow.synthesis, "wavernn": bench_wavernn.synthesis, "wavenet": bench_wavenet.synthesis,
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
    clock = time.perf_counter if on_gpu() else time.process_time
    times: dict[str, list[float]] = {name: [] for name, call in calls.items() if call}
    repeats = {}
    for name, call in calls.items():
        if call:
            call()
            start = clock()
            call()
            repeats[name] = max(1, int(0.2 / max(clock() - start, 1e-6)))
    for _ in range(rounds):
        for name in times:
            call = calls[name]
            assert call
            start = clock()
            for _ in range(repeats[name]):
                call()
            times[name].append((clock() - start) / repeats[name] * scale)
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
    generator = importlib.import_module("bench_peers").Generator().eval()
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


def glow_tts_step(rounds: int) -> list[dict[str, Any]]:
    """Glow-TTS of the paper: forward with dropout, alignment search, backward, clipping, Adam; 8 x (100, 500)."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxtts.models.glow_tts import Config, Model, build_task
    from jaxtts.models.glow_tts.convert import convert
    from jaxtts.models.glow_tts.task import losses
    from jaxtts.nn.functional import merge, structure

    rng, config = np.random.default_rng(0), Config(dtype=training_dtype())
    batch = {
        "text": rng.integers(1, 148, (8, 100)),
        "text_lengths": np.full(8, 100),
        "mel": rng.standard_normal((8, 500, 80), np.float32),
        "mel_lengths": np.full(8, 500),
    }
    task = build_task(config)
    ours = training_step(task, {name: jnp.asarray(x) for name, x in batch.items()})
    peers, search = torch_peers(), optional("monotonic_alignment_search")
    if not peers or not search:
        return ours.rows("glow_tts_step", rounds, None)
    net = peers.GlowTTS(search.maximum_path)
    if not on_gpu():
        peers.scramble(net)
        theirs = float(peers.loss_of(net, batch))
        weights, plain = convert(peers.state(net), Config()), structure(lambda: Model(Config(), rngs=nnx.Rngs(0)))[0]
        output = jax.jit(lambda params: merge(plain, params)(*batch.values()))(weights)
        require_same(theirs, float(losses(output, batch["text_lengths"])[0]))
        net = peers.GlowTTS(search.maximum_path)
    require_same(peers.count(net), ours.parameters["model"])
    return ours.rows("glow_tts_step", rounds, peers.glow_tts_step(net, batch))


def hifigan_step(rounds: int) -> list[dict[str, Any]]:
    """HiFi-GAN V1 with MPD and MSD: both forward and backward passes, AdamW twice; 4 x 8192 samples."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxtts.audio.features import mel_basis
    from jaxtts.models.hifigan import Config, Model, build_task, default_optim
    from jaxtts.models.hifigan.convert import discriminator_params, generator_params
    from jaxtts.models.hifigan.discriminators import Discriminators
    from jaxtts.nn.functional import merge, structure

    config = Config(dtype=training_dtype())
    wave = 0.1 * np.random.default_rng(0).standard_normal((4, 8192), np.float32)
    ours = training_step(build_task(config, default_optim()), {"wave": jnp.asarray(wave)})
    peers = torch_peers()
    if not peers:
        return ours.rows("hifigan_step", rounds, None)
    generator, discriminators = peers.Generator(training_form=True), peers.Discriminators()
    mels = [peers.Mel(mel_basis(spec)) for spec in (config.mel, config.mel.full_band())]
    require_same(peers.count(generator), ours.parameters["generator"])
    require_same(peers.count(discriminators), ours.parameters["discriminator"])
    if not on_gpu():
        theirs = peers.outputs_of(generator, discriminators, wave, mels[0])
        plain = Config()
        nets = [
            structure(lambda: Model(plain, rngs=nnx.Rngs(0)))[0],
            structure(lambda: Discriminators(plain.gan, rngs=nnx.Rngs(0)))[0],
        ]
        params = generator_params(peers.state(generator), plain), *discriminator_params(peers.state(discriminators))

        @jax.jit
        def outputs(params):
            judged = merge(nets[1], *params[1:])(wave)
            return merge(nets[0], params[0])(theirs["mel"]), [m[-1].sum() for maps in judged.values() for m in maps]

        fake, scores = outputs(params)
        require_same(theirs["wave"], fake)
        require_same(np.array(theirs["scores"]), np.array(scores))
    return ours.rows("hifigan_step", rounds, peers.hifigan_step(generator, discriminators, wave, *mels))


class Step(NamedTuple):
    """Our training step, ready to run."""

    run: Callable[[], Any]
    flops: float
    parameters: dict[str, int]

    def rows(self, row: str, rounds: int, peer: Callable[[], Any] | None) -> list[dict[str, Any]]:
        unit = "steps per s, bfloat16" if on_gpu() else "CPU s per step"
        timed = compare(row, "s per step" if on_gpu() else unit, 1.0, rounds, ours=self.run, peer=peer)
        share = self.flops / timed["ours"] / matmul_rate()
        if on_gpu():
            timed |= {"unit": unit} | {who: 1 / timed[who] for who in ("ours", "peer") if who in timed}
        return [timed, {"row": f"{row}, share of a matmul's FLOP/s", "unit": "", "ours": share}]


def training_step(task: Any, batch: dict[str, Any]) -> Step:
    """The task's step on one batch, compiled, with its state."""
    import jax

    from jaxtts.nn.functional import count_parameters

    key = jax.random.key(0)
    state = task.init(key, batch)
    parameters = {net: count_parameters(tree) for net, tree in state.params.items()}
    lowered = jax.jit(task.train_step, donate_argnums=0).lower(state, batch, key)
    flops, compiled = (lowered.cost_analysis() or {})["flops"], lowered.compile()

    def run():
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(state)
        if int(metrics["skipped"]):
            raise SystemExit("a step was skipped: the comparison would mean nothing")

    return Step(run, flops, parameters)


def matmul_rate() -> float:
    """FLOP/s of a large matrix product in the training dtype."""
    import jax
    import jax.numpy as jnp

    size = 8192 if on_gpu() else 2048
    x = jnp.ones((size, size), training_dtype())
    product = jax.jit(lambda x: x @ x)
    timed = compare("", "", 1.0, 3, ours=lambda: jax.block_until_ready(product(x)))
    return 2 * size**3 / timed["ours"]


def on_gpu() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def training_dtype() -> str:
    return "bfloat16" if on_gpu() else "float32"


def torch_peers() -> Any:
    """bench_peers.py with torch ready, or None without torch."""
    torch = optional("torch")
    if not torch:
        return None
    torch.manual_seed(0)
    if on_gpu():
        torch.set_default_device("cuda")
    return importlib.import_module("bench_peers")


def require_same(theirs: Any, ours: Any) -> None:
    if not np.allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-3, atol=1e-4):
        raise SystemExit(f"the peer computes {theirs}, we {ours}: the comparison would mean nothing")


def loader(rounds: int) -> list[dict[str, Any]]:
    """The share of the time that `jaxtts train` waits for batches, on a corpus of tones, embedded voice's recipe."""
    import soundfile

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        (corpus / "wavs").mkdir(parents=True)
        lines = []
        for n in range(64):
            length = rng.integers(2 * 22050, 5 * 22050)
            tone = np.sin(2 * np.pi * rng.uniform(90, 250) / 22050 * np.arange(length)) * rng.uniform(0.2, 1, length)
            soundfile.write(corpus / "wavs" / f"{n:03}.wav", (8000 * tone).astype(np.int16), 22050)
            text = " ".join(
                rng.permutation("the birch canoe slid on smooth planks and glue".split())[: length // 16000]
            )
            lines.append(f"{n:03}|{text}|{text}")
        (corpus / "metadata.csv").write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "jaxtts", "train", "glow_tts_voice", "--data", str(corpus)]
        command += ["--workdir", f"{folder}/run", "--steps", str(10 * rounds + 10), "--set", "log_every=10"]
        command += ["eval_every=0", "sample_every=0", "save_every=0", "data.buckets=2", "data.held_out=0"]
        subprocess.run(command, check=True, capture_output=True)
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    waits = [values["loader_wait"] for values in map(json.loads, lines) if "loader_wait" in values]
    return [{"row": "loader, share of a step", "unit": "wall", "ours": statistics.median(waits[1:]), "rounds": waits}]


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


def stream(rounds: int) -> list[dict[str, Any]]:
    """From the call of `Voice.stream` to its first sound, in a warm process, in wall milliseconds."""
    import jaxtts

    loaded = jaxtts.load()
    first, whole = [], []
    for n in range(rounds + 2):
        start = time.perf_counter()
        chunks = loaded.stream(SENTENCE, seed=n)
        next(chunks)
        first.append(1e3 * (time.perf_counter() - start))
        for _ in chunks:
            pass
        whole.append(1e3 * (time.perf_counter() - start))
    return [
        {"row": "stream, first chunk", "unit": "ms wall", "ours": statistics.median(first[2:]), "rounds": first},
        {"row": "stream, last chunk", "unit": "ms wall", "ours": statistics.median(whole[2:]), "rounds": whole},
    ]


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
