"""Metrics of codes and dictionaries: the mean correlation coefficient (MCC) in its named variants.

"MCC" means several things in the literature; each variant here has its own name, and
:func:`mcc_chance` and :func:`dictionary_mcc_chance` give the score of an unrelated answer, which is
far from zero when the dimension is small (0.67 for random dictionaries of 16 atoms in 8
dimensions). Codes may be :class:`~sparsecode_jax.SparseCodes` in all of them.

:func:`score_features` scores a sparse autoencoder whose signals come from known features, over as
many batches as there are, by the definitions of SAELens.
"""

from sparsecode_jax.metrics._features import FeatureScores, latent_f1, score_features, uniqueness
from sparsecode_jax.metrics._matching import (
    dictionary_mcc,
    dictionary_mcc_chance,
    latent_correlation,
    matched_dictionary_mcc,
    mcc,
    mcc_chance,
    pearson_dictionary_mcc,
)
from sparsecode_jax.metrics._samples import (
    dead_fraction,
    l0,
    mse,
    nearest_neighbor_cosine,
    r2,
    shrinkage,
)

__all__ = [
    "FeatureScores",
    "dead_fraction",
    "dictionary_mcc",
    "dictionary_mcc_chance",
    "l0",
    "latent_correlation",
    "latent_f1",
    "matched_dictionary_mcc",
    "mcc",
    "mcc_chance",
    "mse",
    "nearest_neighbor_cosine",
    "pearson_dictionary_mcc",
    "r2",
    "score_features",
    "shrinkage",
    "uniqueness",
]
