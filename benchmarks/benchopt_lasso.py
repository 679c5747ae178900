"""The solvers of this library in benchopt's lasso benchmark (github.com/benchopt/benchmark_lasso).

This file is what such a benchmark takes as a solver. With benchopt installed beside the library::

    git clone https://github.com/benchopt/benchmark_lasso
    cp benchmarks/benchopt_lasso.py benchmark_lasso/solvers/sparsecode_jax.py
    benchopt run benchmark_lasso -s sparsecode_jax -s sklearn -o "*[fit_intercept=False]" \
        -d "simulated[n_features=600,n_samples=500]" --max-runs 20 --n-repetitions 3

It was run by benchopt 1.7.0 with joblib 1.4.2: that benchmark's data sets fail in benchopt 1.10.

The design X (n_samples, n_features) is a dictionary of n_features atoms, and y is one signal: what
the library is least made for, as it works on many at a time. Numbers are float64, because the
benchmark goes on until objectives agree in ten digits. The first run, which compiles, is not timed:
the program is compiled once for each shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
from benchopt import BaseSolver

import sparsecode_jax as sc
from sparsecode_jax.prox import soft_threshold


class Solver(BaseSolver):
    """SpaRSA, FISTA with restarts, and working sets, until a duality gap."""

    name = "sparsecode_jax"
    sampling_strategy = "tolerance"
    requirements = ["pip::sparsecode_jax"]
    parameters = {"solver": ["working_set", "sparsa", "fista"]}  # noqa: RUF012 - benchopt's form

    def skip(self, fit_intercept, **_):
        """Leave out problems with an intercept."""
        return fit_intercept, "an intercept is not part of the library's lasso"

    def set_objective(self, X, y, lmbd, fit_intercept):  # noqa: N803 - benchopt's name
        """Put the problem on the device, and compile."""
        jax.config.update("jax_enable_x64", True)
        dictionary = jnp.asarray(np.asarray(X, np.float64).T)
        solver, check_every = {
            "working_set": (
                sc.solvers.working_set(min(dictionary.shape), prox=soft_threshold), 1
            ),
            "sparsa": (sc.solvers.sparsa(prox=soft_threshold), 5),
            "fista": (
                sc.solvers.fista(prox=soft_threshold, restart=sc.solvers.gradient_restart), 10
            ),
        }[self.solver]  # fmt: skip
        step_size = sc.dictionaries.step_size(dictionary, solver=solver)
        self._problem = sc.Lasso(jnp.asarray(y, jnp.float64), dictionary, lmbd, step_size)
        self._solver, self._options = solver, {"check_every": check_every, "max_steps": 100_000}

    @staticmethod
    def get_next(previous):
        """Return the next tolerance, a tenth: no progress in three of them ends a curve."""
        return min(previous, 1.0) / 10

    def warm_up(self):
        """Compile."""
        self.run(1.0)

    def run(self, tolerance):
        """Find codes whose duality gap is within a tolerance of half the signal's square."""
        least = 4 * np.finfo(np.float64).eps
        self._codes, _ = sc.solvers.solve_to_tolerance(
            self._solver, self._problem, tolerance=max(float(tolerance), least), **self._options
        )
        self._codes.block_until_ready()

    def get_result(self):
        """Return the coefficients."""
        return {"beta": np.asarray(self._codes)}
