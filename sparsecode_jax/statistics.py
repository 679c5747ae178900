"""Statistics over seeds."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike

from sparsecode_jax import _checks

__all__ = ["mean_interval"]


def mean_interval(
    values: ArrayLike, *, axis: int = -1, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the mean over independent runs and the half-width of its confidence interval.

    .. math:: \bar v \pm t_{n-1,(1+\ell)/2}\; s / \sqrt n

    Args:
      values: runs along ``axis``; NumPy or JAX, on the host.
      axis: the run axis.
      level: of confidence, between 0 and 1.

    Returns:
      Mean and half-width, ``values`` without the axis. With one run the half-width is NaN: one run
      says nothing about spread.
    """
    name = "mean_interval"
    if not _checks.concrete(values):
        raise TypeError(f"{name}: the values are traced; numbers are expected. Call it outside.")
    (values,) = _checks.real(name, values)
    array = np.asarray(values, dtype=np.float64)
    _checks.count(name, "axis", axis, minimum=-max(array.ndim, 1), maximum=max(array.ndim, 1) - 1)
    _checks.fraction(name, "level", level, inside=True)
    count = array.shape[axis] if array.ndim else 0
    if count == 0:
        raise ValueError(
            f"mean_interval: {count} runs at level {level}; at least one run and a level between 0 "
            "and 1 are expected."
        )
    import scipy.stats  # on use: it takes as long to load as JAX

    mean = array.mean(axis=axis)
    if count == 1:
        return mean, np.full_like(mean, np.nan)
    with np.errstate(invalid="ignore"):  # of infinities it is NaN
        deviation = array.std(axis=axis, ddof=1)
    return mean, scipy.stats.t.ppf((1 + level) / 2, count - 1) * deviation / np.sqrt(count)
