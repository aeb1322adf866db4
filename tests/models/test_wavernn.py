"""WaveRNN against recorded outputs of fatchord/WaveRNN (golden/wavernn/record.py)."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.griffin_lim import emphasized
from jaxtts.audio.spec import mel_spec
from jaxtts.models.wavernn import Config, Model, build_task
from jaxtts.models.wavernn.convert import config_from, config_of, convert
from jaxtts.models.wavernn.parity import parity
from jaxtts.nn.functional import count_parameters, merge, named, rngs_for_shapes, split, structure
from jaxtts.nn.generation import Fold
from jaxtts.nn.output import Output
from jaxtts.nn.pruning import Pruning
from jaxtts.train.optim import OptimConfig

HOP = Config.tiny().mel.hop_length
CASES = np.load(Path(__file__).parents[1] / "golden/wavernn/cases.npz")


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


def trained_like(config, seed=0):
    """A model whose gates do something."""
    graph, params, rest = split(Model(config, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    return graph, jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), params), rest


def mels(config, batch, frames, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, config.mel.num_bins), np.float32)


@pytest.mark.parametrize("name", ["mol", "raw"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    assert outputs.keys() == ours.keys()
    for key, want in outputs.items():
        np.testing.assert_allclose(ours[key], want, rtol=1e-5, atol=1e-4, err_msg=key)


def test_a_checkpoint_tells_its_sizes():
    for name, mode in (("mol", "logistic"), ("raw", "softmax")):
        meta, weights, _, _ = case(name)
        told, seen = config_from(meta["config"] | {"mu_law": True}), config_of(weights)
        assert seen.output == told.output and seen.output.kind == mode
        mel = seen.mel.replace(sample_rate=told.mel.sample_rate, name=told.mel.name)
        assert replace(seen, mel=mel) == told
    published = {"rnn_dims": 512, "fc_dims": 512, "bits": 9, "pad": 2, "upsample_factors": [5, 5, 11], "feat_dims": 80,
                 "compute_dims": 128, "res_out_dims": 128, "res_blocks": 10, "hop_length": 275,
                 "sample_rate": 22050}  # fmt: skip
    assert config_from(published | {"mode": "MOL"}) == Config()
    assert config_from(published | {"mode": "RAW"}) == Config.raw()
    cloning = published | {"upsample_factors": [5, 5, 8], "hop_length": 200, "sample_rate": 16000, "mode": "RAW"}
    assert config_from(cloning) == Config.rtvc()
    assert Config.rtvc().mel == mel_spec("wavernn")


def test_import_refuses_and_names_everything():
    meta, weights, _, _ = case("mol")
    weights["extra.weight"] = weights.pop("fc3.bias")
    weights["I.bias"] = weights["I.bias"][:-1]
    with pytest.raises(ValueError) as error:
        convert(weights, config_from(meta["config"]))
    assert all(n in str(error.value) for n in ("extra.weight", "last.bias", "first.bias"))
    with pytest.raises(ValueError, match="lacks rnn_dims, mode"):
        config_from({k: v for k, v in meta["config"].items() if k not in ("rnn_dims", "mode")})
    with pytest.raises(ValueError, match="mode='BITS'"):
        config_from(meta["config"] | {"mode": "BITS"})
    with pytest.raises(ValueError, match="rnn1.weight_hh_l0 is missing"):
        config_of({k: v for k, v in weights.items() if k != "rnn1.weight_hh_l0"})


def test_published_sizes():
    for config, want in ((Config(), 4_233_675), (Config.raw(), 4_480_941), (Config.rtvc(), 4_480_935)):
        assert count_parameters(structure(lambda c=config: Model(c, rngs=rngs_for_shapes()))[1]) == want


@pytest.mark.parametrize("output", [Output("softmax", 32), Output("logistic", 65536, num_mixtures=2)])
def test_one_step_after_the_other_is_the_whole(output):
    config = replace(Config.tiny(), output=output)
    graph, params, rest = trained_like(config)
    frames = 512
    mel = mels(config, 2, frames)
    previous = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, frames * HOP)).astype(np.float32))

    @jax.jit
    def both(params):
        model = merge(graph, params, rest)
        cond = model.condition(mel)

        def step(carry, inputs):
            return model.step(carry, *inputs)

        _, stepped = jax.lax.scan(step, model.init_carry(2), (previous.T, cond.swapaxes(0, 1)))
        return model(mel, previous), stepped.swapaxes(0, 1)

    whole, stepped = both(params)
    assert whole.shape == (2, 4096, config.output.width)
    np.testing.assert_allclose(stepped, whole, atol=1e-4)


def test_no_sample_is_told_what_comes_after_it():
    config = Config.tiny()
    graph, params, rest = trained_like(config)
    mel, previous = mels(config, 1, 8), jnp.zeros((1, 64)).at[0, 40].set(jnp.nan)
    reached = np.isnan(merge(graph, params, rest)(mel, previous)).any(-1)[0]
    assert not reached[:40].any() and reached[40:].all()
    mel[0, 5] = np.nan
    told = np.isnan(merge(graph, params, rest).condition(mel)).any(-1)[0].reshape(8, HOP).any(-1)
    assert np.flatnonzero(told).tolist() == list(range(5 - config.receptive_field, 8))


@pytest.mark.parametrize("fold", [None, Fold(50, 20)])
def test_neighbours_padding_and_seeds(fold):
    config = replace(Config.tiny(), preemphasis=0.8, pad=2, edge=-1.0)
    graph, params, rest = trained_like(config)
    lengths, seeds = np.array([11, 6, 3]), jnp.array([5, 6, 7], jnp.uint32)
    mel = mels(config, 3, 11)
    mel[np.arange(11) >= lengths[:, None]] = np.nan

    @jax.jit
    def run(mel, lengths, seeds):
        return merge(graph, params, rest).infer(mel, lengths, seeds=seeds, fold=fold)

    wave = run(mel, lengths, seeds)
    assert wave.shape == (3, 11 * HOP) and np.abs(wave).max() <= 1
    for row, length in enumerate(lengths):
        alone = run(mel[row : row + 1, :length], None, seeds[row : row + 1])
        np.testing.assert_allclose(wave[row, : length * HOP], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * HOP :], 0.0)
        assert np.abs(alone[0, -3:]).max() > 0  # nothing fades out
    assert np.abs(run(mel, lengths, seeds + 1) - wave).max() > 0.1


def test_a_class_is_read_as_its_level_and_heard_on_its_curve():
    model = merge(*trained_like(Config.tiny()))
    wave = np.linspace(-1, 1, 201, dtype=np.float32)
    value = model.config.output.encode(wave)
    level = model.level(value)
    np.testing.assert_allclose(level, np.sign(wave) * np.log1p(31 * np.abs(wave)) / np.log(32), atol=1 / 31 + 1e-6)
    np.testing.assert_allclose(model.sound(level), model.config.output.decode(value), atol=1e-6)
    even = merge(*trained_like(replace(Config.tiny(), output=Output("softmax", 32, mu_law=False))))
    np.testing.assert_allclose(even.sound(even.level(even.config.output.encode(wave))), wave, atol=1 / 31 + 1e-6)


def test_preemphasis_is_undone():
    config = replace(Config.tiny(), preemphasis=0.9, output=Output("logistic", 65536, num_mixtures=2))
    graph, params, rest = trained_like(config)
    model = merge(graph, params, rest)
    levels = model.generate(model.condition(mels(config, 1, 4)), lambda place: None)
    wave = model.infer(mels(config, 1, 4))
    plain = merge(*trained_like(replace(config, preemphasis=0.0))).infer(mels(config, 1, 4))
    np.testing.assert_allclose(plain, levels, atol=1e-6)
    inside = np.abs(wave).max(initial=0) < 1
    want, last = [], 0.0
    for x in np.asarray(levels[0]):
        last = x + 0.9 * last
        want.append(last)
    np.testing.assert_allclose(wave[0], np.clip(want, -1, 1), atol=1e-5)
    if inside:
        np.testing.assert_allclose(emphasized(wave, 0.9)[:, 1:], levels[:, 1:], atol=1e-5)


def test_mels_of_real_time_voice_cloning_are_scaled():
    meta, weights, inputs, _ = case("raw")
    config = config_from(meta["config"])
    params = convert(weights, config)
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    quarter = structure(lambda: Model(replace(config, input_scale=0.25), rngs=rngs_for_shapes()))[0]
    mel = inputs["in.gen_mels"].swapaxes(1, 2)
    want = merge(graph, params).condition(mel)
    np.testing.assert_allclose(merge(quarter, params).condition(4 * mel), want, atol=1e-5)


def test_training_prunes_and_what_is_pruned_stays_zero():
    pruning = Pruning(0.5, (4, 4), start=2, length=4, every=2)
    config = replace(Config.tiny(), gru_dim=8, pruning=pruning, aux_channels=16)
    task = build_task(config, OptimConfig(learning_rate=1e-2, ema_decay=0.9))
    rng = np.random.default_rng(0)
    batch = {"wave": 0.1 * rng.standard_normal((2, 32), np.float32), "mel": mels(config, 2, 4)}
    state = task.init(jax.random.key(0), batch)
    step, shares = jax.jit(task.train_step), []
    for i in range(9):
        state, metrics = step(state, batch, jax.random.key(i))
        shares.append(float(metrics["sparsity"]))
    assert shares[:3] == [0.0] * 3 and shares == sorted(shares)
    np.testing.assert_allclose(shares[-1], 0.5)
    for tree in (state.params["model"], state.rest["ema"]["model"], task.inference(state)[0]):
        for name in ("rnns.0.input_kernel", "rnns.1.hidden_kernel"):
            blocks = np.asarray(named(tree)[name]).reshape(3, 2, 4, -1, 4)
            zero = (blocks == 0).all((2, 4))
            np.testing.assert_array_equal(zero.mean((1, 2)), 0.5)
    with pytest.raises(ValueError, match="pruning.block=.3, 1. must divide the 8 x 8 of a GRU's gate"):
        replace(config, pruning=Pruning(0.5, (3, 1)))


def test_a_cut_without_inner_frames_is_refused():
    config = Config.tiny()
    task = build_task(config)
    batch = {"wave": jnp.zeros((1, 16)), "mel": jnp.zeros((1, 2, 10))}
    with pytest.raises(ValueError, match="data.segment_length=16 must be above 2 . pad=2 frames of 8 samples"):
        task.train_step(task.init(jax.random.key(0), batch), batch, jax.random.key(0))


def test_the_task_shows_a_whole_recording():
    config = Config.tiny()
    task = build_task(config)
    batch = {"wave": jnp.zeros((1, 48)), "mel": jnp.zeros((1, 6, 10)), "mel_lengths": jnp.array([5])}
    media = task.sample(task.init(jax.random.key(0), batch), batch, jax.random.key(0))
    assert media["audio/generated"].shape == (48,) and media["mel/recorded"].shape == (6, 10)
    np.testing.assert_array_equal(media["audio/generated"][40:], 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_factors": (5, 5)}, "upsample_factors=.5, 5. must multiply to the hop 275"),
        ({"pad": 0}, "pad=0 must be at least 1"),
        ({"pad": 1, "edge": -4.0}, "pad=1 must be at least 2, with edge=-4.0"),
        ({"aux_channels": 30}, "aux_channels=30"),
        ({"preemphasis": 1.0}, "preemphasis=1.0"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
