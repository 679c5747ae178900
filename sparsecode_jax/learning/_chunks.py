"""One restart of ``learn_dictionary`` in chunks of rounds: progress is seen, and work kept."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax.learning._replacement import start_from_signals
from sparsecode_jax.learning.alternating import (
    JUDGING,
    MOMENTUM,
    POLISHING,
    Found,
    Learned,
    annealing,
    judged,
    penalties,
)
from sparsecode_jax.learning.rounds import Ahead, Alternated, before_rounds, go_on
from sparsecode_jax.learning.updates import method_of_optimal_directions
from sparsecode_jax.types import Array, Key, Solver

__all__ = ["Chunks", "restart_in_chunks"]


class Chunks(NamedTuple):
    """A restart by hand: ``begin``, then ``advance`` through all rounds, then ``finish``.

    Every array has a leading axis of 1, as the restarts of ``learn_dictionary`` have one of R, so
    that the operations and their results are the same.
    """

    key: Key
    signals: Array
    first: Array
    last: Array
    scale: Array
    num_atoms: int
    num_rounds: int
    num_steps: int
    solver: Solver

    def begin(self) -> Ahead:
        """Return what is carried before the first round."""
        return _begin(self.key, self.signals, num_atoms=self.num_atoms)

    def advance(self, carried: Ahead, done: int, num: int) -> Ahead:
        """Run some rounds after those that are done."""
        schedule = annealing(self.first, self.last, self.num_rounds)
        some = [x[done : done + num] for x in (*schedule, jnp.arange(self.num_rounds))]
        return _advance(
            self.key, self.signals, carried, tuple(some), num_steps=self.num_steps,
            solver=self.solver,
        )  # fmt: skip

    def finish(self, carried: Ahead) -> Learned:
        """Return what ``learn_dictionary`` does after the last round; its FLOPs are not counted."""
        found, best = _finish(
            self.signals, carried[2], self.last, num_steps=self.num_steps, solver=self.solver
        )
        dictionaries, _, values = found
        dictionary, codes, value = best
        scale = self.scale
        return Learned(
            dictionary, scale * codes, scale**2 * value, scale * self.last, scale**2 * values,
            dictionaries, values[:0], 0,
        )  # fmt: skip


def restart_in_chunks(
    key: Key,
    signals: Array,
    *,
    num_atoms: int,
    penalty: float | None,
    num_rounds: int,
    num_steps: int,
    solver: Solver,
) -> Chunks:
    """Prepare ``learn_dictionary(num_restarts=1, num_hops=0, num_settling=0)`` on (S, M)."""
    scale, first, last = penalties(signals, penalty)
    return Chunks(
        key, signals / scale, first, last, scale, num_atoms, num_rounds, num_steps, solver
    )


def _keys(key: Key) -> Key:
    """Return the key of the one restart, and of its draw and rounds, (1, 2)."""
    restart_key, _ = jax.random.split(key)
    return jax.vmap(jax.random.split)(jax.random.split(restart_key, 1))


@functools.partial(jax.jit, static_argnames=("num_atoms",))
def _begin(key: Key, signals: Array, *, num_atoms: int) -> Ahead:
    def begin(keys: Key) -> Ahead:
        dictionary = start_from_signals(keys[0], signals, num_atoms)
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)
        update = method_of_optimal_directions()
        return before_rounds(Alternated(dictionary, codes, update.init(dictionary)))

    return jax.vmap(begin)(_keys(key))


@functools.partial(jax.jit, static_argnames=("num_steps", "solver"))
def _advance(
    key: Key,
    signals: Array,
    carried: Ahead,
    scheduled: tuple[Array, Array, Array],
    *,
    num_steps: int,
    solver: Solver,
) -> Ahead:
    momentum = jnp.asarray(MOMENTUM, signals.dtype)
    update = method_of_optimal_directions()

    def advance(keys: Key, carried: Ahead) -> Ahead:
        return go_on(
            keys[1], signals, carried, scheduled, momentum, solver, update, num_steps, False
        )

    return jax.vmap(advance)(_keys(key), carried)


@functools.partial(jax.jit, static_argnames=("num_steps", "solver"))
def _finish(
    signals: Array, fitted: Alternated, last: Array, *, num_steps: int, solver: Solver
) -> tuple[Found, Found]:
    judge = functools.partial(judged, solver, signals)
    found = jax.vmap(lambda d, z: judge(d, z, last, JUDGING * num_steps))(
        fitted.dictionary, fitted.codes
    )
    return found, judge(found.dictionary[0], found.codes[0], last, POLISHING * num_steps)
