"""Learning: encoders and dictionaries by gradient descent on any loss, many runs at once."""

from sparsecode_jax.learning import losses
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
    "TrainData",
    "TrainState",
    "fit",
    "init_state",
    "losses",
    "train_step",
]
