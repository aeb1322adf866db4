"""One training loop for all tasks; it knows no model.

    state = fit(task, batches, steps=1000, workdir="runs/x")

The same call goes on from the newest checkpoint in `workdir`. Step n draws its randomness from (seed, n) alone, and
the position of the loader is part of the checkpoint, so a run that was stopped gives the numbers of one that was not.
The host never waits for a step's result before it sends the next one; metrics are fetched every `log_every` steps.
"""

import itertools
import math
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxtts.nn.functional import count_parameters
from jaxtts.train.checkpoint import Checkpoints, export
from jaxtts.train.metrics import Log
from jaxtts.train.sharding import data_mesh, local, put_batch, put_state, replicated
from jaxtts.train.state import Batch, Task, TrainState

IN_FLIGHT = 2  # steps sent to the devices ahead of the one that is known to be done


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
    start_from: str | Path | None = None,
) -> TrainState:
    """Trains `task` until `steps` steps are done, from the newest checkpoint in `workdir` if there is one.

    SIGTERM, the first Ctrl-C and the last step save and return.

    Args:
        task: the pure functions of one model.
        batches: endless, dicts of arrays [B, ...] that have the task's fields, and perhaps 'ids'. An iterator with
            `get_state()` (JSON-ready) and `set_state(...)` goes on where the checkpoint says; another one must
            begin anew, always in the same order, and is wound forward.
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
        mesh: devices with the axis 'data'; all there are by default.
        start_from: workdir of another run of this model, whose parameters a new run begins with.

    Raises:
        ValueError: a batch lacks a field; no batches.
        FloatingPointError: a loss or gradient is not finite; the message names the step and the utterances.
    """
    facts = {"description": description or {}, "recipe": recipe}
    run = _Run(task, Path(workdir), mesh or data_mesh(), seed, facts, keep)
    try:
        run.begin(batches, start_from)
        if run.step >= steps:
            say(f"{workdir} is at step {run.step} already; give a larger steps than {steps} to go on")
        run.log = Log(workdir, run.step, sample_rate) if run.chief else None
        with _Stop() as stop, run.progress(steps):
            while run.step < steps and not stop.requested:
                run.advance(audio_seconds)
                for every, act in (
                    (log_every, run.report),
                    (eval_every, lambda: run.evaluate(held_out)),
                    (sample_every, lambda: run.sample(shown or next(iter(held_out), None))),
                    (save_every, run.save),
                ):
                    if every and run.step % every == 0:
                        act()
            run.save()
        if run.step < steps:
            say(f"stopped at step {run.step}; the same command goes on from there")
        return run.state
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

    def __init__(self, task: Task, workdir: Path, mesh: Mesh, seed: int, facts: dict[str, Any], keep: int):
        self.task, self.workdir, self.mesh, self.seed, self.facts = task, workdir, mesh, seed, facts
        self.chief = jax.process_index() == 0
        self.log: Log | None = None
        self.checkpoints = Checkpoints(workdir, keep)
        self.init_key, self.step_key, self.eval_key = jax.random.split(jax.random.key(seed), 3)
        self.step = 0
        self.shapes: set[Any] = set()
        self.window: list[tuple[int, Any, dict[str, jax.Array]]] = []  # step, ids, metrics still on the devices
        self.flying: deque[Any] = deque()
        self.started, self.waited, self.seconds = time.perf_counter(), 0.0, 0.0

        everywhere = replicated(mesh)

        def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
            def keyed(state: TrainState, batch: Batch, key: jax.Array):
                return step(state, batch, jax.random.fold_in(key, state.step))

            return jax.jit(keyed, donate_argnums=0, out_shardings=everywhere)

        self.train_step = compiled(task.train_step)
        self.pretrain_steps, self.pretrain_step = 0, self.train_step
        if task.pretraining is not None:
            self.pretrain_steps, self.pretrain_step = task.pretraining[0], compiled(task.pretraining[1])
        self.eval_step = jax.jit(task.eval_step, out_shardings=everywhere)

    def begin(self, batches: Iterable[Batch], start_from: str | Path | None) -> None:
        """Restores the newest checkpoint, or makes a state from the first batch (and another run's parameters)."""
        self.batches = iter(batches)
        start = self.position()
        first = self.next_batch()
        if start is None:
            self.batches = itertools.chain([first], self.batches)
        else:
            self.batches.set_state(start)  # type: ignore
        latest = self.checkpoints.latest()
        if latest is None:
            if start_from is not None and not (Path(start_from) / "checkpoints").is_dir():
                raise ValueError(f"start_from={start_from} is no run: it holds no checkpoints/")
            began = time.perf_counter()
            self.state = put_state(self.task.init(self.init_key, self.fields(first)), self.mesh)
            if start_from is not None:
                others = Checkpoints(start_from)
                state = others.restore(self.state, self.mesh)
                others.close()
                self.state = self.state._replace(params=state.params, rest=state.rest)
                say(f"began with the parameters of {start_from}, step {int(state.step)}")
            say(f"initialised in {time.perf_counter() - began:.1f} s: {describe(self.state)}")
            return
        meta = self.checkpoints.meta()
        if meta["seed"] != self.seed:
            raise ValueError(f"seed={self.seed}: the run in {self.workdir} has seed {meta['seed']}; take that one")
        like = jax.eval_shape(self.task.init, self.init_key, self.fields(first))
        self.state, self.step = self.checkpoints.restore(like, self.mesh), latest
        if start is None:
            next(itertools.islice(self.batches, latest, latest), None)
        else:
            self.batches.set_state(meta["loader"])  # type: ignore
        say(f"going on from step {latest}: {describe(self.state)}")

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

    def advance(self, audio_seconds: Callable[[Batch], float] | None) -> None:
        """Sends one step to the devices."""
        if 0 < self.step == self.pretrain_steps:
            self.report()  # the metrics of the two kinds of steps do not mix
            self.shapes.clear()
        began = time.perf_counter()
        batch = self.next_batch()
        self.waited += time.perf_counter() - began
        self.seconds += audio_seconds(batch) if audio_seconds else 0.0
        fields = self.fields(batch)
        shapes = {name: np.shape(x) for name, x in sorted(fields.items())}
        new = tuple(shapes.items()) not in self.shapes
        if new:
            self.shapes.add(tuple(shapes.items()))
            say(f"compiling for {', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}")
        began = time.perf_counter()
        step = self.pretrain_step if self.step < self.pretrain_steps else self.train_step
        self.state, metrics = step(self.state, put_batch(fields, self.mesh), self.step_key)
        if new:
            took = time.perf_counter() - began
            say(f"compiled in {took:.1f} s; {len(self.shapes)} shapes so far")
            self.started += took  # so that throughput and the expected end are those of a warm run
            self.bar.unpause()
        self.window.append((self.step + 1, batch.get("ids", ()), metrics))
        self.flying.append(metrics)
        if len(self.flying) > IN_FLIGHT:
            jax.block_until_ready(self.flying.popleft())
        self.step += 1
        self.bar.update()

    def report(self) -> None:
        """Fetches the metrics since the last report, checks them, and writes their means."""
        if not self.window:
            return
        fetched = jax.device_get([metrics for *_, metrics in self.window])
        for (step, ids, _), metrics in zip(self.window, fetched, strict=True):
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            if bad or metrics.get("skipped"):
                saved = self.checkpoints.latest()
                raise FloatingPointError(
                    f"{', '.join(bad) or 'a gradient'} is not finite in step {step}, utterances "
                    f"{' '.join(map(str, ids)) or 'unnamed'}; "
                    + (f"the checkpoint of step {saved} is intact" if saved is not None else "no checkpoint yet")
                )
        means = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in sorted(fetched[0])}
        now = time.perf_counter()
        wall = max(now - self.started, 1e-9)
        means |= {"steps_per_second": len(self.window) / wall, "loader_wait": self.waited / wall}
        if self.seconds:
            means["audio_seconds_per_second"] = self.seconds / wall
        self.window, self.started, self.waited, self.seconds = [], now, 0.0, 0.0
        shown = {name: f"{v:.3f}" for name, v in means.items() if name.startswith("loss")}
        if "audio_seconds_per_second" in means:
            shown["audio"] = f"{means['audio_seconds_per_second']:.0f}x"
        self.bar.set_postfix(shown | {"wait": f"{means['loader_wait']:.0%}"}, refresh=False)
        if self.log:
            self.log.scalars(self.step, means)

    def evaluate(self, held_out: Iterable[Batch]) -> None:
        """Means of the metrics over the held-out batches, as 'eval/...'."""
        self.report()
        results = []
        for i, batch in enumerate(held_out):
            fields = put_batch(self.fields(batch), self.mesh)
            results.append(self.eval_step(self.state, fields, jax.random.fold_in(self.eval_key, i)))
        if not results:
            return
        fetched = jax.device_get(results)
        means = {f"eval/{name}": float(np.mean([r[name] for r in fetched])) for name in sorted(fetched[0])}
        say(f"step {self.step}: " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()))
        if self.log:
            self.log.scalars(self.step, means)
        self.started = time.perf_counter()

    def sample(self, batch: Batch | None) -> None:
        """Lets the task show what it does with a batch; in the first process alone."""
        self.report()
        if self.log and batch is not None:
            self.log.media(self.step, self.task.sample(local(self.state), self.fields(batch), self.eval_key))
            self.started = time.perf_counter()

    def save(self) -> None:
        """Checkpoint and exported model, after a look at the metrics that are still on the devices."""
        self.report()
        if self.checkpoints.latest() == self.step:
            return
        meta = {"seed": self.seed, "loader": self.position()} | self.facts
        self.checkpoints.save(self.state, meta)
        if self.chief:
            params, config = self.task.inference(local(self.state))
            export(self.workdir, params, config, self.facts["description"] | {"step": self.step})

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


class _Lines:
    """Where stderr is a file, each state of the bar gets a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


class _Stop:
    """While entered, SIGTERM and SIGINT ask for an orderly end; a second one ends at once."""

    requested = False

    def __enter__(self) -> "_Stop":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        self._restore()

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def describe(state: TrainState) -> str:
    """The nets of a state with their numbers of parameters."""
    return ", ".join(f"{net} {count_parameters(tree):,} parameters" for net, tree in state.params.items())
