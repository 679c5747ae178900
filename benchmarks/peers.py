"""The peers of the solver benchmark, each at its best settings for a given gap.

A maker takes a :class:`Problem` and returns ``(run, num_signals)``: ``run()`` encodes that many of
the problem's signals and returns codes (num_signals, N) as NumPy, or something ``codes`` makes so.
What a user prepares once (layouts, Gram matrices given to everyone who takes one, the number of
iterations that just reaches the gap) is done in the maker and not timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # the wheel of SPAMS misdetects some CPUs
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import Problem, worst_gap

SLOW_SIGNALS = 16  # signals a slow peer gets at the largest scale; its time counts per signal


def _fewest(run: Callable[[int], Any], problem: Problem) -> int:
    """Return about the fewest iterations whose worst gap is within the tolerance."""
    steps = 8
    while worst_gap(problem, run(steps)) > problem.tolerance and steps < 20_000:
        steps = int(steps * 1.3) + 1
    return steps


def spams_lasso(problem: Problem, *, threads: int, gram: bool) -> tuple[Callable, int]:
    """LARS of SPAMS, by its dictionary or by a Gram matrix that is given (and not timed)."""
    import spams

    signals = np.asfortranarray(problem.signals.T)
    atoms = np.asfortranarray(problem.dictionary.T)
    square = np.asfortranarray(problem.dictionary @ problem.dictionary.T) if gram else None

    def run() -> Any:
        given = {"D": atoms}
        if square is not None:
            given = {"Q": square, "q": np.asfortranarray(problem.dictionary @ signals)}
        return spams.lasso(
            signals, **given, lambda1=problem.penalty, mode=2, pos=True, numThreads=threads
        )

    return lambda: run().toarray().T.copy(), len(problem.signals)


def spams_ormp(problem: Problem, *, threads: int) -> tuple[Callable, int]:
    """SPAMS's ``omp``, which is order-recursive matching pursuit (orthogonal least squares).

    Without ``eps`` the wheel reads a tolerance that nobody set, and often returns no codes at all.
    """
    import spams

    signals = np.asfortranarray(problem.signals.T)
    atoms = np.asfortranarray(problem.dictionary.T)

    def found() -> Any:
        return spams.omp(signals, D=atoms, L=problem.num_active, eps=0.0, numThreads=threads)

    return lambda: found().toarray().T.copy(), len(problem.signals)


def scikit_learn_lasso(problem: Problem) -> tuple[Callable, int]:
    """Coordinate descent on the Gram matrix, which is given."""
    from sklearn.linear_model import Lasso

    few = _few(problem)
    signals = np.asarray(problem.signals[:few].T, np.float64)
    atoms = np.asfortranarray(problem.dictionary.T, np.float64)
    model = Lasso(
        alpha=problem.penalty / atoms.shape[0], fit_intercept=False, positive=True,
        precompute=atoms.T @ atoms, tol=problem.tolerance / 2, max_iter=100_000,
    )  # fmt: skip
    return lambda: model.fit(atoms, signals).coef_.reshape(few, -1), few


def scikit_learn_omp(problem: Problem) -> tuple[Callable, int]:
    """Orthogonal matching pursuit of scikit-learn."""
    from sklearn.linear_model import orthogonal_mp_gram

    few = _few(problem)
    atoms, signals = problem.dictionary.astype(np.float64), problem.signals[:few].astype(np.float64)
    square = atoms @ atoms.T

    def run() -> np.ndarray:
        found = orthogonal_mp_gram(square, atoms @ signals.T, n_nonzero_coefs=problem.num_active)
        return found.T.reshape(few, -1)

    return run, few


def celer_lasso(problem: Problem) -> tuple[Callable, int]:
    """Celer, one signal after the other."""
    import celer

    few = _few(problem)
    atoms = np.asfortranarray(problem.dictionary.T, np.float64)
    model = celer.Lasso(
        alpha=problem.penalty / atoms.shape[0], fit_intercept=False, positive=True,
        tol=problem.tolerance / 2,
    )  # fmt: skip
    signals = problem.signals[:few].astype(np.float64)
    return lambda: np.stack([model.fit(atoms, x).coef_ for x in signals]), few


def jaxopt_lasso(problem: Problem) -> tuple[Callable, int]:
    """Accelerated proximal gradient of jaxopt on the whole batch, by the fewest iterations."""
    import jaxopt

    atoms, signals = jnp.asarray(problem.dictionary), jnp.asarray(problem.signals)
    step = 1 / np.linalg.norm(problem.dictionary.astype(np.float64), 2) ** 2

    def error(codes: Any, atoms: Any, signals: Any) -> Any:
        return 0.5 * jnp.sum((codes @ atoms - signals) ** 2)

    def solver(steps: int) -> Callable:
        gradient = jaxopt.ProximalGradient(
            error, jaxopt.prox.prox_non_negative_lasso, stepsize=step, maxiter=steps, tol=0.0
        )
        start = jnp.zeros((len(problem.signals), len(problem.dictionary)))

        def run(atoms: Any, signals: Any) -> Any:
            return gradient.run(start, problem.penalty, atoms, signals).params

        compiled = jax.jit(run)
        return lambda: compiled(atoms, signals).block_until_ready()

    run = solver(_fewest(lambda steps: solver(steps)(), problem))
    return run, len(problem.signals)


def torch_fista(problem: Problem) -> tuple[Callable, int]:
    """FISTA in eager torch on the whole batch, by the fewest iterations."""
    import torch

    atoms, signals = torch.from_numpy(problem.dictionary), torch.from_numpy(problem.signals)
    step = float(1 / np.linalg.norm(problem.dictionary.astype(np.float64), 2) ** 2)

    def encode(steps: int) -> np.ndarray:
        with torch.inference_mode():
            codes = torch.zeros(len(signals), len(atoms))
            point, t = codes, 1.0
            for _ in range(steps):
                gradient = (point @ atoms - signals) @ atoms.T
                new = torch.relu(point - step * gradient - step * problem.penalty)
                after = (1 + (1 + 4 * t * t) ** 0.5) / 2
                point, codes, t = new + (t - 1) / after * (new - codes), new, after
            return codes.numpy()

    steps = _fewest(encode, problem)
    return lambda: encode(steps), len(problem.signals)


def _few(problem: Problem) -> int:
    large = problem.dictionary.size > 1_000_000
    return SLOW_SIGNALS if large else min(256, len(problem.signals))
