"""What a dictionary update is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax.types import Array, PyTree

__all__ = ["DictionaryUpdate", "matmul", "no_state", "unit"]


class DictionaryUpdate(NamedTuple):
    """How atoms follow the codes, as pure functions; hashable, its numbers are in its state.

    Attributes:
      init: ``(dictionary) -> state``, a pytree: what is remembered of signals seen, and numbers
        such as a learning rate, which can be replaced by traced ones.
      step: ``(state, signals, dictionary, codes) -> (state, dictionary, codes)``, with signals
        (B, M), unit atoms (N, M) in and out, and codes (B, N), which some updates improve too.
      reset: ``(state, replaced) -> state`` forgets what is known of the atoms in the mask (N,), in
        whose places others have been put; None if the state knows of no atom.
    """

    init: Callable[[Array], PyTree]
    step: Callable[[PyTree, Array, Array, Array], tuple[PyTree, Array, Array]]
    reset: Callable[[PyTree, Array], PyTree] | None = None


def no_state(dictionary: Array) -> tuple:
    """Return the state of an update that remembers nothing."""
    return ()


def matmul(a: Array, b: Array) -> Array:
    """Multiply at full precision."""
    return jnp.matmul(a, b, precision="highest")


def unit(atoms: Array, otherwise: Array) -> Array:
    """Scale atoms (..., M) to unit norm, and take others in the place of zero atoms."""
    norms = jnp.sqrt(jnp.sum(atoms * atoms, axis=-1, keepdims=True))
    return jnp.where(norms > 0, atoms / jnp.where(norms > 0, norms, 1), otherwise)
