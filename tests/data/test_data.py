"""A small corpus from disk to batches."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from threadpoolctl import threadpool_limits

from jaxtts.audio import mel_spec
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.data import Dataset, prepare, read_corpus
from jaxtts.data.batches import batches, bucket_shapes
from jaxtts.text import TextSpec, build

MEL = mel_spec("hifigan")
TEXT = TextSpec(frontend="characters")
HOP = MEL.hop_length


def tone(path, seconds, frequency=220.0, rate=22050):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * frequency * t) * np.exp(-t), rate, subtype="PCM_16")


def write_corpus(root, count=37):
    """Utterances of 0.4 to 2.8 s whose text grows with them, and five that cannot be used."""
    lines = []
    for i in range(count):
        seconds = 0.4 + 2.4 * (i * 7 % count) / count
        tone(root / "wavs" / f"u{i:03d}.wav", seconds, 150 + 10 * i)
        lines.append(f"u{i:03d}|“Raw” {i}|" + "la " * int(3 + 8 * seconds) + '"quoted" end.')
    tone(root / "wavs" / "short.wav", 0.2)
    tone(root / "wavs" / "tiny.wav", 0.001)
    tone(root / "wavs" / "odd.wav", 1.0)
    (root / "wavs" / "broken.wav").write_bytes(b"RIFF but not a sound")
    lines += ["short|x|much more text than a fifth of a second can hold", "tiny|x|a", "odd|x|Ωmega.", "broken|x|text"]
    lines += ["gone|x|no such file"]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def dataset(folder, tmp_path_factory):
    return prepare(read_corpus(folder), MEL, TEXT, tmp_path_factory.mktemp("out"), jobs=2, progress=False)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_records_hold_the_features_of_the_recording(dataset, folder):
    assert len(dataset) == 37
    for place in (0, 20, 36):
        record = dataset[place]
        assert record["id"] == dataset.ids[place] == f"u{place:03d}"
        wave, _ = soundfile.read(folder / "wavs" / f"{record['id']}.wav", dtype="int16")
        np.testing.assert_array_equal(record["wave"], wave)
        with threadpool_limits(1, "blas"):
            expected = mel_spectrogram_np(wave.astype(np.float32) / 32768, MEL)
        np.testing.assert_array_equal(record["mel"], expected)
        spoken = "".join(build(TEXT).decode(record["tokens"]))
        assert spoken == record["text"] and spoken.endswith('"quoted" end.')
        lengths = (dataset.frames[place], dataset.symbols[place], dataset.samples[place])
        assert lengths == (len(record["mel"]), len(record["tokens"]), len(record["wave"]))


def test_rejected_items_are_listed_with_reasons(dataset):
    reasons = {r["id"]: r["reason"] for r in dataset.rejected}
    assert set(reasons) == {"short", "tiny", "odd", "broken", "gone"}
    assert "frames are too few for" in reasons["short"]
    assert "shorter than one window" in reasons["tiny"]
    assert "Ω" in reasons["odd"]
    assert "broken.wav" in reasons["broken"] and "no such sound file" in reasons["gone"]
    assert json.loads((dataset.path / "rejected.json").read_text())[0]["path"].endswith("short.wav")
    assert "5 of 42 rejected" in dataset.summary()


def test_unchanged_corpora_are_reused_and_changed_ones_are_not(dataset, folder, tmp_path):
    out = dataset.path.parents[2]
    before = os.stat(dataset.path / "index.json").st_mtime_ns
    utterances = read_corpus(folder)
    again = prepare(utterances, MEL, TEXT, out, jobs=1, progress=False)
    assert again.path == dataset.path and os.stat(again.path / "index.json").st_mtime_ns == before
    some = utterances[:2]
    paths = {
        prepare(some, mel, text, tmp_path, jobs=1, progress=False).path
        for mel, text in ((MEL, TEXT), (mel_spec("tacotron2"), TEXT), (MEL, TextSpec("characters", bos="^")))
    }
    tone(some[0].path, 0.9)
    paths.add(prepare(some, MEL, TEXT, tmp_path, jobs=1, progress=False).path)
    assert len(paths) == 4
    write_corpus(folder)


def test_nothing_usable_is_refused(folder, tmp_path):
    bad = [u for u in read_corpus(folder) if u.id in ("gone", "tiny")]
    with pytest.raises(ValueError, match="none of the 2 utterances can be used .*tiny"):
        prepare(bad, MEL, TEXT, tmp_path, jobs=1, progress=False)
    assert not list(tmp_path.rglob("index.json"))
    with pytest.raises(ValueError, match="nothing to prepare"):
        prepare([], MEL, TEXT, tmp_path)
    with pytest.raises(ValueError, match="not a prepared corpus"):
        Dataset.open(tmp_path)


def test_a_process_that_dies_is_an_error_and_no_hang(folder, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from jaxtts.audio import mel_spec\nfrom jaxtts.data import prepare, read_corpus\n"
        "from jaxtts.text import TextSpec\n"
        f"utterances, text = read_corpus({str(folder)!r}), TextSpec('characters')\n"
        f"prepare(utterances, mel_spec('hifigan'), text, {str(tmp_path)!r}, jobs=2)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 1 and "ValueError: a preparing process died" in done.stderr
    assert not list(tmp_path.rglob("*.array_record*"))


def test_tfds_reads_it_without_tensorflow(dataset):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(dataset.path).as_data_source("train")
    assert len(source) == 37
    for place in (0, 5, 20, 36):
        theirs, ours = source[place], dataset[place]
        same(theirs | {name: theirs[name].decode() for name in ("id", "text")}, ours)
    assert "tensorflow" not in sys.modules


def test_batches_hold_the_records_in_their_bucket(dataset):
    train = batches(dataset, ("text", "mel", "wave"), 4, seed=3, buckets=4)
    assert 2 <= len(train.buckets) <= 4 and train.batches_per_epoch == 37 / 4
    shapes = set()
    for batch in take(iter(train), 20):
        frames, symbols = batch["mel"].shape[1], batch["text"].shape[1]
        shapes.add((frames, symbols))
        assert batch["mel"].shape[2] == 80 and batch["wave"].shape == (4, frames * HOP)
        for row, name in enumerate(batch["ids"]):
            record = dataset[int(np.flatnonzero(dataset.ids == name)[0])]
            for field, values in (("text", record["tokens"]), ("mel", record["mel"]), ("wave", record["wave"] / 32768)):
                length = batch[f"{field}_lengths"][row]
                assert length == (HOP * len(record["mel"]) if field == "wave" else len(values))
                np.testing.assert_array_equal(batch[field][row, :length], np.float32(values[:length]))
                assert not batch[field][row, length:].any()
    assert shapes <= set(train.buckets) and len(shapes) > 1


def test_text_and_whole_waves_go_together_without_mels(dataset):
    fields = ("text", "text_lengths", "wave", "wave_lengths", "speaker")
    alone, beside = (iter(batches(dataset, f, 4, seed=3, buckets=4)) for f in (fields, (*fields, "mel")))
    for a, b in zip(take(alone, 10), take(beside, 10), strict=True):
        assert set(a) == {*fields, "ids", "batch_ids"}
        assert (a["wave_lengths"] == HOP * b["mel_lengths"]).all() and a["wave"].shape[1] == HOP * b["mel"].shape[1]
        same(a, {name: b[name] for name in a})


def test_waves_are_as_long_as_their_frames_with_any_padding(folder, tmp_path):
    """'center' padding gives a frame more than the samples fill."""
    utterances = [u for u in read_corpus(folder) if u.id.startswith("u")][:5]
    centred = prepare(utterances, mel_spec("tacotron2"), TEXT, tmp_path, jobs=1, progress=False)
    batch = next(iter(batches(centred, ("text", "wave", "mel"), 5, epochs=1)))
    for row, name in enumerate(batch["ids"]):
        record = centred[int(np.flatnonzero(centred.ids == name)[0])]
        samples, length = len(record["wave"]), batch["wave_lengths"][row]
        assert samples < length == HOP * batch["mel_lengths"][row] <= batch["wave"].shape[1]
        np.testing.assert_array_equal(batch["wave"][row, :samples], np.float32(record["wave"] / 32768))
        assert not batch["wave"][row, samples:].any()


@pytest.mark.parametrize("count", [1, 2, 6])
def test_buckets_hold_every_utterance(dataset, count):
    shapes = bucket_shapes(dataset, count)
    assert 1 <= len(shapes) <= count and shapes[-1][0] - 16 < dataset.frames.max() <= shapes[-1][0]
    assert len(take(iter(batches(dataset, ("mel", "text"), 4, buckets=count)), 12)) == 12


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_every_utterance_comes_once_an_epoch(dataset, batch_size):
    loader = iter(batches(dataset, ("text",), batch_size, seed=1))
    seen = Counter()
    for _ in range(5 * 37 // batch_size):
        seen.update(next(loader)["ids"])
        state = loader.get_state()
        drawn = seen + Counter(str(dataset.ids[place]) for bucket in state["waiting"] for place in bucket)
        assert drawn.total() == 37 * state["epoch"] + state["position"]
        assert {drawn[str(name)] for name in dataset.ids} <= {state["epoch"], state["epoch"] + 1}
    whole = Counter(i for b in batches(dataset, ("text",), batch_size, seed=1, epochs=3) for i in b["ids"] if i)
    assert whole == {str(name): 3 for name in dataset.ids}


def test_the_order_depends_on_seed_and_epoch_alone(dataset):
    def order(seed):
        return [b["ids"] for b in take(iter(batches(dataset, ("mel",), 5, seed=seed)), 16)]

    assert order(7) == order(7) != order(8)
    assert order(7)[:7] != order(7)[7:14]
    train = batches(dataset, ("mel",), 5, seed=7)
    assert take(iter(train), 2)[1]["ids"] == take(iter(train), 2)[1]["ids"]


@pytest.mark.parametrize(
    "arguments",
    [{"fields": ("text", "mel")}, {"fields": ("text", "wave")}, {"fields": ("wave", "mel"), "segment_length": 8192}],
)
@pytest.mark.parametrize("stop", [0, 3, 9, 25])
def test_a_restored_position_gives_the_same_batches(dataset, arguments, stop):
    train = batches(dataset, batch_size=4, seed=2, **arguments)
    loader = iter(train)
    take(loader, stop)
    state = json.loads(json.dumps(loader.get_state()))
    rest = take(loader, 12)
    restored = iter(batches(dataset, batch_size=4, seed=2, prefetch=0, **arguments))
    restored.set_state(state)
    for a, b in zip(rest, take(restored, 12), strict=True):
        same(a, b)
    loader.set_state(state)  # back in the same iterator, which has read ahead
    same(next(loader), rest[0])
    with pytest.raises(ValueError, match="another corpus"):
        iter(batches(dataset, batch_size=4, seed=9, **arguments)).set_state(state)


def test_crops_are_aligned_and_short_recordings_end_in_silence(dataset):
    segment = 80 * HOP  # 0.93 s: some recordings are shorter
    silence = mel_spectrogram_np(np.zeros(4096, np.float32), MEL)[0]
    starts = set()
    for batch in take(iter(batches(dataset, ("wave", "mel"), 6, segment_length=segment)), 12):
        assert batch["wave"].shape == (6, segment) and batch["mel"].shape == (6, 80, 80)
        for name, wave, mel in zip(batch["ids"], batch["wave"], batch["mel"], strict=True):
            record = dataset[int(np.flatnonzero(dataset.ids == name)[0])]
            whole = record["wave"] / np.float32(32768)
            found = [s for s in range(len(record["mel"])) if np.array_equal(record["mel"][s], mel[0])]
            start = next(s for s in found if np.array_equal(whole[s * HOP :][:segment], wave[: len(whole) - s * HOP]))
            starts.add(start)
            frames = record["mel"][start : start + 80]
            np.testing.assert_array_equal(mel[: len(frames)], frames)
            if len(whole) < segment:
                assert start == 0 and not wave[len(whole) :].any()
                np.testing.assert_array_equal(mel[len(frames) :], np.broadcast_to(silence, (80 - len(frames), 80)))
    assert len(starts) > 10
    only = next(iter(batches(dataset, ("wave",), 6, segment_length=segment)))
    assert set(only) == {"ids", "batch_ids", "speaker", "wave"}


def test_processes_share_the_global_batches(dataset):
    whole = take(iter(batches(dataset, ("mel",), 6, seed=4)), 8)
    parts = [take(iter(batches(dataset, ("mel",), 6, seed=4, process=i, num_processes=3)), 8) for i in range(3)]
    for step, batch in enumerate(whole):
        assert len({p[step]["mel"].shape for p in parts}) == 1
        for i in range(3):
            assert parts[i][step]["ids"] == batch["ids"][2 * i : 2 * i + 2]
            assert parts[i][step]["batch_ids"] == batch["ids"]
            np.testing.assert_array_equal(parts[i][step]["mel"], batch["mel"][2 * i : 2 * i + 2])


@pytest.mark.parametrize("arguments", [{"fields": ("text", "mel", "wave")},
                                       {"fields": ("wave", "mel"), "segment_length": 80 * HOP}])  # fmt: skip
def test_examples_have_the_shapes_of_the_batches(dataset, arguments):
    def shapes(batch):
        return tuple(sorted((n, x.shape, x.dtype) for n, x in batch.items() if isinstance(x, np.ndarray)))

    train = batches(dataset, batch_size=4, process=1, num_processes=2, **arguments)
    examples = {shapes(example) for example in train.examples()}
    assert len(examples) == len(train.buckets) and {shapes(b) for b in take(iter(train), 30)} == examples


@pytest.mark.parametrize(("count", "batch_size"), [(37, 8), (5, 12), (8, 4)])
def test_the_last_batch_is_filled_with_others(dataset, count, batch_size):
    part = dataset.select(np.arange(count))
    seen = list(batches(part, ("text", "mel"), batch_size, epochs=1))
    assert sorted(i for b in seen for i in b["ids"] if i) == sorted(part.ids.tolist())
    assert all("" not in b["ids"] for b in seen[:-1]) and len(seen) == -(-count // batch_size)
    rows = {b["mel"][i, :n].tobytes() for b in seen for i, n in enumerate(b["mel_lengths"])}
    counted = Counter(b["mel"][i, :n].tobytes() for b in seen for i, n in enumerate(b["mel_lengths"]))
    assert len(rows) == count and max(counted.values()) - min(counted.values()) <= 1


def test_the_held_out_part_is_fixed_by_the_ids(dataset):
    train, held = dataset.held_out(7)
    assert len(train) == 30 and len(held) == 7 and not set(train.ids) & set(held.ids)
    fewer = dataset.select(np.arange(36, 5, -1))  # another order, some missing: the same ids are taken first
    assert set(held.ids) & set(fewer.ids) <= set(fewer.held_out(7)[1].ids)
    shapes = batches(dataset, ("mel",), 4).buckets
    batch = next(iter(batches(held, ("mel",), 4, buckets=shapes, epochs=1)))
    assert batch["mel"].shape[1] in {t for t, _ in shapes}
    with pytest.raises(ValueError, match="held_out is 37"):
        dataset.held_out(37)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": ("pitch",)}, "pitch; choose from"),
        ({"fields": ("speaker",)}, "choose from"),
        ({"fields": ("wave",), "segment_length": 1000}, "multiple of the hop length 256"),
        ({"fields": ("text", "wave"), "segment_length": 1024}, "random segment_length crop"),
        ({"fields": ("mel",), "buckets": [(64, 64), (32, 64)]}, "growing"),
        ({"fields": ("mel",), "buckets": [(64, 64)]}, "add a larger one"),
        ({"fields": ("mel",), "num_processes": 3}, "cannot be shared by 3"),
    ],
)
def test_bad_arguments_are_named(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(dataset, batch_size=4, **arguments)


def test_a_task_s_fields_are_understood(dataset):
    batch = next(iter(batches(dataset, ("text", "text_lengths", "mel", "mel_lengths", "speaker"), 4)))
    assert set(batch) == {"ids", "batch_ids", "text", "text_lengths", "mel", "mel_lengths", "speaker"}
