"""WaveNet's loop over samples as one GPU kernel (Pallas, lowered through Triton).

XLA launches about a hundred small kernels for each sample. Here one program holds TILE streams and the whole loop: it
is launched once for thousands of samples, and between them nothing but the weights moves. No two programs share a
stream, so they never wait for each other.

What bounds it: each program reads all weights once a sample from the L2 cache, since they do not fit an SM's shared
memory. The sample rate of a stream is at best (an SM's share of the L2's bandwidth) / (bytes of the weights), whatever
the number of streams up to TILE * SMs: so half the bytes are near twice the speed (`nn.quantization`), and folding
(`nn.generation.Fold`) fills the SMs. Compiled for sm_90 by Triton 3.9, r9y9's mixture takes 30 KB of shared memory in
bfloat16 (float32 55, int8 18), 255 registers a thread and spills none. It has not run on a GPU yet: the sizes of its
blocks, its warps and its stages are reasoned, not tuned. (jax 0.12 deprecates Pallas's way through Triton.)

Memory. Registers hold one block of one product; Triton stages its weights through shared memory. All else lies in
global memory, which L1 and L2 hold: a value that other threads read next is stored, then a barrier, then read as the
left side of the next product. All channels are padded to multiples of WIDTH (`dot` takes no less) with zeros, which
stay zero; the draw reads rows whose length is a power of two.

    queues    [programs, rows, TILE, C]: each layer's inputs, a ring of (W - 1) * dilation + 1 rows, one after another
    values    [programs, R + n, TILE]: those that the first layer reads at the chunk's beginning [R], then those drawn
    gated     [programs, TILE, L * H]: of each layer tanh * sigmoid, which all go into one product with the skips'
    summed, hidden [programs, TILE, S], params [programs, TILE, O]: the sum of the skips, of the two last layers
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxtts.nn.output import Output
from jaxtts.nn.quantization import Reduced
from jaxtts.nn.wavenet import Steps

TILE = 16  # streams of a program, and the least rows of a product
WIDTH = 16  # the least columns of one
BLOCK = 32, 64  # of weights: rows, columns at a time
NEVER = -1e30  # logit of a class that only fills a row up
CHUNK_BYTES = 2**28  # of what is prepared for a launch


Axis = tuple[int, int, int]  # parts, the size of each, the size that it is padded to


class Product(NamedTuple):
    """Of a layer, or of some [L, ...]: values [I, O] in any dtype, scale [O] of the result, bias [O] after it."""

    values: Any
    scale: Any
    bias: Any


class Weights(NamedTuple):
    """All that a program reads again for each sample, padded; rings [L, 2]: each queue's first row and dilation."""

    rings: Any
    first: Any
    first_bias: Any
    gates: Product
    residuals: Product
    skip: Product
    last: tuple[Product, Product]


class State(NamedTuple):
    """Between launches: queues [programs, rows, TILE, C], the values that are read next [programs, R, TILE]."""

    queues: jax.Array
    recent: jax.Array


@dataclass(frozen=True)
class SampleLoop:
    """The loop of one network.

    Attributes:
        output: the distribution that is drawn from.
        dilations: of each layer; kernel_size: of all.
        channels, gate_channels, skip_channels: as in `nn.wavenet.WaveNet`.
        reads: values that the first layer reads; relu_first: whether a ReLU follows it.
        residual_scale, skip_scale: of a layer's input after its residual was added, of the sum of the skips.
        interpret: run on any device, slowly, for tests.
    """

    output: Output
    dilations: tuple[int, ...]
    kernel_size: int
    channels: int
    gate_channels: int
    skip_channels: int
    reads: int = 1
    relu_first: bool = False
    residual_scale: float = 1.0
    skip_scale: float = 1.0
    interpret: bool = False

    @property
    def fits(self) -> bool:
        """Whether the kernel can do it: two layers or more, a distribution that goes into registers."""
        return len(self.dilations) > 1 and self.output.width <= 1024

    @property
    def chunk_bytes(self) -> int:
        """Of what is prepared for a launch."""
        return CHUNK_BYTES

    @cached_property
    def _channels(self) -> int:
        return _up(self.channels)

    @cached_property
    def _gate(self) -> int:
        return _up(self.gate_channels // 2)

    @cached_property
    def _parts(self) -> int:
        """Kinds of parameters that each component of the distribution has, each in columns of its own."""
        return 3 if self.output.kind == "logistic" else 1

    @cached_property
    def _components(self) -> int:
        """Columns of a kind, a power of two."""
        return max(WIDTH, pl.next_power_of_2(self.output.width // self._parts))

    def pack(
        self, first: tuple[jax.Array, jax.Array], layers: Steps, last: list[tuple[jax.Array, jax.Array]]
    ) -> Weights:
        """A network's weights as the kernel reads them; kernels may be `quantization.Reduced`.

        Args:
            first: kernel [classes or R, C] and bias [C]; layers: of the stack; last: kernels, biases of the two last.
        """
        n, taps, real = len(self.dilations), self.kernel_size, self.output.width // self._parts
        half, gate = self.gate_channels // 2, self._gate
        outer, inner = (1, self.channels, self._channels), (1, self.skip_channels, _up(self.skip_channels))
        final = (self._parts, real, self._components)
        gates = [_product(k, (taps, *outer[1:]), (2, half, gate)) for k in layers.gates]
        residuals = [
            _product(k, (1, half, gate), outer, bias) for k, bias in zip(layers.residuals, layers.residual_biases)
        ]
        closing = _product(last[1][0], inner, final, last[1][1])
        if self.output.kind != "gaussian":
            filling = np.arange(closing.bias.shape[0])
            filling = (filling >= real) & (filling < self._components)
            closing = closing._replace(bias=jnp.where(filling, NEVER, closing.bias))
        rows = np.cumsum([0, *self._spans[:-1]])
        return Weights(
            jnp.asarray(np.stack([rows, self.dilations], axis=1), jnp.int32),
            _padded(first[0], 1, outer),
            _padded(first[1], 0, outer),
            jax.tree.map(lambda *x: jnp.stack(x), *gates),
            jax.tree.map(lambda *x: jnp.stack(x), *residuals),
            _product(layers.skip, (n, half, gate), inner, layers.skip_bias),
            (_product(last[0][0], inner, inner, last[0][1]), closing),
        )

    def init(self, start: jax.Array) -> State:
        """Silence before the first value `start` [B]."""
        recent = jnp.pad(start[:, None], ((0, -len(start) % TILE), (self.reads - 1, 0)))  # [tiled B, R]
        recent = recent.reshape(-1, TILE, self.reads).swapaxes(1, 2)
        return State(jnp.zeros((len(recent), sum(self._spans), TILE, self._channels)), recent)

    def __call__(
        self, weights: Weights, state: State, place: jax.Array, prepared: jax.Array, uniforms: jax.Array | None
    ) -> tuple[State, jax.Array]:
        """The values of n places.

        Args:
            weights: of `pack`; state: of `init` or of the launch before.
            place: number of the first place, int32.
            prepared: of `nn.wavenet.WaveNet.prepare` [n, B, L * G].
            uniforms: of `Output.draws` [n, B, output.num_draws]; None: the likeliest.

        Returns:
            the next state, values [n, B].
        """
        n, batch, _ = prepared.shape
        programs, rows, _, channels = state.queues.shape
        filled = ((0, 0), (0, programs * TILE - batch), (0, 0))
        prepared = jnp.pad(_padded(prepared, 2, (2 * len(self.dilations), self.gate_channels // 2, self._gate)), filled)
        noise = None if uniforms is None else jnp.pad(self._noise(uniforms), filled)
        values = jnp.pad(state.recent, ((0, 0), (0, n), (0, 0)))
        skip = _up(self.skip_channels)
        scratch = len(self.dilations) * self._gate, skip, skip, self._parts * self._components
        shapes = [(rows, TILE, channels), (self.reads + n, TILE), *((TILE, size) for size in scratch)]
        own = [pl.BlockSpec((None, *shape), partial(_first, 1 + len(shape))) for shape in shapes]
        streamed = [
            None if x is None else pl.BlockSpec((n, TILE, x.shape[2]), lambda i: (0, i, 0)) for x in (prepared, noise)
        ]
        inputs = (place.reshape(1), weights, prepared, noise, state.queues, values)
        queues, values, *_ = pl.pallas_call(
            partial(self._run, n),
            grid=(programs,),
            in_specs=(pl.BlockSpec(), jax.tree.map(lambda _: pl.BlockSpec(), weights), *streamed, *own[:2]),
            out_specs=own,
            out_shape=[
                jax.ShapeDtypeStruct((programs, *shape), values.dtype if i == 1 else jnp.float32)
                for i, shape in enumerate(shapes)
            ],
            input_output_aliases={len(jax.tree.leaves(inputs)) - 2 + i: i for i in range(2)},
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=4),
            interpret=self.interpret,
            name="wavenet_samples",
        )(*inputs)
        drawn = values[:, self.reads :].swapaxes(0, 1).reshape(n, -1)[:, :batch]
        return State(queues, values[:, n:]), drawn

    @cached_property
    def _spans(self) -> list[int]:
        """Rows of each layer's queue."""
        return [(self.kernel_size - 1) * d + 1 for d in self.dilations]

    def _noise(self, uniforms: jax.Array) -> jax.Array:
        """`Output.noise`, each kind in columns of its own."""
        noise = self.output.noise(uniforms)
        return _padded(noise, 2, (1, self.output.num_mixtures, self._components), 1) if self._parts > 1 else noise

    def _run(self, n: int, place: Any, w: Weights, prepared: Any, noise: Any, *refs: Any) -> None:
        """The kernel: all but n are references into memory."""
        queues, values, gated, summed, hidden, params = refs[2:]  # the first two are the same memory as the next
        layers, c, gate = len(self.dilations), self._channels, self._gate

        def stored() -> None:
            """From here on all threads of the program see what was stored."""
            if not self.interpret:
                plgpu.debug_barrier()

        def row(layer: Any, tap: Any, now: Any) -> Any:
            """Of a layer's input so many dilations before (W - 1: now)."""
            top, dilation = w.rings[layer, 0], w.rings[layer, 1]
            return top + lax.rem(now + 1 + tap * dilation, (self.kernel_size - 1) * dilation + 1)

        def read(t: Any, now: Any) -> None:
            top = row(0, self.kernel_size - 1, now)
            for at, columns in _blocks(c):
                if self.output.kind == "softmax":
                    x = w.first[values[t], at]
                else:
                    tap = partial(lambda at, i, x: x + values[t + i][:, None] * w.first[i, at][None], at)
                    x = lax.fori_loop(0, self.reads, tap, jnp.zeros((TILE, columns)))
                x = x + w.first_bias[at][None]
                queues[top, :, at] = jnp.maximum(x, 0.0) if self.relu_first else x
            stored()

        def gates(t: Any, now: Any, layer: Any) -> None:
            def left(start: Any, size: int) -> jax.Array:
                return queues[row(layer, lax.div(start, c), now), :, pl.ds(lax.rem(start, c), size)]

            for at, columns in _blocks(gate):
                both = at, pl.ds(gate + at.start, columns)
                sums = _times(left, c, w.gates, both, layer)
                value, switch = (
                    x + prepared[t, :, pl.ds(layer * 2 * gate + b.start, columns)] for x, b in zip(sums, both)
                )
                gated[:, pl.ds(layer * gate + at.start, columns)] = jnp.tanh(value) * jax.nn.sigmoid(switch)
            stored()

        def layer(i: Any, at_place: Any) -> Any:
            t, now = at_place
            gates(t, now, i)
            before, after = (row(j, self.kernel_size - 1, now) for j in (i, i + 1))
            for at, _ in _blocks(c):
                (y,) = _times(lambda start, size: gated[:, pl.ds(i * gate + start, size)], gate, w.residuals, (at,), i)
                y = queues[before, :, at] + y + w.residuals.bias[i, at][None]
                queues[after, :, at] = y * self.residual_scale
            stored()
            return at_place

        def closing(left: Any, width: int, product: Product, right: Any, scale: float, relu: bool) -> None:
            for at, _ in _blocks(right.shape[1]):
                (y,) = _times(lambda start, size: left[:, pl.ds(start, size)], width, product, (at,))
                y = (y + product.bias[at][None]) * scale
                right[:, at] = jnp.maximum(y, 0.0) if relu else y
            stored()

        def one(t: Any, _: Any) -> Any:
            now = place[0] + t
            read(t, now)
            lax.fori_loop(0, layers - 1, layer, (t, now))
            gates(t, now, layers - 1)
            closing(gated, gate, w.skip, summed, self.skip_scale, True)
            closing(summed, summed.shape[1], w.last[0], hidden, 1.0, True)
            closing(hidden, hidden.shape[1], w.last[1], params, 1.0, False)
            values[t + self.reads] = self._drawn(params, noise, t)
            stored()
            return _

        lax.fori_loop(0, n, one, 0)

    def _drawn(self, params: Any, noise: Any, t: Any) -> jax.Array:
        """`Output.sample` [TILE] of params [TILE, O] and of noise [n, TILE, D] (see `_noise`) at t, both in memory."""
        k = self._components
        if self.output.kind == "gaussian":
            mean = params[:, 0]
            mean = mean if noise is None else mean + jnp.exp(params[:, 1]) * noise[t, :, 0]
            return jnp.clip(mean, -1.0, 1.0)
        logits = params[:, pl.ds(0, k)]
        if self.output.kind == "softmax":
            if noise is None:
                return jnp.argmax(logits, axis=1).astype(jnp.int32)
            weights = jnp.exp(logits - jnp.max(logits, axis=1)[:, None])
            below = jnp.cumsum(weights / jnp.sum(weights, axis=1)[:, None], axis=1) <= noise[t, :, 0][:, None]
            return jnp.minimum(jnp.sum(below.astype(jnp.int32), axis=1), self.output.num_classes - 1)
        logits = logits if noise is None else logits + noise[t, :, pl.ds(0, k)]
        chosen = lax.broadcasted_iota(jnp.int32, (TILE, k), 1) == jnp.argmax(logits, axis=1)[:, None]
        mean, log_scale = (jnp.sum(jnp.where(chosen, params[:, pl.ds(i * k, k)], 0.0), axis=1) for i in (1, 2))
        mean = mean if noise is None else mean + jnp.exp(log_scale) * noise[t, :, k]
        return jnp.clip(mean, -1.0, 1.0)


def _times(left: Any, width: int, product: Product, columns: tuple[Any, ...], *layer: Any) -> list[jax.Array]:
    """The columns' blocks of left [TILE, I] @ values [I, O] * scale, in blocks of rows, of which `width` is a multiple.

    left: first row, number of rows -> the left side's block [TILE, rows].
    """
    size = _block(width, BLOCK[0])
    dtype = jnp.float32 if product.values.dtype == jnp.float32 else jnp.bfloat16

    def add(i: Any, sums: list[jax.Array]) -> list[jax.Array]:
        x, rows = left(i * size, size).astype(dtype), pl.ds(i * size, size)
        blocks = (product.values[(*layer, rows, at)].astype(dtype) for at in columns)
        return [total + jnp.dot(x, block, preferred_element_type=jnp.float32) for total, block in zip(sums, blocks)]

    sums = [jnp.zeros((TILE, at.size)) for at in columns]
    sums = lax.fori_loop(0, product.values.shape[-2] // size, add, sums)
    return [total * product.scale[(*layer, at)][None] for total, at in zip(sums, columns)]


def _product(kernel: Any, rows: Axis, columns: Axis, bias: jax.Array | None = None) -> Product:
    values, scale = kernel if isinstance(kernel, Reduced) else (kernel, jnp.ones(kernel.shape[1]))
    values = _padded(_padded(values, 0, rows), 1, columns)
    return Product(values, _padded(scale, 0, columns), None if bias is None else _padded(bias, 0, columns))


def _padded(x: jax.Array, axis: int, parts: Axis, kept: int = 0) -> jax.Array:
    """Each of `parts[0]` parts of this axis from parts[1] to parts[2] with zeros; the last `kept` stay behind them."""
    count, size, wide = parts
    x, rest = jnp.split(x, [count * size], axis=axis)
    shape = x.shape
    x = x.reshape(*shape[:axis], count, size, *shape[axis + 1 :])
    x = jnp.pad(x, [(0, wide - size if i == axis + 1 else 0) for i in range(x.ndim)])
    x = x.reshape(*shape[:axis], count * wide, *shape[axis + 1 :])
    return jnp.concatenate([x, rest], axis=axis) if kept else x


def _up(size: int) -> int:
    return size + -size % WIDTH


def _block(size: int, most: int) -> int:
    """The largest power of two that divides `size`, at most `most`."""
    return min(size & -size, most)


def _blocks(size: int) -> list[tuple[Any, int]]:
    """Slices of `size` columns, and their widths."""
    width = _block(size, BLOCK[1])
    return [(pl.ds(start, width), width) for start in range(0, size, width)]


def _first(rank: int, program: Any) -> tuple[Any, ...]:
    """The block of a program along the first axis."""
    return program, *[0] * (rank - 1)
