"""Text to wave as two compiled functions: text to what the decoder reads, and that to wave.

Those are the acoustic model and the vocoder of a voice, or the two sides of one end-to-end model. Each is compiled for
a few shapes, called buckets. How many frames a sentence takes is known only when it is spoken, so the first function's
bucket is chosen from a bound that the voice knows (frames per symbol), and a sentence that fills it is spoken again in
the next one: nothing is ever cut off. The second sees windows of a sentence with as many frames around them as decide
their samples. Every sentence draws its own noise from the seed and its place in its text, symbol by symbol and frame by
frame, and all models mask what lies behind a sentence's end; so what is heard depends neither on the bucket nor on the
company.
"""

import json
import logging
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtts.audio.features import linear_spectrogram_np
from jaxtts.config import from_dict
from jaxtts.registry import module
from jaxtts.synth import executables
from jaxtts.synth.folder import Part, VoiceFiles
from jaxtts.synth.voice import Piece

log = logging.getLogger(__name__)

BATCHES = (1, 4, 16)
SYMBOLS = (16, 32, 64, 128, 256, 512)
FRAMES = tuple(sorted([2**k for k in range(6, 17)] + [3 * 2**k for k in range(5, 15)]))
WINDOWS = (32, 48, *range(64, 256, 32), *range(256, 513, 64))  # frames of what is decoded at once
MAX_BATCH_FRAMES = 1 << 14  # frames of a whole batch: bounds its memory
HEADROOM = 1.15  # on the voice's own frames per symbol
MAX_FRAMES_PER_SYMBOL = 256
CONVERTED = 1024  # frames of a recording that are converted at once
CHUNK = 64  # frames that a stream gives at once, half as many at first
STAGES = ("latent", "decode")


class Spoken(NamedTuple):
    """One spoken sentence: wave [N], what it was decoded from [T, C] (for a vocoder mels), each symbol's frames [S]."""

    wave: np.ndarray
    latent: np.ndarray
    durations: np.ndarray


class Cut(NamedTuple):
    """The frames from start to stop of a latent [T, C] and the number of who speaks."""

    latent: np.ndarray
    speaker: int
    start: int
    stop: int


class Speaker:
    """The compiled side of a voice: weights on the device, one function per stage and bucket."""

    def __init__(self, files: VoiceFiles):
        self.files = files
        executables.use_persistent_cache()
        device = jax.devices()[0]
        self._names = {role: sorted(part.tensors) for role, part in files.parts.items()}
        self._weights: dict[str, list[jax.Array]] = {
            role: jax.device_put([widened(part.tensors[n]) for n in self._names[role]], device)
            for role, part in files.parts.items()
        }
        roles = list(files.parts)
        self._role = {"latent": roles[0], "decode": roles[-1], "convert": roles[0]}  # stage -> part
        self._several = files.first.config.get("num_speakers", 1) > 1
        self.channels = files.first.config.get("latent_dim", files.first.mel.num_bins)
        self._functions: dict[Any, executables.Run] = {}
        self._lock, self._locks = threading.Lock(), defaultdict[Any, threading.Lock](threading.Lock)

    def speak(self, lines: Sequence[Piece]) -> list[Spoken]:
        """Speaks sentences, many at once, in the order given.

        Raises:
            ValueError: the weights do not fit the models, or the voice wants absurdly many frames.
        """
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        waiting = {i: self._frames(line) for i, line in enumerate(lines)}
        while waiting:
            buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
            for i, frames in waiting.items():
                buckets[at_least(SYMBOLS, len(lines[i].ids)), frames].append(i)
            waiting = {}
            for (symbols, frames), members in buckets.items():
                for group in _batches(members, frames):
                    latents, lengths, durations = self._latents([lines[i] for i in group], symbols, frames)
                    for b, i in enumerate(group):
                        if lengths[b] < frames - 1:
                            found[i] = latents[b, : lengths[b]], durations[b, : len(lines[i].ids)]
                        else:  # it fills the bucket and so may be cut off
                            waiting[i] = _next_frames(frames, lines[i])
        cuts, owners, reach = [], [], self.receptive_field("decode")
        for i, line in enumerate(lines):
            for start, stop in windows(len(found[i][0]), reach, WINDOWS[-1]):
                cuts.append(Cut(found[i][0], line.manner.speaker, start, stop))
                owners.append(i)
        waves: dict[int, list[np.ndarray]] = defaultdict(list)
        for i, wave in zip(owners, self._decode(cuts)):
            waves[i].append(wave)
        return [Spoken(np.concatenate(waves[i]), *found[i]) for i in range(len(lines))]

    def stream(self, line: Piece) -> Iterator[np.ndarray]:
        """Speaks one sentence bit by bit: the samples that `speak` gives, CHUNK frames at a time.

        A sample depends on the frames around it and no others (`receptive_field` of either model). So a long sentence
        is spoken from its beginning only as far as the first chunk needs, then whole: the first chunk takes the same
        time whatever the sentence's length.
        """
        latent, decoder = (self.receptive_field(stage) for stage in STAGES)
        first = CHUNK // 2
        frames, start = at_least(FRAMES, first + decoder + latent), 0
        silence = Cut(np.zeros((first + decoder, self.channels), np.float32), line.manner.speaker, 0, first)
        with self._meanwhile(lambda: self._decode([silence])):  # it takes as long to load as the other function does
            found, ended = self._latent(line, frames)
        if not ended:
            yield from self._decode([Cut(found, line.manner.speaker, 0, first)])
            start = first
        while not ended:
            frames = max(self._frames(line), _next_frames(frames, line))
            found, ended = self._latent(line, frames)
        while start < len(found):
            stop = min(start + (CHUNK if start else first), len(found))
            yield from self._decode([Cut(found, line.manner.speaker, start, stop)])
            start = stop

    def convert(self, samples: np.ndarray, source: int, target: int, noise_scale: float, seed: int) -> np.ndarray:
        """A recording [N] of one speaker in the voice of another [N], in pieces that see what decides their ends."""
        spec, hop = self.files.mel.replace(log=None), self.files.mel.hop_length
        reach = self.receptive_field("convert") + -(-spec.n_fft // hop)
        frames = -(-max(len(samples), spec.n_fft) // hop)
        padded = np.pad(samples, (0, frames * hop - len(samples)))
        drawn = np.random.default_rng(seed).standard_normal((frames, self.channels), np.float32) * noise_scale
        waves = []
        for start, stop in windows(frames, reach, CONVERTED):
            first, last = max(0, start - reach), min(frames, stop + reach)
            size = at_least(FRAMES, last - first)
            spectrogram = np.zeros((1, size, spec.n_fft // 2 + 1), np.float32)
            noise = np.zeros((1, size, self.channels), np.float32)
            noise[0, : last - first] = drawn[first:last]
            spectrogram[0, : last - first] = linear_spectrogram_np(padded[first * hop : last * hop], spec)[
                : last - first
            ]
            who = [np.array([n], np.int32) for n in (last - first, source, target)]
            (wave,) = self._call("convert", [spectrogram, *who, noise])
            waves.append(wave[0, (start - first) * hop : (stop - first) * hop])
        return np.concatenate(waves)[: len(samples)]

    def _latent(self, line: Piece, frames: int) -> tuple[np.ndarray, bool]:
        """The first frames of a sentence [T, C], and whether that is all of it."""
        latents, lengths, _ = self._latents([line], at_least(SYMBOLS, len(line.ids)), frames)
        return latents[0, : lengths[0]], bool(lengths[0] < frames - 1)

    def _latents(self, lines: list[Piece], symbols: int, frames: int) -> list[np.ndarray]:
        """What the decoder reads [B, T, C], its lengths [B] and the durations [B, S]; rows too many repeat the last."""
        batch = at_least(BATCHES, len(lines))
        text, scales = np.zeros((batch, symbols), np.int32), np.ones((batch, symbols), np.float32)
        noise, duration_noise = np.zeros((batch, frames, self.channels), np.float32), np.zeros((batch, symbols, 2))
        rows = [lines[min(b, len(lines) - 1)] for b in range(batch)]
        for b, line in enumerate(rows):
            text[b, : len(line.ids)], scales[b, : len(line.ids)] = line.ids, line.scales
            if line.manner.noise_scale and b < len(lines):
                rng = np.random.default_rng((line.manner.seed, line.index))
                noise[b] = rng.standard_normal(noise.shape[1:], np.float32)
            if self.files.stochastic_durations and line.manner.duration_noise_scale:
                rng = np.random.default_rng((line.manner.seed, line.index, 1))
                duration_noise[b, : len(line.ids)] = rng.standard_normal((len(line.ids), 2), np.float32)
        lengths = np.array([len(line.ids) for line in rows], np.int32)
        speaker = np.array([line.manner.speaker for line in rows], np.int32)
        noise_scale, duration_noise_scale = (
            np.array([getattr(line.manner, name) for line in rows], np.float32)
            for name in ("noise_scale", "duration_noise_scale")
        )
        drawn = [duration_noise.astype(np.float32), duration_noise_scale] if self.files.stochastic_durations else []
        return self._call("latent", [text, lengths, speaker, noise, noise_scale, scales, *drawn])

    def _decode(self, cuts: Sequence[Cut]) -> list[np.ndarray]:
        """The samples of each cut [(stop - start) * hop]."""
        reach, hop = self.receptive_field("decode"), self.files.mel.hop_length
        buckets: dict[int, list[int]] = defaultdict(list)
        firsts = [max(0, cut.start - reach) for cut in cuts]
        given = [cut.latent[first : cut.stop + reach] for first, cut in zip(firsts, cuts)]
        for i, frames in enumerate(given):
            buckets[at_least(WINDOWS, len(frames))].append(i)
        waves: dict[int, np.ndarray] = {}
        for size, members in buckets.items():
            for group in _batches(members, size):
                batch = at_least(BATCHES, len(group))
                latents = np.zeros((batch, size, given[0].shape[1]), np.float32)
                lengths, speaker = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
                for b, i in enumerate(group):
                    latents[b, : len(given[i])], lengths[b], speaker[b] = given[i], len(given[i]), cuts[i].speaker
                (wave,) = self._call("decode", [latents, lengths, speaker])
                for b, i in enumerate(group):
                    waves[i] = wave[b, (cuts[i].start - firsts[i]) * hop : (cuts[i].stop - firsts[i]) * hop]
        return [waves[i] for i in range(len(cuts))]

    @contextmanager
    def _meanwhile(self, work: Callable[[], Any]) -> Iterator[None]:
        """Does this in a thread, if nothing has been loaded yet; what fails in it fails again where it counts."""
        if self._functions:
            yield
            return
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work)
            yield

    def _frames(self, line: Piece) -> int:
        """The bucket of frames that a sentence should fit in."""
        return at_least(FRAMES, self.files.frames_per_symbol * HEADROOM * float(line.scales.sum()))

    def _call(self, stage: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the compiled function of a stage on a bucket's inputs."""
        arrays = [*self._weights[self._role[stage]], *jax.device_put(inputs, jax.devices()[0])]
        bucket = (stage, *(x.shape for x in inputs))
        with self._lock:
            lock = self._locks[bucket]
        with lock:
            if bucket not in self._functions:
                name = f"{self.files.name}: {stage} of {inputs[0].shape}"
                self._functions[bucket] = executables.get(
                    name, self._fingerprint(stage), lambda: self._build(stage), arrays
                )
        return [np.asarray(x) for x in self._functions[bucket](arrays)]

    def _fingerprint(self, stage: str) -> str:
        role = self._role[stage]
        part = self.files.parts[role]
        return json.dumps([stage, role, part.model, part.config, self._names[role], self._several], sort_keys=True)

    def _build(self, stage: str) -> Any:
        """f(*weights, *inputs) -> results of a stage.

        latent: text, lengths, speaker, noise, noise_scale, length_scale and, where durations are drawn, duration_noise,
        duration_noise_scale -> latent, lengths, durations. decode: latent, lengths, speaker -> wave. convert:
        spectrogram, lengths, source, target, noise -> wave.
        """
        from jaxtts.nn import functional  # imports flax, which a warm start does without

        role = self._role[stage]
        structure, names = checked_structure(self.files.parts[role]), self._names[role]
        whole, several = role == "model", self._several

        def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            weights, inputs = functional.nested(dict(zip(names, arrays))), arrays[len(names) :]
            model = functional.merge(structure, weights)
            if stage == "latent":
                text, lengths, speaker, noise, noise_scale, length_scale, *drawn = inputs
                latent, frames, alignment = (model.latent if whole else model.infer)(
                    text, lengths, max_frames=noise.shape[1], noise_scale=noise_scale, length_scale=length_scale,
                    speaker=speaker if several else None, noise=noise,
                    **dict(zip(("duration_noise", "duration_noise_scale"), drawn)),
                )  # fmt: skip
                return latent, frames, alignment.sum(axis=1).astype("int32")
            if stage == "convert":
                spectrogram, lengths, source, target, noise = inputs
                return (model.convert(spectrogram, lengths, source=source, target=target, noise=noise),)
            latent, lengths, speaker = inputs
            if whole:
                return (model.decode(latent, lengths, speaker=speaker if several else None),)
            return (model.infer(latent, lengths),)  # wave [B, T * hop]

        return run

    def receptive_field(self, stage: str) -> int:
        """Frames on each side that a stage's output depends on; known on disk, so that no model is imported for it."""
        part = self.files.parts[self._role[stage]]

        def compute() -> list[int]:
            config = from_dict(module(part.model).Config, part.config)
            if stage == "latent" or self._role[stage] != "model":
                return [config.receptive_field]
            if stage == "decode":
                return [config.decoder.receptive_field]
            dilations = sum(config.posterior_dilation**i for i in range(config.posterior_layers))
            posterior = config.posterior_kernel_size // 2 * dilations
            return [posterior + 2 * config.receptive_field + config.decoder.receptive_field]

        (reach,) = executables.recall(f"receptive field {self._fingerprint(stage)}", compute)
        return reach


def windows(frames: int, reach: int, largest: int) -> list[tuple[int, int]]:
    """Cuts frames into windows [start, stop) that hold at most `largest` frames with `reach` more on each side."""
    if frames <= largest:
        return [(0, frames)]
    edges = [*range(largest - reach, frames - reach, largest - 2 * reach), frames]
    return list(zip([0, *edges], edges))


def checked_structure(part: Part) -> Any:
    """The structure that a model's tensors merge into.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; all are listed.
    """
    from jaxtts.nn import functional

    models = module(part.model)
    try:
        config = from_dict(models.Config, part.config)
        structure, params, _ = functional.structure(lambda: models.Model(config, rngs=functional.rngs_for_shapes()))
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"the configuration of {part.model} is damaged ({error})") from error
    wanted = {name: tuple(x.shape) for name, x in functional.named(params).items()}
    found = {name: tuple(x.shape) for name, x in part.tensors.items()}
    faults = [f"{n} is missing" for n in sorted(wanted.keys() - found.keys())]
    faults += [f"{n} is unexpected" for n in sorted(found.keys() - wanted.keys())]
    faults += [f"{n} is {found[n]}, not {wanted[n]}" for n in sorted(wanted) if found.get(n, wanted[n]) != wanted[n]]
    if faults:
        raise ValueError(f"weights do not fit {part.model}: {'; '.join(faults)}")
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
