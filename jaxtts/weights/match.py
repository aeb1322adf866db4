"""Putting the weights of a reference implementation under our names, loudly.

A model's `convert.py` is a list of rules. The first rule whose pattern matches a source name in full decides: it gives
our name and the change of layout, or drops the tensor on purpose (`name=None`). `layer` writes the rules of one kind
of layer (plain and both spellings of weight norm) from the names of the modules alone:

    RULES = [
        *layer(r"(conv_pre|conv_post|resblocks\\.\\d+\\.convs[12]\\.\\d+)", r"\\1", "conv"),
        *layer(r"(ups\\.\\d+)", r"\\1", "conv_transpose"),
    ]
    params = load_into(named(model_params), read_weights(path), RULES)

PyTorch keeps [O, I, W] (transposed convolutions [I, O, W], linear layers [O, I]), we keep [W, I, O]. Weight norm is w
= g * v / ||v||, the norm over all axes but PyTorch's first: the output channel (our g [O]), of a transposed
convolution the input channel (our g [I, 1]).
Where one side has weight norm and the other has not, the weight is folded, or split into v = w and g = ||w||.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]

TRANSFORMS: dict[str, Transform] = {
    "conv": lambda w: np.transpose(np.reshape(w, (*w.shape, 1)[:3]), (2, 1, 0)),  # [O, I], [O, I, W] or [O, I, W, 1]
    "conv_transpose": lambda w: np.transpose(w, (2, 0, 1)),  # [I, O, W] -> [W, I, O]
    "conv2d": lambda w: np.transpose(w, (2, 3, 1, 0)),  # [O, I, H, W] -> [H, W, I, O]
    "linear": lambda w: np.transpose(w.reshape(w.shape[:2])),  # [O, I] or [O, I, 1] -> [I, O]
    "gain": np.ravel,  # [O, 1, 1] -> [O]
    "input_gain": lambda g: np.reshape(g, (-1, 1)),  # [I, 1, 1] -> [I, 1]
}
_WEIGHT_NORM = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))


class Rule(NamedTuple):
    """What becomes of the source names that match a pattern.

    Attributes:
        pattern: regular expression, matched against the whole name.
        name: our name, with `\\1` for the pattern's groups; or a function of the match; None drops the tensor.
        transform: a key of `TRANSFORMS` or a function of the array; None keeps it.
    """

    pattern: str
    name: str | Callable[[re.Match[str]], str] | None
    transform: str | Transform | None = None


def layer(pattern: str, name: str, kind: str) -> list[Rule]:
    """The rules of the layers whose module names match `pattern`.

    Args:
        pattern: regular expression of the reference's module names, without the parameter.
        name: our module name, with `\\1` for groups.
        kind: 'conv', 'conv_transpose', 'conv2d', 'linear' (kernel, or v and g; bias), 'norm' (scale, bias),
            'batch_norm' (also mean, variance), 'embedding', 'cell' (of one LSTM or GRU, also as a layer of its own) or
            'bidirectional' (two cells, `forward` and `backward`). Spectral norm (`weight_orig`, `weight_u`,
            `weight_v`) needs rules of its own before these.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "batch_norm":
        statistics = (("running_mean", "mean"), ("running_var", "variance"))
        return [
            *layer(pattern, name, "norm"),
            *(Rule(rf"{pattern}\.{theirs}", f"{name}.{ours}") for theirs, ours in statistics),
            Rule(rf"{pattern}\.num_batches_tracked", None),
        ]
    if kind == "cell":
        return _cell(pattern, name, "(?:_l0)?")
    if kind == "bidirectional":
        return [*_cell(pattern, f"{name}.forward", "_l0"), *_cell(pattern, f"{name}.backward", "_l0_reverse")]
    if kind in ("norm", "embedding"):
        ours = {"norm": "scale", "embedding": "embedding"}[kind]
        return [Rule(rf"{pattern}\.weight", f"{name}.{ours}"), Rule(rf"{pattern}\.bias", f"{name}.bias")]
    if kind not in ("conv", "conv_transpose", "conv2d", "linear"):
        raise ValueError(
            f"kind={kind!r}: expected conv, conv_transpose, conv2d, linear, norm, batch_norm, embedding, cell or "
            "bidirectional"
        )
    g, v = (rf"{pattern}\.(?:{'|'.join(map(re.escape, names))})" for names in zip(*_WEIGHT_NORM))
    return [
        Rule(rf"{pattern}\.weight", f"{name}.kernel", kind),
        Rule(v, f"{name}.v", kind),
        Rule(g, f"{name}.g", "input_gain" if kind == "conv_transpose" else "gain"),
        Rule(rf"{pattern}\.bias", f"{name}.bias"),
    ]


def _cell(pattern: str, name: str, suffix: str) -> list[Rule]:
    names = (("ih", "input"), ("hh", "hidden"))
    kernels = [Rule(rf"{pattern}\.weight_{theirs}{suffix}", f"{name}.{ours}_kernel") for theirs, ours in names]
    return kernels + [Rule(rf"{pattern}\.bias_{theirs}{suffix}", f"{name}.{ours}_bias") for theirs, ours in names]


def _norm(v: np.ndarray) -> np.ndarray:
    """Norm over all axes but the first, which stay with length 1, in float64."""
    return np.sqrt(np.sum(np.square(v, dtype=np.float64), axis=tuple(range(1, v.ndim)), keepdims=True))


def fold_weight_norm(tensors: Mapping[str, np.ndarray], names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Replaces both spellings of PyTorch's weight norm by the plain `weight` = g * v / ||v||.

    Args:
        tensors: PyTorch names and layouts.
        names: the modules to fold; None folds all. Spectral norm (`weight_orig`, and a `weight_v` without
            `weight_g`) stays.

    Returns:
        A new dict.
    """
    only = None if names is None else set(names)
    folded = dict(tensors)
    for name in tensors:
        for g, v in _WEIGHT_NORM:
            module = name.removesuffix(g)
            if name.endswith("." + g) and module + v in folded and (only is None or module[:-1] in only):
                scale, direction = folded.pop(name), folded.pop(module + v)
                folded[module + "weight"] = (scale * (direction / _norm(direction))).astype(direction.dtype)
    return folded


def _rename(name: str, rules: Iterable[Rule]) -> tuple[str | None, Rule | None]:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            if rule.name is None:
                return None, rule
            return (rule.name(match) if callable(rule.name) else match.expand(rule.name)), rule
    return None, None


def _match_weight_norm(
    target: Mapping[str, Any], source: Mapping[str, np.ndarray], rules: list[Rule]
) -> dict[str, np.ndarray]:
    """The source with weight norm folded where the target has none, and split where only the target has it."""
    fold, split = [], []
    for name in source:
        ours = _rename(name, rules)[0] or ""
        stem, _, leaf = ours.rpartition(".")
        if leaf == "v" and ours not in target and f"{stem}.kernel" in target:
            fold += [name.removesuffix("." + v) for _, v in _WEIGHT_NORM if name.endswith("." + v)]
        elif leaf == "kernel" and ours not in target and {f"{stem}.v", f"{stem}.g"} <= set(target):
            split.append(name)
    result = fold_weight_norm(source, fold) if fold else dict(source)
    for name in split:
        weight = result.pop(name)
        result[f"{name}_g"], result[f"{name}_v"] = _norm(weight).astype(weight.dtype), weight
    return result


def _kind(dtype: Any) -> str:
    return "integer" if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else "float"


def _changed(array: np.ndarray, rule: Rule) -> np.ndarray | None:
    """The array in our layout; None if it has another number of axes than the rule takes."""
    transform = TRANSFORMS[rule.transform] if isinstance(rule.transform, str) else rule.transform
    try:
        return array if transform is None else transform(array)
    except ValueError:
        return None


def renamed(source: Mapping[str, np.ndarray], rules: Iterable[Rule]) -> dict[str, np.ndarray]:
    """What the rules know of the source, under our names and in our layouts: sizes are read off it to build a model."""
    rules = list(rules)
    found = {}
    for name, array in source.items():
        ours, rule = _rename(name, rules)
        changed = _changed(array, rule) if ours is not None and rule is not None else None
        if ours is not None and changed is not None:
            found[ours] = changed
    return found


def load_into(
    target: Mapping[str, Any], source: Mapping[str, np.ndarray], rules: Iterable[Rule]
) -> dict[str, np.ndarray]:
    """Gives every parameter of a model its array from a reference checkpoint, or refuses.

    Args:
        target: our dotted name -> anything with shape and dtype (arrays, `jax.ShapeDtypeStruct`).
        source: the reference's name -> array.
        rules: first match wins.

    Returns:
        The names of the target, in its order, with arrays of its shapes and dtypes.

    Raises:
        ValueError: one message with every missing, unexpected, doubled and misshapen name.
    """
    rules = list(rules)
    found: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "given twice": [], "misshapen": []}
    for name, array in _match_weight_norm(target, source, rules).items():
        ours, rule = _rename(name, rules)
        if rule is not None and ours is None:
            continue
        if rule is None or ours is None or ours not in target:
            arrow = f" (as {ours})" if ours else ""
            problems["unexpected"].append(f"{name}{arrow} {list(array.shape)}")
            continue
        if ours in origin:
            problems["given twice"].append(f"{ours} by {origin[ours]} and {name}")
            continue
        origin[ours] = name
        expected = target[ours]
        changed = _changed(array, rule)
        if changed is None or changed.shape != tuple(expected.shape):
            shape = list(array.shape) if changed is None else list(changed.shape)
            problems["misshapen"].append(f"{ours} expected {list(expected.shape)}, found {shape} in {name}")
        elif _kind(expected.dtype) != _kind(changed.dtype):
            problems["misshapen"].append(f"{ours} expected {expected.dtype}, found {changed.dtype} in {name}")
        else:
            found[ours] = np.asarray(changed, dtype=expected.dtype, order="C")
    problems["missing"] = [f"{name} {list(target[name].shape)}" for name in target if name not in origin]
    if any(problems.values()):
        counts = ", ".join(f"{len(names)} {what}" for what, names in problems.items() if names)
        lines = [f"  {what}: {name}" for what, names in problems.items() for name in names]
        raise ValueError("\n".join([f"the weights do not fit the model: {counts}", *lines]))
    return {name: found[name] for name in target}
