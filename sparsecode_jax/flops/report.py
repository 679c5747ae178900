"""The printable table of a count."""

from typing import Any

import jax
import numpy as np

from . import _compat, counters, host
from . import conventions as cls
from .breakdown import lines_of, sizes_of, tree_of
from .errors import FlopCountError


def report(count: Any) -> str:
    """Render a count: totals by class and convention, then loops and lock-step efficiency.

    Args:
        count: a FlopCount. Batched counters are shown as their sum over lanes.

    Returns:
        Several lines of text. Blocks with open or unknown executions are shown symbolically.
    """
    shape = np.shape(count.counters[0])
    head = "FlopCount" + (f", summed over lanes {shape}" if shape else "")
    try:
        closed = count.sum() if shape else count
        rows = _class_rows(closed)
    except FlopCountError:
        return "\n".join([head, *_symbolic_rows(count)])
    lines = [head, *_align([["class", *cls.CONVENTIONS], *rows])]
    if closed.total({cls.INTEGER: 1}):
        lines.append('products of integers count under "ops" alone')
    tallied = _class_rows(closed, work="algorithmic")
    if len(tallied) > 1:
        lines += ["", *_align([["algorithmic (tally)", *cls.CONVENTIONS], *tallied])]
    parts = tree(closed, "arithmetic", 3)
    lines += ["", *parts] if len(parts) > 1 else []
    trips = closed.trips()
    if trips:
        lines += ["", *_align([["loop", "iterations"], *([k, _n(v)] for k, v in trips.items())])]
    if any(block.lanes for block in count.table):
        lines += ["", f"useful fraction of lock-step lanes: {closed.useful_fraction():.4f}"]
    low, high = closed.bytes_moved()
    lines += ["", f"bytes moved: {low:,} fused to {high:,} unfused"]
    return "\n".join(lines)


def tree(count: Any, convention: Any, depth: int | None, params: Any = None) -> list[str]:
    """Return the lines of a count's tree by named scope, with each one's parameters if given."""
    rows = count.rows(convention)
    sizes = None if params is None else sizes_of(params)
    phases = len({row["phase"] for row in rows}) > 1
    head = ["scope", *([] if sizes is None else ["parameters"]), "operations", "share"]
    return _align([head, *lines_of(tree_of(rows, depth), sizes, () if not phases else None)])


def _class_rows(count: Any, work: str = "executed") -> list[list[str]]:
    views = {name: count.by("class", name, work=work) for name in cls.CONVENTIONS}
    rows = [
        [name, *(_n(view.get(name, 0)) for view in views.values())]
        for name in cls.CLASSES
        if any(name in view for view in views.values())
    ]
    return [*rows, ["total", *(_n(count.total(name, work=work)) for name in cls.CONVENTIONS)]]


def _symbolic_rows(count: Any) -> list[str]:
    """Show each block's cost beside the number of executions, ``?`` where it is not known."""
    rows = [["block", "executions", *cls.CONVENTIONS, "unknown"]]
    for block, executions, _ in count._blocks("str"):
        costs = [
            sum(weights.get(key.cost_class, 0) * amount for key, amount in block.costs)
            for weights in cls.CONVENTIONS.values()
        ]
        unknown = sorted({key.primitive for key, _ in block.costs if key.cost_class == cls.UNKNOWN})
        times = "?" if executions is None else str(executions)
        abstract = isinstance(executions, _compat.Tracer | jax.ShapeDtypeStruct)
        if counters.is_counter(executions) and not abstract:
            times = str(host.exact(executions, block, "str"))
        rows.append([block.label, times, *map(_n, costs), " ".join(unknown) or "-"])
    return ["operations an execution:", *_align(rows)]


def _n(value: Any) -> str:
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
