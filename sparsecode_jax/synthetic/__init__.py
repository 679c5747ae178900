"""Sparse problems and models of features, drawn as functions of a PRNG key."""

from sparsecode_jax.synthetic.feature_model import FeatureModel, FeatureSamples, sample_features
from sparsecode_jax.synthetic.magnitudes import gaussian, half_normal, log_normal, uniform
from sparsecode_jax.synthetic.problems import SparseProblem, sample_problem
from sparsecode_jax.synthetic.synth_sae_bench import synth_sae_bench, zipf
from sparsecode_jax.synthetic.trees import Tree, balanced_trees, compensate, tree

__all__ = [
    "FeatureModel",
    "FeatureSamples",
    "SparseProblem",
    "Tree",
    "balanced_trees",
    "compensate",
    "gaussian",
    "half_normal",
    "log_normal",
    "sample_features",
    "sample_problem",
    "synth_sae_bench",
    "tree",
    "uniform",
    "zipf",
]
