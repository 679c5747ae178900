"""Exhaustive search over supports."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._support import SupportState, at
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["exhaustive"]

_BLOCK = 256  # subsets tried at a time


class _Best(NamedTuple):
    """How much of |x|^2 the best subset captures, (..., 1); its atoms and values, (..., K)."""

    gain: Array
    atoms: Array
    values: Array


@cached
def exhaustive(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build the search of all supports of at most K atoms: the best that any pursuit could do.

    .. math:: \min_z \|x - zD\|^2 \quad\text{subject to}\quad \|z\|_0 \le K

    One step tries every subset of atoms, so ``num_steps=1`` is enough and more change nothing. The
    problem's penalty and step size are not used. A warm start, cut to its K largest codes, is
    returned if no subset is better.

    Args:
      num_active: K, the most atoms per signal. **Static**.
      prox: ``nonnegative_soft_threshold`` asks for non-negative codes: subsets of 1, 2, ..., K
        atoms are tried, and one counts if its least-squares fit is not negative, which finds the
        non-negative least squares of every support. ``soft_threshold`` tries the subsets of K
        atoms. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its gap is the relative squared error, 2K^2 + 4K +
      3M + 1 operations per signal.

    Raises:
      ValueError: num_active is not an integer from 1 to N, or there are over 200,000 subsets.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and C(2K^2 + 2K - 1) + 2K^2 +
    4K - 1 per signal per step, C being the number of subsets rounded up to a multiple of 256, and
    C(K(K + 1)(2K + 1)/6 + 2K^3) per step; the Gram matrix of unit atoms 2MN^2 + 3MN once. Reading
    the codes: 3K.

    References:
      Natarajan, 1995, shows that no method can avoid such a search in general.
    """
    _checks.count("exhaustive", "num_active", num_active)

    signed = keeps_negatives("exhaustive", prox)
    return Solver(
        Bound(_init, num_active, signed),
        Bound(_step, num_active, signed),
        _support.read_codes,
        gap=_support.relative_error_left,
        sparse_codes=_support.read_sparse_codes,
    )


def _init(
    num_active: int, signed: bool, problem: Lasso, codes0: Array | None = None
) -> SupportState:
    state = _support.start("exhaustive", num_active, signed, problem, codes0)
    _check_subsets("exhaustive", _num_subsets(state.gram.shape[0], num_active, signed))
    return state


def _step(num_active: int, signed: bool, state: SupportState, problem: Lasso) -> SupportState:
    def search(best: _Best, subsets: Array) -> tuple[_Best, None]:
        inside = subsets >= 0  # (256, K)
        atoms = jnp.maximum(subsets, 0)
        block = _support.block_of(state.gram, atoms)
        unit = jnp.broadcast_to(jnp.eye(num_active, dtype=block.dtype), block.shape)
        inverse = jax.vmap(_support.least_squares, (None, -1, None), -1)(block, unit, inside)
        projections = jnp.where(inside, state.projections[..., atoms], 0)
        fits = jnp.einsum("...ck,ckl->...cl", projections, inverse, precision="highest")
        gains = jnp.sum(fits * projections, axis=-1)  # (..., 256)
        if not signed:
            gains = jnp.where(jnp.all(fits >= 0, axis=-1), gains, -jnp.inf)
        place = jnp.argmax(gains, axis=-1)[..., None]
        gain = at(gains, place)
        fit = jnp.take_along_axis(fits, place[..., None], axis=-2)[..., 0, :]
        better = gain > best.gain
        return _Best(
            jnp.where(better, gain, best.gain),
            jnp.where(better, atoms[place[..., 0]], best.atoms),
            jnp.where(better, fit, best.values),
        ), None

    projections = at(state.projections, state.atoms)
    gain = _support.captured(_support.block_of(state.gram, state.atoms), projections, state.values)
    subsets = jnp.asarray(_subsets(state.gram.shape[0], num_active, signed))
    best = _Best(gain[..., None], state.atoms, state.values)
    best, _ = jax.lax.scan(search, best, subsets)
    return state._replace(atoms=best.atoms, values=best.values)


def _sizes(num_active: int, signed: bool) -> range:
    return range(1 if not signed else num_active, num_active + 1)


def _num_subsets(num_atoms: int, num_active: int, signed: bool) -> int:
    return sum(math.comb(num_atoms, size) for size in _sizes(num_active, signed))


@functools.cache
def _subsets(num_atoms: int, num_active: int, signed: bool) -> np.ndarray:
    """Return the subsets in blocks, (blocks, 256, K), the smaller first; -1 where there is none."""
    count = _num_subsets(num_atoms, num_active, signed)
    subsets = np.full((-(-count // _BLOCK) * _BLOCK, num_active), -1, np.int32)
    end = 0
    for size in _sizes(num_active, signed):
        some = np.array(list(itertools.combinations(range(num_atoms), size)), np.int32)
        subsets[end : end + len(some), :size] = some
        end += len(some)
    return subsets.reshape(-1, _BLOCK, num_active)


def _check_subsets(name: str, count: int, maximum: int = 200_000) -> None:
    """Raise if a search over subsets of atoms would not end."""
    if count > maximum:
        raise ValueError(
            f"{name}: there are {count:,} subsets of atoms to try; at most {maximum:,} are "
            "expected. Take fewer atoms or a smaller num_active, or use orthogonal_least_squares."
        )
