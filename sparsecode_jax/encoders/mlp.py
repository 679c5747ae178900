"""A multi-layer perceptron as encoder."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.encoders.linear import uniform_layer
from sparsecode_jax.types import Array, Encoder, Key

__all__ = ["MlpParams", "mlp"]


class MlpParams(NamedTuple):
    """Weights (h_out, h_in), first layer first; biases (h_out,) or all None."""

    weights: tuple[Array, ...]
    biases: tuple[Array | None, ...]


def mlp(
    num_measurements: int,
    num_atoms: int,
    *,
    hidden: tuple[int, ...] = (32,),
    use_bias: bool = True,
) -> Encoder:
    r"""Build a perceptron with a ReLU after every layer, the last included.

    .. math:: z = \max(W_L \cdots \max(W_1 x + b_1, 0) \cdots + b_L, 0)

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      hidden: widths of the hidden layers, a tuple; () is :func:`linear`. **Static**.
      use_bias: whether layers have biases. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`MlpParams`, each layer drawn uniformly
      in +-1/sqrt(fan in).

    **Cost**: for each layer 2 h_in h_out + 2 h_out arithmetic operations per signal, h_out fewer
    without biases.
    """
    if not isinstance(hidden, tuple):
        raise TypeError(
            f"mlp: hidden is {hidden!r}; a tuple of widths such as (256,) is expected (it is "
            "static, so it must be hashable)."
        )
    widths = (num_measurements, *hidden, num_atoms)
    for width in widths:
        _checks.count("mlp", "a layer's width", width)
    _checks.flag("mlp", "use_bias", use_bias)
    return _mlp(widths, use_bias)


@cached
def _mlp(widths: tuple[int, ...], use_bias: bool) -> Encoder:
    return Encoder(Bound(_init, widths, use_bias), _apply)


def _init(widths: tuple[int, ...], use_bias: bool, key: Key) -> MlpParams:
    keys = jax.random.split(key, len(widths) - 1)
    layers = [
        uniform_layer(k, fan_in, fan_out, use_bias)
        for k, fan_in, fan_out in zip(keys, widths[:-1], widths[1:], strict=True)
    ]
    return MlpParams(tuple(w for w, _ in layers), tuple(b for _, b in layers))


def _apply(params: MlpParams, signals: Array) -> Array:
    signals = _checks.takes("mlp", params, signals, params.weights[0].shape[-1])
    # Features first: with few measurements, W @ x.T trains 3x faster on CPU than x @ W.T.
    leading = signals.shape[:-1]
    latents = signals.reshape((-1, signals.shape[-1])).T
    for weight, bias in zip(params.weights, params.biases, strict=True):
        latents = weight @ latents
        latents = jax.nn.relu(latents if bias is None else latents + bias[:, None])
    return jnp.reshape(latents.T, leading + (latents.shape[0],))
