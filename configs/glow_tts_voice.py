"""The acoustic half of the embedded voice: a Glow-TTS of 4.3 M parameters on speech of flite's `rms`.

The corpus and the run, from the repository's root:

    python tools/sentences.py --fetch corpora/text --shuffle 1 --skip 60 --limit 9000 --out corpora/text/voice.txt
    python tools/make_corpus.py --text corpora/text/voice.txt --out corpora/rms --voice flite:rms
    jaxtts train glow_tts_voice --data corpora/rms --workdir runs/glow_tts_voice

What ships was not made by this one command: 5,000 steps without the start symbol, then 700 with it; see the card,
jaxtts/voices/rms/README.md. The run of 9,000 steps as written here has not been done. On two idle cores of an AMD EPYC
a step takes 0.55 s; after 500 steps the alignment is a clean diagonal.
"""

from jaxtts.models.glow_tts import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.text import TextSpec
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    steps = 9000
    text = TextSpec(bos="^")  # the silence ahead has a symbol of its own, else it swallows a leading "A"
    return Recipe(
        name="glow_tts",
        model=Config(
            num_symbols=len(text.symbols),
            encoder_dim=128,
            encoder_layers=4,
            encoder_ffn_dim=384,
            duration_dim=128,
            decoder_dim=96,
            decoder_blocks=8,
            decoder_layers=4,
            decoder_kernel_size=3,
        ),
        optim=OptimConfig(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=500,
            total_steps=steps,
            final_scale=0.02,
            b2=0.98,
            eps=1e-9,
            clip_norm=5.0,
            ema_decay=0.999,
        ),
        data=DataConfig(text=text, batch_size=16, buckets=5, held_out=32),
        steps=steps,
        log_every=25,
        eval_every=500,
        sample_every=500,
        save_every=250,
    )
