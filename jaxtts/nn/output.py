"""The distribution of a wave's next sample, as a network that makes one sample at a time puts it out.

Three kinds: a softmax over classes (arXiv 1609.03499 sec. 2.2), a mixture of discretised logistics (arXiv 1701.05517
sec. 2.1, as r9y9/wavenet_vocoder and fatchord/WaveRNN have it), a single Gaussian (arXiv 1807.07281 sec. 3.1).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio import mulaw
from jaxtts.nn.functional import seeded_bits

EDGE = 0.999  # from here on the outermost class has all of the tail


@dataclass(frozen=True)
class Output:
    """What a sample is drawn from.

    Attributes:
        kind: 'softmax', 'logistic' or 'gaussian'.
        num_classes: levels of a sample; 'gaussian' has none.
        mu_law: levels are spaced by the mu-law curve, not evenly ('softmax').
        num_mixtures: components ('logistic').
        log_scale_min: below which the likelihood takes no logarithm of a scale.
    """

    kind: str = "softmax"
    num_classes: int = 256
    mu_law: bool = True
    num_mixtures: int = 10
    log_scale_min: float = -7.0

    def __post_init__(self):
        if self.kind not in ("softmax", "logistic", "gaussian"):
            raise ValueError(f"kind={self.kind!r}: use 'softmax', 'logistic' or 'gaussian'")
        if self.num_classes < 2 or self.num_mixtures < 1:
            raise ValueError(f"num_classes={self.num_classes}, num_mixtures={self.num_mixtures}: at least 2 and 1")

    @property
    def width(self) -> int:
        """Numbers that the network puts out for one sample."""
        return {"softmax": self.num_classes, "logistic": 3 * self.num_mixtures, "gaussian": 2}[self.kind]

    @property
    def num_draws(self) -> int:
        """Uniform numbers that `sample` takes."""
        return self.num_mixtures + 1 if self.kind == "logistic" else 1

    def encode(self, wave: jax.Array) -> jax.Array:
        """Wave in [-1, 1] -> what `sample` gives and `nll` compares with: classes, int32, or the wave itself."""
        if self.kind != "softmax":
            return jnp.clip(wave, -1.0, 1.0)
        return (mulaw.encode if self.mu_law else mulaw.quantize)(wave, self.num_classes)

    def decode(self, value: jax.Array) -> jax.Array:
        """The inverse of `encode`."""
        if self.kind != "softmax":
            return value
        return (mulaw.decode if self.mu_law else mulaw.dequantize)(value, self.num_classes)

    def nll(self, params: jax.Array, value: jax.Array) -> jax.Array:
        """Negative log-likelihood in nats: params [..., width], value [...] -> [...], float32."""
        params = params.astype(jnp.float32)
        if self.kind == "softmax":
            return -jnp.take_along_axis(jax.nn.log_softmax(params), value[..., None], axis=-1)[..., 0]
        if self.kind == "logistic":
            return self._logistic_nll(params, value[..., None])
        return -self.log_density(params, value)

    def log_density(self, params: jax.Array, value: jax.Array) -> jax.Array:
        """In nats, of samples that no level binds and that may lie beyond 1: params [..., width], value [...] -> [...].

        Raises:
            ValueError: a softmax has none.
        """
        params = params.astype(jnp.float32)
        if self.kind == "gaussian":
            mean, log_scale = params[..., 0], jnp.maximum(params[..., 1], self.log_scale_min)
            return -0.5 * np.log(2 * np.pi) - log_scale - 0.5 * ((value - mean) * jnp.exp(-log_scale)) ** 2
        if self.kind == "softmax":
            raise ValueError("kind='softmax' has levels and no density: use 'logistic' or 'gaussian'")
        logits, mean, log_scale = jnp.split(params, 3, axis=-1)  # [..., K]
        log_scale = jnp.maximum(log_scale, self.log_scale_min)
        away = (value[..., None] - mean) * jnp.exp(-log_scale)
        each = away - log_scale - 2 * jax.nn.softplus(away)
        return jax.nn.logsumexp(each + jax.nn.log_softmax(logits), axis=-1)

    def _logistic_nll(self, params: jax.Array, value: jax.Array) -> jax.Array:
        """Of a class: the difference of two sigmoids, as a product that does not cancel; where it is below 1e-5 the
        density times the class's width, as the references have it."""
        logits, mean, log_scale = jnp.split(params, 3, axis=-1)  # [..., K]
        log_scale = jnp.maximum(log_scale, self.log_scale_min)
        half = 1.0 / (self.num_classes - 1)
        away, narrow = (value - mean) * jnp.exp(-log_scale), half * jnp.exp(-log_scale)
        upper, lower = away + narrow, away - narrow
        inside = jnp.log(-jnp.expm1(-2 * narrow)) - jax.nn.softplus(-upper) - jax.nn.softplus(lower)
        density = away - log_scale - 2 * jax.nn.softplus(away) + np.log(2 * half)
        each = jnp.where(inside > np.log(1e-5), inside, density)
        each = jnp.where(value > EDGE, -jax.nn.softplus(lower), each)
        each = jnp.where(value < -EDGE, -jax.nn.softplus(-upper), each)
        return -jax.nn.logsumexp(each + jax.nn.log_softmax(logits), axis=-1)

    def sample(self, params: jax.Array, uniforms: jax.Array | None) -> jax.Array:
        """A draw: params [B, width], uniforms in (0, 1) [B, num_draws] -> classes or samples [B].

        Without uniforms the likeliest: a class, the mean of the likeliest component, the mean.
        """
        params = params.astype(jnp.float32)
        noise = None if uniforms is None else self.noise(uniforms)
        if self.kind == "softmax":
            if noise is None:
                return jnp.argmax(params, axis=-1).astype(jnp.int32)
            return _inverse_cdf(jax.nn.softmax(params), noise)
        if self.kind == "gaussian":
            mean, log_scale = params[:, 0], params[:, 1]
            noise = 0.0 if noise is None else noise[:, 0]
            return jnp.clip(mean + jnp.exp(log_scale) * noise, -1.0, 1.0)
        logits, mean, log_scale = jnp.split(params, 3, axis=-1)  # [B, K]
        if noise is not None:
            logits = logits + noise[:, :-1]  # Gumbel's choice
        chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), self.num_mixtures)
        mean, log_scale = (jnp.sum(chosen * x, axis=-1) for x in (mean, log_scale))
        if noise is not None:
            mean = mean + jnp.exp(log_scale) * noise[:, -1]
        return jnp.clip(mean, -1.0, 1.0)

    def noise(self, uniforms: jax.Array) -> jax.Array:
        """What `sample` makes of uniforms [..., num_draws] alone, of the same shape.

        'gaussian': standard normal; 'logistic': Gumbel's for each component, then standard logistic; else themselves.
        """
        if self.kind == "softmax":
            return uniforms
        if self.kind == "gaussian":
            return jax.scipy.special.ndtri(uniforms)
        u = uniforms[..., -1:]
        return jnp.concatenate([-jnp.log(-jnp.log(uniforms[..., :-1])), jnp.log(u) - jnp.log1p(-u)], axis=-1)

    def draws(self, seeds: jax.Array | None, place: jax.Array | int) -> jax.Array | None:
        """Uniforms [B, num_draws] in [1e-5, 1 - 1e-5] for the sample at `place`, a hash of it and of each item's seed.

        So they depend neither on the batch nor on how long the loop is. seeds: uint32 [B]; None gives None.
        """
        if seeds is None:
            return None
        bits = seeded_bits(seeds, place, self.num_draws) >> 8
        return 1e-5 + (1 - 2e-5) * (bits.astype(jnp.float32) * 2.0**-24)


def _inverse_cdf(probabilities: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Number of classes whose cumulative probability is not above the uniform: [B, K], [B, 1] -> int32 [B].

    Sums run within rows of a square and over the rows, as two small products: XLA's cumulative sum is a loop.
    """
    batch, classes = probabilities.shape
    side = int(np.ceil(np.sqrt(classes)))
    square = jnp.pad(probabilities, ((0, 0), (0, side * side - classes))).reshape(batch, side, side)
    upper = jnp.triu(jnp.ones((side, side)))
    within = jnp.einsum("brc,cd->brd", square, upper, precision=jax.lax.Precision.HIGHEST)
    before = jnp.einsum("br,rs->bs", within[..., -1], upper, precision=jax.lax.Precision.HIGHEST) - within[..., -1]
    below = (within + before[..., None]).reshape(batch, -1)[:, :classes] <= uniforms
    return jnp.minimum(jnp.sum(below, axis=-1), classes - 1).astype(jnp.int32)
