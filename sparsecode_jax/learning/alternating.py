"""Dictionary learning by turns: codes by a solver, then atoms by least squares."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.solvers import fista, solve
from sparsecode_jax.types import Array, ArrayLike, Key, Lasso, Solver

__all__ = ["Learned", "learn_dictionary"]

_FIRST, _LAST = 0.2, 0.015  # penalties as fractions of the root mean square norm of the signals
_DEAD = 1e-3  # an atom used less than this fraction of the mean use
_TWINS = 0.95  # the cosine from which two atoms are one
_SETTLING = 0.3  # the last fraction of rounds replaces no atom and keeps the last penalty
_RIDGE = 1e-5  # of the mean squared code, so that the least squares has one solution


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
) -> Learned:
    r"""Learn a dictionary and the codes of signals in it, in turns.

    .. math:: \min_{D, z \ge 0}\ \mathrm{mean}\big(\tfrac12\|x - zD\|^2 + \lambda\|z\|_1\big),
       \qquad \|d_j\| = 1

    Each round takes a few steps of the solver on all signals, from the codes of the round before,
    and then fits all atoms by least squares (the method of optimal directions) and scales them to
    unit norm. The penalty falls geometrically from a fifth of the signals' root mean square norm to
    its last value, which holds for the last three tenths of the rounds; before those, atoms that
    are hardly used, or the second of two that have become one, are replaced by the signals with the
    largest residuals. Restarts begin at different signals and run as one vmapped program; the one
    with the smallest objective is returned. No truth is needed or used.

    Args:
      key: PRNG key: which signals the restarts begin with. **Traced**.
      signals: (..., M), at least N of them, of any scale. **Traced**.
      num_atoms: N. **Static**.
      penalty: the last l1 weight, (); None takes .015 of the root mean square norm. **Traced**.
      num_rounds: **Static**.
      num_steps: solver steps a round. **Static**.
      num_restarts: R. **Static**.
      solver: of the lasso, and one that takes a warm start; None takes ``fista()``, non-negative.
        **Static**.

    Returns:
      A :class:`Learned`.

    Raises:
      ValueError: shapes that disagree, non-finite signals, a count that is not a positive integer,
        fewer signals than atoms.

    **Cost**: a round and restart: ``num_steps`` solver steps for all B signals, 2BN(N + M) and a
    solution of N equations for the atoms, 4BM + 2BMN for the residuals, and one
    ``dictionaries.step_size``; ``flops`` has the count.

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
    _checks.measurable(name, solver)
    scale = _rms(flat)  # the learner works on signals of unit root mean square norm
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


def _rms(signals: Array) -> Array:
    """Return the root mean square norm of signals (B, M), whatever their scale; 1 if all are 0."""
    largest = jnp.max(jnp.abs(signals))
    largest = jnp.where(largest > 0, largest, 1)
    scaled = signals / largest
    return largest * jnp.maximum(jnp.sqrt(jnp.mean(jnp.sum(scaled * scaled, axis=-1))), 1e-30)


@functools.partial(
    jax.jit, static_argnames=("num_atoms", "num_rounds", "num_steps", "num_restarts", "solver")
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
) -> tuple[Array, Array, Array, Array]:
    """Return the dictionaries and objectives of all restarts, the best's codes, and which it is."""
    signed = solver.prox is not nonnegative_soft_threshold
    settling = round(_SETTLING * num_rounds)
    falling = max(num_rounds - settling - 1, 1)
    turns = jnp.arange(num_rounds)
    fraction = jnp.minimum(turns / falling, 1).astype(signals.dtype)
    penalties = first * (last / first) ** fraction

    def one(key: Key) -> tuple[Array, Array, Array]:
        places = jax.random.choice(key, signals.shape[0], (num_atoms,), replace=False)
        start = dictionaries.normalize(_spread(signals[places], key))
        codes = jnp.zeros((signals.shape[0], num_atoms), signals.dtype)

        def turn(carry: tuple[Array, Array], now: tuple[Array, Array]) -> tuple:
            dictionary, codes = carry
            penalty, replaces = now
            codes = _encode(solver, signals, dictionary, penalty, codes, num_steps)
            dictionary, codes = _fit_atoms(signals, dictionary, codes)
            dictionary, codes = _replace(signals, dictionary, codes, replaces, signed=signed)
            return (dictionary, codes), None

        schedule = (penalties, turns < num_rounds - settling)
        (dictionary, codes), _ = jax.lax.scan(turn, (start, codes), schedule)
        codes = _encode(solver, signals, dictionary, last, codes, 10 * num_steps)
        value = jnp.mean(objectives.lasso(signals, dictionary, codes, last))
        return dictionary, value, codes

    found, values, codes = jax.vmap(one)(jax.random.split(key, num_restarts))
    best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
    return found, values, codes[best], best


def _spread(atoms: Array, key: Key) -> Array:
    """Replace zero signals by noise, so that every atom has a direction."""
    zero = jnp.sum(atoms * atoms, axis=-1, keepdims=True) == 0
    return jnp.where(zero, jax.random.normal(key, atoms.shape, atoms.dtype), atoms)


def _encode(
    solver: Solver, signals: Array, dictionary: Array, penalty: Array, codes: Array, num_steps: int
) -> Array:
    choose = dictionaries.step_size if solver.step_size is None else solver.step_size
    step = choose(dictionary)
    lasso = Lasso(signals, dictionary, penalty, step)
    return solve(solver, lasso, num_steps=num_steps, codes0=codes)


def _fit_atoms(signals: Array, dictionary: Array, codes: Array) -> tuple[Array, Array]:
    """Fit all atoms by least squares; the codes take over their norms."""
    gram = jnp.matmul(codes.T, codes, precision="highest")
    right = jnp.matmul(codes.T, signals, precision="highest")
    size = gram.shape[0]
    # Signals have unit norm: the last term counts only where all codes are zero.
    ridge = _RIDGE * jnp.trace(gram) / size + jnp.finfo(gram.dtype).eps
    # Towards the atoms there are, so that an unused atom stays where it is.
    factor = jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(size, dtype=gram.dtype))
    atoms = jax.scipy.linalg.cho_solve(factor, right + ridge * dictionary)
    norms = jnp.sqrt(jnp.sum(atoms * atoms, axis=-1))
    norms = jnp.where(norms > 0, norms, 1)
    return atoms / norms[:, None], codes * norms


def _replace(
    signals: Array, dictionary: Array, codes: Array, allowed: Array, *, signed: bool = False
) -> tuple[Array, Array]:
    """Put signals with large residuals in the place of unused atoms and of second twins."""
    num_atoms = dictionary.shape[0]
    use = jnp.mean(jnp.abs(codes), axis=0)
    cosines = jnp.matmul(dictionary, dictionary.T, precision="highest")
    cosines = jnp.abs(cosines) if signed else cosines
    earlier = jnp.tril(jnp.ones((num_atoms, num_atoms), bool), -1)
    twin = jnp.any((cosines > _TWINS) & earlier, axis=1)
    out = allowed & ((use <= _DEAD * jnp.mean(use)) | twin)
    residual = signals - dictionaries.reconstruct(codes, dictionary)
    _, worst = jax.lax.top_k(jnp.sum(residual * residual, axis=-1), num_atoms)
    rank = jnp.maximum(jnp.cumsum(out) - 1, 0)
    fresh = dictionaries.normalize(residual[worst][rank])
    dead = jnp.sum(fresh * fresh, axis=-1, keepdims=True) == 0
    fresh = jnp.where(dead, dictionary, fresh)
    return jnp.where(out[:, None], fresh, dictionary), jnp.where(out, 0, codes)
