"""LCA: the locally competitive algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.solvers.ista import init_codes
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["LcaState", "lca"]


class LcaState(NamedTuple):
    """Membrane potentials and codes, (..., N) each."""

    membrane: Array
    codes: Array


@cached
def lca(*, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold) -> Solver:
    r"""Build the locally competitive algorithm: leaky integrators that inhibit one another.

    .. math:: u \leftarrow u + s\,\big(xD^\top - u - z(DD^\top - I)\big),\qquad
       z = \mathrm{prox}_\lambda(u)

    an Euler step of the network's differential equation, with the problem's step size s as the
    time step over the time constant. Where u stands still, :math:`u - z = (x - zD)D^\top`, and
    :math:`u - z` is a subgradient of the penalty at z: the optimality condition of the lasso, for
    atoms of any norm (I stays the identity). With s of at most 1/L and at most 1 the objective
    never rises; with atoms far above unit norm that is a slow leak, and many steps.

    Args:
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` with state :class:`LcaState`; its step size is the
      smaller of 1/L and 1.

    **Cost**: 4MN + M + 6N arithmetic operations per signal per step. It is N more
    with soft_threshold.

    References:
      Rozell, Johnson, Baraniuk, Olshausen, 2008, Eq. (3.2)-(3.4).
    """
    _checks.function("lca", "prox", prox)
    return Solver(_init, Bound(_step, prox), _codes, _step_size, prox=prox, splits_atoms=True)


def _init(problem: Lasso, codes0: Array | None = None) -> LcaState:
    codes = init_codes(problem, codes0)
    if codes0 is None:
        return LcaState(codes, codes)
    return LcaState(codes + as_row(problem.penalty, codes) * jnp.sign(codes), codes)


def _step(prox: Callable, state: LcaState, problem: Lasso) -> LcaState:
    signals, dictionary, penalty, step_size, _ = problem
    drive = correlate(signals - reconstruct(state.codes, dictionary), dictionary)
    membrane = state.membrane + step_size * (drive + state.codes - state.membrane)
    return LcaState(membrane, prox(membrane, penalty))


def _codes(state: LcaState) -> Array:
    return state.codes


def _step_size(dictionary: Array) -> Array:
    return jnp.minimum(dictionaries.step_size(dictionary), 1)
