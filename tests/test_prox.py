"""Every proximal operator against brute force, and the laws of proximal operators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax import prox
from sparsecode_jax.flops import eval_flops

from .contracts import PROXES, docstring

proxes = pytest.mark.parametrize("case", PROXES)


@proxes
def test_minimises_its_objective_by_brute_force(case):
    rng = np.random.default_rng(0)
    grid = np.linspace(-6, 6, 240_001)  # spacing 5e-5
    for x, t in zip(rng.normal(scale=2, size=50), np.abs(rng.normal(size=50)), strict=True):
        objective = 0.5 * (grid - x) ** 2 + t * case.penalty(grid)
        best = grid[np.argmin(objective)]
        assert float(case.prox(jnp.float32(x), jnp.float32(t))) == pytest.approx(best, abs=6e-5)


@proxes
def test_equals_the_formula_in_numpy(case):
    x = np.random.default_rng(1).normal(size=(100, 7)).astype(np.float32)
    t = np.abs(np.random.default_rng(2).normal(size=7)).astype(np.float32)
    chex.assert_trees_all_close(case.prox(x, t), case.reference(x, t), atol=1e-6)


@proxes
def test_is_firmly_non_expansive(case):
    rng = np.random.default_rng(3)
    x, y = rng.normal(scale=3, size=(2, 10_000))
    t = np.abs(rng.normal(size=10_000))
    with jax.enable_x64(True):
        moved = np.asarray(case.prox(x, t)) - np.asarray(case.prox(y, t))
    assert moved.dtype == np.float64
    assert np.all(moved**2 <= moved * (x - y) + 1e-12)
    assert np.all(np.abs(moved) <= np.abs(x - y) + 1e-12)


@proxes
def test_threshold_zero_projects_onto_the_feasible_set(case):
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    feasible = np.where(np.isfinite(case.penalty(x)), x, 0)
    np.testing.assert_array_equal(case.prox(x, 0.0), feasible)


@proxes
def test_below_the_threshold_codes_are_exactly_zero(case):
    x = np.linspace(-1, 1, 1001, dtype=np.float32)
    np.testing.assert_array_equal(case.prox(x, jnp.float32(1)), np.zeros_like(x))


@proxes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_keeps_dtype_and_shape(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
        for threshold in (0.5, jnp.asarray(0.5, dtype), jnp.full(4, 0.5, dtype)):
            out = case.prox(x, threshold)
            assert (out.dtype, out.shape) == (x.dtype, x.shape)


@proxes
def test_gradients_are_finite_everywhere(case):
    x = jnp.asarray([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    for t in (0.0, 1.0):
        chex.assert_tree_all_finite(
            jax.grad(lambda x, t: jnp.sum(case.prox(x, t)), argnums=(0, 1))(x, t)
        )


@proxes
def test_gradient_is_one_above_the_threshold_and_zero_below(case):
    gradient = jax.vmap(jax.grad(case.prox), in_axes=(0, None))(jnp.asarray([0.3, 2.0]), 1.0)
    np.testing.assert_array_equal(gradient, [0, 1])


@pytest.mark.parametrize(
    ("fn", "text", "operations"),
    [
        (prox.nonnegative_soft_threshold, "2 arithmetic operations an entry", 2),
        (prox.soft_threshold, "3 arithmetic operations an entry, and one negation", 3),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_cost(fn, text, operations, shape):
    count = eval_flops(fn, jnp.zeros(shape), 0.1)
    assert count.total("arithmetic") == operations * np.prod(shape)
    assert text in docstring(fn)
