"""Reading and writing `.safetensors` files with numpy alone.

The format is eight bytes of header length, a JSON header and one block of data, so it is spoken here directly. The
package `safetensors` (0.8.0) was tried instead: light, but its numpy writer stores the memory of a transposed array as
it lies, which are wrong values without a word, and its messages name neither the file nor the mend; wrapping it takes
about as many lines. Files are read through a memory map: nothing is copied until used, and the arrays are read-only.
"""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_CODES = {name: code for code, name in _DTYPES.items()}
_MAX_HEADER = 100_000_000


def dtype_named(name: str) -> np.dtype:
    """The numpy dtype of that name, bfloat16 and float8 (of ml_dtypes, which comes with jax) included."""
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` only when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _open(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str], np.ndarray]:
    """Tensor entries of the header, metadata, and the data as bytes [n] uint8."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f"{path}: not a safetensors file: {size} bytes are too few for a header; fetch it again")
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"{path}: truncated or not a safetensors file: its header should take {length} bytes, "
                             f"the file has {size - 8}; fetch it again")  # fmt: skip
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a safetensors file: its header is not JSON ({error})") from None
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)[8 + length :]
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a safetensors file: its header is not an object")
    metadata = header.pop("__metadata__", {})
    return header, metadata if isinstance(metadata, dict) else {}, data


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The free-text metadata of a safetensors file, {} where it has none."""
    return _open(path)[1]


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads every tensor of a safetensors file.

    Args:
        path: the file.

    Returns:
        Name -> read-only array over the mapped file, in the order of the data.

    Raises:
        ValueError: the file is truncated, damaged or holds a type that numpy lacks; the message names the file.
    """
    header, _, data = _open(path)
    spans = []
    for name, entry in header.items():
        try:
            code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, start, stop]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{path}: damaged: the header entry of tensor {name!r} is incomplete") from None
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{path}: damaged: tensor {name!r} has shape {shape} and offsets {[start, stop]}")
        if not isinstance(code, str) or code not in _DTYPES:
            raise ValueError(f"{path}: tensor {name!r} has type {code!r}; known are {', '.join(_DTYPES)}")
        dtype = dtype_named(_DTYPES[code])
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path}: damaged: tensor {name!r} of shape {shape} and type {code} takes "
                             f"{math.prod(shape) * dtype.itemsize} bytes, its offsets span {stop - start}")  # fmt: skip
        spans.append((start, stop, name, dtype, shape))
    tensors, end = {}, 0
    for start, stop, name, dtype, shape in sorted(spans, key=lambda span: span[:2]):
        if start != end:
            raise ValueError(f"{path}: damaged: tensor {name!r} starts at byte {start}, the one before ends at {end}")
        if stop > len(data):
            raise ValueError(f"{path}: truncated: tensor {name!r} ends at byte {stop} of the data, the file holds "
                             f"{len(data)}; fetch it again")  # fmt: skip
        tensors[name], end = data[start:stop].view(dtype).reshape(shape), stop
    if end != len(data):
        raise ValueError(f"{path}: damaged: {len(data) - end} bytes at its end belong to no tensor")
    return tensors


def save_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays to a safetensors file, under a temporary name that is renamed at the end.

    Args:
        path: the file to write or replace.
        tensors: name -> array of any strides and byte order; jax arrays are fetched.
        metadata: free text to keep in the header.

    Raises:
        ValueError: an array has a type that the format lacks.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays, end = [], 0
    # Wide types first, as the reference writer does, so that every array lies aligned.
    for name, value in sorted(tensors.items(), key=lambda item: (-np.dtype(item[1].dtype).itemsize, item[0])):
        array = np.asarray(value, order="C")
        if array.dtype.name not in _CODES:
            raise ValueError(f"tensor {name!r} has dtype {array.dtype}, which safetensors cannot store")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}  # fmt: skip
        end += array.nbytes
        arrays.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.tobytes())
