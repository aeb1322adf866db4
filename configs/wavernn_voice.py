"""A small WaveRNN on speech of flite's `rms`: GRUs of 128 units, 512 classes, pre-emphasis that hides their noise.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train wavernn_voice --data corpora/rms --workdir runs/wavernn_voice

On a core of an Intel Xeon at 2.80 GHz a step takes 1.0 s. In the end (of a run that was resumed) its copies of 40
unseen sentences had a word error of 11 % by a recogniser that knows the sentences and 63 % by one that does not; those
of Griffin-Lim 0 % and 24 %. It is understood, but rougher than Griffin-Lim: its mel-cepstral distortion is 6.7 dB, that
of Griffin-Lim 2.2 dB.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.wavernn import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 3500
    spec = mel_spec("hifigan")
    config = Config.raw(
        mel=spec,
        gru_dim=128,
        fc_dim=128,
        upsample_factors=(4, 8, 8),
        resnet_channels=64,
        resnet_blocks=3,
        aux_channels=64,
        input_scale=0.2,
        edge=round(spec.floor, 3),
        preemphasis=0.85,
    )
    return Recipe(
        name="wavernn",
        model=config,
        optim=OptimConfig(
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            clip_norm=4.0,
            ema_decay=0.998,
        ),
        data=DataConfig(mel=spec, batch_size=16, segment_length=(4 + 2 * config.pad) * spec.hop_length, held_out=32),
        steps=steps,
        log_every=50,
        eval_every=1000,
        sample_every=1000,
        save_every=500,
    )
