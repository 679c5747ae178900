"""Inference as the commands run and count it: a solver by name, and one batch through it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import dictionaries, objectives, solvers
from sparsecode_jax.cli.errors import BadInputError
from sparsecode_jax.cli.parser import PURSUITS
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.types import Array, Lasso, Solver

__all__ = ["Method", "Scores", "choose", "encode_batch", "step_size"]


MOST_STEPS = {"working-set": 1000, "sparsa": 10_000, "fista": 10_000, "ista": 10_000}


class Method(NamedTuple):
    """A solver and when it stops; hashable.

    Attributes:
      name: of the solver, as on the command line.
      solver: what runs.
      num_steps: iterations; None stops by tolerance.
      max_steps: the most iterations by tolerance.
      check_every: iterations between two looks at the gap.
    """

    name: str
    solver: Solver
    num_steps: int | None
    max_steps: int
    check_every: int


class Scores(NamedTuple):
    """Of each signal (B,): objective, squared error, steps taken, and whether it converged."""

    objective: Array
    error: Array
    num_steps: Array
    converged: Array


def choose(
    name: str | None,
    *,
    signed: bool,
    num_active: int | None,
    num_steps: int | None,
    shape: tuple[int, int],
) -> Method:
    """Build the method that the options name, with the defaults of ``sparse_encode``."""
    num_atoms = shape[0]
    prox = soft_threshold if signed else nonnegative_soft_threshold
    if name is None and num_steps is not None:
        name = "fista"
    if name in PURSUITS:
        if num_active is None or num_active > num_atoms:
            given = "is not given" if num_active is None else f"is {num_active}"
            raise BadInputError(
                f"--num-active {given}; --solver {name} expects an integer from 1 to {num_atoms}, "
                "the number of atoms."
            )
        build, steps = {
            "omp": (solvers.orthogonal_matching_pursuit, num_active),
            "ols": (solvers.orthogonal_least_squares, num_active),
            "subspace-pursuit": (solvers.subspace_pursuit, 10),
        }[name]
        return Method(name, build(num_active, prox=prox), num_steps or steps, 0, 1)
    factories: dict[str, Callable[..., Solver]] = {
        "working-set": functools.partial(solvers.working_set, min(shape)),
        "sparsa": solvers.sparsa, "fista": solvers.fista, "ista": solvers.ista,
    }  # fmt: skip
    if name is None:
        best, _ = solvers.default_solver(jax.ShapeDtypeStruct(shape, jnp.float32), prox=prox)
        name = next(name for name, build in factories.items() if build(prox=prox) == best)
    if num_active is not None:
        raise BadInputError(
            f"--num-active {num_active} is given, but {name} finds the number of active atoms by "
            f"its penalty; --solver {', '.join(PURSUITS)} is expected with it."
        )
    solver = factories[name](prox=prox)
    return Method(name, solver, num_steps, MOST_STEPS[name], 5 if name == "sparsa" else 1)


def step_size(dictionary: Array, *, method: Method) -> Array:
    """Return the solver's step size, once for all batches."""
    return dictionaries.step_size(dictionary, solver=method.solver)


def infer(
    signals: Array,
    dictionary: Array,
    penalty: Array,
    step: Array,
    tolerance: Array | None = None,
    *,
    method: Method,
) -> tuple[Array, Any]:
    """Return codes (B, N), and information if the method stops by tolerance."""
    problem = Lasso(signals, dictionary, penalty, step)
    if method.num_steps is not None:
        return solvers.solve(method.solver, problem, num_steps=method.num_steps), None
    return solvers.solve_to_tolerance(
        method.solver, problem, tolerance=0.0 if tolerance is None else tolerance,
        max_steps=method.max_steps, check_every=method.check_every,
    )  # fmt: skip


@functools.cache
def encode_batch(method: Method) -> Any:
    """Compile inference of one batch: codes, scores, and the count of the inference alone."""
    from sparsecode_jax.flops import value_and_flops

    @jax.jit
    def run(
        signals: Array, dictionary: Array, penalty: Array, step: Array, tolerance: Array | None
    ) -> Any:
        inference = functools.partial(infer, method=method)
        args = (signals, dictionary, penalty, step, tolerance)
        (codes, info), count = value_and_flops(inference)(*args)
        rows = signals.shape[:1]
        scores = Scores(
            objectives.lasso(signals, dictionary, codes, penalty),
            2 * objectives.reconstruction_error(signals, dictionary, codes),
            jnp.broadcast_to(jnp.int32(method.num_steps or 0), rows)
            if info is None
            else info.num_steps,
            jnp.ones(rows, bool) if info is None else info.converged,
        )
        return codes, scores, count

    return run
