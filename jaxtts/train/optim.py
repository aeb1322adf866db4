"""Optimisers as data: a frozen `OptimConfig` that a recipe stores and optax executes."""

from dataclasses import dataclass

import optax


@dataclass(frozen=True)
class OptimConfig:
    """Adam and its kin with clipping, a schedule and an average of the weights.

    Attributes:
        name: 'adam', 'adamw' or 'radam'.
        learning_rate: peak of the schedule; for 'noam' the multiplier (1.0 in Glow-TTS).
        schedule: 'constant', 'noam' (arXiv 1706.03762 sec. 5.3), 'exponential' or 'cosine'.
        warmup_steps: linear warm-up from 0 (for 'noam' the peak's step).
        noam_dim: model width in the 'noam' schedule.
        decay_rate, decay_steps: 'exponential' multiplies by decay_rate every decay_steps steps, in stairs.
        total_steps: where 'cosine' reaches `final_scale` times the learning rate.
        clip_value: each gradient element is clipped to +-clip_value (0: off).
        clip_norm: the global norm is clipped (0: off).
        ema_decay: decay of the exponential moving average of the parameters (0: none is kept).
        accumulate: parts that a batch is cut into; their gradients are averaged before the step, so that a batch needs
            the memory of one part. Losses are means within a part.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_steps: int = 0
    noam_dim: int = 192
    decay_rate: float = 1.0
    decay_steps: int = 1000
    total_steps: int = 0
    final_scale: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_value: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    accumulate: int = 1

    def __post_init__(self):
        if self.name not in ("adam", "adamw", "radam"):
            raise ValueError(f"optim.name={self.name!r}: use 'adam', 'adamw' or 'radam'")
        if self.schedule not in ("constant", "noam", "exponential", "cosine"):
            raise ValueError(f"optim.schedule={self.schedule!r}: use 'constant', 'noam', 'exponential' or 'cosine'")
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate={self.accumulate}: give at least 1")
        if self.schedule == "cosine" and self.total_steps <= 0:
            raise ValueError("optim.total_steps must be given for the 'cosine' schedule")
        if self.schedule == "noam" and self.warmup_steps <= 0:
            raise ValueError("optim.warmup_steps must be given for the 'noam' schedule")

    def rate(self) -> optax.Schedule:
        """The learning rate as a function of the number of finished steps."""
        import jax.numpy as jnp

        match self.schedule:
            case "noam":

                def noam(count):
                    step = jnp.asarray(count + 1, jnp.float32)
                    scale = self.learning_rate * self.noam_dim**-0.5
                    return scale * jnp.minimum(step**-0.5, step * self.warmup_steps**-1.5)

                return noam
            case "exponential":
                main = optax.exponential_decay(self.learning_rate, self.decay_steps, self.decay_rate, staircase=True)
            case "cosine":
                steps = max(1, self.total_steps - self.warmup_steps)
                main = optax.cosine_decay_schedule(self.learning_rate, steps, self.final_scale)
            case _:
                main = optax.constant_schedule(self.learning_rate)
        if not self.warmup_steps:
            return main
        ramp = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([ramp, main], [self.warmup_steps])

    def make(self) -> optax.GradientTransformation:
        """The optax transformation."""
        chain = []
        if self.clip_value:
            chain.append(optax.clip(self.clip_value))
        if self.clip_norm:
            chain.append(optax.clip_by_global_norm(self.clip_norm))
        if self.name == "radam":
            chain.append(optax.scale_by_radam(self.b1, self.b2, self.eps))
        else:
            chain.append(optax.scale_by_adam(self.b1, self.b2, self.eps))
        if self.weight_decay and self.name == "adamw":
            chain.append(optax.add_decayed_weights(self.weight_decay))
        elif self.weight_decay:
            chain.insert(0, optax.add_decayed_weights(self.weight_decay))  # L2, as torch's Adam has it
        chain.append(optax.scale_by_learning_rate(self.rate()))
        return optax.chain(*chain)
