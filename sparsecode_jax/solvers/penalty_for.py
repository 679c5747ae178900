"""The penalty at which codes have a given number of active atoms."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._sharding import on_automatic_axes
from sparsecode_jax.dictionaries import correlate, step_size
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers._core import default_solver
from sparsecode_jax.solvers._tolerance import solve_to_tolerance
from sparsecode_jax.types import Array, ArrayLike, Lasso

__all__ = ["penalty_for"]

_TOLERANCE, _ACTIVE = 1e-5, 1e-6
_CLOSE = 0.5  # active codes per signal
_SMALLEST = 1e-6  # of the largest correlation, below which float32 certifies little
_MOST = 60  # encodings


@on_automatic_axes
def penalty_for(
    signals: ArrayLike,
    dictionary: ArrayLike,
    *,
    num_active: float,
    prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold,
) -> Array:
    """Return the penalty at which signals have so many active codes on average.

    It is found by bisection of its logarithm, with an encoding for each trial. A code is active
    above 1e-6 in magnitude, as ``sparse_encode(tolerance=1e-5)`` finds it; the mean number is
    within .5 of what was asked for.

    Args:
      signals: (..., M). **Traced**, with values.
      dictionary: (N, M). **Traced**, with values.
      num_active: the mean number of active codes per signal, > 0. **Static**.
      prox: ``nonnegative_soft_threshold`` or ``soft_threshold``, for signed codes. **Static**.

    Returns:
      The penalty, ().

    Raises:
      ValueError: no penalty attains the number; the message has the range of what penalties attain,
        or the attained numbers on both sides of it. As :func:`sparse_encode` besides.
      TypeError: under jit, vmap or grad: how many trials there are depends on values.

    **Cost**: about 10 calls of ``sparse_encode(tolerance=1e-5)``.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=16, num_atoms=32)
      >>> penalty = sc.solvers.penalty_for(problem.signals, problem.dictionary, num_active=4)
      >>> codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, tolerance=1e-5)
      >>> bool(abs((codes > 1e-6).sum(axis=-1).mean() - 4) <= 0.5)
      True
    """
    name = "penalty_for"
    if not (_checks.concrete(signals) and _checks.concrete(dictionary)):
        raise TypeError(
            f"{name}: called under jit, vmap or grad; arrays with values are expected, since they "
            "decide how often signals are encoded. Call it outside."
        )
    signals, dictionary = _checks.floating(name, signals, dictionary)
    _checks.signals_shape(name, signals)
    _checks.dictionary_matrix(name, dictionary)
    _checks.same_measurements(name, signals, dictionary)
    _checks.finite(name, signals=signals, dictionary=dictionary)
    num_active = _checks.static(name, "num_active", num_active)
    _checks.positive(name, num_active=num_active)
    correlations = correlate(signals, dictionary)
    signed = keeps_negatives(name, prox)
    largest = float(jnp.max(jnp.abs(correlations) if signed else correlations))
    solver, options = default_solver(dictionary, prox=prox)
    step = step_size(dictionary, solver=solver)

    counts = {largest: 0.0}  # by penalty

    def count(penalty: float) -> float:
        problem = Lasso(signals, dictionary, jnp.asarray(penalty, signals.dtype), step)
        codes, _ = solve_to_tolerance(solver, problem, tolerance=_TOLERANCE, **options)
        counts[penalty] = float(jnp.mean(jnp.sum(jnp.abs(codes) > _ACTIVE, axis=-1)))
        return counts[penalty]

    high, low = largest, largest
    for _ in range(_MOST):
        if not low > _SMALLEST * largest:
            raise ValueError(
                f"{name}: num_active is {num_active:g}, and penalties attain means from 0 to "
                f"{max(counts.values()):.4g} active codes per signal here; a number in that range "
                "is expected."
            )
        high, low = low, low / 4
        found = count(low)
        if abs(found - num_active) <= _CLOSE:
            return jnp.asarray(low, signals.dtype)
        if found > num_active:
            break
    for _ in range(_MOST):
        middle = float(np.sqrt(low * high))
        found = count(middle)
        if abs(found - num_active) <= _CLOSE:
            return jnp.asarray(middle, signals.dtype)
        low, high = (middle, high) if found > num_active else (low, middle)
    raise ValueError(
        f"{name}: num_active is {num_active:g}, and at the penalty {middle:.6g} the mean number of "
        f"active codes per signal jumps over it, from {counts[high]:.4g} to {counts[low]:.4g}; one "
        "of these numbers is expected."
    )
