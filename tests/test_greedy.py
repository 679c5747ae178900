"""Matching, gradient, compressive and subspace pursuit, hard thresholding, exhaustive search."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold

from . import greedy
from .contracts import docstring

M, N, S, K = 14, 18, 12, 3
FACTORIES = {
    "matching_pursuit": lambda num_active, **kwargs: solvers.matching_pursuit(**kwargs),
    "gradient_pursuit": solvers.gradient_pursuit,
    "iterative_hard_thresholding": solvers.iterative_hard_thresholding,
    "cosamp": solvers.cosamp,
    "subspace_pursuit": solvers.subspace_pursuit,
    "exhaustive": solvers.exhaustive,
}
SCALE_FREE = [name for name in FACTORIES if name != "iterative_hard_thresholding"]
RESTRICTED = [name for name in FACTORIES if name != "matching_pursuit"]
each = pytest.mark.parametrize("name", FACTORIES)
each_sign = pytest.mark.parametrize("signed", [False, True])


def build(name, signed=False, num_active=K):
    return FACTORIES[name](
        num_active, prox=soft_threshold if signed else nonnegative_soft_threshold
    )


def draw(seed=0, *, signed=False, noise=0.1, scaled=False):
    """Draw signals (S, M) of three atoms each and noise, and atoms (N, M), with NumPy alone."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(N, M))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((S, N))
    for row in codes:
        row[rng.choice(N, K, replace=False)] = rng.uniform(0.5, 2, K)
    if signed:
        codes *= rng.choice([-1, 1], codes.shape)
    signals = codes @ atoms + noise * rng.normal(size=(S, M))
    return signals, atoms * (np.linspace(0.5, 3, N)[:, None] if scaled else 1)


def lasso(signals, dictionary, dtype=jnp.float64):
    step_size = 1 / np.linalg.norm(dictionary, 2) ** 2
    return Lasso(*(jnp.asarray(x, dtype) for x in (signals, dictionary, 0.0, step_size)))


def solve(solver, signals, dictionary, num_steps=6, dtype=jnp.float64, codes0=None):
    with jax.enable_x64(dtype == jnp.float64):
        problem = lasso(signals, dictionary, dtype)
        return np.asarray(solvers.solve(solver, problem, num_steps=num_steps, codes0=codes0))


def run(solver, problem, num_steps, codes0=None):
    """Return the state after so many steps."""

    @jax.jit
    def states(problem, codes0):
        step = lambda state, _: (solver.step(state, problem), None)  # noqa: E731
        return jax.lax.scan(step, solver.init(problem, codes0), length=num_steps)[0]

    return states(problem, codes0)


# --- what they compute -----------------------------------------------------------------------


@each
@each_sign
@pytest.mark.parametrize("scaled", [False, True])
def test_codes_are_those_of_the_same_algorithm_in_numpy(name, signed, scaled):
    noise = 1.0 if name == "exhaustive" else 0.1  # so that the best fit has negatives to refuse
    signals, dictionary = draw(1, signed=signed, scaled=scaled, noise=noise)
    norms = np.linalg.norm(dictionary, axis=1)
    reference = getattr(greedy, name)
    if name == "iterative_hard_thresholding":
        step_size = 1 / np.linalg.norm(dictionary, 2) ** 2
        reference, norms = functools.partial(reference, step_size=step_size), np.ones(N)
    for num_steps in (1,) if name == "exhaustive" else (1, 8):
        num_active = 6 if name == "gradient_pursuit" else K  # an atom is found again while 6 fill
        ours = solve(build(name, signed, num_active), signals, dictionary, num_steps)
        atoms = dictionary / norms[:, None]
        theirs = [reference(x, atoms, num_active, num_steps, signed) for x in signals]
        np.testing.assert_allclose(ours, theirs / norms, atol=1e-10)
    assert np.any(ours < 0) == signed


@each_sign
def test_exhaustive_is_never_worse_than_the_others(signed):
    signals, dictionary = draw(2, signed=signed, noise=0.5)
    best = solve(build("exhaustive", signed), signals, dictionary, 1)
    floor = sc.objectives.reconstruction_error(signals, dictionary, best)
    assert np.all((best != 0).sum(axis=1) <= K)
    for name in ("gradient_pursuit", "iterative_hard_thresholding", "cosamp", "subspace_pursuit"):
        codes = solve(build(name, signed), signals, dictionary, 20)
        assert np.all((codes != 0).sum(axis=1) <= K)
        error = sc.objectives.reconstruction_error(signals, dictionary, codes)
        assert np.all(error >= floor - 1e-6)
    again = solve(build("exhaustive", signed), signals, dictionary, 3)
    np.testing.assert_array_equal(again, best)


@each
@each_sign
def test_recovers_codes_in_an_orthonormal_dictionary(name, signed):
    dictionary = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
    codes = np.zeros((2, N))
    codes[:, [1, 4, 7]] = [[1.0, 2.0, 0.5], [3.0, 0.25, 1.0]]
    if signed:
        codes[1] *= -1
    found = solve(build(name, signed), codes @ dictionary, dictionary, 4)
    np.testing.assert_allclose(found, codes, atol=1e-10)
    # With room for more atoms than are needed they stop by themselves, in either precision.
    roomy = build(name, signed, 4)
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.float64, 1e-10)):
        found = solve(roomy, codes @ dictionary, dictionary, 4, dtype)
        np.testing.assert_allclose(found, codes, atol=tolerance)


@each
@each_sign
def test_zero_signals_and_duplicate_atoms(name, signed):
    atoms = np.eye(4)[[0, 0, 1]]
    signals = np.asarray([[0, 0, 0, 0], [2, 1, 0, 0], [0, 0, 0, 1]], float)
    for dtype in (jnp.float32, jnp.float64):
        codes = solve(build(name, signed, 2), signals, atoms, 60, dtype)
        np.testing.assert_allclose(codes[[0, 2]], 0, atol=1e-6)
        assert np.all(np.isfinite(codes))
        if name not in ("iterative_hard_thresholding", "cosamp", "subspace_pursuit"):
            np.testing.assert_allclose(codes @ atoms, signals * [1, 1, 1, 0], atol=1e-5)


def test_equal_codes_do_not_make_more_than_k():
    dictionary = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    for name in RESTRICTED:
        codes = solve(build(name, num_active=2), np.ones((1, 6)) @ dictionary, dictionary, 8)
        np.testing.assert_allclose(np.sort(codes), [[0, 0, 0, 0, 1, 1]], atol=1e-10)


@pytest.mark.parametrize("name", RESTRICTED)
def test_all_atoms(name):
    rng = np.random.default_rng(0)
    dictionary = np.eye(5) + 0.1 * rng.normal(size=(5, 5))
    codes = rng.uniform(0.5, 1, size=(3, 5))
    found = solve(build(name, num_active=5), codes @ dictionary, dictionary, 200)
    np.testing.assert_allclose(found, codes, atol=1e-8)


def test_hard_thresholding_and_subspace_pursuit_never_raise_the_error():
    signals, dictionary = draw(3, noise=0.5)
    with jax.enable_x64(True):
        problem = lasso(signals, dictionary)
        for name in ("iterative_hard_thresholding", "subspace_pursuit"):
            _, errors = solvers.trajectory(
                build(name), problem, num_steps=30,
                record=lambda z: sc.objectives.reconstruction_error(*problem[:2], z),
            )  # fmt: skip
            assert np.all(np.diff(errors, axis=0) <= 1e-12)


# --- the gap ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FACTORIES, "omp", "ols"])
@each_sign
def test_the_gap_is_the_relative_error(name, signed):
    own = {"omp": solvers.orthogonal_matching_pursuit, "ols": solvers.orthogonal_least_squares}
    prox = soft_threshold if signed else nonnegative_soft_threshold
    solver = own[name](6, prox=prox) if name in own else build(name, signed)
    signals, dictionary = draw(4, signed=True, scaled=True, noise=0.5)
    signals[0] = 0
    with jax.enable_x64(True):
        problem = lasso(signals, dictionary)
        for num_steps in (0, 2, 6):
            state = run(solver, problem, num_steps)
            error = sc.objectives.relative_error(*problem[:2], solver.codes(state))
            np.testing.assert_allclose(solver.gap(state, problem), error, atol=1e-12)
            assert error[0] == 0


@pytest.mark.parametrize("name", ["orthogonal_matching_pursuit", "orthogonal_least_squares"])
def test_the_gap_counts_what_non_negative_codes_lose(name):
    """The best first atom needs a negative code once the other two are there."""
    dictionary, signal = np.asarray([[1, 1, 0.3], [1, 0, 0], [0, 1, 0]]), [1, 1, -0.2]
    with jax.enable_x64(True):
        problem, solver = lasso(signal, dictionary), getattr(solvers, name)(3)
        state = run(solver, problem, 3)
        assert float(jnp.sum(state.coefficients**2)) == pytest.approx(2.04)  # all of the signal
        np.testing.assert_allclose(solver.codes(state), [0, 1, 1], atol=1e-12)
        assert float(solver.gap(state, problem)) == pytest.approx(0.04 / 2.04)


# --- starts, shapes, types, programs ---------------------------------------------------------


@each
def test_warm_starts(name):
    signals, dictionary = draw(5, scaled=True)
    start = np.zeros((S, N))
    start[:, [2, 5, 11]] = [0.3, 0.2, 0.1]
    codes = solve(build(name), signals, dictionary, 0, codes0=start)
    np.testing.assert_allclose(codes, start, atol=1e-12)
    crowded = start + 1e-3
    kept = solve(build(name), signals, dictionary, 0, codes0=crowded)
    expected = crowded if name == "matching_pursuit" else np.where(start > 0, crowded, 0)
    np.testing.assert_allclose(kept, expected, atol=1e-12)
    # The residual of the start is what is pursued: the first half of a run and the second.
    half = solve(build(name), signals, dictionary, 3)
    whole = solve(build(name), signals, dictionary, 6)
    np.testing.assert_allclose(
        solve(build(name), signals, dictionary, 3, codes0=half), whole, atol=1e-9
    )


@each
@each_sign
def test_leading_axes_scaling_permutation_and_vmap(name, signed):
    signals, dictionary = draw(6, signed=signed, scaled=True)
    solver = build(name, signed)
    codes = solve(solver, signals, dictionary)
    np.testing.assert_allclose(solve(solver, signals[3], dictionary), codes[3], atol=1e-10)
    stacked = solve(solver, signals.reshape(4, 3, M), dictionary)
    np.testing.assert_allclose(stacked.reshape(S, N), codes, atol=1e-10)
    np.testing.assert_allclose(solve(solver, 8 * signals, dictionary), 8 * codes, atol=1e-9)
    order = np.random.default_rng(0).permutation(N)
    permuted = solve(solver, signals, dictionary[order])
    np.testing.assert_allclose(permuted, codes[:, order], atol=1e-10)
    with jax.enable_x64(True):
        problem = lasso(signals, dictionary)
        pair = jnp.stack([problem.dictionary, problem.dictionary[::-1]])
        mapped = jax.vmap(
            lambda d: solvers.solve(solver, problem._replace(dictionary=d), num_steps=6)
        )(pair)
    np.testing.assert_allclose(mapped[0], codes, atol=1e-10)
    np.testing.assert_allclose(mapped[1][:, ::-1], codes, atol=1e-10)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_norms_of_atoms_scale_codes_inversely(name):
    signals, dictionary = draw(7)
    scales = np.linspace(0.5, 3, N)
    codes = solve(build(name), signals, dictionary)
    scaled = solve(build(name), signals, scales[:, None] * dictionary)
    np.testing.assert_allclose(scaled * scales, codes, atol=1e-10)


@each
def test_dtype_is_kept(name):
    signals, dictionary = draw(8)
    solver = build(name)
    with jax.enable_x64(True):  # a number of 64 bits would spread
        for dtype in (jnp.float32, jnp.float64):
            problem = lasso(signals, dictionary, dtype)
            state = jax.eval_shape(solver.init, problem)
            after = jax.eval_shape(solver.step, state, problem)
            assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, after)
            assert jax.eval_shape(solver.codes, state).dtype == dtype
            assert jax.eval_shape(solver.gap, state, problem).dtype == dtype
            assert solvers.solve(solver, problem, num_steps=2).dtype == dtype
    single = solve(solver, signals, dictionary, 6, jnp.float32)
    np.testing.assert_allclose(single, solve(solver, signals, dictionary), atol=1e-3)


@each
def test_the_second_call_compiles_nothing(name, compilations):
    signals, dictionary = draw(9)
    solve(build(name), signals, dictionary, 5, jnp.float32)
    assert compilations.count >= 1
    solve(build(name), 2 * signals, dictionary[::-1], 5, jnp.float32)
    before = compilations.count
    solve(build(name), 3 * signals, dictionary, 5, jnp.float32)
    assert compilations.count == before
    assert build(name) is build(name)


@pytest.mark.parametrize("name", RESTRICTED)
def test_num_active_is_checked(name):
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"{name}: num_active is {bad}; an integer >= 1"):
            build(name, num_active=bad)
    signals, dictionary = draw()
    message = f"{name}: num_active is {N + 1} but there are {N} atoms; an integer from 0 to {N}"
    with pytest.raises(ValueError, match=message):
        solve(build(name, num_active=N + 1), signals, dictionary)


def test_exhaustive_refuses_a_search_without_end():
    dictionary = np.random.default_rng(0).normal(size=(60, M))
    with pytest.raises(ValueError, match=r"exhaustive: there are 523,685 subsets .* at most 200,0"):
        solve(build("exhaustive", num_active=4), np.ones((1, M)), dictionary)


# --- cost ------------------------------------------------------------------------------------

GAP = "2K^2 + 4K + 3M + 1 operations per signal"
START = "2MN + 2M - 1 arithmetic operations per signal to start"
UNIT_GRAM = "the Gram matrix of unit atoms 2MN^2 + 3MN once"


def cholesky(p):
    return p * (p + 1) * (2 * p + 1) // 6


def nonnegative(k):
    return 4 * k**3 + 20 * k * k + 9 * k - 2


def num_subsets(n, k):
    return -(-sum(math.comb(n, size) for size in range(1, k + 1)) // 256) * 256


# Of a step: operations per signal and once for (M, N, K), and what the docstring says of them.
COSTS = {
    "matching_pursuit": (lambda m, n, k: 3 * n + m + 3, None, ["3N + M + 3 per signal per step"]),
    "gradient_pursuit": (
        lambda m, n, k: (2 * k + 2) * n + 2 * k * k + 6 * k + m - 1, None,
        ["(2K + 2)N + 2K^2 + 6K + M - 1 per signal per step"],
    ),
    "iterative_hard_thresholding": (
        lambda m, n, k: (2 * k + 2) * n + k, None, ["(2K + 2)N + K per signal per step"]
    ),
    "cosamp": (
        lambda m, n, k: (2 * k + 1) * n + m + 1 + cholesky(min(2 * k, n) + k)
        + 2 * (min(2 * k, n) + k) ** 2 + nonnegative(k), None,
        ["(2K + 1)N + M + 1 + P(P + 1)(2P + 1)/6 + 2P^2 per signal per step, P = min(2K, N) + K, "
         "and 4K^3 + 20K^2 + 9K - 2 more unless signed"],
    ),
    "subspace_pursuit": (
        lambda m, n, k: (2 * k + 1) * n + m + cholesky(2 * k) + 8 * k * k + nonnegative(k)
        + 4 * k * k + 8 * k - 1, None,
        ["(2K + 1)N + M + P(P + 1)(2P + 1)/6 + 2P^2, P = 2K, + 4K^3 + 24K^2 + 17K - 3 per signal "
         "per step, where signed codes have K(K + 1)(2K + 1)/6 + 6K^2 + 8K - 1"],
    ),
    "exhaustive": (
        lambda m, n, k: num_subsets(n, k) * (2 * k * k + 2 * k - 1) + 2 * k * k + 4 * k - 1,
        lambda m, n, k: num_subsets(n, k) * (cholesky(k) + 2 * k**3),
        ["C(2K^2 + 2K - 1) + 2K^2 + 4K - 1 per signal per step",
         "rounded up to a multiple of 256", "C(K(K + 1)(2K + 1)/6 + 2K^3) per step"],
    ),
}  # fmt: skip


@each
@pytest.mark.parametrize(("m", "n", "k"), [(8, 16, 3), (12, 9, 2), (5, 4, 4)])
def test_cost(name, m, n, k):
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    problem = Lasso(shape(S, m), shape(n, m), shape(), shape())
    solver = build(name, num_active=k)
    state = jax.eval_shape(solver.init, problem)
    signal, once, said = COSTS[name]
    step = eval_flops(solver.step, state, problem).total()
    assert step == S * signal(m, n, k) + (once(m, n, k) if once else 0)
    start, reading = 2 * m * n + 2 * m - 1, 3 * k
    gram, gap = 2 * m * n * n + 3 * m * n, 2 * k * k + 4 * k + 3 * m + 1
    said = [*said, START, UNIT_GRAM, "Reading the codes: 3K.", GAP]
    if name == "matching_pursuit":
        start, reading, gap = start + 2 * m - 1, 2 * n, 3 * m + 1
        said = [said[0], "2MN + 4M - 2 arithmetic operations per signal to start", UNIT_GRAM,
                "Reading the codes: 2N.", "3M + 1 operations per signal"]  # fmt: skip
    elif name == "iterative_hard_thresholding":
        gram, reading = 2 * m * n * n, 2 * k
        said = [said[0], START, "the Gram matrix 2MN^2 once", "Reading the codes: 2K.", GAP]
    assert eval_flops(solver.init, problem).total() == S * start + gram
    assert eval_flops(solver.codes, state).total() == S * reading
    assert eval_flops(solver.gap, state, problem).total() == S * gap
    text = docstring(FACTORIES.get(name) if name in RESTRICTED else solvers.matching_pursuit)
    for formula in said:
        assert formula in text


@pytest.mark.parametrize(("m", "n", "k"), [(8, 16, 3), (12, 9, 2), (5, 4, 4)])
def test_cost_of_signed_codes(m, n, k):
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    problem = Lasso(shape(S, m), shape(n, m), shape(), shape())
    fits = {"cosamp": 0, "subspace_pursuit": cholesky(k) + 2 * k * k}
    for name, fit in fits.items():
        counts = []
        for signed in (False, True):
            solver = build(name, signed, k)
            state = jax.eval_shape(solver.init, problem)
            counts.append(eval_flops(solver.step, state, problem).total())
        assert counts[0] - counts[1] == S * (nonnegative(k) - fit)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("factory", ["orthogonal_matching_pursuit", "orthogonal_least_squares"])
def test_cost_of_the_gap_of_orthogonal_pursuits(factory, signed):
    factory, (m, n, k) = getattr(solvers, factory), (8, 16, 3)
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    problem = Lasso(shape(S, m), shape(n, m), shape(), shape())
    solver = factory(k, prox=soft_threshold if signed else nonnegative_soft_threshold)
    count = eval_flops(solver.gap, jax.eval_shape(solver.init, problem), problem).total()
    most = 6 * k**3 + 27 * k * k + 17 * k + 3 * m - 1
    assert count == S * (2 * k + 3 * m + 1 if signed else most)
    said = "6K^3 + 27K^2 + 17K + 3M - 1 operations per signal, or 2K + 3M + 1 if signed"
    assert said in docstring(factory)
