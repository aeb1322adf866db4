"""Relative self-attention against its formula, and the encoder's padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.attention import SelfAttention, TransformerEncoder
from jaxtts.nn.normalization import LayerNorm


@pytest.mark.parametrize(("window", "length"), [(2, 7), (4, 3), (None, 5)])
def test_attention_is_its_formula(window, length):
    attention = SelfAttention(8, 2, window=window, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, length, 8)).astype(np.float32)
    q, k, v = (np.asarray(f(x))[0].reshape(length, 2, 4) for f in (attention.query, attention.key, attention.value))
    y = np.zeros((length, 2, 4), np.float32)
    near = [r for r in range(-(window or 0), (window or 0) + 1)] if window else []
    for h in range(2):
        for i in range(length):
            key_at = {r: np.asarray(attention.key_positions[...])[r + window] for r in near}
            value_at = {r: np.asarray(attention.value_positions[...])[r + window] for r in near}
            scores = np.array([q[i, h] @ (k[j, h] + key_at.get(j - i, 0)) / 2.0 for j in range(length)])
            weights = np.exp(scores) / np.exp(scores).sum()
            y[i, h] = sum(weights[j] * (v[j, h] + value_at.get(j - i, 0)) for j in range(length))
    want = attention.out(y.reshape(1, length, 8))
    got = jax.jit(lambda x: attention(x, np.ones((1, length), bool)))(x)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_encoder_does_not_see_the_padding():
    encoder = TransformerEncoder(8, 12, 2, 1, 3, window=2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
    mask = np.arange(9) < np.array([[9], [6]])
    run = jax.jit(lambda x, mask: encoder(x, mask))
    y = run(x, mask)
    np.testing.assert_array_equal(y, run(np.where(mask[..., None], x, np.nan), mask))
    assert not y[1, 6:].any()
    np.testing.assert_allclose(y[1, :6], run(x[1:, :6], mask[1:, :6])[0], atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads=3 must divide channels=8"):
        SelfAttention(8, 3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm_keeps_the_dtype(dtype):
    x = np.random.default_rng(0).standard_normal((3, 16)) * 5 + 100
    norm = LayerNorm(16, eps=0.5)
    y = norm(jnp.asarray(x, dtype))
    assert y.dtype == dtype
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 0.5)
    np.testing.assert_allclose(np.asarray(y, np.float32), want, atol=1e-4 if dtype == "float32" else 0.2)
