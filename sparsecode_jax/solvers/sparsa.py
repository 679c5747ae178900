"""SpaRSA: proximal gradient with spectral (Barzilai-Borwein) steps, one for each signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.objectives import penalty_in_units, residual_gap
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.solvers.ista import init_codes
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["SparsaState", "sparsa"]

HISTORY = 5  # the objective may rise, but not above its largest of so many accepted values
_SUFFICIENT = 1e-4  # the fraction of the squared step that the objective has to fall by
LONGEST = 1e3  # steps are at most so many times 1/L


class SparsaState(NamedTuple):
    """What one iteration needs of each signal.

    Attributes:
      codes: (..., N).
      residual: (signals - codes @ dictionary) * inverse, (..., M).
      correlations: of signals - codes @ dictionary with each atom, (..., N).
      objectives: the last accepted values of the objective, times inverse^2, (..., 5).
      step: the next step to try, (..., 1).
      inverse: of a power of two near the largest entry of the signal (or of what a warm start
        leaves of it), so that squares neither over- nor underflow, (..., 1).
    """

    codes: Array
    residual: Array
    correlations: Array
    objectives: Array
    step: Array
    inverse: Array


@cached
def sparsa(*, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold) -> Solver:
    r"""Build SpaRSA, sparse reconstruction by separable approximation.

    .. math::
       z^+ = \mathrm{prox}_{a\lambda}\big(z + a\,(x - zD)D^\top\big),\quad
       a^+ = \frac{\|z^+ - z\|^2}{\|(z^+ - z)D\|^2}

    The step a of each signal is the inverse curvature along its last move, which on sparse codes is
    much longer than 1/L. A trial that lifts the objective above its last five values is dropped and
    a is halved, down to the problem's step size, which is always taken. Needs no momentum, and
    fewer iterations than FISTA on most problems: it is what ``sparse_encode(tolerance=...)`` runs
    below 1,024 atoms.

    Args:
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` with state :class:`SparsaState`.

    **Cost**: 2MN + 4M + 2N + 2 arithmetic operations per signal to start, and 1 once; 4MN + 7M +
    10N + 14 per signal per step, and 2 per step. Per signal per step it is N more with
    soft_threshold.

    References:
      Wright, Nowak, Figueiredo, 2009, section II; Barzilai and Borwein, 1988.
    """
    init, step, gap = (Bound(fn, prox) for fn in (_init, _step, _gap))
    _checks.function("sparsa", "prox", prox)
    return Solver(init, step, _codes, gap=gap, prox=prox, splits_atoms=True)


def _init(prox: Callable, problem: Lasso, codes0: Array | None = None) -> SparsaState:
    signals, dictionary, penalty, step_size, _ = problem
    codes = init_codes(problem, codes0)
    residual = signals if codes0 is None else signals - reconstruct(codes, dictionary)
    largest = signals if codes0 is None else jnp.maximum(jnp.abs(signals), jnp.abs(residual))
    _, inverse = unit_of(largest)
    scaled = residual * inverse
    first = _objective(prox, scaled, codes, penalty, inverse)
    return SparsaState(
        codes,
        scaled,
        correlate(residual, dictionary),
        jnp.broadcast_to(first, (*first.shape[:-1], HISTORY)),
        jnp.broadcast_to(step_size, first.shape),
        inverse,
    )


def _step(prox: Callable, state: SparsaState, problem: Lasso) -> SparsaState:
    signals, dictionary, penalty, step_size, _ = problem
    inverse = state.inverse
    codes = prox(
        state.codes + state.step * state.correlations, state.step * as_row(penalty, state.codes)
    )
    residual = signals - reconstruct(codes, dictionary)
    scaled = residual * inverse
    moved = _squares((codes - state.codes) * inverse)
    curved = _squares(scaled - state.residual)
    objective = _objective(prox, scaled, codes, penalty, inverse)
    ceiling = jnp.max(state.objectives, axis=-1, keepdims=True)
    # "Not above" and not "at most": what is no number is accepted, and seen in the codes.
    enough = ~(objective > ceiling - 0.5 * _SUFFICIENT * moved / state.step)
    accepted = enough | ~(state.step > step_size)
    spectral = moved / jnp.where(curved > 0, curved, 1)
    longer = jnp.where(curved > 0, jnp.clip(spectral, step_size, LONGEST * step_size), state.step)
    shorter = jnp.maximum(0.5 * state.step, step_size)
    history = jnp.concatenate([state.objectives[..., 1:], objective], axis=-1)
    new = SparsaState(codes, scaled, correlate(residual, dictionary), history, longer, inverse)
    old = state._replace(step=shorter)
    return SparsaState(*(jnp.where(accepted, a, b) for a, b in zip(new, old, strict=True)))


def _gap(prox: Callable, state: SparsaState, problem: Lasso) -> Array:
    signals, dictionary, penalty, _, _ = problem
    residual, correlations = state.residual / state.inverse, state.correlations
    return residual_gap(
        signals, dictionary, residual, correlations, state.codes, penalty, prox=prox
    )


def _squares(x: Array) -> Array:
    return jnp.sum(x * x, axis=-1, keepdims=True)


def _objective(
    prox: Callable, scaled: Array, codes: Array, penalty: Array, inverse: Array
) -> Array:
    return 0.5 * _squares(scaled) + penalty_in_units(prox, codes, penalty, inverse)[..., None]


def _codes(state: SparsaState) -> Array:
    return state.codes
