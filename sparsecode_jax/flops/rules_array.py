"""Counting rules of contractions, reductions, windows, sorting and scattering."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import conventions as cls
from .rules_elementwise import (
    COMPLEX_ADD,
    COMPLEX_MUL,
    Rule,
    add_cost,
    is_inexact,
    mul_cost,
    scalar_cost,
    size,
)

Params = dict[str, Any]
Avals = Sequence[Any]


def contraction(products: int, outputs: int, avals: Avals) -> dict[str, int]:
    """Split a contraction into products, sums, and the first sum into each non-empty output.

    Args:
        products: total scalar products. **Static**.
        outputs: outputs that receive at least one product. **Static**.
        avals: abstract values of the output and of both factors, for their dtypes. **Static**.

    Returns:
        Operations by class; the three together make twice ``products`` for real numbers. Products
        of integers have a class of their own, whatever dtype they are summed in; those of
        booleans are logic, unless they are summed in floats.
    """
    if all(jnp.issubdtype(aval.dtype, jnp.integer) for aval in avals[1:]):
        return {cls.INTEGER: 2 * products}
    aval = next((aval for aval in avals if is_inexact(aval)), None)
    if aval is None:
        return {}
    return {
        cls.DOT_MUL: products * mul_cost(aval),
        cls.DOT_ADD: (products - outputs) * add_cost(aval),
        cls.DOT_FIRST: outputs * add_cost(aval),
    }


def _dot_general(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    (contracting, _), _ = params["dimension_numbers"]
    length = prod(int(ins[0].shape[axis]) for axis in contracting)
    outputs = size(outs[0]) if length else 0
    return contraction(outputs * length, outputs, (outs[0], *ins[:2]))


def window_taps(
    num_in: int,
    num_out: int,
    window: int,
    stride: int,
    pad_low: int,
    base_dilation: int = 1,
    window_dilation: int = 1,
) -> np.ndarray:
    """Count, for each output position along one axis, the window taps that meet real input."""
    taps = np.zeros(num_out, dtype=object)
    if num_in == 0:
        return taps
    starts = np.arange(num_out, dtype=np.int64) * stride - pad_low
    last = (num_in - 1) * base_dilation
    for tap in range(window):
        place = starts + tap * window_dilation
        taps += ((place >= 0) & (place <= last) & (place % base_dilation == 0)).astype(int)
    return taps


def _ragged_dot(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    # Every row of the left side meets the matrix of its own group, whatever the groups' sizes. If
    # the groups divide a contracted axis, each has an output of its own.
    numbers = params["ragged_dot_dimension_numbers"]
    (_, contracting), (_, batch) = numbers.dot_dimension_numbers
    taken = {*contracting, *batch, *numbers.rhs_group_dimensions}
    columns = prod(int(n) for axis, n in enumerate(ins[1].shape) if axis not in taken)
    products = size(ins[0]) * columns
    return contraction(products, min(products, size(outs[0])), (outs[0], *ins[:2]))


def _totals(taps: Sequence[np.ndarray]) -> tuple[int, int]:
    """Return the total taps, and the outputs with at least one, of a separable window."""
    total = prod(int(axis.sum()) for axis in taps)
    return total, prod(int((axis > 0).sum()) for axis in taps)


def _conv(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    lhs, rhs, out = ins[0], ins[1], outs[0]
    numbers = params["dimension_numbers"]
    lhs_spec, rhs_spec, out_spec = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    taps = [
        window_taps(
            lhs.shape[lhs_spec[2 + i]],
            out.shape[out_spec[2 + i]],
            rhs.shape[rhs_spec[2 + i]],
            params["window_strides"][i],
            params["padding"][i][0],
            params["lhs_dilation"][i],
            params["rhs_dilation"][i],
        )
        for i in range(len(params["window_strides"]))
    ]
    total, nonempty = _totals(taps)
    # rhs's input-feature axis is already divided by feature_group_count, and out's batch axis by
    # batch_group_count, so groups need no case of their own.
    features_in = int(rhs.shape[rhs_spec[1]])
    each = int(out.shape[out_spec[0]]) * int(out.shape[out_spec[1]])
    outputs = each * nonempty if features_in else 0
    return contraction(each * total * features_in, outputs, (out, lhs, rhs))


def _reduction(cost_class: str, complex_: int) -> Rule:
    def rule(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
        steps = max(size(ins[0]) - size(outs[0]), 0)
        return {cost_class: steps * scalar_cost(ins[0], 1, complex_)}

    return rule


def _cumulative(complex_: int) -> Rule:
    def rule(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
        length = int(ins[0].shape[params["axis"]])
        steps = size(ins[0]) // length * (length - 1) if length else 0
        return {cls.REDUCE: steps * scalar_cost(ins[0], 1, complex_)}

    return rule


def _cumlogsumexp(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    # Each step is max(a, b) + log1p(exp(-abs(a - b))).
    steps = _cumulative(1)(ins, outs, params)[cls.REDUCE]
    return {cls.REDUCE: 3 * steps, cls.TRANSCENDENTAL: 2 * steps, cls.COMPARE: 2 * steps}


def _ceil_log2(n: int) -> int:
    return (n - 1).bit_length() if n > 0 else 0


def _sort(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    keys = ins[: params["num_keys"]]
    if not any(is_inexact(key) for key in keys):
        return {}
    return {cls.SEARCH: size(keys[0]) * _ceil_log2(int(keys[0].shape[params["dimension"]]))}


def _top_k(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    axis = params.get("axis", params.get("reduction_dimension", -1))
    return {cls.SEARCH: top_k_comparisons(ins[0], int(ins[0].shape[axis]), int(params["k"]))}


def top_k_comparisons(aval: Any, length: int, k: int) -> int:
    """Return n⌈log2 k⌉ comparisons a line; n - 1 for k = 1, where that formula gives none."""
    if not is_inexact(aval) or k == 0 or length == 0:
        return 0
    lines = size(aval) // length
    return lines * (length - 1 if k == 1 else length * _ceil_log2(k))


def _scatter(cost: Any) -> Rule:
    def rule(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
        return {cls.SCATTER: size(ins[-1]) * cost(outs[0])}

    return rule


def reduce_window_steps(operand: Any, out: Any, params: Params) -> tuple[int, int]:
    """Return the in-bounds taps and non-empty outputs of a window over every axis."""
    rank = len(operand.shape)
    ones = (1,) * rank
    return _totals(
        [
            window_taps(
                operand.shape[i],
                out.shape[i],
                params["window_dimensions"][i],
                params["window_strides"][i],
                params["padding"][i][0],
                params.get("base_dilation", ones)[i],
                params.get("window_dilation", ones)[i],
            )
            for i in range(rank)
        ]
    )


def _reduce_window(complex_: int) -> Rule:
    def rule(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
        taps, nonempty = reduce_window_steps(ins[0], outs[0], params)
        return {cls.REDUCE: (taps - nonempty) * scalar_cost(ins[0], 1, complex_)}

    return rule


def _select_and_scatter_add(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    source, operand = ins
    taps, nonempty = reduce_window_steps(operand, source, params)
    return {
        cls.SEARCH: (taps - nonempty) * scalar_cost(operand, 1, 2),
        cls.SCATTER: nonempty * add_cost(source),
    }


def _select_and_gather_add(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    taps, nonempty = reduce_window_steps(ins[1], outs[0], params)
    return {cls.SEARCH: (taps - nonempty) * scalar_cost(ins[1], 1, 2)}


def _psum(ins: Avals, outs: Avals, params: Params) -> Mapping[str, Any]:
    # Summing over a group of g devices takes g - 1 sums an element, shared by its g devices: n
    # devices in G groups take n - G. Under vmap the mapped axis is an axis of the operand, reduced
    # first.
    num_devices, num_groups = params["devices"], params["groups"]
    steps = [
        size(x) - size(out) + Fraction((num_devices - num_groups) * size(out), num_devices)
        for x, out in zip(ins, outs, strict=True)
    ]
    return {cls.REDUCE: sum(n * add_cost(x) for n, x in zip(steps, ins, strict=True))}


def _reduce_scatter(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    # Each device sums its own share: g - 1 sums for every element it keeps.
    return {cls.REDUCE: (size(ins[0]) - size(outs[0])) * add_cost(ins[0])}


def _max(aval: Any) -> int:
    return scalar_cost(aval, 1, 2)


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "ragged_dot_general": _ragged_dot,
    "reduce_sum": _reduction(cls.REDUCE, COMPLEX_ADD),
    "reduce_prod": _reduction(cls.REDUCE, COMPLEX_MUL),
    **{name: _reduction(cls.REDUCE, 2) for name in ("reduce_max", "reduce_min")},
    **{name: _reduction(cls.SEARCH, 2) for name in ("argmax", "argmin")},
    "cumsum": _cumulative(COMPLEX_ADD),
    "cumprod": _cumulative(COMPLEX_MUL),
    **{name: _cumulative(2) for name in ("cummax", "cummin")},
    "cumlogsumexp": _cumlogsumexp,
    "sort": _sort,
    **dict.fromkeys(("top_k", "approx_top_k"), _top_k),
    **{name: _scatter(add_cost) for name in ("scatter-add", "scatter_add", "scatter-sub")},
    **{name: _scatter(mul_cost) for name in ("scatter-mul", "scatter_mul")},
    **{n: _scatter(_max) for n in ("scatter-max", "scatter-min", "scatter_max", "scatter_min")},
    "reduce_window_sum": _reduce_window(COMPLEX_ADD),
    **{name: _reduce_window(2) for name in ("reduce_window_max", "reduce_window_min")},
    "select_and_scatter_add": _select_and_scatter_add,
    "select_and_gather_add": _select_and_gather_add,
}

# Rules that also need "devices" and "groups", the numbers of those they combine over.
COLLECTIVES: dict[str, Rule] = {
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), _psum),
    "reduce_scatter": _reduce_scatter,
}
