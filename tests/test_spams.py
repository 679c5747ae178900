"""SPAMS as oracle, where it is installed (the ``bench`` extra): lasso by LARS, and ORMP."""

import numpy as np
import pytest

pytest.importorskip("spams", reason="SPAMS is in the bench extra: make bench installs it")

import sparsecode_jax as sc
from benchmarks import peers
from benchmarks.problems import Scale, draw

SMALL = Scale(12, 40, 4, 60, 1e-5)


@pytest.mark.parametrize("coherent", [False, True])
def test_lasso_equals_spams(coherent):
    problem = draw(SMALL, 3, coherent)
    expected = peers.spams_lasso(problem, threads=1, gram=False)[0]()
    for solver in (sc.solvers.sparsa(), sc.solvers.working_set((8, 16))):
        lasso = sc.Lasso(
            problem.signals, problem.dictionary, problem.penalty,
            sc.dictionaries.step_size(problem.dictionary),
        )  # fmt: skip
        codes, info = sc.solvers.solve_to_tolerance(solver, lasso, tolerance=2e-6, max_steps=20_000)
        assert bool(info.converged.all())
        values = sc.objectives.lasso(*lasso[:2], np.stack([codes, expected]), problem.penalty)
        scale = 0.5 * (problem.signals**2).sum(axis=1)
        np.testing.assert_allclose(values[0] / scale, values[1] / scale, atol=4e-6)
        np.testing.assert_allclose(codes, expected, atol=0.02)


def test_supports_of_orthogonal_least_squares_are_those_of_spams():
    problem = draw(SMALL, 4, False)
    expected = peers.spams_ormp(problem, threads=1)[0]()
    solver = sc.solvers.orthogonal_least_squares(4, prox=sc.prox.soft_threshold)
    codes = sc.solvers.solve(
        solver, sc.Lasso(problem.signals, problem.dictionary, 0.0, 1.0), num_steps=4
    )
    np.testing.assert_allclose(codes, expected, atol=1e-4)


@pytest.mark.parametrize("maker", [peers.scikit_learn_lasso, peers.celer_lasso])
def test_other_peers_reach_the_gap(maker):
    problem = draw(SMALL, 5, False)
    run, count = maker(problem)
    assert peers.worst_gap(problem, run()) <= problem.tolerance
    assert count == 60
