"""Mels that an acoustic model makes of recordings whose frames it is told: what a vocoder is fine-tuned on."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxtts.registry import MODELS, module
from jaxtts.synth import executables
from jaxtts.synth.folder import Part
from jaxtts.synth.speak import checked_structure, widened


class TeacherForced:
    """The compiled side of `Model.teacher_forced`: `mels(batch, seeds)`.

    Attributes:
        digest: of all that decides the mels but the text and the recording.

    Raises:
        ValueError: the model has no such method, or the weights do not fit it.
    """

    def __init__(self, part: Part):
        if not hasattr(module(part.model).Model, "teacher_forced"):
            able = [n for n, x in MODELS.items() if x.kind == "acoustic" and hasattr(module(n).Model, "teacher_forced")]
            raise ValueError(f"{part.model} cannot be told a recording's frames; {', '.join(able)} can")
        self._part = _invertible(part)
        self._names = sorted(self._part.tensors)
        executables.use_persistent_cache()
        tensors = [widened(self._part.tensors[n]) for n in self._names]
        self._weights = jax.device_put(tensors, jax.devices()[0])
        self._fingerprint = json.dumps(["teacher-forced", part.model, self._part.config, self._names], sort_keys=True)
        digest = hashlib.sha256(self._fingerprint.encode())
        for tensor in tensors:
            digest.update(np.ascontiguousarray(tensor).tobytes())
        self.digest = digest.hexdigest()
        self._functions: dict[Any, executables.Run] = {}

    def mels(self, batch: dict[str, Any], seeds: np.ndarray) -> list[np.ndarray]:
        """The mel of each recording [T, M], as long as it is.

        Args:
            batch: text [B, S], text_lengths, mel [B, T, M], mel_lengths and speaker [B].
            seeds: of each item's dropout where the model has some when it speaks, uint32 [B]; nothing else of the batch
                decides what an item becomes.
        """
        inputs = [batch[name] for name in ("text", "text_lengths", "mel", "mel_lengths", "speaker")]
        arrays = [*self._weights, *jax.device_put([*inputs, seeds], jax.devices()[0])]
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._functions:
            name = f"{self._part.model}: teacher-forced {batch['mel'].shape}"
            self._functions[shapes] = executables.get(name, self._fingerprint, self._build, arrays)
        made = np.asarray(self._functions[shapes](arrays)[0])
        return [mel[:length] for mel, length in zip(made, batch["mel_lengths"])]

    def _build(self) -> Any:
        from jaxtts.nn import functional

        structure, several = checked_structure(self._part), self._part.config.get("num_speakers", 1) > 1
        drawn = "autoregressive" in self._part.traits

        def run(*arrays: jax.Array) -> tuple[jax.Array]:
            tree = functional.nested(dict(zip(self._names, arrays)))
            model = functional.merge(structure, tree)

            def one(*item: jax.Array) -> jax.Array:  # alone, for its dropout to depend on nothing else
                *told, speaker, seed = item
                key = {"key": jax.random.key(seed)} if drawn else {}
                speaker = speaker[None] if several else None
                return model.teacher_forced(*(x[None] for x in told), speaker=speaker, **key)[0]

            return (jax.vmap(one)(*arrays[len(self._names) :]),)

        return run


def _invertible(part: Part) -> Part:
    """A flow that was stored to speak alone, with its mixing matrices the other way round again."""
    if not part.config.get("inverse_only"):
        return part
    end, tensors = "inverse_weight", {}
    for name, x in part.tensors.items():
        if name.endswith(end):
            name, x = name.removesuffix(end) + "weight", np.linalg.inv(x.astype(np.float64)).astype(np.float32)
        tensors[name] = x
    return replace(part, tensors=tensors, config=part.config | {"inverse_only": False})
