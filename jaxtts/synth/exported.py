"""A voice as programs: what was traced from its models, which speaks without them.

`export` adds to a voice folder one StableHLO program per file (`jax.export`, for CPU, CUDA and TPU at once, with
symbolic sizes b of the batch, s of the symbols and 16 t of the frames) and `export.json`, which says for each what it
takes and gives in order: first the weights, named as in `weights.safetensors`, all float32.

    latent      text -> what the decoder reads, its lengths, frames of each symbol; of an autoregressive model also the
                symbol that each frame attends to most, and the most that any frame attends to each symbol
    decode      that, or some frames of it -> wave
    convert     a recording's spectrogram -> wave of another speaker (end-to-end voices of several speakers)
    synthesize  the first two as one: text -> wave, and the results of the first but what the decoder reads

`load` gives the Voice of such a folder. It imports jax and the text front end, but neither flax nor any model; it takes
the first three programs, in buckets as `speak` does. The fourth is for other programs.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxtts.synth.folder import VoiceFiles, read_voice, save_voice
from jaxtts.synth.speak import Speaker, widened
from jaxtts.synth.voice import Voice
from jaxtts.weights.safetensors import replacing

NAME = "export.json"
FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
_SUFFIX = ".stablehlo"
_RESULTS = {
    "latent": ("latent", "lengths", "durations", "path", "attended"),
    "decode": ("wave",),
    "convert": ("wave",),
    "synthesize": ("wave", "lengths", "durations", "path", "attended"),
}


def export(voice: Voice, folder: str | Path, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes a voice and its programs: each file whole or not at all, export.json the last.

    Args:
        voice: made of models (not an export itself).
        folder: made if absent.
        platforms: that the programs are for.

    Raises:
        ValueError: the voice is an export, its weights do not fit its models, or an unknown platform.
    """
    if voice.files.programs:
        raise ValueError(f"voice {voice.name!r} is an export already: copy its folder")
    if "vocoder" in voice.files.parts and not voice.files.vocoder:
        raise ValueError(f"voice {voice.name!r} has Griffin-Lim for a vocoder, which is no model to export: train one")
    if unknown := set(platforms) - {*PLATFORMS, "rocm"}:
        raise ValueError(f"platforms {', '.join(sorted(unknown))} are not known; take some of {', '.join(PLATFORMS)}")
    folder, speaker = Path(folder), voice._speaker
    (folder / NAME).unlink(missing_ok=True)
    parts = {
        role: replace(part, tensors={n: widened(x) for n, x in part.tensors.items()})
        for role, part in voice.files.parts.items()
    }
    save_voice(folder, replace(voice.files, parts=parts))
    described = {}
    for name, (run, roles, inputs) in _programs(voice.files, speaker).items():
        weights = {f"{role}.{n}": x.shape for role in roles for n, x in sorted(voice.files.parts[role].tensors.items())}
        shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in weights.values()]
        made = jax_export.export(jax.jit(run, keep_unused=True), platforms=platforms)(*shapes, *inputs.values())
        content = bytes(made.serialize())
        with replacing(folder / f"{name}{_SUFFIX}") as file:
            file.write(content)
        arguments = dict(zip([*weights, *inputs], made.in_avals))
        described[name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "receptive_field": 0 if name == "synthesize" else speaker.receptive_field(name),
            "arguments": {n: _described(x) for n, x in arguments.items()},
            "results": {n: _described(x) for n, x in zip(_RESULTS[name], made.out_avals)},
        }
    facts = {"format": FORMAT, "jax": jax.__version__, "platforms": list(platforms), "programs": described}
    with replacing(folder / NAME) as file:
        file.write((json.dumps(facts, indent=1) + "\n").encode())


def load(folder: str | Path) -> Voice:
    """The voice of an exported folder; `jaxtts.load` gives the same.

    Raises:
        ValueError: the folder holds no programs, or they are damaged.
    """
    files = read_voice(folder)
    if not files.programs:
        raise ValueError(f"{folder} holds no programs: it has no {NAME} (`jaxtts export` makes one)")
    return Voice(files)


class Exported(Speaker):
    """A Speaker whose functions come from files."""

    def __init__(self, files: VoiceFiles):
        assert files.programs
        self._folder = files.programs
        try:
            facts = json.loads((self._folder / NAME).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']!r}, this version reads {FORMAT}")
            self._facts = {n: (str(x["sha256"]), int(x["receptive_field"])) for n, x in facts["programs"].items()}
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self._folder / NAME} is damaged ({error}): export the voice again") from error
        super().__init__(files)

    def receptive_field(self, stage: str) -> int:
        """Frames on each side that a stage's output depends on."""
        return self._fact(stage)[1]

    def _fingerprint(self, stage: str) -> str:
        return f"program {self._fact(stage)[0]}"

    def _fact(self, stage: str) -> tuple[str, int]:
        if stage not in self._facts:
            raise ValueError(f"{self._folder} holds no program {stage!r}: export the voice again")
        return self._facts[stage]

    def _build(self, stage: str) -> Callable[..., Any]:
        path = self._folder / f"{stage}{_SUFFIX}"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self._fact(stage)[0]:
            raise ValueError(f"{path} is not the file that {NAME} tells of: export the voice again")
        return jax_export.deserialize(bytearray(content)).call


def _programs(files: VoiceFiles, speaker: Speaker) -> dict[str, tuple[Callable[..., Any], list[str], dict[str, Any]]]:
    """Name -> function, the parts whose weights it takes, and its inputs."""
    b, s, t = jax_export.symbolic_shape("b, s, 16 * t", constraints=["t >= 2"])

    def whole(*shape: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, np.int32)

    def real(*shape: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, np.float32)

    channels, bins = speaker.channels, files.mel.n_fft // 2 + 1
    text = {"text": whole(b, s), "text_lengths": whole(b), "speaker": whole(b)}
    if files.autoregressive:
        text |= {"seeds": jax.ShapeDtypeStruct((b,), np.uint32), "room": jax.ShapeDtypeStruct((t,), np.bool_)}
    else:
        text |= {"noise": real(b, t, channels), "noise_scale": real(b), "length_scale": real(b, s)}
    if files.stochastic_durations:
        text |= {"duration_noise": real(b, s, 2), "duration_noise_scale": real(b)}
    first, last = next(iter(files.parts)), next(reversed(files.parts))
    latent, decode = speaker._build("latent"), speaker._build("decode")
    count = {role: len(files.parts[role].tensors) for role in files.parts}

    noise = {"vocoder_noise": real(b, t, files.mel.hop_length)} if speaker.noisy else {}

    def synthesize(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        inputs = arrays[sum(count.values()) :]
        found, lengths, *rest = latent(*arrays[: count[first]], *inputs[: len(text)])
        weights = arrays[sum(count.values()) - count[last] : sum(count.values())]
        return *decode(*weights, found, lengths, inputs[2], *inputs[len(text) :]), lengths, *rest

    frames = {"latent": real(b, t, channels), "lengths": whole(b), "speaker": whole(b)}
    programs = {
        "latent": (latent, [first], text),
        "decode": (decode, [last], frames | noise),
        "synthesize": (synthesize, list(files.parts), text | noise),
    }
    if first == "model" and len(files.speakers) > 1:
        heard = {
            "spectrogram": real(b, t, bins), "lengths": whole(b), "source": whole(b), "target": whole(b),
            "noise": real(b, t, channels),
        }  # fmt: skip
        programs["convert"] = (speaker._build("convert"), [first], heard)
    return programs


def _described(array: Any) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": [n if isinstance(n, int) else str(n) for n in array.shape]}
