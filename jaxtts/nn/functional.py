"""The whole interface between Flax NNX, which declares modules, and plain JAX, which transforms them.

A model is split into a hashable structure and nested dicts of arrays keyed by strings ('0', '1', ... for list
items), so that `jax.jit`, optax, Orbax and safetensors see nothing but dicts.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Tree = dict[str, Any]


def split(model: nnx.Module) -> tuple[Any, Tree, Tree]:
    """Model -> (structure, params, rest); rest holds what is not trained (batch statistics)."""
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    return structure, _string_keys(nnx.to_pure_dict(params)), _string_keys(nnx.to_pure_dict(rest))


def merge(structure: Any, params: Tree, rest: Tree | None = None) -> Any:
    """The model again, with these arrays (or tracers) in it."""
    states = [nnx.State(_int_keys(params))]
    if rest:
        states.append(nnx.State(_int_keys(rest)))
    return nnx.merge(structure, *states)


def merged(tree: Tree, other: Tree) -> Tree:
    """Two trees with no leaf in common as one; `merge(structure, merged(params, rest))` is `merge` of both."""
    both = {k: merged(x, other[k]) for k, x in tree.items() if k in other}
    return tree | other | both


def structure(build: Callable[[], nnx.Module]) -> tuple[Any, Tree, Tree]:
    """Like `split(build())` with shapes in place of arrays; allocates nothing."""
    return split(nnx.eval_shape(build))


def rngs_for_shapes() -> nnx.Rngs:
    """In place of `nnx.Rngs` where shapes alone are asked for: its counters cost most of the tracing."""
    key = jax.random.key(0)
    return cast(nnx.Rngs, SimpleNamespace(params=lambda: key))


def named(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> {'resblocks.0.conv.kernel': leaf}, sorted by name."""
    return dict(sorted(_walk(tree, prefix)))


def nested(flat: dict[str, Any]) -> Tree:
    """Inverse of `named`."""
    tree: Tree = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def count_parameters(tree: Tree) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in named(tree).values())


def fold_weight_norm(tree: Tree) -> Tree:
    """Replaces each weight-normed `v`, `g` by the `kernel` it stands for (for inference with `weight_norm=False`)."""
    if "v" in tree and "g" in tree:
        rest = {k: x for k, x in tree.items() if k not in ("v", "g")}
        return rest | {"kernel": weight_normed(tree["v"], tree["g"])}
    return {k: fold_weight_norm(x) if isinstance(x, dict) else x for k, x in tree.items()}


def store_inverse(tree: Tree) -> Tree:
    """Replaces the lone `weight` of each mixing matrix by its `inverse_weight`, computed in float64.

    The layer of `nn.flow` that has it takes it with `inverse_only=True`.
    """
    if tree.keys() == {"weight"}:
        weight = np.asarray(tree["weight"])
        return {"inverse_weight": np.linalg.inv(weight.astype(np.float64)).astype(weight.dtype)}
    return {k: store_inverse(x) if isinstance(x, dict) else x for k, x in tree.items()}


def weight_normed(v: jax.Array, g: jax.Array) -> jax.Array:
    """kernel = g * v / |v| (arXiv 1602.07868 eq. 2) in float32.

    v ends in [..., in, out]; the norm runs over all axes but the one that g has the length of: out, or, if g is
    [in, 1] (transposed convolutions, as torch does it), in.
    """
    if g.ndim == 2:
        axes = tuple(a for a in range(v.ndim) if a != v.ndim - 2)
    else:
        axes = tuple(range(v.ndim - 1))
    v = v.astype(jnp.float32)
    return v * (g / jnp.sqrt(jnp.sum(v * v, axis=axes, keepdims=True)))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; `key=None` or `rate=0` returns x unchanged."""
    if key is None or rate == 0.0:
        return x
    keep = hashed_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), jnp.zeros_like(x))


def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 of `shape`: a hash of the key and of each element's place; good enough for dropout.

    Two rounds of the integer hash `lowbias32` (Chris Wellons, "Prospecting for Hash Functions"), the key entering ahead
    of each. It fuses with what uses it and costs a tenth of threefry on CPU, where threefry's bits took a sixth of a
    Glow-TTS step; like threefry's, they do not depend on how arrays lie on devices.
    """
    words = jax.random.key_data(key).ravel()
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return _lowbias32(_lowbias32(place + words[0]) ^ words[1])


def seeded_dropout(x: jax.Array, rate: float, seeds: jax.Array | None, draw: jax.Array | int) -> jax.Array:
    """`dropout` of x [B, C] in a loop: item b's mask is a hash of its own seed and of the number of the draw.

    So it depends neither on the batch nor on how long the loop is. seeds: uint32 [B]; None returns x unchanged.
    """
    if seeds is None or rate == 0.0:
        return x
    bits = seeded_bits(seeds, draw, x.shape[-1])
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), x * (1.0 / (1.0 - rate)), jnp.zeros_like(x))


def seeded_bits(seeds: jax.Array, draw: jax.Array | int, count: int) -> jax.Array:
    """Uniform uint32 [B, count] for a step of a loop: a hash of each item's seed [B] and of the number of the draw."""
    seeds = seeds.astype(jnp.uint32)[:, None]
    place = jnp.asarray(draw, jnp.uint32) * jnp.uint32(count) + jnp.arange(count, dtype=jnp.uint32)
    return _lowbias32(_lowbias32(place + seeds) ^ (seeds * jnp.uint32(0x9E3779B9)))


def _lowbias32(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def item_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal of `shape` [B, ...]; item b's depends on the key and b alone, not on the other items."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(shape[0]))
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys)


def remat(call: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """`call`, but if enabled its insides are computed again on the way back and not kept: memory for time.

    XLA merges both computations again on CPU (jax 0.10.2), where nothing is gained.
    """
    return jax.checkpoint(call) if enabled else call


def check_dtype(dtype: str) -> None:
    """Raises ValueError unless `dtype` is one that networks compute in."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")


def split_key(key: jax.Array | None, n: int) -> list[jax.Array] | list[None]:
    """n keys, or n times None: lets a module pass randomness on without asking whether there is any."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def _walk(tree: Tree, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _walk(value, f"{name}.")
        else:
            yield name, value


def _string_keys(tree: Any) -> Any:
    return {str(k): _string_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if isinstance(k, str) and k.isdigit() else k: _int_keys(v) for k, v in tree.items()}
