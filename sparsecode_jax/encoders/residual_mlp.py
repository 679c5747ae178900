"""A residual multi-layer perceptron as encoder."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.encoders.linear import LinearParams, uniform_layer
from sparsecode_jax.types import Array, Encoder, Key

__all__ = ["ResidualMlpParams", "residual_mlp"]


class ResidualMlpParams(NamedTuple):
    """First layer (h, M), two layers a block, stacked along L, and last layer (N, h)."""

    first: LinearParams
    inner: LinearParams
    outer: LinearParams
    last: LinearParams


@cached
def residual_mlp(
    num_measurements: int, num_atoms: int, *, width: int = 32, num_blocks: int = 2
) -> Encoder:
    r"""Build a perceptron of residual blocks: depth that still trains.

    .. math:: h \leftarrow W_1 x + b_1, \quad
       h \leftarrow h + V_l \max(U_l h + c_l, 0) + e_l, \quad z = \max(W_2 h + b_2, 0)

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      width: h, of the residual stream and inside the blocks. **Static**.
      num_blocks: L. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`ResidualMlpParams`, each layer drawn
      uniformly in +-1/sqrt(fan in).

    **Cost**: 2h(M + N) + h + 2N + L(4h^2 + 4h) arithmetic operations per signal.

    References:
      He et al., 2016 (residual blocks).
    """
    for label, value in (
        ("num_measurements", num_measurements),
        ("num_atoms", num_atoms),
        ("width", width),
        ("num_blocks", num_blocks),
    ):
        _checks.count("residual_mlp", label, value)

    init = Bound(_init, num_measurements, num_atoms, width, num_blocks)
    return Encoder(init, _apply)


def _init(
    num_measurements: int, num_atoms: int, width: int, num_blocks: int, key: Key
) -> ResidualMlpParams:
    first, inner, outer, last = jax.random.split(key, 4)

    def stack(key: Key) -> LinearParams:
        draw = jax.vmap(lambda k: LinearParams(*uniform_layer(k, width, width, True)))
        return draw(jax.random.split(key, num_blocks))

    return ResidualMlpParams(
        LinearParams(*uniform_layer(first, num_measurements, width, True)),
        stack(inner),
        stack(outer),
        LinearParams(*uniform_layer(last, width, num_atoms, True)),
    )


def _apply(params: ResidualMlpParams, signals: Array) -> Array:
    return _blocks(
        params, _checks.takes("residual_mlp", params, signals, params.first.weight.shape[-1])
    )


# Eagerly the loop over the blocks would be compiled anew at every call.
@functools.partial(jax.jit, inline=True)
def _blocks(params: ResidualMlpParams, signals: Array) -> Array:
    leading = signals.shape[:-1]
    hidden = _layer(params.first, signals.reshape((-1, signals.shape[-1])).T)  # features first

    def block(hidden: Array, layers: tuple[LinearParams, LinearParams]) -> tuple[Array, None]:
        inner, outer = layers
        return hidden + _layer(outer, jax.nn.relu(_layer(inner, hidden))), None

    hidden, _ = jax.lax.scan(block, hidden, (params.inner, params.outer))
    codes = jax.nn.relu(_layer(params.last, hidden))
    return jnp.reshape(codes.T, (*leading, codes.shape[0]))


def _layer(layer: LinearParams, columns: Array) -> Array:
    assert layer.bias is not None
    return layer.weight @ columns + layer.bias[:, None]
