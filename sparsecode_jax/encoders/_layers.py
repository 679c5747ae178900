"""What the encoders of unrolled steps share."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._sharding import varying_like
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = [
    "PENALTY0",
    "Prox",
    "lasso_of",
    "no_codes",
    "put_dictionary",
    "repeat",
    "rescale_thresholds",
    "unrolled_init",
]

Prox = Callable[[Array, Array], Array]
PENALTY0 = 0.1


def unrolled_init(  # noqa: ANN201
    name: str, num_measurements: int, num_atoms: int, num_layers: int, params_of: Callable
):
    """Check the sizes; return ``(key) -> params`` on a random dictionary."""
    _checks.count(name, "num_measurements", num_measurements)
    _checks.count(name, "num_atoms", num_atoms)
    _checks.count(name, "num_layers", num_layers)

    def init(key: Key):  # noqa: ANN202
        dictionary = dictionaries.random(
            key, num_atoms=num_atoms, num_measurements=num_measurements
        )
        return params_of(dictionary, PENALTY0, num_layers=num_layers)

    return init


def lasso_of(
    name: str, dictionary: ArrayLike, penalty: ArrayLike, num_layers: int
) -> tuple[Array, Array]:
    """Check and cast the dictionary and penalty that an unrolled encoder starts from."""
    (dictionary,) = _checks.floating(name, dictionary)
    _checks.dictionary_matrix(name, dictionary)
    _checks.finite(name, dictionary=dictionary)
    _checks.count(name, "num_layers", num_layers)
    penalty = jnp.asarray(penalty, dictionary.dtype)
    _checks.penalty_values(name, penalty, dictionary.shape[0])
    return dictionary, penalty


def no_codes(signals: Array, dictionary: Array) -> Array:
    """Return zeros (..., N) that vary over devices, and have the dtype, as codes will."""
    shape = (*signals.shape[:-1], dictionary.shape[0])
    start = jnp.zeros(shape, jnp.result_type(signals, dictionary))
    return varying_like(start, signals, dictionary)


def repeat(array: Array, count: int) -> Array:
    """Stack ``count`` copies."""
    return jnp.broadcast_to(array, (count, *array.shape))


def rescale_thresholds(params, scale: Array):  # noqa: ANN001, ANN201
    """Return the params for signals that are ``scale`` times larger."""
    return params._replace(thresholds=scale * params.thresholds)


def put_dictionary(params, dictionary: Array, bias: Array | None):  # noqa: ANN001, ANN201
    """Put the decoder's dictionary into the params."""
    return params._replace(dictionary=dictionary)
