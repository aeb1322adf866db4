"""One-dimensional convolutions, written in the form that XLA runs fastest, with optional weight norm.

Flax's own `nnx.Conv` is not used because on CPU a 1-D convolution runs 1.5-2.5 times faster as a 2-D one with H=1,
a strided transposed convolution's kernel gradient ~140 times faster in polyphase form, a depthwise one 2-3 times
faster as shifted multiply-adds, a grouped one's kernel gradient ~90 times faster group by group, and `nnx.WeightNorm`
(flax 0.12.8) never trains its scale.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.functional import weight_normed

Init = Callable[..., jax.Array]
MOST_GROUPS = 16
WIDE = 2**21  # numbers in a kernel from which on a matrix product is faster on CPU
BROAD = 128  # output channels from which on only the kernel's gradient is; half as many with few taps
FEW_TAPS = 3


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, *, fan_in: int) -> jax.Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default that the reference implementations rely on."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv1d(nnx.Module):
    """Convolution over time. Parameters `kernel` [W, I/groups, O] (or `v` and `g` [O] with weight norm), `bias` [O].

    Args:
        padding: 'same' (odd receptive field, zeros), 'causal', 'valid', or the zeros put on both sides.
        kernel_init: f(key, shape, dtype); default U(+-1/sqrt(fan in)) as in torch.
    """

    kernel: Any  # absent with weight norm
    bias: Any  # None without

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        padding: str | int = "same",
        groups: int = 1,
        bias: bool = True,
        weight_norm: bool = False,
        kernel_init: Init | None = None,
        rngs: nnx.Rngs,
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = _padding(padding, (kernel_size - 1) * dilation)
        shape = (kernel_size, in_channels // groups, out_channels)
        fan_in = kernel_size * in_channels // groups
        kernel = (
            kernel_init(rngs.params(), shape, jnp.float32)
            if kernel_init
            else torch_uniform(rngs.params(), shape, fan_in=fan_in)
        )
        add_kernel(self, kernel, weight_norm)
        self.bias = nnx.Param(torch_uniform(rngs.params(), (out_channels,), fan_in=fan_in)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, I] -> [B, T', O], T' = (T + padding - dilation * (W - 1) - 1) // stride + 1."""
        y = self.convolve(x, effective_kernel(self))
        return y if self.bias is None else y + self.bias.astype(x.dtype)

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The same with a given kernel and without the bias."""
        kernel = kernel.astype(x.dtype)
        depthwise = self.groups == x.shape[-1] == kernel.shape[-1] and self.groups > 1 and self.stride == 1
        if kernel.shape[0] == 1 and self.stride == 1 and self.groups == 1 and self.padding == (0, 0):
            return (x.reshape(-1, x.shape[-1]) @ kernel[0]).reshape(*x.shape[:-1], -1)  # flat: see `_as_product`
        if depthwise:
            return _depthwise(x, kernel[:, 0], self.dilation, self.padding)
        if self.groups > 1 and (self.stride == 1 or self.dilation == 1):
            return _grouped(x, kernel, self.stride, self.dilation, self.padding, self.groups)
        wide = kernel.size >= WIDE or (self.stride > 1 and kernel.shape[1] >= 32)
        if self.groups == 1 and wide and jax.default_backend() == "cpu":
            return _as_product(x, kernel, self.stride, self.dilation, self.padding)
        broad = kernel.shape[-1] >= (BROAD // 2 if kernel.shape[0] <= FEW_TAPS else BROAD)
        if self.groups == self.stride == 1 and broad and jax.default_backend() == "cpu":
            return _broad(x, kernel, self.dilation, self.padding)
        return _convolve(x, kernel, self.stride, self.dilation, self.padding, self.groups)


class ConvTranspose1d(nnx.Module):
    """Transposed convolution: pad, a stride-1 convolution to stride * O channels, pixel shuffle.

    Equal to torch's ConvTranspose1d with `kernel` [W, I, O] holding weight[i, o, w] at [w, i, o]. Weight norm as in
    torch runs per input channel: `v` [W, I, O], `g` [I, 1].

    Args:
        padding: samples cut from both ends of the full output, as in torch.
        output_padding: samples added at the right end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = True,
        weight_norm: bool = False,
        kernel_init: Init | None = None,
        rngs: nnx.Rngs,
    ):
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        shape = (kernel_size, in_channels, out_channels)
        fan_in = kernel_size * out_channels  # torch counts a transposed kernel's output side
        kernel = (
            kernel_init(rngs.params(), shape, jnp.float32)
            if kernel_init
            else torch_uniform(rngs.params(), shape, fan_in=fan_in)
        )
        add_kernel(self, kernel, weight_norm, per_input=True)
        self.bias = nnx.Param(torch_uniform(rngs.params(), (out_channels,), fan_in=fan_in)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, I] -> [B, (T - 1) * stride - 2 * padding + W + output_padding, O]."""
        kernel = effective_kernel(self).astype(x.dtype)
        width, in_channels, out_channels = kernel.shape
        stride = self.stride
        taps = -(-width // stride)
        # Full output y[t * stride + w] += x[t] k[w]. Phase p of output frame q sums x[q - j] k[j * stride + p].
        kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
        kernel = kernel.reshape(taps, stride, in_channels, out_channels)[::-1]
        kernel = kernel.transpose(0, 2, 1, 3).reshape(taps, in_channels, stride * out_channels)
        length = (x.shape[1] - 1) * stride - 2 * self.padding + width + self.output_padding
        frames = -(-(self.padding + length) // stride)
        # Padded here: if the convolution pads, XLA swaps the operands of its kernel's gradient, 40 times slower on CPU.
        x = jnp.pad(x, ((0, 0), (taps - 1, frames - x.shape[1]), (0, 0)))
        y = _convolve(x, kernel)  # [B, frames, stride * O]
        y = y.reshape(x.shape[0], frames * stride, out_channels)[:, self.padding : self.padding + length]
        return y if self.bias is None else y + self.bias.astype(x.dtype)


def effective_kernel(module: Any) -> jax.Array:
    """The kernel a (possibly weight-normed) module convolves with."""
    return weight_normed(module.v[...], module.g[...]) if hasattr(module, "v") else module.kernel[...]


def add_kernel(module: Any, kernel: jax.Array, weight_norm: bool, per_input: bool = False) -> None:
    """Gives a layer its `kernel`, or `v` and `g` with weight norm, per output channel as torch does or per input."""
    if not weight_norm:
        module.kernel = nnx.Param(kernel)
        return
    axes = (0, 2) if per_input else (0, 1)
    norm = jnp.sqrt(jnp.sum(kernel**2, axis=axes))
    module.v = nnx.Param(kernel)
    module.g = nnx.Param(norm[:, None] if per_input else norm)


def _padding(padding: str | int, span: int) -> tuple[int, int]:
    match padding:
        case "same":
            return span // 2, span - span // 2
        case "causal":
            return span, 0
        case "valid":
            return 0, 0
        case int():
            return padding, padding
    raise ValueError(f"padding={padding!r}: use 'same', 'causal', 'valid' or a number of samples")


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x[:, None],  # [B, 1, T, I]
        kernel[None],  # [1, W, I/groups, O]
        window_strides=(1, stride),
        padding=((0, 0), padding),
        rhs_dilation=(1, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[:, 0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _broad(x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]) -> jax.Array:
    """A convolution whose kernel's gradient is one matrix product a tap: XLA's own takes 2-5 times as long on CPU."""
    return _convolve(x, kernel, 1, dilation, padding)


def _broad_forward(x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]) -> tuple[jax.Array, Any]:
    return _convolve(x, kernel, 1, dilation, padding), (x, kernel)


def _broad_backward(dilation: int, padding: tuple[int, int], kept: Any, gradient: jax.Array) -> tuple[jax.Array, Any]:
    x, kernel = kept
    (to_x,) = jax.vjp(lambda x: _convolve(x, kernel, 1, dilation, padding), x)[1](gradient)
    x, flat = jnp.pad(x, ((0, 0), padding, (0, 0))), gradient.reshape(-1, kernel.shape[-1])
    taps = [x[:, w * dilation :][:, : gradient.shape[1]] for w in range(kernel.shape[0])]
    return to_x, jnp.stack([tap.reshape(-1, x.shape[-1]).T @ flat for tap in taps])


_broad.defvjp(_broad_forward, _broad_backward)


def _as_product(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: tuple[int, int]) -> jax.Array:
    """One matrix product with the taps side by side: the way back takes a fifth less on CPU where layers are wide.

    Batch and time are one axis: over two, the kernel's gradient takes twice as long.
    """
    width, in_channels, out_channels = kernel.shape
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    length = (x.shape[1] - dilation * (width - 1) - 1) // stride + 1
    span = stride * (length - 1) + 1
    taps = jnp.concatenate([x[:, w * dilation : w * dilation + span : stride] for w in range(width)], axis=-1)
    y = taps.reshape(-1, width * in_channels) @ kernel.reshape(-1, out_channels)
    return y.reshape(*taps.shape[:-1], out_channels)  # [B, T', O]


def _grouped(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: tuple[int, int], groups: int
) -> jax.Array:
    """One convolution a group, the stride moved into the channels: `stride` neighbouring frames become one.

    The zeros ahead are left to the convolutions as far as they fill whole frames: padded here, they cost more. Of many
    small groups several make one convolution whose kernel is zero between them: 256 take XLA minutes to compile.
    """
    if groups > MOST_GROUPS and groups % MOST_GROUPS == 0:
        kernel, groups = _merged(kernel, groups, MOST_GROUPS), MOST_GROUPS
    batch, length, channels = x.shape
    width, per_group, out_channels = kernel.shape
    out_length = (length + sum(padding) - dilation * (width - 1) - 1) // stride + 1
    taps = -(-width // stride)
    ahead, odd = divmod(padding[0], stride)
    span = dilation * (taps - 1)
    frames = max(-(-(odd + length) // stride), span + 1)  # of a kernel longer than its input XLA swaps the operands
    x = jnp.pad(x, ((0, 0), (odd, frames * stride - odd - length), (0, 0)))
    kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
    behind = max(out_length, span + 1) + span - ahead - frames
    parts = [
        _convolve(
            part.reshape(batch, frames, -1),
            taken.reshape(taps, -1, out_channels // groups),
            1,
            dilation,
            (ahead, behind),
        )
        for part, taken in zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1))
    ]
    return jnp.concatenate(parts, axis=-1)[:, :out_length]


def _merged(kernel: jax.Array, groups: int, fewer: int) -> jax.Array:
    """The kernel [W, I / groups, O] of a grouped convolution as that of one with fewer groups [W, I / fewer, O]."""
    width, per_group, out_channels = kernel.shape
    count = groups // fewer
    blocks = kernel.reshape(width, per_group, fewer, count, out_channels // groups)
    blocks = jnp.einsum("wifco,cd->wdifco", blocks, jnp.eye(count, dtype=kernel.dtype))
    return blocks.reshape(width, count * per_group, out_channels)


def _depthwise(x: jax.Array, kernel: jax.Array, dilation: int, padding: tuple[int, int]) -> jax.Array:
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    length = x.shape[1] - dilation * (kernel.shape[0] - 1)
    y = x[:, :length] * kernel[0]
    for w in range(1, kernel.shape[0]):
        y = y + x[:, w * dilation : w * dilation + length] * kernel[w]
    return y
