"""Products with few rows of a matrix a signal, and their gradients, without (B, K, M) arrays.

Each is a loop over K of gathers or scatters of one row a signal: on two CPU cores 4 to 8 times
faster than gathering all K rows first, and its gradient keeps nothing from step to step.
Reverse mode only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax._sharding import varying_like
from sparsecode_jax.types import Array

__all__ = ["combine_rows", "dot_rows"]


def combine_rows(values: Array, indices: Array, matrix: Array) -> Array:
    """Return sum_k values[..., k] * matrix[indices[..., k]]: (..., K), (N, M) to (..., M).

    **Cost**: 2KM arithmetic operations a signal.
    """
    return _combine_rows(*_alike(values, indices, matrix))


def dot_rows(signals: Array, indices: Array, matrix: Array) -> Array:
    """Return <signals, matrix[indices[..., k]]> for each k: (..., M), (N, M) to (..., K).

    **Cost**: 2KM arithmetic operations a signal.
    """
    return _dot_rows(*_alike(signals, indices, matrix))


def _alike(*arrays: Array) -> tuple[Array, ...]:
    """Let all vary over the devices that one does, so that their gradients are summed there."""
    return tuple(varying_like(array, *arrays) for array in arrays)


@jax.custom_vjp
def _combine_rows(values: Array, indices: Array, matrix: Array) -> Array:
    return _combine(values, indices, matrix)


@jax.custom_vjp
def _dot_rows(signals: Array, indices: Array, matrix: Array) -> Array:
    return _dot(signals, indices, matrix)


def add_rows(values: Array, indices: Array, signals: Array, num_rows: int) -> Array:
    """Return (N, M) whose row j is the sum of values[..., k] * signals where indices are j."""
    num_active = indices.shape[-1]
    flat = signals.reshape(-1, signals.shape[-1])
    weights, rows = (a.reshape(-1, num_active).T for a in (values, indices))

    def step(total: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        weight, row = now
        update = weight[:, None] * flat
        return total.at[row].add(update, mode="promise_in_bounds"), None

    start = jnp.zeros((num_rows, flat.shape[1]), jnp.result_type(values, signals))
    start = varying_like(start, weights, flat)
    return jax.lax.scan(step, start, (weights, rows))[0]


def _combine(values: Array, indices: Array, matrix: Array) -> Array:
    def step(total: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        value, index = now
        return total + value[..., None] * _rows(matrix, index), None

    shape = (*values.shape[:-1], matrix.shape[1])
    start = jnp.zeros(shape, jnp.result_type(values, matrix))
    start = varying_like(start, values, matrix)
    slots = jnp.moveaxis(values, -1, 0), jnp.moveaxis(indices, -1, 0)
    return jax.lax.scan(step, start, slots)[0]


def _dot(signals: Array, indices: Array, matrix: Array) -> Array:
    def step(_: None, index: Array) -> tuple[None, Array]:
        return None, jnp.sum(signals * _rows(matrix, index), axis=-1)

    products = jax.lax.scan(step, None, jnp.moveaxis(indices, -1, 0))[1]
    return jnp.moveaxis(products, 0, -1)


def _rows(matrix: Array, index: Array) -> Array:
    return jnp.take(matrix, index, axis=0, mode="clip")


def _combine_forward(values, indices, matrix):  # noqa: ANN001, ANN202
    return _combine(values, indices, matrix), (values, indices, matrix)


def _combine_backward(saved, cotangent):  # noqa: ANN001, ANN202
    values, indices, matrix = saved
    to_matrix = add_rows(values, indices, cotangent, matrix.shape[0])
    to_values = _dot(cotangent, indices, matrix).astype(values.dtype)
    return to_values, None, to_matrix.astype(matrix.dtype)


def _dot_forward(signals, indices, matrix):  # noqa: ANN001, ANN202
    return _dot(signals, indices, matrix), (signals, indices, matrix)


def _dot_backward(saved, cotangent):  # noqa: ANN001, ANN202
    signals, indices, matrix = saved
    to_matrix = add_rows(cotangent, indices, signals, matrix.shape[0])
    to_signals = _combine(cotangent, indices, matrix).astype(signals.dtype)
    return to_signals, None, to_matrix.astype(matrix.dtype)


_combine_rows.defvjp(_combine_forward, _combine_backward)
_dot_rows.defvjp(_dot_forward, _dot_backward)
