"""Training losses: ``loss(codes, batch) -> ()``, where the batch is a :class:`Batch`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import objectives
from sparsecode_jax.types import Array

__all__ = ["Batch", "cosine", "lasso", "paper"]


class Batch(NamedTuple):
    """What a loss may look at besides the codes.

    Attributes:
      signals: (B, M).
      dictionary: (N, M), fixed or being learned.
      penalty: ().
      true_codes: (B, N), or None where they are unknown.
    """

    signals: Array
    dictionary: Array | None
    penalty: Array
    true_codes: Array | None


def paper(codes: Array, batch: Batch) -> Array:
    """Return the paper's loss: mean squared error + penalty * mean |code|."""
    dictionary = _dictionary("paper", batch)
    return objectives.paper_loss(batch.signals, dictionary, codes, batch.penalty)


def lasso(codes: Array, batch: Batch) -> Array:
    """Return the lasso objective averaged over signals."""
    dictionary = _dictionary("lasso", batch)
    return jnp.mean(objectives.lasso(batch.signals, dictionary, codes, batch.penalty))


def cosine(codes: Array, batch: Batch) -> Array:
    """Return minus the cosine similarity of each latent with its true latent, averaged.

    The cosine is taken over the batch, latent by latent; the paper's loss for known codes.
    """
    if batch.true_codes is None:
        raise ValueError(
            "losses.cosine: there are no true codes; pass true_codes to fit, or another loss."
        )
    products = jnp.sum(codes * batch.true_codes, axis=0)
    squares = jnp.sum(codes**2, axis=0) * jnp.sum(batch.true_codes**2, axis=0)
    return -jnp.mean(products / jnp.sqrt(jnp.maximum(squares, 1e-16)))


def _dictionary(name: str, batch: Batch) -> Array:
    if batch.dictionary is None:
        raise ValueError(
            f"losses.{name}: there is no dictionary; pass dictionary= (fixed) or num_atoms= "
            "(learned) to fit, or a loss that needs none."
        )
    return batch.dictionary
