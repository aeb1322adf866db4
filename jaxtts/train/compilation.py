"""Compilation in the open: step functions compiled ahead for every shape they will see, and a count of what else is.

XLA compiles a program for each set of shapes. A loader with buckets knows them all, so a run compiles everything before
its first step (in threads: XLA lets go of Python meanwhile) and the count of compilations stays where it is from then
on; the loop reports each one that happens nevertheless.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxtts.train.state import Batch

_EVENT = "/jax/core/compile/backend_compile_duration"


class Program:
    """A function of (state, batch, ...), compiled once for each set of shapes of the batch.

    Args:
        name: for the log.
        function: of pytrees of arrays; all but the batch keep their shapes.
        mesh: the devices, known to the function by `jax.sharding.get_abstract_mesh()`.
        options: of `jax.jit`: donate_argnums, out_shardings.
    """

    def __init__(self, name: str, function: Callable[..., Any], mesh: Mesh, **options: Any):
        self.name, self._mesh = name, mesh
        self._jitted = jax.jit(function, **options)
        self._known: dict[Any, tuple[Callable[..., Any], float]] = {}

    def __call__(self, state: Any, batch: Batch, *args: Any) -> Any:
        """Calls it; it must know the shapes."""
        return self._known[_shapes(batch)][0](state, batch, *args)

    def knows(self, batch: Batch) -> bool:
        """Whether it is compiled for these shapes."""
        return _shapes(batch) in self._known

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of a call, over all devices, as XLA counts them (a loop's body once)."""
        return self._known[_shapes(batch)][1]

    def lower(self, state: Any, batch: Batch, *args: Any) -> Callable[[], Any]:
        """Traces it for these arguments; the result compiles, in any thread, and returns the compiled program."""
        with jax.set_mesh(self._mesh):
            lowered = self._jitted.lower(state, batch, *args)
        analysis: Any = lowered.cost_analysis()
        flops = float(analysis.get("flops", 0.0)) if isinstance(analysis, dict) else 0.0

        def compiled() -> Any:
            program = lowered.compile()
            self._known[_shapes(batch)] = (program, flops)
            return program

        return compiled


def _shapes(batch: Batch) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, x.shape) for name, x in batch.items()))


def compile_all(pending: Sequence[Callable[[], Any]]) -> list[Any]:
    """Compiles what `Program.lower` traced, several at a time."""
    with ThreadPoolExecutor(max(1, min(len(pending), (os.cpu_count() or 2) // 2, 8))) as pool:
        return list(pool.map(lambda compile_it: compile_it(), pending))


def memory(compiled: Any) -> int:
    """Bytes that a compiled program needs on a device: arguments, results, temporaries; 0 where XLA does not tell."""
    m = compiled.memory_analysis()
    if m is None:
        return 0
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


class Compilations:
    """While entered, counts XLA's compilations (those served from a cache on disk too)."""

    def __init__(self):
        self.count = 0

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _EVENT:
            self.count += 1


@functools.cache
def peak_flops() -> float:
    """What this process's devices reach together in a large matrix product, in FLOP/s: the roof of a utilisation.

    bfloat16 on accelerators, float32 on CPU; measured here, so it needs no table of devices.
    """
    device = jax.local_devices()[0]
    cpu = device.platform == "cpu"
    size, repeats = (1024, 8) if cpu else (8192, 16)
    x = jax.device_put(np.ones((size, size), np.float32), device).astype(jnp.float32 if cpu else jnp.bfloat16)

    @jax.jit
    def products(x):
        return jax.lax.fori_loop(0, repeats, lambda _, y: (x @ y) / size, x)

    products(x).block_until_ready()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        products(x).block_until_ready()
        times.append(time.perf_counter() - began)
    count = 1 if cpu else jax.local_device_count()  # the devices that a CPU pretends to have share its cores
    return count * repeats * 2 * size**3 / min(times)
