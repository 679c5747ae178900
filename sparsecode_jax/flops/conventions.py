"""Cost classes, and the conventions that weigh them.

Operations are recorded under a class; a convention is a weight for every class, applied after the
run. ``"matmul"`` counts matrix products and convolutions only (model FLOPs utilization),
``"arithmetic"`` every floating-point operation that produces a new number, and ``"all"`` adds
comparisons and sign manipulations. ``"ops"`` is ``"arithmetic"`` and the products and convolutions
of integers, which are no floating-point operations. All other integer and boolean operations,
layout changes, gathers, conversions and random bits cost nothing in any of them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .errors import FlopCountError

# A product over a contraction of length K makes K products and K - 1 sums. Conventions count 2K,
# as hardware that adds into an accumulator does: dot_first is that first sum into zero.
DOT_MUL = "dot_mul"
DOT_ADD = "dot_add"
DOT_FIRST = "dot_first"
ELEMENTWISE = "elementwise"  # add, sub, mul, div, sqrt, min, max, clamp
TRANSCENDENTAL = "transcendental"  # exp, log, tanh, pow, rsqrt, erf, ...
COMPARE = "compare"  # eq, lt, select, abs, neg, sign, round, ...
REDUCE = "reduce"  # sum and max reductions, cumulative sums
SEARCH = "search"  # comparisons of sort, top_k, argmax
SCATTER = "scatter"  # scatter-add and its kind, one an update
NOMINAL = "nominal"  # textbook formulas: fft and dense linear algebra
INTEGER = "integer"  # products and sums of integer matrix products and convolutions
UNKNOWN = "unknown"  # occurrences of operations without a rule (on_unknown="defer")

CLASSES: tuple[str, ...] = (
    DOT_MUL,
    DOT_ADD,
    DOT_FIRST,
    ELEMENTWISE,
    TRANSCENDENTAL,
    COMPARE,
    REDUCE,
    SEARCH,
    SCATTER,
    NOMINAL,
    INTEGER,
)

_DOT = (DOT_MUL, DOT_ADD, DOT_FIRST)
#: Classes of contractions, whose dtype is that of what is multiplied.
PRODUCTS = (*_DOT, INTEGER)
_ARITHMETIC = (*_DOT, ELEMENTWISE, TRANSCENDENTAL, REDUCE, SCATTER, NOMINAL)


def _weights(counted: tuple[str, ...]) -> Mapping[str, int]:
    return MappingProxyType({name: int(name in counted) for name in CLASSES})


CONVENTIONS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "matmul": _weights(_DOT),
        "arithmetic": _weights(_ARITHMETIC),
        "all": _weights((*_ARITHMETIC, COMPARE, SEARCH)),
        "ops": _weights((*_ARITHMETIC, INTEGER)),
    }
)


def class_weights(
    convention: str | Mapping[str, int], transcendental: int = 1
) -> Mapping[str, int]:
    """Return the integer weight of every cost class under a convention.

    Args:
        convention: ``"matmul"``, ``"arithmetic"``, ``"all"``, ``"ops"``, or a mapping from class
            names to integer weights, in which absent classes weigh 0. **Static**.
        transcendental: factor on the weight of the transcendental class. **Static**.

    Returns:
        A mapping with one non-negative integer for each name in ``CLASSES``.

    Raises:
        FlopCountError: for an unknown convention or class, or a weight that is not an integer.
    """
    if isinstance(convention, str):
        if convention not in CONVENTIONS:
            raise FlopCountError(
                f"class_weights: unknown convention {convention!r}; expected one of "
                f"{sorted(CONVENTIONS)} or a mapping from class names to integer weights."
            )
        base: Mapping[str, int] = CONVENTIONS[convention]
    elif isinstance(convention, Mapping):
        stray = sorted(set(convention) - set(CLASSES))
        if stray:
            raise FlopCountError(
                f"class_weights: unknown classes {stray} in the convention; expected names among "
                f"{list(CLASSES)}."
            )
        base = {name: convention.get(name, 0) for name in CLASSES}
    else:
        raise FlopCountError(
            f"class_weights: convention is {convention!r}; expected a name among "
            f"{sorted(CONVENTIONS)} or a mapping from class names to integer weights."
        )
    for name, weight in (*base.items(), ("transcendental=", transcendental)):
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise FlopCountError(
                f"class_weights: the weight of {name} is {weight!r}; weights are non-negative "
                "integers, so that totals stay exact."
            )
    return {**base, TRANSCENDENTAL: base[TRANSCENDENTAL] * transcendental}
