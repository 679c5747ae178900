"""The laws that every solver obeys, one table, and oracles: what a solver computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import sparse_encode as sklearn_encode
from sklearn.linear_model import Lasso as SklearnLasso

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.objectives import duality_gap, kkt_residual, lasso
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold

from .contracts import (
    PENALTY,
    PROXIMAL,
    SOLVERS,
    M,
    N,
    S,
    as_numpy,
    sparse_problem,
)

each_solver = pytest.mark.parametrize("case", SOLVERS)
each_proximal = pytest.mark.parametrize("case", PROXIMAL)

gap = jax.jit(duality_gap, static_argnames="prox")
kkt = jax.jit(kkt_residual, static_argnames="prox")
objective = jax.jit(lasso)


def identity(codes):
    return codes


def certificate(case, problem, codes):
    return float(gap(*problem[:2], codes, problem.penalty, prox=case.prox).max())


# --- what a solver computes ----------------------------------------------------------------------


@each_solver
def test_objective_falls(case):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        start = case.solve(problem, 0)
        every = 1 if case.proximal else 40  # 100 records of either
        _, path = solvers.trajectory(
            case.solver, problem, num_steps=100 * every, record=identity, record_every=every
        )
        codes = jnp.concatenate([start[None], path])
        values = np.asarray(objective(*problem[:2], codes, problem.penalty))
    assert values.shape == (101, S)
    assert np.all(values[-1] < 0.5 * values[0])
    assert np.all(values <= values[0] * (1 + 1e-9))  # an accelerated one may rise, never that far
    if case.monotone:
        assert np.all(np.diff(values, axis=0) <= 1e-14)


@each_proximal
def test_exactly_zero_codes_where_the_optimum_is_zero(case):
    codes = np.asarray(case.solve(case.lasso()))
    assert 0.4 < np.mean(codes == 0) < 0.95


@each_solver
def test_sign_of_codes(case):
    codes = np.asarray(case.solve(case.lasso(), 50))
    assert (codes.min() < 0) == case.signed


@each_solver
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reaches_the_optimum(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        problem = case.lasso(jnp.dtype(dtype))
        codes = case.solve(problem)
        assert codes.dtype == jnp.dtype(dtype)
        tolerance = case.gap[dtype == "float64"]
        assert certificate(case, problem, codes) < tolerance
        if case.proximal:
            residual = kkt(*problem[:2], codes, problem.penalty, prox=case.prox)
            assert float(residual.max()) < 2 * tolerance


@each_solver
def test_agrees_with_scikit_learn(case):
    signals, dictionary, _ = (np.asarray(x, np.float64) for x in sparse_problem(signed=case.signed))
    theirs = sklearn_encode(
        signals, dictionary, algorithm="lasso_cd", alpha=PENALTY, positive=not case.signed,
        max_iter=100_000,
    )  # fmt: skip
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        problem = problem._replace(signals=jnp.asarray(signals), dictionary=jnp.asarray(dictionary))
        ours = case.solve(problem)
        excess = lasso(*problem[:2], ours, PENALTY) - lasso(*problem[:2], theirs, PENALTY)
    energy = 0.5 * (signals**2).sum(-1)
    assert np.all(np.asarray(excess) <= case.gap[1] * energy)
    if case.proximal:
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_penalty_of_scikit_learn_lasso_is_ours_over_the_number_of_measurements():
    signals, dictionary, _ = sparse_problem(num_samples=1)
    for positive, prox in ((True, nonnegative_soft_threshold), (False, soft_threshold)):
        model = SklearnLasso(
            alpha=PENALTY / M, fit_intercept=False, positive=positive, tol=1e-10, max_iter=100_000
        )
        theirs = model.fit(dictionary.T.astype(np.float64), signals[0].astype(np.float64)).coef_
        ours = sc.sparse_encode(
            signals[0], dictionary, PENALTY, solver=solvers.fista(prox=prox), num_steps=3000
        )
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@each_solver
@pytest.mark.parametrize(("alpha", "expected"), [(0.1, 0.85), (0.5, 0.25), (1.0, 0.0)])
def test_closed_form_of_one_atom(case, alpha, expected):
    # x = d = [-1, 0, 1] and penalty 3 alpha: z = max(2 - 3 alpha, 0) / 2.
    step_size = 0.5 if case.proximal else 0.01
    x = jnp.asarray([-1.0, 0.0, 1.0])
    problem = Lasso(x, x[None], jnp.float32(3 * alpha), jnp.float32(step_size))
    codes = case.solve(problem, 200 if case.proximal else 5000)
    assert codes.shape == (1,)
    assert float(codes[0]) == pytest.approx(expected, abs=1e-6 if case.proximal else 1e-3)


def test_orthonormal_atoms_are_solved_in_one_step():
    rng = np.random.default_rng(0)
    dictionary = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    signals = rng.normal(size=(10, 6)).astype(np.float32)
    for prox in (nonnegative_soft_threshold, soft_threshold):
        codes = sc.sparse_encode(
            signals, dictionary, 0.3, solver=solvers.ista(prox=prox), num_steps=1, step_size=1.0
        )
        np.testing.assert_allclose(codes, prox(signals @ dictionary.T, 0.3), atol=1e-6)


@pytest.mark.full_effort
@pytest.mark.parametrize("case", [p for p in SOLVERS if "restart" not in p.id])
def test_large_batches_agree_with_numpy(case):
    """jax 0.10.2 miscompiles products of more than 32,768 rows on CPU."""
    data = sparse_problem(1, signed=case.signed, num_samples=40_000)
    problem = case.lasso()
    step_size = 0.1 if not case.proximal else float(problem.step_size)
    problem = problem._replace(
        signals=jnp.asarray(data.signals),
        dictionary=jnp.asarray(data.dictionary),
        step_size=jnp.float32(step_size),
    )
    ours = case.solve(problem, 8)
    double = (np.asarray(x, np.float64) for x in data[:2])
    theirs = case.reference(*double, PENALTY, step_size, 8, signed=case.signed)
    assert ours.shape == (40_000, N)
    factor = case.rounding[0]
    atol = factor * (3e-5 if case.proximal else 1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4 * factor, atol=atol)


@each_solver
@pytest.mark.parametrize("num_steps", [1, 2, 60])
def test_iterates_are_those_of_the_same_algorithm_in_numpy(case, num_steps):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        ours = case.solve(problem, num_steps)
    theirs = case.reference(*as_numpy(problem[:4]), num_steps, signed=case.signed)
    factor = case.rounding[1] if num_steps == 60 else 1
    np.testing.assert_allclose(ours, theirs, rtol=1e-9 * factor, atol=1e-12 * factor)


def test_restart_changes_the_path_and_converges_faster():
    restarted = solvers.fista(restart=solvers.gradient_restart)
    gaps = []
    for solver in (solvers.fista(), restarted):
        signals, dictionary, _ = sparse_problem()
        codes = sc.sparse_encode(signals, dictionary, PENALTY, solver=solver, num_steps=150)
        gaps.append(float(gap(signals, dictionary, codes, PENALTY).max()))
    assert gaps[1] < 0.1 * gaps[0]


def test_restart_is_decided_signal_by_signal():
    signals, dictionary, _ = sparse_problem()
    solver = solvers.fista(restart=solvers.gradient_restart)
    alone = sc.sparse_encode(signals[:1], dictionary, PENALTY, solver=solver, num_steps=100)
    batch = sc.sparse_encode(signals, dictionary, PENALTY, solver=solver, num_steps=100)
    np.testing.assert_allclose(alone[0], batch[0], atol=1e-5)
    point, new, old = (
        jnp.asarray([[[1.0, 0]], [[0, 0]]]),
        jnp.zeros((2, 1, 2)),
        -jnp.ones((2, 1, 2)),
    )
    np.testing.assert_array_equal(solvers.gradient_restart(point, new, old), [[[True]], [[False]]])


# --- starts --------------------------------------------------------------------------------------


@each_solver
def test_no_steps_return_the_start(case):
    problem = case.lasso()
    start = np.zeros((S, N)) if case.proximal else np.full((S, N), np.exp(-10))
    np.testing.assert_allclose(case.solve(problem, 0), start, rtol=2e-6)
    codes0 = np.random.default_rng(0).uniform(0.1, 1, size=(S, N)).astype(np.float32)
    rtol = 0 if case.proximal else 1e-6  # log_adam keeps the logarithm
    np.testing.assert_allclose(case.solve(problem, 0, codes0), codes0, rtol=rtol)


def test_log_adam_floors_a_warm_start():
    problem = SOLVERS[-1].values[0].lasso()
    codes0 = np.zeros((S, N), np.float32)
    codes0[:, 0] = -1
    codes0[:, 1] = 0.5
    codes = np.asarray(SOLVERS[-1].values[0].solve(problem, 0, codes0))
    np.testing.assert_allclose(codes[:, 1], 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.delete(codes, 1, axis=1), np.exp(-10), rtol=2e-6)


@each_solver
def test_a_warm_start_at_the_optimum_stays_there(case):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        if not case.proximal:
            problem = problem._replace(step_size=jnp.float64(1e-4))
        optimum = solvers.solve(
            solvers.fista(prox=case.prox, restart=solvers.gradient_restart),
            case.lasso(jnp.float64)._replace(step_size=sc.dictionaries.step_size(problem.dictionary)),
            num_steps=2000,
        )  # fmt: skip
        later = case.solve(problem, 50, optimum)
    # log_adam lifts zeros to exp(-10), and Adam's steps have a fixed length in log-codes.
    np.testing.assert_allclose(later, optimum, atol=1e-10 if case.proximal else 5e-4)


@each_solver
def test_a_warm_start_continues_where_it_was(case):
    cold = certificate(case, case.lasso(), case.solve(case.lasso(), 30))
    warm = case.solve(case.lasso(), 30, case.solve(case.lasso()))
    assert certificate(case, case.lasso(), warm) < 0.1 * cold


# --- symmetries ----------------------------------------------------------------------------------


@each_solver
def test_permuting_atoms_permutes_codes(case):
    order = np.random.default_rng(0).permutation(N)
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        permuted = problem._replace(dictionary=problem.dictionary[order])
        num_steps = None if case.sizeless else 60  # taken in turn, atoms agree at the optimum
        codes, other = case.solve(problem, num_steps), case.solve(permuted, num_steps)
    np.testing.assert_allclose(codes[:, order], other, atol=1e-10)


@each_solver
def test_rotating_measurements_changes_nothing(case):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(M, M)))[0]
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        rotated = problem._replace(
            signals=problem.signals @ rotation, dictionary=problem.dictionary @ rotation
        )
        codes, other = case.solve(problem, 60), case.solve(rotated, 60)
    np.testing.assert_allclose(codes, other, atol=1e-10)


@each_proximal
@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e3])
def test_scaling_signals_and_penalty_scales_codes(case, scale):
    """Not log_adam: its start, exp(-10), and the length of its steps in log-codes have a scale."""
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        scaled = problem._replace(signals=scale * problem.signals, penalty=scale * problem.penalty)
        codes, other = case.solve(problem, 60), case.solve(scaled, 60)
    codes, other = np.asarray(codes), np.asarray(other)
    factor = case.rounding[1]
    np.testing.assert_allclose(
        scale * codes, other, rtol=1e-9 * factor, atol=1e-12 * scale * factor
    )


@pytest.mark.parametrize("case", [p for p in PROXIMAL if "signed" in p.id])
def test_flipping_a_signal_flips_signed_codes(case):
    problem = case.lasso()
    flipped = problem._replace(signals=-problem.signals)
    np.testing.assert_array_equal(case.solve(problem, 60), -case.solve(flipped, 60))
