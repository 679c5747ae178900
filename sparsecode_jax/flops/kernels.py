"""Hand-written kernels: a kernel's program counts once for each point of its static grid."""

from math import prod
from typing import Any

from . import _compat, traffic
from . import conventions as cls
from .errors import FlopCountError
from .places import require_static
from .rules_elementwise import add_cost, size
from .table import Key, Region

# Loads, stores and positions. Kernels have them, programs outside do not.
_FREE = {"get", "swap", "masked_load", "masked_swap", "program_id", "num_programs", "multiple_of"}


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
    region.include(require_static(inner.region(kernel), eqn, analyzer.where(eqn)), times=points)
    # Each point fetches and stores its blocks anew, if nothing is kept between points.
    first = eqn.params["grid_mapping"].num_index_operands
    last = len(kernel.invars) - eqn.params["grid_mapping"].num_scratch_operands
    blocks = (_compat.referenced(var.aval) for var in kernel.invars[first:last])
    region.unfused = points * sum(traffic.num_bytes(block) for block in blocks)
    return region
