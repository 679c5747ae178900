"""A working-set solver: small problems on gathered atoms, certified against all atoms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.dictionaries import correlate
from sparsecode_jax.objectives import atom_norms, gap_of_parts, penalty_in_units
from sparsecode_jax.prox import (
    dual_norm,
    nonnegative_soft_threshold,
    ridge,
    separable,
)
from sparsecode_jax.solvers._gram import gram_sparsa
from sparsecode_jax.solvers._support import add_at, at, block_of, no_codes
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["WorkingSetState", "working_set"]

_HIGHEST = lax.Precision.HIGHEST
_GROUPS = 16  # candidates are the best of each of so many groups of atoms per wanted atom
_MOST_ENTRIES = 2**25  # of gathered atoms, and of their Gram matrices, at a time: 128 MiB each


class WorkingSetState(NamedTuple):
    """The atoms in use by each signal, at most W of them.

    Attributes:
      support: which atoms, (..., W); a slot whose value is 0 is free.
      values: their codes, (..., W).
      residual: signals - codes @ dictionary, (..., M).
      correlations: of the residual with each atom, (..., N).
      rounds: how many were done, ().
    """

    support: Array
    values: Array
    residual: Array
    correlations: Array
    rounds: Array


_SIZES: tuple[int, ...] = (32, 32, 64, 96, 128, 256)


@cached
def working_set(
    sizes: tuple[int, ...] | int = _SIZES,
    *,
    prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold,
    inner_steps: int = 40,
) -> Solver:
    """Build a working-set solver, for dictionaries of many atoms.

    A step is a round: keep the atoms in use, add those that violate optimality most until the set
    is full, solve the small problem on the set (SpaRSA on its Gram matrix, one set per signal), and
    correlate the new residual with all atoms, which certifies the codes or shows what to add. At
    1e-5 relative duality gap most signals need two or three rounds; a product with the whole
    dictionary is spent once a round and not twice an iteration.

    Args:
      sizes: of the set in the first round, the second, ...; the last is used from then on. Codes
        with more non-zeros than the largest size cannot be represented: their gap stays above the
        tolerance. Sizes above N count as N. An integer stands for sizes that grow until a set holds
        as many atoms: min(M, N) is what a solution can need. **Static**.
      prox: ``nonnegative_soft_threshold``, ``soft_threshold`` or an elastic net. **Static**.
      inner_steps: iterations on the small problem. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` with state :class:`WorkingSetState`. The problem's
      step size is not used. A warm start keeps its largest codes, at most the first size.

    Raises:
      ValueError: sizes that are not positive integers, a penalty that is not a sum over atoms.

    **Cost**: in matrix products 2MN per signal to start; a signal and round of size W 2MN to
    correlate, 2MW^2 + 2MW for the Gram matrix and the residual (2MW where the problem has the
    products of all atoms), 2W^2 per inner step and 4W^2 before them. The choice of atoms is
    comparisons. A round of many signals is done in blocks whose gathered atoms, and Gram matrices,
    are at most 2^25 numbers.

    References:
      Working sets with a duality gap as certificate: Massias, Gramfort, Salmon, 2018 (celer);
      Johnson and Guestrin, 2015 (Blitz).
    """
    if not isinstance(sizes, tuple):
        sizes = _up_to(_checks.count("working_set", "sizes", sizes))
    _checks.sizes("working_set", "sizes", sizes)
    _checks.count("working_set", "the number of sizes", len(sizes))
    _checks.count("working_set", "inner_steps", inner_steps)
    _checks.separable("working_set", prox, separable(prox))

    return Solver(
        Bound(_init, sizes),
        Bound(_step, sizes, prox, inner_steps),
        _codes,
        _step_size,
        Bound(_gap, prox),
        prox,
    )


def _up_to(most: int) -> tuple[int, ...]:
    sizes = _SIZES
    while sizes[-1] < most:
        sizes = (*sizes, 2 * sizes[-1])
    return sizes


def _widths(sizes: tuple[int, ...], problem: Lasso) -> list[int]:
    return [min(size, problem.dictionary.shape[0]) for size in sizes]


def _init(sizes: tuple[int, ...], problem: Lasso, codes0: Array | None = None) -> WorkingSetState:
    signals, dictionary, *_ = problem
    slots = max(_widths(sizes, problem))
    if codes0 is None:
        support = jnp.zeros((*signals.shape[:-1], slots), jnp.int32)
        values, residual = jnp.zeros(support.shape, signals.dtype), signals
    else:
        _, support = lax.top_k(jnp.abs(codes0), slots)
        values = jnp.take_along_axis(codes0, support, axis=-1)
        residual = signals - _combine(values, dictionary[support])
    correlations = correlate(residual, dictionary)
    return WorkingSetState(support, values, residual, correlations, jnp.int32(0))


def _step(
    sizes: tuple[int, ...],
    prox: Callable,
    inner_steps: int,
    state: WorkingSetState,
    problem: Lasso,
) -> WorkingSetState:
    widths = _widths(sizes, problem)
    different = sorted(set(widths))
    which = jnp.asarray([different.index(width) for width in widths])
    branches = [functools.partial(_in_blocks, prox, inner_steps, width) for width in different]
    turn = which[jnp.minimum(state.rounds, len(sizes) - 1)]
    support, values, residual = lax.switch(turn, branches, state, problem)
    correlations = correlate(residual, problem.dictionary)
    return WorkingSetState(support, values, residual, correlations, state.rounds + 1)


def _codes(state: WorkingSetState) -> Array:
    return add_at(no_codes(state.correlations), state.support, state.values)


def _step_size(dictionary: Array) -> Array:
    return jnp.ones((), dictionary.dtype)


def _gap(prox: Callable, state: WorkingSetState, problem: Lasso) -> Array:
    signals, values = problem.signals, state.values
    penalty = jnp.asarray(problem.penalty, signals.dtype)
    unit, inverse = unit_of(signals)
    here = _of_atoms(penalty, state.support)
    correlations, on = state.correlations, at(state.correlations, state.support)
    squares = jnp.zeros((), values.dtype)
    weight = ridge(prox, here)
    if not isinstance(weight, float):
        correlations = add_at(correlations, state.support, -weight * values)
        on = on - weight * values
        squares = jnp.sum((weight * values * inverse) * (values * inverse), axis=-1)
    norms = atom_norms(problem.dictionary)
    terms = (values * inverse) * norms[state.support]
    return gap_of_parts(
        signals * inverse,
        state.residual * inverse,
        jnp.sum(terms * terms, axis=-1),
        squares,
        penalty_in_units(prox, values, here, inverse),
        jnp.sum((values * inverse) * (on * inverse), axis=-1),
        dual_norm(prox, correlations, penalty),
        unit[..., 0] * dual_norm(prox, norms, penalty),
    )


def _in_blocks(
    prox: Callable, inner_steps: int, width: int, state: WorkingSetState, problem: Lasso
) -> tuple[Array, Array, Array]:
    """Do a round on no more signals at a time than whose gathered atoms fit in memory.

    A signal gathers W atoms of M numbers and a Gram matrix of W^2, so that a wide set takes far
    more memory than the codes of the same signals.
    """
    leading, num_measurements = problem.signals.shape[:-1], problem.dictionary.shape[1]
    size, most = math.prod(leading), _MOST_ENTRIES // (width * max(width, num_measurements))
    if size <= max(most, 1):
        return _round(prox, inner_steps, width, state, problem)
    num_blocks = -(-size // max(most, 1))
    block = -(-size // num_blocks)

    def cut(x: Array) -> Array:
        flat = jnp.pad(x.reshape(size, -1), [(0, num_blocks * block - size), (0, 0)])
        return flat.reshape(num_blocks, block, -1)

    def solve(rows: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        signals, support, values, correlations = rows
        here = state._replace(support=support, values=values, correlations=correlations)
        return _round(prox, inner_steps, width, here, problem._replace(signals=signals))

    rows = problem.signals, state.support, state.values, state.correlations
    found = lax.map(solve, tuple(cut(x) for x in rows))
    return jax.tree.map(
        lambda x: x.reshape(num_blocks * block, -1)[:size].reshape(*leading, -1), found
    )


def _round(
    prox: Callable, inner_steps: int, width: int, state: WorkingSetState, problem: Lasso
) -> tuple[Array, Array, Array]:
    """Choose ``width`` atoms per signal, solve on them, and return the new residual."""
    signals, dictionary, penalty = problem.signals, problem.dictionary, jnp.asarray(problem.penalty)
    support, start = _choose(prox, width, state, penalty)
    atoms = dictionary[support]
    if problem.gram is None:
        gram = jnp.einsum("...im,...jm->...ij", atoms, atoms, precision=_HIGHEST)
    else:
        gram = block_of(problem.gram, support)
    image = jnp.einsum("...ij,...j->...i", gram, start, precision=_HIGHEST)
    target = jnp.take_along_axis(state.correlations, support, axis=-1) + image
    values = gram_sparsa(prox, gram, target, _of_atoms(penalty, support), start, inner_steps)
    free = [(0, 0)] * (support.ndim - 1) + [(0, state.support.shape[-1] - width)]
    return jnp.pad(support, free), jnp.pad(values, free), signals - _combine(values, atoms)


def _choose(
    prox: Callable, width: int, state: WorkingSetState, penalty: Array
) -> tuple[Array, Array]:
    """Keep the atoms in use and add those that violate optimality most: atoms, their codes."""
    used = state.values != 0
    violation = jnp.abs(prox(state.correlations, jnp.zeros_like(penalty))) - as_row(
        penalty, state.correlations
    )
    rest = add_at(violation, state.support, jnp.where(used, -jnp.inf, 0).astype(violation.dtype))
    scores, atoms = _best_of_groups(rest, _GROUPS * width)
    scores = jnp.concatenate([jnp.where(used, jnp.inf, -jnp.inf), scores], axis=-1)
    atoms = jnp.concatenate([state.support, atoms], axis=-1)
    _, place = lax.top_k(scores, width)
    held = state.values.shape[-1]
    old = jnp.take_along_axis(state.values, jnp.minimum(place, held - 1), axis=-1)
    return jnp.take_along_axis(atoms, place, axis=-1), jnp.where(place < held, old, 0)


def _best_of_groups(scores: Array, num_groups: int) -> tuple[Array, Array]:
    """Return the best score of each group of atoms and where it is: cheaper than sorting all."""
    size = scores.shape[-1]
    per_group = -(-size // num_groups)
    if per_group == 1:
        return scores, jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), scores.shape)
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, per_group * num_groups - size)]
    groups = jnp.pad(scores, padding, constant_values=-jnp.inf)
    groups = groups.reshape(*scores.shape[:-1], per_group, num_groups)
    member = jnp.argmax(groups, axis=-2).astype(jnp.int32)
    return jnp.max(groups, axis=-2), member * num_groups + jnp.arange(num_groups, dtype=jnp.int32)


def _of_atoms(penalty: Array, support: Array) -> Array:
    return penalty if penalty.ndim == 0 else penalty[support]


def _combine(values: Array, atoms: Array) -> Array:
    return jnp.einsum("...i,...im->...m", values, atoms, precision=_HIGHEST)
