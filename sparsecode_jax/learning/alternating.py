"""Dictionary learning by turns: codes by a solver, then atoms by an update."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, objectives
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.learning._replacement import rms_norm, start_from_signals
from sparsecode_jax.learning.rounds import Alternated, encode, run_rounds
from sparsecode_jax.learning.updates import DictionaryUpdate, method_of_optimal_directions
from sparsecode_jax.solvers import fista
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = ["Learned", "learn_dictionary"]

_FIRST, _LAST = 0.2, 0.015  # penalties as fractions of the root mean square norm of the signals
_SETTLING = 0.3  # the last fraction of rounds replaces no atom and keeps the last penalty
_POLISHING = 10  # times the steps of a round, for the codes that are returned


class Learned(NamedTuple):
    """What :func:`learn_dictionary` found.

    Attributes:
      dictionary: of the best restart, unit atoms, (N, M).
      codes: of the signals in it, (..., N).
      objective: the mean lasso objective, at ``penalty``; the best of the restarts.
      penalty: the last penalty, which the codes are of.
      objectives: of every restart, (R,).
      dictionaries: of every restart, (R, N, M).
      flops: arithmetic operations of all restarts.
    """

    dictionary: Array
    codes: Array
    objective: Array
    penalty: Array
    objectives: Array
    dictionaries: Array
    flops: int


def learn_dictionary(
    key: Key,
    signals: ArrayLike,
    *,
    num_atoms: int,
    penalty: ArrayLike | None = None,
    num_rounds: int = 400,
    num_steps: int = 10,
    num_restarts: int = 16,
    solver: Solver | None = None,
    update: DictionaryUpdate | None = None,
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, in turns.

    .. math:: \min_{D, z \ge 0}\ \mathrm{mean}\big(\tfrac12\|x - zD\|^2 + \lambda\|z\|_1\big),
       \qquad \|d_j\| = 1

    Each round takes a few steps of the solver on all signals, from the codes of the round before,
    and then updates the atoms: by default it fits all of them by least squares (the method of
    optimal directions) and scales them to unit norm. The penalty falls geometrically from a fifth
    of the signals' root mean square norm to its last value, which holds for the last three tenths
    of the rounds; before those, atoms that are hardly used, or the second of two that have become
    one, are replaced by the signals with the largest residuals. Restarts begin at different signals
    and run as one vmapped program; the one with the smallest objective is returned. No truth is
    needed or used.

    Args:
      key: PRNG key: which signals the restarts begin with. **Traced**.
      signals: (..., M), at least N of them, of any scale. **Traced**.
      num_atoms: N. **Static**.
      penalty: the last l1 weight, (); None takes .015 of the root mean square norm. **Traced**.
      num_rounds: **Static**.
      num_steps: solver steps a round. **Static**.
      num_restarts: R. **Static**.
      solver: of the lasso, or a pursuit, whose codes then begin anew each round; None takes
        ``fista()``, non-negative. **Static**.
      update: of the atoms, from :mod:`~sparsecode_jax.learning.updates`; None takes
        ``method_of_optimal_directions()``. **Static**.

    Returns:
      A :class:`Learned`.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a restart: ``num_rounds`` of :func:`~sparsecode_jax.learning.alternate`, and ten times
    ``num_steps`` steps for the codes that are returned; ``flops`` has the count of all restarts.

    References:
      Engan, Aase, Husoy, 1999 (method of optimal directions).

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 2, num_samples=500, num_measurements=8, num_atoms=12)
      >>> found = sc.learning.learn_dictionary(
      ...     jax.random.key(1), problem.signals, num_atoms=12, num_rounds=200)
      >>> bool(sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.95)
      True
    """
    name = "learn_dictionary"
    (signals,) = _checks.floating(name, signals)
    _checks.full_precision(name, "signals", signals)
    _checks.signals_shape(name, signals)
    _checks.finite(name, signals=signals)
    for label, count in (
        ("num_atoms", num_atoms),
        ("num_rounds", num_rounds),
        ("num_steps", num_steps),
        ("num_restarts", num_restarts),
    ):
        _checks.count(name, label, count)
    flat = signals.reshape(-1, signals.shape[-1])
    _checks.enough_signals(name, flat.shape[0], num_atoms)
    solver = fista() if solver is None else solver
    _checks.solver(name, solver)
    update = method_of_optimal_directions() if update is None else update
    _checks.update(name, update)
    scale = rms_norm(flat)  # the learner works on signals of unit root mean square norm
    last = jnp.asarray(_LAST if penalty is None else penalty / scale, flat.dtype)
    _checks.scalar(name, "penalty", last)
    _checks.positive(name, penalty=last if penalty is None else penalty)
    run = functools.partial(
        _restarts,
        num_atoms=num_atoms,
        num_rounds=num_rounds,
        num_steps=num_steps,
        num_restarts=num_restarts,
        solver=solver,
        update=update,
    )
    args = (key, flat / scale, jnp.maximum(_FIRST, last), last)
    found, values, codes, best = run(*args)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return Learned(
        dictionary=found[best],
        codes=scale * codes.reshape(*signals.shape[:-1], num_atoms),
        objective=scale**2 * values[best],
        penalty=scale * last,
        objectives=scale**2 * values,
        dictionaries=found,
        flops=int(eval_flops(run, *shapes).total()),
    )


@functools.partial(
    jax.jit,
    static_argnames=("num_atoms", "num_rounds", "num_steps", "num_restarts", "solver", "update"),
)
def _restarts(
    key: Key,
    signals: Array,
    first: Array,
    last: Array,
    *,
    num_atoms: int,
    num_rounds: int,
    num_steps: int,
    num_restarts: int,
    solver: Solver,
    update: DictionaryUpdate,
) -> tuple[Array, Array, Array, Array]:
    """Return the dictionaries and objectives of all restarts, the best's codes, and which it is."""
    schedule = _schedule(first, last, num_rounds)

    def one(key: Key) -> tuple[Array, Array, Array]:
        dictionary = start_from_signals(key, signals, num_atoms)
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)
        start = Alternated(dictionary, codes, update.init(dictionary))
        found = run_rounds(signals, start, schedule, solver, update, num_steps)
        dictionary, steps = found.dictionary, _POLISHING * num_steps
        codes = encode(solver, signals, dictionary, last, steps, found.codes)
        value = jnp.mean(objectives.lasso(signals, dictionary, codes, last))
        return dictionary, value, codes

    found, values, codes = jax.vmap(one)(jax.random.split(key, num_restarts))
    best = _select(values)
    return found, values, codes[best], best


def _schedule(first: Array, last: Array, num_rounds: int) -> tuple[Array, Array]:
    """Return the penalty of each round, (T,), and whether it replaces atoms, (T,)."""
    settling = round(_SETTLING * num_rounds)
    falling = max(num_rounds - settling - 1, 1)
    turns = jnp.arange(num_rounds)
    fraction = jnp.minimum(turns / falling, 1).astype(last.dtype)
    return first * (last / first) ** fraction, turns < num_rounds - settling


def _select(values: Array) -> Array:
    """Return the restart with the smallest objective; one that is not finite is never chosen."""
    return jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
