"""Dictionary learning by alternating minimization, from many starts and by basin hopping."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax._sharding import Layout, layout_of, on_automatic_axes, placed
from sparsecode_jax.dictionary_learning._replacement import rms_norm, start_from_signals
from sparsecode_jax.dictionary_learning.alternating import (
    Ahead,
    Alternated,
    Method,
    before_rounds,
    encode,
    run_round,
)
from sparsecode_jax.dictionary_learning.updates import (
    DictionaryUpdate,
    method_of_optimal_directions,
)
from sparsecode_jax.flops import FlopCount, eval_flops
from sparsecode_jax.io._identity import digest_of, program_of
from sparsecode_jax.io.runs import Pace, Run, wait
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import sparsa
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = [
    "Learned",
    "LearningProgress",
    "count_learning",
    "count_search",
    "default_counts",
    "learn_dictionary",
]

_NAME = "learn_dictionary"
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
_SETTLE_ROUNDS = 3  # times the rounds of a restart, for the one that is left after hops
_SETTLE_PENALTY = 0.3  # of the last penalty, for its atoms: penalties draw atoms together
_CHUNK_SECONDS = 0.5  # how long to stay on the device between looks at the objective
_MOST_COPIES, _MOST_ATOMS = 16, 1024  # copies at once, and copies times atoms, by default
_HOPS = 6  # by default


class Learned(NamedTuple):
    """What :func:`learn_dictionary` found.

    Attributes:
      dictionary: the best found, settled, unit atoms, (N, M).
      codes: of the signals in it, (..., N).
      objective: their mean lasso objective, at ``penalty``; settling, which minimizes it at a
        smaller penalty, may raise it a little over the last of ``hops``.
      penalty: the last penalty, which the codes are of.
      objectives: of every restart, (R,), before any hop.
      dictionaries: of every restart, (R, N, M), before any hop.
      hops: the best objective after each hop, (H,).
      flops: arithmetic operations of all restarts, hops and settling.
    """

    dictionary: Array
    codes: Array
    objective: Array
    penalty: Array
    objectives: Array
    dictionaries: Array
    hops: Array
    flops: int


class LearningProgress(NamedTuple):
    """What a callback of :func:`learn_dictionary` is told.

    Attributes:
      round: rounds so far, of restarts, hops and settling together; restarts go side by side.
      num_rounds: of all.
      objective: the smallest mean objective now, at the penalty of the round, ().
      dictionary: of that objective, (N, M).
      seconds: of the search, those of earlier runs that this one continues included.
    """

    round: int
    num_rounds: int
    objective: float
    dictionary: Array
    seconds: float


def default_counts(
    num_atoms: int, num_restarts: int | None = None, num_hops: int | None = None
) -> tuple[int, int]:
    """Return the restarts and hops of :func:`learn_dictionary`, those not given by its rule.

    Args:
      num_atoms: N. **Static**.
      num_restarts: None takes 16, fewer above 64 atoms and 1 from 513 atoms. **Static**.
      num_hops: None takes 6, none if there is 1 restart. **Static**.

    Example:
      >>> default_counts(32), default_counts(256), default_counts(256, num_restarts=1)
      ((16, 6), (4, 6), (1, 0))
    """
    if num_restarts is None:
        num_restarts = max(1, min(_MOST_COPIES, _MOST_ATOMS // num_atoms))
    if num_hops is None:
        num_hops = _HOPS if num_restarts > 1 else 0
    return num_restarts, num_hops


@on_automatic_axes
def learn_dictionary(
    key: Key,
    signals: ArrayLike,
    *,
    num_atoms: int,
    penalty: ArrayLike | None = None,
    num_rounds: int = 100,
    num_steps: int = 8,
    num_restarts: int | None = None,
    num_hops: int | None = None,
    num_settling: int | None = None,
    solver: Solver | None = None,
    update: DictionaryUpdate | None = None,
    dictionary0: ArrayLike | None = None,
    callback: Callable[[LearningProgress], bool | None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "learn_dictionary",
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, in turns.

    .. math:: \min_{D, z \ge 0}\ \mathrm{mean}\big(\tfrac12\|x - zD\|^2 + \lambda\|z\|_1\big),
       \qquad \|d_j\| = 1

    Each round takes a few steps of the solver on all signals, from the codes of the round before,
    and then updates the atoms: by default it fits all of them by least squares (the method of
    optimal directions), scales them to unit norm and gives them momentum. The penalty holds its
    first value, min(.2, 1.6/sqrt(M)) of the signals' root mean square norm, for half of the rounds
    and falls geometrically to its last, which it keeps for the last .15 of them; before those,
    every fifth round renews atoms as :func:`~sparsecode_jax.dictionary_learning.alternate` says.

    Restarts begin at different signals and run as one vmapped program. The objective has many
    minima close to the best, so hops follow: copies of the best dictionary, each with two atoms
    replaced by signals, are annealed again from half way, and the best of all is kept. Last it
    settles: its atoms are learned for some rounds more at .3 of the last penalty, since atoms bend
    towards one another in proportion to the penalty; the codes that are returned are of the last
    penalty itself. Nothing but the objective chooses; no truth is needed or used.

    Args:
      key: PRNG key: which signals the restarts begin with. **Traced**.
      signals: (..., M), at least N of them, of any scale. **Traced**.
      num_atoms: N. **Static**.
      penalty: the last l1 weight, (); None takes .015 of the root mean square norm. **Traced**.
      num_rounds: of a restart; a hop has six tenths of them. **Static**.
      num_steps: solver steps a round. **Static**.
      num_restarts: R, also the copies of a hop; None takes 16, fewer above 64 atoms (R * N is at
        most 1,024) and 1 from 513 atoms. **Static**.
      num_hops: H; None takes 6, none if R is 1. **Static**.
      num_settling: rounds of settling; None takes three times ``num_rounds`` after hops,
        ``num_rounds`` for a ``dictionary0`` without hops, and none after restarts alone.
        **Static**.
      solver: of the lasso, or a pursuit, whose codes then begin anew each round; None takes
        ``sparsa()``, non-negative. **Static**.
      update: of the atoms, from :mod:`~sparsecode_jax.dictionary_learning.updates`; None takes
        ``method_of_optimal_directions()``. **Static**.
      dictionary0: (N, M), to improve in the place of restarts: by hops, or by settling.
        **Traced**.
      callback: told a :class:`LearningProgress` every half a second or so; the search ends there
        if it returns True, and what was found by then is returned.
      checkpoint: a file. If it exists the search continues from it, and ends bit-identical to an
        uninterrupted one; it is rewritten every few seconds, and when the search is interrupted.
        **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`Learned`; with ``dictionary0`` it has one restart.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms, a checkpoint of another run.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a restart: ``num_rounds`` of :func:`~sparsecode_jax.dictionary_learning.alternate`,
    and three times ``num_steps`` steps to judge it; a hop: six tenths of R restarts; settling: its
    rounds and 13 times ``num_steps`` steps; ten times ``num_steps`` steps for the codes that are
    returned, and as many to judge a ``dictionary0``.
    ``flops`` has the count of it all.

    References:
      Engan, Aase, Husoy, 1999 (method of optimal directions); Wales and Doye, 1997 (hops between
      minima).

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 2, num_samples=500, num_measurements=8, num_atoms=12)
      >>> found = sc.dictionary_learning.learn_dictionary(
      ...     jax.random.key(1), problem.signals, num_atoms=12, num_hops=1)
      >>> bool(sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.95)
      True
    """
    name = _NAME
    (signals,) = _checks.floating(name, signals)
    _checks.full_precision(name, "signals", signals)
    _checks.signals_shape(name, signals)
    _checks.finite(name, signals=signals)
    _checks.count(name, "num_atoms", num_atoms)
    num_restarts, num_hops = default_counts(num_atoms, num_restarts, num_hops)
    if num_settling is None:
        without = 0 if dictionary0 is None else num_rounds
        num_settling = _SETTLE_ROUNDS * num_rounds if num_hops else without
    for label, count, least in (
        ("num_rounds", num_rounds, 1),
        ("num_steps", num_steps, 1),
        ("num_restarts", num_restarts, 1),
        ("num_hops", num_hops, 0),
        ("num_settling", num_settling, 0),
    ):
        _checks.count(name, label, count, minimum=least)
    flat = signals.reshape(-1, signals.shape[-1])
    _checks.enough_signals(name, flat.shape[0], num_atoms)
    solver = sparsa() if solver is None else solver
    _checks.solver(name, solver)
    update = method_of_optimal_directions() if update is None else update
    _checks.update(name, update)
    if dictionary0 is not None:
        _checks.real(name, dictionary0)
        dictionary0 = jnp.asarray(dictionary0, signals.dtype)
        _checks.dictionary_matrix(name, dictionary0)
        _checks.finite(name, dictionary0=dictionary0)
        _checks.dictionary_shape(name, dictionary0, (num_atoms, signals.shape[-1]))
        dictionary0 = dictionaries.normalize(dictionary0)
    if penalty is not None:
        _checks.scalar(name, "penalty", penalty)
        _checks.positive(name, penalty=penalty)
    scale, first, last = penalties(flat, penalty)
    plan = Plan(
        Method(solver, update, num_steps, updated_codes=False), num_atoms, num_rounds, num_restarts,
        num_hops, num_settling, dictionary0 is not None, layout_of(name, flat),
    )  # fmt: skip
    data = Data(key, flat / scale, first, last, dictionary0)
    if all(map(_checks.concrete, jax.tree.leaves(data))):
        found = _search(plan, data, scale, callback, checkpoint, progress)
    else:
        if callback is not None or checkpoint is not None:
            raise TypeError(
                f"{name}: a callback or a checkpoint under jit, vmap or grad; neither is expected "
                "there. Call it outside, or leave them out."
            )
        found = _trace(plan, data)
    best, (atoms, values) = found.best, found.restarts
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
    counts = count_search(plan, shapes)
    return Learned(
        dictionary=best.dictionary,
        codes=scale * best.codes.reshape(*signals.shape[:-1], num_atoms),
        objective=scale**2 * best.value,
        penalty=scale * last,
        objectives=scale**2 * values,
        dictionaries=jnp.asarray(atoms),
        hops=scale**2 * jnp.asarray(found.hops),
        flops=sum(times * int(count.total()) for _, times, count in counts),
    )


def penalties(signals: Array, penalty: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Return the signals' root mean square norm, and the first and last penalty in its units."""
    scale = rms_norm(signals)  # the learner works on signals of unit root mean square norm
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
    num_settling: int
    given: bool  # a dictionary to improve, in the place of restarts
    layout: Layout | None = None

    def stages(self) -> list[str]:
        """Return the stages in order."""
        first, last = "given" if self.given else "restarts", ["settling"] * (self.num_settling > 0)
        return [first, *["hop"] * self.num_hops, *last]

    def rounds(self, stage: str) -> int:
        """Return the rounds of a stage."""
        hop = max(round(_HOP_ROUNDS * self.num_rounds), 1)
        of = {"given": 0, "restarts": self.num_rounds, "hop": hop, "settling": self.num_settling}
        return of[stage]

    def method_of(self, stage: str) -> Method:
        """Return how codes and atoms are improved in a stage."""
        return self.method._replace(updated_codes=stage == "settling")


class Data(NamedTuple):
    """The traced part: signals (S, M) of unit root mean square norm, and penalties in its units."""

    key: Key
    signals: Array
    first: Array
    last: Array
    dictionary0: Array | None


def count_search(plan: Plan, shapes: Data) -> list[tuple[str, int, FlopCount]]:
    """Count each kind of stage, and the codes that are returned, with how often they happen."""
    return _counted(plan._replace(layout=None), tuple(shapes))


@functools.lru_cache(maxsize=32)
def _counted(plan: Plan, leaves: tuple) -> list[tuple[str, int, FlopCount]]:
    data, stages = Data(*leaves), plan.stages()
    best = jax.eval_shape(lambda data: _stage(plan, stages[0], data, 0, None)[1], data)
    counts = [
        (
            stage,
            stages.count(stage),
            eval_flops(functools.partial(_stage, plan, stage), data, 0, best),
        )
        for stage in dict.fromkeys(stages)
    ]
    return [*counts, ("codes", 1, eval_flops(functools.partial(_finish, plan), data, best))]


def count_learning(
    num_signals: int, num_measurements: int, *, num_atoms: int, num_rounds: int, num_steps: int,
    num_restarts: int, num_hops: int, signed: bool,
) -> list[tuple[str, int, FlopCount]]:  # fmt: skip
    """Count ``learn_dictionary`` from sizes: its stages by name, with how often they happen."""
    solver = sparsa(prox=soft_threshold) if signed else sparsa()
    method = Method(solver, method_of_optimal_directions(), num_steps, updated_codes=False)
    num_settling = _SETTLE_ROUNDS * num_rounds if num_hops else 0
    plan = Plan(method, num_atoms, num_rounds, num_restarts, num_hops, num_settling, given=False)
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    signals: Any = jax.ShapeDtypeStruct((num_signals, num_measurements), jnp.float32)
    number: Any = jax.ShapeDtypeStruct((), jnp.float32)
    return count_search(plan, Data(key, signals, number, number, None))


def _trace(plan: Plan, data: Data) -> Searched:
    """Search inside somebody's program."""
    first, *_ = plan.stages()
    found, best = _stage(plan, first, data, 0, None)
    hops = best.value[None][:0]
    if plan.num_hops:

        def hop(best: Found, place: Array) -> tuple[Found, Array]:
            best = _stage(plan, "hop", data, place, best)[1]
            return best, best.value

        best, hops = jax.lax.scan(hop, best, jnp.arange(plan.num_hops))
    if plan.num_settling:
        best = _stage(plan, "settling", data, 0, best)[1]
    return Searched(_finish(plan, data, best), (found.dictionary, found.value), hops)


def _stage(
    plan: Plan, stage: str, data: Data, place: Array | int, best: Found | None
) -> tuple[Found, Found]:
    """Return what the copies of a stage found, and the best so far."""
    ahead, best = _begin(plan, stage, data, place, best)
    length = plan.rounds(stage)  # known here, so that its operations can be counted
    if length:
        keys, schedule = _prepare(plan, stage, data, place)
        method = plan.method_of(stage)
        ahead = _advance(keys, data.signals, schedule, ahead, 0, length, method=method)
    return _end(plan, stage, data, ahead, best)


def _search(
    plan: Plan,
    data: Data,
    scale: Array,
    callback: Callable | None,
    checkpoint: str | os.PathLike | None,
    progress: str | None,
) -> Searched:
    """Search in pieces of rounds, which are seen, told and kept."""
    began, pace, stages = time.monotonic(), Pace(_CHUNK_SECONDS), plan.stages()
    lengths = [plan.rounds(stage) for stage in stages]
    total = sum(lengths)
    empty = jax.eval_shape(lambda data: _stage(plan, stages[0], data, 0, None), data)
    found, best = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), empty)
    restarts = found.dictionary, found.value
    hops = np.full((plan.num_hops,), np.nan, best.value.dtype)
    place, done, ahead, stopped, before = 0, 0, None, False, 0.0
    with Run(checkpoint, _identity(plan, data) if checkpoint else {}, name=_NAME) as kept:
        if kept.has():
            first = jax.eval_shape(lambda data: _begin(plan, stages[0], data, 0, None)[0], data)
            first = jax.tree.map(_of_any_number, first)
            like = (np.float64(0), np.int32(0), np.int32(0), first, best, restarts, hops)
            before, place, done, ahead, best, restarts, hops = kept.load(like)
            place, done = int(place), int(done)
            ahead, best = _placed(ahead, plan.layout, 1), _placed(best, plan.layout, 0)
        bar = tqdm(
            total=total, initial=sum(lengths[:place]) + done, desc=progress, unit="round",
            disable=progress is None,
        )  # fmt: skip
        with bar:
            while place < len(stages) and not stopped:
                stage, length, number = stages[place], lengths[place], max(place - 1, 0)
                if done == 0 or ahead is None:
                    ahead, best = _begin(plan, stage, data, number, best)
                keys, schedule = _prepare(plan, stage, data, number)
                advance = functools.partial(_advance_some, method=plan.method_of(stage))
                while done < length and not stopped:
                    count = pace.next(length - done)
                    ahead = advance(keys, data.signals, schedule, ahead, done, done + count)
                    ahead = wait(ahead, bar.refresh)
                    pace.took(count)
                    done += count
                    bar.update(count)
                    objective = float(scale**2 * jnp.nanmin(ahead.value))
                    bar.set_postfix_str(f"{stage}, objective {objective:.4g}", refresh=False)
                    so_far = sum(lengths[:place]) + done
                    seconds = before + time.monotonic() - began
                    numbers = np.float64(seconds), np.int32(place), np.int32(done)
                    now = (*numbers, ahead, best, restarts, hops)
                    kept.keep(now, f"{so_far} of {total} rounds")
                    if callback is not None:
                        atoms = ahead.fitted.dictionary[jnp.nanargmin(ahead.value)]
                        news = LearningProgress(so_far, total, objective, atoms, seconds)
                        stopped = bool(callback(news))
                found, best = _end(plan, stage, data, ahead, best)
                if place == 0:
                    restarts = found.dictionary, found.value
                elif stage == "hop":
                    hops = hops.copy()
                    hops[number] = best.value
                place, done = place + 1, 0
        num_hops = len([stage for stage in stages[:place] if stage == "hop"])
        codes = _finish(plan, data, best)
        if not stopped:
            numbers = np.float64(before + time.monotonic() - began), np.int32(place), np.int32(0)
            kept.save((*numbers, ahead, best, restarts, hops))
    return Searched(codes, restarts, hops[:num_hops])


def _identity(plan: Plan, data: Data) -> dict[str, Any]:
    """Return what decides a search; how its signals lie on devices does not."""
    start = jax.eval_shape(lambda data: _begin(plan, "restarts", data, 0, None)[0], data)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start)
    round_ = functools.partial(run_round, method=plan.method)
    number = jnp.int32(0)
    arguments = data.key, data.signals, one, data.last, number > 0, number, data.last
    return {
        "key": digest_of(data.key),
        "signals": digest_of(data.signals),
        "penalty": float(data.last),
        "dictionary0": None if data.dictionary0 is None else digest_of(data.dictionary0),
        **{k: v for k, v in plan._asdict().items() if k.startswith("num_")},
        "num_steps": plan.method.num_steps,
        "round": program_of(round_, *arguments),
    }


def _of_any_number(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape of as many copies as a stage has."""
    return jax.ShapeDtypeStruct((-1, *x.shape[1:]), x.dtype)


def _placed(tree: Any, layout: Layout | None, axis: int) -> Any:
    """Put loaded arrays where a search has them: codes as the signals lie, the rest everywhere."""
    if layout is None:
        return tree
    whole = NamedSharding(layout.mesh, PartitionSpec())
    split = NamedSharding(layout.mesh, PartitionSpec(*[None] * axis, *layout.rows))

    def put(path: Any, x: Array) -> Array:
        is_codes = getattr(path[-1], "name", "") == "codes"
        return jax.device_put(x, split if is_codes else whole)

    return jax.tree_util.tree_map_with_path(put, tree)


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def _begin(
    plan: Plan, stage: str, data: Data, number: Array | int, best: Found | None
) -> tuple[Ahead, Found | None]:
    """Return where the copies of a stage begin, and the best so far (settling judges it anew)."""
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
        best = _judged(plan, data, best.dictionary, best.codes, POLISHING, _SETTLE_PENALTY)
        start = best.dictionary[None]

    def begin(dictionary: Array) -> Ahead:
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)
        codes = best.codes if stage == "settling" and best is not None else codes
        codes = placed(codes, plan.layout)
        return before_rounds(Alternated(dictionary, codes, plan.method.update.init(dictionary)))

    return jax.vmap(begin)(start), best


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def _prepare(
    plan: Plan, stage: str, data: Data, number: Array | int
) -> tuple[Key, tuple[Array, Array, int, int]]:
    """Return the keys of the rounds of each copy, and the schedule of a stage."""
    keys = _keys(plan, stage, data, number)[:, -1]
    first, last, length = data.first, data.last, plan.rounds(stage)
    if stage == "settling":
        low = _SETTLE_PENALTY * last
        return keys, (low, low, 0, 0)
    if stage == "hop":
        return keys, (jnp.sqrt(first * last), last, *turning_points(length, holding=0.0))
    return keys, (first, last, *turning_points(length))


def _advance(
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
_advance_some = jax.jit(_advance, static_argnames=("method",))


@functools.partial(jax.jit, static_argnames=("plan", "stage"))
def _end(
    plan: Plan, stage: str, data: Data, ahead: Ahead, best: Found | None
) -> tuple[Found, Found]:
    """Return what the copies of a stage found, and the best so far."""
    times = POLISHING if stage == "given" else JUDGING
    settled = _SETTLE_PENALTY if stage == "settling" else 1.0
    fitted = ahead.fitted
    found = jax.vmap(lambda d, z: _judged(plan, data, d, z, times, settled))(
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
def _finish(plan: Plan, data: Data, best: Found) -> Found:
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
    num_steps = times * plan.method.num_steps
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
    return first * (last / first) ** fraction, due & (number >= _REPLACE_FROM) & (number < end)
