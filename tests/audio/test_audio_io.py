import io as bytesio

import numpy as np
import pytest
import soundfile

from jaxtts.audio.io import FORMATS, encode, load, resample, save


def tone(rate=22050, seconds=0.5, hz=440.0):
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


# relative to the tone; libopus at 24 kHz comes out half a sample late, which is 0.13 at 440 Hz
LOSSY = {"mp3": 0.02, "ogg": 0.05, "opus": 0.15}


@pytest.mark.parametrize(("suffix", "noise"), [("wav", 1e-4), ("flac", 1e-4), *LOSSY.items()])
@pytest.mark.parametrize("rate", [22050, 48000])
def test_round_trip(tmp_path, suffix, noise, rate):
    path = tmp_path / f"tone.{suffix.upper() if rate == 48000 else suffix}"
    save(path, tone(rate), rate)
    samples, read_rate = load(path, rate)
    info = soundfile.info(path)
    assert (info.format, info.subtype) == FORMATS[suffix][:2] and info.channels == 1
    assert read_rate == rate and samples.dtype == np.float32 and abs(len(samples) - len(tone(rate))) <= 1
    count = min(len(samples), len(tone(rate)))
    inside = slice(count // 10, -count // 10)  # codecs ring at the cut ends
    error = samples[:count][inside] - tone(rate)[:count][inside]
    assert np.sqrt(np.mean(error**2)) < noise * 0.28
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_opus_takes_the_next_rate_that_it_knows():
    assert soundfile.info(bytesio.BytesIO(encode(tone(), 22050, "opus"))).samplerate == 24000
    assert soundfile.info(bytesio.BytesIO(encode(tone(96000), 96000, "mp3"))).samplerate == 48000


def test_16_bit_is_exact_and_loud_samples_are_clipped(tmp_path):
    path = tmp_path / "x.wav"
    whole = np.arange(-32768, 32768).astype(np.int16)
    save(path, whole, 16000)
    np.testing.assert_array_equal(load(path)[0] * 32768, whole)
    save(path, load(path)[0], 16000)
    np.testing.assert_array_equal(load(path)[0] * 32768, whole)
    save(path, np.float32([0.5, 1.0, 1.7, -1.0, -9.0]), 16000)
    np.testing.assert_array_equal(load(path)[0] * 32768, [16384, 32767, 32767, -32768, -32768])


def test_channels_are_averaged_and_rates_converted(tmp_path):
    left, right = tone(44100, hz=300.0), tone(44100, hz=900.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 44100, "FLOAT")
    np.testing.assert_allclose(load(tmp_path / "stereo.wav")[0], (left + right) / 2, rtol=0, atol=1e-6)
    samples, rate = load(tmp_path / "stereo.wav", 22050)
    expected = (tone(hz=300.0) + tone(hz=900.0)) / 2
    assert rate == 22050 and len(samples) == len(expected)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], rtol=0, atol=1e-4)


def test_resample_removes_what_the_new_rate_cannot_hold():
    assert np.abs(resample(tone(44100, hz=15000.0), 44100, 22050)[500:-500]).max() < 1e-4
    with pytest.raises(ValueError, match="positive"):
        resample(tone(), 22050, 0)


def test_unknown_suffix_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'\.aac'.*\.wav, \.flac, \.mp3, \.ogg, \.opus"):
        save(tmp_path / "x.aac", tone(), 22050)
    with pytest.raises(ValueError, match="unknown audio format 'aac'"):
        encode(tone(), 22050, "aac")


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [(np.zeros(0), 16000, "at least one sample"), (np.zeros((2, 9)), 16000, r"\(2, 9\)"), (np.ones(9), 0, "rate is 0"),
     (np.float32([0, np.nan, np.inf]), 16000, "2 of 3"), (np.ones(999), 999999999, "999999999")],
)  # fmt: skip
def test_save_refuses_and_leaves_the_old_file(tmp_path, samples, rate, message):
    path = tmp_path / "x.flac"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        save(path, samples, rate)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        save(tmp_path / "nowhere" / "x.wav", tone(), 22050)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        load(tmp_path / "none.wav")
    whole = encode(tone(), 22050, "wav")
    soundfile.write(tmp_path / "nan.wav", np.float32([0, np.nan]), 16000, "FLOAT")
    for name, content, message in (
        ("text.wav", b"this is not sound", "cannot be read"),
        ("zero.wav", b"", "cannot be read"),
        ("cut.wav", whole[:1000], "cut off"),
        ("cut.flac", encode(tone(), 22050, "flac")[:2000], "cut off|cannot be read"),
        ("empty.wav", whole[:4] + (36).to_bytes(4, "little") + whole[8:40] + bytes(4), "no samples"),
        ("nan.wav", None, "NaN"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*({message})"):
            load(tmp_path / name)


def test_wav_from_a_pipe_is_not_cut_off(tmp_path):
    whole = encode(tone(), 22050, "wav")
    unknown = (0xFFFFFFFF).to_bytes(4, "little")
    (tmp_path / "pipe.wav").write_bytes(whole[:4] + unknown + whole[8:40] + unknown + whole[44:])
    assert len(load(tmp_path / "pipe.wav")[0]) == len(tone())


def test_long_vorbis_does_not_overflow_the_encoder():
    assert len(encode(0.1 * np.random.default_rng(0).standard_normal(1 << 21), 16000, "ogg")) > 100_000
