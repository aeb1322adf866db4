"""tools/scaling.py: what it reads in real compiled programs, and its formulas against values worked out by hand."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtts.train.sharding import data_mesh, replicated

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "tools" / "scaling.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["scaling"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["scaling"]


def program(function, *shapes, out=None):
    """Text of a function of arrays cut along their first axis over four devices."""
    cut = NamedSharding(data_mesh(), PartitionSpec(("data", "fsdp")))
    args = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut) for shape in shapes]
    return jax.jit(function, out_shardings=out).lower(*args).compile().as_text()


def test_sums_and_gathers(tool):
    everywhere = replicated(data_mesh())
    (found,) = tool.collectives(program(lambda x: x.sum(0), (8, 300), out=everywhere))
    assert found == ("all-reduce", 1200, 4, 1) and found.wire() == 1200 * 2 * 3 / 4
    (found,) = tool.collectives(program(lambda x: 2 * x, (8, 300), out=everywhere))
    assert found == ("all-gather", 9600, 4, 1) and found.wire() == 9600 * 3 / 4


def test_a_loop_sends_each_time(tool):
    axes = ("data", "fsdp")

    @partial(jax.shard_map, mesh=data_mesh(), in_specs=PartitionSpec(axes), out_specs=PartitionSpec(axes))
    def summed(x):
        def body(i, x):
            return jnp.sin(x) + 0.1 * jax.lax.psum(x[0], axes)

        return jax.lax.fori_loop(0, 5, body, x)

    found = tool.collectives(program(summed, (8, 100)))
    assert [(c.kind, c.bytes, c.group) for c in found] == [("all-reduce", 400, 4)]
    assert sum(c.times for c in found) == 5


def test_predictions(tool):
    step = tool.Step("", "", 250_000_000, 1e13, (tool.Collective("all-reduce", 10**9, 8, 1),))
    machine = tool.Machine("", 1e15, 1e11, 0.0, "", node=8, slow=1e10)
    link = tool.LINK
    one_node = 2 * 7 / 8 * 1e9 / (1e11 * link)
    assert tool.communication(step, machine, 8, 0, False) == pytest.approx(one_node)
    eight_nodes = one_node + 2 * 7 / 8 * (1e9 / 8) / (1e10 * link)
    assert tool.communication(step, machine, 64, 0, False) == pytest.approx(eight_nodes)
    assert tool.efficiency(step, machine, eight_nodes, 0.1) == pytest.approx((0.1 / (0.1 + eight_nodes), 1.0))
    torus = tool.Machine("", 1e15, 1e11, 1e-6, "", torus=((2, 2, 2), (4, 4, 4)))
    pieces, hops = -(-(10**9) // tool.BUCKET), 3
    assert tool.communication(step, torus, 8, 0, False) == pytest.approx(2 * one_node + 2 * pieces * hops * 1e-6)
    assert tool.communication(step, torus, 64, 0, False) < tool.communication(step, torus, 8, 0, False)
    assert torus.fits(64) and not torus.fits(512)
