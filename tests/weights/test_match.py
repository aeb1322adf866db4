"""Matching names: everything found, or one error that lists all that is wrong."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxtts.weights import read_weights
from jaxtts.weights.match import TRANSFORMS, Rule, fold_weight_norm, layer, load_into, renamed

GOLDEN = Path(__file__).parents[1] / "golden" / "weights"
LAYERS = [
    *layer(r"(conv)", r"net.\1", "conv"),
    *layer("up", "net.up", "conv_transpose"),
    *layer("out", "out", "linear"),
    *layer("plane", "plane", "conv2d"),
]
NORMED = {
    "net.conv.v": (5, 3, 4), "net.conv.g": (4,), "net.conv.bias": (4,),
    "net.up.v": (6, 4, 2), "net.up.g": (4, 1), "net.up.bias": (2,),
    "out.v": (2, 5), "out.g": (5,), "out.bias": (5,),
    "plane.v": (3, 1, 1, 2), "plane.g": (2,), "plane.bias": (2,),
}  # fmt: skip
FOLDED = {name.replace(".v", ".kernel"): shape for name, shape in NORMED.items() if not name.endswith(".g")}


def shapes(sizes: dict[str, tuple[int, ...]], dtype=np.float32) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype) for name, shape in sizes.items()}


def plain_weights() -> dict[str, np.ndarray]:
    """The weights that torch itself computed from g and v."""
    with np.load(GOLDEN / "expected.npz") as arrays:
        return {name: arrays[f"weight_norm_folded/{name}.weight"] for name in ("conv", "up", "out", "plane")}


@pytest.mark.parametrize("case", ["weight_norm", "old_weight_norm"])
def test_both_spellings_of_weight_norm_land_on_v_and_g(case):
    source = read_weights(GOLDEN / f"{case}.zip.pt")
    found = load_into(shapes(NORMED), source, LAYERS)
    assert list(found) == list(NORMED)
    g, v = (("parametrizations.weight.original0", "parametrizations.weight.original1") if case == "weight_norm"
            else ("weight_g", "weight_v"))  # fmt: skip
    np.testing.assert_array_equal(found["net.conv.v"][2, 1, 3], source[f"conv.{v}"][3, 1, 2])
    np.testing.assert_array_equal(found["net.up.v"][2, 3, 1], source[f"up.{v}"][3, 1, 2])
    np.testing.assert_array_equal(found["out.v"], source[f"out.{v}"].T)
    np.testing.assert_array_equal(found["plane.v"][2, 0, 0, 1], source[f"plane.{v}"][1, 0, 2, 0])
    np.testing.assert_array_equal(found["net.up.g"][:, 0], source[f"up.{g}"].ravel())


@pytest.mark.parametrize("case", ["weight_norm", "old_weight_norm"])
def test_weight_norm_is_folded_as_torch_does_where_the_model_has_none(case):
    found = load_into(shapes(FOLDED), read_weights(GOLDEN / f"{case}.zip.pt"), LAYERS)
    wanted = plain_weights()
    kinds = {"net.conv": ("conv", "conv"), "net.up": ("up", "conv_transpose"), "out": ("out", "linear"),
             "plane": ("plane", "conv2d")}  # fmt: skip
    for ours, (theirs, kind) in kinds.items():
        np.testing.assert_allclose(found[f"{ours}.kernel"], TRANSFORMS[kind](wanted[theirs]), rtol=1e-6, atol=0)


def test_a_plain_weight_is_split_where_the_model_has_weight_norm():
    source = {f"{name}.weight": weight for name, weight in plain_weights().items()}
    source |= {"conv.bias": np.zeros(4), "up.bias": np.zeros(2), "out.bias": np.zeros(5), "plane.bias": np.zeros(2)}
    found = load_into(shapes(NORMED), source, LAYERS)
    for ours in ("net.conv", "out", "plane"):
        v, g = found[f"{ours}.v"], found[f"{ours}.g"]
        np.testing.assert_allclose(np.sqrt((v**2).sum(tuple(range(v.ndim - 1)))), g, rtol=1e-6)
    v, g = found["net.up.v"], found["net.up.g"]
    np.testing.assert_allclose(np.sqrt((v**2).sum((0, 2))), g[:, 0], rtol=1e-6)


def test_folding_leaves_spectral_norm_and_other_modules_alone():
    source = {"a.weight_g": np.full((2, 1), 3.0), "a.weight_v": np.array([[3.0, 4.0], [0.0, 2.0]]),
              "b.weight_orig": np.ones((2, 2)), "b.weight_u": np.ones(2), "b.weight_v": np.ones(2)}  # fmt: skip
    folded = fold_weight_norm(source)
    assert sorted(folded) == ["a.weight", "b.weight_orig", "b.weight_u", "b.weight_v"]
    np.testing.assert_allclose(folded["a.weight"], [[1.8, 2.4], [0.0, 3.0]])
    assert fold_weight_norm(source, ["b"]).keys() == source.keys()


def test_one_error_lists_everything_that_is_wrong():
    target = shapes({"a.kernel": (3, 2, 4), "a.bias": (4,), "b.kernel": (2, 2), "c.scale": (5,), "c.bias": (5,)})
    source = shapes({"a.weight": (4, 2, 3), "a.bias": (7,), "b.weight": (2, 2, 2), "b.bias": (2,), "stray.x": (1, 2),
                     "c.weight": (5,), "d.weight": (5,)})  # fmt: skip
    rules = [*layer("a", "a", "conv"), *layer("b", "b", "linear"), *layer("[cd]", "c", "norm")]
    with pytest.raises(ValueError) as caught:
        load_into(target, source, rules)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the weights do not fit the model: 1 missing, 2 unexpected, 1 given twice, 2 misshapen"
    assert sorted(lines[1:]) == sorted([
        "  missing: c.bias [5]",
        "  unexpected: b.bias (as b.bias) [2]",
        "  unexpected: stray.x [1, 2]",
        "  given twice: c.scale by c.weight and d.weight",
        "  misshapen: a.bias expected [4], found [7] in a.bias",
        "  misshapen: b.kernel expected [2, 2], found [2, 2, 2] in b.weight",
    ])  # fmt: skip


def test_rules_drop_call_and_yield_to_earlier_ones():
    source = {"n.num_batches_tracked": np.zeros(()), "x.3.w": np.arange(4.0), "x.4.w": np.arange(4.0)}
    rules = [
        Rule(r".*\.num_batches_tracked", None),
        Rule(r"x\.3\.w", "first", lambda w: w[::-1]),
        Rule(r"x\.(\d+)\.w", lambda match: f"y.{int(match[1]) - 4}"),
    ]
    found = load_into(shapes({"y.0": (4,), "first": (4,)}), source, rules)
    np.testing.assert_array_equal(found["first"], [3, 2, 1, 0])
    np.testing.assert_array_equal(found["y.0"], [0, 1, 2, 3])


def test_the_model_decides_the_float_type_but_floats_never_become_integers():
    rules = [Rule("x", "x")]
    half = load_into({"x": np.zeros(2, ml_dtypes.bfloat16)}, {"x": np.array([1.5, -2.0])}, rules)["x"]
    assert half.dtype == ml_dtypes.bfloat16 and half.tolist() == [1.5, -2.0]
    wide = load_into({"x": np.zeros(2, np.float32)}, {"x": np.array([1.5, -2.0], ml_dtypes.bfloat16)}, rules)["x"]
    assert wide.dtype == np.float32 and wide.tolist() == [1.5, -2.0]
    with pytest.raises(ValueError, match="x expected int32, found float64 in x"):
        load_into({"x": np.zeros(2, np.int32)}, {"x": np.array([1.5, -2.0])}, rules)


def test_an_unknown_kind_of_layer_is_named():
    with pytest.raises(ValueError, match="kind='convolution'"):
        layer("a", "a", "convolution")


def test_renamed_gives_what_the_rules_know():
    rules = [Rule("extra", None), *layer(r"layers\.(\d+)", r"\1.dense", "linear"), Rule("flat", "flat", "conv")]
    source = shapes({"layers.0.weight": (2, 3), "layers.0.bias": (2,), "extra": (1,), "other": (1,), "flat": (4,)})
    found = renamed(source, rules)  # 'flat' has too few axes for a convolution
    assert {name: x.shape for name, x in found.items()} == {"0.dense.kernel": (3, 2), "0.dense.bias": (2,)}
