"""`jaxtts train` from a folder of recordings to a model that another process can read."""

import dataclasses
import json

import jax
import numpy as np
import soundfile
from flax import nnx

from jaxtts.cli import main
from jaxtts.commands.train import explained
from jaxtts.models import parallel_wavenet, wavenet
from jaxtts.nn.functional import named, split
from jaxtts.recipe import Recipe
from jaxtts.synth.folder import read_part
from jaxtts.train.checkpoint import Checkpoints, export
from jaxtts.train.sharding import data_mesh

RECIPE = """
from jaxtts.models.vocos import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig

def get_config():
    config = Config.tiny()
    data = DataConfig(config.mel, TextSpec("characters"), batch_size=4, segment_length=256, held_out=2)
    optim = OptimConfig(learning_rate=1e-3)
    return Recipe("vocos", config, optim, data, steps=2, log_every=1, eval_every=2, sample_every=2)
"""


STUDENT = """
from jaxtts.models.parallel_wavenet import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig

def get_config():
    config = Config.tiny()
    data = DataConfig(config.mel, TextSpec("characters"), batch_size=4, segment_length=128, held_out=2)
    return Recipe("parallel_wavenet", config, OptimConfig(), data, steps=1, log_every=1, eval_every=9, sample_every=9)
"""


def command_for(folder, recipe):
    """A recipe, a corpus of eight recordings, and the command that trains in the folder `run` on it."""
    rng = np.random.default_rng(0)
    (folder / "corpus" / "wavs").mkdir(parents=True)
    names = [f"a{i}" for i in range(8)]
    for name in names:
        wave = np.sin(np.arange(4000) * rng.uniform(0.1, 0.5)) * 0.5 + rng.normal(size=4000) * 0.05
        soundfile.write(folder / "corpus" / "wavs" / f"{name}.wav", wave, 8000)
    (folder / "corpus" / "metadata.csv").write_text("".join(f"{n}|Hello there.|Hello there.\n" for n in names))
    (folder / "mine.py").write_text(recipe)
    command = ["train", str(folder / "mine.py"), "--data", str(folder / "corpus"), "--jobs", "1"]
    return [*command, "--workdir", str(folder / "run")]


def test_train_and_go_on(tmp_path, capfd):
    command = command_for(tmp_path, RECIPE)
    assert main([*command, "--steps", "2"]) == 0
    assert main([*command, "--steps", "3", "--set", "keep=1"]) == 0
    told = capfd.readouterr().err
    assert told.count("compiling 1 shapes of batches") == 2 and "after the warm-up" not in told
    assert "6 to train on, 2 held out" in told and "going on from step 2" in told

    reports = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in reports if "loss/mel" in r] == [1, 2, 3]
    assert [r["step"] for r in reports if "eval/loss/mel" in r] == [2]
    assert [r["compilations"] for r in reports if "loss/mel" in r] == [0, 0, 0]
    meta = Checkpoints(tmp_path / "run").meta()
    recipe = Recipe.from_dict(meta["recipe"])
    assert (recipe.steps, recipe.keep, recipe.data.batch_size) == (3, 1, 4) and meta["loader"] is not None
    part, _ = read_part(tmp_path / "run", "vocoder")
    assert (part.model, part.mel) == ("vocos", recipe.model.mel) and part.config["dim"] == recipe.model.dim

    assert main([*command, "--steps", "4", "--set", "model.dim=8"]) == 2
    assert "another model: params.generator" in capfd.readouterr().err

    tuned = [*command[:-1], str(tmp_path / "tuned"), "--from", str(tmp_path / "source")]
    assert main([*tuned, "--steps", "1"]) == 2
    assert f"--from {tmp_path / 'source'}: there is no such file or folder" in capfd.readouterr().err
    (tmp_path / "run").rename(tmp_path / "source")
    assert main([*tuned, "--steps", "1"]) == 0
    told = capfd.readouterr().err
    assert f"begins with {tmp_path / 'source'} (vocos, step 3)" in told and "kept      discriminator" in told
    (tmp_path / "source" / "checkpoints").rename(tmp_path / "elsewhere")
    assert main([*tuned, "--steps", "2", "--workdir", str(tmp_path / "export")]) == 0
    assert "fresh     discriminator: the source has none" in capfd.readouterr().err
    (tmp_path / "source").rename(tmp_path / "gone")
    assert main([*tuned, "--steps", "2"]) == 0
    assert "which is not read again" in capfd.readouterr().err


def test_a_student_goes_on(tmp_path, capfd):
    config = dataclasses.replace(parallel_wavenet.Config.tiny().teacher, weight_norm=False)
    params = split(wavenet.Model(config, rngs=nnx.Rngs(0)))[1]
    export(tmp_path / "teacher", params, config, {"model": "wavenet", "mel": config.mel.to_dict()})
    command = [*command_for(tmp_path, STUDENT), "--teacher", str(tmp_path / "teacher")]
    assert main(command) == 0
    teacher = Checkpoints(tmp_path / "run", read_only=True).restore(None, data_mesh())[0].rest["teacher"]
    jax.tree.map(np.testing.assert_array_equal, named(teacher), named(params))
    capfd.readouterr()
    assert main([*command, "--steps", "2"]) == 0
    assert f"going on from step 1 (taught by {tmp_path / 'teacher'})" in capfd.readouterr().err


def test_what_the_runtime_says_is_explained():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")
    assert "lower --batch-size, or --set optim.accumulate=2" in str(explained(full, 1))
    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo AllReduce failed: Connection closed by peer\nand more")
    assert "another process of this run is gone (INTERNAL: Gloo" in str(explained(lost, 2))
    assert explained(lost, 1) is lost


def test_the_flags_of_several_processes_belong_together(tmp_path, capfd):
    (tmp_path / "mine.py").write_text(RECIPE)
    command = ["train", str(tmp_path / "mine.py"), "--data", str(tmp_path), "--workdir", str(tmp_path / "run")]
    assert main([*command, "--coordinator", "localhost:1"]) == 2
    assert "belong together: give all three" in capfd.readouterr().err
    assert main([*command, "--set", "fsdp=0"]) == 2
    assert "fsdp=0: give at least 1" in capfd.readouterr().err
    assert main([*command, "--set", "fsdp=3"]) == 2
    assert "fsdp=3: it must divide the 4 devices" in capfd.readouterr().err
