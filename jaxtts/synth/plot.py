"""A picture of what was spoken: the mel spectrogram and which symbol each frame belongs to."""

import os
from pathlib import Path

import numpy as np

from jaxtts.audio.spec import MelSpec
from jaxtts.synth.voice import Audio

MAX_SECONDS = 15.0


def save_plot(path: str | Path, audio: Audio, mel_spec: MelSpec) -> None:
    """Draws an Audio of `Voice.synthesize`, its first 15 seconds at most, as .png, .svg or .pdf.

    Raises:
        ValueError: unknown suffix, missing folder, or an Audio without sentences.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; choose from .png, .svg, .pdf")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not audio.segments:
        raise ValueError("this Audio has no mel and alignment to draw")
    rate = mel_spec.sample_rate / mel_spec.hop_length  # frames per second
    total = min(max(s.start / mel_spec.sample_rate + len(s.mel) / rate for s in audio.segments), MAX_SECONDS)
    shown = [s for s in audio.segments if s.start / mel_spec.sample_rate < total]
    mel = np.full((int(total * rate) + 1, mel_spec.num_bins), mel_spec.floor, np.float32)
    figure = Figure(figsize=(max(6.0, 2.2 * total), 7.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    labels: list[str] = []
    for segment in shown:
        start = round(segment.start / mel_spec.hop_length)
        part = segment.mel[: len(mel) - start]
        mel[start : start + len(part)] = part
        ends = (start + np.cumsum(segment.durations)) / rate
        rows = len(labels) + np.arange(len(segment.symbols))
        bottom.barh(rows, segment.durations / rate, left=ends - segment.durations / rate, height=1.0, color="#31688e")
        labels += ["␣" if symbol == " " else symbol for symbol in segment.symbols]
    top.imshow(mel.T, origin="lower", aspect="auto", extent=(0, len(mel) / rate, 0, mel_spec.num_bins), cmap="viridis")
    top.set_ylabel(f"mel bin ({mel_spec.name})")
    bottom.set(xlim=(0, total), ylim=(len(labels) - 0.5, -0.5), xlabel="seconds", ylabel="symbol")
    bottom.set_yticks(range(len(labels)), labels, fontsize=max(3.0, min(8.0, 260 / len(labels))))
    bottom.grid(alpha=0.2)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        FigureCanvasAgg(figure).print_figure(temporary, dpi=110)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
