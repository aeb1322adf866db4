"""The pre-net of the Tacotrons (arXiv 1703.10135 table 1): linear layers with ReLU and dropout that is never off."""

import jax
from flax import nnx

from jaxtts.nn.attention import xavier_uniform
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import dropout, seeded_dropout, split_key


class Prenet(nnx.Module):
    """Layers of these widths. The randomness is an argument: a key for whole sequences, seeds in a loop."""

    def __init__(self, in_dim: int, widths: tuple[int, ...], *, rate: float = 0.5, bias: bool = True, rngs: nnx.Rngs):
        self.rate = rate
        sizes = zip((in_dim, *widths[:-1]), widths)
        self.layers = nnx.List([Conv1d(i, o, bias=bias, kernel_init=xavier_uniform, rngs=rngs) for i, o in sizes])

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """[..., I] -> [..., O]; no dropout without a key."""
        for layer, k in zip(self.layers, split_key(key, len(self.layers))):
            x = dropout(jax.nn.relu(layer(x)), self.rate, k)
        return x

    def step(self, x: jax.Array, seeds: jax.Array | None, step: jax.Array) -> jax.Array:
        """[B, I] -> [B, O] in the loop's given step; item b's dropout depends on seeds[b] (uint32 [B]) and the step."""
        count = len(self.layers)
        for i, layer in enumerate(self.layers):
            x = seeded_dropout(jax.nn.relu(layer(x)), self.rate, seeds, step * count + i)
        return x
