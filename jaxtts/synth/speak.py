"""Text to wave as one compiled function per bucket: encoder, durations and their expansion, decoder, vocoder.

A bucket is a number of sentences, symbols and frames; there are few of each. How many frames a sentence takes is known
only when it is spoken, so the bucket is chosen from a bound that the voice knows (frames per symbol), and a sentence
that fills it is spoken again in the next one: nothing is ever cut off. Every sentence draws its own noise from the seed
and its place in its text, frame by frame, and both models mask what lies behind a sentence's end; so what is heard
depends neither on the bucket nor on the company.
"""

import json
import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtts.config import from_dict
from jaxtts.registry import module
from jaxtts.synth import executables
from jaxtts.synth.folder import Half, VoiceFiles
from jaxtts.synth.voice import Piece

log = logging.getLogger(__name__)

BATCHES = (1, 4, 16)
SYMBOLS = (16, 32, 64, 128, 256, 512)
FRAMES = tuple(sorted([2**k for k in range(6, 17)] + [3 * 2**k for k in range(5, 15)]))
MAX_BATCH_FRAMES = 1 << 14  # frames of a whole batch: bounds the memory of a large vocoder
HEADROOM = 1.15  # on the voice's own frames per symbol
MAX_FRAMES_PER_SYMBOL = 256


class Spoken(NamedTuple):
    """One spoken sentence: wave [N], mel [T, M], frames of each symbol [S]."""

    wave: np.ndarray
    mel: np.ndarray
    durations: np.ndarray


class Speaker:
    """The compiled side of a voice: weights on the device, one function per bucket."""

    def __init__(self, files: VoiceFiles):
        self.files = files
        executables.use_persistent_cache()
        halves = {"acoustic": files.acoustic, "vocoder": files.vocoder}
        tensors = {f"{part}.{name}": x for part, half in halves.items() for name, x in half.tensors.items()}
        self._names = sorted(tensors)
        self._weights: list[jax.Array] = jax.device_put([widened(tensors[n]) for n in self._names], jax.devices()[0])
        self._functions: dict[tuple[int, int, int], executables.Run] = {}
        self._fingerprint = json.dumps([[h.model, h.config] for h in halves.values()] + [self._names], sort_keys=True)

    def speak(
        self, lines: Sequence[Piece], *, speaker: int, length_scale: float, noise_scale: float, seed: int
    ) -> list[Spoken]:
        """Speaks sentences, many at once, in the order given.

        Raises:
            ValueError: the weights do not fit the models, or the voice wants absurdly many frames.
        """
        done: dict[int, Spoken] = {}
        rate = self.files.frames_per_symbol * HEADROOM * length_scale
        waiting = {i: at_least(FRAMES, rate * len(line.ids)) for i, line in enumerate(lines)}
        scales = (speaker, length_scale, noise_scale, seed)
        while waiting:
            buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
            for i, frames in waiting.items():
                buckets[at_least(SYMBOLS, len(lines[i].ids)), frames].append(i)
            waiting = {}
            for (symbols, frames), members in buckets.items():
                for part in _batches(members, frames):
                    for i, spoken in zip(part, self._batch([lines[i] for i in part], symbols, frames, *scales)):
                        if spoken is not None:
                            done[i] = spoken
                            continue
                        log.info("sentence of %d symbols fills %d frames", len(lines[i].ids), frames)
                        waiting[i] = _next_frames(frames, len(lines[i].ids), length_scale)
        return [done[i] for i in range(len(lines))]

    def _batch(
        self,
        lines: list[Piece],
        symbols: int,
        frames: int,
        speaker: int,
        length_scale: float,
        noise_scale: float,
        seed: int,
    ) -> list[Spoken | None]:
        """One call; None for each sentence that fills the bucket and so may be cut off."""
        batch, bins = at_least(BATCHES, len(lines)), self.files.acoustic.mel.num_bins
        text, noise = np.zeros((batch, symbols), np.int32), np.zeros((batch, frames, bins), np.float32)
        rows = [lines[min(b, len(lines) - 1)] for b in range(batch)]  # rows too many repeat the last one
        for b, line in enumerate(rows):
            text[b, : len(line.ids)] = line.ids
            if noise_scale and b < len(lines):
                noise[b] = np.random.default_rng((seed, line.index)).standard_normal((frames, bins), np.float32)
        lengths = np.array([len(line.ids) for line in rows], np.int32)
        inputs = [text, lengths, np.full(batch, speaker, np.int32), noise]
        inputs += [np.full(batch, x, np.float32) for x in (noise_scale, length_scale)]
        wave, mel, mel_lengths, durations = map(np.asarray, self._function(batch, symbols, frames, inputs)(
            [*self._weights, *jax.device_put(inputs, jax.devices()[0])]
        ))  # fmt: skip
        hop = self.files.vocoder.mel.hop_length
        return [
            Spoken(wave[b, : n * hop], mel[b, :n], durations[b, : len(line.ids)]) if n < frames - 1 else None
            for b, (line, n) in enumerate(zip(lines, mel_lengths))
        ]

    def _function(self, batch: int, symbols: int, frames: int, inputs: list[np.ndarray]) -> executables.Run:
        bucket = (batch, symbols, frames)
        if bucket not in self._functions:
            name = f"{self.files.name}: {batch} x {symbols} symbols, {frames} frames"
            arrays = [*self._weights, *inputs]
            self._functions[bucket] = executables.get(name, self._fingerprint, lambda: self._build(frames), arrays)
        return self._functions[bucket]

    def _build(self, frames: int) -> Any:
        """f(*weights, text, lengths, speaker, noise, noise_scale, length_scale) -> wave, mel, lengths, durations."""
        from jaxtts.nn import functional  # imports flax, which a warm start does without

        acoustic, vocoder = (checked_structure(half) for half in (self.files.acoustic, self.files.vocoder))
        several, count = len(self.files.speakers) > 1, len(self._names)

        def text_to_wave(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            tree = functional.nested(dict(zip(self._names, arrays[:count])))
            text, lengths, speaker, noise, noise_scale, length_scale = arrays[count:]
            mel, mel_lengths, alignment = functional.merge(acoustic, tree["acoustic"]).infer(
                text, lengths, max_frames=frames, noise_scale=noise_scale, length_scale=length_scale,
                speaker=speaker if several else None, noise=noise,
            )  # fmt: skip
            wave = functional.merge(vocoder, tree["vocoder"]).infer(mel, mel_lengths)  # [B, T * hop]
            return wave, mel, mel_lengths, alignment.sum(axis=1).astype("int32")

        return text_to_wave


def checked_structure(half: Half) -> Any:
    """The structure that a model's tensors merge into.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; all are listed.
    """
    from jaxtts.nn import functional

    models = module(half.model)
    # A stand-in for nnx.Rngs, whose counter takes most of the time of an abstract initialisation.
    key = jax.random.key(0)
    rngs = SimpleNamespace(params=lambda: key)
    try:
        config = from_dict(models.Config, half.config)
        structure, params, _ = functional.structure(lambda: models.Model(config, rngs=rngs))
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"the configuration of {half.model} is damaged ({error})") from error
    wanted = {name: tuple(x.shape) for name, x in functional.named(params).items()}
    found = {name: tuple(x.shape) for name, x in half.tensors.items()}
    faults = [f"{n} is missing" for n in sorted(wanted.keys() - found.keys())]
    faults += [f"{n} is unexpected" for n in sorted(found.keys() - wanted.keys())]
    faults += [f"{n} is {found[n]}, not {wanted[n]}" for n in sorted(wanted) if found.get(n, wanted[n]) != wanted[n]]
    if faults:
        raise ValueError(f"weights do not fit {half.model}: {'; '.join(faults)}")
    return structure


def widened(tensor: np.ndarray) -> np.ndarray:
    """float32, however a voice stores its numbers."""
    return np.asarray(tensor, np.float32) if tensor.dtype.kind == "f" else tensor


def at_least(sizes: Sequence[int], wanted: float) -> int:
    """The smallest of the ascending sizes that is not below `wanted`."""
    place = bisect_left(sizes, wanted)
    if place == len(sizes):
        raise ValueError(f"{wanted:.0f} is beyond the largest bucket, {sizes[-1]}: use a smaller length_scale")
    return sizes[place]


def _next_frames(frames: int, symbols: int, length_scale: float) -> int:
    if frames > MAX_FRAMES_PER_SYMBOL * symbols * max(1.0, length_scale):
        raise ValueError(
            f"the voice wants more than {frames} frames for {symbols} symbols: it is not trained well enough to speak"
        )
    return at_least(FRAMES, frames + 1)


def _batches(members: list[int], frames: int) -> list[list[int]]:
    """Cuts a list into pieces of the largest batch sizes that fill up."""
    sizes = [n for n in BATCHES if n * frames <= MAX_BATCH_FRAMES] or [1]
    parts = []
    while members:
        size = max(n for n in sizes if n <= len(members))
        parts.append(members[:size])
        members = members[size:]
    return parts
