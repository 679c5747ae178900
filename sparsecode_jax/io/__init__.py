"""Results, checkpoints, runs and autoencoders on disk: written whole or not at all.

The front of modules of two layers: ``saes`` stands above the encoders, which it builds, and all
others below; none of what ``saes`` imports imports this package.
"""

from sparsecode_jax.io.checkpoints import load_checkpoint, save_checkpoint
from sparsecode_jax.io.results import load_results, save_results
from sparsecode_jax.io.runs import BusyError, Run
from sparsecode_jax.io.saes import Sae, as_sae, load_sae, save_sae

__all__ = [
    "BusyError",
    "Run",
    "Sae",
    "as_sae",
    "load_checkpoint",
    "load_results",
    "load_sae",
    "save_checkpoint",
    "save_results",
    "save_sae",
]
