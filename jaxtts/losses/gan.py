"""Adversarial losses over a list of sub-discriminators, each of which gives its feature maps, the score map last.

Least squares and feature matching: HiFi-GAN (arXiv 2010.05646, equations 1-2 and 4-5), as jik876/hifi-gan computes
them. Hinge: Vocos (arXiv 2306.00814, section 3.3), as gemelo-ai/vocos computes it, the generator's
clipped too. All come back per sub-discriminator and are weighted and summed by the caller.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

OBJECTIVES = ("least_squares", "hinge")


def discriminator_losses(
    real: Sequence[jax.Array], fake: Sequence[jax.Array], objective: str = "least_squares"
) -> tuple[jax.Array, jax.Array]:
    """What the discriminators lose on real and on generated waves, [D] each.

    Args:
        real, fake: score maps of any shape, one for each of D sub-discriminators.
        objective: 'least_squares', (1 - D(x))^2 and D(G)^2, or 'hinge', max(0, 1 - D(x)) and max(0, 1 + D(G)).

    Raises:
        ValueError: unknown objective.
    """
    if _checked(objective) == "hinge":
        losses = [(jax.nn.relu(1 - r).mean(), jax.nn.relu(1 + f).mean()) for r, f in zip(real, fake, strict=True)]
    else:
        losses = [(jnp.square(1 - r).mean(), jnp.square(f).mean()) for r, f in zip(real, fake, strict=True)]
    on_real, on_fake = zip(*losses, strict=True)
    return jnp.stack(on_real), jnp.stack(on_fake)


def generator_losses(fake: Sequence[jax.Array], objective: str = "least_squares") -> jax.Array:
    """What the generator loses to each of D sub-discriminators, [D]: (1 - D(G))^2 or max(0, 1 - D(G)).

    Raises:
        ValueError: unknown objective.
    """
    if _checked(objective) == "hinge":
        return jnp.stack([jax.nn.relu(1 - f).mean() for f in fake])
    return jnp.stack([jnp.square(1 - f).mean() for f in fake])


def feature_losses(real: Sequence[Sequence[jax.Array]], fake: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """The mean absolute difference of feature maps, summed over the layers of each of D sub-discriminators, [D]."""
    return jnp.stack(
        [
            jnp.stack([jnp.abs(r - f).mean(dtype=jnp.float32) for r, f in zip(reals, fakes, strict=True)]).sum()
            for reals, fakes in zip(real, fake, strict=True)
        ]
    )


def _checked(objective: str) -> str:
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: use one of {', '.join(OBJECTIVES)}")
    return objective
