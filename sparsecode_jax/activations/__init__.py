"""Activations of language models: captured by PyTorch, kept on disk, spliced back.

Stores need neither PyTorch nor transformers; models need the extra ``lm``, which has both and is
imported on first use.
"""

from sparsecode_jax.activations.models import (
    SITES,
    LanguageModel,
    Splice,
    capture,
    load_model,
    read_texts,
)
from sparsecode_jax.activations.normalization import Normalization, fold, normalization
from sparsecode_jax.activations.store import (
    Block,
    Selection,
    Store,
    load,
    select,
    split_documents,
    verify,
    write,
)

__all__ = [
    "Block",
    "LanguageModel",
    "Normalization",
    "SITES",
    "Selection",
    "Splice",
    "Store",
    "capture",
    "fold",
    "load",
    "load_model",
    "normalization",
    "read_texts",
    "select",
    "split_documents",
    "verify",
    "write",
]
