"""Dictionary updates: how the atoms follow the codes, one algorithm a file."""

from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate
from sparsecode_jax.dictionary_learning.updates.block_coordinate import (
    BlockCoordinateState,
    block_coordinate,
)
from sparsecode_jax.dictionary_learning.updates.decorrelated import decorrelated
from sparsecode_jax.dictionary_learning.updates.deflated import DeflatedState, deflated
from sparsecode_jax.dictionary_learning.updates.k_svd import approximate_k_svd, k_svd
from sparsecode_jax.dictionary_learning.updates.method_of_optimal_directions import (
    method_of_optimal_directions,
)
from sparsecode_jax.dictionary_learning.updates.neural_update import neural_update
from sparsecode_jax.dictionary_learning.updates.projected_gradient import projected_gradient

__all__ = [
    "BlockCoordinateState",
    "DeflatedState",
    "DictionaryUpdate",
    "approximate_k_svd",
    "block_coordinate",
    "decorrelated",
    "deflated",
    "k_svd",
    "method_of_optimal_directions",
    "neural_update",
    "projected_gradient",
]
