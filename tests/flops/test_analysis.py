"""What the analysis of a program costs, and what it leaves behind."""

import gc
import weakref
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import eval_flops, rules, traffic, value_and_flops


def test_operations_that_are_alike_are_analyzed_once(monkeypatch):
    """Time is not tested: at 8,400 equations it is .06 of the tracing, where it was .5."""
    calls = Counter()

    def counted(name, rule):
        def call(*args):
            calls[name] += 1
            return rule(*args)

        return call

    monkeypatch.setattr(rules, "RULES", {n: counted(n, rule) for n, rule in rules.RULES.items()})

    def layers(x):
        for layer in range(100):
            with jax.named_scope(f"layer_{layer % 4}"):
                x = jnp.tanh(x) + x
        return x

    def fun(x, y):
        return layers(x), layers(y), lax.scan(lambda y, _: (layers(y), None), y, None, length=3)[0]

    count = eval_flops(fun, jnp.ones(8), jnp.ones(5))
    assert calls == {"tanh": 2, "add": 2}  # of two shapes
    assert count.by("scope") == {f"layer_{n}": 25 * 2 * (8 + 5 + 3 * 5) for n in range(4)}


def test_operations_that_look_alike_are_not_taken_for_each_other():
    sums = lambda x: (jnp.cumsum(x, 0), jnp.cumsum(x, 1), jnp.cumsum(x.astype("bfloat16"), 1))  # noqa: E731
    count = eval_flops(sums, jnp.ones((3, 5)))
    assert count.by("dtype") == {"float32": 2 * 5 + 4 * 3, "bfloat16": 4 * 3}
    count = eval_flops(lambda x: jnp.sum(x) + jnp.sum(x[1:]), jnp.ones((3, 5)))
    assert count.by("class") == {"reduce": 14 + 9, "elementwise": 1}
    squares = eval_flops(lambda s: (s * np.float32(2), s * s), np.float32(1))
    assert squares.bytes_moved()[1] == 4 * (2 + 3)  # a literal has no bytes


def test_values_between_plain_operations_are_not_followed(monkeypatch):
    made = []

    class Value(traffic._Value):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(traffic, "_Value", Value)

    def fun(x):
        for _ in range(100):
            x = jnp.tanh(x) * 2.0
        return x

    assert eval_flops(fun, jnp.ones(8)).bytes_moved()[0] == 2 * 32
    assert len(made) == 2  # what comes in, what goes out


COUNTED = {
    "eval_flops": lambda fun, x: eval_flops(fun, x),
    "value_and_flops": lambda fun, x: value_and_flops(fun)(x)[1],
    "jit(value_and_flops)": lambda fun, x: jax.jit(value_and_flops(fun))(x)[1],
    "value_and_flops(jit)": lambda fun, x: value_and_flops(jax.jit(fun))(x)[1],
}


@pytest.mark.parametrize("counted", COUNTED.values(), ids=COUNTED)
def test_counting_keeps_nothing_alive(counted):
    def run():
        array = jnp.arange(1.0, 5.0)

        def fun(x):
            y = lax.while_loop(lambda y: y[0] < 9.0, lambda y: y + array, x)
            return lax.cond(y[1] > 0, jnp.sin, lambda y: 2.0 * y * array, y)

        return counted(fun, jnp.ones(4)), weakref.ref(fun), weakref.ref(array)

    count, *held = run()
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    assert len(count.table) == 4  # which is all that is left
