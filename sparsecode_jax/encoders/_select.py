"""Choose the K largest latents, K static, and work on them alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    explicit_layout,
    layout_of_codes,
    names_of,
    over_devices,
    varying_like,
)
from sparsecode_jax._sparse import dot_rows
from sparsecode_jax.encoders.linear import LinearParams
from sparsecode_jax.types import Array

__all__ = ["largest", "latents_at", "scatter", "take"]


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


def latents_at(latents: Array, indices: Array) -> Array:
    """Return the latents (..., N) at the indices (..., K) of their own signals, (..., K).

    Of atoms that are split each device gives what it holds, and these are summed.
    """
    layout = layout_of_codes(latents)
    if layout is None or not layout.others:
        return jnp.take_along_axis(latents, indices, axis=-1)
    atoms = layout.others

    def local(latents: Array, indices: Array) -> Array:
        places = _own(indices, atoms, latents.shape[-1])
        values = jnp.take_along_axis(latents, places, axis=-1, mode="fill", fill_value=0)
        return jax.lax.psum(values, atoms)

    rows = by_signal(layout)
    split = PartitionSpec(*layout.rows, atoms)
    return over_devices(local, layout._replace(others=()), (split, rows), rows)(latents, indices)


def scatter(values: Array, indices: Array, latents: Array) -> Array:
    """Return codes (..., N) with values (..., K) at indices (..., K), all different for a signal.

    They lie as the latents (..., N) do: of atoms that are split each device writes its own.
    """
    layout = layout_of_codes(latents)
    num_atoms = latents.shape[-1]
    if layout is None or not layout.others:
        return _written(values, indices, num_atoms)
    atoms, split = layout.others, PartitionSpec(*layout.rows, layout.others)

    def local(values: Array, indices: Array) -> Array:
        width = num_atoms // jax.lax.axis_size(atoms)
        return _written(values, _own(indices, atoms, width), width)

    rows = by_signal(layout)
    return over_devices(local, layout._replace(others=()), (rows, rows), split)(values, indices)


def _own(indices: Array, atoms: tuple, width: int) -> Array:
    """Return indices among the atoms of this device; those of others are ``width``."""
    places = indices - jax.lax.axis_index(atoms) * width
    return jnp.where((places >= 0) & (places < width), places, width)


def _written(values: Array, indices: Array, num_atoms: int) -> Array:
    def row(values: Array, indices: Array) -> Array:
        return jnp.zeros(num_atoms, values.dtype).at[indices].set(values)

    # Mapped over rows, so that the compiler sees that no row touches another one's codes.
    flat = (x.reshape(-1, x.shape[-1]) for x in (values, indices))
    return jax.vmap(row)(*flat).reshape(*values.shape[:-1], num_atoms)


def take(params: LinearParams, signals: Array, latents: Array, indices: Array) -> Array:
    """Return the latents (..., N) at the indices (..., K), differentiated as their own products.

    The gradient with respect to the weight touches K rows per signal, not N.
    """
    return _take(varying_like(params, signals, latents), signals, latents, indices)


@jax.custom_vjp
def _take(params: LinearParams, signals: Array, latents: Array, indices: Array) -> Array:
    return latents_at(latents, indices)


def _take_forward(params, signals, latents, indices):  # noqa: ANN001, ANN202
    return latents_at(latents, indices), (params, signals, latents, indices)


def _take_backward(saved, cotangent):  # noqa: ANN001, ANN202
    params, signals, latents, indices = saved
    _, pull = jax.vjp(lambda weight, x: dot_rows(x, indices, weight), params.weight, signals)
    weight, to_signals = pull(cotangent)
    bias = None
    if params.bias is not None:
        bias = _added(jnp.zeros_like(params.bias), indices, cotangent)
    return LinearParams(weight, bias), to_signals, jnp.zeros_like(latents), None


def _added(start: Array, indices: Array, values: Array) -> Array:
    """Add values to the entries (N,) at their indices, summed over devices on explicit axes."""
    layout = explicit_layout(indices, indices)

    def local(start: Array, indices: Array, values: Array) -> Array:
        return start.at[indices].add(values, mode="promise_in_bounds")

    if layout is None:
        return local(start, indices, values)

    def summed(start: Array, *signals: Array) -> Array:
        mine = local(varying_like(start, *signals), *signals)
        return jax.lax.psum(mine, [axis for entry in layout.rows for axis in names_of(entry)])

    rows, whole = by_signal(layout), PartitionSpec()
    total = over_devices(summed, layout, (whole, rows, rows), whole)
    return total(jax.sharding.reshard(start, NamedSharding(layout.mesh, whole)), indices, values)


_take.defvjp(_take_forward, _take_backward)
