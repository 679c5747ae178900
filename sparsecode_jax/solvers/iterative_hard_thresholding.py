"""Iterative hard thresholding."""

from __future__ import annotations

from collections.abc import Callable

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._support import SupportState
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["iterative_hard_thresholding"]


@cached
def iterative_hard_thresholding(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build iterative hard thresholding: a gradient step, of which the K largest codes are kept.

    .. math:: z \leftarrow H_K\big(z + s\,(x - zD)D^\top\big)

    With a step size s of at most 1/L the squared error never rises. The problem's penalty is not
    used. Of equal codes the first are kept, never more than K. A warm start is cut to its K
    largest codes.

    Args:
      num_active: K, the most atoms per signal. **Static**.
      prox: ``nonnegative_soft_threshold`` keeps the K largest and cuts negative codes to 0;
        ``soft_threshold`` keeps the K largest magnitudes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its gap is the relative squared error, 2K^2 + 4K +
      3M + 1 operations per signal.

    Raises:
      ValueError: num_active is not an integer from 1 to N.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and (2K + 2)N + K per signal
    per step; the Gram matrix 2MN^2 once. Reading the codes: 2K.

    References:
      Blumensath and Davies, 2009 (Iterative hard thresholding for compressed sensing), Eq. (3);
      their step is 1 for a dictionary of spectral norm below 1.
    """
    _checks.count("iterative_hard_thresholding", "num_active", num_active)

    signed = keeps_negatives("iterative_hard_thresholding", prox)
    return Solver(
        Bound(_support.start, "iterative_hard_thresholding", num_active, signed, unit_norm=False),
        Bound(_step, num_active, signed),
        _support.read_codes,
        gap=_support.relative_error_left,
        sparse_codes=_support.read_sparse_codes,
    )


def _step(num_active: int, signed: bool, state: SupportState, problem: Lasso) -> SupportState:
    move = problem.step_size * _support.correlations(state)
    dense = _support.add_at(move, state.atoms, state.values)
    atoms, values = _support.keep_largest(dense, signed, num_active)
    return state._replace(atoms=atoms, values=values)
