"""Dictionary learning by turns: codes by a solver, then atoms by an update."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.learning._replacement import rms_norm, start_from_signals
from sparsecode_jax.learning.rounds import Alternated, encode, run_rounds
from sparsecode_jax.learning.updates import DictionaryUpdate, method_of_optimal_directions
from sparsecode_jax.solvers import fista
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = ["Learned", "default_counts", "learn_dictionary"]

_FIRST, _LAST = 0.2, 0.015  # penalties as fractions of the root mean square norm of the signals
_SETTLING = 0.3  # the last fraction of rounds replaces no atom and keeps the last penalty
_JUDGING = 2  # times the steps of a round, for the codes by which dictionaries are compared
_POLISHING = 10  # times the steps of a round, for the codes that are returned
_HOP_ROUNDS = 0.6  # of the rounds of a restart
_HOP_ATOMS = 2  # that a hop replaces
_MOST_COPIES, _MOST_ATOMS = 16, 1024  # copies at once, and copies times atoms, by default
_HOPS = 6  # by default


class Learned(NamedTuple):
    """What :func:`learn_dictionary` found.

    Attributes:
      dictionary: the best found, unit atoms, (N, M).
      codes: of the signals in it, (..., N).
      objective: their mean lasso objective, at ``penalty``.
      penalty: the last penalty, which the codes are of.
      objectives: of every restart, (R,), before any hop.
      dictionaries: of every restart, (R, N, M), before any hop.
      hops: the best objective after each hop, (H,).
      flops: arithmetic operations of all restarts and hops.
    """

    dictionary: Array
    codes: Array
    objective: Array
    penalty: Array
    objectives: Array
    dictionaries: Array
    hops: Array
    flops: int


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


def learn_dictionary(
    key: Key,
    signals: ArrayLike,
    *,
    num_atoms: int,
    penalty: ArrayLike | None = None,
    num_rounds: int = 100,
    num_steps: int = 10,
    num_restarts: int | None = None,
    num_hops: int | None = None,
    solver: Solver | None = None,
    update: DictionaryUpdate | None = None,
    dictionary0: ArrayLike | None = None,
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, in turns.

    .. math:: \min_{D, z \ge 0}\ \mathrm{mean}\big(\tfrac12\|x - zD\|^2 + \lambda\|z\|_1\big),
       \qquad \|d_j\| = 1

    Each round takes a few steps of the solver on all signals, from the codes of the round before,
    and then updates the atoms: by default it fits all of them by least squares (the method of
    optimal directions) and scales them to unit norm. The penalty falls geometrically from a fifth
    of the signals' root mean square norm to its last value, which holds for the last three tenths
    of the rounds; before those, atoms that are hardly used, or the second of two that have become
    one, are replaced by the signals with the largest residuals.

    Restarts begin at different signals and run as one vmapped program. The objective has many
    minima close to the best, so hops follow: copies of the best dictionary, each with two atoms
    replaced by signals, are annealed again from half way, and the best of all is kept. Nothing but
    the objective chooses; no truth is needed or used.

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
      solver: of the lasso, or a pursuit, whose codes then begin anew each round; None takes
        ``fista()``, non-negative. **Static**.
      update: of the atoms, from :mod:`~sparsecode_jax.learning.updates`; None takes
        ``method_of_optimal_directions()``. **Static**.
      dictionary0: (N, M), to improve in the place of restarts, at the last penalty. **Traced**.

    Returns:
      A :class:`Learned`; with ``dictionary0`` it has one restart.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a restart: ``num_rounds`` of :func:`~sparsecode_jax.learning.alternate`, and twice
    ``num_steps`` steps to judge it; a hop: six tenths of R restarts; ten times ``num_steps`` steps
    for the codes that are returned. ``flops`` has the count of it all.

    References:
      Engan, Aase, Husoy, 1999 (method of optimal directions); Wales and Doye, 1997 (hops between
      minima).

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 2, num_samples=500, num_measurements=8, num_atoms=12)
      >>> found = sc.learning.learn_dictionary(
      ...     jax.random.key(1), problem.signals, num_atoms=12, num_hops=1)
      >>> bool(sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.95)
      True
    """
    name = "learn_dictionary"
    (signals,) = _checks.floating(name, signals)
    _checks.full_precision(name, "signals", signals)
    _checks.signals_shape(name, signals)
    _checks.finite(name, signals=signals)
    _checks.count(name, "num_atoms", num_atoms)
    num_restarts, num_hops = default_counts(num_atoms, num_restarts, num_hops)
    for label, count, least in (
        ("num_rounds", num_rounds, 1),
        ("num_steps", num_steps, 1),
        ("num_restarts", num_restarts, 1),
        ("num_hops", num_hops, 0),
    ):
        _checks.count(name, label, count, minimum=least)
    flat = signals.reshape(-1, signals.shape[-1])
    _checks.enough_signals(name, flat.shape[0], num_atoms)
    solver = fista() if solver is None else solver
    _checks.solver(name, solver)
    update = method_of_optimal_directions() if update is None else update
    _checks.update(name, update)
    if dictionary0 is not None:
        dictionary0 = jnp.asarray(dictionary0, signals.dtype)
        _checks.dictionary_matrix(name, dictionary0)
        _checks.finite(name, dictionary0=dictionary0)
        _checks.dictionary_shape(name, dictionary0, (num_atoms, signals.shape[-1]))
        dictionary0 = dictionaries.normalize(dictionary0)
    scale = rms_norm(flat)  # the learner works on signals of unit root mean square norm
    last = jnp.asarray(_LAST if penalty is None else penalty / scale, flat.dtype)
    _checks.scalar(name, "penalty", last)
    _checks.positive(name, penalty=last if penalty is None else penalty)
    run = functools.partial(
        _learn,
        num_atoms=num_atoms,
        num_rounds=num_rounds,
        num_steps=num_steps,
        num_restarts=num_restarts,
        num_hops=num_hops,
        solver=solver,
        update=update,
    )
    args = (key, flat / scale, jnp.maximum(_FIRST, last), last, dictionary0)
    best, codes, value, found, values, hops = run(*args)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return Learned(
        dictionary=best,
        codes=scale * codes.reshape(*signals.shape[:-1], num_atoms),
        objective=scale**2 * value,
        penalty=scale * last,
        objectives=scale**2 * values,
        dictionaries=found,
        hops=scale**2 * hops,
        flops=int(eval_flops(run, *shapes).total()),
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_atoms", "num_rounds", "num_steps", "num_restarts", "num_hops", "solver", "update",
    ),
)  # fmt: skip
def _learn(
    key: Key,
    signals: Array,
    first: Array,
    last: Array,
    dictionary0: Array | None,
    *,
    num_atoms: int,
    num_rounds: int,
    num_steps: int,
    num_restarts: int,
    num_hops: int,
    solver: Solver,
    update: DictionaryUpdate,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return the best dictionary, its codes and objective; those of restarts and after hops."""

    def anneal(dictionary: Array, first: Array, num_rounds: int) -> tuple[Array, Array]:
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)
        start = Alternated(dictionary, codes, update.init(dictionary))
        schedule = _schedule(first, last, num_rounds)
        dictionary, codes, _ = run_rounds(signals, start, schedule, solver, update, num_steps)
        codes = encode(solver, signals, dictionary, last, _JUDGING * num_steps, codes)
        return dictionary, jnp.mean(objectives.lasso(signals, dictionary, codes, last))

    def restart(key: Key) -> tuple[Array, Array]:
        return anneal(start_from_signals(key, signals, num_atoms), first, num_rounds)

    def hop(best: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
        def copy(key: Key) -> tuple[Array, Array]:
            which, fresh = jax.random.split(key)
            out = jax.random.permutation(which, num_atoms) < _HOP_ATOMS
            atoms = start_from_signals(fresh, signals, num_atoms)
            rounds = max(round(_HOP_ROUNDS * num_rounds), 1)
            return anneal(jnp.where(out[:, None], atoms, best[0]), jnp.sqrt(first * last), rounds)

        found, values = jax.vmap(copy)(jax.random.split(key, num_restarts))
        found = jnp.concatenate([best[0][None], found])
        values = jnp.concatenate([best[1][None], values])
        chosen = _select(values)
        return (found[chosen], values[chosen]), values[chosen]

    restart_key, hop_key = jax.random.split(key)
    if dictionary0 is None:
        found, values = jax.vmap(restart)(jax.random.split(restart_key, num_restarts))
    else:
        found, values = jax.vmap(lambda d: anneal(d, last, num_rounds))(dictionary0[None])
    chosen = _select(values)
    best, hops = found[chosen], values[:0]
    if num_hops:
        keys = jax.random.split(hop_key, num_hops)
        (best, _), hops = jax.lax.scan(hop, (best, values[chosen]), keys)
    codes = encode(solver, signals, best, last, _POLISHING * num_steps)
    value = jnp.mean(objectives.lasso(signals, best, codes, last))
    return best, codes, value, found, values, hops


def _schedule(first: Array, last: Array, num_rounds: int) -> tuple[Array, Array]:
    """Return the penalty of each round, (T,), and whether it replaces atoms, (T,)."""
    settling = round(_SETTLING * num_rounds)
    falling = max(num_rounds - settling - 1, 1)
    turns = jnp.arange(num_rounds)
    fraction = jnp.minimum(turns / falling, 1).astype(last.dtype)
    return first * (last / first) ** fraction, turns < num_rounds - settling


def _select(values: Array) -> Array:
    """Return the place of the smallest objective; one that is not finite is never chosen."""
    return jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
