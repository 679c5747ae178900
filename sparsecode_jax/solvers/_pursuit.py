"""The engine of orthogonal pursuits: a growing orthonormal basis of chosen atoms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.dictionaries import correlate
from sparsecode_jax.prox import keeps_negatives
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._support import (
    add_at,
    first_largest,
    if_representable,
    in_slots,
    negligible,
    no_codes,
    score,
)
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["PursuitState", "pursuit"]

_DEPENDENT = 1e-6  # an atom of which less than this fraction is left lies in the chosen span
_MOST_ATOMS = 1024  # up to which their inner products are made; one signal would not repay more


class PursuitState(NamedTuple):
    """K chosen atoms of each signal, as an orthonormal basis q_1, ..., q_K of their span.

    Attributes:
      squares: squared norm of each atom, (N,).
      unit: a power of two near the largest entry of the signal, (..., 1), in which correlations and
        coefficients are, so that squares neither over- nor underflow.
      correlations: of the residual with each atom, (..., N).
      norms: squared norm of each atom's part outside the span, (..., N).
      gram: inner products of atoms, (N, N); None above 1,024 atoms that were not prepared.
      basis: the products of each q_k with all atoms, (..., K, N); without a Gram matrix the q_k
        themselves, (..., K, M).
      triangle: inner products of q_k with the l-th chosen atom, (..., K, K), upper triangular.
      coefficients: of the signal in the basis, (..., K).
      support: chosen atoms in order, (..., K); -1 where none was chosen.
      taken: steps taken.
    """

    squares: Array
    unit: Array
    correlations: Array
    norms: Array
    gram: Array | None
    basis: Array
    triangle: Array
    coefficients: Array
    support: Array
    taken: Array


def pursuit(
    name: str,
    num_active: int,
    prox: Callable[[Array, Array], Array],
    scale: Callable[[PursuitState], Array],
) -> Solver:
    """Build a pursuit that takes the atom of the best ``score(correlations) / scale(state)``."""
    signed = keeps_negatives(name, prox)
    return Solver(
        Bound(_init, name, num_active),
        Bound(_step, num_active, signed, scale),
        Bound(_codes, num_active, signed),
        gap=Bound(_gap, num_active, signed),
        takes_codes0=False,
        sparse_codes=Bound(_sparse_codes, num_active, signed),
    )


def _init(name: str, num_active: int, problem: Lasso, codes0: Array | None = None) -> PursuitState:
    if codes0 is not None:
        raise ValueError(
            f"{name}: got codes0, but an orthogonal pursuit builds its support from nothing; None "
            "is expected. To refine given codes use fista()."
        )
    signals, dictionary = problem.signals, problem.dictionary
    leading, num_atoms, dtype = signals.shape[:-1], dictionary.shape[0], signals.dtype
    _checks.num_active(name, num_active, num_atoms)
    unit, inverse = unit_of(signals)
    squares = jnp.sum(dictionary * dictionary, axis=-1)
    gram = problem.gram
    if gram is None and num_atoms <= _MOST_ATOMS:
        gram = correlate(dictionary, dictionary)
    vectors = dictionary if gram is None else gram
    return PursuitState(
        squares=squares,
        unit=unit,
        correlations=if_representable(
            correlate(signals * inverse, dictionary), dictionary, squares
        ),
        norms=jnp.broadcast_to(squares, (*leading, num_atoms)),
        gram=gram,
        basis=jnp.zeros((*leading, num_active, vectors.shape[1]), dtype),
        triangle=jnp.zeros((*leading, num_active, num_active), dtype),
        coefficients=jnp.zeros((*leading, num_active), dtype),
        support=jnp.full((*leading, num_active), -1, jnp.int32),
        taken=jnp.int32(0),
    )


def _step(
    num_active: int, signed: bool, scale: Callable, state: PursuitState, problem: Lasso
) -> PursuitState:
    available = state.norms > _DEPENDENT * as_row(state.squares, state.norms)
    scores = jnp.where(available, score(state.correlations, signed) / scale(state), -jnp.inf)
    atom = first_largest(scores)
    tiny = negligible(problem.signals, state.unit)[..., 0]
    found = (_at(scores, atom) > tiny) & (state.taken < num_active)
    length = jnp.sqrt(jnp.where(found, _at(state.norms, atom), 1))
    # Gram-Schmidt: q = (d_j - sum_k <q_k, d_j> q_k) / length, and q's products with all atoms.
    if state.gram is None:
        chosen = problem.dictionary[atom]
        along = jnp.einsum("...km,...m->...k", state.basis, chosen, precision="highest")
    else:
        chosen = state.gram[atom]
        along = jnp.take_along_axis(state.basis, atom[..., None, None], axis=-1)[..., 0]
    inside = jnp.einsum("...k,...km->...m", along, state.basis, precision="highest")
    new = jnp.where(found[..., None], (chosen - inside) / length[..., None], 0)
    row = correlate(new, problem.dictionary) if state.gram is None else new
    coefficient = jnp.where(found, _at(state.correlations, atom) / length, 0)
    here = as_row(jnp.arange(num_active) == state.taken, state.support)
    # Rounding leaves something of a chosen atom, which would be taken again for a small code.
    itself = as_row(jnp.arange(state.squares.shape[0]), state.norms) == atom[..., None]
    column = along + length[..., None] * here.astype(length.dtype)
    return state._replace(
        correlations=state.correlations - coefficient[..., None] * row,
        norms=jnp.where(itself & found[..., None], 0, state.norms - row * row),
        basis=_put(state.basis, new, state.taken, axis=-2),
        triangle=_put(state.triangle, column, state.taken, axis=-1),
        coefficients=jnp.where(here, coefficient[..., None], state.coefficients),
        support=jnp.where(here & found[..., None], atom[..., None], state.support),
        taken=state.taken + 1,
    )


def _fit(num_active: int, state: PursuitState) -> Array:
    """Return the least-squares values (..., K): back substitution from the last atom up."""
    chosen = state.support >= 0

    def back(values: Array, k: Array) -> tuple[Array, None]:
        later = jnp.where(
            as_row(jnp.arange(num_active) > k, values), state.triangle[..., k, :] * values, 0
        )
        pivot = jnp.where(chosen[..., k], state.triangle[..., k, k], 1)
        value = (state.coefficients[..., k] - jnp.sum(later, axis=-1)) / pivot
        return values.at[..., k].set(jnp.where(chosen[..., k], value, 0)), None

    order = jnp.arange(num_active)[::-1]
    return jax.lax.scan(back, jnp.zeros_like(state.coefficients), order)[0]


def _values(num_active: int, signed: bool, state: PursuitState) -> tuple[Array, Array]:
    """Return the values (..., K), and how far they are from the least squares."""
    fit = _fit(num_active, state)
    if signed:
        return fit, jnp.zeros_like(fit)
    chosen = state.support >= 0
    norms = jnp.sqrt(jnp.where(chosen, state.squares[state.support], 1))
    columns = jnp.where(chosen[..., None, :], state.triangle / norms[..., None, :], 0)

    def add(sums: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple, None]:
        (block, projections), (row, coefficient) = sums, part
        block = block + row[..., :, None] * row[..., None, :]
        return (block, projections + coefficient[..., None] * row), None

    # The products of the chosen atoms, and theirs with the signal: faster than small products.
    rows = jnp.moveaxis(columns, -2, 0), jnp.moveaxis(state.coefficients, -1, 0)
    (block, projections), _ = jax.lax.scan(
        add, (jnp.zeros_like(columns), jnp.zeros_like(fit)), rows
    )
    values = _support.fit(block, projections, chosen, signed) / norms
    values = jnp.where(jnp.any(fit < 0, axis=-1, keepdims=True), values, fit)
    return values, values - fit


def _codes(num_active: int, signed: bool, state: PursuitState) -> Array:
    return add_at(no_codes(state.correlations), *_in_use(num_active, signed, state))


def _sparse_codes(num_active: int, signed: bool, state: PursuitState) -> SparseCodes:
    return in_slots(state.correlations, *_in_use(num_active, signed, state))


def _in_use(num_active: int, signed: bool, state: PursuitState) -> tuple[Array, Array]:
    values = _values(num_active, signed, state)[0] * state.unit
    return jnp.maximum(state.support, 0), values  # values are 0 where none was chosen


def _gap(num_active: int, signed: bool, state: PursuitState, problem: Lasso) -> Array:
    signals = problem.signals / state.unit
    energy = jnp.sum(signals * signals, axis=-1)
    error = energy - jnp.sum(state.coefficients * state.coefficients, axis=-1)
    if not signed:  # what the codes lose by being no less than 0
        short = _values(num_active, signed, state)[1]
        lost = jnp.einsum("...kl,...l->...k", state.triangle, short, precision="highest")
        error = error + jnp.sum(lost * lost, axis=-1)
    return jnp.maximum(error, 0) / jnp.where(energy > 0, energy, 1)


def _put(values: Array, new: Array, place: Array, axis: int) -> Array:
    """Write one entry along an axis, in place where a selection would copy; none past the end."""
    old = jax.lax.dynamic_index_in_dim(values, place, axis, keepdims=False)
    new = jnp.where(place < values.shape[axis], new, old)
    return jax.lax.dynamic_update_index_in_dim(values, new, place, axis)


def _at(values: Array, atom: Array) -> Array:
    return jnp.take_along_axis(values, atom[..., None], axis=-1)[..., 0]
