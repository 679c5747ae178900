"""Objectives and optimality measures, one number per signal.

The objective everywhere is the lasso, half the squared error plus the l1 penalty. Others convert:
the paper's loss (mean squared error + penalty * mean ``|code|``) is this lasso times 2/M
with :func:`penalty_from_paper`; scikit-learn's ``sparse_encode(alpha)`` has penalty = alpha, its
``Lasso(alpha)`` has penalty = alpha * M.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax._sharding import on_automatic_axes
from sparsecode_jax._sparse import SparseCodes, dense
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

Codes = Array | SparseCodes


def steered_penalty(penalty: Array, reached: Array, target_l0: Array, gain: float) -> Array:
    """Return the next penalty of a training that is to reach a mean number of active codes.

    Its logarithm moves by ``gain`` for codes that are too many, or too few, by all of the target.
    """
    away = jnp.clip(reached / target_l0 - 1, -1, 1)
    return penalty * jnp.exp(gain * away).astype(penalty.dtype)


@on_automatic_axes
def reconstruction_error(signals: Array, dictionary: Array, codes: Codes) -> Array:
    """Return half the squared error of each signal.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.

    Returns:
      (...,).
    """
    signals, dictionary, codes = _arguments("reconstruction_error", signals, dictionary, codes)
    residual = signals - reconstruct(codes, dictionary)
    return 0.5 * jnp.sum(residual * residual, axis=-1)


@on_automatic_axes
def relative_error(signals: Array, dictionary: Array, codes: Codes) -> Array:
    """Return the squared error of each signal as a fraction of its squared norm.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.

    Returns:
      (...,): 1 for zero codes; of a zero signal the squared error itself.
    """
    signals, dictionary, codes = _arguments("relative_error", signals, dictionary, codes)
    _, inverse = unit_of(signals)  # or the squares of signals of 1e-20 would be 0
    residual = (signals - reconstruct(codes, dictionary)) * inverse
    signals = signals * inverse
    norm = jnp.sum(signals * signals, axis=-1)
    return jnp.sum(residual * residual, axis=-1) / jnp.where(norm == 0, 1, norm)


def _arguments(
    name: str, signals: Array, dictionary: Array, codes: Codes
) -> tuple[Array, Array, Codes]:
    """Return the arguments of an error as arrays, sparse codes as they are, or raise."""
    if not isinstance(codes, SparseCodes):
        signals, dictionary, codes, _ = _checks.objective(name, signals, dictionary, codes, 0.0)
        return signals, dictionary, codes
    values, indices = codes.checked()
    signals, dictionary, values, _ = _checks.objective(
        name, signals, dictionary, values, 0.0, codes.shape
    )
    return signals, dictionary, SparseCodes(values, indices, codes.num_atoms)


@on_automatic_axes
def lasso(signals: Array, dictionary: Array, codes: Codes, penalty: ArrayLike) -> Array:
    """Return the lasso objective of each signal.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.
      penalty: () or (N,). **Traced**.

    Returns:
      (...,).
    """
    signals, dictionary, codes, penalty = _checks.objective(
        "lasso", signals, dictionary, dense(codes), penalty
    )
    error = reconstruction_error(signals, dictionary, codes)
    return error + jnp.sum(as_row(penalty, codes) * jnp.abs(codes), axis=-1)


@on_automatic_axes
def paper_loss(signals: Array, dictionary: Array, codes: Codes, penalty: ArrayLike) -> Array:
    """Return the paper's loss, one scalar for all signals.

    Mean squared error over signals and measurements plus ``penalty`` times the mean absolute code
    (arXiv 2411.13117 and its code).

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.
      penalty: the paper's weight; as a lasso it is ``penalty_from_paper``. **Traced**.

    Returns:
      A scalar.
    """
    signals, dictionary, codes, penalty = _checks.objective(
        "paper_loss", signals, dictionary, dense(codes), penalty
    )
    residual = codes @ dictionary - signals
    return jnp.mean(residual * residual) + penalty * jnp.mean(jnp.abs(codes))


def penalty_from_paper(penalty: ArrayLike, *, num_measurements: int, num_atoms: int) -> Array:
    """Convert the paper's l1 weight into the lasso's: penalty * M / (2N)."""
    name = "penalty_from_paper"
    _checks.count(name, "num_measurements", num_measurements)
    _checks.count(name, "num_atoms", num_atoms)
    (penalty,) = _checks.floating(name, penalty)
    return penalty * num_measurements / (2 * num_atoms)


@on_automatic_axes
def duality_gap(
    signals: Array,
    dictionary: Array,
    codes: Codes,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    r"""Bound how far each signal's objective is above its minimum: the relative duality gap.

    The residual r, scaled into the dual feasible set, is the dual point:

    .. math:: \frac{P(z) - [\tfrac12\|x\|^2 - \tfrac12\|x - s r\|^2]}{\tfrac12\|x\|^2}
       = \frac{\tfrac12 (1 - s)^2 \|r\|^2 + \lambda\|z\|_1 - s \langle z, D r\rangle}
       {\tfrac12\|x\|^2}

    The second form loses no digits. What rounding can hide in the correlations Dr is added to their
    dual norm, so that the bound holds in the arithmetic that it is computed in: see
    :func:`residual_gap`. Of half precision it is computed in float32.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.
      penalty: () or (N,), > 0. **Traced**.
      prox: the proximal operator of the penalty: by its sign, the lasso of non-negative or of
        signed codes; an elastic net or a group lasso. **Static**.

    Returns:
      (...,), >= 0 and near rounding at the optimum; 0 exactly for zero codes that are optimal; NaN
      for a traced penalty that is negative; a concrete one is refused.

    **Cost**: 4MN per signal in matrix products, and 2MN once.
    """
    signals, dictionary, codes, penalty = _checks.objective(
        "duality_gap", signals, dictionary, dense(codes), penalty
    )
    _checks.function("duality_gap", "prox", prox)
    dtype = signals.dtype
    if is_half(dtype):  # its roundings would be most of the gap
        signals, dictionary, codes, penalty = (
            x.astype(jnp.float32) for x in (signals, dictionary, codes, penalty)
        )
    residual = signals - reconstruct(codes, dictionary)
    correlations = correlate(residual, dictionary)
    gap = residual_gap(signals, dictionary, residual, correlations, codes, penalty, prox=prox)
    # Not below what it was, where it is rounded.
    return (gap * (1 + jnp.finfo(dtype).eps)).astype(dtype) if gap.dtype != dtype else gap


def is_half(dtype: Any) -> bool:
    """Say whether a floating dtype has fewer digits than float32."""
    return jnp.finfo(dtype).bits < 32


@on_automatic_axes
def residual_gap(
    signals: Array,
    dictionary: Array,
    residual: Array,
    correlations: Array,
    codes: Array,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    r"""Return the relative duality gap from a residual and correlations that are at hand.

    The correlation :math:`c_j` of a residual r with an atom is taken to be wrong by up to

    .. math:: u\,\big[(2 + \tfrac14\sqrt M)\,\|r\|\,\|d_j\| + \tfrac12\sqrt M\,|c_j|
       + \min(2, 8 / \sqrt M)\,s\,\|d_j\|\big], \qquad
       s^2 = \|x\|^2 + \sum_i z_i^2 \|d_i\|^2,

    where u is half the dtype's epsilon: the first two terms are four standard deviations of what
    rounding does to sums of M products, the third of what it does to r, a difference of terms as
    large as s; the last also moves the product of r with the reconstruction. It is a bound for all
    practical purposes, not a proof; a proof would need M in place of its square root.

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      residual: ``signals - codes @ dictionary``, (..., M). **Traced**.
      correlations: ``residual @ dictionary.T``, (..., N). **Traced**.
      codes: (..., N). **Traced**.
      penalty: () or (N,), > 0. **Traced**.
      prox: the proximal operator of the penalty. **Static**.

    Returns:
      (...,), as :func:`duality_gap`, without its matrix products.

    **Cost**: 2MN once, for the norms of the atoms.

    References:
      Higham and Mary, 2019, "A new approach to probabilistic rounding error analysis".
    """
    name = "residual_gap"
    _checks.function(name, "prox", prox)
    signals, dictionary, codes, penalty = _checks.objective(
        name, signals, dictionary, codes, penalty
    )
    residual, correlations, signals, dictionary, codes = _checks.floating(
        name, residual, correlations, signals, dictionary, codes
    )
    of_codes = (*codes.shape[:-1], signals.shape[-1])
    if residual.shape != of_codes or correlations.shape != codes.shape:
        raise ValueError(
            f"{name}: the residual has shape {residual.shape} and the correlations "
            f"{correlations.shape}; those of signals {signals.shape} and codes {codes.shape} are "
            "expected."
        )
    penalty = jnp.asarray(penalty, residual.dtype)
    unit, inverse = unit_of(signals)
    weight = ridge(prox, penalty)
    squares = jnp.zeros((), residual.dtype)
    if not isinstance(weight, float):
        # An elastic net is a lasso whose atoms have one more measurement each.
        weight = as_row(weight, codes)
        correlations = correlations - weight * codes
        squares = jnp.sum((weight * codes * inverse) * (codes * inverse), axis=-1)
    norms = atom_norms(dictionary)
    terms = (codes * inverse) * as_row(norms, codes)
    return gap_of_parts(
        signals * inverse,
        residual * inverse,
        jnp.sum(terms * terms, axis=-1),
        squares,
        penalty_in_units(prox, codes, penalty, inverse),
        jnp.sum((codes * inverse) * (correlations * inverse), axis=-1),
        dual_norm(prox, correlations, penalty),
        unit[..., 0] * dual_norm(prox, norms, penalty),
    )


def atom_norms(dictionary: Array) -> Array:
    """Return the norm of each atom, (N,)."""
    return jnp.sqrt(jnp.sum(dictionary * dictionary, axis=-1))


def penalty_in_units(prox: Callable, codes: Array, penalty: Array, inverse: Array) -> Array:
    """Return the penalty (...,) of codes times the square of ``inverse``, (..., 1).

    No product on the way is far from 1 where codes and penalty are as large as the unit.
    """
    unit, small = unit_of(jnp.ravel(penalty))
    inverse = inverse[..., 0]
    return value(prox, codes, penalty * small[0]) * inverse * unit[0] * inverse


@functools.partial(jax.jit, inline=True)
def gap_of_parts(
    signals: Array,
    residual: Array,
    terms: Array,
    squares: Array,
    penalty: Array,
    inner: Array,
    norm: Array,
    largest: Array,
) -> Array:
    """Return the relative duality gap from numbers that are one per signal.

    All are in units of the signal: its square divides the energies, the penalty and products.

    Args:
      signals: (..., M).
      residual: of the signals, (..., M).
      terms: the sum of the squared norms of the reconstruction's terms, (...,).
      squares: of the codes, by the weight of an elastic net's ridge, (...,).
      penalty: of the codes, with its ridge, (...,).
      inner: products of the codes with the correlations (less the ridge's), (...,).
      norm: the dual norm of those correlations, (...,).
      largest: the dual norm of the atoms' norms, times the unit of the signal, (...,).

    Returns:
      (...,).
    """
    num_measurements = signals.shape[-1]
    rounding = 0.5 * float(jnp.finfo(signals.dtype).eps)  # as it is it would promote bfloat16
    root = num_measurements**0.5
    full = jnp.sum(signals * signals, axis=-1)
    energy = jnp.sum(residual * residual, axis=-1) + squares
    of_residual = 8 / max(root, 4) * _root(full + terms)
    off = (2 + root / 4) * _root(energy) + of_residual
    norm = (1 + rounding * root / 2) * norm + jnp.where(full > 0, rounding * off * largest, 0)
    best = 1 + inner / jnp.where(energy > 0, energy, 1)  # <x, r> is |r|^2 + <z, Dr>
    zero = norm == 0  # not: norm > 0, which NaN is not
    scale = jnp.clip(best, 0, jnp.where(zero, jnp.inf, 1 / jnp.where(zero, 1, norm)))
    image = _root(jnp.sum((signals - residual) ** 2, axis=-1))
    inner = inner - rounding * of_residual * image  # <z, Dr> is <zD, r>
    excess = 0.5 * (1 - scale) ** 2 * energy + (penalty - 0.5 * squares) - scale * inner
    return excess / jnp.where(full == 0, 1, 0.5 * full)  # not: full > 0, which NaN is not


def _root(squares: Array) -> Array:
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


@on_automatic_axes
def kkt_residual(
    signals: Array,
    dictionary: Array,
    codes: Codes,
    penalty: ArrayLike,
    *,
    prox: Callable = nonnegative_soft_threshold,
) -> Array:
    r"""Return how far each code is from a fixed point of a unit proximal step.

    .. math:: \| z - \mathrm{prox}(z + (x - zD) D^T, \lambda) \|_\infty

    Args:
      signals: (..., M). **Traced**.
      dictionary: (N, M). **Traced**.
      codes: (..., N), or :class:`~sparsecode_jax.SparseCodes`. **Traced**.
      penalty: () or (N,). **Traced**.
      prox: the proximal operator of the penalty. **Static**.

    Returns:
      (...,), 0 exactly at the optimum.
    """
    signals, dictionary, codes, penalty = _checks.objective(
        "kkt_residual", signals, dictionary, dense(codes), penalty
    )
    _checks.function("kkt_residual", "prox", prox)
    descent = correlate(signals - reconstruct(codes, dictionary), dictionary)
    return jnp.max(jnp.abs(codes - prox(codes + descent, penalty)), axis=-1)
