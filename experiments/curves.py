"""Curves of methods along their work, and the operating points that are worth their work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import accounts
from experiments.accounts import Flops

# By numbers of atoms: the solver of k atoms, how many steps it takes, and the numbers to try.
GREEDY: dict[str, tuple[Callable[[int], sc.Solver], Callable[[int], int], range]] = {
    "ols": (sc.solvers.orthogonal_least_squares, lambda k: k, range(1, 7)),
    "omp": (sc.solvers.orthogonal_matching_pursuit, lambda k: k, range(1, 7)),
    "subspace_pursuit": (sc.solvers.subspace_pursuit, lambda k: 3, range(1, 5)),
    "exhaustive": (sc.solvers.exhaustive, lambda k: 1, range(1, 5)),
}


class Curve(NamedTuple):
    """Steps and FLOPs (P,), MCC (P, runs), penalty (P,), NaN where a method has none."""

    steps: np.ndarray
    published: np.ndarray
    measured: np.ndarray
    mcc: np.ndarray
    penalty: np.ndarray


def curve(steps: Sequence[int], work: Sequence[Flops], mcc: Any, penalty: Any = np.nan) -> Curve:
    """Pack a curve."""
    return Curve(
        np.asarray(steps, dtype=np.int64),
        np.asarray([w.published for w in work], dtype=np.float64),
        np.asarray([w.measured for w in work], dtype=np.float64),
        np.asarray(mcc, dtype=np.float64),
        np.broadcast_to(np.float64(penalty), (len(steps),)),
    )


class Problems(NamedTuple):
    """Data sets to run a solver on: signals (D, S, M), codes (D, S, N), dictionaries (D, N, M)."""

    signals: np.ndarray
    codes: np.ndarray
    dictionaries: np.ndarray


@functools.partial(jax.jit, static_argnames=("solver", "num_steps", "record_every"))
def trajectories(
    problems: Problems,
    penalties: Any,
    step_size: Any = None,
    codes0: Any = None,
    *,
    solver: sc.Solver,
    num_steps: int,
    record_every: int = 1,
) -> jax.Array:
    """Return the MCC along a solver's steps: (penalties, data sets, records)."""

    def one(penalty: Any, data: tuple) -> Any:
        signals, codes, dictionary, start = data
        step = sc.dictionaries.step_size(dictionary) if step_size is None else step_size
        return sc.solvers.trajectory(
            solver,
            sc.Lasso(signals, dictionary, penalty, step),
            num_steps=num_steps,
            record=lambda estimate: sc.metrics.mcc(codes, estimate),
            record_every=record_every,
            codes0=start,
        )[1]

    return sc.sweep(one, penalty=penalties, data=(*map(jnp.asarray, problems), codes0))


def efficient(work: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the flat indices of operating points that no cheaper one beats on the training half.

    Args:
      work: FLOPs of each operating point, any shape.
      train: training MCC, the same shape.

    Returns:
      Indices in order of work; training MCC rises strictly along them.
    """
    order = np.lexsort((-train.ravel(), work.ravel()))
    values = train.ravel()[order]
    previous = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    return order[values > previous]


def solver_steps(num_steps: int, record_every: int) -> list[int]:
    """Return the step counts at which a trajectory was recorded."""
    return [record_every * (i + 1) for i in range(num_steps // record_every)]


def greedy(
    name: str, train_set: Problems, tests: dict[str, Problems], *, most: int = 6
) -> dict[str, Curve]:
    """Return curves along the number of atoms, up to ``most``; only when to stop is chosen."""
    factory, steps_of, counts = GREEDY[name]
    counts = range(counts.start, min(most + 1, counts.stop))
    solvers = [(factory(k), steps_of(k)) for k in counts]
    work = [accounts.pursuit(solver, steps) for solver, steps in solvers]

    def scores(problems: Problems) -> np.ndarray:  # (numbers of atoms, data sets)
        ends = [
            trajectories(
                problems, jnp.zeros(1), jnp.float32(1), solver=s, num_steps=k, record_every=k
            )[0, :, 0]
            for s, k in solvers
        ]
        return np.stack(ends)

    chosen = efficient(np.asarray([w.measured for w in work]), scores(train_set)[:, 0])
    options = [(np.nan, k) for k in counts]
    return {
        f"{prefix}{name}": select(chosen, options, work, scores(problems))
        for prefix, problems in tests.items()
    }


class Stop(NamedTuple):
    """A rule by which each signal takes atoms until it stops; nobody is told K.

    Attributes:
      done: ``(limit, halves, scale) -> (D, atoms, S)``, whether a signal stops after 0, 1, ...
        atoms, from half of its squared errors (D, atoms + 1, S) and of the mean squared signal.
      limits: to choose from.
      num_more: atoms that are needed beyond those that are taken, to see that it stops.
    """

    done: Callable[[float, np.ndarray, float], np.ndarray]
    limits: tuple[float, ...]
    num_more: int


STOPS = {
    "error": Stop(  # relative to the signal's norm
        lambda limit, halves, scale: halves <= limit**2 * halves[:, :1],
        (1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5), 0,
    ),
    "penalty": Stop(  # of an atom, relative to the mean signal
        lambda limit, halves, scale: halves[:, :-1] - halves[:, 1:] < limit * scale,
        (1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2), 1,
    ),
}  # fmt: skip


def stopped(
    name: str, train_set: Problems, tests: dict[str, Problems], *, most: int = 6
) -> dict[str, Curve]:
    """Return curves of a pursuit of at most ``most`` atoms along the limits of each rule to stop.

    By error a signal stops where its residual is at most a fraction of its norm, by penalty where
    another atom would lower half of the squared error by less than the penalty. The limits
    are chosen on the training half, in its units; the work is that of the most atoms that any of
    its signals takes, and of the one more that shows how little it explains, for all of them. Other
    signals get no more than that.
    """
    factory = GREEDY[name][0]
    counts = range(1, most + 1)
    work = [accounts.pursuit(factory(k), k) for k in counts]
    path_of = functools.partial(_greedy_path, solver=factory(most), num_steps=most)
    paths = {prefix: path_of(problems) for prefix, problems in tests.items()}
    halves, scores = path_of(train_set)
    scale = float(np.mean(halves[:, 0]))
    curves = {}
    for rule, stop in STOPS.items():
        taken = [_taken(stop, limit, np.asarray(halves), scale) for limit in stop.limits]
        ends = [int(np.clip(np.max(each) + stop.num_more, 1, most)) for each in taken]
        on_train = [float(_stopped_score(scores, jnp.asarray(each))[0]) for each in taken]
        cost = np.asarray([work[end - 1].measured for end in ends])
        chosen = efficient(cost, np.asarray(on_train))
        for prefix, (rest, path) in paths.items():
            few = [np.asarray(rest)[:, : ends[i] + 1] for i in chosen]
            each = [
                _taken(stop, stop.limits[i], one, scale) for i, one in zip(chosen, few, strict=True)
            ]
            found = np.stack([_stopped_score(path, jnp.asarray(one)) for one in each])
            used = [work[ends[i] - 1] for i in chosen]
            curves[f"{prefix}{name}_by_{rule}"] = curve([ends[i] for i in chosen], used, found)
    return curves


@functools.partial(jax.jit, static_argnames=("solver", "num_steps"))
def _greedy_path(problems: Problems, *, solver: sc.Solver, num_steps: int) -> Any:
    """Return half of the squared error after 0, 1, ... atoms, (D, atoms + 1, S), and the codes."""

    def one(signals: Any, codes: Any, dictionary: Any) -> Any:
        problem = sc.Lasso(signals, dictionary, jnp.float32(0), jnp.float32(1))
        _, path = sc.solvers.trajectory(
            solver, problem, num_steps=num_steps, record=lambda estimate: estimate
        )
        path = jnp.concatenate([jnp.zeros_like(path[:1]), path])
        halves = 0.5 * jnp.sum((signals - path @ dictionary) ** 2, axis=-1)
        return halves, (codes, path)

    return jax.vmap(one)(*map(jnp.asarray, problems))


def _taken(stop: Stop, limit: float, halves: np.ndarray, scale: float) -> np.ndarray:
    """Return how many atoms each signal takes, (D, S)."""
    done = stop.done(limit, halves, scale)
    return np.where(done.any(axis=1), done.argmax(axis=1), halves.shape[1] - 1)


@jax.jit
def _stopped_score(path: Any, taken: jax.Array) -> jax.Array:
    """Return the MCC of each data set's codes after so many atoms, (D,)."""

    def one(codes: Any, path: Any, taken: Any) -> Any:
        found = jnp.take_along_axis(path, taken[None, :, None], axis=0)[0]
        return sc.metrics.mcc(codes, found)

    return jax.vmap(one)(path[0], path[1], taken)


def select(chosen: np.ndarray, options: list, work: list[Flops], mcc: np.ndarray) -> Curve:
    """Pack the chosen operating points of (..., runs) scores."""
    return curve(
        [options[i][1] for i in chosen],
        [work[i] for i in chosen],
        mcc.reshape(-1, mcc.shape[-1])[chosen],
        [options[i][0] for i in chosen],
    )
