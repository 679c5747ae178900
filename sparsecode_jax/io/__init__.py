"""Results and checkpoints on disk: written whole or not at all."""

from sparsecode_jax.io.checkpoints import load_checkpoint, save_checkpoint
from sparsecode_jax.io.results import load_results, save_results

__all__ = ["load_checkpoint", "load_results", "save_checkpoint", "save_results"]
