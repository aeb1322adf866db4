"""From a corpus to records that the training loop reads without computing features.

A TensorFlow Datasets builder that needs no TensorFlow: ArrayRecord files with Tensor and Text features (`Audio`
features and tfrecord need TensorFlow). The folder's name holds a hash of the specs and of the corpus's listing (ids,
texts, speakers, file sizes and times): a changed spec or corpus is prepared anew, an unchanged one is reused.

    utterance   id, text, tokens [S] int32, speaker int32, wave [N] int16, mel [T, M] float32
    index.json  specs, speakers and the lengths of all records, in their order
    rejected.json   what was left out, and why

`tfds.builder_from_directory(dataset.path).as_data_source("train")` reads it too. mel is kept in float32 although
float16 would save a fifth of the disk: training then sees the very features that inference computes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter  # pyright: ignore[reportAttributeAccessIssue]
from tqdm import tqdm

from jaxtts.audio import features
from jaxtts.audio.io import load
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.data.corpora import Utterance
from jaxtts.data.dataset import INDEX, REJECTED, Dataset
from jaxtts.text import FrontEnd, TextSpec, build

SPACE = " "
SHARD = 512  # records in a file, held in memory until it is written


@dataclasses.dataclass(eq=False)
class CorpusConfig(tfds.core.BuilderConfig):
    """What is prepared, how, and in how many processes."""

    utterances: Sequence[Utterance] = dataclasses.field(default=(), repr=False)
    mel: MelSpec = dataclasses.field(default_factory=lambda: mel_spec("hifigan"))
    text: TextSpec = TextSpec()
    jobs: int = 1
    progress: bool = True


class Corpus(tfds.core.GeneratorBasedBuilder):
    """The builder; `prepare` is the way to it."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when records change their content
    BUILDER_CONFIGS: tuple[CorpusConfig, ...] = ()
    builder_config: CorpusConfig

    def _info(self) -> tfds.core.DatasetInfo:
        bins = self.builder_config.mel.num_bins
        tensor = functools.partial(tfds.features.Tensor, encoding=tfds.features.Encoding.BYTES)
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,  # records stay in the order of index.json; the loader shuffles
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "tokens": tensor(shape=(None,), dtype=np.int32),
                    "speaker": tfds.features.Tensor(shape=(), dtype=np.int32),
                    "wave": tensor(shape=(None,), dtype=np.int16),
                    "mel": tensor(shape=(None, bins), dtype=np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes record after record: TFDS's own writer keeps 1 GB in memory and beyond that needs TensorFlow."""
        template = tfds.core.ShardedFileTemplate(
            data_dir=self.data_path, dataset_name=self.name, split="train", filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )  # fmt: skip
        features_dict: Any = self.info.features
        examples = (features_dict.serialize_example(example) for _, example in self._generate_examples())
        lengths, size = [], 0
        while shard := list(itertools.islice(examples, SHARD)):
            path = template.sharded_filepath(shard_index=len(lengths), num_shards=None)
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in shard:
                writer.write(record)
            writer.close()
            lengths.append(len(shard))
            size += sum(map(len, shard))
        split = tfds.core.SplitInfo(name="train", shard_lengths=lengths, num_bytes=size, filename_template=template)
        self.info.set_splits(tfds.core.SplitDict([split]))

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        speakers = sorted({u.speaker for u in config.utterances})
        index: dict[str, list] = {"ids": [], "symbols": [], "frames": [], "samples": [], "speaker": []}
        rejected: list[dict[str, str]] = []
        with _extracted(config) as results:
            for utterance, result in zip(config.utterances, results, strict=True):
                if isinstance(result, str):
                    rejected.append({"id": utterance.id, "path": str(utterance.path), "reason": result})
                    continue
                tokens, wave, mel = result
                speaker = speakers.index(utterance.speaker)
                lengths = (utterance.id, len(tokens), len(mel), len(wave), speaker)
                for column, value in zip(index.values(), lengths, strict=True):
                    column.append(value)
                yield len(index["ids"]) - 1, {
                    "id": utterance.id, "text": utterance.text, "tokens": tokens,
                    "speaker": np.int32(speaker), "wave": wave, "mel": mel,
                }  # fmt: skip
        if not index["ids"]:
            reasons = "; ".join(f"{r['id']}: {r['reason']}" for r in rejected[:3])
            raise ValueError(f"none of the {len(rejected)} utterances can be used ({reasons})")
        head = {"mel": config.mel.to_dict(), "text": config.text.to_dict(), "speakers": speakers}
        folder = Path(self.data_dir)  # a temporary one, renamed once all is written
        (folder / INDEX).write_text(json.dumps(head | index, ensure_ascii=False), encoding="utf-8")
        (folder / REJECTED).write_text(json.dumps(rejected, ensure_ascii=False, indent=1), encoding="utf-8")


def prepare(
    utterances: Sequence[Utterance], mel: MelSpec, text: TextSpec, folder: str | Path, *,
    name: str = "corpus", jobs: int | None = None, progress: bool = True,
) -> Dataset:  # fmt: skip
    """Prepares a corpus, or opens it where it was prepared before.

    Args:
        utterances: what `read_corpus` lists.
        mel: the spectrogram that the models see.
        text: the front end and its symbols.
        folder: where prepared corpora live; this one goes to `folder/corpus/<name>-<hash>/1.0.0`.
        name: a word for the folder's name.
        jobs: processes; None takes one per CPU. More than one starts Python anew, so a script that calls this needs
            its `if __name__ == "__main__":`.
        progress: show a bar.

    Raises:
        ValueError: no utterance can be used (the first reasons are named), or a process died.
    """
    if not utterances:
        raise ValueError("utterances is empty: there is nothing to prepare")
    label = f"{name}-{_digest(utterances, mel, text)}"
    jobs = min(jobs or os.cpu_count() or 1, len(utterances))
    config = CorpusConfig(name=label, utterances=utterances, mel=mel, text=text, jobs=jobs, progress=progress)
    path = Path(folder) / Corpus.name / label / str(Corpus.VERSION)
    if not (path / INDEX).is_file():
        with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()), _quiet():
            builder = Corpus(config=config, data_dir=str(folder), file_format="array_record")
            try:
                builder.download_and_prepare(download_dir=unused)
            except BrokenProcessPool as error:
                raise ValueError(
                    "a preparing process died: was memory short, or has the calling script no "
                    '`if __name__ == "__main__":`? jobs=1 needs neither'
                ) from error
    return Dataset.open(path)


def extract(utterance: Utterance, mel: MelSpec, text: TextSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """The record of an utterance: tokens [S] int32, wave [N] int16, mel [T, M]; or the reason to reject it."""
    if not utterance.text.strip():
        return "there is no transcript"
    try:
        samples, _ = load(utterance.path, mel.sample_rate)
        if not np.isfinite(samples).all():
            return "the recording holds NaN or infinite samples"
        wave = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
        if not wave.any():
            return "the recording is silent"
        frames = features.mel_spectrogram_np(wave.astype(np.float32) / 32768.0, mel)  # [T, M]
        tokens = tokenize(_front_end(text), utterance.text)
    except (ValueError, OSError) as error:
        return str(error)
    if len(frames) < len(tokens):
        return f"{len(frames)} frames are too few for {len(tokens)} symbols"
    return tokens, wave, frames.astype(np.float32)


def tokenize(front_end: FrontEnd, text: str) -> np.ndarray:
    """Ids [S] int32 of a transcript: its sentences joined by a space. Raises ValueError on unspeakable characters."""
    tokens: list[str] = []
    for sentence in front_end.sentences(text, strict=True):
        tokens += [SPACE, *sentence.tokens] if tokens else sentence.tokens
    return front_end.encode(tokens)


@functools.cache
def _front_end(spec: TextSpec) -> FrontEnd:
    return build(spec)


@contextlib.contextmanager
def _extracted(config: CorpusConfig) -> Iterator[Iterable[Any]]:
    """The results of `extract` in order, from this process or from several, under a progress bar."""
    work = functools.partial(extract, mel=config.mel, text=config.text)
    count = len(config.utterances)
    with contextlib.ExitStack() as stack:
        if config.jobs > 1:  # spawn: a fork of a process that runs jax may hang
            pool = ProcessPoolExecutor(config.jobs, multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(work, config.utterances, chunksize=max(1, min(16, count // config.jobs)))
        else:
            results = map(work, config.utterances)
        every = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log file wants few lines
        yield tqdm(
            results, total=count, desc="preparing", unit="utterance", disable=not config.progress, mininterval=every
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its own bars and its warning that the configuration is not a built-in one."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()


def _digest(utterances: Sequence[Utterance], mel: MelSpec, text: TextSpec) -> str:
    digest = hashlib.sha256(json.dumps([str(Corpus.VERSION), mel.to_dict(), text.to_dict()]).encode())
    for u in utterances:
        stat = u.path.stat() if u.path.is_file() else None
        file = [stat.st_size, stat.st_mtime_ns] if stat else None
        digest.update(json.dumps([u.id, u.path.name, u.text, u.speaker, file]).encode())
    return digest.hexdigest()[:12]
