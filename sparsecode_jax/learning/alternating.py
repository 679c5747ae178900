"""Dictionary learning by turns: codes by a solver, then atoms by an update."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax._sharding import on_automatic_axes
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.learning._replacement import rms_norm, start_from_signals
from sparsecode_jax.learning.rounds import Alternated, encode, run_rounds
from sparsecode_jax.learning.updates import DictionaryUpdate, method_of_optimal_directions
from sparsecode_jax.solvers import sparsa
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = ["Learned", "default_counts", "learn_dictionary"]

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
SETTLE_ROUNDS = 3  # times the rounds of a restart, for the one that is left after hops
_SETTLE_PENALTY = 0.3  # of the last penalty, for its atoms: penalties draw atoms together
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
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, in turns.

    .. math:: \min_{D, z \ge 0}\ \mathrm{mean}\big(\tfrac12\|x - zD\|^2 + \lambda\|z\|_1\big),
       \qquad \|d_j\| = 1

    Each round takes a few steps of the solver on all signals, from the codes of the round before,
    and then updates the atoms: by default it fits all of them by least squares (the method of
    optimal directions), scales them to unit norm and gives them momentum. The penalty holds its
    first value, min(.2, 1.6/sqrt(M)) of the signals' root mean square norm, for half of the rounds
    and falls geometrically to its last, which it keeps for the last .15 of them; before those,
    every fifth round renews atoms as :func:`~sparsecode_jax.learning.alternate` says.

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
      update: of the atoms, from :mod:`~sparsecode_jax.learning.updates`; None takes
        ``method_of_optimal_directions()``. **Static**.
      dictionary0: (N, M), to improve in the place of restarts: by hops, or by settling.
        **Traced**.

    Returns:
      A :class:`Learned`; with ``dictionary0`` it has one restart.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a restart: ``num_rounds`` of :func:`~sparsecode_jax.learning.alternate`, and three
    times ``num_steps`` steps to judge it; a hop: six tenths of R restarts; settling: its rounds
    and 13 times ``num_steps`` steps; ten times ``num_steps`` steps for the codes that are returned,
    and as many to judge a ``dictionary0``.
    ``flops`` has the count of it all.

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
    if num_settling is None:
        without = 0 if dictionary0 is None else num_rounds
        num_settling = SETTLE_ROUNDS * num_rounds if num_hops else without
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
        dictionary0 = jnp.asarray(dictionary0, signals.dtype)
        _checks.dictionary_matrix(name, dictionary0)
        _checks.finite(name, dictionary0=dictionary0)
        _checks.dictionary_shape(name, dictionary0, (num_atoms, signals.shape[-1]))
        dictionary0 = dictionaries.normalize(dictionary0)
    if penalty is not None:
        _checks.scalar(name, "penalty", penalty)
        _checks.positive(name, penalty=penalty)
    scale, first, last = penalties(flat, penalty)
    run = functools.partial(
        _learn,
        num_atoms=num_atoms,
        num_rounds=num_rounds,
        num_steps=num_steps,
        num_restarts=num_restarts,
        num_hops=num_hops,
        num_settling=num_settling,
        solver=solver,
        update=update,
    )
    args = (key, flat / scale, first, last, dictionary0)
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


def penalties(signals: Array, penalty: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Return the signals' root mean square norm, and the first and last penalty in its units."""
    scale = rms_norm(signals)  # the learner works on signals of unit root mean square norm
    last = jnp.asarray(_LAST if penalty is None else penalty / scale, signals.dtype)
    first = min(_FIRST, _FIRST_ROOT / signals.shape[1] ** 0.5)
    return scale, jnp.maximum(first, last), last


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_atoms", "num_rounds", "num_steps", "num_restarts", "num_hops", "num_settling",
        "solver", "update",
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
    num_settling: int,
    solver: Solver,
    update: DictionaryUpdate,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return the best dictionary, its codes and objective; those of restarts and after hops."""
    momentum = jnp.asarray(MOMENTUM, signals.dtype)

    no_codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)

    def anneal(key: Key, dictionary: Array, first: Array, num_rounds: int, holding: float) -> Found:
        schedule = annealing(first, last, num_rounds, holding)
        found = rounds(key, dictionary, no_codes, schedule, False)
        return judge(found.dictionary, found.codes, JUDGING)

    def settle(best: Found) -> Found:
        low = _SETTLE_PENALTY * last
        # Codes first: atoms fitted to codes that are far from converged would leave their places.
        before = judge(best.dictionary, best.codes, POLISHING, low)
        schedule = jnp.broadcast_to(low, (num_settling,)), jnp.zeros((num_settling,), bool)
        settled = rounds(key, before.dictionary, before.codes, schedule, True)
        after = judge(settled.dictionary, settled.codes, JUDGING, low)
        return jax.tree.map(lambda x, y: jnp.where(after.value < before.value, x, y), after, before)

    def rounds(
        key: Key,
        dictionary: Array,
        codes: Array,
        schedule: tuple[Array, Array],
        updated_codes: bool,
    ) -> Alternated:
        start = Alternated(dictionary, codes, update.init(dictionary))
        return run_rounds(
            key, signals, start, schedule, momentum, solver, update, num_steps, updated_codes
        )

    def judge(dictionary: Array, codes: Array, times: int, penalty: Array = last) -> Found:
        return judged(solver, signals, dictionary, codes, penalty, times * num_steps)

    def restart(key: Key) -> Found:
        draw, anneal_key = jax.random.split(key)
        start = start_from_signals(draw, signals, num_atoms)
        return anneal(anneal_key, start, first, num_rounds, _HOLDING)

    def hop(best: Found, key: Key) -> tuple[Found, Array]:
        def copy(key: Key) -> Found:
            which, fresh, anneal_key = jax.random.split(key, 3)
            out = jax.random.permutation(which, num_atoms) < _HOP_ATOMS
            atoms = start_from_signals(fresh, signals, num_atoms)
            start = jnp.where(out[:, None], atoms, best.dictionary)
            length = max(round(_HOP_ROUNDS * num_rounds), 1)
            return anneal(anneal_key, start, jnp.sqrt(first * last), length, 0.0)

        found = best_of(jax.vmap(copy)(jax.random.split(key, num_restarts)))
        better = found.value < best.value
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        return best, best.value

    def best_of(found: Found) -> Found:
        finite = jnp.where(jnp.isfinite(found.value), found.value, jnp.inf)
        return jax.tree.map(lambda x: x[jnp.argmin(finite)], found)

    restart_key, hop_key = jax.random.split(key)
    if dictionary0 is None:
        found = jax.vmap(restart)(jax.random.split(restart_key, num_restarts))
    else:
        found = judge(dictionary0, no_codes, POLISHING)
        found = jax.tree.map(lambda x: x[None], found)
    best, hops = best_of(found), found.value[:0]
    if num_hops:
        best, hops = jax.lax.scan(hop, best, jax.random.split(hop_key, num_hops))
    if num_settling:
        best = settle(best)
    best = judge(best.dictionary, best.codes, POLISHING)
    return best.dictionary, best.codes, best.value, found.dictionary, found.value, hops


class Found(NamedTuple):
    """A dictionary, its codes, and their mean objective at some penalty."""

    dictionary: Array
    codes: Array
    value: Array


def judged(
    solver: Solver,
    signals: Array,
    dictionary: Array,
    codes: Array,
    penalty: Array,
    num_steps: int,
) -> Found:
    """Bring codes nearer their minimum, and take the objective there."""
    codes = encode(solver, signals, dictionary, penalty, num_steps, codes)
    value = jnp.mean(objectives.lasso(signals, dictionary, codes, penalty))
    return Found(dictionary, codes, value)


def annealing(
    first: Array, last: Array, num_rounds: int, holding: float = _HOLDING
) -> tuple[Array, Array]:
    """Return the penalty of each round, (T,), and whether it replaces atoms, (T,)."""
    begin, end = round(holding * num_rounds), round((1 - _KEEPING) * num_rounds)
    turns = jnp.arange(num_rounds)
    fraction = jnp.clip((turns - begin) / max(end - begin, 1), 0, 1).astype(last.dtype)
    due = turns % _REPLACE_EVERY == _REPLACE_EVERY - 1
    return first * (last / first) ** fraction, due & (turns >= _REPLACE_FROM) & (turns < end)
