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

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._sharding import Layout, agreed, layout_of, on_automatic_axes, to_host
from sparsecode_jax.dictionary_learning import _stages
from sparsecode_jax.dictionary_learning._replacement import WIDE
from sparsecode_jax.dictionary_learning._stages import Data, Found, Plan, Searched
from sparsecode_jax.dictionary_learning.alternating import (
    Ahead,
    Method,
    run_round,
    solver_and_steps,
)
from sparsecode_jax.dictionary_learning.updates import (
    DictionaryUpdate,
    method_of_optimal_directions,
    projected_gradient,
)
from sparsecode_jax.flops import FlopCount
from sparsecode_jax.io._identity import as_given, digest_of, program_of
from sparsecode_jax.io.runs import Pace, Run, of_any_number, wait
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import sparsa
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = [
    "Learned",
    "LearningProgress",
    "STEPS",
    "count_learning",
    "default_counts",
    "learn_dictionary",
]

_NAME = "learn_dictionary"
STEPS = 8  # of the solver of a lasso, per round
_CHUNK_SECONDS = 0.5  # how long to stay on the device between looks at the objective
_MOST_COPIES, _MOST_ATOMS = 16, 1024  # copies at once, and copies times atoms, by default
_HOPS = 6  # by default


class Learned(NamedTuple):
    """What :func:`learn_dictionary` found.

    Attributes:
      dictionary: the best found, refined, unit atoms, (N, M).
      codes: of the signals in it, (..., N).
      objective: their mean lasso objective, at ``penalty``; the refinement, which minimizes it at a
        smaller penalty, may raise it a little over the last of ``hops``.
      penalty: the last penalty, which the codes are of; 0 with ``num_active``.
      objectives: of every restart, (R,), before any hop.
      dictionaries: of every restart, (R, N, M), before any hop.
      hops: the best objective after each hop, (H,).
      flops: arithmetic operations of all restarts, hops and the refinement.
      bias: (M,), so that signals are near ``codes @ dictionary + bias``; None where none was asked.
    """

    dictionary: Array
    codes: Array
    objective: Array
    penalty: Array
    objectives: Array
    dictionaries: Array
    hops: Array
    flops: int
    bias: Array | None = None


class LearningProgress(NamedTuple):
    """What a callback of :func:`learn_dictionary` is told.

    Attributes:
      round: rounds so far, of restarts, hops and the refinement together; restarts go side by side.
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
    num_active: int | None = None,
    bias: ArrayLike | str | None = None,
    num_rounds: int = 100,
    num_steps: int | None = None,
    num_restarts: int | None = None,
    num_hops: int | None = None,
    num_refinement_rounds: int | None = None,
    solver: Solver | Callable[[int], Solver] | None = None,
    update: DictionaryUpdate | None = None,
    dictionary0: ArrayLike | None = None,
    callback: Callable[[LearningProgress], bool | None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "learn_dictionary",
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, by alternating minimization.

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
    replaced by signals, are annealed again from half way, and the best of all is kept (basin
    hopping). A refinement ends the search: the atoms are learned for some rounds more at .3 of the
    last penalty, since atoms bend towards one another in proportion to the penalty; the codes that
    are returned are of the last penalty itself. Nothing but the objective chooses; no truth is
    needed or used.

    Args:
      key: PRNG key: which signals the restarts begin with. **Traced**.
      signals: (..., M), at least N of them, of any scale. **Traced**.
      num_atoms: N. **Static**.
      penalty: the last l1 weight, (); None takes .015 of the root mean square norm. **Traced**.
      num_active: K, the most active codes per signal, in the place of a penalty: codes are those of
        a pursuit, and what is minimized is half the squared error. **Static**.
      bias: b of ``x - b``, which is coded: "mean" of the signals, or (M,). **Traced**.
      num_rounds: of a restart; a hop has six tenths of them. **Static**.
      num_steps: solver steps per round; None takes 8, or K. **Static**.
      num_restarts: R, also the copies of a hop; None takes 16, fewer above 64 atoms (R * N is at
        most 1,024) and 1 from 513 atoms. **Static**.
      num_hops: H; None takes 6, none if R is 1. **Static**.
      num_refinement_rounds: of the refinement; None takes three times ``num_rounds`` after hops,
        ``num_rounds`` for a ``dictionary0`` without hops, and none after restarts alone.
        **Static**.
      solver: of the lasso, or a pursuit, whose codes then begin anew each round; None takes
        ``sparsa()``, non-negative. With ``num_active`` it is what builds the pursuit, such as
        ``orthogonal_matching_pursuit`` itself; None takes ``orthogonal_least_squares``. **Static**.
      update: of the atoms, from :mod:`~sparsecode_jax.dictionary_learning.updates`; None takes
        ``method_of_optimal_directions()``, and above 8,192 atoms, where its (N, N) numbers take too
        much room, ``projected_gradient()``. **Static**.
      dictionary0: (N, M), to improve in the place of restarts: by hops, or by the refinement.
        **Traced**.
      callback: told a :class:`LearningProgress` every half a second or so; the search ends there
        if it returns True, and what was found by then is returned.
      checkpoint: a file. If it exists the search continues from it, and ends bit-identical to an
        uninterrupted one; it is rewritten every few seconds, and when the search is interrupted.
        Over processes all pass it, and arrays that span them lie in the folder
        ``checkpoint.arrays``. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`Learned`; with ``dictionary0`` it has one restart.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms, both a penalty and num_active, a checkpoint of another run.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a restart: ``num_rounds`` of :func:`~sparsecode_jax.dictionary_learning.alternate`,
    and three times ``num_steps`` steps to judge it; a hop: six tenths of R restarts; the
    refinement: its rounds and 13 times ``num_steps`` steps; ten times ``num_steps`` steps for the
    codes that are returned, and as many to judge a ``dictionary0``.
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
    _checks.key(name, key)
    (signals,) = _checks.floating(name, signals)
    _checks.full_precision(name, "signals", signals)
    _checks.signals_shape(name, signals)
    _checks.finite(name, signals=signals)
    _checks.count(name, "num_atoms", num_atoms)
    num_restarts, num_hops = default_counts(num_atoms, num_restarts, num_hops)
    solver, num_steps = solver_and_steps(
        name, solver, num_steps, penalty=penalty, num_active=num_active, num_atoms=num_atoms,
        default=sparsa(), default_steps=STEPS,
    )  # fmt: skip
    if num_refinement_rounds is None:
        without = 0 if dictionary0 is None else num_rounds
        num_refinement_rounds = _stages.REFINEMENT_ROUNDS * num_rounds if num_hops else without
    for label, count, least in (
        ("num_rounds", num_rounds, 1),
        ("num_restarts", num_restarts, 1),
        ("num_hops", num_hops, 0),
        ("num_refinement_rounds", num_refinement_rounds, 0),
    ):
        _checks.count(name, label, count, minimum=least)
    flat = signals.reshape(-1, signals.shape[-1])
    _checks.enough_signals(name, flat.shape[0], num_atoms)
    if update is None:
        update = projected_gradient() if num_atoms > WIDE else method_of_optimal_directions()
    _checks.update(name, update)
    if dictionary0 is not None:
        (dictionary0,) = _checks.real(name, dictionary0)
        dictionary0 = jnp.asarray(dictionary0, signals.dtype)
        _checks.dictionary_matrix(name, dictionary0)
        _checks.finite(name, dictionary0=dictionary0)
        _checks.dictionary_shape(name, dictionary0, (num_atoms, signals.shape[-1]))
        dictionary0 = dictionaries.normalize(dictionary0)
    if penalty is not None:
        (penalty,) = _checks.real(name, penalty)
        _checks.scalar(name, "penalty", penalty)
        _checks.positive(name, penalty=penalty)
    offset = _checks.offset(name, bias, flat)
    given, flat = flat, flat if offset is None else flat - offset[None]
    scale, first, last = _stages.penalties(flat, penalty, pursues=num_active is not None)
    plan = Plan(
        Method(solver, update, num_steps, updated_codes=False), num_atoms, num_rounds, num_restarts,
        num_hops, num_refinement_rounds, dictionary0 is not None, layout_of(name, flat),
    )  # fmt: skip
    data = Data(key, flat / scale, first, last, dictionary0)
    if all(map(_checks.concrete, jax.tree.leaves(data))):
        identity = {} if checkpoint is None else _identity(plan, data, given, penalty, bias)
        found = _search(plan, data, scale, callback, checkpoint, identity, progress)
    else:
        if callback is not None or checkpoint is not None:
            raise TypeError(
                f"{name}: a callback or a checkpoint under jit, vmap or grad; neither is expected "
                "there. Call it outside, or leave them out."
            )
        found = _stages.search_at_once(plan, data)
    best, (atoms, values) = found.best, found.restarts
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
    counts = _stages.count_search(plan, shapes)
    return Learned(
        dictionary=best.dictionary,
        codes=scale * best.codes.reshape(*signals.shape[:-1], num_atoms),
        objective=scale**2 * best.value,
        penalty=scale * last,
        objectives=scale**2 * values,
        dictionaries=jnp.asarray(atoms),
        hops=scale**2 * jnp.asarray(found.hops),
        flops=sum(times * int(count.total()) for _, times, count in counts),
        bias=offset,
    )


def count_learning(
    num_signals: int, num_measurements: int, *, num_atoms: int, num_rounds: int, num_steps: int,
    num_restarts: int, num_hops: int, signed: bool,
) -> list[tuple[str, int, FlopCount]]:  # fmt: skip
    """Count ``learn_dictionary`` from sizes: its stages by name, with how often they happen."""
    solver = sparsa(prox=soft_threshold) if signed else sparsa()
    method = Method(solver, method_of_optimal_directions(), num_steps, updated_codes=False)
    num_refinement_rounds = _stages.REFINEMENT_ROUNDS * num_rounds if num_hops else 0
    plan = Plan(
        method, num_atoms, num_rounds, num_restarts, num_hops, num_refinement_rounds, given=False
    )
    key: Any = jax.eval_shape(lambda: jax.random.key(0))
    signals: Any = jax.ShapeDtypeStruct((num_signals, num_measurements), jnp.float32)
    number: Any = jax.ShapeDtypeStruct((), jnp.float32)
    return _stages.count_search(plan, Data(key, signals, number, number, None))


def _search(
    plan: Plan,
    data: Data,
    scale: Array,
    callback: Callable | None,
    checkpoint: str | os.PathLike | None,
    identity: dict[str, Any],
    progress: str | None,
) -> Searched:
    """Search in pieces of rounds, which are seen, told and kept."""
    began, pace, stages = time.monotonic(), Pace(_CHUNK_SECONDS), plan.stages()
    lengths = [plan.rounds(stage) for stage in stages]
    total = sum(lengths)
    empty = jax.eval_shape(lambda data: _stages.run_stage(plan, stages[0], data, 0, None), data)
    found, best = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), empty)
    restarts = found.dictionary, found.value
    hops = np.full((plan.num_hops,), np.nan, best.value.dtype)
    place, done, ahead, stopped, before = 0, 0, None, False, 0.0
    with Run(checkpoint, identity, name=_NAME) as kept:
        if kept.has():
            first = of_any_number(
                jax.eval_shape(lambda x: _stages.begin(plan, stages[0], x, 0, None)[0], data)
            )
            numbers = np.float64(0), np.int32(0), np.int32(0)
            like = (*numbers, *_expected(first, best, plan.layout), restarts, hops)
            before, place, done, ahead, best, restarts, hops = kept.load(like)
            place, done = int(place), int(done)
            if np.isfinite(to_host(best.value)):  # of copies that diverged it is not
                _checks.finite(_NAME, **{f"{checkpoint}": best.dictionary})
        bar = tqdm(
            total=total, initial=sum(lengths[:place]) + done, desc=progress, unit="round",
            disable=progress is None,
        )  # fmt: skip
        with bar:
            while place < len(stages) and not stopped:
                stage, length, number = stages[place], lengths[place], max(place - 1, 0)
                if done == 0 or ahead is None:
                    ahead, best = _stages.begin(plan, stage, data, number, best)
                keys, schedule = _stages.prepare(plan, stage, data, number)
                advance = functools.partial(_stages.advance_some, method=plan.method_of(stage))
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
                        stopped = bool(agreed(bool(callback(news))))
                found, best = _stages.end(plan, stage, data, ahead, best)
                if place == 0:
                    restarts = found.dictionary, found.value
                elif stage == "hop":
                    hops = hops.copy()
                    hops[number] = best.value
                place, done = place + 1, 0
        num_hops = len([stage for stage in stages[:place] if stage == "hop"])
        codes = _stages.finish(plan, data, best)
        if not stopped:
            numbers = np.float64(before + time.monotonic() - began), np.int32(place), np.int32(0)
            now = (*numbers, ahead, best, restarts, hops)
        kept.save(now)
    return Searched(codes, restarts, hops[:num_hops])


def _identity(
    plan: Plan, data: Data, signals: Array, penalty: ArrayLike | None, bias: ArrayLike | str | None
) -> dict[str, Any]:
    """Return what decides a search; how its signals lie on devices does not.

    All are as they were given: a scale that devices compute together has other last bits on
    others. The method is in the round, and ``given`` in the dictionary at the start.
    """
    start = jax.eval_shape(lambda data: _stages.begin(plan, "restarts", data, 0, None)[0], data)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), start)
    round_ = functools.partial(run_round, method=plan.method)
    number = jnp.int32(0)
    arguments = data.key, data.signals, one, data.last, number > 0, number, data.last
    return {
        "key": digest_of(data.key),
        "signals": digest_of(signals),
        "penalty": None if penalty is None else float(to_host(penalty)),
        "bias": as_given(bias),
        "dictionary0": None if data.dictionary0 is None else digest_of(data.dictionary0),
        **{k: v for k, v in plan._asdict().items() if k not in ("method", "given", "layout")},
        "num_steps": plan.method.num_steps,
        "round": program_of(round_, *arguments),
    }


def _expected(ahead: Ahead, best: Found, layout: Layout | None) -> tuple[Ahead, Found]:
    """Return shapes of what is loaded, with codes where the signals lie and the rest everywhere."""
    if layout is None:
        return ahead, best

    def lying(tree: Any, *axes: Any) -> Any:
        place = NamedSharding(layout.mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    fitted = lying(ahead.fitted)._replace(codes=lying(ahead.fitted.codes, None, *layout.rows))
    best = lying(best)._replace(codes=lying(best.codes, *layout.rows))
    return lying(ahead)._replace(fitted=fitted), best
