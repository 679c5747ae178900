"""Bytes moved: hand-computed intervals, and the laws they obey."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import OpenTripCountError, count_flops, eval_flops, value_and_flops

from . import oracle, programs

f = jax.ShapeDtypeStruct
F32 = jnp.float32


def moved(fun, *args):
    return count_flops(fun)(*args).bytes_moved()


def shapes(*sizes):
    return [f(size if isinstance(size, tuple) else (size,), F32) for size in sizes]


STATIC = {
    # name: (function, shapes, fused bytes, unfused bytes), eight numbers being 32 bytes
    "matmul": (jnp.matmul, [(3, 4), (4, 5)], 4 * (12 + 20 + 15), 4 * (12 + 20 + 15)),
    "chain": (lambda x: jnp.tanh(x) * 2.0 + 1.0, [8], 2 * 32, 3 * 2 * 32),
    "calls fuse with what is around them": (
        lambda x: jax.jit(lambda y: jax.checkpoint(jnp.tanh)(y) * 2.0)(x) + 1.0,
        [8],
        2 * 32,
        3 * 2 * 32,
    ),
    "an input read twice": (lambda x, y: (x * y, x + y), [8, 8], 4 * 32, 6 * 32),
    "a result used twice": (lambda x: (y := x * 2.0, y + 1.0)[1] * y, [8], 2 * 32, 7 * 32),
    "outputs that are inputs": (lambda x, y: (x, x, y), [8, 8], 0, 0),
    "unused inputs": (lambda x, y: x + 1.0, [8, 800], 64, 64),
    "reductions": (jnp.sum, [8], 36, 36),
    "views": (lambda x: x.reshape(2, 4).T, [8], 0, 4 * 32),
    "a slice": (lambda x: x[:2], [8], 16, 40),
    "slices together": (lambda x: x[:6] + x[2:], [8], 32 + 24, 2 * (32 + 24) + 3 * 24),
    "a fresh array": (lambda: jnp.zeros(8), [], 32, 32),
}


@pytest.mark.parametrize("name", STATIC)
def test_static_programs(name):
    fun, sizes, *expected = STATIC[name]
    assert eval_flops(fun, *shapes(*sizes)).bytes_moved() == tuple(expected)


def test_an_update_in_place_writes_what_it_sets():
    update = lambda x, y: lax.dynamic_update_slice(x, y, (3,))  # noqa: E731
    assert eval_flops(update, *shapes(100, 2)).bytes_moved() == (8 + 8, 400 + 8 + 400)
    # Combining reads what is there; a second update of the same array adds to the first.
    add = lambda x, y: update(x, y).at[jnp.array([7])].add(y[:1])  # noqa: E731
    assert eval_flops(add, *shapes(100, 2)).bytes_moved()[0] == 8 + 4 + 8 + 4 + 4
    # Coordinate descent reads and writes coordinates, not its whole code, in each of 15 steps.
    low, high = moved(programs.coordinate_descent, programs.X)
    assert low < high / 5


def test_a_scan_reads_and_writes_its_carry_each_step():
    # A step reads c, w (8 numbers each) and one x, and writes c and one y.
    def fun(c, w, xs):
        return lax.scan(lambda c, x: ((c := c * w + x), jnp.sum(c)), c, xs)

    fused, unfused = 4 * (8 + 8 + 1 + 8 + 1), 4 * (24 + 17 + 9)
    assert eval_flops(fun, *shapes(8, 8, 5)).bytes_moved() == (5 * fused, 5 * unfused)
    nothing = eval_flops(lambda c: lax.scan(lambda c, _: (c, c), c, None, length=7), *shapes(8))
    assert nothing.bytes_moved() == (0, 0)


def test_values_between_a_loop_and_its_surroundings_move():
    def fun(x):
        y = lax.scan(lambda c, _: (jnp.tanh(c), None), x + 1.0, None, length=3)[0]
        return y * 2.0

    # In and out of x + 1, of three steps and of y * 2.
    assert eval_flops(fun, *shapes(8)).bytes_moved() == (5 * 64, 5 * 64)


def doubled(x):
    return lax.while_loop(lambda x: x[0] < 9.0, lambda x: x * 2.0 + 1.0, x)


def test_a_while_loop_by_its_trips():
    count = count_flops(doubled)(jnp.ones(8))  # 1, 3, 7, 15
    # Four conditions: slice 36, squeeze 8, compare 5; of these x[0] is read and a bool written.
    assert count.bytes_moved() == (3 * 64 + 4 * 5, 3 * 128 + 4 * 49)
    assert (count + count).bytes_moved()[0] == 2 * (3 * 64 + 4 * 5)
    assert f"bytes moved: {3 * 64 + 4 * 5} fused to {3 * 128 + 4 * 49}" in str(count)
    with pytest.raises(OpenTripCountError, match="bytes_moved: how often while"):
        eval_flops(doubled, *shapes(8)).bytes_moved()
    lanes = jax.vmap(count_flops(doubled))(jnp.stack([jnp.ones(8), 9 * jnp.ones(8)]))
    assert [n.tolist() for n in lanes.bytes_moved()] == [
        [3 * 64 + 4 * 5, 5],
        [3 * 128 + 4 * 49, 49],
    ]
    assert lanes.sum().bytes_moved()[0] == 3 * 64 + 5 * 5


def test_lanes_of_static_programs():
    a, b = jnp.ones((3, 2, 4)), jnp.ones((3, 4, 5))
    each = 4 * (8 + 20 + 10)
    assert count_flops(jax.vmap(jnp.matmul))(a, b).bytes_moved() == (3 * each, 3 * each)
    assert jax.vmap(count_flops(jnp.matmul))(a, b).bytes_moved()[1].tolist() == [each] * 3


def test_branches_that_cost_the_same_stay_an_interval():
    def fun(p, x, y):
        return lax.cond(p, lambda x, y: x + 1.0, lambda x, y: jnp.broadcast_to(y + 1.0, 8), x, y)

    def same(p, x, y):
        return lax.cond(p, lambda x, y: x + 1.0, lambda x, y: jnp.broadcast_to(y, 8) + 1.0, x, y)

    p, x, y = np.bool_(True), jnp.ones(8), jnp.ones(())
    index = 1 + 4  # of the branch, from the predicate
    assert moved(fun, p, x, y) == (index + 64, index + 64)
    assert moved(fun, ~p, x, y) == (index + 36, index + 8 + 36)
    assert len(count_flops(same)(p, x, y).table) == 1
    assert moved(same, p, x, y) == (index + 36, index + 36 + 64)


def test_dtypes_and_devices():
    half = lambda x: x.astype(jnp.bfloat16) * 2  # noqa: E731
    assert eval_flops(half, *shapes(8)).bytes_moved() == (32 + 16, 32 + 16 + 2 * 16)
    mesh = jax.sharding.AbstractMesh((4,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("device")
    fun = jax.shard_map(lambda x, y: x + y, mesh=mesh, in_specs=spec, out_specs=spec)
    assert eval_flops(fun, *shapes(8, 8)).bytes_moved() == (96, 96)


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_fused_bytes_are_at_most_unfused_ones(name):
    fun, *args = programs.PROGRAMS[name]
    blocks = [block.moved for block in eval_flops(fun, *args).table]
    assert all(0 <= low <= high for low, high in blocks)
    assert any(low > 0 for low, _ in blocks)


REGIONS = ("while", "scan", "cond", "jit", "remat2", "checkpoint", "closed_call")


INTERPRETED = [
    "nested while, cond, scan",
    "matching pursuit",
    "switch in scan",
    "vmap ista tolerance",
    "custom_vjp gradient",
]


@pytest.mark.parametrize("name", INTERPRETED)
def test_unfused_bytes_are_those_of_the_equations_an_interpreter_runs(name, monkeypatch):
    fun, *args = programs.PROGRAMS[name]
    total, step = 0, oracle.step

    def weighed(eqn, values):
        nonlocal total
        if not eqn.primitive.name.startswith(("custom_", *REGIONS)):
            atoms = [v for v in eqn.invars if not hasattr(v, "val")] + eqn.outvars
            total += sum(v.aval.size * v.aval.dtype.itemsize for v in atoms)
        return step(eqn, values)

    monkeypatch.setattr(oracle, "step", weighed)
    oracle.count(fun, *args)
    assert moved(fun, *args)[1] == total


def test_arithmetic_intensity():
    _, count = value_and_flops(lambda x: jnp.tanh(x) * 2.0 + 1.0)(jnp.ones(8))
    assert count.arithmetic_intensity() == (24 / 192, 24 / 64)
    assert count.arithmetic_intensity("matmul") == (0, 0)
    lanes = jax.vmap(count_flops(doubled))(jnp.ones((2, 8)))
    low, high = lanes.arithmetic_intensity("all")
    assert low.tolist() == [(3 * 16 + 4) / (3 * 128 + 4 * 49)] * 2
    assert high.tolist() == [(3 * 16 + 4) / (3 * 64 + 4 * 5)] * 2
    nothing = eval_flops(lambda x: x, *shapes(8))
    assert all(math.isnan(x) for x in nothing.arithmetic_intensity())
