"""Objectives and optimality measures, one number per signal.

The objective everywhere is the lasso, half the squared error plus the l1 penalty. Others convert:
the paper's loss (mean squared error + penalty * mean |code|) is this lasso times 2/M with
:func:`penalty_from_paper`; scikit-learn's ``sparse_encode(alpha)`` has penalty = alpha, its
``Lasso(alpha)`` has penalty = alpha * M.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.prox import dual_norm, nonnegative_soft_threshold, ridge, value
from sparsecode_jax.types import Array, ArrayLike

__all__ = [
    "duality_gap",
    "kkt_residual",
    "lasso",
    "paper_loss",
    "penalty_from_paper",
    "reconstruction_error",
    "relative_error",
    "residual_gap",
]


def reconstruction_error(signals: Array, dictionary: Array, codes: Array) -> Array:
    """Return half the squared error of each signal.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.

    Returns:
      (...,).
    """
    _checks.objective("reconstruction_error", signals, dictionary, codes, 0.0)
    residual = signals - reconstruct(codes, dictionary)
    return 0.5 * jnp.sum(residual * residual, axis=-1)


def relative_error(signals: Array, dictionary: Array, codes: Array) -> Array:
    """Return the squared error of each signal as a fraction of its squared norm.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.

    Returns:
      (...,): 1 for zero codes; of a zero signal the squared error itself.
    """
    _checks.objective("relative_error", signals, dictionary, codes, 0.0)
    residual = signals - reconstruct(codes, dictionary)
    norm = jnp.sum(signals * signals, axis=-1)
    return jnp.sum(residual * residual, axis=-1) / jnp.where(norm > 0, norm, 1)


def lasso(signals: Array, dictionary: Array, codes: Array, penalty: ArrayLike) -> Array:
    """Return the lasso objective of each signal.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.
      penalty: () or (N,). **Traced**.

    Returns:
      (...,).
    """
    _checks.objective("lasso", signals, dictionary, codes, penalty)
    error = reconstruction_error(signals, dictionary, codes)
    return error + jnp.sum(as_row(penalty, codes) * jnp.abs(codes), axis=-1)


def paper_loss(signals: Array, dictionary: Array, codes: Array, penalty: ArrayLike) -> Array:
    """Return the paper's loss, one scalar for all signals.

    Mean squared error over signals and measurements plus ``penalty`` times the mean absolute code
    (arXiv 2411.13117 and its code).

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.
      penalty: the paper's weight; as a lasso it is ``penalty_from_paper``. **Traced**.

    Returns:
      A scalar.
    """
    _checks.objective("paper_loss", signals, dictionary, codes, penalty)
    residual = codes @ dictionary - signals
    return jnp.mean(residual * residual) + penalty * jnp.mean(jnp.abs(codes))


def penalty_from_paper(penalty: ArrayLike, *, num_measurements: int, num_atoms: int) -> Array:
    """Convert the paper's l1 weight into the lasso's: penalty * M / (2N)."""
    return jnp.asarray(penalty) * num_measurements / (2 * num_atoms)


def duality_gap(
    signals: Array,
    dictionary: Array,
    codes: Array,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    r"""Return the relative duality gap of each signal: a certificate of its distance to optimum.

    The residual r, scaled into the dual feasible set, is the dual point:

    .. math:: \frac{P(z) - [\tfrac12\|x\|^2 - \tfrac12\|x - s r\|^2]}{\tfrac12\|x\|^2}

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.
      penalty: () or (N,), > 0. **Traced**.
      prox: the proximal operator of the penalty: by its sign, the lasso of non-negative or of
        signed codes; an elastic net or a group lasso. **Static**.

    Returns:
      (...,), >= 0 up to rounding and 0 exactly at the optimum; 0 for a zero signal with zero codes;
      NaN for a penalty that is negative (where that is not known and refused).

    **Cost**: 4MN a signal in matrix products.
    """
    _checks.objective("duality_gap", signals, dictionary, codes, penalty)
    residual = signals - reconstruct(codes, dictionary)
    correlations = correlate(residual, dictionary)
    return residual_gap(signals, residual, correlations, codes, penalty, prox=prox)


def residual_gap(
    signals: Array,
    residual: Array,
    correlations: Array,
    codes: Array,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    """Return the relative duality gap from a residual and correlations that are at hand.

    Args:
      signals: (..., M). **Traced**.
      residual: ``signals - codes @ dictionary``, (..., M). **Traced**.
      correlations: ``residual @ dictionary.T``, (..., N). **Traced**.
      codes: (..., N). **Traced**.
      penalty: () or (N,), > 0. **Traced**.
      prox: the proximal operator of the penalty. **Static**.

    Returns:
      (...,), as :func:`duality_gap`, without its matrix products.
    """
    penalty = jnp.asarray(penalty, residual.dtype)
    _, inverse = unit_of(signals)
    weight = ridge(prox, penalty)
    if isinstance(weight, float):
        squares = jnp.zeros((), residual.dtype)
    else:  # an elastic net is a lasso whose atoms have one more measurement each
        weight = as_row(weight, codes)
        correlations = correlations - weight * codes
        squares = jnp.sum((weight * codes * inverse) * (codes * inverse), axis=-1)
    norm = dual_norm(prox, correlations, penalty)
    penalized = penalty_in_units(prox, codes, penalty, inverse)
    return gap_of_parts(signals * inverse, residual * inverse, norm, penalized, squares)


def penalty_in_units(prox: Callable, codes: Array, penalty: Array, inverse: Array) -> Array:
    """Return the penalty (...,) of codes times the square of ``inverse``, (..., 1).

    No product on the way is far from 1 where codes and penalty are as large as the unit.
    """
    unit, small = unit_of(penalty.ravel())
    inverse = inverse[..., 0]
    return value(prox, codes, penalty * small[0]) * inverse * unit[0] * inverse


def gap_of_parts(
    signals: Array, residual: Array, norm: Array, penalty: Array, squares: Array
) -> Array:
    """Return the relative duality gap from a dual norm, the penalty and the ridge, (...,) each.

    All are in units of the signal: its square divides the penalty and the ridge.
    """
    energy = jnp.sum(residual * residual, axis=-1) + squares
    best = jnp.sum(signals * residual, axis=-1) / jnp.where(energy > 0, energy, 1)
    scale = jnp.clip(best, 0, jnp.where(norm == 0, jnp.inf, 1 / jnp.where(norm == 0, 1, norm)))
    primal = 0.5 * (energy - squares) + penalty
    difference = signals - scale[..., None] * residual
    half = 0.5 * jnp.sum(signals * signals, axis=-1)
    dual = half - 0.5 * jnp.sum(difference * difference, axis=-1) - 0.5 * scale**2 * squares
    return (primal - dual) / jnp.where(half > 0, half, 1)


def kkt_residual(
    signals: Array,
    dictionary: Array,
    codes: Array,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    r"""Return how far each code is from a fixed point of a unit proximal step.

    .. math:: \| z - \mathrm{prox}(z + (x - zD) D^T, \lambda) \|_\infty

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N). **Traced**.
      penalty: () or (N,). **Traced**.
      prox: the proximal operator of the penalty. **Static**.

    Returns:
      (...,), 0 exactly at the optimum.
    """
    _checks.objective("kkt_residual", signals, dictionary, codes, penalty)
    descent = correlate(signals - reconstruct(codes, dictionary), dictionary)
    return jnp.max(jnp.abs(codes - prox(codes + descent, penalty)), axis=-1)
