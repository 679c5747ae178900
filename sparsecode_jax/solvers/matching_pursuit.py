"""Matching pursuit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.dictionaries import correlate, reconstruct, unit_atoms
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers._support import (
    add_at,
    at,
    first_largest,
    gram_of,
    if_representable,
    negligible,
    score,
)
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["MatchingPursuitState", "matching_pursuit"]


class MatchingPursuitState(NamedTuple):
    """Codes of the atoms scaled to unit norm, and what they leave of the signal.

    Attributes:
      gram: inner products of unit atoms, (N, N).
      norms: of the atoms, (N,).
      unit: a power of two near the largest entry of the signal (or of a warm start), (..., 1), in
        which the rest is, so that squares neither over- nor underflow.
      codes: of unit atoms, (..., N).
      correlations: of the residual with unit atoms, (..., N).
      error: squared norm of the residual, (...,).
    """

    gram: Array
    norms: Array
    unit: Array
    codes: Array
    correlations: Array
    error: Array


@cached
def matching_pursuit(
    *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build matching pursuit: one atom's code per step, by what the residual shares with it.

    .. math:: j = \arg\max_j \frac{\langle r, d_j\rangle}{\|d_j\|},\qquad
       z_j \leftarrow z_j + \frac{\langle r, d_j\rangle}{\|d_j\|^2}

    An atom may be taken again. The problem's penalty and step size are not used. A warm start is
    kept as it is, and its residual pursued.

    Args:
      prox: ``nonnegative_soft_threshold`` takes only atoms with positive correlation, so that codes
        only grow; ``soft_threshold`` gives signed codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` with state :class:`MatchingPursuitState`; its gap is
      the relative squared error, 3M + 1 operations per signal.

    **Cost**: 2MN + 4M - 2 arithmetic operations per signal to start and 3N + M + 3 per signal per
    step; the Gram matrix of unit atoms 2MN^2 + 3MN once. Reading the codes: 2N.

    References:
      Mallat and Zhang, 1993, Eq. (10)-(13), and Section III-B for the update by Gram rows.
    """
    signed = keeps_negatives("matching_pursuit", prox)
    return Solver(_init, Bound(_step, signed), _codes, gap=_gap)


def _init(problem: Lasso, codes0: Array | None = None) -> MatchingPursuitState:
    atoms, norms, squares = unit_atoms(problem.dictionary)
    signals = problem.signals
    unit, inverse = unit_of(
        signals if codes0 is None else jnp.concatenate([signals, codes0], axis=-1)
    )
    residual = signals * inverse
    if codes0 is None:
        codes = jnp.zeros((*residual.shape[:-1], atoms.shape[0]), residual.dtype)
    else:
        codes = codes0 * inverse * as_row(norms, codes0)
        residual = residual - reconstruct(codes, atoms)
    return MatchingPursuitState(
        gram=gram_of(problem, atoms, norms),
        norms=norms,
        unit=unit,
        codes=codes,
        correlations=if_representable(correlate(residual, atoms), problem.dictionary, squares),
        error=jnp.sum(residual * residual, axis=-1),
    )


def _step(signed: bool, state: MatchingPursuitState, problem: Lasso) -> MatchingPursuitState:
    atom = first_largest(score(state.correlations, signed))[..., None]
    best = at(state.correlations, atom)
    taken = jnp.where(score(best, signed) > negligible(problem.signals, state.unit), best, 0)
    return state._replace(
        codes=add_at(state.codes, atom, taken),
        correlations=state.correlations - taken * state.gram[atom[..., 0]],
        error=state.error - taken[..., 0] * taken[..., 0],
    )


def _codes(state: MatchingPursuitState) -> Array:
    codes = jnp.where(jnp.isfinite(state.correlations), state.codes, jnp.nan)
    return codes * state.unit / as_row(state.norms, codes)


def _gap(state: MatchingPursuitState, problem: Lasso) -> Array:
    signals = problem.signals / state.unit
    energy = jnp.sum(signals * signals, axis=-1)
    return jnp.maximum(state.error, 0) / jnp.where(energy > 0, energy, 1)
