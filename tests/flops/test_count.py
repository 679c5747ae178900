"""The result: conventions, breakdowns, sums, and the printed table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax.flops import (
    FlopCount,
    FlopCountError,
    OpenTripCountError,
    SaturatedCounterError,
    count_flops,
    eval_flops,
)
from sparsecode_jax.flops.counters import counter
from sparsecode_jax.flops.tallies import saturating_add, saturating_sum

from . import programs


def loop(x):
    return jax.lax.while_loop(lambda x: jnp.tanh(x) < 0.99, lambda x: x * 2.0, x)


def mixed(x):
    return jnp.where(jnp.exp(x @ x) > 1.0, jnp.sort(x)[0], x.sum())


def test_conventions_are_views_of_one_run():
    count = count_flops(mixed)(jnp.ones(8))
    assert count.total("matmul") == 16
    assert count.total() == 16 + 1 + 7
    assert count.total("all") == 16 + 1 + 7 + 2 + 8 * 3
    assert count.total(transcendental=10) == count.total() + 9
    assert count.total("matmul", transcendental=10) == 16
    assert count.total({"search": 1, "dot_mul": 5}) == 24 + 40


def test_breakdowns_add_up():
    count = count_flops(programs.nested)(programs.V)
    for convention in ("matmul", "arithmetic", "all"):
        for group in ("class", "primitive", "scope", "dtype"):
            parts = count.by(group, convention)
            assert sum(parts.values()) == count.total(convention)
    half = count_flops(lambda x: (x.astype(jnp.bfloat16) * 2).astype(jnp.float32) + 1)(jnp.ones(3))
    assert half.by("dtype") == {"bfloat16": 3, "float32": 3}


def test_addition_is_exact_and_merges_blocks():
    a, b = count_flops(loop)(0.5), count_flops(loop)(0.1)
    c = count_flops(mixed)(jnp.ones(8))
    assert (a + b).total() == a.total() + b.total()
    assert (a + b).table == a.table
    assert (a + c + c).total("all") == a.total("all") + 2 * c.total("all")
    assert sum([a, b, c]).total() == a.total() + b.total() + c.total()
    assert (a + b).trips().popitem()[1] == a.trips().popitem()[1] + b.trips().popitem()[1]
    big = a
    for _ in range(40):
        big = big + big
    assert big.total() == 2**40 * a.total()


def test_addition_of_batched_counts_is_by_lane():
    xs = jnp.array([0.1, 0.5])
    lanes = jax.vmap(count_flops(loop))(xs)
    assert (lanes + lanes).total().tolist() == [2 * n for n in lanes.total()]
    assert (lanes + lanes).sum().total() == 2 * lanes.sum().total()


def test_a_count_is_a_pytree_that_compares_by_value():
    a, b = count_flops(loop)(0.5), count_flops(loop)(0.5)
    assert a == b and a != count_flops(loop)(0.1) and a != 3
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert hash(jax.tree.structure(a)) == hash(jax.tree.structure(b))
    assert all(str(leaf.dtype) == "key<FLOP counter>" for leaf in jax.tree.leaves(a))
    static = count_flops(mixed)(jnp.ones(8))
    assert [jax.random.key_data(leaf).tolist() for leaf in jax.tree.leaves(static)] == [[1, 0]]


def test_saturation_raises_where_it_matters():
    count = count_flops(loop)(0.5)
    full = FlopCount((count.counters[0], counter(jnp.uint32(2**32 - 1))), count.table)
    for use in (FlopCount.total, FlopCount.trips, FlopCount.sum):
        with pytest.raises(SaturatedCounterError, match="while at .* ran at least 4294967295"):
            use(full)
    assert full.total("matmul") == 0  # nothing in the loop counts here
    assert int(saturating_add(jnp.uint32(2**32 - 3), jnp.uint32(5))) == 2**32 - 1
    assert saturating_add(jnp.uint32(7), jnp.uint32(5)) == 12


@pytest.mark.parametrize(
    "values",
    [[3, 4], [2**31, 2**31 - 2], [2**31, 2**31], [2**32 - 1, 7], [65535] * 70000, [0] * 70000],
)
def test_saturating_sum(values):
    expected = min(sum(values), 2**32 - 1)
    assert int(saturating_sum(jnp.array(values, jnp.uint32))) == expected


def test_open_trip_counts_stay_open():
    count = eval_flops(loop, jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(OpenTripCountError, match=r"how often while at .*test_count.py.* \(loop\)"):
        count.total()
    with pytest.raises(OpenTripCountError, match="value_and_flops"):
        count.sum()
    assert count.total("matmul") == 0
    assert list(count.trips().values()) == [None]
    assert "?" in str(count)
    (count + count).trips()
    branch = lambda x: jax.lax.cond(x > 0, jnp.sin, lambda x: x, x)  # noqa: E731
    with pytest.raises(OpenTripCountError, match="cond branch 2/2"):
        eval_flops(branch, 1.0).total()
    same = lambda x: jax.lax.cond(x > 0, lambda x: x + 1.0, lambda x: x + 2.0, x)  # noqa: E731
    assert eval_flops(same, 1.0).total() == 1  # branches that cost the same need no counter


def test_values_are_refused_inside_traced_functions():
    with pytest.raises(FlopCountError, match="no values inside a traced function"):
        jax.jit(lambda x: count_flops(loop)(x).total())(0.5)
    with pytest.raises(FlopCountError, match="no values inside a traced function"):
        jax.eval_shape(count_flops(loop), 0.5).total()


def test_the_table_prints():
    text = str(count_flops(loop)(0.5))
    assert "transcendental" in text and "while at test_count.py" in text
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("total")][0].split() == [
        "total",
        "0",
        "7",
        "11",
        "7",
    ]
    lanes = jax.vmap(count_flops(loop))(jnp.array([0.1, 0.5]))
    assert "summed over lanes (2,)" in str(lanes)
    executed = count_flops(jax.vmap(loop))(jnp.array([0.1, 0.5]))
    assert "useful fraction of lock-step lanes: 0.8000" in str(executed)
    assert "blocks" in repr(executed)


def test_scan_trips_are_listed():
    count = count_flops(programs.coordinate_descent)(programs.X)
    assert sorted(count.trips().values()) == [3, 15]


def test_useful_fraction_of_lanes():
    executed = count_flops(jax.vmap(loop))
    lanes = jax.vmap(lambda xs: executed(xs))(jnp.array([[0.1, 0.5], [0.5, 0.5]]))
    np.testing.assert_allclose(lanes.useful_fraction(), [0.8, 1.0])
    assert count_flops(loop)(0.5).useful_fraction() == 1.0
