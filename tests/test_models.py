"""What every model must pass, over the registry, on Config.tiny()."""

import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts import registry
from jaxtts.config import from_dict, to_dict
from jaxtts.nn.functional import merge, named, split
from jaxtts.train.optim import OptimConfig
from jaxtts.weights.native import load_native, save_native

ALL = sorted(registry.MODELS)
ACOUSTIC = [name for name in ALL if registry.MODELS[name].kind == "acoustic"]
END_TO_END = [name for name in ALL if registry.MODELS[name].kind == "end-to-end"]
VOCODERS = [name for name in ALL if registry.MODELS[name].kind == "vocoder"]
AUTOREGRESSIVE = [name for name in ALL if "autoregressive" in registry.MODELS[name].traits]
OPTIM = OptimConfig(learning_rate=3e-3, clip_norm=5.0)
EACH_MODEL = pytest.mark.parametrize("name", ALL, scope="module")  # tests of one model run in a row: see `plain_step`


def config_of(name):
    return registry.module(name).Config.tiny()


def task_of(name, config=None):
    return registry.module(name).build_task(config or config_of(name), OPTIM)


def batch_of(fields, config, size=4, seed=0):
    """A batch as data/batches.py gives it: a voiced tone per item, its mel where asked for, text of varied length."""
    rng = np.random.default_rng(seed)
    frames, symbols = 32, 10
    spec = getattr(config, "mel", None)
    num_mels = spec.num_bins if spec else config.num_mels
    hop = spec.hop_length if spec else 256
    time = np.arange(frames * hop) / (spec.sample_rate if spec else 22050)
    pitch = rng.uniform(90, 250, (size, 1))
    wave = sum(0.2 / k * np.sin(2 * np.pi * k * pitch * time) for k in range(1, 8)).astype(np.float32)
    batch = {
        "wave": wave,
        "mel": rng.standard_normal((size, frames, num_mels)).astype(np.float32),
        "mel_lengths": np.linspace(frames, frames - 8, size).astype(np.int32),
        "wave_lengths": np.linspace(frames, frames - 8, size).astype(np.int32) * hop,
        "spectrogram": rng.uniform(size=(size, frames, getattr(config, "spectrogram_bins", 1))).astype(np.float32),
        "text": rng.integers(1, getattr(config, "num_symbols", 2), (size, symbols)).astype(np.int32),
        "text_lengths": np.linspace(symbols, symbols - 4, size).astype(np.int32),
        "speaker": np.arange(size, dtype=np.int32) % max(1, getattr(config, "num_speakers", 1)),
    }
    return {field: jnp.asarray(batch[field]) for field in fields}


@functools.lru_cache(maxsize=1)
def plain_step(name):
    """The task, its traced and compiled step on one device, the state and the batch that it starts from."""
    task = task_of(name)
    batch = batch_of(task.fields, config_of(name))
    start = task.init(jax.random.key(0), batch)
    traced = jax.jit(task.train_step).trace(start, batch, jax.random.key(0))
    return task, traced, traced.lower().compile(), start, batch


def noise_of(name, config, mel):
    """The `noise` of a vocoder that reads any."""
    shape = (*mel.shape[:2], config.mel.hop_length)
    return {"noise": jax.random.normal(jax.random.key(0), shape)} if "noise" in registry.MODELS[name].traits else {}


@pytest.mark.parametrize("name", ALL)
def test_config_survives_json(name):
    config = config_of(name)
    assert from_dict(type(config), to_dict(config)) == config
    assert hash(config) == hash(from_dict(type(config), to_dict(config)))
    with pytest.raises(ValueError, match="no field"):
        from_dict(type(config), to_dict(config) | {"nonsense": 1})


@EACH_MODEL
def test_one_batch_overfits_every_parameter_learns_and_devices_agree(name):
    task, _, step, start, batch = plain_step(name)
    key = jax.random.key(0)
    state, losses = start, []
    for i in range(30):
        state, metrics = step(state, batch, jax.random.fold_in(key, i))
        losses.append(float(metrics["loss/mel" if "loss/mel" in metrics else "loss/total"]))  # a GAN's total may rise
        assert int(metrics["skipped"]) == 0
    assert np.mean(losses[-3:]) < 0.9 * losses[0], losses
    before, after = named(start.params), named(state.params)
    still = [n for n in before if np.array_equal(before[n], after[n])]
    assert not still, f"no gradient reached {still}"

    devices = np.array(jax.devices()[:4])
    assert len(devices) == 4
    mesh = jax.sharding.Mesh(devices, ("data",))
    place = jax.sharding.NamedSharding
    spread = jax.device_put(batch, place(mesh, jax.sharding.PartitionSpec("data")))
    whole = jax.device_put(start, place(mesh, jax.sharding.PartitionSpec()))
    one, metrics_one = step(start, batch, key)
    four, metrics_four = jax.jit(task.train_step)(whole, spread, key)
    for metric in metrics_one:
        np.testing.assert_allclose(metrics_four[metric], metrics_one[metric], rtol=2e-3, atol=1e-4, err_msg=metric)
    for n, leaf in named(four.params).items():
        np.testing.assert_allclose(leaf, named(one.params)[n], atol=7e-3, err_msg=n)  # Adam's first step is a sign


@pytest.mark.parametrize("name", ALL)
def test_weights_survive_a_file(name):
    config = config_of(name)
    _, params, _ = split(registry.module(name).Model(config, rngs=nnx.Rngs(0)))
    with tempfile.TemporaryDirectory() as folder:
        save_native(folder, {k: np.asarray(v) for k, v in named(params).items()}, to_dict(config))
        loaded, stored = load_native(folder)
    assert from_dict(type(config), stored) == config
    assert sorted(loaded) == sorted(named(params))
    for n, leaf in named(params).items():
        np.testing.assert_array_equal(loaded[n], leaf)


@pytest.mark.parametrize("name", sorted({*ACOUSTIC} - {*AUTOREGRESSIVE}))
def test_acoustic_padding_and_neighbours_change_nothing(name):
    config = config_of(name)
    model = registry.module(name).Model(config, rngs=nnx.Rngs(1))
    structure, params, rest = split(model)
    batch = batch_of(("text", "text_lengths"), config)
    noise = jax.random.normal(jax.random.key(0), (4, 96, config.num_mels))

    @jax.jit
    def infer(text, lengths, noise):
        return merge(structure, params, rest).infer(text, lengths, max_frames=96, noise=noise)

    mel, lengths, alignment = infer(batch["text"], batch["text_lengths"], noise)
    assert bool(jnp.all(lengths > 0)) and alignment.shape == (4, 96, batch["text"].shape[1])
    other = jnp.where(jnp.arange(batch["text"].shape[1]) < batch["text_lengths"][:, None], batch["text"], 1)
    again, _, _ = infer(other, batch["text_lengths"], noise)
    for i in range(4):
        n = int(lengths[i])
        np.testing.assert_allclose(again[i, :n], mel[i, :n], atol=1e-5)
        alone, alone_lengths, _ = infer(batch["text"][i : i + 1], batch["text_lengths"][i : i + 1], noise[i : i + 1])
        assert int(alone_lengths[0]) == n
        np.testing.assert_allclose(alone[0, :n], mel[i, :n], atol=1e-5)


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_loops_depend_on_their_own_text_and_seed_alone(name):
    config = config_of(name)
    model = registry.module(name).Model(config, rngs=nnx.Rngs(1))
    structure, params, rest = split(model)
    batch = batch_of(("text", "text_lengths"), config)
    text, text_lengths = batch["text"], batch["text_lengths"]
    real = jnp.arange(text.shape[1]) < text_lengths[:, None]
    seeds = jnp.arange(4, dtype=jnp.uint32) + 7

    @functools.partial(jax.jit, static_argnums=3)
    def infer(text, lengths, seeds, max_frames):
        return merge(structure, params, rest).infer(text, lengths, max_frames=max_frames, seeds=seeds)

    mel, lengths, alignment = infer(text, text_lengths, seeds, 24)
    assert mel.shape == (4, 24, config.num_mels) and alignment.shape == (4, 24, text.shape[1])
    np.testing.assert_allclose(alignment.sum(-1), jnp.arange(24) < lengths[:, None], atol=1e-5)
    assert not bool(jnp.any(jnp.where(real[:, None], 0.0, alignment)))
    other = infer(jnp.where(real, text, 1), text_lengths, seeds, 24)
    longer = infer(text, text_lengths, seeds, 40)
    reach = config.receptive_field
    for i in range(4):
        n = int(lengths[i])
        np.testing.assert_allclose(other[0][i], mel[i], atol=1e-5)
        kept = n if n < 24 else 24 - reach  # the post-net looks at what comes behind
        np.testing.assert_allclose(longer[0][i, :kept], mel[i, :kept], atol=1e-5)
        alone = infer(text[i : i + 1], text_lengths[i : i + 1], seeds[i : i + 1], 24)
        assert int(alone[1][0]) == n
        np.testing.assert_allclose(alone[0][0], mel[i], atol=1e-5)
    assert not np.allclose(infer(text, text_lengths, seeds + 1, 24)[0], mel)


@pytest.mark.parametrize("name", VOCODERS)
def test_vocoder_rows_are_independent(name):
    config = config_of(name)
    structure, params, rest = split(registry.module(name).Model(config, rngs=nnx.Rngs(1)))
    mel = batch_of(("mel",), config)["mel"]
    noise = noise_of(name, config, mel)
    infer = jax.jit(lambda mel, noise: merge(structure, params, rest).infer(mel, **noise))
    wave = infer(mel, noise)
    assert wave.shape[0] == 4 and wave.shape[1] % mel.shape[1] == 0
    assert bool(jnp.all(jnp.isfinite(wave)))
    for i in range(4):
        row = {n: x[i : i + 1] for n, x in noise.items()}
        np.testing.assert_allclose(infer(mel[i : i + 1], row)[0], wave[i], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_bf16_compute_stays_finite(name):
    config = dataclasses.replace(config_of(name), dtype="bfloat16")
    structure, params, rest = split(registry.module(name).Model(config, rngs=nnx.Rngs(1)))
    model = merge(structure, params, rest)
    if name in ACOUSTIC + END_TO_END:
        batch = batch_of(("text", "text_lengths"), config)
        width = config.num_mels if name in ACOUSTIC else config.latent_dim
        drawn = {"noise": jax.random.normal(jax.random.key(0), (4, 96, width))}
        drawn = {"seeds": jnp.arange(4)} if name in AUTOREGRESSIVE else drawn
        out, _, _ = model.infer(batch["text"], batch["text_lengths"], max_frames=96, **drawn)
    else:
        mel = batch_of(("mel",), config)["mel"]
        out = model.infer(mel, **noise_of(name, config, mel))
    assert out.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(out)))
    with pytest.raises(ValueError, match="dtype='float16'"):
        dataclasses.replace(config, dtype="float16")


@EACH_MODEL
def test_bf16_and_remat_change_how_a_step_is_computed_not_what(name):
    key, results = jax.random.key(0), {}
    _, plain, compiled, start, batch = plain_step(name)
    for how in ({}, {"dtype": "bfloat16"}, {"remat": True}):
        task = task_of(name, dataclasses.replace(config_of(name), **how))
        traced = jax.jit(task.train_step).trace(start, batch, key) if how else plain
        state, metrics = (traced.lower().compile() if how else compiled)(start, batch, key)
        assert int(metrics["skipped"]) == 0
        assert all(x.dtype != jnp.bfloat16 for x in jax.tree.leaves((state, metrics)))
        exported = task.inference(state)[1]
        assert (exported.dtype, exported.remat) == ("float32", False)
        results["".join(how)] = state, metrics, str(traced.jaxpr)
    (plain, metrics, program), (_, half, in_bf16), (again, same, in_remat) = results.values()
    assert "bf16" in in_bf16 and "bf16" not in program and in_remat.count("remat") > program.count("remat")
    for metric, value in metrics.items():
        np.testing.assert_allclose(same[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)
        if metric.startswith("loss"):
            np.testing.assert_allclose(half[metric], value, rtol=0.05, atol=0.02, err_msg=metric)
    moments, others = jax.tree.leaves(plain.opt_state), jax.tree.leaves(again.opt_state)
    for a, b in zip(moments, others, strict=True):  # what Adam has seen are the gradients
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_remat_keeps_less_for_the_way_back(name):
    kept = []
    for remat in (False, True):
        config = dataclasses.replace(config_of(name), remat=remat)
        structure, params, rest = split(registry.module(name).Model(config, rngs=nnx.Rngs(1)))
        fields = {"acoustic": ("text", "text_lengths", "mel", "mel_lengths"), "vocoder": ("mel",)}
        fields["end-to-end"] = ("text", "text_lengths", "spectrogram", "mel_lengths")
        kind, reads_wave = registry.MODELS[name].kind, {"noise", "samples"} & {*registry.MODELS[name].traits}
        batch = batch_of(("mel", "wave") if reads_wave else fields[kind], config)

        def outputs(params, structure=structure, rest=rest, batch=batch):
            return merge(structure, params, rest)(*batch.values())

        residuals = jax.eval_shape(lambda params: jax.vjp(outputs, params)[1], params)
        kept.append(sum(x.size for x in jax.tree.leaves(residuals)) - sum(x.size for x in jax.tree.leaves(params)))
    assert kept[1] < 0.6 * kept[0], kept


@pytest.mark.parametrize("name", ALL)
def test_configs_are_frozen_and_hashable(name):
    config = config_of(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 3)
    assert {config: 1}[config_of(name)] == 1
