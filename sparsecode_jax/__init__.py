"""Sparse inference in JAX: solvers, encoders, training, FLOP accounting and sweeps.

Shapes everywhere: signals (..., M), dictionary (N, M) with one atom per row, codes (..., N).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsecode_jax import _jax_release  # noqa: F401 - says what cannot work before it fails

if TYPE_CHECKING:
    from sparsecode_jax import (
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
    from sparsecode_jax._improve import Frontier, improve
    from sparsecode_jax._sparse import SparseCodes
    from sparsecode_jax._sweep import sweep, sweep_chunked
    from sparsecode_jax.solvers import sparse_encode
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

_MODULE_OF = {
    "Encoder": "types",
    "Frontier": "_improve",
    "Lasso": "types",
    "Solver": "types",
    "SparseCodes": "_sparse",
    "improve": "_improve",
    "sparse_encode": "solvers",
    "sweep": "_sweep",
    "sweep_chunked": "_sweep",
}


def __getattr__(name: str) -> Any:
    """Import a part of the package when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
    globals()[name] = getattr(module, name) if name in _MODULE_OF else module
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
