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
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

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
        return self._manager.restore(self._known(step), args=args)["meta"]

    def restore(self, like: TrainState, mesh: Mesh, step: int | None = None) -> TrainState:
        """The state of a checkpoint (default: the newest), on each device of the mesh.

        Args:
            like: a state, or its shapes from `jax.eval_shape`; the checkpoint must have this very structure.

        Raises:
            ValueError: there is no checkpoint, it is damaged, or it holds another model.
        """
        step = self._known(step)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), like)
        wanted, saved = _shapes(target), _shapes(self._manager.item_metadata(step)["state"])
        if wrong := [f"{n} is {saved.get(n)}, not {x}" for n, x in wanted.items() if saved.get(n) != x] + [
            f"{n} is {x}, not expected" for n, x in saved.items() if n not in wanted
        ]:
            raise ValueError(f"{self.folder / str(step)} holds another model: {_first(wrong)}; use another workdir")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))  # type: ignore
        try:
            return self._manager.restore(step, args=args)["state"]
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"{self.folder / str(step)} is damaged, delete it to go on from the one before: {_first([str(error)])}"
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


def _first(problems: list[str], count: int = 3) -> str:
    """The first lines of a few problems, and how many more there are."""
    more = f" and {len(problems) - count} more" if len(problems) > count else ""
    return "; ".join(p.splitlines()[0] for p in problems[:count]) + more


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape; metadata has dicts and lists where the state has tuples."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in p): tuple(x.shape)
            for p, x in leaves}  # fmt: skip


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
