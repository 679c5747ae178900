"""Deflation: any update, after which weak atoms give up what strong ones have already."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, unit
from sparsecode_jax.types import Array, PyTree

__all__ = ["DeflatedState", "deflated"]

_MEMORY = 2.0  # signals per atom over which the energy of its codes is averaged


class DeflatedState(NamedTuple):
    """What the wrapped update remembers, and what orders the atoms.

    Attributes:
      update: its state.
      energy: mean square code of each atom, over the last 2N signals or so, (N,).
      max_coherence: the bound, ().
    """

    update: PyTree
    energy: Array
    max_coherence: Array


@cached
def deflated(update: DictionaryUpdate, *, max_coherence: float) -> DictionaryUpdate:
    r"""Build an update that ends by taking from each atom what it shares with stronger ones.

    .. math:: d_i \leftarrow \mathrm{unit}(d_i - a_i s_i D),\quad
       s_{ij} = \begin{cases} S_m(d_i \cdot d_j) & e_j > e_i > 0 \\ 0 & \text{otherwise}
       \end{cases},\quad a_i = \min(1, \|s_i\|^2 / \|s_i D\|^2)

    with :math:`e_j = \mathrm{E} z_j^2`, the energy of an atom's codes, and :math:`S_m` soft
    thresholding at the bound m. Each call takes one such step, whether or not the batch uses the
    atom; cosines of either sign count. What the update gains in error a step may lose again.

    Where a feature hardly fires without one of a few others, an atom for each sum is as exact as an
    atom for each feature, and sparser: the feature is absorbed, and the sums have large cosines
    with each other. Deflated, the weaker sums lose the shared feature, and the atom that keeps it
    comes to explain it everywhere. This orders the atoms; :func:`decorrelated` turns both of a pair
    alike. From a random start it does little: begin with a dictionary whose strong atoms are good.

    Args:
      update: of the atoms. **Static**.
      max_coherence: m, the largest absolute cosine that is left alone, in (0, 1). Kept in the
        state, where a traced number may replace it.

    Returns:
      A :class:`DictionaryUpdate` with state :class:`DeflatedState`.

    Raises:
      ValueError: a bound outside (0, 1).

    **Cost**: that of the update, 4MN^2 + 5N^2 + 7MN, and 2BN for the energy.

    References:
      Chanin et al., 2024, arXiv 2409.14507 (absorption); Korznikov et al., 2025, arXiv 2509.22033
      (an orthogonality penalty against it).
    """
    _checks.update("deflated", update)
    _checks.fraction("deflated", "max_coherence", max_coherence, inside=True)
    return DictionaryUpdate(
        Bound(_init, update, max_coherence), Bound(_step, update), Bound(_reset, update)
    )


def _init(update: DictionaryUpdate, max_coherence: float, dictionary: Array) -> DeflatedState:
    return DeflatedState(
        update=update.init(dictionary),
        energy=jnp.zeros_like(dictionary[:, 0]),
        max_coherence=jnp.asarray(max_coherence, dictionary.dtype),
    )


def _step(
    update: DictionaryUpdate, state: DeflatedState, signals: Array, dictionary: Array, codes: Array
) -> tuple:
    inner, dictionary, codes = update.step(state.update, signals, dictionary, codes)
    kept = math.exp(-codes.shape[0] / (_MEMORY * dictionary.shape[0]))
    energy = kept * state.energy + (1 - kept) * jnp.mean(codes * codes, axis=0)
    dictionary = _deflate(dictionary, energy, state.max_coherence)
    return DeflatedState(inner, energy, state.max_coherence), dictionary, codes


def _deflate(dictionary: Array, energy: Array, bound: Array) -> Array:
    cosines = matmul(dictionary, dictionary.T)
    shared = jnp.sign(cosines) * jnp.maximum(jnp.abs(cosines) - bound, 0)
    stronger = (energy[None] > energy[:, None]) & (energy[:, None] > 0)
    shared = jnp.where(stronger, shared, 0)
    taken = matmul(shared, dictionary)
    # Stronger atoms that are alike share one thing: it is taken once, not by each of them.
    sizes, lengths = jnp.sum(shared * shared, axis=1), jnp.sum(taken * taken, axis=1)
    scale = jnp.where(lengths > sizes, sizes / jnp.where(lengths > 0, lengths, 1), 1)
    return unit(dictionary - scale[:, None] * taken, dictionary)


def _reset(update: DictionaryUpdate, state: DeflatedState, replaced: Array) -> DeflatedState:
    inner = state.update if update.reset is None else update.reset(state.update, replaced)
    return state._replace(update=inner, energy=jnp.where(replaced, 0, state.energy))
