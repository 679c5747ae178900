"""Training: encoders and dictionaries by gradient descent."""

from sparsecode_jax.training import losses, schedules
from sparsecode_jax.training._work import MaxFlops
from sparsecode_jax.training.fit import Fit, Progress, fit
from sparsecode_jax.training.scores import scores
from sparsecode_jax.training.serialization import load, save
from sparsecode_jax.training.step import (
    Autoencoder,
    Model,
    Recipe,
    Source,
    TrainData,
    TrainState,
    init_state,
    project_gradients,
    train_step,
)

__all__ = [
    "Autoencoder",
    "Fit",
    "MaxFlops",
    "Model",
    "Progress",
    "Recipe",
    "Source",
    "TrainData",
    "TrainState",
    "fit",
    "init_state",
    "load",
    "losses",
    "project_gradients",
    "save",
    "schedules",
    "scores",
    "train_step",
]
