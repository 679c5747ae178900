"""Let solvers run inside ``shard_map`` with its check of what varies between devices."""

from __future__ import annotations

from typing import Any

import jax

from sparsecode_jax.types import PyTree

__all__ = ["varying_like"]


def varying_like(tree: PyTree, *others: Any) -> PyTree:
    """Mark the arrays of a tree as varying over the mesh axes over which any other one varies.

    A loop's carry must have the type that its body returns; a state begins with constants, and a
    step mixes signals into them. Outside of ``shard_map`` this returns the tree.
    """
    axes = frozenset[Any]().union(*(_axes(leaf) for leaf in jax.tree.leaves(others)))
    if not axes:
        return tree

    def vary(leaf: Any) -> Any:
        missing = tuple(axes - _axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _axes(leaf: Any) -> frozenset[Any]:
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)  # before jax 0.10 the attribute was vma
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying
