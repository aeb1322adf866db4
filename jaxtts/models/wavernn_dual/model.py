"""WaveRNN: samples of 16 bits, drawn as 8 coarse and then 8 fine bits from the two halves of one GRU's state
(arXiv 1802.08435 section 2).

Eq. 2 with the biases of fatchord/WaveRNN@83c08fd `models/deepmind_version.py`, which hears nothing but samples
(`Config.unconditional()`). What the paper leaves open is filled in: the mel reaches the gates through the upsampling of
`models/wavernn`. Generation starts from silence (fatchord's from the lowest value).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtts.audio.griffin_lim import deemphasis
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.wavernn.model import Upsample, check_upsampling, dense, frames_seen, surrounded
from jaxtts.nn.conv import Conv1d, torch_uniform
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.generation import Fold, folded, generate, heard
from jaxtts.nn.output import Output
from jaxtts.nn.pruning import Pruning
from jaxtts.nn.recurrent import product

HALF = Output("softmax", 256, mu_law=False)  # the distribution of 8 bits
SILENCE = 2**15
GATES = 3  # update, reset, new


@dataclass(frozen=True)
class Config:
    """The paper's 896 units by default, which hear a mel: 3.9 M parameters.

    Attributes:
        mel: what it is told.
        conditional: False: it is told nothing.
        hidden_dim: units, half of them for the fine bits.
        upsample_factors, pad, resnet_channels, resnet_blocks, aux_channels, input_scale, edge: of the upsampling, see
            `wavernn.Config`.
        preemphasis: k of the wave y[n] = x[n] - k x[n-1] that is modelled, and undone in the end; 0 for none.
        pruning: of the GRU's recurrent kernel in training.
        dtype: of the layers in training; the likelihood and the loop over samples are float32.
        remat: in training, keep of each layer its input alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("wavernn_lj")
    conditional: bool = True
    hidden_dim: int = 896
    upsample_factors: tuple[int, ...] = (5, 5, 11)
    pad: int = 2
    resnet_channels: int = 128
    resnet_blocks: int = 10
    aux_channels: int = 128
    input_scale: float = 1.0
    edge: float = 0.0
    preemphasis: float = 0.0
    pruning: Pruning = Pruning()
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.conditional:
            check_upsampling(self)
        if self.hidden_dim % 2:
            raise ValueError(f"hidden_dim={self.hidden_dim} must be even")
        if not 0 <= self.preemphasis < 1:
            raise ValueError(f"preemphasis={self.preemphasis} must be at least 0 and below 1")
        self.pruning.check("a gate", (self.hidden_dim, self.hidden_dim))

    @property
    def receptive_field(self) -> int:
        """Frames on each side that a frame's conditioning needs."""
        return frames_seen(self) if self.conditional else 0

    @classmethod
    def unconditional(cls, **changes: Any) -> "Config":
        """It hears nothing but samples: 3.05 M parameters."""
        values: dict[str, Any] = {"conditional": False}
        return cls(**(values | changes))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        mel = MelSpec("tiny", 8000, 64, 8, 64, 10, magnitude_eps=1e-9)
        return cls(
            mel=mel, hidden_dim=64, upsample_factors=(2, 4), pad=1, resnet_channels=8, resnet_blocks=1, aux_channels=8
        )


def encode(wave: jax.Array) -> jax.Array:
    """Wave in [-1, 1] -> values of 16 bits, int32 in [0, 65535]."""
    return jnp.clip(jnp.floor(wave * SILENCE + 0.5) + SILENCE, 0, 2 * SILENCE - 1).astype(jnp.int32)


def decode(value: jax.Array) -> jax.Array:
    """The inverse of `encode`."""
    return (value - SILENCE).astype(jnp.float32) / SILENCE


def _scaled(bits: jax.Array) -> jax.Array:
    """8 bits -> [-1, 1]."""
    return bits.astype(jnp.float32) / 127.5 - 1.0


def _halves(value: jax.Array) -> jax.Array:
    """Values [...] -> coarse and fine bits in [-1, 1] [..., 2]."""
    return _scaled(jnp.stack([value >> 8, value & 255], axis=-1))


def _gated(recurrent: jax.Array, given: jax.Array, hidden: jax.Array) -> jax.Array:
    """Of all units or one half of them: [B, 3, H], [B, 3, H], [B, H] -> the next state [B, H] (eq. 2)."""
    update = jax.nn.sigmoid(recurrent[:, 0] + given[:, 0])
    reset = jax.nn.sigmoid(recurrent[:, 1] + given[:, 1])
    new = jnp.tanh(reset * recurrent[:, 2] + given[:, 2])
    return update * hidden + (1 - update) * new


class Model(nnx.Module):
    """One GRU whose second half of units also hears the coarse bits of the sample at hand.

    Parameters `hidden_kernel` [3 * H, H] (R), `coarse_kernel` [3 * H / 2, 2] and `fine_kernel` [3 * H / 2, 3] (I*
    without what its mask takes away), `bias` [3 * H]: in each gate the coarse half comes first.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        hidden, half = config.hidden_dim, config.hidden_dim // 2

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(torch_uniform(rngs.params(), shape, fan_in=shape[1]))

        self.hidden_kernel = uniform(GATES * hidden, hidden)
        self.coarse_kernel, self.fine_kernel = uniform(GATES * half, 2), uniform(GATES * half, 3)
        self.bias = nnx.Param(jnp.zeros((GATES * hidden,)))
        self.coarse, self.fine = (
            nnx.List([Conv1d(half, width, rngs=rngs) for width in (half, HALF.width)]) for _ in range(2)
        )
        if config.conditional:
            self.upsample = Upsample(config, rngs=rngs)
            self.told = Conv1d(config.mel.num_bins + config.aux_channels, GATES * hidden, bias=False, rngs=rngs)

    def __call__(self, mel: jax.Array | None, wave: jax.Array) -> jax.Array:
        """Teacher forced.

        Args:
            mel: [B, T, M]; None for an unconditional model.
            wave: [B, N] in [-1, 1] itself, N at most T * hop: its fine bits are told its coarse ones.

        Returns:
            logits of the coarse and then of the fine bits [B, N, 2 * 256].
        """
        value = encode(wave)
        previous = jnp.pad(value, ((0, 0), (1, 0)), constant_values=SILENCE)[:, :-1]
        cond = None if mel is None else self.condition(mel)[:, : wave.shape[1]]
        return self.forced(cond, previous, value)

    def forced(self, cond: jax.Array | None, previous: jax.Array, value: jax.Array) -> jax.Array:
        """cond [B, N, F], values ahead and at hand [B, N] -> logits [B, N, 2 * 256], float32."""
        dtype, half = self.config.dtype, self.config.hidden_dim // 2
        heard = jnp.concatenate([_halves(previous), _halves(value)[..., :1]], axis=-1).astype(dtype)  # [B, N, 3]

        def recur(heard: jax.Array, cond: jax.Array | None) -> jax.Array:
            parts = product(heard[..., :2], self.coarse_kernel[...]), product(heard, self.fine_kernel[...])
            parts = [part.reshape(*part.shape[:2], GATES, half) for part in parts]
            told = self._told(cond).astype(dtype)
            given = jnp.concatenate(parts, axis=-1) + told.reshape(*told.shape[:-1], GATES, -1)  # [B, N, 3, H]

            def step(hidden: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
                recurrent = product(hidden, self.hidden_kernel[...]).reshape(given.shape)
                hidden = _gated(recurrent, given, hidden)
                return hidden, hidden

            start = jnp.zeros((given.shape[0], given.shape[-1]), dtype)
            return jax.lax.scan(step, start, given.swapaxes(0, 1))[1].swapaxes(0, 1)

        def layers(hidden: jax.Array) -> jax.Array:
            logits = []
            for (first, last), state in zip((self.coarse, self.fine), jnp.split(hidden, 2, axis=-1)):
                logits.append(last(jax.nn.relu(first(state))))
            return jnp.concatenate(logits, axis=-1)

        save = self.config.remat
        cond = None if cond is None else cond.astype(dtype)
        return remat(layers, save)(remat(recur, save)(heard, cond)).astype(jnp.float32)

    def _told(self, cond: jax.Array | None) -> jax.Array:
        """What the conditioning adds to the gates, and their bias: [..., F] -> [..., 3 * H]."""
        bias = self.bias[...]
        if not self.config.conditional:
            return bias
        if cond is None:
            raise ValueError("conditional=True: give a mel, which this model is told")
        return cond @ self.told.kernel[0].astype(cond.dtype) + bias.astype(cond.dtype)

    def condition(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """mel [B, T, M], frames [B] -> what each sample hears [B, T * hop, M + aux_channels], or [B, T * hop, 0]."""
        if not self.config.conditional:
            return jnp.zeros((mel.shape[0], mel.shape[1] * self.config.mel.hop_length, 0))
        return self.upsample(surrounded(mel, lengths, self.config))[0]

    def init_carry(self, batch: int) -> jax.Array:
        """Before the first sample."""
        return jnp.zeros((batch, self.config.hidden_dim))

    def step(
        self, carry: jax.Array, previous: jax.Array, cond: jax.Array, choose: Callable[[jax.Array], jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One sample.

        Args:
            carry: [B, H]; previous: the value before [B]; cond: of its place [B, F].
            choose: logits of the coarse bits [B, 256] -> the coarse bits [B], int32.

        Returns:
            the next carry, the coarse bits, logits of the coarse and then of the fine bits [B, 2 * 256].
        """
        return self.advance(self.steps(), carry, previous, self.prepare(cond), choose)

    def steps(self) -> list[list[tuple[jax.Array, jax.Array]]]:
        """Of the coarse and of the fine layers: kernels, outputs first, and biases."""
        both = [[dense(layer) for layer in layers] for layers in (self.coarse, self.fine)]
        return [[(kernel.T, bias) for kernel, bias in layers] for layers in both]

    def prepare(self, cond: jax.Array) -> jax.Array:
        """What the gates are told besides samples: [..., F] -> [..., 3 * H]."""
        return jnp.broadcast_to(self._told(cond.astype(jnp.float32)), (*cond.shape[:-1], self.bias.shape[0]))

    def advance(
        self, steps: Any, hidden: jax.Array, previous: jax.Array, prepared: jax.Array, choose: Callable[..., jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`step` with what `steps` and `prepare` give [B, 3 * H]."""
        batch, half = hidden.shape[0], hidden.shape[1] // 2

        def split(x: jax.Array) -> list[jax.Array]:
            return jnp.split(x.reshape(batch, GATES, -1), 2, axis=-1)  # [B, 3, H / 2]

        recurrent, given = split(product(hidden, self.hidden_kernel[...])), split(prepared)
        heard, states, logits, coarse = _halves(previous), [], [], previous
        for part, kernel in enumerate((self.coarse_kernel[...], self.fine_kernel[...])):
            given_here = given[part] + product(heard, kernel).reshape(batch, GATES, half)
            states.append(_gated(recurrent[part], given_here, hidden[:, part * half : (part + 1) * half]))
            x = states[-1]
            (first, bias), (last, last_bias) = steps[part]
            logits.append(product(jax.nn.relu(product(x, first) + bias), last) + last_bias)
            if part == 0:
                coarse = choose(logits[0])
                heard = jnp.concatenate([heard, _scaled(coarse)[:, None]], axis=-1)
        return jnp.concatenate(states, axis=-1), coarse, jnp.concatenate(logits, axis=-1)

    def generate(self, cond: jax.Array, draw: Callable[[jax.Array], jax.Array | None]) -> jax.Array:
        """Draws sample after sample.

        Args:
            cond: of `condition` [B, N, F].
            draw: the place of a sample, int32 -> uniforms of its coarse and fine bits [B, 2], or None: the likeliest.

        Returns:
            values of 16 bits [B, N] (`decode` makes sound of them).
        """
        batch, steps = cond.shape[0], self.steps()

        def pick(logits: jax.Array, place: jax.Array, part: int) -> jax.Array:
            uniforms = draw(place)
            return HALF.sample(logits, None if uniforms is None else uniforms[:, part : part + 1])

        def step(carry: Any, previous: jax.Array, prepared: jax.Array) -> tuple[Any, Any]:
            hidden, place = carry
            choose = partial(pick, place=place, part=0)
            hidden, coarse, logits = self.advance(steps, hidden, previous, prepared, choose)
            return (hidden, place + 1), (coarse, logits[:, HALF.width :])

        def sample(made: Any, place: jax.Array) -> jax.Array:
            coarse, logits = made
            return (coarse << 8) + pick(logits, place, 1)

        carry = self.init_carry(batch), jnp.zeros((), jnp.int32)
        start = jnp.full((batch,), SILENCE, jnp.int32)
        return generate(step, sample, carry, start, cond, prepare=self.prepare, width=self.bias.shape[0])

    def infer(
        self,
        mel: jax.Array,
        lengths: jax.Array | None = None,
        *,
        seeds: jax.Array | None = None,
        fold: Fold | None = None,
    ) -> jax.Array:
        """Mel -> wave.

        Args:
            mel: [B, T, M], of which an unconditional model knows the length alone; lengths: frames [B].
            seeds: of the draws, uint32 [B]; None: always the likeliest.
            fold: the utterance is cut, its segments are generated side by side and cross-faded.

        Returns:
            [B, T * hop] in [-1, 1], zero behind the lengths.
        """
        cond, samples = self.condition(mel, lengths), None if lengths is None else lengths * self.config.mel.hop_length
        return self.finished(folded(self.drawn, cond, samples, seeds, fold), samples)

    def drawn(self, cond: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """The wave [B, N] as it is modelled, of what `condition` gives [B, N, F]."""

        def draw(place: jax.Array) -> jax.Array | None:
            if seeds is None:
                return None
            pair = [HALF.draws(seeds, 2 * place + part) for part in (0, 1)]
            return jnp.concatenate([x for x in pair if x is not None], axis=-1)

        return decode(self.generate(cond, draw))

    def finished(self, wave: jax.Array, samples: jax.Array | None) -> jax.Array:
        """The wave [B, N] of `drawn` as it is heard, zero behind so many samples [B]."""
        return heard(deemphasis(wave, self.config.preemphasis), samples)
