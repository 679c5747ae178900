"""The largest of many numbers by bisection on their bits, for a rank that may be traced."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sparsecode_jax.types import Array

__all__ = ["is_kept", "kth_largest"]


# Eagerly the loop over the bits would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="axis", inline=True)
def kth_largest(values: Array, rank: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Return the ``rank``-th largest of non-negative numbers along axes, which are kept.

    Non-negative floats are ordered as their bits are, so bisection on the bits is exact, and the
    rank may be traced. A rank of more than there are gives 0.

    **Cost**: two operations per entry and bit.
    """
    width = 8 * values.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"uint{width}"))

    def narrow(place: Array, found: Array) -> Array:
        trial = found | (bits.dtype.type(1) << (width - 2 - place).astype(bits.dtype))
        enough = jnp.sum(bits >= trial, axis=axis, keepdims=True) >= rank
        return jnp.where(enough, trial, found)

    start = jnp.zeros_like(jnp.sum(bits, axis=axis, keepdims=True, dtype=bits.dtype))
    found = jax.lax.fori_loop(0, width - 1, narrow, start)  # the sign bit is 0
    return jax.lax.bitcast_convert_type(found, values.dtype)


def is_kept(magnitudes: Array, rank: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Say which are the ``rank`` largest of non-negative numbers (ties included), and above 0.

    NaNs are kept, and take nobody's place.
    """
    magnitudes = jax.lax.stop_gradient(magnitudes)
    known = jnp.where(jnp.isnan(magnitudes), 0, magnitudes)
    least = kth_largest(known, rank, axis)
    return ~((magnitudes < least) | (magnitudes == 0))
