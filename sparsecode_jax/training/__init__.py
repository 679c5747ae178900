"""Training: encoders and dictionaries by gradient descent."""

from sparsecode_jax.training import losses, schedules
from sparsecode_jax.training.fit import Fit, Progress, fit
from sparsecode_jax.training.scores import scores
from sparsecode_jax.training.serialization import load, save
from sparsecode_jax.training.step import (
    Autoencoder,
    TrainData,
    TrainState,
    init_state,
    train_step,
)

__all__ = [
    "Autoencoder",
    "Fit",
    "Progress",
    "TrainData",
    "TrainState",
    "fit",
    "init_state",
    "load",
    "losses",
    "save",
    "schedules",
    "scores",
    "train_step",
]
