"""Magnitude pruning in blocks while a network learns (arXiv 1802.08435 section 3, after arXiv 1710.01878).

From step `start` on the share of pruned blocks grows as Z * (1 - (1 - (t - start) / length)^3). Every `every` steps the
blocks of each gate's matrix that are smallest in mean magnitude are masked; what is masked stays zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxtts.nn.functional import Tree, named, nested


@dataclass(frozen=True)
class Pruning:
    """When and how much; the paper's schedule.

    Attributes:
        sparsity: Z, the share of zeros in the end; 0: nothing is pruned.
        block: outputs x inputs that are pruned together: (16, 1) or (4, 4) in the paper.
        start, length, every: in steps.
    """

    sparsity: float = 0.0
    block: tuple[int, int] = (16, 1)
    start: int = 1000
    length: int = 200_000
    every: int = 500

    def __post_init__(self):
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity={self.sparsity} must be at least 0 and below 1")
        if len(self.block) != 2 or min(self.block) < 1 or self.length < 1 or self.every < 1:
            raise ValueError(f"block={self.block}, length={self.length}, every={self.every}: at least 1")

    def target(self, step: jax.Array | int) -> jax.Array:
        """The share of blocks that are pruned after `step` steps."""
        done = jnp.clip((jnp.asarray(step, jnp.float32) - self.start) / self.length, 0.0, 1.0)
        return self.sparsity * (1 - (1 - done) ** 3)

    def check(self, name: str, shape: tuple[int, int]) -> None:
        """Raises ValueError unless the blocks tile a matrix [O, I]."""
        if self.sparsity and any(n % b for n, b in zip(shape, self.block)):
            raise ValueError(f"pruning.block={self.block} must divide the {shape[0]} x {shape[1]} of {name}")


def block_mask(kernel: jax.Array, share: jax.Array | float, block: tuple[int, int], parts: int = 1) -> jax.Array:
    """False for the blocks of a kernel [O, I] that are smallest, in each of `parts` matrices on top of each other.

    Returns:
        bool [parts, O / parts / block[0], I / block[1]]; floor(share * blocks) of each part are False, those that came
        first where two are equal.
    """
    height, width = block
    blocks = jnp.abs(kernel).reshape(parts, -1, height, kernel.shape[1] // width, width)
    scores = jnp.mean(blocks, axis=(2, 4))  # [parts, O / parts / height, I / width]
    flat = scores.reshape(parts, -1)
    rank = jnp.argsort(jnp.argsort(flat, axis=1), axis=1)
    return (rank >= jnp.floor(share * flat.shape[1])).reshape(scores.shape)


def masked(kernel: jax.Array, mask: jax.Array, block: tuple[int, int]) -> jax.Array:
    """The kernel [O, I] with zeros where its block's mask of `block_mask` is False."""
    blocks = kernel.reshape(*mask.shape[:2], block[0], mask.shape[2], block[1])
    return jnp.where(mask[:, :, None, :, None], blocks, 0.0).reshape(kernel.shape)


def init_masks(params: Tree, parts: dict[str, int], pruning: Pruning) -> Tree:
    """Masks that keep everything.

    Args:
        params: the net's parameters.
        parts: dotted name of a kernel [O, I] -> the matrices that it holds on top of each other.
    """
    found = named(params)
    return nested({name: block_mask(found[name], 0.0, pruning.block, n) for name, n in parts.items()})


def prune(params: Tree, masks: Tree, step: jax.Array, parts: dict[str, int], pruning: Pruning) -> tuple[Tree, Tree]:
    """Parameters and masks after `step` steps: a new mask if the schedule says so, zeros where it is False."""
    kernels = named(_zeroed(params, masks, pruning))  # what is gone has the smallest magnitude there is
    due = (step >= pruning.start) & (step % pruning.every == 0)

    def renew() -> Tree:
        share = pruning.target(step)
        return nested({name: block_mask(kernels[name], share, pruning.block, n) for name, n in parts.items()})

    masks = jax.lax.cond(due, renew, lambda: masks)
    return _zeroed(params, masks, pruning), masks


def _zeroed(params: Tree, masks: Tree, pruning: Pruning) -> Tree:
    kernels = named(params)
    return nested(kernels | {name: masked(kernels[name], mask, pruning.block) for name, mask in named(masks).items()})


def pruned_step(
    step: Callable[..., tuple[Any, Any]], parts: dict[str, int], pruning: Pruning, net: str = "model"
) -> Callable[..., tuple[Any, Any]]:
    """A training step that prunes params[net] and their average after it; rest['masks'][net] are its masks."""
    if not pruning.sparsity:
        return step

    def call(state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        masks = state.rest["masks"][net]
        state, metrics = step(state, batch, key)
        params, masks = prune(state.params[net], masks, state.step, parts, pruning)
        rest = state.rest | {"masks": {net: masks}}
        if net in rest.get("ema", {}):
            rest["ema"] = rest["ema"] | {net: _zeroed(rest["ema"][net], masks, pruning)}
        kept = jnp.stack([jnp.mean(mask) for mask in named(masks).values()])
        metrics = metrics | {"sparsity": 1 - jnp.mean(kept)}
        return state._replace(params=state.params | {net: params}, rest=rest), metrics

    return call
