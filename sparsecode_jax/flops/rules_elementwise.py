"""Counting rules of elementwise operations.

A rule is ``rule(ins, outs, params) -> {class: operations}``; ``ins`` and ``outs`` have ``shape``
and ``dtype``. Only floating-point and complex operands cost anything.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax.numpy as jnp

from . import conventions as cls

Rule = Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], Mapping[str, int]]

COMPLEX_ADD = 2
COMPLEX_MUL = 6  # four products and two sums
COMPLEX_DIV = 11  # a product with the conjugate, a squared modulus, two divisions
COMPLEX_ABS = 4  # two products, a sum, a square root


def is_complex(aval: Any) -> bool:
    """Tell whether an abstract value holds complex numbers."""
    return bool(jnp.issubdtype(aval.dtype, jnp.complexfloating))


def is_inexact(aval: Any) -> bool:
    """Tell whether an abstract value holds floating-point or complex numbers."""
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def size(aval: Any) -> int:
    """Return the number of elements as an exact Python integer."""
    return prod(int(n) for n in aval.shape)


def scalar_cost(aval: Any, real: int, complex_: int) -> int:
    """Return operations an element: 0 for integers, else the real or the complex figure."""
    if not is_inexact(aval):
        return 0
    return complex_ if is_complex(aval) else real


def add_cost(aval: Any) -> int:
    """Return the operations of one addition."""
    return scalar_cost(aval, 1, COMPLEX_ADD)


def mul_cost(aval: Any) -> int:
    """Return the operations of one multiplication."""
    return scalar_cost(aval, 1, COMPLEX_MUL)


def _by_output(cost_class: str, real: int = 1, complex_: int = 1) -> Rule:
    def rule(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
        return {cost_class: size(outs[0]) * scalar_cost(outs[0], real, complex_)}

    return rule


def _by_input(cost_class: str, real: int = 1, complex_: int = 1) -> Rule:
    def rule(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
        return {cost_class: size(outs[0]) * scalar_cost(ins[0], real, complex_)}

    return rule


def _abs(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
    if is_complex(ins[0]):
        return {cls.ELEMENTWISE: COMPLEX_ABS * size(ins[0])}
    return {cls.COMPARE: size(ins[0]) * scalar_cost(ins[0], 1, 0)}


def _sign(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
    if is_complex(ins[0]):  # z / |z|
        return {cls.ELEMENTWISE: (COMPLEX_ABS + 2) * size(ins[0])}
    return {cls.COMPARE: size(ins[0]) * scalar_cost(ins[0], 1, 0)}


def _sqrt(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
    kind = cls.TRANSCENDENTAL if is_complex(ins[0]) else cls.ELEMENTWISE
    return {kind: size(outs[0]) * scalar_cost(ins[0], 1, 1)}


def power_products(exponent: int) -> int:
    """Return the multiplications of square-and-multiply for a non-negative exponent."""
    return exponent.bit_length() + exponent.bit_count() - 2 if exponent > 0 else 0


def _integer_pow(
    ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]
) -> Mapping[str, int]:
    exponent = int(params["y"])
    each = power_products(abs(exponent)) * mul_cost(outs[0])
    if exponent < 0:
        each += scalar_cost(outs[0], 1, COMPLEX_DIV)
    return {cls.ELEMENTWISE: size(outs[0]) * each}


def _one_minus_square(
    ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]
) -> Mapping[str, int]:
    return {cls.ELEMENTWISE: size(outs[0]) * (mul_cost(outs[0]) + add_cost(outs[0]))}


def _polynomial(
    ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]
) -> Mapping[str, int]:
    degree = len(ins) - 2  # Horner's rule; the inputs are the argument and degree + 1 coefficients
    each = mul_cost(outs[0]) + add_cost(outs[0])
    return {cls.ELEMENTWISE: size(outs[0]) * degree * each}


def _select(ins: Sequence[Any], outs: Sequence[Any], params: dict[str, Any]) -> Mapping[str, int]:
    return {cls.COMPARE: size(outs[0]) * scalar_cost(outs[0], 1, 1)}


_TRANSCENDENTAL = (
    "acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf "
    "erf_inv erfc exp exp2 expm1 igamma igamma_grad_a igammac lgamma log log1p log2 logistic "
    "polygamma pow random_gamma_grad regularized_incomplete_beta rsqrt sin sinh tan tanh zeta"
)
_COMPARE_BY_INPUT = "eq ne lt le gt ge eq_to lt_to le_to is_finite"

RULES: dict[str, Rule] = {
    **{name: _by_output(cls.ELEMENTWISE, 1, COMPLEX_ADD) for name in ("add", "sub", "add_any")},
    **{name: _by_output(cls.ELEMENTWISE, 1, COMPLEX_MUL) for name in ("mul", "square")},
    **{name: _by_output(cls.ELEMENTWISE, 1, 2) for name in ("max", "min", "rem", "clamp")},
    "div": _by_output(cls.ELEMENTWISE, 1, COMPLEX_DIV),
    "sqrt": _sqrt,
    "integer_pow": _integer_pow,
    "one_minus_square": _one_minus_square,
    "polynomial": _polynomial,
    **{name: _by_output(cls.TRANSCENDENTAL) for name in _TRANSCENDENTAL.split()},
    **{name: _by_input(cls.COMPARE, 1, 2) for name in _COMPARE_BY_INPUT.split()},
    **{name: _by_output(cls.COMPARE) for name in ("ceil", "floor", "round", "nextafter")},
    "neg": _by_output(cls.COMPARE, 1, 2),
    "conj": _by_input(cls.COMPARE, 0, 1),
    "abs": _abs,
    "sign": _sign,
    "select_n": _select,
}
