"""A small WaveGlow on speech of flite's `rms`: 8 steps on groups of 32 samples, 4.1 M parameters.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train waveglow_voice --data corpora/rms --workdir runs/waveglow_voice

Wide groups make a step of the flow cheap (a quarter of the positions of the paper's groups of 8), and the mel is
upsampled to 4 channels a sample in place of 80. No channels leave early: after 2 steps they are still half a wave, and
with early_size=4 1,871 steps of twice the size made noise that hardly followed the mel.

The 12,000 steps took 72 minutes on one core of a Xeon at 2.8 GHz that others shared (0.3 to 0.4 s a step) to a
held-out loss of -6.02. Recognised with a closed language model, its copies of 40 sentences of flite's that it was not
trained on have a word error of 2.4 % (the recordings 0.4 %, the embedded voice's Vocos 0.4 %), with a general one
30 % (22 %, 20 %); what is left is noise in the voice.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.waveglow import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 12_000
    spec = mel_spec("hifigan")
    return Recipe(
        name="waveglow",
        model=Config(
            mel=spec,
            num_squeeze=32,
            num_flows=8,
            early_size=0,
            channels=96,
            num_layers=5,
            upsample_channels=4,
            upsample_kernel_size=512,
            dither=3e-4,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            clip_norm=5.0,
            ema_decay=0.998,
        ),
        data=DataConfig(mel=spec, batch_size=4, segment_length=4096, held_out=32),
        steps=steps,
        log_every=50,
        eval_every=1000,
        sample_every=1000,
        save_every=500,
    )
