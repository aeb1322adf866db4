"""Kullback-Leibler divergence as VITS estimates it (arXiv 2106.06103, equation 3)."""

import jax
import jax.numpy as jnp

from jaxtts.nn.masking import masked_fill


def sampled_kl(
    z: jax.Array, mean: jax.Array, log_scale: jax.Array, posterior_log_scale: jax.Array, mask: jax.Array
) -> jax.Array:
    """KL of a Gaussian posterior from a Gaussian prior behind a flow that keeps the volume; a scalar, for each frame.

    Of the posterior the entropy is exact, of the prior one sample is looked at. Summed over channels, averaged over
    the frames of `mask`, as jaywalnut310/vits does it.

    Args:
        z: the posterior's sample after the flow [B, T, C].
        mean, log_scale: of the prior [B, T, C].
        posterior_log_scale: [B, T, C].
        mask: [B, T].
    """
    kl = log_scale - posterior_log_scale - 0.5 + 0.5 * (z - mean) ** 2 * jnp.exp(-2 * log_scale)
    return jnp.sum(masked_fill(kl, mask)) / jnp.maximum(jnp.sum(mask), 1)
