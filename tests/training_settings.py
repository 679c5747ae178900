"""Runs that the tests of ``fit`` share: data, settings, and comparison to the bit."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsecode_jax import encoders, training
from sparsecode_jax.training import losses

from .contracts import M, N, S, sparse_problem
from .fitting import arguments

fit_module = importlib.import_module("sparsecode_jax.training.fit")  # training.fit is the function
KEY = jax.random.key(0)
LINEAR = encoders.linear(M, N)
FREE = encoders.free_codes(S, N)
SIGNALS, DICTIONARY, CODES = sparse_problem()


def fit(key=KEY, encoder=LINEAR, signals=SIGNALS, **kwargs):
    """Train with the defaults of these tests: a learned dictionary, 20 steps, no bar."""
    if not {"dictionary", "num_atoms", "params0"} & kwargs.keys():
        kwargs["num_atoms"] = N
    kwargs = {"num_steps": 20, "learning_rate": 0.01, "progress": None, **kwargs}
    signals, kwargs = arguments(signals, kwargs)
    return training.fit(key, encoder, signals, **kwargs)


def host(tree):
    """Copy a result to the host; keys become their data."""
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if _is_key(x) else x), tree)


def _is_key(x):
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_same_bits(a, b):
    chex.assert_trees_all_equal(host(a), host(b), strict=True)


def identity(params):
    return params


SETTINGS = {
    "learned": {},
    "minibatch": {"batch_size": 7},
    "fixed_mlp": {
        "encoder": encoders.mlp(M, N, hidden=(8,)),
        "dictionary": DICTIONARY,
        "loss": losses.lasso,
    },
    "free_codes": {"encoder": FREE},
    "supervised": {"dictionary": DICTIONARY, "true_codes": CODES, "loss": losses.cosine},
    "sgd": {"optimizer": optax.sgd, "batch_size": 7},
}
each_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
