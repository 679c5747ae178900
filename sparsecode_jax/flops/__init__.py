"""Count floating-point operations exactly, loops that stop by tolerance included.

``value_and_flops(fun)`` returns the value of ``fun`` and a ``FlopCount``. What is counted is the
program as written, after dead-code elimination: XLA's fusion, hoisting and common-subexpression
elimination do not show. ``vmap(value_and_flops(f))`` gives the useful work of each lane;
``value_and_flops(vmap(f))`` gives what lanes in lock step execute, waiting ones included, and
``useful_fraction`` says how much of it was needed. A while condition runs once more than its body
and is counted so. To count derivatives, count the derivative: ``value_and_flops(grad(f))``. Under
``shard_map`` the count is the sum over devices; under ``jit`` with shardings it is of the global,
logical program. An operation without a counting rule raises; it is never counted as zero, and no
count that is not exact is returned as a number. What a program executes and what ``tally`` books
as algorithmic work are reported apart. ``docs/flops.md`` has the conventions and the limits.

Inside, the transform counts executions of basic blocks with 32-bit counters that saturate rather
than wrap, and multiplies by static costs in exact Python integers on the host. Conventions
(``"matmul"``, ``"arithmetic"``, ``"all"``, ``"ops"``) and breakdowns are therefore chosen after the
run, and a program without data-dependent control flow compiles to exactly what it did before.

Example:
    >>> import jax, jax.numpy as jnp
    >>> halve = lambda x: jax.lax.while_loop(lambda x: x > 1.0, lambda x: x / 2.0, x)
    >>> value, count = value_and_flops(halve)(jnp.float32(100.0))
    >>> count.total(), count.total("all")
    (7, 15)
"""

from .budget import with_flop_budget
from .conventions import CLASSES, CONVENTIONS
from .count import FlopCount
from .errors import (
    FlopCountError,
    OpenTripCountError,
    SaturatedCounterError,
    UnknownPrimitiveError,
)
from .rules import (
    register_flop_expansion,
    register_flop_inline,
    register_flop_rule,
)
from .speed import PEAK_FLOPS, mfu
from .tally import tally
from .transform import count_flops, eval_flops, value_and_flops

__all__ = [
    "CLASSES",
    "CONVENTIONS",
    "FlopCount",
    "FlopCountError",
    "OpenTripCountError",
    "PEAK_FLOPS",
    "SaturatedCounterError",
    "UnknownPrimitiveError",
    "count_flops",
    "eval_flops",
    "mfu",
    "register_flop_expansion",
    "register_flop_inline",
    "register_flop_rule",
    "tally",
    "value_and_flops",
    "with_flop_budget",
]
