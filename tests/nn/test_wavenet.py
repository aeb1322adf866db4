"""What the gated stack sees: its reach, its padding, its conditioning, its dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.functional import fold_weight_norm, merge, rngs_for_shapes, split, structure
from jaxtts.nn.wavenet import WaveNet


@pytest.mark.parametrize(("causal", "reach"), [(False, range(3, 18)), (True, range(-4, 11))])
def test_reach(causal, reach):
    net = WaveNet(4, 3, 3, dilation=2, causal=causal, rngs=nnx.Rngs(0))  # 2 * (1 + 2 + 4) + 1 frames
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 21, 4)), jnp.float32)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(net(x)[0, 10])))(x)
    assert set(np.flatnonzero(np.abs(grad).sum((0, 2)))) == {t for t in reach if t >= 0}


def test_masked_frames_are_as_if_they_were_not_there():
    net = WaveNet(4, 3, 2, cond_channels=3, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x, cond = rng.standard_normal((1, 8, 4)).astype(np.float32), rng.standard_normal((1, 1, 3)).astype(np.float32)
    mask = np.arange(8)[None] < 5
    y = net(x * mask[..., None], mask, cond)
    assert not y[0, 5:].any()
    np.testing.assert_allclose(y[:, :5], net(x[:, :5], None, np.repeat(cond, 5, axis=1)), atol=1e-6)
    assert np.abs(y - net(x * mask[..., None], mask, 2 * cond)).max() > 1e-3


def test_folded_weights_give_the_same_output():
    net = WaveNet(4, 3, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, 8, 4)).astype(np.float32)
    plain, _, _ = structure(lambda: WaveNet(4, 3, 2, weight_norm=False, rngs=rngs_for_shapes()))
    np.testing.assert_allclose(merge(plain, fold_weight_norm(split(net)[1]))(x), net(x), atol=1e-6)


def test_dropout_needs_a_key_and_differs_from_layer_to_layer():
    net = WaveNet(4, 1, 2, dropout=0.5, rngs=nnx.Rngs(0))
    x = np.ones((1, 6, 4), np.float32)
    np.testing.assert_array_equal(net(x), net(x))
    a, b = net(x, key=jax.random.key(0)), net(x, key=jax.random.key(1))
    assert np.abs(a - b).max() > 0 and np.abs(a - net(x)).max() > 0
