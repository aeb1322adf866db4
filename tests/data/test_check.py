"""What in a corpus cannot be trained on: every kind is found by its name, in check-data and in prepare alike."""

import json

import numpy as np
import pytest
import soundfile
from voices import RATE, voice, write_corpus

from jaxtts.audio import mel_spec
from jaxtts.cli import main
from jaxtts.data import Limits, check_corpus, prepare, read_corpus
from jaxtts.data.check import clipped_share
from jaxtts.text import TextSpec

MEL, TEXT = mel_spec("hifigan"), TextSpec("characters")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty good utterances and one of every bad kind."""
    root = write_corpus(tmp_path_factory.mktemp("corpus") / "mine")
    lines = []

    def add(name, text, samples=None, rate=RATE, **how):
        lines.append(f"{name}|{text}\n")
        if samples is not None:
            soundfile.write(root / "wavs" / f"{name}.wav", samples, rate, subtype="PCM_16", **how)
        return root / "wavs" / f"{name}.wav"

    text = "a line of text"
    add("mute", " ", voice(text, 1))
    add("gone", text)
    path = add("cut", text, voice(text, 2))
    path.write_bytes(path.read_bytes()[:20044])
    path = add("flac", text, voice(text, 3))
    path.write_bytes(b"fLaC and no more")
    add("still", text, voice(text, 4) * 1e-3)
    add("loud", text, np.clip(voice(text, 5) * 20, -1, 1))
    add("greek", "a liΩe of tξxt", voice(text, 6))
    add("slow", text, voice(text, 7, 16000), 16000)
    add("hasty", text * 6, voice(text, 8))
    add("window", "a", voice(text, 9)[:900])
    add("endless", text, voice(text * 9, 10))
    add("twin", text, soundfile.read(root / "wavs" / "t003.wav")[0])
    add("t100", "said twice", voice("said twice", 11))
    add("t101", "said twice", voice("said twice", 12))
    with open(root / "metadata.csv", "a", encoding="utf-8") as file:
        file.writelines(lines)
    return root


BAD = {
    "mute": ("missing transcript", "mute.wav: there is no transcript for it"),
    "gone": ("missing recording", "gone.wav: no such sound file"),
    "cut": ("truncated", "cut.wav: the file is cut off: it promises 21602 samples, 10000 are there"),
    "flac": ("unreadable", "flac.wav: cannot be read as sound"),
    "still": ("silent", "still.wav: the recording is silent (its loudest sample is 0.0003"),
    "loud": ("clipped", "loud.wav: the recording is clipped: "),
    "greek": ("unknown symbols", "greek.wav: its text cannot be read: cannot speak 'Ω' (U+03A9), 'ξ' (U+03BE) in"),
    "slow": ("wrong sample rate", "slow.wav: recorded at 16000 Hz, the corpus at 22050 Hz"),
    "hasty": ("too short", "hasty.wav: 0.98 s for 84 symbols: the corpus takes 5.88 s for as many"),
    "window": ("too short", "window.wav: 0.041 s, shorter than one window of the mel spec 'hifigan'"),
    "endless": ("too long", "endless.wav: 8.82 s for 14 symbols: 4.94 s would be plenty"),
    "twin": ("duplicate", "twin.wav: the same recording as 't003'"),
}


@pytest.fixture(scope="module")
def report(folder):
    return check_corpus(read_corpus(folder), MEL, TEXT, jobs=2, progress=False)


def test_every_kind_is_found_and_named(report, folder):
    found = {r["id"]: r for r in report.rejected}
    assert found.keys() == BAD.keys()
    for name, (kind, reason) in BAD.items():
        assert found[name]["kind"] == kind
        assert found[name]["reason"].startswith(str(folder / "wavs" / reason)), found[name]["reason"]
        assert found[name]["path"] == str(folder / "wavs" / f"{name}.wav")
    assert report.totals == {"too short": 2} | {kind: 1 for kind, _ in BAD.values() if kind != "too short"}
    assert len(report.usable) == 42 and report.speakers == 1
    assert report.pace == pytest.approx(0.07, abs=1e-3)
    assert report.warnings == ["mine says 'said twice' 2 times: t100, t101"]


def test_prepare_leaves_out_the_same_in_the_same_words(report, folder, tmp_path):
    dataset = prepare(read_corpus(folder), MEL, TEXT, tmp_path, jobs=1, progress=False)
    assert list(dataset.rejected) == report.rejected and list(dataset.warnings) == report.warnings
    assert len(dataset) == 42 and json.loads((dataset.path / "rejected.json").read_text()) == report.rejected
    assert "12 of 54 rejected" in dataset.summary() and "warnings, the first: mine says" in dataset.summary()


def test_the_command_prints_a_table_and_json(report, folder, tmp_path, capfd):
    command = ["check-data", str(folder), "--frontend", "characters", "--jobs", "1"]
    assert main([*command, "--json", str(tmp_path / "r.json")]) == 0
    table = capfd.readouterr().out
    for name, (kind, reason) in BAD.items():
        assert any(line.split()[0] == name and kind in line and reason in line for line in table.splitlines() if line)
    assert "warning: mine says" in table
    assert "usable                    42  of 54: 0.0" in table and "22050 Hz (46), 16000 Hz (1)" in table
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored == {"folder": str(folder), **report.to_dict()}

    assert main([*command, "--json", "-", "--strict"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out) == stored and "usable" in err


def test_exit_codes(folder, tmp_path, capfd):
    assert main(["check-data", str(folder), "--json", str(tmp_path / "nowhere" / "r.json")]) == 2
    assert "nowhere does not exist; create it first" in capfd.readouterr().err
    good = write_corpus(tmp_path / "good", 3)
    common = ["--frontend", "characters", "--jobs", "1"]
    assert main(["check-data", str(good), *common, "--strict"]) == 0
    assert main(["check-data", str(good), *common, "--sample-rate", "16000"]) == 1  # nothing is left
    assert "recorded at 22050 Hz, the corpus at 16000 Hz" in capfd.readouterr().out
    for arguments, message in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(good), "--pace", "0.5"], "pace=0.5 is out of range"),
        ([str(good), "--jobs", "0"], "--jobs 0: give at least 1"),
        ([str(good), "--frontend", "telepathy"], "frontend is 'telepathy'"),
        ([str(good), "--layout", "vctk"], "has no utterances"),
        ([str(good), "--config", "nothing"], "is no recipe"),
    ):
        assert main(["check-data", *arguments]) == 2
        err = capfd.readouterr().err
        assert message in err and err.count("\n") == 1


def test_a_recipe_decides_mel_and_text(folder, tmp_path, capfd):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from jaxtts.models.vocos import Config\nfrom jaxtts.recipe import DataConfig, Recipe\n"
        "from jaxtts.text import TextSpec\nfrom jaxtts.train.optim import OptimConfig\n\n"
        "def get_config():\n    config = Config.tiny()\n"
        "    return Recipe('vocos', config, OptimConfig(), DataConfig(config.mel, TextSpec('characters', bos='^')))\n"
    )
    assert main(["check-data", str(folder), "--config", str(recipe), "--jobs", "1"]) == 0
    assert "endless.wav: 8.82 s for 15 symbols" in capfd.readouterr().out  # one more: bos


def test_limits_move_the_line(folder):
    some = [u for u in read_corpus(folder) if u.id in ("loud", "still", "t001")]

    def kinds(**limits):
        return [r["kind"] for r in check_corpus(some, MEL, TEXT, Limits(**limits), jobs=1, progress=False).rejected]

    assert kinds() == ["silent", "clipped"]
    assert kinds(silence=1e-4) == ["clipped"] and kinds(clipped=1.0) == ["silent"]
    assert kinds(seconds_per_symbol=0.01, pause=0.0) == ["too long", "silent", "clipped"]
    with pytest.raises(ValueError, match="clipped=-1 is out of range"):
        Limits(clipped=-1)


def test_what_counts_as_clipped():
    tone = np.abs(np.sin(2 * np.pi * 110 * np.arange(RATE) / RATE))
    assert clipped_share(tone) == 0.0  # normalised to full scale: no three samples stand there
    assert clipped_share(np.minimum(tone * 1.5, 1)) > 0.5
    loud = np.zeros(1000)
    loud[[10, 20, 21]] = 1
    assert clipped_share(loud) == 0.0
    loud[997:] = 1
    assert clipped_share(loud) == 3 / 1000


def test_small_corpora_and_low_rates(tmp_path):
    root = write_corpus(tmp_path / "low", 5, rate=16000)
    report = check_corpus(read_corpus(root), MEL, TEXT, jobs=1, progress=False)
    assert not report.rejected
    assert report.warnings == ["the recordings have 16000 Hz: resampled to 22050 Hz the high bands stay empty"]


def test_a_copy_with_another_transcript_says_so(tmp_path):
    root = write_corpus(tmp_path / "copy", 2)
    (root / "wavs" / "t001.wav").write_bytes((root / "wavs" / "t000.wav").read_bytes())
    (rejected,) = check_corpus(read_corpus(root), MEL, TEXT, jobs=1, progress=False).rejected
    assert rejected["id"] == "t001" and rejected["reason"].endswith("wavs/t000.wav), but another transcript")


def test_nothing_usable_is_a_report_too(tmp_path):
    root = write_corpus(tmp_path / "digits", 3)
    (root / "metadata.csv").write_text("t000|¹²³\nt001|漢字\n")
    report = check_corpus(read_corpus(root), MEL, TEXT, jobs=1, progress=False)
    assert report.totals == {"unknown symbols": 2} and not report.usable and report.pace == 0


def test_vctk_and_libritts_report_what_is_missing(tmp_path):
    vctk, libri = tmp_path / "VCTK", tmp_path / "LibriTTS"
    layout = (
        (vctk, "wav48_silence_trimmed/p225/p225_{:03d}_mic1.flac", "txt/p225/p225_{:03d}.txt"),
        (
            libri,
            "dev-clean/84/121123/84_121123_{:06d}_000000.wav",
            "dev-clean/84/121123/84_121123_{:06d}_000000.normalized.txt",
        ),
    )
    for root, audio, transcript in layout:
        for number in range(1, 5):
            sound, text = root / audio.format(number), root / transcript.format(number)
            sound.parent.mkdir(parents=True, exist_ok=True)
            text.parent.mkdir(parents=True, exist_ok=True)
            if number != 2:
                soundfile.write(sound, voice("sentence " + "i" * number, number, 24000), 24000)
            if number != 3:
                text.write_text("sentence " + "i" * number)
        report = check_corpus(read_corpus(root), MEL, TEXT, jobs=1, progress=False)
        assert [r["kind"] for r in report.rejected] == ["missing recording", "missing transcript"]
        assert [r["path"] for r in report.rejected] == [str(root / audio.format(n)) for n in (2, 3)]
        assert len(report.usable) == 2 and report.speakers == 1
