"""`jaxtts export-mels`: the mels that an acoustic model makes of a corpus."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtts.data import Dataset

HELP = """Write the mels that a trained acoustic model makes of every recording of a corpus when it is told the frames
before each (teacher forcing), or of Glow-TTS when it is told the rhythm. A vocoder fine-tuned on them hears in training
what it will hear when the two speak: `jaxtts train VOCODER --from RUN2 --data DIR --mels OUT`.
OUT gets a float32 .npy [frames, mels] per utterance, as long as its recording, and index.json. Killed and started
again, the command goes on where it stopped."""
EXAMPLES = """\
  jaxtts export-mels runs/tacotron2 --data LJSpeech-1.1 --out mels/tacotron2
  jaxtts train hifigan_ljspeech --from runs/hifigan --data LJSpeech-1.1 --mels mels/tacotron2 --workdir runs/tuned"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares them."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the acoustic model: a run, an export or a voice folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the corpus, as for `jaxtts train`")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="the folder of the mels")
    parser.add_argument(
        "--prepared", type=Path, metavar="PATH", help="where prepared corpora are kept (default: beside RUN)"
    )
    parser.add_argument("--config", metavar="RECIPE", help="take column and limits of the corpus from this recipe")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="recordings at once (default 16)")
    parser.add_argument(
        "--split", choices=("all", "training", "held-out"), default="all", help="which utterances (default all)"
    )
    parser.add_argument("--held-out", type=int, metavar="N", help="size of that part (default: RECIPE's, or 64)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the dropout that a Tacotron always has")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes that prepare the corpus (default: one per CPU)"
    )


def run(args: argparse.Namespace) -> None:
    """Exports."""
    from jaxtts.data import mels
    from jaxtts.data.batches import batches
    from jaxtts.data.check import bar
    from jaxtts.synth.folder import read_part
    from jaxtts.synth.teacher_forced import TeacherForced

    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size}: give at least 1")
    part, about = read_part(args.run, "acoustic")
    if about.get("text") is None:
        raise ValueError(f"{args.run}: it does not say how the model wants its text")
    model = TeacherForced(part)
    dataset = _dataset(args, part.mel, about["text"])
    numbers = _speakers(dataset, about["speakers"], part.config.get("num_speakers", 1))
    facts = {
        "mel": part.mel.to_dict(), "model": part.model, "weights": model.digest, "seed": args.seed,
        "corpus": dataset.path.parent.name,
    }  # fmt: skip
    frames = mels.begin(args.out, facts)
    done = [_is_there(args.out, dataset, place) for place in range(len(dataset))]
    missing = np.flatnonzero(~np.array(done))
    with bar("exporting", len(dataset)) as shown:
        shown.update(sum(done))
        if len(missing):
            for batch in batches(dataset.select(missing), ("text", "mel"), args.batch_size, epochs=1):
                batch["speaker"] = numbers[batch["speaker"]]
                for name, mel in zip(batch["ids"], model.mels(batch, _seeds(batch["ids"], args.seed))):
                    if name:  # '' fills the last batch up
                        mels.write_mel(args.out, name, mel)
                        shown.update()
    frames |= {str(name): int(count) for name, count in zip(dataset.ids, dataset.frames)}
    mels.finish(args.out, facts, frames)
    print(f"{args.out}: {len(dataset)} mels of {part.model}, {part.mel.name} frames, {len(missing)} of them new")


def _dataset(args: argparse.Namespace, mel: Any, text: Any) -> "Dataset":
    """The part of the corpus that is asked for, prepared for this model."""
    from jaxtts.data import prepare, read_corpus
    from jaxtts.recipe import DataConfig, load

    data = load(args.config).data if args.config else DataConfig()
    folder = args.prepared or args.run.absolute().parent / "prepared"
    utterances = read_corpus(args.data, column=data.column)
    name = args.data.absolute().name
    dataset = prepare(utterances, mel, text, folder, name=name, jobs=args.jobs, limits=data.limits)
    if args.split == "all":
        return dataset
    training, held_out = dataset.held_out(data.held_out if args.held_out is None else args.held_out)
    return training if args.split == "training" else held_out


def _speakers(dataset: "Dataset", known: tuple[str, ...], count: int) -> np.ndarray:
    """The model's number of each speaker of the corpus."""
    if count == 1:
        return np.zeros(len(dataset.speakers), np.int32)
    if foreign := [name for name in dataset.speakers if name not in known]:
        raise ValueError(f"the model does not know the speaker {foreign[0]!r}; it has {', '.join(known[:20])}")
    return np.array([known.index(name) for name in dataset.speakers], np.int32)


def _is_there(folder: Path, dataset: "Dataset", place: int) -> bool:
    from jaxtts.data import mels

    try:
        mels.read_mel(folder, str(dataset.ids[place]), int(dataset.frames[place]), dataset.mel.num_bins)
    except ValueError:
        return False
    return True


def _seeds(names: list[str], seed: int) -> np.ndarray:
    """Of each utterance's dropout: by its name, for the order not to count, uint32 [B]."""
    digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    return np.array([int.from_bytes(digest[:4], "little") for digest in digests], np.uint32)
