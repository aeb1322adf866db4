import json
import subprocess
import sys

import pytest

from jaxtts.audio.spec import MEL_SPECS, MelSpec, compatible, mel_spec, require_same


def test_named_specs_state_the_published_parameters():
    def numbers(name):
        s = mel_spec(name)
        return s.sample_rate, s.n_fft, s.hop_length, s.win_length, s.num_mels, s.fmin, s.high

    assert numbers("hifigan") == numbers("tacotron2") == numbers("waveglow") == (22050, 1024, 256, 1024, 80, 0, 8000)
    assert numbers("vits") == (22050, 1024, 256, 1024, 80, 0, 11025)
    assert numbers("vits_linear")[4] is None and mel_spec("vits_linear").num_bins == 513
    assert numbers("tacotron2_paper") == (24000, 2048, 300, 1200, 80, 125, 7600)
    assert numbers("rtvc") == numbers("wavernn") == (16000, 800, 200, 800, 80, 55, 7600)
    assert numbers("wavernn_lj") == (22050, 2048, 275, 1100, 80, 40, 11025)
    assert numbers("wavegrad") == (24000, 2048, 300, 1200, 128, 20, 12000)
    assert numbers("ge2e") == (16000, 400, 160, 400, 40, 0, 8000)
    assert numbers("bigvgan_24khz_100band") == (24000, 1024, 256, 1024, 100, 0, 12000)
    assert numbers("bigvgan_22khz_80band") == (22050, 1024, 256, 1024, 80, 0, 8000)
    assert numbers("hifigan_16khz") == (16000, 1024, 200, 800, 80, 0, 8000)
    assert all(name == spec.name for name, spec in MEL_SPECS.items())


NORMALISED = mel_spec("ge2e").replace(name="normalised", log="log10", mean=(-1.5,) * 40, scale=(0.1, *(0.5,) * 39))


@pytest.mark.parametrize("name", [*MEL_SPECS, "normalised"])
def test_json_round_trip(name):
    spec = NORMALISED if name == "normalised" else mel_spec(name)
    assert MelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    hash(MelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))))


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"'hifi'.*hifigan.*bigvgan_22khz_80band"):
        mel_spec("hifi")


def test_from_dict_names_unknown_and_missing_fields():
    fields = mel_spec("hifigan").to_dict() | {"hop": 3}
    del fields["n_fft"]
    with pytest.raises(ValueError, match=r"\['hop'\].*\['n_fft'\]"):
        MelSpec.from_dict(fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hop_length", 0), ("n_fft", 1000), ("num_mels", 80.0), ("fmax", 12000.0), ("log", "log2"), ("clip", 0.0),
     ("padding", "valid"), ("hop_length", 255), ("value_range", (0.0, 1.0)), ("win_length", 2048),
     ("mean", (0.0,) * 80), ("scale", (1.0,) * 80)],
)  # fmt: skip
def test_impossible_values_name_the_field(field, value):
    with pytest.raises(ValueError, match="band" if field == "fmax" else field):
        mel_spec("hifigan").replace(**{field: value})


def test_mean_and_scale_are_of_all_bins_and_can_be_undone():
    with pytest.raises(ValueError, match="mean has 39 of 40 bins"):
        NORMALISED.replace(mean=(0.0,) * 39)
    with pytest.raises(ValueError, match="scale holds 0.0"):
        NORMALISED.replace(scale=(0.0,) * 40)
    assert NORMALISED.floor == pytest.approx((-5 + 1.5) / 0.1)
    with pytest.raises(ValueError, match="mean 40 numbers against None, scale 40 numbers against None"):
        require_same(NORMALISED, NORMALISED.replace(mean=None, scale=None))


def test_require_same_names_both_and_the_difference():
    require_same(mel_spec("tacotron2"), mel_spec("hifigan"))  # half a hop and the floor of silence apart
    require_same(mel_spec("vits"), mel_spec("vits").replace(fmax=11025.0))
    assert not compatible(mel_spec("rtvc"), mel_spec("hifigan"))
    with pytest.raises(ValueError) as error:
        require_same(mel_spec("hifigan"), mel_spec("vits"))
    message = str(error.value)
    assert "'hifigan'" in message and "'vits'" in message and "fmax 8000.0 against 11025.0" in message
    assert "n_fft" not in message


@pytest.mark.parametrize(("name", "floor"), [("hifigan", -11.512925), ("rtvc", -4), ("wavernn_lj", 0), ("ge2e", 0)])
def test_floor(name, floor):
    assert mel_spec(name).floor == pytest.approx(floor)


def test_importing_is_light():
    code = (
        "import sys, jaxtts.audio, jaxtts.audio.spec\n"
        "assert not {'jax', 'numpy', 'soundfile', 'librosa', 'soxr'} & set(sys.modules), sorted(sys.modules)\n"
        "import jaxtts.audio.features, jaxtts.audio.io, jaxtts.audio.mulaw\n"
        "assert not {'jax', 'soundfile', 'librosa', 'soxr'} & set(sys.modules), sorted(sys.modules)\n"
        "from jaxtts.audio import MelSpec, load, mel_spectrogram_np"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
