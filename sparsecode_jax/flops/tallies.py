"""Block counters: unsigned 32-bit, saturating, one or two for each block."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .table import Block

SATURATED = np.uint32(np.iinfo(np.uint32).max)


class Tally(NamedTuple):
    """Executions of one block: a uint32 scalar, and one for each lane of a batched loop."""

    executions: Any
    active: Any = None


def saturating_add(a: Any, b: Any) -> Any:
    """Add uint32 counters; a sum that does not fit becomes the largest value."""
    total = a + b
    return jnp.where(total < a, SATURATED, total)


def zero_tallies(blocks: Sequence[Block]) -> list[Tally]:
    """Return counters of blocks that have not run."""
    return [
        Tally(np.uint32(0), None if b.lanes is None else np.zeros(b.lanes, np.uint32))
        for b in blocks
    ]


def pack(tallies: Sequence[Tally]) -> list[Any]:
    """Flatten counters into a list of arrays."""
    return [leaf for tally in tallies for leaf in tally if leaf is not None]


def unpack(blocks: Sequence[Block], leaves: Sequence[Any]) -> list[Tally]:
    """Undo ``pack``."""
    rest = iter(leaves)
    return [Tally(*(next(rest) for _ in range(block.num_leaves))) for block in blocks]


def num_leaves(blocks: Sequence[Block]) -> int:
    """Return how many arrays ``pack`` makes of the counters of these blocks."""
    return sum(block.num_leaves for block in blocks)


def add_packed(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """Add two flat lists of counters."""
    return [saturating_add(x, y) for x, y in zip(a, b, strict=True)]


def index_steps(first: Any, last: Any, step: int) -> Any:
    """Return the iterations of a loop from its index, which a literal +1 or -1 advances."""
    change = last - first if step > 0 else first - last
    return to_counter(change)


def to_counter(number: Any) -> Any:
    """Convert non-negative integers to uint32, what does not fit to the largest value."""
    if jnp.iinfo(number.dtype).max > SATURATED:
        number = jnp.minimum(number, SATURATED.astype(number.dtype))
    return number.astype(jnp.uint32)


def loop_tally(steps: Any, lanes: tuple[int, ...]) -> Tally:
    """Return the counters of a loop over ``lanes`` from its iterations, one a lane."""
    return Tally(steps.max(), steps) if lanes else Tally(steps)


def widen(tally: Tally, outside: Block, lanes: tuple[int, ...]) -> Tally:
    """Give an inner block's counters the shape they have inside a loop over ``lanes``."""
    if not lanes:
        return tally
    executions = jnp.broadcast_to(tally.executions, lanes)
    if tally.active is None:
        return Tally(executions, executions)
    missing = len(outside.lanes or ()) - tally.active.ndim
    active = jnp.broadcast_to(tally.active, lanes[:missing] + tally.active.shape)
    return Tally(executions, active)


def narrow(leaves: Sequence[Any], blocks: Sequence[Block], lanes: tuple[int, ...]) -> list[Tally]:
    """Undo ``widen`` after the loop: executions are those of the lane that ran longest."""
    tallies = unpack(blocks, leaves)
    if not lanes:
        return tallies
    return [Tally(tally.executions.max(), tally.active) for tally in tallies]


def sum_over_devices(stacked: Any) -> Any:
    """Add up counters along their leading axis."""
    columns = stacked.reshape(stacked.shape[0], -1).T
    return jax.vmap(saturating_sum)(columns).reshape(stacked.shape[1:])


def saturating_sum(values: Any) -> Any:
    """Add up an array of uint32 counters; a sum that does not fit becomes the largest value."""
    flat = values.reshape(-1)
    if flat.size > 0xFFFF:  # sums of the halves below must fit
        flat = jnp.pad(flat, (0, -flat.size % 0xFFFF)).reshape(0xFFFF, -1)
        flat = jnp.stack([saturating_sum(column) for column in flat.T])
        return saturating_sum(flat)
    low = (flat & np.uint32(0xFFFF)).sum(dtype=jnp.uint32)
    high = (flat >> np.uint32(16)).sum(dtype=jnp.uint32) + (low >> np.uint32(16))
    total = (high << np.uint32(16)) | (low & np.uint32(0xFFFF))
    return jnp.where(high <= np.uint32(0xFFFF), total, SATURATED)
