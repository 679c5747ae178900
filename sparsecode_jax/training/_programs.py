"""The compiled programs of :func:`~sparsecode_jax.training.fit`, each over all runs at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sparsecode_jax._sharding import by_signal, over_devices
from sparsecode_jax.training._inputs import Axes
from sparsecode_jax.training.resampling import resample
from sparsecode_jax.training.step import (
    Autoencoder,
    Recipe,
    Source,
    TrainData,
    TrainState,
    bound,
    init_state,
    project,
    train_step,
)
from sparsecode_jax.types import Array, Encoder, Key, PyTree

__all__ = ["Program", "begin", "complete", "record_of", "returned", "revive", "run"]


class Program(NamedTuple):
    """Everything static about a training, hashable."""

    encoder: Encoder
    recipe: Recipe
    source: Source
    axes: Axes

    def step(self) -> Callable[[TrainState, TrainData], TrainState]:
        """Return a step of one run."""
        static = {"encoder": self.encoder, "recipe": self.recipe, "source": self.source}
        return functools.partial(train_step, **static)  # type: ignore[arg-type]

    def resampling(self) -> Callable[[TrainState, TrainData], TrainState]:
        """Return the resampling of one run's dead latents."""
        static = {"encoder": self.encoder, "recipe": self.recipe, "source": self.source}
        return functools.partial(resample, **static)  # type: ignore[arg-type]


def _over_runs(fn: Callable, axes: Axes, *leading: int | None) -> Callable:
    """Map a function of (..., data) over runs, if there are several, on the devices they lie on."""
    if axes.runs is None:
        return fn
    mapped = jax.vmap(fn, in_axes=(*leading, axes.data))
    runs, whole = by_signal(axes.layout), PartitionSpec()
    data = type(axes.data)(*(whole if axis is None else runs for axis in axes.data))
    specs = (*(whole if axis is None else runs for axis in leading), data)
    return over_devices(mapped, axes.layout, specs, runs, check=False)


@functools.partial(jax.jit, static_argnames=("program", "num_latents"))
def begin(
    key: Key, params: Autoencoder, data: TrainData, *, program: Program, num_latents: int | None
) -> TrainState:
    """Return the state before the first step."""
    start = functools.partial(init_state, recipe=program.recipe, num_latents=num_latents)
    return _over_runs(start, program.axes, 0, 0)(key, params, data)


@functools.partial(jax.jit, static_argnames=("program",))
def run(
    state: TrainState,
    curve: Array,
    data: TrainData,
    start: Array,
    num_steps: Array,
    every: Array,
    *,
    program: Program,
) -> tuple[TrainState, Array]:
    """Take some steps, and put their losses into the curve (of each run, (P,))."""
    step = _over_runs(program.step(), program.axes, 0)

    def advance(number: Array, carried: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, curve = step(carried[0], data), carried[1]
        return state, curve.at[..., number // every].set(state.loss)

    # The trip count is traced: one program for every chunk length, so that where a run was cut
    # into chunks cannot change its bits.
    return jax.lax.fori_loop(start, start + num_steps, advance, (state, curve))


@functools.partial(jax.jit, static_argnames=("program",))
def revive(state: TrainState, data: TrainData, *, program: Program) -> TrainState:
    """Give the dead latents a new start."""
    return _over_runs(program.resampling(), program.axes, 0)(state, data)


@functools.partial(jax.jit, static_argnames=("program",))
def complete(state: TrainState, data: TrainData, *, program: Program) -> Autoencoder:
    """Return the parameters for use, of all runs."""
    return _over_runs(functools.partial(returned, program), program.axes, 0)(state, data)


def returned(program: Program, state: TrainState, data: TrainData) -> Autoencoder:
    """Return the parameters of one run for use: averaged, projected, shared parts put in."""
    recipe, params = program.recipe, state.params
    if state.average is not None and recipe.average_decay is not None:
        steps = jnp.maximum(state.step, 1).astype(state.loss.dtype)
        weight = 1 - recipe.average_decay**steps
        mean = jax.tree.map(lambda x: (x / weight).astype(x.dtype), state.average)
        params = jax.tree.map(lambda p, a: jnp.where(state.step > 0, a, p), params, mean)
    if params.dictionary is None:
        params = params._replace(dictionary=data.dictionary)
    elif recipe.unit_atoms:
        params = project(params)
    return params._replace(encoder=bound(program.encoder, params))


@functools.partial(jax.jit, static_argnames=("record", "program"))
def record_of(state: TrainState, data: TrainData, *, record: Callable, program: Program) -> PyTree:
    """Return what ``record`` takes of the parameters for use, of all runs."""
    return _over_runs(lambda s, d: record(returned(program, s, d)), program.axes, 0)(state, data)
