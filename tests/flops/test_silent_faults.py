"""Counts that were once wrong without a word: each is now right, or refused."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from sparsecode_jax.flops import (
    FlopCount,
    FlopCountError,
    UnknownPrimitiveError,
    count_flops,
    eval_flops,
    register_flop_rule,
    tally,
    value_and_flops,
)


def foreign(name):
    """Make a primitive of somebody else's that multiplies matrices."""
    p = Primitive(name)
    p.def_abstract_eval(lambda x, **_: x)
    p.def_impl(lambda x, **_: x @ x)
    mlir.register_lowering(p, mlir.lower_fun(lambda x, **_: x @ x, multiple_results=False))
    return p


def repeated(p, length):
    return lambda x: lax.scan(lambda c, _: (p.bind(c), None), x, None, length=length)[0]


# Costs that overflow


@pytest.mark.parametrize("number", [np.int32, np.int64, np.uint32, jnp.int32])
def test_costs_of_rules_are_exact_whatever_integers_they_return(number):
    p = foreign("wide_kernel")
    register_flop_rule(p, lambda ins, outs, params: {"elementwise": number(2**31 - 1)})
    total = eval_flops(repeated(p, 10), jnp.ones((2, 2))).total()
    assert total == 10 * (2**31 - 1) and type(total) is int


@pytest.mark.parametrize("amount", [2.0, np.float32(2), -1, np.int32(-1), None, "2"])
def test_costs_that_are_not_non_negative_integers_are_refused(amount):
    p = foreign("odd_kernel")
    register_flop_rule(p, lambda ins, outs, params: {"elementwise": amount})
    with pytest.raises(FlopCountError, match="'odd_kernel' returned .* non-negative integers"):
        eval_flops(p.bind, jnp.ones((2, 2)))


def test_tallies_take_any_integers():
    unit = np.int32(2**31 - 1)
    for per_unit in (unit, {"elementwise": unit}):
        count = count_flops(lambda x, u=per_unit: tally(x, 10, per_unit=u, name="t"))(1.0)
        assert count.total(work="algorithmic") == 10 * (2**31 - 1)


# Names that say nothing

KNOWN_NAMES = ["stack", "pin", "name", "split", "check", "erf", "while", "jit", "dot_general"]


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_a_foreign_primitive_with_a_known_name_is_unknown(name):
    p = foreign(name)
    with pytest.raises(UnknownPrimitiveError, match=f"no counting rule for '{name}'"):
        eval_flops(p.bind, jnp.ones((2, 2)))
    _, count = value_and_flops(p.bind, on_unknown="defer")(jnp.ones((2, 2)))
    with pytest.raises(UnknownPrimitiveError, match=f"no counting rule for '{name}'"):
        count.total()


def test_a_rule_for_a_foreign_primitive_leaves_its_namesake_alone():
    p = foreign("tanh")
    register_flop_rule(p, lambda ins, outs, params: {"dot_mul": 8})
    count = eval_flops(lambda x: jnp.tanh(p.bind(x)), jnp.ones((2, 2)))
    assert count.by("class") == {"dot_mul": 8, "transcendental": 4}


def test_a_foreign_loop_index_is_not_taken_for_one():
    p = Primitive("add")  # advances by two, under the name of an addition
    p.def_abstract_eval(lambda x, y: x)
    p.def_impl(lambda x, y: x + 2 * y)
    mlir.register_lowering(p, mlir.lower_fun(lambda x, y: x + 2 * y, multiple_results=False))
    register_flop_rule(p, lambda ins, outs, params: {})

    def loop(x):
        step = lambda s: (p.bind(s[0], jnp.int32(1)), s[1] * 2.0)  # noqa: E731
        return lax.while_loop(lambda s: s[0] < 10, step, (jnp.int32(0), x))[1]

    value, count = jax.jit(value_and_flops(loop))(1.0)
    assert value == 2.0**5 and count.total() == 5


# Counters in foreign arithmetic


def doubling(n):
    """Repeat a product n times in a loop that carries no index."""
    return lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 2, s[1] * 2.0), (2 * n, 1.0))[1]


@pytest.mark.parametrize(
    "arithmetic",
    [
        lambda a, b: jax.tree.map(jnp.add, a, b),
        lambda a, b: jax.tree.map(jnp.subtract, a, b),
        lambda a, b: jax.tree.map(lambda x: -x, a),
        lambda a, b: jax.tree.map(lambda x, y: (x + y) / 2, a, b),
        lambda a, b: jax.tree.map(lambda x: x * 2, a),
        lambda a, b: jax.tree.map(lambda x: jnp.mean(x[None]), a),
        lambda a, b: jax.tree.map(np.add, a, b),
        lambda a, b: jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))(a, b),
    ],
)
def test_arithmetic_on_counters_is_refused(arithmetic):
    a, b = count_flops(doubling)(3), count_flops(doubling)(4)
    assert (a + b).total() == 7
    with pytest.raises(TypeError):
        arithmetic(a, b)


def test_conversion_of_counters_is_refused():
    count = count_flops(doubling)(3)
    with pytest.raises(NotImplementedError):
        jax.tree.map(lambda x: x.astype(jnp.float32), count)


@pytest.mark.parametrize(
    "arithmetic",
    [
        lambda a: jax.tree.map(jnp.add, a, a),  # of Python integers: JAX's 32 bits
        lambda a: jax.tree.map(lambda x: -x, a),
        lambda a: jax.tree.map(lambda x: x / 2, a),
        lambda a: jax.tree.map(np.int32, a),
        lambda a: jax.tree.map(np.float64, a),
    ],
)
def test_what_arithmetic_makes_of_counters_on_the_host_is_refused(arithmetic):
    changed = arithmetic(count_flops(doubling)(3).sum())
    for read in (FlopCount.total, FlopCount.trips, FlopCount.sum, FlopCount.bytes_moved):
        with pytest.raises(FlopCountError, match="its counters are no longer counters"):
            read(changed)


def test_counts_add_up_past_32_bits_inside_a_program():
    def steps(count):
        def double(total, _):
            return total + total, None

        return lax.scan(double, count, None, length=40)[0]

    count = count_flops(doubling)(3)
    assert jax.jit(steps)(count).total() == 2**40 * 3
    endless = jax.jit(lambda c: lax.fori_loop(0, 70, lambda _, c: c + c, c))(count)
    with pytest.raises(FlopCountError, match="more than its counter holds"):
        endless.total()


def test_counts_are_read_while_another_function_is_traced():
    count, lanes = count_flops(doubling)(3), jax.vmap(count_flops(doubling))(jnp.array([3, 4]))

    @jax.jit
    def use(x):
        return x + count.total() + lanes.sum().total()

    assert use(1) == 1 + 3 + 7


def test_counts_survive_pickling():
    count = count_flops(jax.vmap(doubling))(jnp.array([3, 4]))
    again = pickle.loads(pickle.dumps(count))
    assert again.total() == count.total() == 8
    lanes = jax.vmap(count_flops(doubling))(jnp.array([3, 4]))
    assert pickle.loads(pickle.dumps(lanes)).total().tolist() == [3, 4]


# Integer products


@pytest.mark.parametrize(
    ("dtype", "summed"),
    [*((dtype, "int32") for dtype in ("int8", "int4", "uint8", "int32")), ("int8", "float32")],
)
def test_products_of_integers_are_a_class_of_their_own(dtype, summed):
    def fun(x, w):
        return lax.dot(x, w, preferred_element_type=summed)

    x, w = (jax.ShapeDtypeStruct(s, dtype) for s in ((3, 4), (4, 5)))
    count = eval_flops(fun, x, w)
    assert count.by("class", "ops") == {"integer": 2 * 3 * 4 * 5}
    assert count.by("dtype", "ops") == {dtype: 120}
    assert count.total("ops") == 120
    assert [count.total(name) for name in ("matmul", "arithmetic", "all")] == [0, 0, 0]
    row = next(line for line in str(count).splitlines() if line.startswith("integer"))
    assert row.split() == ["integer", "0", "0", "0", "120"]
    assert 'products of integers count under "ops" alone' in str(count)


def test_floating_point_programs_have_no_note_on_integers():
    count = eval_flops(lambda x: x @ x, jnp.ones((2, 2)))
    assert "integers" not in str(count) and count.total("ops") == count.total() == 16


@pytest.mark.parametrize("summed", ["int32", "float32"])
def test_convolutions_of_integers(summed):
    fun = lambda x, w: lax.conv(x, w, (1, 1), "VALID", preferred_element_type=summed)  # noqa: E731
    x, w = (jax.ShapeDtypeStruct(s, jnp.int8) for s in ((2, 3, 8, 8), (5, 3, 3, 3)))
    assert eval_flops(fun, x, w).by("class", "ops") == {"integer": 2 * 2 * 5 * 36 * 27}


def test_products_of_booleans_are_of_what_they_are_summed_in():
    x = jax.ShapeDtypeStruct((4, 4), jnp.bool_)
    assert eval_flops(jnp.matmul, x, x).by("class", "ops") == {}
    summed = eval_flops(lambda x: lax.dot(x, x, preferred_element_type=jnp.float32), x)
    assert summed.total() == 2 * 4**3


# The dtype of a product


@pytest.mark.parametrize(
    ("left", "right", "booked"),
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("float8_e4m3fn", "float8_e4m3fn", "float8_e4m3fn"),
        ("bfloat16", "float32", "float32"),
        ("int8", "bfloat16", "bfloat16"),
        ("float32", "float32", "float32"),
    ],
)
def test_products_are_booked_by_what_is_multiplied(left, right, booked):
    def fun(x, w):
        return lax.dot(x, w, preferred_element_type=jnp.float32)

    x, w = (jax.ShapeDtypeStruct((4, 4), dtype) for dtype in (left, right))
    assert eval_flops(fun, x, w).by("dtype") == {booked: 128}


def test_other_operations_are_booked_by_their_result():
    fun = lambda x: x.astype(jnp.float32) * 2.0  # noqa: E731
    assert eval_flops(fun, jnp.ones(3, jnp.bfloat16)).by("dtype") == {"float32": 3}


# Costs of the past


def test_a_compiled_count_knows_that_its_costs_were_replaced():
    p = foreign("relearned_kernel")
    register_flop_rule(p, lambda ins, outs, params: {"elementwise": 1})
    compiled = jax.jit(value_and_flops(p.bind))
    other = jax.jit(value_and_flops(jnp.sin))(1.0)[1]
    before = compiled(jnp.ones((2, 2)))[1]
    assert before.total() == 1
    register_flop_rule(p, lambda ins, outs, params: {"elementwise": 2})
    for stale in (before, compiled(jnp.ones((2, 2)))[1]):
        for read in (
            FlopCount.total,
            FlopCount.sum,
            FlopCount.bytes_moved,
            lambda c: c.by("class"),
        ):
            with pytest.raises(FlopCountError, match="'relearned_kernel' .* registered anew"):
                read(stale)
    assert other.total() == 1  # what it does not contain does not matter
    assert value_and_flops(p.bind)(jnp.ones((2, 2)))[1].total() == 2
    jax.clear_caches()
    assert compiled(jnp.ones((2, 2)))[1].total() == 2


def test_a_rule_for_an_operation_that_was_free_makes_counts_stale():
    fun = lambda x: lax.population_count(x) + 1.0  # noqa: E731
    count = eval_flops(fun, jnp.ones(3, jnp.int32))
    assert count.total() == 3
    saved = pickle.dumps(count)
    register_flop_rule("population_count", lambda ins, outs, params: {"elementwise": 100})
    with pytest.raises(FlopCountError, match="'population_count' .* registered anew"):
        count.total()
    assert eval_flops(fun, jnp.ones(3, jnp.int32)).total() == 103
    with pytest.raises(FlopCountError, match="'population_count' .* registered anew"):
        pickle.loads(saved).total()
    # Another process has rules of its own, and reads what was counted here.
    program = (
        "import pickle, sys\n"
        "from sparsecode_jax.flops import register_flop_rule\n"
        "register_flop_rule('population_count', lambda ins, outs, params: {})\n"
        "print(pickle.loads(sys.stdin.buffer.read()).total())"
    )
    run = subprocess.run([sys.executable, "-c", program], input=saved, capture_output=True)
    assert run.stdout.strip() == b"3", run.stderr


# The platform a choice is made for


def choose(x):
    return lax.platform_dependent(x, cpu=lambda x: x * x + x, default=lambda x: x)


def test_a_choice_by_platform_is_that_of_the_device_of_the_arguments(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    cpu = jax.devices("cpu")[0]
    x = jax.device_put(jnp.ones(4), cpu)
    assert value_and_flops(choose)(x)[1].total() == 8
    with jax.default_device(cpu):
        assert eval_flops(choose, jax.ShapeDtypeStruct((4,), jnp.float32)).total() == 8
    assert eval_flops(choose, jax.ShapeDtypeStruct((4,), jnp.float32)).total() == 0


def test_a_count_for_another_platform_than_it_ran_on_is_refused(monkeypatch):
    compiled = jax.jit(value_and_flops(choose))
    x = jnp.ones(4)
    with monkeypatch.context() as patched:
        patched.setattr(jax, "default_backend", lambda: "tpu")
        count = compiled(x)[1]
        same = jax.jit(value_and_flops(jnp.sin))(x)[1]
    with pytest.raises(FlopCountError, match="for 'tpu', but ran on 'cpu'.*default_device"):
        count.total()
    assert same.total() == 4
    jax.clear_caches()
    assert jax.jit(value_and_flops(choose))(x)[1].total() == 8
