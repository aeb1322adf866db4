"""The alignment search against brute force, a plain NumPy version and recorded paths of the reference."""

import re
from itertools import combinations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtts.nn.alignment import expand, monotonic_alignment_search, path_from_durations

CASES = np.load(Path(__file__).parents[1] / "golden/glow_tts/cases.npz")
search = jax.jit(monotonic_alignment_search)


def plain_search(value, symbols, frames):
    """value [S, T] -> durations [S], frame by frame and cell by cell; on ties a frame stays on its symbol."""
    q = np.full((symbols, frames), -np.inf, np.float32)
    for t in range(frames):
        for s in range(min(symbols, t + 1)):
            before = [q[s, t - 1], q[s - 1, t - 1] if s else -np.inf] if t else [0.0]
            q[s, t] = max(before) + value[s, t]
    durations, s = np.zeros(symbols, int), symbols - 1
    for t in reversed(range(frames)):
        durations[s] += 1
        if s and (s == t or q[s, t - 1] < q[s - 1, t - 1]):
            s -= 1
    return durations


@pytest.mark.parametrize("name", ["search", "search_ties"])
def test_same_path_as_the_reference(name):
    value, x, y = (jnp.asarray(CASES[f"{name}/in.{k}"]) for k in ("value", "x_lengths", "y_lengths"))
    path = path_from_durations(search(value.transpose(2, 0, 1), x, y), value.shape[2])
    np.testing.assert_array_equal(path.swapaxes(1, 2), CASES[f"{name}/out.path"])


@pytest.mark.parametrize("ties", [False, True])
def test_same_durations_as_the_plain_search(ties):
    rng = np.random.default_rng(3)
    value = rng.integers(-2, 1, (30, 6, 17)) if ties else rng.standard_normal((30, 6, 17))
    value = value.astype(np.float32)
    x, y = rng.integers(1, 7, 30), rng.integers(6, 18, 30)
    found = np.asarray(search(value.transpose(2, 0, 1), x, y))
    for item, (symbols, frames) in enumerate(zip(x, y, strict=True)):
        np.testing.assert_array_equal(found[item, :symbols], plain_search(value[item], symbols, frames))
        assert not found[item, symbols:].any()


def test_no_alignment_scores_higher():
    rng = np.random.default_rng(4)
    value = rng.standard_normal((5, 4, 9)).astype(np.float32)
    found = np.asarray(search(value.transpose(2, 0, 1), np.full(5, 4), np.full(5, 9)))
    for item in range(5):
        scores = {}
        for cuts in combinations(range(1, 9), 3):
            durations = np.diff((0, *cuts, 9))
            scores[tuple(durations)] = value[item][np.repeat(np.arange(4), durations), np.arange(9)].sum()
        assert tuple(found[item]) == max(scores, key=scores.get)


def test_too_few_frames_give_the_last_symbols_one_each():
    found = search(np.zeros((4, 3, 6), np.float32), np.array([6, 2, 0]), np.array([4, 1, 3]))
    np.testing.assert_array_equal(found, [[0, 0, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0] * 6])


def test_expansion_repeats_rows_and_cuts_off():
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 3, 2)
    durations = np.array([[2, 0, 3]])
    for frames in (4, 7):
        want = np.zeros((frames, 2), np.float32)
        want[: min(frames, 5)] = np.repeat(x[0], durations[0], axis=0)[:frames]
        np.testing.assert_array_equal(expand(x, durations, frames)[0], want)
        np.testing.assert_array_equal(path_from_durations(durations, frames)[0] @ x[0], want)
    grad = jax.grad(lambda x: jnp.sum(expand(x, durations, 7)))(x)
    np.testing.assert_array_equal(grad[0, :, 0], durations[0])


def test_a_batch_cut_over_devices_sends_nothing():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))

    def shape(axes, spec, dtype):
        return jax.ShapeDtypeStruct(axes, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    arguments = shape((32, 8, 12), (None, "data"), jnp.float32), *[shape((8,), ("data",), jnp.int32)] * 2

    def search(log_p, text_lengths, mel_lengths):
        durations = monotonic_alignment_search(log_p, text_lengths, mel_lengths)
        return durations, expand(log_p[:12].transpose(1, 0, 2), durations, 32)

    program = jax.jit(search).lower(*arguments).compile().as_text()
    assert "while(" in program and not re.findall(r" (?:all-|collective-|reduce-scatter)", program)
