"""What a task is and what its state holds: the contract between models/ and train/."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Batch = dict[str, Any]
Metrics = dict[str, jax.Array]
Media = dict[str, Any]


class TrainState(NamedTuple):
    """All that a training step changes. Each dict is keyed by net ('generator', 'discriminator', 'ema', ...).

    Attributes:
        step: int32 scalar, number of finished steps.
        params: net -> nested dict of float32 arrays.
        rest: net -> nested dict of what is carried but not trained (batch statistics, EMA, frozen teachers).
        opt_state: net -> optax state.
    """

    step: jax.Array
    params: dict[str, Any]
    rest: dict[str, Any]
    opt_state: dict[str, Any]


class Task(NamedTuple):
    """Pure functions that train one model; `models/<name>/task.py: build_task(config, optim)` makes them.

    Attributes:
        init: (key, batch) -> TrainState; batch is the first one of the corpus, for data-dependent initialisation.
        train_step: (state, batch, key) -> (state, metrics); jitted by the loop.
        eval_step: (state, batch, key) -> metrics.
        sample: (state, batch, key) -> media for the log: 'audio/...' [N], 'mel/...' [T, M], 'alignment/...' [T, S].
        fields: the batch fields that the loader must provide, see data/batches.py.
        inference: state -> (params, config) as exported for use outside training.
        pretraining: (number of steps, the step that is taken instead of `train_step` for so long), or None.
    """

    init: Callable[..., TrainState]
    train_step: Callable[..., tuple[TrainState, Metrics]]
    eval_step: Callable[..., Metrics]
    sample: Callable[..., Media]
    fields: tuple[str, ...]
    inference: Callable[..., tuple[dict[str, Any], Any]]
    pretraining: tuple[int, Callable[..., tuple[TrainState, Metrics]]] | None = None
