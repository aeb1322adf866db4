"""Lengths -> boolean masks (True = real)."""

import jax
import jax.numpy as jnp


def sequence_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """[B] -> bool [B, max_length], True at the positions before each length."""
    return jnp.arange(max_length)[None, :] < lengths[:, None]


def masked_fill(x: jax.Array, mask: jax.Array, value: float = 0.0) -> jax.Array:
    """x [B, T, C] with `value` where mask [B, T] is False; a select, so NaN in the padding does not spread."""
    return jnp.where(mask[..., None], x, jnp.asarray(value, x.dtype))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x over the elements where mask (broadcastable from the left, [B, T]) is True."""
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x.shape)
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
