"""Schedules: ``(step) -> factor`` of a learning rate or penalty, whose peak stays traced.

A schedule is a shape, which multiplies a traced number: the penalty (``Recipe.penalty_schedule``),
the number of active codes (``Recipe.active_schedule``) or the learning rate (:func:`scheduled`). So
one program trains many peaks.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax.types import Array

__all__ = ["cosine", "linear", "linear_decay", "scheduled", "warmup"]


@cached
def warmup(num_steps: int) -> Callable[[Array], Array]:
    """Rise linearly from 1/num_steps at step 0 to 1, and stay.

    Args:
      num_steps: of the rise. **Static**.

    Returns:
      ``(step) -> factor``, ().
    """
    _checks.count("warmup", "num_steps", num_steps)
    return Bound(_warmup, num_steps)


def _warmup(num_steps: int, step: Array) -> Array:
    return jnp.minimum((step + 1) / num_steps, 1)


@cached
def cosine(num_steps: int, *, num_warmup: int = 0, last: float = 0.0) -> Callable[[Array], Array]:
    """Rise linearly for ``num_warmup`` steps, then fall to ``last`` along half a cosine.

    Args:
      num_steps: of the whole, warm-up included. **Static**.
      num_warmup: **Static**.
      last: the factor at ``num_steps`` and after. **Static**.

    Returns:
      ``(step) -> factor``, ().
    """
    _checks.count("cosine", "num_steps", num_steps)
    _checks.count("cosine", "num_warmup", num_warmup, minimum=0)
    last = _checks.static("cosine", "last", last)
    _checks.nonnegative("cosine", last=last)
    return Bound(_cosine, num_steps, num_warmup, last)


def _cosine(num_steps: int, num_warmup: int, last: float, step: Array) -> Array:
    done = jnp.clip((step - num_warmup) / max(num_steps - num_warmup, 1), 0, 1)
    falling = last + (1 - last) * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return falling * jnp.minimum((step + 1) / max(num_warmup, 1), 1)


@cached
def linear(num_steps: int, *, first: float, last: float = 1.0) -> Callable[[Array], Array]:
    """Go linearly from a factor at step 0 to another at ``num_steps``, and stay.

    Args:
      num_steps: of the change. **Static**.
      first: at least 0. **Static**.
      last: at least 0. **Static**.

    Returns:
      ``(step) -> factor``, ().

    Example:
      >>> from sparsecode_jax.training import schedules
      >>> annealed = schedules.linear(100, first=3.2)  # of active codes: from 80 to 25
      >>> [round(25 * float(annealed(step))) for step in (0, 50, 100, 200)]
      [80, 52, 25, 25]
    """
    _checks.count("linear", "num_steps", num_steps)
    first = _checks.static("linear", "first", first)
    last = _checks.static("linear", "last", last)
    _checks.nonnegative("linear", first=first, last=last)
    return Bound(_linear, num_steps, first, last)


def _linear(num_steps: int, first: float, last: float, step: Array) -> Array:
    return first + (last - first) * jnp.minimum(step / num_steps, 1)


@cached
def linear_decay(
    num_steps: int, *, num_warmup: int = 0, num_decay: int | None = None
) -> Callable[[Array], Array]:
    """Rise linearly for ``num_warmup`` steps, hold 1, and fall linearly to 0 at ``num_steps``.

    Args:
      num_steps: of the whole. **Static**.
      num_warmup: **Static**.
      num_decay: steps of the fall; None takes the last fifth. **Static**.

    Returns:
      ``(step) -> factor``, ().
    """
    _checks.count("linear_decay", "num_steps", num_steps)
    _checks.count("linear_decay", "num_warmup", num_warmup, minimum=0)
    falling = max(num_steps // 5, 1) if num_decay is None else num_decay
    _checks.count("linear_decay", "num_decay", falling)
    return Bound(_linear_decay, num_steps, num_warmup, falling)


def _linear_decay(num_steps: int, num_warmup: int, falling: int, step: Array) -> Array:
    rising = jnp.minimum((step + 1) / max(num_warmup, 1), 1)
    return rising * jnp.clip((num_steps - step) / falling, 0, 1)


def scheduled(
    optimizer: Callable[..., optax.GradientTransformation], schedule: Callable[[Array], Array]
) -> Callable[[Array], optax.GradientTransformation]:
    """Let an optimizer's learning rate follow a schedule: an optimizer for a ``Recipe``.

    Args:
      optimizer: of optax, which takes a learning rate or a function of the number of updates, such
        as ``optax.adam``. **Static**.
      schedule: ``(step) -> factor``, such as :func:`cosine`. **Static**.

    Returns:
      ``(learning_rate) -> optax.GradientTransformation``; equal arguments give equal programs.

    Example:
      >>> import optax
      >>> from sparsecode_jax.training import Recipe, schedules
      >>> recipe = Recipe(optimizer=schedules.scheduled(optax.adam, schedules.cosine(1000)))
    """
    _checks.optimizer("scheduled", optimizer)
    _checks.function("scheduled", "schedule", schedule)
    return Bound(_scheduled, optimizer, schedule)


def _scheduled(
    optimizer: Callable, schedule: Callable, learning_rate: Array
) -> optax.GradientTransformation:
    return optimizer(lambda count: learning_rate * schedule(count))
