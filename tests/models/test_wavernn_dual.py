"""The WaveRNN with a dual softmax against the paper's equations, written out in NumPy, and fatchord's version of it."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.models.wavernn_dual import Config, Model, build_task
from jaxtts.models.wavernn_dual.model import HALF, SILENCE, decode, encode
from jaxtts.nn.functional import count_parameters, merge, named, rngs_for_shapes, split, structure
from jaxtts.nn.generation import Fold
from jaxtts.nn.pruning import Pruning
from jaxtts.train.optim import OptimConfig

HOP = Config.tiny().mel.hop_length
SMALL = replace(Config.tiny(), hidden_dim=8)


def trained_like(config, seed=0):
    graph, params, rest = split(Model(config, rngs=nnx.Rngs(seed)))
    rng = np.random.default_rng(seed)
    return graph, jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape, np.float32), params), rest


def mels(config, batch, frames, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, config.mel.num_bins), np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(params, cond, previous, value, hidden_dim):
    """Eq. 2 for one item, one matrix with a mask for all inputs: logits [N, 512]."""
    p = {name: np.asarray(x, np.float64) for name, x in named(params).items()}
    half, found = hidden_dim // 2, []
    inputs = np.zeros((3, 2, half, 3))  # gates, halves; c_t feeds the fine half alone
    inputs[:, 0, :, :2] = p["coarse_kernel"].reshape(3, half, 2)
    inputs[:, 1] = p["fine_kernel"].reshape(3, half, 3)
    inputs = inputs.reshape(3 * hidden_dim, 3)
    hidden = np.zeros(hidden_dim)
    for told, before, now in zip(np.asarray(cond, np.float64), previous, value):
        x = np.array([before // 256, before % 256, now // 256]) / 127.5 - 1
        given = inputs @ x + p["bias"] + told @ p["told.kernel"][0]
        recurrent = p["hidden_kernel"] @ hidden
        (gu, gr, ge), (ru, rr, re) = np.split(given, 3), np.split(recurrent, 3)
        update, reset = sigmoid(ru + gu), sigmoid(rr + gr)
        hidden = update * hidden + (1 - update) * np.tanh(reset * re + ge)
        row = []
        for name, state in (("coarse", hidden[:half]), ("fine", hidden[half:])):
            y = np.maximum(state @ p[f"{name}.0.kernel"][0] + p[f"{name}.0.bias"], 0)
            row.append(y @ p[f"{name}.1.kernel"][0] + p[f"{name}.1.bias"])
        found.append(np.concatenate(row))
    return np.stack(found)


def test_the_cell_is_the_papers():
    graph, params, rest = trained_like(SMALL)
    model, mel = merge(graph, params, rest), mels(SMALL, 2, 5)
    wave = np.random.default_rng(1).uniform(-1, 1, (2, 40)).astype(np.float32)
    value = np.asarray(encode(wave))
    logits, cond = model(mel, wave), model.condition(mel)
    for row in range(2):
        previous = np.concatenate([[SILENCE], value[row, :-1]])
        want = by_hand(params, cond[row], previous, value[row], 8)
        np.testing.assert_allclose(logits[row], want, atol=1e-4)


def test_the_cell_is_the_references():
    cases = np.load(Path(__file__).parents[1] / "golden/wavernn/cases.npz")
    w = {name.removeprefix("dual/w/"): cases[name] for name in cases.files if name.startswith("dual/w/")}
    layers = {"coarse": ("O1", "O2"), "fine": ("O3", "O4")}
    params = {
        "hidden_kernel": w["R.weight"],
        "coarse_kernel": w["I_coarse.weight"],
        "fine_kernel": w["I_fine.weight"],
        "bias": np.concatenate([w[f"bias_{gate}"] for gate in "ure"]),
    } | {
        ours: {
            str(i): {"kernel": w[f"{name}.weight"].T[None], "bias": w[f"{name}.bias"]} for i, name in enumerate(names)
        }
        for ours, names in layers.items()
    }
    graph = structure(lambda: Model(replace(SMALL, conditional=False), rngs=rngs_for_shapes()))[0]
    samples = cases["dual/in.samples"]
    logits = merge(graph, params).forced(None, samples[:, :-1], samples[:, 1:])
    np.testing.assert_allclose(logits, cases["dual/out.logits"], atol=1e-4)


def test_sixteen_bits_survive():
    value = jnp.arange(2**16)
    np.testing.assert_array_equal(encode(decode(value)), value)
    np.testing.assert_array_equal(encode(jnp.array([-2.0, -1.0, 0.0, 1.0])), [0, 0, SILENCE, 2**16 - 1])


def test_one_step_after_the_other_is_the_whole():
    graph, params, rest = trained_like(SMALL)
    mel, batch, frames = mels(SMALL, 2, 512), 2, 512
    wave = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (batch, frames * HOP)).astype(np.float32))

    @jax.jit
    def both(params):
        model, value = merge(graph, params, rest), encode(wave)
        previous = jnp.pad(value, ((0, 0), (1, 0)), constant_values=SILENCE)[:, :-1]

        def step(carry, inputs):
            before, now, cond = inputs
            carry, coarse, logits = model.step(carry, before, cond, lambda logits: now >> 8)
            return carry, (coarse, logits)

        inputs = previous.T, value.T, model.condition(mel).swapaxes(0, 1)
        _, (coarse, logits) = jax.lax.scan(step, model.init_carry(batch), inputs)
        return model(mel, wave), logits.swapaxes(0, 1), coarse.T, value

    whole, stepped, coarse, value = both(params)
    np.testing.assert_allclose(stepped, whole, atol=1e-4)
    np.testing.assert_array_equal(coarse, value >> 8)


def test_fine_bits_are_drawn_after_the_coarse_ones():
    """What is generated has the likelihood that teacher forcing gives: each bit is the one its uniform asks for."""
    graph, params, rest = trained_like(SMALL)
    model, mel = merge(graph, params, rest), mels(SMALL, 2, 6)
    uniforms = jnp.asarray(np.random.default_rng(2).uniform(size=(48, 2, 2)).astype(np.float32))
    cond = model.condition(mel)
    value = jax.jit(lambda: model.generate(cond, lambda place: uniforms[jnp.minimum(place, 47)]))()
    assert value.shape == (2, 48) and len(np.unique(value)) > 40
    logits = np.asarray(model(mel, decode(value)))
    for part, bits in ((0, value >> 8), (1, value & 255)):
        probabilities = np.asarray(jax.nn.softmax(logits[..., part * 256 : (part + 1) * 256])).cumsum(-1)
        u = np.asarray(uniforms[..., part]).T[..., None]
        below = np.take_along_axis(probabilities, np.maximum(bits - 1, 0)[..., None], -1) * (bits > 0)[..., None]
        above = np.take_along_axis(probabilities, np.asarray(bits)[..., None], -1)
        assert np.all((below <= u + 1e-4) & (u <= above + 1e-4))


@pytest.mark.parametrize("fold", [None, Fold(50, 20)])
def test_neighbours_padding_and_seeds(fold):
    config = replace(SMALL, preemphasis=0.8)
    graph, params, rest = trained_like(config)
    lengths, seeds = np.array([9, 5]), jnp.array([5, 6], jnp.uint32)
    mel = mels(config, 2, 9)
    mel[1, 5:] = np.nan
    run = jax.jit(lambda mel, lengths, seeds: merge(graph, params, rest).infer(mel, lengths, seeds=seeds, fold=fold))
    wave = run(mel, lengths, seeds)
    for row, length in enumerate(lengths):
        alone = run(mel[row : row + 1, :length], None, seeds[row : row + 1])
        np.testing.assert_allclose(wave[row, : length * HOP], alone[0], atol=1e-5)
        np.testing.assert_array_equal(wave[row, length * HOP :], 0.0)
    assert np.abs(run(mel, lengths, seeds + 1) - wave).max() > 0.1


def test_without_a_mel():
    config = replace(SMALL, conditional=False, pruning=Pruning(0.75, (4, 1), start=0, length=2, every=1))
    task = build_task(config, OptimConfig(learning_rate=1e-2))
    assert task.fields == ("wave",)
    batch = {"wave": 0.1 * jax.random.normal(jax.random.key(0), (2, 64))}
    state = task.init(jax.random.key(0), batch)
    step = jax.jit(task.train_step)
    for i in range(4):
        state, metrics = step(state, batch, jax.random.key(i))
    np.testing.assert_allclose(metrics["loss/total"], metrics["loss/coarse"] + metrics["loss/fine"], rtol=1e-6)
    assert float(metrics["sparsity"]) == 0.75
    assert np.mean(np.asarray(state.params["model"]["hidden_kernel"]) == 0) == 0.75
    model = merge(structure(lambda: Model(config, rngs=rngs_for_shapes()))[0], task.inference(state)[0])
    assert model.infer(jnp.zeros((1, 6, 10)), seeds=jnp.array([1], jnp.uint32)).shape == (1, 48)
    conditional = merge(*trained_like(SMALL))
    with pytest.raises(ValueError, match="give a mel"):
        conditional(None, batch["wave"])


def test_the_loss_is_that_of_sixteen_bits():
    """Untrained, each half costs the logarithm of its 256 classes."""
    task = build_task(SMALL)
    batch = {"wave": 0.1 * jax.random.normal(jax.random.key(0), (2, 32)), "mel": jnp.zeros((2, 4, 10))}
    metrics = task.eval_step(task.init(jax.random.key(0), batch), batch, jax.random.key(0))
    np.testing.assert_allclose([metrics["loss/coarse"], metrics["loss/fine"]], np.log(HALF.num_classes), atol=0.3)


def test_published_size():
    shapes = structure(lambda: Model(Config.unconditional(), rngs=rngs_for_shapes()))[1]
    assert count_parameters(shapes) == 3_050_048


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 895}, "hidden_dim=895"),
        ({"upsample_factors": (5, 5)}, "upsample_factors=.5, 5."),
        ({"preemphasis": -0.1}, "preemphasis=-0.1"),
        ({"pruning": Pruning(0.9, (5, 1))}, "pruning.block=.5, 1."),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
