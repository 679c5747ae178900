"""Learning: encoders and dictionaries by gradient descent, and dictionaries by turns."""

from sparsecode_jax.learning import losses
from sparsecode_jax.learning.alternating import Learned, learn_dictionary
from sparsecode_jax.learning.fit import Fit, fit
from sparsecode_jax.learning.step import (
    Autoencoder,
    TrainData,
    TrainState,
    init_state,
    train_step,
)

__all__ = [
    "Autoencoder",
    "Fit",
    "Learned",
    "TrainData",
    "TrainState",
    "fit",
    "init_state",
    "learn_dictionary",
    "losses",
    "train_step",
]
