"""Tacotron against recorded outputs of coqui-tts and Real-Time-Voice-Cloning (golden/tacotron/record.py), its sizes,
its loop, its losses."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.audio.spec import mel_spec
from jaxtts.audio.stft import linear_spectrogram
from jaxtts.models.tacotron import Config, Model, build_task
from jaxtts.models.tacotron.convert import convert, coqui_config_from, rtvc_config_from
from jaxtts.models.tacotron.model import CBHG, NormedConv, Output
from jaxtts.models.tacotron.parity import parity
from jaxtts.models.tacotron.task import losses, reference_optim
from jaxtts.nn.functional import count_parameters, merge, merged, named, rngs_for_shapes, split, structure
from jaxtts.nn.masking import sequence_mask

CASES = np.load(Path(__file__).parents[1] / "golden/tacotron/cases.npz")
TEXT, LENGTHS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]]), jnp.array([5, 3])
LIKE_RTVC = dict(
    post="mel", reduction_factor=2, max_reduction_factor=4, stop_input="context", decoder_cell="lstm", location=1,
    even_taps="back", speaker_dim=5, projection_bias=False, cbhg_bias=False, attention_biases=("query", "location"),
)  # fmt: skip
LIKE_COQUI = dict(
    norm_first=True, max_pool=False, reduction_factor=3, told_frames=5, location=2, attention_norm="sigmoid",
    transition="forward", agent=True, attention_biases=("score",),
)  # fmt: skip


def case(name):
    arrays = {key.removeprefix(f"{name}/"): CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    part = lambda start: {k: v for k, v in arrays.items() if k.startswith(start)}  # noqa: E731
    weights = {k.removeprefix("w/"): v for k, v in part("w/").items()}
    return json.loads(str(arrays["meta"])), weights, part("in."), part("out.")


@pytest.mark.parametrize("name", ["coqui_sigmoid", "coqui_forward", "rtvc"])
def test_same_numbers_as_the_reference(name):
    meta, weights, inputs, outputs = case(name)
    ours = parity(meta, weights, inputs)
    assert len(outputs) == (12 if name == "rtvc" else 11)
    for key, want in outputs.items():
        assert ours[key].shape == want.shape
        np.testing.assert_allclose(ours[key], want, rtol=0, atol=1e-5, err_msg=key)


def test_published_sizes():
    def params(config):
        return named(structure(lambda: Model(config, rngs=rngs_for_shapes()))[1])

    assert count_parameters(params(Config.coqui())) == 6_786_851
    assert count_parameters(params(Config.rtvc())) == 30_870_177
    # TensorFlow's GRU has one bias, keithito's Tacotron no stop layer.
    for config, known in ((Config(), 6_977_297), (Config(num_symbols=149, reduction_factor=5), 7_060_225)):
        theirs = {n: x for n, x in params(config).items() if "hidden_bias" not in n and ".stop." not in n}
        assert count_parameters(theirs) == known


def test_checkpoints_tell_their_sizes_and_wrong_ones_are_refused():
    meta, weights, _, _ = case("rtvc")
    config = rtvc_config_from(weights)
    assert config == Config.rtvc(
        num_symbols=12, mel=mel_spec("rtvc").replace(num_mels=5), embedding_dim=7, encoder_prenet=(6, 6),
        decoder_prenet=(16, 16), encoder_bank=3, encoder_dim=6, encoder_rnn_dim=3, post_bank=2, post_dim=8,
        post_projection_dim=8, post_rnn_dim=4, num_highways=2, attention_rnn_dim=8, attention_dim=8, decoder_dim=10,
        speaker_dim=4,
    )  # fmt: skip
    bad = {name: x for name, x in weights.items() if "stop_proj" not in name} | {"stray.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"(?s)decoder\.stop\.kernel.*stray\.weight"):
        convert(bad, config)
    with pytest.raises(ValueError, match="not of a Tacotron"):
        rtvc_config_from({})
    meta, weights, _, _ = case("coqui_forward")
    mel = mel_spec("tacotron").replace(num_mels=8)
    beside = {f"{net}.{name[8:]}": x for name, x in weights.items() if name.startswith("decoder.")
              for net in ("coarse_decoder", "decoder_backward")}  # fmt: skip
    config = coqui_config_from(meta["config"], weights | beside, mel)
    assert (config.transition, config.agent, config.told_frames, config.max_reduction_factor) == ("forward", True, 5, 3)
    assert (config.num_speakers, config.speaker_dim, config.location) == (1, 0, 2)
    convert(weights | beside, replace(config, mel=mel.replace(n_fft=16, win_length=16, hop_length=4)))
    for option, value in (("prenet_type", "bn"), ("attention_type", "graves"), ("use_gst", True), ("stopnet", False)):
        with pytest.raises(ValueError, match=option):
            coqui_config_from(meta["config"] | {option: value}, weights, mel)
    with pytest.raises(ValueError, match="frames of 8 bins"):
        coqui_config_from(meta["config"], weights, mel_spec("tacotron"))


@pytest.mark.parametrize("changes", [{}, LIKE_COQUI, LIKE_RTVC], ids=["paper", "coqui", "rtvc"])
def test_step_equals_teacher_forcing(changes):
    config = Config.tiny(**changes)
    model = Model(config, rngs=nnx.Rngs(0))
    factor, frames = config.reduction_factor, 11
    speaker = jax.random.normal(jax.random.key(2), (2, 5)) if config.speaker_dim else None
    mel, lengths = jax.random.normal(jax.random.key(1), (2, frames, 8)), jnp.array([frames, 6])
    whole = jax.jit(lambda mel: model(TEXT, LENGTHS, mel, lengths, speaker=speaker))(mel)
    steps = -(-frames // factor)
    assert whole.mel.shape == (2, steps * factor, 8) and whole.stop.shape == (2, steps)
    assert whole.post.shape == (2, steps * factor, 8 if config.post == "mel" else 33)
    memory, _ = model.encode(TEXT, LENGTHS, speaker)
    carry = model.decoder.init_carry(memory)
    heard = jnp.where(sequence_mask(lengths, frames)[..., None], mel, 0.0)
    heard = jnp.pad(heard, ((0, 0), (0, steps * factor - frames), (0, 0))).reshape(2, steps, factor, 8)
    step = jax.jit(lambda carry: model.decoder.step(carry, model.decoder.prenet(carry.told), memory))
    told = np.zeros((2, max(config.told_frames, 1), 8), np.float32)
    for t in range(steps):
        carry, (made, stop) = step(carry._replace(told=told.reshape(2, -1)))
        news = heard[:, t] if config.told_frames else heard[:, t, -1:]
        told = np.concatenate([news, told], axis=1)[:, : told.shape[1]]
        real = t * factor + jnp.arange(factor) < lengths[:, None]
        want = whole.mel[:, t * factor : (t + 1) * factor]
        np.testing.assert_allclose(jnp.where(real[..., None], made.reshape(2, factor, 8), 0.0), want, atol=1e-5)
        for b in range(2):
            if t * factor < lengths[b]:
                np.testing.assert_allclose(stop[b], whole.stop[b, t], atol=1e-5)


def test_items_end_by_each_of_their_rules():
    config = Config.tiny(told_frames=2, reduction_factor=2)
    model = Model(config, rngs=nnx.Rngs(0))
    decoder = model.decoder
    decoder.stop.kernel[...] = jnp.zeros_like(decoder.stop.kernel[...])
    memory, _ = model.encode(TEXT, LENGTHS)

    def lengths(bias=20.0, **rules):
        decoder.stop.bias[...] = jnp.array([bias])
        decoder.config = replace(config, **rules)
        mel, found, alignment = decoder.infer(memory, LENGTHS, 15, None)
        for b, n in enumerate(found):
            assert not mel[b, n:].any() and not alignment[b, n:].any() and mel[b, :n].any(-1).all()
        return found.tolist()

    assert lengths() == [2, 2]
    assert lengths(-20.0) == [15, 15]
    assert lengths(stop_frames=5) == [8, 8]  # the fourth step begins with frame 6
    assert lengths(stop_steps_per_symbol=1.0) == [12, 8]  # more steps than symbols
    assert lengths(-20.0, stop_at_end=1e-6) == [2, 2]  # some weight is everywhere
    assert lengths(-20.0, stop_at_end=0.999) == [15, 15]


def test_silence_at_the_end_is_cut_off_if_the_item_stopped():
    config = Config.tiny(**LIKE_RTVC, trim_below=0.0, stop_frames=9)
    model = Model(config, rngs=nnx.Rngs(0))
    model.decoder.stop.bias[...] = jnp.array([20.0])
    speaker = jax.random.normal(jax.random.key(0), (2, 5))

    def infer(max_frames, threshold):
        model.config = replace(config, trim_below=threshold)
        return model.infer(TEXT, LENGTHS, max_frames=max_frames, speaker=speaker)

    whole, lengths, _ = infer(16, None)
    assert lengths.tolist() == [12, 12]
    peaks = np.asarray(whole[:, :12].max(-1))  # [B, T]
    threshold = float(peaks.max(1).min())  # the loudest frame of the item that is less loud
    want = [np.flatnonzero(row >= threshold)[-1] + 1 for row in peaks]
    assert min(want) < 12
    mel, lengths, alignment = infer(16, threshold)
    assert lengths.tolist() == want
    for b, n in enumerate(want):
        np.testing.assert_array_equal(mel[b, :n], whole[b, :n])
        assert not mel[b, n:].any() and not alignment[b, n:].any()
    assert infer(10, threshold)[1].tolist() == [10, 10]


@pytest.mark.parametrize("ahead", [True, False])
def test_even_kernels_and_pooling_look_one_way(ahead):
    config = Config.tiny(even_taps="ahead" if ahead else "back", cbhg_bias=False)
    x, mask = jnp.zeros((1, 7, 4)).at[0, 3].set(1.0), jnp.ones((1, 7), bool)
    conv = NormedConv(config, 4, 5, 2, relu=False, rngs=nnx.Rngs(0))
    y, _ = conv(x, mask)
    assert y.shape == (1, 7, 5)
    assert np.flatnonzero(np.abs(y[0]).max(-1)).tolist() == ([2, 3] if ahead else [3, 4])
    cbhg = CBHG(config, 4, 2, 4, 4, 3, rngs=nnx.Rngs(0))
    pooled = cbhg._pooled(x, mask)
    assert np.flatnonzero(pooled[0, :, 0]).tolist() == ([2, 3] if ahead else [3, 4])
    mask = jnp.arange(7)[None] < 4
    low = jnp.where(mask[..., None], -jnp.ones((1, 7, 4)), 9.0)
    np.testing.assert_array_equal(cbhg._pooled(low, mask)[0, :4], -jnp.ones((4, 4)))


def test_losses_by_hand():
    config = Config.tiny(reduction_factor=2)
    rng = np.random.default_rng(0)
    mel, post, stop = rng.normal(size=(1, 4, 8)), rng.normal(size=(1, 4, 33)), np.array([[0.3, -1.0]])
    output = Output(*map(jnp.asarray, (mel, post, stop, np.full((1, 2, 3), 1 / 3))), statistics={})
    batch = {"mel": rng.normal(size=(1, 3, 8)), "mel_lengths": jnp.array([3]), "text_lengths": jnp.array([3])}
    target = rng.normal(size=(1, 3, 33))
    total, metrics = losses(output, jax.tree.map(jnp.asarray, batch), jnp.asarray(target), config)
    error = np.abs(post[:, :3] - target)
    low = int(3000 / 4000 * 33)
    parts = [np.abs(mel[:, :3] - batch["mel"]).mean(), 0.5 * error.mean() + 0.5 * error[..., :low].mean()]
    parts.append((np.log1p(np.exp(0.3)) + np.log1p(np.exp(1.0))) / 2)
    np.testing.assert_allclose([metrics[f"loss/{n}"] for n in ("mel", "linear", "stop")], parts, rtol=1e-5)
    np.testing.assert_allclose(total, sum(parts), rtol=1e-5)
    guided, _ = losses(output, batch, jnp.asarray(target), replace(config, guided_attention_weight=2.0))
    np.testing.assert_allclose(guided, sum(parts) + 2 * float(metrics["attention/off_diagonal"]), rtol=1e-5)
    output = output._replace(post=jnp.asarray(post[..., :8]))
    _, metrics = losses(output, batch, batch["mel"], replace(config, post="mel"))
    off = mel[:, :3] - batch["mel"]
    np.testing.assert_allclose(metrics["loss/mel_before_postnet"], (off**2).mean() + np.abs(off).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/mel"], ((post[:, :3, :8] - batch["mel"]) ** 2).mean(), rtol=1e-5)


def test_evaluation_sees_neither_padding_nor_what_lies_in_it():
    config = Config.tiny(spoken_dropout=())
    task = build_task(config)
    hop = config.mel.hop_length
    mel = jax.random.normal(jax.random.key(0), (2, 9, 8))
    wave = 0.1 * jax.random.normal(jax.random.key(1), (2, 9 * hop))
    lengths = {"text_lengths": LENGTHS, "mel_lengths": jnp.array([9, 4])}
    lengths["wave_lengths"] = lengths["mel_lengths"] * hop
    real = sequence_mask(lengths["mel_lengths"], 9)[..., None]
    wave = jnp.where(sequence_mask(lengths["wave_lengths"], 9 * hop), wave, 0.0)
    bare = {"text": TEXT, "mel": jnp.where(real, mel, jnp.nan), "wave": wave, **lengths}
    wide = {"text": jnp.pad(TEXT, ((0, 0), (0, 3))), "mel": jnp.pad(mel, ((0, 0), (0, 4), (0, 0)))}
    wide |= {"wave": jnp.pad(wave, ((0, 0), (0, 4 * hop))), **lengths}
    assert set(task.fields) == set(bare)
    state = task.init(jax.random.key(0), bare)
    results = [jax.jit(task.eval_step)(state, batch, jax.random.key(0)) for batch in (bare, wide)]
    for name, value in results[0].items():
        assert np.isfinite(value), name
        np.testing.assert_allclose(results[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_training_moves_the_statistics_that_are_exported_and_samples_can_be_heard():
    config = Config.tiny()
    task = build_task(config)
    hop = config.mel.hop_length
    batch = {"text": TEXT, "text_lengths": LENGTHS, "mel_lengths": jnp.array([12, 5])}
    batch |= {"mel": jax.random.uniform(jax.random.key(0), (2, 12, 8)), "wave_lengths": batch["mel_lengths"] * hop}
    batch["wave"] = 0.1 * jax.random.normal(jax.random.key(1), (2, 12 * hop))
    state = task.init(jax.random.key(0), batch)
    after, _ = jax.jit(task.train_step)(state, batch, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.rest["model"], after.rest["model"])
    assert all(jax.tree.leaves(moved))
    tree, exported = task.inference(after)
    graph, params, rest = split(Model(exported, rngs=nnx.Rngs(0)))
    assert named(tree).keys() == named(merged(params, rest)).keys()
    media = jax.jit(task.sample)(after, batch, jax.random.key(2))
    assert media["mel/predicted"].shape == media["mel/target"].shape == media["mel/teacher_forced"].shape == (12, 8)
    assert media["alignment/predicted"].shape == media["alignment/teacher_forced"].shape == (12, 5)
    assert media["audio/predicted"].ndim == 1 and np.isfinite(media["audio/predicted"]).all()
    model = merge(graph, tree)
    linear = model.postprocess(batch["mel"], batch["mel_lengths"])
    assert linear.shape == (2, 12, 33) and not linear[1, 5:].any()
    assert linear_spectrogram(batch["wave"], exported.linear).shape[2] == linear.shape[2]


def test_speech_rate_of_keithito():
    rate = reference_optim().rate()
    np.testing.assert_allclose(rate(3999), 2e-3, rtol=1e-3)
    np.testing.assert_allclose(rate(15999), 1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"post": "wave"}, "post='wave': use 'linear' or 'mel'"),
        ({"attention_biases": ("key",)}, "attention_biases has 'key'"),
        ({"reduction_factor": 3, "max_reduction_factor": 2}, "max_reduction_factor=2 is less than reduction_factor=3"),
        ({"num_speakers": 2}, "num_speakers=2 needs speaker_dim > 0"),
    ],
)
def test_impossible_configurations_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_a_missing_speaker_is_named():
    model = Model(Config.tiny(num_speakers=3, speaker_dim=2), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="speaker is missing: this model has num_speakers=3"):
        model.encode(TEXT, LENGTHS)
