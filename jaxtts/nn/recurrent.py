"""LSTM and GRU: cells for loops that step, and layers for whole sequences.

Flax's own cells are not used because reference checkpoints have torch's two biases (a GRU cannot do without them) and
because a layer's input projection belongs ahead of the loop, as one matrix product over all steps.

Parameters of a cell with G gates: `input_kernel` [G * H, I], `hidden_kernel` [G * H, H], `input_bias` and `hidden_bias`
[G * H], torch's `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`. Outputs come first, unlike in other kernels, since in a
loop the product of a few rows with it takes as little as half the time so on CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.conv import torch_uniform
from jaxtts.nn.functional import hashed_bits, remat

Carry = Any
FEW_ROWS = 32


class Cell(nnx.Module):
    """What the two kinds have in common; `gates` is their number."""

    gates: int

    def __init__(self, in_dim: int, hidden_dim: int, *, rngs: nnx.Rngs):
        self.hidden_dim = hidden_dim
        width = self.gates * hidden_dim

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(torch_uniform(rngs.params(), shape, fan_in=hidden_dim))

        self.input_kernel, self.hidden_kernel = uniform(width, in_dim), uniform(width, hidden_dim)
        self.input_bias, self.hidden_bias = uniform(width), uniform(width)

    def project(self, x: jax.Array) -> jax.Array:
        """[..., I] -> [..., G * H]: what `step` takes; for a whole sequence one product."""
        return product(x, self.input_kernel[...]) + self.input_bias[...].astype(x.dtype)

    def recur(self, hidden: jax.Array) -> jax.Array:
        """[B, H] -> [B, G * H]."""
        return product(hidden, self.hidden_kernel[...]) + self.hidden_bias[...].astype(hidden.dtype)

    def init_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        """The carry of zeros."""
        raise NotImplementedError

    def step(self, carry: Carry, projected: jax.Array) -> tuple[Carry, jax.Array]:
        """The carry and [B, G * H] of `project` -> the next carry and the hidden state [B, H]."""
        raise NotImplementedError


class LSTMCell(Cell):
    """Gates in torch's order: input, forget, cell, output. Carry: hidden state and cell [B, H], the cell in float32."""

    gates = 4

    def init_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        """See Cell."""
        return jnp.zeros((batch, self.hidden_dim), dtype), jnp.zeros((batch, self.hidden_dim))

    def step(self, carry: Carry, projected: jax.Array) -> tuple[Carry, jax.Array]:
        """See Cell."""
        return self.advance(carry, projected + product(carry[0], self.hidden_kernel[...]))

    def advance(self, carry: Carry, gates: jax.Array) -> tuple[Carry, jax.Array]:
        """`step` for gates [B, 4 * H] that have the product with the hidden state already (see `recurrence`)."""
        _, cell = carry
        i, f, g, o = jnp.split(gates + self.hidden_bias[...].astype(gates.dtype), 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + (jax.nn.sigmoid(i) * jnp.tanh(g)).astype(jnp.float32)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell).astype(o.dtype)
        return (hidden, cell), hidden


class GRUCell(Cell):
    """Gates in torch's order: reset, update, new; the reset gate multiplies the new gate's recurrent part, its bias
    included. Carry: the hidden state [B, H]."""

    gates = 3

    def init_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        """See Cell."""
        return jnp.zeros((batch, self.hidden_dim), dtype)

    def step(self, carry: Carry, projected: jax.Array) -> tuple[Carry, jax.Array]:
        """See Cell."""
        (rx, zx, nx), (rh, zh, nh) = (jnp.split(x, 3, axis=-1) for x in (projected, self.recur(carry)))
        update = jax.nn.sigmoid(zx + zh)
        new = jnp.tanh(nx + jax.nn.sigmoid(rx + rh) * nh)
        hidden = (1 - update) * new + update * carry
        return hidden, hidden


class Bidirectional(nnx.Module):
    """Two cells of one kind, one for each direction. Parameters `forward.*`, `backward.*`."""

    def __init__(self, cell: type[Cell], in_dim: int, hidden_dim: int, *, rngs: nnx.Rngs):
        self.forward, self.backward = cell(in_dim, hidden_dim, rngs=rngs), cell(in_dim, hidden_dim, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x [B, T, I], mask [B, T] -> [B, T, 2 * H], zero in the padding; the way back begins at each item's end."""
        ways = (run(self.forward, x, mask), run(self.backward, x, mask, reverse=True))
        return jnp.concatenate(ways, axis=-1)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., I] and a cell's kernel, or some of its columns, [O, I] -> [..., O] in the type of x."""
    known = x.ndim == 2 and type(x.shape[0]) is int  # not while a program for any batch is exported
    few = known and x.shape[0] <= FEW_ROWS and jax.default_backend() == "cpu"
    return (_columns if few else _rows)(x, kernel.astype(x.dtype))


def _rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum("...i,oi->...o", x, kernel)


@jax.custom_vjp
def _columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_rows` as XLA does it fastest on CPU, where reading the kernel takes the time: with the rows as columns.

    The barrier keeps it from turning the product around again; the gradient is faster as it was.
    """
    return jax.lax.optimization_barrier(kernel @ x.T).T


def _columns_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _columns(x, kernel), (x, kernel)


def _columns_backward(kept: tuple[jax.Array, jax.Array], y: jax.Array) -> tuple[jax.Array, ...]:
    return jax.vjp(_rows, *kept)[1](y)


_columns.defvjp(_columns_forward, _columns_backward)


def recurrence(
    step: Callable[[Carry, jax.Array, Any], tuple[Carry, Any]],
    read: Callable[[Carry], jax.Array],
    kernel: jax.Array,
    carry: Carry,
    projected: jax.Array,
    inputs: Any,
    *,
    save: bool = False,
) -> tuple[Carry, Any]:
    """A scan of gates = projected + read(carry) @ kernel.T whose kernel gets its gradient in one product at the end.

    `jax.lax.scan` adds up a gradient of the kernel's size in each step, which takes longer than all the rest where the
    kernel is large and the batch small: half of a Tacotron 2 step.

    Args:
        step: carry, gates [B, O], x -> the next carry, y.
        read: carry -> what the kernel [O, I] multiplies [B, I].
        projected: the rest of the gates [T, B, O]; inputs: a tree of arrays [T, ...].
        save: keep each step's carry alone for the way back (`remat`).

    Returns:
        the last carry, y [T, ...].
    """

    def one(kernel: jax.Array, carry: Carry, xs: tuple) -> tuple[Carry, tuple]:
        seen = read(carry)
        carry, y = step(carry, xs[0] + product(seen, kernel), xs[1])
        return carry, (y, seen)

    def scan(kernel: jax.Array, carry: Carry, projected: jax.Array, inputs: Any) -> tuple[Carry, tuple]:
        return jax.lax.scan(remat(partial(one, kernel), save), carry, (projected, inputs))

    closed, others = jax.closure_convert(scan, kernel, carry, projected, inputs)  # others: the parameters that step has

    @jax.custom_vjp
    def loop(kernel: jax.Array, *given: Any) -> tuple[Carry, tuple]:
        return closed(kernel, *given)

    def forward(kernel: jax.Array, *given: Any) -> tuple[tuple[Carry, tuple], tuple]:
        out, back = jax.vjp(partial(closed, kernel), *given)
        return out, (back, out[1][1])

    def backward(kept: tuple, cotangents: Any) -> tuple:
        back, seen = kept
        given = back(cotangents)
        return jnp.einsum("tbo,tbi->oi", given[1], seen, preferred_element_type=kernel.dtype), *given

    loop.defvjp(forward, backward)
    carry, (y, _) = loop(kernel, carry, projected, inputs, *others)
    return carry, y


def run(
    cell: Cell,
    x: jax.Array,
    mask: jax.Array,
    *,
    reverse: bool = False,
    zoneout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """A layer from a carry of zeros: x [B, T, I], mask [B, T] -> [B, T, H], zero in the padding.

    With a key, hidden units keep their last value at the rate `zoneout` (arXiv 1606.01305; an LSTM's cell does not).
    """

    def step(carry: Carry, inputs: tuple) -> tuple[Carry, jax.Array]:
        projected, real, held = inputs
        new, hidden = cell.step(carry, projected)
        if held is not None:
            (old, *_), (_, *rest) = jax.tree.leaves(carry), jax.tree.leaves(new)
            hidden = jnp.where(held, old, hidden)
            new = jax.tree.unflatten(jax.tree.structure(new), [hidden, *rest])
        kept = jax.tree.map(lambda a, b: jnp.where(real[:, None], a, b), new, carry)
        return kept, jnp.where(real[:, None], hidden, jnp.zeros_like(hidden))

    projected = cell.project(jnp.where(mask[..., None], x, jnp.zeros_like(x)))
    held = None
    if key is not None and zoneout:
        shape = (x.shape[1], x.shape[0], cell.hidden_dim)
        held = hashed_bits(key, shape) < jnp.uint32(round(zoneout * 2**32))  # [T, B, H]
    inputs = projected.swapaxes(0, 1), mask.T, held  # [T, B, ...]
    _, hidden = jax.lax.scan(step, cell.init_carry(x.shape[0], x.dtype), inputs, reverse=reverse)
    return hidden.swapaxes(0, 1)
