"""The forms that convolutions are computed in against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtts.nn.conv import Conv1d


@pytest.mark.parametrize(
    "length, width, stride, dilation, padding, groups",
    [
        (50, 41, 2, 1, "same", 4),
        (51, 41, 4, 1, "same", 2),
        (33, 41, 1, 1, "same", 2),
        (9, 41, 2, 1, "same", 2),
        (37, 5, 3, 1, "causal", 2),
        (37, 5, 1, 2, "same", 2),
        (37, 5, 2, 1, "valid", 4),
        (40, 3, 4, 1, 7, 2),
        (23, 5, 1, 2, "same", 8),
        (23, 5, 2, 1, "same", 1),
        (60, 9, 4, 1, "same", 64),
        (23, 3, 1, 4, "same", 1),
        (23, 4, 1, 2, "causal", 1),
        (23, 3, 1, 1, "valid", 1),
        (23, 1, 1, 1, "same", 1),
    ],
)
@pytest.mark.parametrize("wide, broad", [(2**21, 128), (1, 128), (2**21, 1)])
def test_every_form_is_the_convolution_and_so_are_its_gradients(
    monkeypatch, wide, broad, length, width, stride, dilation, padding, groups
):
    monkeypatch.setattr("jaxtts.nn.conv.WIDE", wide)
    monkeypatch.setattr("jaxtts.nn.conv.BROAD", broad)
    channels = 2 * groups if groups > 8 else 8
    out_channels = 8 if groups == 8 else 2 * channels
    how = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    conv = Conv1d(channels, out_channels, width, **how, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, length, channels), np.float32))

    def plain(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride,), [conv.padding], rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups,
        )  # fmt: skip
        return y + conv.bias[...]

    def ours(x, kernel):
        return conv.convolve(x, kernel) + conv.bias[...]

    want, pull_plain = jax.vjp(plain, x, conv.kernel[...])
    found, pull = jax.vjp(ours, x, conv.kernel[...])
    np.testing.assert_allclose(conv(x), want, atol=1e-5)
    np.testing.assert_allclose(found, want, atol=1e-5)
    cotangent = jnp.asarray(rng.standard_normal(want.shape, np.float32))
    for a, b in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
