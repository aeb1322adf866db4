"""WaveNet and its kin: references' numbers, sample by sample, causality, distillation, Parallel WaveGAN."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import lfilter

from jaxtts.losses.spectral import magnitude_mse, multi_resolution_stft
from jaxtts.models import parallel_wavegan, parallel_wavenet, wavenet
from jaxtts.models.parallel_wavenet.model import Sampled
from jaxtts.models.parallel_wavenet.task import divergence, heard
from jaxtts.models.wavenet.task import shifted
from jaxtts.nn.functional import item_noise, merge, split
from jaxtts.nn.generation import Fold
from jaxtts.nn.output import Output
from jaxtts.train.optim import OptimConfig

FILE = np.load(Path(__file__).parents[1] / "golden/wavenet/cases.npz")
CASES = sorted(name.removesuffix("/meta") for name in FILE.files if name.endswith("/meta"))
ANSWERS = {"wavenet_vocoder": "wavenet", "clarinet": "parallel_wavenet", "parallel_wavegan": "parallel_wavegan"}
TINY = wavenet.Config.tiny()
CLASSES = replace(TINY, output=Output("softmax", 32), num_speakers=3, speaker_dim=4)
CLARINET = replace(
    TINY, output=Output("gaussian"), kernel_size=2, first_kernel_size=6, scale_skips=False, cond_bias=True,
    upsample="transposed", upsample_bins=3, upsample_slope=0.4, context=None,
)  # fmt: skip
KINDS = {"mixture": TINY, "classes": CLASSES, "clarinet": CLARINET}


def built(config, module=wavenet, seed=0):
    return module.Model(config, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_as_the_reference(case):
    arrays = {name.removeprefix(f"{case}/"): FILE[name] for name in FILE.files if name.startswith(f"{case}/")}
    meta = json.loads(arrays.pop("meta").tobytes())
    weights = {name.removeprefix("weights."): x for name, x in arrays.items() if name.startswith("weights.")}
    inputs = {name: x for name, x in arrays.items() if name.startswith("in.")}
    answers = importlib.import_module(f"jaxtts.models.{ANSWERS[case.split('/')[0]]}.parity")
    with jax.default_matmul_precision("highest"):
        ours = answers.parity(meta, weights, inputs)
    wanted = [name for name in arrays if name.startswith("out.")]
    assert wanted
    for name in wanted:
        bound = max(1e-4, meta["arrays"][name]["suggested_atol"])
        np.testing.assert_allclose(ours[name], arrays[name], rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("name", KINDS)
def test_sample_by_sample_is_what_teacher_forcing_gives(name):
    config = KINDS[name]
    model, frames = built(config), 4096 // config.mel.hop_length
    mel = jax.random.normal(jax.random.key(0), (2, frames, config.mel.num_bins))
    speaker = jnp.array([2, 0]) if config.num_speakers > 1 else None
    wave = jnp.tanh(0.3 * jax.random.normal(jax.random.key(1), (2, 4096)))
    values = config.output.encode(wave)
    whole = model(mel, shifted(values, config), speaker=speaker)
    network, weights = model.network, model.network.steps()
    told = None if speaker is None else model.speakers[...][speaker]
    prepared = network.prepare(model.condition(mel).swapaxes(0, 1), told)

    @jax.jit
    def stepped(previous, prepared):
        def one(carry, inputs):
            return network.step(weights, carry, *inputs)

        return jax.lax.scan(one, network.init_carry(2), (previous.T, prepared))[1].swapaxes(0, 1)

    np.testing.assert_allclose(stepped(shifted(values, config), prepared), whole, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_generated_samples_are_draws_of_their_own_past(name):
    config = KINDS[name]
    model = built(config)
    mel = jax.random.normal(jax.random.key(0), (2, 12, config.mel.num_bins))
    speaker = jnp.array([2, 0]) if config.num_speakers > 1 else None
    seeds = jnp.array([5, 6], jnp.uint32)
    cond = model.condition(mel)
    values = model.generate(cond, lambda place: config.output.draws(seeds, place), speaker=speaker)
    params = model(mel, shifted(values, config), speaker=speaker)
    for n in (0, 1, 17, 100, 191):
        again = config.output.sample(params[:, n], config.output.draws(seeds, n))
        np.testing.assert_allclose(values[:, n], again, atol=1e-4)
    likeliest = model.generate(cond, lambda place: None, speaker=speaker)
    assert not np.allclose(config.output.decode(likeliest), config.output.decode(values), atol=1e-2)


@pytest.mark.parametrize("name", ["mixture", "clarinet"])
def test_a_sample_depends_on_its_past_as_far_as_the_receptive_field_alone(name):
    config, place = KINDS[name], 200
    model, mel = built(config), jnp.zeros((1, 20, config.mel.num_bins))
    gradient = jax.grad(lambda previous: model(mel, previous)[0, place].sum())(0.1 * jnp.ones((1, 320)))
    reached = np.flatnonzero(gradient[0])
    assert reached[-1] == place and reached[0] == place - config.samples_seen + 1


def test_the_frames_that_tell_a_sample_are_those_of_the_receptive_field():
    for config in KINDS.values():
        model, frames = built(config), 21
        mel = jnp.zeros((1, frames, config.mel.num_bins)).at[0, frames // 2].set(jnp.nan)
        cond = model.condition(mel).reshape(frames, -1)
        reached = np.flatnonzero(np.isnan(cond).any(axis=1)) - frames // 2
        reach = config.receptive_field
        assert reached.min() >= -reach and reached.max() <= reach and len(reached) >= 2 * reach - 1


@pytest.mark.parametrize("name", KINDS)
def test_an_items_company_and_padding_change_nothing(name):
    config = KINDS[name]
    model = built(config)
    mel = jax.random.normal(jax.random.key(0), (2, 9, config.mel.num_bins))
    speaker = jnp.array([2, 0]) if config.num_speakers > 1 else None
    seeds, lengths = jnp.array([5, 6], jnp.uint32), jnp.array([9, 6])
    padded = mel.at[1, 6:].set(jnp.nan)
    wave = model.infer(padded, lengths, seeds=seeds, speaker=speaker)
    alone = model.infer(mel[1:, :6], seeds=seeds[1:], speaker=None if speaker is None else speaker[1:])
    hop = config.mel.hop_length
    np.testing.assert_allclose(wave[1, : 6 * hop], alone[0], atol=1e-5)
    assert not wave[1, 6 * hop :].any() and np.isfinite(wave).all() and np.abs(wave).max() <= 1


def test_folded_is_as_long_and_as_loud():
    model = built(TINY)
    mel = jax.random.normal(jax.random.key(0), (2, 30, TINY.mel.num_bins))
    seeds = jnp.array([5, 6], jnp.uint32)
    whole, folded = (model.infer(mel, seeds=seeds, fold=fold) for fold in (None, Fold(100, 40)))
    assert folded.shape == whole.shape == (2, 480)
    assert folded[:, :20].all()  # nothing precedes the first segment: it is heard from its first sample
    assert 0.5 < float(jnp.std(folded) / jnp.std(whole)) < 2


def test_training_forgets_the_silence_it_began_with():
    task = wavenet.build_task(replace(TINY, output=Output("gaussian")), OptimConfig(learning_rate=3e-3, ema_decay=0.5))
    time = jnp.arange(512) / 8000
    batch = {"wave": 0.5 * jnp.sin(2 * jnp.pi * jnp.array([[200.0], [300.0]]) * time)}
    state, step = task.init(jax.random.key(0), batch), jax.jit(task.train_step)
    losses = []
    for i in range(80):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["loss/total"]))
    assert losses[-1] < losses[0] - 1.0
    params, exported = task.inference(state)
    assert not exported.weight_norm
    graph, fresh, _ = split(built(exported))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
    media = task.sample(state, batch, jax.random.key(0))
    assert media["audio/generated"].shape == (512,) and np.isfinite(media["audio/generated"]).all()


def emphasized_by_hand(wave):
    ahead = np.concatenate([wave[:, :1], wave[:, :-1]], axis=1)
    return np.float32(0.55) * (wave - np.float32(0.85) * ahead)


def test_gain_and_preemphasis_are_modelled_and_undone():
    scaled = replace(TINY, gain=0.55, preemphasis=0.85)
    wave = 0.4 * np.cos(np.arange(1024, dtype=np.float32).reshape(2, 512) / 7)
    mel = jax.random.normal(jax.random.key(1), (2, 32, TINY.mel.num_bins))
    by_hand = emphasized_by_hand(wave)
    plain, task = wavenet.build_task(TINY), wavenet.build_task(scaled)
    state, key = plain.init(jax.random.key(0)), jax.random.key(2)
    want = plain.eval_step(state, {"wave": jnp.asarray(by_hand), "mel": mel}, key)["loss/total"]
    np.testing.assert_allclose(task.eval_step(state, {"wave": wave, "mel": mel}, key)["loss/total"], want, rtol=1e-5)
    fading = 0.85 ** np.arange(1, 513) * wave[:, :1]  # of the sample that the first one stood for
    np.testing.assert_allclose(scaled.restored(jnp.asarray(by_hand)) + fading, wave, atol=1e-5)
    seeds = jnp.array([5, 6], jnp.uint32)
    made, raw = (built(config).infer(mel[:, :6], jnp.array([6, 4]), seeds=seeds) for config in (scaled, TINY))
    undone = np.clip(np.asarray(lfilter([1], [1, -0.85], raw)) / 0.55, -1, 1)
    np.testing.assert_allclose(made[0], undone[0], atol=1e-4)
    assert not made[1, 64:].any() and np.abs(made - raw).max() > 0.1


def test_an_unconditional_model_generates():
    config = replace(TINY, conditional=False, output=Output("softmax", 16))
    model = built(config)
    values = model.generate(jnp.zeros((2, 50, 0)), lambda place: config.output.draws(jnp.array([1, 2]), place))
    params = model(None, shifted(values, config))
    np.testing.assert_array_equal(
        values[:, 30], config.output.sample(params[:, 30], config.output.draws(jnp.array([1, 2]), 30))
    )


STUDENTS = {
    "logistic": parallel_wavenet.Config.tiny(),
    "gaussian": replace(
        parallel_wavenet.Config.tiny(), teacher=CLARINET, noise="gaussian", first_kernel_size=6, cond_bias=True
    ),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_knows_the_distribution_it_drew_from(name):
    config = STUDENTS[name]
    model = built(config, parallel_wavenet)
    mel = jax.random.normal(jax.random.key(0), (2, 4, config.mel.num_bins))
    z = jax.random.normal(jax.random.key(1), (2, 64))
    cond = model.condition(mel)
    made = model.made(z, cond)
    np.testing.assert_array_equal(made.wave[:, 0], 0.0)
    np.testing.assert_allclose(made.wave[:, 1:], made.mean + jnp.exp(made.log_scale) * z[:, 1:], atol=1e-5)
    jacobian = jax.jacobian(lambda z: model.made(z[None], cond[:1]).wave[0, 1:])(z[0])[:, 1:]
    np.testing.assert_allclose(np.triu(jacobian, 1), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.diag(jacobian), jnp.exp(made.log_scale[0]), rtol=1e-4)
    silent = z.at[:, 0].set(0.0)
    x = model.made(silent, cond).wave[..., None]
    for flow in reversed(model.flows):
        x, log_det = flow.forward(x, None, cond)
    np.testing.assert_allclose(x[..., 0], silent, atol=1e-4)


def distilled_wave(config, state, mel, key):
    """What the student makes in a step of its task."""
    params = state.params["model"] | {"upsample": state.rest["teacher"]["upsample"]}
    student = merge(split(built(config, parallel_wavenet))[0], params)
    noise = item_noise(key, (len(mel), mel.shape[1] * config.mel.hop_length))
    return student.made(student.latent(noise), student.condition(mel)).wave


def test_a_students_losses_are_weighed_and_its_spectrum_is_compared_where_asked():
    plain = replace(STUDENTS["gaussian"], power_weight=0.5)
    config = replace(plain, stft_weight=3.0)
    mel = jax.random.normal(jax.random.key(2), (2, 4096 // config.mel.hop_length, config.mel.num_bins))
    batch = {"wave": 0.1 * jax.random.normal(jax.random.key(0), (2, 4096)), "mel": mel}
    first, second = (parallel_wavenet.build_task(c) for c in (plain, config))
    state, key = first.init(jax.random.key(0), batch), jax.random.key(1)
    before, after = (task.eval_step(state, batch, key) for task in (first, second))
    assert "loss/stft" not in before
    stft = sum(multi_resolution_stft(distilled_wave(config, state, mel, key), batch["wave"]))
    np.testing.assert_allclose(after["loss/stft"], stft, rtol=1e-4)
    np.testing.assert_allclose(after["loss/scales"], before["loss/scales"], rtol=1e-5)
    want = after["loss/divergence"] + 4 * after["loss/scales"] + 0.5 * after["loss/power"] + 3 * after["loss/stft"]
    np.testing.assert_allclose(after["loss/total"], want, rtol=1e-5)


@pytest.mark.parametrize("name", STUDENTS)
def test_distillation_brings_the_student_to_its_teacher(name):
    config = replace(STUDENTS[name], power_weight=0.0)
    task = parallel_wavenet.build_task(config, OptimConfig(learning_rate=3e-3))
    batch = {"wave": 0.1 * jax.random.normal(jax.random.key(0), (2, 1024))}
    state, step = task.init(jax.random.key(0), batch), jax.jit(task.train_step)
    first = state
    losses = []
    for i in range(40):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["loss/divergence"]))
    assert np.mean(losses[-5:]) < 0.6 * losses[0], losses
    for before, after in zip(jax.tree.leaves(first.rest["teacher"]), jax.tree.leaves(state.rest["teacher"])):
        np.testing.assert_array_equal(before, after)
    params, exported = task.inference(state)
    speaks = built(exported, parallel_wavenet)
    assert jax.tree.map(jnp.shape, split(speaks)[1]) == jax.tree.map(jnp.shape, params)


def test_the_divergence_of_equals_is_zero_and_of_others_is_not():
    teacher = replace(TINY, output=Output("logistic", 65536, num_mixtures=1))
    config = replace(STUDENTS["logistic"], teacher=teacher, draws=64)
    mean, log_scale = 0.2 * jnp.ones((1, 2000)), -3.0 * jnp.ones((1, 2000))
    made = Sampled(jnp.zeros((1, 2001)), mean, log_scale)
    told = jnp.stack([jnp.zeros_like(mean), mean, log_scale], axis=-1)
    same = divergence(made, told, config, jax.random.key(0))
    np.testing.assert_allclose(same, 0.0, atol=0.02)
    other = divergence(made, told.at[..., 1].add(0.1), config, jax.random.key(0))
    assert other > 0.3


def test_a_teacher_hears_a_student_as_it_hears_a_recording():
    teacher = built(TINY)
    wave = jnp.tanh(jax.random.normal(jax.random.key(0), (1, 64)))
    mel = jax.random.normal(jax.random.key(1), (1, 4, TINY.mel.num_bins))
    want = teacher(mel, shifted(wave, TINY))
    np.testing.assert_allclose(heard(teacher, wave, teacher.condition(mel)), want, atol=1e-6)


def test_a_student_makes_what_its_teacher_models_and_undoes_gain_and_preemphasis():
    plain = STUDENTS["logistic"]
    config = replace(plain, teacher=replace(TINY, gain=0.55, preemphasis=0.85), power_weight=1.0)
    assert config.receptive_field > plain.receptive_field
    mel = jax.random.normal(jax.random.key(1), (1, 32, TINY.mel.num_bins))
    noise = 0.1 * jax.random.normal(jax.random.key(2), (1, 32, TINY.mel.hop_length))
    raw = built(plain, parallel_wavenet).infer(mel, noise=noise)
    undone = np.clip(lfilter([1], [1, -0.85], raw) / 0.55, -1, 1)
    np.testing.assert_allclose(built(config, parallel_wavenet).infer(mel, noise=noise), undone, atol=1e-4)
    assert np.abs(undone - raw).max() > 0.01
    wave = 0.4 * np.cos(np.arange(512, dtype=np.float32)[None] / 7)
    task, key = parallel_wavenet.build_task(config), jax.random.key(3)
    state = task.init(jax.random.key(0))
    made = distilled_wave(config, state, mel, key)
    sounds = (lfilter([1], [1, -0.85], x) / 0.55 for x in (made, emphasized_by_hand(wave)))
    want = magnitude_mse(*(jnp.asarray(x, jnp.float32) for x in sounds), time_averaged=True)
    got = task.eval_step(state, {"wave": wave, "mel": mel}, key)["loss/power"]
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 5}, "num_layers=5"),
        ({"kernel_size": 1}, "kernel_size=1"),
        ({"gate_channels": 11}, "gate_channels=11"),
        ({"upsample": "cubic"}, "cubic"),
        ({"upsample_scales": (4, 2)}, r"\(4, 2\)"),
        ({"upsample_bins": 2}, "upsample_bins=2"),
        ({"num_speakers": 2}, "num_speakers=2"),
        ({"gain": 0.0}, "gain=0.0"),
        ({"preemphasis": 1.0}, "preemphasis=1.0"),
        ({"first_kernel_size": 3, "output": Output("softmax", 16)}, "first_kernel_size=3"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_a_student_refuses_a_teacher_of_another_kind():
    with pytest.raises(ValueError, match="teacher.output.kind"):
        replace(STUDENTS["logistic"], teacher=CLARINET)


def test_parallel_wavegan_hears_both_sides_as_far_as_its_receptive_field():
    config = parallel_wavegan.Config.tiny()
    model, reach = built(config, parallel_wavegan), config.receptive_field
    frames = 2 * reach + 7
    mel = jnp.zeros((1, frames, config.mel.num_bins)).at[0, frames // 2].set(jnp.nan)
    wave = model.infer(mel, noise=jnp.zeros((1, frames, config.mel.hop_length))).reshape(frames, -1)
    reached = np.flatnonzero(np.isnan(wave).any(axis=1)) - frames // 2
    assert -reach <= reached.min() < 0 < reached.max() <= reach
    mel, lengths = jax.random.normal(jax.random.key(0), (2, 9, config.mel.num_bins)), jnp.array([9, 6])
    noise = jax.random.normal(jax.random.key(1), (2, 9, config.mel.hop_length))
    wave = model.infer(mel.at[1, 6:].set(jnp.nan), lengths, noise=noise)
    alone = model.infer(mel[1:, :6], noise=noise[1:, :6])
    np.testing.assert_allclose(wave[1, : 6 * config.mel.hop_length], alone[0], atol=1e-5)
    assert not wave[1, 6 * config.mel.hop_length :].any()
