"""Codes as parameters: sparse coding trained like an autoencoder."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.types import Array, Encoder, Key

__all__ = ["FreeCodesParams", "free_codes"]


class FreeCodesParams(NamedTuple):
    """Log-codes (S, N): one code for each training signal, in order."""

    log_codes: Array


@cached
def free_codes(num_samples: int, num_atoms: int, *, log_codes0: float = -10.0) -> Encoder:
    r"""Build the trivial encoder whose parameters are the codes themselves.

    .. math:: z_i = e^{s_i}

    With :func:`sparsecode_jax.training.fit` and a learned dictionary this is the paper's sparse
    coding: codes and dictionary optimized jointly. It works for the training signals alone (all
    of them, in order); encode others with a solver.

    Args:
      num_samples: S, training signals. **Static**.
      num_atoms: N. **Static**.
      log_codes0: where every log-code starts. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`FreeCodesParams`.

    **Cost**: N exponentials per signal.
    """
    _checks.count("free_codes", "num_samples", num_samples)
    _checks.count("free_codes", "num_atoms", num_atoms)

    log_codes0 = _checks.static("free_codes", "log_codes0", log_codes0)
    init = Bound(_init, num_samples, num_atoms, log_codes0)
    return Encoder(init, _apply, num_signals=num_samples)


def _init(num_samples: int, num_atoms: int, log_codes0: float, key: Key) -> FreeCodesParams:
    del key  # deterministic
    return FreeCodesParams(jnp.full((num_samples, num_atoms), log_codes0, jnp.float32))


def _apply(params: FreeCodesParams, signals: Array) -> Array:
    expected = params.log_codes.shape[:1]
    signals = jnp.asarray(*_checks.real("free_codes", signals))
    if signals.shape[:-1] != expected:
        raise ValueError(
            f"free_codes: {signals.shape[:-1]} signals but codes for {expected}; it encodes "
            "exactly its training signals. Train without batch_size; encode others with a solver."
        )
    return jnp.exp(params.log_codes)
