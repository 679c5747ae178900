"""Lanes of batched loops: which inner loops share the lanes of the loop around them.

Under ``vmap`` the predicate of a while loop gets an axis of lanes. An inner loop whose predicate
starts with axes of the same sizes runs, lane by lane, inside the outer one - unless it is batched
over another mapped axis that happens to be as long. It is the same axis exactly when the inner
predicate depends on what the outer loop carries, for a batched loop carries everything by lane.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from . import _compat
from .table import Block

Visit = Callable[[Any, bool], None]
_CALLS = {"jaxpr", "call_jaxpr"}


def in_lockstep(block: Block, lanes: tuple[int, ...], aligned: bool) -> Block:
    """Return an inner block as seen from outside a batched while loop over ``lanes``."""
    if not lanes:
        return block
    inner = block.lanes or ()
    shared = inner[: len(lanes)] == lanes
    return replace(
        block, lanes=inner if shared else lanes + inner, aligned=block.aligned and aligned
    )


def lanes_are_shared(jaxpr: Any, num_consts: int, lanes: tuple[int, ...]) -> bool:
    """Tell whether inner loops that look batched over ``lanes`` really are.

    Args:
        jaxpr: closed jaxpr of the body or the condition of a batched loop. **Static**.
        num_consts: its leading inputs that are not carried. **Static**.
        lanes: shape of the loop's predicate. **Static**.

    Returns:
        False if some inner predicate has axes of these sizes but does not depend on the carry.
    """
    shared = True

    def visit(eqn: Any, depends: bool) -> None:
        nonlocal shared
        inner = tuple(eqn.params["cond_jaxpr"].out_avals[0].shape)
        shared = shared and (depends or not inner or inner[: len(lanes)] != lanes)

    opened, _ = _compat.open_jaxpr(jaxpr)
    if lanes:
        _dependence(opened, [i >= num_consts for i in range(len(opened.invars))], visit)
    return shared


def _dependence(jaxpr: Any, inputs: Sequence[bool], visit: Visit | None) -> list[bool]:
    """Return which outputs depend on the marked inputs, visiting while loops on the way."""
    opened, _ = _compat.open_jaxpr(jaxpr)
    marked = {var for var, mark in zip(opened.invars, inputs, strict=True) if mark}
    for eqn in opened.eqns:
        marks = [not isinstance(v, _compat.Literal) and v in marked for v in eqn.invars]
        outs = _equation_dependence(eqn, marks, visit)
        marked.update(var for var, mark in zip(eqn.outvars, outs, strict=True) if mark)
    return [not isinstance(v, _compat.Literal) and v in marked for v in opened.outvars]


def _equation_dependence(eqn: Any, marks: list[bool], visit: Visit | None) -> list[bool]:
    name, params = _compat.name_of(eqn), eqn.params
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        cond_marks, body_marks = marks[:first], marks[first : first + second]
        carry = _fixpoint(params["body_jaxpr"], body_marks, marks[first + second :], [])
        _dependence(params["body_jaxpr"], [*body_marks, *carry], visit)
        (predicate,) = _dependence(params["cond_jaxpr"], [*cond_marks, *carry], visit)
        if visit is not None:
            visit(eqn, predicate)
        return [mark or predicate for mark in carry]
    if name == "scan":
        first, second = _compat.scan_counts(params)
        consts, xs = marks[:first], marks[first + second :]
        carry = _fixpoint(params["jaxpr"], consts, marks[first : first + second], xs)
        outs = _dependence(params["jaxpr"], [*consts, *carry, *xs], visit)
        return [*carry, *outs[second:]]
    if name == "cond":
        branches = [_dependence(branch, marks[1:], visit) for branch in params["branches"]]
        return [marks[0] or any(some) for some in zip(*branches, strict=True)]
    for jaxpr in (params[key] for key in _CALLS & set(params)):
        if _compat.is_jaxpr(jaxpr) and len(_compat.open_jaxpr(jaxpr)[0].invars) == len(marks):
            outs = _dependence(jaxpr, marks, visit)
            if len(outs) == len(eqn.outvars):
                return outs
    return [any(marks)] * len(eqn.outvars)


def _fixpoint(
    jaxpr: Any, consts: Sequence[bool], carry: Sequence[bool], xs: Sequence[bool]
) -> list[bool]:
    """Return which carries depend on marked inputs after any number of iterations."""
    current = list(carry)
    while True:
        outs = _dependence(jaxpr, [*consts, *current, *xs], None)
        merged = [a or b for a, b in zip(current, outs, strict=False)]
        if merged == current:
            return current
        current = merged
