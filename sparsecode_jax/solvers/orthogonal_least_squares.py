"""Orthogonal least squares: the pursuit whose every atom lowers the error most."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import cached
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.solvers._pursuit import PursuitState, pursuit
from sparsecode_jax.types import Array, Solver

__all__ = ["orthogonal_least_squares"]


@cached
def orthogonal_least_squares(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build orthogonal least squares, also called order-recursive matching pursuit (ORMP).

    Each step adds the atom that, after the least-squares fit on the chosen atoms, leaves the
    smallest error:

    .. math:: j = \arg\max_j \frac{\langle r, d_j\rangle}{\|(I - P) d_j\|}

    where P projects on the span of the chosen atoms. The problem's penalty and step size are not
    used; run it for ``num_steps = num_active`` steps. A signal that no atom improves stops early.

    Args:
      num_active: K, the most atoms per signal. **Static**.
      prox: ``nonnegative_soft_threshold`` takes only atoms with positive correlation, and the codes
        are the non-negative least squares on those; ``soft_threshold`` gives signed codes, the
        least squares. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`. A warm start is refused. Codes that are read after k
      steps (a trajectory's) are the fit of the first k atoms, whichever of them are 0. Its gap is
      the relative squared error, 6K^3 + 27K^2 + 17K + 3M - 1 operations per signal, or 2K + 3M + 1
      if signed.

    Raises:
      ValueError: num_active is not an integer from 1 to N.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and (2K + 10)N + M + 2K + 2 per
    signal per step, N per step; the Gram matrix and norms 2MN^2 + 2MN - N once. Above 1,024 atoms
    there is no Gram matrix, unless prepared: 2MN + 8N + 4MK + 3M + 2K + 2 per signal per step,
    and norms 2MN - N once. Reading the codes: 6K^3 + 25K^2 + 14K - 2, or 2K^2 + 3K if signed.

    References:
      Chen, Billings, Luo, 1989; Rebollo-Neira and Lowe, 2002 (optimized OMP). SPAMS's ``omp``
      is this algorithm.
    """
    _checks.count("orthogonal_least_squares", "num_active", num_active)
    return pursuit("orthogonal_least_squares", num_active, prox, _outside_span)


def _outside_span(state: PursuitState) -> Array:
    return jnp.sqrt(jnp.maximum(state.norms, jnp.finfo(state.norms.dtype).tiny))
