"""Static arguments, and arguments that are not all arrays."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import FlopCountError, count_flops, eval_flops, value_and_flops

X = jnp.ones((4, 3))


def power(x, n, mode="times"):
    for _ in range(n):
        x = x * x if mode == "times" else x + x
    return x


@pytest.mark.parametrize(
    "options",
    [
        {"static_argnums": (1, 2)},
        {"static_argnames": ("n", "mode")},
        {"static_argnums": (-2, -1)},
        {"static_argnums": [1], "static_argnames": "mode"},
    ],
)
def test_static_arguments_as_in_jit(options):
    jitted = jax.jit(power, **options)
    for count in (
        count_flops,
        lambda f, **kw: lambda *a, **k: value_and_flops(f, **kw)(*a, **k)[1],
    ):
        for fun in (power, jitted):
            if options.get("static_argnums") != [1]:
                assert count(fun, **options)(X, 3, "times").total() == 3 * 12
            if fun is power or -1 not in options.get("static_argnums", ()):  # which jit refuses
                assert count(fun, **options)(X, 3, mode="plus").by("primitive") == {"add": 36}
    np.testing.assert_array_equal(value_and_flops(power, **options)(2.0 * X, 2, mode="plus")[0], 8)


def test_names_follow_from_positions_and_positions_from_names():
    assert count_flops(power, static_argnums=1)(X, n=3).total() == 36
    assert count_flops(power, static_argnames="n")(X, 3).total() == 36
    bound = functools.partial(power, mode="plus")
    assert count_flops(bound, static_argnames="n")(X, 3).by("primitive") == {"add": 36}
    anything = lambda *args, **options: power(*args, **options)  # noqa: E731
    assert count_flops(anything, static_argnums=1)(X, 3).total() == 36
    assert count_flops(anything, static_argnames="n")(X, n=3).total() == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"static_argnames": "m"},
            r"has no arguments \['m'\] to be static; it has \['x', 'n', 'mode'\]",
        ),
        ({"static_argnums": 7}, r"has no arguments \[7\]"),
        ({"static_argnums": "n"}, "expected integers and strings"),
        ({"static_argnames": 1.5}, "expected integers and strings"),
    ],
)
def test_static_arguments_that_are_not_there(options, message):
    for transform in (value_and_flops, count_flops):
        with pytest.raises(FlopCountError, match=f"{transform.__name__}: .*{message}"):
            transform(power, **options)


class Layer(NamedTuple):
    weight: jax.Array
    activation: object
    name: str
    rate: float


LAYER = Layer(jnp.ones((3, 5)), jnp.tanh, "dense", 0.5)


def apply(layer, x):
    assert layer.name == "dense" and type(layer.rate) is float
    y = layer.activation(x @ layer.weight)
    return y * layer.rate if layer.rate else y  # a number in a module is a number


def test_modules_are_arguments():
    expected = 2 * 4 * 3 * 5 + 20 + 20
    value, count = value_and_flops(apply)(LAYER, X)
    assert count.total() == eval_flops(apply, LAYER, X).total() == expected
    np.testing.assert_allclose(value, apply(LAYER, X), rtol=1e-6)
    shapes = LAYER._replace(weight=jax.ShapeDtypeStruct((3, 5), jnp.float32))
    assert eval_flops(apply, layer=shapes, x=X).total() == expected
    inside = jax.jit(lambda w: count_flops(apply)(LAYER._replace(weight=w), X))(LAYER.weight)
    assert inside.total() == expected
    lanes = jax.vmap(lambda x: count_flops(apply)(LAYER, x[None]))(X)
    assert lanes.total().tolist() == [expected // 4] * 4


def test_the_second_call_traces_nothing():
    traced = []

    def fun(layer, x, n, mode):
        traced.append(n)
        return apply(layer, x) * n

    counted = value_and_flops(fun, static_argnames=("n", "mode"))
    for mode, calls in (("a", 1), ("a", 1), ([X], 2), ([X], 2)):  # lists have no hash
        counted(LAYER, X, 2, mode)
        assert len(traced) == calls
    for layer in (LAYER._replace(rate=0.25), LAYER._replace(activation=jnp.sin)):
        value, _ = counted(layer, X, 2, "a")
        np.testing.assert_allclose(value, 2 * apply(layer, X), rtol=1e-6)
    counted(LAYER, X, 2, "a"), counted(LAYER, X, 3, "a")
    assert traced == [2, 2, 2, 2, 3]


def test_results_of_modules_keep_what_is_not_an_array():
    def step(layer, x):
        loss = lambda w: jnp.sum(apply(layer._replace(weight=w), x))  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(layer.weight)
        return layer._replace(weight=layer.weight - 0.1 * gradient), {"loss": value, "n": None}

    (layer, report), count = value_and_flops(step)(LAYER, X)
    assert layer.activation is jnp.tanh and layer.name == "dense" and layer.rate == 0.5
    np.testing.assert_allclose(layer.weight, step(LAYER, X)[0].weight, rtol=1e-6)
    assert isinstance(report["loss"], jax.Array) and report["n"] is None
    assert count.total("matmul") == 2 * 2 * 4 * 3 * 5


def test_loops_in_modules_are_counted_as_they_run():
    def halve(layer, x):
        return lax.while_loop(lambda x: x > 1.0, lambda x: x * layer.rate, x)

    assert value_and_flops(halve)(LAYER, 100.0)[1].total() == 7


def test_bare_functions_and_strings_are_to_be_declared():
    with pytest.raises(TypeError, match="Declare static arguments"):
        count_flops(lambda f, x: f(x))(jnp.tanh, X)
    assert count_flops(lambda f, x: f(x), static_argnums=0)(jnp.tanh, X).total() == 12


def test_numbers_in_trees_of_numbers_are_traced():
    # As jit traces them: a power that is known only at run time is no product.
    count = eval_flops(lambda p: p["x"] ** p["n"], {"x": 2.0, "n": 3})
    assert count.by("class") == {"transcendental": 1}


def test_equinox_modules():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 2, width_size=5, depth=1, key=jax.random.key(0))
    forward = 2 * (3 * 5 + 5 * 2) + 5 + 2 + 5  # products, biases, relu

    def apply(model, x):
        return jax.vmap(model)(x)

    for fun in (apply, eqx.filter_jit(apply)):
        value, count = value_and_flops(fun)(model, X)
        assert count.total() == 4 * forward
        np.testing.assert_allclose(value, apply(model, X), rtol=1e-6)
        assert eval_flops(fun, model, X).total() == 4 * forward
        assert eqx.filter_jit(count_flops(fun))(model, X).total() == 4 * forward
    assert count_flops(model)(X[0]).total() == forward

    @eqx.filter_jit
    def step(model, x):
        loss, gradient = eqx.filter_value_and_grad(lambda m: jnp.sum(apply(m, x) ** 2))(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient)), loss

    (updated, loss), count = value_and_flops(step)(model, X)
    assert updated.activation is model.activation
    np.testing.assert_allclose(loss, step(model, X)[1], rtol=1e-6)
    # Forward, gradients of both weights, and of the hidden layer.
    assert count.total("matmul") == 4 * 2 * (2 * (3 * 5 + 5 * 2) + 5 * 2)
    dropout = eqx.nn.Sequential([eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    run = lambda m, x: m(x, key=jax.random.key(1))  # noqa: E731
    assert count_flops(run, static_argnums=0)(dropout, X[0]).total("matmul") == 18
