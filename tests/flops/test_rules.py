"""Rules one by one, against closed forms, and their coverage of JAX's primitives."""

import subprocess
import sys
from math import log2

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

from sparsecode_jax.flops import (
    CLASSES,
    FlopCountError,
    UnknownPrimitiveError,
    eval_flops,
    register_flop_expansion,
    register_flop_rule,
    rules,
    value_and_flops,
)
from sparsecode_jax.flops.analyze import STRUCTURAL
from sparsecode_jax.flops.instrument import HANDLERS

RAW = dict.fromkeys(CLASSES, 1)
f = jax.ShapeDtypeStruct
F32, C64, I32 = jnp.float32, jnp.complex64, jnp.int32

PLACES = {
    "rule": rules.RULES,
    "collective": rules.COLLECTIVES,
    "inlined": rules.INLINED,
    "free": rules.FREE,
    "opaque": rules.OPAQUE,
    "structural": STRUCTURAL,
}


def test_every_lowered_primitive_has_exactly_one_place():
    # In a fresh interpreter, for other imports register primitives of their own.
    program = (
        "from sparsecode_jax.flops import _compat; from types import SimpleNamespace as Eqn; "
        "print(*(_compat.name_of(Eqn(primitive=p)) or f'foreign {p.name}'"
        " for p in _compat.lowered_primitives()), sep='\\n')"
    )
    listed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names = listed.stdout.splitlines()
    assert len(names) > 200
    places = {n: [place for place, known in PLACES.items() if n in known] for n in names}
    assert {name: where for name, where in places.items() if len(where) != 1} == {}


def test_every_handler_has_an_analysis():
    assert set(HANDLERS) <= set(STRUCTURAL)


CASES = {
    # name: (function, shapes, operations by class)
    "dot": (lambda a, b: a @ b, [(3, 4), (4, 5)], {"dot_mul": 60, "dot_add": 45, "dot_first": 15}),
    "batched dot": (
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
        [(2, 3, 4), (2, 4, 5)],
        {"dot_mul": 120, "dot_add": 90, "dot_first": 30},
    ),
    "ragged dot": (
        lambda a, b: lax.ragged_dot(a, b, jnp.array([1, 0, 6])),
        [(7, 4), (3, 4, 5)],
        {"dot_mul": 140, "dot_add": 105, "dot_first": 35},
    ),
    "gradient of a ragged dot": (  # the groups divide the rows, which are summed over
        lambda a, b: jax.vjp(lambda b: lax.ragged_dot(a, b, jnp.array([2, 1, 4])), b)[1](
            jnp.ones((7, 5))
        ),
        [(7, 4), (3, 4, 5)],
        {"dot_mul": 140, "dot_add": 80, "dot_first": 60},
    ),
    "outer product": (jnp.outer, [3, 4], {"elementwise": 12}),
    "empty contraction": (lambda a, b: a @ b, [(3, 0), (0, 5)], {}),
    "conv valid": (
        lambda x, w: lax.conv(x, w, (1, 1), "VALID"),
        [(2, 3, 8, 8), (5, 3, 3, 3)],
        {"dot_mul": 2 * 5 * 36 * 27, "dot_add": 2 * 5 * 36 * 26, "dot_first": 360},
    ),
    # Along an axis of 4 with window 3 the taps inside are 2 + 3 + 3 + 2.
    "conv same": (
        lambda x, w: lax.conv(x, w, (1, 1), "SAME"),
        [(1, 1, 4, 4), (1, 1, 3, 3)],
        {"dot_mul": 100, "dot_add": 84, "dot_first": 16},
    ),
    "conv beyond its input": (
        lambda x, w: lax.conv_general_dilated(x, w, (1,), [(2, 2)]),
        [(1, 1, 1), (1, 1, 1)],
        {"dot_mul": 1, "dot_first": 1},
    ),
    "depthwise conv": (
        lambda x, w: lax.conv_general_dilated(x, w, (1,), "VALID", feature_group_count=4),
        [(1, 4, 5), (4, 1, 2)],
        {"dot_mul": 4 * 4 * 2, "dot_add": 16, "dot_first": 16},
    ),
    "sum": (lambda x: x.sum(0), [(3, 4)], {"reduce": 8}),
    "max of all": (jnp.max, [(3, 4)], {"reduce": 11}),
    "cumsum": (lambda x: jnp.cumsum(x, 1), [(64, 256)], {"reduce": 16_320}),
    "cumlogsumexp": (
        lambda x: lax.cumlogsumexp(x),
        [5],
        {"reduce": 12, "transcendental": 8, "compare": 8},
    ),
    "sort": (lambda x: lax.sort(x), [(2, 10)], {"search": 2 * 10 * 4}),
    "top_k": (lambda x: lax.top_k(x, 5)[0], [(2, 10)], {"search": 2 * 10 * 3}),
    "top_1": (lambda x: lax.top_k(x, 1)[0], [(2, 10)], {"search": 2 * 9}),
    "argmax": (lambda x: jnp.argmax(x, 1), [(2, 10)], {"search": 18}),
    "scatter-add": (lambda x, u: x.at[jnp.array([1, 1, 2])].add(u), [4, 3], {"scatter": 3}),
    "scatter-max": (lambda x, u: x.at[jnp.array([1, 1, 2])].max(u), [4, 3], {"scatter": 3}),
    "scatter-apply": (
        lambda x: x.at[:2].apply(lambda v: jnp.exp(v) + 1.0),
        [4],
        {"transcendental": 2, "elementwise": 2},
    ),
    "gather": (lambda x: x[jnp.array([0, 2])], [4], {}),
    "layout": (lambda x: jnp.pad(x.T[::-1], 1).reshape(-1), [(3, 4)], {}),
    "x**0": (lambda x: lax.integer_pow(x, 0), [3], {}),
    "x**1": (lambda x: lax.integer_pow(x, 1), [3], {}),
    "x**2": (lambda x: lax.integer_pow(x, 2), [3], {"elementwise": 3}),
    "x**15": (lambda x: lax.integer_pow(x, 15), [3], {"elementwise": 18}),
    "x**-4": (lambda x: lax.integer_pow(x, -4), [3], {"elementwise": 9}),
    "pow": (lambda x: x**0.3, [3], {"transcendental": 3}),
    "erf": (lax.erf, [3], {"transcendental": 3}),
    "clamp": (lambda x: lax.clamp(0.0, x, 1.0), [3], {"elementwise": 3}),
    "average pool": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (1,), "SAME"),
        [5],
        {"reduce": 4},
    ),
    "general reduce": (
        lambda x: lax.reduce(x, np.float32(1), lambda a, b: a * b + 1.0, (0,)),
        [(5, 2)],
        {"elementwise": 20},
    ),
    "max pool gradient": (
        jax.grad(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID").sum()),
        [6],
        {"search": 3, "scatter": 3},
    ),
    "cholesky": (
        lambda a: lax.linalg.cholesky(a, symmetrize_input=False),
        [(2, 4, 4)],
        {"nominal": 2 * 30, "compare": 2 * 16},
    ),
    "triangular solve": (
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
        [(64, 64), (64, 1)],
        {"nominal": 4_096},
    ),
    "right triangular solve": (
        lambda a, b: lax.linalg.triangular_solve(a, b, unit_diagonal=True),
        [(4, 4), (3, 4)],
        {"nominal": 3 * 12},
    ),
    "lu": (lax.linalg.lu, [(3, 3)], {"nominal": 2 * 5 + 1 * 3}),
    "thin svd": (
        lambda a: jnp.linalg.svd(a, full_matrices=False),
        [(5, 8, 4)],
        {"nominal": 5 * (6 * 8 * 16 + 20 * 64)},
    ),
    "singular values": (
        lambda a: jnp.linalg.svd(a, compute_uv=False),
        [(4, 8)],
        {"nominal": 2 * 8 * 16 + 2 * 64},
    ),
    "eigh": (
        lambda a: lax.linalg.eigh(a),
        [(3, 5, 5)],
        {"nominal": 3 * 9 * 125, "elementwise": 3 * 2 * 25},
    ),
    "thin qr": (
        lambda a: jnp.linalg.qr(a),
        [(6, 3)],
        {"nominal": (2 * 6 * 9 - 18) + (4 * 6 * 9 - 2 * 9 * 9 + 36)},
    ),
    "tridiagonal solve": (lax.linalg.tridiagonal_solve, [4, 4, 4, (4, 1)], {"nominal": 8 * 4 - 7}),
    "rfft": (jnp.fft.rfft, [(3, 8)], {"nominal": round(3 * 2.5 * 8 * 3)}),
    "irfft": (
        lambda x: jnp.fft.irfft(x + 0j, 6)[0],
        [4],
        {"nominal": round(2.5 * 6 * log2(6)), "elementwise": 8},
    ),
    "random numbers": (lambda k: jax.random.bits(jax.random.key(0), (4,)), [1], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_form(name):
    fun, shapes, expected = CASES[name]
    avals = [f(s if isinstance(s, tuple) else (s,), F32) for s in shapes]
    assert eval_flops(fun, *avals).by("class", RAW) == expected


@pytest.mark.parametrize(
    ("fun", "expected"),
    [
        (lambda x: x + x, 2 * 4),
        (lambda x: x * x, 6 * 4),
        (lambda x: x / x, 11 * 4),
        (lambda x: x.sum(), 2 * 3),
        (lambda x: x @ x, 8 * 4),
        (jnp.exp, 4),
        (jnp.fft.fft, 5 * 4 * 2),
        (jnp.real, 0),
    ],
)
def test_complex_numbers(fun, expected):
    assert eval_flops(fun, f((4,), C64)).total() == expected


def test_complex_factorizations_cost_four_times_as_much():
    fun = lambda a: lax.linalg.cholesky(a, symmetrize_input=False)  # noqa: E731
    totals = [eval_flops(fun, f((4, 4), dtype)).total() for dtype in (F32, C64)]
    assert totals == [30, 120]


@pytest.mark.parametrize(
    "fun", [lambda x: x * x + 1, lambda x: x @ x, jnp.cumsum, jnp.sort, lambda x: x > 2, jnp.argmax]
)
def test_integers_and_booleans_cost_nothing(fun):
    for dtype in (I32, jnp.uint8, jnp.bool_):
        if dtype == jnp.bool_ and fun is jnp.cumsum:
            continue
        assert eval_flops(fun, f((4,), dtype)).total("all") == 0


def primitive(name):
    p = Primitive(name)
    p.def_abstract_eval(lambda x, **_: x)
    p.def_impl(lambda x, **_: x * 2)
    return p


def test_an_unknown_primitive_raises_and_says_how_to_register_it():
    strange = primitive("strange_kernel")

    def fun(x):
        with jax.named_scope("here"):
            return strange.bind(x)

    message = (
        r"cannot count 'strange_kernel' \(at test_rules.py:\d+.*, scope 'here'\): there is no "
        r"counting rule .* not taken to be zero.*register_flop_rule.*register_flop_expansion"
    )
    with pytest.raises(UnknownPrimitiveError, match=message):
        value_and_flops(fun)(jnp.ones(3))
    value, count = value_and_flops(fun, on_unknown="defer")(jnp.ones(3))
    assert value.tolist() == [2.0] * 3
    with pytest.raises(UnknownPrimitiveError, match=message):
        count.total()
    assert "strange_kernel" in str(count)


def test_registered_rules_and_expansions_are_used():
    ruled, expanded = primitive("ruled_kernel"), primitive("expanded_kernel")
    with pytest.raises(UnknownPrimitiveError):
        eval_flops(ruled.bind, jnp.ones(3))
    register_flop_rule(ruled, lambda ins, outs, params: {"elementwise": 2 * ins[0].shape[0]})
    assert eval_flops(ruled.bind, jnp.ones(3)).by("primitive") == {"ruled_kernel": 6}
    register_flop_expansion("expanded_kernel", lambda x, *, times: jnp.tanh(x) * times + 1.0)
    count = eval_flops(lambda x: expanded.bind(x, times=2.0), jnp.ones(3))
    assert count.by("class") == {"transcendental": 3, "elementwise": 6}
    for bad in (2.5, -1):
        register_flop_rule(ruled, lambda ins, outs, params, bad=bad: {"elementwise": bad})
        with pytest.raises(FlopCountError, match="'ruled_kernel' returned .*non-negative integers"):
            eval_flops(ruled.bind, jnp.ones(3))
    register_flop_rule(ruled, lambda ins, outs, params: {"elementary": 1})
    with pytest.raises(FlopCountError, match="expected non-negative integers under names among"):
        eval_flops(ruled.bind, jnp.ones(3))


@pytest.mark.parametrize(
    ("fun", "reason"),
    [
        (
            lambda x: jax.pure_callback(np.sin, x, x),
            "'pure_callback' runs Python code on the host",
        ),
    ],
)
def test_opaque_operations_raise_with_their_reason(fun, reason):
    with pytest.raises(UnknownPrimitiveError, match=reason):
        eval_flops(fun, jnp.ones(3))


def test_printing_and_checkpoint_names_are_free():
    def fun(x):
        jax.debug.print("{}", x)
        return checkpoint_name(x, "x")

    assert eval_flops(fun, jnp.ones(3)).total("all") == 0


def test_calls_of_other_kinds_are_counted():
    @jax.custom_batching.custom_vmap
    def mapped(x):
        return jnp.sin(x)

    mapped.def_vmap(lambda size, batched, x: (jnp.sin(x), batched[0]))
    linear = lambda x: jax.custom_derivatives.linear_call(  # noqa: E731
        lambda r, x: r * x, lambda r, t: r * t, 2.0, x
    )
    composed = lax.composite(lambda x: jnp.tanh(x), name="test.tanh")
    for fun in (mapped, linear, composed):
        assert eval_flops(fun, jnp.ones(3)).total() == 3
