"""The result of counting: block counters on top of a static table."""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from . import breakdown, counters, host
from . import conventions as cls
from .errors import FlopCountError, UnknownPrimitiveError
from .table import Block, Key, Table, whole

Convention = str | Mapping[str, int]
GROUPS = ("class", "primitive", "scope", "dtype", "module")
WORK = ("executed", "algorithmic")


class FlopCount:
    """How often each basic block of a program ran, and what one execution of each costs.

    A pytree: its leaves are counters (at least one, the constant 1 of the root block), its table
    is static. It can be returned from ``jax.jit``, ``jax.vmap`` and ``jax.lax.scan``, whose lanes
    or steps then become axes of every counter. Counters hold 64 bits and refuse arithmetic: add
    counts with ``+``. Totals are taken on the host, in exact Python integers.

    Attributes:
        counters: one leaf for each counter, None where ``eval_flops`` leaves it open.
        table: the blocks, root first.
    """

    __slots__ = ("counters", "table")

    def __init__(self, counters: tuple[Any, ...], table: Table):
        self.counters = counters
        self.table = table

    def total(
        self,
        convention: Convention = "arithmetic",
        *,
        transcendental: int = 1,
        work: str = "executed",
    ) -> Any:
        """Sum the operations of all executions.

        Args:
            convention: ``"matmul"``, ``"arithmetic"``, ``"all"``, ``"ops"``, or a mapping from
                class names to weights. **Static**.
            transcendental: factor on the weight of exp, log, tanh and their kind. **Static**.
            work: ``"executed"`` for what the program performs, ``"algorithmic"`` for what
                ``tally`` booked. The two are never added. **Static**.

        Returns:
            An exact Python integer; for batched counters a NumPy object array of them, one a
            lane.

        Raises:
            FlopCountError: if a rule that was used has been registered anew, if the program ran
                on another platform than its choices were counted for, or if the counters went
                through foreign arithmetic.
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
        sums = self._accumulate("total", work, lambda k: weights[k.cost_class], lambda k: "")
        return sums.get("", self._zero())

    def by(
        self,
        group: str,
        convention: Convention = "arithmetic",
        *,
        transcendental: int = 1,
        work: str = "executed",
    ) -> dict[str, Any]:
        """Break the total down.

        Args:
            group: ``"class"``, ``"primitive"``, ``"scope"`` (named scopes), ``"module"`` (those
                without the marks of derivatives and of vmap, forward and backward together) or
                ``"dtype"`` (of a product that of its factors, the wider one). **Static**.
            convention: as in ``total``. **Static**.
            transcendental: as in ``total``. **Static**.
            work: as in ``total``; tallies are named under ``"primitive"``. **Static**.

        Returns:
            Operations by name, those that count for nothing left out; the values add up to
            ``total``.

        Raises:
            FlopCountError: for an unknown group, and as ``total``.
        """
        if group not in GROUPS:
            raise FlopCountError(f"by: unknown group {group!r}; expected one of {list(GROUPS)}.")
        weights = cls.class_weights(convention, transcendental)
        name: Callable[[Key], str] = operator.itemgetter(GROUPS.index(group) % len(Key._fields))
        if group == "module":
            name = lambda key: "/".join(breakdown.place_of(key.scope)[1])  # noqa: E731
        return self._accumulate("by", work, lambda k: weights[k.cost_class], name)

    def bytes_moved(self) -> tuple[Any, Any]:
        """Bound the bytes moved between memory and arithmetic units.

        Below, every region of the program - the program itself, each execution of a while body,
        of its condition or of a branch, each step of a scan - is one perfectly fused pass: it
        reads each input that it uses and writes each output that it computes once; values handed
        on, reshaped or transposed do not move, of sliced operands the slices are read, and updates
        write what they set. Above, nothing is fused: every operation reads its operands and
        writes its results, layout changes included. Neither has a cache that outlives an
        execution; hardware with one can move less than the lower bound.

        Returns:
            ``(low, high)``, exact integers with ``low <= high``; object arrays when batched.

        Raises:
            OpenTripCountError, SaturatedCounterError, FlopCountError: as ``total``.

        Example:
            >>> _, count = value_and_flops(lambda x: 2.0 * x + 1.0)(jax.numpy.ones(8))
            >>> count.bytes_moved()
            (64, 128)
        """
        low = high = self._zero()
        for block, executions, _ in self._blocks("bytes_moved"):
            if any(block.moved):
                times = host.exact(executions, block, "bytes_moved")
                low, high = low + block.moved[0] * times, high + block.moved[1] * times
        return low, high

    def arithmetic_intensity(self, convention: Convention = "arithmetic") -> tuple[Any, Any]:
        """Bound the operations per byte moved.

        Args:
            convention: as in ``total``. **Static**.

        Returns:
            ``(low, high)``, operations over the upper and the lower bound of ``bytes_moved``:
            floats, or arrays of them for batched counters. Infinite where nothing moves, NaN where
            nothing is done either.

        Raises:
            FlopCountError: as ``total`` and ``bytes_moved``.
        """
        least, most = self.bytes_moved()
        operations = self.total(convention)
        return host.ratio(operations, most), host.ratio(operations, least)

    def trips(self) -> dict[str, Any]:
        """Return iterations of every loop, by scope and source line.

        Returns:
            Exact integers (object arrays when batched) by label; iterations still open, after
            ``eval_flops``, are None.

        Raises:
            SaturatedCounterError: if a counter overflowed.
        """
        trips: dict[str, Any] = {}
        for block, executions, _ in self._blocks("trips"):
            rows = [(block.label, 1)] if block.is_loop else []
            rows += [(loop.label, times) for loop, times in block.loops]
            for label, times in rows:
                known = (
                    None if executions is None else times * host.exact(executions, block, "trips")
                )
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
        for block, executions, active in self._blocks("useful_fraction"):
            cost = sum(amount * weights.get(key.cost_class, 0) for key, amount in block.costs)
            if active is None or not cost or block.is_tally:
                continue
            if not block.aligned:
                raise FlopCountError(
                    f"useful_fraction: {block.label} is batched over a mapped axis as long as that "
                    "of the loop around it, but not the same one, so lanes cannot be matched. "
                    "Map over axes of different lengths, or use jax.vmap(value_and_flops(fun))."
                )
            # Over a common denominator, so that the sums stay exact integers.
            useful = useful * block.num_lanes + lanes * cost * host.exact(
                active, block, "useful_fraction"
            )
            executed = executed * block.num_lanes + (
                lanes * cost * block.num_lanes * host.exact(executions, block, "useful_fraction")
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
        sums: list[Any] = []
        for block, *leaves in self._blocks("sum"):
            own = leaves[: block.num_leaves]
            sums += [host.plain_sum(host.exact(leaf, block, "sum")) for leaf in own]
        return FlopCount(tuple(sums), self.table)

    def rows(
        self, convention: Convention = "arithmetic", *, work: str = "executed"
    ) -> list[dict[str, Any]]:
        """Return the total in as many rows as it has parts, for a table.

        Args:
            convention: as in ``total``. **Static**.
            work: as in ``total``. **Static**.

        Returns:
            Dicts with ``phase`` (forward, backward, recomputed or not differentiated), ``path``
            (named scopes from the outside in), ``class``, ``primitive``, ``dtype`` and
            ``operations``, most operations first, lanes added up. They add up to ``total``.

        Raises:
            FlopCountError: as ``total``.

        Example:
            >>> count = eval_flops(lambda x: x @ x, jax.ShapeDtypeStruct((2, 2), "float32"))
            >>> sum(row["operations"] for row in count.rows())
            16
        """
        count = self.sum() if np.shape(self.counters[0]) else self
        weights = cls.class_weights(convention)
        sums = count._accumulate("rows", work, lambda k: weights[k.cost_class], lambda k: k)
        rows = []
        for key, operations in sorted(sums.items(), key=lambda item: (-item[1], item[0])):
            phase, path = breakdown.place_of(key.scope)
            rows.append(
                {
                    "phase": phase,
                    "path": path,
                    "class": key.cost_class,
                    "primitive": key.primitive,
                    "dtype": key.dtype,
                    "operations": operations,
                }
            )
        return rows

    def as_dict(
        self, convention: Convention = "arithmetic", *, depth: int | None = None
    ) -> dict[str, Any]:
        """Return the total as a tree by named scope, forward and backward apart.

        Args:
            convention: as in ``total``. **Static**.
            depth: levels below the whole; None for all. **Static**.

        Returns:
            ``{"operations", "share", "parts"}``, where ``parts`` has the same of every inner scope
            by name, most operations first, and ``"(itself)"`` of a scope beside those inside it.
            Parts add up to the whole, shares are of the whole.

        Raises:
            FlopCountError: as ``total``.
        """
        return breakdown.tree_of(self.rows(convention), depth)

    def tree(
        self,
        convention: Convention = "arithmetic",
        *,
        depth: int | None = 3,
        params: Any = None,
    ) -> str:
        """Return ``as_dict`` as printable text; ``str`` has it too, to this depth.

        Args:
            convention: as in ``total``. **Static**.
            depth: levels to show; None for all. **Static**.
            params: a pytree of arrays or shapes, such as ``variables["params"]`` of a flax module:
                beside its operations each scope gets the number of its parameters, which are those
                whose path in the pytree begins with the scope's, or with the scope's less its
                outermost name, that of the model. A scope without any stays empty. **Static**.

        Raises:
            FlopCountError: as ``total``.

        Example:
            >>> @jax.named_scope("out")
            ... def out(w, x):
            ...     return x @ w
            >>> params = {"out": jax.ShapeDtypeStruct((3, 2), "float32")}
            >>> x = jax.ShapeDtypeStruct((5, 3), "float32")
            >>> count = eval_flops(lambda p, x: out(p["out"], x), params, x)
            >>> print(count.tree(params=params))
            scope  parameters  operations    share
            out             6          60  100.0 %
        """
        from .report import tree

        return "\n".join(tree(self, convention, depth, params))

    @staticmethod
    def zeros_like(count: "FlopCount") -> "FlopCount":
        """Return a count of nothing, to start a carry with that counts are added to.

        Args:
            count: of the function that is repeated, from a run, from ``eval_flops`` or from
                ``jax.eval_shape``. **Static**.

        Example:
            >>> zero = FlopCount.zeros_like(eval_flops(jax.numpy.sin, 0.5))
            >>> step = lambda total, x: (total + count_flops(jax.numpy.sin)(x), None)
            >>> jax.lax.scan(step, zero, jax.numpy.ones(10))[0].total()
            10
        """
        shape = np.shape(count.counters[0])
        return FlopCount(tuple(counters.zeros(shape) for _ in count.counters), count.table)

    def __add__(self, other: Any) -> "FlopCount":
        """Add two counts; blocks that both have are merged."""
        if isinstance(other, int) and other == 0:  # so that sum(counts) works
            return self
        if not isinstance(other, FlopCount):
            return NotImplemented
        if self.table == other.table and host.any_traced(self.counters + other.counters):
            pairs = zip(self.counters, other.counters, strict=True)
            return FlopCount(tuple(host.add_traced(a, b) for a, b in pairs), self.table)
        if host.any_traced(self.counters + other.counters):
            raise FlopCountError(
                "+: counts of two programs are added inside a traced function, where only counts "
                "of one can be. Return both, or start from FlopCount.zeros_like(count) of the one."
            )
        return FlopCount(*host.merge(self.table, self._rows(), other.table, other._rows()))

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        """Tell whether two counts have the same table and the same counters."""
        if not isinstance(other, FlopCount) or self.table != other.table:
            return False
        pairs = zip(self.counters, other.counters, strict=True)
        return all(a is b or host.same(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle counters as plain arrays, which every release of JAX reads."""
        return _load, (tuple(map(host.saved, self.counters)), self.table)

    def __repr__(self) -> str:
        """Return a short description; ``str`` gives the table."""
        return f"FlopCount({len(self.table)} blocks, counters {self.counters!r})"

    def __str__(self) -> str:
        """Return a printable table."""
        from .report import report

        return report(self)

    def _blocks(self, caller: str) -> Iterator[tuple[Block, Any, Any]]:
        rest = iter(self.counters)
        for block in self.table:
            executions = next(rest)
            host.check_current(block, executions, caller)
            yield block, executions, None if block.lanes is None else next(rest)

    def _rows(self) -> list[list[Any]]:
        return [leaves[: block.num_leaves] for block, *leaves in self._blocks("+")]

    def _zero(self) -> Any:
        shape = np.shape(self.counters[0])
        return np.zeros(shape, dtype=object) if shape else 0

    def _accumulate(
        self, caller: str, work: str, weight: Callable[[Key], int], name: Callable[[Key], Any]
    ) -> dict[Any, Any]:
        if work not in WORK:
            raise FlopCountError(f"{caller}: work is {work!r}; expected one of {list(WORK)}.")
        sums: dict[Any, Any] = {}
        for block, executions, _ in self._blocks(caller):
            if block.is_tally != (work == "algorithmic"):
                continue
            amounts: dict[Any, Any] = {}
            for key, amount in block.costs:
                if key.cost_class == cls.UNKNOWN:
                    raise UnknownPrimitiveError(key.dtype)  # which has the message
                if weight(key):
                    amounts[name(key)] = amounts.get(name(key), 0) + amount * weight(key)
            if not amounts:
                continue  # a counter that multiplies nothing need not be known
            times = host.exact(executions, block, caller)
            for group, amount in amounts.items():
                sums[group] = sums.get(group, self._zero()) + amount * times
        return {name: whole(n, str(name) or caller) for name, n in sums.items() if np.any(n)}


def _load(saved: tuple[Any, ...], table: Table) -> FlopCount:
    return FlopCount(tuple(map(host.loaded, saved)), table)


def _flatten(count: FlopCount) -> tuple[tuple[Any, ...], Table]:
    return count.counters, count.table


def _unflatten(table: Table, counters: Any) -> FlopCount:
    return FlopCount(tuple(counters), table)


jax.tree_util.register_pytree_node(FlopCount, _flatten, _unflatten)
