"""The method of optimal directions: all atoms by least squares."""

from __future__ import annotations

import jax.numpy as jnp

from sparsecode_jax import dictionaries
from sparsecode_jax._bound import cached
from sparsecode_jax._positive import solve_positive
from sparsecode_jax._rows import as_row
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, no_state
from sparsecode_jax.types import Array

__all__ = ["method_of_optimal_directions"]

_RIDGE = 1e-5  # of the mean squared code, so that the least squares has one solution


@cached
def method_of_optimal_directions() -> DictionaryUpdate:
    r"""Build the method of optimal directions: least squares for all atoms at once.

    .. math:: D \leftarrow \arg\min_D \|X - ZD\|^2 = (Z^\top Z)^{-1} Z^\top X

    A ridge of 1e-5 of the mean squared code, towards the atoms there are, leaves an unused atom
    where it is. Atoms are scaled to unit norm and the codes take over their norms, so that the
    reconstruction is the least-squares one.

    Returns:
      A :class:`DictionaryUpdate` without state.

    **Cost**: 2BN(N + M) for the products, N^3/3 + 2MN^2 to solve the equations by Cholesky.

    References:
      Engan, Aase, Husoy, 1999.
    """
    return DictionaryUpdate(no_state, _step)


def _step(state: tuple, signals: Array, dictionary: Array, codes: Array) -> tuple:
    gram, right = matmul(codes.T, codes), matmul(codes.T, signals)
    size = gram.shape[0]
    # The last term counts only where all codes are zero.
    ridge = _RIDGE * jnp.trace(gram) / size + jnp.finfo(gram.dtype).eps
    matrix = gram + ridge * jnp.eye(size, dtype=gram.dtype)
    solution = solve_positive(matrix, right + ridge * dictionary, upper=True)
    atoms, norms, _ = dictionaries.unit_atoms(solution)
    return state, atoms, codes * as_row(norms, codes)
