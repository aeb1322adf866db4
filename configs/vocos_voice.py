"""The vocoder of the embedded voice: a Vocos of 1.7 M parameters on speech of flite's `rms`.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train vocos_voice --data corpora/rms --workdir runs/vocos_voice

What ships was stopped at step 6785. On one core of an AMD EPYC a step takes 0.25 s at first (spectral losses alone) and
0.5 s once the discriminators have started.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.vocos import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    steps = 12_000
    spec = mel_spec("hifigan")
    gan = GanConfig(
        discriminators=("period", "resolution"),
        weights=(1.0, 0.3),
        stft_weight=10.0,
        stft_resolutions=((2048, 512, 2048), (1024, 256, 1024), (512, 128, 512), (256, 64, 256), (128, 32, 128)),
        pretrain_steps=4000,
        period_channels=(4, 16, 64, 128, 128),
        resolution_channels=8,
    )
    return Recipe(
        name="vocos",
        model=Config(mel=spec, dim=192, intermediate_dim=576, num_layers=6, gan=gan),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            total_steps=steps,
            final_scale=0.02,
            b1=0.8,
            b2=0.95,
            weight_decay=0.01,
            ema_decay=0.999,
        ),
        data=DataConfig(mel=spec, batch_size=16, segment_length=8192, held_out=32),
        steps=steps,
        log_every=50,
        eval_every=1000,
        sample_every=1000,
        save_every=500,
    )
