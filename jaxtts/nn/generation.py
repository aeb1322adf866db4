"""Sample by sample: the one compiled loop of models that draw each sample from those before, and folding.

An utterance is folded into overlapping segments that are generated side by side and cross-faded (fatchord/WaveRNN
`fold_with_overlap`, `xfade_and_unfold`): a batch costs little more than one row where reading the weights takes the
time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.nn.functional import seeded_bits
from jaxtts.nn.masking import sequence_mask

Carry = Any
CHUNK_BYTES = 2**22  # of what is prepared ahead at a time


class Fold(NamedTuple):
    """How an utterance is cut.

    Attributes:
        target: samples of a segment beside its overlaps; overlap: samples shared by neighbours.
    """

    target: int = 11_000
    overlap: int = 550

    def count(self, length: int) -> int:
        """Segments of an utterance of `length` samples."""
        return max(1, -(-(length - self.overlap) // (self.target + self.overlap)))

    def there(self, lengths: jax.Array, count: int) -> jax.Array:
        """Which of `count` segments utterances of so many samples [B] have -> [B, count]; none of no samples."""
        step = self.target + self.overlap
        counts = jnp.maximum(lengths > 0, -(-(lengths - self.overlap) // step))
        return jnp.arange(count) < counts[:, None]

    def split(self, x: jax.Array) -> jax.Array:
        """[B, N, F] -> [B * count, target + 2 * overlap, F], zeros behind the end."""
        batch, length, width = x.shape
        step, count = self.target + self.overlap, self.count(length)
        x = jnp.pad(x, ((0, 0), (0, max(0, count * step + self.overlap - length)), (0, 0)))
        parts = [x[:, i * step : (i + 1) * step + self.overlap] for i in range(count)]
        return jnp.stack(parts, axis=1).reshape(batch * count, step + self.overlap, width)

    def join(
        self, waves: jax.Array, batch: int, lengths: jax.Array | None = None, *, fade_ends: bool = False
    ) -> jax.Array:
        """[B * count, target + 2 * overlap] -> [B, count * (target + overlap) + overlap].

        Half an overlap a segment warms up unheard, over the other half neighbours are cross-faded at equal power.

        Args:
            lengths: samples [B], so that an utterance comes out as it does alone: it has no segments behind its end.
            fade_ends: the first segment warms up unheard too and the last one fades out, as in the reference; else
                both are heard whole.
        """
        silent = self.overlap // 2
        t = np.linspace(-1, 1, self.overlap - silent)
        rise = np.concatenate([np.zeros(silent), np.sqrt(0.5 * (1 + t))]).astype(np.float32)
        fall = np.concatenate([np.ones(silent), np.sqrt(0.5 * (1 - t))]).astype(np.float32)
        step = self.target + self.overlap
        waves = waves.reshape(batch, -1, step + self.overlap)  # [B, count, L]
        number = jnp.arange(waves.shape[1])
        there = jnp.ones(waves.shape[:2], bool) if lengths is None else self.there(lengths, waves.shape[1])
        last = there & (number == there.sum(axis=1, keepdims=True) - 1)
        heard, first, last = (x[..., None] for x in (there, number == 0, last))
        if fade_ends:
            first = last = False
        waves = jnp.where(heard, waves, 0.0)
        opening = waves[..., : self.overlap] * jnp.where(first, 1.0, rise)
        tail = waves[..., step:] * jnp.where(last, 1.0, fall)
        opening = opening.at[:, 1:].add(tail[:, :-1])
        body = jnp.concatenate([opening, waves[..., self.overlap : step]], axis=-1)
        return jnp.concatenate([body.reshape(batch, -1), tail[:, -1]], axis=1)


def segment_seeds(seeds: jax.Array | None, count: int) -> jax.Array | None:
    """Seeds [B] of utterances -> [B * count] of their segments, each a hash of the utterance's seed and its number."""
    return None if seeds is None else seeded_bits(seeds, 0, count).ravel()


def folded(
    drawn: Callable[[jax.Array, jax.Array | None], jax.Array],
    cond: jax.Array,
    lengths: jax.Array | None,
    seeds: jax.Array | None,
    fold: Fold | None,
) -> jax.Array:
    """The wave [B, N] that `drawn(cond, seeds)` makes of cond [B, N, F], in folds if there is one.

    Args:
        lengths: samples [B]; seeds: uint32 [B].
    """
    batch, samples, _ = cond.shape
    if fold is None:
        return drawn(cond, seeds)
    cond = fold.split(cond)
    waves = drawn(cond, segment_seeds(seeds, cond.shape[0] // batch))
    return fold.join(waves, batch, lengths)[:, :samples]


def heard(wave: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """A wave [B, N] within [-1, 1], zero behind the lengths (samples)."""
    wave = jnp.clip(wave, -1.0, 1.0)
    return wave if lengths is None else jnp.where(sequence_mask(lengths, wave.shape[1]), wave, 0.0)


def generate(
    step: Callable[[Carry, jax.Array, Any], tuple[Carry, jax.Array]],
    sample: Callable[[jax.Array, jax.Array], jax.Array],
    carry: Carry,
    start: jax.Array,
    cond: jax.Array,
    *,
    prepare: Callable[[jax.Array], jax.Array] = lambda cond: cond,
    width: int = 1,
) -> jax.Array:
    """Values [B, N], each drawn after the one before.

    Args:
        step: carry, the value before [B] and what was prepared of its place [B, P] -> carry, parameters [B, K].
        sample: parameters [B, K] and the place, int32 -> values [B].
        start: the value before the first [B].
        cond: [B, N, F].
        prepare: of some places at a time [n, B, F] -> [n, B, P], one product in place of one a step.
        width: P, which tells how many places are prepared at a time.
    """

    def some(state: Any, places: jax.Array, cond: jax.Array) -> Any:
        prepared = prepare(cond)

        def one(state: Any, number: jax.Array) -> Any:  # XLA vectorises no loop that looks up itself what is prepared
            carry, before, now = state
            carry, params = step(carry, before, now)
            value = sample(params, places[0] + number)
            return (carry, value, jax.lax.dynamic_index_in_dim(prepared, number + 1, 0, False)), value

        (carry, before, _), values = jax.lax.scan(one, (*state, prepared[0]), jnp.arange(len(places)))
        return (carry, before), values

    return in_chunks(some, (carry, start), cond, 4 * width, CHUNK_BYTES)


def in_chunks(
    some: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]],
    state: Any,
    cond: jax.Array,
    width: int,
    most: int,
) -> jax.Array:
    """Values [B, N] that `some` makes, a chunk of places after the other.

    Args:
        some: state, places [n] and their cond [n, B, F] -> state, values [n, B].
        state: before the first place.
        cond: [B, N, F].
        width: bytes that a place of one item takes; most: that a chunk may take.
    """
    batch, length, features = cond.shape
    chunk = int(np.clip(most // (width * batch), 1, max(length, 1)))
    chunk = 1 << (chunk.bit_length() - 1)
    count = -(-length // chunk)
    cond = jnp.pad(cond.swapaxes(0, 1), ((0, count * chunk - length), (0, 0), (0, 0)))
    cond = cond.reshape(count, chunk, batch, features)
    places = jnp.arange(count * chunk, dtype=jnp.int32).reshape(count, chunk)
    _, values = jax.lax.scan(lambda state, inputs: some(state, *inputs), state, (places, cond))  # [count, chunk, B]
    return values.reshape(-1, batch)[:length].T
