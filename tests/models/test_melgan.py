"""MelGAN against recorded outputs of kan-bayashi/ParallelWaveGAN (golden/melgan/record.py), its ends, its sub-bands."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.pqmf import Pqmf, analysis, synthesis
from jaxtts.losses.spectral import multi_resolution_stft
from jaxtts.models.melgan import Config, Model
from jaxtts.models.melgan.convert import config_from, convert
from jaxtts.models.melgan.model import mirrored
from jaxtts.models.melgan.task import subband_loss
from jaxtts.models.parallel_wavegan.parity import parity
from jaxtts.nn.functional import count_parameters, merge, rngs_for_shapes, structure

FILE = np.load(Path(__file__).parents[1] / "golden/melgan/cases.npz")
TINY = Config.tiny()
ODD = replace(TINY, mel=TINY.mel.replace(hop_length=12), upsample_rates=(3, 4), num_bands=1)


def case(name):
    arrays = {key.removeprefix(f"{name}/"): FILE[key] for key in FILE.files if key.startswith(f"{name}/")}
    meta = json.loads(arrays.pop("meta").tobytes())
    weights = {key.removeprefix("weights."): x for key, x in arrays.items() if key.startswith("weights.")}
    part = lambda start: {key: x for key, x in arrays.items() if key.startswith(start)}  # noqa: E731
    return meta, weights, part("in."), part("out.")


@pytest.mark.parametrize("name", ["melgan_generator", "discriminator_losses_pqmf"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    with jax.default_matmul_precision("highest"):
        ours = parity(meta, weights, inputs)
    assert outputs.keys() == ours.keys()
    for key, want in outputs.items():
        assert ours[key].shape == want.shape
        bound = meta["arrays"][key]["suggested_atol"]
        np.testing.assert_allclose(ours[key], want, rtol=0, atol=bound, err_msg=key)


def test_checkpoints_fit_or_are_refused_by_name():
    meta, weights, inputs, outputs = case("melgan_generator")
    config = config_from({"generator_params": meta["config"]})
    assert config.num_bands == 4 and config.mel.hop_length == 64
    params = convert(weights, config)
    assert count_parameters(params) == meta["parameters"]
    folded = replace(config, weight_norm=False)
    graph = structure(lambda: Model(folded, rngs=rngs_for_shapes()))[0]
    bands = merge(graph, convert(weights, folded)).subbands(jnp.asarray(inputs["in.c"]).swapaxes(1, 2))
    np.testing.assert_allclose(bands.swapaxes(1, 2), outputs["out.audio"], atol=1e-5)
    weights["melgan.9.stack.2.extra"] = weights.pop("melgan.16.bias")
    with pytest.raises(ValueError) as error:
        convert(weights, config)
    assert all(name in str(error.value) for name in ("melgan.9.stack.2.extra", "conv_post.bias"))
    with pytest.raises(ValueError, match="stacks"):
        config_from({k: v for k, v in meta["config"].items() if k != "stacks"})
    with pytest.raises(ValueError, match="use_causal_conv=True"):
        config_from(meta["config"] | {"use_causal_conv": True})


def test_the_published_size():
    """4.26 M: table 1 of the paper, without the gains of weight norm."""
    params = structure(lambda: Model(replace(Config(), weight_norm=False), rngs=rngs_for_shapes()))[1]
    assert count_parameters(params) // 10_000 == 426


def test_each_item_is_mirrored_at_its_own_end():
    x = np.random.default_rng(0).standard_normal((4, 9, 2)).astype(np.float32)
    lengths = np.array([9, 6, 2, 1])
    padded = x.copy()
    padded[np.arange(9) >= lengths[:, None]] = np.nan
    ours = mirrored(jnp.asarray(padded), 4, jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        want = np.pad(x[row, :length], ((4, 4), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(ours[row, : length + 8], want)
        np.testing.assert_array_equal(mirrored(jnp.asarray(x[row : row + 1, :length]), 4, None)[0], want)


@pytest.mark.parametrize("config", [TINY, ODD])
def test_padding_and_neighbours_change_nothing(config):
    model, hop = Model(config, rngs=nnx.Rngs(0)), config.mel.hop_length
    lengths = np.array([12, 7, 1])
    mel = np.random.default_rng(0).standard_normal((3, 12, 10)).astype(np.float32)
    mel[np.arange(12) >= lengths[:, None]] = np.nan
    wave = jax.jit(model.infer)(mel, lengths)
    assert wave.shape == (3, 12 * hop)
    for row, length in enumerate(lengths):
        alone = jax.jit(model.infer)(mel[row : row + 1, :length])
        np.testing.assert_allclose(wave[row, : length * hop], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * hop :], 0.0)


@pytest.mark.parametrize("config", [TINY, ODD])
def test_a_frame_reaches_as_far_as_the_receptive_field(config):
    reach = config.receptive_field
    frames = 2 * reach + 5
    model = Model(config, rngs=nnx.Rngs(0))
    mel = jnp.zeros((1, frames, 10)).at[0, frames // 2].set(jnp.nan)
    heard = np.isnan(jax.jit(model)(mel)).reshape(frames, -1).any(axis=1)
    reached = np.flatnonzero(heard) - frames // 2
    assert max(-reached.min(), reached.max()) == reach


def test_the_subband_loss_is_that_of_the_generator_s_own_bands():
    bank, rng = Pqmf(), np.random.default_rng(0)
    bands = 0.1 * rng.standard_normal((2, 512, 4)).astype(np.float32)
    real = 0.2 * rng.standard_normal((2, 2048)).astype(np.float32)
    loss_of = jax.jit(partial(subband_loss, replace(TINY, subband_weight=3.0), bank))
    loss, parts = loss_of(synthesis(bands, bank), real)
    rows = [x.swapaxes(1, 2).reshape(8, -1) for x in (bands, np.asarray(analysis(real, bank)))]
    own = jax.jit(partial(multi_resolution_stft, resolutions=TINY.subband_resolutions))(*rows)
    np.testing.assert_allclose([*parts.values()], own, rtol=5e-3)
    np.testing.assert_allclose(loss, 3 * sum(own), rtol=5e-3)
    assert loss_of(real, real)[0] == 0


@pytest.mark.parametrize(
    "change, message",
    [({"num_bands": 2}, "num_bands"), ({"upsample_rates": (4, 2)}, "hop"), ({"upsample_channels": 6}, "halve"),
     ({"block_kernel_size": 4}, "block_kernel_size")],
)  # fmt: skip
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)
