"""HiFi-GAN against recorded outputs of jik876/hifi-gan (golden/hifigan/record.py), its sizes, its batches."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.stft import mel_spectrogram
from jaxtts.models.hifigan import Config, Model, build_task
from jaxtts.models.hifigan.convert import config_from, discriminator_params, generator_params
from jaxtts.models.hifigan.discriminators import Discriminators, MultiResolutionDiscriminator, power_iteration
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.hifigan.parity import parity
from jaxtts.nn import functional
from jaxtts.train.optim import OptimConfig

CASES = np.load(Path(__file__).parents[1] / "golden/hifigan/cases.npz")


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


def newer_names(weights):
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {f"{k.rpartition('.')[0]}.{names.get(k.rpartition('.')[2], k.rpartition('.')[2])}": v
            for k, v in weights.items()}  # fmt: skip


@pytest.mark.parametrize("name", ["generator_resblock1", "generator_resblock2", "mpd", "msd"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    assert outputs
    for key, want in outputs.items():
        np.testing.assert_allclose(ours[key], want, rtol=1e-5, atol=1e-5, err_msg=key)


def test_every_spelling_of_weight_norm_gives_the_same_wave():
    meta, weights, inputs, outputs = case("generator_resblock1")
    config = config_from(meta["config"])
    for given in (weights, newer_names(weights)):
        for target in (config, config.folded()):
            structure, _, _ = functional.structure(lambda c=target: Model(c, rngs=functional.rngs_for_shapes()))
            model = functional.merge(structure, generator_params(given, target))
            wave = model(jnp.asarray(inputs["in.mel"]).swapaxes(1, 2))
            np.testing.assert_allclose(wave, outputs["out.audio"][:, 0], atol=1e-5)
    ours = functional.fold_weight_norm(generator_params(weights, config))
    for key, kernel in functional.named(ours).items():
        folded = functional.named(generator_params(weights, config.folded()))[key]
        np.testing.assert_allclose(kernel, folded, rtol=1e-5, atol=1e-7)


def test_a_checkpoint_that_does_not_fit_is_refused_by_name():
    meta, weights, _, _ = case("generator_resblock2")
    weights["extra.weight"] = weights.pop("conv_post.bias")
    weights["ups.0.bias"] = weights["ups.0.bias"][:-1]
    with pytest.raises(ValueError) as error:
        generator_params(weights, config_from(meta["config"]))
    assert all(name in str(error.value) for name in ("extra.weight", "conv_post.bias", "ups.0.bias"))
    with pytest.raises(ValueError, match="scale"):
        discriminator_params({f"mpd.{k}": v for k, v in case("mpd")[1].items()})
    with pytest.raises(ValueError, match="resblock_dilation_sizes"):
        config_from({k: v for k, v in meta["config"].items() if k != "resblock_dilation_sizes"})


@pytest.mark.parametrize(
    "config, trained, folded",
    [(Config.v1(), 13_936_130, 13_926_017), (Config.v2(), 928_514, 925_985), (Config.v3(), 1_464_322, 1_462_273)],
)
def test_the_generators_have_the_published_sizes(config, trained, folded):
    for c, count in ((config, trained), (config.folded(), folded)):
        params = functional.structure(lambda c=c: Model(c, rngs=functional.rngs_for_shapes()))[1]
        assert functional.count_parameters(params) == count


@pytest.mark.parametrize("family, count", [("period", 41_105_770), ("scale", 29_618_821)])
def test_the_discriminators_have_the_published_sizes(family, count):
    gan = GanConfig(discriminators=(family,), weights=(1.0,))
    params = functional.structure(lambda: Discriminators(gan, rngs=functional.rngs_for_shapes()))[1]
    assert functional.count_parameters(params) == count


def test_padding_and_neighbours_change_nothing():
    config = Config.tiny()
    model = Model(config, rngs=nnx.Rngs(0))
    lengths = np.array([12, 7, 3])
    mel = np.random.default_rng(0).standard_normal((3, 12, 10)).astype(np.float32)
    mel[np.arange(12) >= lengths[:, None]] = np.nan
    wave = jax.jit(model.infer)(mel, lengths)
    assert wave.shape == (3, 12 * 16)
    for row, length in enumerate(lengths):
        alone = model.infer(mel[row : row + 1, :length])
        np.testing.assert_allclose(wave[row, : length * 16], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * 16 :], 0.0)


def test_each_stage_is_the_mean_of_its_blocks():
    model = Model(Config.tiny(), rngs=nnx.Rngs(0))
    stages = model.stages(jax.random.normal(jax.random.key(0), (1, 5, 10)))
    mean = (stages["resblocks.0"] + stages["resblocks.1"]) / 2
    np.testing.assert_allclose(stages["ups.1"], model.ups[1](jax.nn.leaky_relu(mean, 0.1)), atol=1e-6)


def test_power_iteration_finds_the_largest_singular_value():
    gan = replace(Config.tiny().gan, discriminators=("scale",), weights=(1.0,))
    _, params, rest = functional.split(Discriminators(gan, rngs=nnx.Rngs(0)))
    for _ in range(200):
        rest = jax.jit(power_iteration)(params, rest)
    layer, vectors = params["scale"]["discriminators"]["0"]["convs"]["1"], None
    vectors = rest["scale"]["discriminators"]["0"]["convs"]["1"]
    matrix = np.asarray(layer["conv"]["kernel"]).swapaxes(0, 1).reshape(-1, 4)
    sigma = vectors["right"] @ matrix @ vectors["left"]
    np.testing.assert_allclose(sigma, np.linalg.svd(matrix, compute_uv=False)[0], rtol=1e-4)


def test_resolution_discriminator_hears_pitch_and_keeps_rows_apart():
    judge = MultiResolutionDiscriminator(((32, 8), (64, 16)), 4, rngs=nnx.Rngs(0))
    wave = jax.random.normal(jax.random.key(0), (2, 256))
    for both, first in zip(judge(wave), judge(wave[:1])):
        assert len(both) == 6 and both[-1].shape[-1] == 1
        for together, alone in zip(both, first):
            np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    gradient = jax.grad(lambda w: sum(maps[-1].sum() for maps in judge(w)))(jnp.zeros((1, 256)))
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_fine_tuning_reads_the_mel_of_the_batch_and_nets_train_in_turn():
    config = replace(Config.tiny(), gan=replace(Config.tiny().gan, pretrain_steps=1))
    task = build_task(config, OptimConfig("adamw", 1e-3, "cosine", total_steps=10, b1=0.8, b2=0.99, ema_decay=0.9))
    wave = 0.1 * jax.random.normal(jax.random.key(0), (2, 512))
    state = task.init(jax.random.key(1), {"wave": wave})
    mel = mel_spectrogram(wave, config.mel)
    evaluate, step = jax.jit(task.eval_step), jax.jit(task.train_step)
    plain = evaluate(state, {"wave": wave}, None)["loss/mel"]
    np.testing.assert_allclose(evaluate(state, {"wave": wave, "mel": mel}, None)["loss/mel"], plain, rtol=1e-5)
    assert abs(evaluate(state, {"wave": wave, "mel": mel + 1}, None)["loss/mel"] - plain) > 1e-4

    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))  # noqa: E731
    assert task.pretraining is not None and task.pretraining[0] == 1
    spectral, metrics = jax.jit(task.pretraining[1])(state, {"wave": wave}, jax.random.key(2))
    assert same(spectral.params["discriminator"], state.params["discriminator"])
    assert not same(spectral.params["generator"], state.params["generator"])
    assert same(spectral.rest["discriminator"], state.rest["discriminator"]) and "loss/discriminator" not in metrics
    adversarial, metrics = step(spectral, {"wave": wave}, jax.random.key(2))
    assert not same(adversarial.params["discriminator"], spectral.params["discriminator"])
    assert not same(adversarial.rest["discriminator"], spectral.rest["discriminator"])
    assert metrics["loss/discriminator"] > 0 and metrics["loss/adversarial"] > 0
    params, exported = task.inference(adversarial)
    assert exported == config and same(params, adversarial.rest["ema"]["generator"])
    assert set(task.sample(state, {"wave": wave}, None)) >= {"audio/generated", "mel/generated"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"resblock": 3}, "resblock"),
        ({"upsample_rates": (4, 2)}, "hop"),
        ({"upsample_kernel_sizes": (8, 3)}, "upsample_kernel_sizes"),
        ({"upsample_channels": 6}, "upsample_channels"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Config.tiny(), **change)
    for field in ({"discriminators": ("spectral",)}, {"weights": (1.0,)}, {"reduce": "max"}, {"objective": "wgan"}):
        with pytest.raises(ValueError, match=next(iter(field))):
            replace(GanConfig(), **field)
