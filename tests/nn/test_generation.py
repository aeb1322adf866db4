"""Folding, and the loop over samples, against loops written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.nn import generation
from jaxtts.nn.generation import Fold, generate, segment_seeds


def folded_by_hand(x, fold):
    """[N, F] -> [count, L, F], as the reference's docstring has it."""
    step, length = fold.target + fold.overlap, fold.target + 2 * fold.overlap
    parts, start = [], 0
    while True:
        part = x[start : start + length]
        parts.append(np.pad(part, ((0, length - len(part)), (0, 0))))
        if start + length >= len(x):
            return np.stack(parts)
        start += step


def joined_by_hand(parts, fold, ends):
    silent = fold.overlap // 2
    t = np.linspace(-1, 1, fold.overlap - silent)
    step = fold.target + fold.overlap
    out = np.zeros(len(parts) * step + fold.overlap)
    for i, part in enumerate(np.array(parts, np.float64)):
        if i or ends:
            part[:silent] = 0
            part[silent : fold.overlap] *= np.sqrt((1 + t) / 2)
        if i + 1 < len(parts) or ends:
            part[-fold.overlap + silent :] *= np.sqrt((1 - t) / 2)
        out[i * step : i * step + len(part)] += part
    return out


@pytest.mark.parametrize("length", [3, 10, 27, 28, 44, 45, 46, 100])
@pytest.mark.parametrize("fold", [Fold(11, 6), Fold(10, 7), Fold(2, 8)])
def test_folding_is_the_references(length, fold):
    rng = np.random.default_rng(length)
    x = rng.standard_normal((2, length, 3)).astype(np.float32)
    want = [folded_by_hand(row, fold) for row in x]
    assert fold.count(length) == len(want[0])
    np.testing.assert_array_equal(fold.split(jnp.asarray(x)), np.concatenate(want))
    waves = rng.standard_normal((2 * len(want[0]), fold.target + 2 * fold.overlap)).astype(np.float32)
    for ends in (False, True):
        joined = fold.join(jnp.asarray(waves), 2, fade_ends=ends)
        for row, parts in zip(joined, np.split(waves, 2)):
            np.testing.assert_allclose(row, joined_by_hand(parts, fold, ends), atol=1e-6)


def test_a_short_utterance_in_a_batch_is_joined_as_alone():
    fold, lengths = Fold(11, 6), np.array([90, 30, 5, 0])
    count, each = fold.count(90), fold.target + 2 * fold.overlap
    waves = np.random.default_rng(0).standard_normal((4, count, each)).astype(np.float32)
    there = fold.there(jnp.asarray(lengths), count)
    assert there.sum(axis=1).tolist() == [fold.count(90), fold.count(30), 1, 0]
    waves[~np.asarray(there)] = np.nan
    joined = fold.join(jnp.asarray(waves.reshape(-1, each)), 4, jnp.asarray(lengths))
    assert not joined[3].any()
    for row, length in enumerate(lengths[:3]):
        alone = fold.join(jnp.asarray(waves[row, : fold.count(int(length))]), 1)
        np.testing.assert_allclose(joined[row, :length], alone[0, :length], atol=1e-6)


def test_segments_have_seeds_of_their_own():
    seeds = segment_seeds(jnp.array([1, 2], jnp.uint32), 5).reshape(2, 5)
    assert len(np.unique(seeds)) == 10
    np.testing.assert_array_equal(segment_seeds(jnp.array([2], jnp.uint32), 3), seeds[1, :3])
    assert segment_seeds(None, 3) is None


@pytest.mark.parametrize("chunk", [1, 4, 2**20])
@pytest.mark.parametrize("length", [1, 7, 8, 13])
def test_the_loop_is_a_loop(monkeypatch, chunk, length):
    monkeypatch.setattr(generation, "CHUNK_BYTES", 4 * 2 * 3 * chunk)  # of two rows, three numbers each
    rng = np.random.default_rng(0)
    cond = rng.standard_normal((2, length, 4)).astype(np.float32)
    table = rng.standard_normal((4, 3)).astype(np.float32)
    seen = []

    def step(carry, before, prepared):
        carry = 0.5 * carry + prepared.sum(-1) + before
        return carry, jnp.stack([carry, prepared[:, 0]], axis=-1)

    def prepare(part):
        seen.append(part.shape[0])
        return part @ table

    made = jax.jit(
        lambda cond: generate(
            step,
            lambda params, place: jnp.tanh(params[:, 0]) + 0.1 * place,
            jnp.zeros(2),
            jnp.ones(2),
            cond,
            prepare=prepare,
            width=3,
        )
    )(cond)
    carry, before, want = np.zeros(2), np.ones(2), []
    for n in range(length):
        carry = 0.5 * carry + (cond[:, n] @ table).sum(-1) + before
        before = np.tanh(carry) + 0.1 * n
        want.append(before)
    np.testing.assert_allclose(made, np.stack(want, axis=1), atol=1e-4)
    assert max(seen) <= chunk
