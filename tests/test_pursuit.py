"""Orthogonal pursuits against scikit-learn and against greedy least squares by NumPy."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp

import sparsecode_jax as sc
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import soft_threshold

M, N, S = 12, 24, 40
OMP = sc.solvers.orthogonal_matching_pursuit
OLS = sc.solvers.orthogonal_least_squares
FACTORIES = [OMP, OLS]


def draw(seed=0, *, num_active=4, normalized=True):
    problem = sc.synthetic.sample_problem(
        jax.random.key(seed), num_active, num_samples=S, num_measurements=M, num_atoms=N,
        magnitudes=sc.synthetic.gaussian, noise=0.05,
    )  # fmt: skip
    scale = 1 if normalized else np.linspace(0.5, 3, N, dtype=np.float32)[:, None]
    return np.asarray(problem.signals), np.asarray(problem.dictionary) * scale


def encode(signals, dictionary, solver, num_steps):
    return sc.sparse_encode(
        signals, dictionary, 0.0, solver=solver, num_steps=num_steps, step_size=1.0
    )


def greedy_least_squares(signal, dictionary, num_active):
    """Add the atom whose least-squares fit leaves the smallest error; fit by lstsq."""
    support: list[int] = []
    for _ in range(num_active):
        errors = []
        for j in range(len(dictionary)):
            if j in support:
                errors.append(np.inf)
                continue
            atoms = dictionary[[*support, j]].T
            fit = np.linalg.lstsq(atoms, signal, rcond=None)[0]
            errors.append(np.sum((signal - atoms @ fit) ** 2))
        support.append(int(np.argmin(errors)))
    codes = np.zeros(len(dictionary))
    codes[support] = np.linalg.lstsq(dictionary[support].T, signal, rcond=None)[0]
    return codes


@pytest.mark.parametrize("num_active", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_signed_omp_equals_scikit_learn(num_active, seed):
    signals, dictionary = draw(seed)
    expected = orthogonal_mp(
        dictionary.T.astype(np.float64), signals.T.astype(np.float64), n_nonzero_coefs=num_active
    ).T
    codes = encode(signals, dictionary, OMP(num_active, prox=soft_threshold), num_active)
    np.testing.assert_allclose(codes, expected, atol=2e-4)


@pytest.mark.parametrize("normalized", [True, False])
def test_signed_ols_is_greedy_least_squares(normalized):
    signals, dictionary = draw(2, normalized=normalized)
    codes = encode(signals, dictionary, OLS(4, prox=soft_threshold), 4)
    expected = [greedy_least_squares(x, dictionary, 4) for x in signals.astype(np.float64)]
    np.testing.assert_allclose(codes, expected, atol=2e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_nonnegative_by_default(factory):
    signals, dictionary = draw(3)
    codes = encode(signals, dictionary, factory(5), 5)
    assert float(codes.min()) >= 0
    assert int((codes > 0).sum(axis=1).max()) <= 5
    # Taking only positive correlations is not signed pursuit with its negatives cut.
    signed = encode(signals, dictionary, factory(5, prox=soft_threshold), 5)
    assert float(jnp.abs(codes - jnp.maximum(signed, 0)).max()) > 0.1


def nonnegative(seed, num_active, factory, dtype=jnp.float64):
    """Return signals (S, 8) of noise and 16 atoms, the codes along a pursuit, and its supports."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(16, 8)) * rng.uniform(0.5, 2, size=(16, 1))
    signals = np.abs(rng.normal(size=(S, 16))) @ dictionary / 4 + rng.normal(size=(S, 8))
    with jax.enable_x64(dtype == jnp.float64):
        solver = factory(num_active)
        problem = sc.Lasso(*(jnp.asarray(x, dtype) for x in (signals, dictionary, 0, 1)))
        last, path = sc.solvers.trajectory(
            solver, problem, num_steps=num_active, record=lambda codes: codes
        )
        np.testing.assert_array_equal(last, path[-1])
        state = solver.init(problem)
        for _ in range(num_active):
            state = solver.step(state, problem)
    return signals, dictionary, np.asarray(path, np.float64), np.asarray(state.support)


@pytest.mark.parametrize("factory", FACTORIES)
def test_nonnegative_codes_are_scipys_least_squares_on_the_atoms_chosen_so_far(factory):
    # Not 8 atoms: in 8 dimensions every last one explains what is left, and rounding chooses.
    signals, dictionary, path, supports = nonnegative(0, 7, factory)
    for k, codes in enumerate(path, start=1):
        expected = np.zeros_like(codes)
        for row, signal, support in zip(expected, signals, supports, strict=True):
            atoms = support[:k][support[:k] >= 0]
            row[atoms] = nnls(dictionary[atoms].T, signal)[0]
        np.testing.assert_allclose(codes, expected, atol=1e-9)
    chosen = np.sum(supports >= 0, axis=1)
    assert np.mean(np.sum(path[-1] > 0, axis=1) < chosen) > 0.25  # or nothing is tested


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(("dtype", "slack"), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_nonnegative_codes_are_never_worse_than_zeros_nor_than_fewer_atoms(factory, dtype, slack):
    for seed in range(5):
        signals, dictionary, path, _ = nonnegative(seed, 8, factory, dtype)
        path = np.concatenate([np.zeros_like(path[:1]), path])
        errors = np.sum((signals - path @ dictionary) ** 2, axis=-1)
        assert np.all(np.diff(errors, axis=0) <= slack * errors[0])
        assert np.all(path >= 0)


@pytest.mark.parametrize("factory", FACTORIES)
def test_derivatives_of_nonnegative_codes(factory):
    """Of most signals some chosen atom is 0; it stays so, and the others follow the fit."""
    signals, dictionary, path, _ = nonnegative(1, 6, factory)
    weights = np.random.default_rng(0).normal(size=path[-1].shape)
    with jax.enable_x64(True):
        signals, dictionary = jnp.asarray(signals), jnp.asarray(dictionary)
        value = lambda *args: jnp.sum(weights * encode(*args, factory(6), 6), axis=-1)  # noqa: E731
        slopes, tilts = (
            np.random.default_rng(1).normal(size=x.shape) for x in (signals, dictionary)
        )
        _, tangents = jax.jvp(value, (signals, dictionary), (slopes, tilts))
        moved = [(signals + h * slopes, dictionary + h * tilts) for h in (1e-6, -1e-6)]
        ahead, behind = (np.asarray(value(*arrays)) for arrays in moved)
        pulled = jax.grad(lambda *args: jnp.sum(value(*args)), (0, 1))(signals, dictionary)
    np.testing.assert_allclose(tangents, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-4)
    pairs = zip(pulled, (slopes, tilts), strict=True)
    both = sum(np.sum(np.asarray(x) * np.asarray(y)) for x, y in pairs)
    np.testing.assert_allclose(both, np.sum(np.asarray(tangents)), rtol=1e-9)


@pytest.mark.parametrize("factory", FACTORIES)
def test_recovers_exact_supports(factory):
    """Three atoms of an orthonormal dictionary, K larger than needed: it stops by itself."""
    dictionary = np.linalg.qr(np.random.default_rng(0).standard_normal((M, M)))[0]
    codes = np.zeros((5, M))
    codes[:, [1, 4, 7]] = [1.0, 2.0, 0.5]
    found = encode(codes @ dictionary, dictionary, factory(6), 6)
    np.testing.assert_allclose(found, codes, atol=1e-5)
    np.testing.assert_array_equal((found != 0).sum(axis=1), 3)


@pytest.mark.parametrize("factory", FACTORIES)
def test_no_atom_is_taken_twice_for_a_small_code(factory):
    """In float32 more was left of a chosen atom than the last of 32 true codes."""
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(1024, 256))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    true = np.zeros((256, 1024))
    for row in true:
        row[rng.choice(1024, 32, replace=False)] = np.abs(rng.normal(size=32))
    signals, dictionary = np.float32(true @ dictionary), np.float32(dictionary)
    codes = encode(signals, dictionary, factory(32, prox=soft_threshold), 32)
    np.testing.assert_array_equal(np.count_nonzero(codes, axis=1), 32)


@pytest.mark.parametrize("factory", FACTORIES)
def test_zero_signals_duplicate_atoms_and_more_steps_than_atoms(factory):
    atoms = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    signals = np.asarray([[0, 0, 0], [2, 1, 0], [0, 0, 1]], dtype=np.float32)
    codes = np.asarray(encode(signals, atoms, factory(3), 7))
    np.testing.assert_array_equal(codes[[0, 2]], 0)
    assert codes[1, 0] + codes[1, 1] == pytest.approx(2)
    assert 0 in (codes[1, 0], codes[1, 1])
    assert codes[1, 2] == pytest.approx(1)


@pytest.mark.parametrize("factory", FACTORIES)
def test_leading_axes_scaling_permutation_and_vmap(factory):
    signals, dictionary = draw(4)
    solver = factory(4)
    codes = encode(signals, dictionary, solver, 4)
    np.testing.assert_allclose(encode(signals[0], dictionary, solver, 4), codes[0], atol=1e-5)
    stacked = encode(signals.reshape(4, 10, M), dictionary, solver, 4)
    np.testing.assert_allclose(stacked.reshape(S, N), codes, atol=1e-5)
    np.testing.assert_allclose(encode(8 * signals, dictionary, solver, 4), 8 * codes, atol=1e-4)
    order = np.random.default_rng(0).permutation(N)
    permuted = encode(signals, dictionary[order], solver, 4)
    np.testing.assert_allclose(permuted, codes[:, order], atol=1e-4)
    both = jax.vmap(lambda d: encode(signals, d, solver, 4))(jnp.stack([dictionary, -dictionary]))
    np.testing.assert_allclose(both[0], codes, atol=1e-5)
    assert float(jnp.abs(both[1] - codes).max()) > 0.1


def test_error_falls_with_every_atom_and_ols_takes_the_best_second_atom():
    signals, dictionary = draw(5)
    errors = {}
    for factory in FACTORIES:
        runs = [
            encode(signals, dictionary, factory(k, prox=soft_threshold), k) for k in range(1, 7)
        ]
        error = [sc.objectives.reconstruction_error(signals, dictionary, z) for z in runs]
        errors[factory] = np.asarray(error)
        assert np.all(np.diff(errors[factory], axis=0) <= 1e-6)
    np.testing.assert_allclose(errors[OLS][0], errors[OMP][0], rtol=1e-4)
    # After the same first atom, no second atom is better than that of least squares.
    assert np.all(errors[OLS][1] <= errors[OMP][1] + 1e-6)
    assert errors[OLS][1].mean() < errors[OMP][1].mean()


def test_warm_start_is_refused():
    signals, dictionary = draw()
    with pytest.raises(ValueError, match="_(pursuit|squares): got codes0"):
        sc.sparse_encode(
            signals, dictionary, 0.0, solver=OMP(2), num_steps=2, codes0=np.zeros((S, N))
        )


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("bad", [0, 2.5, True])
def test_num_active_is_a_positive_integer(factory, bad):
    with pytest.raises(ValueError, match="num_active is .*; an integer >= 1 is expected"):
        factory(bad)


@pytest.mark.parametrize(("m", "n", "k"), [(8, 16, 3), (12, 24, 5), (8, 1100, 3)])
@pytest.mark.parametrize("factory", FACTORIES)
def test_cost_line(factory, m, n, k):
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    problem = sc.Lasso(shape(S, m), shape(n, m), shape(), shape())
    solver = factory(k)
    state = jax.eval_shape(solver.init, problem)
    total = eval_flops(solver.step, state, problem).total()
    start = eval_flops(solver.init, problem).total()
    per_atom, once, stated = (8, n, "N") if factory is OLS else (6, 2 * n, "2N")
    text = " ".join(factory.__doc__.split())
    if n <= 1024:
        a_step = (2 * k + per_atom + 2) * n + m + 2 * k + 2
        assert start == S * (2 * m * n + 2 * m - 1) + 2 * m * n * n + n * (2 * m - 1)
        assert f"to start and (2K + {per_atom + 2})N + M + 2K + 2 per signal per step" in text
    else:
        a_step = 2 * m * n + per_atom * n + 4 * m * k + 3 * m + 2 * k + 2
        assert start == S * (2 * m * n + 2 * m - 1) + n * (2 * m - 1)
        assert f"2MN + {per_atom}N + 4MK + 3M + 2K + 2 per signal per step" in text
    assert total == S * a_step + once
    assert f"step, {stated} per step" in text
    reading = eval_flops(solver.codes, state).total()
    assert reading == S * (6 * k**3 + 25 * k * k + 14 * k - 2)
    reading = eval_flops(factory(k, prox=soft_threshold).codes, state).total()
    assert reading == S * (2 * k * k + 3 * k)
    assert "Reading the codes: 6K^3 + 25K^2 + 14K - 2, or 2K^2 + 3K if signed." in text


def test_many_atoms_without_a_gram_matrix():
    """Above 1,024 atoms: OMP as scikit-learn's, OLS as greedy least squares."""
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(1100, 20))
    dictionary *= rng.uniform(0.5, 2, size=(1100, 1)) / np.linalg.norm(dictionary, axis=1)[:, None]
    signals = rng.normal(size=(6, 20))
    unit = dictionary / np.linalg.norm(dictionary, axis=1)[:, None]
    with jax.enable_x64(True):
        assert OMP(4).init(sc.Lasso(signals, dictionary, 0.0, 1.0)).gram is None
        codes = encode(signals, dictionary, OMP(4, prox=soft_threshold), 4)
        expected = orthogonal_mp(unit.T, signals.T, n_nonzero_coefs=4).T
        scale = np.linalg.norm(dictionary, axis=1)
        np.testing.assert_allclose(codes * scale, expected, atol=1e-9)
        codes = encode(signals[:2], dictionary, OLS(3, prox=soft_threshold), 3)
        expected = [greedy_least_squares(x, dictionary, 3) for x in signals[:2]]
        np.testing.assert_allclose(codes, expected, atol=1e-9)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("fewest", [8, 7])  # the last chunk is whole, or of fewer signals
def test_signals_in_chunks(factory, fewest, monkeypatch):
    signals, dictionary = draw(8)
    solver, core = factory(4), sys.modules["sparsecode_jax.solvers._core"]
    solve = lambda x: encode(x, dictionary, solver, 4)  # noqa: E731
    expected, slope = solve(signals), jax.grad(lambda x: jnp.sum(solve(x) ** 2))(signals)
    monkeypatch.setattr(core, "_CACHE", 0)
    monkeypatch.setattr(core, "_FEWEST", fewest)
    monkeypatch.setattr(core.os, "cpu_count", lambda: 1)
    core._solve.clear_cache()
    seen = []
    monkeypatch.setattr(jax.lax, "map", lambda f, xs, inner=jax.lax.map: (
        seen.append(xs[0].shape), inner(f, xs))[1])  # fmt: skip
    np.testing.assert_allclose(solve(signals), expected, atol=1e-5)
    assert seen[0] == {8: (5, 8, M), 7: (5, 7, M)}[fewest]
    found = jax.grad(lambda x: jnp.sum(solve(x) ** 2))(signals)
    np.testing.assert_allclose(found, slope, atol=1e-3)
    np.testing.assert_allclose(solve(signals.reshape(4, 10, M)).reshape(S, N), expected, atol=1e-5)
    core._solve.clear_cache()


def test_path_is_that_of_scikit_learn():
    """The codes after each atom, by ``trajectory``, are scikit-learn's path."""
    signals, dictionary = (x.astype(np.float64) for x in draw(6))
    with jax.enable_x64(True):
        lasso = sc.Lasso(signals[0], dictionary, 0.0, 1.0)
        solver = OMP(5, prox=soft_threshold)
        _, path = sc.solvers.trajectory(solver, lasso, num_steps=5, record=lambda codes: codes)
    expected = orthogonal_mp(dictionary.T, signals[0], n_nonzero_coefs=5, return_path=True)
    np.testing.assert_allclose(path, np.asarray(expected).T, atol=1e-9)


@pytest.mark.parametrize("factory", FACTORIES)
def test_swapped_and_identical_regressors(factory):
    """As scikit-learn's own tests: swapped atoms swap codes; a copy of an atom is not used."""
    signals, dictionary = draw(7)
    swapped = dictionary.copy()
    swapped[[0, 5]] = dictionary[[5, 0]]
    signal = 3 * dictionary[0] + 2 * dictionary[5]
    codes = np.asarray(encode(signal, dictionary, factory(2), 2))
    again = np.asarray(encode(signal, swapped, factory(2), 2))
    np.testing.assert_allclose(codes[[0, 5]], [3, 2], atol=1e-4)
    np.testing.assert_allclose(again[[0, 5]], [2, 3], atol=1e-4)
    twin = dictionary.copy()
    twin[5] = dictionary[0]
    codes = np.asarray(encode(3 * dictionary[0], twin, factory(2), 2))
    np.testing.assert_allclose(codes[[0, 5]], [3, 0], atol=1e-4)
    assert (codes != 0).sum() == 1


@pytest.mark.parametrize("factory", [OMP, OLS], ids=["omp", "ols"])
def test_any_function_says_the_sign(factory):
    """What prox does to a negative number decides, not which function it is."""
    signals, dictionary = draw(5)
    own = factory(3, prox=lambda x, threshold: jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0))
    expected = encode(signals, dictionary, factory(3, prox=soft_threshold), 3)
    np.testing.assert_array_equal(encode(signals, dictionary, own, 3), expected)
    assert expected.min() < 0
    rectified = factory(3, prox=lambda x, threshold: jax.nn.relu(x - threshold))
    expected = encode(signals, dictionary, factory(3), 3)
    np.testing.assert_array_equal(encode(signals, dictionary, rectified, 3), expected)
    with pytest.raises(ValueError, match=r"prox\(-1, 0\) is 1; -1 .signed codes"):
        factory(3, prox=lambda x, threshold: jnp.abs(x))


def test_sparse_encode_takes_a_number_of_active_atoms():
    signals, dictionary = draw(6)
    found = sc.sparse_encode(signals, dictionary, num_active=4)
    np.testing.assert_array_equal(found, encode(signals, dictionary, OLS(4), 4))
    for factory in (OMP, sc.solvers.subspace_pursuit):
        found = sc.sparse_encode(signals, dictionary, num_active=3, solver=factory, num_steps=5)
        np.testing.assert_array_equal(found, encode(signals, dictionary, factory(3), 5))
    loose = sc.sparse_encode(signals, dictionary, num_active=8, tolerance=0.4)
    error = jnp.mean(sc.objectives.relative_error(signals, dictionary, loose))
    assert error <= 0.4 and float((loose != 0).sum(-1).mean()) < 8


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "neither a penalty nor num_active is given"),
        ({"penalty": 0.1, "num_active": 3}, ValueError, "both a penalty and num_active are given"),
        ({"num_active": 3, "solver": OMP(3)}, TypeError, "the solver is built already, with a K"),
        (
            {"num_active": 3, "solver": sc.solvers.matching_pursuit},
            TypeError,
            "the solver's builder takes no number of active atoms",
        ),
        ({"num_active": 0}, ValueError, "num_active is 0; an integer >= 1"),
        ({"num_active": 99}, ValueError, "num_active is 99"),
    ],
)
def test_what_sparse_encode_refuses_of_a_number_of_active_atoms(options, error, message):
    signals, dictionary = draw(6)
    with pytest.raises(error, match=message):
        sc.sparse_encode(signals, dictionary, **options)
