"""The encoder of a JumpReLU sparse autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init, linear_roles
from sparsecode_jax.types import Array, Aux, Encoder, Key, Role

__all__ = ["JumpReluParams", "jump_relu"]


class JumpReluParams(NamedTuple):
    """Weight (N, M), bias (N,) or None, and the logarithm of each latent's threshold, (N,)."""

    weight: Array
    bias: Array | None
    log_threshold: Array


@cached
def jump_relu(
    num_measurements: int,
    num_atoms: int,
    *,
    use_bias: bool = True,
    threshold0: float = 1e-3,
    bandwidth: float = 1e-3,
) -> Encoder:
    r"""Build a linear map that drops latents below a learned threshold of their own.

    .. math:: z = u \cdot H(u - \theta), \qquad u = x W^\top + b

    The gradient with respect to the thresholds is the straight-through estimate: latents within
    half a bandwidth of their threshold stand for those that cross it. Train it with
    :func:`~sparsecode_jax.training.losses.l0`; ``threshold0`` and ``bandwidth`` are in the units of
    the latents, and their defaults are for signals of about unit entries.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      use_bias: whether there is a b. **Static**.
      threshold0: where every threshold starts. **Static**.
      bandwidth: of the estimate. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`JumpReluParams`; its ``aux`` has the
      gates H, whose sum is a signal's number of active latents.

    References:
      Rajamanoharan et al., 2024, "Jumping Ahead", Eq. (4), (9), (11), (12).
    """
    draw = linear_init("jump_relu", num_measurements, num_atoms, use_bias)
    threshold0 = _checks.static("jump_relu", "threshold0", threshold0)
    bandwidth = _checks.static("jump_relu", "bandwidth", bandwidth)
    _checks.positive("jump_relu", threshold0=threshold0, bandwidth=bandwidth)

    init = Bound(_init, draw, threshold0)
    apply, aux = Bound(_apply, bandwidth), Bound(_aux, bandwidth)
    activation = Bound(_activation, bandwidth)
    roles = JumpReluParams(*linear_roles(use_bias), Role.SCALE)  # type: ignore[call-arg]
    return Encoder(init, apply, aux, roles=roles, activation=activation)


def _init(draw: Callable[[Key], LinearParams], threshold0: float, key: Key) -> JumpReluParams:
    params = draw(key)
    shape, dtype = params.weight.shape[:1], params.weight.dtype
    return JumpReluParams(params.weight, params.bias, jnp.full(shape, math.log(threshold0), dtype))


def _aux(bandwidth: float, params: JumpReluParams, signals: Array) -> tuple[Array, Aux]:
    return _activation(bandwidth, params, affine("jump_relu", params, signals))


def _activation(bandwidth: float, params: JumpReluParams, latents: Array) -> tuple[Array, Aux]:
    threshold = as_row(jnp.exp(params.log_threshold), latents)
    fixed = jax.lax.stop_gradient(threshold)
    crossed = latents > fixed
    near = (jnp.abs(latents - fixed) < bandwidth / 2).astype(latents.dtype) / bandwidth
    moved = jax.lax.stop_gradient(near) * (threshold - fixed)  # 0, with a gradient
    codes = jnp.where(latents <= fixed, 0, latents) - fixed * moved  # of a NaN a NaN
    return codes, Aux(latents=latents, gates=crossed.astype(latents.dtype) - moved)


def _apply(bandwidth: float, params: JumpReluParams, signals: Array) -> Array:
    return _aux(bandwidth, params, signals)[0]
