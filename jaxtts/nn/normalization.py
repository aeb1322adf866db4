"""Normalisation of channels: over them (LayerNorm), or of each over the batch (BatchNorm)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.masking import masked_fill

Statistics = dict[str, jax.Array]


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, computed in float32. Parameters `scale` [C], `bias` [C].

    Args:
        eps: added to the variance; the reference implementations differ (1e-4 in Glow-TTS, 1e-5 in VITS).
    """

    def __init__(self, channels: int, *, eps: float = 1e-5):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C] of the same dtype."""
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation (arXiv 1502.03167) of [B, T, C] over the real positions, computed in float32.

    Parameters `scale`, `bias` [C]; running statistics `mean`, `variance` [C], which are no parameters: a call in
    training returns what they become, for the caller to put in their place.
    Flax's own one is not used because it stores what it has seen in itself, and counts the padding.

    Args:
        eps: added to the variance (torch's default; 1e-3 in coqui-tts's CBHG).
        momentum: share of the new batch in the running statistics, torch's 0.1 (Flax's 0.9).
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1):
        self.eps, self.momentum = eps, momentum
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))
        self.mean = nnx.BatchStat(jnp.zeros((channels,)))
        self.variance = nnx.BatchStat(jnp.ones((channels,)))

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> tuple[jax.Array, Statistics]:
        """x [B, T, C], mask [B, T] -> [B, T, C] of the same dtype, and the running statistics after this batch."""
        y = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        running = {"mean": mean, "variance": variance}
        if train:
            count = jnp.maximum(jnp.sum(mask), 1)
            real = masked_fill(y, mask)
            mean = jnp.sum(real, axis=(0, 1)) / count
            variance = jnp.sum(masked_fill((y - mean) ** 2, mask), axis=(0, 1)) / count
            unbiased = variance * count / jnp.maximum(count - 1, 1)
            new = jax.lax.stop_gradient({"mean": mean, "variance": unbiased})
            running = {name: (1 - self.momentum) * old + self.momentum * new[name] for name, old in running.items()}
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.eps)
        return ((y - mean) * factor + self.bias[...]).astype(x.dtype), running
