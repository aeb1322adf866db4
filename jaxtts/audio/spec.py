"""The named mel specs: what a spectrogram frame means, as data.

Every toolkit of the field computes "the mel spectrogram" in its own way, and a vocoder fed with another toolkit's
frames gives noise. A `MelSpec` states all that decides the numbers; it has a name, it is stored in each checkpoint as
JSON, and `require_same` compares the two ends of a pipeline. This module needs nothing but the standard library.

Sources, by name: hifigan, vits (jik876/hifi-gan, jaywalnut310/vits); tacotron (keithito/tacotron); tacotron2, waveglow
(NVIDIA `TacotronSTFT`); tacotron2_paper (arXiv 1712.05884, section 2.1); rtvc, wavernn, ge2e
(CorentinJ/Real-Time-Voice-Cloning, Resemblyzer); wavernn_lj (fatchord/WaveRNN); wavegrad (arXiv 2009.00713, section 4),
wavegrad_lmnt (lmnt-com/wavegrad, torchaudio's filters); bigvgan_* (NVIDIA/BigVGAN). Our own: hifigan_16khz (hifigan at
16 kHz, in frames of 12.5 ms).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHOICES = {
    "power": (1, 2),
    "padding": ("same", "center"),
    "pad_mode": ("reflect", "constant"),
    "mel_scale": ("slaney", "htk"),
    "mel_norm": ("slaney", None),
    "log": ("ln", "log10", "db", None),
}


@dataclass(frozen=True)
class MelSpec:
    """How samples become spectrogram frames.

    Attributes:
        name: the name it is known by; not part of the comparison.
        sample_rate: samples per second.
        n_fft, hop_length, win_length: in samples; a periodic Hann window of `win_length` is centred in `n_fft`.
        num_mels: mel bins; None keeps the `n_fft // 2 + 1` linear bins.
        fmin, fmax: band edges of the mel filters in Hz; `fmax=None` is the Nyquist frequency.
        power: 1 for magnitudes, 2 for powers.
        magnitude_eps: added to re^2 + im^2 before the square root.
        padding: 'same' pads (n_fft - hop) / 2 on both sides (N // hop frames), 'center' n_fft / 2 (1 + N // hop).
        pad_mode: what the padding holds, 'reflect' or 'constant' (zeros).
        preemphasis: k of y[n] = x[n] - k x[n-1], applied before the STFT; 0 for none.
        window_norm: divide the STFT by the window's L2 norm (torchaudio's `normalized=True`).
        mel_scale, mel_norm: 'slaney' or 'htk'; 'slaney' (unit area) or None.
        log: 'ln', 'log10', 'db' (20 log10) or None, of max(value, `clip`).
        clip: the smallest value that the logarithm sees.
        ref_db: subtracted from decibels.
        min_db: the decibels that become the lower end of `value_range`; 0 dB becomes the upper end.
        value_range: (low, high) that decibels are scaled to and clipped at; None leaves them alone.
        mean, scale: of each bin, last of all subtracted and divided by; None leaves them alone.

    Raises:
        ValueError: a field's value is impossible; the message names the field.
    """

    name: str
    sample_rate: int
    n_fft: int
    hop_length: int
    win_length: int
    num_mels: int | None
    fmin: float = 0.0
    fmax: float | None = None
    power: int = 1
    magnitude_eps: float = 0.0
    padding: str = "same"
    pad_mode: str = "reflect"
    preemphasis: float = 0.0
    window_norm: bool = False
    mel_scale: str = "slaney"
    mel_norm: str | None = "slaney"
    log: str | None = "ln"
    clip: float = 1e-5
    ref_db: float = 0.0
    min_db: float = -100.0
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("sample_rate", "n_fft", "hop_length", "win_length", "num_mels"):
            value = getattr(self, field)
            if not (field == "num_mels" and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"MelSpec {self.name!r}: {field} is {value!r}; give a positive whole number")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"MelSpec {self.name!r}: {field} is {getattr(self, field)!r}; choose from {choices}")
        if not self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                f"MelSpec {self.name!r}: hop_length {self.hop_length}, win_length {self.win_length}, n_fft {self.n_fft}"
                " must not decrease in this order"
            )
        if self.padding == "same" and (self.n_fft - self.hop_length) % 2:
            raise ValueError(
                f"MelSpec {self.name!r}: padding 'same' needs an even n_fft - hop_length, got {self.n_fft} -"
                f" {self.hop_length}; use padding='center'"
            )
        if not 0 <= self.fmin < self.high <= self.sample_rate / 2:
            raise ValueError(
                f"MelSpec {self.name!r}: the band {self.fmin}-{self.high} Hz does not lie in 0-{self.sample_rate / 2}"
            )
        if self.log is not None and not self.clip > 0:
            raise ValueError(f"MelSpec {self.name!r}: clip is {self.clip!r}; a logarithm needs a positive one")
        if self.value_range is not None:
            if self.log != "db":
                raise ValueError(f"MelSpec {self.name!r}: value_range scales decibels; set log='db' or drop it")
            object.__setattr__(self, "value_range", tuple(self.value_range))  # JSON gives a list
        if (self.mean is None) != (self.scale is None):
            raise ValueError(f"MelSpec {self.name!r}: mean and scale go together; give both or neither")
        for field in ("mean", "scale"):
            if (values := getattr(self, field)) is not None:
                object.__setattr__(self, field, tuple(values))
                if len(values) != self.num_bins:
                    raise ValueError(f"MelSpec {self.name!r}: {field} has {len(values)} of {self.num_bins} bins")
        if self.scale is not None and not min(self.scale) > 0:
            raise ValueError(f"MelSpec {self.name!r}: scale holds {min(self.scale)!r}; it is divided by")

    @property
    def high(self) -> float:
        """The upper band edge in Hz, with None resolved."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def num_bins(self) -> int:
        """The size of the last axis: mel bins, or linear bins where there are no mel filters."""
        return self.n_fft // 2 + 1 if self.num_mels is None else self.num_mels

    @property
    def pad(self) -> int:
        """Samples of padding on each side."""
        return (self.n_fft - self.hop_length if self.padding == "same" else self.n_fft) // 2

    @property
    def floor(self) -> float:
        """The value of a bin without energy (`magnitude_eps` aside), of all bins the lowest: to pad frames with."""
        if self.mean is not None and self.scale is not None:
            same = self.replace(mean=None, scale=None).floor
            return min((same - mean) / scale for mean, scale in zip(self.mean, self.scale))
        if self.log is None:
            return 0.0
        if self.log == "ln":
            return math.log(self.clip)
        decibels = (20 if self.log == "db" else 1) * math.log10(self.clip)
        if self.log == "log10":
            return decibels
        decibels -= self.ref_db
        if self.value_range is None:
            return decibels
        low, high = self.value_range
        return min(max(low + (high - low) * (decibels / -self.min_db + 1), low), high)

    def num_frames(self, num_samples: int) -> int:
        """Frames that `num_samples` samples give."""
        return 1 + (num_samples + 2 * self.pad - self.n_fft) // self.hop_length

    def replace(self, **changes: Any) -> MelSpec:
        """A copy with other field values."""
        return dataclasses.replace(self, **changes)

    def full_band(self) -> MelSpec:
        """The same spec up to the Nyquist frequency: HiFi-GAN's loss spec (`fmax_for_loss: null`)."""
        return self.replace(name=f"{self.name}_full_band", fmax=None)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, ready for JSON."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> MelSpec:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing fields, or impossible values.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in fields]
        if unknown or missing:
            raise ValueError(f"MelSpec: unknown fields {unknown}, missing fields {missing}; known are {list(known)}")
        return cls(**fields)


def _table() -> dict[str, MelSpec]:
    hifigan = MelSpec("hifigan", 22050, 1024, 256, 1024, 80, 0.0, 8000.0, magnitude_eps=1e-9)
    tacotron2 = hifigan.replace(name="tacotron2", magnitude_eps=0.0, padding="center")
    vits = hifigan.replace(name="vits", fmax=None, magnitude_eps=1e-6)
    rtvc = MelSpec(
        "rtvc", 16000, 800, 200, 800, 80, 55.0, 7600.0,
        padding="center", preemphasis=0.97, log="db", ref_db=20.0, value_range=(-4.0, 4.0),
    )  # fmt: skip
    tacotron = MelSpec(
        "tacotron", 20000, 2048, 250, 1000, 80,
        padding="center", preemphasis=0.97, log="db", ref_db=20.0, value_range=(0.0, 1.0),
    )  # fmt: skip
    wavegrad = MelSpec("wavegrad", 24000, 2048, 300, 1200, 128, 20.0, 12000.0, padding="center")
    specs = (
        hifigan,
        tacotron2,
        tacotron2.replace(name="waveglow"),
        vits,
        vits.replace(name="vits_linear", num_mels=None, log=None),
        MelSpec("tacotron2_paper", 24000, 2048, 300, 1200, 80, 125.0, 7600.0, padding="center", clip=0.01),
        tacotron,
        rtvc,
        rtvc.replace(name="wavernn"),  # the vocoder divides these frames by 4 before its first layer
        MelSpec(
            "wavernn_lj", 22050, 2048, 275, 1100, 80, 40.0, padding="center", log="db", value_range=(0.0, 1.0)
        ),
        wavegrad,  # the paper does not state its logarithm; the natural one with the usual clip is our choice
        wavegrad.replace(
            name="wavegrad_lmnt", sample_rate=22050, fmax=None, window_norm=True, mel_scale="htk", mel_norm=None,
            log="db", ref_db=20.0, value_range=(0.0, 1.0),
        ),
        MelSpec("ge2e", 16000, 400, 160, 400, 40, power=2, padding="center", pad_mode="constant", log=None),
        hifigan.replace(name="bigvgan_24khz_100band", sample_rate=24000, num_mels=100, fmax=12000.0),
        hifigan.replace(name="bigvgan_22khz_80band"),
        hifigan.replace(name="hifigan_16khz", sample_rate=16000, hop_length=200, win_length=800),
    )  # fmt: skip
    return {spec.name: spec for spec in specs}


MEL_SPECS: dict[str, MelSpec] = _table()

# These shift a frame by at most half a hop or lift the floor of silence; the value of speech is the same, and the
# published HiFi-GAN and WaveGlow vocoders are used across them.
_HARMLESS = ("name", "padding", "pad_mode", "magnitude_eps")


def mel_spec(name: str) -> MelSpec:
    """The spec registered under `name`.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in MEL_SPECS:
        raise ValueError(f"unknown mel spec {name!r}; choose from {', '.join(MEL_SPECS)}")
    return MEL_SPECS[name]


def _differences(a: MelSpec, b: MelSpec) -> dict[str, tuple[Any, Any]]:
    left, right = ({**spec.to_dict(), "fmax": spec.high} for spec in (a, b))  # None and Nyquist are the same edge
    for ignored in _HARMLESS:
        del left[ignored]
    return {field: (left[field], right[field]) for field in left if left[field] != right[field]}


def _brief(value: Any) -> str:
    return f"{len(value)} numbers" if isinstance(value, list) and len(value) > 2 else str(value)


def compatible(a: MelSpec, b: MelSpec) -> bool:
    """Whether frames of `a` can be read as frames of `b`: all fields agree but name, padding, pad_mode and epsilon."""
    return not _differences(a, b)


def differing(a: MelSpec, b: MelSpec) -> str:
    """The fields that keep frames of `a` from being read as frames of `b`, with both values; empty if none does."""
    return ", ".join(f"{field} {_brief(x)} against {_brief(y)}" for field, (x, y) in _differences(a, b).items())


def require_same(acoustic: MelSpec, vocoder: MelSpec) -> None:
    """Refuses a vocoder that was trained on other frames than the acoustic model makes.

    Raises:
        ValueError: naming both specs and each field that differs.
    """
    if fields := differing(acoustic, vocoder):
        raise ValueError(
            f"the acoustic model makes {acoustic.name!r} frames and the vocoder reads {vocoder.name!r} frames"
            f" ({fields}); choose a vocoder trained on {acoustic.name!r}"
        )
