"""What --from and --take find in a voice, an export and a run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from jaxtts.models import parallel_wavenet, vocos, wavenet
from jaxtts.nn.functional import named, nested, split
from jaxtts.recipe import DataConfig, Recipe, load
from jaxtts.start import about, read_source, taken, taught
from jaxtts.train.checkpoint import export as export_model
from jaxtts.train.optim import OptimConfig

VOICE = Path(__file__).parents[2] / "jaxtts" / "voices" / "rms"


def test_a_voice_is_taken_over_whole_or_in_part(tmp_path):
    source, recipe, like = read_source(VOICE, "glow_tts", None), load("glow_tts_ljspeech"), load("glow_tts_voice")
    assert (source.model, source.mel, source.text) == ("glow_tts", recipe.data.mel, like.data.text)
    assert all(np.isfinite(x).all() for x in source.nets[""].values())
    whole = taken(recipe, ("model", "mel", "text"), VOICE, tmp_path)
    assert (whole.model, whole.data.text) == (like.model, like.data.text)
    assert (whole.optim, whole.steps, whole.data.batch_size) == (recipe.optim, recipe.steps, 64)
    sizes = taken(recipe, ("model",), VOICE, tmp_path)
    assert sizes.model == dataclasses.replace(like.model, num_symbols=53) and sizes.data == recipe.data
    several = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_speakers=3, speaker_dim=5))
    more = taken(several, ("model",), VOICE, tmp_path).model
    assert more == dataclasses.replace(sizes.model, num_speakers=3, speaker_dim=5)
    assert about(VOICE, "vocos")["model"] == "vocos"


def export(folder, module=vocos, **changes):
    config = dataclasses.replace(module.Config.tiny(), **changes)
    params = named(split(module.Model(config, rngs=nnx.Rngs(0)))[1])
    name = module.__name__.split(".")[-1]
    export_model(folder, nested(params), config, {"model": name, "mel": config.mel.to_dict()})
    return config, params


def test_an_export_brings_its_mel_spec(tmp_path):
    recipe, (config, params) = load("vocos_ljspeech"), export(tmp_path / "export")
    source = read_source(tmp_path / "export", "vocos", None)
    assert source.nets[""].keys() == params.keys() and source.text is None and source.mel == config.mel
    found = taken(recipe, ("model", "mel"), tmp_path / "export", tmp_path)
    assert found.data.mel == found.model.mel == config.mel and found.model.dim == config.dim
    assert found.model.gan == recipe.model.gan and found.data.segment_length == recipe.data.segment_length


def test_what_cannot_be_taken_is_one_sentence(tmp_path):
    glow = load("glow_tts_ljspeech")
    with pytest.raises(ValueError, match="--take model mel needs --from"):
        taken(glow, ("model", "mel"), None, tmp_path)
    with pytest.raises(ValueError, match="nowhere: there is no such file"):
        taken(glow, ("model",), tmp_path / "nowhere", tmp_path)
    with pytest.raises(ValueError, match="is a vocos, not a hifigan: --take model"):
        taken(load("hifigan_ljspeech"), ("model",), VOICE, tmp_path)
    export(tmp_path)
    with pytest.raises(ValueError, match="--take text: .* does not say what its symbols are"):
        taken(load("vocos_ljspeech"), ("text",), tmp_path, tmp_path)


def student():
    config = parallel_wavenet.Config.tiny()
    return Recipe("parallel_wavenet", config, OptimConfig(), DataConfig(config.mel))


def test_a_student_takes_its_teacher_as_it_was_trained(tmp_path):
    mel = wavenet.Config.tiny().mel.replace(name="of another name", magnitude_eps=1e-6)
    config, params = export(tmp_path, wavenet, channels=6, preemphasis=0.9, weight_norm=False, mel=mel)
    recipe, teacher = taught(student(), tmp_path)
    assert (recipe.model.teacher, recipe.data.mel) == (config, mel)
    assert recipe.model.channels == student().model.channels
    assert {name: np.shape(x) for name, x in named(teacher).items()} == {name: x.shape for name, x in params.items()}
    for name, x in named(teacher).items():
        np.testing.assert_array_equal(x, params[name])
    alone = load("vocos_ljspeech")
    assert taught(alone, None) == (alone, None)


def test_what_cannot_teach_is_one_sentence(tmp_path):
    export(tmp_path / "vocos")
    export(tmp_path / "other", wavenet, mel=wavenet.Config.tiny().mel.replace(name="other", sample_rate=16000))
    with pytest.raises(ValueError, match="learns from a trained model: give its folder by --teacher"):
        taught(student(), None)
    with pytest.raises(ValueError, match="a vocos learns from recordings alone"):
        taught(load("vocos_ljspeech"), tmp_path / "vocos")
    with pytest.raises(ValueError, match="vocos is a vocos; a parallel_wavenet learns from a wavenet"):
        taught(student(), tmp_path / "vocos")
    with pytest.raises(ValueError, match="'other' frames .* 'tiny' frames .sample_rate 16000 against 8000.*mel spec"):
        taught(student(), tmp_path / "other")
