"""Sparse inference in JAX: solvers, encoders, training, FLOP accounting and sweeps.

Shapes everywhere: signals (..., M), dictionary (N, M) with one atom per row, codes (..., N).
"""

from sparsecode_jax import (
    _jax_release,  # noqa: F401 - first, so that what cannot work says so before it fails
    activations,
    dictionaries,
    dictionary_learning,
    encoders,
    flops,
    io,
    metrics,
    objectives,
    prox,
    solvers,
    statistics,
    synthetic,
    training,
)
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.improve import Frontier, improve
from sparsecode_jax.solvers import sparse_encode
from sparsecode_jax.sweep import sweep, sweep_chunked
from sparsecode_jax.types import Encoder, Lasso, Solver

__version__ = "0.1.0"

__all__ = [
    "Encoder",
    "Frontier",
    "Lasso",
    "Solver",
    "SparseCodes",
    "activations",
    "dictionaries",
    "dictionary_learning",
    "encoders",
    "flops",
    "improve",
    "io",
    "metrics",
    "objectives",
    "prox",
    "solvers",
    "sparse_encode",
    "statistics",
    "sweep",
    "sweep_chunked",
    "synthetic",
    "training",
]
