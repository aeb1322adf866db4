"""Text to wave as one compiled function per bucket: encoder, durations and their expansion, decoder, vocoder.

A bucket is a number of sentences, symbols and frames; there are few of each. How many frames a sentence takes is known
only when it is spoken, so the bucket is chosen from a bound that the voice knows (frames per symbol), and a sentence
that fills it is spoken again in the next one: nothing is ever cut off. Every sentence draws its own noise from the seed
and its place in its text, frame by frame, and both models mask what lies behind a sentence's end; so what is heard
depends neither on the bucket nor on the company.
"""

import json
import logging
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
CHUNK = 64  # frames that a stream gives at once


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
        self._halves = {"acoustic": files.acoustic, "vocoder": files.vocoder}
        self._names = {part: sorted(half.tensors) for part, half in self._halves.items()}
        self._weights: dict[str, list[jax.Array]] = {
            part: jax.device_put([widened(half.tensors[n]) for n in self._names[part]], jax.devices()[0])
            for part, half in self._halves.items()
        }
        self._functions: dict[Any, executables.Run] = {}
        self._lock = threading.Lock()

    def speak(self, lines: Sequence[Piece]) -> list[Spoken]:
        """Speaks sentences, many at once, in the order given.

        Raises:
            ValueError: the weights do not fit the models, or the voice wants absurdly many frames.
        """
        done: dict[int, Spoken] = {}
        waiting = {i: self._frames(line) for i, line in enumerate(lines)}
        while waiting:
            buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
            for i, frames in waiting.items():
                buckets[at_least(SYMBOLS, len(lines[i].ids)), frames].append(i)
            waiting = {}
            for (symbols, frames), members in buckets.items():
                for part in _batches(members, frames):
                    inputs = self._inputs([lines[i] for i in part], at_least(BATCHES, len(part)), symbols, frames)
                    wave, mel, lengths, durations = self._call(("acoustic", "vocoder"), inputs)
                    for b, i in enumerate(part):
                        n, hop = lengths[b], self.files.vocoder.mel.hop_length
                        if n < frames - 1:
                            done[i] = Spoken(wave[b, : n * hop], mel[b, :n], durations[b, : len(lines[i].ids)])
                        else:  # it fills the bucket and so may be cut off
                            waiting[i] = _next_frames(frames, lines[i])
        return [done[i] for i in range(len(lines))]

    def stream(self, line: Piece) -> Iterator[np.ndarray]:
        """Speaks one sentence bit by bit: the samples that `speak` gives, CHUNK frames at a time.

        A sample depends on the frames around it and no others (`receptive_field` of either model). So a long sentence
        is spoken from its beginning only as far as the first chunk needs, then whole, and the vocoder sees a chunk
        with the frames around it: the first chunk takes the same time whatever the sentence's length.
        """
        acoustic, vocoder = (self._receptive_field(part) for part in self._halves)
        frames, start = at_least(FRAMES, CHUNK + vocoder + acoustic), 0
        mel, ended = self._mel(line, frames)
        if not ended:
            yield self._window(mel, 0, vocoder)
            start = CHUNK
        while not ended:
            frames = max(self._frames(line), _next_frames(frames, line))
            mel, ended = self._mel(line, frames)
        for first in range(start, len(mel), CHUNK):
            yield self._window(mel, first, vocoder)

    def _mel(self, line: Piece, frames: int) -> tuple[np.ndarray, bool]:
        """The first frames of a sentence [T, M], and whether that is all of it."""
        inputs = self._inputs([line], 1, at_least(SYMBOLS, len(line.ids)), frames)
        mel, lengths, _ = self._call(("acoustic",), inputs)
        return mel[0, : lengths[0]], bool(lengths[0] < frames - 1)

    def _window(self, mel: np.ndarray, start: int, reach: int) -> np.ndarray:
        """The samples of CHUNK frames from `start` on, fewer at the end, from a mel [T, M]."""
        first, hop = max(0, start - reach), self.files.vocoder.mel.hop_length
        window = np.zeros((1, CHUNK + 2 * reach, mel.shape[1]), np.float32)
        given = mel[first : first + window.shape[1]]
        window[0, : len(given)] = given
        (wave,) = self._call(("vocoder",), [window, np.array([len(given)], np.int32)])
        return wave[0, (start - first) * hop : min(start - first + CHUNK, len(given)) * hop]

    def _frames(self, line: Piece) -> int:
        """The bucket of frames that a sentence should fit in."""
        return at_least(FRAMES, self.files.frames_per_symbol * HEADROOM * float(line.scales.sum()))

    def _inputs(self, lines: list[Piece], batch: int, symbols: int, frames: int) -> list[np.ndarray]:
        """Arguments of the acoustic model; rows too many repeat the last one."""
        text, scales = np.zeros((batch, symbols), np.int32), np.ones((batch, symbols), np.float32)
        noise = np.zeros((batch, frames, self.files.acoustic.mel.num_bins), np.float32)
        rows = [lines[min(b, len(lines) - 1)] for b in range(batch)]
        for b, line in enumerate(rows):
            text[b, : len(line.ids)], scales[b, : len(line.ids)] = line.ids, line.scales
            if line.manner.noise_scale and b < len(lines):
                rng = np.random.default_rng((line.manner.seed, line.index))
                noise[b] = rng.standard_normal(noise.shape[1:], np.float32)
        lengths = np.array([len(line.ids) for line in rows], np.int32)
        speaker = np.array([line.manner.speaker for line in rows], np.int32)
        return [text, lengths, speaker, noise, np.array([line.manner.noise_scale for line in rows], np.float32), scales]

    def _call(self, parts: tuple[str, ...], inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the compiled function of one half or of both on a bucket's inputs."""
        arrays = [*(w for part in parts for w in self._weights[part]), *jax.device_put(inputs, jax.devices()[0])]
        bucket = (parts, *(x.shape for x in inputs))
        with self._lock:
            if bucket not in self._functions:
                name = f"{self.files.name}: {' and '.join(parts)} of {inputs[0].shape}"
                facts = self._fingerprint(parts)
                self._functions[bucket] = executables.get(name, facts, lambda: self._build(parts), arrays)
        return [np.asarray(x) for x in self._functions[bucket](arrays)]

    def _fingerprint(self, parts: Sequence[str]) -> str:
        facts = [[self._halves[p].model, self._halves[p].config, self._names[p]] for p in parts]
        return json.dumps([facts, len(self.files.speakers) > 1], sort_keys=True)

    def _build(self, parts: tuple[str, ...]) -> Any:
        """f(*weights, *inputs) -> results, from the first half's inputs to those of all halves.

        Acoustic: text, lengths, speaker, noise, noise_scale, length_scale -> mel, lengths, durations. Vocoder: mel,
        lengths -> wave. Both: the acoustic model's inputs -> wave, mel, lengths, durations.
        """
        from jaxtts.nn import functional  # imports flax, which a warm start does without

        structures = {part: checked_structure(self._halves[part]) for part in parts}
        several = len(self.files.speakers) > 1

        def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            rest, models = list(arrays), {}
            for part in parts:
                names = self._names[part]
                weights, rest = rest[: len(names)], rest[len(names) :]
                models[part] = functional.merge(structures[part], functional.nested(dict(zip(names, weights))))
            results: tuple[jax.Array, ...] = ()
            if "acoustic" in parts:
                text, lengths, speaker, noise, noise_scale, length_scale = rest
                mel, mel_lengths, alignment = models["acoustic"].infer(
                    text, lengths, max_frames=noise.shape[1], noise_scale=noise_scale, length_scale=length_scale,
                    speaker=speaker if several else None, noise=noise,
                )  # fmt: skip
                rest, results = [mel, mel_lengths], (mel, mel_lengths, alignment.sum(axis=1).astype("int32"))
            return (models["vocoder"].infer(*rest), *results) if "vocoder" in parts else results  # wave [B, T * hop]

        return run

    def _receptive_field(self, part: str) -> int:
        """Frames on each side that a model's output depends on; known on disk, so that no model is imported for it."""
        half = self._halves[part]
        (reach,) = executables.recall(
            f"receptive field {self._fingerprint([part])}",
            lambda: [from_dict(module(half.model).Config, half.config).receptive_field],
        )
        return reach


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


def _next_frames(frames: int, line: Piece) -> int:
    log.info("sentence of %d symbols fills %d frames", len(line.ids), frames)
    if frames > MAX_FRAMES_PER_SYMBOL * np.maximum(1.0, line.scales).sum():
        raise ValueError(
            f"the voice wants more than {frames} frames for {len(line.ids)} symbols: "
            "it is not trained well enough to speak"
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
