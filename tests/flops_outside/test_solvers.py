"""Lineax, Optimistix and Diffrax: agreement with their own statistics and with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax.flops import count_flops, value_and_flops
from sparsecode_jax.flops.rules_linalg import (
    cholesky_flops,
    lu_flops,
    qr_flops,
    svd_flops,
)

REASON = 'install ".[flops-outside]"'
lx = pytest.importorskip("lineax", reason=REASON)
optx = pytest.importorskip("optimistix", reason=REASON)
dfx = pytest.importorskip("diffrax", reason=REASON)

# Lineax

N = 6
MATRIX = jnp.diag(jnp.arange(1.0, N + 1)) + 0.1
VECTOR = jnp.arange(1.0, N + 1)


def solve(solver, *tags):
    def run(matrix, vector):
        found = lx.linear_solve(lx.MatrixLinearOperator(matrix, tags), vector, solver)
        return found.value, found.stats

    return run


DIRECT = {
    "LU": (lx.LU(), (), lu_flops(N, N) + N * (N - 1) + N * N),
    "QR": (lx.QR(), (), qr_flops(N, N) + 2 * N * N + N * N),  # Q'b by reflectors
    "Cholesky": (lx.Cholesky(), (lx.positive_semidefinite_tag,), cholesky_flops(N) + 2 * N * N),
    "SVD": (lx.SVD(), (), svd_flops(N, N, vectors=True, full=False)),
    "chosen": (lx.AutoLinearSolver(well_posed=True), (), lu_flops(N, N) + N * (N - 1) + N * N),
    "triangular": (lx.Triangular(), (lx.lower_triangular_tag,), N * N),
}


@pytest.mark.parametrize("name", DIRECT)
def test_direct_solvers_are_their_factorization_and_their_substitutions(name):
    solver, tags, expected = DIRECT[name]
    matrix = jnp.tril(MATRIX) if name == "triangular" else MATRIX
    (value, _), count = jax.jit(value_and_flops(solve(solver, *tags)))(matrix, VECTOR)
    np.testing.assert_allclose(matrix @ value, VECTOR, rtol=1e-4, atol=1e-4)
    assert count.total({"nominal": 1}) == expected


def test_lanes_and_derivatives_of_a_direct_solver():
    run = lambda a, b: solve(lx.LU())(a, b)[0]  # noqa: E731
    once = count_flops(run)(MATRIX, VECTOR).total({"nominal": 1})
    lanes = jnp.stack([MATRIX, MATRIX + 1.0, MATRIX.T])
    executed = count_flops(jax.vmap(run, (0, None)))(lanes, VECTOR)
    assert executed.total({"nominal": 1}) == 3 * once
    substitutions = N * (N - 1) + N * N
    gradient = count_flops(jax.grad(lambda b: jnp.sum(run(MATRIX, b))))(VECTOR)
    # Linear in the right-hand side: one factorization, transposed substitutions alone.
    assert gradient.total({"nominal": 1}) in (once, once + substitutions)


INNER, PRODUCT = 2 * N, 2 * N * N  # of two vectors; of a matrix and a vector
ITERATIVE = {
    # name: solver, tags, products at the start, products of a step
    "CG": (lx.CG, (lx.positive_semidefinite_tag,), PRODUCT + INNER, PRODUCT + 2 * INNER),
    "BiCGStab": (lx.BiCGStab, (), PRODUCT, 2 * PRODUCT + 4 * INNER),
}


@pytest.mark.parametrize("tolerance", [0.9, 1e-1, 1e-2, 1e-5])
@pytest.mark.parametrize("name", ITERATIVE)
def test_iterative_solvers_agree_with_their_own_statistics(name, tolerance):
    solver, tags, start, step = ITERATIVE[name]
    run = solve(solver(rtol=tolerance, atol=tolerance), *tags)
    (_, stats), count = jax.jit(value_and_flops(run))(MATRIX, VECTOR)
    steps = int(stats["num_steps"])
    assert list(count.trips().values()) == [steps]
    assert count.total("matmul") == start + step * steps


def test_lanes_of_an_iterative_solver_are_useful_work():
    run = lambda b: solve(lx.CG(1e-3, 1e-3), lx.positive_semidefinite_tag)(MATRIX, b)[0]  # noqa: E731
    lanes = jnp.stack([VECTOR, jnp.ones(N), MATRIX[:, 0]])
    each = jax.vmap(count_flops(run))(lanes).total().tolist()
    assert each == [count_flops(run)(b).total() for b in lanes] and len(set(each)) > 1


# Optimistix


def target(y, _):
    return jnp.cosh(y) * 0.1 - y - 1.0


Y = jnp.linspace(-1.0, 1.0, N)


def counted(run, y=Y):
    found, count = jax.jit(value_and_flops(run))(y)
    return int(found), count


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_newton_factorizes_once_a_step(tolerance):
    def run(y):
        found = optx.root_find(target, optx.Newton(tolerance, tolerance), y)
        return found.stats["num_steps"]

    steps, count = counted(run)
    assert list(count.trips().values()) == [steps] and steps > 1
    assert count.by("primitive")["lu"] == steps * lu_flops(N, N)
    assert count.by("primitive")["triangular_solve"] == steps * (N * N + N * (N - 1))
    assert count.by("primitive")["cosh"] == steps * N


def test_least_squares_evaluates_as_often_as_it_says():
    def evaluations(solver, y):
        calls = []

        def residual(y, _):
            jax.debug.callback(lambda _: calls.append(1), y[0])
            return jnp.cosh(y) * jnp.roll(y, 1) - 2.0

        def run(y):
            found = optx.least_squares(residual, solver, y, max_steps=100, throw=False)
            return found.stats["num_steps"]

        steps, count = counted(run, y)
        jax.effects_barrier()
        return steps, len(calls), count

    for solver in (optx.LevenbergMarquardt(1e-5, 1e-5), optx.GaussNewton(1e-5, 1e-5)):
        steps, calls, count = evaluations(solver, Y + 2.0)
        assert count.by("primitive")["cosh"] == calls * N >= steps * N > 2 * N
        assert list(count.trips().values()) == [steps]
        if isinstance(solver, optx.LevenbergMarquardt):
            assert count.by("primitive")["geqrf"] == steps * qr_flops(2 * N, N)
        else:
            assert count.by("primitive")["lu"] == steps * lu_flops(N, N)


@pytest.mark.parametrize("solver", [optx.BFGS, optx.NonlinearCG, optx.NelderMead])
def test_minimizers_evaluate_as_often_as_they_did(solver):
    calls = []

    def objective(y, _):
        jax.debug.callback(lambda _: calls.append(1), y[0])
        return jnp.sum(jnp.cosh(y - 0.5)) + jnp.sum(y[1:] * y[:-1]) ** 2

    def run(y):
        found = optx.minimise(objective, solver(1e-3, 1e-3), y, max_steps=400, throw=False)
        return found.stats["num_steps"]

    steps, count = counted(run)
    jax.effects_barrier()
    assert count.by("primitive")["cosh"] == len(calls) * N > 3 * N
    assert sum(count.trips().values()) >= steps > 2


def test_fixed_points_and_bisection():
    def fixed(y):
        found = optx.fixed_point(lambda y, _: jnp.cos(y), optx.FixedPointIteration(1e-4, 1e-4), y)
        return found.stats["num_steps"]

    steps, count = counted(fixed)
    assert count.by("primitive")["cos"] == steps * N

    def bisection(y):
        solver = optx.Bisection(1e-5, 1e-5)
        options = {"lower": -3.0, "upper": 3.0}
        found = optx.root_find(lambda y, _: jnp.sinh(y) - 0.3, solver, y, options=options)
        return found.stats["num_steps"]

    steps, count = counted(bisection, jnp.float32(0.0))
    assert count.by("primitive")["sinh"] == steps + 2 and steps > 10  # and both ends


def test_an_implicit_derivative_solves_once_more():
    def root(a):
        fun = lambda y, a: jnp.cosh(y) * 0.1 - y - a  # noqa: E731
        return optx.root_find(fun, optx.Newton(1e-5, 1e-5), Y, a).value.sum()

    plain, gradient = count_flops(root)(1.0), count_flops(jax.grad(root))(1.0)
    assert gradient.trips().keys() and sum(gradient.trips().values()) == sum(plain.trips().values())
    more = gradient.by("primitive")["lu"] - plain.by("primitive")["lu"]
    assert more == lu_flops(N, N)


# Diffrax

SOLVERS = {
    # name: stages, and whether the first one of a step is the last one of the step before
    "Tsit5": (dfx.Tsit5(), 7, True),
    "Dopri5": (dfx.Dopri5(), 7, True),
    "Bosh3": (dfx.Bosh3(), 4, True),
    "Heun": (dfx.Heun(), 2, False),
}


class Field:
    """A vector field that counts on the host how often it is evaluated."""

    def __init__(self):
        self.calls = 0

    def __call__(self, t, y, args):
        jax.debug.callback(self.seen, y[0])
        return -jnp.cosh(y) * y

    def seen(self, _):
        self.calls += 1


def integrate(field, solver, adjoint=None):
    def run(y):
        found = dfx.diffeqsolve(
            dfx.ODETerm(field),
            solver,
            0.0,
            1.0,
            0.3,
            y,
            stepsize_controller=dfx.PIDController(rtol=1e-4, atol=1e-4),
            adjoint=adjoint or dfx.RecursiveCheckpointAdjoint(),
        )
        return found.ys, found.stats

    return run


@pytest.mark.parametrize("name", SOLVERS)
def test_adaptive_steps_agree_with_the_statistics(name):
    solver, stages, reused = SOLVERS[name]
    field = Field()
    (_, stats), count = jax.jit(value_and_flops(integrate(field, solver)))(3 * Y)
    jax.effects_barrier()
    steps, rejected = int(stats["num_steps"]), int(stats["num_rejected_steps"])
    # After a rejected step there is nothing to use again.
    evaluations = stages * steps - (steps - 1 - rejected) * reused
    assert steps > 8 and rejected > 0
    assert count.by("primitive")["cosh"] == N * evaluations == N * field.calls
    assert sorted(count.trips().values())[0] == steps
    if name == "Tsit5":
        # Each stage is a product of a row of the tableau with all slopes; so is the error of a
        # step; its norm is an inner product.
        assert count.total("matmul") == 2 * N * (stages * evaluations + (stages + 1) * steps)


def test_the_gradient_of_an_adaptive_solution():
    field = Field()
    run = integrate(field, dfx.Tsit5())
    _, count = jax.jit(value_and_flops(jax.grad(lambda y: run(y)[0].sum())))(Y)
    jax.effects_barrier()
    forward = count_flops(run)(Y)
    jax.effects_barrier()
    assert count.by("primitive")["cosh"] == N * field.calls - forward.by("primitive")["cosh"]
    assert count.total("matmul") > 2 * forward.total("matmul")
