"""Small voices with random weights, on disk as training would leave them."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from jaxtts import registry
from jaxtts.audio.spec import MelSpec
from jaxtts.models import glow_tts, hifigan, tacotron2, vits, vocos, waveglow, wavenet
from jaxtts.nn import functional
from jaxtts.synth import speak
from jaxtts.synth.folder import write_voice
from jaxtts.text import TextSpec
from jaxtts.train.checkpoint import export

sys.path.insert(0, str(Path(__file__).parent))  # for `import scripted`
TEXT = TextSpec()
MEL = MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9)


def export_model(folder, name, module, config, **description):
    """Random weights in the layout of a training folder."""
    _, params, rest = functional.structure(lambda: module.Model(config, rngs=nnx.Rngs(1)))
    rng = np.random.default_rng(2)
    shapes = functional.named(functional.merged(params, rest))
    weights = {n: 0.2 * rng.standard_normal(x.shape, np.float32) for n, x in shapes.items()}
    for n, x in weights.items():
        if n.endswith(".variance"):
            x[:] = 1.0 + x * x
        if n.endswith((".scale", ".g")):
            x += 1.0
        if n.endswith("mix.weight"):
            x += np.eye(len(x), dtype=np.float32)
    if name == "glow_tts":
        weights["duration_predictor.out.bias"] += 1.2  # about four frames a symbol
    if name == "vits":
        bias = "flows.affine.bias" if config.stochastic_durations else "out.bias"
        weights[f"duration_predictor.{bias}"] += -0.5 if config.stochastic_durations else 1.2
    params = functional.nested(weights)
    export(folder, params, config, {"model": name, **description})
    return folder


def export_acoustic(folder, mel=MEL, **changes):
    config = glow_tts.Config.tiny(num_symbols=len(TEXT.symbols), num_mels=mel.num_bins, **changes)
    speakers = ["ann", "bob"] if config.num_speakers == 2 else ["default"]
    return export_model(folder, "glow_tts", glow_tts, config, mel=mel.to_dict(), text=TEXT.to_dict(), speakers=speakers)


def export_tacotron2(folder):
    config = tacotron2.Config.tiny(num_symbols=len(TEXT.symbols), num_mels=MEL.num_bins, reduction_factor=2)
    return export_model(folder, "tacotron2", tacotron2, config, mel=MEL.to_dict(), text=TEXT.to_dict())


def export_scripted(folder, **changes):
    """See scripted.py."""
    import scripted

    registry.MODELS["scripted"] = registry.Entry("scripted", "acoustic", "", "", ("autoregressive",))
    text = TextSpec("characters")
    config = scripted.Config(**changes)
    return export_model(folder, "scripted", scripted, config, mel=MEL.to_dict(), text=text.to_dict())


def export_vits(folder, **changes):
    config = vits.Config.tiny(num_symbols=len(TEXT.symbols), **changes)
    speakers = ["ann", "bob"] if config.num_speakers == 2 else ["default"]
    return export_model(folder, "vits", vits, config, mel=config.mel.to_dict(), text=TEXT.to_dict(), speakers=speakers)


@pytest.fixture(scope="session", autouse=True)
def few_buckets():
    """Compiling dominates: fewer buckets than people get."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speak, "SYMBOLS", (64, 256))
        patch.setattr(speak, "FRAMES", (64, 512, 2048))
        patch.setattr(speak, "WINDOWS", (64, 512))
        patch.setattr(speak, "BATCHES", (1, 4))
        yield


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folder with the training folders glow, vits, each also with a 2 (two speakers), vectors (vits that wants a
    speaker's embedding), tacotron2, scripted and flaky (see scripted.py), vocos, hifigan, waveglow, wavenet and other
    (another mel spec)."""
    root = tmp_path_factory.mktemp("runs")
    other = MEL.replace(name="other", fmax=3000.0)
    export_acoustic(root / "glow")
    export_acoustic(root / "glow2", num_speakers=2, speaker_dim=4)
    export_vits(root / "vits", stochastic_durations=False)
    export_vits(root / "vits2", num_speakers=2, speaker_dim=4)
    export_vits(root / "vectors", speaker_dim=4)
    export_tacotron2(root / "tacotron2")
    export_scripted(root / "scripted")
    export_scripted(root / "flaky", flaky=True)
    for name, module in (("vocos", vocos), ("hifigan", hifigan), ("waveglow", waveglow)):
        export_model(root / name, name, module, module.Config.tiny(), mel=module.Config.tiny().mel.to_dict())
    config = replace(wavenet.Config.tiny(), weight_norm=False)
    export_model(root / "wavenet", "wavenet", wavenet, config, mel=config.mel.to_dict())
    config = replace(vocos.Config.tiny(), mel=other)
    export_model(root / "other", "vocos", vocos, config, mel=other.to_dict())
    yield root
    del registry.MODELS["scripted"]


@pytest.fixture(scope="session")
def voice_folder(runs):
    """A voice of the two smallest models."""
    write_voice(runs / "voice", runs / "glow", runs / "vocos", card={"corpus": "none, random weights"})
    return runs / "voice"


@pytest.fixture(scope="session")
def counted_compilations():
    """A context with a list that gets one item for each trace and compilation, from whatever part of the process."""

    @contextmanager
    def counted():
        found, active = [], True

        def listen(event, *args, **kwargs):
            names = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_trace_duration")
            if active and event in names:
                found.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield found
        finally:
            active = False

    return counted
