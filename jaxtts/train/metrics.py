"""What a run tells: metrics.jsonl, TensorBoard, pictures and sounds.

workdir/metrics.jsonl               one line per report: {"step": 100, "loss": ...}, per evaluation and skipped step
        tensorboard/                scalars, pictures, sounds
        pictures/00001000_*.png     mels and alignments, for those without TensorBoard
        sounds/00001000_*.wav
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np


class Log:
    """Writes the reports of a run; a run that goes on from step n drops the lines behind n."""

    def __init__(self, workdir: str | Path, step: int = 0, sample_rate: int = 22050):
        from tensorboardX import SummaryWriter

        self.workdir, self.sample_rate = Path(workdir), sample_rate
        self.workdir.mkdir(parents=True, exist_ok=True)
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(kept))
            temporary.replace(path)
        self._lines = path.open("a")
        self._board = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the finite values to TensorBoard."""
        self.line(step, values)
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)

    def line(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl: anything JSON can hold, numbers to their last digit."""
        self._lines.write(json.dumps({"step": step} | values) + "\n")
        self._lines.flush()

    def media(self, step: int, media: dict[str, Any]) -> list[Path]:
        """Pictures of 'mel/...' [T, M] and 'alignment/...' [T, S], sounds of 'audio/...' [N]; returns the files.

        Raises:
            ValueError: another prefix, or a wrong number of axes.
        """
        files = []
        for name, value in media.items():
            value = np.asarray(value, np.float32)
            kind, stem = name.split("/")[0], f"{step:08d}_{name.replace('/', '_')}"
            if kind == "audio" and value.ndim == 1:
                files.append(self._sound(step, name, self.workdir / "sounds" / f"{stem}.wav", value))
            elif kind in ("mel", "alignment") and value.ndim == 2:
                files.append(self._picture(step, name, self.workdir / "pictures" / f"{stem}.png", value))
            else:
                raise ValueError(f"media {name!r} of shape {value.shape}: use mel/ or alignment/ [T, *], audio/ [N]")
        self._board.flush()
        return files

    def close(self) -> None:
        """Flushes and closes all files."""
        self._lines.close()
        self._board.close()

    def _picture(self, step: int, name: str, path: Path, value: np.ndarray) -> Path:
        from PIL import Image

        png = picture(value, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png)
        self._board.add_image(name, np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), step, dataformats="HWC")
        return path

    def _sound(self, step: int, name: str, path: Path, wave: np.ndarray) -> Path:
        import soundfile

        wave = np.clip(np.nan_to_num(wave), -1, 1)
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, wave, self.sample_rate)
        self._board.add_audio(name, wave, step, sample_rate=self.sample_rate)
        return path


def picture(value: np.ndarray, title: str) -> bytes:
    """A PNG of `value` [T, M or S] with time from left to right and the first bin or symbol at the bottom."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=80, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(value.T, origin="lower", aspect="auto", interpolation="nearest")
    axes.set(title=title, xlabel="frame", ylabel="symbol" if title.startswith("alignment") else "bin")
    figure.colorbar(image)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
