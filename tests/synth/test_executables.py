"""Compiled functions on disk: found again, private, and never trusted when damaged."""

import logging
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.synth import executables


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build():
    return lambda x, y: (jnp.tanh(x), x.sum() + y.sum())


ARGS = [np.diag(np.arange(1.0, 4.0, dtype=np.float32)), np.ones(2, np.float32)]


def call(fingerprint="f"):
    run = executables.get("test", fingerprint, build, ARGS)
    return [np.asarray(x) for x in run(jax.device_put(ARGS, jax.devices()[0]))]


def test_results_are_the_same_from_disk(folder, caplog):
    with caplog.at_level(logging.INFO, "jaxtts.synth.executables"):
        first, second = call(), call()
    assert caplog.text.count("compiling") == 1
    np.testing.assert_allclose(first[0], np.tanh(ARGS[0]), atol=1e-6)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_the_key_covers_what_decides_the_code(folder):
    call("f"), call("g"), call("f")
    executables.get("test", "f", build, [np.eye(4, dtype=np.float32), ARGS[1]])
    assert len(list(folder.glob("*.xla"))) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "empty"])
def test_a_damaged_file_is_compiled_again(folder, caplog, damage):
    expected = call()
    (path,) = folder.glob("*.xla")
    content = path.read_bytes()
    flipped = bytes([*content[:200], content[200] ^ 1, *content[201:]])
    path.write_bytes({"cut": content[:-9], "flip": flipped, "foreign": b"cos\nsystem\n", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = call()
    assert "damaged; compiling again" in caplog.text
    np.testing.assert_array_equal(expected[0], found[0])
    assert path.read_bytes()[:20] == content[:20] and len(path.read_bytes()) > len(content) // 2


def test_the_folder_is_private_and_ours(folder, caplog):
    call()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert executables.cache_folder() is None
    assert "writable by others" in caplog.text


def test_the_cache_can_be_off_or_impossible(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXTTS_CACHE", "off")
    assert executables.cache_folder() is None
    assert call()[1] == 8.0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXTTS_CACHE", str(tmp_path / "file" / "below"))
    assert executables.cache_folder() is None
    monkeypatch.delenv("JAXTTS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert executables.cache_folder() == tmp_path / "jaxtts"


def test_an_executable_that_does_not_run_is_compiled_again(folder, caplog, monkeypatch):
    expected = call()
    execute, failures = executables._execute, [RuntimeError("Function wrapped_iota not found")]
    monkeypatch.setattr(
        executables, "_execute", lambda *a: (_ for _ in ()).throw(failures.pop()) if failures else execute(*a)
    )
    with caplog.at_level(logging.WARNING):
        found = call()
    assert "does not run" in caplog.text
    np.testing.assert_array_equal(expected[0], found[0])


def test_what_we_keep_stays_out_of_jax_own_cache(folder, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    try:
        call("apart")
        jax.clear_caches()
        (kept,) = folder.glob("*.xla")
        kept.unlink()
        call("apart")
        run = executables.get("test", "apart", build, ARGS)  # from disk
        assert np.asarray(run(jax.device_put(ARGS, jax.devices()[0]))[1]) == 8.0
    finally:
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.mark.parametrize("damage", ["", "{", '["x"]', "3"])
def test_numbers_are_recalled(folder, damage):
    calls = []

    def compute():
        calls.append(1)
        return [7, len(calls)]

    assert executables.recall("f", compute) == executables.recall("f", compute) == [7, 1]
    assert executables.recall("g", compute) == [7, 2]
    for path in folder.glob("*.json"):
        path.write_text(damage)
    assert executables.recall("f", compute) == [7, 3] == executables.recall("f", compute)
