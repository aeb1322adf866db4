"""The layouts of public corpora."""

from pathlib import Path

import pytest

from jaxtts.data import read_corpus


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def rows(utterances, root):
    return [(u.id, str(u.path.relative_to(root)), u.text, u.speaker) for u in utterances]


def test_ljspeech(tmp_path):
    lines = 'LJ1|Dr. "Who|Doctor "Who\r\n\r\nLJ2|Only text\nLJ3.flac|Raw|\n'
    root = write(tmp_path / "lj", {"metadata.csv": lines})
    assert rows(read_corpus(root), root) == [
        ("LJ1", "wavs/LJ1.wav", 'Doctor "Who', "lj"),
        ("LJ2", "wavs/LJ2.wav", "Only text", "lj"),
        ("LJ3.flac", "wavs/LJ3.flac", "Raw", "lj"),
    ]
    assert read_corpus(root, column="raw")[0].text == 'Dr. "Who'


def test_a_folder_of_ljspeech_folders_has_speakers(tmp_path):
    root = write(tmp_path, {"bob/metadata.csv": "1|one", "amy/metadata.csv": "1|one"})
    expected = [("amy/1", "amy/wavs/1.wav", "one", "amy"), ("bob/1", "bob/wavs/1.wav", "one", "bob")]
    assert rows(read_corpus(root), root) == expected


def test_vctk(tmp_path):
    audio = "wav48_silence_trimmed/p225/p225_00{}_mic{}.flac"
    root = write(tmp_path, {
        "txt/p225/p225_001.txt": "Please call\nStella. ", "txt/p225/p225_003.txt": "Unrecorded.",
        audio.format(1, 1): "", audio.format(1, 2): "", audio.format(2, 1): "", "txt/readme": "",
    })  # fmt: skip
    assert rows(read_corpus(root), root) == [
        ("p225_001", audio.format(1, 1), "Please call Stella.", "p225"),
        ("p225_002", audio.format(2, 1), "", "p225"),  # nothing is left out: preparing reports both
        ("p225_003", audio.format(3, 1), "Unrecorded.", "p225"),
    ]


def test_old_vctk(tmp_path):
    root = write(tmp_path, {"txt/p226/p226_001.txt": "Hello.", "wav48/p226/p226_001.wav": ""})
    assert rows(read_corpus(root), root) == [("p226_001", "wav48/p226/p226_001.wav", "Hello.", "p226")]


@pytest.mark.parametrize("subset", ["train-clean-100/", ""])
def test_libritts(tmp_path, subset):
    a, b = f"{subset}19/198/19_198_000000_000000", f"{subset}26/495/26_495_000000_000001"
    root = write(tmp_path, {
        f"{a}.wav": "", f"{a}.normalized.txt": "Mister Smith.", f"{a}.original.txt": "Mr. Smith.",
        f"{b}.wav": "", f"{subset}26/495/26_495.trans.tsv": "26_495_000000_000001\t2 men\ttwo men\n",
        f"{subset}19/198/19_198_000000_000009.normalized.txt": "Unrecorded.",
    })  # fmt: skip
    assert rows(read_corpus(root), root) == [
        ("19_198_000000_000000", f"{a}.wav", "Mister Smith.", "19"),
        ("19_198_000000_000009", f"{subset}19/198/19_198_000000_000009.wav", "Unrecorded.", "19"),
        ("26_495_000000_000001", f"{b}.wav", "two men", "26"),
    ]
    assert [u.text for u in read_corpus(root, column="raw")] == ["Mr. Smith.", "Unrecorded.", "2 men"]


def test_manifest(tmp_path):
    lines = ['{"audio_filepath": "a/1.wav", "text": "Mr. X", "normalized_text": "mister X", "duration": 1.5}', "",
             '{"audio_filepath": "/far/2.flac", "text": "Yes|no", "speaker": 7}']  # fmt: skip
    root = write(tmp_path, {"train.json": "\n".join(lines)})
    first, second = read_corpus(root / "train.json")
    assert first == ("a/1", root / "a/1.wav", "mister X", "train")
    assert second == ("/far/2", Path("/far/2.flac"), "Yes|no", "7")
    assert read_corpus(root / "train.json", column="raw")[0].text == "Mr. X"


def test_filelists(tmp_path):
    root = write(tmp_path, {"one.txt": "wavs/a.wav|Hello.\nwavs/b.wav| \n", "many.txt": "x/a.wav|12|Hello.\n"})
    one = [("wavs/a", "wavs/a.wav", "Hello.", "one"), ("wavs/b", "wavs/b.wav", "", "one")]
    assert rows(read_corpus(root / "one.txt"), root) == one
    assert rows(read_corpus(root / "many.txt", "filelist"), root) == [("x/a", "x/a.wav", "Hello.", "12")]


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        ('{"audio_filepath": "a.wav"}', None, "list:1 is no JSON object with audio_filepath and text .'text'"),
        ('{"audio_filepath": "a.wav", "text": "x"}\n[1]', None, "list:2 is no JSON object"),
        ("LJ001-0001|text|text", None, "list:1 is neither path.text nor"),
        ("a.wav", None, "list:1 is neither"),
        ("a.wav|1|en|x", None, "list:1 is neither"),
        ("a.wav|x", "vctk", "layout is 'vctk', but .*list is a file"),
        ("", None, "has no utterances"),
    ],
)
def test_bad_lists_are_refused(tmp_path, content, layout, message):
    with pytest.raises(ValueError, match=message):
        read_corpus(write(tmp_path, {"list": content}) / "list", layout)


@pytest.mark.parametrize(
    ("files", "layout", "message"),
    [
        ({"notes.txt": "x"}, None, "looked for metadata.csv .*wav48.*normalized.txt"),
        ({"metadata.csv": "\n"}, None, "has no utterances"),
        ({"metadata.csv": "a|b|c|d"}, None, "metadata.csv:1 has 4 columns"),
        ({"metadata.csv": "a|b\nc"}, None, "metadata.csv:2 has 1 columns"),
        ({"metadata.csv": "a|b\na|c"}, None, "the id 'a' twice"),
        ({"metadata.csv": "a|b"}, "festvox", "layout is 'festvox'"),
        ({"metadata.csv": "a|b"}, "vctk", "has no utterances"),
        ({"metadata.csv": "a|b"}, "filelist", "layout is 'filelist', but .* is a folder"),
    ],
)
def test_bad_folders_are_refused(tmp_path, files, layout, message):
    with pytest.raises(ValueError, match=message):
        read_corpus(write(tmp_path, files), layout)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        read_corpus(tmp_path / "nowhere")
