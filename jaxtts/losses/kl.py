"""Kullback-Leibler divergences: as VITS estimates it (arXiv 2106.06103, eq. 3), of two Gaussians (arXiv 1807.07281)."""

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


def gaussian_kl(
    mean_q: jax.Array, log_scale_q: jax.Array, mean_p: jax.Array, log_scale_p: jax.Array, log_scale_min: float = -6.0
) -> tuple[jax.Array, jax.Array]:
    """KL(q || p) and the squared distance of the log scales (arXiv 1807.07281 eq. 6, 7), elementwise, as ClariNet's.

    In the first, scales are not below exp(log_scale_min): where both are tiny it has no bound.
    """
    distance = (log_scale_p - log_scale_q) ** 2
    log_q, log_p = (jnp.maximum(x, log_scale_min) for x in (log_scale_q, log_scale_p))
    spread = jnp.exp(2 * log_q) + (mean_p - mean_q) ** 2
    return log_p - log_q + 0.5 * (spread * jnp.exp(-2 * log_p) - 1), distance
