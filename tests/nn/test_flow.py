"""Flow layers: inverse(forward(x)) = x, log-determinants against the Jacobian's, initialisation, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.flow import ActNorm, AffineCoupling, GroupedInvertibleConv, squeeze, unsqueeze
from jaxtts.nn.functional import merge, split

RNG = np.random.default_rng(0)
LAYERS = {
    "act_norm": lambda: ActNorm(8),
    "mix": lambda: GroupedInvertibleConv(8, 4, rngs=nnx.Rngs(0)),
    "coupling": lambda: AffineCoupling(8, 4, 3, 2, cond_channels=2, rngs=nnx.Rngs(0)),
    "coupling_sigmoid": lambda: AffineCoupling(8, 4, 3, 2, cond_channels=2, sigmoid_scale=True, rngs=nnx.Rngs(0)),
}


def randomized(build):
    graph, params, _ = split(build())
    return merge(graph, jax.tree.map(lambda p: p + 0.3 * RNG.standard_normal(p.shape, np.float32), params))


@pytest.mark.parametrize("name", LAYERS)
def test_inverse_and_log_determinant(name):
    layer = randomized(LAYERS[name])
    mask = np.arange(4)[None] < np.array([[4], [2]])
    x = jnp.asarray(RNG.standard_normal((2, 4, 8)) * mask[..., None], jnp.float32)
    cond = jnp.asarray(RNG.standard_normal((2, 1, 2)), jnp.float32)

    @jax.jit
    def run(x):
        z, log_det = layer.forward(x, mask, cond)
        jacobian = jax.jacfwd(lambda x: layer.forward(x, mask, cond)[0])(x)
        return z, log_det, layer.inverse(z, mask, cond), jacobian

    z, log_det, back, jacobian = run(x)
    np.testing.assert_allclose(back, x, atol=1e-5)
    assert not z[1, 2:].any()
    for item, frames in enumerate((4, 2)):
        real = np.asarray(jacobian)[item, :frames, :, item, :frames].reshape(frames * 8, frames * 8)
        np.testing.assert_allclose(log_det[item], np.linalg.slogdet(real)[1], atol=1e-4)


def test_mixing_takes_neighbours_from_both_halves():
    layer = GroupedInvertibleConv(8, 4, rngs=nnx.Rngs(0))
    assert np.linalg.det(layer.weight[...]) == pytest.approx(1.0, abs=1e-5)
    x = jnp.asarray(RNG.standard_normal((1, 1, 8)), jnp.float32)
    z, _ = layer.forward(x, np.ones((1, 1), bool))
    for group in ([0, 1, 4, 5], [2, 3, 6, 7]):
        np.testing.assert_allclose(z[0, 0, group], layer.weight[...] @ x[0, 0, group], atol=1e-6)
    with pytest.raises(ValueError, match="num_splits=3"):
        GroupedInvertibleConv(8, 3, rngs=nnx.Rngs(0))


def test_act_norm_starts_from_the_batch():
    layer = ActNorm(3)
    mask = np.arange(50)[None] < np.array([[50], [30]])
    x = RNG.standard_normal((2, 50, 3)) * [0.1, 3.0, 0.0] + [5.0, -2.0, 1.0]
    layer.initialize(jnp.asarray(np.where(mask[..., None], x, np.nan), jnp.float32), mask)
    z = np.asarray(layer.forward(jnp.asarray(x, jnp.float32), mask)[0])[mask]
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-3)
    np.testing.assert_allclose(z.std(0)[:2], 1.0, atol=1e-2)
    assert np.isfinite(layer.log_scale[...]).all()  # the third channel is constant


def test_squeeze_keeps_whole_groups_only():
    x = np.arange(1, 11, dtype=np.float32).reshape(1, 5, 2)
    mask = np.arange(5)[None] < 3
    y, squeezed = squeeze(jnp.asarray(np.where(mask[..., None], x, np.nan)), jnp.asarray(mask), 2)
    np.testing.assert_array_equal(y, [[[1, 2, 3, 4], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(squeezed, [[True, False]])
    back, mask = unsqueeze(y, squeezed, 2)
    np.testing.assert_array_equal(back, [[[1, 2], [3, 4], [0, 0], [0, 0]]])
    np.testing.assert_array_equal(mask, [[True, True, False, False]])


def test_bfloat16_inside_keeps_the_flow_in_float32():
    layer = randomized(lambda: AffineCoupling(8, 4, 3, 2, dtype="bfloat16", rngs=nnx.Rngs(0)))
    x, mask = jnp.asarray(RNG.standard_normal((1, 4, 8)) * 100, jnp.float32), np.ones((1, 4), bool)
    z, log_det = layer.forward(x, mask)
    assert z.dtype == log_det.dtype == jnp.float32
    np.testing.assert_allclose(layer.inverse(z, mask), x, rtol=1e-4, atol=1e-3)
