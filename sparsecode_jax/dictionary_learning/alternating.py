"""Rounds of codes and atoms in turn: what every dictionary learner here repeats."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax._scaling import LARGEST
from sparsecode_jax._sharding import on_automatic_axes, one_mesh, untraced_or_automatic
from sparsecode_jax.dictionary_learning._replacement import renew_atoms
from sparsecode_jax.dictionary_learning.updates import (
    DictionaryUpdate,
    method_of_optimal_directions,
)
from sparsecode_jax.solvers import orthogonal_least_squares, solve, sparsa
from sparsecode_jax.types import Array, ArrayLike, Key, Lasso, PyTree, Solver

__all__ = [
    "Ahead",
    "Alternated",
    "Method",
    "alternate",
    "before_rounds",
    "encode",
    "run_round",
    "solver_and_steps",
]


class Alternated(NamedTuple):
    """What :func:`alternate` returns.

    Attributes:
      dictionary: unit atoms, (N, M).
      codes: (B, N), as the last round's update left them (or the solver, as asked).
      state: the update's.
    """

    dictionary: Array
    codes: Array
    state: PyTree


class Ahead(NamedTuple):
    """What a round hands to the next.

    Attributes:
      dictionary: to code in, with momentum, (N, M).
      value: the mean objective of the round's codes, ().
      fitted: what was fitted last.
    """

    dictionary: Array
    value: Array
    fitted: Alternated


@on_automatic_axes
def alternate(
    signals: ArrayLike,
    dictionary: ArrayLike,
    penalties: ArrayLike,
    *,
    num_steps: int,
    solver: Solver | None = None,
    update: DictionaryUpdate | None = None,
    momentum: ArrayLike = 0.0,
    replacing: ArrayLike = False,
    key: Key | None = None,
    updated_codes: bool = True,
    codes0: ArrayLike | None = None,
    state0: PyTree = None,
) -> Alternated:
    """Alternate between codes and atoms: the rounds of :func:`learn_dictionary`, by themselves.

    A round takes ``num_steps`` of the solver at its penalty, from the codes of the round before (a
    pursuit, which refuses a warm start, begins anew), and updates the atoms. With momentum b the
    next round codes in the atoms of :math:`D_t + b(D_t - D_{t-1})`, unless the objective rose; many
    atoms that are far from where they belong get there several times sooner. Where ``replacing``,
    residuals, drawn by their energy, take the places of unused atoms, of atoms that only few
    signals use, and of the weaker of two whose cosine is above .98. Pure: jit it, vmap it over
    dictionaries, penalties or states, scan it.

    Args:
      signals: (B, M). **Traced**.
      dictionary: to begin with, (N, M), used as it is. **Traced**.
      penalties: of each of T rounds, (T,). **Traced**.
      num_steps: solver steps per round. **Static**.
      solver: of the codes; None takes ``sparsa()``, non-negative. **Static**.
      update: of the atoms, from :mod:`~sparsecode_jax.dictionary_learning.updates`; None takes
        ``method_of_optimal_directions()``. **Static**.
      momentum: b, (), from 0 to below 1; it starts anew with each call. **Traced**.
      replacing: whether rounds replace atoms, () or (T,). **Traced**.
      key: of the residuals drawn; None takes ``jax.random.key(0)``. **Traced**.
      updated_codes: whether a round begins at the codes as the update left them, scaled to the
        norms of the atoms it fitted, or as the solver did. The former gets closer to the
        minimum; with momentum and thousands of atoms far from their places it can diverge, the
        latter does not. **Static**.
      codes0: to begin with, (B, N); None takes zeros. **Traced**.
      state0: of the update, with numbers of one's own or to go on; None takes its ``init``.
        **Traced**.

    Returns:
      An :class:`Alternated`.

    Raises:
      ValueError: shapes that disagree, non-finite numbers, a zero atom, a negative penalty.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a round: ``num_steps`` solver steps and its start for all B signals, one
    ``dictionaries.step_size``, the update, the objective, 2BMN + 3BM for residuals,
    4BN for moments and 2MN^2 for cosines.

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 2, num_samples=200, num_measurements=8, num_atoms=12)
      >>> start = sc.dictionaries.random(jax.random.key(1), num_atoms=12, num_measurements=8)
      >>> found = sc.dictionary_learning.alternate(
      ...     problem.signals, start, jnp.geomspace(0.3, 0.03, 50), num_steps=10,
      ...     update=sc.dictionary_learning.updates.approximate_k_svd())
      >>> found.dictionary.shape
      (12, 8)
    """
    name = "alternate"
    signals, dictionary = _checks.floating(name, signals, dictionary)
    _checks.samples(name, "signals", signals)
    _checks.full_precision(name, "signals", signals)
    _checks.dictionary_matrix(name, dictionary)
    _checks.same_measurements(name, signals, dictionary)
    shape = (signals.shape[0], dictionary.shape[0])
    codes = jnp.zeros(shape, signals.dtype) if codes0 is None else codes0
    codes, penalties, momentum = (
        jnp.asarray(x, signals.dtype) for x in _checks.real(name, codes, penalties, momentum)
    )
    one_mesh(name, signals=signals, dictionary=dictionary, codes0=codes, state0=state0)
    untraced_or_automatic(name, (signals, dictionary, codes, state0))
    _checks.codes_shape(name, "the starting codes", codes, shape)
    _rounds(name, "penalties", penalties)
    _checks.finite(name, signals=signals, dictionary=dictionary, codes0=codes)
    _checks.count(name, "num_steps", num_steps)
    solver = sparsa() if solver is None else solver
    _checks.solver(name, solver)
    update = method_of_optimal_directions() if update is None else update
    _checks.update(name, update)
    state = update.init(dictionary) if state0 is None else state0
    replacing = _replacing(name, replacing, penalties.shape)
    _checks.flag(name, "updated_codes", updated_codes)
    _checks.scalar(name, "momentum", momentum)
    _checks.nonnegative(name, momentum=momentum)
    if _checks.concrete(momentum) and momentum >= 1:
        raise ValueError(f"{name}: momentum is {momentum}; a number from 0 to below 1 is expected.")
    valid = (momentum >= 0) & (momentum < 1)
    in_float32 = signals.dtype == jnp.float32
    for label, array in (("signals", signals), ("starting codes", codes)) if in_float32 else ():
        largest = jnp.max(jnp.abs(array))
        if _checks.concrete(largest):
            _checks.squares(name, label, float(largest))
        valid &= largest < LARGEST
    dictionary = jnp.where(valid, dictionary, jnp.nan)  # where they are traced, nothing else tells
    key = jax.random.key(0) if key is None else key
    _checks.key(name, key)
    start = Alternated(dictionary, codes, state)
    schedule = penalties, replacing
    method = Method(solver, update, num_steps, updated_codes)
    return _scan(key, signals, start, schedule, momentum, method)


def _replacing(name: str, replacing: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return whether each round replaces atoms, (T,)."""
    (replacing,) = _checks.real(name, replacing)
    if jnp.shape(replacing) not in ((), shape):
        raise ValueError(
            f"{name}: replacing has shape {jnp.shape(replacing)}; () or {shape}, one per round, is "
            "expected."
        )
    return jnp.broadcast_to(jnp.asarray(replacing, bool), shape)


class Method(NamedTuple):
    """The static part of a round: how codes and atoms are improved."""

    solver: Solver
    update: DictionaryUpdate
    num_steps: int
    updated_codes: bool


@functools.partial(jax.jit, static_argnames=("method",))
def _scan(
    key: Key,
    signals: Array,
    start: Alternated,
    schedule: tuple[Array, Array],
    momentum: Array,
    method: Method,
) -> Alternated:
    """Run the rounds of a schedule: penalties (T,) and whether atoms are replaced (T,)."""

    def one(ahead: Ahead, scheduled: tuple[Array, Array, Array]) -> tuple[Ahead, None]:
        return run_round(key, signals, ahead, *scheduled, momentum, method), None

    numbers = jnp.arange(schedule[0].shape[0])
    return jax.lax.scan(one, before_rounds(start), (*schedule, numbers))[0].fitted


def before_rounds(start: Alternated) -> Ahead:
    """Return what rounds carry before the first."""
    return Ahead(start.dictionary, jnp.asarray(jnp.inf, start.dictionary.dtype), start)


def run_round(
    key: Key,
    signals: Array,
    now: Ahead,
    penalty: Array,
    replaces: Array,
    number: Array,
    momentum: Array,
    method: Method,
) -> Ahead:
    """Improve the codes and then the atoms, once; the round's number draws what replaces atoms."""
    ahead, before, fitted = now
    update = method.update
    codes = encode(method.solver, signals, ahead, penalty, method.num_steps, fitted.codes)
    value = jnp.mean(objectives.lasso(signals, ahead, codes, penalty))
    state, atoms, fitting = update.step(fitted.state, signals, ahead, codes)
    strength = jnp.where(value <= before, momentum, 0)
    further = dictionaries.unit_rows(atoms + strength * (atoms - fitted.dictionary))
    renewed, fitting, new = renew_atoms(
        jax.random.fold_in(key, number), signals, atoms, fitting, replaces
    )
    codes = fitting if method.updated_codes else jnp.where(new, 0, codes)
    if update.reset is not None:
        state = update.reset(state, new)
    further = jnp.where(new[:, None], renewed, further)
    return Ahead(further, value, Alternated(renewed, codes, state))


def solver_and_steps(
    name: str,
    solver: Solver | Callable[[int], Solver] | None,
    num_steps: int | None,
    *,
    penalty: Any,
    num_active: int | None,
    num_atoms: int,
    default: Solver,
    default_steps: int,
) -> tuple[Solver, int]:
    """Return what a learner codes with: a solver of the lasso, or a pursuit of K active codes."""
    if num_active is not None:
        build = orthogonal_least_squares if solver is None else solver
        solver = _checks.pursuit(name, penalty, num_active, build)
        _checks.num_active(name, num_active, num_atoms)
        default_steps = num_active
    solver = default if solver is None else solver
    _checks.solver(name, solver)
    assert isinstance(solver, Solver)
    num_steps = default_steps if num_steps is None else num_steps
    return solver, _checks.count(name, "num_steps", num_steps)


def encode(
    solver: Solver,
    signals: Array,
    dictionary: Array,
    penalty: Array,
    num_steps: int,
    codes0: Array | None = None,
    *,
    gram: Array | None = None,
) -> Array:
    """Run a solver with its own step size, from a warm start if it takes one."""
    step_size = dictionaries.step_size(dictionary, solver=solver)
    problem = Lasso(signals, dictionary, penalty, step_size, gram)
    codes0 = codes0 if solver.takes_codes0 else None
    return solve(solver, problem, num_steps=num_steps, codes0=codes0)


def _rounds(name: str, label: str, values: Any) -> None:
    """Raise unless values are one number >= 0 per round."""
    if values.ndim != 1 or not values.shape[0]:
        raise ValueError(
            f"{name}: the {label} have shape {values.shape}; (T,), one per round, is expected. For "
            "several schedules use jax.vmap."
        )
    _checks.finite(name, **{label: values})
    if _checks.concrete(values) and np.any(np.asarray(values) < 0):
        raise ValueError(
            f"{name}: the {label} hold {float(np.min(np.asarray(values))):g}; numbers >= 0 are "
            "expected."
        )
