"""Proximal operators: element-wise maps ``prox(x, threshold)`` that a solver takes as argument."""

from __future__ import annotations

import jax.numpy as jnp

from sparsecode_jax.types import Array

__all__ = ["nonnegative_soft_threshold", "soft_threshold"]


def soft_threshold(x: Array, threshold: Array) -> Array:
    r"""Shrink towards zero: the proximal operator of the l1 norm.

    .. math:: \arg\min_z \tfrac12 (z - x)^2 + t |z| = x - \mathrm{clip}(x, -t, t)

    Args:
      x: any shape. **Traced**.
      threshold: t >= 0, broadcasts with x. **Traced**.

    Returns:
      The minimiser, the shape and dtype of x.

    **Cost**: 3 arithmetic operations an entry, and one negation.
    """
    return x - jnp.clip(x, -threshold, threshold)


def nonnegative_soft_threshold(x: Array, threshold: Array) -> Array:
    r"""Shrink towards zero and cut below it: the proximal operator of the l1 norm on z >= 0.

    .. math:: \arg\min_{z \ge 0} \tfrac12 (z - x)^2 + t z = \max(x - t, 0)

    Args:
      x: any shape. **Traced**.
      threshold: t >= 0, broadcasts with x. **Traced**.

    Returns:
      The minimiser, the shape and dtype of x.

    **Cost**: 2 arithmetic operations an entry.
    """
    return jnp.maximum(x - threshold, 0)
