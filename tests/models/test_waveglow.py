"""WaveGlow against recorded outputs of NVIDIA/waveglow (golden/waveglow/record.py)."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.denoise import bias_spectrum, denoise
from jaxtts.audio.spec import mel_spec
from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.waveglow import Config, Model, build_task
from jaxtts.models.waveglow.convert import config_from, convert
from jaxtts.models.waveglow.parity import parity
from jaxtts.models.waveglow.task import losses
from jaxtts.nn.functional import (
    count_parameters,
    fold_weight_norm,
    merge,
    named,
    rngs_for_shapes,
    split,
    store_inverse,
    structure,
)
from jaxtts.train.optim import OptimConfig

CASES = np.load(Path(__file__).parents[1] / "golden/waveglow/cases.npz")


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


def trained_like(config, seed=0):
    """A model whose couplings do something."""
    graph, params, _ = split(Model(config, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    return graph, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)


def draws(config, batch, frames, seed=0):
    """Mel [B, T, M] and noise [B, T, hop]."""
    rng = np.random.default_rng(seed)
    shapes = (batch, frames, config.mel.num_bins), (batch, frames, config.mel.hop_length)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


@pytest.mark.parametrize("name", ["early", "plain"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    for key, want in outputs.items():
        np.testing.assert_allclose(ours[key], want, rtol=1e-5, atol=1e-4, err_msg=key)


def test_every_form_of_a_checkpoint_gives_the_same_weights():
    meta, weights, inputs, outputs = case("early")
    config = config_from(meta["config"])
    params = convert(weights, config)
    newer = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {}
    for name, weight in weights.items():
        module, _, last = name.rpartition(".")
        renamed[f"{module}.{newer.get(last, last)}"] = weight
    for name, leaf in named(convert(renamed, config)).items():
        np.testing.assert_array_equal(leaf, named(params)[name], err_msg=name)

    plain = {k: v for k, v in weights.items() if not k.endswith(("weight_g", "weight_v"))}
    for name in (k.removesuffix("_g") for k in weights if k.endswith("weight_g")):
        v = weights[f"{name}_v"]
        plain[name] = weights[f"{name}_g"] * v / np.sqrt((v**2).sum((1, 2), keepdims=True))
    folded = fold_weight_norm(params)
    for name, leaf in named(convert(plain, replace(config, weight_norm=False))).items():
        np.testing.assert_allclose(leaf, named(folded)[name], atol=1e-6, err_msg=name)

    stored = replace(config, weight_norm=False, inverse_only=True)
    model = merge(structure(lambda: Model(stored, rngs=rngs_for_shapes()))[0], store_inverse(folded))
    mel, z = (inputs[name].swapaxes(1, 2) for name in ("in.mel", "in.infer_z"))
    wave = model.infer(mel, noise=z.reshape(*mel.shape[:2], -1), sigma=0.6)
    np.testing.assert_allclose(wave, outputs["out.infer_audio_sigma06"], atol=1e-4)
    with pytest.raises(ValueError, match="inverse_only"):
        model(mel, inputs["in.audio"])


def test_import_refuses_and_names_everything():
    meta, weights, _, _ = case("plain")
    weights["extra.weight"] = weights.pop("WN.0.end.bias")
    weights["upsample.bias"] = weights["upsample.bias"][:-1]
    with pytest.raises(ValueError) as error:
        convert(weights, config_from(meta["config"]))
    assert all(n in str(error.value) for n in ("extra.weight", "flows.0.coupling.end.bias", "upsample.bias"))
    with pytest.raises(ValueError, match="n_group, WN_config.n_layers"):
        broken = {k: v for k, v in meta["config"].items() if k != "n_group"}
        config_from(broken | {"WN_config": {"n_channels": 4, "kernel_size": 3}})


def test_the_reference_configuration_file_is_ours():
    wavenet = {"n_layers": 8, "n_channels": 256, "kernel_size": 3}
    flow = {"n_mel_channels": 80, "n_flows": 12, "n_group": 8, "n_early_every": 4, "n_early_size": 2}
    data = {"segment_length": 16000, "sampling_rate": 22050, "filter_length": 1024, "hop_length": 256,
            "win_length": 1024, "mel_fmin": 0.0, "mel_fmax": 8000.0}  # fmt: skip
    whole = {"train_config": {"sigma": 1.0}, "data_config": data, "waveglow_config": flow | {"WN_config": wavenet}}
    assert config_from(whole) == Config()
    assert Config().widths == (8,) * 4 + (6,) * 4 + (4,) * 4
    other = whole | {"data_config": data | {"sampling_rate": 16000}}
    assert config_from(other).mel == mel_spec("waveglow").replace(name="waveglow_custom", sample_rate=16000)


def test_published_sizes():
    for config, normed, folded in (
        (Config(), 87_879_272, 87_731_816),
        (Config.large(), 268_294_760, 267_999_848),
    ):
        params = structure(lambda c=config: Model(c, rngs=rngs_for_shapes()))[1]
        assert count_parameters(params) == normed
        assert count_parameters(jax.eval_shape(fold_weight_norm, params)) == folded


@pytest.mark.parametrize("config", [Config.tiny(), Config(num_flows=3, early_every=1, channels=16, num_layers=2)])
def test_inference_inverts_training(config):
    graph, params = trained_like(config)
    mel, noise = draws(config, 2, 6)
    wave = jax.jit(lambda params: merge(graph, params).infer(mel, noise=noise, sigma=0.5))(params)
    z, *_ = jax.jit(lambda params, wave: merge(graph, params)(mel, wave))(params, wave)
    np.testing.assert_allclose(z.reshape(noise.shape), 0.5 * noise, atol=1e-3)
    again = jax.jit(lambda params, z: merge(graph, params).inverse(z, mel))(params, z)
    np.testing.assert_allclose(again, wave, atol=1e-3)


def test_the_log_determinant_is_that_of_the_jacobian_whatever_its_sign():
    config = replace(Config.tiny(), dither=0.0)
    graph, params = trained_like(config)
    weight = params["flows"]["1"]["mix"]["weight"]
    params["flows"]["1"]["mix"]["weight"] = weight.at[0].multiply(-jnp.sign(jnp.linalg.det(weight)))
    mel, wave = draws(config, 1, 2)[0], 0.1 * np.random.default_rng(1).standard_normal((1, 32), np.float32)
    model = merge(graph, params)
    jacobian = jax.jit(jax.jacobian(lambda wave: model(mel, wave).z.ravel()))(wave).reshape(32, 32)
    _, want = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    _, log_scale, log_det = model(mel, wave)
    assert jnp.linalg.det(params["flows"]["1"]["mix"]["weight"]) < 0
    np.testing.assert_allclose(log_scale + log_det, want, rtol=1e-4)


def test_padding_and_neighbours_change_nothing():
    config = Config.tiny()
    graph, params = trained_like(config)
    lengths, (mel, noise) = np.array([12, 7, 3]), draws(config, 3, 12)
    behind = np.arange(12) >= lengths[:, None]
    mel[behind], noise[behind] = np.nan, np.nan
    run = jax.jit(lambda mel, lengths, noise: merge(graph, params).infer(mel, lengths, noise=noise))
    train = jax.jit(lambda mel, wave, lengths: merge(graph, params)(mel, wave, lengths))
    wave = run(mel, lengths, noise)
    assert wave.shape == (3, 12 * 16)
    given = np.where(np.repeat(behind, 16, axis=1), np.nan, wave)
    output = train(mel, given, lengths)
    for row, length in enumerate(lengths):
        at = slice(row, row + 1), slice(length)
        alone = run(mel[at], None, noise[at])
        np.testing.assert_allclose(wave[row, : length * 16], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * 16 :], 0.0)
        z, *logs = train(mel[at], alone, None)
        np.testing.assert_allclose(output.z[row, : z.shape[1]], z[0], atol=1e-4)
        for ours, want in zip(output[1:], logs):
            np.testing.assert_allclose(ours[row], want[0], rtol=1e-4, atol=1e-4)


def test_the_receptive_field_is_what_reaches_a_frame():
    config = Config.tiny()
    graph, params = trained_like(config)
    reach, frames = config.receptive_field, 2 * config.receptive_field + 5
    mel, noise = draws(config, 1, frames)
    mel[0, frames // 2] = noise[0, frames // 2] = np.nan
    wave = jax.jit(lambda mel, noise: merge(graph, params).infer(mel, noise=noise).reshape(frames, -1))(mel, noise)
    reached = np.flatnonzero(np.isnan(wave).any(axis=1)) - frames // 2
    assert reached.tolist() == list(range(1 - reach, reach + 1))  # the upsampling looks back only


def test_sigma_is_the_temperature_of_each_item():
    config = Config.tiny()
    graph, params = trained_like(config)
    model, (mel, noise) = merge(graph, params), draws(config, 2, 4)
    wave = model.infer(mel, noise=noise, sigma=jnp.array([0.0, 0.6]))
    np.testing.assert_allclose(wave[0], model.infer(mel)[0], atol=1e-6)
    np.testing.assert_allclose(wave[1], model.infer(mel, noise=noise)[1], atol=1e-6)
    assert np.abs(wave[0] - model.infer(mel, noise=noise)[0]).max() > 0.1


def test_silence_trains_and_predicted_mels_are_read():
    config = replace(Config.tiny(), dither=1e-3)
    task = build_task(config, OptimConfig(learning_rate=3e-3, ema_decay=0.9))
    batch = {"wave": jnp.zeros((2, 512))}
    state = task.init(jax.random.key(0), batch)
    step = jax.jit(task.train_step)
    for i in range(60):
        state, metrics = step(state, batch, jax.random.key(i))
        assert int(metrics["skipped"]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, metrics)))
    assert 0 > metrics["loss/total"] > np.log(1e-3)  # the dither bounds it
    parts = 0.5 * metrics["z_deviation"] ** 2 - metrics["log_scale"] - metrics["log_det"]
    np.testing.assert_allclose(parts, metrics["loss/total"], atol=0.05)

    wave = 0.1 * jax.random.normal(jax.random.key(0), (2, 512))
    mel = mel_spectrogram(wave, config.mel)
    evaluate = jax.jit(task.eval_step)
    plain = evaluate(state, {"wave": wave}, jax.random.key(1))["loss/total"]
    np.testing.assert_allclose(evaluate(state, {"wave": wave, "mel": mel}, jax.random.key(1))["loss/total"], plain)
    assert abs(evaluate(state, {"wave": wave, "mel": mel + 1}, jax.random.key(1))["loss/total"] - plain) > 1e-4
    media = task.sample(state, {"wave": wave}, jax.random.key(2))
    assert media["audio/generated"].shape == (512,) and media["mel/generated"].shape == media["mel/recorded"].shape
    params, exported = task.inference(state)
    assert (exported.weight_norm, exported.inverse_only) == (False, True)
    speaks = merge(structure(lambda: Model(exported, rngs=rngs_for_shapes()))[0], params)
    trained = merge(split(Model(config, rngs=nnx.Rngs(0)))[0], state.rest["ema"]["model"])
    noise = draws(config, 2, 32)[1]
    np.testing.assert_allclose(speaks.infer(mel, noise=noise), trained.infer(mel, noise=noise), atol=1e-4)


def test_the_likelihood_is_a_gaussians():
    config = Config.tiny()
    graph, params = trained_like(config)
    mel, noise = draws(config, 2, 4)
    output = merge(graph, params)(mel, 0.1 * noise.reshape(2, -1))
    density = jax.scipy.stats.norm.logpdf(output.z, scale=0.7).sum() + (output.log_scale + output.log_det).sum()
    constant = np.log(0.7 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(losses(output, 0.7)["loss/total"] + constant, -density / output.z.size, rtol=1e-5)


def test_the_denoiser_is_the_references():
    hum, wave, bias, cleaned = (CASES[f"denoiser/{name}"] for name in ("hum", "wave", "bias", "cleaned"))
    ours = bias_spectrum(jnp.asarray(hum[0]))
    np.testing.assert_allclose(ours, bias[0], atol=1e-4)
    np.testing.assert_allclose(denoise(jnp.asarray(wave), ours, 0.5), cleaned, atol=1e-5)
    np.testing.assert_allclose(denoise(jnp.asarray(wave), ours, 0.0), wave, atol=1e-5)
    assert denoise(jnp.asarray(wave[0, :1000]), ours, 0.1).shape == (1000,)
    np.testing.assert_array_equal(denoise(jnp.zeros((2, 1024)), ours, 0.1), 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_squeeze": 7}, "num_squeeze=7"),
        ({"early_size": 3}, "early_size=3"),
        ({"early_every": 1}, "early_every=1"),
        ({"kernel_size": 2}, "kernel_size=2"),
        ({"upsample_kernel_size": 128}, "upsample_kernel_size=128"),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
