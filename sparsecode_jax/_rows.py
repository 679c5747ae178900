"""Vectors beside rows, where JAX is told to raise rather than promote ranks."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from sparsecode_jax.types import Array

__all__ = ["as_row"]


def as_row(vector: Any, like: Array) -> Array:
    """Return numbers () as they are, and a vector (N,) with as many axes as (..., N) has."""
    vector = jnp.asarray(vector)
    missing = jnp.ndim(like) - vector.ndim
    if vector.ndim == 0 or missing <= 0:
        return vector
    return jnp.expand_dims(vector, tuple(range(missing)))
