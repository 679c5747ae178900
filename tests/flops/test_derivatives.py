"""Implicit differentiation: derivative rules around data-dependent loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import FlopCountError, count_flops, value_and_flops

from . import oracle
from .test_oracle import PERFORMED

RATE, TOLERANCE = 0.25, 1e-4
A = np.array([[1.0, 0.2], [0.2, 0.5]], np.float32)
X = np.array([1.0, 0.3], np.float32)


def iterate(fun, start):
    """Apply a contraction until it moves by less than a tolerance."""
    moving = lambda s: jnp.max(jnp.abs(s[1] - s[0])) > TOLERANCE  # noqa: E731
    return lax.while_loop(moving, lambda s: (s[1], fun(s[1])), (start, fun(start)))[1]


def descent(a, x, z):
    return z - RATE * (a @ z - x)


@jax.custom_vjp
def solve(a, x):
    return iterate(lambda z: descent(a, x, z), jnp.zeros(2))


def forward(a, x):
    z = solve(a, x)
    return z, (a, x, z)


def backward(kept, cotangent):
    # The adjoint fixed point, u = cotangent + (d descent / dz)^T u, runs a loop of its own.
    a, x, z = kept
    step = jax.vjp(lambda z: descent(a, x, z), z)[1]
    adjoint = iterate(lambda u: cotangent + step(u)[0], cotangent)
    return jax.vjp(lambda a, x: descent(a, x, z), a, x)[1](adjoint)


solve.defvjp(forward, backward)


def loss(a, x):
    return jnp.sum(solve(a, x) ** 2)


def python_trips(fun, start):
    previous, current, trips = start, fun(start), 0
    while np.max(np.abs(current - previous)) > TOLERANCE:
        previous, current, trips = current, fun(current), trips + 1
    return current, trips


def test_the_gradient_of_a_fixed_point_counts_both_loops():
    gradient, count = value_and_flops(jax.grad(loss, argnums=1))(A, X)
    np.testing.assert_array_equal(gradient, jax.grad(loss, argnums=1)(A, X))
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(gradient, 2 * inverse.T @ inverse @ X, atol=1e-2)
    z, first = python_trips(lambda z: z - np.float32(RATE) * (A @ z - X), np.zeros(2, np.float32))
    step = lambda u: 2 * z + u - np.float32(RATE) * (A.T @ u)  # noqa: E731
    _, second = python_trips(step, 2 * z)
    assert first != second
    assert sorted(count.trips().values()) == sorted([first, second])
    # A product of 2 x 2 takes 8; both loops apply their step once before they start.
    assert count.total("matmul") == 8 * (first + 1) + 8 * (second + 1)


@pytest.mark.parametrize("fun", [jax.grad(loss, (0, 1)), jax.value_and_grad(loss), jax.jit(loss)])
def test_implicit_derivatives_agree_with_the_oracle(fun):
    _, expected = oracle.count(fun, A, X)
    assert value_and_flops(fun)(A, X)[1].by("class", PERFORMED) == expected


def test_lanes_of_implicit_derivatives():
    scales = jnp.array([0.1, 1.0, 10.0])
    each = [count_flops(jax.grad(loss, 1))(A, s * X) for s in scales]
    lanes = jax.vmap(lambda s: count_flops(jax.grad(loss, 1))(A, s * X))(scales)
    assert lanes.total("all").tolist() == [count.total("all") for count in each]
    executed = count_flops(jax.vmap(lambda s: jax.grad(loss, 1)(A, s * X)))(scales)
    longest = [max(trips) for trips in zip(*(c.trips().values() for c in each), strict=True)]
    assert sorted(executed.trips().values()) == sorted(longest)


def test_differentiating_through_the_counter_names_the_way_out():
    for fun in (loss, jax.jit(loss)):
        with pytest.raises(FlopCountError, match=r"value_and_flops\(jax.grad\(fun\)\)"):
            jax.grad(value_and_flops(fun), has_aux=True)(A, X)
    # Where no derivative is asked for, loops count.
    detached = lambda a, x: jnp.sum(x * solve(a, lax.stop_gradient(x)))  # noqa: E731
    gradient, count = jax.grad(value_and_flops(detached), argnums=1, has_aux=True)(A, X)
    np.testing.assert_array_equal(gradient, solve(A, X))
    assert list(count.trips().values())[0] > 0
