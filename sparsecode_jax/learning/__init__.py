"""Learning: encoders and dictionaries by gradient descent, and dictionaries by turns."""

from sparsecode_jax.learning import losses, updates
from sparsecode_jax.learning.alternating import Learned, learn_dictionary
from sparsecode_jax.learning.fit import Fit, fit
from sparsecode_jax.learning.online import LearnedOnline, learn_dictionary_online
from sparsecode_jax.learning.rounds import Alternated, alternate
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
    "TrainData",
    "TrainState",
    "alternate",
    "fit",
    "init_state",
    "learn_dictionary",
    "learn_dictionary_online",
    "losses",
    "train_step",
    "updates",
]
