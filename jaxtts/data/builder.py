"""From a corpus to records that the training loop reads without computing features.

A TensorFlow Datasets builder that needs no TensorFlow: ArrayRecord files with Tensor and Text features (`Audio`
features and tfrecord need TensorFlow). The folder's name holds a hash of the specs, of the corpus's listing (ids,
texts, speakers, file sizes and times), of the code of the front end and of the features: whatever changes is prepared
anew, an unchanged corpus is reused.

    utterance   id, text, tokens [S] int32, speaker int32, wave [N] int16, mel [T, M] float32
    index.json  specs, speakers, warnings and the lengths of all records, in their order
    rejected.json   what `check` left out, and why

`tfds.builder_from_directory(dataset.path).as_data_source("train")` reads it too. mel is kept in float32 although
float16 would save a fifth of the disk: training then sees the very features that inference computes. Records are not
compressed: that would save 9 % of the disk and make reading them five times slower.

Preparing goes on where it stopped, killed at any moment. First each chunk of utterances is checked, its facts going to
a file; then each chunk of usable ones becomes a shard. A file appears under its name once it is whole, so what is there
need not be done again, and the folder gets its name once all are there. A lock that dies with its process keeps a
second one waiting. Chunks are done by processes of this machine, or by Apache Beam where the folder is on a disk that
all workers share: the same function writes the same files.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter  # pyright: ignore[reportAttributeAccessIssue]
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from threadpoolctl import threadpool_limits

from jaxtts.audio import features
from jaxtts.audio.io import load
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.data.check import Facts, Limits, Report, bar, judge, survey
from jaxtts.data.corpora import Utterance
from jaxtts.data.dataset import INDEX, REJECTED, Dataset
from jaxtts.data.workers import in_processes, on_beam
from jaxtts.text import TextSpec

_LIBRARIES = {"gruut": ("gruut", "gruut-lang-en"), "arpabet": ("gruut", "gruut-lang-en"),
              "espeak": ("phonemizer-fork", "espeakng-loader"), "characters": ()}  # fmt: skip


@dataclasses.dataclass(eq=False)
class CorpusConfig(tfds.core.BuilderConfig):
    """What is prepared, how, and by whom: `jobs` processes, or Apache Beam with pipeline options `beam`."""

    utterances: Sequence[Utterance] = dataclasses.field(default=(), repr=False)
    mel: MelSpec = dataclasses.field(default_factory=lambda: mel_spec("hifigan"))
    text: TextSpec = TextSpec()
    limits: Limits = Limits()
    jobs: int | None = 1
    beam: Sequence[str] | None = None
    progress: bool = True


class Corpus(FileReaderBuilder):
    """The builder; `prepare` is the way to it."""

    VERSION = tfds.core.Version("1.1.0")  # raise it when records change their content
    BUILDER_CONFIGS: tuple[CorpusConfig, ...] = ()
    builder_config: CorpusConfig

    def _info(self) -> tfds.core.DatasetInfo:
        # records stay in the order of index.json; the loader shuffles
        return tfds.core.DatasetInfo(
            builder=self, disable_shuffling=True, features=_features(self.builder_config.mel.num_bins)
        )

    def download_and_prepare(self, **unused: Any) -> None:
        """Prepares the corpus in `data_dir`, or goes on with it; waits while another process does."""
        path = Path(self.data_dir)
        work = path.with_name(f"{path.name}.facts")
        if (path / INDEX).is_file() and not work.exists():
            return  # no lock: the disk may be read-only
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / ".lock"):
            if not (path / INDEX).is_file():
                self._download_and_prepare(None, None)
            shutil.rmtree(work, ignore_errors=True)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        config, path = self.builder_config, Path(self.data_dir)
        work, partial = path.with_name(f"{path.name}.facts"), path.with_name(f"{path.name}.partial")
        for folder in (work, partial):
            folder.mkdir(exist_ok=True)
        checked = self._each_chunk("checking", config.utterances, work, check_chunk)
        report = judge(config.utterances, [Facts.from_list(row) for row in checked], config.mel, config.limits)
        if not report.usable:
            reasons = "; ".join(f"{r['id']}: {r['reason']}" for r in report.rejected[:3])
            raise ValueError(f"none of the {len(report.rejected)} utterances can be used ({reasons})")
        speakers = sorted({config.utterances[place].speaker for place in report.usable})
        sources = [Source(config.utterances[i], speakers.index(config.utterances[i].speaker), checked[i][-1])
                   for i in report.usable]  # fmt: skip
        rows = self._each_chunk("preparing", sources, work, functools.partial(extract_chunk, folder=partial))
        self._finish(partial, report, speakers, rows)
        os.replace(partial, path)
        self.info.update_data_dir(str(path))

    def _each_chunk(self, what: str, items: Sequence[Any], work: Path, do: Callable[..., Any]) -> list[Any]:
        """Rows of all items: `do(Chunk)` leaves those of a chunk in a file, unless they are there already."""
        config = self.builder_config
        size = max(16, math.ceil(len(items) / 128))  # the same whoever does it
        chunks = [Chunk(n, list(items[i : i + size]), work / f"{what}-{n:05d}.json")
                  for n, i in enumerate(range(0, len(items), size))]  # fmt: skip
        missing = [c for c in chunks if not c.rows.is_file()]
        do = functools.partial(do, mel=config.mel, text=config.text, limits=config.limits)
        if config.beam is not None:
            on_beam(do, missing, config.beam)
        else:
            with bar(what, len(items), config.progress) as shown:
                shown.update(len(items) - sum(len(c.items) for c in missing))
                for count in in_processes(do, missing, config.jobs):
                    shown.update(count)
        return [row for c in chunks for row in json.loads(c.rows.read_text(encoding="utf-8"))]

    def _finish(self, folder: Path, report: Report, speakers: list[str], rows: list[list]) -> None:
        """Writes what describes the shards."""
        template = _template(folder)
        sizes = [0] * (1 + rows[-1][0])
        lengths = list(sizes)
        for shard, size, *_ in rows:
            sizes[shard] += size
            lengths[shard] += 1
        split = tfds.core.SplitInfo(
            name="train", shard_lengths=lengths, num_bytes=sum(sizes), filename_template=template
        )
        columns = zip(("ids", "symbols", "frames", "samples", "speaker"), zip(*(row[2:] for row in rows)))
        mel, text = self.builder_config.mel.to_dict(), self.builder_config.text.to_dict()
        index = {"mel": mel, "text": text, "speakers": speakers, "warnings": report.warnings} | dict(columns)
        self.info.set_splits(tfds.core.SplitDict([split]))
        self.info.write_to_directory(folder)
        _write(folder / REJECTED, json.dumps(report.rejected, ensure_ascii=False, indent=1))
        _write(folder / INDEX, json.dumps(index, ensure_ascii=False))
        for left in folder.glob(".*"):  # half a file of a killed process
            left.unlink()


class Source(NamedTuple):
    """A usable utterance, the number of its speaker and its tokens."""

    utterance: Utterance
    speaker: int
    tokens: list[int]


class Chunk(NamedTuple):
    """Some of the items, and the file that gets their rows as JSON."""

    number: int
    items: list[Any]
    rows: Path


def check_chunk(chunk: Chunk, mel: MelSpec, text: TextSpec, limits: Limits) -> int:
    """Checks a chunk of utterances; returns how many they are."""
    rows = [facts.to_list() for facts in survey(chunk.items, text, limits)]
    _write(chunk.rows, json.dumps(rows, ensure_ascii=False))
    return len(rows)


def extract_chunk(chunk: Chunk, mel: MelSpec, text: TextSpec, limits: Limits, folder: Path) -> int:
    """Makes a shard of a chunk of sources; returns how many they are.

    Raises:
        ValueError: a recording was changed since it was checked.
        OSError, RuntimeError: the disk is full.
    """
    rows, described = [], _features(mel.num_bins)
    serializer = ExampleSerializer(described.get_serialized_info())
    path = Path(_template(folder).sharded_filepath(shard_index=chunk.number, num_shards=None))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    # Sums of BLAS depend on its threads, which cost four times more. For good: Beam makes several shards in threads of
    # one process, and the first one done must not give the others their threads back.
    threadpool_limits(1, "blas")
    with _removed(temporary):
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for source in chunk.items:
                record = extract(source, mel)
                example = serializer.get_tf_example(described.encode_example(record))
                content = example.SerializeToString(deterministic=True)  # else its fields stand in random order
                writer.write(content)
                lengths = (len(record["tokens"]), len(record["mel"]), len(record["wave"]))
                rows.append([chunk.number, len(content), source.utterance.id, *lengths, source.speaker])
        finally:
            writer.close()  # raises where a write failed
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _write(chunk.rows, json.dumps(rows, ensure_ascii=False))
    return len(rows)


def extract(source: Source, mel: MelSpec) -> dict[str, Any]:
    """The record of an utterance: tokens [S] int32, wave [N] int16, mel [T, M], and what it says."""
    u = source.utterance
    try:
        samples, _ = load(u.path, mel.sample_rate)
        wave = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
        frames = features.mel_spectrogram_np(wave.astype(np.float32) / 32768.0, mel)  # [T, M]
    except (ValueError, OSError) as error:
        raise ValueError(f"{u.path} was changed while the corpus was prepared; start again ({error})") from error
    return {
        "id": u.id, "text": u.text, "tokens": np.array(source.tokens, np.int32), "speaker": np.int32(source.speaker),
        "wave": wave, "mel": frames.astype(np.float32),
    }  # fmt: skip


def prepare(
    utterances: Sequence[Utterance], mel: MelSpec, text: TextSpec, folder: str | Path, *, name: str = "corpus",
    jobs: int | None = None, progress: bool = True, limits: Limits | None = None, beam: Sequence[str] | None = None,
) -> Dataset:  # fmt: skip
    """Prepares a corpus, goes on with it where it stopped, or opens it where it was prepared before.

    What `check_corpus` rejects is left out, with the same words: see `Dataset.rejected`.

    Args:
        utterances: what `read_corpus` lists.
        mel: the spectrogram that the models see.
        text: the front end and its symbols.
        folder: where prepared corpora live; this one goes to `folder/corpus/<name>-<hash>/<version>`.
        name: a word for the folder's name.
        jobs: processes, see `workers.in_processes`.
        progress: show a bar.
        limits: where an utterance stops being usable.
        beam: run on Apache Beam with these pipeline options; `folder` and the corpus must be on a disk that all workers
            share. None uses processes of this machine. The result is the same to the byte.

    Raises:
        ValueError: no utterance can be used (the first reasons are named), a process died, or Beam is not installed.
        OSError: the disk is full; what is complete stays, and the next call goes on from there.
    """
    if not utterances:
        raise ValueError("utterances is empty: there is nothing to prepare")
    limits = limits or Limits()
    config = CorpusConfig(
        name=f"{name}-{_digest(utterances, mel, text, limits)}", utterances=utterances, mel=mel, text=text,
        limits=limits, jobs=jobs, beam=beam, progress=progress,
    )  # fmt: skip
    with _quiet(), _disk(Path(folder)):
        builder = Corpus(config=config, data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare()
    return Dataset.open(builder.data_dir)


@functools.cache
def _features(bins: int) -> Any:
    tensor = functools.partial(tfds.features.Tensor, encoding=tfds.features.Encoding.BYTES)
    described = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "text": tfds.features.Text(),
            "tokens": tensor(shape=(None,), dtype=np.int32),
            "speaker": tfds.features.Tensor(shape=(), dtype=np.int32),
            "wave": tensor(shape=(None,), dtype=np.int16),
            "mel": tensor(shape=(None, bins), dtype=np.float32),
        }
    )
    return described


def _template(folder: Any) -> Any:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=Corpus.name, split="train", filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )  # fmt: skip


def _write(path: Path, content: str) -> None:
    """The whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _removed(temporary):
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Says of a full disk which folder it is about; ArrayRecord raises a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            reason = "the disk is full; what is prepared stays: free some space and start again"
            raise OSError(errno.ENOSPC, reason, str(folder)) from error
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among the processes that prepare this corpus; the kernel frees the lock of one that dies."""
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            if holder == str(os.getppid()):  # a spawned process that runs its parent's script, which waits for it
                raise RuntimeError('the calling script has no `if __name__ == "__main__":`') from None
            print(f"{path.parent}: process {holder} prepares it; waiting", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its warning that the configuration is not a built-in one."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _digest(utterances: Sequence[Utterance], mel: MelSpec, text: TextSpec, limits: Limits) -> str:
    libraries = {name: _version(name) for name in _LIBRARIES[text.frontend]}
    facts = [str(Corpus.VERSION), mel.to_dict(), text.to_dict(), dataclasses.asdict(limits), libraries, _code()]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for u in utterances:
        stat = u.path.stat() if u.path.is_file() else None
        file = [stat.st_size, stat.st_mtime_ns] if stat else None
        digest.update(json.dumps([u.id, u.path.name, u.text, u.speaker, file]).encode())
    return digest.hexdigest()[:12]


@functools.cache
def _code() -> str:
    """A digest of the code that decides what records hold."""
    digest = hashlib.sha256()
    for package, names in {"jaxtts.text": None, "jaxtts.audio": ("features.py", "io.py", "spec.py"),
                           "jaxtts.data": ("check.py",)}.items():  # fmt: skip
        for file in sorted(files(package).iterdir(), key=lambda f: f.name):
            if file.name.endswith(".py") and (names is None or file.name in names):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
