"""A fixed number of a solver's steps as an encoder."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries, solvers
from sparsecode_jax._bound import Bound
from sparsecode_jax.encoders._layers import PENALTY0, put_dictionary
from sparsecode_jax.types import Array, Encoder, Key, Lasso, Solver

__all__ = ["UnrolledParams", "matching_pursuit", "orthogonal_matching_pursuit", "unrolled"]


class UnrolledParams(NamedTuple):
    """The dictionary (N, M) and the logarithm of the penalty, ()."""

    dictionary: Array
    log_penalty: Array


@functools.lru_cache(maxsize=None, typed=True)
def unrolled(
    solver: Solver,
    num_measurements: int,
    num_atoms: int,
    *,
    num_steps: int,
    penalty: float = PENALTY0,
) -> Encoder:
    """Build an encoder that is a solver's steps, trained through them.

    Its only weights are the dictionary, which :func:`~sparsecode_jax.training.fit` ties to the
    decoder's, and the penalty. The step size follows the dictionary and is not differentiated.

    Args:
      solver: such as ``fista()``. **Static**.
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_steps: of the solver. **Static**.
      penalty: where the penalty starts; pursuits have none. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`UnrolledParams`.

    **Cost**: that of ``solve`` and of the solver's step size.
    """
    _checks.solver("unrolled", solver)
    _checks.count("unrolled", "num_measurements", num_measurements)
    _checks.count("unrolled", "num_atoms", num_atoms)
    _checks.count("unrolled", "num_steps", num_steps)
    _checks.positive("unrolled", penalty=penalty)
    init = Bound(_init, num_measurements, num_atoms, penalty)
    return Encoder(init, Bound(_apply, solver, num_steps), tie=put_dictionary)


def _init(num_measurements: int, num_atoms: int, penalty: float, key: Key) -> UnrolledParams:
    dictionary = dictionaries.random(key, num_atoms=num_atoms, num_measurements=num_measurements)
    return UnrolledParams(dictionary, jnp.log(jnp.asarray(penalty, dictionary.dtype)))


def _apply(solver: Solver, num_steps: int, params: UnrolledParams, signals: Array) -> Array:
    _checks.takes("unrolled", signals, params.dictionary.shape[-1])
    choose = dictionaries.step_size if solver.step_size is None else solver.step_size
    step = choose(jax.lax.stop_gradient(params.dictionary))
    problem = Lasso(signals, params.dictionary, jnp.exp(params.log_penalty), step)
    return solvers.solve(solver, problem, num_steps=num_steps)


def matching_pursuit(num_measurements: int, num_atoms: int, *, num_active: int) -> Encoder:
    """Build an encoder of matching pursuit steps: the atoms are its only weights.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: steps, so at most as many active codes. **Static**.

    Returns:
      ``unrolled(solvers.matching_pursuit(), M, N, num_steps=num_active)``.

    References:
      Costa et al., 2025, "From Flat to Hierarchical: Extracting Sparse Representations with
      Matching Pursuit".
    """
    return unrolled(solvers.matching_pursuit(), num_measurements, num_atoms, num_steps=num_active)


def orthogonal_matching_pursuit(
    num_measurements: int, num_atoms: int, *, num_active: int
) -> Encoder:
    """Build an encoder of orthogonal matching pursuit steps: the atoms are its only weights.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: active codes a signal. **Static**.

    Returns:
      ``unrolled(solvers.orthogonal_matching_pursuit(num_active=...), M, N,
      num_steps=num_active)``.
    """
    _checks.static_active("orthogonal_matching_pursuit", num_active, num_atoms)
    solver = solvers.orthogonal_matching_pursuit(num_active=num_active)
    return unrolled(solver, num_measurements, num_atoms, num_steps=num_active)
