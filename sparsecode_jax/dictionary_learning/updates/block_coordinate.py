"""Block coordinate descent on running statistics: Mairal's online dictionary learning."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.dictionary_learning.updates._core import DictionaryUpdate, matmul, unit
from sparsecode_jax.types import Array

__all__ = ["BlockCoordinateState", "block_coordinate"]

_BLOCK = 64  # atoms whose updates share a product with the whole dictionary


class BlockCoordinateState(NamedTuple):
    """Weighted means over all signals seen; before any, one use of each atom alone.

    Attributes:
      gram: of the products of codes, (N, N).
      products: of codes and signals, (N, M).
      weight: how many signals they are worth, ().
      seen: signals, ().
      forgetting: the exponent rho, ().
      prior: how many signals the dictionary at the start counts as, ().
    """

    gram: Array
    products: Array
    weight: Array
    seen: Array
    forgetting: Array
    prior: Array


@cached
def block_coordinate(*, forgetting: float = 10.0, prior: float = 0.0) -> DictionaryUpdate:
    r"""Build block coordinate descent: each atom in turn at its best for all signals seen.

    .. math:: A \leftarrow \beta A + \textstyle\sum_b z_b z_b^\top,\quad
       C \leftarrow \beta C + \sum_b z_b x_b,\qquad
       d_j \leftarrow \frac{u_j}{\|u_j\|},\quad u_j = d_j + \frac{C_j - A_j D}{A_{jj}}

    with :math:`\beta = (1 - B/t)^\rho` after t signals, the B of this batch and the p of the prior
    among them, and :math:`A = p e I`, :math:`C = p e D` at the start, where e is the mean square of
    the first codes that are not all 0. One pass over the atoms. On the unit sphere
    :math:`u_j / \|u_j\|` is the exact minimizer of the quadratic in atom j. Codes are left as they
    are. The sums are kept as means, so that they neither grow nor lose digits.

    Args:
      forgetting: rho >= 0. With 0 every signal counts the same, those that were coded in early, bad
        dictionaries too; with rho the last t/(rho + 1) count, whatever the size of batches. Kept in
        the state, where a traced number may replace it.
      prior: p >= 0, how many signals the dictionary at the start counts as, all atoms together. 0
        lets the first batch overrule it; for a dictionary learned before, take about N, or its
        rare atoms follow the few signals that use them first. Kept in the state, as above.

    Returns:
      A :class:`DictionaryUpdate` with state :class:`BlockCoordinateState`.

    Raises:
      ValueError: a number that is negative or not finite.

    **Cost**: (2B + 3)N(N + M) + 2BN for the statistics, 2MN^2 + 6MN for the pass; above 256 atoms,
    whose updates share products by 64, 128MN more.

    References:
      Mairal, Bach, Ponce, Sapiro, 2010, Algorithm 2 and Sec. 3.4.2 (forgetting).
    """
    _checks.nonnegative("block_coordinate", forgetting=forgetting, prior=prior)
    return DictionaryUpdate(Bound(_init, forgetting, prior), _step, _reset)


def _init(forgetting: float, prior: float, dictionary: Array) -> BlockCoordinateState:
    num_atoms, dtype = dictionary.shape[0], dictionary.dtype
    return BlockCoordinateState(
        gram=jnp.eye(num_atoms, dtype=dtype),
        products=jnp.array(dictionary),
        weight=jnp.zeros((), dtype),
        seen=jnp.zeros((), dtype),
        forgetting=jnp.asarray(forgetting, dtype),
        prior=jnp.asarray(prior, dtype),
    )


def _step(state: BlockCoordinateState, signals: Array, dictionary: Array, codes: Array) -> tuple:
    count, first, energy = signals.shape[0], state.seen == 0, jnp.mean(codes * codes)
    fading = (1 - count / (state.prior + state.seen + count)) ** state.forgetting
    old = fading * jnp.where(first, state.prior, state.weight)
    weight = old + count
    # The start has the unit of the first codes, and stays while these are all 0.
    nothing = first & (energy == 0)
    old = jnp.where(nothing, weight, jnp.where(first, energy * old, old))
    gram = (old * state.gram + matmul(codes.T, codes)) / weight
    products = (old * state.products + matmul(codes.T, signals)) / weight

    dictionary = _one_pass(gram, products, dictionary)
    seen = jnp.where(nothing, 0, state.seen + count)
    state = state._replace(gram=gram, products=products, weight=weight, seen=seen)
    return state, dictionary, codes


def _one_pass(gram: Array, products: Array, dictionary: Array) -> Array:
    """Bring each atom in turn to its best; what other blocks explain is one product a block."""
    num_atoms, num_measurements = dictionary.shape
    if num_atoms <= 4 * _BLOCK:
        return _each_in_turn(gram, products, dictionary)

    def improve(dictionary: Array, first: Array, size: int) -> Array:
        rows = lax.dynamic_slice(gram, (first, 0), (size, num_atoms))
        own = lax.dynamic_slice(rows, (0, first), (size, size))
        others = lax.dynamic_update_slice(rows, jnp.zeros_like(own), (0, first))
        shape = size, num_measurements
        rest = lax.dynamic_slice(products, (first, 0), shape) - matmul(others, dictionary)
        atoms = _each_in_turn(own, rest, lax.dynamic_slice(dictionary, (first, 0), shape))
        return lax.dynamic_update_slice(dictionary, atoms, (first, 0))

    left = num_atoms % _BLOCK
    firsts = jnp.arange(0, num_atoms - left, _BLOCK)
    dictionary, _ = lax.scan(lambda d, first: (improve(d, first, _BLOCK), None), dictionary, firsts)
    return improve(dictionary, jnp.asarray(num_atoms - left), left) if left else dictionary


def _each_in_turn(gram: Array, products: Array, dictionary: Array) -> Array:
    def improve(dictionary: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        index, row, product = now
        atom, curvature = dictionary[index], row[index]
        used = curvature > 0
        step = (product - matmul(row, dictionary)) / jnp.where(used, curvature, 1)
        atom = jnp.where(used, unit(atom + step, atom), atom)
        return lax.dynamic_update_index_in_dim(dictionary, atom, index, 0), None

    order = jnp.arange(dictionary.shape[0])
    return lax.scan(improve, dictionary, (order, gram, products))[0]


def _reset(state: BlockCoordinateState, replaced: Array) -> BlockCoordinateState:
    pairs = replaced[:, None] | replaced[None]
    return state._replace(
        gram=jnp.where(pairs, 0, state.gram),
        products=jnp.where(replaced[:, None], 0, state.products),
    )
