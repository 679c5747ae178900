"""Cyclic coordinate descent."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.dictionaries import reconstruct
from sparsecode_jax.prox import nonnegative_soft_threshold, separable
from sparsecode_jax.solvers.ista import init_codes
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["coordinate_descent"]


@cached
def coordinate_descent(
    *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build cyclic coordinate descent: a step minimizes over each atom's code in turn.

    .. math:: z_j \leftarrow \mathrm{prox}_{\lambda_j / \|d_j\|^2}\big(z_j +
       \langle r, d_j\rangle / \|d_j\|^2\big)

    where r is the residual at that moment. The objective never rises; the problem's step size is
    not used. A sweep is serial in the atoms, N dependent products with a vector, so it suits small
    dictionaries and large batches.

    Args:
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes, or an elastic net.
        **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its state is the codes.

    Raises:
      ValueError: a penalty that is not a sum over atoms.

    **Cost**: 6MN + M + 5N arithmetic operations per signal per step, and 2MN per step. A signal
    and step cost N more with soft_threshold.

    References:
      Friedman, Hastie, Hoefling, Tibshirani, 2007, Eq. (9), with the updates by the residual of
      Friedman, Hastie, Tibshirani, 2010, Section 2.1.
    """
    _checks.separable("coordinate_descent", prox, separable(prox))

    return Solver(init_codes, Bound(_step, prox), _codes, prox=prox)


def _step(prox: Callable, codes: Array, problem: Lasso) -> Array:
    def update(residual: Array, coordinate: tuple[Array, ...]) -> tuple[Array, Array]:
        atom, weight, code = coordinate
        square = jnp.sum(atom * atom)
        square = jnp.where(square > 0, square, 1)
        square = jnp.where(square < jnp.inf, square, jnp.nan)  # not codes of 0
        along = jnp.matmul(residual, atom, precision=jax.lax.Precision.HIGHEST)
        new = prox(code + along / square, weight / square)
        return residual - (new - code)[..., None] * as_row(atom, residual), new

    signals, dictionary, penalty, _, _ = problem
    weights = jnp.broadcast_to(penalty, dictionary.shape[:1])
    coordinates = (dictionary, weights, jnp.moveaxis(codes, -1, 0))
    # Afresh at every sweep: the rounding of residuals kept for thousands of sweeps adds up.
    residual = signals - reconstruct(codes, dictionary)
    return jnp.moveaxis(jax.lax.scan(update, residual, coordinates)[1], 0, -1)


def _codes(state: Array) -> Array:
    return state
