"""Where a run begins: a checkpoint of another run, an export, a voice, or what another toolkit wrote.

`train.warm_start` puts its arrays in their places.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtts import registry
from jaxtts.audio.spec import MelSpec, differing
from jaxtts.config import from_dict, to_dict
from jaxtts.nn.functional import Tree, nested
from jaxtts.recipe import Recipe
from jaxtts.synth.folder import KINDS, read_part
from jaxtts.text import TextSpec
from jaxtts.train.checkpoint import Checkpoints
from jaxtts.train.warm_start import EXPORTED, Source

# fields of a model's configuration that say how it is trained, or what it is trained on
OWN = ("num_symbols", "num_speakers", "mel", "num_mels", "gan", "weight_norm", "inverse_only", "dtype", "remat",
       "segment_frames", "kl_weight", "duration_weight")  # fmt: skip


def taken(recipe: Recipe, take: Sequence[str], path: Path | None, workdir: Path) -> Recipe:
    """The recipe with the source's 'model' (its sizes), 'mel' or 'text' in place of its own.

    Args:
        take: which of the three.
        path: the source; once the run in `workdir` has begun it is that run itself.

    Raises:
        ValueError: there is no source, it is another kind of model, or does not say.
    """
    where = workdir if checkpoint_steps(workdir) else path
    if where is None:
        raise ValueError(f"--take {' '.join(take)} needs --from, which says whose")
    source = about(where, recipe.name)
    if source["model"] != recipe.name:
        raise ValueError(f"{where} is a {source['model']}, not a {recipe.name}: --take {' '.join(take)} cannot be")
    mel = source["mel"] if "mel" in take else recipe.data.mel
    text = source["text"] if "text" in take else recipe.data.text
    if text is None:
        raise ValueError(f"--take text: {where} does not say what its symbols are")
    values, theirs = to_dict(recipe.model), source["config"]
    if "model" in take:
        sizes = {name: value for name, value in theirs.items() if name not in OWN}
        if "gan" in theirs and "tensors" not in source:
            sizes["gan"] = theirs["gan"]  # a run has its discriminators too
        if not sizes.get("speaker_dim", 1) and values["num_speakers"] > 1:
            del sizes["speaker_dim"]  # that one has one speaker, this one gets several
        values |= sizes
    facts = {"num_symbols": len(text.symbols), "num_mels": mel.num_bins, "mel": mel.to_dict()}
    model = from_dict(
        registry.module(recipe.name).Config, values | {name: x for name, x in facts.items() if name in values}
    )
    return replace(recipe, model=model, data=replace(recipe.data, mel=mel, text=text))


def taught(recipe: Recipe, path: Path | None) -> tuple[Recipe, Tree | None]:
    """The recipe of a student with its teacher's configuration and frames, and the teacher's parameters.

    Of a recipe without a teacher, itself and None.

    Raises:
        ValueError: a student without a teacher, a teacher without a student, or one that cannot teach it.
    """
    ours = getattr(recipe.model, "teacher", None)
    if ours is None and path is None:
        return recipe, None
    if ours is None:
        raise ValueError(f"--teacher {path}: a {recipe.name} learns from recordings alone; leave it out")
    if path is None:
        raise ValueError(f"a {recipe.name} learns from a trained model: give its folder by --teacher")
    part, _ = read_part(path, "vocoder")
    kind = type(ours).__module__.split(".")[2]
    if part.model != kind:
        raise ValueError(f"--teacher {path} is a {part.model}; a {recipe.name} learns from a {kind}")
    if fields := differing(part.mel, recipe.data.mel):
        raise ValueError(
            f"--teacher {path} reads {part.mel.name!r} frames and the recipe makes {recipe.data.mel.name!r} frames"
            f" ({fields}): give the recipe the teacher's mel spec"
        )
    theirs = from_dict(type(ours), part.config)
    model, data = replace(recipe.model, teacher=theirs), replace(recipe.data, mel=theirs.mel)
    return replace(recipe, model=model, data=data), nested(dict(part.tensors))


def checkpoint_steps(workdir: Path) -> list[Path]:
    """The checkpoints of a run, without opening them."""
    return [path for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


def about(path: Path, model: str) -> dict[str, Any]:
    """`model`, `config`, `mel`, `text`, `speakers` and `step` of what --from names, as far as it says.

    `tensors` too, where it is a model made for speaking.

    Args:
        model: name in the registry of the model that is trained: of a voice folder, which half is meant.

    Raises:
        ValueError: nothing that can be read is there.
    """
    if not path.exists():
        raise ValueError(f"--from {path}: there is no such file or folder")
    if not checkpoint_steps(path):
        part, rest = read_part(path, next(name for name, kind in KINDS.items() if kind == registry.MODELS[model].kind))
        own = {"model": part.model, "config": part.config, "mel": part.mel, "tensors": dict(part.tensors)}
        return {"text": None, "speakers": (), "step": None} | rest | own
    checkpoints = Checkpoints(path, read_only=True)
    facts = checkpoints.meta()
    checkpoints.close()
    recipe, facts = facts["recipe"], facts["description"]
    return {
        "model": facts["model"],
        "config": recipe["model"],
        "mel": MelSpec.from_dict(facts["mel"]),
        "text": TextSpec.from_dict(recipe["data"]["text"]),
        "speakers": tuple(facts.get("speakers", ())),
    }


def read_source(path: Path, model: str, mesh: Any) -> Source:
    """What --from names: the newest checkpoint of a run, or a model that is made for speaking.

    Raises:
        ValueError: nothing that can be read is there.
    """
    facts = about(path, model)
    common = {name: facts[name] for name in ("text", "speakers", "mel")}
    if "tensors" in facts:
        return Source(str(path), facts["model"], {EXPORTED: facts["tensors"]}, {}, **common)
    checkpoints = Checkpoints(path, read_only=True)
    state, _, _ = checkpoints.restore(None, mesh)
    checkpoints.close()
    return Source.of_state(str(path), facts["model"], state, **common)
