"""Hierarchies of features: which fires only if which other one does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._sharding import to_host
from sparsecode_jax.types import Array, ArrayLike

__all__ = ["Tree", "balanced_trees", "compensate", "tree"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """The children of each unit, made by :func:`tree`.

    Attributes:
      tops: the units without a parent, (T,). **Traced**.
      first_child: number of each unit's first child, (U,). **Traced**.
      num_children: (U,); they follow the first one. **Traced**.
      exclusive: whether at most one child of a unit is active at a time, (U,). **Traced**.
      scaled: whether a child's magnitude is multiplied by its parent's over the parent's mean.
        **Static**.
      branching: the most children of any unit. **Static**.
      depth: the most ancestors of any unit. **Static**.
    """

    tops: Array
    first_child: Array
    num_children: Array
    exclusive: Array
    scaled: bool = dataclasses.field(metadata={"static": True})
    branching: int = dataclasses.field(metadata={"static": True})
    depth: int = dataclasses.field(metadata={"static": True})

    def parents(self) -> Array:
        """Return the parent of each unit, (U,) of int32, -1 where there is none."""
        count = self.num_children
        num_units = count.shape[0]
        ends = jnp.cumsum(count, dtype=jnp.int32)
        place = jnp.arange(num_units, dtype=jnp.int32)  # among the children, listed by parent
        owner = jnp.searchsorted(ends, place, side="right").astype(jnp.int32)
        inside = jnp.minimum(owner, num_units - 1)
        child = self.first_child[inside] + place - (ends - count)[inside]
        child = jnp.where(place < ends[-1], child, num_units)
        return jnp.full(num_units, -1, jnp.int32).at[child].set(owner, mode="drop")


def tree(parents: ArrayLike, *, exclusive: ArrayLike = True, scaled: bool = False) -> Tree:
    """Describe a hierarchy by the parent of each unit.

    Args:
      parents: (U,) of integers: -1 for a unit that needs no other one; else a smaller number than
        the unit's own. Children of one parent follow one another.
      exclusive: whether at most one of the children of a unit is active at a time, drawn uniformly
        among those that would be: one for all, or (U,) of bool by parent.
      scaled: whether a child's magnitude is multiplied by its parent's over the parent's mean.
        **Static**.

    Returns:
      A :class:`Tree`.

    Raises:
      ValueError: parents that are no such tree.

    Example:
      >>> import sparsecode_jax as sc
      >>> sc.synthetic.tree([-1, -1, 0, 0, 1]).num_children
      Array([2, 1, 0, 0, 0], dtype=int32)
    """
    name = "tree"
    above = to_host(parents)
    if above.ndim != 1 or not above.size or not np.issubdtype(above.dtype, np.integer):
        raise ValueError(
            f"{name}: parents are {above.dtype} of shape {above.shape}; integers (U,) are expected."
        )
    _checks.flag(name, "scaled", scaled)
    units = np.arange(len(above))
    wrong = np.flatnonzero((above < -1) | (above >= units))
    if wrong.size:
        raise ValueError(
            f"{name}: the parent of unit {wrong[0]} is {above[wrong[0]]}; -1 or a smaller number "
            "than the unit's own is expected. Number parents before their children."
        )
    children = np.flatnonzero(above >= 0)
    counts = np.bincount(above[children], minlength=len(above))
    first = np.zeros(len(above), np.int64)
    first[above[children[::-1]]] = children[::-1]
    apart = children[children >= (first + counts)[above[children]]]
    if apart.size:
        raise ValueError(
            f"{name}: unit {apart[0]} is a child of {above[apart[0]]}, whose other children are "
            f"numbered from {first[above[apart[0]]]} on; children that follow one another are "
            "expected. Number units breadth first."
        )
    excluding = np.asarray(exclusive)
    if excluding.dtype != bool or excluding.shape not in ((), above.shape):
        raise ValueError(
            f"{name}: exclusive is {excluding.dtype} of shape {excluding.shape}; a bool, or one "
            f"for each of the {len(above)} units is expected."
        )
    level = np.zeros(len(above), np.int64)
    for unit in children:  # a parent comes before its children
        level[unit] = level[above[unit]] + 1
    with jax.ensure_compile_time_eval():  # within jit too a tree is known
        return Tree(
            jnp.asarray(np.flatnonzero(above < 0), jnp.int32),
            jnp.asarray(first, jnp.int32),
            jnp.asarray(counts, jnp.int32),
            jnp.asarray(np.broadcast_to(excluding, above.shape)),
            bool(scaled),
            int(np.max(counts)),
            int(np.max(level)),
        )


def balanced_trees(num_roots: int, *, branching: int, depth: int, num_units: int) -> np.ndarray:
    """Return the parents of units in equal trees, breadth first, with free units after them.

    Args:
      num_roots: trees, whose roots are units 0 to ``num_roots - 1``. **Static**.
      branching: children of each unit that is not at the last level. **Static**.
      depth: levels below the roots. **Static**.
      num_units: U, of those in trees and of free ones. **Static**.

    Returns:
      (U,) of integers, -1 for roots and free units: what :func:`tree` takes.

    Raises:
      ValueError: more units in the trees than there are.
    """
    name = "balanced_trees"
    _checks.count(name, "num_roots", num_roots)
    _checks.count(name, "branching", branching)
    _checks.count(name, "depth", depth, minimum=0, maximum=64)
    _checks.count(name, "num_units", num_units)
    needed = num_roots * sum(branching**level for level in range(depth + 1))
    if needed > num_units:
        raise ValueError(
            f"{name}: {num_roots} trees of {depth} levels below the root, with {branching} "
            f"children each, hold {needed} units, but num_units is {num_units}; at most that many "
            "are expected. Take fewer roots, children or levels."
        )
    parents = np.full(num_units, -1, np.int32)
    parents[num_roots:needed] = np.arange(needed - num_roots) // branching
    return parents


def compensate(probabilities: ArrayLike, hierarchy: Tree) -> Array:
    r"""Return how likely each unit must fire given its parent, to be active as often as wanted.

    .. math:: p_{u \mid a} = \frac{p_u}{p_a} \Big(1 + \sum_{s} \frac{p_s}{p_a}\Big)

    for a child u of a, where s runs over the other children of a if they exclude one another.
    The second factor makes up for what exclusion takes away, to first order.

    Args:
      probabilities: wanted, (U,). **Traced**.
      hierarchy: of the U units. **Traced**.

    Returns:
      (U,), as ``FeatureModel.probabilities``.

    Raises:
      ValueError: probabilities outside of [0, 1], or one of a child that comes out above 1.

    References:
      SynthSAEBench, arXiv 2602.14687.
    """
    name = "compensate"
    if not isinstance(hierarchy, Tree):
        raise TypeError(
            f"{name}: the hierarchy is a {type(hierarchy).__name__}; a Tree, as "
            "synthetic.tree(parents) makes it, is expected."
        )
    (wanted,) = _checks.floating(name, probabilities)
    num_units = hierarchy.first_child.shape[0]
    if wanted.shape != (num_units,):
        raise ValueError(
            f"{name}: probabilities have shape {wanted.shape}; one for each of the {num_units} "
            "units of the tree is expected."
        )
    _checks.finite(name, probabilities=wanted)
    if _checks.concrete(wanted):
        host = to_host(wanted)
        if bad := np.flatnonzero((host < 0) | (host > 1)).tolist():
            raise ValueError(
                f"{name}: probabilities[{bad[0]}] is {host[bad[0]]:.6g}; a number from 0 to 1 is "
                "expected."
            )
    parents = hierarchy.parents()
    child, above = parents >= 0, jnp.maximum(parents, 0)
    ratio = jnp.where(child, wanted / jnp.where(wanted[above] == 0, 1, wanted[above]), 0)
    family = jnp.zeros(num_units, wanted.dtype).at[above].add(ratio)
    others = jnp.where(hierarchy.exclusive[above], family[above] - ratio, 0)
    needed = jnp.where(child, ratio * (1 + others), wanted)
    needed = jnp.where(child & (wanted[above] == 0) & (wanted > 0), jnp.inf, needed)
    if _checks.concrete(needed):
        host = to_host(needed)
        worst = int(np.argmax(host))
        if not host[worst] <= 1:
            raise ValueError(
                f"{name}: unit {worst} would have to fire with probability {host[worst]:.4g} when "
                f"its parent {int(parents[worst])} does, to be active with {float(wanted[worst])} "
                f"while the parent is with {float(wanted[above[worst]])}; at most 1 is expected. "
                "Take less for the children, or more for the parent."
            )
    return needed
