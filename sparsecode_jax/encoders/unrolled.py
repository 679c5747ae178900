"""A fixed number of a solver's steps as an encoder."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries, solvers
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.encoders._layers import PENALTY0, put_dictionary
from sparsecode_jax.types import Array, Encoder, Key, Lasso, Role, Solver

__all__ = ["UnrolledParams", "unrolled"]


class UnrolledParams(NamedTuple):
    """The dictionary (N, M) and the logarithm of the penalty, ()."""

    dictionary: Array
    log_penalty: Array


@cached
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
    Of ``solvers.matching_pursuit()`` it is the encoder of matching pursuit autoencoders.

    Args:
      solver: such as ``fista()``. **Static**.
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_steps: of the solver. **Static**.
      penalty: where the penalty starts; pursuits have none. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`UnrolledParams`.

    **Cost**: that of ``solve`` and of the solver's step size.

    References:
      Costa et al., 2025, "From Flat to Hierarchical: Extracting Sparse Representations with
      Matching Pursuit".
    """
    _checks.solver("unrolled", solver)
    _checks.count("unrolled", "num_measurements", num_measurements)
    _checks.count("unrolled", "num_atoms", num_atoms)
    _checks.count("unrolled", "num_steps", num_steps)
    penalty = _checks.static("unrolled", "penalty", penalty)
    _checks.positive("unrolled", penalty=penalty)
    init = Bound(_init, num_measurements, num_atoms, penalty)
    roles = UnrolledParams(Role.TIED, Role.SHARED)  # type: ignore[arg-type]
    return Encoder(init, Bound(_apply, solver, num_steps), tie=put_dictionary, roles=roles)


def _init(num_measurements: int, num_atoms: int, penalty: float, key: Key) -> UnrolledParams:
    dictionary = dictionaries.random(key, num_atoms=num_atoms, num_measurements=num_measurements)
    return UnrolledParams(dictionary, jnp.log(jnp.asarray(penalty, dictionary.dtype)))


def _apply(solver: Solver, num_steps: int, params: UnrolledParams, signals: Array) -> Array:
    signals = _checks.takes("unrolled", params, signals, params.dictionary.shape[-1])
    step = dictionaries.step_size(jax.lax.stop_gradient(params.dictionary), solver=solver)
    problem = Lasso(signals, params.dictionary, jnp.exp(params.log_penalty), step)
    return solvers.solve(solver, problem, num_steps=num_steps)
