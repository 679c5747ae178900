"""CoSaMP: compressive sampling matching pursuit."""

from __future__ import annotations

from collections.abc import Callable

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._merge import merge_and_prune, start
from sparsecode_jax.solvers._support import SupportState, at, block_of
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["cosamp"]


@cached
def cosamp(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build compressive sampling matching pursuit.

    Each step joins the 2K atoms most correlated with the residual to the present support, fits all
    of them by least squares, and keeps the K largest codes:

    .. math:: T = \mathrm{supp}(z) \cup \mathrm{top}_{2K}(rD^\top),\quad
       b = \arg\min_b \|x - b D_T\|,\quad z = H_K(b)

    Correlations and codes are compared as those of atoms scaled to unit norm. The problem's
    penalty and step size are not used. A few steps are enough where it converges; choose 3K <= M,
    or the fit has no unique answer. A warm start is cut to its K largest codes.

    Args:
      num_active: K, the most atoms per signal. **Static**.
      prox: ``nonnegative_soft_threshold`` takes only atoms with positive correlation, keeps only
        positive b, and makes z their non-negative least squares; ``soft_threshold`` gives signed
        codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its gap is the relative squared error, 2K^2 + 4K +
      3M + 1 operations per signal.

    Raises:
      ValueError: num_active is not an integer from 1 to N.
      TypeError: half precision, when it is run.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and (2K + 1)N + M + 1 + P(P +
    1)(2P + 1)/6 + 2P^2 per signal per step, P = min(2K, N) + K, and 4K^3 + 20K^2 + 9K - 2 more
    unless signed; the Gram matrix of unit atoms 2MN^2 + 3MN once. Reading the codes: 3K.

    References:
      Needell and Tropp, 2009, Algorithm 1.
    """
    _checks.count("cosamp", "num_active", num_active)

    signed = keeps_negatives("cosamp", prox)
    return Solver(
        Bound(start, "cosamp", num_active, signed),
        Bound(_step, num_active, signed),
        _support.read_codes,
        gap=_support.relative_error_left,
        sparse_codes=_support.read_sparse_codes,
    )


def _step(num_active: int, signed: bool, state: SupportState, problem: Lasso) -> SupportState:
    num_found = min(2 * num_active, problem.dictionary.shape[0])
    state = merge_and_prune(state, problem, num_found, signed)
    if signed:
        return state
    block, projections = block_of(state.gram, state.atoms), at(state.projections, state.atoms)
    return state._replace(values=_support.fit(block, projections, state.values != 0, signed))
