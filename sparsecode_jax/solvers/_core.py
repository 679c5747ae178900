"""Run any :class:`~sparsecode_jax.types.Solver`: ``solve``, ``trajectory``, ``sparse_encode``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._sharding import Layout, automatic, on_automatic_axes, varying_like
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.prox import nonnegative_soft_threshold, separable
from sparsecode_jax.solvers._spread import (
    grows_with_signals,
    held,
    held_problem,
    over_signals,
    splits_atoms,
    spread,
)
from sparsecode_jax.solvers._tolerance import Parts, solve_to_tolerance
from sparsecode_jax.solvers.fista import fista
from sparsecode_jax.solvers.orthogonal_least_squares import orthogonal_least_squares
from sparsecode_jax.solvers.sparsa import sparsa
from sparsecode_jax.solvers.working_set import working_set
from sparsecode_jax.types import Array, ArrayLike, Lasso, PyTree, Solver

__all__ = ["default_solver", "solve", "sparse_encode", "trajectory"]

_MANY_ATOMS = 1024  # from here a working set is cheaper than products with the whole dictionary
_MOST_STEPS = 10_000
_MOST_ROUNDS = 1000  # of a working set
_CACHE, _FEWEST = 2**19, 32  # per core: bytes of the state of signals at a time, and their number


@on_automatic_axes
def solve(
    solver: Solver, problem: Lasso, *, num_steps: int, codes0: ArrayLike | None = None
) -> Array:
    """Run ``num_steps`` iterations of a solver.

    Args:
      solver: such as ``ista()``, ``fista()``. **Static**.
      problem: signals (..., M), dictionary (N, M), penalty () or (N,), step size (). **Traced**.
      num_steps: iterations; the program's size does not depend on it. **Static**.
      codes0: (..., N), a warm start; None starts where the solver does. **Traced**.

    Returns:
      Codes (..., N) in the signals' dtype.

    Raises:
      ValueError: shapes that disagree, non-finite or negative numbers, a zero atom, no signal.

    **Cost**: ``num_steps`` times the solver's step.
    """
    _checks.solver("solve", solver)
    problem, codes0 = _checks.prepared("solve", problem, codes0)
    _checks.count("solve", "num_steps", num_steps, minimum=0)
    codes0, layout = spread("solve", solver, problem, codes0)
    problem = held_problem(problem)
    return _solve(solver, problem, codes0, num_steps, layout)


@on_automatic_axes
def trajectory(
    solver: Solver,
    problem: Lasso,
    *,
    num_steps: int,
    record: Callable[[Array], PyTree],
    record_every: int = 1,
    codes0: ArrayLike | None = None,
) -> tuple[Array, PyTree]:
    """Run a solver and record something about its codes along the way, in one scan.

    One run gives the whole curve of a metric against the number of steps.

    Args:
      solver: such as ``fista()``. **Static**.
      problem: as in :func:`solve`. **Traced**.
      num_steps: iterations. **Static**.
      record: ``(codes) -> pytree``, for example ``lambda z: metrics.mcc(true_codes, z)``. Programs
        are kept per function object: reuse it to avoid compiling again. **Static**.
      record_every: record after every so many steps; steps beyond the last multiple run
        unrecorded. **Static**.
      codes0: (..., N), a warm start. **Traced**.

    Returns:
      The final codes (..., N), and the records with a leading axis of ``num_steps //
      record_every``: entry i was taken after ``(i + 1) * record_every`` steps.

    Raises:
      ValueError: as :func:`solve`.

    **Cost**: ``num_steps`` solver steps and the records.
    """
    _checks.solver("trajectory", solver)
    problem, codes0 = _checks.prepared("trajectory", problem, codes0)
    _checks.count("trajectory", "num_steps", num_steps, minimum=0)
    _checks.count("trajectory", "record_every", record_every)
    _checks.function("trajectory", "record", record)
    codes0, layout = spread("trajectory", solver, problem, codes0)
    problem = held_problem(problem)
    return _trajectory(solver, problem, codes0, num_steps, record, record_every, layout)


@overload
def sparse_encode(
    signals: ArrayLike,
    dictionary: ArrayLike | dictionaries.Prepared,
    penalty: ArrayLike | None = None,
    *,
    num_active: int | None = None,
    num_steps: int | None = None,
    tolerance: ArrayLike | None = None,
    solver: Solver | Callable[[int], Solver] | None = None,
    codes0: ArrayLike | None = None,
    step_size: ArrayLike | None = None,
    as_sparse: Literal[False] = False,
) -> Array: ...


@overload
def sparse_encode(
    signals: ArrayLike,
    dictionary: ArrayLike | dictionaries.Prepared,
    penalty: ArrayLike | None = None,
    *,
    num_active: int | None = None,
    num_steps: int | None = None,
    tolerance: ArrayLike | None = None,
    solver: Solver | Callable[[int], Solver] | None = None,
    codes0: ArrayLike | None = None,
    step_size: ArrayLike | None = None,
    as_sparse: Literal[True],
) -> SparseCodes: ...


@on_automatic_axes
def sparse_encode(
    signals: ArrayLike,
    dictionary: ArrayLike | dictionaries.Prepared,
    penalty: ArrayLike | None = None,
    *,
    num_active: int | None = None,
    num_steps: int | None = None,
    tolerance: ArrayLike | None = None,
    solver: Solver | Callable[[int], Solver] | None = None,
    codes0: ArrayLike | None = None,
    step_size: ArrayLike | None = None,
    as_sparse: bool = False,
) -> Array | SparseCodes:
    r"""Find sparse codes of signals in a dictionary: the one-call front of the solvers.

    .. math:: \min_{z \ge 0} \tfrac12 \|x - z D\|^2 + \lambda \|z\|_1

    Codes are non-negative by default; pass ``solver=fista(prox=soft_threshold)`` for signed codes.
    Say when to stop: after ``num_steps`` iterations, or once the relative duality gap of every
    signal is within ``tolerance`` (and in any case after 10,000 steps, or 1,000 of the working set
    that is the default from 1,024 atoms on: then a ``UserWarning`` says how many signals are not;
    under jit and vmap nothing does, and for flags of convergence there is
    :func:`solve_to_tolerance`).

    With ``num_active`` there is no penalty: the codes have at most so many entries and the squared
    error is what is made small, by orthogonal least squares.

    Args:
      signals: (..., M); any leading axes. **Traced**.
      dictionary: (N, M), one atom per row; used as it is, never renormalized. Where it is used in
        many calls, :func:`~sparsecode_jax.dictionaries.prepare` it once. **Traced**.
      penalty: the l1 weight, () or (N,); scikit-learn's ``sparse_encode(alpha)``. **Traced**.
      num_active: K, the most active codes per signal, in the place of a penalty; K iterations are
        taken unless ``num_steps`` says otherwise. **Static**.
      num_steps: iterations. **Static**.
      tolerance: the largest relative duality gap; 1e-5 is near what float32 can reach. Derivatives
        are then those of the exact solution, by implicit differentiation. **Traced**.
      solver: None takes ``fista()`` for ``num_steps`` and :func:`default_solver` for ``tolerance``;
        of a solver that is given the gap is looked at after each step. With ``num_active`` it is
        what builds the solver, such as ``orthogonal_matching_pursuit`` itself; None takes
        ``orthogonal_least_squares``. **Static**.
      codes0: (..., N), a warm start. **Traced**.
      step_size: (); None takes the solver's own choice (1/L for proximal gradient, where L is
        the squared spectral norm of the dictionary). **Traced**.
      as_sparse: whether codes are returned as :class:`~sparsecode_jax.SparseCodes`, which pursuits
        hold them in: no array (..., N) of codes is made. **Static**.

    Returns:
      Codes (..., N).

    Raises:
      ValueError: shapes that disagree, non-finite or negative numbers, a zero atom, no signal; not
        exactly one of ``num_steps`` and ``tolerance``, or of ``penalty`` and ``num_active``;
        ``as_sparse`` of a solver whose codes are an array.

    **Cost**: that of :func:`solve` or :func:`solve_to_tolerance`, plus ``dictionaries.step_size``
    once if no step is given, none is prepared and the solver needs one.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=16, num_atoms=32)
      >>> codes = sc.sparse_encode(problem.signals, problem.dictionary, 0.02, tolerance=1e-5)
      >>> bool(sc.metrics.mcc(problem.codes, codes) > 0.95)
      True
      >>> few = sc.sparse_encode(
      ...     problem.signals, problem.dictionary, num_active=3, as_sparse=True)
      >>> few.values.shape, few.shape
      ((100, 3), (100, 32))
    """
    name = "sparse_encode"
    if num_active is not None:
        build = orthogonal_least_squares if solver is None else solver
        penalty, solver = 0.0, _checks.pursuit(name, penalty, num_active, build)
        num_steps = num_active if num_steps is None and tolerance is None else num_steps
    elif penalty is None:
        raise ValueError(
            f"{name}: neither a penalty nor num_active is given; exactly one of them is expected."
        )
    _steps_or_tolerance(name, num_steps, tolerance)
    dictionary, prepared_step, gram = dictionaries.opened(dictionary)
    signals, dictionary = _checks.floating(name, signals, dictionary)
    _checks.dictionary_matrix(name, dictionary)
    options = {"max_steps": _MOST_STEPS, "check_every": 1}
    if solver is None and num_steps is not None:
        solver = fista()
    elif solver is None:
        solver, options = default_solver(dictionary)
    _checks.solver(name, solver)
    assert isinstance(solver, Solver)
    _checks.flag(name, "as_sparse", as_sparse)
    if as_sparse:
        solver = _with_sparse_codes(name, solver)
    if step_size is None and solver.step_size is None and prepared_step is not None:
        step_size = prepared_step
    elif step_size is None:
        step_size = _step_size(
            None if solver.step_size is None else solver, held(signals, dictionary)
        )
    penalty, step_size = map(_checks.on_device, _checks.real(name, penalty, step_size))
    problem = Lasso(signals, dictionary, penalty, step_size, gram)
    if tolerance is not None:
        _checks.positive(name, tolerance=tolerance)
        codes, info = solve_to_tolerance(
            solver,
            problem,
            tolerance=tolerance,
            codes0=codes0,
            **options,
        )
        _checks.reached(name, info.converged, tolerance, options["max_steps"])
        return codes
    problem, codes0 = _checks.prepared(name, problem, codes0)
    _checks.count(name, "num_steps", num_steps, minimum=0)
    codes0, layout = spread(name, solver, problem, codes0)
    problem = held_problem(problem)
    return _solve(solver, problem, codes0, num_steps, layout)


def _with_sparse_codes(name: str, solver: Solver) -> Solver:
    """Return a solver whose codes are those that it holds by value and place."""
    if solver.sparse_codes is None:
        raise ValueError(
            f"{name}: as_sparse=True, but this solver's codes are an array (..., N); a pursuit, as "
            "for num_active, is expected. Take SparseCodes.from_dense(codes, num_active=K)."
        )
    return solver._replace(codes=solver.sparse_codes)


def default_solver(
    dictionary: Any, *, prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold
) -> tuple[Solver, dict[str, int]]:
    """Return the solver that reaches a tolerance soonest, and how to run it.

    It is :func:`sparsa`, looked at every 5 iterations; from 1,024 atoms on it is
    :func:`working_set` with sets of up to min(M, N) atoms, looked at every round, unless ``prox``
    does not say that its penalty is the l1 norm or an elastic net (a function of your own says so
    by ``is_l1``, see :mod:`~sparsecode_jax.prox`) or the atoms are split over devices.

    Args:
      dictionary: (N, M), or a ``jax.ShapeDtypeStruct``; only its shape and its placement are looked
        at. **Static**.
      prox: the proximal operator of the penalty. **Static**.

    Returns:
      The solver, and ``max_steps`` and ``check_every`` for :func:`solve_to_tolerance`.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> p = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=16, num_atoms=32)
      >>> solver, options = sc.solvers.default_solver(p.dictionary, prox=sc.prox.soft_threshold)
      >>> lasso = sc.Lasso(p.signals, p.dictionary, 0.02, sc.dictionaries.step_size(p.dictionary))
      >>> codes, info = sc.solvers.solve_to_tolerance(solver, lasso, tolerance=1e-5, **options)
      >>> bool(info.converged.all())
      True
    """
    _checks.function("default_solver", "prox", prox)
    if not hasattr(dictionary, "shape"):  # of which no more is needed
        (dictionary,) = _checks.floating("default_solver", dictionary)
    _checks.matrix("default_solver", "dictionary", dictionary)
    many = dictionary.shape[0] >= _MANY_ATOMS
    if many and separable(prox) and not splits_atoms(dictionary):
        solver = working_set(min(dictionary.shape), prox=prox)
        return solver, {"max_steps": _MOST_ROUNDS, "check_every": 1}
    return sparsa(prox=prox), {"max_steps": _MOST_STEPS, "check_every": 5}


@functools.partial(jax.jit, static_argnames=("solver", "num_steps", "layout"))
def _solve(
    solver: Solver,
    problem: Lasso,
    codes0: Array | None,
    num_steps: int,
    layout: Layout | None = None,
) -> Array:
    solver = over_signals(solver, problem, codes0, layout)

    def run(state: PyTree, problem: Lasso) -> Array:
        state, _ = jax.lax.scan(
            lambda state, _: (solver.step(state, problem), None), state, length=num_steps
        )
        return solver.codes(state)

    state = varying_like(solver.init(problem, codes0), problem)
    if layout is None and _in_chunks(solver, problem):
        parts = Parts(state, grows_with_signals(solver, problem, codes0))
        return _by_chunk(run, state, parts, problem)
    return run(state, problem)


def _in_chunks(solver: Solver, problem: Lasso) -> bool:
    """Say whether steps are done for some signals at a time, whose state a cache holds.

    Not where a step is a product of all signals with the dictionary, nor on accelerators.
    """
    few = problem.dictionary.shape[0] <= _MANY_ATOMS or problem.gram is not None
    few = few and not solver.splits_atoms
    return few and problem.signals.ndim == 2 and jax.default_backend() == "cpu"


def _by_chunk(run: Callable, state: PyTree, parts: Parts, problem: Lasso) -> Array:
    rows, shared = (problem.signals, parts.own(state)), parts.shared(state)
    batch, cores = len(problem.signals), os.cpu_count() or 1
    most = cores * max(_FEWEST, _CACHE * batch // max(sum(x.nbytes for x in rows[1]), 1))
    size = -(-batch // -(-batch // most))  # chunks of about one size

    def some(rows: tuple[Array, list[Array]]) -> Array:
        signals, own = rows
        return run(parts.join(own, shared), problem._replace(signals=signals))

    if size == batch:
        return run(state, problem)
    whole = batch - batch % size
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rows)
    codes = jax.tree.map(lambda x: x.reshape(whole, -1), jax.lax.map(some, chunks))
    if whole == batch:
        return codes
    rest = some(jax.tree.map(lambda x: x[whole:], rows))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), codes, rest)


@functools.partial(
    jax.jit, static_argnames=("solver", "num_steps", "record", "record_every", "layout")
)
def _trajectory(
    solver: Solver,
    problem: Lasso,
    codes0: Array | None,
    num_steps: int,
    record: Callable[[Array], PyTree],
    record_every: int,
    layout: Layout | None = None,
) -> tuple[Array, PyTree]:
    solver = over_signals(solver, problem, codes0, layout)

    def run(state: PyTree, length: int) -> PyTree:
        def step(state: PyTree, _: None) -> tuple[PyTree, None]:
            return solver.step(state, problem), None

        return jax.lax.scan(step, state, length=length)[0]

    def stretch(state: PyTree, _: None) -> tuple[PyTree, PyTree]:
        state = run(state, record_every)
        return state, record(solver.codes(state))

    num_records, rest = divmod(num_steps, record_every)
    start = varying_like(solver.init(problem, codes0), problem)
    state, records = jax.lax.scan(stretch, start, length=num_records)
    return solver.codes(run(state, rest)), records


@functools.partial(jax.jit, static_argnames="solver")
def _step_size(solver: Solver | None, dictionary: Array) -> Array:
    return automatic(functools.partial(dictionaries.step_size, solver=solver))(dictionary)


def _steps_or_tolerance(name: str, num_steps: Any, tolerance: Any) -> None:
    """Raise unless exactly one of the two is given."""
    if (num_steps is None) == (tolerance is None):
        given = "neither" if num_steps is None else "both"
        raise ValueError(
            f"{name}: {given} of num_steps and tolerance given; exactly one is expected. "
            "num_steps=100 runs 100 iterations; tolerance=1e-5 stops each signal at that relative "
            "duality gap."
        )
