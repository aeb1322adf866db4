"""Reads the collectives of a training step from its compiled program and predicts how well it scales.

    python tools/scaling.py --out docs/scaling.md

Compiles the real steps (Glow-TTS of 28.6 M parameters, HiFi-GAN V1 with its discriminators) for eight devices that a
CPU pretends to have, data-parallel and with the state cut over all of them (FSDP), lists every collective with its
bytes, and from these and the step's floating-point operations predicts the efficiency on 8, 64 and 512 GPUs and TPUs.
Nothing is run. All that is assumed stands in `MACHINES` and in the constants below, and on the page.
"""

import argparse
import math
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtts.models import glow_tts, hifigan
from jaxtts.nn.functional import count_parameters
from jaxtts.train.loop import step_program
from jaxtts.train.sharding import data_mesh, replicated, state_shardings
from jaxtts.train.state import Task

DEVICES = 8
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4,
         "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}  # fmt: skip
SMALL = 65536  # bytes; below, a collective costs its latency alone; above, it is merged with its neighbours
BUCKET = 30 * 2**20  # bytes that XLA's combiner on GPU puts into one collective (its default threshold)
COMPUTE = (0.15, 0.4)  # shares of the peak that a step may reach on one device: convolutions of few channels, and many
LINK = 0.8  # share of a link's bandwidth that a large collective reaches
COUNTS = (8, 64, 512)


@dataclass(frozen=True)
class Machine:
    """An accelerator and its network; bandwidths are bytes per second in one direction.

    Attributes:
        peak: FLOP/s in bfloat16, dense.
        fast: bandwidth of a device into its node (NVLink) or slice (all its ICI links together).
        latency: seconds of a hop there.
        node: devices in a node.
        slow, slow_latency: of the network between nodes, for each device; 0 where the slice is all there is.
        torus: a slice's shape for each number of devices; an axis that is no ring (fewer than `ring` chips) has half
            the bandwidth. Empty for a switch.
    """

    name: str
    peak: float
    fast: float
    latency: float
    sources: str
    node: int = 0
    slow: float = 0.0
    slow_latency: float = 0.0
    torus: tuple[tuple[int, ...], ...] = ()
    ring: int = 4

    def fits(self, devices: int) -> bool:
        """Whether so many devices can be had in one piece."""
        return not self.torus or any(math.prod(shape) == devices for shape in self.torus)

    def reach(self, devices: int) -> tuple[float, int]:
        """Bandwidth of a device among `devices` of a node or slice, and the hops of a ring through them."""
        shape = next((s for s in self.torus if math.prod(s) == devices), None)
        if shape is None:
            return self.fast * LINK, devices - 1
        share = sum(1.0 if n >= self.ring else 0.5 for n in shape) / len(shape)
        return self.fast * LINK * share, sum(n - 1 for n in shape)


MACHINES = (
    Machine("A100, NVLink 3, HDR InfiniBand", 312e12, 300e9, 2e-6, node=8, slow=25e9, slow_latency=5e-6,
            sources="NVIDIA A100 data sheet (312 TFLOP/s, NVLink 600 GB/s both ways together), DGX A100 data sheet "
                    "(eight 200 Gb/s ports for eight GPUs)"),
    Machine("H100 SXM, NVLink 4, NDR InfiniBand", 989e12, 450e9, 2e-6, node=8, slow=50e9, slow_latency=5e-6,
            sources="NVIDIA H100 data sheet (989 TFLOP/s dense, NVLink 900 GB/s both ways together), DGX H100 data "
                    "sheet (eight 400 Gb/s ports for eight GPUs)"),
    Machine("TPU v4", 275e12, 6 * 50e9, 1e-6, torus=((2, 2, 2), (4, 4, 4), (8, 8, 8)),
            sources="Cloud TPU documentation, TPU v4 (275 TFLOP/s); arXiv 2304.01433 (six ICI links of 50 GB/s)"),
    Machine("TPU v5e", 197e12, 4 * 50e9, 1e-6, torus=((2, 4), (8, 8)), ring=16,
            sources="Cloud TPU documentation, TPU v5e (197 TFLOP/s, ICI 400 GB/s both ways together, 256 chips at "
                    "most, rings only along an axis of 16)"),
    Machine("TPU v5p", 459e12, 6 * 100e9, 1e-6, torus=((2, 2, 2), (4, 4, 4), (8, 8, 8)),
            sources="Cloud TPU documentation, TPU v5p (459 TFLOP/s, ICI 1200 GB/s both ways together)"),
)  # fmt: skip


class Collective(NamedTuple):
    """One instruction: its kind, the bytes of its result on a device, the devices that take part, how often it runs."""

    kind: str
    bytes: int
    group: int
    times: int

    def wire(self) -> float:
        """Bytes that a device sends in a ring."""
        n = self.group
        factor = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1.0}
        return self.times * self.bytes * factor.get(self.kind, (n - 1) / n)


def collectives(program: str) -> list[Collective]:
    """Every collective in the text of a compiled program, those in loops with the loop's count.

    Raises:
        ValueError: a collective stands in a loop whose count XLA does not know.
    """
    found: dict[str, list[Collective]] = defaultdict(list)
    calls: dict[str, list[tuple[str, int | None]]] = defaultdict(list)  # computation -> (called one, how often)
    computation, entry = "", ""
    for line in program.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = head[2]
            entry = computation if head[1] else entry
            continue
        body = re.search(r" while\(.*body=%?([\w.\-]+)", line)
        if body:
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            calls[computation].append((body[1], int(known[1]) if known else None))
        for called in re.findall(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line):
            calls[computation].append((called, 1))
        for several in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", line):
            calls[computation] += [(name.strip().lstrip("%"), 1) for name in several.split(",")]
        made = re.match(rf"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
        if made:
            shapes = [int(np.prod([int(n) for n in dims.split(",") if n])) * SIZES[kind]
                      for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", made[1])]  # fmt: skip
            if made[3] and made[2] != "all-reduce":  # (operand, result)
                shapes = shapes[len(shapes) // 2 :]
            found[computation].append(Collective(made[2], sum(shapes), _group(line), 1))

    def total(name: str, times: int | None) -> list[Collective]:
        inner = [c for called, count in calls[name] for c in total(called, count)]
        if times is None and (inner or found[name]):
            raise ValueError(f"{name} holds a collective and runs nobody knows how often")
        return [c._replace(times=c.times * (times or 1)) for c in [*found[name], *inner]]

    return total(entry, 1)


def _group(line: str) -> int:
    """The number of devices that exchange with each other; the text has three ways to say it."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(iota[2])
    if axes := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2]))
    if "source_target_pairs" in line:
        return 2
    raise ValueError(f"who takes part? {line.strip()[:300]}")


@dataclass(frozen=True)
class Step:
    """What a step asks of its devices."""

    name: str
    batch: str
    parameters: int
    flops: float
    collectives: tuple[Collective, ...]

    def large(self, kind: str) -> int:
        """Bytes of the results of the large collectives of a kind."""
        return sum(c.bytes * c.times for c in self.collectives if c.kind == kind and c.bytes >= SMALL)

    def small(self) -> int:
        """How many collectives cost their latency alone."""
        return sum(c.times for c in self.collectives if c.bytes < SMALL)


def compiled(name: str, task: Task, batch: dict[str, Any], note: str, mesh: Mesh) -> Step:
    """Compiles the training step as the loop does: parameters gathered, state kept as `state_shardings` says.

    Args:
        name: for the tables.
        task: the model's.
        batch: field -> shape and type over all devices.
        note: the batch in words.
        mesh: of `data_mesh`.
    """
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    kept, everywhere = state_shardings(state, mesh), replicated(mesh)
    cut = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def placed(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    key = placed(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
    batch = {field: placed(x, cut) for field, x in batch.items()}
    began = time.perf_counter()
    program = step_program(name, task.train_step, state, mesh)
    text = program.lower(jax.tree.map(placed, state, kept), batch, key)().as_text() or ""
    print(f"{name}, {dict(mesh.shape)}: compiled in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    count = sum(count_parameters(tree) for tree in state.params.values())
    return Step(name, note, count, program.flops(batch) / mesh.size, tuple(collectives(text)))


def steps(mesh: Mesh) -> list[Step]:
    """The steps of the table; batches of a usual size on each device."""

    def shape(*axes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(axes, dtype)

    rows, symbols, frames = 32, 100, 500
    n, config = rows * DEVICES, glow_tts.Config()
    batch = {
        "text": shape(n, symbols, dtype=jnp.int32), "text_lengths": shape(n, dtype=jnp.int32),
        "mel": shape(n, frames, config.num_mels), "mel_lengths": shape(n, dtype=jnp.int32),
    }  # fmt: skip
    note = f"{rows} utterances of {symbols} symbols, {frames} frames"
    acoustic = compiled("Glow-TTS", glow_tts.build_task(config), batch, note, mesh)
    rows, samples = 16, 8192
    vocoder = hifigan.build_task(hifigan.Config(), hifigan.default_optim())
    wave = {"wave": shape(rows * DEVICES, samples)}
    return [acoustic, compiled("HiFi-GAN V1 + MPD + MSD", vocoder, wave, f"{rows} cuts of {samples} samples", mesh)]


def ring(size: float, devices: int, bandwidth: float, hops: int, latency: float) -> float:
    """Seconds of half an all-reduce (a reduce-scatter or an all-gather) of `size` bytes in a ring."""
    if devices == 1 or not size:
        return 0.0
    return (devices - 1) / devices * size / bandwidth + math.ceil(size / BUCKET) * hops * latency


def communication(step: Step, machine: Machine, devices: int, activations: int, fsdp: bool) -> float:
    """Seconds of all collectives of a step on so many devices, none hidden behind computation.

    In a node or slice the gradients are summed by a reduce-scatter and, unless the state is cut (FSDP: parameters are
    gathered instead), handed out by an all-gather; between nodes each device sums its own part with its like.

    Args:
        step: read at `DEVICES` devices.
        machine: what it runs on.
        devices: how many.
        activations: bytes of the all-gathers that are no parameters: whole batches, which grow with the devices.
        fsdp: whether the state is cut over the node or slice.
    """
    inner = min(devices, machine.node) if machine.node else devices
    outer = devices // inner
    bandwidth, hops = machine.reach(inner)
    gradients = step.large("all-reduce") + step.large("reduce-scatter") * DEVICES
    handed_out = step.large("all-gather") - activations if fsdp else gradients
    moved = step.large("all-to-all") + step.large("collective-permute") + activations * devices / DEVICES
    seconds = sum(ring(size, inner, bandwidth, hops, machine.latency) for size in (gradients, handed_out, moved))
    if outer > 1:
        parts = (2 * gradients + moved) / inner
        seconds += ring(parts, outer, machine.slow * LINK, outer - 1, machine.slow_latency)
    trips = 2 * hops * machine.latency + 2 * (outer - 1) * machine.slow_latency
    return seconds + step.small() * trips


def efficiency(step: Step, machine: Machine, talking: float, share: float) -> tuple[float, float]:
    """Speed of a device among many, `talking` seconds, over that of one alone: nothing overlaps, everything does."""
    computing = step.flops / (machine.peak * share)
    return computing / (computing + talking), computing / max(computing, talking)


INTRODUCTION = f"""# Scaling

What a training step sends between its devices, read from the compiled program, and what that lets one expect of 8, 64
and 512 devices. Nothing on this page was measured on accelerators. It is written by

    python tools/scaling.py --out docs/scaling.md

which compiles the steps for {DEVICES} devices that a CPU pretends to have and parses the collectives out of XLA's
text (jax {jax.__version__}). Whole: each device holds the state (`fsdp=1`). Cut: the state is cut over all {DEVICES}
(`fsdp={DEVICES}`). MB are 10^6 bytes.
"""

READING = """\
- The large all-reduces are the gradients, once, whether the state is whole or cut.
- With a whole state nothing else of size is sent. What is left of HiFi-GAN's are small rearrangements of activations:
  the period discriminators fold a wave's samples into rows.
- Cut, the gathers are the parameters ahead of the step; those of discriminators once more behind their own update, as
  the generator's loss sees the new ones. XLA for CPU sums whole gradients and each device keeps its part; for GPU and
  TPU it makes that a reduce-scatter, half the traffic, and the prediction counts half.
"""

PREDICTION = """\
Each cell has the milliseconds that a step's collectives take, and the efficiency: the speed of a device among so many
over that of one alone. The lower bound is for nothing hidden behind computation and a device that computes fast, the
upper one for everything hidden and a device that computes slowly."""

ASSUMPTIONS = f"""- A step reaches {COMPUTE[0]:.0%} to {COMPUTE[1]:.0%} of the bfloat16 peak on one device.
  Its operations are those that XLA counts in the step as traced for CPU, before it is cut; a loop's body counts once.
- A large collective reaches {LINK:.0%} of the bandwidth. What is summed is float32, sent in pieces of
  {BUCKET / 2**20:.0f} MiB (XLA's default on GPU), each with the latency of every hop of a ring
  (NCCL's trees take fewer on many nodes).
- Collectives below {SMALL // 1024} KiB cost latency alone, each its own: none are merged.
- The batch on each device stays the same. Nothing is lost to stragglers, the loader or the host.
- The state is cut over the devices of a node of GPUs, whose nodes then sum the parts, or over a whole TPU slice.
- Latencies are round figures of ours."""


def megabytes(size: float) -> str:
    """With a digit behind the point; never a zero that is not one."""
    return f"{size / 1e6:,.1f}" if size >= 5e4 else "< 0.1"


def page(plain: list[Step], cut: list[Step]) -> str:
    """docs/scaling.md."""
    lines = [INTRODUCTION, "## What a step sends", ""]
    for s in plain:
        size = f"{s.parameters / 1e6:.1f} M parameters ({megabytes(4 * s.parameters)} MB in float32)"
        lines.append(f"- {s.name}: {size}; {s.batch} and {s.flops / 1e12:.2f} TFLOP on each device.")
    lines += ["", "| step | state | collective | devices | times | MB of results | MB sent by each device |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for state, these in (("whole", plain), (f"cut by {DEVICES}", cut)):
        for step in these:
            kinds: dict[tuple[str, int, str], list[Collective]] = defaultdict(list)
            for c in step.collectives:
                kinds[c.kind, c.group, "" if c.bytes >= SMALL else f" below {SMALL // 1024} KiB"].append(c)
            for (kind, group, note), cs in sorted(kinds.items()):
                results, sent = sum(c.bytes * c.times for c in cs), sum(c.wire() for c in cs)
                cells = (step.name, state, kind + note, group, sum(c.times for c in cs), megabytes(results))
                lines.append(f"| {' | '.join(map(str, cells))} | {megabytes(sent)} |")
    lines += ["", READING, "## Predicted efficiency", "", PREDICTION, ""]
    head = " | ".join(f"{n}: ms to send, efficiency" for n in COUNTS)
    for step, sharded in zip(plain, cut, strict=True):
        lines += [f"### {step.name}: {step.batch} on each device", ""]
        lines += [f"| accelerator | state | computing, ms | {head} |", "|---|---|---|" + "---|" * len(COUNTS)]
        for machine in MACHINES:
            for fsdp, s in ((False, step), (True, sharded)):
                times = sorted(1e3 * s.flops / (machine.peak * share) for share in COMPUTE)
                row = [machine.name, "cut" if fsdp else "whole", f"{times[0]:.1f} to {times[1]:.1f}"]
                for n in COUNTS:
                    if not machine.fits(n):
                        row.append("more than a slice")
                        continue
                    talking = communication(s, machine, n, step.large("all-gather"), fsdp)
                    bounds = [x for share in COMPUTE for x in efficiency(s, machine, talking, share)]
                    row.append(f"{1e3 * talking:.2f}, {100 * min(bounds):.0f} to {100 * max(bounds):.0f} %")
                lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    lines += ["## Assumptions", "", ASSUMPTIONS]
    for m in MACHINES:
        link = f"{m.fast / 1e9:.0f} GB/s in one direction, {m.latency * 1e6:.0f} µs a hop"
        facts = [f"{m.peak / 1e12:.0f} TFLOP/s", link]
        if m.slow:
            facts.append(f"between nodes {m.slow / 1e9:.0f} GB/s for each GPU, {m.slow_latency * 1e6:.0f} µs a hop")
        if m.torus:
            facts.append("slices of " + ", ".join("x".join(map(str, s)) for s in m.torus))
            facts.append(f"half the bandwidth along an axis of fewer than {m.ring} chips, which is no ring")
        lines.append(f"- {m.name}: {'; '.join(facts)}. Sources: {m.sources}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="The collectives of training steps, and a prediction of scaling.")
    parser.add_argument("--out", type=Path, help="write the page here; default: print it")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    text = page(steps(data_mesh()), steps(data_mesh(fsdp=DEVICES)))
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
