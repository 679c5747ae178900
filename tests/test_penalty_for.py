"""The penalty for a number of active codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso as SklearnLasso

import sparsecode_jax as sc
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.solvers import penalty_for

PROBLEM = sc.synthetic.sample_problem(
    jax.random.key(0), 4, num_samples=60, num_measurements=12, num_atoms=30
)


@pytest.mark.parametrize("prox", [nonnegative_soft_threshold, soft_threshold])
@pytest.mark.parametrize("num_active", [0.3, 1, 2.5, 6, 9])
def test_codes_have_so_many_active_atoms(num_active, prox):
    signals, dictionary = PROBLEM.signals, PROBLEM.dictionary
    penalty = float(penalty_for(signals, dictionary, num_active=num_active, prox=prox))
    solver, options = sc.solvers.default_solver(dictionary, prox=prox)
    lasso = sc.Lasso(signals, dictionary, penalty, sc.dictionaries.step_size(dictionary))
    own, _ = sc.solvers.solve_to_tolerance(solver, lasso, tolerance=1e-5, **options)
    assert abs(float((np.abs(own) > 1e-6).sum(1).mean()) - num_active) <= 0.5
    if num_active > 6:
        return  # near interpolation another solver stops with other zeros
    model = SklearnLasso(
        alpha=penalty / signals.shape[1], fit_intercept=False, tol=1e-10, max_iter=200_000,
        positive=prox is nonnegative_soft_threshold,
    )  # fmt: skip
    atoms = np.asarray(dictionary, np.float64).T
    codes = np.stack([model.fit(atoms, np.asarray(x, np.float64)).coef_ for x in signals])
    assert abs((np.abs(codes) > 1e-6).sum(1).mean() - num_active) <= 0.6  # another solver's zeros


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_scaled_signals_have_a_scaled_penalty(scale):
    one = penalty_for(PROBLEM.signals, PROBLEM.dictionary, num_active=3)
    other = penalty_for(scale * PROBLEM.signals, PROBLEM.dictionary, num_active=3)
    np.testing.assert_allclose(other, scale * one, rtol=1e-4)


def test_a_code_is_active_above_the_same_number_whatever_the_scale():
    with pytest.raises(ValueError, match=r"penalties attain means from 0 to 1\.\d+ active"):
        penalty_for(1e-6 * PROBLEM.signals, PROBLEM.dictionary, num_active=3)


def test_one_signal_and_a_wide_dictionary():
    dictionary = sc.dictionaries.random(jax.random.key(1), num_atoms=1100, num_measurements=24)
    signal = jax.random.normal(jax.random.key(2), (24,))
    penalty = penalty_for(signal, dictionary, num_active=5)
    codes = sc.sparse_encode(signal, dictionary, penalty, tolerance=1e-5)
    assert abs(int((codes > 1e-6).sum()) - 5) <= 0.5


def test_numbers_that_no_penalty_attains_are_refused():
    with pytest.raises(
        ValueError, match=r"num_active is 29, and penalties attain means from 0 to 2"
    ):
        penalty_for(PROBLEM.signals, PROBLEM.dictionary, num_active=29)
    signal, atoms = jnp.asarray([[32.0, 1.0]]), jnp.eye(2)[jnp.asarray([0, 1, 1, 1, 1, 1, 1])]
    for wanted in (2, 4, 6):  # atoms that are the same are active together
        with pytest.raises(ValueError, match="jumps over it, from 1 to 7; one of these"):
            penalty_for(signal, atoms, num_active=wanted)
    with pytest.raises(ValueError, match="num_active is -1"):
        penalty_for(PROBLEM.signals, PROBLEM.dictionary, num_active=-1)
    with pytest.raises(TypeError, match="penalty_for: called under jit"):
        jax.jit(lambda x: penalty_for(x, PROBLEM.dictionary, num_active=3))(PROBLEM.signals)


def test_a_flag_is_no_number():
    with pytest.raises(TypeError, match="penalty_for: num_active is True; a number is expected"):
        penalty_for(PROBLEM.signals, PROBLEM.dictionary, num_active=True)
