"""Glow-TTS against recorded outputs of jaywalnut310/glow-tts and coqui-tts (golden/glow_tts/record.py)."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.models.glow_tts import Config, Model, build_task
from jaxtts.models.glow_tts.convert import config_from, convert
from jaxtts.models.glow_tts.parity import parity
from jaxtts.nn.functional import (
    count_parameters,
    fold_weight_norm,
    item_noise,
    merge,
    named,
    rngs_for_shapes,
    split,
    structure,
)

CASES = np.load(Path(__file__).parents[1] / "golden/glow_tts/cases.npz")
TEXT = {"text": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]]), "text_lengths": np.array([5, 3])}


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


@pytest.mark.parametrize(
    "name", ["single_train", "single_generate", "multi_train", "multi_generate", "actnorm_init", "coqui"]
)
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    for key, want in outputs.items():
        exact = key.endswith(("attn", "alignments"))
        np.testing.assert_allclose(ours[key], want, rtol=0, atol=0 if exact else 1e-4, err_msg=key)


def shapes(config):
    return structure(lambda: Model(config, rngs=rngs_for_shapes()))[1]


def test_published_sizes():
    full = shapes(Config())
    assert count_parameters(full) == 28_623_889
    assert count_parameters(full["decoder"]) == 21_423_936
    assert count_parameters(full["duration_predictor"]) == 345_857
    assert count_parameters(full["encoder"]) == 7_199_953 - 345_857
    assert count_parameters(jax.eval_shape(fold_weight_norm, full)) == 28_587_025
    coqui = shapes(Config.coqui(num_symbols=129))
    assert count_parameters(coqui) == 28_609_873
    assert count_parameters(full) - count_parameters(coqui) == (148 - 129) * 192 + 6 * 2 * 9 * 96


def test_the_reference_configuration_files_are_ours():
    model = {"hidden_channels": 192, "filter_channels": 768, "filter_channels_dp": 256, "kernel_size": 3,
             "p_dropout": 0.1, "n_blocks_dec": 12, "n_layers_enc": 6, "n_heads": 2, "p_dropout_dec": 0.05,
             "dilation_rate": 1, "kernel_size_dec": 5, "n_block_layers": 4, "n_sqz": 2, "prenet": True,
             "mean_only": True, "hidden_channels_enc": 192, "hidden_channels_dec": 192, "window_size": 4}  # fmt: skip
    assert config_from({"train": {}, "data": {"n_mel_channels": 80}, "model": model}) == Config()
    blank = {"train": {}, "data": {"n_mel_channels": 80, "add_blank": True}, "model": model}
    assert config_from(blank) == Config(num_symbols=149)
    ffn = {"kernel_size": 3, "dropout_p": 0.1, "num_layers": 6, "num_heads": 2, "hidden_channels_ffn": 768}
    coqui = {"model": "glow_tts", "num_chars": None, "encoder_type": "rel_pos_transformer", "encoder_params": ffn}
    assert config_from(coqui) == Config.coqui()
    assert config_from(coqui, {"encoder.emb.weight": np.zeros((129, 192))}).num_symbols == 129
    with pytest.raises(ValueError, match="encoder_type='time_depth_separable'"):
        config_from(coqui | {"encoder_type": "time_depth_separable"})
    with pytest.raises(ValueError, match="block_length=8"):
        config_from(model | {"block_length": 8})


def test_every_form_of_a_checkpoint_gives_the_same_weights():
    meta, weights, _, _ = case("multi_train")
    config = config_from(meta["config"], weights)
    params = named(convert(weights, config))
    newer = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {".".join([*k.split(".")[:-1], newer.get(k.split(".")[-1], k.split(".")[-1])]): v
               for k, v in weights.items()}  # fmt: skip
    for name, leaf in named(convert(renamed, config)).items():
        np.testing.assert_array_equal(leaf, params[name], err_msg=name)

    stored = {k: v for k, v in weights.items() if not (".wn." in k and k.endswith(("weight_g", "weight_v")))}
    for name in (k.removesuffix("_g") for k in weights if ".wn." in k and k.endswith("weight_g")):
        v = weights[f"{name}_v"]
        stored[name] = weights[f"{name}_g"] * v / np.sqrt((v**2).sum((1, 2), keepdims=True))
    stored |= {f"{k}_inv": np.linalg.inv(v) for k, v in weights.items() if v.shape == (4, 4)}
    folded = named(fold_weight_norm(convert(weights, config)))
    for name, leaf in named(convert(stored, replace(config, weight_norm=False))).items():
        np.testing.assert_allclose(leaf, folded[name], atol=1e-6, err_msg=name)
    again = named(fold_weight_norm(convert(stored, config)))
    for name, leaf in folded.items():
        np.testing.assert_allclose(again[name], leaf, atol=1e-6, err_msg=name)


def test_import_refuses_and_names_everything():
    meta, weights, _, _ = case("multi_train")
    wrong = {k: v for k, v in weights.items() if k not in ("emb_g.weight", "encoder.proj_m.bias")}
    wrong |= {"encoder.extra": np.zeros(2), "decoder.flows.0.logs": np.zeros((1, 3, 1), np.float32)}
    with pytest.raises(ValueError) as error:
        convert(wrong, config_from(meta["config"]))
    for name in ("speaker_embedding", "encoder.mean.bias", "encoder.extra", "decoder.blocks.0.act_norm.log_scale"):
        assert name in str(error.value)


def trained_like(config, seed=0):
    """A model whose couplings and projections do something."""
    graph, params, _ = split(Model(config, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)
    return graph, params


@pytest.mark.parametrize(
    "config", [Config.tiny(decoder_blocks=1), Config.tiny(encoder="gated_conv", mean_only=False, decoder_blocks=1)]
)
def test_training_sees_neither_padding_nor_neighbours(config):
    graph, params = trained_like(config)
    mel = np.random.default_rng(0).standard_normal((2, 14, 8)).astype(np.float32)
    mel_lengths = np.array([14, 9])
    run = jax.jit(
        lambda text, text_lengths, mel, mel_lengths: merge(graph, params)(text, text_lengths, mel, mel_lengths)
    )
    want = run(*TEXT.values(), mel, mel_lengths)
    assert want.durations.sum(1).tolist() == [14, 8]  # cut to pairs of frames
    padded = np.where((np.arange(14) < mel_lengths[:, None])[..., None], mel, np.nan)
    text = np.where(np.arange(5) < TEXT["text_lengths"][:, None], TEXT["text"], 10**6)
    for a, b in zip(jax.tree.leaves(run(text, TEXT["text_lengths"], padded, mel_lengths)), jax.tree.leaves(want)):
        np.testing.assert_array_equal(a, b)
    alone = run(TEXT["text"][1:], TEXT["text_lengths"][1:], mel[1:], mel_lengths[1:])
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(want)):
        np.testing.assert_allclose(a[0], b[1], atol=1e-5)


def test_inference_inverts_training_and_keeps_to_its_frames():
    graph, params = trained_like(Config.tiny(decoder_blocks=1, decoder_dilation=2, num_speakers=3, speaker_dim=4))
    model = merge(graph, params)
    speaker = np.array([2, 0])
    infer = jax.jit(
        lambda noise, scale: model.infer(
            *TEXT.values(), max_frames=12, noise=noise, noise_scale=scale, length_scale=2.0, speaker=speaker
        )
    )
    noise = item_noise(jax.random.key(0), (2, 12, 8))
    mel, lengths, alignment = infer(noise, 0.5)
    assert (lengths % 2 == 0).all() and (lengths > 0).all()
    np.testing.assert_array_equal(alignment.sum(2), np.arange(12) < lengths[:, None])
    assert not np.asarray(mel)[np.arange(12) >= lengths[:, None]].any()
    mask = np.arange(12) < lengths[:, None]

    @jax.jit
    def back(mel):
        cond = model.speaker(speaker)
        return model.decoder.forward(mel, mask, cond)[0], model.prior(*TEXT.values(), cond)

    z, prior = back(mel)
    np.testing.assert_allclose(z, (alignment @ prior.mean + 0.5 * noise) * mask[..., None], atol=1e-4)
    assert np.abs(mel - infer(noise, 0.0)[0]).max() > 1e-3
    np.testing.assert_allclose(item_noise(jax.random.key(0), (1, 12, 8))[0], noise[0])

    with pytest.raises(ValueError, match="max_frames=11 must be a multiple of num_squeeze=2"):
        model.infer(*TEXT.values(), max_frames=11, speaker=speaker)
    with pytest.raises(ValueError, match="speaker is missing"):
        model.infer(*TEXT.values(), max_frames=12)


def test_bfloat16_trains_and_stays_finite():
    config = Config.tiny(dtype="bfloat16", decoder_blocks=1, prenet=False)
    task = build_task(config)
    rng = np.random.default_rng(0)
    batch = TEXT | {
        "mel": jnp.asarray(40 * rng.standard_normal((2, 14, 8)) - 80, jnp.float32),
        "mel_lengths": np.array([14, 9]),
    }
    state = task.init(jax.random.key(0), batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    state, metrics = jax.jit(task.train_step)(state, batch, jax.random.key(1))
    assert int(metrics["skipped"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"encoder": "lstm"}, "encoder='lstm'"), ({"num_speakers": 2}, "speaker_dim > 0"), ({"dtype": "int8"}, "int8")],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
