"""A task that trains in milliseconds: a linear layer with noise in its loss, so that keys matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Task, TrainState
from jaxtts.train.steps import averaged_params, init_state, supervised_step


@dataclass(frozen=True)
class Config:
    features: int = 3


def task(fail_at: Sequence[int] = ()) -> Task:
    optim = OptimConfig(learning_rate=0.05, ema_decay=0.9, clip_norm=1.0)

    def predict(params, x):
        return x @ params["layer"]["kernel"] + params["layer"]["bias"]

    def init(key, batch):
        kernel = 0.1 * jax.random.normal(key, (batch["x"].shape[-1], 1))
        return init_state({"model": {"layer": {"kernel": kernel, "bias": jnp.zeros(1)}}}, {"model": optim})

    def loss(params, rest, batch, key):
        noise = 0.0 if key is None else 0.01 * jax.random.normal(key, batch["y"].shape)
        value = jnp.mean((predict(params["model"], batch["x"]) - batch["y"] - noise) ** 2)
        return value, ({"loss": value}, rest)

    step = supervised_step(loss, optim)

    def train_step(state: TrainState, batch, key):
        new, metrics = step(state, batch, key)
        if fail_at:
            failed = (state.step >= fail_at[0] - 1) & (state.step <= fail_at[-1] - 1)
            metrics = metrics | {"loss": jnp.where(failed, jnp.nan, metrics["loss"])}
        return new, metrics

    def eval_step(state, batch, key):
        return loss({"model": averaged_params(state, "model")}, state.rest, batch, None)[1][0]

    def sample(state, batch, key):
        wave = np.sin(np.arange(2205) / 10).astype(np.float32)
        return {"mel/toy": predict(state.params["model"], batch["x"]), "alignment/toy": np.eye(5), "audio/toy": wave}

    def inference(state):
        return averaged_params(state, "model"), Config()

    return Task(init, train_step, eval_step, sample, ("x", "y"), inference)


def batches(sizes=(8,), seed: int = 0, count: int | None = None, width: int = 3):
    """Batches of a noiseless linear map, their sizes in turn; the same ones each time."""
    truth = np.zeros((width, 1), np.float32)
    truth[:3, 0] = 1.0, -2.0, 0.5

    class Batches:
        def __iter__(self):
            i = 0
            while count is None or i < count:
                x = np.random.default_rng((seed, i)).normal(size=(sizes[i % len(sizes)], width)).astype(np.float32)
                yield {"x": x, "y": x @ truth + 0.25, "ids": [f"utt{i}-{j}" for j in range(len(x))]}
                i += 1

    return Batches()


class Positioned:
    """The same with a position that can be saved, as Grain's iterators have it."""

    def __init__(self, log: list[int]):
        self.log = log

    def __iter__(self):
        return _Iterator(self.log)


class _Iterator:
    def __init__(self, log: list[int]):
        self.log, self.i = log, 0

    def __next__(self):
        self.log.append(self.i)
        x = np.random.default_rng((0, self.i)).normal(size=(8, 3)).astype(np.float32)
        self.i += 1
        return {"x": x, "y": x.sum(1, keepdims=True)}

    def get_state(self):
        return {"i": self.i}

    def set_state(self, state):
        self.i = state["i"]
