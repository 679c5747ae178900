"""Which codes are needed: what each atom would be given if it were the only one left out."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sparsecode_jax import _checks
from sparsecode_jax._sharding import Layout, by_signal, on_automatic_axes, over_devices
from sparsecode_jax._sparse import SparseCodes, combine_rows, dot_rows
from sparsecode_jax.dictionaries import Prepared, correlate, reconstruct
from sparsecode_jax.solvers._spread import spread
from sparsecode_jax.solvers.refit import check_codes
from sparsecode_jax.types import Array, ArrayLike, Lasso

__all__ = ["leave_one_out"]


@on_automatic_axes
def leave_one_out(
    codes: ArrayLike | SparseCodes,
    signals: ArrayLike,
    dictionary: ArrayLike | Prepared,
    *,
    threshold: ArrayLike,
) -> Any:
    r"""Drop the codes whose atoms explain little that the others leave.

    .. math:: z_i \ne 0 \text{ stays if }
       \operatorname{sign}(z_i)\, \langle x - \sum_{j \ne i} z_j d_j,\, d_i \rangle > \tau

    After an encoder or a solver it removes codes that stand for what another atom explains; those
    that stay have the values that they had, and :func:`refit` fits them anew.

    Args:
      codes: z, (..., N), or :class:`~sparsecode_jax.SparseCodes` of them. **Traced**.
      signals: x, (..., M), less the bias if there is one. **Traced**.
      dictionary: (N, M). **Traced**.
      threshold: tau, one number for all or (N,), in units of codes where atoms have unit norm:
        choose it on samples that are not those that you report. **Traced**.

    Returns:
      Codes as they were given, some of them 0.

    Raises:
      ValueError: shapes that disagree, non-finite numbers, a zero atom or no signal.

    **Cost**: 4MN + 4N + M arithmetic operations per signal, or 4MK + 3K + M for ``SparseCodes`` of
    K slots, and 2MN - N once.

    Example:
      >>> import jax.numpy as jnp, sparsecode_jax as sc
      >>> codes = jnp.array([[2.0, 0.1]])
      >>> sc.solvers.leave_one_out(codes, jnp.array([[2.0, 0.1]]), jnp.eye(2), threshold=0.5)
      Array([[2., 0.]], dtype=float32)
    """
    name = "leave_one_out"
    codes, signals, dictionary, _ = check_codes(name, codes, signals, dictionary)
    threshold = jnp.asarray(*_checks.real(name, threshold)).astype(signals.dtype)
    if threshold.shape not in ((), dictionary.shape[:1]):
        raise ValueError(
            f"{name}: the threshold has shape {threshold.shape}; one number, or one for each of "
            f"the {dictionary.shape[0]} atoms is expected."
        )
    _checks.finite(name, threshold=threshold)
    zero = jnp.zeros((), signals.dtype)
    codes, layout = spread(name, None, Lasso(signals, dictionary, zero, zero), codes)
    return _leave_one_out(codes, signals, dictionary, threshold, layout)


@functools.partial(jax.jit, static_argnames="layout")
def _leave_one_out(
    codes: Any, signals: Array, dictionary: Array, threshold: Array, layout: Layout | None
) -> Any:
    rows, whole = by_signal(layout), PartitionSpec()
    return over_devices(_needed, layout, (rows, rows, whole, whole), rows)(
        codes, signals, dictionary, threshold
    )


def _needed(codes: Any, signals: Array, dictionary: Array, threshold: Array) -> Any:
    squares = jnp.sum(dictionary * dictionary, axis=-1)
    if isinstance(codes, SparseCodes):
        residual = signals - combine_rows(codes.values, codes.indices, dictionary)
        explained = dot_rows(residual, codes.indices, dictionary)
        squares, values = squares[codes.indices], codes.values
        threshold = threshold[codes.indices] if threshold.ndim else threshold
    else:
        explained = correlate(signals - reconstruct(codes, dictionary), dictionary)
        values = codes
        squares, threshold = (
            jnp.expand_dims(x, range(codes.ndim - x.ndim)) for x in (squares, threshold)
        )
    gain = jnp.sign(values) * explained + jnp.abs(values) * squares
    kept = jnp.where(gain > threshold, values, 0)
    kept = jnp.where(jnp.isnan(gain + threshold), jnp.nan, kept)
    if isinstance(codes, SparseCodes):
        return SparseCodes(kept, codes.indices, codes.num_atoms)
    return kept
