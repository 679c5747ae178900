"""The result of counting: block counters on top of a static table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from sparsecode_jax.flops import _compat
from sparsecode_jax.flops import conventions as cls
from sparsecode_jax.flops.errors import (
    FlopCountError,
    OpenTripCountError,
    SaturatedCounterError,
    UnknownPrimitiveError,
)
from sparsecode_jax.flops.table import Block, Key, Table, matching_block
from sparsecode_jax.flops.tallies import SATURATED, saturating_add

Convention = str | Mapping[str, int]
GROUPS = ("class", "primitive", "scope", "dtype")


class FlopCount:
    """How often each basic block of a program ran, and what one execution of each costs.

    A pytree: its leaves are uint32 counters (at least one, the constant 1 of the root block), its
    table is static. It can be returned from ``jax.jit``, ``jax.vmap`` and ``jax.lax.scan``, whose
    lanes or steps then become axes of every counter. Totals are taken on the host, in exact
    Python integers.

    Attributes:
        counters: one leaf for each counter, None where ``eval_flops`` leaves it open.
        table: the blocks, root first.
    """

    __slots__ = ("counters", "table")

    def __init__(self, counters: tuple[Any, ...], table: Table):
        self.counters = counters
        self.table = table

    def total(self, convention: Convention = "arithmetic", *, transcendental: int = 1) -> Any:
        """Sum the operations of all executions.

        Args:
            convention: ``"matmul"``, ``"arithmetic"``, ``"all"``, or a mapping from class names
                to weights. **Static**.
            transcendental: factor on the weight of exp, log, tanh and their kind. **Static**.

        Returns:
            An exact Python integer; for batched counters a NumPy object array of them, one a
            lane.

        Raises:
            OpenTripCountError: if a block that costs anything has no known number of executions.
            SaturatedCounterError: if such a block's counter overflowed.
            UnknownPrimitiveError: if an operation without a rule was deferred.
            FlopCountError: inside a traced function, where counters have no values yet.

        Example:
            >>> _, count = value_and_flops(jax.numpy.dot)(jax.numpy.ones(8), jax.numpy.ones(8))
            >>> count.total()
            16
        """
        weights = cls.class_weights(convention, transcendental)
        return self._accumulate(lambda key: weights[key.cost_class], lambda key: "").get(
            "", self._zero()
        )

    def by(
        self, group: str, convention: Convention = "arithmetic", *, transcendental: int = 1
    ) -> dict[str, Any]:
        """Break the total down.

        Args:
            group: ``"class"``, ``"primitive"``, ``"scope"`` (named scopes) or ``"dtype"``.
                **Static**.
            convention: as in ``total``. **Static**.
            transcendental: as in ``total``. **Static**.

        Returns:
            Operations by name, those that count for nothing left out; the values add up to
            ``total``.

        Raises:
            FlopCountError: for an unknown group, and as ``total``.
        """
        if group not in GROUPS:
            raise FlopCountError(f"by: unknown group {group!r}; expected one of {list(GROUPS)}.")
        weights = cls.class_weights(convention, transcendental)
        place = GROUPS.index(group)
        return self._accumulate(lambda key: weights[key.cost_class], lambda key: key[place])

    def trips(self) -> dict[str, Any]:
        """Return iterations of every loop, by scope and source line.

        Returns:
            Exact integers (object arrays when batched) by label; iterations still open, after
            ``eval_flops``, are None.

        Raises:
            SaturatedCounterError: if a counter overflowed.
        """
        trips: dict[str, Any] = {}
        for block, executions, _ in self._blocks():
            rows = [(block.label, 1)] if block.is_loop else []
            rows += [(loop.label, times) for loop, times in block.loops]
            for label, times in rows:
                known = None if executions is None else times * _host(executions, block)
                before = trips.get(label, 0)
                trips[label] = None if known is None or before is None else before + known
        return trips

    def useful_fraction(self, convention: Convention = "arithmetic") -> Any:
        """Return active lanes over executed lanes of the loops that ran lanes in lock step.

        Loops are weighted by their operations. Lanes that wait for the slowest one are not
        active; the fraction is 1 where no loop is batched.

        Args:
            convention: as in ``total``. **Static**.

        Returns:
            A float, or an array of them for batched counters.

        Raises:
            FlopCountError: as ``total``.
        """
        weights = cls.class_weights(convention)
        useful: Any = self._zero()
        executed: Any = self._zero()
        lanes = 1
        for block, executions, active in self._blocks():
            cost = sum(amount * weights.get(key.cost_class, 0) for key, amount in block.costs)
            if active is None or not cost or block.kind.startswith("tally"):
                continue
            if not block.aligned:
                raise FlopCountError(
                    f"useful_fraction: {block.label} is batched over a mapped axis as long as that "
                    "of the loop around it, but not the same one, so lanes cannot be matched. "
                    "Map over axes of different lengths, or use jax.vmap(value_and_flops(fun))."
                )
            # Over a common denominator, so that the sums stay exact integers.
            useful = useful * block.num_lanes + lanes * cost * _host(active, block)
            executed = executed * block.num_lanes + (
                lanes * cost * block.num_lanes * _host(executions, block)
            )
            lanes *= block.num_lanes
        if isinstance(executed, np.ndarray):
            idle = executed == 0
            return np.where(idle, 1.0, useful / np.where(idle, 1, executed)).astype(float)
        return useful / executed if executed else 1.0

    def sum(self) -> "FlopCount":
        """Add up all lanes, exactly, on the host.

        Returns:
            A count whose counters are Python integers.

        Raises:
            FlopCountError: for counters without values (traced, saturated or open).
        """
        counters: list[Any] = []
        for block, *leaves in self._blocks():
            for leaf in leaves[: block.num_leaves]:
                if leaf is None:
                    raise OpenTripCountError(_open_message("sum", block))
                counters.append(_plain_sum(_host(leaf, block)))
        return FlopCount(tuple(counters), self.table)

    def __add__(self, other: Any) -> "FlopCount":
        """Add two counts; blocks that both have are merged."""
        if isinstance(other, int) and other == 0:  # so that sum(counts) works
            return self
        if not isinstance(other, FlopCount):
            return NotImplemented
        if self.table == other.table and _any_traced(self.counters + other.counters):
            pairs = zip(self.counters, other.counters, strict=True)
            return FlopCount(tuple(saturating_add(a, b) for a, b in pairs), self.table)
        return _merge(self, other)

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        """Tell whether two counts have the same table and the same counters."""
        if not isinstance(other, FlopCount) or self.table != other.table:
            return False
        pairs = zip(self.counters, other.counters, strict=True)
        return all(a is b or bool(np.array_equal(a, b)) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return a short description; ``str`` gives the table."""
        return f"FlopCount({len(self.table)} blocks, counters {self.counters!r})"

    def __str__(self) -> str:
        """Return a printable table."""
        from sparsecode_jax.flops.report import report

        return report(self)

    def _blocks(self) -> Iterator[tuple[Block, Any, Any]]:
        rest = iter(self.counters)
        for block in self.table:
            executions = next(rest)
            yield block, executions, None if block.lanes is None else next(rest)

    def _zero(self) -> Any:
        shape = np.shape(self.counters[0])
        return np.zeros(shape, dtype=object) if shape else 0

    def _accumulate(
        self, weight: Callable[[Key], int], name: Callable[[Key], str]
    ) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        for block, executions, _ in self._blocks():
            amounts: dict[str, int] = {}
            for key, amount in block.costs:
                if key.cost_class == cls.UNKNOWN:
                    from sparsecode_jax.flops.analyze import unknown_message

                    raise UnknownPrimitiveError(unknown_message(key.primitive, key.dtype))
                if weight(key):
                    amounts[name(key)] = amounts.get(name(key), 0) + amount * weight(key)
            if not amounts:
                continue  # a counter that multiplies nothing need not be known
            if executions is None:
                raise OpenTripCountError(_open_message("total", block))
            times = _host(executions, block)
            for group, amount in amounts.items():
                sums[group] = sums.get(group, self._zero()) + amount * times
        return sums


def _flatten(count: FlopCount) -> tuple[tuple[Any, ...], Table]:
    return count.counters, count.table


def _unflatten(table: Table, counters: Any) -> FlopCount:
    return FlopCount(tuple(counters), table)


jax.tree_util.register_pytree_node(FlopCount, _flatten, _unflatten)


def _any_traced(leaves: tuple[Any, ...]) -> bool:
    return any(isinstance(leaf, _compat.Tracer) for leaf in leaves)


def _host(leaf: Any, block: Block) -> Any:
    """Return a counter as an exact integer, or as an object array of them."""
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


def _plain_sum(values: Any) -> int:
    return int(values.sum()) if isinstance(values, np.ndarray) else values


def _open_message(caller: str, block: Block) -> str:
    return (
        f"{caller}: how often {block.label} runs depends on values, so eval_flops leaves it open. "
        "Run value_and_flops(fun)(*args) with arrays, or read trips() and str(count), which show "
        "what is known."
    )


def _merge(a: FlopCount, b: FlopCount) -> FlopCount:
    """Add two counts of different programs on the host, block by block."""
    table = list(a.table)
    rows: list[list[Any]] = [[*leaves[: block.num_leaves]] for block, *leaves in a._blocks()]
    seen: dict[Block, int] = {}
    for block, *leaves in b._blocks():
        place = matching_block(a.table, block, seen.get(block, 0))
        seen[block] = seen.get(block, 0) + 1
        if place is None:
            table.append(replace(block))
            rows.append([*leaves[: block.num_leaves]])
        else:
            pairs = zip(rows[place], leaves, strict=False)
            rows[place] = [_add_on_host(x, y, block) for x, y in pairs]
    return FlopCount(tuple(leaf for row in rows for leaf in row), tuple(table))


def _add_on_host(x: Any, y: Any, block: Block) -> Any:
    if x is None or y is None:
        return None
    return _host(x, block) + _host(y, block)
