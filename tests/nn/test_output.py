"""The distributions of a sample: likelihoods sum to one, draws follow them, and agree with recorded values."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.nn.output import Output

GOLDEN = Path(__file__).parents[1] / "golden/wavernn/cases.npz"


def params_of(output, batch, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, output.width)).astype(np.float32))


@pytest.mark.parametrize("mu_law", [True, False])
def test_classes_have_the_probabilities_of_a_softmax(mu_law):
    output = Output("softmax", 30, mu_law)
    params = params_of(output, 1)
    likelihood = np.exp(-output.nll(jnp.broadcast_to(params, (30, 30)), jnp.arange(30)))
    np.testing.assert_allclose(likelihood, jax.nn.softmax(params)[0], rtol=1e-5)
    np.testing.assert_allclose(likelihood.sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("classes", [256, 4096])
def test_a_mixture_of_logistics_sums_to_one_over_its_classes(classes):
    output = Output("logistic", classes, num_mixtures=3)
    params = params_of(output, 4).at[:, 3:6].multiply(0.5).at[:, 6:].add(-3.0)
    levels = jnp.linspace(-1, 1, classes)
    nll = output.nll(jnp.broadcast_to(params[:, None], (4, classes, 9)), jnp.broadcast_to(levels, (4, classes)))
    if classes == 256:  # of more classes several lie where the outermost one has all of the tail
        np.testing.assert_allclose(np.exp(-np.asarray(nll)).sum(-1), 1.0, atol=2e-3)
    cells = by_cells(np.asarray(params, np.float64), np.asarray(levels, np.float64), classes)
    likely = (np.abs(levels) < 0.999) & (cells > 1e-4)  # far off the references take the density for the probability
    np.testing.assert_allclose(np.asarray(nll)[likely], -np.log(cells[likely]), rtol=1e-3, atol=1e-3)


def by_cells(params, levels, classes):
    """Probabilities [B, K] of the cells around the levels, as differences of two distribution functions."""
    weights, mean, log_scale = np.split(params, 3, axis=-1)
    weights = np.exp(weights) / np.exp(weights).sum(-1, keepdims=True)

    def below(x):
        away = (x[None, :, None] - mean[:, None]) * np.exp(-log_scale)[:, None]
        return (weights[:, None] / (1 + np.exp(-away))).sum(-1)

    half = 1 / (classes - 1)
    return below(levels + half) - below(levels - half)


def test_a_gaussian_is_one():
    output = Output("gaussian", log_scale_min=-5.0)
    params = params_of(output, 6).at[0, 1].set(-9.0)
    value = jnp.linspace(-1, 1, 6)
    scale = jnp.exp(jnp.maximum(params[:, 1], -5.0))
    want = -jax.scipy.stats.norm.logpdf(value, params[:, 0], scale)
    np.testing.assert_allclose(output.nll(params, value), want, rtol=1e-5)


def test_likelihoods_are_the_recorded_ones():
    cases = np.load(GOLDEN)
    logistic = Output("logistic", 65536, log_scale_min=float(np.log(1e-14)))
    for name, output in (("mol", logistic), ("raw", Output("softmax", 32))):
        nll = output.nll(jnp.asarray(cases[f"{name}/out.logits"]), jnp.asarray(cases[f"{name}/in.y"]))
        np.testing.assert_allclose(jnp.mean(nll), cases[f"{name}/out.loss"], rtol=1e-4)


def test_a_logistic_by_hand():
    output = Output("logistic", 256, num_mixtures=1)
    params = jnp.array([[0.3, 0.2, -2.0]])
    scale, half = np.exp(-2.0), 1 / 255
    cdf = lambda x: 1 / (1 + np.exp(-(x - 0.2) / scale))  # noqa: E731
    for value, want in ((0.1, cdf(0.1 + half) - cdf(0.1 - half)), (1.0, 1 - cdf(1 - half)), (-1.0, cdf(-1 + half))):
        np.testing.assert_allclose(output.nll(params, jnp.array([value])), -np.log(want), rtol=1e-3)


def test_the_density_is_that_of_levels_without_number_and_goes_on_beyond_them():
    output, params = Output("logistic", 65536), params_of(Output("logistic"), 1)
    inside = jnp.linspace(-0.9, 0.9, 7)
    many = jnp.broadcast_to(params, (7, output.width))
    np.testing.assert_allclose(
        output.log_density(many, inside), np.log(65535 / 2) - output.nll(many, inside), atol=1e-3
    )
    grid = jnp.linspace(-60, 60, 200_001)
    density = jnp.exp(output.log_density(jnp.broadcast_to(params, (grid.size, output.width)), grid))
    np.testing.assert_allclose(jnp.sum(density) * (grid[1] - grid[0]), 1.0, atol=1e-2)
    with pytest.raises(ValueError, match="no density"):
        Output("softmax").log_density(params, inside)


@pytest.mark.parametrize("kind", ["softmax", "logistic", "gaussian"])
def test_draws_follow_the_likelihood(kind):
    count = 40_000
    output = Output(kind, 24 if kind == "softmax" else 256, mu_law=False, num_mixtures=2)
    params = params_of(output, 1, seed=3)
    if kind != "softmax":
        params = params.at[:, -output.width // 3 :].add(-2.5)
    seeds = jnp.arange(count, dtype=jnp.uint32)
    drawn = np.asarray(output.sample(jnp.broadcast_to(params, (count, output.width)), output.draws(seeds, 7)))
    if kind == "softmax":
        assert drawn.dtype == np.int32
        shares = np.bincount(drawn, minlength=24) / count
        np.testing.assert_allclose(shares, np.asarray(jax.nn.softmax(params))[0], atol=4 * 0.5 / count**0.5)
        return
    edges = np.linspace(-1, 1, 41)
    grid = np.linspace(-1, 1, 40 * 32 + 1)
    fine = Output(kind, 2**16, num_mixtures=2)
    nll = np.asarray(fine.nll(jnp.broadcast_to(params, (len(grid), output.width)), jnp.asarray(grid, jnp.float32)))
    density = np.exp(-nll) * (1.0 if kind == "gaussian" else (2**16 - 1) / 2)
    inside = np.abs(grid) < 0.998
    cumulative = np.cumsum(np.where(inside, density, 0.0)) * (grid[1] - grid[0])
    measured = np.array([np.mean((drawn > -0.998) & (drawn <= e)) for e in edges[1:-1]])
    np.testing.assert_allclose(measured, np.interp(edges[1:-1], grid, cumulative), atol=0.015)


def test_uniforms_depend_on_the_seed_and_the_place_alone():
    output = Output("logistic", num_mixtures=3)
    seeds = jnp.array([9, 4, 4], jnp.uint32)
    drawn = output.draws(seeds, 11)
    assert drawn.shape == (3, 4) and output.draws(None, 11) is None
    np.testing.assert_array_equal(drawn[1], drawn[2])
    np.testing.assert_array_equal(output.draws(seeds[:1], 11)[0], drawn[0])
    assert np.all(drawn[0] != drawn[1]) and np.all(output.draws(seeds, 12) != drawn)
    many = np.asarray(output.draws(jnp.arange(20_000, dtype=jnp.uint32), 3))
    assert many.min() >= 1e-5 and many.max() <= 1 - 1e-5
    np.testing.assert_allclose(many.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.quantile(many, [0.1, 0.9], axis=0).T, [[0.1, 0.9]] * 4, atol=0.01)
    places = np.array([output.draws(jnp.array([5], jnp.uint32), n)[0] for n in range(200)]).ravel()
    assert len(np.unique(places)) == len(places)
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.1


def test_without_uniforms_the_likeliest():
    softmax, logistic, gaussian = (Output(kind, 8, num_mixtures=2) for kind in ("softmax", "logistic", "gaussian"))
    params = params_of(softmax, 5)
    np.testing.assert_array_equal(softmax.sample(params, None), jnp.argmax(params, -1))
    mixture = jnp.array([[0.1, 0.7, 0.5, -0.25, -1.0, -1.0], [2.0, 0.7, 0.5, -0.25, -1.0, -1.0]])
    np.testing.assert_allclose(logistic.sample(mixture, None), [-0.25, 0.5])
    np.testing.assert_allclose(gaussian.sample(jnp.array([[0.5, 1.0], [-3.0, 0.0]]), None), [0.5, -1.0])


@pytest.mark.parametrize("classes", [2, 9, 10, 256, 1000])
def test_a_class_is_the_number_of_those_below_the_uniform(classes):
    output = Output("softmax", classes)
    params = 2 * params_of(output, 64, seed=classes)
    uniforms = jnp.asarray(np.random.default_rng(0).uniform(size=(64, 1)).astype(np.float32))
    probabilities = np.asarray(jax.nn.softmax(params), np.float64)
    want = np.minimum((probabilities.cumsum(-1) <= np.asarray(uniforms)).sum(-1), classes - 1)
    assert np.mean(output.sample(params, uniforms) == want) == 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"kind": "discrete"}, "kind='discrete'"), ({"num_classes": 1}, "num_classes=1"), ({"num_mixtures": 0}, "=0")],
)
def test_output_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Output(**fields)


@pytest.mark.parametrize("output", [Output("softmax", 256), Output("softmax", 512, mu_law=False), Output("gaussian")])
def test_decoding_is_the_inverse(output):
    wave = jnp.linspace(-1.2, 1.2, 101)
    value = output.encode(wave)
    np.testing.assert_allclose(output.decode(value), jnp.clip(wave, -1, 1), atol=0.025)
    np.testing.assert_array_equal(output.encode(output.decode(value)), value)
