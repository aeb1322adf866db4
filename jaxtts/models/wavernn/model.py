"""WaveRNN: each sample drawn after two GRUs have read the one before and the mel (after arXiv 1802.08435).

Matches fatchord/WaveRNN@83c08fd `models/fatchord_version.py`, which Real-Time-Voice-Cloning took over. (The paper's own
cell, with its dual softmax, is `models/wavernn_dual`.) A class is read as its level in [-1, 1], on the mu-law curve
where the levels lie on it, not as the sample that it stands for.

Deliberate differences: channels last; sample n is told the conditioning of sample n in training too (theirs that of
n - 1 there, and of n when they generate); segments are cross-faded as sound (theirs as levels of the mu-law curve);
with `lengths`, what lies behind an utterance's end changes nothing. `generate` of the reference drops the last hop and
fades the last 20 hops out, in folds also the beginning; `infer` gives every sample of every frame as it was drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.audio import mulaw
from jaxtts.audio.griffin_lim import deemphasis
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.functional import check_dtype, remat
from jaxtts.nn.generation import Fold, folded, generate, heard
from jaxtts.nn.masking import sequence_mask
from jaxtts.nn.normalization import BatchNorm
from jaxtts.nn.output import Output
from jaxtts.nn.pruning import Pruning
from jaxtts.nn.recurrent import GRUCell, product, run
from jaxtts.nn.upsample import Stretch

NUM_PARTS = 4  # of what the residual network makes of a frame; each layer but the first two hears its own


@dataclass(frozen=True)
class Config:
    """The reference's default by default: a mixture of logistics, 4.2 M parameters.

    Attributes:
        mel: what it is told.
        output: the distribution of a sample.
        gru_dim, fc_dim: units of the GRUs and of the layers behind them.
        upsample_factors: whose product is the hop.
        pad: frames on each side that the residual network sees.
        resnet_channels, resnet_blocks: of the residual network over frames; aux_channels: what it makes of a frame.
        input_scale: the mel's values are multiplied by it (Real-Time-Voice-Cloning: 1 / 4).
        edge: the value of the frames ahead of the first and behind the last, in the mel's own units.
        preemphasis: k of the wave y[n] = x[n] - k x[n-1] that is modelled, and undone in the end; 0 for none.
        pruning: of the GRUs' kernels in training.
        dtype: of the layers in training; the likelihood and the loop over samples are float32.
        remat: in training, keep of each layer its input alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("wavernn_lj")
    output: Output = Output("logistic", 65536, log_scale_min=float(np.log(1e-14)))
    gru_dim: int = 512
    fc_dim: int = 512
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
        check_upsampling(self)
        if self.aux_channels % NUM_PARTS:
            raise ValueError(f"aux_channels={self.aux_channels} must be a multiple of {NUM_PARTS}")
        if not 0 <= self.preemphasis < 1:
            raise ValueError(f"preemphasis={self.preemphasis} must be at least 0 and below 1")
        for inputs in (self.gru_dim, self.gru_dim + self.aux_channels // NUM_PARTS):
            self.pruning.check("a GRU's gate", (self.gru_dim, inputs))

    @property
    def receptive_field(self) -> int:
        """Frames on each side that a frame's conditioning needs."""
        return frames_seen(self)

    @classmethod
    def raw(cls, bits: int = 9, mu_law: bool = True, **changes: Any) -> "Config":
        """The reference with voc_mode 'RAW': a softmax over 2**bits classes, 4.5 M parameters."""
        values: dict[str, Any] = {"output": Output("softmax", 2**bits, mu_law)}
        return cls(**(values | changes))

    @classmethod
    def rtvc(cls, **changes: Any) -> "Config":
        """The vocoder of CorentinJ/Real-Time-Voice-Cloning: 16 kHz, 512 classes, pre-emphasis."""
        values: dict[str, Any] = dict(
            mel=mel_spec("wavernn"), upsample_factors=(5, 5, 8), input_scale=0.25, preemphasis=0.97
        )
        return cls.raw(**(values | changes))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        mel = MelSpec("tiny", 8000, 64, 8, 64, 10, magnitude_eps=1e-9)
        return cls(
            mel=mel, output=Output("softmax", 32), gru_dim=16, fc_dim=12, upsample_factors=(2, 4), pad=1,
            resnet_channels=8, resnet_blocks=1, aux_channels=8,
        )  # fmt: skip


def check_upsampling(config: Any) -> None:
    """Raises ValueError unless `Upsample(config)` can be built."""
    if np.prod(config.upsample_factors) != config.mel.hop_length:
        hop = config.mel.hop_length
        raise ValueError(f"upsample_factors={config.upsample_factors} must multiply to the hop {hop}")
    least = frames_seen(config) if config.edge else 1  # beyond them the smoothing reads zeros
    if config.pad < least:
        raise ValueError(f"pad={config.pad} must be at least {least}, with edge={config.edge}")


def frames_seen(config: Any) -> int:
    """Frames on each side that `Upsample` needs for one."""
    factors = config.upsample_factors
    smoothed = sum(1 / np.prod(factors[:i]) for i in range(len(factors)))
    return max(config.pad, int(np.ceil(smoothed)))


def dense(layer: Any) -> tuple[jax.Array, jax.Array]:
    """Kernel [I, O] and bias [O] of a layer of one tap."""
    return layer.kernel[0], layer.bias[...]


class Steps(NamedTuple):
    """The weights of the loop over samples, outputs first: of a sample [H] and, projected, [3 * H]; of the second GRU's
    input [3 * H, H]; of the layers behind [F, H], [F, F], [K, F]."""

    sample: jax.Array
    sample_projected: jax.Array
    second: jax.Array
    layers: tuple[jax.Array, jax.Array]
    last: jax.Array


class Model(nnx.Module):
    """What each sample hears of the mel, two residual GRUs over samples, three layers."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c, told = config, config.aux_channels // NUM_PARTS
        self.upsample = Upsample(config, rngs=rngs)
        self.first = Conv1d(1 + c.mel.num_bins + told, c.gru_dim, rngs=rngs)
        self.rnns = nnx.List([GRUCell(c.gru_dim + extra, c.gru_dim, rngs=rngs) for extra in (0, told)])
        self.layers = nnx.List([Conv1d(inputs + told, c.fc_dim, rngs=rngs) for inputs in (c.gru_dim, c.fc_dim)])
        self.last = Conv1d(c.fc_dim, c.output.width, rngs=rngs)

    def __call__(self, mel: jax.Array, previous: jax.Array) -> jax.Array:
        """Teacher forced.

        Args:
            mel: [B, T, M].
            previous: levels of the samples ahead [B, N], N at most T * hop, the first of them 0 (`level`).

        Returns:
            parameters of the distributions [B, N, output.width].
        """
        return self.forced(self.condition(mel)[:, : previous.shape[1]], previous)

    def forced(self, cond: jax.Array, previous: jax.Array) -> jax.Array:
        """cond [B, N, F] of `condition` or `upsample`, previous [B, N] -> [B, N, output.width], float32."""
        cond = cond.astype(self.config.dtype)
        told, *aux = self._parts(cond)
        x = self.first(jnp.concatenate([previous[..., None].astype(cond.dtype), told], axis=-1))
        mask = jnp.ones(previous.shape, bool)

        def recur(rnn: GRUCell, x: jax.Array, *told: jax.Array) -> jax.Array:
            return x + run(rnn, jnp.concatenate([x, *told], axis=-1), mask)

        def layers(x: jax.Array, *told: jax.Array) -> jax.Array:
            for layer, part in zip(self.layers, told):
                x = jax.nn.relu(layer(jnp.concatenate([x, part], axis=-1)))
            return self.last(x)

        save = self.config.remat
        x = remat(partial(recur, self.rnns[0]), save)(x)
        x = remat(partial(recur, self.rnns[1]), save)(x, aux[0])
        return remat(layers, save)(x, *aux[1:]).astype(jnp.float32)

    def _parts(self, cond: jax.Array) -> list[jax.Array]:
        """What the first layer, the second GRU and the two layers behind it hear."""
        share = self.config.aux_channels // NUM_PARTS
        edges = [self.config.mel.num_bins + share * i for i in range(1, NUM_PARTS)]
        return jnp.split(cond, edges, axis=-1)

    def level(self, value: jax.Array) -> jax.Array:
        """What the network reads: a value of `Output.encode` as a level in [-1, 1]."""
        output = self.config.output
        return mulaw.dequantize(value, output.num_classes) if output.kind == "softmax" else value

    def sound(self, level: jax.Array) -> jax.Array:
        """Levels -> the wave that is modelled (with pre-emphasis where there is any)."""
        output = self.config.output
        curved = output.kind == "softmax" and output.mu_law
        return mulaw.expand(level, output.num_classes - 1.0) if curved else level

    def condition(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """mel [B, T, M], frames [B] -> what each sample hears [B, T * hop, M + aux_channels]."""
        return self.upsample(surrounded(mel, lengths, self.config))[0]

    def init_carry(self, batch: int) -> tuple[jax.Array, jax.Array]:
        """Before the first sample."""
        first, second = (rnn.init_carry(batch) for rnn in self.rnns)
        return first, second

    def step(self, carry: Any, previous: jax.Array, cond: jax.Array) -> tuple[Any, jax.Array]:
        """One sample: the carry, the level before [B], its cond [B, F] -> the carry, parameters [B, output.width]."""
        steps = self.steps()
        return self.advance(steps, carry, previous, self.prepare(cond))

    def steps(self) -> Steps:
        """The weights of `advance`."""
        c = self.config
        sample = dense(self.first)[0][0]
        first, second = (dense(layer)[0][:n].T for layer, n in zip(self.layers, (c.gru_dim, c.fc_dim)))
        projected = self.rnns[0].input_kernel[...] @ sample
        second_rnn = self.rnns[1].input_kernel[:, : c.gru_dim]
        return Steps(sample, projected, second_rnn, (first, second), dense(self.last)[0].T)

    def prepare(self, cond: jax.Array) -> jax.Array:
        """Of cond [..., F] what `advance` adds up [..., P]: one product for many samples in place of one for each."""
        c = self.config
        cond = cond.astype(jnp.float32)
        told, *aux = self._parts(cond)
        kernel, bias = dense(self.first)
        x = told @ kernel[1:] + bias
        second = aux[0] @ self.rnns[1].input_kernel[:, c.gru_dim :].T + self.rnns[1].input_bias[...]
        behind = []
        for part, layer, width in zip(aux[1:], self.layers, (c.gru_dim, c.fc_dim)):
            kernel, bias = dense(layer)
            behind.append(part @ kernel[width:] + bias)
        first = x @ self.rnns[0].input_kernel[...].T + self.rnns[0].input_bias[...]
        return jnp.concatenate([x, first, second, *behind], axis=-1)

    @property
    def _widths(self) -> tuple[int, ...]:
        c = self.config
        return c.gru_dim, 3 * c.gru_dim, 3 * c.gru_dim, c.fc_dim, c.fc_dim

    def advance(
        self, steps: Steps, carry: Any, previous: jax.Array, prepared: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """`step` with what `steps` and `prepare` give [B, P]."""
        first, second = carry
        x, to_first, to_second, *behind = jnp.split(prepared, np.cumsum(self._widths)[:-1], axis=-1)
        previous = previous[:, None]
        x = x + previous * steps.sample
        first, _ = self.rnns[0].step(first, to_first + previous * steps.sample_projected)
        x = x + first
        second, _ = self.rnns[1].step(second, to_second + product(x, steps.second))
        x = x + second
        for kernel, told in zip(steps.layers, behind):
            x = jax.nn.relu(product(x, kernel) + told)
        return (first, second), product(x, steps.last) + dense(self.last)[1]

    def generate(self, cond: jax.Array, draw: Callable[[jax.Array], jax.Array | None]) -> jax.Array:
        """Draws sample after sample.

        Args:
            cond: of `condition` [B, N, F].
            draw: the place of a sample, int32 -> uniforms [B, output.num_draws], or None for the likeliest.

        Returns:
            levels [B, N]; `sound` makes a wave of them.
        """
        batch, steps = cond.shape[0], self.steps()
        return generate(
            partial(self.advance, steps),
            lambda params, place: self.level(self.config.output.sample(params, draw(place))),
            self.init_carry(batch),
            jnp.zeros((batch,)),
            cond,
            prepare=self.prepare,
            width=sum(self._widths),
        )

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
            mel: [B, T, M]; lengths: frames [B].
            seeds: of the draws, uint32 [B]; None: always the likeliest.
            fold: the utterance is cut, its segments are generated side by side and cross-faded.

        Returns:
            [B, T * hop] in [-1, 1], zero behind the lengths.
        """
        cond, samples = self.condition(mel, lengths), None if lengths is None else lengths * self.config.mel.hop_length
        return self.finished(folded(self.drawn, cond, samples, seeds, fold), samples)

    def drawn(self, cond: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """The wave [B, N] as it is modelled, of what `condition` gives [B, N, F]."""
        return self.sound(self.generate(cond, lambda place: self.config.output.draws(seeds, place)))

    def finished(self, wave: jax.Array, samples: jax.Array | None) -> jax.Array:
        """The wave [B, N] of `drawn` as it is heard, zero behind so many samples [B]."""
        return heard(deemphasis(wave, self.config.preemphasis), samples)


def surrounded(mel: jax.Array, lengths: jax.Array | None, config: Any) -> jax.Array:
    """mel [B, T, M], frames [B] -> [B, T + 2 * pad, M], `edge` around what is real."""
    if lengths is not None:
        mel = jnp.where(sequence_mask(lengths, mel.shape[1])[..., None], mel, config.edge)
    return jnp.pad(mel, ((0, 0), (config.pad, config.pad), (0, 0)), constant_values=config.edge)


class Upsample(nnx.Module):
    """Frames to samples: the mel stretched and smoothed, and beside it what a residual network makes of each frame."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        """config: of either WaveRNN."""
        self.pad, self.scale, self.dtype = config.pad, config.input_scale, config.dtype
        self.resnet = ResNet(config, rngs=rngs)
        self.layers = nnx.List([Stretch(factor) for factor in config.upsample_factors])

    def __call__(self, mel: jax.Array, *, train: bool = False) -> tuple[jax.Array, Any]:
        """mel [B, T + 2 * pad, M] -> [B, T * hop, M + aux_channels], running statistics after this batch."""
        mel = (mel * self.scale).astype(self.dtype)
        aux, statistics = self.resnet(mel, train=train)
        smooth = mel
        for layer in self.layers:
            smooth = layer(smooth)
        hop = smooth.shape[1] // mel.shape[1]
        smooth = smooth[:, self.pad * hop : smooth.shape[1] - self.pad * hop]
        return jnp.concatenate([smooth, jnp.repeat(aux, hop, axis=1)], axis=-1), {"resnet": statistics}


class ResNet(nnx.Module):
    """A convolution over frames and residual blocks on each, with batch norm."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        c, channels = config, config.resnet_channels
        self.first = Conv1d(c.mel.num_bins, channels, 2 * c.pad + 1, padding="valid", bias=False, rngs=rngs)
        self.norm = BatchNorm(channels)
        self.blocks = nnx.List([ResBlock(channels, rngs=rngs) for _ in range(c.resnet_blocks)])
        self.last = Conv1d(channels, c.aux_channels, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Any]:
        """[B, T + 2 * pad, M] -> [B, T, aux_channels], running statistics after this batch."""
        x = self.first(x)
        mask, statistics = jnp.ones(x.shape[:2], bool), {}
        x, statistics["norm"] = self.norm(x, mask, train=train)
        x = jax.nn.relu(x)
        blocks = {}
        for i, block in enumerate(self.blocks):
            x, blocks[str(i)] = block(x, mask, train=train)
        if blocks:
            statistics["blocks"] = blocks
        return self.last(x), statistics


class ResBlock(nnx.Module):
    """x + norm(conv(relu(norm(conv(x))))), frame by frame."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.convs = nnx.List([Conv1d(channels, channels, bias=False, rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([BatchNorm(channels) for _ in range(2)])

    def __call__(self, x: jax.Array, mask: jax.Array, *, train: bool) -> tuple[jax.Array, Any]:
        """x [B, T, C], mask [B, T] -> [B, T, C], running statistics after this batch."""
        y, first = self.norms[0](self.convs[0](x), mask, train=train)
        y, second = self.norms[1](self.convs[1](jax.nn.relu(y)), mask, train=train)
        return x + y, {"norms": {"0": first, "1": second}}
