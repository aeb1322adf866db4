"""Checkpoints: all that a run needs to go on, in one folder per step that appears whole or not at all (Orbax).

    workdir/checkpoints/<step>/state     TrainState: step, parameters, optimisers, averages
                               meta      JSON: seed, the loader's position, whatever the caller adds (recipe, specs)

A run also leaves its model as `workdir/config.json` + `workdir/model.safetensors`, which need no Orbax to read.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from jaxtts.config import to_dict
from jaxtts.nn.functional import named
from jaxtts.train.sharding import replicated
from jaxtts.train.state import TrainState
from jaxtts.weights.native import save_native

logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax tells each step of each save


class Checkpoints:
    """The checkpoints of one run, newest `keep` of them; saving goes on in the background."""

    def __init__(self, workdir: str | Path, keep: int = 3):
        self.folder = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, create=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "meta"))

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Begins to write the checkpoint of `state.step`; a step that is there already is left alone."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))  # type: ignore
        self._manager.save(step, args=args, force=True)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The JSON part of a checkpoint (default: the newest).

        Raises:
            ValueError: there is no checkpoint.
        """
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())  # type: ignore
        return self._manager.restore(self._known(step), args=args).meta

    def restore(self, like: TrainState, mesh: Mesh, step: int | None = None) -> TrainState:
        """The state of a checkpoint (default: the newest), on each device of the mesh.

        Args:
            like: a state, or its shapes from `jax.eval_shape`; the checkpoint must have this very structure.

        Raises:
            ValueError: there is no checkpoint, it is damaged, or it holds another model.
        """
        step = self._known(step)
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))  # noqa: E731
        args = ocp.args.Composite(state=ocp.args.StandardRestore(jax.tree.map(shape, like)))  # type: ignore
        try:
            return self._manager.restore(step, args=args).state
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"{self.folder / str(step)} cannot be restored into this model (delete it to go on from the one "
                f"before, or take another workdir): {str(error).splitlines()[0]}"
            ) from error

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and ends the background threads."""
        self._manager.close()

    def _known(self, step: int | None) -> int:
        step = self.latest() if step is None else step
        if step is None:
            raise ValueError(f"{self.folder} holds no checkpoint")
        return step


def export(folder: str | Path, params: dict[str, Any], config: Any, description: dict[str, Any]) -> None:
    """Writes a model for use outside training: `config.json` and `model.safetensors`.

    Args:
        folder: made if absent.
        params: nested dict of arrays, as `Task.inference` returns it.
        config: the model's configuration.
        description: further entries of config.json: the model's name, mel and text specs, the step.
    """
    arrays = {name: jax.device_get(x) for name, x in named(params).items()}
    save_native(folder, arrays, description | {"config": to_dict(config)})
