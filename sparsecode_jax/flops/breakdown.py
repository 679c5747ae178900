"""Where operations are: rows for a table, and a tree by named scope.

Scopes are what ``jax.named_scope`` and modules (flax.linen, haiku) name. Differentiation wraps
them: ``jvp(Net)/Dense_0`` is forward, ``transpose(jvp(Net))/Dense_0`` backward, and what
``jax.checkpoint`` computes anew stands under ``rematted_computation``.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_WRAPPED = re.compile(r"(jvp|transpose|vmap|pmap|shard_map)\((.*)\)")
Sizes = Sequence[tuple[tuple[str, ...], int]]
_RECOMPUTED = "rematted_computation"
ITSELF = "(itself)"


def place_of(scope: str) -> tuple[str, tuple[str, ...]]:
    """Return the phase and the path of a scope, without the wrappers of transformations."""
    path: list[str] = []
    wrappers: set[str] = set()
    for part in _split(scope):
        while match := _WRAPPED.fullmatch(part):
            wrappers.add(match[1])
            part = match[2]
        path += [part] if part else []
    if _RECOMPUTED in path:
        return "recomputed", tuple(part for part in path if part != _RECOMPUTED)
    if "transpose" in wrappers:
        return "backward", tuple(path)
    return "forward" if "jvp" in wrappers else "not differentiated", tuple(path)


def _split(scope: str) -> list[str]:
    """Split at slashes outside of parentheses."""
    parts, depth = [""], 0
    for letter in scope:
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def tree_of(rows: Sequence[dict[str, Any]], depth: int | None) -> dict[str, Any]:
    """Sum rows by phase and scope, as nested dicts; phases only where there is more than one."""
    phases = {row["phase"] for row in rows}
    leaves = [
        (
            (row["phase"], *row["path"]) if len(phases) > 1 else row["path"],
            row["operations"],
        )
        for row in rows
    ]
    return _node(leaves, sum(n for _, n in leaves), depth)


def _node(leaves: Any, total: int, depth: int | None) -> dict[str, Any]:
    operations = sum(n for _, n in leaves)
    node = {"operations": operations, "share": operations / total if total else 0.0, "parts": {}}
    groups: dict[str, list[Any]] = {}
    for path, n in leaves:
        groups.setdefault(path[0] if path else ITSELF, []).append((path[1:], n))
    if depth == 0 or set(groups) <= {ITSELF}:
        return node
    deeper = None if depth is None else depth - 1
    parts = {
        name: _node(inner, total, 0 if name == ITSELF else deeper) for name, inner in groups.items()
    }
    node["parts"] = dict(sorted(parts.items(), key=lambda item: (-item[1]["operations"], item[0])))
    return node


def lines_of(
    node: dict[str, Any], sizes: Sizes | None, scope: tuple[str, ...] | None, indent: int = 0
) -> list[list[str]]:
    """Return name, parameters, operations and share of every part, indented by its depth.

    ``scope`` is that of the node, None where its parts are phases; ``sizes`` is None where
    parameters are not asked for.
    """
    rows: list[list[str]] = []
    for name, part in node["parts"].items():
        inner = () if scope is None else (*scope, name)
        size = [] if sizes is None else [_held(sizes, inner, part, len(node["parts"]) == 1)]
        share = f"{100 * part['share']:.1f} %"
        rows.append(["  " * indent + name, *size, f"{part['operations']:,}", share])
        rows += lines_of(part, sizes, inner, indent + 1)
    return rows


def sizes_of(params: Any) -> Sizes:
    """Return the path and the number of entries of every leaf of a pytree."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [
        (tuple(_split(jax.tree_util.keystr(path, simple=True, separator="/"))), np.size(leaf))
        for path, leaf in leaves
    ]


def _held(sizes: Sizes, scope: tuple[str, ...], part: dict[str, Any], alone: bool) -> str:
    """Return how many parameters are a scope's, or nothing where none are.

    A method that calls another one of its module repeats the module's name. An outermost scope is
    the model if the parameters of a scope inside it are found, or if it is the only one.
    """
    scope = tuple(name for name, _ in itertools.groupby(scope))
    names = {path[0] for path, _ in sizes if path}
    model = len(scope) == 1 and (alone or any(name in names for name in part["parts"]))
    for prefix in (scope, scope[1:]):
        found = [size for path, size in sizes if path[: len(prefix)] == prefix]
        if found and (prefix or model):
            return f"{sum(found):,}"
    return ""
