"""TopK by magnitude: signed codes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound
from sparsecode_jax.encoders._select import largest, scatter, take
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init
from sparsecode_jax.types import Array, Aux, Encoder

__all__ = ["abs_top_k"]


@functools.lru_cache(maxsize=None, typed=True)
def abs_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps each signal's K latents of largest magnitude, signs included.

    .. math:: z = \mathrm{AbsTopK}(x W^\top + b)

    One latent can stand for two opposite directions.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`.

    **Cost**: 2MN + N arithmetic operations a signal, 2MN without bias, and the selection.

    References:
      Zhu et al., 2025, "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features".
    """
    init = linear_init("abs_top_k", num_measurements, num_atoms, use_bias)
    _checks.static_active("abs_top_k", num_active, num_atoms)

    apply, aux = Bound(_apply, num_active), Bound(_aux, num_active)
    return Encoder(init, apply, aux)


def _aux(num_active: int, params: LinearParams, signals: Array) -> tuple[Array, Aux]:
    latents = affine("abs_top_k", params, signals)
    indices = largest(jnp.abs(jax.lax.stop_gradient(latents)), num_active)
    values = take(params, signals, jax.lax.stop_gradient(latents), indices)
    codes = scatter(values, indices, latents.shape[-1])
    return codes, Aux(latents=latents, active=(values, indices))


def _apply(num_active: int, params: LinearParams, signals: Array) -> Array:
    return _aux(num_active, params, signals)[0]
