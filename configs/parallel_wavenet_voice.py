"""A small student of three flows that configs/wavenet_voice.py teaches, as ClariNet does it.

    jaxtts train parallel_wavenet_voice --data corpora/rms --teacher runs/wavenet_voice --workdir runs/parallel_wavenet

On two cores of an Intel Xeon at 2.80 GHz 8,000 steps take an hour and a half. The run that was measured had other
weights of its losses until step 2,968; its copies of unseen sentences are understood and hoarse, at a word error of
5.5 %. docs/autoregressive.md has their measures beside its teacher's.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.parallel_wavenet import Config
from jaxtts.models.wavenet import Config as Teacher
from jaxtts.nn.output import Output
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 8000
    spec = mel_spec("hifigan_16khz")
    return Recipe(
        name="parallel_wavenet",
        model=Config(
            teacher=Teacher(mel=spec, output=Output("gaussian"), upsample_scales=(10, 20)),  # --teacher tells the rest
            noise="gaussian",
            flow_layers=(8, 8, 8),
            channels=32,
            gate_channels=64,
            skip_channels=32,
            power_weight=0.1,
            stft_weight=20.0,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            clip_norm=10.0,
            ema_decay=0.999,
        ),
        data=DataConfig(mel=spec, batch_size=2, segment_length=6000, held_out=32),
        steps=steps,
        log_every=50,
        eval_every=500,
        sample_every=1000,
        save_every=250,
    )
