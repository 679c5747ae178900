"""Sparse problems as functions of a PRNG key."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = ["SparseProblem", "gaussian", "half_normal", "sample_problem", "uniform"]


class SparseProblem(NamedTuple):
    """Signals (S, M) with the dictionary (N, M) and the codes (S, N) that made them."""

    signals: Array
    dictionary: Array
    codes: Array


def half_normal(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw the absolute value of a standard normal (the paper's magnitudes)."""
    return jnp.abs(_normal("half_normal", key, shape))


def gaussian(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw a standard normal: signed codes."""
    return _normal("gaussian", key, shape)


def _normal(name: str, key: Key, shape: tuple[int, ...]) -> Array:
    _checks.key(name, key)
    return jax.random.normal(key, _checks.sizes(name, "the shape", shape, minimum=0))


def uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw from U(0, 1)."""
    _checks.key("uniform", key)
    return jax.random.uniform(key, _checks.sizes("uniform", "the shape", shape, minimum=0))


def sample_problem(
    key: Key,
    num_active: ArrayLike,
    *,
    num_samples: int,
    num_measurements: int,
    num_atoms: int,
    magnitudes: Callable[[Key, tuple[int, ...]], Array] = half_normal,
    noise: ArrayLike = 0.0,
    dictionary: ArrayLike | None = None,
) -> SparseProblem:
    """Draw signals that are combinations of exactly ``num_active`` atoms each.

    Supports are uniform without replacement, magnitudes are independent.

    Args:
      key: PRNG key. **Traced**.
      num_active: K, from 0 to N. **Traced**, so it can be swept.
      num_samples: S. **Static**.
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      magnitudes: ``(key, shape) -> array``: ``half_normal``, ``gaussian``, ``uniform`` or your own.
        **Static**.
      noise: standard deviation of Gaussian noise added to each measurement. **Traced**.
      dictionary: (N, M) to use instead of a random one with unit atoms. **Traced**.

    Returns:
      A :class:`SparseProblem`; the signals are ``codes @ dictionary`` plus noise.

    Raises:
      ValueError: K > N or K < 0, a count below 1, a dictionary of another shape, negative noise.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=8, num_atoms=16)
      >>> problem.signals.shape, int((problem.codes != 0).sum(axis=1).max())
      ((100, 8), 3)
    """
    name = "sample_problem"
    _checks.count(name, "num_samples", num_samples)
    _checks.count(name, "num_measurements", num_measurements)
    _checks.count(name, "num_atoms", num_atoms)
    _checks.num_active(name, num_active, num_atoms)
    _checks.function(name, "magnitudes", magnitudes)
    _checks.key(name, key)
    (noise,) = _checks.real(name, noise)
    _checks.scalar(name, "noise", noise)
    if _checks.concrete(noise) and not 0 <= float(np.asarray(noise)) < np.inf:
        raise ValueError(f"{name}: noise is {noise}; a standard deviation >= 0 is expected.")
    support_key, magnitude_key, dictionary_key, noise_key = jax.random.split(key, 4)
    if dictionary is None:
        dictionary = dictionaries.random(
            dictionary_key, num_atoms=num_atoms, num_measurements=num_measurements
        )
    else:
        (dictionary,) = _checks.floating(name, dictionary)
        _checks.dictionary_matrix(name, dictionary)
        _checks.finite(name, dictionary=dictionary)
        if dictionary.shape != (num_atoms, num_measurements):
            raise ValueError(
                f"{name}: the dictionary has shape {dictionary.shape}; "
                f"{(num_atoms, num_measurements)} is expected."
            )
    shape = (num_samples, num_atoms)
    # The K smallest of N uniforms: a traced K selects by rank.
    ranks = jnp.argsort(jnp.argsort(jax.random.uniform(support_key, shape), axis=-1), axis=-1)
    codes = jnp.where(ranks < num_active, magnitudes(magnitude_key, shape), 0)
    signals = dictionaries.reconstruct(codes, dictionary)
    signals = signals + noise * jax.random.normal(noise_key, signals.shape)
    return SparseProblem(signals, dictionary, codes)
