"""Weights in and out: `.safetensors`, PyTorch checkpoints, our own folders, and loud matching of names."""

import os

import numpy as np


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a file, whose format is told by its content.

    Args:
        path: `.safetensors`, or a PyTorch checkpoint in zip or legacy format (nothing in it is executed).

    Returns:
        Name -> array, as the file names them; of a PyTorch checkpoint see `torch_file.weights_of`.

    Raises:
        ValueError: the file is of neither format, damaged or truncated; the message names it.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] == b"{" or os.fspath(path).endswith(".safetensors"):  # JSON behind eight bytes of length
        from jaxtts.weights.safetensors import read_safetensors

        return read_safetensors(path)
    from jaxtts.weights.torch_file import read_torch, weights_of

    checkpoint = read_torch(path)
    try:
        return weights_of(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
