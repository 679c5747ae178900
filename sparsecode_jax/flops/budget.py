"""Loops that stop before they have spent more operations than they may."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import counters
from .conventions import class_weights
from .count import Convention, FlopCount
from .errors import FlopCountError
from .table import Block, whole
from .transform import count_flops, value_and_flops

_BITS = 16  # of a digit: products of two fit into 32 bits
_MASK = np.uint32((1 << _BITS) - 1)


def with_flop_budget(
    step: Callable[..., Any], budget: int, *, convention: Convention = "arithmetic"
) -> Callable[..., tuple[Any, FlopCount]]:
    """Repeat a step until the next one would pass a budget of operations.

    For comparisons at equal work. Steps whose costs depend on values (line searches, inner solvers)
    are counted as they run: the one that would pass the budget is tried, and thrown away. Where
    every step costs the same, their number follows from the budget, and the loop is a
    ``fori_loop`` without counters. The loop also ends when a step costs nothing.

    Args:
        step: ``step(state, *args) -> state``. **Static**.
        budget: operations, a non-negative integer of any size. **Static**.
        convention: as in ``FlopCount.total``. **Static**.

    Returns:
        A function ``(state, *args) -> (state, count)`` to be called under ``jit`` or ``vmap`` (each
        lane has the budget to itself), with ``count.total(convention) <= budget``. The operations
        of the step that was thrown away, and those of the loop itself, are not in the count.

    Raises:
        FlopCountError: if ``budget`` is not a non-negative integer. On the call, if every step
            costs nothing, or if 2³¹ steps or more would fit.

    Example:
        >>> halve = with_flop_budget(lambda x: x / 2, 5)
        >>> state, count = halve(jax.numpy.float32(64))
        >>> float(state), count.total()
        (2.0, 5)
    """
    try:
        limit = operator.index(budget)
    except TypeError:
        limit = -1
    if limit < 0 or not callable(step):
        raise FlopCountError(
            f"with_flop_budget: budget is {budget!r} and step is {step!r}; expected a non-negative "
            "integer and a function step(state, *args) -> state."
        )
    weights = class_weights(convention)

    def run(state: Any, *args: Any) -> tuple[Any, FlopCount]:
        shape = jax.eval_shape(count_flops(step), state, *args)
        costs = [_cost(block, weights) for block in shape.table]
        if len(costs) == 1:
            num_steps = _steps(limit, costs[0])
            state = jax.lax.fori_loop(0, num_steps, lambda _, s: step(s, *args), state)
            return state, FlopCount((counters.counter(np.uint32(num_steps)),), shape.table)

        def going_on(carry: Any) -> Any:
            _, _, _, tried, useful = carry
            return useful & _at_most(_spent(tried, costs), limit)

        def body(carry: Any) -> Any:
            _, _, state, total, _ = carry
            following, count = value_and_flops(step)(state, *args)
            useful = jnp.stack(_spent(count, costs)).any()
            return state, total, following, total + count, useful

        zero = FlopCount.zeros_like(shape)
        start = (state, zero, state, zero, True)
        state, count, *_ = jax.lax.while_loop(going_on, body, start)
        return state, count

    return run


def _cost(block: Block, weights: Any) -> int:
    if block.is_tally:
        return 0
    total = sum(amount * weights[key.cost_class] for key, amount in block.costs)
    return int(whole(total, "with_flop_budget"))


def _steps(limit: int, cost: int) -> int:
    if not cost or limit // cost >= 2**31:
        raise FlopCountError(
            f"with_flop_budget: a step costs {cost} operations, so {limit} pay for "
            f"{limit // cost if cost else 'endlessly many'} steps; expected fewer than {2**31}. "
            "Take a smaller budget, or a convention in which a step costs something."
        )
    return limit // cost


def _digits(number: int) -> list[int]:
    digits = []
    while number:
        digits.append(number & int(_MASK))
        number >>= _BITS
    return digits


def _spent(count: FlopCount, costs: Sequence[int]) -> list[Any]:
    """Return the operations of a count, digit by digit, exactly, within a program."""
    length = 5 + max(len(_digits(cost)) for cost in costs)
    total: list[Any] = [jnp.uint32(0)] * length
    rest = iter(count.counters)
    for block, cost in zip(count.table, costs, strict=True):
        executions, *_ = [next(rest) for _ in range(block.num_leaves)]
        words = counters.words_of(executions)
        times = [(words[..., i // 2] >> (i % 2 * _BITS)) & _MASK for i in range(4)]
        for i, digit in enumerate(times):
            for j, other in enumerate(_digits(cost)):
                product = digit * np.uint32(other)
                total[i + j] = total[i + j] + (product & _MASK)
                total[i + j + 1] = total[i + j + 1] + (product >> _BITS)
        for i in range(length - 1):
            total[i + 1] = total[i + 1] + (total[i] >> _BITS)
            total[i] = total[i] & _MASK
    return total


def _at_most(digits: Sequence[Any], limit: int) -> Any:
    """Compare a number, digit by digit, with a limit."""
    bound = _digits(limit)
    within: Any = True
    for i in range(max(len(digits), len(bound))):
        digit = digits[i] if i < len(digits) else np.uint32(0)
        other = np.uint32(bound[i] if i < len(bound) else 0)
        within = (digit < other) | ((digit == other) & within)
    return within
