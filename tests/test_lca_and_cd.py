"""What only LCA and coordinate descent promise; laws of all solvers: test_solvers.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso as SklearnLasso

import sparsecode_jax as sc
from sparsecode_jax import solvers
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold

from .contracts import PENALTY, M, N, as_numpy, numpy_gap, sparse_problem

each = pytest.mark.parametrize("factory", [solvers.lca, solvers.coordinate_descent])
each_prox = pytest.mark.parametrize("prox", [nonnegative_soft_threshold, soft_threshold])


def encode(solver, signals, dictionary, num_steps, **kwargs):
    with jax.enable_x64(True):
        run = {"solver": solver, "num_steps": num_steps, **kwargs}
        return np.asarray(sc.sparse_encode(signals, dictionary, PENALTY, **run))


@each
@each_prox
@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_atoms_of_any_norm(factory, prox, scale):
    """Against scikit-learn; atoms far below unit norm are where LCA's default step matters."""
    signals, dictionary, _ = as_numpy(sparse_problem(num_samples=2))
    dictionary = scale * np.linspace(0.5, 1, N)[:, None] * dictionary
    signals = scale * signals
    ours = encode(factory(prox=prox), signals, dictionary, 20_000)
    model = SklearnLasso(
        alpha=PENALTY / M, fit_intercept=False, positive=prox is nonnegative_soft_threshold,
        tol=1e-12, max_iter=1_000_000,
    )  # fmt: skip
    theirs = [model.fit(dictionary.T, x).coef_ for x in signals]
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.max(np.abs(theirs))))
    assert np.any(np.abs(ours) > 0.1) == (scale >= 1)


def test_the_step_of_lca_is_at_most_one_and_a_longer_one_diverges():
    signals, dictionary, _ = as_numpy(sparse_problem())
    step_size = solvers.lca().step_size
    assert float(step_size(jnp.asarray(0.4 * dictionary))) == 1
    assert float(step_size(jnp.asarray(dictionary))) == float(
        sc.dictionaries.step_size(jnp.asarray(dictionary))
    )
    short = 0.4 * dictionary
    optimum = encode(solvers.fista(restart=solvers.gradient_restart), signals, short, 3000)
    np.testing.assert_allclose(encode(solvers.lca(), signals, short, 10_000), optimum, atol=1e-9)
    too_long = encode(solvers.lca(), signals, short, 10_000, step_size=2.5)
    assert not np.allclose(too_long, optimum, atol=1e-3)


@each_prox
def test_one_sweep_solves_orthogonal_atoms(prox):
    rng = np.random.default_rng(0)
    norms = np.linspace(0.5, 2, 6)
    dictionary = norms[:, None] * np.linalg.qr(rng.normal(size=(6, 6)))[0]
    signals = rng.normal(size=(10, 6))
    codes = encode(solvers.coordinate_descent(prox=prox), signals, dictionary, 1)
    expected = np.asarray(prox(signals @ dictionary.T, np.float64(PENALTY))) / norms**2
    np.testing.assert_allclose(codes, expected, atol=1e-6)


def test_coordinate_descent_does_not_drift_in_single_precision():
    """Residuals kept from sweep to sweep were 4e-4 off after so many."""
    signals, dictionary, _ = sparse_problem()
    codes = sc.sparse_encode(
        signals, dictionary, PENALTY, solver=solvers.coordinate_descent(), num_steps=8000
    )
    assert numpy_gap(signals, dictionary, codes, PENALTY, signed=False).max() < 1e-6


@each
@each_prox
def test_names_the_penalty_whose_duality_gap_measures_it(factory, prox):
    assert factory(prox=prox).prox is prox


def test_lca_starts_warm_at_the_membrane_of_its_codes():
    signals, dictionary, _ = sparse_problem()
    problem = sc.Lasso(*map(jnp.asarray, (signals, dictionary, PENALTY, 0.1)))
    codes = jnp.asarray(np.random.default_rng(0).normal(size=(20, N)), jnp.float32)
    state = solvers.lca(prox=soft_threshold).init(problem, codes)
    np.testing.assert_allclose(soft_threshold(state.membrane, PENALTY), codes, atol=1e-6)
