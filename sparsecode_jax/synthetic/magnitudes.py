"""How strongly features fire: ``(key, shape) -> array``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax.types import Array, Key

__all__ = ["gaussian", "half_normal", "log_normal", "uniform"]


def half_normal(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw the absolute value of a standard normal (the paper's magnitudes)."""
    return jnp.abs(_normal("half_normal", key, shape))


def gaussian(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw a standard normal: signed codes."""
    return _normal("gaussian", key, shape)


def log_normal(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw the exponential of a standard normal: heavy-tailed."""
    return jnp.exp(_normal("log_normal", key, shape))


def uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """Draw from U(0, 1)."""
    _checks.key("uniform", key)
    return jax.random.uniform(key, _checks.sizes("uniform", "the shape", shape, minimum=0))


def _normal(name: str, key: Key, shape: tuple[int, ...]) -> Array:
    _checks.key(name, key)
    return jax.random.normal(key, _checks.sizes(name, "the shape", shape, minimum=0))
