"""What the encoders of unrolled steps share."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound
from sparsecode_jax._sharding import varying_like
from sparsecode_jax.types import Array, ArrayLike, Key, PyTree

__all__ = [
    "PENALTY0",
    "Prox",
    "lasso_of",
    "no_codes",
    "put_dictionary",
    "repeat",
    "unrolled_init",
]

Prox = Callable[[Array, Array], Array]
PENALTY0 = 0.1


def unrolled_init(
    name: str, num_measurements: int, num_atoms: int, num_layers: int, params_of: Callable
) -> Callable[[Key], PyTree]:
    """Check the sizes; return ``(key) -> params`` on a random dictionary."""
    _checks.count(name, "num_measurements", num_measurements)
    _checks.count(name, "num_atoms", num_atoms)
    _checks.count(name, "num_layers", num_layers)
    return Bound(_init, num_measurements, num_atoms, num_layers, params_of)


def _init(
    num_measurements: int, num_atoms: int, num_layers: int, params_of: Callable, key: Key
) -> PyTree:
    dictionary = dictionaries.random(key, num_atoms=num_atoms, num_measurements=num_measurements)
    return params_of(dictionary, PENALTY0, num_layers=num_layers)


def lasso_of(
    name: str, dictionary: ArrayLike, penalty: ArrayLike, num_layers: int
) -> tuple[Array, Array]:
    """Check and cast the dictionary and penalty that an unrolled encoder starts from."""
    (dictionary,) = _checks.floating(name, dictionary)
    _checks.dictionary_matrix(name, dictionary)
    _checks.finite(name, dictionary=dictionary)
    _checks.count(name, "num_layers", num_layers)
    _checks.real(name, penalty)
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


def put_dictionary(params, dictionary: Array, bias: Array | None):  # noqa: ANN001, ANN201
    """Put the decoder's dictionary into the params."""
    return params._replace(dictionary=dictionary)
