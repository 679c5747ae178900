"""Dictionary learning by alternating minimization: codes by a solver, then atoms by an update."""

from sparsecode_jax.dictionary_learning import updates
from sparsecode_jax.dictionary_learning.alternating import Alternated, alternate
from sparsecode_jax.dictionary_learning.online import LearnedOnline, learn_dictionary_online
from sparsecode_jax.dictionary_learning.search import Learned, LearningProgress, learn_dictionary

__all__ = [
    "Alternated",
    "Learned",
    "LearnedOnline",
    "LearningProgress",
    "alternate",
    "learn_dictionary",
    "learn_dictionary_online",
    "updates",
]
