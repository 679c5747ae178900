"""The encoder of a TopK sparse autoencoder."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax.encoders._select import scatter, take, threshold_to
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init, rescale_bias
from sparsecode_jax.types import Array, Aux, Encoder, Key

__all__ = ["VariableTopKParams", "top_k", "variable_top_k"]


@functools.lru_cache(maxsize=None, typed=True)
def top_k(
    num_measurements: int, num_atoms: int, *, num_active: int, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps each signal's K largest latents, if they are positive.

    .. math:: z = \max(\mathrm{TopK}(x W^\top + b), 0)

    Training decodes K atoms a signal, and its gradients touch K rows of W and of the dictionary.
    Differentiable in reverse mode only.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**; :func:`variable_top_k` takes it traced.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`.

    **Cost**: 2MN + N + K arithmetic operations a signal, 2MN + K without bias, and the selection.

    References:
      Makhzani and Frey, 2013; Gao et al., 2024, Eq. (3).
    """
    init = linear_init("top_k", num_measurements, num_atoms, use_bias)
    _checks.static_active("top_k", num_active, num_atoms)

    def aux(params: LinearParams, signals: Array) -> tuple[Array, Aux]:
        latents = affine(params, signals)
        _, indices = jax.lax.top_k(jax.lax.stop_gradient(latents), num_active)
        values = jax.nn.relu(take(params, signals, jax.lax.stop_gradient(latents), indices))
        return scatter(values, indices, num_atoms), Aux(latents=latents, active=(values, indices))

    def apply(params: LinearParams, signals: Array) -> Array:
        return aux(params, signals)[0]

    return Encoder(init, apply, aux, rescale=rescale_bias)


class VariableTopKParams(NamedTuple):
    """Weight (N, M), bias (N,) or None, and the number of codes to keep, (), which is not trained.

    The number is held as a float, so that every parameter can be differentiated; its gradient is 0.
    """

    weight: Array
    bias: Array | None
    num_active: Array


@functools.lru_cache(maxsize=None, typed=True)
def variable_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int = 1, use_bias: bool = True
) -> Encoder:
    """Build :func:`top_k` with K among its parameters, so that one program sweeps K.

    vmap over parameters with different ``num_active``. The threshold is found by bisection on the
    latents' bits: exact, without a sort, and of the same cost for every K; a static K is faster.
    Latents that tie for the last place are all kept.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: the K that ``init`` puts into the parameters. **Static**; in them **Traced**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`VariableTopKParams`.

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> encoder = sc.encoders.variable_top_k(8, 16)
      >>> params = encoder.init(jax.random.key(0))
      >>> count = lambda k: (encoder.apply(params._replace(num_active=k), jnp.ones(8)) != 0).sum()
      >>> [int(n) for n in jax.vmap(count)(jnp.arange(1.0, 4.0))]
      [1, 2, 3]
    """
    draw = linear_init("variable_top_k", num_measurements, num_atoms, use_bias)
    _checks.static_active("variable_top_k", num_active, num_atoms)

    def init(key: Key) -> VariableTopKParams:
        params = draw(key)
        count = jnp.asarray(num_active, params.weight.dtype)
        return VariableTopKParams(params.weight, params.bias, count)

    return Encoder(init, _apply, _aux, rescale=rescale_bias)


def _aux(params: VariableTopKParams, signals: Array) -> tuple[Array, Aux]:
    latents = affine(params, signals)  # type: ignore[arg-type]
    positive = jax.nn.relu(latents)
    kept = threshold_to(positive, jnp.round(jax.lax.stop_gradient(params.num_active)))
    return positive * kept, Aux(latents=latents)


def _apply(params: VariableTopKParams, signals: Array) -> Array:
    return _aux(params, signals)[0]
