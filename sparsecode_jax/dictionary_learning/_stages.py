"""The stages of a search for a dictionary: programs of all copies, and what they cost."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import objectives
from sparsecode_jax._sharding import Layout, placed
from sparsecode_jax.dictionary_learning._replacement import rms_norm, start_from_signals
from sparsecode_jax.dictionary_learning.alternating import (
    Ahead,
    Alternated,
    Method,
    before_rounds,
    encode,
    run_round,
)
from sparsecode_jax.flops import FlopCount, eval_flops
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = [
    "Data",
    "Found",
    "JUDGING",
    "MOMENTUM",
    "POLISHING",
    "Plan",
    "REFINEMENT_ROUNDS",
    "Searched",
    "advance_some",
    "annealing",
    "begin",
    "count_search",
    "end",
    "finish",
    "penalties",
    "prepare",
    "run_stage",
    "search_at_once",
    "turning_points",
]

# Penalties are fractions of the root mean square norm of the signals: a random atom correlates
# with a signal by 1/sqrt(M), so that in many dimensions a smaller first penalty is sparse enough.
_FIRST, _FIRST_ROOT, _LAST = 0.2, 1.6, 0.015
_HOLDING = 0.5  # the first fraction of a restart's rounds keeps the first penalty
_KEEPING = 0.15  # the last fraction of rounds replaces no atom and keeps the last penalty
MOMENTUM = 0.9
_REPLACE_EVERY, _REPLACE_FROM = 5, 10  # rounds
JUDGING = 3  # times the steps of a round, for the codes by which dictionaries are compared
POLISHING = 10  # times the steps of a round, for the codes that are returned
_HOP_ROUNDS = 0.6  # of the rounds of a restart
_HOP_ATOMS = 2  # that a hop replaces
REFINEMENT_ROUNDS = 3  # times the rounds of a restart, for the one that is left after hops
_REFINEMENT_PENALTY = 0.3  # of the last penalty, for its atoms: penalties draw atoms together


def penalties(
    signals: Array, penalty: ArrayLike | None, *, pursues: bool = False
) -> tuple[Array, Array, Array]:
    """Return the signals' root mean square norm, and the first and last penalty in its units.

    Where a pursuit of K active codes stands in the place of a penalty, both are 0.
    """
    scale = rms_norm(signals)  # the learner works on signals of unit root mean square norm
    if pursues:
        return scale, jnp.zeros_like(scale), jnp.zeros_like(scale)
    last = jnp.asarray(_LAST if penalty is None else penalty / scale, signals.dtype)
    first = min(_FIRST, _FIRST_ROOT / signals.shape[1] ** 0.5)
    return scale, jnp.maximum(first, last), last


class Found(NamedTuple):
    """Dictionaries, their codes, and their mean objectives at some penalty."""

    dictionary: Array
    codes: Array
    value: Array


class Searched(NamedTuple):
    """What a search has found: the best, all of its first stage, and the best after each hop."""

    best: Found
    restarts: tuple[Array, Array]  # dictionaries (R, N, M) and objectives (R,)
    hops: Any


class Plan(NamedTuple):
    """The static part of a search."""

    method: Method
    num_atoms: int
    num_rounds: int
    num_restarts: int
    num_hops: int
    num_refinement_rounds: int
    given: bool  # a dictionary to improve, in the place of restarts
    layout: Layout | None = None

    def stages(self) -> list[str]:
        """Return the stages in order."""
        first = "given" if self.given else "restarts"
        last = ["refinement"] if self.num_refinement_rounds else []
        return [first, *["hop"] * self.num_hops, *last]

    def rounds(self, stage: str) -> int:
        """Return the rounds of a stage."""
        hop = max(round(_HOP_ROUNDS * self.num_rounds), 1)
        last = self.num_refinement_rounds
        of = {"given": 0, "restarts": self.num_rounds, "hop": hop, "refinement": last}
        return of[stage]

    def method_of(self, stage: str) -> Method:
        """Return how codes and atoms are improved in a stage."""
        return self.method._replace(updated_codes=stage == "refinement")


class Data(NamedTuple):
    """The traced part: signals (S, M) of unit root mean square norm, and penalties in its units."""

    key: Key
    signals: Array
    first: Array
    last: Array
    dictionary0: Array | None


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def begin(
    plan: Plan, stage: str, data: Data, number: Array | int, best: Found | None
) -> tuple[Ahead, Found | None]:
    """Return where the copies of a stage begin, and the best so far (the last judges it anew)."""
    keys = _keys(plan, stage, data, number)
    signals, num_atoms = data.signals, plan.num_atoms
    if stage == "restarts":
        start = jax.vmap(lambda key: start_from_signals(key[0], signals, num_atoms))(keys)
    elif stage == "given":
        assert data.dictionary0 is not None
        start = data.dictionary0[None]
    elif stage == "hop":

        def copy(key: Key) -> Array:
            out = jax.random.permutation(key[0], num_atoms) < _HOP_ATOMS
            atoms = start_from_signals(key[1], signals, num_atoms)
            assert best is not None
            return jnp.where(out[:, None], atoms, best.dictionary)

        start = jax.vmap(copy)(keys)
    else:
        assert best is not None
        # Codes first: atoms fitted to codes that are far from converged would leave their places.
        best = _judged(plan, data, best.dictionary, best.codes, POLISHING, _REFINEMENT_PENALTY)
        start = best.dictionary[None]

    def begin(dictionary: Array) -> Ahead:
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)
        codes = best.codes if stage == "refinement" and best is not None else codes
        codes = placed(codes, plan.layout)
        return before_rounds(Alternated(dictionary, codes, plan.method.update.init(dictionary)))

    return jax.vmap(begin)(start), best


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def prepare(
    plan: Plan, stage: str, data: Data, number: Array | int
) -> tuple[Key, tuple[Array, Array, int, int]]:
    """Return the keys of the rounds of each copy, and the schedule of a stage."""
    keys = _keys(plan, stage, data, number)[:, -1]
    first, last, length = data.first, data.last, plan.rounds(stage)
    if stage == "refinement":
        low = _REFINEMENT_PENALTY * last
        return keys, (low, low, 0, 0)
    if stage == "hop":
        return keys, (jnp.sqrt(first * last), last, *turning_points(length, holding=0.0))
    return keys, (first, last, *turning_points(length))


def advance(
    keys: Key,
    signals: Array,
    schedule: tuple[Array, Array, int, int],
    ahead: Ahead,
    start: Array | int,
    stop: Array | int,
    *,
    method: Method,
) -> Ahead:
    """Run some rounds of all copies, side by side."""
    momentum = jnp.asarray(MOMENTUM, signals.dtype)

    def one(number: Array, ahead: Ahead) -> Ahead:
        penalty, replaces = annealing(*schedule, number)

        def copy(key: Key, ahead: Ahead) -> Ahead:
            return run_round(key, signals, ahead, penalty, replaces, number, momentum, method)

        return jax.vmap(copy)(keys, ahead)

    return jax.lax.fori_loop(start, stop, one, ahead)


# The number of rounds is traced: where a search is cut into pieces does not change its bits.
advance_some = jax.jit(advance, static_argnames=("method",))


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def end(
    plan: Plan, stage: str, data: Data, ahead: Ahead, best: Found | None
) -> tuple[Found, Found]:
    """Return what the copies of a stage found, and the best so far."""
    times = POLISHING if stage == "given" else JUDGING
    share = _REFINEMENT_PENALTY if stage == "refinement" else 1.0
    fitted = ahead.fitted
    found = jax.vmap(lambda d, z: _judged(plan, data, d, z, times, share))(
        fitted.dictionary, fitted.codes
    )
    finite = jnp.where(jnp.isfinite(found.value), found.value, jnp.inf)
    new = jax.tree.map(lambda x: x[jnp.argmin(finite)], found)
    if stage in ("given", "restarts"):
        return found, new
    assert best is not None
    better = new.value < best.value
    return found, jax.tree.map(lambda x, y: jnp.where(better, x, y), new, best)


@functools.partial(jax.jit, static_argnames=("plan",))
def finish(plan: Plan, data: Data, best: Found) -> Found:
    """Return the best with the codes that are returned."""
    return _judged(plan, data, best.dictionary, best.codes, POLISHING)


def _keys(plan: Plan, stage: str, data: Data, number: Array | int) -> Key:
    """Return the keys of the copies of a stage, the last of each for its rounds."""
    restart_key, hop_key = jax.random.split(data.key)
    if stage == "restarts":
        return jax.vmap(jax.random.split)(jax.random.split(restart_key, plan.num_restarts))
    if stage == "hop":
        key = jax.random.split(hop_key, plan.num_hops)[number]
        copies = jax.random.split(key, plan.num_restarts)
        return jax.vmap(lambda key: jax.random.split(key, 3))(copies)
    return data.key[None, None]


def _judged(
    plan: Plan, data: Data, dictionary: Array, codes: Array, times: int, factor: float = 1.0
) -> Found:
    """Bring codes nearer their minimum, and take the objective there."""
    solver, penalty = plan.method.solver, factor * data.last
    # An orthogonal pursuit begins anew, and is done after its steps.
    num_steps = (times if solver.takes_codes0 else 1) * plan.method.num_steps
    codes = encode(solver, data.signals, dictionary, penalty, num_steps, codes)
    value = jnp.mean(objectives.lasso(data.signals, dictionary, codes, penalty))
    return Found(dictionary, codes, value)


def turning_points(num_rounds: int, holding: float = _HOLDING) -> tuple[int, int]:
    """Return the rounds at which the first penalty begins to fall, and the last is reached."""
    return round(holding * num_rounds), round((1 - _KEEPING) * num_rounds)


def annealing(
    first: Array, last: Array, begin: int, end: int, number: Array
) -> tuple[Array, Array]:
    """Return the penalty of a round, or of several, and whether it replaces atoms."""
    fraction = jnp.clip((number - begin) / jnp.maximum(end - begin, 1), 0, 1).astype(last.dtype)
    due = number % _REPLACE_EVERY == _REPLACE_EVERY - 1
    ratio = last / jnp.where(first > 0, first, 1)
    return first * ratio**fraction, due & (number >= _REPLACE_FROM) & (number < end)


def search_at_once(plan: Plan, data: Data) -> Searched:
    """Search inside somebody's program."""
    first, *_ = plan.stages()
    found, best = run_stage(plan, first, data, 0, None)
    hops = best.value[None][:0]
    if plan.num_hops:

        def hop(best: Found, place: Array) -> tuple[Found, Array]:
            best = run_stage(plan, "hop", data, place, best)[1]
            return best, best.value

        best, hops = jax.lax.scan(hop, best, jnp.arange(plan.num_hops))
    if plan.num_refinement_rounds:
        best = run_stage(plan, "refinement", data, 0, best)[1]
    return Searched(finish(plan, data, best), (found.dictionary, found.value), hops)


def run_stage(
    plan: Plan, stage: str, data: Data, place: Array | int, best: Found | None
) -> tuple[Found, Found]:
    """Return what the copies of a stage found, and the best so far."""
    ahead, best = begin(plan, stage, data, place, best)
    length = plan.rounds(stage)  # known here, so that its operations can be counted
    if length:
        keys, schedule = prepare(plan, stage, data, place)
        method = plan.method_of(stage)
        ahead = advance(keys, data.signals, schedule, ahead, 0, length, method=method)
    return end(plan, stage, data, ahead, best)


def count_search(plan: Plan, shapes: Data) -> list[tuple[str, int, FlopCount]]:
    """Count each kind of stage, and the codes that are returned, with how often they happen."""
    return _counted(plan._replace(layout=None), tuple(shapes))


@functools.lru_cache(maxsize=32)
def _counted(plan: Plan, leaves: tuple) -> list[tuple[str, int, FlopCount]]:
    data, stages = Data(*leaves), plan.stages()
    best = jax.eval_shape(lambda data: run_stage(plan, stages[0], data, 0, None)[1], data)
    counts = [
        (
            stage,
            stages.count(stage),
            eval_flops(functools.partial(run_stage, plan, stage), data, 0, best),
        )
        for stage in dict.fromkeys(stages)
    ]
    return [*counts, ("codes", 1, eval_flops(functools.partial(finish, plan), data, best))]
