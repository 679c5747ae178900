"""Dictionary learning by turns: recovery, restarts, and what it says of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.learning import learn_dictionary
from sparsecode_jax.learning.alternating import _fit_atoms, _replace

SMALL = {"num_atoms": 12, "num_rounds": 120, "num_restarts": 4}


@pytest.fixture(scope="module")
def problem():
    return sc.synthetic.sample_problem(
        jax.random.key(3), 2, num_samples=400, num_measurements=8, num_atoms=12
    )


@pytest.fixture(scope="module")
def found(problem):
    return learn_dictionary(jax.random.key(0), problem.signals, **SMALL)


def test_recovers_the_dictionary_and_the_codes(problem, found):
    assert sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.99
    assert sc.metrics.mcc(problem.codes, found.codes) > 0.97
    random = sc.dictionaries.random(jax.random.key(9), num_atoms=12, num_measurements=8)
    assert sc.metrics.dictionary_mcc(problem.dictionary, random) < 0.9  # chance is far below


def test_the_best_restart_is_returned_and_nothing_but_the_objective_chooses_it(problem, found):
    assert found.objectives.shape == (4,) and found.dictionaries.shape == (4, 12, 8)
    best = int(np.argmin(found.objectives))
    np.testing.assert_array_equal(found.dictionary, found.dictionaries[best])
    assert found.objective == found.objectives[best]
    assert len(np.unique(np.asarray(found.objectives))) > 1
    value = sc.objectives.lasso(problem.signals, found.dictionary, found.codes, found.penalty)
    np.testing.assert_allclose(value.mean(), found.objective, rtol=1e-5)


def test_atoms_are_unit_and_codes_solve_the_lasso(problem, found):
    np.testing.assert_allclose(jnp.linalg.norm(found.dictionary, axis=1), 1, atol=1e-5)
    assert float(found.codes.min()) >= 0
    gap = sc.objectives.duality_gap(problem.signals, found.dictionary, found.codes, found.penalty)
    assert float(jnp.median(gap)) < 1e-3


def test_keys_decide_and_leading_axes_do_not(problem, found):
    again = learn_dictionary(jax.random.key(0), problem.signals.reshape(4, 100, 8), **SMALL)
    assert again.codes.shape == (4, 100, 12)
    np.testing.assert_array_equal(again.dictionary, found.dictionary)
    other = learn_dictionary(jax.random.key(1), problem.signals, **SMALL)
    assert float(jnp.abs(other.dictionaries - found.dictionaries).max()) > 0.1


def test_scaling_the_signals_scales_the_codes(problem, found):
    scaled = learn_dictionary(jax.random.key(0), 8 * problem.signals, **SMALL)
    np.testing.assert_allclose(scaled.penalty, 8 * found.penalty, rtol=1e-5)
    np.testing.assert_allclose(scaled.dictionary, found.dictionary, atol=2e-3)


def test_every_restart_is_charged(problem):
    flops = [
        learn_dictionary(
            jax.random.key(0), problem.signals, num_atoms=12, num_rounds=3, num_restarts=r
        ).flops
        for r in (1, 2, 4)
    ]
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])
    assert flops[0] > 3 * 10 * 400 * 4 * 8 * 12  # at least its FISTA steps


def test_signed_codes_by_the_solver(problem):
    signs = jnp.where(jax.random.bernoulli(jax.random.key(5), 0.5, problem.codes.shape), 1, -1)
    signals = (problem.codes * signs) @ problem.dictionary
    solver = sc.solvers.fista(prox=sc.prox.soft_threshold)
    learned = learn_dictionary(
        jax.random.key(0), signals, num_atoms=12, num_rounds=200, num_restarts=8, solver=solver
    )
    assert float(learned.codes.min()) < -0.1
    cosine = jnp.abs(learned.dictionary @ problem.dictionary.T).max(axis=0)
    assert float(jnp.median(cosine)) > 0.99


def test_the_update_is_least_squares():
    rng = np.random.default_rng(0)
    signals, codes = rng.normal(size=(50, 5)), np.abs(rng.normal(size=(50, 7)))
    old = rng.normal(size=(7, 5))
    with jax.enable_x64(True):
        atoms, moved = _fit_atoms(*map(jnp.asarray, (signals, old, codes)))
    expected = np.linalg.lstsq(codes, signals, rcond=None)[0]
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(atoms, expected / norms[:, None], atol=1e-3)
    np.testing.assert_allclose(moved, codes * norms, rtol=1e-3)


def test_an_unused_atom_stays_in_the_update():
    rng = np.random.default_rng(1)
    signals, codes = rng.normal(size=(50, 5)), np.abs(rng.normal(size=(50, 3)))
    codes[:, 1] = 0
    old = rng.normal(size=(3, 5))
    old /= np.linalg.norm(old, axis=1, keepdims=True)
    with jax.enable_x64(True):
        atoms, _ = _fit_atoms(*map(jnp.asarray, (signals, old, codes)))
    np.testing.assert_allclose(atoms[1], old[1], atol=1e-9)


def test_unused_atoms_and_twins_are_replaced_by_the_worst_residuals():
    atoms = np.eye(5)[[0, 1, 1, 2]]
    codes = np.zeros((4, 4))
    codes[0, :3] = 1
    signals = codes @ atoms + np.asarray([[0], [3], [2], [0]]) * np.eye(5)[[0, 3, 4, 0]]
    new, kept = _replace(*map(jnp.asarray, (signals, atoms, codes)), jnp.asarray(True))
    np.testing.assert_allclose(new, np.eye(5)[[0, 1, 3, 4]], atol=1e-6)
    np.testing.assert_array_equal(kept[:, 2:], 0)
    same, codes_ = _replace(*map(jnp.asarray, (signals, atoms, codes)), jnp.asarray(False))
    np.testing.assert_array_equal(same, atoms.astype(np.float32))
    np.testing.assert_array_equal(codes_, codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": 0}, "num_atoms is 0; an integer >= 1"),
        ({"num_rounds": 2.5}, "num_rounds is 2.5; an integer >= 1"),
        ({"num_atoms": 401}, "400 signals cannot determine 401 atoms"),
        ({"penalty": -1.0}, "penalty is -1.0; a finite number > 0"),
    ],
)
def test_errors(problem, change, message):
    with pytest.raises(ValueError, match=message):
        learn_dictionary(jax.random.key(0), problem.signals, **{**SMALL, **change})


def test_signals_that_are_not_finite(problem):
    with pytest.raises(ValueError, match="signals holds 1 non-finite numbers"):
        learn_dictionary(jax.random.key(0), problem.signals.at[0, 0].set(jnp.nan), **SMALL)


def test_hostile_scales_and_penalties_stay_finite(problem):
    for scale in (1e-18, 1e18):
        found = learn_dictionary(jax.random.key(0), scale * problem.signals, **SMALL)
        assert bool(jnp.all(jnp.isfinite(found.dictionary)))
        assert sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.99
    high = learn_dictionary(jax.random.key(0), problem.signals, penalty=50.0, **SMALL)
    assert bool(jnp.all(jnp.isfinite(high.dictionaries)))
    np.testing.assert_array_equal(high.codes, 0)
    with pytest.raises(ValueError, match="the penalty has shape \\(12,\\); one number"):
        learn_dictionary(jax.random.key(0), problem.signals, penalty=jnp.ones(12), **SMALL)
