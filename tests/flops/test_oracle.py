"""The transform against an oracle that shares no code with it."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from sparsecode_jax.flops import CLASSES, value_and_flops

from . import oracle, programs

# The first sum of a product, into zero, is a convention and not an operation.
PERFORMED = {name: int(name != "dot_first") for name in CLASSES}


def check(fun, *args):
    outs, expected = oracle.count(fun, *args)
    value, count = value_and_flops(fun)(*args)
    assert count.by("class", PERFORMED) == expected
    for ours, theirs in zip(jax.tree.leaves(value), outs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_every_class_agrees_with_the_oracle(name):
    fun, *args = programs.PROGRAMS[name]
    check(fun, *args)


@pytest.mark.parametrize(
    ("fun", "inputs"),
    [
        (programs.ista_tolerance, programs.XS),
        (programs.nested, np.stack([programs.V, 0.1 * programs.V])),
        (programs.switch_in_scan, np.stack([programs.V, 0.1 * programs.V])),
        (programs.loop_in_condition, np.stack([programs.V, 0.1 * programs.V])),
    ],
)
def test_lanes_of_a_mapped_count_agree_with_the_oracle_lane_by_lane(fun, inputs):
    by_class = jax.vmap(value_and_flops(fun))(inputs)[1].by("class", PERFORMED)
    for lane, x in enumerate(inputs):
        _, expected = oracle.count(fun, x)
        assert {k: v[lane] for k, v in by_class.items() if v[lane]} == expected


def leaf(kind):
    return {
        "axpy": lambda c: c * 0.5 + 0.25,
        "tanh": lambda c: jax.numpy.tanh(c),
        "dot": lambda c: programs.W @ c * 0.1,
        "norm": lambda c: c / (1.0 + jax.numpy.sum(c * c)),
    }[kind]


def build(tree):
    kind, *children = tree
    if not children:
        return leaf(kind)
    inner = [build(child) for child in children]

    def chain(c):
        for f in inner:
            c = f(c)
        return c

    def loop(c):
        body = lambda s: (s[0] * 2.0, chain(s[1]))  # noqa: E731
        size = 0.3 + jax.numpy.abs(c[0])
        return lax.while_loop(lambda s: s[0] < 3.0, body, (size, c))[1]

    return {
        "scan": lambda c: lax.scan(lambda c, _: (chain(c), None), c, None, length=2)[0],
        "while": loop,
        "fori": lambda c: lax.fori_loop(0, 1 + (c[1] > 0).astype(int), lambda _, c: chain(c), c),
        "cond": lambda c: lax.cond(c[0] > 0.1, chain, lambda c: c - 0.125, c),
        "jit": jax.jit(chain),
        "remat": jax.checkpoint(chain),
    }[kind]


TREES = st.recursive(
    st.tuples(st.sampled_from(["axpy", "tanh", "dot", "norm"])),
    lambda inner: (
        st.tuples(st.sampled_from(["scan", "while", "fori", "cond", "jit", "remat"]), inner)
        | st.tuples(st.sampled_from(["while", "cond", "scan"]), inner, inner)
    ),
    max_leaves=4,
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(tree=TREES, batched=st.booleans())
def test_generated_nestings_agree_with_the_oracle(tree, batched):
    fun = build(tree)
    x = np.array([0.4, -0.7, 0.2], np.float32)
    if batched:
        check(jax.vmap(fun), np.stack([x, -x, 4 * x]))
    else:
        check(fun, x)
