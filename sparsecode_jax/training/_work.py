"""What training costs, and how much of it a budget pays for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsecode_jax.flops import FlopCountError, eval_flops
from sparsecode_jax.training._inputs import Axes
from sparsecode_jax.training._programs import Program
from sparsecode_jax.training.step import TrainData, TrainState

__all__ = ["ENDLESS", "MaxFlops", "Work", "count_work", "number_of_steps", "shapes_of_one_run"]

ENDLESS = 2**31 - 1  # steps: until the stream ends


class Work(NamedTuple):
    """Arithmetic operations of one run: of a step, of a resampling, and steps between those.

    ``step`` is None if they cannot be counted.
    """

    step: int | None
    resampling: int
    every: int | None

    def total(self, num_steps: int) -> int | None:
        """Return the operations of so many steps; nothing is resampled after the last."""
        if self.step is None:
            return None
        events = 0 if self.every is None else max(num_steps - 1, 0) // self.every
        return num_steps * self.step + events * self.resampling

    def at(self, steps: np.ndarray) -> np.ndarray | None:
        """Return the operations so far after each of several numbers of steps."""
        if self.step is None:
            return None
        return np.asarray([self.total(int(step)) for step in steps], dtype=np.float64)


def count_work(state: TrainState, data: TrainData, program: Program) -> Work:
    """Count one step, and one resampling, of one run from shapes alone."""
    arguments = shapes_of_one_run(state, data, program.axes)

    def count(fn: Callable) -> int:
        return int(eval_flops(fn, *arguments).total())

    recipe = program.recipe
    if recipe.dead_after is not None:  # losses cost as much whichever latents are dead
        recipe = recipe._replace(dead_after=0)
    try:
        step, every = count(program._replace(recipe=recipe).step()), recipe.resample_every
        return Work(step, 0 if every is None else count(program.resampling()), every)
    except FlopCountError:
        return Work(None, 0, None)


def shapes_of_one_run(
    state: TrainState, data: TrainData, axes: Axes
) -> tuple[TrainState, TrainData]:
    """Return the shapes and dtypes of the state and the data of one of several runs."""

    def one(tree: Any, has: Any) -> Any:
        def shape(x: Any, cut: bool) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[cut:], x.dtype)

        if isinstance(has, bool):
            return jax.tree.map(lambda x: shape(x, has), tree)
        return type(tree)(*(one(x, h == 0) for x, h in zip(tree, has, strict=True)))

    runs = axes.runs is not None
    return one(state, runs), one(data, axes.data if runs else False)


class MaxFlops(NamedTuple):
    """A budget of training: as many steps as fit into so many arithmetic operations of a run.

    ``fit(..., num_steps=MaxFlops(1e12))`` compares methods at equal compute; resampling is charged.
    """

    flops: float


def number_of_steps(budget: int | MaxFlops | None, work: Work, stream: Any) -> int:
    """Return the number of steps, from a budget of FLOPs or the length of a stream if need be."""
    if budget is None:
        if stream is None:
            raise ValueError(
                "fit: num_steps is not given; a number, or MaxFlops(number), is expected (only an "
                "iterator of signals ends by itself)."
            )
        return ENDLESS
    if not isinstance(budget, MaxFlops):
        return budget
    max_flops = budget.flops
    if work.step is None:
        raise ValueError(
            "fit: num_steps is MaxFlops, but the FLOPs of this training step cannot be counted; a "
            "number of steps is expected."
        )
    if not max_flops >= work.step:
        raise ValueError(
            f"fit: num_steps is MaxFlops({max_flops:.3g}) and one step takes {work.step:.3g}; at "
            "least one step is expected to fit."
        )
    least, most = 1, int(min(max_flops / work.step, ENDLESS - 1))
    while least < most:  # the largest number of steps within the budget
        middle = (least + most + 1) // 2
        total = work.total(middle)
        assert total is not None
        least, most = (middle, most) if total <= max_flops else (least, middle - 1)
    return least
