"""The splines: inverse, log-determinant, tails, and numbers where rounding hurts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.nn.spline import rational_quadratic_spline

BOUND = 5.0


def parameters(key, count, bins=10, spread=1.0):
    keys = jax.random.split(key, 4)
    x = jax.random.uniform(keys[0], (count,), minval=-7, maxval=7)  # two sevenths lie in the tails
    shapes = ((count, bins), (count, bins), (count, bins - 1))
    return x, *(spread * jax.random.normal(k, shape) for k, shape in zip(keys[1:], shapes))


@pytest.mark.parametrize("spread", [0.1, 0.3, 1.0, 2.0])
def test_inverse_gives_the_input_back_and_the_opposite_log_det(spread):
    x, *rest = parameters(jax.random.key(0), 10_000, spread=spread)
    y, log_det = rational_quadratic_spline(x, *rest, bound=BOUND)
    back, opposite = rational_quadratic_spline(y, *rest, bound=BOUND, inverse=True)
    rounding = 1e-6 / jnp.exp(log_det)  # what is flatter than this cannot be told apart in a float32 y
    assert bool(jnp.all(jnp.abs(back - x) <= jnp.maximum(1e-4, rounding)))
    flat = rounding > 1e-4
    assert not bool(flat.any()) or spread > 0.3  # in VITS sizes are divided by the root of 192
    np.testing.assert_allclose(opposite[~flat], -log_det[~flat], atol=2e-3)
    outside = jnp.abs(x) > BOUND
    assert 2000 < int(outside.sum()) < 4000
    np.testing.assert_array_equal(y[outside], x[outside])
    assert not np.any(np.asarray(log_det[outside]))
    assert bool(jnp.all(jnp.abs(y[~outside]) <= BOUND + 1e-5))


def test_log_det_is_the_derivative():
    x, *rest = parameters(jax.random.key(1), 2000)
    slope = jax.vmap(jax.grad(lambda x, *p: rational_quadratic_spline(x, *p, bound=BOUND)[0]))(x, *rest)
    _, log_det = rational_quadratic_spline(x, *rest, bound=BOUND)
    np.testing.assert_allclose(jnp.log(slope), log_det, atol=2e-3)
    slope = jax.vmap(jax.grad(lambda x, *p: rational_quadratic_spline(x, *p, bound=BOUND, inverse=True)[0]))(x, *rest)
    _, log_det = rational_quadratic_spline(x, *rest, bound=BOUND, inverse=True)
    np.testing.assert_allclose(jnp.log(slope), log_det, atol=1e-2)


def test_it_grows_and_starts_as_the_identity():
    x = jnp.linspace(-7, 7, 4001)
    zeros = jnp.zeros((4001, 10))
    y, log_det = rational_quadratic_spline(
        x, zeros, zeros, jnp.full((4001, 9), np.log(np.expm1(1 - 1e-3))), bound=BOUND
    )
    np.testing.assert_allclose(y, x, atol=2e-6)
    np.testing.assert_allclose(log_det, 0, atol=2e-5)
    _, *rest = parameters(jax.random.key(2), 1)
    y, _ = rational_quadratic_spline(x, *(jnp.tile(p, (4001, 1)) for p in rest), bound=BOUND)
    assert bool(jnp.all(jnp.diff(y) > 0))


@pytest.mark.parametrize("inverse", [False, True])
def test_edges_extremes_and_infinities_stay_finite(inverse):
    x = jnp.array([-5.0, 5.0, 0.0, -5.0000005, 4.9999995, 1e30, -1e30])
    wild = 40 * jax.random.normal(jax.random.key(3), (3, len(x), 10))

    def total(x, w, h, d):
        y, log_det = rational_quadratic_spline(x, w, h, d, bound=BOUND, inverse=inverse)
        return jnp.sum(jnp.where(jnp.abs(x) < 100, y, 0.0)) + jnp.sum(log_det)

    y, log_det = rational_quadratic_spline(x, wild[0], wild[1], wild[2, :, :9], bound=BOUND, inverse=inverse)
    assert bool(jnp.all(jnp.isfinite(y)) & jnp.all(jnp.isfinite(log_det)))
    for g in jax.grad(total, argnums=(0, 1, 2, 3))(x, wild[0], wild[1], wild[2, :, :9]):
        assert bool(jnp.all(jnp.isfinite(g)))
