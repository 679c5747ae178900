"""What CoSaMP and subspace pursuit share: merge supports, fit, keep the K largest."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._support import SupportState, at
from sparsecode_jax.types import Array, Lasso

__all__ = ["merge_and_prune", "start"]


def start(
    name: str, num_active: int, signed: bool, problem: Lasso, codes0: Array | None = None
) -> SupportState:
    """Begin, in a precision that the fit of a step has a factorization for."""
    _checks.full_precision(name, "signals", problem.signals)
    return _support.start(name, num_active, signed, problem, codes0)


def merge_and_prune(
    state: SupportState, problem: Lasso, num_found: int, signed: bool
) -> SupportState:
    """Fit the support and the best atoms for the residual together; keep the K largest codes."""
    best, found = jax.lax.top_k(_support.score(_support.correlations(state), signed), num_found)
    used = state.values != 0
    same = (found[..., :, None] == state.atoms[..., None, :]) & used[..., None, :]
    fresh = (best > _support.negligible(problem.signals, state.unit)) & ~jnp.any(same, axis=-1)
    atoms = jnp.concatenate([found, state.atoms], axis=-1)
    values = _support.least_squares(
        _support.block_of(state.gram, atoms),
        at(state.projections, atoms),
        jnp.concatenate([fresh, used], axis=-1),
    )
    places, values = _support.keep_largest(values, signed, state.values.shape[-1])
    return state._replace(atoms=at(atoms, places), values=values)
