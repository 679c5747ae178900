"""Operations that are counted as a program of their own, random rejection among them."""

import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jax.extend.core import Primitive
from jax.interpreters import mlir

from sparsecode_jax.flops import (
    FlopCountError,
    OpenTripCountError,
    UnknownPrimitiveError,
    count_flops,
    eval_flops,
    register_flop_inline,
    register_flop_rule,
    value_and_flops,
)

from .programs import newton_sqrt


def halve(x, *, limit):
    return lax.while_loop(lambda x: x > limit, lambda x: x / 2.0, x)


def primitive(name, fun):
    p = Primitive(name)
    p.def_abstract_eval(lambda x, **_: x)
    p.def_impl(fun)
    mlir.register_lowering(p, mlir.lower_fun(fun, multiple_results=False))
    return p


def test_an_inlined_primitive_is_counted_as_it_runs():
    p = primitive("halving_kernel", halve)
    register_flop_inline(p, halve)
    fun = lambda x: p.bind(x, limit=1.0) + 1.0  # noqa: E731
    for counted in (value_and_flops(fun), jax.jit(value_and_flops(fun))):
        value, count = counted(100.0)
        assert value == fun(100.0) and count.total() == 7 + 1
        assert list(count.trips().values()) == [7]
    assert count_flops(lambda x: lax.map(fun, x))(jnp.array([100.0, 3.0])).total() == 9 + 2
    with pytest.raises(OpenTripCountError, match="how often while"):
        eval_flops(fun, 100.0).total()
    with pytest.raises(FlopCountError, match="Count the derivative instead"):
        jax.grad(value_and_flops(fun), has_aux=True)(100.0)


def test_an_inlined_program_without_loops_leaves_the_primitive_in_place():
    p = primitive("static_kernel", lambda x: x * 3.0)
    register_flop_inline("static_kernel", lambda x: jnp.tanh(x) * 3.0)
    value, count = value_and_flops(p.bind)(2.0)
    assert value == 6.0 and count.by("primitive") == {"tanh": 1, "mul": 1}


def test_an_inlined_program_returns_what_the_primitive_does():
    p = primitive("shaped_kernel", lambda x: x)
    register_flop_inline(p, lambda x: x[None])
    with pytest.raises(FlopCountError, match=r"'shaped_kernel' .* returns \[\(\(1, 3\).* expected"):
        eval_flops(p.bind, jnp.ones(3))
    register_flop_rule(p, lambda ins, outs, params: {"elementwise": 2})  # the last one holds
    assert eval_flops(p.bind, jnp.ones(3)).total() == 2
    with pytest.raises(FlopCountError, match="register_flop_inline: expected a function for 'p'"):
        register_flop_inline("p", 7)


# Gamma and what stands on it


def marsaglia_tsang(key, alpha):
    """Draw Gamma(alpha), alpha >= 1, as Marsaglia and Tsang do; return it and the tries."""
    d = np.float32(alpha) - np.float32(1 / 3)
    c = np.float32(1 / 3) / np.sqrt(d)
    tries = inner = 0
    key, _ = jax.random.split(key)
    while True:
        key, x_key, u_key = jax.random.split(key, 3)
        v, tries = np.float32(-1), tries + 1
        while v <= 0:
            x_key, normal_key = jax.random.split(x_key)
            x, inner = np.asarray(jax.random.normal(normal_key)), inner + 1
            v = 1 + x * c
        u = np.asarray(jax.random.uniform(u_key))
        v = v**3
        if u < 1 - 0.0331 * x**4 or np.log(u) < x * x / 2 + d * (1 - v + np.log(v)):
            return d * v, tries, inner


KEY, ALPHA = jax.random.key(3), np.float32([1.0, 1.2, 1.5, 1.1, 30.0, 0.3, 1.3])


def test_gamma_counts_the_tries_that_each_lane_took():
    keys = jax.random.split(KEY, 60)
    values, lanes = jax.vmap(lambda k: value_and_flops(jax.random.gamma)(k, 1.0))(keys)
    drawn = jax.vmap(lambda k: jax.random.gamma(k, 1.0))(keys)
    np.testing.assert_allclose(values, drawn, rtol=1e-5)
    alone = [marsaglia_tsang(jax.random.split(key, 1)[0], 1.0) for key in keys]
    np.testing.assert_allclose(values, [drawn for drawn, _, _ in alone], rtol=1e-5)
    tries, inner = (np.array([row[place] for row in alone]) for place in (1, 2))
    assert max(tries) > 1
    (trips,) = lanes.trips().values()  # both loops are JAX's own, without a line
    np.testing.assert_array_equal(trips, tries + inner)
    # A try and a normal sample cost the same every time: x v² v, x², and the two bounds.
    totals = np.array(lanes.total().tolist())
    more = totals - totals[tries == 1].min()
    assert len(set(more[(tries == 2) & (inner == 2)])) == 1
    executed = count_flops(jax.vmap(jax.random.gamma))(keys, jnp.ones(60))
    assert executed.useful_fraction() < 1.0


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("gamma", (ALPHA,)),
        ("loggamma", (ALPHA,)),
        ("beta", (ALPHA, ALPHA)),
        ("t", (ALPHA,)),
        ("chisquare", (ALPHA,)),
        ("dirichlet", (ALPHA,)),
    ],
)
def test_distributions_that_stand_on_gamma(name, args):
    shape = () if name == "dirichlet" else (7,)
    draw = getattr(jax.random, name)
    value, count = jax.jit(value_and_flops(lambda key: draw(key, *args, shape=shape)))(KEY)
    np.testing.assert_allclose(value, draw(KEY, *args, shape=shape), rtol=1e-5)
    assert count.total() > 0 and max(count.trips().values()) >= 1


# Callbacks that only look


def test_callbacks_without_results_are_free_and_run():
    seen = []

    def fun(x):
        io_callback(lambda y: seen.append(float(y)), None, x)
        y = newton_sqrt(x)
        io_callback(lambda y: seen.append(float(y)), None, y, ordered=True)
        return y * 2.0

    value, count = jax.jit(value_and_flops(fun))(9.0)
    jax.effects_barrier()
    assert sorted(seen) == [float(newton_sqrt(9.0)), 9.0] and value == 2.0 * newton_sqrt(9.0)
    assert count.total() == count_flops(newton_sqrt)(9.0).total() + 1
    returns = lambda x: io_callback(np.sin, x, x)  # noqa: E731
    with pytest.raises(UnknownPrimitiveError, match="'io_callback' .at test_inlined.py"):
        eval_flops(returns, jnp.float32(1.0))


# Libraries that somebody else has imported


def test_primitives_of_known_libraries_are_known_by_identity(monkeypatch):
    module = ModuleType("equinox.somewhere")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    p, namesake = (
        primitive("select_if_vmap", lambda x: jnp.tanh(halve(x, limit=1.0))) for _ in "ab"
    )
    module.select_if_vmap_p = p
    value, count = value_and_flops(p.bind)(100.0)
    assert value == jnp.tanh(halve(100.0, limit=1.0))
    assert count.by("primitive") == {"div": 7, "tanh": 1}
    with pytest.raises(UnknownPrimitiveError, match="no counting rule for 'select_if_vmap'"):
        eval_flops(namesake.bind, 100.0)
    module.stranger_p = primitive("stranger", jnp.tanh)
    with pytest.raises(UnknownPrimitiveError, match="no counting rule for 'stranger'"):
        eval_flops(module.stranger_p.bind, 100.0)


def test_callbacks_that_report_are_free_by_the_module_that_defines_them(monkeypatch):
    module = ModuleType("equinox._errors")
    exec("def raises(x):\n    raise ValueError('negative')", vars(module))

    def fun(x, report=module.raises):
        fail = lambda x: jax.pure_callback(report, jax.ShapeDtypeStruct((), x.dtype), x)  # noqa: E731
        return lax.cond(x < 0, fail, lambda x: x, x) * 2.0

    with pytest.raises(UnknownPrimitiveError, match="'pure_callback' .*runs Python code"):
        eval_flops(fun, 1.0)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    count = value_and_flops(fun)(1.0)[1]
    assert count.total() == 1 and len(count.table) == 1  # no branch costs more than the other
    with pytest.raises(Exception, match="negative"):
        jax.block_until_ready(jax.jit(value_and_flops(fun))(-1.0))
    with pytest.raises(UnknownPrimitiveError, match="runs Python code"):
        eval_flops(lambda x: fun(x, lambda x: x), 1.0)


# Rules for vmap around loops


def test_a_rule_for_vmap_around_a_loop():
    @jax.custom_batching.custom_vmap
    def mapped(x):
        return newton_sqrt(x)

    @mapped.def_vmap
    def rule(size, batched, x):
        return jax.vmap(newton_sqrt)(x) * 1.0, True

    expected = count_flops(newton_sqrt)(9.0).total()
    for counted in (value_and_flops(mapped), jax.jit(value_and_flops(mapped))):
        value, count = counted(9.0)
        assert value == newton_sqrt(9.0) and count.total() == expected
    xs = jnp.array([4.0, 9.0])
    executed = value_and_flops(jax.vmap(mapped))(xs)[1].total()
    assert executed == value_and_flops(jax.vmap(newton_sqrt))(xs)[1].total() + 2
    with pytest.raises(FlopCountError, match=r"at test_inlined.py.* Count the map instead"):
        jax.vmap(value_and_flops(mapped))(xs)


# Source lines


def test_refusals_inside_of_jax_name_the_callers_line():
    strange = primitive("strange_inner_kernel", lambda x: x)
    # Traced by JAX on its own, an operation has no line; the call has, or the request to count.
    inner = jax.jit(strange.bind)
    with pytest.raises(UnknownPrimitiveError, match=r"\(at test_inlined.py:\d+:\d+ .*<lambda>"):
        eval_flops(lambda x: inner(x) + 1.0, 1.0)
    with pytest.raises(UnknownPrimitiveError, match=r"\(at test_inlined.py:\d+ \(test_refusals"):
        eval_flops(strange.bind, 1.0)
