"""Adversarial losses by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.losses.gan import discriminator_losses, feature_losses, generator_losses

REAL = [jnp.array([[1.0, 3.0]]), jnp.array([0.0])]
FAKE = [jnp.array([[0.0, 2.0]]), jnp.array([-3.0])]


def test_least_squares():
    on_real, on_fake = discriminator_losses(REAL, FAKE)
    np.testing.assert_allclose(on_real, [2.0, 1.0])
    np.testing.assert_allclose(on_fake, [2.0, 9.0])
    np.testing.assert_allclose(generator_losses(FAKE), [1.0, 16.0])


def test_hinge():
    on_real, on_fake = discriminator_losses(REAL, FAKE, "hinge")
    np.testing.assert_allclose(on_real, [0.0, 1.0])
    np.testing.assert_allclose(on_fake, [2.0, 0.0])
    np.testing.assert_allclose(generator_losses(FAKE, "hinge"), [0.5, 4.0])


def test_feature_matching_sums_layer_means():
    real = [[jnp.zeros((2, 3)), jnp.ones(4)], [jnp.zeros(2)]]
    fake = [[jnp.full((2, 3), -2.0), jnp.ones(4) * 1.5], [jnp.array([1.0, 0.0])]]
    np.testing.assert_allclose(feature_losses(real, fake), [2.5, 0.5])


def test_unknown_objective_and_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="objective='wgan'"):
        generator_losses(FAKE, "wgan")
    with pytest.raises(ValueError):
        discriminator_losses(REAL, FAKE[:1])
