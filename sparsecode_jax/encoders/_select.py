"""Choose the K largest latents, K static, and work on them alone."""

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

__all__ = ["largest", "scatter", "take"]


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
