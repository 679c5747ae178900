"""Powers of two as units, in which squares neither over- nor underflow and nothing is rounded."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax.types import Array

__all__ = ["LARGEST", "SMALLEST", "in_units", "unit_of"]

# Of the largest magnitude of signals, so that float32 holds sums of their squares.
SMALLEST = 1e3 * float(np.finfo(np.float32).tiny) ** 0.5
LARGEST = 1e-3 * float(np.finfo(np.float32).max) ** 0.5


def unit_of(x: Array, axis: int | tuple[int, ...] = -1) -> tuple[Array, Array]:
    """Return the power of two below the largest magnitude along axes, which stay; its inverse.

    ``x * inverse`` has the digits of x and magnitudes below 2 (below 4 at the upper end of the
    dtype's range). The unit of zeros is 1. Derivatives do not see the unit.

    **Cost**: one reduction; what is done to exponents is done to integers.
    """
    return _unit_of(x, axis)


# Eagerly this is one program and not ten; in another program nothing is left of the jit.
@functools.partial(jax.jit, static_argnames="axis", inline=True)
def _unit_of(x: Array, axis: int | tuple[int, ...]) -> tuple[Array, Array]:
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
    info = jnp.finfo(largest.dtype)
    bits = jax.lax.bitcast_convert_type(largest, jnp.dtype(f"uint{info.bits}"))
    one = bits.dtype.type(1 << info.nmant)  # of the exponent
    both = bits.dtype.type((1 << info.nexp) - 2)  # the exponents of a unit and of its inverse
    exponent = jnp.clip(bits // one, 1, both - 1)  # neither is subnormal
    exponent = jnp.where(largest == 0, both // 2, exponent)
    unit, inverse = (
        jax.lax.bitcast_convert_type(e * one, largest.dtype) for e in (exponent, both - exponent)
    )
    return unit, inverse


@functools.partial(jax.jit, static_argnames="axis", inline=True)
def in_units(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Return x in its own units along axes: squares of it can be summed whatever its scale."""
    return x * unit_of(x, axis)[1]
