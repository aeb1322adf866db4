"""A prepared corpus: its index in memory, its records on disk."""

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, compatible
from jaxtts.data.mels import open_mels, read_mel
from jaxtts.text import TextSpec

INDEX, REJECTED = "index.json", "rejected.json"
_ARRAYS = {"tokens": np.int32, "wave": np.int16, "mel": np.float32}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared corpus or a part of one.

    Attributes:
        path: the folder of the records.
        mel: the spec of the stored spectrograms.
        text: the spec of the stored tokens.
        speakers: names; a record's speaker is a position in them.
        ids: of the utterances in this part [N].
        symbols, frames, samples, speaker: lengths and speaker of each [N].
        rows: the place of each in the records [N].
        rejected: what preparing left out: dicts of id, path, kind and reason, see `check`.
        warnings: sentences about what was not left out.
        mels: where other mels than the stored ones lie, and their spec, see `with_mels`.
    """

    path: Path
    mel: MelSpec
    text: TextSpec
    speakers: tuple[str, ...]
    ids: np.ndarray
    symbols: np.ndarray
    frames: np.ndarray
    samples: np.ndarray
    speaker: np.ndarray
    rows: np.ndarray
    rejected: tuple[dict[str, str], ...]
    warnings: tuple[str, ...] = ()
    mels: tuple[Path, MelSpec] | None = None

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Opens the folder that `prepare` wrote.

        Raises:
            ValueError: there is no prepared corpus.
        """
        path = Path(path)
        if not (path / INDEX).is_file():
            raise ValueError(f"{path} is not a prepared corpus: it has no {INDEX}")
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        columns = (np.array(index[name], np.int64) for name in ("symbols", "frames", "samples", "speaker"))
        return cls(
            path, MelSpec.from_dict(index["mel"]), TextSpec.from_dict(index["text"]), tuple(index["speakers"]),
            np.array(index["ids"]), *columns, rows=np.arange(len(index["ids"])),
            rejected=tuple(json.loads((path / REJECTED).read_text(encoding="utf-8"))),
            warnings=tuple(index.get("warnings", ())),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.records([i])[0]

    def records(self, places: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The records of some utterances of this part: id, text, tokens, speaker, wave (int16), mel."""
        with self._lock:  # a reader serves one thread at a time
            contents = [self._content(int(self.rows[i])) for i in places]
        return [self._record(content) for content in contents]

    def select(self, places: Sequence[int] | np.ndarray) -> "Dataset":
        """The part that holds only these utterances."""
        places = np.asarray(places, np.int64)
        names = ("ids", "symbols", "frames", "samples", "speaker", "rows")
        return dataclasses.replace(self, **{name: getattr(self, name)[places] for name in names})

    def held_out(self, count: int) -> tuple["Dataset", "Dataset"]:
        """Splits off `count` utterances, chosen by a hash of their ids: (the rest, the held-out ones).

        Raises:
            ValueError: nothing would be left to train on.
        """
        if not 0 <= count < len(self):
            raise ValueError(f"held_out is {count}; it must be at least 0 and less than the {len(self)} utterances")
        order = np.argsort([hashlib.sha256(str(i).encode()).hexdigest() for i in self.ids], kind="stable")
        return self.select(np.sort(order[count:])), self.select(np.sort(order[:count]))

    def with_mels(self, folder: str | Path) -> "Dataset":
        """The utterances of which a model made mels (`jaxtts export-mels`), with these in place of the stored ones.

        A mel is as long as the recording gives by its own spec; where that pads otherwise than the corpus's, a frame at
        the end is cut off or said twice.

        Raises:
            ValueError: there are none, or one is of another spec or length; the message names both.
        """
        folder = Path(folder)
        spec, frames = open_mels(folder)
        if not compatible(spec, self.mel):
            raise ValueError(
                f"{folder} holds {spec.name!r} frames, and these are to be {self.mel.name!r} frames, which differ: "
                f"give a recipe with the mel spec {spec.name!r}, or mels of another model"
            )
        places = [i for i, name in enumerate(self.ids) if name in frames]
        if not places:
            raise ValueError(f"{folder} has mels of {len(frames)} utterances, and none is among these {len(self)}")
        for i in places:
            name, expected = self.ids[i], spec.num_frames(int(self.samples[i]))
            if frames[name] != expected:
                raise ValueError(
                    f"{folder}: the mel of {str(name)!r} has {frames[name]} frames and its recording {expected}: "
                    "export the mels of this corpus"
                )
        return dataclasses.replace(self.select(places), mels=(folder, spec))

    def summary(self) -> str:
        """What is here and what was left out, for people."""
        total = len(self) + len(self.rejected)
        frames, symbols = self.frames, self.symbols
        lines = [
            f"{len(self)} utterances, {self.samples.sum() / self.mel.sample_rate / 3600:.2f} h, "
            f"{len(self.speakers)} speaker{'s' * (len(self.speakers) != 1)}, "
            f"{frames.min()} to {frames.max()} frames, {symbols.min()} to {symbols.max()} symbols ({self.path})"
        ]
        if self.rejected:
            lines.append(f"{len(self.rejected)} of {total} rejected, listed in {self.path / REJECTED}:")
            lines += [f"  {r['id']}: {r['reason']}" for r in self.rejected[:10]]
            lines += ["  ..."] * (len(self.rejected) > 10)
        if self.warnings:
            lines.append(f"{len(self.warnings)} warnings, the first: {self.warnings[0]}")
        return "\n".join(lines)

    def _content(self, row: int) -> bytes:
        """The serialised record; ArrayRecord's own data source starts threads for each call: 8 ms for 16 records."""
        from array_record.python.array_record_module import (
            ArrayRecordReader,  # pyright: ignore[reportAttributeAccessIssue]
        )

        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        if shard not in self._readers:
            path = self.path / f"corpus-train.array_record-{shard:05d}"
            self._readers[shard] = ArrayRecordReader(str(path))
        return self._readers[shard].read([row - int(self._starts[shard])])[0]

    def _record(self, content: bytes) -> dict[str, Any]:
        """What TFDS's `deserialize_example_np` gives in five times the time."""
        from tensorflow_datasets.proto import tf_example_pb2

        example: Any = tf_example_pb2
        fields = example.Example.FromString(content).features.feature
        arrays = {name: np.frombuffer(fields[name].bytes_list.value[0], dtype) for name, dtype in _ARRAYS.items()}
        record = {
            **{name: fields[name].bytes_list.value[0].decode() for name in ("id", "text")},
            "speaker": fields["speaker"].int64_list.value[0],
            **arrays,
            "mel": arrays["mel"].reshape(-1, self.mel.num_bins),  # [T, M]
        }
        if self.mels is not None:
            folder, spec = self.mels
            made = read_mel(folder, record["id"], spec.num_frames(len(record["wave"])), spec.num_bins)
            record["mel"] = made[np.minimum(np.arange(len(record["mel"])), len(made) - 1)]
        return record

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The first row of each shard, and the number of rows [K + 1]."""
        info = json.loads((self.path / "dataset_info.json").read_text(encoding="utf-8"))
        return np.cumsum([0, *map(int, info["splits"][0]["shardLengths"])])

    @functools.cached_property
    def _readers(self) -> dict[int, Any]:
        return {}

    @functools.cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()
