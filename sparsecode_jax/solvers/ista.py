"""ISTA: the iterative soft-thresholding algorithm (proximal gradient)."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["ista"]


@cached
def ista(*, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold) -> Solver:
    r"""Build the iterative soft-thresholding algorithm.

    .. math:: z \leftarrow \mathrm{prox}_{s\lambda}\big(z - s\,(zD - x)D^\top\big)

    With a step size s of at most 1/L the objective never rises, and after k steps it is within
    :math:`L\|z_0 - z^*\|^2 / 2k` of its minimum.

    Args:
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its state is the codes.

    **Cost**: 4MN + M + 4N arithmetic operations per signal per step, and 1 per step. A signal and
    step cost N more with soft_threshold.

    References:
      Daubechies, Defrise, De Mol, 2004; Beck and Teboulle, 2009, Eq. (1.4).
    """
    _checks.function("ista", "prox", prox)
    return Solver(init_codes, Bound(_step, prox), _codes, prox=prox, splits_atoms=True)


def init_codes(problem: Lasso, codes0: Array | None = None) -> Array:
    """Return the warm start, or zeros (..., N)."""
    shape = problem.signals.shape[:-1] + problem.dictionary.shape[:1]
    return jnp.zeros(shape, problem.signals.dtype) if codes0 is None else codes0


def proximal_step(prox: Callable, codes: Array, problem: Lasso) -> Array:
    """Take one proximal gradient step from ``codes``."""
    signals, dictionary, penalty, step_size, _ = problem
    gradient = correlate(reconstruct(codes, dictionary) - signals, dictionary)
    return prox(codes - step_size * gradient, step_size * penalty)


def _step(prox: Callable, state: Array, problem: Lasso) -> Array:
    return proximal_step(prox, state, problem)


def _codes(state: Array) -> Array:
    return state
