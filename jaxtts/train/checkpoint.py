"""Checkpoints: all that a run needs to go on, in one folder per step that appears whole or not at all (Orbax).

    workdir/checkpoints/<step>/state     TrainState: step, parameters, optimisers, averages
                               meta      JSON: seed, the loader's position, metrics not reported yet, recipe, specs

What is read is checked: Orbax notices a missing or cut file, not a changed byte of an array, so the metadata hold a sum
over the bits of the state and a hash of themselves. A checkpoint that fails is named, and the one before it is used.

A run also leaves its model as `workdir/config.json` + `workdir/model.safetensors`, which need no Orbax to read.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from jaxtts.config import to_dict
from jaxtts.nn.functional import named
from jaxtts.train.sharding import replicated, state_shardings
from jaxtts.train.state import TrainState
from jaxtts.weights.native import save_native

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells each step of each save


class Checkpoints:
    """The checkpoints of one run, newest `keep` of them; saving goes on in the background."""

    def __init__(self, workdir: str | Path, keep: int = 3, read_only: bool = False):
        self.folder = Path(workdir).absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep or None, create=not read_only, cleanup_tmp_directories=not read_only, read_only=read_only
        )
        if jax.process_count() > 1:  # by default each process writes a slice of every array, which it compiles first
            whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
            ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        self._failed = False

    def steps(self) -> list[int]:
        """The complete steps, oldest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, checksum: int, meta: dict[str, Any]) -> None:
        """Begins to write the checkpoint of `state.step`; a step that is there already is left alone.

        Args:
            state: on the devices; it may be donated as soon as this returns.
            checksum: of the state, see `checksum`.
            meta: anything JSON can hold.

        Raises:
            OSError: this one or the one before could not be written; the others are intact.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        meta = json.loads(json.dumps(meta))  # a copy: Orbax writes it later, in a thread
        meta = {"checksum": checksum, "meta": meta, "digest": _digest(meta)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))  # type: ignore
        self._attempt(lambda: self._manager.save(step, args=args, force=True))

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The JSON part of a checkpoint (default: the newest).

        Raises:
            ValueError: there is no checkpoint, or its JSON is damaged.
        """
        step = self.latest() if step is None else step
        if step is None:
            raise ValueError(f"{self.folder} holds no checkpoint")
        return self._read_meta(step)["meta"]

    def restore(self, like: TrainState | None, mesh: Mesh) -> tuple[TrainState, dict[str, Any], dict[int, str]]:
        """The newest checkpoint that is whole, on the devices of the mesh.

        Args:
            like: a state, or its shapes from `jax.eval_shape`; the checkpoint must have this very structure. None takes
                the structure that it has, with plain lists and dicts for the optimisers' states.

        Returns:
            The state, the JSON saved with it, and what is wrong with newer checkpoints: step -> reason.

        Raises:
            ValueError: there is no checkpoint, none is whole, or they hold another model.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            found, reason = self._read(step, like, mesh)
            if _everywhere(not reason):
                return *found, damaged
            damaged[step] = reason or "another process cannot read it"
        if damaged:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
            raise ValueError(f"no checkpoint in {self.folder} can be read ({reasons}); use another workdir")
        raise ValueError(f"{self.folder} holds no checkpoint")

    def set_aside(self, steps: Sequence[int]) -> Path:
        """Moves damaged checkpoints to workdir/damaged, where they are in nobody's way; returns that folder."""
        aside = self.folder.with_name("damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in steps:
                number = 0
                while (target := aside / (f"{step}-{number}" if number else str(step))).exists():
                    number += 1
                (self.folder / str(step)).rename(target)
        _everywhere(True)
        self._manager.reload()
        return aside

    def check(self) -> None:
        """Raises OSError if a save in the background has failed."""
        self._attempt(self._manager.check_for_errors)

    def wait(self) -> None:
        """Returns when everything is on disk; raises OSError if it could not be written."""
        self._attempt(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits and ends the background threads; a failed save has been told by then."""
        if not self._failed:
            self._attempt(self._manager.close)

    def _attempt(self, action: Any) -> None:
        """Orbax hands on whatever its storage raises: one sentence for all of it."""
        try:
            action()
        except Exception as error:
            self._failed = True
            for half in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            saved = self.latest()
            intact = f"that of step {saved} is intact" if saved is not None else "there is none yet"
            told = re.search(r": ([^:]+) \[os_error_code", str(error))  # tensorstore's own words are a page long
            reason = told[1] if told else _first(error)
            raise OSError(
                f"cannot write a checkpoint to {self.folder} ({reason}); {intact}. Mend that and start the same command"
            ) from error

    def _read(self, step: int, like: TrainState | None, mesh: Mesh) -> tuple[Any, str]:
        """((state, meta), '') or (None, what is wrong).

        The handlers are called directly, since the manager's own `restore` meets the other processes at a barrier,
        which one that fails would never reach.
        """
        folder, handler = self.folder / str(step), ocp.StandardCheckpointHandler()
        try:
            meta = self._read_meta(step)
            metadata = handler.metadata(epath.Path(folder / "state"))
            saved = _named_shapes(metadata)
            if like is None:
                tree: Any = getattr(metadata, "tree", metadata)
                like = TrainState(**jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree))
        except Exception as error:  # of Orbax, tensorstore, json: whatever a damaged file leads to
            return None, _first(error)
        shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like,
                              state_shardings(like, mesh))  # fmt: skip
        wanted = _named_shapes(shapes)
        if wrong := [f"{n} is {saved.get(n)}, not {x}" for n, x in wanted.items() if saved.get(n) != x] + [
            f"{n} is {x}, not expected" for n, x in saved.items() if n not in wanted
        ]:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ValueError(f"{folder} holds another model: {'; '.join(wrong[:3])}{more}; use another workdir")
        try:
            state = handler.restore(folder / "state", args=ocp.args.StandardRestore(shapes))  # type: ignore
        except Exception as error:
            return None, _first(error)
        if int(jax.jit(checksum, out_shardings=replicated(mesh))(state)) != meta["checksum"]:
            return None, "its numbers are not those that were saved"
        return (state, meta["meta"]), ""

    def _read_meta(self, step: int) -> dict[str, Any]:
        try:
            meta = json.loads((self.folder / str(step) / "meta" / "metadata").read_text())
            whole = _digest(meta["meta"]) == meta["digest"] and isinstance(meta["checksum"], int)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.folder / str(step)}: its metadata are damaged ({_first(error)})") from error
        if not whole:
            raise ValueError(f"{self.folder / str(step)}: its metadata are not those that were saved")
        return meta


def checksum(state: TrainState) -> jax.Array:
    """A sum over the bits of all arrays, uint32 scalar: the same however they are cut over devices."""

    def of(x: jax.Array) -> jax.Array:
        if x.dtype == jnp.bool_:
            x = x.astype(jnp.uint8)
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
        return jnp.sum(bits, dtype=jnp.uint32)

    sums = jnp.stack([of(x) for x in jax.tree.leaves(state)])
    return jnp.sum(sums * (2 * jnp.arange(len(sums), dtype=jnp.uint32) + 1), dtype=jnp.uint32)


def _digest(meta: Any) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _everywhere(mine: bool) -> bool:
    """Whether it holds in every process; all of them must ask."""
    if jax.process_count() == 1:
        return mine
    from jax.experimental.multihost_utils import process_allgather

    return bool(process_allgather(np.array(mine)).all())


def _first(error: Exception) -> str:
    """The first line of an error, or what it is."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
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
