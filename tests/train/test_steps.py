"""Steps that cut a batch into parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.train.optim import OptimConfig
from jaxtts.train.sharding import data_mesh, put_batch, put_state
from jaxtts.train.steps import gan_step, init_state, supervised_step


def batch(rows: int = 8) -> dict:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(rows, 3)).astype(np.float32) for name in ("x", "y")}


def close(a, b, **how) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **({"rtol": 1e-5, "atol": 1e-6} | how)), a, b)


def supervised(accumulate: int):
    optim = OptimConfig(learning_rate=0.1, accumulate=accumulate, ema_decay=0.9, clip_norm=0.5)
    params = {"model": {"kernel": jax.random.normal(jax.random.key(1), (3, 3))}}

    def loss(params, rest, batch, key):
        error = jnp.mean((batch["x"] @ params["model"]["kernel"] - batch["y"]) ** 2)
        return error, ({"loss": error}, rest | {"seen": rest["seen"] + batch["x"].shape[0]})

    return init_state(params, {"model": optim}, {"seen": jnp.float32(0)}), jax.jit(supervised_step(loss, optim))


@pytest.mark.parametrize("count", [2, 4, 8])
def test_parts_give_what_the_whole_batch_gives(count):
    state, step = supervised(1)
    whole, metrics = step(state, batch(), jax.random.key(0))
    state, step = supervised(count)
    parts, same = step(state, batch(), jax.random.key(0))
    close(parts, whole)
    close(same, metrics)
    assert float(parts.rest["seen"]) == 8  # what is carried goes from part to part


def test_parts_of_a_batch_that_is_cut_over_devices():
    state, step = supervised(2)
    one, _ = step(state, batch(), jax.random.key(0))
    mesh = data_mesh(jax.devices()[:4])
    four, _ = step(put_state(state, mesh), put_batch(batch(), mesh), jax.random.key(0))
    close(four, one)


def test_parts_must_divide_the_batch():
    state, step = supervised(3)
    with pytest.raises(ValueError, match="optim.accumulate=3: it must divide the batch of 8"):
        step(state, batch(), jax.random.key(0))
    with pytest.raises(ValueError, match="optim.accumulate=0: give at least 1"):
        OptimConfig(accumulate=0)


def adversarial(accumulate: int, other: int | None = None):
    optim = OptimConfig(learning_rate=0.1, accumulate=accumulate)
    both = {"generator": optim, "discriminator": OptimConfig(learning_rate=0.1, accumulate=other or accumulate)}
    keys = jax.random.split(jax.random.key(2))
    params = {"generator": {"kernel": jax.random.normal(keys[0], (3, 3))},
              "discriminator": {"kernel": jax.random.normal(keys[1], (3, 1))}}  # fmt: skip

    def generate(params, rest, batch, key):
        fake = jnp.tanh(batch["x"] @ params["kernel"])
        extra = jnp.mean((fake - batch["y"]) ** 2)
        return fake, extra, {"loss/extra": extra}

    def generator_loss(params, rest, batch, fake):
        value = jnp.mean((fake @ params["kernel"] - 1) ** 2)
        return value, {"loss/adversarial": value}

    def discriminator_loss(params, rest, batch, fake):
        value = jnp.mean((batch["y"] @ params["kernel"] - 1) ** 2) + jnp.mean((fake @ params["kernel"]) ** 2)
        return value, ({"loss/discriminator": value}, rest)

    return init_state(params, both), jax.jit(gan_step(generate, generator_loss, discriminator_loss, both))


def test_both_nets_of_a_gan_take_parts():
    state, step = adversarial(1)
    whole, metrics = step(state, batch(), jax.random.key(0))
    state, step = adversarial(4)
    parts, same = step(state, batch(), jax.random.key(0))
    close(parts, whole)
    close(same, metrics)
    changed = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), parts.params, state.params)
    assert min(jax.tree.leaves(changed)) > 0.05
    with pytest.raises(ValueError, match="give both the same"):
        adversarial(2, 4)
