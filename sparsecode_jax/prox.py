"""Proximal operators: maps ``prox(x, threshold)`` that a solver takes as argument.

``soft_threshold`` and ``nonnegative_soft_threshold`` belong to the weighted l1 norm;
``elastic_net`` and ``group_soft_threshold`` build operators of other penalties. A penalty of your
own is any hashable callable of the same form. For a duality gap, and for solvers that watch the
objective, it also needs the methods of :class:`ElasticNet` and :class:`GroupSoftThreshold`:
``value`` and ``dual_norm``, and ``ridge`` if its penalty has a squared part; or it says by an
attribute, ``is_l1 = True``, that its penalty is the weighted l1 norm, as the first two do. Of a
function that says nothing nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._scaling import unit_of
from sparsecode_jax.types import Array

__all__ = [
    "ElasticNet",
    "GroupSoftThreshold",
    "dual_norm",
    "elastic_net",
    "group_soft_threshold",
    "nonnegative_soft_threshold",
    "ridge",
    "separable",
    "soft_threshold",
    "value",
]


def _of_l1(prox: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Let an operator say that its penalty is the weighted l1 norm."""
    prox.is_l1 = True  # type: ignore[attr-defined]
    return prox


@_of_l1
def soft_threshold(x: Array, threshold: Array) -> Array:
    r"""Shrink towards zero: the proximal operator of the l1 norm.

    .. math:: \arg\min_z \tfrac12 (z - x)^2 + t |z| = x - \mathrm{clip}(x, -t, t)

    Args:
      x: any shape. **Traced**.
      threshold: t >= 0, broadcasts with x. **Traced**.

    Returns:
      The minimizer, the shape and dtype of x.

    **Cost**: 3 arithmetic operations per entry, and one negation.
    """
    return _soft_threshold(*_checks.shrinking("soft_threshold", x, threshold))


# Eagerly this, and what is marked so below, is one program; in another nothing is left of the jit.
@functools.partial(jax.jit, inline=True)
def _soft_threshold(x: Array, threshold: Array) -> Array:
    threshold = as_row(threshold, x)
    return x - jnp.clip(x, -threshold, threshold)


@_of_l1
def nonnegative_soft_threshold(x: Array, threshold: Array) -> Array:
    r"""Shrink towards zero and cut below it: the proximal operator of the l1 norm on z >= 0.

    .. math:: \arg\min_{z \ge 0} \tfrac12 (z - x)^2 + t z = \max(x - t, 0)

    Args:
      x: any shape. **Traced**.
      threshold: t >= 0, broadcasts with x. **Traced**.

    Returns:
      The minimizer, the shape and dtype of x.

    **Cost**: 2 arithmetic operations per entry.
    """
    return _nonnegative(*_checks.shrinking("nonnegative_soft_threshold", x, threshold))


@functools.partial(jax.jit, inline=True)
def _nonnegative(x: Array, threshold: Array) -> Array:
    return jnp.maximum(x - as_row(threshold, x), 0)


@dataclasses.dataclass(frozen=True)
class ElasticNet:
    """The proximal operator that :func:`elastic_net` builds; hashable."""

    ratio: float | Array
    prox: Callable[[Array, Array], Array]

    def __call__(self, x: Array, threshold: Array) -> Array:
        """Return the minimizer; see :func:`elastic_net`."""
        x, threshold = _checks.shrinking("elastic_net", x, threshold)
        return self.prox(x, threshold) / (1 + self.ratio * as_row(threshold, x))

    def value(self, codes: Array, penalty: Array) -> Array:
        """Return the penalty of each code, (...,)."""
        penalty = as_row(penalty, codes)
        return jnp.sum(penalty * (jnp.abs(codes) + 0.5 * self.ratio * codes * codes), axis=-1)

    def ridge(self, penalty: Array) -> Array:
        """Return the weight of half the squared codes."""
        return self.ratio * penalty

    def dual_norm(self, correlations: Array, penalty: Array) -> Array:
        """Return the dual norm of the l1 part, (...,)."""
        return dual_norm(self.prox, correlations, penalty)


@cached
def elastic_net(
    ratio: float, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> ElasticNet:
    r"""Build the proximal operator of the elastic net.

    .. math:: \arg\min_z \tfrac12 (z - x)^2 + t \big(|z| + \tfrac{\rho}{2} z^2\big)
       = \frac{\mathrm{prox}_t(x)}{1 + \rho t}

    scikit-learn's ``ElasticNet(alpha, l1_ratio)`` on M measurements has
    penalty = alpha * l1_ratio * M and ratio = (1 - l1_ratio) / l1_ratio.

    Args:
      ratio: rho >= 0, the weight of half the squared codes per unit of penalty. **Static**.
      prox: ``nonnegative_soft_threshold``, ``soft_threshold`` or another whose ``is_l1`` is True.
        **Static**.

    Returns:
      ``(x, threshold) -> x``, hashable.

    Raises:
      ValueError: a ratio that is negative or not finite, another prox.

    **Cost**: 3 arithmetic operations per entry more than ``prox`` for a threshold per entry; for a
    scalar threshold 1 per entry and 2.

    References:
      Zou and Hastie, 2005; Parikh and Boyd, 2014, section 6.5.3.
    """
    ratio = _checks.static("elastic_net", "ratio", ratio)
    _checks.nonnegative("elastic_net", ratio=ratio)
    _checks.separable("elastic_net", prox, _is_l1(prox))
    return ElasticNet(ratio, prox)


@dataclasses.dataclass(frozen=True)
class GroupSoftThreshold:
    """The proximal operator that :func:`group_soft_threshold` builds; hashable."""

    group_size: int
    nonnegative: bool

    def __call__(self, x: Array, threshold: Array) -> Array:
        """Return the minimizer; see :func:`group_soft_threshold`."""
        x, threshold = _checks.shrinking("group_soft_threshold", x, threshold)
        _groups("group_soft_threshold", x.shape, self.group_size)
        return _shrunk(x, threshold, prox=self)

    def value(self, codes: Array, penalty: Array) -> Array:
        """Return the penalty of each code, (...,)."""
        _groups("group_soft_threshold", codes.shape, self.group_size)
        return _weighted(codes, penalty, prox=self)

    def ridge(self, penalty: Array) -> float:
        """Return 0: no squared codes are penalized."""
        return 0.0

    def dual_norm(self, correlations: Array, penalty: Array) -> Array:
        """Return the largest norm of a group's correlations over its weight, (...,)."""
        _groups("group_soft_threshold", correlations.shape, self.group_size)
        return _largest_ratio(*_norms_and_weights(correlations, penalty, prox=self))

    def groups(self, x: Array) -> Array:
        """Return codes (..., N), or what is left of them, as (..., G, N / G)."""
        x = jnp.maximum(x, 0) if self.nonnegative else x
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.group_size, self.group_size)

    def weights(self, weights: Array, x: Array) -> Array:
        """Return a weight for each group, (..., G), or ()."""
        weights = as_row(jnp.asarray(weights, x.dtype), x)
        return weights if weights.ndim == 0 else weights[..., :: self.group_size]


@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _shrunk(x: Array, threshold: Array, *, prox: GroupSoftThreshold) -> Array:
    groups = prox.groups(x)
    norms = _norms(groups)[..., None]
    threshold = prox.weights(threshold, x)[..., None]
    kept = jnp.where(norms <= threshold, 0, 1 - threshold / jnp.where(norms > 0, norms, 1))
    return (groups * kept).reshape(x.shape)


@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _norms_and_weights(
    x: Array, weights: Array, *, prox: GroupSoftThreshold
) -> tuple[Array, Array]:
    return _norms(prox.groups(x)), prox.weights(weights, x)


@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _weighted(codes: Array, penalty: Array, *, prox: GroupSoftThreshold) -> Array:
    norms, weights = _norms_and_weights(codes, penalty, prox=prox)
    return jnp.sum(weights * norms, axis=-1)


def _norms(groups: Array) -> Array:
    unit, inverse = unit_of(groups)
    squares = jnp.sum((groups * inverse) ** 2, axis=-1)
    return jnp.where(squares == 0, 0, unit[..., 0] * jnp.sqrt(jnp.where(squares == 0, 1, squares)))


@cached
def group_soft_threshold(group_size: int, *, nonnegative: bool = True) -> GroupSoftThreshold:
    r"""Build the proximal operator of the group lasso on consecutive groups of equal size.

    .. math:: \arg\min_z \tfrac12 \|z - x\|^2 + \sum_g t_g \|z_g\|_2,\qquad
       z_g = \max(1 - t_g / \|x_g\|, 0)\, x_g

    Atoms are in groups of ``group_size`` rows of the dictionary; a penalty (N,) gives each group
    the weight of its first atom.

    Args:
      group_size: atoms a group; it divides N. **Static**.
      nonnegative: cut x at zero first, which is exact for z >= 0. **Static**.

    Returns:
      ``(x, threshold) -> x``, hashable.

    Raises:
      ValueError: a group size that is not a positive integer, or does not divide N.

    References:
      Yuan and Lin, 2006.
    """
    _checks.count("group_soft_threshold", "group_size", group_size)
    _checks.flag("group_soft_threshold", "nonnegative", nonnegative)
    return GroupSoftThreshold(group_size, nonnegative)


def value(prox: Callable, codes: Array, penalty: Array) -> Array:
    """Return the penalty that a proximal operator belongs to, for each code.

    Args:
      prox: a proximal operator. **Static**.
      codes: (..., N). **Traced**.
      penalty: () or (N,). **Traced**.

    Returns:
      (...,).

    Raises:
      ValueError: an operator that does not say what its penalty is.
    """
    codes, penalty = _checks.shrinking("value", codes, penalty, of_atoms=True)
    if hasattr(prox, "value"):
        return prox.value(codes, penalty)
    _checks.has_penalty("value", prox, _is_l1(prox))
    return _l1(codes, penalty)


@functools.partial(jax.jit, inline=True)
def _l1(codes: Array, penalty: Array) -> Array:
    return jnp.sum(as_row(penalty, codes) * jnp.abs(codes), axis=-1)


def ridge(prox: Callable, penalty: Array) -> Array | float:
    """Return the weight of half the squared codes in the penalty: 0 unless it is an elastic net."""
    _checks.function("ridge", "the proximal operator", prox)
    (penalty,) = _checks.real("ridge", penalty)
    return prox.ridge(penalty) if hasattr(prox, "ridge") else 0.0


def in_units(prox: Callable, unit: Array) -> Callable:
    """Return the operator ``(x, t) -> prox(x * unit, t * unit) / unit`` of a separable penalty."""
    return (
        dataclasses.replace(prox, ratio=prox.ratio * unit) if isinstance(prox, ElasticNet) else prox
    )


def separable(prox: Callable | None) -> bool:
    """Say whether an operator says that its penalty is the l1 norm, or is an elastic net."""
    return isinstance(prox, ElasticNet) or _is_l1(prox)


def _is_l1(prox: Callable | None) -> bool:
    return getattr(prox, "is_l1", False) is True


def keeps_negatives(name: str, prox: Callable) -> bool:
    """Say whether a proximal operator lets negative numbers through where nothing is penalized.

    It is asked what it does to -1, so that any function will do.

    Raises:
      ValueError: it gives neither -1 nor 0.
    """
    _checks.function(name, "prox", prox)
    with jax.ensure_compile_time_eval():
        found = float(jnp.sum(prox(jnp.full((1,), -1.0), jnp.zeros(()))))
    if found not in (-1.0, 0.0):
        raise ValueError(
            f"{name}: prox(-1, 0) is {found:g}; -1 (signed codes, such as soft_threshold) or 0 "
            "(non-negative codes, such as nonnegative_soft_threshold) is expected."
        )
    return found == -1.0


def dual_norm(prox: Callable, correlations: Array, penalty: Array) -> Array:
    """Return the dual norm: correlations divided by it are dual feasible.

    Args:
      prox: a proximal operator. **Static**.
      correlations: of a residual with the atoms, (..., N). **Traced**.
      penalty: () or (N,). **Traced**.

    Returns:
      (...,): 0 if every multiple is feasible, infinite if an atom without penalty correlates, NaN
      if a penalty is negative.

    Raises:
      ValueError: an operator that does not say what its penalty is.
    """
    correlations, penalty = _checks.shrinking("dual_norm", correlations, penalty, of_atoms=True)
    if hasattr(prox, "dual_norm"):
        return prox.dual_norm(correlations, penalty)
    _checks.has_penalty("dual_norm", prox, _is_l1(prox))
    # prox(., 0) keeps what the sign constraint lets through: |.| if signed, max(., 0) if not.
    return _largest_ratio(jnp.abs(prox(correlations, jnp.zeros_like(penalty))), penalty)


@functools.partial(jax.jit, inline=True)
def _largest_ratio(violations: Array, weights: Array) -> Array:
    weights = as_row(weights, violations)
    ratios = jnp.where(violations == 0, 0, violations / jnp.where(violations == 0, 1, weights))
    return jnp.max(jnp.where(weights < 0, jnp.nan, ratios), axis=-1)  # nothing is feasible


def _groups(name: str, shape: tuple[int, ...], group_size: int) -> None:
    """Raise unless groups of equal size divide the last axis."""
    if not shape or shape[-1] % group_size:
        raise ValueError(
            f"{name}: {shape[-1] if shape else 0} atoms (shape {shape}) are not a multiple of the "
            f"group size {group_size}. Order the atoms in groups of equal size, or pad them."
        )
