"""Compiled functions kept on disk, so that a new process neither traces nor compiles.

An entry is the machine code of one XLA executable behind a checksum. It is our own output, read back only from a
folder that belongs to the user and that nobody else can write to; no pickle is involved (which is why
`jax.experimental.serialize_executable` is not used: the trees of arguments and results are flat lists here). The key
covers everything that decides the machine code: shapes, configurations, our sources, the versions of jax and jaxlib,
the device and the processor's features. Whatever cannot be read is compiled again.

The folder is `$JAXTTS_CACHE`, else `jaxtts` in the platform's cache folder (`$XDG_CACHE_HOME`, `~/.cache`,
`~/Library/Caches`, `%LOCALAPPDATA%`); `JAXTTS_CACHE=off` keeps nothing on disk. JAX's own persistent compilation cache
is put there too, for everything that is compiled outside this module.
"""

import hashlib
import json
import logging
import os
import platform
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxlib import xla_client

log = logging.getLogger(__name__)
_MAGIC = b"jaxtts executable 1\n"
_SOURCES = ("audio", "models", "nn", "synth")

_ONE_AT_A_TIME = threading.Lock()

Run = Callable[[Sequence[Any]], list[jax.Array]]


def cache_folder() -> Path | None:
    """Where compiled functions are kept; made with mode 0700 if absent. None: keep nothing.

    A folder that is not ours, or that others may write to, is not used: whoever writes there could run code as us.
    """
    wish = os.environ.get("JAXTTS_CACHE", "")
    if wish.lower() in ("off", "0", "none"):
        return None
    folder = Path(wish).expanduser() if wish else _platform_folder() / "jaxtts"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
    except (OSError, RuntimeError) as error:
        log.warning("no cache: %s", error)
        return None
    if hasattr(os, "getuid") and (info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        log.warning("no cache: %s belongs to another user or is writable by others (chmod 700 mends that)", folder)
        return None
    return folder


def config_value(name: str) -> Any:
    """A setting of JAX, whose attributes no type checker knows."""
    return getattr(jax.config, name)


def use_persistent_cache() -> None:
    """Turns on JAX's persistent compilation cache in our folder, unless the user has set one."""
    if config_value("jax_compilation_cache_dir") is None and (folder := cache_folder()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))


def get(name: str, fingerprint: str, build: Callable[[], Callable[..., Sequence[Any]]], args: Sequence[Any]) -> Run:
    """The compiled form of a function of arrays: from disk, or compiled now and kept.

    Args:
        name: for the log, with the shapes.
        fingerprint: what the function depends on besides its arguments' shapes and our sources.
        build: makes the function f(*arrays) -> arrays; called only if it must be compiled.
        args: arrays or `jax.ShapeDtypeStruct`s, as many as f takes.

    Returns:
        run(arrays on the device) -> list of results.
    """
    device = jax.devices()[0]
    shapes = [(str(np.dtype(a.dtype)), tuple(a.shape)) for a in args]
    settings = [config_value("jax_default_matmul_precision"), config_value("jax_enable_x64")]
    key = hashlib.sha256(repr((fingerprint, shapes, settings, _environment(device))).encode()).hexdigest()[:40]
    folder = cache_folder()
    path = folder / f"{key}.xla" if folder else None
    kept = _read(path, device) if path else None

    def compiled() -> Run:
        log.info("compiling %s", name)
        with _apart_from_jax_cache():
            made = jax.jit(build(), keep_unused=True).lower(*args).compile()
        executable = made.runtime_executable()
        if executable is None or len(executable.get_parameter_layouts()) != len(shapes):
            return lambda arrays: list(made(*arrays))  # constants became parameters: only jax knows them
        if path:
            _write(path, executable)
        return lambda arrays: _execute(executable, arrays)

    if kept is None:
        return compiled()
    repaired: list[Run] = []

    def run(arrays: Sequence[Any]) -> list[jax.Array]:
        if not repaired:
            try:
                return _execute(kept, arrays)
            except RuntimeError as error:
                log.warning("%s does not run (%s); compiling again", path, error)
                repaired.append(compiled())
        return repaired[0](arrays)

    return run


def recall(fingerprint: str, compute: Callable[[], list[int]]) -> list[int]:
    """Numbers that depend on a fingerprint and our sources alone: from disk, or computed now and kept."""
    key = hashlib.sha256(repr((fingerprint, _environment(jax.devices()[0]))).encode()).hexdigest()[:40]
    folder = cache_folder()
    path = folder / f"{key}.json" if folder else None
    try:
        found = json.loads(path.read_bytes()) if path else None
        if isinstance(found, list) and all(isinstance(n, int) for n in found):
            return found
    except (OSError, ValueError, TypeError) as error:
        log.debug("%s: %s", path, error)
    numbers = compute()
    if path:
        _replace(path, json.dumps(numbers).encode())
    return numbers


def _execute(executable: Any, arrays: Sequence[Any]) -> list[jax.Array]:
    results = executable.execute_sharded(arrays).disassemble_into_single_device_arrays()
    return jax.block_until_ready([shards[0] for shards in results])


@contextmanager
def _apart_from_jax_cache() -> Iterator[None]:
    """Keeps what is compiled out of JAX's own cache: an executable read from there loses functions if it is serialised
    again (XLA:CPU, jaxlib 0.10.2: "Function wrapped_iota not found")."""
    option = "jax_persistent_cache_min_compile_time_secs"
    with _ONE_AT_A_TIME:
        before = getattr(jax.config, option)
        jax.config.update(option, float("inf"))
        try:
            yield
        finally:
            jax.config.update(option, before)


def _read(path: Path, device: Any) -> Any:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s (%s); compiling again", path, error)
        return None
    digest, payload = content[len(_MAGIC) : len(_MAGIC) + 32], content[len(_MAGIC) + 32 :]
    if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
        log.warning("%s is damaged; compiling again", path)
        return None
    try:
        return device.client.deserialize_executable(payload, executable_devices=xla_client.DeviceList((device,)))
    except (RuntimeError, ValueError, TypeError) as error:  # XLA's own errors derive from RuntimeError
        log.warning("%s does not load (%s); compiling again", path, error)
        return None


def _write(path: Path, executable: Any) -> None:
    try:
        payload = executable.client.serialize_executable(executable)
    except RuntimeError as error:  # a backend that cannot serialise costs speed only
        log.warning("not kept in the cache: %s", error)
        return
    _replace(path, _MAGIC + hashlib.sha256(payload).digest() + payload)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:  # a full disk costs speed only
        log.warning("not kept in the cache: %s", error)
        temporary.unlink(missing_ok=True)


@cache
def _environment(device: Any) -> str:
    """What else decides the machine code: versions, device, processor, flags, our sources."""
    root = Path(__file__).parents[1]
    files = sorted(p for room in _SOURCES for p in (root / room).rglob("*.py"))
    sources = [(str(p.relative_to(root)), (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    versions = [_version(p) for p in ("jax", "jaxlib", "flax")]
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "NPROC")]
    client = device.client
    hardware = [client.platform, client.platform_version, device.device_kind, platform.machine(), _processor()]
    return json.dumps([sources, versions, hardware, flags, cores()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an exported voice does without flax
        return ""


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        return platform.processor()


def _platform_folder() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    return Path.home() / ".cache"
