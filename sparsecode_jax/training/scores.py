"""What to record in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from sparsecode_jax import _checks, metrics
from sparsecode_jax.training.step import Autoencoder
from sparsecode_jax.types import Array, ArrayLike, Encoder

__all__ = ["scores"]


def scores(
    encoder: Encoder,
    signals: ArrayLike,
    *,
    true_codes: ArrayLike | None = None,
    true_dictionary: ArrayLike | None = None,
) -> Callable[[Autoencoder], dict[str, Array]]:
    """Build a ``record`` for :func:`~sparsecode_jax.training.fit`: the metrics of an autoencoder.

    Keep the function it returns: each call makes a new program.

    Args:
      encoder: the one that is trained. **Static**.
      signals: (S, M), best held out from training. **Traced**.
      true_codes: (S, N), where they are known. **Traced**.
      true_dictionary: (N, M), where it is known. **Traced**.

    Returns:
      ``(Autoencoder) -> dict`` of scalars: ``r2``, ``mse``, ``l0`` (active codes per signal),
      ``dead`` (the fraction of latents never active on these signals), and with the truth ``mcc``
      and ``dictionary_mcc``.

    Raises:
      ValueError: shapes that disagree, non-finite numbers.
    """
    _checks.encoder("scores", encoder)
    (signals,) = _checks.floating("scores", signals)
    _checks.samples("scores", "signals", signals, minimum=2)
    if signals.ndim != 2:
        raise ValueError(f"scores: signals have shape {signals.shape}; (S, M) is expected.")
    _checks.finite("scores", signals=signals)

    if true_codes is not None:
        (true_codes,) = _checks.floating("scores", true_codes)
        _checks.samples("scores", "true codes", true_codes, minimum=2)
        if true_codes.ndim != 2 or len(true_codes) != len(signals):
            raise ValueError(
                f"scores: true_codes have shape {true_codes.shape} and signals {signals.shape}; "
                "(S, N) of the same S signals are expected."
            )
        _checks.finite("scores", true_codes=true_codes)

    if true_dictionary is not None:
        (true_dictionary,) = _checks.floating("scores", true_dictionary)
        _checks.matrix("scores", "true dictionary", true_dictionary)
        _checks.same_measurements("scores", signals, true_dictionary)
        _checks.finite("scores", true_dictionary=true_dictionary)

    def record(params: Autoencoder) -> dict[str, Any]:
        codes = encoder.apply(params.encoder, signals)
        found = {"l0": jnp.mean(metrics.l0(codes)), "dead": metrics.dead_fraction(codes)}
        if params.dictionary is not None:
            reconstruction = codes @ params.dictionary
            if params.bias is not None:
                reconstruction = reconstruction + params.bias
            found["r2"] = metrics.r2(signals, reconstruction)
            found["mse"] = metrics.mse(signals, reconstruction)
        if true_codes is not None:
            found["mcc"] = metrics.mcc(true_codes, codes)
        if true_dictionary is not None and params.dictionary is not None:
            found["dictionary_mcc"] = metrics.dictionary_mcc(true_dictionary, params.dictionary)
        return found

    return record
