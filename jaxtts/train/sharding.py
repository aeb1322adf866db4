"""Where arrays live: a mesh ('data', 'fsdp') over all devices of all processes.

The batch is cut along B over both axes. The state is on every device or, with fsdp > 1, cut over that axis: each array
that is large enough along its longest axis that divides. A step gathers the parameters it computes with, so that
activations are cut along B alone; optimisers and averages stay cut (ZeRO, arXiv 1910.02054). How many devices there are
changes where a number lies, never which number it is: a checkpoint goes on with any mesh.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SMALL = 4096  # elements; a smaller array costs more to gather than to keep


def data_mesh(devices: Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over `devices`, by default all devices of all processes; `fsdp` of them share one copy of the state.

    The axes are Auto: embeddings, scans over recurrent cells and random crops reject Explicit axes.

    Raises:
        ValueError: fsdp does not divide the number of devices.
    """
    devices = devices or jax.devices()
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp}: it must divide the {len(devices)} devices")
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Everything everywhere."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """For each array of a state (or its shape) the sharding it is kept in."""
    parts = mesh.shape.get("fsdp", 1)

    def of(x: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(x.shape) if n % parts == 0]
        if parts == 1 or not axes or np.prod(x.shape) < SMALL:
            return replicated(mesh)
        longest = max(axes, key=lambda i: x.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, state)


def put_state(state: Any, mesh: Mesh) -> Any:
    """Puts a copy of the state on the mesh, with strong types so that the first step compiles once and for all."""
    strong = jax.tree.map(lambda x: jnp.array(x, x.dtype), state)
    return jax.device_put(strong, state_shardings(strong, mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, whole: bool = False) -> dict[str, jax.Array]:
    """Cuts each field along its first axis over the devices; a process gives its own consecutive rows of the batch.

    A batch that the devices do not divide is put on each of them whole.

    Args:
        whole: each process gives the same batch, and each device gets all of it.

    Raises:
        ValueError: several processes, and the devices do not divide the batch.
    """
    rows = {np.shape(x)[0] * jax.process_count() for x in batch.values() if np.ndim(x)}
    even = not whole and all(n % mesh.size == 0 for n in rows)
    if not even and not whole and jax.process_count() > 1:
        raise ValueError(f"batch_size={min(rows)}: {mesh.size} devices must divide it")

    def put(x: np.ndarray) -> jax.Array:
        spec = PartitionSpec(mesh.axis_names) if even and np.ndim(x) else PartitionSpec()
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(x))

    return jax.tree.map(put, batch)


def whole_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all processes, in each of them."""
    if jax.process_count() == 1:
        return batch
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(batch, tiled=True)


def local(tree: Any) -> Any:
    """This process's copy of replicated arrays, on one device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
