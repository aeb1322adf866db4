"""Dropout and its bits."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxtts.nn.functional import dropout, hashed_bits


def test_hashed_bits_are_uniform_and_independent_between_keys_and_places():
    shape = (8, 250, 64)
    bits = np.stack([hashed_bits(key, shape).ravel() for key in jax.random.split(jax.random.key(0), 24)])
    assert bits.dtype == np.uint32
    n = bits.shape[1]
    for bit in range(32):  # each bit is set in half of the places, within 5 standard deviations
        assert np.all(np.abs(((bits >> bit) & 1).mean(1) - 0.5) < 2.5 / np.sqrt(n)), bit
    noise = bits / 2**32 - 0.5
    noise /= noise.std(1, keepdims=True)
    between = noise @ noise.T / n - np.eye(len(bits))
    assert np.abs(between).max() < 5 / np.sqrt(n)
    for shift in (1, 2, 63, 64, 250 * 64):
        assert np.abs((noise[:, shift:] * noise[:, :-shift]).mean(1)).max() < 5 / np.sqrt(n - shift), shift


def test_dropout_keeps_the_mean_and_the_same_elements_however_the_batch_is_cut():
    key, x = jax.random.key(1), jnp.ones((8, 100, 32), jnp.bfloat16)
    y = dropout(x, 0.25, key)
    assert y.dtype == x.dtype and set(np.unique(np.asarray(y, np.float32))) == {0.0, np.float32(jnp.bfloat16(4 / 3))}
    assert abs(float(jnp.mean(y == 0)) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size)
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, key) is x
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    cut = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(jax.jit(lambda x: dropout(x, 0.25, key))(cut), y)
