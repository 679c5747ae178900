"""Equations with positive definite matrices, where several devices of a process are CPUs too."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax.types import Array

__all__ = ["solve_positive"]


def solve_positive(matrix: Array, right: Array, *, upper: bool = False) -> Array:
    """Return the solution (..., P, R) of equations with symmetric matrices (..., P, P).

    By Cholesky's factors, of LAPACK on CPU, but for a process with several CPU devices: there the
    kernels of jaxlib for batches (0.10.1; of the factor and of both triangles) wait for threads of
    the pool in which the programs of all devices run, and where each of them waits nothing ends.

    Args:
      matrix: of which one triangle is read.
      right: (..., P, R).
      upper: which triangle is read, and which factor is used.
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() > 1:
        return _by_columns(jnp.swapaxes(matrix, -1, -2) if upper else matrix, right)
    if upper:
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), right)
    factor = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    half = jax.lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(
        factor, half, left_side=True, lower=True, transpose_a=True
    )


def _by_columns(matrix: Array, right: Array) -> Array:
    """Factor, and substitute forth and back, a column at a time; NaN where a pivot is negative."""
    size = matrix.shape[-1]
    rows = jnp.arange(size)

    def entry(x: Array, j: Array) -> Array:
        return jnp.take(x, j, axis=-1)

    def eliminate(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, right = carry
        column = jnp.where(rows >= j, entry(matrix, j), 0)
        column = column / jnp.sqrt(entry(column, j))[..., None]
        below = jnp.where(rows > j, column, 0)
        row = jnp.take(right, j, axis=-2) / entry(column, j)[..., None]
        right = right - below[..., :, None] * row[..., None, :]
        right = jnp.where((rows == j)[:, None], row[..., None, :], right)
        matrix = matrix - below[..., :, None] * below[..., None, :]
        return jnp.where(rows == j, column[..., :, None], matrix), right

    factor, half = jax.lax.fori_loop(0, size, eliminate, (matrix, right))

    def substitute(i: Array, values: Array) -> Array:
        j = size - 1 - i
        line = jnp.take(factor, j, axis=-2)  # of the factor: what row j takes from those above it
        row = jnp.take(values, j, axis=-2) / entry(line, j)[..., None]
        above = jnp.where(rows < j, line, 0)
        values = values - above[..., :, None] * row[..., None, :]
        return jnp.where((rows == j)[:, None], row[..., None, :], values)

    return jax.lax.fori_loop(0, size, substitute, half)
