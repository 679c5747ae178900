"""FISTA: accelerated proximal gradient, with or without adaptive restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._scaling import in_units
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.solvers.ista import init_codes, proximal_step
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["FistaState", "fista", "gradient_restart"]


class FistaState(NamedTuple):
    """Codes (..., N), the extrapolated point (..., N), and t: () or (..., 1) with restart."""

    codes: Array
    point: Array
    momentum: Array


def gradient_restart(point: Array, new_codes: Array, codes: Array) -> Array:
    r"""Say which signals' momentum points uphill: :math:`\langle y - z^+, z^+ - z\rangle > 0`.

    Args:
      point: (..., N), the extrapolated point y the step was taken from. **Traced**.
      new_codes: (..., N), after the step. **Traced**.
      codes: (..., N), before it. **Traced**.

    Returns:
      Boolean (..., 1).

    References:
      O'Donoghue and Candes, 2015, Eq. (13), with the proximal gradient map as gradient.
    """
    name = "gradient_restart"
    point, new_codes, codes = _checks.floating(name, point, new_codes, codes)
    if not point.ndim or not point.shape == new_codes.shape == codes.shape:
        raise ValueError(
            f"{name}: the points have shapes {point.shape}, {new_codes.shape} and {codes.shape}; "
            "one shape (..., N) is expected."
        )
    # In units, or products of codes of 1e-20 would be 0.
    return jnp.sum(in_units(point - new_codes) * (new_codes - codes), axis=-1, keepdims=True) > 0


@cached
def fista(
    *,
    prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold,
    restart: Callable[[Array, Array, Array], Array] | None = None,
) -> Solver:
    r"""Build the fast iterative soft-thresholding algorithm.

    .. math::
       z^+ = \mathrm{prox}_{s\lambda}(y - s\,(yD - x)D^\top),\quad
       t^+ = \tfrac12(1 + \sqrt{1 + 4t^2}),\quad
       y^+ = z^+ + \tfrac{t - 1}{t^+}(z^+ - z)

    Args:
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.
      restart: None, or a function such as :func:`gradient_restart` that says for each signal when
        to drop its momentum; it restores fast local convergence. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` with state :class:`FistaState`.

    **Cost**: 4MN + M + 7N arithmetic operations per signal per step, and 9 per step; with
    ``gradient_restart`` 4MN + M + 13N + 6 per signal per step, and 1 per step. Per
    signal per step it is N more with soft_threshold.

    References:
      Beck and Teboulle, 2009, Eq. (4.1)-(4.3); O'Donoghue and Candes, 2015.
    """
    _checks.function("fista", "prox", prox)
    if restart is not None:
        _checks.function("fista", "restart", restart)
    init, step = Bound(_init, restart), Bound(_step, prox, restart)
    return Solver(init, step, _codes, prox=prox, splits_atoms=True)


def _init(restart: Callable | None, problem: Lasso, codes0: Array | None = None) -> FistaState:
    codes = init_codes(problem, codes0)
    shape = () if restart is None else codes.shape[:-1] + (1,)
    return FistaState(codes, codes, jnp.ones(shape, codes.dtype))


def _step(
    prox: Callable, restart: Callable | None, state: FistaState, problem: Lasso
) -> FistaState:
    codes = proximal_step(prox, state.point, problem)
    t = state.momentum
    new_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
    weight = (t - 1) / new_t
    if restart is not None:
        restarted = restart(state.point, codes, state.codes)
        new_t = jnp.where(restarted, 1, new_t)
        weight = jnp.where(restarted, 0, weight)
    return FistaState(codes, codes + weight * (codes - state.codes), new_t)


def _codes(state: FistaState) -> Array:
    return state.codes
