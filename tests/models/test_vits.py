"""VITS against recorded outputs of jaywalnut310/vits (golden/vits/record.py), its sizes, its inverses, its batches."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.losses.kl import sampled_kl
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.vits import Config, Model, build_task
from jaxtts.models.vits.model import SplineFlow, slices
from jaxtts.models.vits.parity import parity
from jaxtts.nn.functional import count_parameters, merge, named, nested, rngs_for_shapes, split, structure

CASES = np.load(Path(__file__).parents[1] / "golden/vits/cases.npz")


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


def shaken(config, seed=0):
    """A model in which nothing is left at the zeros that it starts from."""
    graph, params, _ = split(Model(config, rngs=nnx.Rngs(seed)))
    leaves = named(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return graph, nested({n: x + 0.1 * jax.random.normal(k, x.shape) for k, (n, x) in zip(keys, leaves.items())})


def several(**changes):
    return Config.tiny(num_speakers=3, speaker_dim=4, **changes)


def texts(config, size=3, symbols=9):
    rng = np.random.default_rng(0)
    text = rng.integers(1, config.num_symbols, (size, symbols)).astype(np.int32)
    return jnp.asarray(text), jnp.asarray([symbols, symbols - 3, symbols - 5][:size], jnp.int32)


@pytest.mark.parametrize("name", ["stochastic", "plain"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    assert len(outputs) > 20
    for key, want in outputs.items():
        np.testing.assert_allclose(ours[key], want, rtol=1e-4, atol=1e-4, err_msg=key)


def test_parameter_counts_of_the_published_models():
    sizes = {
        Config(): 36_321_072,
        Config(stochastic_durations=False): 35_349_761,
        Config.vctk(): 39_700_208,
    }
    for config, size in sizes.items():
        assert count_parameters(structure(lambda c=config: Model(c, rngs=rngs_for_shapes()))[1]) == size
    judges = structure(lambda: Discriminators(GanConfig.vits(), rngs=rngs_for_shapes()))
    assert count_parameters(judges[1]) == 46_747_132 and not named(judges[2])


def test_the_flow_keeps_the_volume_and_inverts():
    config = several()
    graph, params = shaken(config)
    model = merge(graph, params)
    x = jax.random.normal(jax.random.key(1), (20, 500, config.latent_dim))  # 10,000 frames
    mask = jnp.ones(x.shape[:2], bool)
    cond = model.speaker(jnp.arange(20) % 3)
    z = model.flow.forward(x, mask, cond)
    assert float(jnp.abs(z - x).max()) > 0.1
    np.testing.assert_allclose(model.flow.inverse(z, mask, cond), x, atol=1e-4)
    one = lambda v: model.flow.forward(v.reshape(1, 3, -1), mask[:1, :3], cond[:1]).ravel()  # noqa: E731
    _, log_det = jnp.linalg.slogdet(jax.jacobian(one)(x[0, :3].ravel()))
    np.testing.assert_allclose(log_det, 0, atol=1e-4)


def test_the_spline_flow_inverts_and_its_log_det_is_the_jacobians():
    config = Config.tiny()
    graph, params, _ = split(SplineFlow(config, rngs=nnx.Rngs(0)))
    leaves = named(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    flow = merge(graph, nested({n: x + 0.2 * jax.random.normal(k, x.shape) for k, (n, x) in zip(keys, leaves.items())}))
    x = 3 * jax.random.normal(jax.random.key(1), (100, 100, 2))  # 10,000 points, some of them in the tails
    cond = jax.random.normal(jax.random.key(2), (100, 100, config.encoder_dim))
    mask = jnp.arange(100) < 60 + jnp.arange(100)[:, None] % 40
    x = jnp.where(mask[..., None], x, 0.0)
    z, log_det = flow.forward(x, mask, cond)
    np.testing.assert_allclose(flow.inverse(z, mask, cond, whole=True), x, atol=1e-4)
    np.testing.assert_allclose(flow.inverse(z, mask, cond)[..., 0], x[..., 0], atol=1e-4)
    one = lambda v: flow.forward(v.reshape(1, 4, 2), mask[:1, :4], cond[:1, :4])[0].ravel()  # noqa: E731
    _, want = jnp.linalg.slogdet(jax.jacobian(one)(x[0, :4].ravel()))
    np.testing.assert_allclose(flow.forward(x[:1, :4], mask[:1, :4], cond[:1, :4])[1][0], want, atol=1e-3)


@pytest.mark.parametrize("config", [Config.tiny(), several(stochastic_durations=False)])
def test_what_is_heard_depends_on_no_neighbour_nor_room(config):
    graph, params = shaken(config)
    text, lengths = texts(config)
    speaker = jnp.arange(3) if config.speaker_dim else None
    noise = jax.random.normal(jax.random.key(0), (3, 128, config.latent_dim))
    rhythm = jax.random.normal(jax.random.key(1), (3, 9, 2))

    @jax.jit
    def infer(text, lengths, noise, rhythm, speaker):
        return merge(graph, params).infer(
            text, lengths, max_frames=noise.shape[1], noise=noise, duration_noise=rhythm, speaker=speaker
        )

    wave, frames, alignment = infer(text, lengths, noise, rhythm, speaker)
    assert wave.shape == (3, 128 * config.mel.hop_length) and int(frames.max()) < 128
    np.testing.assert_array_equal(alignment.sum(axis=(1, 2)), frames)
    other = jnp.where(jnp.arange(9) < lengths[:, None], text, config.num_symbols - 1)
    garbage = jnp.where(jnp.arange(9)[:, None] < lengths[:, None, None], rhythm, 7.0)
    again, _, _ = infer(other, lengths, noise[:, :96] if int(frames.max()) <= 96 else noise, garbage, speaker)
    for b in range(3):
        n = int(frames[b]) * config.mel.hop_length
        one, short = slice(b, b + 1), slice(int(lengths[b]))
        who = None if speaker is None else speaker[one]
        alone, count, _ = infer(text[one, short], lengths[one], noise[one], rhythm[one, short], who)
        assert int(count[0]) == int(frames[b])
        np.testing.assert_allclose(alone[0, :n], wave[b, :n], atol=1e-5)
        np.testing.assert_allclose(again[b, :n], wave[b, :n], atol=1e-5)
        assert not np.any(np.asarray(wave[b, n:]))


def test_keys_scales_and_speakers_matter():
    config = several()
    graph, params = shaken(config)
    model, (text, lengths) = merge(graph, params), texts(config)
    speak = lambda **how: model.latent(text, lengths, max_frames=256, **({"speaker": jnp.zeros(3, int)} | how))  # noqa: E731
    calm = speak()
    np.testing.assert_array_equal(calm[0], speak(key=jax.random.key(0), noise_scale=0.0, duration_noise_scale=0.0)[0])
    drawn = speak(key=jax.random.key(0))
    np.testing.assert_array_equal(drawn[0], speak(key=jax.random.key(0))[0])
    assert not np.allclose(drawn[0], speak(key=jax.random.key(1))[0])
    assert not np.allclose(calm[0], speak(speaker=jnp.ones(3, int))[0])
    assert bool(jnp.all(speak(length_scale=2.0)[1] > calm[1]))
    np.testing.assert_array_equal(
        speak(key=jax.random.key(0))[1][:2],
        model.latent(text[:2], lengths[:2], max_frames=256, speaker=jnp.zeros(2, int), key=jax.random.key(0))[1],
    )
    with pytest.raises(ValueError, match="speaker is missing"):
        model.latent(text, lengths, max_frames=64)


def test_a_frame_of_latent_depends_on_no_more_than_the_receptive_field():
    config = several()
    graph, params = shaken(config)
    model, frames = merge(graph, params), 64
    mask, cond = jnp.ones((1, frames), bool), model.speaker(jnp.zeros(1, int))
    x = jax.random.normal(jax.random.key(0), (1, frames, config.latent_dim))
    gradient = jax.grad(lambda x: model.flow.inverse(x, mask, cond)[0, 32].sum())(x)
    reached = np.flatnonzero(np.abs(gradient[0]).sum(-1))
    assert (32 - reached.min(), reached.max() - 32) == (config.receptive_field, config.receptive_field)


def test_conversion_to_the_same_speaker_is_reconstruction():
    config = several()
    graph, params = shaken(config)
    model = merge(graph, params)
    linear = jax.random.uniform(jax.random.key(0), (2, 20, config.spectrogram_bins))
    lengths, same, other = jnp.array([20, 13]), jnp.array([0, 2]), jnp.array([1, 0])
    mask = jnp.arange(20) < lengths[:, None]
    z = model.posterior_encoder(linear, mask, model.speaker(same)).z
    again = model.convert(linear, lengths, source=same, target=same)
    np.testing.assert_allclose(again, model.decode(z, lengths, speaker=same), atol=1e-4)
    assert float(jnp.abs(model.convert(linear, lengths, source=same, target=other) - again).max()) > 1e-3
    alone = model.convert(linear[1:, :13], lengths[1:], source=same[1:], target=other[1:])
    whole = model.convert(linear, lengths, source=same, target=other)
    np.testing.assert_allclose(alone[0], whole[1, : 13 * config.mel.hop_length], atol=1e-5)


def test_segments_come_from_inside_and_short_items_are_padded():
    config = Config.tiny(segment_frames=8)
    graph, params = shaken(config)
    text, text_lengths = texts(config)
    linear = jax.random.uniform(jax.random.key(0), (3, 30, config.spectrogram_bins))
    lengths = jnp.array([30, 9, 5])
    starts = [
        merge(graph, params)(text, text_lengths, linear, lengths, key=jax.random.key(k)).starts for k in range(12)
    ]
    starts = np.stack(starts)
    assert starts.min() == 0 and np.all(starts[:, 0] <= 22) and np.all(starts[:, 1] <= 1) and not starts[:, 2].any()
    assert len(np.unique(starts[:, 0])) > 6 and starts[:, 1].max() == 1
    np.testing.assert_array_equal(slices(jnp.arange(6)[None], jnp.array([0]), 8), [[0, 1, 2, 3, 4, 5, 0, 0]])


def test_the_sampled_kl_is_the_kl_on_average():
    rng = np.random.default_rng(0)
    mean, shift, log_s, log_q = 0.3, 0.8, 0.2, -0.4
    z = shift + np.exp(log_q) * rng.standard_normal((200, 1000, 1)).astype(np.float32)
    full = lambda v: jnp.full(z.shape, v)  # noqa: E731
    mask = jnp.ones(z.shape[:2], bool).at[:, 900:].set(False)
    found = sampled_kl(jnp.asarray(z), full(mean), full(log_s), full(log_q), mask)
    exact = log_s - log_q - 0.5 + 0.5 * (np.exp(2 * log_q) + (shift - mean) ** 2) / np.exp(2 * log_s)
    np.testing.assert_allclose(found, exact, rtol=0.01)
    spoiled = sampled_kl(jnp.asarray(z).at[:, 900:].set(jnp.nan), full(mean), full(log_s), full(log_q), mask)
    np.testing.assert_allclose(spoiled, found, rtol=1e-6)


def test_bad_configurations_are_named():
    for change, word in (
        ({"latent_dim": 7}, "latent_dim"),
        ({"num_speakers": 2}, "speaker_dim"),
        ({"duration_flows": 1}, "duration_flows"),
        ({"upsample_rates": (4, 2)}, "upsample_rates"),
        ({"dtype": "float16"}, "dtype"),
    ):
        with pytest.raises(ValueError, match=word):
            Config.tiny(**change)
    with pytest.raises(ValueError, match="spectrogram_bins=40"):
        build_task(replace(Config.tiny(), spectrogram_bins=40))
