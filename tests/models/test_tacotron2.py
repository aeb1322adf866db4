"""Tacotron 2 against recorded outputs of NVIDIA/tacotron2 (golden/tacotron2/record.py), its sizes, its loop."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.losses.attention import coverage, diagonality, focus, guided_attention, stop_loss
from jaxtts.models.tacotron2 import Config, Model, build_task
from jaxtts.models.tacotron2.convert import config_from, config_of, convert, coqui_config_from
from jaxtts.models.tacotron2.parity import parity
from jaxtts.nn.functional import count_parameters, merge, merged, named, rngs_for_shapes, split, structure
from jaxtts.nn.masking import sequence_mask

CASE = np.load(Path(__file__).parents[1] / "golden/tacotron2/cases.npz")
META = json.loads(str(CASE["meta"]))
WEIGHTS = {name.removeprefix("w/"): CASE[name] for name in CASE.files if name.startswith("w/")}
TEXT, LENGTHS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]]), jnp.array([5, 3])


def test_same_numbers_as_the_reference():
    outputs = {name: CASE[name] for name in CASE.files if name.startswith("out.")}
    ours = parity(META, WEIGHTS, {name: CASE[name] for name in CASE.files if name.startswith("in.")})
    assert len(outputs) == 24
    for name, want in outputs.items():
        np.testing.assert_allclose(ours[name], want, rtol=0, atol=1e-5, err_msg=name)


def test_same_numbers_as_coqui():
    """Recorded by golden/tacotron/record.py: a share of sigmoids, a forward transition, two of three frames a step."""
    file = np.load(Path(__file__).parents[1] / "golden/tacotron2/coqui.npz")
    case = {name.removeprefix("coqui/"): file[name] for name in file.files}
    weights = {name.removeprefix("w/"): x for name, x in case.items() if name.startswith("w/")}
    meta = json.loads(str(case["meta"]))
    outputs = {name: x for name, x in case.items() if name.startswith("out.")}
    ours = parity(meta, weights, {name: x for name, x in case.items() if name.startswith("in.")})
    assert len(outputs) == 9
    for name, want in outputs.items():
        np.testing.assert_allclose(ours[name], want, rtol=0, atol=1e-5, err_msg=name)
    config = coqui_config_from(meta["config"], weights)
    assert (config.reduction_factor, config.max_reduction_factor, config.last_frame) == (2, 3, True)
    beside = {f"coarse_{name}": x for name, x in weights.items() if name.startswith("decoder.")}
    assert named(convert(weights | beside, config)).keys() == named(convert(weights, config)).keys()
    for option, value in (("attention_type", "dynamic_convolution"), ("prenet_type", "bn"), ("use_gst", True)):
        with pytest.raises(ValueError, match=option):
            coqui_config_from(meta["config"] | {option: value}, weights)


def test_published_sizes():
    _, params, rest = structure(lambda: Model(Config(), rngs=rngs_for_shapes()))
    assert count_parameters(params) == 28_193_153
    assert count_parameters(params["encoder"]) == 5_513_728 + 75_776  # with the embedding
    assert count_parameters(params["decoder"]) == 18_255_505
    assert count_parameters(params["postnet"]) == 4_348_144
    assert count_parameters(rest) == 2 * (3 * 512 + 4 * 512 + 80)


def test_checkpoint_tells_its_sizes_and_a_wrong_one_is_refused():
    given = replace(config_from(META["config"]), stop_threshold=0.5)
    assert config_of(WEIGHTS) == given
    with pytest.raises(ValueError, match="no checkpoint of NVIDIA/tacotron2"):
        config_of({})
    bad = {name: x for name, x in WEIGHTS.items() if "gate_layer" not in name} | {"stray.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"(?s)decoder\.gate\.kernel.*stray\.weight"):
        convert(bad, given)


@pytest.mark.parametrize(
    "changes",
    [{}, {"zoneout": True, "location": 1}, {"reduction_factor": 3, "transition": "forward"}, {"speaker_dim": 5},
     {"transition": "stepwise", "location": 0},
     {"reduction_factor": 2, "max_reduction_factor": 3, "last_frame": True, "stop_input": "frames", "agent": True,
      "transition": "forward", "attention_norm": "sigmoid", "score_bias": True}],
)  # fmt: skip
def test_step_equals_teacher_forcing(changes):
    config = Config.tiny(**changes)
    model = Model(config, rngs=nnx.Rngs(0))
    factor, frames = config.reduction_factor, 11
    speaker = jax.random.normal(jax.random.key(2), (2, 5)) if config.speaker_dim else None
    mel, lengths = jax.random.normal(jax.random.key(1), (2, frames, 8)), jnp.array([frames, 6])
    whole = model(TEXT, LENGTHS, mel, lengths, speaker=speaker)
    steps = -(-frames // factor)
    assert whole.mel.shape == (2, steps * factor, 8) and whole.stop.shape == (2, steps)
    memory, _ = model.encode(TEXT, LENGTHS, speaker)
    carry, last = model.decoder.init_carry(memory), jnp.zeros((2, config.told_dim))
    heard = jnp.where(sequence_mask(lengths, frames)[..., None], mel, 0.0)
    heard = jnp.pad(heard, ((0, 0), (0, steps * factor - frames), (0, 0))).reshape(2, steps, -1)
    step = jax.jit(lambda carry, last: model.decoder.step(carry, model.decoder.prenet(last), memory))
    for t in range(steps):
        carry, (made, stop) = step(carry, last)
        last = heard[:, t, -config.told_dim :]
        real = t * factor + jnp.arange(factor) < lengths[:, None]
        want = whole.mel[:, t * factor : (t + 1) * factor]
        np.testing.assert_allclose(jnp.where(real[..., None], made.reshape(2, factor, 8), 0.0), want, atol=1e-5)
        np.testing.assert_allclose(stop, whole.stop[:, t], atol=1e-5)


def test_items_stop_by_themselves_at_the_end_of_a_step():
    config = Config.tiny(reduction_factor=2)
    model = Model(config, rngs=nnx.Rngs(0))
    model.decoder.gate.bias[...] = jnp.array([-20.0])
    mel, lengths, _ = model.infer(TEXT, LENGTHS, max_frames=15, seeds=jnp.arange(2))
    assert lengths.tolist() == [15, 15] and mel.shape == (2, 15, 8)
    # A gate that opens once a hidden unit of the decoder has grown enough; the step in which it does differs by item.
    memory, _ = model.encode(TEXT, LENGTHS)
    carry, last, stops = model.decoder.init_carry(memory), jnp.zeros((2, 16)), []
    model.decoder.gate.kernel[...] = jnp.zeros_like(model.decoder.gate.kernel[...]).at[0, 1, 0].set(1.0)
    model.decoder.gate.bias[...] = jnp.zeros(1)
    for t in range(8):
        carry, (last, stop) = model.decoder.step(carry, model.decoder.prenet.step(last, jnp.arange(2), t), memory)
        stops.append(np.asarray(jax.nn.sigmoid(stop)))
    stops = np.stack(stops)
    for place in (1, 4):
        threshold = float((np.sort(stops, axis=0)[place] + np.sort(stops, axis=0)[place + 1]).mean() / 2)
        model.config = replace(config, stop_threshold=threshold)
        first = [np.flatnonzero(np.append(stops[:, b], 1.0) > threshold)[0] for b in range(2)]
        want = [min(2 * (n + 1), 15) if n < 8 else 15 for n in first]
        mel, lengths, alignment = model.infer(TEXT, LENGTHS, max_frames=15, seeds=jnp.arange(2))
        assert lengths.tolist() == want
        for b, n in enumerate(want):
            assert not mel[b, n:].any() and not alignment[b, n:].any() and alignment[b, :n].any()


def test_exported_weights_hold_the_running_statistics():
    config = Config.tiny()
    task = build_task(config)
    batch = {"text": TEXT, "text_lengths": LENGTHS, "mel_lengths": jnp.array([9, 4])}
    batch["mel"] = 3 + jax.random.normal(jax.random.key(0), (2, 9, 8))
    state = task.init(jax.random.key(0), batch)
    after, _ = jax.jit(task.train_step)(state, batch, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.rest["model"], after.rest["model"])
    assert all(jax.tree.leaves(moved))
    tree, exported = task.inference(after)
    graph, params, rest = split(Model(config, rngs=nnx.Rngs(0)))
    assert named(tree).keys() == named(merged(params, rest)).keys()
    mean = np.asarray(tree["postnet"]["norms"]["0"]["mean"])
    np.testing.assert_allclose(mean, after.rest["model"]["postnet"]["norms"]["0"]["mean"])
    one = merge(graph, tree).infer(TEXT, LENGTHS, max_frames=6)[0]
    two = merge(graph, after.params["model"], after.rest["model"]).infer(TEXT, LENGTHS, max_frames=6)[0]
    np.testing.assert_array_equal(one, two)


def test_the_padding_does_not_enter_loss_or_statistics():
    task = build_task(Config.tiny(guided_attention_weight=1.0))
    mel = jax.random.normal(jax.random.key(0), (2, 9, 8))
    lengths = {"text_lengths": LENGTHS, "mel_lengths": jnp.array([7, 4])}
    bare = {
        "text": TEXT,
        "mel": jnp.where(sequence_mask(lengths["mel_lengths"], 9)[..., None], mel, jnp.nan),
        **lengths,
    }
    wide = {"text": jnp.pad(TEXT, ((0, 0), (0, 3))), "mel": jnp.pad(mel, ((0, 0), (0, 5), (0, 0))), **lengths}
    state = task.init(jax.random.key(0), bare)
    results = [jax.jit(task.eval_step)(state, batch, None) for batch in (bare, wide)]
    for name, value in results[0].items():
        assert np.isfinite(value), name
        np.testing.assert_allclose(results[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_stop_loss_is_the_cross_entropy_of_the_last_step():
    logits, steps = np.array([[0.3, -1.0, 2.0, 9.0], [1.5, 9.0, 9.0, 9.0]]), np.array([3, 1])
    p = 1 / (1 + np.exp(-logits))
    want = -(np.log(1 - p[0, :2]).sum() + 4 * np.log(p[0, 2]) + 4 * np.log(p[1, 0])) / 4
    np.testing.assert_allclose(stop_loss(jnp.asarray(logits), jnp.asarray(steps), 4.0), want, rtol=1e-5)


def test_measures_tell_a_diagonal_from_a_blur_and_a_skip():
    frames, symbols = jnp.array([20]), jnp.array([5])
    diagonal = jnp.repeat(jnp.eye(5), 4, axis=0)[None]
    blur = jnp.full((1, 20, 5), 0.2)
    skip = jnp.where(jnp.arange(5) == 2, 0.0, diagonal) + jnp.where(jnp.arange(5) == 3, diagonal[..., 2:3], 0.0)
    assert float(diagonality(diagonal, symbols, frames)[0]) == 1.0
    assert float(diagonality(blur, symbols, frames)[0]) < 0.4
    assert float(coverage(diagonal, symbols, frames)[0]) == 1.0
    assert float(coverage(skip, symbols, frames)[0]) == pytest.approx(0.8)
    assert float(focus(blur, frames)[0]) == pytest.approx(0.2)
    losses = [float(guided_attention(x, symbols, frames)) for x in (diagonal, skip, blur)]
    assert losses[0] < losses[1] < losses[2]
    t, s = np.mgrid[:20, :5]
    away = 1 - np.exp(-((s / 5 - t / 20) ** 2) / (2 * 0.2**2))
    np.testing.assert_allclose(losses[2], (0.2 * away).mean(), rtol=1e-5)
