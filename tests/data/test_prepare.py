"""Preparing a corpus: killed, run twice at once, on a full disk, on Beam."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from voices import root, tree, write_corpus

from jaxtts.audio import mel_spec
from jaxtts.cli import main
from jaxtts.data import builder, prepare, read_corpus
from jaxtts.data.workers import in_processes
from jaxtts.text import TextSpec

MEL, TEXT = mel_spec("hifigan"), TextSpec("characters")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "mine", 60)  # 4 chunks are checked, 4 become shards


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    return prepare(read_corpus(folder), MEL, TEXT, tmp_path_factory.mktemp("out"), jobs=1, progress=False)


def command(folder, out, *more, threads="2"):
    fixed = [sys.executable, "-m", "jaxtts", "prepare", str(folder), "--frontend", "characters", "--out", str(out)]
    environment = ENVIRONMENT | {"OPENBLAS_NUM_THREADS": threads}
    return subprocess.Popen([*fixed, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def facts(out):
    """Finished files of a preparation, which may go on and remove them while they are listed."""
    found = {}
    for folder, _, names in os.walk(out):
        for name in names if folder.endswith(".facts") else ():
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(".json"):
                    found[Path(folder) / name] = os.stat(Path(folder) / name).st_mtime_ns
    return found


def test_killed_at_any_moment_it_goes_on_where_it_stopped(folder, undisturbed, tmp_path):
    path = tmp_path / undisturbed.path.relative_to(undisturbed.path.parents[2])
    rng, kills = random.Random(0), 0
    while True:
        before, more = facts(tmp_path), rng.randint(1, 2)
        process = command(folder, tmp_path, "--name", "corpus", "--jobs", "2")
        try:
            while process.poll() is None and len(facts(tmp_path)) < len(before) + more:
                time.sleep(0.003)
            time.sleep(rng.uniform(0, 0.03))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            kills += 1
        finally:
            process.kill()
            out, err = process.communicate()
        assert path.exists() or before.items() <= facts(tmp_path).items(), "what was complete is not done again"
    assert process.returncode == 0, err
    assert kills >= 2
    assert tree(path) == tree(undisturbed.path)
    assert {p.name for p in path.parent.iterdir()} == {".lock", path.name}


def test_two_at_once_do_it_once_whatever_their_threads(folder, undisturbed, tmp_path):
    both = [command(folder, tmp_path, "--name", "corpus", "--jobs", "1", threads=n) for n in ("1", "3")]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "60 utterances" in told[0][0] and told[0][0] == told[1][0]
    path = tmp_path / undisturbed.path.relative_to(undisturbed.path.parents[2])
    assert tree(path) == tree(undisturbed.path)


def test_the_second_one_waits_for_the_lock(tmp_path, capfd):
    lock = tmp_path / ".lock"
    script = "import sys, time\nfrom pathlib import Path\nfrom jaxtts.data.builder import _locked\n"
    script += "with _locked(Path(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(100)\n"
    process = subprocess.Popen([sys.executable, "-c", script, lock], env=ENVIRONMENT, stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline() == b"mine\n"
        killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
        with builder._locked(lock):  # the kernel gives it back when its holder is killed
            assert process.wait() == -signal.SIGKILL
        assert f"process {process.pid} prepares it; waiting" in capfd.readouterr().err
        killer.wait()
    finally:
        process.kill()


def test_processes_end_with_their_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom voices import pids\n"
        "from jaxtts.data.workers import in_processes\n"
        f"if __name__ == '__main__':\n    list(in_processes(pids, [{str(tmp_path / 'pids')!r}] * 2, 2))\n"
    )
    (tmp_path / "pids").mkdir()
    process = subprocess.Popen([sys.executable, script], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "pids").iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [int(p.name) for p in (tmp_path / "pids").iterdir()]
        assert len(workers) == 2 and process.poll() is None
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in workers if running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def running(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(("what", "complete"), [("facts/.checking-00001.json", 1), ("facts/.preparing-00002.json", 6),
                                                ("partial/.corpus-train.array_record-00003", 7)])  # fmt: skip
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(folder, undisturbed, tmp_path, what, complete):
    path = tmp_path / undisturbed.path.relative_to(undisturbed.path.parents[2])
    file = path.parent / f"{path.name}.{what}.{os.getpid()}"
    file.parent.mkdir(parents=True)
    file.symlink_to("/dev/full")
    utterances = read_corpus(folder)
    with pytest.raises(OSError, match="the disk is full; what is prepared stays") as error:
        prepare(utterances, MEL, TEXT, tmp_path, jobs=1, progress=False)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path)
    assert not path.exists() and len(facts(tmp_path)) == complete
    file.unlink(missing_ok=True)
    assert tree(prepare(utterances, MEL, TEXT, tmp_path, jobs=1, progress=False).path) == tree(undisturbed.path)


def test_a_recording_that_changes_meanwhile_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        builder, "judge", lambda *a: [judge(*a), (folder / "wavs" / "t005.wav").rename(tmp_path / "x")][0]
    )
    judge = sys.modules["jaxtts.data.check"].judge
    with pytest.raises(ValueError, match="t005.wav was changed while the corpus was prepared; start again"):
        prepare(read_corpus(folder), MEL, TEXT, tmp_path / "out", jobs=1, progress=False)
    (tmp_path / "x").rename(folder / "wavs" / "t005.wav")


def test_the_front_end_s_code_and_libraries_decide_the_folder(folder, monkeypatch, tmp_path):
    utterances = read_corpus(folder)[:3]

    def digest(text=TEXT):
        builder._code.cache_clear()
        return builder._digest(utterances, MEL, text, builder.Limits())

    gruut = TextSpec("gruut")
    before = digest(), digest(gruut)
    assert before == (digest(), digest(gruut)) and before[0] != before[1]
    monkeypatch.setattr(builder, "version", lambda package: "99")
    assert (digest() == before[0], digest(gruut) == before[1]) == (True, False)  # characters need no library
    monkeypatch.undo()
    copy = tmp_path / "copy"
    for package in ("text", "audio", "data"):
        (copy / f"jaxtts.{package}").mkdir(parents=True)
        for file in (Path(__file__).parents[2] / "jaxtts" / package).glob("*.py"):
            (copy / f"jaxtts.{package}" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(builder, "files", lambda package: copy / package)
    assert (digest(), digest(gruut)) == before
    with open(copy / "jaxtts.text" / "normalise.py", "a") as file:
        file.write("# changed\n")
    assert digest() != before[0]
    monkeypatch.undo()
    builder._code.cache_clear()


def test_processes_keep_the_order_and_pass_errors_on():
    assert list(in_processes(abs, [-3, 2, -1], 2)) == [3, 2, 1]
    with pytest.raises(ValueError, match="math domain"):
        list(in_processes(root, [4, -1], 2))


def test_beam_writes_the_same(folder, undisturbed, tmp_path, capfd):
    pytest.importorskip("apache_beam", reason='pip install -e ".[beam]"')
    arguments = ["prepare", str(folder), "--frontend", "characters", "--name", "corpus", "--out", str(tmp_path)]
    assert main([*arguments, "--beam=--runner=DirectRunner", "--beam=--direct_num_workers=2"]) == 0
    path = tmp_path / undisturbed.path.relative_to(undisturbed.path.parents[2])
    assert tree(path) == tree(undisturbed.path) and "60 utterances" in capfd.readouterr().out


def test_without_beam_the_mend_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r'Apache Beam cannot be imported .*: pip install "jaxtts\[beam\]"'):
        prepare(read_corpus(folder), MEL, TEXT, tmp_path, beam=(), progress=False)


def test_training_finds_what_was_prepared(folder, tmp_path, capfd):
    assert main(["prepare", str(folder), "--frontend", "characters", "--out", str(tmp_path), "--jobs", "1"]) == 0
    (made,) = tmp_path.glob("corpus/mine-*/*/index.json")
    assert str(made.parent) in capfd.readouterr().out
    again = prepare(read_corpus(folder), MEL, TEXT, tmp_path, name="mine", jobs=1, progress=False)
    assert again.path == made.parent and json.loads(made.read_text())["ids"] == again.ids.tolist()
