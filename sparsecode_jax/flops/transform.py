"""The transformations: ``value_and_flops``, ``count_flops``, ``eval_flops``."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from . import _compat, arguments
from .analyze import ON_UNKNOWN, Analyzer
from .count import FlopCount
from .counters import counter
from .errors import FlopCountError
from .instrument import evaluate_open
from .rules import registry_version
from .table import Made, Table
from .tallies import Tally, pack, saturating_sum


def value_and_flops(
    fun: Callable[..., Any],
    *,
    on_unknown: str = "error",
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
) -> Callable[..., tuple[Any, FlopCount]]:
    """Make a function return its value and the floating-point operations it performs.

    The count is of the program as written: the jaxpr of ``fun`` after dead-code elimination, not
    what XLA makes of it. Loops whose length depends on values are counted as they run. A program
    without such loops and without conditionals compiles to the same StableHLO as ``fun``. Outside
    ``jit`` operations are dispatched one by one, and values may differ from those of ``fun`` in
    the last bit, as they do between ``fun`` and ``jit(fun)``; so they may where XLA compiles a
    short loop otherwise because its number of iterations is now an output.

    Outside ``jit`` each call also costs time on the host: for 100 operations on 8 x 8 matrices 2.5
    to 3 times that of ``fun``, and 60 times that of ``jax.jit(value_and_flops(fun))``. What is
    called more than once should be the latter.

    Args:
        fun: a function of arrays (or pytrees of them) that ``jax.jit`` can trace. Of an argument
            that contains other leaves, as modules do (functions, names), the arrays are traced and
            all else is static, as ``equinox.filter_jit`` takes it. **Static**.
        on_unknown: ``"error"`` raises at the first operation without a counting rule;
            ``"defer"`` runs it and lets totals raise. **Static**.
        static_argnums: positions of static arguments, as in ``jax.jit``. **Static**.
        static_argnames: their names, as in ``jax.jit``. **Static**.

    Returns:
        A function with the arguments of ``fun`` that returns ``(fun(...), FlopCount)``. Compose it
        with ``jit``, ``vmap``, ``scan`` and ``grad(..., has_aux=True)``.

    Raises:
        FlopCountError: if ``fun`` is not a function, ``on_unknown`` is neither of the two, or
            ``fun`` has no such static arguments.
        UnknownPrimitiveError: on the call, naming the operation, its source line and its scope.

    Example:
        >>> loss, count = value_and_flops(lambda x: jax.numpy.sum(x * x))(jax.numpy.ones(10))
        >>> count.total()
        19
    """
    _check(fun, on_unknown, "value_and_flops")
    static = arguments.declared(fun, static_argnums, static_argnames, "value_and_flops")
    return _counted(fun, on_unknown, static, "value_and_flops")


def count_flops(
    fun: Callable[..., Any],
    *,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
) -> Callable[..., FlopCount]:
    """Make a function return only the operations it performs.

    Args:
        fun: as in ``value_and_flops``. **Static**.
        static_argnums: positions of static arguments, as in ``jax.jit``. **Static**.
        static_argnames: their names, as in ``jax.jit``. **Static**.

    Returns:
        A function with the arguments of ``fun`` that returns a ``FlopCount``. It runs ``fun``;
        under ``jit`` whatever the count does not depend on is removed.

    Raises:
        FlopCountError: as ``value_and_flops``.

    Example:
        >>> count_flops(jax.numpy.tanh)(jax.numpy.ones((4, 8))).total()
        32
    """
    _check(fun, "error", "count_flops")
    static = arguments.declared(fun, static_argnums, static_argnames, "count_flops")
    both = _counted(fun, "error", static, "count_flops")

    @functools.wraps(fun)
    def counted(*args: Any, **kwargs: Any) -> FlopCount:
        return both(*args, **kwargs)[1]

    return counted


def eval_flops(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> FlopCount:
    """Count without running anything, from shapes alone.

    Args:
        fun: as in ``value_and_flops``. **Static**.
        *args: arrays, or anything with ``shape`` and ``dtype``, such as
            ``jax.ShapeDtypeStruct``. **Traced**.
        **kwargs: the same by keyword. **Traced**.

    Returns:
        A ``FlopCount``. Blocks whose executions depend on values stay open: totals that need them
        raise, and the printed table shows them with a question mark.

    Raises:
        FlopCountError: as ``value_and_flops``.

    Example:
        >>> a = jax.ShapeDtypeStruct((64, 256), "float32")
        >>> eval_flops(lambda a: a @ a.T, a).total("matmul")
        2097152
    """
    _check(fun, "error", "eval_flops")
    jaxpr, leaves, *_ = arguments.tracer(fun, "eval_flops")(args, kwargs)
    device = _compat.committed_device([*leaves, *jaxpr.consts])
    table = _analyze(jaxpr.jaxpr, "error", _compat.platform_of(device))[0]
    counters: list[Any] = [1]
    counters += [None for block in table[1:] for _ in range(block.num_leaves)]
    return FlopCount(tuple(counters), table)


def _counted(
    fun: Callable[..., Any], on_unknown: str, static: arguments.Static, caller: str
) -> Callable[..., tuple[Any, FlopCount]]:
    trace = arguments.tracer(fun, caller, static)

    @functools.wraps(fun)
    def counted(*args: Any, **kwargs: Any) -> tuple[Any, FlopCount]:
        jaxpr, leaves, out_tree, changed = trace(args, kwargs)
        device = _compat.committed_device([*leaves, *jaxpr.consts])
        platform = _compat.platform_of(device)
        table, dynamic = _program(jaxpr.jaxpr, on_unknown, platform, registry_version())
        numbers = [np.uint32(1)]
        if dynamic is None:
            outs = _compat.evaluate(jaxpr.jaxpr, jaxpr.consts, leaves)
        else:
            num_out = len(jaxpr.jaxpr.outvars)
            results = _compat.evaluate(dynamic.jaxpr, dynamic.consts, [*jaxpr.consts, *leaves])
            outs, numbers = results[:num_out], [*numbers, *results[num_out:]]
        first, *others = (counter(number) for number in numbers)
        if device is not None and table[0].depends_on_platform:  # where the program ran
            first = jax.device_put(first, device)
        for reference, final in zip(changed, outs[out_tree.num_leaves :], strict=True):
            reference[...] = final
        value = arguments.unflatten(out_tree, outs[: out_tree.num_leaves])
        return value, FlopCount((first, *others), table)

    return counted


@_compat.weak_cache
def _program(jaxpr: Any, on_unknown: str, platform: str, version: int) -> tuple[Table, Any]:
    """Return a program's table, and its counting form if it has data-dependent blocks."""
    table, analyzer = _analyze(jaxpr, on_unknown, platform)
    if len(table) == 1:
        return table, None
    num_consts = len(jaxpr.constvars)

    def run(*operands: Any) -> list[Any]:
        consts, args = operands[:num_consts], operands[num_consts:]
        outs, tallies = evaluate_open(analyzer, jaxpr, consts, args)
        return [*outs, *pack([_at_root(tally) for tally in tallies])]

    avals = [var.aval for var in (*jaxpr.constvars, *jaxpr.invars)]
    return table, _compat.trace(run, avals)


def _analyze(jaxpr: Any, on_unknown: str, platform: str) -> tuple[Table, Analyzer]:
    analyzer = Analyzer(on_unknown, platform)
    region = analyzer.region(jaxpr)
    made = Made(frozenset(analyzer.met), registry_version(), analyzer.chosen_for)
    root = replace(region, blocks=[]).as_block("root", made=made)
    return (root, *region.blocks), analyzer


def _at_root(tally: Tally) -> Tally:
    """Add up the active lanes of a batched loop."""
    if tally.active is None:
        return tally
    return tally._replace(active=saturating_sum(tally.active))


def _check(fun: Any, on_unknown: str, caller: str) -> None:
    if not callable(fun):
        raise FlopCountError(
            f"{caller}: expected a function, got {fun!r} ({type(fun).__name__}). Pass the function "
            f"itself and call the result: {caller}(fun)(*args)."
        )
    unwrapped = inspect.unwrap(fun.func if isinstance(fun, functools.partial) else fun)
    if inspect.isgeneratorfunction(unwrapped) or inspect.iscoroutinefunction(unwrapped):
        raise FlopCountError(
            f"{caller}: {getattr(unwrapped, '__name__', fun)!r} is a generator or a coroutine; JAX "
            "traces functions that return arrays. Return a stacked array, or count one step."
        )
    if on_unknown not in ON_UNKNOWN:
        raise FlopCountError(
            f"{caller}: on_unknown is {on_unknown!r}; expected one of {list(ON_UNKNOWN)}."
        )
