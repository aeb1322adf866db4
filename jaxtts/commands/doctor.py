"""`jaxtts doctor`: what this machine offers, and whether it works."""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version

HELP = """Show versions, devices, the cache folder and the embedded voices, and run a real convolution on each device,
compared with NumPy. Paste the output into a bug report."""
EXAMPLES = """\
  jaxtts doctor"""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "soundfile", "gruut", "phonemizer-fork")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Prints the report.

    Raises:
        ValueError: a device computes a wrong convolution.
    """
    import jax

    from jaxtts import __version__, voices
    from jaxtts.synth.executables import cache_folder

    print(f"jaxtts     {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"packages   {', '.join(f'{name} {_version(name)}' for name in _PACKAGES)}")
    print(f"processor  {platform.machine()}, {os.cpu_count()} cores")
    print(f"backend    {jax.default_backend()}, {jax.device_count()} device(s), {jax.process_count()} process(es)")
    for device in jax.local_devices():
        error, seconds = convolve(device)
        print(f"device     {device.id} {device.device_kind}: convolution off by {error:.1e}, {1e3 * seconds:.2f} ms")
        if error > 1e-2:
            raise ValueError(f"device {device.id} computes wrong convolutions (off by {error:.1e}): check its driver")
    folder = cache_folder()
    kept = sorted(folder.glob("*.xla")) if folder else []
    size = sum(p.stat().st_size for p in kept)
    print(f"cache      {folder or 'off'}, {len(kept)} compiled functions, {size / 1e6:.1f} MB")
    print(f"voices     {', '.join(voices.folders()) or 'none embedded'}")
    sys.stdout.flush()


def convolve(device) -> tuple[float, float]:
    """Largest error of a 1-D convolution relative to the largest value, and its time in seconds once compiled."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((64, 16), np.float32), rng.standard_normal((7, 16, 32), np.float32)
    expected = sum(x[w : w + 58] @ kernel[w] for w in range(7))  # [T - 6, O]

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x[None], kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))[0]

    compiled, arrays = jax.jit(conv), jax.device_put((x, kernel), device)
    found = np.asarray(compiled(*arrays))
    start = time.perf_counter()
    compiled(*arrays).block_until_ready()
    return float(np.abs(found - expected).max() / np.abs(expected).max()), time.perf_counter() - start


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(absent)"
