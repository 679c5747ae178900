"""The front with a tolerance: its choice of solver, oracles, and what bad input is told."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import sparse_encode as sklearn_encode

import sparsecode_jax as sc
from sparsecode_jax import Lasso, Solver, dictionaries, solvers
from sparsecode_jax.prox import (
    elastic_net,
    group_soft_threshold,
    nonnegative_soft_threshold,
    soft_threshold,
)
from sparsecode_jax.solvers import solve_to_tolerance

from .contracts import PENALTY, as_numpy, numpy_gap, sparse_problem

SIGNALS, DICTIONARY, _ = sparse_problem()


def many_atoms(num_atoms, *, signed=False):
    """Draw six signals of three atoms each in a dictionary with sixteen measurements."""
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(num_atoms, 16))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((6, num_atoms))
    for row in codes:
        row[rng.choice(num_atoms, 3, replace=False)] = 1 + rng.random(3)
    if signed:
        codes *= rng.choice([-1, 1], size=codes.shape)
    return codes @ dictionary, dictionary


@pytest.mark.parametrize(("num_atoms", "many"), [(1023, False), (1024, True)])
def test_the_solver_follows_the_number_of_atoms(num_atoms, many):
    signals, dictionary = (jnp.asarray(x, jnp.float32) for x in many_atoms(num_atoms))
    codes = sc.sparse_encode(signals, dictionary, PENALTY, tolerance=1e-3)
    problem = Lasso(signals, dictionary, PENALTY, dictionaries.step_size(dictionary))
    choices = {False: (solvers.sparsa(), 5), True: (solvers.working_set(), 1)}
    for choice, (solver, every) in choices.items():
        found, info = solve_to_tolerance(
            solver, problem, tolerance=1e-3, max_steps=10_000, check_every=every
        )
        assert bool(info.converged.all())
        assert (np.max(np.abs(codes - found)) < 1e-6) == (choice == many)


@pytest.mark.parametrize("signed", [False, True])
def test_many_atoms_agree_with_scikit_learn(signed):
    signals, dictionary = many_atoms(1030, signed=signed)
    theirs = sklearn_encode(
        signals, dictionary, algorithm="lasso_cd", alpha=0.1, positive=not signed,
        max_iter=100_000,
    )  # fmt: skip
    solver = solvers.working_set(prox=soft_threshold) if signed else None
    with jax.enable_x64(True):
        ours = sc.sparse_encode(signals, dictionary, 0.1, tolerance=1e-11, solver=solver)
    assert numpy_gap(signals, dictionary, ours, 0.1, signed=signed).max() < 1e-10
    assert np.any(np.asarray(ours) < -0.1) == signed
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    their_gap = numpy_gap(signals, dictionary, theirs, 0.1, signed=signed)
    ours_value, theirs_value = (
        0.5 * np.sum((signals - z @ dictionary) ** 2, 1) + 0.1 * np.abs(z).sum(1)
        for z in (np.asarray(ours), theirs)
    )
    energy = 0.5 * np.sum(signals**2, axis=1)
    assert np.all(np.abs(ours_value - theirs_value) <= (their_gap + 1e-10) * energy)


@pytest.mark.parametrize(("alpha", "expected"), [(1e-8, 1.0), (0.1, 0.85), (0.5, 0.25), (1.0, 0.0)])
@pytest.mark.parametrize("num_atoms", [1, 1024])
def test_closed_form_on_minus_one_zero_one(alpha, expected, num_atoms):
    """scikit-learn's first test of its lasso: X = [-1, 0, 1]; further atoms are orthogonal."""
    x = np.asarray([-1.0, 0.0, 1.0])
    atoms = np.vstack([x, np.tile([0.0, 1.0, 0.0], (num_atoms - 1, 1))])
    with jax.enable_x64(True):
        codes = sc.sparse_encode(x, atoms, 3 * alpha, tolerance=1e-12)
    assert codes.shape == (num_atoms,)
    assert float(codes[0]) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(codes[1:], 0)


def test_leading_axes_warm_starts_and_a_tolerance_under_jit():
    encode = jax.jit(
        lambda x, t, z: sc.sparse_encode(x, DICTIONARY, PENALTY, tolerance=t, codes0=z)
    )
    signals = SIGNALS.reshape(4, 5, 8)
    codes = encode(signals, 1e-4, None)
    assert codes.shape == (4, 5, 16)
    gap = numpy_gap(*as_numpy((signals, DICTIONARY, codes)), PENALTY, signed=False)
    assert np.all(gap <= 1.1e-4) and gap.max() > 1e-6
    finer = encode(signals, 1e-5, codes)
    gap = numpy_gap(*as_numpy((signals, DICTIONARY, finer)), PENALTY, signed=False)
    assert np.all(gap <= 1.1e-5)


def test_warns_of_signals_that_do_not_reach_the_tolerance():
    """Also of how many; at the caller's line; and not while tracing."""
    hopeless = solvers.orthogonal_matching_pursuit(1)  # a second atom never comes
    signals = np.array(SIGNALS)
    signals[:3] = DICTIONARY[:3]

    def encode(x):
        return sc.sparse_encode(x, DICTIONARY, PENALTY, tolerance=1e-5, solver=hopeless)

    missed = len(signals) - 3
    message = f"{missed} of {len(signals)} signals did not reach the tolerance 1e-05 in 10000 steps"
    with pytest.warns(UserWarning, match=message) as caught:
        encode(signals)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(signals[:3])
        jax.jit(encode)(signals)
        jax.vmap(encode)(signals)
        sc.sparse_encode(signals, DICTIONARY, PENALTY, tolerance=1e-3)


# --- what bad input is told ------------------------------------------------------------------

PROBLEM = Lasso(SIGNALS, DICTIONARY, PENALTY, 0.1)
BLIND = Solver(*solvers.ista()[:3])


def encode(**kwargs):
    return lambda: sc.sparse_encode(SIGNALS, DICTIONARY, PENALTY, **kwargs)


def to_tolerance(solver=None, **kwargs):
    kwargs = {"tolerance": 1e-3, "max_steps": 5, **kwargs}
    return lambda: solve_to_tolerance(solver or solvers.sparsa(), PROBLEM, **kwargs)


ERRORS = {
    "neither": (encode(), "sparse_encode: neither of num_steps and tolerance given; exactly one"),
    "both": (
        encode(num_steps=3, tolerance=0.1),
        "sparse_encode: both of num_steps and tolerance given; exactly one is expected",
    ),
    "zero": (encode(tolerance=0.0), r"sparse_encode: tolerance is 0\.0; a finite number > 0"),
    "negative": (to_tolerance(tolerance=-1.0), r"solve_to_tolerance: tolerance is -1\.0; a finite"),
    "nan": (to_tolerance(tolerance=np.nan), "tolerance is nan; a finite number > 0 is expected"),
    "blind": (
        to_tolerance(BLIND),
        "solve_to_tolerance: the solver has neither a gap nor a prox.*Give it one",
    ),
    "max_steps": (to_tolerance(max_steps=0), "max_steps is 0; an integer >= 1 is expected"),
    "check_every": (to_tolerance(check_every=2.5), "check_every is 2.5; an integer >= 1"),
    "chunk_size": (to_tolerance(chunk_size=0), "chunk_size is 0; an integer >= 1 is expected"),
    "codes0": (to_tolerance(codes0=np.zeros((20, 8))), "the starting codes have shape"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_max_steps_is_static():
    with pytest.raises(TypeError, match="max_steps is traced, but it decides shapes"):
        jax.jit(lambda n: to_tolerance(max_steps=n)())(3)


def _refused(message, error=ValueError, **changes):
    arguments = {"signals": np.ones((2, 3)), "dictionary": np.eye(3), "penalty": 0.1}
    with pytest.raises(error, match=message):
        sc.sparse_encode(**{**arguments, "tolerance": 1e-3, **changes})


def test_what_no_gap_can_certify_is_refused():
    _refused(r"tolerance has shape \(2,\); one number", tolerance=np.full(2, 1e-3))
    _refused("tolerance is 1e-08, below what float32 can certify; at least 5e-07", tolerance=1e-8)
    _refused("largest entry of the signals is 1e-32, near the end", signals=np.full((2, 3), 1e-32))
    _refused("largest entry of the signals is 1e\\+32, near the end", signals=np.full((2, 3), 1e32))
    _refused("penalty is 0 somewhere, where no duality gap", penalty=0.0)
    _refused("penalty is 0 somewhere", penalty=np.asarray([0.1, 0.0, 0.1]))
    _refused("Call its factory, with parentheses", TypeError, solver=sc.solvers.fista)
    codes = sc.sparse_encode(
        np.ones((2, 3)), np.eye(3), 0.0, tolerance=1e-3,
        solver=sc.solvers.orthogonal_matching_pursuit(3),
    )  # fmt: skip
    np.testing.assert_allclose(codes, 1, atol=1e-5)  # a pursuit needs no penalty


def test_the_default_solver_follows_the_atoms_and_the_penalty():
    def default(num_atoms, num_measurements, **kwargs):
        shape = jax.ShapeDtypeStruct((num_atoms, num_measurements), "float32")
        return solvers.default_solver(shape, **kwargs)

    few, many = {"max_steps": 10_000, "check_every": 5}, {"max_steps": 1000, "check_every": 1}
    sizes = (32, 32, 64, 96, 128, 256)
    for prox in (nonnegative_soft_threshold, soft_threshold, elastic_net(0.5)):
        assert default(1023, 40, prox=prox) == (solvers.sparsa(prox=prox), few)
        for num_measurements in (40, 256):
            expected = solvers.working_set(sizes, prox=prox), many
            assert default(1024, num_measurements, prox=prox) == expected
        expected = solvers.working_set((*sizes, 512, 1024), prox=prox), many
        assert default(2048, 600, prox=prox) == expected
    assert default(1024, 40) == default(1024, 40, prox=nonnegative_soft_threshold)
    groups = group_soft_threshold(2)
    assert default(1024, 40, prox=groups) == (solvers.sparsa(prox=groups), few)
