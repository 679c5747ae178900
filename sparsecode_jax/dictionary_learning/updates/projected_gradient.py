"""Projected gradient descent on the atoms."""

from __future__ import annotations

import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, unit
from sparsecode_jax.types import Array

__all__ = ["projected_gradient"]


@cached
def projected_gradient(*, learning_rate: float | None = None) -> DictionaryUpdate:
    r"""Build projected gradient descent: a step down the mean squared error, then unit norm.

    .. math:: D \leftarrow \mathrm{unit}\big(D - \eta\,\tfrac1B Z^\top(ZD - X)\big)

    Without a learning rate, eta is 1/L, where L is the largest eigenvalue of :math:`Z^\top Z/B`,
    bounded from above: the error never rises. Codes are left as they are.

    Args:
      learning_rate: eta, relative to signals of unit root mean square norm in
        ``learn_dictionary``, which scales its signals so; None takes 1/L at every step. Kept in
        the state, where a traced number may replace it.

    Returns:
      A :class:`DictionaryUpdate`; its state is the learning rate, or None.

    Raises:
      ValueError: a learning rate that is not a finite number > 0.

    **Cost**: 4BMN + BM for the gradient; 1/L costs one ``dictionaries.spectral_norm`` of the codes.

    References:
      Olshausen, Field, 1997 (gradient steps on the atoms, then their norms).
    """
    if learning_rate is not None:
        _checks.positive_number("projected_gradient", "learning_rate", learning_rate)
    return DictionaryUpdate(Bound(_init, learning_rate), _step)


def _init(learning_rate: float | None, dictionary: Array) -> Array | None:
    return None if learning_rate is None else jnp.asarray(learning_rate, dictionary.dtype)


def _step(state: Array | None, signals: Array, dictionary: Array, codes: Array) -> tuple:
    count = signals.shape[0]
    gradient = matmul(codes.T, matmul(codes, dictionary) - signals) / count
    if state is None:
        largest = dictionaries.spectral_norm(codes) ** 2 / count
        rate = jnp.where(largest > 0, 1 / jnp.where(largest > 0, largest, 1), 0)
    else:
        rate = state
    return state, unit(dictionary - rate * gradient, dictionary), codes
