"""What errors say: where an operation is, and what to do about it."""

from collections.abc import Sequence
from typing import Any

from . import _compat, rules
from .errors import FlopCountError
from .table import Region


def describe(eqn: Any, around: Sequence[Any] = ()) -> str:
    """Say where an equation is: source line and named scope.

    Args:
        eqn: an equation. **Static**.
        around: the equations it is inside of, outermost first. What JAX itself wrote has no line
            of the user's; the innermost of these that has one is named instead, or else the line
            that asked for the count. **Static**.
    """
    scope = _compat.scope_of(eqn)
    lines = (_compat.source_of(one) for one in (eqn, *reversed(around)))
    place = f"at {next(filter(None, lines), None) or _compat.calling_line()}"
    return place + (f", scope {scope!r}" if scope else "")


def unknown_message(eqn: Any, where: str, reason: str = "") -> str:
    """Explain an operation that cannot be counted, and the ways out."""
    name = eqn.primitive.name
    reason = reason or rules.OPAQUE.get(_compat.name_of(eqn), "")
    why = f"{name!r} {reason}" if reason else f"there is no counting rule for {name!r}"
    return (
        f"cannot count {name!r} ({where}): {why}. Its cost is not taken to be zero. Register it: "
        f"register_flop_rule({name!r}, rule) with rule(inputs, outputs, params) -> "
        f"{{class: operations}}, or register_flop_expansion({name!r}, fun) with a function of "
        "counted operations that does the same work, or register_flop_inline with one whose work "
        "depends on values."
    )


def require_static(region: Region, eqn: Any, where: str) -> Region:
    """Refuse data-dependent loops where counters cannot be carried out."""
    if region.blocks:
        inner = region.blocks[0]
        raise FlopCountError(
            f"cannot count {eqn.primitive.name!r} ({where}): it contains "
            f"{inner.label}, which runs a data-dependent number of times, and its counter cannot "
            "be carried out of there. Count the part inside with its own value_and_flops, or give "
            "the loop a static length (jax.lax.scan)."
        )
    return region
