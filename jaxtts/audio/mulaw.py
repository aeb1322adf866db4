"""mu-law companding (ITU-T G.711's curve; van den Oord et al. 2016, arXiv 1609.03499, section 2.2).

f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = num_classes - 1. Classes are rounded to the nearest, as in
fatchord/WaveRNN (`encode_mu_law`); r9y9/wavenet_vocoder truncates instead, which moves a class by at most one.
All functions take NumPy and JAX arrays and return the same kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _xp(x: Any) -> Any:
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def compress(x: Any, mu: float = 255.0) -> Any:
    """Samples in [-1, 1] to companded values in [-1, 1], the same shape."""
    xp = _xp(x)
    return xp.sign(x) * xp.log1p(mu * xp.abs(x)) / np.log1p(np.float32(mu))


def expand(y: Any, mu: float = 255.0) -> Any:
    """The inverse of `compress`."""
    xp = _xp(y)
    return xp.sign(y) * xp.expm1(xp.abs(y) * np.log1p(np.float32(mu))) / mu


def quantize(x: Any, num_classes: int = 256) -> Any:
    """Values in [-1, 1] to the nearest of `num_classes` evenly spaced levels, int32; values outside are clipped."""
    xp = _xp(x)
    return xp.floor((xp.clip(x, -1.0, 1.0) + 1.0) / 2.0 * (num_classes - 1) + 0.5).astype(np.int32)


def dequantize(labels: Any, num_classes: int = 256) -> Any:
    """Classes to levels in [-1, 1], float32: the inverse of `quantize`."""
    return 2.0 * labels.astype(np.float32) / (num_classes - 1) - 1.0


def encode(x: Any, num_classes: int = 256) -> Any:
    """Samples in [-1, 1] to mu-law classes, int32, the same shape; samples outside are clipped."""
    return quantize(compress(_xp(x).clip(x, -1.0, 1.0), num_classes - 1.0), num_classes)


def decode(labels: Any, num_classes: int = 256) -> Any:
    """mu-law classes to samples in [-1, 1], float32."""
    return expand(dequantize(labels, num_classes), num_classes - 1.0)
