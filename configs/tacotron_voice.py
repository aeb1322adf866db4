"""A small Tacotron on speech of flite's `rms`, with guided attention and the mels of the embedded vocoder.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train tacotron_voice --data corpora/rms --workdir runs/tacotron_voice

Not yet run to its end: no figures.
"""

from jaxtts.models.tacotron import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 8000
    text = TextSpec(bos="^")  # the silence ahead has a symbol of its own
    data = DataConfig(text=text, batch_size=16, buckets=4, held_out=32)
    return Recipe(
        name="tacotron",
        model=Config(
            num_symbols=len(text.symbols),
            mel=data.mel,
            reduction_factor=3,
            embedding_dim=128,
            encoder_prenet=(128, 96),
            decoder_prenet=(128, 64),
            encoder_bank=8,
            encoder_dim=96,
            encoder_rnn_dim=96,
            post_bank=6,
            post_dim=96,
            post_projection_dim=128,
            post_rnn_dim=96,
            attention_dim=96,
            location=2,
            spoken_dropout=("decoder",),
            stop_weight=5.0,
            guided_attention_weight=10.0,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            clip_norm=1.0,
            ema_decay=0.998,
        ),
        data=data,
        steps=steps,
        log_every=25,
        eval_every=500,
        sample_every=500,
        save_every=250,
    )
