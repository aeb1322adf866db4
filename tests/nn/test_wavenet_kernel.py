"""The loop over samples as one kernel draws what the plain loop draws, and becomes a Triton module for a GPU."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jaxtts.models.wavenet import Config, Model
from jaxtts.nn.output import Output
from jaxtts.nn.quantization import reduced

TINY = Config.tiny()
KINDS = {
    "mixture": TINY,
    "classes": replace(TINY, output=Output("softmax", 24), num_speakers=3, speaker_dim=4),
    "gaussian": replace(
        TINY, output=Output("gaussian"), kernel_size=2, first_kernel_size=6, scale_skips=False, cond_bias=True
    ),
}


def built(config):
    """A model whose draws stay within [-1, 1], so that clipping hides nothing."""
    model = Model(config, rngs=nnx.Rngs(0))
    bias, k = model.network.last[1].bias, config.output.num_mixtures
    if config.output.kind != "softmax":
        bias[...] = jnp.array([0.0, -2.0] if config.output.kind == "gaussian" else [0.0] * 2 * k + [-3.0] * k)
    return model


@pytest.mark.parametrize(
    ("name", "batch", "dtype", "drawn"),
    [
        ("mixture", 1, "float32", True),
        ("classes", 3, "float32", True),
        ("gaussian", 3, "float32", True),
        ("mixture", 3, "int8", False),
    ],
)
def test_the_kernel_draws_what_the_plain_loop_draws(name, batch, dtype, drawn, monkeypatch):
    config = KINDS[name]
    model, output = built(config), config.output
    prepared = 4 * config.num_layers * config.gate_channels
    monkeypatch.setattr("jaxtts.nn.wavenet_kernel.CHUNK_BYTES", prepared * batch * 64)  # four launches
    cond = model.condition(jax.random.normal(jax.random.key(0), (batch, 14, config.mel.num_bins)))
    speaker = jnp.array([2, 0, 1]) if config.num_speakers > 1 else None
    seeds = jnp.arange(5, 5 + batch, dtype=jnp.uint32) if drawn else None

    def values(kernel):
        def generate(cond):
            draw = partial(output.draws, seeds)
            return model.generate(cond, draw, speaker=speaker, weights_dtype=dtype, kernel=kernel)

        return jax.jit(generate)(cond)

    plain, ours = values(False), values(True)
    assert ours.shape == (batch, 224) and ours.dtype == plain.dtype
    sound = np.asarray(output.decode(plain))
    assert np.std(sound) > (0.02 if drawn else 0) and (np.abs(sound) < 1).mean() > 0.9
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("mixture", "float32"), ("classes", "bfloat16"), ("gaussian", "int8")])
def test_the_kernel_becomes_a_triton_module(name, dtype):
    config = KINDS[name]
    network = Model(config, rngs=nnx.Rngs(0)).network
    loop = network.loop(config.output)
    weights, start = loop.pack(*network.steps(dtype)), config.output.encode(jnp.zeros(3))
    prepared = jnp.zeros((8, 3, config.num_layers * config.gate_channels))
    uniforms = jnp.zeros((8, 3, config.output.num_draws))
    run = jax.jit(lambda *inputs: loop(weights, loop.init(start), jnp.zeros((), jnp.int32), *inputs))
    with abstract_gpu():
        module = run.trace(prepared, uniforms).lower(lowering_platforms=("cuda",)).as_text()
    assert "__gpu$xla.gpu.triton" in module and "wavenet" in module


def abstract_gpu():
    """Since jax 0.11 lowering for a GPU asks for a device, which may be an abstract one."""
    device = AbstractDevice("NVIDIA H200", num_cores=132, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.004), ("int8", 0.006)])
def test_fewer_bits_tell_nearly_the_same_distribution(dtype, bound):
    """The parameters' distance from float32's over their spread, root mean square over 96 samples: 0.0018, 0.0029."""
    model = Model(replace(TINY, channels=64, gate_channels=128, skip_channels=64), rngs=nnx.Rngs(0))
    network = model.network
    cond = network.prepare(jax.random.normal(jax.random.key(0), (96, 2, TINY.mel.num_bins)))
    wave = jnp.tanh(jax.random.normal(jax.random.key(1), (96, 2)))

    def parameters(dtype):
        weights = network.steps(dtype)

        def one(carry, inputs):
            return network.step(weights, carry, *inputs)

        return jax.jit(lambda: jax.lax.scan(one, network.init_carry(2), (wave, cond))[1])()

    exact = parameters("float32")
    distance = float(jnp.sqrt(jnp.mean((parameters(dtype) - exact) ** 2)) / jnp.std(exact))
    assert 1e-5 < distance < bound


def test_int8_is_within_half_a_step_of_each_output():
    kernel = jax.random.normal(jax.random.key(0), (64, 3)) * jnp.array([1.0, 10.0, 0.0])
    values, scale = reduced(kernel, "int8")
    assert values.dtype == jnp.int8 and int(jnp.abs(values).max()) == 127
    assert (jnp.abs(values * scale - kernel) <= 0.5001 * scale).all() and not values[:, 2].any()
    with pytest.raises(ValueError, match="weights_dtype='int4'"):
        reduced(kernel, "int4")


def test_a_form_that_the_kernel_does_not_hold_is_refused_only_where_it_is_forced():
    config = replace(TINY, num_layers=1, num_stacks=1)
    model = Model(config, rngs=nnx.Rngs(0))
    cond = jnp.zeros((1, 16, config.mel.num_bins))
    with pytest.raises(ValueError, match="kernel=True"):
        model.generate(cond, lambda place: None, kernel=True)
    assert model.generate(cond, lambda place: None).shape == (1, 16)
