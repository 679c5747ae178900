"""Sparse inference: iterative solvers as triples of pure functions.

``sparse_encode`` is the one-call front; ``solve`` and ``trajectory`` run any solver on a
:class:`~sparsecode_jax.types.Lasso`.
"""

from sparsecode_jax.solvers._core import default_solver, solve, sparse_encode, trajectory
from sparsecode_jax.solvers._implicit import with_implicit_gradient
from sparsecode_jax.solvers._tolerance import ToleranceInfo, solve_to_tolerance
from sparsecode_jax.solvers.coordinate_descent import coordinate_descent
from sparsecode_jax.solvers.cosamp import cosamp
from sparsecode_jax.solvers.exhaustive import exhaustive
from sparsecode_jax.solvers.fista import FistaState, fista, gradient_restart
from sparsecode_jax.solvers.gradient_pursuit import gradient_pursuit
from sparsecode_jax.solvers.ista import ista
from sparsecode_jax.solvers.iterative_hard_thresholding import iterative_hard_thresholding
from sparsecode_jax.solvers.lca import LcaState, lca
from sparsecode_jax.solvers.leave_one_out import leave_one_out
from sparsecode_jax.solvers.log_adam import LogAdamState, log_adam
from sparsecode_jax.solvers.matching_pursuit import MatchingPursuitState, matching_pursuit
from sparsecode_jax.solvers.orthogonal_least_squares import orthogonal_least_squares
from sparsecode_jax.solvers.orthogonal_matching_pursuit import orthogonal_matching_pursuit
from sparsecode_jax.solvers.penalty_for import penalty_for
from sparsecode_jax.solvers.refit import refit
from sparsecode_jax.solvers.sparsa import SparsaState, sparsa
from sparsecode_jax.solvers.subspace_pursuit import subspace_pursuit
from sparsecode_jax.solvers.working_set import WorkingSetState, working_set

__all__ = [
    "FistaState",
    "LcaState",
    "LogAdamState",
    "MatchingPursuitState",
    "SparsaState",
    "ToleranceInfo",
    "WorkingSetState",
    "coordinate_descent",
    "cosamp",
    "default_solver",
    "exhaustive",
    "fista",
    "gradient_pursuit",
    "gradient_restart",
    "ista",
    "iterative_hard_thresholding",
    "lca",
    "leave_one_out",
    "log_adam",
    "matching_pursuit",
    "orthogonal_least_squares",
    "orthogonal_matching_pursuit",
    "penalty_for",
    "refit",
    "solve",
    "solve_to_tolerance",
    "sparsa",
    "sparse_encode",
    "subspace_pursuit",
    "trajectory",
    "with_implicit_gradient",
    "working_set",
]
