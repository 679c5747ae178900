"""Hand-written kernels: a kernel's program counts once for each point of its static grid.

Where its branches and loops depend on the point (``pl.when(pl.program_id(0) == 0)``, a loop up to a
program id), scalars that follow from the point are computed, and the kernel is counted point by
point.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

import jax
import numpy as np

from . import _compat, rules, traffic
from . import conventions as cls
from .errors import FlopCountError
from .places import require_static
from .rules_elementwise import add_cost, size
from .table import Key, Region

# Loads, stores and positions. Kernels have them, programs outside do not.
_FREE = {"get", "swap", "masked_load", "masked_swap", "program_id", "num_programs", "multiple_of"}
_MOST_STEPS = 200_000  # equations looked at, point by point
# What loops and conditions do most, without a call of JAX each.
_QUICK = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum},
    **{"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
    **{"eq": np.equal, "ne": np.not_equal, "and": np.bitwise_and, "or": np.bitwise_or},
}


def _free(analyzer: Any, eqn: Any) -> Region:
    return Region()


def _addupdate(analyzer: Any, eqn: Any) -> Region:
    value = eqn.invars[1].aval
    region = Region()
    key = Key(cls.ELEMENTWISE, eqn.primitive.name, "", str(value.dtype))
    region.costs[key] += size(value) * add_cost(value)
    return region


_HANDLERS = {**dict.fromkeys(_FREE, _free), "addupdate": _addupdate}


def pallas_call(analyzer: Any, eqn: Any) -> Region:
    """Count a kernel, once for each point of its grid."""
    grid, kernel = eqn.params["grid_mapping"].grid, eqn.params["jaxpr"]
    if not all(isinstance(length, int) for length in grid):
        raise FlopCountError(
            f"cannot count {eqn.primitive.name!r} ({analyzer.where(eqn)}): its grid {grid} is "
            "known only at run time. Give it a static grid, or "
            "register_flop_rule('pallas_call', rule)."
        )
    inner = type(analyzer)(analyzer.on_unknown, analyzer.platform, _HANDLERS)
    inner.axis_sizes, inner.met = analyzer.axis_sizes, analyzer.met
    inner.around = [*analyzer.around, eqn]
    points = prod(grid)
    region = Region()
    alike = inner.region(kernel)
    if alike.blocks and points:
        # Axes of vmap are axes of the grid too, and program ids do not number them.
        mapped = eqn.params["grid_mapping"].vmapped_dims
        lanes = prod(grid[axis] for axis in mapped)
        own = [length for axis, length in enumerate(grid) if axis not in mapped]
        region.include(_PointByPoint(inner, own, eqn).total(kernel), times=lanes)
    else:
        region.include(require_static(alike, eqn, analyzer.where(eqn)), times=points)
    # Each point fetches and stores its blocks anew, if nothing is kept between points.
    first = eqn.params["grid_mapping"].num_index_operands
    last = len(kernel.invars) - eqn.params["grid_mapping"].num_scratch_operands
    blocks = (_compat.referenced(var.aval) for var in kernel.invars[first:last])
    region.unfused = points * sum(traffic.num_bytes(block) for block in blocks)
    return region


class _PointByPoint:
    """Count a kernel whose work depends on where in the grid it runs.

    Values that are known at a point are whole numbers that follow from its program ids; all others
    are None.
    """

    def __init__(self, analyzer: Any, grid: Sequence[int], call: Any):
        self.analyzer, self.grid, self.call = analyzer, grid, call
        self.where = analyzer.where(call)
        self.point: tuple[int, ...] = ()
        self.steps = 0
        self.regions: dict[int, Region] = {}

    def total(self, kernel: Any) -> Region:
        """Return the costs of all points; along axes that no program asks for they are alike."""
        asked = set(_axes(kernel))
        lengths = [n if axis in asked else 1 for axis, n in enumerate(self.grid)]
        times = prod(n for axis, n in enumerate(self.grid) if axis not in asked)
        region = Region()
        for self.point in product(*map(range, lengths)):
            self.run(kernel, [None] * len(kernel.invars), region, times)
        return region

    def run(self, jaxpr: Any, args: Sequence[Any], region: Region, times: int) -> list[Any]:
        """Add the costs of a program to a region; return which results are known."""
        opened, consts = _compat.open_jaxpr(jaxpr)
        live = _compat.eliminate_dead_code(opened)
        env: dict[Any, Any] = dict(zip(live.invars, args, strict=True))
        env.update((v, _scalar(x, v.aval)) for v, x in zip(live.constvars, consts, strict=True))

        def read(atom: Any) -> Any:
            literal = isinstance(atom, _compat.Literal)
            return _scalar(atom.val, atom.aval) if literal else env.get(atom)

        for eqn in live.eqns:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise FlopCountError(
                    f"cannot count 'pallas_call' ({self.where}): its work depends on the program "
                    f"id, and its grid {tuple(self.grid)} takes more than {_MOST_STEPS:,} steps to "
                    "go through. Count a smaller grid, or register_flop_rule('pallas_call', rule)."
                )
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars], region, times)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in live.outvars]

    def equation(self, eqn: Any, values: list[Any], region: Region, times: int) -> list[Any]:
        """Add the costs of one equation; return which results are known."""
        name, scope = _compat.name_of(eqn), _compat.scope_of(eqn)
        if name == "program_id":
            return [np.int32(self.point[eqn.params["axis"]])]
        if name == "num_programs":
            return [np.int32(self.grid[eqn.params["axis"]])]
        if id(eqn) not in self.regions:
            self.regions[id(eqn)] = self.analyzer.equation(eqn)
        whole = self.regions[id(eqn)]
        special = self.inside(name) if rules.registered(eqn.primitive) is None else None
        if special is not None and whole.blocks:
            part = Region()
            outs = special(eqn, values, part)
            region.include(part, times, scope, inlined=True)
            return outs
        region.include(require_static(whole, self.call, self.where), times, scope, inlined=True)
        return _computed(eqn, values)  # small calls too: // and % are some

    def inside(self, name: str) -> Callable[..., list[Any]] | None:
        """Return how to go through a program that is inside of an equation."""
        if name in traffic.CALLS:
            return lambda eqn, values, part: self.run(
                eqn.params[traffic.CALLS[name]], values, part, 1
            )
        return {"cond": self.cond, "while": self.loop, "scan": self.scan}.get(name)

    def cond(self, eqn: Any, values: list[Any], part: Region) -> list[Any]:
        """Go through the branch that is taken."""
        if values[0] is None:
            part.include(require_static(self.regions[id(eqn)], self.call, self.where))
            return [None] * len(eqn.outvars)
        branches = eqn.params["branches"]
        chosen = branches[min(max(int(values[0]), 0), len(branches) - 1)]
        return self.run(chosen, values[1:], part, 1)

    def loop(self, eqn: Any, values: list[Any], part: Region) -> list[Any]:
        """Go through every iteration."""
        params = eqn.params
        first, second = params["cond_nconsts"], params["body_nconsts"]
        consts, carry = values[first : first + second], values[first + second :]
        while True:
            (going,) = self.run(params["cond_jaxpr"], [*values[:first], *carry], part, 1)
            if going is None:
                part.include(require_static(self.regions[id(eqn)], self.call, self.where))
            if not going:
                return carry
            carry = self.run(params["body_jaxpr"], [*consts, *carry], part, 1)

    def scan(self, eqn: Any, values: list[Any], part: Region) -> list[Any]:
        """Go through every step; slices and what is stacked are not known."""
        first, second = _compat.scan_counts(eqn.params)
        consts, carry = values[:first], values[first : first + second]
        slices = [None] * (len(values) - first - second)
        stacked = len(eqn.outvars) - second
        for _ in range(eqn.params["length"]):
            outs = self.run(eqn.params["jaxpr"], [*consts, *carry, *slices], part, 1)
            carry = outs[:second]
        return [*carry, *[None] * stacked]


def _axes(jaxpr: Any) -> list[int]:
    """Return the axes of the grid along which a program asks where it runs."""
    axes: list[int] = []
    for eqn in _compat.open_jaxpr(jaxpr)[0].eqns:
        axes += [eqn.params["axis"]] if _compat.name_of(eqn) == "program_id" else []
        for inner in _compat.params_jaxprs(eqn.params):
            axes += _axes(inner)
    return axes


def _is_whole_number(aval: Any) -> bool:
    """Tell whether an abstract value is one integer or boolean, as positions and conditions are."""
    scalar = getattr(aval, "shape", None) == () and not _compat.is_reference(aval)
    return scalar and np.dtype(aval.dtype).kind in "iub"


def _scalar(value: Any, aval: Any) -> Any:
    known = not isinstance(value, _compat.Tracer) and _is_whole_number(aval)
    return np.asarray(value, aval.dtype)[()] if known else None


def _computed(eqn: Any, values: list[Any]) -> list[Any]:
    """Compute whole numbers from whole numbers; anything else is not known."""
    known = values and not any(value is None for value in values) and not eqn.effects
    if not known or not all(_is_whole_number(var.aval) for var in eqn.outvars):
        return [None] * len(eqn.outvars)
    if (quick := _QUICK.get(_compat.name_of(eqn))) is not None:
        with np.errstate(over="ignore"):  # integers wrap, as they do in JAX
            return [quick(*values)]
    with jax.ensure_compile_time_eval():
        outs = _compat.bind(eqn, [jax.numpy.asarray(value) for value in values])
        return [np.asarray(out)[()] for out in outs]
