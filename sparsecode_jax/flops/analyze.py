"""Static analysis: the costs, the loops and the basic blocks of a jaxpr.

``Analyzer.region`` walks a jaxpr once. Control flow whose repetitions are static multiplies; a
while loop or a conditional opens blocks, in the order in which ``instrument`` returns their
counters. Operations of the same primitive, operands, results and parameters are analyzed once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

import jax

from . import _compat, kernels, rules, traffic
from . import conventions as cls
from .errors import FlopCountError, UnknownPrimitiveError
from .lanes import in_lockstep, lanes_are_shared
from .places import describe, require_static, unknown_message
from .rules_array import reduce_window_steps
from .rules_elementwise import is_inexact, size
from .table import TALLY, Block, Key, Loop, Region

Handler = Callable[["Analyzer", Any], Region]
ON_UNKNOWN = ("error", "defer")


class Analyzer:
    """Analyze the jaxprs of one program, remembering each.

    Args:
        on_unknown: ``"error"`` to raise at an operation without a rule, ``"defer"`` to record it
            so that totals raise instead.
        platform: the platform of choices between platforms, "" for the default backend.
        extra: handlers of operations that only some programs have.

    Attributes:
        met: names of all operations so far.
        chosen_for: the platform, if some choice between platforms depends on it.
        around: the equations around the one under analysis, and it.
    """

    def __init__(
        self,
        on_unknown: str = "error",
        platform: str = "",
        extra: Mapping[str, Handler] | None = None,
    ):
        self.on_unknown = on_unknown
        self.platform = platform
        self.handlers = {**STRUCTURAL, **(extra or {})}
        self.met: set[str] = set()
        self.chosen_for = ""
        self.axis_sizes: dict[Any, int] = {}
        self.around: list[Any] = []
        self._regions: dict[Any, tuple[Any, Region]] = {}
        self._programs: dict[int, tuple[Any, Any]] = {}
        self._is_simple: dict[Any, bool] = {}
        self._alike: dict[Any, Region] = {}

    def region(self, jaxpr: Any) -> Region:
        """Return costs and blocks of one execution of a jaxpr (open or closed)."""
        jaxpr = _compat.open_jaxpr(jaxpr)[0]
        memo = (id(jaxpr), tuple(self.axis_sizes.items()))
        if memo not in self._regions:
            total = Region()
            live = _compat.eliminate_dead_code(jaxpr)
            times: Counter[tuple[Region, str]] = Counter()
            for eqn, scope in zip(live.eqns, _compat.scopes_of(live.eqns), strict=True):
                times[self.equation(eqn), scope] += 1
            for (inner, scope), number in times.items():
                total.include(inner, number, scope, inlined=True)
            total.own = cache(partial(traffic.fused_bytes, live))
            self._regions[memo] = (jaxpr, total)  # holding the jaxpr keeps its id unique
        return self._regions[memo][1]

    def equation(self, eqn: Any) -> Region:
        """Return costs, bytes and blocks of one equation, scopes relative to it.

        Equations that are alike share one region; none that contains programs is like another one.
        """
        likeness = self._likeness(eqn)
        if likeness in self._alike:
            return self._alike[likeness]
        self.around.append(eqn)
        region = traffic.with_bytes(self._costs(eqn), eqn)
        self.around.pop()
        if likeness is not None:
            self._alike[likeness] = region
        return region

    def _likeness(self, eqn: Any) -> Any:
        """Return what decides the costs of a free equation, or of one of a rule of this package."""
        primitive = eqn.primitive
        if primitive not in self._is_simple:
            name = _compat.name_of(eqn)
            free = name in rules.FREE and name not in self.handlers
            known = name in rules.RULES or free
            self._is_simple[primitive] = known and rules.registered(primitive) is None
        if not self._is_simple[primitive]:
            return None
        operands = [x for var in eqn.invars for x in (var.aval, type(var))]  # literals do not move
        return (primitive, *operands, *[v.aval for v in eqn.outvars], *eqn.params.items())

    def _costs(self, eqn: Any) -> Region:
        self.met.add(eqn.primitive.name)
        if (program := self.inlined(eqn)) is not None:
            region = Region()
            region.include(self.region(program))
            return region
        if (own := rules.registered(eqn.primitive)) is not None:
            if own.kind == rules.RULE:
                return self._by_rule(eqn, own.function, eqn.params)
            return _expanded(self, eqn, own.function)
        name = _compat.name_of(eqn)
        if name in rules.RULES:
            return self._by_rule(eqn, rules.RULES[name], eqn.params)
        if name in rules.COLLECTIVES:
            return self._by_rule(eqn, rules.COLLECTIVES[name], self._with_groups(eqn))
        if name in self.handlers:
            return self.handlers[name](self, eqn)
        if name in rules.FREE:
            return Region()
        return self.unknown(eqn)

    def where(self, eqn: Any) -> str:
        """Say where an equation is, by its own source line or that of a call around it."""
        return describe(eqn, self.around)

    def inlined(self, eqn: Any) -> Any:
        """Return the jaxpr that an operation is counted and run as, None if there is none."""
        fun = rules.inlined(eqn.primitive, _compat.name_of(eqn))
        if fun is None:
            return None
        if id(eqn) not in self._programs:
            jaxpr = _compat.trace(partial(fun, **eqn.params), [var.aval for var in eqn.invars])
            returned = [(a.shape, a.dtype) for a in jaxpr.out_avals]
            expected = [(var.aval.shape, var.aval.dtype) for var in eqn.outvars]
            if returned != expected:
                raise FlopCountError(
                    f"register_flop_inline: the function of {eqn.primitive.name!r} "
                    f"({self.where(eqn)}) returns {returned}; expected what the primitive returns, "
                    f"{expected}."
                )
            self._programs[id(eqn)] = (eqn, jaxpr)  # holding the equation keeps its id unique
        return self._programs[id(eqn)][1]

    @contextmanager
    def mesh_axes(self, eqn: Any) -> Iterator[None]:
        """Know the axes of a mesh inside its shard_map."""
        outer, self.axis_sizes = self.axis_sizes, {**self.axis_sizes, **eqn.params["mesh"].shape}
        try:
            yield
        finally:
            self.axis_sizes = outer

    def _by_rule(self, eqn: Any, rule: Any, params: Mapping[str, Any]) -> Region:
        ins = [var.aval for var in eqn.invars]
        outs = [var.aval for var in eqn.outvars]
        name = eqn.primitive.name
        costs = rules.checked(f"the counting rule of {name!r} returned", rule(ins, outs, params))
        region = Region()
        for cost_class, amount in costs.items():
            region.costs[Key(cost_class, name, "", _booked_dtype(cost_class, ins, outs))] += amount
        return region

    def unknown(self, eqn: Any, reason: str = "") -> Region:
        """Refuse an operation without a rule, or record it to be refused later."""
        name = eqn.primitive.name
        message = unknown_message(eqn, self.where(eqn), reason)
        if self.on_unknown == "error":
            raise UnknownPrimitiveError(message)
        region = Region()
        region.costs[Key(cls.UNKNOWN, name, "", message)] += 1
        return region

    def _with_groups(self, eqn: Any) -> dict[str, Any]:
        axes = eqn.params.get("axes", eqn.params.get("axis_name"))
        axes = axes if isinstance(axes, tuple | list) else (axes,)
        missing = [a for a in axes if isinstance(a, str) and a not in self.axis_sizes]
        if missing:
            raise FlopCountError(
                f"{eqn.primitive.name} {self.where(eqn)} combines values over the mapped axis "
                f"{missing}, so no one lane performs its operations; count outside the "
                "map, value_and_flops(jax.vmap(fun, axis_name=...)), not inside it."
            )
        devices = prod(self.axis_sizes[axis] for axis in axes if isinstance(axis, str))
        groups = eqn.params.get("axis_index_groups")
        return {**eqn.params, "devices": devices, "groups": 1 if groups is None else len(groups)}


def _booked_dtype(cost_class: str, ins: Sequence[Any], outs: Sequence[Any]) -> str:
    """Return the dtype that operations are in: of a product that of its factors, the wider one."""
    if cost_class not in cls.PRODUCTS:
        ins = [*outs, *ins]
    ins = [aval for aval in ins if hasattr(aval, "dtype")]
    floats = [aval.dtype for aval in ins if is_inexact(aval)]
    if cost_class in cls.PRODUCTS:
        candidates = floats or [aval.dtype for aval in ins]
        return str(max(candidates, key=lambda dtype: dtype.itemsize)) if candidates else ""
    return str(floats[0]) if floats else ""


def _call(name: str, analyzer: Analyzer, eqn: Any) -> Region:
    """Count a call: the jaxpr under a parameter runs once."""
    region = Region()
    region.include(analyzer.region(eqn.params[name]), inlined=True)
    return region


def _static_inner(name: str, analyzer: Analyzer, eqn: Any) -> Region:
    region = Region()
    region.include(require_static(analyzer.region(eqn.params[name]), eqn, analyzer.where(eqn)))
    return region


def _custom_vmap(analyzer: Analyzer, eqn: Any) -> Region:
    region = Region()
    region.include(analyzer.region(eqn.params["call"]))
    return region


def _callback(analyzer: Analyzer, eqn: Any) -> Region:
    # Without results it observes, as debug.print does; what it returns would be work on the host.
    if not eqn.outvars or _compat.calls_into(eqn, rules.REPORTING):
        return Region()
    return analyzer.unknown(eqn, "runs Python code on the host")


def _composite(analyzer: Analyzer, eqn: Any) -> Region:
    name = "call_jaxpr" if "call_jaxpr" in eqn.params else "jaxpr"  # the latter until jax 0.10
    return _static_inner(name, analyzer, eqn)


def _scan(analyzer: Analyzer, eqn: Any) -> Region:
    length = int(eqn.params["length"])
    region = Region()
    region.include(analyzer.region(eqn.params["jaxpr"]), times=length)
    region.loops[Loop("scan", "", _compat.source_of(eqn))] += length
    return region


def _while(analyzer: Analyzer, eqn: Any) -> Region:
    condition = analyzer.region(eqn.params["cond_jaxpr"])
    body = analyzer.region(eqn.params["body_jaxpr"])
    lanes = tuple(eqn.params["cond_jaxpr"].out_avals[0].shape)
    # n executions of the body go with n + 1 of the condition: one is charged to each iteration,
    # the last one to the surrounding block.
    iteration = Region()
    iteration.include(replace(condition, blocks=[]))
    iteration.include(replace(body, blocks=[]))
    region = Region()
    region.include(replace(condition, blocks=[]))
    region.blocks.append(
        iteration.as_block("while", "", _compat.source_of(eqn), lanes=lanes or None, is_loop=True)
    )
    region.blocks.extend(inner_blocks(analyzer, eqn))
    return region


def inner_blocks(analyzer: Analyzer, eqn: Any) -> list[Block]:
    """Return the blocks inside a while loop, of its body and then of its condition."""
    blocks: list[Block] = []
    for name, consts in (("body_jaxpr", "body_nconsts"), ("cond_jaxpr", "cond_nconsts")):
        jaxpr, lanes = eqn.params[name], tuple(eqn.params["cond_jaxpr"].out_avals[0].shape)
        if inner := analyzer.region(jaxpr).blocks:
            aligned = lanes_are_shared(jaxpr, eqn.params[consts], lanes)
            blocks.extend(in_lockstep(block, lanes, aligned) for block in inner)
    return blocks


def _cond(analyzer: Analyzer, eqn: Any) -> Region:
    branches = [analyzer.region(branch) for branch in eqn.params["branches"]]
    region = Region()
    same = all(branch.same_costs(branches[0]) for branch in branches)
    if not same and (choices := eqn.params.get("branches_platforms")) is not None:
        platform = analyzer.platform or jax.default_backend()
        chosen = branches[_compat.platform_branch(choices, platform)]
        if not chosen.blocks:  # a choice by platform is no choice by value
            analyzer.chosen_for = platform
            region.include(chosen)
            return region
    if same:
        least = min(branch.fused for branch in branches)
        most = max(branch.unfused for branch in branches)
        region.include(replace(branches[0], own=int, nested=least, unfused=most))
        return region
    for index, branch in enumerate(branches):
        kind = f"cond branch {index + 1}/{len(branches)}"
        region.blocks.append(branch.as_block(kind, "", _compat.source_of(eqn)))
        region.blocks.extend(branch.blocks)
    return region


def _linear_solve(analyzer: Analyzer, eqn: Any) -> Region:
    region = Region()
    region.include(analyzer.region(eqn.params["jaxprs"].solve))
    return region


def _shard_map(analyzer: Analyzer, eqn: Any) -> Region:
    sizes = dict(eqn.params["mesh"].shape)
    with analyzer.mesh_axes(eqn):
        inner = analyzer.region(eqn.params["jaxpr"])
    region = Region()
    region.include(inner, times=prod(sizes[axis] for axis in _compat.manual_axes(eqn.params)))
    return region


def _reduce(analyzer: Analyzer, eqn: Any) -> Region:
    # A reduction by a general function starts from its init value: one application an element.
    steps = size(eqn.invars[0].aval)
    return _applied(analyzer, eqn, "jaxpr", steps)


def _reduce_window(analyzer: Analyzer, eqn: Any) -> Region:
    taps, _ = reduce_window_steps(eqn.invars[0].aval, eqn.outvars[0].aval, eqn.params)
    return _applied(analyzer, eqn, "jaxpr", taps)


def _scatter(analyzer: Analyzer, eqn: Any) -> Region:
    if eqn.params.get("update_jaxpr") is None:
        return Region()
    return _applied(analyzer, eqn, "update_jaxpr", size(eqn.invars[-1].aval))


def _select_and_scatter(analyzer: Analyzer, eqn: Any) -> Region:
    operand, source = eqn.invars[0].aval, eqn.invars[1].aval
    taps, nonempty = reduce_window_steps(operand, source, eqn.params)
    region = _applied(analyzer, eqn, "select_jaxpr", taps - nonempty)
    region.include(_applied(analyzer, eqn, "scatter_jaxpr", nonempty))
    return region


def _applied(analyzer: Analyzer, eqn: Any, name: str, times: int) -> Region:
    """Count a scalar function applied ``times`` times."""
    region = Region()
    inner = require_static(analyzer.region(eqn.params[name]), eqn, analyzer.where(eqn))
    region.include(inner, times=times)
    return region


def _tally(analyzer: Analyzer, eqn: Any) -> Region:
    name = eqn.params["name"]
    unit = Region()
    for cost_class, amount in eqn.params["per_unit"]:
        unit.costs[Key(cost_class, name, "", "tally")] += amount
    region = Region()
    region.blocks.append(unit.as_block(f"{TALLY} {name}", "", _compat.source_of(eqn)))
    return region


def _expanded(analyzer: Analyzer, eqn: Any, fun: Callable[..., Any]) -> Region:
    avals: Sequence[Any] = [var.aval for var in eqn.invars]
    jaxpr = _compat.trace(partial(fun, **eqn.params), avals)
    region = Region()
    region.include(require_static(analyzer.region(jaxpr), eqn, analyzer.where(eqn)))
    return region


STRUCTURAL: dict[str, Handler] = {
    **{name: partial(_call, param) for name, param in traffic.CALLS.items()},
    "composite": _composite,
    "custom_partitioning": partial(_static_inner, "call"),
    "custom_vmap_call": _custom_vmap,
    **dict.fromkeys(("io_callback", "pure_callback"), _callback),
    "linear_call": partial(_static_inner, "callee"),
    "remat_opt": partial(_static_inner, "fwd_jaxpr"),
    "custom_linear_solve": _linear_solve,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "pallas_call": kernels.pallas_call,
    "reduce": _reduce,
    "reduce_window": _reduce_window,
    "scatter": _scatter,
    "select_and_scatter": _select_and_scatter,
    "flops_tally": _tally,
}
