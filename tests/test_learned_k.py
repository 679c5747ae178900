"""Dictionaries learned with K active codes per signal, with a bias, and of very many atoms."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import sparse_encode as sklearn_encode

import sparsecode_jax as sc
from sparsecode_jax import metrics, objectives, solvers
from sparsecode_jax.dictionary_learning import learn_dictionary, learn_dictionary_online, updates

replacement = importlib.import_module("sparsecode_jax.dictionary_learning._replacement")
M, N, K = 12, 20, 2
KEY = jax.random.key(5)
SMALL = {"num_rounds": 30, "num_restarts": 4, "num_hops": 1, "progress": None}
BIAS = np.linspace(-2, 3, M).astype(np.float32)


@pytest.fixture(scope="module")
def problem():
    key = jax.random.key(0)
    return sc.synthetic.sample_problem(key, K, num_samples=1000, num_measurements=M, num_atoms=N)


@pytest.fixture(scope="module")
def found(problem):
    return learn_dictionary(KEY, problem.signals, num_atoms=N, num_active=K, **SMALL)


def learn_online(batches, **options):
    options = {"num_atoms": N, "num_active": K, "progress": None, **options}
    return learn_dictionary_online(KEY, batches, **options)


def batches_of(signals):
    return list(np.asarray(signals).reshape(10, 100, M))


def test_k_in_the_place_of_a_penalty(problem, found):
    assert metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.99
    assert int((found.codes != 0).sum(axis=-1).max()) <= K
    assert float(found.penalty) == 0 and found.bias is None
    error = objectives.reconstruction_error(problem.signals, found.dictionary, found.codes)
    np.testing.assert_allclose(found.objective, error.mean(), rtol=1e-5)
    codes = sc.sparse_encode(problem.signals, found.dictionary, num_active=K)
    np.testing.assert_allclose(found.codes, codes, atol=1e-4)


def test_the_error_is_near_that_of_the_true_dictionary(problem, found):
    """Scikit-learn's own pursuit (of signed codes) judges both."""
    signals = np.asarray(problem.signals, np.float64)

    def error(dictionary):
        dictionary = np.asarray(dictionary, np.float64)
        codes = sklearn_encode(signals, dictionary, algorithm="omp", n_nonzero_coefs=K)
        return np.mean((signals - codes @ dictionary) ** 2)

    assert error(found.dictionary) < 1.1 * error(problem.dictionary) + 1e-4 * np.var(signals)


def test_what_builds_the_pursuit_may_be_given(problem):
    pursuit = solvers.orthogonal_matching_pursuit
    options = {"num_atoms": N, **SMALL}
    by_k = learn_dictionary(KEY, problem.signals, num_active=K, solver=pursuit, **options)
    codes = sc.sparse_encode(problem.signals, by_k.dictionary, num_active=K, solver=pursuit)
    np.testing.assert_allclose(by_k.codes, codes, atol=1e-4)
    assert metrics.dictionary_mcc(problem.dictionary, by_k.dictionary) > 0.95


def test_scale_changes_nothing_but_units(problem, found):
    scaled = learn_dictionary(KEY, 1e6 * problem.signals, num_atoms=N, num_active=K, **SMALL)
    np.testing.assert_allclose(scaled.dictionary, found.dictionary, atol=1e-3)
    np.testing.assert_allclose(scaled.codes, 1e6 * found.codes, rtol=1e-2, atol=1e3)


@pytest.mark.parametrize("bias", ["mean", "given"])
def test_a_bias_is_taken_away_before_all_else(problem, bias):
    signals = problem.signals + BIAS
    given = jnp.mean(signals, axis=0) if bias == "mean" else BIAS
    options = {"num_atoms": N, "num_active": K, **SMALL}
    got = learn_dictionary(KEY, signals, bias="mean" if bias == "mean" else given, **options)
    alone = learn_dictionary(KEY, signals - given, **options)
    np.testing.assert_array_equal(got.dictionary, alone.dictionary)
    np.testing.assert_array_equal(got.codes, alone.codes)
    np.testing.assert_allclose(got.bias, given, rtol=1e-6)
    batches = batches_of(signals)
    got = learn_online(batches, bias=given)
    alone = learn_online(batches_of(signals - given))
    np.testing.assert_allclose(got.dictionary, alone.dictionary, atol=1e-5)
    np.testing.assert_allclose(got.bias, given)


def test_online_learning_takes_the_mean_of_the_first_signals(problem):
    batches = batches_of(problem.signals + BIAS)
    got = learn_online(batches, bias="mean", num_epochs=6)
    np.testing.assert_allclose(got.bias, np.mean(batches[0], axis=0), rtol=1e-5)
    assert float(got.penalty) == 0
    moved = [batch - got.bias for batch in batches]
    codes = sc.sparse_encode(np.concatenate(moved), got.dictionary, num_active=K)
    r2 = metrics.r2(np.concatenate(batches), codes @ got.dictionary + got.bias)
    assert float(r2) > 0.8


def test_online_learning_recovers_with_k(problem):
    found = learn_online(batches_of(problem.signals), num_epochs=10)
    assert metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.97
    assert found.objectives[-10:].mean() < 0.5 * found.objectives[:10].mean()


def test_a_checkpoint_of_another_bias_is_refused(problem, tmp_path):
    batches = batches_of(problem.signals)
    learn_online(batches, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=r"belongs to another run \(bias\)"):
        learn_online(batches, checkpoint=tmp_path / "c", bias=BIAS)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"penalty": 0.1}, ValueError, "both a penalty and num_active are given"),
        ({"num_active": 0}, ValueError, "num_active is 0"),
        ({"num_active": N + 1}, ValueError, "num_active is 21 but there are 20 atoms"),
        ({"solver": solvers.fista()}, TypeError, "the solver is built already"),
        ({"bias": "median"}, ValueError, "the bias is 'median'"),
        ({"bias": np.ones(3)}, ValueError, r"the bias has shape \(3,\); \(12,\) is expected"),
        ({"bias": np.full(M, np.nan)}, ValueError, "bias holds 12 non-finite"),
    ],
)
def test_errors(problem, options, kind, message):
    with pytest.raises(kind, match=f"^learn_dictionary: .*{message}"):
        learn_dictionary(
            KEY, problem.signals, **{"num_atoms": N, "num_active": K, **SMALL, **options}
        )
    with pytest.raises(kind, match=f"^learn_dictionary_online: .*{message}"):
        learn_online(batches_of(problem.signals), **options)


# --- many atoms ----------------------------------------------------------------------------------


def test_twins_are_found_in_blocks_of_atoms_alike(monkeypatch, problem):
    atoms = jnp.concatenate([problem.dictionary, problem.dictionary[:5] + 1e-4])
    codes = jnp.pad(problem.codes, ((0, 0), (0, 5))).at[:, N:].set(0.5 * problem.codes[:, :5])
    at_once = replacement.renew_atoms(KEY, problem.signals, atoms, codes)
    assert int(at_once[2].sum()) >= 5
    monkeypatch.setattr(replacement, "WIDE", N)
    monkeypatch.setattr(replacement, "_ROWS", 7)
    in_blocks = replacement.renew_atoms(KEY, problem.signals, atoms, codes)
    for one, other in zip(at_once, in_blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.full_effort
@pytest.mark.parametrize("learner", ["online", "whole"])
def test_nothing_of_n_by_n_numbers_above_the_limit(learner):
    """The programs of 8,193 atoms: all arrays together are not half as large as N x N."""
    num_atoms, size = replacement.WIDE + 1, (64, 8)
    key, number = jax.random.key(0), jnp.float32(0)
    update = updates.projected_gradient()
    signals, atoms = jnp.zeros(size), jnp.zeros((num_atoms, size[1]))
    if learner == "online":
        online = importlib.import_module("sparsecode_jax.dictionary_learning.online")
        state = online._State(atoms, update.init(atoms), jnp.ones((2, num_atoms)), number)
        step = functools.partial(
            online._step, solver=solvers.fista(), update=update, num_steps=2, num_refitted=4
        )
        program = jax.jit(step).lower(key, state, signals, signals[0], number, number)
    else:
        program = jax.jit(
            lambda x, d: sc.dictionary_learning.alternate(
                x, d, jnp.zeros(1), num_steps=2, update=update, replacing=True
            )
        ).lower(signals, atoms)
    memory = program.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * num_atoms**2 / 2
