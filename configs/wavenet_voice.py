"""A small WaveNet with one Gaussian a sample on speech of flite's `rms`: 16 layers of 32 channels.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train wavenet_voice --data corpora/rms --workdir runs/wavenet_voice

It teaches configs/parallel_wavenet_voice.py. On a core of an Intel Xeon at 2.80 GHz the 20,000 steps take two and a
half hours (of a run that was resumed). Its copies of unseen sentences are understood, and rough: on ten of them the
word error was 68 % after 6,000 steps and 50 % after 13,500, on 40 in the end 18 %. The likelihood of what was held out
was still rising: docs/autoregressive.md has the measures.

The corpus's own rate and pre-emphasis keep pauses quiet: at 22 kHz, the upper quarter of whose band is empty, and
without pre-emphasis a network of this size filled them with noise.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.wavenet import Config
from jaxtts.nn.output import Output
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 20000
    spec = mel_spec("hifigan_16khz")
    return Recipe(
        name="wavenet",
        model=Config(
            mel=spec,
            output=Output("gaussian", log_scale_min=-8.0),
            num_layers=16,
            num_stacks=2,
            channels=32,
            gate_channels=64,
            skip_channels=64,
            upsample_scales=(10, 20),
            preemphasis=0.9,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            clip_norm=1.0,
            ema_decay=0.999,
        ),
        data=DataConfig(mel=spec, batch_size=2, segment_length=4000, held_out=32),
        steps=steps,
        log_every=50,
        eval_every=1000,
        sample_every=2000,
        save_every=500,
    )
