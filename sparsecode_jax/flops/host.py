"""Counters on the host: exact integers, addition of counts, and division of totals."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan
from typing import Any

import jax
import numpy as np

from . import _compat, counters
from .errors import FlopCountError, OpenTripCountError, SaturatedCounterError
from .table import Block, Table, matching_block
from .tallies import SATURATED

Row = Sequence[Any]


def exact(leaf: Any, block: Block, caller: str) -> Any:
    """Return a counter as an exact integer, or as an object array of them."""
    if leaf is None:
        raise OpenTripCountError(
            f"{caller}: how often {block.label} runs depends on values, so eval_flops leaves it "
            "open. Run value_and_flops(fun)(*args) with arrays, or read trips() and str(count), "
            "which show what is known."
        )
    if isinstance(leaf, _compat.Tracer | jax.ShapeDtypeStruct):
        raise FlopCountError(
            "a FlopCount has no values inside a traced function (jit, vmap, scan, grad): return it "
            "from there, or combine counts with +, and ask for totals outside."
        )
    if not counters.is_counter(leaf):
        return _exact_on_host(leaf, caller)
    words = saved(leaf).astype(object)
    if np.any(words[..., 1] == int(SATURATED)):
        raise SaturatedCounterError(
            f"{block.label} ran at least {int(SATURATED)} times, more than its counter holds. "
            "Count shorter stretches and add them, count_a + count_b."
        )
    return words[..., 0] + (words[..., 1] << 32)


def _exact_on_host(leaf: Any, caller: str) -> Any:
    """Return counters that were added up on the host: integers, or object arrays of them."""
    numbers = leaf.flat if isinstance(leaf, np.ndarray) else [leaf]
    if all(type(number) is int and number >= 0 for number in numbers):
        return leaf
    raise FlopCountError(
        f"{caller}: its counters are no longer counters but {type(leaf).__name__} {leaf!r}; "
        "arithmetic on them (a mean, a difference, jax.tree.map(jnp.add, a, b)) is not exact. Add "
        "counts with count_a + count_b and lanes with count.sum(), and divide totals."
    )


def check_current(block: Block, leaf: Any, caller: str) -> None:
    """Refuse costs that a later registration, or the platform a program ran on, made wrong."""
    if block.made is None:
        return
    if changed := block.made.changes():
        raise FlopCountError(
            f"{caller}: {changed[0]!r} was counted by an old rule and has been registered anew "
            "since. Count again: compiled functions keep old costs until jax.clear_caches()."
        )
    platforms = _platforms(leaf) if block.made.platform else set()
    if platforms - {block.made.platform}:
        raise FlopCountError(
            f"{caller}: the program chooses operations by platform and was counted for "
            f"{block.made.platform!r}, but ran on {platforms.pop()!r}. Trace it under "
            "jax.default_device(device) of the one that it runs on."
        )


def _platforms(leaf: Any) -> set[str]:
    known = isinstance(leaf, jax.Array) and not isinstance(leaf, _compat.Tracer)
    return {device.platform for device in leaf.devices()} if known else set()


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


def add_traced(x: Any, y: Any) -> Any:
    """Add counters inside a traced function."""
    if x is None or y is None:
        return None
    if not (counters.is_counter(x) and counters.is_counter(y)):
        raise FlopCountError(
            "+: a count of integers, as count.sum() returns, was added inside a traced function, "
            "where integers hold 32 bits. Start from FlopCount.zeros_like(count), or add outside."
        )
    return counters.add(x, y)


def same(x: Any, y: Any) -> bool:
    """Tell whether two counters are equal, wherever they are."""
    if x is None or y is None:
        return x is y
    return bool(np.array_equal(saved(x), saved(y)))


def saved(leaf: Any) -> Any:
    """Return a counter as an array of uint32 with an axis of two words, anything else as it is."""
    if not counters.is_counter(leaf):
        return leaf
    with jax.ensure_compile_time_eval():  # also while some other function is traced
        return np.asarray(counters.words_of(leaf))


def loaded(leaf: Any) -> Any:
    """Undo ``saved``."""
    plain = isinstance(leaf, np.ndarray) and leaf.dtype == np.uint32
    return counters.from_words(leaf) if plain else leaf
