"""Metrics of samples: errors of reconstructions, norms, and how many latents are active."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._scaling import unit_of
from sparsecode_jax._sharding import automatic
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.types import Array, ArrayLike

__all__ = [
    "Codes",
    "dead_fraction",
    "l0",
    "mse",
    "nearest_neighbor_cosine",
    "norm_ratios",
    "r2",
    "same_shape",
    "shrinkage",
]

Codes = ArrayLike | SparseCodes


@automatic
def mse(signals: ArrayLike, reconstruction: ArrayLike) -> Array:
    """Return the squared error averaged over samples and measurements.

    Args:
      signals: (..., S, M). **Traced**.
      reconstruction: the same shape. **Traced**.

    Returns:
      (...,).
    """
    return _mse(*same_shape("mse", signals, reconstruction))


@automatic
def r2(signals: ArrayLike, reconstruction: ArrayLike) -> Array:
    """Return the explained variance: 1 - (squared error) / (squared deviation from the mean).

    Both sums run over all samples and measurements, so the value does not depend on how samples
    are batched or on the signals' scale, and predicting the mean signal scores 0.

    Args:
      signals: (..., S, M) with S >= 2. **Traced**.
      reconstruction: the same shape. **Traced**.

    Returns:
      (...,), at most 1.
    """
    signals, reconstruction = same_shape("r2", signals, reconstruction)
    _checks.samples("r2", "signals", signals, minimum=2)
    return _r2(signals, reconstruction)


@automatic
def shrinkage(signals: ArrayLike, reconstruction: ArrayLike) -> Array:
    """Return the norm of reconstructions over that of their signals, averaged over samples.

    Below 1 the reconstructions are too small, as those of a lasso are. Signals that are 0 are left
    out, and no scale changes the value. (SAELens leaves out norms up to 1e-6.)

    Args:
      signals: (..., S, M). **Traced**.
      reconstruction: the same shape. **Traced**.

    Returns:
      (...,), at least 0; NaN if all signals are 0.
    """
    return _shrinkage(*same_shape("shrinkage", signals, reconstruction))


@automatic
def l0(codes: Codes, *, threshold: ArrayLike = 0.0) -> Array:
    """Return the mean number of latents per sample with ``|code| > threshold``.

    Args:
      codes: (..., S, N). **Traced**.
      threshold: >= 0; codes of unconverged or exponential parametrizations are never exactly 0.
        **Traced**.

    Returns:
      (...,), from 0 to N; NaN if a code or the threshold is.
    """
    return _l0(*_counted("l0", codes, threshold))


@automatic
def dead_fraction(codes: Codes, *, threshold: ArrayLike = 0.0) -> Array:
    """Return the fraction of latents that no sample activates.

    Args:
      codes: (..., S, N). **Traced**.
      threshold: a latent is active where ``|code| > threshold``. **Traced**.

    Returns:
      (...,), from 0 to 1; NaN if a code or the threshold is.
    """
    values, threshold = _counted("dead_fraction", codes, threshold)
    return _dead_fraction(values, threshold, codes if isinstance(codes, SparseCodes) else None)


@automatic
def nearest_neighbor_cosine(dictionary: ArrayLike) -> Array:
    """Return each atom's largest cosine with another atom, averaged over atoms.

    Args:
      dictionary: (N, M), N >= 2. **Traced**.

    Returns:
      A scalar, from -1 to 1; 1 means that every atom has a duplicate.
    """
    (dictionary,) = _checks.floating("nearest_neighbor_cosine", dictionary)
    _checks.matrix("nearest_neighbor_cosine", "dictionary", dictionary, minimum=2)
    return _nearest_neighbor_cosine(dictionaries.normalize(dictionary))


# Eagerly each of these is one program and not ten; in another program nothing is left of the jit.
_program = functools.partial(jax.jit, inline=True)


@_program
def _mse(signals: Array, reconstruction: Array) -> Array:
    difference = signals - reconstruction
    unit, inverse = unit_of(difference, axis=(-2, -1))
    mean = jnp.mean((difference * inverse) ** 2, axis=(-2, -1), keepdims=True)
    return (mean * unit * unit)[..., 0, 0]


@_program
def _r2(signals: Array, reconstruction: Array) -> Array:
    _, inverse = unit_of(signals, axis=(-2, -1))
    signals, reconstruction = signals * inverse, reconstruction * inverse
    residual = jnp.sum((signals - reconstruction) ** 2, axis=(-2, -1))
    deviation = signals - jnp.mean(signals, axis=-2, keepdims=True)
    return 1 - residual / jnp.sum(deviation**2, axis=(-2, -1))


@_program
def _shrinkage(signals: Array, reconstruction: Array) -> Array:
    ratios, defined = norm_ratios(signals, reconstruction)
    total = jnp.sum(jnp.where(defined, ratios, 0), axis=-1)
    return total / jnp.sum(defined, axis=-1, dtype=total.dtype)


@_program
def _l0(values: Array, threshold: Array) -> Array:
    active = jnp.abs(values) > threshold
    mean = jnp.mean(jnp.sum(active, axis=-1, dtype=jnp.result_type(float)), axis=-1)
    return _known(mean, values, threshold)


@_program
def _dead_fraction(values: Array, threshold: Array, codes: SparseCodes | None) -> Array:
    active = jnp.abs(values) > threshold
    if codes is None:
        used = jnp.any(active, axis=-2)
    else:
        flat = (*codes.shape[:-2], -1)
        counts, places = active.astype(jnp.int32).reshape(flat), codes.indices.reshape(flat)
        used = SparseCodes(counts, places, codes.num_atoms).dense() > 0
    return _known(jnp.mean(~used, axis=-1, dtype=jnp.result_type(float)), values, threshold)


@_program
def _nearest_neighbor_cosine(atoms: Array) -> Array:
    cosines = dictionaries.correlate(atoms, atoms)
    others = jnp.where(jnp.eye(cosines.shape[0], dtype=bool), -jnp.inf, cosines)
    return jnp.mean(jnp.max(others, axis=-1))


def norm_ratios(signals: Array, reconstruction: Array) -> tuple[Array, Array]:
    """Return norms of (..., M) over those of signals, and where these are not 0: both (...,)."""
    precise = jnp.promote_types(signals.dtype, jnp.float32)
    signals, reconstruction = signals.astype(precise), reconstruction.astype(precise)
    unit, inverse = unit_of(signals)
    other_unit, other_inverse = unit_of(reconstruction)
    norm = jnp.linalg.norm(signals * inverse, axis=-1)
    other = jnp.linalg.norm(reconstruction * other_inverse, axis=-1)
    defined = norm != 0
    ratio = other / jnp.where(defined, norm, 1) * (inverse * other_unit)[..., 0]
    return ratio, defined


def _counted(name: str, codes: Codes, threshold: ArrayLike) -> tuple[Array, Array]:
    """Return the codes, or the values of sparse ones, and a threshold that they are counted by."""
    values = codes.checked()[0] if isinstance(codes, SparseCodes) else codes
    values, threshold = _checks.floating(name, values, threshold)
    _checks.samples(name, "codes", codes if isinstance(codes, SparseCodes) else values)
    _checks.scalar(name, "threshold", threshold)
    return values, threshold


def _known(value: Array, codes: Array, threshold: Array) -> Array:
    """Return a value (...,) of codes (..., S, N), NaN where comparisons met a NaN."""
    lost = jnp.any(jnp.isnan(codes) | jnp.isnan(threshold), axis=(-2, -1))
    return jnp.where(lost, jnp.nan, value)


def same_shape(name: str, signals: ArrayLike, reconstruction: ArrayLike) -> tuple[Array, Array]:
    signals, reconstruction = _checks.floating(name, signals, reconstruction)
    if signals.shape != reconstruction.shape or signals.ndim < 2 or signals.size == 0:
        raise ValueError(
            f"{name}: signals {signals.shape} and reconstruction {reconstruction.shape}; two "
            "arrays of one shape (..., S, M), not empty, are expected."
        )
    return signals, reconstruction
