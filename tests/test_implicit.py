"""Implicit derivatives of solutions, against finite differences and unrolled iterations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.flops import value_and_flops
from sparsecode_jax.prox import (
    elastic_net,
    group_soft_threshold,
    nonnegative_soft_threshold,
    soft_threshold,
)
from sparsecode_jax.solvers import solve_to_tolerance, with_implicit_gradient

from .contracts import N, as_numpy, docstring, sparse_problem

PENALTY = 0.05
WEIGHTS = np.linspace(0.03, 0.2, N)
OPERATORS = {
    "nonnegative": (nonnegative_soft_threshold, False, 0.0),
    "signed": (soft_threshold, True, 0.0),
    "elastic_net": (elastic_net(0.5), False, 0.5),
    "elastic_net_signed": (elastic_net(0.5, prox=soft_threshold), True, 0.5),
}


def draw(signed, penalty, seed=0):
    signals, dictionary, _ = as_numpy(sparse_problem(seed, signed=signed, num_samples=3))
    return tuple(jnp.asarray(x, jnp.float64) for x in (signals, dictionary, penalty))


def exact(prox, signals, dictionary, penalty):
    """Solve to rounding, by steps that can be differentiated one by one."""
    solver = solvers.fista(prox=prox, restart=solvers.gradient_restart)
    problem = Lasso(signals, dictionary, penalty, 0.19)
    return solvers.solve(solver, problem, num_steps=3000)


def scalar(codes):
    return jnp.sum(jnp.sin(2 * codes + 1))


def away_from_the_kink(args, codes, ridge):
    """Return how far the nearest atom is from joining or leaving the support."""
    signals, dictionary, penalty = (np.asarray(x) for x in args)
    inner = (signals - codes @ dictionary) @ dictionary.T - ridge * penalty * codes
    on = np.asarray(codes) != 0
    slack = np.where(on, np.abs(codes), penalty - np.maximum(inner, -penalty))
    return slack.min()


def regular(prox, signed, ridge, penalty):
    """Draw a problem in which no atom is about to join or leave; return it with its codes."""
    for seed in range(20):
        args = draw(signed, penalty, seed)
        codes = exact(prox, *args)
        if away_from_the_kink(args, codes, ridge) > 1e-3:
            return args, codes
    raise AssertionError("every problem has an atom about to join or leave")


@pytest.mark.parametrize(
    ("operator", "penalty"),
    [
        ("nonnegative", PENALTY),
        ("nonnegative", WEIGHTS),
        ("signed", WEIGHTS),
        ("elastic_net", PENALTY),
        ("elastic_net_signed", WEIGHTS),
    ],
)
def test_gradients(operator, penalty):
    """In signals, dictionary and penalty: central differences, and through every iteration."""
    prox, signed, ridge = OPERATORS[operator]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        args, codes = regular(prox, signed, ridge, penalty)
        assert np.count_nonzero(codes) >= 6

        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1, 2))
        def implicit(*args):
            solver = solvers.sparsa(prox=prox)
            return scalar(sc.sparse_encode(*args, solver=solver, tolerance=1e-14, step_size=0.19))

        loss = jax.jit(lambda *args: scalar(exact(prox, *args)))
        gradients = implicit(*args)
        unrolled = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
        chex.assert_trees_all_close(gradients, unrolled, rtol=1e-5, atol=1e-6)
        for i, (x, gradient) in enumerate(zip(args, gradients, strict=True)):
            direction = rng.normal(size=x.shape)
            sides = [
                float(loss(*args[:i], x + shift * direction, *args[i + 1 :]))
                for shift in (1e-6, -1e-6)
            ]
            slope = (sides[0] - sides[1]) / 2e-6
            assert abs(slope) > 1e-3
            assert float(jnp.sum(gradient * direction)) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("operator", ["signed", "elastic_net"])
def test_forward_mode_and_second_derivatives(operator):
    """Against those of every iteration; of all arguments together, along two directions."""
    prox, signed, ridge = OPERATORS[operator]
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        args, _ = regular(prox, signed, ridge, WEIGHTS)
        one, other = (tuple(jnp.asarray(rng.normal(size=x.shape)) for x in args) for _ in range(2))
        solver = solvers.sparsa(prox=prox)

        def implicit(*args):
            return scalar(sc.sparse_encode(*args, solver=solver, tolerance=1e-14, step_size=0.19))

        def along(loss):
            return lambda step, turn: loss(
                *(x + step * a + turn * b for x, a, b in zip(args, one, other, strict=True))
            )

        found, true = along(implicit), along(lambda *args: scalar(exact(prox, *args)))
        zeros = 0.0, 0.0
        first = jax.jit(jax.jacfwd(found, (0, 1)))(*zeros)
        chex.assert_trees_all_close(first, jax.jit(jax.jacfwd(true, (0, 1)))(*zeros), rtol=1e-5)
        chex.assert_trees_all_close(first, jax.jit(jax.grad(found, (0, 1)))(*zeros), rtol=1e-5)
        second = np.asarray(jax.jit(jax.hessian(true, (0, 1)))(*zeros))
        assert np.min(np.abs(second)) > 1
        backwards = jax.jacrev(jax.grad(found, (0, 1)), (0, 1))
        for hessian in (jax.hessian(found, (0, 1)), backwards):
            np.testing.assert_allclose(jax.jit(hessian)(*zeros), second, rtol=1e-4)


def test_vmap_and_a_bilevel_loss():
    """The penalty that brings codes closest to the truth, by gradients inside another gradient."""
    _, _, truth = as_numpy(sparse_problem(num_samples=3))
    with jax.enable_x64(True):
        signals, dictionary, _ = draw(False, PENALTY)
        penalties = jnp.asarray([0.02, 0.05, 0.3])

        def outer(log_penalty, encode):
            codes = encode(nonnegative_soft_threshold, signals, dictionary, jnp.exp(log_penalty))
            return jnp.sum((codes - truth) ** 2)

        def implicit(prox, *args):
            return sc.sparse_encode(*args, tolerance=1e-14, step_size=0.19)

        logs = jnp.log(penalties)
        gradient = jax.jit(jax.grad(functools.partial(outer, encode=implicit)))
        each = jnp.stack([gradient(x) for x in logs])
        mapped = jax.jit(jax.vmap(jax.grad(functools.partial(outer, encode=implicit))))(logs)
        exactly = jax.vmap(jax.grad(functools.partial(outer, encode=exact)))(logs)
    np.testing.assert_allclose(mapped, each, rtol=1e-6)
    np.testing.assert_allclose(mapped, exactly, rtol=1e-5)
    assert np.min(np.abs(mapped)) > 0.1


def test_leading_axes():
    with jax.enable_x64(True):
        signals, dictionary, penalty = draw(False, PENALTY)
        codes = exact(nonnegative_soft_threshold, signals, dictionary, penalty)

        def gradients(x, z):
            def loss(x, d, p):
                return scalar(with_implicit_gradient(Lasso(x, d, p, 0.1), z))

            return jax.grad(loss, argnums=(0, 1, 2))(x, dictionary, penalty)

        whole = gradients(signals, codes)
        stacked = gradients(signals[None, :, None], codes[None, :, None])
        single = [gradients(x, z) for x, z in zip(signals, codes, strict=True)]
    np.testing.assert_allclose(stacked[0][0, :, 0], whole[0], rtol=1e-5)
    chex.assert_trees_all_close(stacked[1:], whole[1:], rtol=1e-5)
    np.testing.assert_allclose(jnp.stack([s[0] for s in single]), whole[0], rtol=1e-5)
    for i in (1, 2):
        np.testing.assert_allclose(sum(s[i] for s in single), whole[i], rtol=1e-5, atol=1e-9)


def test_codes_are_returned_as_they_are_and_the_start_has_no_derivative():
    signals, dictionary, codes = sparse_problem()
    problem = Lasso(signals, dictionary, PENALTY, 0.1)
    np.testing.assert_array_equal(with_implicit_gradient(problem, codes), codes)
    by_codes = jax.grad(lambda z: scalar(with_implicit_gradient(problem, z)))(codes)
    np.testing.assert_array_equal(by_codes, 0)

    def loss(codes0, step_size):
        found, _ = solve_to_tolerance(
            solvers.sparsa(), problem._replace(step_size=step_size), tolerance=1e-4,
            max_steps=500, codes0=codes0,
        )  # fmt: skip
        return scalar(found)

    for gradient in jax.grad(loss, argnums=(0, 1))(codes, jnp.float32(0.1)):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.full_effort
def test_memory_does_not_grow_with_the_steps():
    signals, dictionary, _ = sparse_problem()

    def memory(max_steps):
        def loss(x, d, p):
            problem = Lasso(x, d, p, 0.1)
            return scalar(
                solve_to_tolerance(solvers.sparsa(), problem, tolerance=1e-5, max_steps=max_steps)[
                    0
                ]
            )

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(signals, dictionary, PENALTY)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert memory(10) == memory(1000) > 0


@pytest.mark.parametrize("prox", [nonnegative_soft_threshold, elastic_net(0.5)])
def test_the_gradient_of_zero_codes_is_zero(prox):
    signals, dictionary, _ = sparse_problem()

    def loss(*args):
        return scalar(sc.sparse_encode(*args, solver=solvers.sparsa(prox=prox), tolerance=1e-4))

    for penalty, x in ((jnp.float32(100), signals), (jnp.float32(PENALTY), 0 * signals)):
        for gradient in jax.grad(loss, argnums=(0, 1, 2))(x, dictionary, penalty):
            np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_duplicate_atoms_give_finite_gradients(dtype):
    signals, dictionary, _ = sparse_problem()
    twice = np.concatenate([dictionary, dictionary])
    with jax.enable_x64(dtype == "float64"):
        args = tuple(jnp.asarray(x, dtype) for x in (signals, twice, PENALTY))

        def loss(*args):
            codes = sc.sparse_encode(*args, tolerance=1e-5)
            return scalar(codes[:, :N] + codes[:, N:])

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
    chex.assert_tree_all_finite(gradients)
    assert max(float(jnp.max(jnp.abs(g))) for g in gradients) < 1e4


def test_groups_are_refused_and_run_without_a_derivative_of_their_own():
    signals, dictionary, codes = sparse_problem()
    problem = Lasso(signals, dictionary, PENALTY, 0.1)
    message = (
        r"with_implicit_gradient: got the penalty of GroupSoftThreshold\(.*\); "
        r".*elastic_net is expected\. Use fista or sparsa, and differentiate through solve\."
    )
    with pytest.raises(ValueError, match=message):
        with_implicit_gradient(problem, codes, prox=group_soft_threshold(2))


@pytest.mark.parametrize(("m", "n"), [(8, 16), (12, 7)])
def test_cost_of_a_derivative(m, n):
    """Of a zero cotangent without a step of conjugate gradients, and of another with some."""
    rng = np.random.default_rng(0)
    signals, dictionary = rng.normal(size=(5, m)), rng.normal(size=(n, m))
    codes = np.maximum(rng.normal(size=(5, n)), 0)

    def pulled(x, d, p, cotangent):
        _, pull = jax.vjp(lambda *a: with_implicit_gradient(Lasso(*a, 0.1), codes), x, d, p)
        return pull(cotangent)

    def products(cotangent):
        arrays = (signals, dictionary, PENALTY, cotangent)
        _, count = value_and_flops(pulled)(*(jnp.asarray(a, jnp.float32) for a in arrays))
        return count.total("matmul")

    per_step, once = 5 * (4 * m * n + 4 * n), 5 * (12 * m * n + 8 * n) + 8 * m * n
    assert products(np.zeros((5, n))) == once
    num_steps, rest = divmod(products(np.ones((5, n))) - once, per_step)
    assert rest == 0 and 1 <= num_steps <= 4 * min(m, n) + 20
    text = docstring(with_implicit_gradient)
    assert "4MN + 4N in products per signal and conjugate gradient step, at most" in text
    assert "4 min(M, N) + 20 of them; 12MN + 8N per signal and 8MN once" in text


def test_copies_of_atoms_and_supports_without_a_derivative_stay_bounded():
    """Where the solution is not unique the directions among dependent atoms are left out."""
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 3, num_samples=20, num_measurements=16, num_atoms=32
    )
    weights = jax.random.normal(jax.random.key(1), (2 * 32,))

    def loss(signals, dictionary):
        codes = sc.sparse_encode(signals, dictionary, 0.05, tolerance=1e-5)
        return jnp.sum(codes * weights[: codes.shape[-1]])

    plain = jax.grad(loss)(problem.signals, problem.dictionary)
    twice = jnp.concatenate([problem.dictionary, problem.dictionary])
    copied = jax.grad(loss)(problem.signals, twice)
    assert float(jnp.abs(copied).max()) < 5 * float(jnp.abs(plain).max())
    wide = sc.dictionaries.random(jax.random.key(2), num_atoms=36, num_measurements=4)
    dense = jax.grad(loss)(problem.signals[:, :4], wide)
    assert bool(jnp.all(jnp.isfinite(dense)))
