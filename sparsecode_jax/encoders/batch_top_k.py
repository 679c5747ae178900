"""The encoder of a BatchTopK sparse autoencoder, and its form for inference."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound
from sparsecode_jax._rows import as_row
from sparsecode_jax.encoders._select import is_kept, kth_largest
from sparsecode_jax.encoders.jump_relu import JumpReluParams
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init
from sparsecode_jax.encoders.shared import CenteredParams
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder

__all__ = ["batch_top_k", "batch_top_k_threshold"]


@functools.lru_cache(maxsize=None, typed=True)
def batch_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps the B * K largest positive latents of a batch of B signals.

    .. math:: z = u \cdot 1[u \ge \tau], \qquad u = \max(x W^\top + b, 0)

    with :math:`\tau` the (BK)-th largest of all u: K codes a signal on average, more for some and
    fewer for others. All leading axes are one batch, so a signal's codes depend on the others
    (under shard_map, on those of its device). For inference turn the parameters into those of
    :func:`jump_relu` by :func:`batch_top_k_threshold`.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`.

    References:
      Bussmann, Leask, Nanda, 2024, "BatchTopK Sparse Autoencoders", Eq. (5)-(7).
    """
    init = linear_init("batch_top_k", num_measurements, num_atoms, use_bias)
    _checks.static_active("batch_top_k", num_active, num_atoms)

    apply, aux = Bound(_apply, num_active), Bound(_aux, num_active)
    return Encoder(init, apply, aux)


def _aux(num_active: int, params: LinearParams, signals: Array) -> tuple[Array, Aux]:
    latents = affine("batch_top_k", params, signals)
    positive = jax.nn.relu(latents)
    total = num_active * math.prod(signals.shape[:-1])
    kept = is_kept(positive, jnp.asarray(total), tuple(range(positive.ndim)))
    return jnp.where(kept, positive, 0), Aux(latents=latents)


def _apply(num_active: int, params: LinearParams, signals: Array) -> Array:
    return _aux(num_active, params, signals)[0]


def batch_top_k_threshold(
    params: Any, signals: ArrayLike, *, num_active: ArrayLike | None = None
) -> Any:
    """Turn the parameters of :func:`batch_top_k` into those of :func:`jump_relu`, for inference.

    The threshold, one for all latents, is midway between the last latent kept and the first one
    dropped over all the signals, so that they have ``num_active`` codes on average (fewer if fewer
    latents are positive), and codes of other signals do not depend on their batch.

    Args:
      params: trained; of ``variable_batch_top_k`` and ``centered(...)`` of either too. **Traced**.
      signals: (..., M), the more the better: of the training distribution. **Traced**.
      num_active: K, which need not be whole; None takes that of ``variable_batch_top_k``'s
        parameters. **Traced**.

    Returns:
      Parameters of ``jump_relu(M, N)`` that give the same codes on these signals; centered as the
      ones given.

    Raises:
      ValueError: shapes that disagree.
    """
    name = "batch_top_k_threshold"
    (signals,) = _checks.floating(name, signals)
    if isinstance(params, CenteredParams):
        inner = batch_top_k_threshold(
            params.encoder, signals - as_row(params.center, signals), num_active=num_active
        )
        return CenteredParams(params.center, inner)
    _checks.signals_shape(name, signals)
    _checks.same_measurements(name, signals, params.weight)
    if num_active is None:
        if not hasattr(params, "num_active"):
            raise ValueError(
                f"{name}: no num_active, and the parameters hold none; pass the K that they were "
                "trained with."
            )
        num_active = params.num_active
    _checks.mean_active(name, num_active, params.weight.shape[0])
    positive = jax.nn.relu(affine(name, params, signals)).ravel()
    rank = jnp.round(jnp.asarray(num_active) * math.prod(signals.shape[:-1])).astype(jnp.int32)
    last = kth_largest(positive, rank)[0]
    first = jnp.max(jnp.where(positive < last, positive, 0))
    threshold = jnp.maximum((last + first) / 2, jnp.finfo(positive.dtype).tiny)
    log_threshold = jnp.full(params.weight.shape[:1], jnp.log(threshold), positive.dtype)
    return JumpReluParams(params.weight, params.bias, log_threshold)
