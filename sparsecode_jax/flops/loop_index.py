"""Find the index a loop already carries, so that counting its iterations costs nothing."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from . import _compat

# Narrower indices cannot count far enough to be worth a case.
_WIDE = tuple(jnp.dtype(name) for name in ("int32", "uint32", "int64", "uint64"))


class LoopIndex(NamedTuple):
    """Position of an index in the carry, and its step, +1 or -1."""

    place: int
    step: int


def loop_index(
    cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int
) -> LoopIndex | None:
    """Find an integer carry that each iteration changes by a literal one and the condition bounds.

    The condition must require ``index < bound`` (or ``index > bound`` for a falling index), alone
    or in conjunction: the index then cannot wrap around, and the change of its value is exactly
    the number of iterations.

    Args:
        cond_jaxpr: closed jaxpr of the condition. **Static**.
        body_jaxpr: closed jaxpr of the body. **Static**.
        cond_nconsts: leading constants of the condition. **Static**.
        body_nconsts: leading constants of the body. **Static**.

    Returns:
        The index, or None if the loop has none.
    """
    lanes = cond_jaxpr.out_avals[0].shape
    bounded = _bounded_carries(cond_jaxpr.jaxpr, cond_nconsts)
    body = body_jaxpr.jaxpr
    producers = {var: eqn for eqn in body.eqns for var in eqn.outvars}
    for place, out in enumerate(body.outvars):
        carried = body.invars[body_nconsts + place]
        if carried.aval.shape != lanes or carried.aval.dtype not in _WIDE:
            continue
        eqn = None if isinstance(out, _compat.Literal) else producers.get(out)
        step = _literal_step(eqn, carried) if eqn is not None else 0
        if step in (1, -1) and (place, step) in bounded:
            return LoopIndex(place, step)
    return None


def _literal_step(eqn: Any, carried: Any) -> int:
    """Return c if an equation is ``carried + c`` or ``carried - c`` with a literal c, else 0."""
    name = _compat.name_of(eqn)
    if name not in ("add", "sub"):
        return 0
    left, right = eqn.invars
    if name == "add" and isinstance(left, _compat.Literal):
        left, right = right, left
    if left is not carried or not isinstance(right, _compat.Literal) or jnp.ndim(right.val):
        return 0
    return int(right.val) if name == "add" else -int(right.val)


def _bounded_carries(cond: Any, nconsts: int) -> set[tuple[int, int]]:
    """Return (place, direction) of carries that a necessary part of the condition bounds."""
    producers = {var: eqn for eqn in cond.eqns for var in eqn.outvars}
    places = {var: i - nconsts for i, var in enumerate(cond.invars) if i >= nconsts}
    bounded: set[tuple[int, int]] = set()
    pending = list(cond.outvars)
    while pending:
        var = pending.pop()
        eqn = None if isinstance(var, _compat.Literal) else producers.get(var)
        if eqn is None:
            continue
        name = _compat.name_of(eqn)
        if name == "and" or (name == "convert_element_type" and _is_bool(eqn.invars[0])):
            pending.extend(eqn.invars)
        elif name in ("lt", "gt"):
            smaller, larger = eqn.invars if name == "lt" else reversed(eqn.invars)
            if not isinstance(smaller, _compat.Literal) and smaller in places:
                bounded.add((places[smaller], 1))
            if not isinstance(larger, _compat.Literal) and larger in places:
                bounded.add((places[larger], -1))
    return bounded


def _is_bool(atom: Any) -> bool:
    return bool(atom.aval.dtype == jnp.bool_)
