"""Where arrays live: one mesh axis 'data' over all devices; the state on each of them, the batch cut along B."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh ('data',) over `devices`, by default all devices of all processes.

    The axis is Auto: embeddings, scans over recurrent cells and random crops reject Explicit axes.
    """
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state: everything everywhere."""
    return NamedSharding(mesh, PartitionSpec())


def put_state(state: Any, mesh: Mesh) -> Any:
    """Puts a copy of the state on each device, with strong types so that the first step compiles once and for all."""
    return jax.device_put(jax.tree.map(lambda x: jnp.array(x, x.dtype), state), replicated(mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Cuts each field along its first axis over the devices; a process gives its own part of the batch.

    A batch that the devices do not divide (the last one of the held-out split) is put on each of them whole.

    Raises:
        ValueError: several processes, and the devices do not divide the batch.
    """
    rows = {np.shape(x)[0] * jax.process_count() for x in batch.values() if np.ndim(x)}
    even = all(n % mesh.size == 0 for n in rows)
    if not even and jax.process_count() > 1:
        raise ValueError(f"batch_size={min(rows)}: {mesh.size} devices must divide it")

    def put(x: np.ndarray) -> jax.Array:
        spec = PartitionSpec("data") if even and np.ndim(x) else PartitionSpec()
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(x))

    return jax.tree.map(put, batch)


def local(tree: Any) -> Any:
    """This process's copy of replicated arrays, on one device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
