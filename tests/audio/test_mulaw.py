from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.audio import mulaw

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "audio" / "mulaw.npz")


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_golden(array):
    encoded = mulaw.encode(array(GOLDEN["x"]), 512)
    np.testing.assert_array_equal(encoded, GOLDEN["encoded"])
    assert isinstance(encoded, type(array(GOLDEN["x"]))) and encoded.dtype == np.int32
    np.testing.assert_allclose(mulaw.decode(array(GOLDEN["encoded"]), 512), GOLDEN["decoded"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_classes", [256, 512, 65536])
def test_every_class_survives_the_round_trip(num_classes):
    labels = np.arange(num_classes, dtype=np.int32)
    np.testing.assert_array_equal(mulaw.encode(mulaw.decode(labels, num_classes), num_classes), labels)
    np.testing.assert_array_equal(mulaw.quantize(mulaw.dequantize(labels, num_classes), num_classes), labels)


def test_companding_inverts_and_bounds_the_error():
    x = np.linspace(-1, 1, 2001, dtype=np.float32)
    np.testing.assert_allclose(mulaw.expand(mulaw.compress(x)), x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mulaw.compress(np.float32([-1, 0, 1])), [-1, 0, 1], rtol=0, atol=1e-6)
    error = np.abs(jax.jit(lambda v: mulaw.decode(mulaw.encode(v)))(x) - x)
    assert error.max() < 0.025 and error[np.abs(x) < 0.01].max() < 3e-4


def test_samples_outside_are_clipped():
    np.testing.assert_array_equal(mulaw.encode(np.float32([-3, 3])), [0, 255])
