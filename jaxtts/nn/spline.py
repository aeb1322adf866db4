"""Monotonic rational-quadratic splines with linear tails (Neural Spline Flows, arXiv 1906.04032, equations 4-8).

Matches `transforms.py` of jaywalnut310/vits, which is that of bayesiains/nflows. Differences: bins are chosen by
comparisons in place of gathers, what lies in the tails is never computed with, and sums of differences are arranged as
sums of positive terms: the inverse's discriminant, which rounding can make negative in the reference (an assertion
stops it there), is a sum of squares here.
"""

import math

import jax
import jax.numpy as jnp

MIN_SIZE = 1e-3  # of a bin's width and height, as parts of the whole
MIN_SLOPE = 1e-3


def rational_quadratic_spline(
    x: jax.Array, widths: jax.Array, heights: jax.Array, slopes: jax.Array, *, bound: float, inverse: bool = False
) -> tuple[jax.Array, jax.Array]:
    """A strictly growing map of [-bound, bound] onto itself, element by element; the identity outside.

    Args:
        x: [...].
        widths, heights: [..., K], before the softmax that makes them the bins' sizes.
        slopes: [..., K - 1], before the softplus that makes them the derivatives between bins; it is 1 at both ends.
        inverse: the map back.

    Returns:
        y [...] and log|dy/dx| [...], float32.
    """
    x, widths, heights, slopes = (a.astype(jnp.float32) for a in (x, widths, heights, slopes))
    inside = (x >= -bound) & (x <= bound)
    value = jnp.where(inside, x, 0.0)
    left, width = _bins(widths, bound)
    bottom, height = _bins(heights, bound)
    end = math.log(math.expm1(1 - MIN_SLOPE))
    slopes = MIN_SLOPE + jax.nn.softplus(jnp.pad(slopes, [(0, 0)] * (slopes.ndim - 1) + [(1, 1)], constant_values=end))

    edges = bottom if inverse else left
    above = value[..., None] >= edges[..., 1:]
    chosen = jnp.concatenate([jnp.ones_like(above[..., :1]), above], -1) & ~jnp.pad(above, _last(above))
    left, width, bottom, height, slope, next_slope = (
        jnp.sum(jnp.where(chosen, a, 0.0), axis=-1)
        for a in (left, width, bottom, height, slopes[..., :-1], slopes[..., 1:])
    )
    delta = height / width
    if inverse:  # equations 6-8, rearranged so that nothing cancels
        rise = value - bottom
        below, above = rise / height, (height - rise) / height
        lean = slope * above - next_slope * below
        root = jnp.sqrt(lean**2 + 4 * delta**2 * below * above)
        steep = lean >= 0
        rest = jnp.where(steep, lean + root, 4 * delta**2 * below * above / jnp.where(steep, 1.0, root - lean))
        theta = 2 * delta * below / (2 * delta * below + rest)
    else:
        theta = (value - left) / width
    mixed = theta * (1 - theta)
    denominator = delta * (theta**2 + (1 - theta) ** 2) + (slope + next_slope) * mixed
    y = theta * width + left if inverse else bottom + height * (delta * theta**2 + slope * mixed) / denominator
    growth = delta**2 * (next_slope * theta**2 + 2 * delta * mixed + slope * (1 - theta) ** 2)
    log_det = jnp.log(growth) - 2 * jnp.log(denominator)
    return jnp.where(inside, y, x), jnp.where(inside, -log_det if inverse else log_det, 0.0)


def _bins(sizes: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """[..., K] -> the bins' first edges and sizes [..., K]; together they reach from -bound to bound."""
    parts = MIN_SIZE + (1 - MIN_SIZE * sizes.shape[-1]) * jax.nn.softmax(sizes, axis=-1)
    ends = 2 * bound * jnp.cumsum(parts, axis=-1)[..., :-1] - bound
    pad = [(0, 0)] * (sizes.ndim - 1)
    first = jnp.pad(ends, [*pad, (1, 0)], constant_values=-bound)
    return first, jnp.pad(ends, [*pad, (0, 1)], constant_values=bound) - first


def _last(x: jax.Array) -> list[tuple[int, int]]:
    return [(0, 0)] * (x.ndim - 1) + [(0, 1)]
