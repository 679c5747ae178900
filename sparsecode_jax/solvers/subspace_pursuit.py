"""Subspace pursuit."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._merge import merge_and_prune, start
from sparsecode_jax.solvers._support import SupportState, at
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["subspace_pursuit"]


@cached
def subspace_pursuit(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build subspace pursuit.

    Each step joins the K atoms most correlated with the residual to the present support, fits all
    of them by least squares, keeps the K largest codes, and fits those again:

    .. math:: T = \mathrm{supp}(z) \cup \mathrm{top}_K(rD^\top),\quad
       S = \mathrm{supp}\,H_K\big(\arg\min_b \|x - b D_T\|\big),\quad
       z = \arg\min_z \|x - z D_S\|

    A step that does not lower a signal's error is not taken: that signal is done. From zero codes
    the first step is the algorithm's initialization. Correlations and codes are compared as those
    of atoms scaled to unit norm. The problem's penalty and step size are not used. A warm start
    is cut to its K largest codes.

    Args:
      num_active: K, the most atoms per signal; choose 2K <= M. **Static**.
      prox: ``nonnegative_soft_threshold`` takes only atoms with positive correlation, keeps only
        positive b, and makes z their non-negative least squares; ``soft_threshold`` gives signed
        codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its gap is the relative squared error, 2K^2 + 4K +
      3M + 1 operations per signal.

    Raises:
      ValueError: num_active is not an integer from 1 to N.
      TypeError: half precision, when it is run.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and (2K + 1)N + M + P(P + 1)(2P
    + 1)/6 + 2P^2, P = 2K, + 4K^3 + 24K^2 + 17K - 3 per signal per step, where signed codes have
    K(K + 1)(2K + 1)/6 + 6K^2 + 8K - 1; the Gram matrix of unit atoms 2MN^2 + 3MN once. Reading the
    codes: 3K.

    References:
      Dai and Milenkovic, 2009, Algorithm 1.
    """
    _checks.count("subspace_pursuit", "num_active", num_active)

    signed = keeps_negatives("subspace_pursuit", prox)
    return Solver(
        Bound(start, "subspace_pursuit", num_active, signed),
        Bound(_step, num_active, signed),
        _support.read_codes,
        gap=_support.relative_error_left,
        sparse_codes=_support.read_sparse_codes,
    )


def _step(num_active: int, signed: bool, state: SupportState, problem: Lasso) -> SupportState:
    found = merge_and_prune(state, problem, num_active, signed)
    atoms, values = found.atoms, found.values
    block, projections = _support.block_of(state.gram, atoms), at(state.projections, atoms)
    values = _support.fit(block, projections, values != 0, signed)
    before = _support.captured(
        _support.block_of(state.gram, state.atoms),
        at(state.projections, state.atoms),
        state.values,
    )
    better = (_support.captured(block, projections, values) > before)[..., None]
    return state._replace(
        atoms=jnp.where(better, atoms, state.atoms),
        values=jnp.where(better, values, state.values),
    )
