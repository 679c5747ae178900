"""What is certified in float32 holds in float64, and what cannot be certified is not claimed."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax import Lasso, dictionaries, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.objectives import duality_gap, residual_gap
from sparsecode_jax.solvers import solve_to_tolerance

from .contracts import docstring, numpy_gap


def drawn(seed, num_signals, num_atoms, num_measurements, *, num_active, common=0.0, offset=0.0):
    """Draw sparse combinations of Gaussian atoms that share a direction; signals are moved."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(num_atoms, num_measurements))
    atoms += common * rng.normal(size=num_measurements)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((num_signals, num_atoms))
    for row in codes:
        row[rng.choice(num_atoms, num_active, replace=False)] = np.abs(rng.normal(size=num_active))
    return (codes @ atoms + offset).astype(np.float32), atoms.astype(np.float32)


def smooth(seed, num_signals, num_atoms, num_measurements, *, noise):
    """Draw combinations of slow waves about a mean: long sums whose roundings fall to one side."""
    rng = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.outer(np.arange(1, 8), np.linspace(0, 1, num_measurements)))
    atoms = 1 + rng.normal(size=(num_atoms, 7)) @ waves / 8**0.5
    atoms += 0.1 * rng.normal(size=atoms.shape)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    signals = np.abs(rng.normal(size=(num_signals, 4))) @ atoms[:4]
    signals += noise * rng.normal(size=signals.shape)
    return signals.astype(np.float32), atoms.astype(np.float32)


def certified(signals, dictionary, share, tolerance, solver, check_every=1, max_steps=1000):
    """Run at a share of the mean largest correlation: claims and gaps in float64."""
    penalty = np.float32(share * (signals @ dictionary.T).max(axis=1).mean())
    step_size = dictionaries.step_size(dictionary)
    problem = Lasso(*map(jnp.asarray, (signals, dictionary, penalty, step_size)))
    codes, info = solve_to_tolerance(
        solver, problem, tolerance=tolerance, max_steps=max_steps, check_every=check_every
    )
    gap = numpy_gap(signals, dictionary, codes, penalty, signed=False)
    return np.asarray(info.converged), np.asarray(info.gap), gap


SPARSA = (solvers.sparsa(), 5, 2000)
CASES = {
    "coherent": (drawn(0, 64, 1536, 96, num_active=8, common=1.0), 0.1, 1e-5, (
        solvers.working_set((32, 32, 64, 96)),)),
    "coherent, few atoms": (drawn(0, 64, 128, 96, num_active=8, common=1.0), 0.1, 1e-5, SPARSA),
    "noisy": (smooth(0, 64, 64, 768, noise=0.5), 0.1, 5e-6, SPARSA),
    "smooth": (smooth(0, 64, 64, 768, noise=0.0), 0.5, 5e-6, SPARSA),
}  # fmt: skip


@pytest.mark.parametrize(("data", "share", "tolerance", "run"), CASES.values(), ids=CASES)
def test_what_is_claimed_holds(data, share, tolerance, run):
    converged, claimed, gap = certified(*data, share, tolerance, *run)
    assert np.all(converged)
    assert np.all(gap <= claimed) and np.all(claimed <= tolerance)
    assert np.all(claimed - gap < 0.5 * tolerance)  # the margin leaves tolerances within reach


@pytest.mark.parametrize("offset", [10.0, 1e3])
def test_what_float32_cannot_reach_is_not_claimed(offset):
    """A residual of the signals' size, whose rounding is no smaller than the penalty's share."""
    signals, dictionary = drawn(0, 128, 16, 8, num_active=4, offset=offset)
    converged, claimed, gap = certified(signals, dictionary, 1e-6, 1e-3, *SPARSA)
    assert np.all(gap[converged] <= 1e-3)
    assert np.sum(~converged) > 64 and np.all(claimed[~converged] > 1e-3)


def test_what_is_claimed_holds_where_codes_cancel():
    """Codes four times the signal: the residual is rounded as they are, not as the signal is."""
    signals, dictionary = drawn(7, 256, 64, 32, num_active=8, offset=1e3)
    solver = solvers.working_set(64)
    converged, claimed, gap = certified(signals, dictionary, 1e-4, 1e-4, solver, max_steps=30)
    assert np.sum(converged) > 64 and np.all((gap <= claimed)[converged])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_claimed_holds_of_many_coherent_atoms(seed):
    data = drawn(seed, 512, 6144, 768, num_active=32, common=0.5)
    solver = solvers.working_set((32, 32, 64, 96, 128, 256))
    converged, claimed, gap = certified(*data, 0.1, 1e-5, solver)
    assert np.all(converged) and np.all(gap <= claimed) and np.all(claimed <= 1e-5)


@pytest.mark.parametrize(("m", "n"), [(8, 40), (64, 12)])
def test_cost_of_the_margin(m, n):
    """The norms of the atoms, whatever the number of signals, and no matrix product."""

    def cost(batch):
        shapes = ((batch, m), (n, m), (batch, m), (batch, n), (batch, n), ())
        return eval_flops(residual_gap, *(jnp.zeros(shape) for shape in shapes))

    assert cost(3).total("matmul") == 0
    once = 2 * cost(10).total() - cost(20).total()
    assert 2 * m * n - n <= once <= 2 * m * n + 4 * n + 50  # sums, roots, the largest
    for function in (duality_gap, residual_gap):
        assert "2MN once" in docstring(function)
