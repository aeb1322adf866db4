"""One training loop for all tasks; it knows no model.

    state = fit(task, batches, steps=1000, workdir="runs/x")

The same call goes on from the newest whole checkpoint in `workdir`. Step n draws its randomness from (seed, n) alone,
and the position of the loader and the metrics that wait for the next report are part of the checkpoint, so a run that
was killed gives the numbers of one that was not, to the last bit. Everything is compiled before the first step. The
host never waits for a step's result before it sends the next one; metrics are fetched every `log_every` steps.
"""

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import reached_preemption_sync_point
from jax.sharding import Mesh
from tqdm import tqdm

from jaxtts.nn.functional import count_parameters
from jaxtts.train.checkpoint import Checkpoints, checksum, export
from jaxtts.train.compilation import Compilations, Program, compile_all, memory, peak_flops
from jaxtts.train.metrics import Log
from jaxtts.train.sharding import (
    data_mesh,
    local,
    put_batch,
    put_state,
    replicated,
    state_shardings,
    whole_batch,
)
from jaxtts.train.state import Batch, Task, TrainState
from jaxtts.weights.safetensors import replacing

IN_FLIGHT = 2  # steps sent to the devices ahead of the one that is known to be done
MAX_SKIPPED = 10  # steps in a row that may be left out for values that are not finite
BAD = "not_finite"  # the metric that says so, beside the task's own


def fit(
    task: Task,
    batches: Iterable[Batch],
    *,
    steps: int,
    workdir: str | Path,
    held_out: Iterable[Batch] = (),
    shown: Batch | None = None,
    seed: int = 0,
    log_every: int = 50,
    eval_every: int = 1000,
    sample_every: int = 1000,
    save_every: int = 1000,
    keep: int = 3,
    description: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    audio_seconds: Callable[[Batch], float] | None = None,
    sample_rate: int = 22050,
    mesh: Mesh | None = None,
    start: Callable[[TrainState], tuple[TrainState, dict[str, Any]]] | None = None,
) -> TrainState:
    """Trains `task` until `steps` steps are done, from the newest checkpoint in `workdir` if there is one.

    SIGTERM, the first Ctrl-C and the last step save and return. A step whose loss or gradient is not finite changes
    nothing; its utterances are named on stderr and in metrics.jsonl.

    Args:
        task: the pure functions of one model.
        batches: endless, dicts of arrays [B, ...] that have the task's fields, and perhaps 'ids', 'batch_ids'. An
            iterator with `get_state()` (JSON-ready) and `set_state(...)` goes on where the checkpoint says; another
            one must begin anew, always in the same order, and is wound forward. If it has `examples()`, one batch of
            each shape, all is compiled before the first step; otherwise each shape when it comes.
        steps: number of steps of the whole run.
        workdir: gets checkpoints/, metrics.jsonl, tensorboard/, pictures/, sounds/, config.json, model.safetensors.
        held_out: batches for `eval_step`; each `iter()` of it gives them anew.
        shown: what `sample` is given; by default the first batch of `held_out`.
        seed: of the parameters and of each step's randomness.
        log_every, eval_every, sample_every, save_every: in steps; 0 is never (a checkpoint is written at the end).
        keep: number of checkpoints kept (0: all).
        description: JSON for the exported config.json and each checkpoint: the model's name, mel and text specs.
        recipe: JSON stored in each checkpoint.
        audio_seconds: batch -> seconds of audio in it, for the throughput.
        sample_rate: of the sounds in the log.
        mesh: devices with the axes 'data' and 'fsdp', see `sharding.data_mesh`; all there are by default.
        start: fresh state -> the one that a new run begins with, and JSON about it, which is kept in workdir/start.json
            and in each checkpoint; see `warm_start`. A run that goes on does not call it.

    Raises:
        ValueError: a batch lacks a field; no batches; the checkpoints belong to another model or seed.
        FloatingPointError: ten steps in a row were not finite; the message names the last one's utterances.
        OSError: the disk refuses; the checkpoints that are there stay intact.
    """
    facts = {"description": description or {}, "recipe": recipe}
    run = _Run(task, Path(workdir), mesh or data_mesh(), seed, facts, keep)
    with Compilations() as run.compilations:
        try:
            run.reports = log_every > 0
            run.begin(batches, start)
            if shown is None and (first := next(iter(held_out), None)) is not None:
                shown = whole_batch(run.fields(first))
            if run.step >= steps:
                say(f"{workdir} is at step {run.step} already; give a larger steps than {steps} to go on")
                run.warm_up((), (), None)
            else:
                run.log = Log(workdir, run.step, sample_rate) if run.chief else None
                run.warm_up(batches, held_out if eval_every else (), shown if sample_every else None)
            with _Stop() as stop, run.progress(steps):
                while run.step < steps and not stop.requested(run.step):
                    run.advance(audio_seconds)
                    for every, act in (
                        (log_every, run.report),
                        (eval_every, lambda: run.evaluate(held_out)),
                        (sample_every, lambda: run.sample(shown)),
                        (save_every, run.save),
                    ):
                        if every and run.step % every == 0:
                            act()
                if run.step >= steps:
                    run.report()
                run.save()
                run.export()
            if run.step < steps:
                say(f"stopped at step {run.step}; the same command goes on from there")
            run.checkpoints.wait()
            return run.state
        except OSError as error:
            if error.filename is None and error.errno is not None:  # a write that failed does not name its file
                raise OSError(error.errno, error.strerror, str(workdir)) from error
            raise
        finally:
            run.close()


def say(message: str) -> None:
    """A line on stderr that does not break the progress bar; only of the first process."""
    if jax.process_index() == 0:
        tqdm.write(message, file=sys.stderr) if sys.stderr.isatty() else print(message, file=sys.stderr, flush=True)


class _Run:
    """What changes while a run goes on."""

    state: TrainState
    batches: Iterator[Batch]
    bar: tqdm
    compilations: Compilations
    reports: bool

    def __init__(self, task: Task, workdir: Path, mesh: Mesh, seed: int, facts: dict[str, Any], keep: int):
        self.task, self.workdir, self.mesh, self.seed, self.facts = task, workdir, mesh, seed, facts
        self.chief = jax.process_index() == 0
        self.log: Log | None = None
        self.checkpoints = Checkpoints(workdir, keep)
        self.init_key, self.step_key, self.eval_key = jax.random.split(jax.random.key(seed), 3)
        self.step = 0
        self.window: list[tuple[int, dict[str, Any]]] = []  # step, metrics; those of the last steps on the devices
        self.flying: deque[tuple[int, Batch, dict[str, jax.Array]]] = deque()
        self.skipped = 0  # in a row
        self.exported: int | None = None
        self.pretrain_steps = task.pretraining[0] if task.pretraining is not None else 0
        self.warm, self.compiled_before = False, 0
        self.clock()

    def clock(self) -> None:
        """Begins to measure throughput anew."""
        self.started, self.waited, self.seconds, self.flops, self.timed = time.perf_counter(), 0.0, 0.0, 0.0, 0

    def begin(self, batches: Iterable[Batch], start: Callable[[TrainState], Any] | None) -> None:
        """Restores the newest checkpoint, or makes a state from the first batch (and what `start` makes of it)."""
        self.batches = iter(batches)
        position = self.position()
        first = self.next_batch()
        if position is None:
            self.batches = itertools.chain([first], self.batches)
        else:
            self.batches.set_state(position)  # type: ignore
        if self.checkpoints.latest() is None:
            began = time.perf_counter()
            state = self.task.init(self.init_key, whole_batch(self.fields(first)))
            if start is not None:
                state, self.facts["start"] = start(state)
                if self.chief:
                    with replacing(self.workdir / "start.json") as file:
                        file.write(json.dumps(self.facts["start"], indent=1, ensure_ascii=False).encode())
            self.state = put_state(state, self.mesh)
            say(f"initialised in {time.perf_counter() - began:.1f} s: {describe(self.state)}")
        else:
            like = jax.eval_shape(self.task.init, self.init_key, self.fields(first))
            self.state, meta, damaged = self.checkpoints.restore(like, self.mesh)
            if meta["seed"] != self.seed:
                raise ValueError(f"seed={self.seed}: the run in {self.workdir} has seed {meta['seed']}; take that one")
            self.step, self.skipped = int(self.state.step), meta["skipped"]
            self.facts |= {"start": meta["start"]} if "start" in meta else {}
            self.window = [(step, metrics) for step, metrics in meta["window"]]
            if position is None:
                next(itertools.islice(self.batches, self.step, self.step), None)
            else:
                self.batches.set_state(meta["loader"])  # type: ignore
            for step, reason in damaged.items():
                say(f"the checkpoint of step {step} is damaged ({reason}); that of step {self.step} is used")
            if damaged:
                say(f"moved the damaged ones to {self.checkpoints.set_aside(list(damaged))}")
            told = {"source": "begun with {}, which is not read again", "teacher": "taught by {}"}
            origin = [told[name].format(about["path"]) for name, about in meta.get("start", {}).items() if name in told]
            begun = f" ({'; '.join(origin)})" if origin else ""
            say(f"going on from step {self.step}{begun}: {describe(self.state)}")
        self.prepare()

    def prepare(self) -> None:
        """Makes the programs of the run; nothing is compiled yet."""

        def evaluation(state: TrainState, batch: Batch, key: jax.Array, number: jax.Array):
            return self.task.eval_step(gathered(state, self.mesh), batch, jax.random.fold_in(key, number))

        def showing(state: TrainState, batch: Batch, key: jax.Array):
            return self.task.sample(gathered(state, self.mesh), batch, key)

        self.train_step = step_program("training step", self.task.train_step, self.state, self.mesh)
        self.pretrain_step = self.train_step
        if self.task.pretraining is not None:
            self.pretrain_step = step_program("pretraining step", self.task.pretraining[1], self.state, self.mesh)
        options: dict[str, Any] = {"mesh": self.mesh, "out_shardings": replicated(self.mesh)}
        self.eval_step = Program("evaluation", evaluation, **options)
        self.show = Program("sample", showing, **options)
        self.gather = Program("export", lambda s, batch: s._replace(opt_state={}), **options)
        self.sum = Program("checksum", lambda state, batch: checksum(state), **options)

    def warm_up(self, batches: Any, held_out: Any, shown: Batch | None) -> None:
        """Compiles whatever will run; without `examples()` only what does not depend on the batches' shapes."""
        began = time.perf_counter()
        programs = [self.train_step] + [self.pretrain_step] * (self.step < self.pretrain_steps)
        trained = [put_batch(self.fields(x), self.mesh) for x in examples(batches)]
        evaluated = [put_batch(self.fields(x), self.mesh) for x in examples(held_out)]
        number = np.int32(0)
        steps = [program.lower(self.state, x, self.step_key) for program in programs for x in trained]
        others = [self.eval_step.lower(self.state, x, self.eval_key, number) for x in evaluated]
        if shown is not None:
            others.append(self.show.lower(self.state, put_batch(self.fields(shown), self.mesh, True), self.eval_key))
        others += [program.lower(self.state, {}) for program in (self.gather, self.sum)]
        if steps:
            say(f"compiling {len(trained)} shapes of batches: {len(steps)} training steps, {len(others)} others")
        need = max([memory(program) for program in compile_all([*steps, *others])[: len(steps)]], default=0)
        self.export()
        if steps:
            self.warm = True
            say(
                f"compiled in {time.perf_counter() - began:.0f} s"
                + f"; the largest step needs {need / 2**20:,.0f} MiB on a device" * bool(need)
            )
        self.peak = peak_flops() * jax.process_count()
        self.compiled_before = self.compilations.count
        self.clock()

    def position(self) -> Any:
        """Where the loader stands, or None if it cannot tell."""
        return self.batches.get_state() if hasattr(self.batches, "get_state") else None  # type: ignore

    def next_batch(self) -> Batch:
        batch = next(self.batches, None)
        if batch is None:
            raise ValueError("the loader gave no batch: are there fewer utterances than batch_size?")
        return batch

    def fields(self, batch: Batch) -> Batch:
        if missing := [name for name in self.task.fields if name not in batch]:
            raise ValueError(f"the batch has no {', '.join(missing)}; it has {', '.join(batch)}")
        return {name: batch[name] for name in self.task.fields}

    def run(self, program: Program, batch: Batch, *args: Any) -> Any:
        """Calls a program; where it does not know the batch's shapes, it is compiled and told."""
        if not program.knows(batch):
            began, before = time.perf_counter(), self.compilations.count
            shapes = ", ".join(f"{name} {list(np.shape(x))}" for name, x in sorted(batch.items()))
            say(f"compiling the {program.name} for {shapes}" + " after the warm-up" * self.warm)
            program.lower(self.state, batch, *args)()
            took = time.perf_counter() - began
            say(f"compiled in {took:.1f} s")
            self.started += took  # so that throughput and the expected end are those of a warm run
            if not self.warm:  # it was to be expected
                self.compiled_before += self.compilations.count - before
            self.bar.unpause()
        return program(self.state, batch, *args)

    def advance(self, audio_seconds: Callable[[Batch], float] | None) -> None:
        """Sends one step to the devices."""
        if 0 < self.step == self.pretrain_steps:
            self.report()  # the metrics of the two kinds of steps do not mix
        began = time.perf_counter()
        batch = self.next_batch()
        self.waited += time.perf_counter() - began
        self.seconds += audio_seconds(batch) if audio_seconds else 0.0
        program = self.pretrain_step if self.step < self.pretrain_steps else self.train_step
        fields = put_batch(self.fields(batch), self.mesh)
        self.state, metrics = self.run(program, fields, self.step_key)
        self.flops += program.flops(fields)
        self.step += 1
        self.timed += 1
        self.flying.append((self.step, batch, metrics))
        self.land(IN_FLIGHT)
        self.bar.update()

    def land(self, flying: int = 0) -> None:
        """Waits for all steps but the last `flying` ones, and looks whether they were finite.

        Raises:
            FloatingPointError: too many in a row were not.
        """
        while len(self.flying) > flying:
            step, batch, metrics = self.flying.popleft()
            if not bool(metrics[BAD]):
                self.skipped = 0
                if self.reports:
                    self.window.append((step, metrics))
                continue
            self.skipped += 1
            values = jax.device_get(metrics)
            names = [n for n, x in values.items() if not np.isfinite(x).all()] or ["a gradient"]
            ids = [str(i) for i in batch.get("batch_ids", batch.get("ids", ()))]
            what = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not finite"
            whose = f"step {step}, utterances {' '.join(ids) or 'unnamed'}"
            say(f"{what} in {whose}" + "; the step is left out" * bool(values.get("skipped")))
            if self.log:
                self.log.line(step, {"skipped": ids, BAD: names})
            if self.skipped >= MAX_SKIPPED:
                saved = self.checkpoints.latest()
                intact = f"the checkpoint of step {saved} is intact" if saved is not None else "no checkpoint yet"
                raise FloatingPointError(
                    f"{MAX_SKIPPED} steps in a row were left out: {what} in {whose}; {intact}. Look at these "
                    "utterances, or lower the learning rate"
                )

    def report(self) -> None:
        """Writes the means of the metrics since the last report."""
        self.land()
        if not self.window:
            return
        fetched = self.fetched()
        names = sorted(fetched[0].keys() - {BAD, "skipped"})
        means = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in names}
        wall = max(time.perf_counter() - self.started, 1e-9)
        means |= {"steps_per_second": self.timed / wall, "loader_wait": self.waited / wall}
        if self.seconds:
            means["audio_seconds_per_second"] = self.seconds / wall
        means |= {"flop_utilisation": self.flops / wall / self.peak}
        means |= {"compilations": self.compilations.count - self.compiled_before}
        if self.warm and means["compilations"]:
            say(f"step {self.step}: {means['compilations']} compilations after the warm-up")
        self.window, self.compiled_before = [], self.compilations.count
        self.clock()
        shown = {name: f"{v:.3f}" for name, v in means.items() if name.startswith("loss")}
        if "audio_seconds_per_second" in means:
            shown["audio"] = f"{means['audio_seconds_per_second']:.0f}x"
        shown |= {"wait": f"{means['loader_wait']:.0%}", "util": f"{means['flop_utilisation']:.0%}"}
        self.bar.set_postfix(shown, refresh=False)
        if self.log:
            self.log.scalars(self.step, means)

    def fetched(self) -> list[dict[str, float]]:
        """The metrics of the window as numbers, and the window made of them."""
        values = jax.device_get([metrics for _, metrics in self.window])
        numbers = [{name: float(x) for name, x in sorted(metrics.items())} for metrics in values]
        self.window = [(step, metrics) for (step, _), metrics in zip(self.window, numbers, strict=True)]
        return numbers

    def evaluate(self, held_out: Iterable[Batch]) -> None:
        """Means of the metrics over the held-out batches, as 'eval/...'."""
        self.report()
        results = []
        for i, batch in enumerate(held_out):
            fields = put_batch(self.fields(batch), self.mesh)
            results.append(self.run(self.eval_step, fields, self.eval_key, np.int32(i)))
        if not results:
            return
        fetched = jax.device_get(results)
        means = {f"eval/{name}": float(np.mean([float(r[name]) for r in fetched])) for name in sorted(fetched[0])}
        say(f"step {self.step}: " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()))
        if self.log:
            self.log.scalars(self.step, means)
        self.clock()

    def sample(self, batch: Batch | None) -> None:
        """Lets the task show what it does with a batch."""
        self.report()
        if batch is None:
            return
        media = self.run(self.show, put_batch(self.fields(batch), self.mesh, whole=True), self.eval_key)
        if self.log:
            self.log.media(self.step, jax.device_get(local(media)))
        self.clock()

    def save(self) -> None:
        """Checkpoint and exported model; the metrics that wait for a report go along."""
        self.land()
        self.checkpoints.check()
        if self.checkpoints.latest() == self.step:
            return
        self.fetched()
        meta = {"seed": self.seed, "loader": self.position(), "window": self.window, "skipped": self.skipped}
        self.checkpoints.save(self.state, int(self.run(self.sum, {})), meta | self.facts)
        self.export()

    def export(self) -> None:
        """The model for use outside training, unless this step's is there."""
        if self.exported == self.step:
            return
        state = self.run(self.gather, {})
        if self.chief:
            params, config = self.task.inference(local(state))
            export(self.workdir, params, config, self.facts["description"] | {"step": self.step})
        self.exported = self.step

    def progress(self, steps: int) -> tqdm:
        """The bar on stderr; where that is a file, a line each half minute."""
        if sys.stderr.isatty():
            how: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5}
        else:
            how = {"file": _Lines(), "ncols": 0, "mininterval": 30.0, "maxinterval": 30.0}
        self.bar = tqdm(total=steps, initial=self.step, unit="step", disable=not self.chief, **how)
        return self.bar

    def close(self) -> None:
        self.checkpoints.close()
        if self.log:
            self.log.close()


def step_program(name: str, step: Callable[..., Any], state: TrainState, mesh: Mesh) -> Program:
    """A task's step as it is run: (state, batch, key) -> (state, metrics), the state donated and kept as it is cut.

    Args:
        name: for the log.
        step: `Task.train_step` or its like.
        state: arrays or their shapes.
        mesh: the devices.
    """

    def keyed(state: TrainState, batch: Batch, key: jax.Array):
        new, metrics = step(gathered(state, mesh), batch, jax.random.fold_in(key, state.step))
        finite = jnp.stack([jnp.all(jnp.isfinite(x)) for x in metrics.values()]).all()
        return new, metrics | {BAD: ~finite | (metrics.get("skipped", 0) != 0)}

    shardings = state_shardings(state, mesh), replicated(mesh)
    return Program(name, keyed, mesh, donate_argnums=0, out_shardings=shardings)


def gathered(state: TrainState, mesh: Mesh) -> TrainState:
    """The state with its parameters on every device, to compute with."""
    return state._replace(params=jax.lax.with_sharding_constraint(state.params, replicated(mesh)))


def examples(batches: Any) -> list[Batch]:
    """A batch of each shape, where the loader can tell."""
    return batches.examples() if hasattr(batches, "examples") else []


class _Lines:
    """Where stderr is a file, each state of the bar gets a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


class _Stop:
    """While entered, SIGTERM and the first Ctrl-C ask for an orderly end; a second Ctrl-C ends at once.

    Of several processes one that is told to end tells the others (jax.distributed listens to SIGTERM), and all of them
    stop behind the same step.
    """

    def __enter__(self) -> "_Stop":
        self._before, self._asked = {}, False
        self._several = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def requested(self, step: int) -> bool:
        """Whether to stop before another step; all processes must ask before each."""
        return reached_preemption_sync_point(step) if self._several else self._asked

    def _request(self, number: int, frame: Any) -> None:
        self._asked = True
        self._restore()
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def describe(state: TrainState) -> str:
    """The nets of a state with their numbers of parameters."""
    return ", ".join(f"{net} {count_parameters(tree):,} parameters" for net, tree in state.params.items())
