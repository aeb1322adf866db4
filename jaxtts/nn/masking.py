"""Lengths -> boolean masks (True = real)."""

import jax
import jax.numpy as jnp


def sequence_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """[B] -> bool [B, max_length], True at the positions before each length."""
    return jnp.arange(max_length)[None, :] < lengths[:, None]


def masked_fill(x: jax.Array, mask: jax.Array, value: float = 0.0) -> jax.Array:
    """x [B, T, C] with `value` where mask [B, T] is False; a select, so NaN in the padding does not spread."""
    return jnp.where(mask[..., None], x, jnp.asarray(value, x.dtype))
