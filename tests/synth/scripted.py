"""An autoregressive acoustic model whose failures are known: letters of the text bring them about.

It reads `pace` frames of each symbol. An 'x' in the text: it never ends, as by `flaky` for all seeds but one in four.
A 'q': it leaves out that symbol and the five behind it. A 'z': it reads the nine symbols up to it twice.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.text.symbols import CHARACTERS

SKIPPED, REPEATED = 6, 9


@dataclass(frozen=True)
class Config:
    """As small as can be."""

    num_symbols: int = len(CHARACTERS)
    num_mels: int = 10
    pace: int = 4
    flaky: bool = False
    receptive_field: int = 0


class Model(nnx.Module):
    """One table: each symbol's frames."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.table = nnx.Param(jax.random.normal(rngs.params(), (config.num_symbols, config.num_mels)))

    def infer(self, text, text_lengths, *, max_frames, seeds=None, speaker=None):
        """The contract of autoregressive models."""
        place = jnp.arange(max_frames)[None] // self.config.pace  # [1, T]
        symbols = jnp.arange(text.shape[1])

        def first(letter):
            found = (text == CHARACTERS.index(letter)) & (symbols < text_lengths[:, None])
            return found.any(axis=1), found.argmax(axis=1)[:, None]

        skips, q = first("q")
        repeats, z = first("z")
        endless, _ = first("x")
        skips, repeats = skips[:, None], repeats[:, None]
        read = jnp.where(skips & (place >= q), place + SKIPPED, place)
        read = jnp.where(repeats & (place > z), place - REPEATED, read)
        count = text_lengths[:, None] - SKIPPED * skips + REPEATED * repeats
        if self.config.flaky:
            endless |= seeds % 4 != 0
        lengths = jnp.where(endless, max_frames, jnp.minimum(self.config.pace * count[:, 0], max_frames))
        mask = sequence_mask(lengths, max_frames)
        read = jnp.clip(read, 0, text_lengths[:, None] - 1)
        alignment = masked_fill(jax.nn.one_hot(read, text.shape[1]), mask)
        drawn = (seeds % 1000)[:, None, None].astype(jnp.float32) / 1000
        mel = alignment @ self.table[...][text] + drawn
        return masked_fill(mel, mask), lengths, alignment
