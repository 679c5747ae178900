"""K-SVD and approximate K-SVD: atoms in turn, each together with its codes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import (
    DictionaryUpdate,
    matmul,
    no_state,
    unit,
)
from sparsecode_jax.types import Array

__all__ = ["approximate_k_svd", "k_svd"]

_ALTERNATIONS = 3  # towards the best non-negative pair; signed pairs are at their best from the SVD


@cached
def k_svd() -> DictionaryUpdate:
    r"""Build K-SVD: each atom in turn, with its codes, becomes the best rank-one term.

    .. math:: E = \big(X - \textstyle\sum_{i \ne j} z_i d_i\big)_{\{z_j \ne 0\}},\qquad
       (d_j, z_j) \leftarrow \arg\min_{\|d\| = 1} \|E - z d\|^2

    Only the signals that use the atom count, so no code that is zero becomes non-zero. The atom is
    the leading eigenvector of the M by M matrix of second moments of E.

    If no code of the batch is negative, none becomes negative: the best rank-one term with
    :math:`z \ge 0` is sought by three alternations of :math:`z = \max(Ed, 0)` and
    :math:`d \propto z^\top E`, from the best of the eigenvector, its negative and the atom there
    was. With either sign the squared error never rises.

    Returns:
      A :class:`DictionaryUpdate` without state.

    **Cost**: 2BM^2 + 9M^3 and 28BM per atom; for large M take :func:`approximate_k_svd`.

    References:
      Aharon, Elad, Bruckstein, 2006 (K-SVD); 2005 (its non-negative variant).
    """
    return DictionaryUpdate(no_state, Bound(_step, _by_svd))


@cached
def approximate_k_svd() -> DictionaryUpdate:
    r"""Build approximate K-SVD: one power iteration per atom in the place of its SVD.

    .. math:: d_j \leftarrow z_j^\top E / \|z_j^\top E\|,\qquad z_j \leftarrow E d_j

    with E as in :func:`k_svd`. If no code of the batch is negative, the new codes are cut at 0.
    With either sign the squared error never rises.

    Returns:
      A :class:`DictionaryUpdate` without state.

    **Cost**: 8BM per atom, and 2BMN for the residuals.

    References:
      Rubinstein, Zibulevsky, Elad, 2008.
    """
    return DictionaryUpdate(no_state, Bound(_step, _by_power_iteration))


Clip = Callable[[Array], Array]


def _step(fit: Callable, state: tuple, signals: Array, dictionary: Array, codes: Array) -> tuple:
    signed = jnp.any(codes < 0)

    def clip(values: Array) -> Array:
        return jnp.where(signed, values, jnp.maximum(values, 0))

    def improve(residual: Array, pair: tuple[Array, Array]) -> tuple:
        atom, values = pair
        users = (values != 0)[:, None]
        errors = jnp.where(users, residual + values[:, None] * atom[None], 0)
        atom, values = fit(errors, atom, values, clip)  # zero rows have zero codes
        residual = jnp.where(users, errors - values[:, None] * atom[None], residual)
        return residual, (atom, values)

    residual = signals - matmul(codes, dictionary)
    pairs: tuple[Array, Array]
    _, pairs = jax.lax.scan(improve, residual, (dictionary, codes.T))
    return state, pairs[0], pairs[1].T


def _by_svd(errors: Array, atom: Array, values: Array, clip: Clip) -> tuple[Array, Array]:
    leading = jnp.linalg.eigh(matmul(errors.T, errors))[1][:, -1]
    leading = jnp.where(jnp.sum(leading * atom) < 0, -leading, leading)  # do not flip the atom
    starts = jnp.stack([atom, leading, -leading])
    gains = jnp.sum(clip(matmul(errors, starts.T)) ** 2, axis=0)
    atom = starts[jnp.argmax(gains)]  # the atom itself where there is nothing to fit
    for _ in range(_ALTERNATIONS):
        atom = unit(matmul(clip(matmul(errors, atom)), errors), atom)
    return atom, clip(matmul(errors, atom))


def _by_power_iteration(errors: Array, atom: Array, values: Array, clip: Clip) -> tuple:
    atom = unit(matmul(values, errors), atom)
    return atom, clip(matmul(errors, atom))
