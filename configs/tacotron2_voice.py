"""A small Tacotron 2 on speech of flite's `rms`, with two frames a step and guided attention.

On the corpus of configs/glow_tts_voice.py:

    jaxtts train tacotron2_voice --data corpora/rms --workdir runs/tacotron2_voice

On 2,463 of its sentences, none above 4.5 s, a step takes 0.8 to 1.3 s on one core of a Xeon at 2.8 GHz that others
share; after 350 steps the alignment is a clean diagonal. The run that docs/attention.md has figures of had two parts:
`--steps 2300`, and on from there with `--steps 6300`, the rate beginning anew.
"""

from jaxtts.models.tacotron2 import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps = 6300
    text = TextSpec(bos="^")  # the silence ahead has a symbol of its own
    return Recipe(
        name="tacotron2",
        model=Config(
            num_symbols=len(text.symbols),
            encoder_dim=192,
            encoder_dropout=0.2,
            attention_rnn_dim=256,
            attention_dim=96,
            location_filters=16,
            decoder_rnn_dim=320,
            prenet_dim=128,
            reduction_factor=2,
            postnet_dim=192,
            postnet_dropout=0.2,
            stop_weight=5.0,
            guided_attention_weight=100.0,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            total_steps=steps,
            final_scale=0.02,
            weight_decay=1e-6,
            clip_norm=1.0,
            ema_decay=0.998,
        ),
        data=DataConfig(text=text, batch_size=16, buckets=4, held_out=32),
        steps=steps,
        log_every=25,
        eval_every=500,
        sample_every=500,
        save_every=250,
    )
