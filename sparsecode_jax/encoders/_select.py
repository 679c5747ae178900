"""Choose the largest latents: static K by ``top_k``, traced K by bisection on their bits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    layout_of_codes,
    over_devices,
    varying_like,
)
from sparsecode_jax._sparse import SparseCodes, dot_rows
from sparsecode_jax.encoders.linear import LinearParams
from sparsecode_jax.types import Array

__all__ = ["is_kept", "kth_largest", "largest", "scatter", "take"]


def largest(values: Array, num_kept: int) -> Array:
    """Return where the K largest of values (..., N) are, (..., K), largest first.

    Each device looks at the rows that it holds; of atoms that are split each finds its own K
    largest, and those alone are compared.
    """
    layout = layout_of_codes(values)
    return (
        jax.lax.top_k(values, num_kept)[1] if layout is None else _largest(values, num_kept, layout)
    )


@functools.partial(jax.jit, static_argnames=("num_kept", "layout"))
def _largest(values: Array, num_kept: int, layout: Layout) -> Array:
    atoms = layout.others

    def local(values: Array) -> Array:
        here, places = jax.lax.top_k(values, min(num_kept, values.shape[-1]))
        if not atoms:
            return places
        places = places + jax.lax.axis_index(atoms) * values.shape[-1]
        everywhere = [
            jax.lax.all_gather(x, atoms, axis=x.ndim - 1, tiled=True) for x in (here, places)
        ]
        best = jax.lax.top_k(everywhere[0], num_kept)[1]
        return jnp.take_along_axis(everywhere[1], best, axis=-1)

    rows = by_signal(layout)
    split = PartitionSpec(*layout.rows, atoms or None)
    whole = layout._replace(others=())
    return over_devices(local, whole, (split,), rows, check=False)(values)


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


def scatter(codes: SparseCodes) -> Array:
    """Return codes (..., N) of which each signal's indices are all different."""
    num_atoms = codes.num_atoms

    def row(values: Array, indices: Array) -> Array:
        return jnp.zeros(num_atoms, values.dtype).at[indices].set(values)

    # Mapped over rows, so that the compiler sees that no row touches another one's codes.
    flat = (x.reshape(-1, x.shape[-1]) for x in (codes.values, codes.indices))
    return jax.vmap(row)(*flat).reshape(codes.shape)


def take(params: LinearParams, signals: Array, latents: Array, indices: Array) -> Array:
    """Return the latents (..., N) at the indices (..., K), differentiated as their own products.

    The gradient with respect to the weight touches K rows per signal, not N.
    """
    return _take(varying_like(params, signals, latents), signals, latents, indices)


@jax.custom_vjp
def _take(params: LinearParams, signals: Array, latents: Array, indices: Array) -> Array:
    return jnp.take_along_axis(latents, indices, axis=-1)


def _take_forward(params, signals, latents, indices):  # noqa: ANN001, ANN202
    return jnp.take_along_axis(latents, indices, axis=-1), (params, signals, latents, indices)


def _take_backward(saved, cotangent):  # noqa: ANN001, ANN202
    params, signals, latents, indices = saved
    _, pull = jax.vjp(lambda weight, x: dot_rows(x, indices, weight), params.weight, signals)
    weight, to_signals = pull(cotangent)
    bias = None
    if params.bias is not None:
        bias = jnp.zeros_like(params.bias).at[indices].add(cotangent, mode="promise_in_bounds")
    return LinearParams(weight, bias), to_signals, jnp.zeros_like(latents), None


_take.defvjp(_take_forward, _take_backward)
