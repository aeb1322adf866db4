"""`jaxtts train`: a recipe and a corpus to a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from jaxtts.audio.spec import MelSpec
    from jaxtts.data import Dataset
    from jaxtts.recipe import Recipe
    from jaxtts.train.state import TrainState

Number = Annotated[int | None, tyro.conf.arg(metavar="INT")]


@dataclass(frozen=True)
class Train:
    """Train a model on a folder of recordings with their texts.

    The same command goes on from the newest checkpoint. SIGTERM and Ctrl-C save first. WORKDIR gets checkpoints/,
    metrics.jsonl, tensorboard/, pictures/ and sounds/, and the model itself as config.json + model.safetensors.

    jaxtts train glow_tts_ljspeech --data LJSpeech-1.1 --workdir runs/glow

    jaxtts train configs/mine.py --data corpus --workdir runs/mine --set model.decoder_blocks=6 data.batch_size=16

    jaxtts train vits_ljspeech --data corpus --workdir runs/mine --from mms-tts-eng --take model mel --steps 5000
    """

    config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")]
    """A recipe: a file with get_config(), or the name of one in configs/."""
    data: Path
    """The corpus: a folder in the layout of LJSpeech (metadata.csv, wavs/), VCTK or LibriTTS, or a list of files."""
    workdir: Path
    """Where the run lives."""
    steps: Number = None
    """Length of the run; a cosine schedule that ends with the recipe's run is stretched with it."""
    batch_size: Number = None
    """Utterances (or cuts) in a step, over all devices together."""
    seed: Number = None
    """Of the parameters, the order of the data and each step's randomness."""
    set: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.arg(metavar="FIELD=VALUE ..."), tyro.conf.UseAppendAction
    ] = ()
    """Other fields of the recipe: model.*, optim.*, data.*, fsdp, keep, {log,eval,sample,save}_every."""
    start_from: Annotated[Path | None, tyro.conf.arg(aliases=("--from",), metavar="PATH")] = None
    """A new run begins with what fits of this model, and tells what does not: the WORKDIR of another run, an export, a
    voice, or a checkpoint of another toolkit. Symbols and speakers are matched by name."""
    take: Annotated[tuple[tuple[Literal["model", "mel", "text"], ...], ...], tyro.conf.UseAppendAction] = ()
    """With --from: what the new run has from there in place of CONFIG's: sizes of the model, mel spec, symbols."""
    teacher: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """For a student (parallel_wavenet): the WORKDIR, export or voice of the trained WaveNet that it learns from."""
    mels: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A vocoder is trained on mels that a model made of the corpus (`jaxtts export-mels`), not on the recordings'."""
    prepared: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Where prepared corpora are kept; by default beside WORKDIR, so that runs share them."""
    jobs: Number = None
    """Processes that prepare the corpus; by default one per CPU."""
    distributed: bool = False
    """One of several processes of a TPU pod or a cluster (Slurm, Open MPI, Kubernetes) that tells which one."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """One of several processes anywhere: the address at which the first one listens; the same command on each."""
    num_processes: Number = None
    """With --coordinator: how many processes there are."""
    process_id: Number = None
    """With --coordinator: which one this is, from 0."""
    heartbeat: int = 60
    """Seconds without a sign of life after which a process is taken for dead and the others end."""

    def __call__(self) -> None:
        """Runs it."""
        import jax

        try:
            train(self)
        except jax.errors.JaxRuntimeError as error:
            raise explained(error, jax.process_count()) from error


def train(args: Train) -> None:
    """Prepares the corpus and trains.

    Raises:
        ValueError: the recipe, an override or the corpus cannot be used; one sentence.
    """
    import jax

    from jaxtts import registry
    from jaxtts.data.batches import batches, bucket_shapes
    from jaxtts.start import read_source, taught
    from jaxtts.synth.executables import use_persistent_cache
    from jaxtts.train.loop import fit, say
    from jaxtts.train.sharding import data_mesh
    from jaxtts.train.warm_start import adopt

    recipe = changed_recipe(args)
    if args.mels and registry.MODELS[recipe.name].kind != "vocoder":
        raise ValueError(f"--mels {args.mels}: only vocoders are trained on mels of a model, not {recipe.name}")
    recipe, teacher = taught(recipe, args.teacher)
    use_persistent_cache()
    join(args)
    if recipe.data.batch_size % jax.device_count():
        raise ValueError(f"data.batch_size={recipe.data.batch_size}: the {jax.device_count()} devices must divide it")
    mesh = data_mesh(fsdp=recipe.fsdp)
    dataset = prepared(args, recipe)
    say(dataset.summary())
    task = registry.module(recipe.name).build_task(recipe.model, recipe.optim)
    if args.mels:
        whole, dataset = len(dataset), dataset.with_mels(args.mels)
        say(f"with the mels in {args.mels}, which lacks {whole - len(dataset)} of {whole} utterances")
        task = task._replace(fields=(*task.fields, "mel"))
    if 1 < getattr(recipe.model, "num_speakers", 1) != len(dataset.speakers):
        count = len(dataset.speakers)
        raise ValueError(
            f"model.num_speakers={recipe.model.num_speakers}: {args.data} has {count}; --set model.num_speakers={count}"
        )
    training, held_out = dataset.held_out(recipe.data.held_out)

    def begin(state: "TrainState") -> "tuple[TrainState, dict[str, Any]]":
        text, speakers = (dataset.text, dataset.speakers) if "text" in task.fields else (None, ())
        about: dict[str, Any] = {}
        if teacher:
            state = state._replace(rest=state.rest | {"teacher": teacher})
            about["teacher"] = {"path": str(args.teacher)}
        if args.start_from:
            source = read_source(args.start_from, recipe.name, mesh)
            state, report = adopt(state, source, recipe.name, text, speakers, dataset.mel)
            say(report.lines())
            about |= report._asdict()
        return state, about

    fields = [name for name in ("text", "mel", "wave") if name in task.fields]
    size, cut = recipe.data.batch_size, recipe.data.segment_length
    common = {"segment_length": cut, "process": jax.process_index(), "num_processes": jax.process_count()}
    if cut is None:
        common["buckets"] = bucket_shapes(dataset, recipe.data.buckets)
    loader = batches(training, fields, size, recipe.seed, **common)
    unseen, shown = [], None
    if len(held_out):
        unseen = batches(held_out, fields, size, epochs=1, **common)
        shown = next(iter(batches(held_out.select([0]), fields, 1, buckets=1)))  # whole, cut or not
    say(
        f"{len(training)} to train on, {len(held_out)} held out; {loader.batches_per_epoch:.1f} batches per epoch, "
        f"shapes (frames, symbols) {' '.join(map(str, loader.buckets))}\n"
        f"{jax.device_count()} device(s) in {jax.process_count()} process(es): {jax.devices()[0].device_kind}"
    )
    fit(
        task,
        loader,
        steps=recipe.steps,
        workdir=args.workdir,
        held_out=unseen,
        shown=shown,
        seed=recipe.seed,
        start=begin if args.start_from or teacher else None,
        mesh=mesh,
        log_every=recipe.log_every,
        eval_every=recipe.eval_every,
        sample_every=recipe.sample_every,
        save_every=recipe.save_every,
        keep=recipe.keep,
        description=describe(recipe, dataset, task.fields),
        recipe=recipe.to_dict(),
        audio_seconds=lambda batch: jax.process_count() * seconds(batch, dataset.mel),
        sample_rate=dataset.mel.sample_rate,
    )


def explained(error: Exception, processes: int) -> Exception:
    """What XLA's runtime means, where it can be said in a sentence."""
    reason = str(error).partition("\n")[0][:200]
    if "RESOURCE_EXHAUSTED" in reason or "out of memory" in reason.lower():
        return OSError(
            f"the devices' memory does not suffice ({reason}); lower --batch-size, or --set optim.accumulate=2, "
            "model.remat=true or model.dtype=bfloat16"
        )
    if processes > 1:
        return OSError(f"another process of this run is gone ({reason}); start all of them again by the same commands")
    return error


def join(args: Train) -> None:
    """Meets the other processes, if there are any.

    Raises:
        ValueError: the flags do not say which process this is, or the others do not come.
    """
    import jax

    several = (args.coordinator, args.num_processes, args.process_id)
    if any(x is not None for x in several):
        if None in several:
            raise ValueError("coordinator, num_processes and process_id belong together: give all three")
    elif not args.distributed:
        return
    try:
        seconds = args.heartbeat
        jax.distributed.initialize(*several, heartbeat_timeout_seconds=seconds, shutdown_timeout_seconds=seconds)
    except (RuntimeError, ValueError) as error:
        where = args.coordinator or "the cluster's environment"
        raise ValueError(f"the processes did not meet ({where}): {' '.join(str(error).split())[:300]}") from error


def changed_recipe(args: Train) -> "Recipe":
    """The recipe with the command line's changes."""
    from jaxtts.recipe import load, override
    from jaxtts.start import taken

    recipe = load(args.config)
    if args.take:
        recipe = taken(recipe, tuple(chain(*args.take)), args.start_from, args.workdir)
    for change in chain(*args.set):
        name, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: give FIELD=VALUE, for example data.batch_size=16")
        changed = override(recipe, name, value)
        recipe = recipe.with_steps(changed.steps) if name == "steps" else changed
    if args.batch_size is not None:
        recipe = override(recipe, "data.batch_size", args.batch_size)
    if args.seed is not None:
        recipe = override(recipe, "seed", args.seed)
    return recipe if args.steps is None else recipe.with_steps(args.steps)


def prepared(args: Train, recipe: "Recipe") -> "Dataset":
    """The corpus as records; of several processes the first one prepares it, if they share a disk."""
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    from jaxtts.data import prepare, read_corpus

    folder = args.prepared or args.workdir.absolute().parent / "prepared"
    utterances = read_corpus(args.data, column=recipe.data.column)
    for mine in (jax.process_index() == 0, True):
        if mine:
            name = args.data.absolute().name
            what = (utterances, recipe.data.mel, recipe.data.text, folder)
            dataset = prepare(*what, name=name, jobs=args.jobs, limits=recipe.data.limits)
        if jax.process_count() > 1:
            sync_global_devices("prepared")
    return dataset


def describe(recipe: "Recipe", dataset: "Dataset", fields: Sequence[str]) -> dict[str, Any]:
    """What config.json says besides the model's configuration: enough to speak with it."""
    facts: dict[str, Any] = {"model": recipe.name, "mel": dataset.mel.to_dict()}
    if "text" in fields:
        facts |= {"text": dataset.text.to_dict(), "speakers": list(dataset.speakers)}
    return facts


def seconds(batch: dict[str, Any], mel: "MelSpec") -> float:
    """Seconds of audio in a batch, padding not counted."""
    if "mel_lengths" in batch:
        return float(batch["mel_lengths"].sum()) * mel.hop_length / mel.sample_rate
    if "wave_lengths" in batch:
        return float(batch["wave_lengths"].sum()) / mel.sample_rate
    return batch["wave"].size / mel.sample_rate if "wave" in batch else 0.0
