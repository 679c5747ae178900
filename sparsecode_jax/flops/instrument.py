"""Evaluation that also counts how often each block runs.

Equations without data-dependent control flow are applied unchanged. Loops and conditionals are
rebuilt with unsigned 32-bit counters, or not at all where the loop's own index or the branch
index already tells. Counters saturate instead of wrapping.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _compat
from .analyze import Analyzer, inner_blocks
from .errors import FlopCountError
from .loop_index import loop_index
from .places import describe
from .tallies import (
    SATURATED,
    Tally,
    add_packed,
    index_steps,
    loop_tally,
    narrow,
    num_leaves,
    pack,
    saturating_sum,
    sum_over_devices,
    to_counter,
    unpack,
    widen,
    zero_tallies,
)
from .traffic import CALLS

Outs = tuple[list[Any], list[Tally]]


def evaluate(analyzer: Analyzer, jaxpr: Any, args: Sequence[Any]) -> Outs:
    """Run a jaxpr (open or closed) and return its outputs and its blocks' counters."""
    return evaluate_open(analyzer, *_compat.open_jaxpr(jaxpr), args)


def evaluate_open(analyzer: Analyzer, opened: Any, consts: Sequence[Any], args: Any) -> Outs:
    """Run an open jaxpr on constants given apart."""
    if not analyzer.region(opened).blocks:
        return _compat.evaluate(opened, consts, args), []
    live = _compat.eliminate_dead_code(opened)
    env: dict[Any, Any] = dict(zip(live.constvars, consts, strict=True))
    env.update(zip(live.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, _compat.Literal) else env[atom]

    tallies: list[Tally] = []
    no_tallies: list[Tally] = []
    for eqn in live.eqns:
        values = [read(atom) for atom in eqn.invars]
        if not analyzer.equation(eqn).blocks:
            outs, inner = _compat.bind(eqn, values), no_tallies
        elif (program := analyzer.inlined(eqn)) is not None:
            outs, inner = _guarded(analyzer, eqn, program, values)
        else:
            outs, inner = HANDLERS[_compat.name_of(eqn)](analyzer, eqn, values)
        env.update(zip(eqn.outvars, outs, strict=True))
        tallies.extend(inner)
    return [read(atom) for atom in live.outvars], tallies


def counted_jaxpr(analyzer: Analyzer, jaxpr: Any, avals: Sequence[Any]) -> Any:
    """Trace a jaxpr into one that also returns its counters, flat, after its outputs."""

    def fun(*args: Any) -> list[Any]:
        outs, tallies = evaluate(analyzer, jaxpr, args)
        return [*outs, *pack(tallies)]

    return _compat.trace(fun, avals)


def _jit(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    inner = eqn.params["jaxpr"]
    blocks = analyzer.region(inner).blocks
    jaxpr = counted_jaxpr(analyzer, inner, inner.in_avals)
    num_extra = len(jaxpr.out_avals) - len(inner.out_avals)
    outs = _compat.bind_with(eqn, args, _compat.jit_params(eqn.params, jaxpr, num_extra))
    num = len(inner.out_avals)
    return outs[:num], unpack(blocks, outs[num:])


def _remat(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    inner = eqn.params["jaxpr"]
    blocks = analyzer.region(inner).blocks
    closed = counted_jaxpr(analyzer, inner, [var.aval for var in inner.invars])
    jaxpr, consts = _compat.hoist_consts(closed)
    outs = _compat.bind_with(eqn, [*consts, *args], {**eqn.params, "jaxpr": jaxpr})
    num = len(inner.outvars)
    return outs[:num], unpack(blocks, outs[num:])


def _inline(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    with _compat.equation_context(eqn):
        return evaluate(analyzer, eqn.params[CALLS[_compat.name_of(eqn)]], args)


def _custom_rule(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    return _guarded(analyzer, eqn, eqn.params["call_jaxpr"], args)


def _guarded(analyzer: Analyzer, eqn: Any, inner: Any, args: list[Any]) -> Outs:
    """Count a function with a derivative rule; refuse to be differentiated through."""
    counted, num, blocks = _counted(analyzer, inner)
    guarded = jax.custom_jvp(counted)
    guarded.defjvp(
        _refusal(
            f"cannot differentiate through value_and_flops {describe(eqn)}: a function with its "
            f"own derivative rule runs {blocks[0].label} there, and what was counted is not what "
            "its rule would run. Count the derivative instead: value_and_flops(jax.grad(fun)), "
            "not jax.grad(value_and_flops(fun))."
        )
    )
    with _compat.equation_context(eqn):
        outs = guarded(*args)
    return outs[:num], unpack(blocks, outs[num:])


def _custom_vmap(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    """Count a function with a rule for vmap; refuse to be mapped through."""
    counted, num, blocks = _counted(analyzer, eqn.params["call"])
    guarded = jax.custom_batching.custom_vmap(counted)
    guarded.def_vmap(
        _refusal(
            f"cannot map value_and_flops {describe(eqn)}: a function with its own rule for vmap "
            f"runs {blocks[0].label} there, and what was counted is not what its rule would run. "
            "Count the map instead: value_and_flops(jax.vmap(fun)), not "
            "jax.vmap(value_and_flops(fun))."
        )
    )
    with _compat.equation_context(eqn):
        outs = guarded(*args)
    return outs[:num], unpack(blocks, outs[num:])


def _counted(analyzer: Analyzer, inner: Any) -> tuple[Callable[..., list[Any]], int, Sequence[Any]]:
    """Return a program with its counters behind its results, how many these are, its blocks."""

    def counted(*operands: Any) -> list[Any]:
        outs, tallies = evaluate(analyzer, inner, operands)
        return [*outs, *pack(tallies)]

    return counted, len(inner.out_avals), analyzer.region(inner).blocks


def _refusal(message: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise FlopCountError(message)

    return refuse


def _linear_solve(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    jaxprs = eqn.params["jaxprs"]
    blocks = analyzer.region(jaxprs.solve).blocks
    solve = counted_jaxpr(analyzer, jaxprs.solve, jaxprs.solve.in_avals)
    if solve.consts:
        raise FlopCountError(
            f"cannot count custom_linear_solve {describe(eqn)}: its solver closes "
            "over arrays; pass them as arguments."
        )
    transposed = jaxprs.transpose_solve
    if transposed is not None:  # JAX wants both solvers to return the same extra outputs

        def padded(*operands: Any) -> list[Any]:
            opened, consts = _compat.open_jaxpr(transposed)
            return [*_compat.evaluate(opened, consts, operands), *pack(zero_tallies(blocks))]

        transposed = _compat.trace(padded, transposed.in_avals)
    params = {**eqn.params, "jaxprs": jaxprs._replace(solve=solve, transpose_solve=transposed)}
    outs = _compat.bind_with(eqn, args, params)
    num = len(jaxprs.solve.out_avals)
    return outs[:num], unpack(blocks, outs[num:])


def _scan(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    params = eqn.params
    inner = params["jaxpr"]
    num_consts, num_carry = _compat.scan_counts(params)
    first = num_consts + num_carry
    consts, carry, slices = args[:num_consts], args[num_consts:first], args[first:]
    blocks = analyzer.region(inner).blocks

    def body(state: Any, part: Any) -> Any:
        carried, counters = state
        outs, tallies = evaluate(analyzer, inner, [*consts, *carried, *part])
        return (outs[:num_carry], add_packed(counters, pack(tallies))), outs[num_carry:]

    with _compat.equation_context(eqn):
        (carry, counters), stacked = jax.lax.scan(
            body,
            (carry, [jnp.asarray(leaf) for leaf in pack(zero_tallies(blocks))]),
            slices,
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
    return [*carry, *stacked], unpack(blocks, counters)


def _cond(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    branches = eqn.params["branches"]
    blocks = [analyzer.region(branch).blocks for branch in branches]
    last = len(branches) - 1
    own = [Tally((args[0] == which).astype(jnp.uint32)) for which in range(last + 1)]
    if not any(blocks):
        return _compat.bind(eqn, args), own

    def run(which: int, *operands: Any) -> list[Any]:
        outs, tallies = evaluate(analyzer, branches[which], operands)
        counters = [zero_tallies(b) for b in blocks]
        counters[which] = tallies
        return [*outs, *pack([tally for some in counters for tally in some])]

    traced = [
        _compat.trace(partial(run, which), branch.in_avals) for which, branch in enumerate(branches)
    ]
    outs = _compat.bind_with(eqn, args, {**eqn.params, "branches": tuple(traced)})
    num = len(branches[0].out_avals)
    inner = unpack([b for some in blocks for b in some], outs[num:])
    result: list[Tally] = []
    for tally, some in zip(own, blocks, strict=True):
        result.append(tally)
        result.extend(inner[: len(some)])
        inner = inner[len(some) :]
    return outs[:num], result


def _while(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    cond_jaxpr, body_jaxpr = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    lanes = tuple(cond_jaxpr.out_avals[0].shape)
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, body_consts = args[:num_cond], args[num_cond : num_cond + num_body]
    carry = args[num_cond + num_body :]
    body_blocks = analyzer.region(body_jaxpr).blocks
    cond_blocks = analyzer.region(cond_jaxpr).blocks
    index = loop_index(cond_jaxpr, body_jaxpr, num_cond, num_body)

    if index is not None and not body_blocks and not cond_blocks:
        outs = _compat.bind(eqn, args)
        return outs, [
            loop_tally(index_steps(carry[index.place], outs[index.place], index.step), lanes)
        ]

    # Inside the loop every counter has the shape of the predicate, so that JAX's selection of the
    # lanes still running freezes it with its lane: executions are then the largest lane's.
    inside = inner_blocks(analyzer, eqn)
    num_own = int(index is None)

    def widened(tallies: Sequence[Tally]) -> list[Any]:
        pairs = zip(tallies, inside, strict=True)
        return pack([widen(tally, block, lanes) for tally, block in pairs])

    body_zero = zero_tallies(body_blocks)
    cond_zero = zero_tallies(cond_blocks)

    def check(operands: Sequence[Any], consts: Sequence[Any]) -> tuple[list[Any], list[Tally]]:
        if not cond_blocks:
            return [], []
        (predicate,), tallies = evaluate(analyzer, cond_jaxpr, (*consts, *operands))
        return [predicate], tallies

    with _compat.equation_context(eqn):
        predicate, first = check(carry, cond_consts)
        counters = widened([*body_zero, *(first or cond_zero)])
        own = [np.zeros(lanes, np.uint32)] * num_own
    state = [*predicate, *own, *counters, *carry]
    num_predicate, num_extra = len(predicate), len(state) - len(carry)

    def new_cond(*operands: Any) -> Any:
        consts, rest = operands[:num_cond], operands[num_cond:]
        if num_predicate:
            return rest[0]
        opened, closed_over = _compat.open_jaxpr(cond_jaxpr)
        return _compat.evaluate(opened, closed_over, (*consts, *rest[num_extra:]))[0]

    def new_body(*operands: Any) -> list[Any]:
        first_consts, operands = operands[:num_cond], operands[num_cond:]
        consts, rest = operands[:num_body], operands[num_body:]
        own = rest[num_predicate : num_predicate + num_own]
        counters = rest[num_predicate + num_own : num_extra]
        outs, tallies = evaluate(analyzer, body_jaxpr, (*consts, *rest[num_extra:]))
        predicate, checked = check(outs, first_consts)
        more = widened([*tallies, *(checked or cond_zero)])
        return [
            *predicate,
            *(steps + (steps != SATURATED).astype(jnp.uint32) for steps in own),
            *add_packed(counters, more),
            *outs,
        ]

    state_avals = [_compat.aval_of(leaf) for leaf in state[:num_extra]]
    carry_avals = list(body_jaxpr.out_avals)
    cond_avals = list(cond_jaxpr.in_avals[:num_cond])
    body_avals = list(body_jaxpr.in_avals[:num_body])
    params = {
        **eqn.params,
        "cond_jaxpr": _compat.trace(new_cond, [*cond_avals, *state_avals, *carry_avals]),
        "body_nconsts": num_cond + num_body,
        "body_jaxpr": _compat.trace(
            new_body, [*cond_avals, *body_avals, *state_avals, *carry_avals]
        ),
    }
    operands = [*cond_consts, *cond_consts, *body_consts, *state]
    outs = _compat.bind_with(eqn, operands, params)
    final = outs[num_extra:]
    if index is None:
        steps = outs[num_predicate]
    else:
        steps = index_steps(carry[index.place], final[index.place], index.step)
    inner = narrow(outs[num_predicate + num_own : num_extra], inside, lanes)
    return final, [loop_tally(steps, lanes), *inner]


def _tally(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    num_units, *values = args
    return values, [Tally(saturating_sum(to_counter(jnp.clip(num_units, 0, None))))]


def _shard_map(analyzer: Analyzer, eqn: Any, args: list[Any]) -> Outs:
    """Return the counters of every device, stacked, and add them up outside."""
    inner, blocks = eqn.params["jaxpr"], analyzer.equation(eqn).blocks
    num = len(inner.outvars)

    def counted(*operands: Any) -> list[Any]:
        with analyzer.mesh_axes(eqn):
            outs, tallies = evaluate(analyzer, inner, operands)
        return [*outs, *(jnp.asarray(leaf)[None] for leaf in pack(tallies))]

    with _compat.equation_context(eqn):
        outs = _compat.shard_map_like(eqn, counted, num_extra=num_leaves(blocks))(*args)
    return outs[:num], unpack(blocks, [sum_over_devices(leaf) for leaf in outs[num:]])


HANDLERS: dict[str, Callable[[Analyzer, Any, list[Any]], Outs]] = {
    **dict.fromkeys(("jit", "pjit"), _jit),
    **dict.fromkeys(("remat", "remat2", "checkpoint"), _remat),
    **dict.fromkeys(("call", "core_call", "closed_call", "eval_jaxpr"), _inline),
    **dict.fromkeys(("program_order", "xla_metadata_call"), _inline),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), _custom_rule),
    "custom_vmap_call": _custom_vmap,
    "custom_linear_solve": _linear_solve,
    "scan": _scan,
    "shard_map": _shard_map,
    "while": _while,
    "cond": _cond,
    "flops_tally": _tally,
}
