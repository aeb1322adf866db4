import dataclasses
import json
from pathlib import Path

import pytest
import tyro

from jaxtts import recipe
from jaxtts.commands.train import Train, changed_recipe
from jaxtts.recipe import Recipe, load, override

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_recipe_survives_json(path):
    made = load(path)
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert load(path.stem) == made


def glow() -> Recipe:
    return load("glow_tts_ljspeech")


def test_overrides_reach_every_level():
    made = override(glow(), "model.decoder_blocks", "6")
    made = override(made, "optim.learning_rate", "2")
    made = override(made, "data.text.lowercase", "true")
    made = override(made, "model.attention_window", "none")
    made = override(made, "data.limits.pace", "4")
    assert made.data.limits.pace == 4.0
    assert (made.model.decoder_blocks, made.optim.learning_rate, made.data.text.lowercase) == (6, 2.0, True)
    assert made.model.attention_window is None and isinstance(made.optim.learning_rate, float)
    rest = dataclasses.replace(made, model=glow().model, optim=glow().optim, data=glow().data)
    assert rest == glow()
    several = dataclasses.replace(
        load("hifigan_ljspeech"), optim={"generator": glow().optim, "discriminator": glow().optim}
    )
    assert override(several, "optim.discriminator.b1", "0.5").optim["discriminator"].b1 == 0.5
    assert Recipe.from_dict(json.loads(json.dumps(several.to_dict()))) == several
    vocoder = override(load("hifigan_ljspeech"), "model.upsample_rates", "[8, 8, 2, 2]")
    assert vocoder.model.upsample_rates == (8, 8, 2, 2)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.hiden", "8", r"model.hiden: there is no field 'hiden' among num_symbols"),
        ("data.text.x.y", "8", r"data.text.x.y: there is no field 'x'"),
        ("steps.x", "8", r"steps.x: 'steps' is 240000 and has no fields"),
        ("data.batch_size", "many", r"data.batch_size='many': give a value like 64"),
        ("data.batch_size", "0", r"data.batch_size=0: give at least 1"),
        ("optim.name", "sgd", r"optim.name='sgd'"),
        ("model.num_symbols", "7", r"model.num_symbols=7: data has 53"),
        ("steps", "0", "steps=0: give at least 1"),
    ],
)
def test_a_wrong_override_names_the_field(path, value, message):
    with pytest.raises(ValueError, match=message):
        override(glow(), path, value)


@pytest.mark.parametrize(
    ("field", "value", "difference"),
    [("fmin", "50", "fmin 0.0 against 50.0"), ("padding", "center", "padding or epsilon")],
)
def test_a_vocoder_reads_the_frames_of_its_data(field, value, difference):
    with pytest.raises(ValueError, match=rf"the model reads 'hifigan_16khz' frames.* \(.*{difference}"):
        override(load("wavenet_voice"), f"data.mel.{field}", value)


def command_line(*args):
    return tyro.cli(Train, args=["vocos_ljspeech", "--data", "x", "--workdir", "y", *args])


def test_the_command_line_changes_the_recipe():
    changes = ["--set", "keep=1", "model.dim=32", "--set", "data.held_out=3"]
    made = changed_recipe(command_line("--steps", "500", "--batch-size", "4", "--seed", "7", *changes))
    assert (made.steps, made.optim.total_steps, made.data.batch_size, made.seed) == (500, 500, 4, 7)
    assert (made.keep, made.model.dim, made.data.held_out) == (1, 32, 3)
    with pytest.raises(ValueError, match="FIELD=VALUE"):
        changed_recipe(command_line("--set", "keep"))
    assert command_line("--take", "model", "mel", "--take", "text").take == (("model", "mel"), ("text",))


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="'nope' is no recipe: .*glow_tts_ljspeech"):
        load("nope")
    with pytest.raises(ValueError, match="no such file"):
        load(tmp_path / "x.py")
    (tmp_path / "x.py").write_text("a = 1\n")
    with pytest.raises(ValueError, match="no get_config"):
        recipe.load(tmp_path / "x.py")
