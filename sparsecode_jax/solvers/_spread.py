"""Solvers on signals that lie on many devices: each device iterates on its own."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    layout_of,
    over_devices,
    placement,
)
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = [
    "grows_with_signals",
    "held",
    "held_problem",
    "over_signals",
    "problem_specs",
    "splits_atoms",
    "spread",
]

_WHOLE = PartitionSpec()


def splits_atoms(dictionary: Array) -> bool:
    """Say whether the atoms of a dictionary are known to be split over devices."""
    return placement(dictionary) is not None


def held(signals: Array, dictionary: Array) -> Array:
    """Return a dictionary that is not computed with while a program is compiled.

    XLA folds what depends on constants alone, and takes minutes for the Gram matrix of a dictionary
    of 2,304 atoms that somebody's program closes over.
    """
    traced = isinstance(signals, jax.core.Tracer)
    if not traced or isinstance(dictionary, jax.core.Tracer):
        return dictionary
    return jax.lax.optimization_barrier(dictionary)


def held_problem(problem: Lasso) -> Lasso:
    """Return a problem whose dictionary and Gram matrix are :func:`held`."""
    signals, gram = problem.signals, problem.gram
    return problem._replace(
        dictionary=held(signals, problem.dictionary),
        gram=None if gram is None else held(signals, gram),
    )


def spread(
    name: str, solver: Solver | None, problem: Lasso, codes0: Any
) -> tuple[Any, Layout | None]:
    """Return the warm start as it is to lie, and how signals and atoms lie.

    Raises:
      ValueError: atoms that are split where the solver (None for what is none) needs them whole, or
        inside a program on explicit axes; and as ``layout_of``.
    """
    layout = layout_of(name, problem.signals, problem.dictionary)
    if layout is None:
        return codes0, None
    if not layout.others:
        if codes0 is not None and isinstance(problem.signals, jax.core.Tracer):
            # On explicit axes, where the types of both have to agree.
            codes0 = jax.sharding.reshard(codes0, NamedSharding(layout.mesh, by_signal(layout)))
        return codes0, layout
    if solver is None or not solver.splits_atoms:
        raise ValueError(
            f"{name}: the dictionary {problem.dictionary.shape} is split over its atoms (mesh axis "
            f"{layout.others[0]!r}), but this solver needs every atom on every device. Take ista, "
            "fista, sparsa, lca or log_adam, or put the dictionary on all devices: "
            "jax.device_put(dictionary, NamedSharding(mesh, PartitionSpec()))."
        )
    if isinstance(problem.dictionary, jax.core.Tracer):
        raise ValueError(
            f"{name}: the dictionary is split over its atoms by the explicit mesh axis "
            f"{layout.others[0]!r} of the program around this call; automatic axes are expected "
            "there. Make the mesh with axis_types=(jax.sharding.AxisType.Auto,) for that axis, or "
            "call this function outside of jit."
        )
    return codes0, layout


def problem_specs(layout: Layout | None) -> Lasso:
    """Return where the arrays of a problem lie."""
    return Lasso(by_signal(layout), _WHOLE, _WHOLE, _WHOLE, _WHOLE)  # type: ignore[arg-type]


def over_signals(
    solver: Solver, problem: Lasso, codes0: Array | None, layout: Layout | None
) -> Solver:
    """Let each device run a solver's functions on the signals that it holds."""
    if layout is None or set(layout.mesh.axis_names) <= set(layout.others):
        return solver
    rows, problems = by_signal(layout), problem_specs(layout)
    state = jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(solver.init, problem, codes0)),
        [rows if own else _WHOLE for own in grows_with_signals(solver, problem, codes0)],
    )
    return solver._replace(
        init=over_devices(solver.init, layout, (problems, rows), state),
        step=over_devices(solver.step, layout, (state, problems), state),
        codes=over_devices(solver.codes, layout, (state,), rows),
    )


def grows_with_signals(solver: Solver, problem: Lasso, codes0: Array | None) -> list[bool]:
    """Say which arrays of a state have a row per signal: those that grow with the batch."""
    if problem.signals.ndim == 1:
        return [False] * len(jax.tree.leaves(jax.eval_shape(solver.init, problem, codes0)))

    def shapes(batch: int) -> list[tuple[int, ...]]:
        def like(x: Any) -> Any:
            return None if x is None else jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)

        def whole(x: Any) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype)

        many = jax.tree.map(whole, problem)._replace(signals=like(problem.signals))
        return [x.shape for x in jax.tree.leaves(jax.eval_shape(solver.init, many, like(codes0)))]

    return [two != three for two, three in zip(shapes(2), shapes(3), strict=True)]
