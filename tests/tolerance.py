"""The table of solvers that run to a tolerance, for the tests of it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax import Lasso, Solver, solvers
from sparsecode_jax.prox import elastic_net, group_soft_threshold, soft_threshold
from sparsecode_jax.solvers import solve_to_tolerance

from .contracts import PENALTY, as_numpy, numpy_gap, sparse_problem

SIGNED_NET = elastic_net(0.5, prox=soft_threshold)


class Case(NamedTuple):
    """A solver, the gap asked of it, and which gap that is in NumPy: None is the squared error."""

    solver: Solver
    tolerance: float = 1e-3
    numpy: dict[str, Any] | None = None
    check_every: int = 3
    max_steps: int = 900
    step_size: float | None = None

    def problem(self, dtype=jnp.float64) -> Lasso:
        signals, dictionary, _ = as_numpy(
            sparse_problem(signed=bool((self.numpy or {}).get("signed")))
        )
        step_size = self.step_size or 1 / np.linalg.norm(dictionary, 2) ** 2
        return Lasso(*(jnp.asarray(x, dtype) for x in (signals, dictionary, PENALTY, step_size)))

    def run(self, problem: Lasso | None = None, **changes):
        names = ("tolerance", "max_steps", "check_every")
        kwargs = {name: getattr(self, name) for name in names} | changes
        return solve_to_tolerance(self.solver, problem or self.problem(), **kwargs)

    def measure(self, problem: Lasso, codes) -> np.ndarray:
        signals, dictionary, penalty, *_ = as_numpy(problem)
        if self.numpy is not None:
            return numpy_gap(signals, dictionary, codes, penalty, **self.numpy)
        errors = np.sum((signals - np.asarray(codes) @ dictionary) ** 2, axis=-1)
        return errors / np.sum(signals**2, axis=-1)


PLUS, BOTH = {"signed": False}, {"signed": True}
CASES = {
    "ista": Case(solvers.ista(), 5e-3, PLUS),
    "fista": Case(solvers.fista(), numpy=PLUS),
    "fista restart": Case(solvers.fista(restart=solvers.gradient_restart), numpy=PLUS),
    "sparsa": Case(solvers.sparsa(), numpy=PLUS, check_every=1),
    "sparsa signed": Case(solvers.sparsa(prox=soft_threshold), numpy=BOTH),
    "sparsa elastic net": Case(
        solvers.sparsa(prox=SIGNED_NET), numpy={"signed": True, "ridge": 0.5}
    ),
    "sparsa groups": Case(
        solvers.sparsa(prox=group_soft_threshold(2)), numpy={"signed": False, "group_size": 2}
    ),
    "coordinate descent": Case(solvers.coordinate_descent(), numpy=PLUS),
    "lca": Case(solvers.lca(), 5e-3, PLUS),
    "log_adam": Case(solvers.log_adam(), 0.02, PLUS, 50, 5000, step_size=0.01),
    "working set": Case(solvers.working_set((4, 12)), numpy=PLUS, check_every=1),
    "omp": Case(solvers.orthogonal_matching_pursuit(4), 0.01, check_every=1, max_steps=4),
    "omp signed": Case(
        solvers.orthogonal_matching_pursuit(4, prox=soft_threshold), 0.01, check_every=1,
        max_steps=4,
    ),
    "ols": Case(solvers.orthogonal_least_squares(4), 0.01, check_every=1, max_steps=4),
    "matching pursuit": Case(solvers.matching_pursuit(), 0.01, check_every=1, max_steps=40),
    "gradient pursuit": Case(solvers.gradient_pursuit(6), 0.01, check_every=1, max_steps=6),
    "iterative hard thresholding": Case(
        solvers.iterative_hard_thresholding(3), 0.01, check_every=2, max_steps=20
    ),
    "cosamp": Case(solvers.cosamp(3), 0.01, check_every=1, max_steps=6),
    "subspace pursuit": Case(solvers.subspace_pursuit(3), 0.01, check_every=1, max_steps=6),
}  # fmt: skip

each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def some(*names):
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


def identity(codes):
    return codes
