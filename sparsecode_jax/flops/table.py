"""Static tables: what one execution of each basic block costs.

A block is a region of the program that runs a data-dependent number of times; scans of static
length, nested jits and rematerialization fold into the block around them by integer
multiplication. Tables are hashable and compare by value, so they ride as auxiliary data of a
pytree.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from .errors import FlopCountError
from .rules import changed_since

TALLY = "tally"


class Key(NamedTuple):
    """What an operation is booked under."""

    cost_class: str
    primitive: str
    scope: str
    dtype: str


class Loop(NamedTuple):
    """Where a loop is in the program."""

    kind: str
    scope: str
    source: str

    @property
    def label(self) -> str:
        """One line that names the loop."""
        parts = (self.kind, self.scope, f"at {self.source}" if self.source else "")
        return " ".join(part for part in parts if part)


#: Tells this process from one that reads its counts.
_PROCESS = uuid4().hex


class Made(NamedTuple):
    """What costs rest on besides the program: registered rules, and a platform."""

    names: frozenset[str]
    version: int
    platform: str
    process: str = _PROCESS

    def changes(self) -> list[str]:
        """Return which operations were registered anew in the process that made the table."""
        return changed_since(self.names, self.version) if self.process == _PROCESS else []


@dataclass(frozen=True)
class Block:
    """One basic block: its cost an execution, and where it is in the program.

    Attributes:
        kind: ``"root"``, ``"while"``, ``"cond branch 1/2"``, ...
        scope: named scope of the loop or branch, ``""`` at the top.
        source: ``file.py:line (function)``.
        costs: operations an execution, by key, sorted; those that devices share are fractions.
        loops: iterations of every static scan, an execution.
        lanes: shape of the lanes that run in lock step, or None outside batched loops.
        is_loop: whether executions of this block are iterations of a loop.
        aligned: whether its lanes are known to be those of the batched loops around it.
        moved: bytes an execution, perfectly fused and unfused (see ``traffic``).
        made: of a root block, what the costs of its program rest on.
    """

    kind: str
    scope: str
    source: str
    costs: tuple[tuple[Key, int | Fraction], ...]
    loops: tuple[tuple[Loop, int], ...] = ()
    lanes: tuple[int, ...] | None = None
    is_loop: bool = False
    aligned: bool = True
    moved: tuple[int, int] = (0, 0)
    made: "Made | None" = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """One line that names the block."""
        return Loop(self.kind, self.scope, self.source).label

    @property
    def depends_on_platform(self) -> bool:
        """Whether the costs are those of one platform."""
        return self.made is not None and bool(self.made.platform)

    @property
    def is_tally(self) -> bool:
        """Whether it books algorithmic work, which the program does not execute as such."""
        return self.kind.startswith(TALLY)

    @property
    def num_lanes(self) -> int:
        """Lanes that run in lock step; 1 outside batched loops."""
        return 1 if self.lanes is None else prod(self.lanes)

    @property
    def num_leaves(self) -> int:
        """Counters the block has: executions, and active lanes of a batched loop."""
        return 1 if self.lanes is None else 2


Table = tuple[Block, ...]


def join_scopes(outer: str, inner: str) -> str:
    """Join two named scopes."""
    return f"{outer}/{inner}" if outer and inner else outer or inner


def whole(amount: Any, name: str) -> Any:
    """Return amounts as integers; fractions arise only between devices that share work."""
    if isinstance(amount, np.ndarray):
        return np.vectorize(partial(whole, name=name), otypes=[object])(amount)
    if int(amount) != amount:
        raise FlopCountError(
            f"{name}: its operations ({amount}) do not divide evenly over the devices."
        )
    return int(amount)


@dataclass(eq=False)
class Region:
    """A piece of program under analysis: static costs, static loops, and the blocks inside it.

    Of the bytes moved, ``own`` computes those of its own equations in one fused pass (not before
    they are needed: calls fold into the region around them), ``nested`` are those of the regions
    inside it that fold in, ``unfused`` those of all equations one by one.
    """

    costs: Counter = field(default_factory=Counter)
    loops: Counter = field(default_factory=Counter)
    blocks: list[Block] = field(default_factory=list)
    own: Callable[[], int] = int
    nested: int = 0
    unfused: int = 0

    @property
    def fused(self) -> int:
        """Bytes moved if every region is one fused pass."""
        return self.own() + self.nested

    def include(
        self, inner: "Region", times: int = 1, scope: str = "", inlined: bool = False
    ) -> None:
        """Add an inner region that runs ``times`` in each execution of this one.

        An inlined one is not a pass of its own: its equations fuse with those around it.
        """
        self.nested += times * (inner.nested if inlined else inner.fused)
        self.unfused += times * inner.unfused
        for key, amount in inner.costs.items():
            self.costs[key._replace(scope=join_scopes(scope, key.scope))] += amount * times
        for loop, amount in inner.loops.items():
            self.loops[loop._replace(scope=join_scopes(scope, loop.scope))] += amount * times
        if times:
            self.blocks.extend(scoped(block, scope) for block in inner.blocks)

    def as_block(self, kind: str, scope: str = "", source: str = "", **options: object) -> Block:
        """Freeze the costs of this region, without its inner blocks."""
        costs = tuple(sorted((key, n) for key, n in self.costs.items() if n))
        loops = tuple(sorted(self.loops.items()))
        moved = (self.fused, self.unfused)
        return Block(kind, scope, source, costs, loops, moved=moved, **options)  # type: ignore

    def same_costs(self, other: "Region") -> bool:
        """Tell whether two regions cost the same, whatever runs at run time."""
        return (
            not self.blocks
            and not other.blocks
            and +self.costs == +other.costs
            and self.loops == other.loops
        )


def scoped(block: Block, scope: str) -> Block:
    """Move a block under an outer named scope."""
    if not scope:
        return block
    outer = partial(join_scopes, scope)
    return replace(
        block,
        scope=outer(block.scope),
        costs=tuple(sorted((k._replace(scope=outer(k.scope)), n) for k, n in block.costs)),
        loops=tuple(sorted((p._replace(scope=outer(p.scope)), n) for p, n in block.loops)),
    )


def matching_block(table: Sequence[Block], block: Block, occurrence: int) -> int | None:
    """Return the index of the ``occurrence``-th block equal to ``block``, if there is one."""
    places = [index for index, other in enumerate(table) if other == block]
    return places[occurrence] if occurrence < len(places) else None
