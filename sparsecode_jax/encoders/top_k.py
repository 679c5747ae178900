"""The encoder of a TopK sparse autoencoder."""

from __future__ import annotations

import functools

import jax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound
from sparsecode_jax.encoders._select import largest, scatter, take
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init
from sparsecode_jax.types import Array, Aux, Encoder

__all__ = ["top_k"]


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

    apply, aux = Bound(_apply, num_active), Bound(_aux, num_active)
    return Encoder(init, apply, aux)


def _aux(num_active: int, params: LinearParams, signals: Array) -> tuple[Array, Aux]:
    latents = affine("top_k", params, signals)
    indices = largest(jax.lax.stop_gradient(latents), num_active)
    values = jax.nn.relu(take(params, signals, jax.lax.stop_gradient(latents), indices))
    codes = scatter(values, indices, latents.shape[-1])
    return codes, Aux(latents=latents, active=(values, indices))


def _apply(num_active: int, params: LinearParams, signals: Array) -> Array:
    return _aux(num_active, params, signals)[0]
