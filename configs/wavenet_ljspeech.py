"""WaveNet as r9y9/wavenet_vocoder trains it on LJSpeech: a mixture of logistics, 24 layers, 3.7 M parameters.

    jaxtts train wavenet_ljspeech --data LJSpeech-1.1 --workdir runs/wavenet

Frames are HiFi-GAN's, so that any acoustic model here can feed it (the reference: other edges, scaled to [0, 1]).
This recipe has not been run to its end.
"""

from jaxtts.audio.spec import mel_spec
from jaxtts.models.wavenet import Config
from jaxtts.recipe import DataConfig, Recipe
from jaxtts.train.optim import OptimConfig


def get_config() -> Recipe:
    """The recipe."""
    steps, spec = 1_000_000, mel_spec("hifigan")
    return Recipe(
        name="wavenet",
        model=Config(mel=spec),
        optim=OptimConfig(
            learning_rate=1e-3, schedule="exponential", decay_steps=200_000, decay_rate=0.5, ema_decay=0.9999
        ),
        data=DataConfig(mel=spec, batch_size=8, segment_length=10_240),
        steps=steps,
        sample_every=20_000,
        save_every=5000,
    )
