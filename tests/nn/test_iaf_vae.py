"""tools/iaf_vae.py: its closed forms and its bound against numbers found by sampling."""

import iaf_vae
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import multivariate_normal, norm

from jaxtts.nn.functional import merge, split


@pytest.fixture
def decoder(monkeypatch):
    """Of two latent dimensions and three bins, for which the tool is set up."""
    monkeypatch.setattr(iaf_vae, "LATENT", 2)
    monkeypatch.setattr(iaf_vae, "BINS", 3)
    return np.array([[0.7, -0.4, 0.2], [0.5, 0.3, -0.6]], np.float32)


def test_closed_forms_are_what_sampling_finds(decoder):
    rng, n = np.random.default_rng(0), 200_000
    x = rng.standard_normal((n, 2)) @ decoder + iaf_vae.NOISE * rng.standard_normal((n, 3))
    density = multivariate_normal(np.zeros(3), decoder.T @ decoder + iaf_vae.NOISE**2 * np.eye(3)).logpdf(x)
    precision = np.eye(2) + decoder @ decoder.T / iaf_vae.NOISE**2
    scale = 1 / np.sqrt(np.diag(precision))
    noise = rng.standard_normal((n, 2))
    z = x @ decoder.T / iaf_vae.NOISE**2 @ np.linalg.inv(precision) + scale * noise
    bound = np.sum(norm.logpdf(z) - norm.logpdf(noise) + np.log(scale), axis=1)
    bound += np.sum(norm.logpdf((x - z @ decoder) / iaf_vae.NOISE) - np.log(iaf_vae.NOISE), axis=1)
    np.testing.assert_allclose(iaf_vae.limits(decoder), (density.mean(), bound.mean()), atol=0.02)


def test_weights_of_any_flow_average_to_the_likelihood(decoder):
    graph, params, _ = split(iaf_vae.Posterior(2, rngs=nnx.Rngs(0)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    bent = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    model, n = merge(graph, jax.tree.unflatten(tree, bent)), 200_000
    x = jnp.array([[0.4, -0.2, 0.3]])
    noise = jax.random.normal(jax.random.key(2), (n, 2))
    weights = jnp.exp(jax.jit(lambda noise: model(jnp.repeat(x, n, 0), noise, decoder))(noise))
    covariance = decoder.T @ decoder + iaf_vae.NOISE**2 * np.eye(3)
    likelihood = multivariate_normal(np.zeros(3), covariance).pdf(np.asarray(x[0]))
    error = float(weights.std()) / n**0.5
    assert error < 0.01 * likelihood
    assert abs(float(weights.mean()) - likelihood) < 4 * error
