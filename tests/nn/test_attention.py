"""Relative self-attention against its formula, and the encoder's padding; additive attention against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.attention import AdditiveAttention, SelfAttention, TransformerEncoder
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


KINDS = {
    "content": {"location": 0},
    "summed": {"location": 1, "query_bias": True, "location_bias": True},
    "located": {"location": 2, "score_bias": True, "norm": "sigmoid"},
    "forward": {"location": 2, "transition": "forward"},
    "agent": {"location": 1, "transition": "forward", "agent": True},
    "stepwise": {"location": 0, "transition": "stepwise"},
}
LENGTHS = [7, 4]


def attended(kind, frames=9):
    """An attention whose places and biases matter, queries [2, T, 5], a memory [2, 7, 6] of two lengths, its mask."""
    attention = AdditiveAttention(5, 6, 4, filters=3, kernel_size=5, rngs=nnx.Rngs(0), **KINDS[kind])
    attention.score.kernel[...] = 2 * attention.score.kernel[...]
    if attention.location:
        attention.location_conv.kernel[...] = 4 * attention.location_conv.kernel[...]
    keys = jax.random.split(jax.random.key(1), 2)
    mask = np.arange(7) < np.array(LENGTHS)[:, None]
    memory = jax.random.normal(keys[1], (2, 7, 6)) * mask[..., None]
    return attention, jax.random.normal(keys[0], (2, frames, 5)), memory, jnp.asarray(mask)


def by_hand(attention, queries, memory):
    """One item [T, 5], [S, 6] without padding, in float64 -> weights [T, S], contexts [T, 6]."""

    def dense(layer, x):
        bias = 0 if layer.bias is None else np.asarray(layer.bias[...], np.float64)
        return x @ np.asarray(layer.kernel[...], np.float64)[0] + bias

    queries, memory = np.asarray(queries, np.float64), np.asarray(memory, np.float64)
    symbols = len(memory)
    last, summed, move = np.zeros(symbols), np.zeros(symbols), 0.5
    alpha = np.full(symbols, 1e-7) if attention.transition == "forward" else np.zeros(symbols)
    alpha[0] = 1.0
    rows, contexts = [], []
    for query in queries:
        total = dense(attention.query, query) + dense(attention.key, memory)
        if attention.location:
            seen = np.pad(np.stack([last, summed])[2 - attention.location :], ((0, 0), (2, 2)))  # [1 or 2, S + 4]
            kernel = np.asarray(attention.location_conv.kernel[...], np.float64)
            features = np.stack([np.einsum("cw,wcf->f", seen[:, s : s + 5], kernel) for s in range(symbols)])
            if attention.location_conv.bias is not None:
                features = features + np.asarray(attention.location_conv.bias[...], np.float64)
            total = total + dense(attention.location_dense, features)
        energy = dense(attention.score, np.tanh(total))[:, 0]
        chance = 1 / (1 + np.exp(-energy))
        if attention.transition == "stepwise":
            weights = np.array([alpha[s] * chance[s] + (alpha[s - 1] * (1 - chance[s - 1]) if s else 0)
                                for s in range(symbols)])  # fmt: skip
            normal = weights
        else:
            normal = np.exp(energy) if attention.norm == "softmax" else chance
            normal = weights = normal / normal.sum()
        if attention.transition == "forward":
            moved = np.concatenate([[0.0], alpha[:-1]])
            weights = ((1 - move) * alpha + move * moved + 1e-8) * normal
            weights = weights / weights.sum()
        context = weights @ memory
        if hasattr(attention, "agent"):
            move = 1 / (1 + np.exp(-dense(attention.agent, np.concatenate([context, query]))[0]))
        last, summed, alpha = weights, summed + normal, weights
        rows, contexts = [*rows, weights], [*contexts, context]
    return np.stack(rows), np.stack(contexts)


@pytest.mark.parametrize("kind", KINDS)
def test_additive_attention_is_its_equations_and_padding_gets_nothing(kind):
    attention, queries, memory, mask = attended(kind)
    contexts, weights = jax.jit(attention)(queries, memory, mask)
    for b, n in enumerate(LENGTHS):
        rows, want = by_hand(attention, queries[b], memory[b, :n])
        np.testing.assert_allclose(weights[b, :, :n], rows, atol=1e-5)
        np.testing.assert_allclose(contexts[b], want, atol=1e-5)
        assert not weights[b, :, n:].any()
        assert np.abs(np.diff(rows, axis=0)).max() > 1e-3  # else nothing would have been tested


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_at_a_time_equals_the_whole(kind):
    attention, queries, memory, mask = attended(kind)
    contexts, weights = attention(queries, memory, mask)
    keys, state = attention.keys(memory), attention.init_state(2, 7)
    step = jax.jit(lambda state, query: attention.step(state, query, memory, keys, mask))
    for t in range(queries.shape[1]):
        state, context = step(state, queries[:, t])
        np.testing.assert_allclose(context, contexts[:, t], atol=1e-6)
        np.testing.assert_allclose(state.weights, weights[:, t], atol=1e-6)


@pytest.mark.parametrize("kind", ["forward", "agent", "stepwise"])
def test_transitions_move_on_by_one_symbol_at_most(kind):
    attention, queries, memory, mask = attended(kind)
    _, weights = attention(queries, memory, mask)
    for t in range(queries.shape[1]):
        assert np.asarray(weights)[:, t, t + 2 :].sum() < 1e-3  # what comes of the 1e-7 that every place begins with
    if kind == "stepwise":  # what has been left is not come back to: the weight up to any place only falls
        upto = np.cumsum(weights, axis=2)
        assert (np.diff(upto, axis=1) < 1e-6).all()


def test_noise_makes_stepwise_decisions_harder_and_nothing_else():
    attention, queries, memory, mask = attended("stepwise")
    keys, state = attention.keys(memory), attention.init_state(2, 7)
    noisy = [attention.step(state, queries[:, 0], memory, keys, mask, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0].weights, noisy[1].weights)
    assert not np.allclose(noisy[0].weights, noisy[2].weights)
    np.testing.assert_allclose(noisy[0].weights.sum(1), 1.0, atol=1e-6)


def test_unknown_options_of_attention_are_named():
    with pytest.raises(ValueError, match="norm='max'"):
        AdditiveAttention(2, 2, 2, norm="max", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="transition='back'"):
        AdditiveAttention(2, 2, 2, transition="back", rngs=nnx.Rngs(0))
