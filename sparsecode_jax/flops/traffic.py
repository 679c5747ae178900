"""Bytes moved, as an interval: every region one fused pass, or every equation on its own.

A region is the program itself, a body or a condition of a while loop, a branch, or one step of a
scan; calls (jit, checkpoint, derivative rules) belong to the region that makes them.

* Fused, the equations of a region read each value from outside once and write each value that is
  used outside once; what passes between them stays on chip. Outside are the regions around and
  the loops inside. Values handed on unchanged, reshaped or transposed do not move. Of an operand
  that is only sliced or gathered from, the elements taken are read; an update in place
  (``x.at[i].set``) writes the elements set.
* Unfused, every equation reads its operands and writes its results.

Neither knows of caches that keep a value from one execution to the next. Literals, references and
tokens have no bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from . import _compat, rules
from .table import Region

#: Calls that belong to the region around them, and the parameter that holds their program.
CALLS: dict[str, str] = {
    **dict.fromkeys(("jit", "pjit", "remat", "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("program_order", "xla_metadata_call"), "jaxpr"),
    **dict.fromkeys(("call", "core_call", "closed_call", "eval_jaxpr"), "call_jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
#: Operations whose analysis includes regions of their own.
_REGIONS = {
    *("scan", "while", "cond", "custom_linear_solve", "shard_map", "composite"),
    *rules.INLINED,
    *("custom_partitioning", "custom_vmap_call", "linear_call", "remat_opt"),
}
_VIEWS = {
    *("reshape", "squeeze", "transpose", "stop_gradient", "optimization_barrier", "name"),
    *("sharding_constraint", "pvary"),
}
_SLICES = {"slice", "dynamic_slice", "gather", "split"}
_UPDATES = {"dynamic_update_slice": 1, "scatter": 2}  # position of what is set


def num_bytes(aval: Any) -> int:
    """Return the bytes of an array; none for references and tokens."""
    if not hasattr(aval, "dtype") or _compat.is_reference(aval):
        return 0
    return prod(int(n) for n in aval.shape) * int(aval.dtype.itemsize)


def with_bytes(region: Region, eqn: Any) -> Region:
    """Complete the analysis of an equation by the bytes its own operands and results take."""
    name = _compat.name_of(eqn)
    if name == "flops_tally" or _is_call(eqn) or _has_regions(eqn):
        return region
    atoms = [v for v in eqn.invars if not isinstance(v, _compat.Literal)] + eqn.outvars
    unfused = sum(num_bytes(atom.aval) for atom in atoms)
    if name == "pallas_call":  # whose blocks may be fetched more than once
        unfused = max(unfused, region.unfused)
    return replace(region, nested=0, unfused=unfused)


def _is_call(eqn: Any) -> bool:
    return _compat.name_of(eqn) in CALLS and rules.registered(eqn.primitive) is None


def _has_regions(eqn: Any) -> bool:
    registered = rules.registered(eqn.primitive)
    return _compat.name_of(eqn) in _REGIONS if registered is None else registered.kind != rules.RULE


@dataclass(eq=False)
class _Value:
    """An array on its way through a region.

    One that updates ``base`` in place has ``changed`` bytes that are new.
    """

    size: int
    inside: bool
    base: "_Value | None" = None
    changed: int = 0


class _Flow:
    """Follow values through the equations of one region, and note what crosses its border.

    A plain operation uses its operands whole, and its results are new: none of the others below.
    """

    def __init__(self) -> None:
        self.read: dict[_Value, int] = {}
        self.written: dict[_Value, int] = {}
        self._is_plain: dict[Any, bool] = {}

    def is_plain(self, eqn: Any) -> bool:
        """Tell whether an operation is a plain one."""
        if eqn.primitive not in self._is_plain:
            name = _compat.name_of(eqn)
            special = name == "flops_tally" or name in _VIEWS or name in _SLICES or _updated(name)
            self._is_plain[eqn.primitive] = not (special or _is_call(eqn) or _has_regions(eqn))
        return self._is_plain[eqn.primitive]

    def take(self, value: _Value | None, amount: int | None = None) -> None:
        """Use bytes of a value (all by default)."""
        if value is None:
            return
        amount = value.size if amount is None else amount
        if value.base is not None:
            self.take(value.base, amount)
        elif not value.inside:
            self.read[value] = min(value.size, self.read.get(value, 0) + amount)

    def leave(self, value: _Value | None) -> None:
        """Use a value outside the region."""
        if value is not None and value.inside:
            self.written[value] = value.size if value.base is None else value.changed

    def run(self, jaxpr: Any, args: Sequence[_Value | None]) -> list[_Value | None]:
        """Follow values through a jaxpr; a literal is None.

        Most results of plain operations stay inside: they become values when they are looked for.
        """
        env: dict[Any, _Value | None] = {
            var: _Value(num_bytes(var.aval), inside=False) for var in jaxpr.constvars
        }
        env.update(zip(jaxpr.invars, args, strict=True))

        def find(atom: Any) -> _Value | None:
            if isinstance(atom, _compat.Literal):
                return None
            if atom not in env:
                env[atom] = _Value(num_bytes(atom.aval), inside=True)
            return env[atom]

        for eqn in jaxpr.eqns:
            if self.is_plain(eqn):
                for atom in eqn.invars:
                    if not isinstance(atom, _compat.Literal) and atom in env:
                        self.take(env[atom])
            else:
                outs = self.equation(eqn, [find(atom) for atom in eqn.invars])
                env.update(zip(eqn.outvars, outs, strict=True))
        return [find(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, values: list[_Value | None]) -> Sequence[_Value | None]:
        """Follow values through one equation that is not plain."""
        name = _compat.name_of(eqn)
        if name == "flops_tally":
            return values[1:]
        if _is_call(eqn):
            inner = _compat.open_jaxpr(eqn.params[CALLS[name]])[0]
            return self.run(_compat.eliminate_dead_code(inner), values)
        if _has_regions(eqn):
            for value in values:
                self.leave(value)
            return [_Value(num_bytes(var.aval), inside=False) for var in eqn.outvars]
        if name in _VIEWS and values[0] is not None:
            return values[: len(eqn.outvars)]
        outs = [_Value(num_bytes(var.aval), inside=True) for var in eqn.outvars]
        if name in _SLICES:
            self.take(values[0], sum(out.size for out in outs))
            values = values[1:]
        elif _updated(name) and values[0] is not None:
            first, part = values[0], eqn.invars[_updated(name)].aval
            if not first.inside or first.base is not None:  # what it updates is outside
                changed = min(first.size, first.changed + num_bytes(part))
                outs = [_Value(first.size, True, first.base or first, changed)]
            if name not in _UPDATES or eqn.params.get("update_jaxpr") is not None:
                self.take(first, num_bytes(part))  # to combine with what is there
            values = values[1:]
        for value in values:
            self.take(value)
        return outs


def _updated(name: str) -> int:
    """Return which operand an update in place sets, 0 if it is none."""
    return _UPDATES.get(name, 2 if name.startswith("scatter") else 0)


def fused_bytes(jaxpr: Any) -> int:
    """Return the bytes one execution of a region moves as a single fused pass."""
    flow = _Flow()
    for out in flow.run(jaxpr, [_Value(num_bytes(v.aval), inside=False) for v in jaxpr.invars]):
        flow.leave(out)
    return sum(flow.read.values()) + sum(flow.written.values())
