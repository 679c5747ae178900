"""The encoder of a ReLU sparse autoencoder."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.types import Array, Aux, Encoder, Key, Role

__all__ = ["LinearParams", "linear"]


class LinearParams(NamedTuple):
    """Weight (N, M), one latent per row like a dictionary; bias (N,) or None."""

    weight: Array
    bias: Array | None


@cached
def linear(num_measurements: int, num_atoms: int, *, use_bias: bool = True) -> Encoder:
    r"""Build a linear map followed by a ReLU: the encoder of a standard sparse autoencoder.

    .. math:: z = \max(x W^\top + b, 0)

    :func:`tied` makes W the dictionary, :func:`centered` subtracts a learned bias first.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`LinearParams`, drawn uniformly in
      +-1/sqrt(M).

    **Cost**: 2MN + 2N arithmetic operations per signal, 2MN + N without bias.
    """
    init = linear_init("linear", num_measurements, num_atoms, use_bias)
    return Encoder(init, _apply, _aux, roles=linear_roles(use_bias), activation=_activation)


def linear_init(
    name: str, num_measurements: int, num_atoms: int, use_bias: bool
) -> Callable[[Key], LinearParams]:
    """Check the sizes and return ``(key) -> LinearParams``."""
    _checks.count(name, "num_measurements", num_measurements)
    _checks.count(name, "num_atoms", num_atoms)
    _checks.flag(name, "use_bias", use_bias)
    return Bound(_init, num_measurements, num_atoms, use_bias)


def linear_roles(use_bias: bool) -> Any:
    """Return what the parameters are to training."""
    return LinearParams(Role.WEIGHT, Role.BIAS if use_bias else None)  # type: ignore[arg-type]


def _init(num_measurements: int, num_atoms: int, use_bias: bool, key: Key) -> LinearParams:
    return LinearParams(*uniform_layer(key, num_measurements, num_atoms, use_bias))


def affine(name: str, params: Any, signals: Array) -> Array:
    """Return the latents before the non-linearity, (..., N), of params with a weight and a bias."""
    signals = _checks.takes(name, params, signals, params.weight.shape[-1])
    latents = signals @ params.weight.T
    return latents if params.bias is None else latents + as_row(params.bias, latents)


def _apply(params: LinearParams, signals: Array) -> Array:
    return jax.nn.relu(affine("linear", params, signals))


def _aux(params: LinearParams, signals: Array) -> tuple[Array, Aux]:
    return _activation(params, affine("linear", params, signals))


def _activation(params: LinearParams, latents: Array) -> tuple[Array, Aux]:
    return jax.nn.relu(latents), Aux(latents=latents)


@functools.partial(jax.jit, static_argnames=("fan_in", "fan_out", "use_bias"), inline=True)
def uniform_layer(
    key: Key, fan_in: int, fan_out: int, use_bias: bool
) -> tuple[Array, Array | None]:
    """Draw a weight (fan_out, fan_in) and a bias in U(+-1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.uniform(weight_key, (fan_out, fan_in), minval=-bound, maxval=bound)
    if not use_bias:
        return weight, None
    return weight, jax.random.uniform(bias_key, (fan_out,), minval=-bound, maxval=bound)
