"""LISTA: ISTA whose matrices are learned, layer by layer."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.encoders._layers import (
    Prox,
    lasso_of,
    repeat,
    unrolled_init,
)
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.types import Array, ArrayLike, Encoder

__all__ = ["ListaParams", "lista", "lista_params"]


class ListaParams(NamedTuple):
    """Of T layers: from signals (T, N, M), from codes (T - 1, N, N), thresholds (T, N)."""

    weights: Array
    recurrent: Array
    thresholds: Array


@cached
def lista(
    num_measurements: int,
    num_atoms: int,
    *,
    num_layers: int,
    prox: Prox = nonnegative_soft_threshold,
) -> Encoder:
    r"""Build LISTA: T steps of ISTA with matrices and thresholds of their own.

    .. math:: z_{t+1} = \mathrm{prox}_{\theta_t}(x W_t^\top + z_t S_t^\top), \qquad z_0 = 0

    Every layer has matrices of its own (the original shares them). Before training it is T steps of
    :func:`~sparsecode_jax.solvers.ista` on a random dictionary; :func:`lista_params` starts it on
    one that is known.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_layers: T. **Static**.
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`ListaParams`.

    **Cost**: 2TMN + 2(T - 1)N^2 + (T - 1)N + 2TN arithmetic operations per signal.

    References:
      Gregor and LeCun, 2010, Algorithm 3.
    """
    _checks.function("lista", "prox", prox)
    init = unrolled_init("lista", num_measurements, num_atoms, num_layers, lista_params)

    return Encoder(init, Bound(_apply, prox))


def _apply(prox: Prox, params: ListaParams, signals: Array) -> Array:
    signals = _checks.takes("lista", params, signals, params.weights.shape[-1])
    return _layers(params, signals, prox=prox)


# Eagerly the loop over the layers would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _layers(params: ListaParams, signals: Array, *, prox: Prox) -> Array:
    codes = prox(signals @ params.weights[0].T, params.thresholds[0])

    def layer(codes: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        weight, recurrent, threshold = now
        return prox(signals @ weight.T + codes @ recurrent.T, threshold), None

    later = params.weights[1:], params.recurrent, params.thresholds[1:]
    return jax.lax.scan(layer, codes, later)[0]


def lista_params(dictionary: ArrayLike, penalty: ArrayLike, *, num_layers: int) -> ListaParams:
    r"""Return the parameters with which :func:`lista` is ``num_layers`` steps of ISTA.

    .. math:: W_t = sD, \qquad S_t = I - sDD^\top, \qquad \theta_t = s\lambda

    Args:
      dictionary: (N, M). **Traced**.
      penalty: () or (N,). **Traced**.
      num_layers: T. **Static**.

    Returns:
      A :class:`ListaParams`.

    Raises:
      ValueError: shapes that disagree, a zero atom, a negative penalty.
    """
    dictionary, penalty = lasso_of("lista_params", dictionary, penalty, num_layers)
    num_atoms = dictionary.shape[0]
    dictionary = jnp.asarray(jax.lax.optimization_barrier(dictionary))  # or XLA folds a constant
    step = dictionaries.step_size(dictionary)
    gram = jnp.matmul(dictionary, dictionary.T, precision="highest")
    recurrent = jnp.eye(num_atoms, dtype=dictionary.dtype) - step * gram
    return ListaParams(
        repeat(step * dictionary, num_layers),
        repeat(recurrent, num_layers - 1),
        repeat(jnp.broadcast_to(step * penalty, (num_atoms,)), num_layers),
    )
