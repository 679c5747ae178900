"""Sparse inference: iterative solvers as triples of pure functions.

``sparse_encode`` is the one-call front; ``solve`` and ``trajectory`` run any solver on a
:class:`~sparsecode_jax.types.Lasso`.
"""

from sparsecode_jax.solvers._core import solve, sparse_encode, trajectory
from sparsecode_jax.solvers.fista import FistaState, fista, gradient_restart
from sparsecode_jax.solvers.ista import ista
from sparsecode_jax.solvers.log_adam import LogAdamState, log_adam

__all__ = [
    "FistaState",
    "LogAdamState",
    "fista",
    "gradient_restart",
    "ista",
    "log_adam",
    "solve",
    "sparse_encode",
    "trajectory",
]
