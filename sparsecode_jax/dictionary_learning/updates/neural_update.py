"""The neurally plausible update of Arora, Ge, Ma and Moitra."""

from __future__ import annotations

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, unit
from sparsecode_jax.types import Array

__all__ = ["neural_update"]


@cached
def neural_update(*, learning_rate: float) -> DictionaryUpdate:
    r"""Build the neural update: residuals times the signs of the codes.

    .. math:: D \leftarrow \mathrm{unit}\Big(D + \eta\,\tfrac1B \sum_b
       \mathrm{sgn}(z_b)^\top (x_b - z_b D)\Big)

    A Hebbian rule: an atom needs the residual and whether its own code is active, not how much.
    Codes are left as they are. It is no gradient, so the error may rise with a large learning rate.

    Args:
      learning_rate: eta; of the order of one over the mean absolute code, which moves an atom all
        the way, or N/K in the theory (K active codes near 1). In ``learn_dictionary`` signals have
        unit root mean square norm. Kept in the state, where a traced number may replace it.

    Returns:
      A :class:`DictionaryUpdate`; its state is the learning rate.

    Raises:
      ValueError: a learning rate that is not a finite number > 0.

    **Cost**: 4BMN + BM, and 5MN for the step.

    References:
      Arora, Ge, Ma, Moitra, 2015, "Simple, efficient, and neural algorithms for sparse coding",
      Algorithm 2; their decoding by one thresholded product is a solver's matter here.
    """
    _checks.positive_number("neural_update", "learning_rate", learning_rate)
    return DictionaryUpdate(Bound(_init, learning_rate), _step)


def _init(learning_rate: float, dictionary: Array) -> Array:
    return jnp.asarray(learning_rate, dictionary.dtype)


def _step(state: Array, signals: Array, dictionary: Array, codes: Array) -> tuple:
    residual = signals - matmul(codes, dictionary)
    direction = matmul(jnp.sign(codes).T, residual) / signals.shape[0]
    return state, unit(dictionary + state * direction, dictionary), codes
