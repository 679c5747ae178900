"""Counters on the host: exact integers, addition of counts, and division of totals."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np

from sparsecode_jax.flops import _compat
from sparsecode_jax.flops.errors import FlopCountError, OpenTripCountError, SaturatedCounterError
from sparsecode_jax.flops.table import Block, Table, matching_block
from sparsecode_jax.flops.tallies import SATURATED

Row = Sequence[Any]


def exact(leaf: Any, block: Block, caller: str) -> Any:
    """Return a counter as an exact integer, or as an object array of them."""
    if leaf is None:
        raise OpenTripCountError(
            f"{caller}: how often {block.label} runs depends on values, so eval_flops leaves it "
            "open. Run value_and_flops(fun)(*args) with arrays, or read trips() and str(count), "
            "which show what is known."
        )
    if isinstance(leaf, _compat.Tracer) or not (hasattr(leaf, "__array__") or np.isscalar(leaf)):
        raise FlopCountError(
            "a FlopCount has no values inside a traced function (jit, vmap, scan, grad): return it "
            "from there, or combine counts with +, and ask for totals outside."
        )
    if isinstance(leaf, int):
        return leaf
    values = np.asarray(leaf)
    if values.dtype == np.uint32 and np.any(values == SATURATED):
        raise SaturatedCounterError(
            f"{block.label} ran at least {int(SATURATED)} times, more than its 32-bit counter "
            "holds. Count shorter stretches and add them on the host, count_a + count_b."
        )
    values = values.astype(object)
    return values if values.ndim else values.item()


def plain_sum(values: Any) -> int:
    """Add up all lanes."""
    return int(values.sum()) if isinstance(values, np.ndarray) else values


def any_traced(leaves: Sequence[Any]) -> bool:
    """Tell whether some counter has no value yet."""
    return any(isinstance(leaf, _compat.Tracer) for leaf in leaves)


def ratio(a: Any, b: Any) -> Any:
    """Divide exact integers, or arrays of them; x / 0 is infinite and 0 / 0 not a number."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.vectorize(ratio, otypes=[float])(a, b)
    return a / b if b else (inf if a else nan)


def merge(
    table_a: Table, rows_a: Sequence[Row], table_b: Table, rows_b: Sequence[Row]
) -> tuple[tuple[Any, ...], Table]:
    """Add the counters of two programs, block by block.

    Returns:
        The counters and the table of the sum: the first program's blocks, then the second's own.
    """
    table, rows = list(table_a), [list(row) for row in rows_a]
    seen: dict[Block, int] = {}
    for block, row in zip(table_b, rows_b, strict=True):
        place = matching_block(table_a, block, seen.get(block, 0))
        seen[block] = seen.get(block, 0) + 1
        if place is None:
            table.append(replace(block))
            rows.append(list(row))
        else:
            pairs = zip(rows[place], row, strict=True)
            rows[place] = [_add(x, y, block) for x, y in pairs]
    return tuple(leaf for row in rows for leaf in row), tuple(table)


def _add(x: Any, y: Any, block: Block) -> Any:
    if x is None or y is None:
        return None
    return exact(x, block, "+") + exact(y, block, "+")
