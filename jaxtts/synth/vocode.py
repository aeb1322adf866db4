"""Mel spectrogram to wave with a vocoder of a voice or of a training run, or with Griffin-Lim."""

from pathlib import Path

import numpy as np

from jaxtts.audio import io
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.synth.folder import VoiceFiles, read_part
from jaxtts.synth.speak import Cut, Speaker, drawn_seed
from jaxtts.text import TextSpec


class Vocoder:
    """A vocoder by itself: `wave(mel)`.

    Args:
        path: a voice folder, a training folder, or 'griffin-lim'.
        mel: the spec of Griffin-Lim's frames, and of nothing else: models know theirs.
        weights_dtype: of a WaveNet's weights while it draws, 'float32', 'bfloat16' or 'int8': fewer bits are
            meant for GPUs, where they were not timed yet.

    Raises:
        ValueError: there is no vocoder, or its weights have no such dtype.
    """

    def __init__(self, path: str | Path, mel: MelSpec | None = None, *, weights_dtype: str = "float32"):
        part, _ = read_part(path, "vocoder", mel or mel_spec("hifigan"))
        if weights_dtype not in ("float32", "bfloat16", "int8"):
            raise ValueError(f"weights_dtype={weights_dtype!r}: use 'float32', 'bfloat16' or 'int8'")
        if weights_dtype != "float32" and "weights_dtype" not in part.traits:
            raise ValueError(f"weights_dtype={weights_dtype!r}: this vocoder is no WaveNet; leave it out")
        self.mel = part.mel
        self._speaker = Speaker(VoiceFiles(Path(path).name, TextSpec(), {"vocoder": part}), weights_dtype)

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

    def wave(
        self,
        mel: np.ndarray,
        *,
        seed: int = 0,
        sigma: float | None = None,
        denoise: float = 0.0,
        exact: bool = False,
    ) -> np.ndarray:
        """[T, M] -> samples [T * hop].

        Args:
            seed, sigma: of the noise that a vocoder like WaveGlow reads, and its temperature (None: the vocoder's own);
                the seed also of one that draws sample by sample, like WaveNet.
            denoise: how much of the vocoder's own hum is taken away, see `audio.denoise`.
            exact: of one that draws sample by sample, all in one row; else it is cut into half seconds that are drawn
                side by side and cross-faded, which is faster.

        Raises:
            ValueError: the vocoder has no noise, or no hum.
        """
        part = self._speaker.files.vocoder
        if sigma is not None and not (part and "noise" in part.traits):
            raise ValueError(f"sigma={sigma!r}: this vocoder reads no noise; leave it out")
        if denoise and (not part or self._speaker.sampled):
            raise ValueError(f"denoise={denoise!r}: this vocoder has no hum of its own; leave it out")
        if exact and not self._speaker.sampled:
            raise ValueError("exact=True: this vocoder does not draw sample by sample; leave it out")
        for name, value in {"sigma": sigma or 0.0, "denoise": denoise}.items():
            if not 0 <= value <= 10:
                raise ValueError(f"{name}={value!r} must lie between 0.0 and 10.0")
        mel = np.asarray(mel, np.float32)
        noise = self._speaker.noise(len(mel), (seed, 0, 3), sigma)
        whole = Cut(mel, 0, len(mel), 0, noise, denoise, drawn_seed(seed, 0, 3), exact)
        return np.concatenate(self._speaker.decode(self._speaker.cuts(whole)))
