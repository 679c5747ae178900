"""The encoder of a gated sparse autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.encoders.linear import LinearParams, linear_init
from sparsecode_jax.types import Array, Aux, Encoder, Key, Role

__all__ = ["GatedParams", "gated"]


class GatedParams(NamedTuple):
    """Weight (N, M); gate and magnitude biases (N,); logarithm of the magnitude's scale (N,)."""

    weight: Array
    gate_bias: Array
    magnitude_bias: Array
    log_magnitude: Array


@cached
def gated(num_measurements: int, num_atoms: int) -> Encoder:
    r"""Build a linear map whose gates say which latents are active and whose magnitudes how much.

    .. math:: z = H(g + b_g) \cdot \max(e^r g + b_m, 0), \qquad g = x W^\top

    The gates have no gradient through the codes; train with
    :func:`~sparsecode_jax.training.losses.gated`, whose penalty does not shrink the magnitudes.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`GatedParams`; its ``aux`` has the
      rectified gate latents.

    **Cost**: 2MN + 4N arithmetic operations per signal, and N exponentials.

    References:
      Rajamanoharan et al., 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
      Eq. (6)-(8).
    """
    draw = linear_init("gated", num_measurements, num_atoms, True)

    roles = GatedParams(Role.WEIGHT, Role.BIAS, Role.BIAS, Role.SCALE)  # type: ignore[arg-type]
    return Encoder(Bound(_init, draw), _apply, _aux, roles=roles)


def _init(draw: Callable[[Key], LinearParams], key: Key) -> GatedParams:
    weight, bias = draw(key)
    assert bias is not None
    return GatedParams(weight, bias, bias, jnp.zeros_like(bias))


def _aux(params: GatedParams, signals: Array) -> tuple[Array, Aux]:
    signals = _checks.takes("gated", params, signals, params.weight.shape[-1])
    shared = signals @ params.weight.T
    gate = shared + as_row(params.gate_bias, shared)
    scale = as_row(jnp.exp(params.log_magnitude), shared)
    magnitude = jax.nn.relu(shared * scale + as_row(params.magnitude_bias, shared))
    codes = jnp.where(gate <= 0, 0, magnitude)  # of a NaN a NaN
    return codes, Aux(latents=gate, gate_latents=jax.nn.relu(gate))


def _apply(params: GatedParams, signals: Array) -> Array:
    return _aux(params, signals)[0]
