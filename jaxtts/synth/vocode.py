"""Mel spectrogram to wave with a vocoder of a voice or of a training run, or with Griffin-Lim."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtts.audio import io
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.synth import executables
from jaxtts.synth.folder import Part, read_part
from jaxtts.synth.speak import FRAMES, at_least, checked_structure, widened

GRIFFIN_LIM = "griffin-lim"
PIECE = 2048  # frames at once; longer spectrograms are cut
OVERLAP = 64  # frames of context on both sides of a cut, more than any vocoder here looks at


class Vocoder:
    """A vocoder by itself: `wave(mel)`.

    Args:
        path: a voice folder, a training folder, or 'griffin-lim'.
        mel: the spec of Griffin-Lim's frames, and of nothing else: models know theirs.

    Raises:
        ValueError: there is no vocoder.
    """

    def __init__(self, path: str | Path, mel: MelSpec | None = None):
        self._part: Part | None = None
        self.mel = mel or mel_spec("hifigan")
        if str(path) == GRIFFIN_LIM:
            return
        executables.use_persistent_cache()
        self._part, _ = read_part(path, "vocoder")
        self.mel = self._part.mel
        self._names = sorted(self._part.tensors)
        self._weights = jax.device_put([widened(self._part.tensors[n]) for n in self._names], jax.devices()[0])

    def features(self, path: str | Path) -> np.ndarray:
        """A sound file's frames [T, M] (resampled to the spec's rate), or those stored in a .npy file.

        Raises:
            ValueError: not a sound file, or an array of another shape.
        """
        if Path(path).suffix.lower() != ".npy":
            return mel_spectrogram_np(io.load(path, self.mel.sample_rate)[0], self.mel)
        try:
            mel = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not an array of numbers ({error})") from error
        mel = mel[0] if mel.ndim == 3 and len(mel) == 1 else mel  # a batch of one
        bins = self.mel.num_bins
        if mel.ndim != 2 or bins not in mel.shape or not mel.size or mel.dtype.kind != "f":
            raise ValueError(f"{path} holds {mel.dtype} {list(mel.shape)}; expected float [frames, {bins}]")
        return mel if mel.shape[1] == bins else mel.T  # other toolkits store [M, T]

    def wave(self, mel: np.ndarray) -> np.ndarray:
        """[T, M] -> samples [T * hop] ((T - 1) * hop of Griffin-Lim with a 'center' spec)."""
        mel = np.asarray(mel, np.float32)
        if self._part is None:
            from jaxtts.audio.griffin_lim import mel_to_wave

            return np.asarray(jax.jit(lambda m: mel_to_wave(m, self.mel))(mel))
        parts = []
        for start in range(0, len(mel), PIECE):
            first, last = max(0, start - OVERLAP), min(len(mel), start + PIECE + OVERLAP)
            kept = slice((start - first) * self.mel.hop_length, (start - first + PIECE) * self.mel.hop_length)
            parts.append(self._piece(mel[first:last])[kept])
        return np.concatenate(parts)

    def _piece(self, mel: np.ndarray) -> np.ndarray:
        assert self._part is not None
        frames = at_least(FRAMES, len(mel))
        padded = np.zeros((1, frames, mel.shape[1]), np.float32)
        padded[0, : len(mel)] = mel
        inputs = [padded, np.array([len(mel)], np.int32)]
        arrays = [*self._weights, *jax.device_put(inputs, jax.devices()[0])]
        fingerprint = json.dumps([self._part.model, self._part.config, self._names], sort_keys=True)
        run = executables.get(f"{self._part.model}: {frames} frames", fingerprint, self._build, arrays)
        return np.asarray(run(arrays)[0])[0, : len(mel) * self.mel.hop_length]

    def _build(self) -> Any:
        from jaxtts.nn import functional

        assert self._part is not None
        structure = checked_structure(self._part)

        def mel_to_wave(*arrays: jax.Array) -> tuple[jax.Array]:
            *weights, mel, lengths = arrays
            tree = functional.nested(dict(zip(self._names, weights)))
            return (functional.merge(structure, tree).infer(mel, lengths),)

        return mel_to_wave
