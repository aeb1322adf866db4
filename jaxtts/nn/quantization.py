"""Weights in fewer bits, for loops whose time goes into reading them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

WEIGHTS_DTYPES = ("float32", "bfloat16", "int8")


class Reduced(NamedTuple):
    """A kernel in fewer bits: `x @ reduced` multiplies in bfloat16 and adds up in float32.

    Attributes:
        values: [I, O], bfloat16 or int8 (which bfloat16 holds exactly); scale: of each output [O].
    """

    values: jax.Array
    scale: jax.Array

    def __rmatmul__(self, x: jax.Array) -> jax.Array:
        x, values = x.astype(jnp.bfloat16), self.values.astype(jnp.bfloat16)
        return jnp.matmul(x, values, preferred_element_type=jnp.float32) * self.scale


def reduced(kernel: jax.Array, dtype: str) -> Any:
    """A kernel [I, O] as `dtype` stores it: itself, or a `Reduced`; int8 is symmetric, scaled per output.

    Raises:
        ValueError: no such dtype.
    """
    if dtype == "float32":
        return kernel
    if dtype == "bfloat16":
        return Reduced(kernel.astype(jnp.bfloat16), jnp.ones(kernel.shape[1]))
    if dtype != "int8":
        raise ValueError(f"weights_dtype={dtype!r}: use one of {', '.join(WEIGHTS_DTYPES)}")
    scale = jnp.maximum(jnp.max(jnp.abs(kernel), axis=0), 1e-30) / 127.0
    return Reduced(jnp.round(kernel / scale).astype(jnp.int8), scale)
