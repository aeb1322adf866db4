"""tools/scaling.py: what it reads in real compiled programs, and its formulas against values worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
import scaling
from jax.sharding import NamedSharding, PartitionSpec

from jaxtts.train.sharding import data_mesh, replicated


def program(function, *shapes, out=None):
    """Text of a function of arrays cut along their first axis over four devices."""
    cut = NamedSharding(data_mesh(), PartitionSpec(("data", "fsdp")))
    args = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=cut) for shape in shapes]
    return jax.jit(function, out_shardings=out).lower(*args).compile().as_text()


def test_sums_and_gathers():
    everywhere = replicated(data_mesh())
    (found,) = scaling.collectives(program(lambda x: x.sum(0), (8, 300), out=everywhere))
    assert found == ("all-reduce", 1200, 4, 1) and found.wire() == 1200 * 2 * 3 / 4
    (found,) = scaling.collectives(program(lambda x: 2 * x, (8, 300), out=everywhere))
    assert found == ("all-gather", 9600, 4, 1) and found.wire() == 9600 * 3 / 4


def test_a_loop_sends_each_time():
    axes = ("data", "fsdp")

    @partial(jax.shard_map, mesh=data_mesh(), in_specs=PartitionSpec(axes), out_specs=PartitionSpec(axes))
    def summed(x):
        def body(i, x):
            return jnp.sin(x) + 0.1 * jax.lax.psum(x[0], axes)

        return jax.lax.fori_loop(0, 5, body, x)

    found = scaling.collectives(program(summed, (8, 100)))
    assert [(c.kind, c.bytes, c.group) for c in found] == [("all-reduce", 400, 4)]
    assert sum(c.times for c in found) == 5


def test_predictions():
    step = scaling.Step("", "", 250_000_000, 1e13, (scaling.Collective("all-reduce", 10**9, 8, 1),))
    machine = scaling.Machine("", 1e15, 1e11, 0.0, "", node=8, slow=1e10)
    link = scaling.LINK
    one_node = 2 * 7 / 8 * 1e9 / (1e11 * link)
    assert scaling.communication(step, machine, 8, 0, False) == pytest.approx(one_node)
    eight_nodes = one_node + 2 * 7 / 8 * (1e9 / 8) / (1e10 * link)
    assert scaling.communication(step, machine, 64, 0, False) == pytest.approx(eight_nodes)
    assert scaling.efficiency(step, machine, eight_nodes, 0.1) == pytest.approx((0.1 / (0.1 + eight_nodes), 1.0))
    torus = scaling.Machine("", 1e15, 1e11, 1e-6, "", torus=((2, 2, 2), (4, 4, 4)))
    pieces, hops = -(-(10**9) // scaling.BUCKET), 3
    assert scaling.communication(step, torus, 8, 0, False) == pytest.approx(2 * one_node + 2 * pieces * hops * 1e-6)
    assert scaling.communication(step, torus, 64, 0, False) < scaling.communication(step, torus, 8, 0, False)
    assert torus.fits(64) and not torus.fits(512)
