"""Gradient pursuit."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._support import SupportState, at
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["gradient_pursuit"]


@cached
def gradient_pursuit(
    num_active: int, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> Solver:
    r"""Build gradient pursuit: add the best atom, then one gradient step on the support.

    .. math:: j = \arg\max_j \frac{\langle r, d_j\rangle}{\|d_j\|},\quad
       \Gamma \leftarrow \Gamma \cup \{j\},\quad g = (r D^\top)_\Gamma,\quad
       z_\Gamma \leftarrow z_\Gamma + \frac{\|g\|^2}{\|g D_\Gamma\|^2}\, g

    The step is the exact line search, and gradients are those of atoms scaled to unit norm. With K
    atoms in use further steps only refine their codes; an atom whose code becomes 0 leaves its
    place to another. The problem's penalty and step size are not used. A warm start is cut to its
    K largest codes.

    Args:
      num_active: K, the most atoms per signal. **Static**.
      prox: ``nonnegative_soft_threshold`` takes only atoms with positive correlation, and cuts to 0
        what a step makes negative (the error of such a step may rise); ``soft_threshold`` gives
        signed codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver`; its gap is the relative squared error, 2K^2 + 4K +
      3M + 1 operations per signal.

    Raises:
      ValueError: num_active is not an integer from 1 to N.

    **Cost**: 2MN + 2M - 1 arithmetic operations per signal to start and (2K + 2)N + 2K^2 + 6K + M -
    1 per signal per step; the Gram matrix of unit atoms 2MN^2 + 3MN once. Reading the codes: 3K.

    References:
      Blumensath and Davies, 2008 (Gradient pursuits), Section III-A, Eq. (5)-(7).
    """
    _checks.count("gradient_pursuit", "num_active", num_active)

    signed = keeps_negatives("gradient_pursuit", prox)
    return Solver(
        Bound(_support.start, "gradient_pursuit", num_active, signed),
        Bound(_step, num_active, signed),
        _support.read_codes,
        gap=_support.relative_error_left,
        sparse_codes=_support.read_sparse_codes,
    )


def _step(num_active: int, signed: bool, state: SupportState, problem: Lasso) -> SupportState:
    left = _support.correlations(state)
    tiny = _support.negligible(problem.signals, state.unit)
    atom = _support.first_largest(_support.score(left, signed))[..., None]
    used = state.values != 0
    known = jnp.any(used & (state.atoms == atom), axis=-1, keepdims=True)
    free = jnp.argmin(used, axis=-1, keepdims=True)  # the first free place, if there is one
    new = (
        ~used
        & ~known
        & (as_row(jnp.arange(num_active), free) == free)
        & (_support.score(at(left, atom), signed) > tiny)
    )
    atoms = jnp.where(new, atom, state.atoms)
    gradient = at(left, atoms)
    gradient = jnp.where((used | new) & (jnp.abs(gradient) > tiny), gradient, 0)
    block = _support.block_of(state.gram, atoms)
    image = jnp.einsum("...kl,...l->...k", block, gradient, precision="highest")
    curvature = jnp.sum(gradient * image, axis=-1, keepdims=True)
    length = jnp.sum(gradient * gradient, axis=-1, keepdims=True)
    length = length / jnp.where(curvature > 0, curvature, 1)
    values = _support.allowed(state.values + length * gradient, signed)
    return state._replace(atoms=atoms, values=values)
