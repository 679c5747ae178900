"""Objectives against NumPy, and certificates against solutions found elsewhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.decomposition import sparse_encode

from sparsecode_jax import objectives
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import (
    elastic_net,
    group_soft_threshold,
    nonnegative_soft_threshold,
    soft_threshold,
    value,
)

from .contracts import PENALTY, M, N, S, docstring, numpy_gap, sparse_problem

PENALTIES = {
    "scalar": PENALTY,
    "per_atom": np.linspace(0.01, 0.2, N).astype(np.float32),
}
each_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES.keys())
each_sign = pytest.mark.parametrize(
    ("signed", "prox"),
    [(False, nonnegative_soft_threshold), (True, soft_threshold)],
    ids=["nonnegative", "signed"],
)


def numpy_lasso(signals, dictionary, codes, penalty):
    residual = signals - codes @ dictionary
    return 0.5 * (residual**2).sum(-1) + (penalty * np.abs(codes)).sum(-1)


def double(problem):
    return [np.asarray(x, np.float64) for x in problem]


@each_penalty
@pytest.mark.parametrize("leading", [(), (S,), (4, 5)])
def test_lasso_and_reconstruction_error_against_numpy(penalty, leading):
    signals, dictionary, codes = sparse_problem(signed=True)
    codes = codes + 0.1
    index = 0 if leading == () else slice(None)
    signals = signals[index].reshape(*leading, M)
    codes = codes[index].reshape(*leading, N)
    expected = numpy_lasso(signals, dictionary, codes, penalty)
    actual = objectives.lasso(signals, dictionary, codes, penalty)
    assert actual.shape == leading
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    error = objectives.reconstruction_error(signals, dictionary, codes)
    assert error.shape == leading
    np.testing.assert_allclose(
        error, numpy_lasso(signals, dictionary, codes, 0.0), rtol=1e-5, atol=1e-6
    )


def test_paper_loss_is_the_mean_over_every_number():
    signals, dictionary, codes = sparse_problem(signed=True)
    codes = codes + 0.1
    expected = np.mean((signals - codes @ dictionary) ** 2) + 0.3 * np.mean(np.abs(codes))
    actual = objectives.paper_loss(signals, dictionary, codes, 0.3)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    stacked = objectives.paper_loss(
        signals.reshape(4, 5, M), dictionary, codes.reshape(4, 5, N), 0.3
    )
    assert float(stacked) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("paper_penalty", [0.01, 0.3])
def test_penalty_from_paper_makes_the_gradients_parallel(paper_penalty):
    signals, dictionary, codes = sparse_problem()
    codes = codes + 0.1
    converted = objectives.penalty_from_paper(paper_penalty, num_measurements=M, num_atoms=N)
    assert float(converted) == pytest.approx(paper_penalty * M / (2 * N), rel=1e-6)

    def lasso(codes, dictionary):
        return jnp.sum(objectives.lasso(signals, dictionary, codes, converted))

    def paper(codes, dictionary):
        return objectives.paper_loss(signals, dictionary, codes, paper_penalty)

    factor = 2 / (S * M)
    value = factor * float(lasso(codes, dictionary))
    assert float(paper(codes, dictionary)) == pytest.approx(value, rel=1e-5)
    ours = jax.jit(jax.grad(lasso, argnums=(0, 1)))(codes, dictionary)
    theirs = jax.jit(jax.grad(paper, argnums=(0, 1)))(codes, dictionary)
    chex.assert_trees_all_close(jax.tree.map(lambda g: factor * g, ours), theirs, atol=1e-6)


@each_sign
@each_penalty
def test_certificates_vanish_at_the_optimum_found_by_scipy(signed, prox, penalty):
    problem = sparse_problem(signed=signed, num_samples=4)
    signals, dictionary, _ = double(problem)
    weights = np.broadcast_to(np.asarray(penalty, np.float64), (N,))
    optima = np.stack([bounded_lasso(x, dictionary, weights, signed) for x in signals])
    with jax.enable_x64(True):
        gap = objectives.duality_gap(signals, dictionary, optima, weights, prox=prox)
        kkt = objectives.kkt_residual(signals, dictionary, optima, weights, prox=prox)
        moved = optima + 0.01 * (optima > 0)
        worse_gap = objectives.duality_gap(signals, dictionary, moved, weights, prox=prox)
        worse_kkt = objectives.kkt_residual(signals, dictionary, moved, weights, prox=prox)
    assert gap.dtype == kkt.dtype == jnp.float64
    np.testing.assert_array_less(np.abs(gap), 1e-6)
    np.testing.assert_array_less(kkt, 1e-5)
    np.testing.assert_array_less(1e-5, worse_gap)
    np.testing.assert_array_less(1e-4, worse_kkt)


def bounded_lasso(signal, dictionary, weights, signed):
    """Solve one lasso by L-BFGS-B; signed codes as a difference of non-negative ones."""
    atoms = np.concatenate([dictionary, -dictionary]) if signed else dictionary
    weights = np.concatenate([weights, weights]) if signed else weights

    def objective(z):
        residual = z @ atoms - signal
        return 0.5 * residual @ residual + weights @ z, atoms @ residual + weights

    found = scipy.optimize.minimize(
        objective,
        np.zeros(len(atoms)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(atoms),
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 100_000},
    )
    return found.x[:N] - found.x[N:] if signed else found.x


@each_sign
def test_duality_gap_bounds_the_distance_to_the_optimal_value(signed, prox):
    signals, dictionary, _ = double(sparse_problem(signed=signed))
    best = sparse_encode(
        signals,
        dictionary,
        algorithm="lasso_cd",
        alpha=PENALTY,
        positive=not signed,
        max_iter=10_000,
    )
    optimum = numpy_lasso(signals, dictionary, best, PENALTY)
    energy = 0.5 * (signals**2).sum(-1)
    rng = np.random.default_rng(0)
    for spread in (1e-3, 1e-2, 0.1, 1.0):
        codes = best + spread * rng.normal(size=best.shape)
        codes = codes if signed else np.maximum(codes, 0)
        with jax.enable_x64(True):
            gap = objectives.duality_gap(signals, dictionary, codes, PENALTY, prox=prox)
        excess = (numpy_lasso(signals, dictionary, codes, PENALTY) - optimum) / energy
        assert np.all(excess <= np.asarray(gap) + 1e-7)
        assert np.all(np.asarray(gap) >= 0)


@each_sign
def test_duality_gap_takes_the_best_feasible_multiple_of_the_residual(signed, prox):
    signals, dictionary, codes = double(sparse_problem(signed=signed))
    for factor in (0.3, 0.9, 1.01):
        z = factor * codes
        with jax.enable_x64(True):
            gap = objectives.duality_gap(signals, dictionary, z, PENALTY, prox=prox)
        for x, code, actual in zip(signals, z, np.asarray(gap), strict=True):
            residual = x - code @ dictionary
            scales = np.linspace(0, 50, 500_001)[:, None]
            inner = dictionary @ residual
            worst = np.max(np.abs(inner) if signed else inner)
            feasible = scales[scales[:, 0] * worst <= PENALTY]
            duals = feasible * (x @ residual) - 0.5 * feasible**2 * (residual @ residual)
            primal = numpy_lasso(x, dictionary, code, PENALTY)
            best = (primal - duals.max()) / (0.5 * x @ x)
            assert actual == pytest.approx(best, rel=1e-3, abs=1e-4)


@each_sign
def test_duality_gap_is_invariant_to_the_scale_of_the_problem(signed, prox):
    signals, dictionary, codes = double(sparse_problem(signed=signed))
    with jax.enable_x64(True):
        gap = objectives.duality_gap(signals, dictionary, 0.9 * codes, PENALTY, prox=prox)
        scaled = objectives.duality_gap(
            7 * signals, dictionary, 7 * 0.9 * codes, 7 * PENALTY, prox=prox
        )
    np.testing.assert_allclose(gap, scaled, rtol=1e-9)


@each_sign
def test_zero_codes_are_optimal_above_the_largest_useful_penalty(signed, prox):
    signals, dictionary, _ = sparse_problem(signed=signed)
    correlations = signals @ dictionary.T
    largest = float(np.max(np.abs(correlations) if signed else correlations))
    codes = np.zeros((S, N), np.float32)
    above = objectives.duality_gap(signals, dictionary, codes, 1.01 * largest, prox=prox)
    below = objectives.duality_gap(signals, dictionary, codes, 0.9 * largest, prox=prox)
    np.testing.assert_allclose(above, 0, atol=1e-6)
    assert float(below.max()) > 1e-4
    kkt = objectives.kkt_residual(signals, dictionary, codes, 1.01 * largest, prox=prox)
    np.testing.assert_array_equal(kkt, np.zeros(S))


def test_duality_gap_of_a_zero_signal():
    _, dictionary, _ = sparse_problem()
    zero, codes = np.zeros((1, M), np.float32), np.zeros((1, N), np.float32)
    assert float(objectives.duality_gap(zero, dictionary, codes, PENALTY)[0]) == 0
    assert float(objectives.duality_gap(zero, dictionary, codes + 1, PENALTY)[0]) > 0


def test_kkt_residual_against_the_definition():
    signals, dictionary, codes = sparse_problem()
    z = codes[0] + 0.2
    step = z + (signals[0] - z @ dictionary) @ dictionary.T - PENALTY
    expected = np.max(np.abs(z - np.maximum(step, 0)))
    actual = objectives.kkt_residual(signals[0], dictionary, z, PENALTY)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "fn",
    [objectives.lasso, objectives.duality_gap, objectives.kkt_residual],
    ids=lambda f: f.__name__,
)
def test_jit_vmap_and_numpy_agree(fn):
    signals, dictionary, codes = double(sparse_problem(num_samples=4))
    with jax.enable_x64(True):  # a gap is a difference of much larger numbers
        batch = fn(signals, dictionary, codes, PENALTY)
        lanes = jax.jit(jax.vmap(fn, in_axes=(0, None, 0, None)))
        one = lanes(signals, dictionary, codes, PENALTY)
        pairs = zip(signals, codes, strict=True)
        loop = jnp.stack([fn(x, dictionary, z, PENALTY) for x, z in pairs])
    chex.assert_trees_all_close(batch, one, loop, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("s", "m", "n"), [(1, 4, 7), (5, 7, 4), (3, 8, 16)])
def test_cost_of_the_duality_gap(s, m, n):
    shapes = ((s, m), (n, m), (s, n), ())
    arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    assert eval_flops(objectives.duality_gap, *arrays).total("matmul") == s * 4 * m * n
    assert "4MN per signal in matrix products" in docstring(objectives.duality_gap)


def test_relative_error_is_the_fraction_of_energy_left():
    rng = np.random.default_rng(0)
    signals, dictionary = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    codes = rng.normal(size=(4, 6))
    expected = np.sum((signals - codes @ dictionary) ** 2, axis=1) / np.sum(signals**2, axis=1)
    found = objectives.relative_error(signals, dictionary, codes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    zero = objectives.relative_error(np.zeros((1, 3)), dictionary, np.zeros((1, 6)))
    np.testing.assert_array_equal(zero, 0)


# --- gaps of other penalties -----------------------------------------------------------------

OTHERS = {
    "elastic_net": (elastic_net(0.7), {"signed": False, "ridge": 0.7}),
    "elastic_net_signed": (elastic_net(0.7, prox=soft_threshold), {"signed": True, "ridge": 0.7}),
    "groups": (group_soft_threshold(2), {"signed": False, "group_size": 2}),
    "groups_signed": (
        group_soft_threshold(4, nonnegative=False), {"signed": True, "group_size": 4},
    ),
}  # fmt: skip
each_other = pytest.mark.parametrize(("prox", "numpy"), OTHERS.values(), ids=OTHERS)


def optimum(problem, penalty, prox):
    """Run proximal gradient for long in float64; its step is tested by brute force elsewhere."""
    signals, dictionary, _ = problem
    step = 1 / np.linalg.norm(dictionary, 2) ** 2

    def move(codes, _):
        point = codes + step * (signals - codes @ dictionary) @ dictionary.T
        return prox(point, step * jnp.asarray(penalty, jnp.float64)), None

    return jax.lax.scan(move, jnp.zeros((len(signals), N)), length=20_000)[0]


@each_other
@each_penalty
def test_gaps_of_other_penalties(prox, numpy, penalty):
    """Zero at the optimum; elsewhere more than the distance of the objective from its optimum."""
    if "group_size" in numpy and np.ndim(penalty):
        penalty = np.repeat(penalty[:: numpy["group_size"]], numpy["group_size"])
    problem = double(sparse_problem(signed=numpy["signed"], num_samples=6))
    signals, dictionary, _ = problem
    energy = 0.5 * (signals**2).sum(-1)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        weights = jnp.asarray(penalty, jnp.float64)
        best = np.asarray(optimum(problem, penalty, prox))
        gap = objectives.duality_gap(signals, dictionary, best, weights, prox=prox)
        np.testing.assert_allclose(gap, 0, atol=1e-9)

        def primal(codes):
            error = objectives.reconstruction_error(signals, dictionary, codes)
            return np.asarray(error + value(prox, codes, weights))

        for spread in (1e-3, 1e-2, 0.1, 1.0):
            codes = best + spread * rng.normal(size=best.shape)
            codes = codes if numpy["signed"] else np.maximum(codes, 0)
            gap = objectives.duality_gap(signals, dictionary, codes, weights, prox=prox)
            excess = (primal(codes) - primal(best)) / energy
            assert np.all(excess > 0)
            assert np.all(excess <= np.asarray(gap))
            expected = numpy_gap(signals, dictionary, codes, penalty, **numpy)
            np.testing.assert_allclose(gap, expected, rtol=1e-9, atol=1e-14)


LASSOS = {
    "lasso": (nonnegative_soft_threshold, {"signed": False}),
    "lasso_signed": (soft_threshold, {"signed": True}),
}


@pytest.mark.parametrize(("prox", "numpy"), (LASSOS | OTHERS).values(), ids=LASSOS | OTHERS)
def test_the_gap_from_a_residual_at_hand(prox, numpy):
    signals, dictionary, codes = double(sparse_problem(signed=numpy["signed"]))
    residual = signals - 0.9 * codes @ dictionary
    parts = (signals, dictionary, residual, residual @ dictionary.T, 0.9 * codes, PENALTY)
    with jax.enable_x64(True):
        whole = objectives.duality_gap(signals, dictionary, 0.9 * codes, PENALTY, prox=prox)
        found = objectives.residual_gap(*map(jnp.asarray, parts), prox=prox)
    np.testing.assert_allclose(found, whole, rtol=1e-9)
    expected = numpy_gap(signals, dictionary, 0.9 * codes, PENALTY, **numpy)
    np.testing.assert_allclose(whole, expected, rtol=1e-9)


@each_other
def test_gaps_of_zero_signals(prox, numpy):
    _, dictionary, _ = sparse_problem()
    zero, codes = np.zeros((2, M), np.float32), np.zeros((2, N), np.float32)
    np.testing.assert_array_equal(
        objectives.duality_gap(zero, dictionary, codes, PENALTY, prox=prox), 0
    )
