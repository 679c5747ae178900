"""Learning: encoders and dictionaries by gradient descent, and dictionaries by turns."""

from sparsecode_jax.learning import losses, schedules, updates
from sparsecode_jax.learning.fit import Fit, Progress, fit
from sparsecode_jax.learning.online import LearnedOnline, learn_dictionary_online
from sparsecode_jax.learning.rounds import Alternated, alternate
from sparsecode_jax.learning.saved import load, save
from sparsecode_jax.learning.scores import scores
from sparsecode_jax.learning.search import Learned, LearningProgress, learn_dictionary
from sparsecode_jax.learning.step import (
    Autoencoder,
    TrainData,
    TrainState,
    init_state,
    train_step,
)

__all__ = [
    "Alternated",
    "Autoencoder",
    "Fit",
    "Learned",
    "LearnedOnline",
    "LearningProgress",
    "Progress",
    "TrainData",
    "TrainState",
    "alternate",
    "fit",
    "init_state",
    "learn_dictionary",
    "learn_dictionary_online",
    "load",
    "losses",
    "save",
    "schedules",
    "scores",
    "train_step",
    "updates",
]
