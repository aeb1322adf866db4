"""Kills a small training run again and again and compares it with one that was left alone.

    python tools/check_resume.py --kills 20
    python tools/check_resume.py --kills 20 --processes 2 --devices 2

Makes a small corpus (tones with texts) and trains a tiny Glow-TTS (buckets, dropout, clipping, moving average), a tiny
Vocos (spectral steps, then a GAN) and a tiny VITS (both at once) on it: once undisturbed, once killed with SIGKILL at
random moments and started again by the same command. A third of the kills fall into a save (the moment Orbax's
temporary folder appears), others into start-up, the preparation of the corpus, compilation and between the steps. With
several processes they die together or one a moment before the others.

Exit code 0 only if all kills took place and every logged value but the timings is equal in both runs, line by line, and
the exported models are equal byte for byte; otherwise 1, and the folders stay for a look.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
TIMINGS = {  # and how many programs came from the cache on disk
    "steps_per_second",
    "loader_wait",
    "audio_seconds_per_second",
    "flop_utilisation",
    "compilations",
}
PATIENCE = 600.0  # seconds without an end before a run counts as hanging
RATE = 8000

RECIPES = {
    "glow_tts": """
from jaxtts.audio.spec import MelSpec
from jaxtts.models.glow_tts import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


def get_config():
    text, mel = TextSpec("characters"), MelSpec("small", 8000, 256, 80, 256, 8)
    model = Config.tiny(num_symbols=len(text.symbols), decoder_blocks=1, decoder_layers=1)
    optim = OptimConfig(learning_rate=1e-3, schedule="cosine", total_steps=100, clip_norm=5.0, ema_decay=0.99)
    data = DataConfig(mel, text, batch_size=8, buckets=2, held_out=8)
    return Recipe("glow_tts", model, optim, data, 100, log_every=3, eval_every=20, sample_every=0, save_every=7)
""",
    "vocos": """
from jaxtts.models.vocos import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig
import dataclasses


def get_config():
    model = Config.tiny()
    model = dataclasses.replace(model, gan=dataclasses.replace(model.gan, pretrain_steps=40))
    optim = OptimConfig("adamw", learning_rate=1e-3, weight_decay=0.01, ema_decay=0.99)
    data = DataConfig(model.mel, batch_size=8, segment_length=512, held_out=8)
    return Recipe("vocos", model, optim, data, 100, log_every=3, eval_every=20, sample_every=0, save_every=7)
""",
    "vits": """
from jaxtts.models.vits import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


def get_config():
    text = TextSpec("characters", blank="_")
    model = Config.tiny(num_symbols=len(text.symbols))
    optim = OptimConfig("adamw", learning_rate=1e-3, weight_decay=0.01)
    optims = {"generator": optim, "discriminator": optim}
    data = DataConfig(model.mel, text, batch_size=4, buckets=2, held_out=8)
    return Recipe("vits", model, optims, data, 100, log_every=3, eval_every=20, sample_every=0, save_every=7)
""",
}


def make_corpus(folder: Path, count: int = 40, seed: int = 0) -> None:
    """Writes `count` recordings in the LJSpeech layout: each letter of the text is a voiced tone of its own."""
    rng = np.random.default_rng(seed)
    (folder / "wavs").mkdir(parents=True)
    rows = []
    for i in range(count):
        text = " ".join("".join(rng.choice(list("aeioulmnrst"), rng.integers(2, 6))) for _ in range(rng.integers(2, 5)))
        pitch = np.concatenate([np.full(rng.integers(500, 800), 90.0 + 7 * (ord(c) % 29)) for c in text])
        phase = 2 * np.pi * np.cumsum(pitch) / RATE  # [N]
        wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * 0.2 + 0.003 * rng.normal(size=len(phase))
        soundfile.write(folder / "wavs" / f"t{i:03d}.wav", wave, RATE)
        rows.append(f"t{i:03d}|{text}|{text}\n")
    (folder / "metadata.csv").write_text("".join(rows))


@dataclass
class Run:
    """A run's folder and the command that begins it and goes on with it."""

    folder: Path
    corpus: Path
    recipe: Path
    steps: int
    processes: int = 1
    devices: int = 1
    extra: tuple[str, ...] = ()
    started: int = 0
    living: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    def start(self) -> None:
        """Starts the command, all its processes."""
        self.started += 1
        command = [sys.executable, "-m", "jaxtts", "train", str(self.recipe), "--data", str(self.corpus)]
        command += ["--workdir", str(self.workdir), "--prepared", str(self.folder / "prepared"), "--jobs", "1"]
        command += ["--steps", str(self.steps), *self.extra]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}",
            "JAXTTS_CACHE": str(self.folder.parent / "cache"),  # compiled once for all starts
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        address = f"localhost:{free_port()}"
        self.living = []
        for i in range(self.processes):
            part = ["--coordinator", address, "--num-processes", str(self.processes), "--process-id", str(i)]
            with open(self.told(i), "wb") as told:
                self.living.append(
                    subprocess.Popen(
                        command + (part if self.processes > 1 else []),
                        stdin=subprocess.DEVNULL,
                        stdout=told,
                        stderr=told,
                        env=environment,
                        start_new_session=True,
                    )  # fmt: skip
                )

    def told(self, process: int = 0) -> Path:
        """What a process of the newest start printed."""
        return self.folder / f"start{self.started:03d}_{process}.log"

    def ended(self) -> bool:
        return any(p.poll() is not None for p in self.living)

    def kill(self, gap: float = 0.0, first: int = 0) -> None:
        """SIGKILL to all processes, to `first` `gap` seconds before the others; returns when all are gone."""
        for process in (self.living[first], *self.living[:first], *self.living[first + 1 :]):
            process.kill()
            if process is self.living[first] and gap:
                time.sleep(gap)
        for process in self.living:
            process.wait()
            try:
                os.killpg(process.pid, signal.SIGKILL)  # whatever it had started
            except ProcessLookupError:
                continue

    def finish(self) -> None:
        """Waits for the end.

        Raises:
            RuntimeError: a process failed, or none ended in time.
        """
        until = time.monotonic() + PATIENCE
        while any(p.poll() is None for p in self.living):
            if time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"hangs, see {self.told()}")
            if any(p.poll() for p in self.living):
                break
            time.sleep(0.02)
        if codes := [p.poll() for p in self.living if p.poll() != 0]:
            time.sleep(1.0)
            self.kill()
            raise RuntimeError(f"exit codes {codes}, see {self.told()}:\n{self.told().read_text()[-2000:]}")

    def lines(self) -> list[dict[str, float]]:
        """The complete lines of metrics.jsonl."""
        path = self.workdir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def step(self) -> int:
        """The last step that was reported."""
        return max((int(line["step"]) for line in self.lines()), default=0)

    def saving(self) -> set[str]:
        """Temporary folders of saves that are not complete."""
        folder = self.workdir / "checkpoints"
        found = os.scandir(folder) if folder.is_dir() else []
        return {f"{entry.name} {entry.inode()}" for entry in found if "tmp" in entry.name}

    def preparing(self) -> bool:
        folder = self.folder / "prepared"
        return folder.is_dir() and not any("index.json" in names for _, _, names in os.walk(folder))

    def compiling(self) -> bool:
        text = self.told().read_text(errors="replace")
        return text.rfind("compiling") > text.rfind("compiled")


@dataclass
class Kill:
    """What was aimed at, and what was hit."""

    aim: str
    step: int
    phase: str = ""
    at: float = 0.0
    reached: int = 0


def plan(kills: int, steps: int, rng: random.Random) -> list[Kill]:
    """The kills in order of their steps; the first two of many fall before the first step."""
    aims = ["saving", "training", "saving", "compiling", "training", "starting"]
    chosen = [aims[i % len(aims)] for i in range(max(0, kills - 2))]
    rng.shuffle(chosen)
    early = ["preparing", "compiling"][: kills - len(chosen)]
    places = sorted(rng.randint(1, int(0.8 * steps)) for _ in chosen)
    return [Kill(aim, 0) for aim in early] + [Kill(aim, step) for aim, step in zip(chosen, places, strict=True)]


def disturb(run: Run, kills: list[Kill], rng: random.Random) -> None:
    """Starts the run and kills it, once for each entry of `kills`, which are filled in.

    Raises:
        RuntimeError: the run ended by itself.
    """
    for kill in kills:
        before, reported = run.saving(), run.step()
        began = time.monotonic()
        hit: dict[str, Callable[[], bool]] = {
            "starting": lambda: time.monotonic() - began > moment or run.step() > reported,  # noqa: B023
            "preparing": run.preparing,
            "compiling": run.compiling,
            "training": lambda: run.step() > max(kill.step, reported),  # noqa: B023
            "saving": lambda: run.step() >= kill.step and bool(run.saving() - before),  # noqa: B023
        }
        moment = rng.uniform(0.0, 8.0)
        run.start()
        while not hit[kill.aim]() and not run.ended():
            if time.monotonic() - began > PATIENCE:
                run.kill()
                raise RuntimeError(f"hangs, see {run.told()}")
            time.sleep(0.001)
        delays = {"training": 0.3, "compiling": 0.3, "saving": 0.03, "preparing": 0.1}
        time.sleep(rng.uniform(0.0, delays.get(kill.aim, 0.0)))
        while kill.aim == "training" and run.saving() - before and not run.ended():
            time.sleep(0.001)  # between two saves
        if run.ended():
            codes = [p.poll() for p in run.living]
            run.kill()
            reason = "the end came before the kill, give more --steps" if not any(codes) else f"exit codes {codes}"
            raise RuntimeError(f"{reason}, see {run.told()}:\n{run.told().read_text()[-2000:]}")
        gap = rng.uniform(0.0, 0.5) if run.processes > 1 and rng.random() < 0.5 else 0.0
        compiling = run.compiling()
        run.kill(gap, rng.randrange(run.processes))
        kill.at, kill.reached = time.monotonic() - began, run.step()
        left = run.saving() - before
        kill.phase = (
            "saving" if left else
            "preparing" if run.preparing() else
            "compiling" if compiling else
            "training" if kill.reached > reported else "starting"
        )  # fmt: skip


def differences(one: Run, other: Run) -> tuple[int, list[str]]:
    """The number of values compared, and a sentence for each that differs."""
    found, compared = [], 0
    ours, theirs = one.lines(), other.lines()
    steps = [[(line["step"], "eval" if any(k.startswith("eval/") for k in line) else "train") for line in lines]
             for lines in (ours, theirs)]  # fmt: skip
    if steps[0] != steps[1]:
        missing, more = Counter(steps[0]) - Counter(steps[1]), Counter(steps[1]) - Counter(steps[0])
        found.append(f"reports: undisturbed alone has {sorted(missing)}, the killed run alone {sorted(more)}")
    pairs = {key: line for key, line in zip(steps[1], theirs, strict=True)}
    for key, line in zip(steps[0], ours, strict=True):
        for name in sorted((line.keys() | pairs.get(key, line).keys()) - TIMINGS):
            a, b = line.get(name), pairs.get(key, line).get(name)
            compared += 1
            if repr(a) != repr(b):
                found.append(f"step {key[0]}, {name}: {a!r} undisturbed, {b!r} killed")
    models = [(run.workdir / "model.safetensors").read_bytes() for run in (one, other)]
    if models[0] != models[1]:
        found.append(f"model.safetensors: {sum(a != b for a, b in zip(*models))} of {len(models[0])} bytes differ")
    return compared, found


def check(
    task: str, kills: int, processes: int, devices: int, steps: int, seed: int, folder: Path, extra: list[str]
) -> bool:
    """Trains `task` undisturbed and killed below `folder`; prints what happened and returns whether all is equal."""
    recipe = folder / f"{task}.py"
    recipe.write_text(RECIPES[task])
    rng = random.Random(f"{seed} {task}")
    common = (folder / "corpus", recipe, steps, processes, devices, tuple(extra))
    calm, killed = Run(folder / f"{task}_calm", *common), Run(folder / f"{task}_killed", *common)
    began = time.monotonic()
    calm.start()
    while calm.step() == 0 and not calm.ended():
        time.sleep(0.01)
    startup = time.monotonic() - began
    calm.finish()
    print(
        f"{task}: undisturbed, {steps} steps in {time.monotonic() - began:.0f} s, first report after {startup:.1f} s",
        flush=True,
    )
    planned = plan(kills, steps, rng)
    try:
        disturb(killed, planned, rng)
        killed.start()
        killed.finish()
    finally:
        print(f"{'kill':>5} {'aimed at':10} {'hit':10} {'seconds after start':>20} {'last report':>12}")
        for i, kill in enumerate((k for k in planned if k.phase), 1):
            print(f"{i:5} {kill.aim:10} {kill.phase:10} {kill.at:20.2f} {kill.reached:12}")
    compared, found = differences(calm, killed)
    phases = Counter(k.phase for k in planned)
    print(f"{task}: {len(planned)} kills ({', '.join(f'{n} {phase}' for phase, n in phases.items())}); "
          f"{compared} values compared, {len(found)} differ; {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    print("".join(f"  {line}\n" for line in found[:20]), end="")
    return not found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compares a training run that is killed with one that is not.")
    parser.add_argument("--kills", type=int, default=20, help="over all tasks together")
    parser.add_argument("--processes", type=int, default=1, help="processes of the run, over loopback")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process")
    parser.add_argument("--task", choices=[*RECIPES, "all"], default="all")
    parser.add_argument("--steps", type=int, help="of each run; default: 60, and 8 for each kill")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and the moments")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="changes of the recipe")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave everything; default: a temporary one")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="check_resume_"))).absolute()
    make_corpus(folder / "corpus", seed=args.seed)
    tasks = list(RECIPES) if args.task == "all" else [args.task]
    shares = [args.kills // len(tasks) + (i < args.kills % len(tasks)) for i in range(len(tasks))]
    equal = True
    extra = ["--set", *args.set] if args.set else []
    for task, kills in zip(tasks, shares, strict=True):
        steps = args.steps or 60 + 8 * kills
        try:
            equal &= check(task, kills, args.processes, args.devices, steps, args.seed, folder, extra)
        except RuntimeError as error:
            print(f"{task}: {error}")
            equal = False
    if equal:
        print(f"all equal: {args.kills} kills, {args.processes} process(es) of {args.devices} device(s)")
        if not args.folder:
            shutil.rmtree(folder)
    else:
        print(f"NOT equal; everything is in {folder}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
