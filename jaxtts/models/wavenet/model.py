"""WaveNet: each sample is drawn from what dilated convolutions over those before it expect (arXiv 1609.03499).

Matches r9y9/wavenet_vocoder@a35fff7 `wavenet.py`, `modules.py`, `upsample.py` (`Config()`, `Config.mulaw()`), with the
layers of the teacher of ksw0306/ClariNet@df31b4c (`Config.clarinet()`). Deliberate differences: channels last; sample n
is told the conditioning of sample n in training too (theirs that of n - 1 there, and of n when they generate); the last
layer has no residual output, which leads nowhere; with `lengths`, what lies behind an utterance's end changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.audio.griffin_lim import deemphasis, emphasized
from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.nn import wavenet
from jaxtts.nn.conv import Conv1d, effective_kernel
from jaxtts.nn.functional import check_dtype
from jaxtts.nn.generation import Fold, folded, generate, heard, in_chunks
from jaxtts.nn.masking import masked_fill, sequence_mask
from jaxtts.nn.output import Output
from jaxtts.nn.quantization import reduced
from jaxtts.nn.upsample import Stretch, Transposed


@dataclass(frozen=True)
class Config:
    """r9y9's recipe with a mixture of logistics by default: 3.7 M parameters.

    Attributes:
        mel: what it is told; conditional=False: it is told nothing.
        output: the distribution of a sample.
        num_layers, num_stacks: layer i has dilation 2**(i % (num_layers // num_stacks)).
        channels, gate_channels, skip_channels: residual; both halves of the gates; of the skips and the last layers.
        first_kernel_size: of the layer that reads samples; above 1 a ReLU follows it (ClariNet).
        scale_skips: the sum of the skips by 1 / sqrt(num_layers) (r9y9).
        cond_bias: the layers' share of the conditioning has a bias (ClariNet).
        upsample: 'stretch' (r9y9) or 'transposed' (ClariNet); upsample_scales: whose product is the hop.
        upsample_bins: neighbouring bins that the upsampling smooths over, odd.
        upsample_slope: of a leaky ReLU after each of its layers, None for none.
        context: frames on each side that a first convolution over frames reads; None: there is no such layer.
        num_speakers: above 1 adds an embedding of speaker_dim that all layers hear.
        gain, preemphasis: what is modelled is y[n] = g (x[n] - k x[n-1]) of a wave x, and undone in the end; the mel is
            that of x (r9y9: 0.55 and 0.85).
        weight_norm: False for folded weights.
        dtype: of the layers in training; the likelihood and the loop over samples are float32.
        remat: in training, keep of each layer its input alone and compute the rest again.
    """

    mel: MelSpec = mel_spec("hifigan")
    conditional: bool = True
    output: Output = Output("logistic", 65536, log_scale_min=-16.0)
    num_layers: int = 24
    num_stacks: int = 4
    channels: int = 128
    gate_channels: int = 256
    skip_channels: int = 128
    kernel_size: int = 3
    first_kernel_size: int = 1
    scale_skips: bool = True
    cond_bias: bool = False
    upsample: str = "stretch"
    upsample_scales: tuple[int, ...] = (4, 4, 4, 4)
    upsample_bins: int = 1
    upsample_slope: float | None = None
    context: int | None = 2
    num_speakers: int = 1
    speaker_dim: int = 0
    gain: float = 1.0
    preemphasis: float = 0.0
    weight_norm: bool = True
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        check_dtype(self.dtype)
        if self.num_layers % self.num_stacks:
            raise ValueError(f"num_layers={self.num_layers} must be a multiple of num_stacks={self.num_stacks}")
        if self.kernel_size < 2:
            raise ValueError(f"kernel_size={self.kernel_size} must be at least 2")
        if self.gate_channels % 2:
            raise ValueError(f"gate_channels={self.gate_channels} must be even")
        if self.first_kernel_size > 1 and self.output.kind == "softmax":
            raise ValueError(f"first_kernel_size={self.first_kernel_size} does not go with classes: use 1")
        if self.upsample not in ("stretch", "transposed"):
            raise ValueError(f"upsample={self.upsample!r}: use 'stretch' or 'transposed'")
        if self.conditional and np.prod(self.upsample_scales) != self.mel.hop_length:
            raise ValueError(f"upsample_scales={self.upsample_scales} must multiply to the hop {self.mel.hop_length}")
        if self.upsample_bins % 2 == 0:
            raise ValueError(f"upsample_bins={self.upsample_bins} must be odd")
        if self.gain <= 0:
            raise ValueError(f"gain={self.gain} must be above 0")
        if not 0 <= self.preemphasis < 1:
            raise ValueError(f"preemphasis={self.preemphasis} must be at least 0 and below 1")
        if (self.num_speakers > 1) != (self.speaker_dim > 0):
            raise ValueError(
                f"num_speakers={self.num_speakers} needs speaker_dim={self.speaker_dim} above 0, 1 needs 0"
            )

    @property
    def samples_seen(self) -> int:
        """Receptive field: samples that a sample is drawn after, beside itself none."""
        per_stack = 2 ** (self.num_layers // self.num_stacks) - 1
        return (self.kernel_size - 1) * per_stack * self.num_stacks + self.first_kernel_size

    @property
    def receptive_field(self) -> int:
        """Frames on each side that tell a frame's samples."""
        smoothed = sum(1 / np.prod(self.upsample_scales[:i]) for i in range(len(self.upsample_scales)))
        return (self.context or 0) + int(np.ceil(smoothed))

    def modelled(self, wave: jax.Array) -> jax.Array:
        """The wave [B, N] with gain and pre-emphasis."""
        return self.gain * emphasized(wave, self.preemphasis)

    def restored(self, wave: jax.Array) -> jax.Array:
        """The inverse of `modelled`, but for what lay ahead of the first sample: that is silent here."""
        return deemphasis(wave, self.preemphasis) / self.gain

    @classmethod
    def mulaw(cls, **changes: Any) -> "Config":
        """r9y9's `mulaw256` recipe: 256 classes, 30 layers."""
        values: dict[str, Any] = dict(output=Output("softmax", 256), num_layers=30, num_stacks=3)
        return cls(**(values | changes))

    @classmethod
    def gaussian(cls, **changes: Any) -> "Config":
        """r9y9's recipe with one Gaussian."""
        values: dict[str, Any] = dict(output=Output("gaussian", log_scale_min=-16.0))
        return cls(**(values | changes))

    @classmethod
    def clarinet(cls, **changes: Any) -> "Config":
        """The teacher of ksw0306/ClariNet."""
        values: dict[str, Any] = dict(
            output=Output("gaussian", log_scale_min=-9.0), num_layers=20, num_stacks=2, gate_channels=512,
            kernel_size=2, first_kernel_size=32, scale_skips=False, cond_bias=True, upsample="transposed",
            upsample_scales=(16, 16), upsample_bins=3, upsample_slope=0.4, context=None,
        )  # fmt: skip
        return cls(**(values | changes))

    @classmethod
    def tiny(cls) -> "Config":
        """For tests."""
        mel = MelSpec("tiny", 8000, 64, 16, 64, 10, magnitude_eps=1e-9)
        return cls(
            mel=mel, output=Output("logistic", 256, num_mixtures=2), num_layers=4, num_stacks=2, channels=8,
            gate_channels=12, skip_channels=10, upsample_scales=(4, 4), context=1,
        )  # fmt: skip


class Model(nnx.Module):
    """A network over samples, told what the upsampling makes of the mel."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        c = config
        if c.conditional:
            self.upsample = Upsample(c, rngs=rngs)
        if c.num_speakers > 1:
            self.speakers = nnx.Param(0.1 * jax.random.normal(rngs.params(), (c.num_speakers, c.speaker_dim)))
        self.network = Network(
            c.output.num_classes if c.output.kind == "softmax" else 1,
            c.output.width,
            c,
            cond_channels=c.mel.num_bins if c.conditional else 0,
            speaker_channels=c.speaker_dim,
            rngs=rngs,
        )

    def __call__(self, mel: jax.Array | None, previous: jax.Array, *, speaker: jax.Array | None = None) -> jax.Array:
        """Teacher forced.

        Args:
            mel: [B, T, M], T * hop at least N; None for an unconditional model.
            previous: values (`Output.encode`) [B, N], each one ahead of its sample.
            speaker: ids [B].

        Returns:
            parameters of the distributions [B, N, output.width].
        """
        dtype = self.config.dtype
        cond = None if mel is None else self.condition(mel)[:, : previous.shape[1]].astype(dtype)
        told = self._speaker(speaker)
        return self.network(self.network.read(previous).astype(dtype), cond, told)

    def condition(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """mel [B, T, M], frames [B] -> what each sample is told [B, T * hop, M]; the first and last frames go on."""
        return self.upsample(mel, lengths)

    def _speaker(self, speaker: jax.Array | None) -> jax.Array | None:
        if (self.config.num_speakers > 1) != (speaker is not None):
            raise ValueError(f"num_speakers={self.config.num_speakers}: give speaker ids exactly where it is above 1")
        return None if speaker is None else self.speakers[...][speaker]

    def generate(
        self,
        cond: jax.Array,
        draw: Callable[[jax.Array], jax.Array | None],
        *,
        speaker: jax.Array | None = None,
        start: jax.Array | None = None,
        weights_dtype: str = "float32",
        kernel: bool = False,
    ) -> jax.Array:
        """Draws sample after sample.

        Args:
            cond: of `condition` [B, N, M]; of an unconditional model [B, N, 0].
            draw: the place of a sample, int32 -> uniforms [B, output.num_draws], or None for the likeliest.
            speaker: ids [B]; start: the value ahead of the first [B], silence by default.
            weights_dtype: 'float32', 'bfloat16' or 'int8', see `Network.steps`. Fewer bits are meant for the kernel,
                whose time goes into reading weights. On a CPU they gain nothing at B=1: XLA widens them ahead of the
                loop. Products of float32 are as exact as `jax.default_matmul_precision` has them, on a GPU TF32.
            kernel: the loop is one GPU kernel (`nn.wavenet_kernel`; interpreted elsewhere, for tests), not XLA's. Not
                chosen by itself, since it has never run on a GPU.

        Returns:
            values [B, N] (`Output.decode` makes sound of them).
        """
        c, batch = self.config, cond.shape[0]
        told, weights = self._speaker(speaker), self.network.steps(weights_dtype)
        width = c.num_layers * c.gate_channels
        start = jnp.broadcast_to(c.output.encode(jnp.zeros(())), (batch,)) if start is None else start

        def step(carry: Any, before: jax.Array, prepared: jax.Array) -> tuple[Any, jax.Array]:
            return self.network.step(weights, carry, before, prepared)

        def prepare(cond: jax.Array) -> jax.Array:
            if not c.conditional:
                return jnp.broadcast_to(
                    self.network.prepare(None, told), (*cond.shape[:2], c.num_layers * c.gate_channels)
                )
            return self.network.prepare(cond, told)

        if kernel:
            loop = self.network.loop(c.output, interpret=jax.default_backend() != "gpu")
            if not loop.fits:
                raise ValueError(f"kernel=True: not with {len(loop.dilations)} layers and {c.output}; leave it out")
            packed = loop.pack(*weights)

            def some(state: Any, places: jax.Array, cond: jax.Array) -> tuple[Any, jax.Array]:
                return loop(packed, state, places[0], prepare(cond), jax.vmap(draw)(places))

            return in_chunks(some, loop.init(start), cond, 4 * width, loop.chunk_bytes)

        return generate(
            step,
            lambda params, place: c.output.sample(params, draw(place)),
            self.network.init_carry(batch),
            start,
            cond,
            prepare=prepare,
            width=width,
        )

    def infer(
        self,
        mel: jax.Array,
        lengths: jax.Array | None = None,
        *,
        seeds: jax.Array | None = None,
        fold: Fold | None = None,
        speaker: jax.Array | None = None,
        weights_dtype: str = "float32",
        kernel: bool = False,
    ) -> jax.Array:
        """Mel -> wave.

        Args:
            mel: [B, T, M]; lengths: frames [B].
            seeds: of the draws, uint32 [B]; None: always the likeliest.
            fold: the utterance is cut, its segments generated side by side and cross-faded.
            speaker: ids [B].
            weights_dtype, kernel: see `generate`.

        Returns:
            [B, T * hop] in [-1, 1], zero behind the lengths.
        """

        def drawn(cond: jax.Array, seeds: jax.Array | None) -> jax.Array:
            who = None if speaker is None else jnp.repeat(speaker, cond.shape[0] // mel.shape[0])
            return self.drawn(cond, seeds, speaker=who, weights_dtype=weights_dtype, kernel=kernel)

        cond = self.condition(mel, lengths)
        samples = None if lengths is None else lengths * self.config.mel.hop_length
        return self.finished(folded(drawn, cond, samples, seeds, fold), samples)

    def drawn(self, cond: jax.Array, seeds: jax.Array | None, **more: Any) -> jax.Array:
        """The wave [B, N] as it is modelled, of what `condition` gives; the rest as in `generate`."""
        output = self.config.output
        return output.decode(self.generate(cond, lambda place: output.draws(seeds, place), **more))

    def finished(self, wave: jax.Array, samples: jax.Array | None) -> jax.Array:
        """The wave [B, N] of `drawn` as it is heard, zero behind so many samples [B]."""
        return heard(self.config.restored(wave), samples)


class Carry(NamedTuple):
    """Between samples: those that the first layer reads again [B, first_kernel_size - 1], and of the layers."""

    recent: jax.Array
    layers: wavenet.Carry


class Steps(NamedTuple):
    """The weights of the loop over samples: kernels [I, O] and biases [O] around those of the stack."""

    first: tuple[jax.Array, jax.Array]
    layers: wavenet.Steps
    last: list[tuple[jax.Array, jax.Array]]


class Network(nnx.Module):
    """Samples -> a layer that reads them, the stack, ReLU, 1x1, ReLU, 1x1 (figure 4)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        shape: Any,
        *,
        cond_channels: int,
        speaker_channels: int = 0,
        causal: bool = True,
        rngs: nnx.Rngs,
    ):
        """shape: of the layers, with the attributes of Config."""
        s = shape
        self.skip_scale = s.num_layers**-0.5 if s.scale_skips else 1.0

        def conv(inputs: int, outputs: int, width: int = 1) -> Conv1d:
            return Conv1d(inputs, outputs, width, padding="causal", weight_norm=s.weight_norm, rngs=rngs)

        self.first = conv(inputs, s.channels, s.first_kernel_size)
        self.layers = wavenet.WaveNet(
            s.channels,
            s.kernel_size,
            s.num_layers,
            dilation=2,
            cycle=s.num_layers // s.num_stacks,
            gate_channels=s.gate_channels,
            skip_channels=s.skip_channels,
            cond_channels=cond_channels,
            cond_bias=s.cond_bias,
            speaker_channels=speaker_channels,
            residual_scale=0.5**0.5,
            causal=causal,
            weight_norm=s.weight_norm,
            remat=s.remat,
            rngs=rngs,
        )
        self.last = nnx.List([conv(s.skip_channels, s.skip_channels), conv(s.skip_channels, outputs)])

    def read(self, values: jax.Array) -> jax.Array:
        """Classes or samples [B, N] -> what the stack reads [B, N, C]."""
        if values.dtype.kind == "i":
            return jnp.take(effective_kernel(self.first)[0], values, axis=0) + self.first.bias[...]
        x = self.first(values[..., None])
        return jax.nn.relu(x) if self._reads_back else x

    @property
    def _reads_back(self) -> int:
        return self.first.padding[0]

    def __call__(
        self,
        x: jax.Array,
        cond: jax.Array | None,
        speaker: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """x of `read` [B, N, C], cond [B, N, F], speaker [B, E], mask [B, N] -> [B, N, outputs], float32."""
        x = x if mask is None else masked_fill(x, mask)
        x = self.layers(x, mask, cond, speaker=speaker) * self.skip_scale
        for layer in self.last:
            x = layer(jax.nn.relu(x))
        return x.astype(jnp.float32)

    def steps(self, dtype: str = "float32") -> Steps:
        """The weights of `step`, weight norm folded; kernels but the first in `dtype` (`nn.quantization.reduced`)."""
        first = effective_kernel(self.first)
        last = [(reduced(effective_kernel(layer)[0], dtype), layer.bias[...]) for layer in self.last]
        layers = self.layers.steps()
        gates, residuals = ([reduced(kernel, dtype) for kernel in x] for x in (layers.gates, layers.residuals))
        layers = layers._replace(gates=gates, residuals=residuals, skip=reduced(layers.skip, dtype))
        return Steps((first.reshape(-1, first.shape[-1]), self.first.bias[...]), layers, last)

    def loop(self, output: Output, *, interpret: bool = False) -> Any:
        """The loop over `step` and `output.sample` as one kernel, a `nn.wavenet_kernel.SampleLoop`."""
        from jaxtts.nn.wavenet_kernel import SampleLoop  # only here: jax is about to drop Pallas's way through Triton

        layers = self.layers
        return SampleLoop(
            output,
            layers.dilations,
            layers.kernel_size,
            layers.channels,
            layers.gates[0].bias.shape[0],
            self.last[0].bias.shape[0],
            reads=self._reads_back + 1,
            relu_first=self._reads_back > 0,
            residual_scale=layers.residual_scale,
            skip_scale=self.skip_scale,
            interpret=interpret,
        )

    def prepare(self, cond: jax.Array | None, speaker: jax.Array | None = None) -> jax.Array:
        """See `nn.wavenet.WaveNet.prepare`."""
        return self.layers.prepare(cond, speaker)

    def init_carry(self, batch: int) -> Carry:
        """Before the first sample: silence."""
        return Carry(jnp.zeros((batch, self._reads_back)), self.layers.init_carry(batch))

    def step(self, weights: Steps, carry: Carry, value: jax.Array, prepared: jax.Array) -> tuple[Carry, jax.Array]:
        """One sample.

        Args:
            value: the one before: a class or a sample [B], or weights of all classes [B, K].
            prepared: of its place [B, L * G].

        Returns:
            the next carry, [B, outputs].
        """
        (kernel, bias), recent = weights.first, carry.recent
        if value.ndim == 2:
            x = value @ kernel
        elif value.dtype.kind == "i":
            x = kernel[value]
        else:
            taps = jnp.concatenate([recent, value[:, None]], axis=-1)
            x, recent = taps @ kernel, taps[:, 1:]
        x = jax.nn.relu(x + bias) if self._reads_back else x + bias
        layers, x = self.layers.step(weights.layers, carry.layers, x, prepared)
        x = x * self.skip_scale
        for kernel, bias in weights.last:
            x = jax.nn.relu(x) @ kernel + bias
        return Carry(recent, layers), x


class Upsample(nnx.Module):
    """Frames to samples: a convolution over frames where there is context, then filters of one channel."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        """config: with the fields of Config that shape it."""
        self.config = config
        bins = config.mel.num_bins
        if config.context is not None:
            width = 2 * config.context + 1
            normed = config.weight_norm and getattr(config, "norm_context", False)
            self.first = Conv1d(bins, bins, width, padding="valid", bias=False, weight_norm=normed, rngs=rngs)
        kind = {"stretch": Stretch, "transposed": Transposed}[config.upsample]
        self.layers = nnx.List(
            [kind(scale, config.upsample_bins, weight_norm=config.weight_norm) for scale in config.upsample_scales]
        )

    def __call__(self, mel: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """See `Model.condition`."""
        c, (_, frames, _) = self.config, mel.shape
        if c.context is not None:
            last = frames - 1 if lengths is None else lengths[:, None] - 1
            place = jnp.clip(jnp.arange(-c.context, frames + c.context)[None], 0, last)  # [B or 1, T + 2 * context]
            mel = self.first(jnp.take_along_axis(mel, place[..., None], axis=1))
        reached = jnp.full(mel.shape[0], frames) if lengths is None else lengths
        for layer, scale in zip(self.layers, c.upsample_scales):
            mel = mel if lengths is None else masked_fill(mel, sequence_mask(reached, mel.shape[1]))
            mel = layer(mel)
            mel = mel if c.upsample_slope is None else jax.nn.leaky_relu(mel, c.upsample_slope)
            reached = reached * scale
        return mel if lengths is None else masked_fill(mel, sequence_mask(reached, mel.shape[1]))
