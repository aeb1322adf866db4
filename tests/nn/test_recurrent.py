"""Cells and layers against their equations, written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.masking import sequence_mask
from jaxtts.nn.recurrent import Bidirectional, GRUCell, LSTMCell, recurrence, run


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(cell, x):
    """One item x [T, I], step by step in float64 -> [T, H]."""
    w, u, b, c = (
        np.asarray(p[...], np.float64)
        for p in (cell.input_kernel, cell.hidden_kernel, cell.input_bias, cell.hidden_bias)
    )
    hidden = memory = np.zeros(cell.hidden_dim)
    found = []
    for row in np.asarray(x, np.float64):
        given, own = w @ row + b, u @ hidden + c
        if isinstance(cell, LSTMCell):
            i, f, g, o = np.split(given + own, 4)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(memory)
        else:
            (r, z, n), (rh, zh, nh) = np.split(given, 3), np.split(own, 3)
            new = np.tanh(n + sigmoid(r + rh) * nh)
            hidden = (1 - sigmoid(z + zh)) * new + sigmoid(z + zh) * hidden
        found.append(hidden)
    return np.stack(found)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_layer_is_the_equations_and_padding_does_not_count(kind):
    x = jax.random.normal(jax.random.key(0), (3, 7, 5))
    lengths = jnp.array([7, 4, 1])
    mask = sequence_mask(lengths, 7)
    x = jnp.where(mask[..., None], x, jnp.nan)
    layer = Bidirectional(kind, 5, 4, rngs=nnx.Rngs(0))
    y = np.asarray(layer(x, mask))
    assert y.shape == (3, 7, 8)
    for b, n in enumerate(lengths.tolist()):
        np.testing.assert_allclose(y[b, :n, :4], by_hand(layer.forward, x[b, :n]), atol=1e-5)
        np.testing.assert_allclose(y[b, :n, 4:], by_hand(layer.backward, x[b, :n][::-1])[::-1], atol=1e-5)
        assert not y[b, n:].any()


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_step_equals_layer(kind):
    x = jax.random.normal(jax.random.key(1), (2, 6, 3))
    cell = kind(3, 4, rngs=nnx.Rngs(0))
    whole = run(cell, x, jnp.ones((2, 6), bool))
    carry = cell.init_carry(2)
    for t in range(6):
        carry, hidden = cell.step(carry, cell.project(x[:, t]))
        np.testing.assert_allclose(hidden, whole[:, t], atol=1e-6)


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell])
def test_zoneout_holds_units_at_its_rate(kind):
    x, mask = jax.random.normal(jax.random.key(1), (4, 200, 3)), jnp.ones((4, 200), bool)
    cell = kind(3, 8, rngs=nnx.Rngs(0))
    plain = run(cell, x, mask, zoneout=0.25)
    np.testing.assert_array_equal(plain, run(cell, x, mask))
    held = np.asarray(run(cell, x, mask, zoneout=0.25, key=jax.random.key(2)))
    # XLA may compute a step once for the carry and once for the output, rounded otherwise: no exact equality.
    same = np.isclose(held[:, 1:], held[:, :-1], rtol=0, atol=1e-6)
    assert abs(same.mean() - 0.25) < 0.02
    # What is not held is the cell's step from the state that was.
    carry = cell.init_carry(4)
    for t in range(5):
        given, hidden = cell.step(carry, cell.project(x[:, t]))
        kept = same[:, t - 1] if t else held[:, 0] == 0
        np.testing.assert_allclose(np.where(kept, 0, held[:, t]), np.where(kept, 0, hidden), atol=1e-6)
        carry = (jnp.asarray(held[:, t]), given[1]) if kind is LSTMCell else jnp.asarray(held[:, t])


@pytest.mark.parametrize("save", [False, True])
def test_recurrence_is_a_scan_and_so_is_its_gradient(save):
    keys = jax.random.split(jax.random.key(3), 4)
    kernel, told = jax.random.normal(keys[0], (16, 6)), jax.random.normal(keys[1], (5, 3, 16))
    mixed, seeds = jax.random.normal(keys[2], (4, 2)), jax.random.split(keys[3], 5)
    graph, params = nnx.split(LSTMCell(2, 4, rngs=nnx.Rngs(0)))
    start = (jnp.ones((3, 4)), jnp.zeros((3, 4)))

    def read(carry):
        return jnp.concatenate([carry[0], jnp.tanh(carry[1][:, :2])], axis=-1)

    def result(scan, kernel, told, mixed, params):
        cell = nnx.merge(graph, params)

        def step(carry, gates, key):
            carry, hidden = cell.advance(carry, gates + 0.1 * jax.random.normal(key, gates.shape))
            return carry, hidden @ mixed

        return scan(step, kernel, told)

    def ours(step, kernel, told):
        return recurrence(step, read, kernel, start, told, seeds, save=save)

    def plain(step, kernel, told):
        def one(carry, x):
            return step(carry, x[0] + read(carry) @ kernel.T, x[1])

        return jax.lax.scan(one, start, (told, seeds))

    given = kernel, told, mixed, params
    found, expected = (
        [out, back(jax.tree.map(jnp.cos, out))]
        for out, back in (jax.vjp(partial(result, scan), *given) for scan in (ours, plain))
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), found, expected)
    assert all(float(jnp.abs(x).max()) > 0.1 for x in found[1][:3])
