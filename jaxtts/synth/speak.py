"""Text to wave as two compiled functions: text to what the decoder reads, and that to wave.

Those are the acoustic model and the vocoder of a voice, or the two sides of one end-to-end model. Each is compiled for
a few shapes, called buckets. How many frames a sentence takes is known only when it is spoken, so the first function's
bucket is chosen from a bound that the voice knows (frames per symbol), and a sentence that fills it is spoken again in
the next one: nothing is ever cut off. The second sees windows of a sentence with as many frames around them as decide
their samples. Every sentence draws its own noise from the seed and its place in its text, symbol by symbol and frame by
frame, and all models mask what lies behind a sentence's end; so what is heard depends neither on the bucket nor on the
company.

An autoregressive model ends by itself, or does not: there the frames have a bound, and a sentence that reaches it is
cut off and says so. What its attention left out or read again is looked for too (`attention_check`), and a sentence
with such faults is spoken again, by other seeds.
"""

import json
import logging
import math
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtts.audio.denoise import HOP, N_FFT, bias_spectrum, denoise
from jaxtts.audio.features import linear_spectrogram_np
from jaxtts.audio.spec import MelSpec
from jaxtts.config import from_dict
from jaxtts.registry import module
from jaxtts.synth import executables
from jaxtts.synth.attention_check import Faults, check, is_spoken
from jaxtts.synth.folder import GRIFFIN_LIM, Part, VoiceFiles
from jaxtts.synth.voice import Piece

log = logging.getLogger(__name__)

BATCHES = (1, 4, 16)
SYMBOLS = (16, 32, 64, 128, 256, 512)
FRAMES = tuple(sorted([2**k for k in range(6, 17)] + [3 * 2**k for k in range(5, 15)]))
WINDOWS = (32, 48, *range(64, 256, 32), *range(256, 513, 64))  # frames of what is decoded at once
MAX_BATCH_FRAMES = 1 << 14  # frames of a whole batch: bounds its memory
HEADROOM = 1.15  # on the voice's own frames per symbol
MAX_FRAMES_PER_SYMBOL = 256
SPARE_FACTOR, SPARE_FRAMES = 3, 200  # an autoregressive sentence may last so many times as long, and so much longer
CONVERTED = 1024  # frames of a recording that are converted at once
CHUNK = 64  # frames that a stream gives at once, half as many at first
STAGES = ("latent", "convert", "decode", "segments", "draw", "join")
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # segments that are drawn side by side
WHOLE = 8192  # frames that Griffin-Lim decodes at once
SEAM = 16  # frames on each side that it hears more, where there are more
HELD = 20  # times the frames of a symbol: longer than any pause
HUM = 88  # frames of zeros of which the vocoder makes the hum that a denoiser takes away (NVIDIA/waveglow)


class Found(NamedTuple):
    """What a sentence is decoded from [T, C] (for a vocoder mels), each symbol's frames [S], and what is wrong."""

    latent: np.ndarray
    durations: np.ndarray
    faults: Faults = Faults()


class Spoken(NamedTuple):
    """One spoken sentence: wave [N], and what it was decoded from."""

    wave: np.ndarray
    found: Found


class Cut(NamedTuple):
    """The frames from start to stop of a latent [T, C].

    Attributes:
        speaker: the number of who speaks.
        noise: of the whole latent, times its temperature [T, hop]; empty where the vocoder reads none.
        denoise: strength of the denoiser, 0 for none.
        seed: of a vocoder that draws sample by sample; exact: it takes no folds (see `nn.generation.Fold`).
    """

    latent: np.ndarray
    start: int
    stop: int
    speaker: int = 0
    noise: np.ndarray = np.zeros((0, 0), np.float32)
    denoise: float = 0.0
    seed: int = 0
    exact: bool = False


class Speaker:
    """The compiled side of a voice: weights on the device, one function per stage and bucket."""

    def __init__(self, files: VoiceFiles, weights_dtype: str = "float32"):
        """weights_dtype: of a vocoder that draws sample by sample, see `models.wavenet.Model.generate`."""
        self.files, self._weights_dtype = files, weights_dtype
        executables.use_persistent_cache()
        device = jax.devices()[0]
        self._names = {role: sorted(part.tensors) for role, part in files.parts.items()}
        self._weights: dict[str, list[jax.Array]] = {
            role: jax.device_put([widened(part.tensors[n]) for n in self._names[role]], device)
            for role, part in files.parts.items()
        }
        unspoken = (files.text.blank, files.text.bos, files.text.eos, files.text.pad)
        self._spoken = np.array([is_spoken(s) and s not in unspoken for s in files.text.symbols])
        self.noisy = bool(files.vocoder and "noise" in files.vocoder.traits)
        self.sampled = bool(files.vocoder and "samples" in files.vocoder.traits)
        self._griffin_lim = "vocoder" in files.parts and not files.vocoder
        self._whole = self.sampled or self._griffin_lim  # sentences are not cut into windows
        roles = list(files.parts)
        self._role = dict.fromkeys(STAGES, roles[-1]) | {"latent": roles[0], "convert": roles[0]}  # stage -> part
        self._several = files.first.config.get("num_speakers", 1) > 1
        self.channels = files.first.config.get("latent_dim", files.first.mel.num_bins)
        self._functions: dict[Any, executables.Run] = {}
        self._lock, self._locks = threading.Lock(), defaultdict[Any, threading.Lock](threading.Lock)

    def speak(self, lines: Sequence[Piece]) -> list[Spoken]:
        """Speaks sentences, many at once, in the order given.

        Raises:
            ValueError: the weights do not fit the models, or the voice wants absurdly many frames.
        """
        found = self._find(lines)
        for attempt in range(1, 1 + max((line.manner.retries for line in lines), default=0)):
            again = [i for i, line in enumerate(lines) if attempt <= line.manner.retries and any(found[i].faults)]
            for i, other in zip(again, self._find([lines[i]._replace(attempt=attempt) for i in again])):
                found[i] = min(found[i], other, key=lambda f: f.faults.weight)  # of equals the first
        cuts = [self.cuts(self._cut(line, latent)) for line, (latent, *_) in zip(lines, found)]
        waves = iter(self.decode([cut for several in cuts for cut in several]))
        return [Spoken(np.concatenate([next(waves) for _ in several]), f) for several, f in zip(cuts, found)]

    def stream(self, line: Piece) -> Iterator[tuple[np.ndarray, Found | None]]:
        """Speaks one sentence bit by bit: the samples that `speak` gives without retries, CHUNK frames at a time.

        A sample depends on the frames around it and no others (`receptive_field` of either model). So a long sentence
        is spoken from its beginning only as far as the first chunk needs, then whole: the first chunk takes the same
        time whatever the sentence's length. (Griffin-Lim alone needs the whole sentence for the first chunk.)

        Yields:
            Samples, and with the last of them what they were decoded from.
        """
        first, decoder = CHUNK // 2, self.reach(line.manner.denoise)
        found, start = None, 0
        if not self._whole:
            frames = at_least(FRAMES, first + decoder + self.receptive_field("latent"))
            silence = self._cut(line, np.zeros((first + decoder, self.channels), np.float32), first)
            with self._meanwhile(lambda: self.decode([silence])):  # it takes as long to load as the other does
                (beginning,), (found,) = self._latents([line], at_least(SYMBOLS, len(line.ids)), frames)
            if found is None:
                yield self.decode([self._cut(line, beginning, first)])[0], None
                start = first
        if found is None:
            (found,) = self._find([line], frames + 1 if start else 0)
        whole = self._cut(line, found.latent)
        wave = np.concatenate(self.decode(self.cuts(whole))) if self._whole else None
        while start < len(found.latent):
            stop = min(start + (CHUNK if start else first), len(found.latent))
            if wave is None:
                (samples,) = self.decode([whole._replace(start=start, stop=stop)])
            else:
                samples = wave[start * self.files.mel.hop_length : stop * self.files.mel.hop_length]
            yield samples, found if stop == len(found.latent) else None
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

    def _find(self, lines: Sequence[Piece], least: int = 0) -> list[Found]:
        """What the decoder is to make of sentences; `least` frames are known not to be enough."""
        found: dict[int, Found] = {}
        waiting = {i: max(self._frames(line), at_least(FRAMES, least)) for i, line in enumerate(lines)}
        while waiting:
            buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
            for i, frames in waiting.items():
                buckets[at_least(SYMBOLS, len(lines[i].ids)), frames].append(i)
            waiting = {}
            for (symbols, frames), members in buckets.items():
                for group in _batches(members, frames):
                    for i, (_, result) in zip(group, zip(*self._latents([lines[i] for i in group], symbols, frames))):
                        if result is None:
                            waiting[i] = self._next_frames(frames, lines[i])
                        else:
                            found[i] = result
        return [found[i] for i in range(len(lines))]

    def _latents(self, lines: list[Piece], symbols: int, frames: int) -> tuple[list[np.ndarray], list[Found | None]]:
        """What the decoder reads of each sentence [T, C] as far as these frames go; and all about it, if that is all of
        it."""
        latents, lengths, *rest = self._call("latent", self._inputs(lines, symbols, frames))
        beginnings = [latent[:length] for latent, length in zip(latents, lengths)][: len(lines)]
        rows = zip(lines, beginnings, *rest)
        return beginnings, [self._complete(line, frames, latent, *row) for line, latent, *row in rows]

    def _complete(
        self, line: Piece, frames: int, latent: np.ndarray, durations: np.ndarray, *course: np.ndarray
    ) -> Found | None:
        """A sentence in a bucket of frames; None: it fills it and may be cut off there, which only a bound permits."""
        symbols = len(line.ids)
        if not course:  # the flow may drop an odd last frame
            return Found(latent, durations[:symbols]) if len(latent) < frames - 1 else None
        path, attended = course
        most = self._bound(line)
        truncated = len(latent) > most or len(latent) == frames
        if truncated and frames <= most:
            return None
        latent = latent[:most]
        longest = HELD * self.files.frames_per_symbol
        faults = check(path[: len(latent)], attended[:symbols], self._spoken[line.ids], longest)
        ends = np.minimum(np.cumsum(durations[:symbols]), len(latent))
        return Found(latent, np.diff(ends, prepend=0).astype(np.int32), faults._replace(truncated=truncated))

    def _inputs(self, lines: list[Piece], symbols: int, frames: int) -> list[np.ndarray]:
        """Of the function `latent`; rows too many repeat the last."""
        batch = at_least(BATCHES, len(lines))
        rows = [lines[min(b, len(lines) - 1)] for b in range(batch)]
        text, scales = np.zeros((batch, symbols), np.int32), np.ones((batch, symbols), np.float32)
        for b, line in enumerate(rows):
            text[b, : len(line.ids)], scales[b, : len(line.ids)] = line.ids, line.scales
        lengths = np.array([len(line.ids) for line in rows], np.int32)
        speaker = np.array([line.manner.speaker for line in rows], np.int32)
        if self.files.autoregressive:
            seeds = [drawn_seed(x.manner.seed, x.index, 2, x.attempt) for x in rows]
            return [text, lengths, speaker, np.array(seeds, np.uint32), np.zeros(frames, bool)]
        noise, duration_noise = np.zeros((batch, frames, self.channels), np.float32), np.zeros((batch, symbols, 2))
        for b, line in enumerate(rows):
            if line.manner.noise_scale and b < len(lines):
                rng = np.random.default_rng((line.manner.seed, line.index))
                noise[b] = rng.standard_normal(noise.shape[1:], np.float32)
            if self.files.stochastic_durations and line.manner.duration_noise_scale:
                rng = np.random.default_rng((line.manner.seed, line.index, 1))
                duration_noise[b, : len(line.ids)] = rng.standard_normal((len(line.ids), 2), np.float32)
        noise_scale, duration_noise_scale = (
            np.array([getattr(line.manner, name) for line in rows], np.float32)
            for name in ("noise_scale", "duration_noise_scale")
        )
        drawn = [duration_noise.astype(np.float32), duration_noise_scale] if self.files.stochastic_durations else []
        return [text, lengths, speaker, noise, noise_scale, scales, *drawn]

    def _cut(self, line: Piece, latent: np.ndarray, stop: int | None = None) -> Cut:
        """A sentence, or its beginning, as the decoder gets it; the noise of fewer frames is the beginning of more."""
        noise = self.noise(len(latent), (line.manner.seed, line.index, 3), line.manner.sigma)
        stop = len(latent) if stop is None else stop
        seed = drawn_seed(line.manner.seed, line.index, 3)
        return Cut(latent, 0, stop, line.manner.speaker, noise, line.manner.denoise, seed)

    def cuts(self, whole: Cut) -> list[Cut]:
        """The windows in which it is decoded."""
        edges = windows(len(whole.latent), self.reach(whole.denoise), self._sizes[-1] - self._whole)
        return [whole._replace(start=start, stop=stop) for start, stop in edges]

    def decode(self, cuts: Sequence[Cut]) -> list[np.ndarray]:
        """The samples of each cut [(stop - start) * hop]."""
        hop = self.files.mel.hop_length
        buckets: dict[tuple[int, bool], list[int]] = defaultdict(list)
        reaches, step = [self.reach(cut.denoise) for cut in cuts], self._denoiser_step
        firsts = [max(0, cut.start - reach) for cut, reach in zip(cuts, reaches)]
        firsts = [first - first % step if cut.denoise else first for first, cut in zip(firsts, cuts)]
        seen = [slice(first, cut.stop + reach) for first, cut, reach in zip(firsts, cuts, reaches)]
        given = [cut.latent[frames] for cut, frames in zip(cuts, seen)]
        for i, frames in enumerate(given):
            buckets[at_least(self._sizes, len(frames) + self._whole), cuts[i].exact].append(i)
        waves: dict[int, np.ndarray] = {}
        for (size, exact), members in buckets.items():
            for group in [[i] for i in members] if self._griffin_lim else _batches(members, size):
                batch = at_least(BATCHES, len(group))
                latents = np.full((batch, size, given[0].shape[1]), self._beyond, np.float32)
                noise = np.zeros((batch, size, hop), np.float32) if self.noisy else None
                seeds = np.zeros(batch, np.uint32)
                lengths, speaker = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
                for b, i in enumerate(group):
                    latents[b, : len(given[i])], lengths[b], speaker[b] = given[i], len(given[i]), cuts[i].speaker
                    seeds[b] = cuts[i].seed
                    if noise is not None:
                        noise[b, : len(given[i])] = cuts[i].noise[seen[i]]
                if self.sampled and not exact:
                    wave = self._folded(latents, lengths, seeds)
                else:
                    drawn = [seeds] if self.sampled else [] if noise is None else [noise]
                    (wave,) = self._call("decode", [latents, lengths, speaker, *drawn])
                for b, i in enumerate(group):
                    heard = wave[b, : len(given[i]) * hop]
                    if cuts[i].denoise:
                        heard = self._denoised(heard, cuts[i].denoise)
                    waves[i] = heard[(cuts[i].start - firsts[i]) * hop : (cuts[i].stop - firsts[i]) * hop]
        return [waves[i] for i in range(len(cuts))]

    def _folded(self, latents: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """What a vocoder that draws sample by sample makes of [B, T, M] in folds (`nn.generation.Fold`): [B, T * hop].

        On a CPU each core draws its share of the segments: XLA runs such a loop on one.
        """
        cond, segment_seeds, there = self._call("segments", [latents, lengths, seeds])
        wanted = np.flatnonzero(there)
        threads = executables.cores() if jax.default_backend() == "cpu" else 1
        size = at_least(ROWS, min(-(-len(wanted) // threads), ROWS[-1]))
        groups = [np.resize(wanted[i : i + size], size) for i in range(0, len(wanted), size)]  # the last repeats some
        waves = np.zeros(cond.shape[:2], np.float32)
        with ThreadPoolExecutor(threads) as pool:
            drawn = pool.map(lambda rows: self._call("draw", [cond[rows], segment_seeds[rows]])[0], groups)
            for rows, wave in zip(groups, drawn):
                waves[rows] = wave
        return self._call("join", [waves, lengths, np.zeros(latents.shape[1], bool)])[0]

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

    def _next_frames(self, frames: int, line: Piece) -> int:
        """The one to try when it fills that one."""
        log.info("sentence of %d symbols fills %d frames", len(line.ids), frames)
        if self.files.autoregressive:
            return at_least(FRAMES, self._bound(line) + 1)
        if frames > MAX_FRAMES_PER_SYMBOL * np.maximum(1.0, line.scales).sum():
            raise ValueError(
                f"the voice wants more than {frames} frames for {len(line.ids)} symbols: "
                "it is not trained well enough to speak"
            )
        return at_least(FRAMES, frames + 1)

    def _bound(self, line: Piece) -> int:
        """The most frames of a sentence of an autoregressive voice."""
        usual = SPARE_FRAMES + SPARE_FACTOR * self.files.frames_per_symbol * len(line.ids)
        return line.manner.max_frames or min(int(usual), FRAMES[-1] - 1)

    def noise(self, frames: int, seed: tuple[int, ...], sigma: float | None) -> np.ndarray:
        """Noise of a temperature (None: the vocoder's own) [T, hop]; empty where the vocoder reads none."""
        if not self.noisy or not self.files.vocoder:
            return np.zeros((0, 0), np.float32)
        sigma = self.files.vocoder.config["sigma_infer"] if sigma is None else sigma
        drawn = np.random.default_rng(seed).standard_normal((frames, self.files.mel.hop_length), np.float32)
        return drawn * np.float32(sigma)

    def _denoised(self, wave: np.ndarray, strength: float) -> np.ndarray:
        """[N] -> [N]; there is silence behind what ends, so that the bucket is not heard."""
        frames = at_least(self._sizes, len(wave) / self.files.mel.hop_length)
        padded = np.zeros(frames * self.files.mel.hop_length + N_FFT, np.float32)
        padded[: len(wave)] = wave
        inputs = [padded, self._bias_spectrum, np.float32(strength)]
        return self._run("denoise", "denoise", lambda: lambda *x: (denoise(*x),), [], inputs)[0][: len(wave)]

    @cached_property
    def _bias_spectrum(self) -> np.ndarray:
        silence = np.zeros((HUM, self.channels), np.float32)
        (hum,) = self.decode([Cut(silence, 0, HUM, noise=np.zeros((HUM, self.files.mel.hop_length), np.float32))])
        return self._run("hum", "hum", lambda: lambda x: (bias_spectrum(x),), [], [hum])[0]

    def _call(self, stage: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Runs the compiled function of a stage on a bucket's inputs."""
        weights = self._weights[self._role[stage]]
        return self._run(stage, self._fingerprint(stage), lambda: self._build(stage), weights, inputs)

    def _run(
        self, what: str, fingerprint: str, build: Callable[[], Any], weights: list[jax.Array], inputs: list[np.ndarray]
    ) -> list[np.ndarray]:
        arrays = [*weights, *jax.device_put(inputs, jax.devices()[0])]
        bucket = (what, *(x.shape for x in inputs))
        with self._lock:
            lock = self._locks[bucket]
        with lock:
            if bucket not in self._functions:
                name = f"{self.files.name}: {what} of {inputs[0].shape}"
                self._functions[bucket] = executables.get(name, fingerprint, build, arrays)
        return [np.asarray(x) for x in self._functions[bucket](arrays)]

    def _fingerprint(self, stage: str) -> str:
        role = self._role[stage]
        part = self.files.parts[role]
        facts = [stage, role, part.model, part.config, self._names[role], self._several, self._weights_dtype]
        return json.dumps(facts, sort_keys=True)

    def _build(self, stage: str) -> Any:
        """f(*weights, *inputs) -> results of a stage.

        latent: text, lengths, speaker, noise, noise_scale, length_scale and, where durations are drawn, duration_noise,
        duration_noise_scale -> latent, lengths, durations. Of an autoregressive model: text, lengths, speaker, seeds,
        room [T] (for so many frames) -> latent, lengths, durations, path, attended (see `attention_check`).
        decode: latent, lengths, speaker, noise (if the vocoder reads it) or seeds (if it draws samples) -> wave.
        segments: latent, lengths, seeds -> conditioning, seeds and presence of the segments of all rows.
        draw: conditioning and seeds of segments -> their waves. join: these, lengths, room [T] -> wave.
        convert: spectrogram, lengths, source, target, noise -> wave.
        """
        role = self._role[stage]
        if stage == "decode" and self._griffin_lim:
            return _griffin_lim(self.files.mel)
        from jaxtts.nn import functional  # imports flax, which a warm start does without
        from jaxtts.nn.generation import Fold, segment_seeds

        structure, names = checked_structure(self.files.parts[role]), self._names[role]
        whole, several = role == "model", self._several
        fold, hop = Fold(), self.files.mel.hop_length
        quantized = {} if self._weights_dtype == "float32" else {"weights_dtype": self._weights_dtype}

        def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            weights, inputs = functional.nested(dict(zip(names, arrays))), arrays[len(names) :]
            model = functional.merge(structure, weights)
            if stage == "latent" and self.files.autoregressive:
                text, lengths, speaker, seeds, room = inputs
                latent, frames, alignment = model.infer(
                    text, lengths, max_frames=room.shape[0], seeds=seeds, speaker=speaker if several else None
                )
                return latent, frames, *_course(alignment, lengths, frames)
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
            if stage == "segments":
                latent, lengths, seeds = inputs
                cond = fold.split(model.condition(latent, lengths))
                count = cond.shape[0] // len(seeds)
                drawn_by: Any = segment_seeds(seeds, count)
                return cond, drawn_by, fold.there(lengths * hop, count).ravel()
            if stage == "draw":
                return (model.drawn(*inputs, **quantized),)
            if stage == "join":
                waves, lengths, room = inputs
                wave = fold.join(waves, len(lengths), lengths * hop)[:, : len(room) * hop]
                return (model.finished(wave, lengths * hop),)
            latent, lengths, speaker, *drawn = inputs
            if whole:
                return (model.decode(latent, lengths, speaker=speaker if several else None),)
            more: dict[str, Any] = {}
            if self.sampled:
                more = {"seeds": drawn[0], **quantized}
            elif drawn:
                more = {"noise": drawn[0], "sigma": 1.0}  # by its temperature, see `noise`
            return (model.infer(latent, lengths, **more),)  # wave [B, T * hop]

        return run

    @property
    def _sizes(self) -> tuple[int, ...]:
        """The buckets of frames of the stage decode."""
        return tuple(n for n in FRAMES if n <= WHOLE) if self._whole else WINDOWS

    @property
    def _beyond(self) -> float:
        """What stands behind the end of what is decoded; models mask it."""
        return self.files.mel.floor if self._whole else 0.0

    def reach(self, denoise: float = 0.0) -> int:
        """Frames on each side that decide a frame's samples."""
        beyond = -(-N_FFT // self.files.mel.hop_length) + self._denoiser_step - 1
        return self._decoder_reach + (beyond if denoise else 0)

    @property
    def _denoiser_step(self) -> int:
        """What the denoiser hears begins at a multiple of so many frames, for its own frames to lie the same always."""
        hop = self.files.mel.hop_length
        return math.lcm(hop, HOP) // hop

    @cached_property
    def _decoder_reach(self) -> int:
        return self.receptive_field("decode")

    def receptive_field(self, stage: str) -> int:
        """Frames on each side that a stage's output depends on; known on disk, so that no model is imported for it."""
        part = self.files.parts[self._role[stage]]
        if part.model == GRIFFIN_LIM:
            return SEAM

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


def drawn_seed(*words: int) -> int:
    """32 bits that are a hash of whole numbers."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def windows(frames: int, reach: int, largest: int) -> list[tuple[int, int]]:
    """Cuts frames into windows [start, stop) that hold at most `largest` frames with `reach` more on each side."""
    if frames <= largest:
        return [(0, frames)]
    edges = [*range(largest - reach, frames - reach, largest - 2 * reach), frames]
    return list(zip([0, *edges], edges))


def _course(alignment: jax.Array, text_lengths: jax.Array, lengths: jax.Array) -> tuple[jax.Array, ...]:
    """Alignment [B, T, S] -> durations [B, S] that go from symbol to symbol, the symbol that each frame attends to most
    [B, T], and the most that each symbol got of a frame's attention [B, S]."""
    import jax.numpy as jnp

    from jaxtts.nn.alignment import monotonic_alignment_search

    scores = jnp.log(jnp.maximum(alignment, 1e-8)).swapaxes(0, 1)  # [T, B, S]
    durations = monotonic_alignment_search(scores, text_lengths, lengths)
    return durations, jnp.argmax(alignment, axis=2).astype("int32"), jnp.max(alignment, axis=1)


def _griffin_lim(spec: MelSpec) -> Callable[..., tuple[jax.Array]]:
    """mel [1, T, M], lengths, speaker -> wave [1, N] of T * hop samples or, where frames are centred, one hop less."""
    from jaxtts.audio.griffin_lim import mel_to_wave

    return lambda mel, lengths, speaker: (mel_to_wave(mel, spec),)


def checked_structure(part: Part) -> Any:
    """The structure that a model's tensors merge into.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; all are listed.
    """
    from jaxtts.nn import functional

    models = module(part.model)
    try:
        config = from_dict(models.Config, part.config)
        structure, params, rest = functional.structure(lambda: models.Model(config, rngs=functional.rngs_for_shapes()))
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"the configuration of {part.model} is damaged ({error})") from error
    wanted = {name: tuple(x.shape) for name, x in functional.named(functional.merged(params, rest)).items()}
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


def _batches(members: list[int], frames: int) -> list[list[int]]:
    """Cuts a list into pieces of the largest batch sizes that fill up."""
    sizes = [n for n in BATCHES if n * frames <= MAX_BATCH_FRAMES] or [1]
    parts = []
    while members:
        size = max(n for n in sizes if n <= len(members))
        parts.append(members[:size])
        members = members[size:]
    return parts
