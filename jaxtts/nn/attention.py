"""Self-attention with relative positions (arXiv 1803.02155) and the Transformer encoder of Glow-TTS and VITS."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import dropout, remat, split_key
from jaxtts.nn.masking import masked_fill
from jaxtts.nn.normalization import LayerNorm


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Glorot's uniform initialisation of a kernel [W, I, O]."""
    return nnx.initializers.xavier_uniform()(key, shape, dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention; positions enter as one embedding per distance, shared by the heads.

    Distances beyond `window` add nothing. Parameters `query`, `key`, `value`, `out` (1x1 convolutions) and, with a
    window, `key_positions`, `value_positions` [2 * window + 1, D], entry r standing for the key r - window symbols on.
    """

    def __init__(
        self, channels: int, num_heads: int, *, window: int | None = None, dropout: float = 0.0, rngs: nnx.Rngs
    ):
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide channels={channels}")
        self.num_heads, self.window, self.dropout = num_heads, window, dropout
        self.query = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.key = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.value = Conv1d(channels, channels, kernel_init=xavier_uniform, rngs=rngs)
        self.out = Conv1d(channels, channels, rngs=rngs)
        if window is not None:
            shape = (2 * window + 1, channels // num_heads)
            scale = shape[1] ** -0.5
            self.key_positions = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
            self.value_positions = nnx.Param(scale * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], finite everywhere, mask [B, S] -> [B, S, C]; padded rows hold numbers of no meaning."""
        batch, length, channels = x.shape
        heads = (batch, length, self.num_heads, channels // self.num_heads)
        q = self.query(x).reshape(heads) * heads[-1] ** -0.5
        k, v = self.key(x).reshape(heads), self.value(x).reshape(heads)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k)
        if self.window is not None:
            near = jnp.einsum("bihd,rd->bhir", q, self.key_positions[...].astype(x.dtype))
            scores = scores + _by_position(near, self.window)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.asarray(-1e4, scores.dtype))
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(x.dtype)
        weights = dropout(weights, self.dropout, key)
        y = jnp.einsum("bhij,bjhd->bihd", weights, v)
        if self.window is not None:
            near = _by_distance(weights, self.window)
            y = y + jnp.einsum("bhir,rd->bihd", near, self.value_positions[...].astype(x.dtype))
        return self.out(y.reshape(x.shape))


class TransformerEncoder(nnx.Module):
    """Post-norm Transformer whose feed-forward layers are convolutions (arXiv 2005.11129 appendix A.1).

    Args:
        window: reach of the relative positions, None for none.
        eps: of the layer norms.
        remat: keep the layers' inputs alone for the way back.
    """

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        num_heads: int,
        num_layers: int,
        kernel_size: int,
        *,
        window: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-5,
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        args = (channels, ffn_channels, num_heads, kernel_size, window, dropout, eps)
        self.layers = nnx.List([TransformerLayer(*args, rngs=rngs) for _ in range(num_layers)])

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], mask [B, S] -> [B, S, C], zero in the padding."""
        x = masked_fill(x, mask)
        for layer, k in zip(self.layers, split_key(key, len(self.layers))):
            x = remat(layer, self.remat)(x, mask, key=k)
        return x


class TransformerLayer(nnx.Module):
    """Attention, then two convolutions with ReLU, each added to its input and normalised."""

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        num_heads: int,
        kernel_size: int,
        window: int | None,
        dropout: float,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.attention = SelfAttention(channels, num_heads, window=window, dropout=dropout, rngs=rngs)
        self.attention_norm = LayerNorm(channels, eps=eps)
        self.ffn_in = Conv1d(channels, ffn_channels, kernel_size, rngs=rngs)
        self.ffn_out = Conv1d(ffn_channels, channels, kernel_size, rngs=rngs)
        self.ffn_norm = LayerNorm(channels, eps=eps)

    def __call__(self, x: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """x [B, S, C], zero in the padding, mask [B, S] -> the same."""
        keys = split_key(key, 4)
        y = self.attention(x, mask, key=keys[0])
        x = masked_fill(self.attention_norm(x + dropout(y, self.dropout, keys[1])), mask)
        y = dropout(jax.nn.relu(self.ffn_in(x)), self.dropout, keys[2])
        y = self.ffn_out(masked_fill(y, mask))
        return masked_fill(self.ffn_norm(x + dropout(y, self.dropout, keys[3])), mask)


def _by_position(near: jax.Array, window: int) -> jax.Array:
    """[B, H, S, 2w + 1] by distance -> [B, H, S, S] by key, 0 beyond the window.

    Rows padded to a width of S + 2w + 1 and read back with a width of S + 2w slide right by one more each row.
    """
    batch, heads, length, _ = near.shape
    x = jnp.pad(near, ((0, 0), (0, 0), (0, 0), (0, length)))
    x = x.reshape(batch, heads, -1)[..., : length * (length + 2 * window)]
    return x.reshape(batch, heads, length, -1)[..., window : window + length]


def _by_distance(weights: jax.Array, window: int) -> jax.Array:
    """[B, H, S, S] by key -> [B, H, S, 2w + 1] by distance: the inverse of `_by_position` within the window."""
    batch, heads, length, _ = weights.shape
    x = jnp.pad(weights, ((0, 0), (0, 0), (0, 0), (window, window))).reshape(batch, heads, -1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, length)))
    return x.reshape(batch, heads, length, -1)[..., : 2 * window + 1]
