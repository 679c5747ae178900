"""LISTA with coupled weights: the residual is exact, the matched filters are learned."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.encoders._layers import (
    Prox,
    lasso_of,
    no_codes,
    put_dictionary,
    repeat,
    unrolled_init,
)
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.types import Array, ArrayLike, Encoder

__all__ = ["ListaCpParams", "lista_cp", "lista_cp_params"]


class ListaCpParams(NamedTuple):
    """The dictionary (N, M), and of T layers: weights (T, N, M), thresholds (T,)."""

    dictionary: Array
    weights: Array
    thresholds: Array


@cached
def lista_cp(
    num_measurements: int,
    num_atoms: int,
    *,
    num_layers: int,
    prox: Prox = nonnegative_soft_threshold,
) -> Encoder:
    r"""Build LISTA-CP: steps of ISTA with a learned weight in the place of the transposed atoms.

    .. math:: z_{t+1} = \mathrm{prox}_{\theta_t}\big(z_t + (x - z_t D) W_t^\top\big), \qquad z_0 = 0

    D is the decoder's dictionary: :func:`~sparsecode_jax.training.fit` puts it in. A third of the
    parameters of :func:`~sparsecode_jax.encoders.lista` where N = 2M, and fewer beyond.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_layers: T. **Static**.
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`ListaCpParams`.

    **Cost**: T(4MN + M + 3N) arithmetic operations per signal.

    References:
      Chen, Liu, Wang, Yin, 2018, Eq. (9) and Theorem 1.
    """
    _checks.function("lista_cp", "prox", prox)
    init = unrolled_init("lista_cp", num_measurements, num_atoms, num_layers, lista_cp_params)

    return Encoder(init, Bound(_apply, prox), tie=put_dictionary)


def _apply(prox: Prox, params: ListaCpParams, signals: Array) -> Array:
    signals = _checks.takes("lista_cp", params, signals, params.dictionary.shape[-1])
    return _layers(params, signals, prox=prox)


# Eagerly the loop over the layers would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _layers(params: ListaCpParams, signals: Array, *, prox: Prox) -> Array:
    def layer(codes: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        weight, threshold = now
        residual = signals - codes @ params.dictionary
        return prox(codes + residual @ weight.T, threshold), None

    start = no_codes(signals, params.dictionary)
    return jax.lax.scan(layer, start, (params.weights, params.thresholds))[0]


def lista_cp_params(dictionary: ArrayLike, penalty: ArrayLike, *, num_layers: int) -> ListaCpParams:
    r"""Return the parameters with which :func:`lista_cp` is ``num_layers`` steps of ISTA.

    .. math:: W_t = sD, \qquad \theta_t = s\lambda

    Args:
      dictionary: (N, M). **Traced**.
      penalty: (). **Traced**.
      num_layers: T. **Static**.

    Returns:
      A :class:`ListaCpParams`.

    Raises:
      ValueError: shapes that disagree, a zero atom, a negative penalty.
    """
    dictionary, penalty = lasso_of("lista_cp_params", dictionary, penalty, num_layers)
    _checks.scalar("lista_cp_params", "penalty", penalty)
    step = dictionaries.step_size(dictionary)
    return ListaCpParams(
        dictionary, repeat(step * dictionary, num_layers), repeat(step * penalty, num_layers)
    )
