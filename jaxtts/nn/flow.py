"""Invertible layers over frames: those of Glow (arXiv 1807.03039: squeeze, ActNorm, 1x1 convolution, affine coupling)
and the inverse autoregressive one.

Each layer has `forward(x, mask, cond, *, key) -> z, log_det [B]` and `inverse(z, mask, cond) -> x`, with x, z
[B, T, C] zero in the padding and mask bool [B, T]. What is inverted is kept in float32; only the network inside a
coupling runs in its `dtype`.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.conv import Conv1d
from jaxtts.nn.masking import masked_fill
from jaxtts.nn.wavenet import WaveNet


def squeeze(x: jax.Array, mask: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """[B, T, C] -> [B, T // factor, factor * C], earlier frames in the lower channels; mask [B, T // factor].

    Frames that do not fill a group are cut off, also at the end of an item.
    """
    batch, length, channels = x.shape
    length = length // factor
    mask = mask[:, factor - 1 :: factor][:, :length]
    x = x[:, : length * factor].reshape(batch, length, factor * channels)
    return masked_fill(x, mask), mask


def unsqueeze(x: jax.Array, mask: jax.Array, factor: int) -> tuple[jax.Array, jax.Array]:
    """The inverse of `squeeze`: [B, T, C] -> [B, T * factor, C // factor]."""
    batch, length, channels = x.shape
    return x.reshape(batch, length * factor, channels // factor), jnp.repeat(mask, factor, axis=1)


class ActNorm(nnx.Module):
    """z = bias + exp(log_scale) * x for each channel. Parameters `log_scale` [C], `bias` [C]."""

    def __init__(self, channels: int):
        self.log_scale = nnx.Param(jnp.zeros((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def initialize(self, x: jax.Array, mask: jax.Array) -> None:
        """Sets the parameters so that z has mean 0 and variance 1 over the real frames of this batch."""
        count = jnp.maximum(jnp.sum(mask), 1)
        x = masked_fill(x.astype(jnp.float32), mask)
        mean = jnp.sum(x, axis=(0, 1)) / count
        variance = jnp.sum(x * x, axis=(0, 1)) / count - mean**2
        log_scale = -0.5 * jnp.log(jnp.maximum(variance, 1e-6))
        self.log_scale[...] = log_scale
        self.bias[...] = -mean * jnp.exp(log_scale)

    def forward(self, x, mask, cond=None, *, key=None) -> tuple[jax.Array, jax.Array]:
        """See the module docstring; cond and key are not used."""
        z = masked_fill(self.bias[...] + jnp.exp(self.log_scale[...]) * x, mask)
        return z, jnp.sum(self.log_scale[...]) * jnp.sum(mask, axis=1)

    def inverse(self, z, mask, cond=None) -> jax.Array:
        """See the module docstring."""
        return masked_fill((z - self.bias[...]) * jnp.exp(-self.log_scale[...]), mask)


class GroupedInvertibleConv(nnx.Module):
    """One small matrix that mixes channels within groups (arXiv 2005.11129 appendix A.1, figure 5).

    A group takes `num_splits // 2` neighbouring channels from each half of the channels, so that the halves of the
    coupling that follows are mixed. Parameter `weight` [num_splits, num_splits], z = weight @ x in each group; it
    starts as a random rotation. With `inverse_only` the parameter is `inverse_weight` (`functional.store_inverse`
    makes it) and there is no `forward`: linear algebra on a matrix this small costs little but the loading of LAPACK.
    Applied as one dense [C, C] product, which costs less than moving the channels.
    """

    def __init__(self, channels: int, num_splits: int, *, inverse_only: bool = False, rngs: nnx.Rngs):
        if num_splits % 2 or channels % num_splits:
            raise ValueError(f"num_splits={num_splits} must be even and divide the squeezed channels={channels}")
        self.groups = channels // num_splits
        if inverse_only:
            self.inverse_weight = nnx.Param(jnp.eye(num_splits))
            return
        weight, _ = jnp.linalg.qr(jax.random.normal(rngs.params(), (num_splits, num_splits)))
        self.weight = nnx.Param(weight.at[:, 0].multiply(jnp.sign(jnp.linalg.det(weight))))

    def forward(self, x, mask, cond=None, *, key=None) -> tuple[jax.Array, jax.Array]:
        """See the module docstring; cond and key are not used."""
        if not hasattr(self, "weight"):
            raise ValueError("inverse_only=True holds no forward direction: use the training checkpoint's parameters")
        log_det = jnp.linalg.slogdet(self.weight[...])[1] * self.groups
        return self._apply(x, self.weight[...], mask), log_det * jnp.sum(mask, axis=1)

    def inverse(self, z, mask, cond=None) -> jax.Array:
        """See the module docstring."""
        stored = hasattr(self, "inverse_weight")
        return self._apply(z, self.inverse_weight[...] if stored else jnp.linalg.inv(self.weight[...]), mask)

    def _apply(self, x: jax.Array, weight: jax.Array, mask: jax.Array) -> jax.Array:
        half = weight.shape[0] // 2
        weight = weight.reshape(2, half, 2, half)  # out (half, k), in (half, k)
        kernel = jnp.einsum("pqhk,gf->hgkpfq", weight, jnp.eye(self.groups))
        kernel = kernel.reshape(x.shape[-1], x.shape[-1])  # [C in, C out], channel = (half, group, k)
        return masked_fill(jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST), mask)


class AffineCoupling(nnx.Module):
    """z = [x0, shift(x0) + exp(log_scale(x0)) * x1], the halves of the channels x0, x1; starts as the identity.

    Args:
        hidden_channels: of the WaveNet stack that predicts shift and scale.
        mean_only: shift alone, log_scale = 0: the volume is preserved (VITS).
        plain_start: the first layer has no weight norm (VITS).
        sigmoid_scale: log_scale = log(1e-6 + sigmoid(output + 2)) in place of the output itself.
        dtype: of the network inside.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        kernel_size: int,
        num_layers: int,
        *,
        dilation: int = 1,
        cond_channels: int = 0,
        dropout: float = 0.0,
        mean_only: bool = False,
        plain_start: bool = False,
        sigmoid_scale: bool = False,
        weight_norm: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.mean_only, self.sigmoid_scale, self.dtype = mean_only, sigmoid_scale, dtype
        self.start = Conv1d(channels // 2, hidden_channels, weight_norm=weight_norm and not plain_start, rngs=rngs)
        self.wavenet = WaveNet(
            hidden_channels,
            kernel_size,
            num_layers,
            dilation=dilation,
            cond_channels=cond_channels,
            dropout=dropout,
            weight_norm=weight_norm,
            rngs=rngs,
        )
        outputs = channels // 2 if mean_only else channels
        self.end = Conv1d(hidden_channels, outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.end.bias = nnx.Param(jnp.zeros((outputs,)))

    def forward(self, x, mask, cond=None, *, key=None) -> tuple[jax.Array, jax.Array]:
        """See the module docstring."""
        x0, x1 = jnp.split(x, 2, axis=-1)
        shift, log_scale = self.affine(x0, mask, cond, key)
        z1 = masked_fill(shift + jnp.exp(log_scale) * x1, mask)
        return jnp.concatenate([x0, z1], axis=-1), jnp.sum(masked_fill(log_scale, mask), axis=(1, 2))

    def inverse(self, z, mask, cond=None) -> jax.Array:
        """See the module docstring."""
        z0, z1 = jnp.split(z, 2, axis=-1)
        shift, log_scale = self.affine(z0, mask, cond)
        return jnp.concatenate([z0, masked_fill((z1 - shift) * jnp.exp(-log_scale), mask)], axis=-1)

    def affine(self, x0, mask, cond=None, key=None) -> tuple[jax.Array, jax.Array]:
        """What the first half [B, T, C / 2] does to the second: shift, log_scale [B, T, C / 2], float32."""
        h = masked_fill(self.start(x0.astype(self.dtype)), mask)
        h = self.end(self.wavenet(h, mask, cond, key=key)).astype(jnp.float32)
        if self.mean_only:
            return h, jnp.zeros_like(h)
        shift, log_scale = jnp.split(h, 2, axis=-1)
        if self.sigmoid_scale:
            log_scale = jnp.log(1e-6 + jax.nn.sigmoid(log_scale + 2))
        return shift, log_scale


class InverseAutoregressive(nnx.Module):
    """x_n = shift_n + exp(log_scale_n) * z_n, both of the z before n (arXiv 1606.04934 sec. 4); one step in parallel.

    What is quick is `inverse`, from latent to sample. The way back solves the same equations from the front: a round of
    the network makes at least one more place final, and rounds end when nothing changes.

    Args:
        network: f([B, N, C], cond) -> [B, N, 2 * C], causal: place n of what it gives depends on the places up to n.
            Shift and log scale of n + 1 are read there; of the first place both are zero.
    """

    def __init__(self, network: nnx.Module):
        self.network = network

    def affine(self, z: jax.Array, cond: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Shift and log scale [B, N, C] that z [B, N, C] leads to, float32."""
        told = jnp.pad(self.network(z, cond)[:, :-1].astype(jnp.float32), ((0, 0), (1, 0), (0, 0)))
        shift, log_scale = jnp.split(told, 2, axis=-1)
        return shift, log_scale

    def inverse(self, z, mask=None, cond=None) -> jax.Array:
        """See the module docstring."""
        shift, log_scale = self.affine(z, cond)
        x = shift + jnp.exp(log_scale) * z
        return x if mask is None else masked_fill(x, mask)

    def forward(self, x, mask=None, cond=None, *, key=None) -> tuple[jax.Array, jax.Array]:
        """See the module docstring; key is not used. It has no gradient: the number of rounds is not known ahead."""

        def unlike(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            z, before, rounds = state
            return (rounds < x.shape[1]) & jnp.any(z != before)

        def again(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            z, _, rounds = state
            shift, log_scale = self.affine(z, cond)
            return (x - shift) * jnp.exp(-log_scale), z, rounds + 1

        z, _, _ = jax.lax.while_loop(unlike, again, again((x, x, jnp.zeros((), jnp.int32))))
        _, log_scale = self.affine(z, cond)
        if mask is not None:
            z, log_scale = masked_fill(z, mask), masked_fill(log_scale, mask)
        return z, -jnp.sum(log_scale, axis=(1, 2))
