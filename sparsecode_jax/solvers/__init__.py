"""Sparse inference: iterative solvers as triples of pure functions.

``sparse_encode`` is the one-call front; ``solve`` and ``trajectory`` run any solver on a
:class:`~sparsecode_jax.types.Lasso`.
"""

from sparsecode_jax.solvers._core import solve, sparse_encode, trajectory
from sparsecode_jax.solvers._implicit import with_implicit_gradient
from sparsecode_jax.solvers._pursuit import positive, signed
from sparsecode_jax.solvers._tolerance import ToleranceInfo, solve_to_tolerance
from sparsecode_jax.solvers.fista import FistaState, fista, gradient_restart
from sparsecode_jax.solvers.ista import ista
from sparsecode_jax.solvers.log_adam import LogAdamState, log_adam
from sparsecode_jax.solvers.orthogonal_least_squares import orthogonal_least_squares
from sparsecode_jax.solvers.orthogonal_matching_pursuit import orthogonal_matching_pursuit
from sparsecode_jax.solvers.sparsa import SparsaState, sparsa
from sparsecode_jax.solvers.working_set import WorkingSetState, working_set

__all__ = [
    "FistaState",
    "LogAdamState",
    "SparsaState",
    "ToleranceInfo",
    "WorkingSetState",
    "fista",
    "gradient_restart",
    "ista",
    "log_adam",
    "orthogonal_least_squares",
    "orthogonal_matching_pursuit",
    "positive",
    "signed",
    "solve",
    "solve_to_tolerance",
    "sparsa",
    "sparse_encode",
    "trajectory",
    "with_implicit_gradient",
    "working_set",
]
