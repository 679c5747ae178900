"""Coherence control: any update, followed by pushing coherent atoms apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, unit
from sparsecode_jax.types import Array, PyTree

__all__ = ["decorrelated"]


@cached
def decorrelated(
    update: DictionaryUpdate, *, max_coherence: float, num_rotations: int | None = None
) -> DictionaryUpdate:
    r"""Build an update that ends by rotating the most coherent atoms apart.

    The pair with the largest absolute cosine c is rotated symmetrically in its plane until its
    cosine is the bound m,

    .. math:: d_i \leftarrow \mathrm{unit}(d_i - s a d_j),\quad
       d_j \leftarrow \mathrm{unit}(d_j - s a d_i),\quad
       a = \frac{c - m}{1 - cm + \sqrt{(1 - c^2)(1 - m^2)}}

    with s the sign of their product; then the next pair. Nothing moves once all are within the
    bound. No N unit atoms in M dimensions have less coherence than
    :math:`\sqrt{(N - M) / (M (N - 1))}` (Welch), and near that the bound may not be reached.
    Equal atoms have no plane and stay; they are replaced as duplicates.

    Args:
      update: of the atoms. **Static**.
      max_coherence: the largest absolute cosine, in (0, 1). Kept in the state beside the update's,
        where a traced number may replace it.
      num_rotations: pairs rotated at most, a step; None takes N. **Static**.

    Returns:
      A :class:`DictionaryUpdate`; its state is the pair (the update's state, the bound).

    Raises:
      ValueError: a bound outside (0, 1), a number of rotations that is not a positive integer.

    **Cost**: that of the update, 2MN^2, and 4MN + 2N^2 per rotation.

    References:
      Mailhe, Barchiesi, Plumbley, 2012 (INK-SVD).
    """
    _checks.update("decorrelated", update)
    _checks.fraction("decorrelated", "max_coherence", max_coherence, inside=True)
    if num_rotations is not None:
        _checks.count("decorrelated", "num_rotations", num_rotations)
    return DictionaryUpdate(
        Bound(_init, update, max_coherence),
        Bound(_step, update, num_rotations),
        Bound(_reset, update),
    )


def _init(
    update: DictionaryUpdate, max_coherence: float, dictionary: Array
) -> tuple[PyTree, Array]:
    return update.init(dictionary), jnp.asarray(max_coherence, dictionary.dtype)


def _step(
    update: DictionaryUpdate,
    num_rotations: int | None,
    state: tuple,
    signals: Array,
    dictionary: Array,
    codes: Array,
) -> tuple:
    inner, bound = state
    inner, dictionary, codes = update.step(inner, signals, dictionary, codes)
    length = dictionary.shape[0] if num_rotations is None else num_rotations
    return (inner, bound), _rotate(dictionary, bound, length), codes


def _reset(update: DictionaryUpdate, state: tuple, replaced: Array) -> tuple:
    inner, bound = state
    return (inner if update.reset is None else update.reset(inner, replaced)), bound


def _rotate(dictionary: Array, bound: Array, num_rotations: int) -> Array:
    size = dictionary.shape[0]

    def turn(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        dictionary, gram = carry
        pair = jnp.stack(jnp.unravel_index(jnp.argmax(jnp.abs(gram)), gram.shape))
        atoms, product = dictionary[pair], gram[pair[0], pair[1]]
        c = jnp.minimum(jnp.abs(product), 1)
        above = c > bound
        # The other root of the same square, which does not cancel just above the bound.
        below = 1 - c * bound + jnp.sqrt((1 - c * c) * (1 - bound * bound))
        a = jnp.where(above, c - bound, 0) / jnp.where(above, below, 1)
        apart = unit(atoms - jnp.sign(product) * a * atoms[::-1], atoms)
        dictionary = dictionary.at[pair].set(jnp.where(above, apart, atoms))
        rows = matmul(dictionary[pair], dictionary.T)
        rows = jnp.where(jnp.arange(size)[None] == pair[:, None], 0, rows)
        gram = gram.at[pair].set(rows).at[:, pair].set(rows.T)
        return (dictionary, gram), None

    gram = jnp.where(jnp.eye(size, dtype=bool), 0, matmul(dictionary, dictionary.T))
    (dictionary, _), _ = jax.lax.scan(turn, (dictionary, gram), length=num_rotations)
    return dictionary
