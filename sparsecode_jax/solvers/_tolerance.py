"""Run a solver until every signal is within a tolerance, spending steps where they are needed."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from sparsecode_jax import _checks
from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    on_automatic_axes,
    over_devices,
    varying_like,
)
from sparsecode_jax.objectives import duality_gap, is_half
from sparsecode_jax.prox import separable
from sparsecode_jax.solvers._implicit import with_implicit_gradient
from sparsecode_jax.solvers._spread import grows_with_signals, held_problem, problem_specs, spread
from sparsecode_jax.types import Array, ArrayLike, Lasso, PyTree, Solver

__all__ = ["Parts", "ToleranceInfo", "solve_to_tolerance"]

_CPU_CHUNKS = 256, 128  # signals at a time up to 1,024 atoms, and above: measured
_ACCELERATOR_ENTRIES = 2**26  # codes at a time


class ToleranceInfo(NamedTuple):
    """What :func:`solve_to_tolerance` did for each signal.

    Attributes:
      num_steps: iterations spent on it, (...,).
      gap: the gap of its codes, as the solver measures it, with what rounding can hide, (...,).
      converged: whether that is within the tolerance, (...,). Where a signal or the penalty is not
        a finite number, or the penalty is negative, the gap is NaN and this is False.
    """

    num_steps: Array
    gap: Array
    converged: Array


@on_automatic_axes
def solve_to_tolerance(
    solver: Solver,
    problem: Lasso,
    *,
    tolerance: ArrayLike,
    max_steps: int,
    check_every: int = 1,
    codes0: ArrayLike | None = None,
    chunk_size: int | None = None,
) -> tuple[Array, ToleranceInfo]:
    r"""Run a solver on each signal until its gap is within a tolerance.

    The gap is the relative duality gap for solvers of the lasso, which bounds how far the objective
    is above its minimum as a fraction of :math:`\tfrac12\|x\|^2`, and the relative squared error
    for pursuits. A signal that is done keeps its codes from then on and takes no more time: the
    others are moved together and worked on in chunks.

    What rounding can hide counts as gap (see :func:`~sparsecode_jax.objectives.residual_gap`), so
    that what is claimed holds. In float32 the gap of a lasso can be brought to about 1e-6 where the
    residual is small, to 1e-5 where it is half the signal, and not to 1e-3 where the penalty is
    below 1e-6 of the signal's norm; signals that do not get there are not ``converged``. Use
    float64 for less.

    Derivatives with respect to signals, dictionary and penalty are those of the exact solution, by
    implicit differentiation on its support, for solvers that say which ``prox`` they belong to
    (see :func:`with_implicit_gradient`). Through other solvers differentiate with :func:`solve`.

    Args:
      solver: one with a ``gap`` or a ``prox``. **Static**.
      problem: signals (..., M), dictionary (N, M), penalty () or (N,) and > 0 for a lasso, step
        size (). **Traced**.
      tolerance: the largest gap, (), at least four roundings of the dtype. **Traced**.
      max_steps: stop then in any case; rounded up to a multiple of ``check_every``. **Static**.
      check_every: steps between two looks at the gap: 1 stops a pursuit at the first atom that
        suffices; 5 is faster for proximal gradient. **Static**.
      codes0: (..., N), a warm start. **Traced**.
      chunk_size: signals worked on at a time; None chooses by N. **Static**.

    Returns:
      Codes (..., N) and a :class:`ToleranceInfo`.

    Raises:
      ValueError: as :func:`solve`; a tolerance that is not one number, or too small to certify;
        signals at the ends of the dtype's range; a zero penalty; a solver without a measure.

    **Cost**: for each signal its number of steps, one gap every ``check_every`` of them (a lasso's
    has 2MN once per chunk), and N moves of data per check; up to a chunk of signals that are done
    is computed along.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> p = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=16, num_atoms=32)
      >>> lasso = sc.Lasso(p.signals, p.dictionary, 0.02, sc.dictionaries.step_size(p.dictionary))
      >>> codes, info = sc.solvers.solve_to_tolerance(
      ...     sc.solvers.sparsa(), lasso, tolerance=1e-4, max_steps=1000, check_every=5)
      >>> bool(info.converged.all()), bool(info.gap.max() <= 1e-4)
      (True, True)
    """
    name = "solve_to_tolerance"
    _checks.solver(name, solver)
    problem, codes0 = _checks.prepared(name, problem, codes0)
    _checks.count(name, "max_steps", max_steps)
    _checks.count(name, "check_every", check_every)
    _measurable(name, solver)
    (tolerance,) = _checks.real(name, tolerance)
    _checks.to_tolerance(name, problem, tolerance, with_penalty=solver.prox is not None)
    if chunk_size is None:
        num_atoms = problem.dictionary.shape[0]
        on_cpu = jax.default_backend() == "cpu"
        chunk_size = _CPU_CHUNKS[num_atoms > 1024] if on_cpu else _ACCELERATOR_ENTRIES // num_atoms
        chunk_size = max(chunk_size, 1)
    _checks.count(name, "chunk_size", chunk_size)
    # Where a message is not possible codes are NaN of what no gap would ever do for.
    if not _checks.concrete(tolerance):
        unknown = jnp.isnan(tolerance)
        problem = problem._replace(signals=jnp.where(unknown, jnp.nan, problem.signals))
        tolerance = jnp.where(unknown, 1, tolerance)
    if solver.prox is not None and not _checks.concrete(problem.penalty):
        negative = jnp.any(problem.penalty < 0)
        problem = problem._replace(signals=jnp.where(negative, jnp.nan, problem.signals))
    codes0, layout = spread(name, solver, problem, codes0)
    problem = held_problem(problem)
    return _solve_to_tolerance(
        solver, problem, codes0, tolerance, max_steps, check_every, chunk_size, layout
    )


@functools.partial(
    jax.jit, static_argnames=("solver", "max_steps", "check_every", "chunk_size", "layout")
)
def _solve_to_tolerance(
    solver: Solver,
    problem: Lasso,
    codes0: Array | None,
    tolerance: Array,
    max_steps: int,
    check_every: int,
    chunk_size: int,
    layout: Layout | None = None,
) -> tuple[Array, ToleranceInfo]:
    run = functools.partial(
        _run_to_tolerance, solver, max_steps=max_steps, check_every=check_every,
        chunk_size=chunk_size,
    )  # fmt: skip
    # Each device moves its own open signals together, and stops when its own are done.
    rows, whole = by_signal(layout), PartitionSpec()
    mapped = over_devices(run, layout, (problem_specs(layout), rows, whole), rows)
    return mapped(problem, codes0, tolerance)


def _run_to_tolerance(
    solver: Solver,
    problem: Lasso,
    codes0: Array | None,
    tolerance: Array,
    *,
    max_steps: int,
    check_every: int,
    chunk_size: int,
) -> tuple[Array, ToleranceInfo]:
    leading = problem.signals.shape[:-1]
    flat = problem._replace(signals=problem.signals.reshape(-1, problem.signals.shape[-1]))
    start = None if codes0 is None else codes0.reshape(-1, codes0.shape[-1])
    implicit = separable(solver.prox)
    args = (flat, start, tolerance)
    if implicit:
        args = jax.tree.map(lax.stop_gradient, args)
    run = _Run(solver, max_steps, check_every, min(chunk_size, flat.signals.shape[0]))
    codes, info = run(*args)
    if implicit:
        flat = varying_like(flat, codes)  # so that derivatives are summed over devices
        codes = with_implicit_gradient(flat, codes, prox=solver.prox)  # type: ignore[arg-type]
    codes = jax.tree.map(lambda x: x.reshape(*leading, -1), codes)
    return codes, jax.tree.map(lambda x: x.reshape(leading), info)


class _Queue(NamedTuple):
    """Signals in the order of processing: those that are not done come first."""

    order: Array  # which signal this is, (B,)
    signals: Array  # (B, M)
    state: list[Array]  # the solver's arrays with one row per signal
    num_steps: Array  # (B,)
    gap: Array  # (B,)


class _Run(NamedTuple):
    """One run on signals (B, M); all that is static about it."""

    solver: Solver
    max_steps: int
    check_every: int
    chunk: int

    def __call__(
        self, problem: Lasso, codes0: Array | None, tolerance: Array
    ) -> tuple[Array, ToleranceInfo]:
        signals = problem.signals
        batch, dtype = signals.shape[0], signals.dtype
        state = self.solver.init(problem, codes0)
        parts = Parts(state, grows_with_signals(self.solver, problem, codes0))
        rows = jnp.arange(batch, dtype=jnp.int32)
        queue = _Queue(
            rows, signals, parts.own(state), jnp.zeros_like(rows), jnp.full(batch, jnp.inf, dtype)
        )

        def is_open(carry: tuple) -> Array:
            _, _, num_open, num_steps = carry
            return (num_open > 0) & (num_steps < self.max_steps)

        def generation(carry: tuple) -> tuple:
            queue, shared, num_open, num_steps = carry
            # Shared numbers (a momentum, a round) are the same for all signals of a generation.
            queue, after = lax.fori_loop(
                0,
                self._num_chunks(num_open),
                lambda i, c: self._advance(i, c[0], parts, shared, problem, tolerance),
                (queue, shared),
            )
            done = ~(queue.gap > tolerance)  # a gap that is not a number will not get better
            still = jnp.sum(~done, dtype=jnp.int32)
            fewer = self._num_chunks(still) < self._num_chunks(num_open)
            queue = lax.cond(fewer, _open_first, lambda queue, _: queue, queue, done)
            # Until then the signals that are done lie among those that are not.
            still = jnp.where(fewer | (still == 0), still, num_open)
            return queue, after, still, num_steps + self.check_every

        start = (queue, parts.shared(state), jnp.int32(batch), jnp.int32(0))
        start = varying_like(start, problem, tolerance)
        queue, shared, _, _ = lax.while_loop(is_open, generation, start)
        back = jnp.zeros_like(rows).at[queue.order].set(rows, unique_indices=True)
        codes = self.solver.codes(parts.join(queue.state, shared))
        info = ToleranceInfo(queue.num_steps, queue.gap, queue.gap <= tolerance)
        return jax.tree.map(lambda x: x[back], (codes, info))

    def _num_chunks(self, num_signals: Array) -> Array:
        return (num_signals + self.chunk - 1) // self.chunk

    def _advance(
        self,
        i: Array,
        queue: _Queue,
        parts: Parts,
        shared: list[Array],
        problem: Lasso,
        tolerance: Array,
    ) -> tuple[_Queue, list[Array]]:
        """Run the i-th chunk for ``check_every`` steps; the last one overlaps the one before."""
        start = jnp.minimum(i * self.chunk, queue.gap.shape[0] - self.chunk)
        rows = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, self.chunk), queue)
        here = problem._replace(signals=rows.signals)
        state, _ = lax.scan(
            lambda state, _: (self.solver.step(state, here), None),
            parts.join(rows.state, shared),
            length=self.check_every,
        )
        new = rows._replace(
            state=parts.own(state),
            num_steps=rows.num_steps + self.check_every,
            gap=_gap(self.solver, state, here),
        )
        fresh = (rows.gap > tolerance) & (jnp.arange(self.chunk) + start >= i * self.chunk)
        new = jax.tree.map(
            lambda old, new: jnp.where(fresh.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
            rows,
            new,
        )
        queue = jax.tree.map(
            lambda x, part: lax.dynamic_update_slice_in_dim(x, part, start, 0), queue, new
        )
        return queue, parts.shared(state)


class Parts(NamedTuple):
    """A solver's state, taken apart into arrays with one row per signal and shared ones."""

    like: PyTree
    by_signal: list[bool]

    def own(self, state: PyTree) -> list[Array]:
        return [x for x, own in zip(jax.tree.leaves(state), self.by_signal, strict=True) if own]

    def shared(self, state: PyTree) -> list[Array]:
        return [x for x, own in zip(jax.tree.leaves(state), self.by_signal, strict=True) if not own]

    def join(self, own: list[Array], shared: list[Array]) -> PyTree:
        rows, rest = iter(own), iter(shared)
        leaves = [next(rows) if is_own else next(rest) for is_own in self.by_signal]
        return jax.tree.unflatten(jax.tree.structure(self.like), leaves)


def _open_first(queue: _Queue, done: Array) -> _Queue:
    """Move the signals that are not done to the front, keeping their order."""
    place = jnp.where(done, jnp.sum(~done) + jnp.cumsum(done), jnp.cumsum(~done)) - 1
    rows = jnp.arange(done.shape[0], dtype=jnp.int32)
    index = jnp.zeros_like(rows).at[place].set(rows, unique_indices=True)
    return jax.tree.map(lambda x: x.at[index].get(mode="promise_in_bounds"), queue)


def _gap(solver: Solver, state: PyTree, problem: Lasso) -> Array:
    signals, dictionary, penalty, _, _ = problem
    prox = solver.prox
    # In half precision what a solver holds has too few digits to certify its codes.
    if solver.gap is not None and (prox is None or not is_half(signals.dtype)):
        return solver.gap(state, problem)
    assert prox is not None  # checked at the front
    return duality_gap(signals, dictionary, solver.codes(state), penalty, prox=prox)


def _measurable(name: str, solver: Any) -> None:
    """Raise unless a solver says how far a signal is from done."""
    if solver.gap is None and solver.prox is None:
        raise ValueError(
            f"{name}: the solver has neither a gap nor a prox, so nothing says when a signal is "
            "done. Give it one (see Solver), or run solve with a number of steps."
        )
