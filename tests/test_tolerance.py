"""Running to a tolerance: what is promised of each signal, for every solver that can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import solvers

from .contracts import S
from .tolerance import each


def identity(codes):
    return codes


@each
def test_stops_each_signal_at_the_first_look_within_the_tolerance(case):
    """Its codes are those of so many steps together, whatever its chunk and its place in it."""
    with jax.enable_x64(True):
        problem = case.problem()
        codes, info = case.run(chunk_size=7)
        steps = np.asarray(info.num_steps)
        most = int(steps.max())
        assert most <= case.max_steps + case.check_every - 1
        _, path = solvers.trajectory(
            case.solver, problem, num_steps=most, record=identity, record_every=case.check_every
        )
        order = np.random.default_rng(0).permutation(S)
        permuted = problem._replace(signals=problem.signals[order])
        other, after = case.run(permuted, chunk_size=7)
    np.testing.assert_array_equal(info.num_steps[order], after.num_steps)
    np.testing.assert_allclose(codes[order], other, atol=1e-6)
    assert codes.dtype == info.gap.dtype == jnp.float64
    assert np.unique(steps).size > 1
    assert np.all(steps % case.check_every == 0)
    looks = steps // case.check_every - 1
    np.testing.assert_allclose(codes, np.asarray(path)[looks, np.arange(S)], atol=1e-6)
    measured = case.measure(problem, codes)
    np.testing.assert_allclose(info.gap, measured, rtol=1e-5, atol=1e-12)
    np.testing.assert_array_equal(info.converged, measured <= case.tolerance)
    assert np.all(info.converged | (steps >= case.max_steps))
    if case.numpy is not None:
        assert np.all(info.converged)
    before = np.asarray(path)[np.maximum(looks - 1, 0), np.arange(S)]
    assert np.all((looks == 0) | (case.measure(problem, before) > case.tolerance))


def test_a_tolerance_that_is_no_number_under_jit_gives_none():
    p = sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=20, num_measurements=8, num_atoms=12
    )
    run = jax.jit(
        lambda tolerance: sc.sparse_encode(p.signals, p.dictionary, 0.1, tolerance=tolerance)
    )
    assert np.isnan(run(np.nan)).all() and np.isfinite(run(1e-4)).all()


@pytest.mark.parametrize("make", [float, lambda x: np.asarray([1, x] * 6)], ids=["one", "each"])
def test_a_traced_penalty_below_0_gives_no_codes(make):
    p = sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=20, num_measurements=8, num_atoms=12
    )
    run = jax.jit(lambda penalty: sc.sparse_encode(p.signals, p.dictionary, penalty, tolerance=0.1))
    assert np.isnan(run(make(-0.1))).all() and np.isfinite(run(make(0.1))).all()


def test_a_penalty_of_a_weak_type_compiles_nothing_anew(compilations):
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=5, num_measurements=6, num_atoms=9
    )
    signals, dictionary = problem.signals, problem.dictionary
    strong, weak = jnp.float32(0.1), jnp.asarray(0.1)
    assert weak.weak_type and not strong.weak_type
    jnp.asarray(weak, jnp.float32)  # the program that makes it strong
    for options in ({"num_steps": 3}, {"tolerance": 0.1}):
        sc.sparse_encode(signals, dictionary, strong, **options)
        before = compilations.count
        sc.sparse_encode(signals, dictionary, weak, **options)
        sc.sparse_encode(signals, dictionary, 0.1, **options)
        assert compilations.count == before
