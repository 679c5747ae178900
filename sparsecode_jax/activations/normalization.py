"""Center and scale of activations, and autoencoders that have them folded in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax.io.saes import Sae, of_tensors, with_its_tensors
from sparsecode_jax.types import ArrayLike

__all__ = ["Normalization", "fold", "normalization"]

_IDENTITY = "none", "expected_average_only_in", "covariance_whitening"
_ROUNDS = 100  # of Weiszfeld's iteration, which ends before if nothing moves
_MOVED = 1e-7


class Normalization(NamedTuple):
    """What is subtracted from signals, and what they are then divided by.

    Attributes:
      center: (M,).
      scale: a number.
    """

    center: np.ndarray
    scale: float

    def apply(self, signals: ArrayLike) -> ArrayLike:
        """Return (signals - center) / scale of NumPy or JAX arrays, in float32 at least."""
        return (signals - self.center) / np.float32(self.scale)


def normalization(signals: ArrayLike, *, center: str | None = "mean") -> Normalization:
    """Find the center of signals, and the scale at which a measurement has unit mean square.

    Args:
      signals: (S, M), such as ``store.rows(select(store).rows)``, or a sample of them.
      center: "mean"; "geometric_median", from which the summed distance is the least and which few
        large signals hardly move; None for 0.

    Raises:
      ValueError: signals that are not finite, not (S, M), or all at the center.

    **Cost**: for the geometric median some tens of passes (Weiszfeld's iteration).
    """
    name = "normalization"
    (rows,) = _checks.real(name, signals)
    _checks.samples(name, "signals", rows)
    _checks.finite(name, signals=rows)
    rows = np.asarray(rows, np.float32)
    if center not in (None, "mean", "geometric_median"):
        raise ValueError(
            f"{name}: center is {center!r}; 'mean', 'geometric_median' or None is expected."
        )
    found = np.zeros(rows.shape[1])
    if center is not None:
        found = rows.mean(axis=0, dtype=np.float64)
    if center == "geometric_median":
        found = _geometric_median(rows, found)
    scale = float(np.sqrt(np.mean(np.square(rows - found.astype(np.float32), dtype=np.float64))))
    if not scale > 0:
        raise ValueError(
            f"{name}: all {len(rows)} signals are at their center; signals that differ are "
            "expected."
        )
    return Normalization(found.astype(np.float32), scale)


def _geometric_median(rows: np.ndarray, start: np.ndarray) -> np.ndarray:
    found = start
    for _ in range(_ROUNDS):
        distances = np.linalg.norm(rows - found.astype(np.float32), axis=1).astype(np.float64)
        least = np.finfo(np.float32).tiny ** 0.5
        weights = 1 / np.maximum(distances, least)
        moved = (weights @ rows) / weights.sum()
        if np.linalg.norm(moved - found) <= _MOVED * max(np.linalg.norm(moved), least):
            return moved
        found = moved
    return found


def fold(sae: Sae, how: Normalization) -> Sae:
    """Make an autoencoder of normalized signals one of the signals as they are.

    Its codes are those of before times the scale, its atoms the same: encoders that are linear
    before they threshold let a scale through.

    Args:
      sae: trained on ``how.apply(signals)``, from :func:`~sparsecode_jax.io.as_sae`.
      how: the normalization.

    Returns:
      An autoencoder that :func:`~sparsecode_jax.io.save_sae` writes for SAELens.

    Raises:
      TypeError: no Sae, or no Normalization.
      ValueError: an autoencoder that normalizes signals itself, a transcoder, or another width.

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> signals = 5 + 3 * jax.random.normal(jax.random.key(0), (100, 8))
      >>> how = sc.activations.normalization(signals)
      >>> encoder = sc.encoders.top_k(8, 16, num_active=3)
      >>> params = encoder.init(jax.random.key(1))
      >>> sae = sc.io.as_sae(encoder, params, sc.dictionaries.normalize(params.weight))
      >>> folded = sc.activations.fold(sae, how)
      >>> expected = how.scale * sae.forward(how.apply(signals)) + how.center
      >>> bool(jnp.allclose(folded.forward(signals), expected, atol=1e-4))
      True
    """
    name = "fold"
    if not isinstance(sae, Sae):
        raise TypeError(f"{name}: the autoencoder is a {type(sae).__name__}; a Sae is expected.")
    if not isinstance(how, Normalization):
        raise TypeError(
            f"{name}: the normalization is a {type(how).__name__}; a Normalization is expected, "
            "which normalization(signals) returns."
        )
    config, tensors = with_its_tensors(name, sae)
    architecture, own = config["architecture"], config["normalize_activations"]
    other = architecture.endswith("transcoder") or "transcode" in config or "W_skip" in tensors
    if own not in _IDENTITY or other:
        raise ValueError(
            f"{name}: the autoencoder is a {architecture} with normalize_activations {own!r}; one "
            "that takes signals as they are and reconstructs them is expected."
        )
    if how.center.shape != (config["d_in"],):
        raise ValueError(
            f"{name}: the center has shape {how.center.shape}; ({config['d_in']},) is expected, "
            "the width of the autoencoder."
        )
    wide = {label: np.asarray(value, np.float64) for label, value in tensors.items()}
    center, scale = np.asarray(how.center, np.float64), float(how.scale)
    centered = config["apply_b_dec_to_input"]
    moved = 0.0 if centered or "W_enc" not in wide else center @ wide["W_enc"]
    if architecture == "matching_pursuit":
        if not centered:
            raise ValueError(
                f"{name}: a matching pursuit without a decoder bias has no place for a center; "
                "apply_b_dec_to_input is expected."
            )
        config = {**config, "residual_threshold": scale * config["residual_threshold"]}
    changed = {"b_dec": scale * wide["b_dec"] + center}
    if "threshold" in wide:
        changed["threshold"] = scale * wide["threshold"]
    for label in ("b_enc", "b_gate"):
        if label in wide:
            changed[label] = scale * wide[label] - moved
    if "b_mag" in wide:
        changed["b_mag"] = scale * wide["b_mag"] - np.exp(wide["r_mag"]) * moved
    arrays = {label: changed[label].astype(value.dtype) if label in changed else value
              for label, value in tensors.items()}  # fmt: skip
    return of_tensors(config, arrays)
