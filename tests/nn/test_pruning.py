"""Pruning in blocks, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtts.nn.pruning import Pruning, block_mask, init_masks, masked, prune


def test_the_schedule_is_cubic():
    pruning = Pruning(0.9, start=1000, length=200)
    steps = [0, 1000, 1050, 1100, 1200, 9999]
    want = [0, 0, 0.9 * (1 - 0.75**3), 0.9 * (1 - 0.5**3), 0.9, 0.9]
    np.testing.assert_allclose([pruning.target(t) for t in steps], want, rtol=1e-6)


def test_the_smallest_blocks_of_each_gate_go():
    kernel = jnp.array(
        [
            [9, 1, 2, -2, 0, 8],
            [9, 1, 2, -2, 0, -8],  # blocks of the first gate: 5, 2, 4
            [1, 1, 7, 7, 3, 3],
            [1, 1, 7, -7, -3, 3],  # of the second: 1, 7, 3
        ],
        jnp.float32,
    )
    for share, kept in ((0, [[1, 1, 1], [1, 1, 1]]), (0.34, [[1, 0, 1], [0, 1, 1]]), (0.67, [[1, 0, 0], [0, 1, 0]])):
        mask = block_mask(kernel, share, (2, 2), parts=2)
        np.testing.assert_array_equal(mask[:, 0], np.array(kept, bool))
        zero = np.repeat(np.repeat(np.array(kept, bool), 2, axis=0), 2, axis=1)
        np.testing.assert_array_equal(masked(kernel, mask, (2, 2)), np.where(zero, kernel, 0))
    tall = block_mask(kernel, 0.5, (4, 1))  # means of columns: 5, 1, 4.5, 4.5, 1.5, 5.5
    np.testing.assert_array_equal(tall[0, 0], np.array([1, 0, 0, 1, 0, 1], bool))


def test_masks_are_renewed_when_due_and_what_is_gone_stays_gone():
    pruning = Pruning(0.5, (1, 1), start=4, length=8, every=4)
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32))
    params, parts = {"rnn": {"kernel": kernel}, "other": jnp.ones(2)}, {"rnn.kernel": 3}
    masks = init_masks(params, parts, pruning)
    step, gone, shares = jax.jit(lambda p, m, t: prune(p, m, t, parts, pruning)), np.zeros((6, 8), bool), []
    for t in range(16):
        params["rnn"]["kernel"] = params["rnn"]["kernel"] + 0.3  # what an optimiser would do
        params, masks = step(params, masks, jnp.asarray(t))
        zero = np.asarray(params["rnn"]["kernel"]) == 0
        assert np.all(zero[gone])
        gone = zero
        shares.append(zero.reshape(3, -1).mean(1))
    np.testing.assert_array_equal(params["other"], 1.0)
    shares = np.array(shares)
    want = [0.5 * (1 - (1 - min(max(t // 4 * 4 - 4, 0) / 8, 1)) ** 3) for t in range(16)]
    np.testing.assert_array_equal(shares, np.floor(np.array(want) * 16)[:, None] / 16 * np.ones(3))


@pytest.mark.parametrize("fields", [{"sparsity": 1.0}, {"block": (0, 4)}, {"every": 0}, {"length": 0}])
def test_pruning_refuses(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Pruning(**fields)
