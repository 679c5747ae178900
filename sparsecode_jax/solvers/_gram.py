"""SpaRSA on small problems that are given by a Gram matrix each."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.prox import in_units, value
from sparsecode_jax.solvers.sparsa import HISTORY, LONGEST
from sparsecode_jax.types import Array

__all__ = ["gram_sparsa"]


def gram_sparsa(
    prox: Callable, gram: Array, target: Array, penalty: Array, start: Array, num_steps: int
) -> Array:
    """Minimize z G z / 2 - z t + penalty, for G (..., W, W) and t (..., W), from ``start``."""
    # In units of the problem, so that no square over- or underflows.
    unit, inverse = unit_of(jnp.maximum(jnp.abs(target), jnp.abs(start)))
    target, penalty, start = target * inverse, as_row(penalty, start) * inverse, start * inverse
    prox = in_units(prox, unit)
    shortest = 1 / jnp.max(jnp.sum(jnp.abs(gram), axis=-1), axis=-1, keepdims=True)

    def times(codes: Array) -> Array:
        return jnp.einsum("...ij,...j->...i", gram, codes, precision=lax.Precision.HIGHEST)

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=-1, keepdims=True)

    def objective(codes: Array, image: Array) -> Array:
        return dot(codes, 0.5 * image - target) + value(prox, codes, penalty)[..., None]

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        codes, image, history, length = carry
        new = prox(codes + length * (target - image), length * penalty)
        new_image = times(new)
        move = new - codes
        curved = dot(move, new_image - image)
        reached = objective(new, new_image)
        accepted = (reached <= jnp.max(history, axis=-1, keepdims=True)) | (length <= shortest)
        spectral = dot(move, move) / jnp.where(curved > 0, curved, 1)
        longer = jnp.where(curved > 0, jnp.clip(spectral, shortest, LONGEST * shortest), length)
        carry = (
            jnp.where(accepted, new, codes),
            jnp.where(accepted, new_image, image),
            jnp.where(accepted, jnp.concatenate([history[..., 1:], reached], axis=-1), history),
            jnp.where(accepted, longer, jnp.maximum(length / 2, shortest)),
        )
        return carry, None

    image = times(start)
    first = objective(start, image)
    history = jnp.broadcast_to(first, (*first.shape[:-1], HISTORY))
    (codes, *_), _ = lax.scan(step, (start, image, history, shortest), length=num_steps)
    return codes * unit
