"""Results, checkpoints and runs on disk: written whole or not at all."""

from sparsecode_jax.io.checkpoints import load_checkpoint, save_checkpoint
from sparsecode_jax.io.results import load_results, save_results
from sparsecode_jax.io.runs import BusyError, Run

__all__ = [
    "BusyError",
    "Run",
    "load_checkpoint",
    "load_results",
    "save_checkpoint",
    "save_results",
]
