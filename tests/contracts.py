"""The tables that contract tests run over, and references that share no code with the library.

A new solver, encoder or proximal operator gains all the laws of its kind by one more entry here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, Solver
from sparsecode_jax.prox import elastic_net, nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.solvers import (
    coordinate_descent,
    fista,
    gradient_restart,
    ista,
    lca,
    log_adam,
    sparsa,
)

M, N, S, K = 8, 16, 20, 3  # measurements, atoms, signals, active atoms
PENALTY = 0.05


def sparse_problem(seed: int = 0, *, signed: bool = False, num_samples: int = S):
    """Draw a small problem with NumPy alone; float32 arrays (signals, dictionary, codes)."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(N, M))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((num_samples, N))
    for row in codes:
        row[rng.choice(N, K, replace=False)] = 0.3 + np.abs(rng.normal(size=K))
    if signed:
        codes *= rng.choice([-1, 1], size=codes.shape)
    arrays = (codes @ dictionary, dictionary, codes)
    return sc.synthetic.SparseProblem(*(a.astype(np.float32) for a in arrays))


# --- solvers ---------------------------------------------------------------------------------


def numpy_prox(signed: bool) -> Callable:
    if signed:
        return lambda x, t: np.sign(x) * np.maximum(np.abs(x) - t, 0)
    return lambda x, t: np.where(x > t, x - t, 0)


def numpy_ista(signals, dictionary, penalty, step_size, num_steps, *, signed):
    codes = np.zeros((len(signals), len(dictionary)), signals.dtype)
    for _ in range(num_steps):
        gradient = (codes @ dictionary - signals) @ dictionary.T
        codes = numpy_prox(signed)(codes - step_size * gradient, step_size * penalty)
    return codes


def numpy_fista(signals, dictionary, penalty, step_size, num_steps, *, signed, restart=False):
    codes = np.zeros((len(signals), len(dictionary)), signals.dtype)
    point, t = codes, np.ones((len(signals), 1), signals.dtype)
    for _ in range(num_steps):
        gradient = (point @ dictionary - signals) @ dictionary.T
        new = numpy_prox(signed)(point - step_size * gradient, step_size * penalty)
        new_t = (1 + np.sqrt(1 + 4 * t**2)) / 2
        weight = (t - 1) / new_t
        if restart:
            uphill = np.einsum("sn,sn->s", point - new, new - codes)[:, None] > 0
            new_t, weight = np.where(uphill, 1, new_t), np.where(uphill, 0, weight)
        point, codes, t = new + weight * (new - codes), new, new_t
    return codes


def numpy_log_adam(signals, dictionary, penalty, step_size, num_steps, *, signed):
    assert not signed
    logs = np.full((len(signals), len(dictionary)), -10, signals.dtype)
    mean, square = np.zeros_like(logs), np.zeros_like(logs)
    for step in range(1, num_steps + 1):
        codes = np.exp(logs)
        gradient = codes * ((codes @ dictionary - signals) @ dictionary.T + penalty)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        logs = logs - step_size * (mean / (1 - 0.9**step)) / root
    return np.exp(logs)


def numpy_lca(signals, dictionary, penalty, step_size, num_steps, *, signed):
    inhibition = dictionary @ dictionary.T - np.eye(len(dictionary))
    membrane = np.zeros((len(signals), len(dictionary)), signals.dtype)
    for _ in range(num_steps):
        codes = numpy_prox(signed)(membrane, penalty)
        drive = signals @ dictionary.T - codes @ inhibition
        membrane = membrane + step_size * (drive - membrane)
    return numpy_prox(signed)(membrane, penalty)


def numpy_coordinate_descent(signals, dictionary, penalty, step_size, num_steps, *, signed):
    codes = np.zeros((len(signals), len(dictionary)), signals.dtype)
    for _ in range(num_steps):
        for j, atom in enumerate(dictionary):
            codes[:, j] = 0
            fit = (signals - codes @ dictionary) @ atom  # of this atom alone, without penalty
            codes[:, j] = numpy_prox(signed)(fit, penalty) / (atom @ atom)
    return codes


def numpy_sparsa(signals, dictionary, penalty, step_size, num_steps, *, signed):
    codes = np.zeros((len(signals), len(dictionary)), signals.dtype)
    step = np.full((len(signals), 1), step_size, signals.dtype)
    values = np.repeat(0.5 * (signals**2).sum(1, keepdims=True), 5, axis=1)
    for _ in range(num_steps):
        descent = (signals - codes @ dictionary) @ dictionary.T
        new = numpy_prox(signed)(codes + step * descent, step * penalty)
        move, residual = new - codes, signals - new @ dictionary
        error = 0.5 * (residual**2).sum(1, keepdims=True)
        value = error + (penalty * np.abs(new)).sum(1, keepdims=True)
        squares, image = ((x**2).sum(1, keepdims=True) for x in (move, move @ dictionary))
        fallen = value <= values.max(1, keepdims=True) - 0.5e-4 * squares / step
        taken = fallen | (step <= step_size)
        spectral = np.clip(squares / np.where(image > 0, image, 1), step_size, 1e3 * step_size)
        longer = np.where(image > 0, spectral, step)
        values = np.where(taken, np.hstack([values[:, 1:], value]), values)
        codes = np.where(taken, new, codes)
        step = np.where(taken, longer, np.maximum(step / 2, step_size))
    return codes


class SolverCase(NamedTuple):
    """One solver and what it promises.

    Attributes:
      solver: the program.
      signed: whether codes may be negative.
      step_size: None for 1/L, or a learning rate.
      num_steps: enough to meet the tolerances on ``sparse_problem``.
      gap: the largest relative duality gap then, in (float32, float64).
      reference: the same algorithm in NumPy.
      cost: arithmetic operations of a step for S signals, M measurements, N atoms.
      cost_text: how the docstring states it.
      proximal: with a proximal operator: from zero codes, scale-free, exact zeros, bfloat16.
      monotone: whether the objective never rises.
      sizeless: whether the step size is not used.
      rounding: factors on the tolerances for rounding in iterates, in (float32, float64): spectral
        steps are ratios of small differences, which amplify it from step to step.
      start_products: products with the dictionary that a cold start takes.
      start_cost: arithmetic operations of a cold start, as ``cost``.
    """

    solver: Solver
    signed: bool
    step_size: float | None
    num_steps: int
    gap: tuple[float, float]
    reference: Callable
    cost: Callable[[int, int, int], int]
    cost_text: tuple[Callable, str]
    proximal: bool
    monotone: bool = False
    sizeless: bool = False
    rounding: tuple[float, float] = (1, 1)
    start_products: int = 0
    start_cost: Callable[[int, int, int], int] = lambda s, m, n: 0

    @property
    def prox(self) -> Callable:
        return soft_threshold if self.signed else nonnegative_soft_threshold

    def lasso(self, dtype: Any = jnp.float32, seed: int = 0) -> Lasso:
        """Return a problem that suits the solver, as JAX arrays."""
        signals, dictionary, _ = sparse_problem(seed, signed=self.signed)
        step_size = self.step_size
        if step_size is None:
            step_size = 1 / np.linalg.norm(dictionary.astype(np.float64), 2) ** 2
        return Lasso(*(jnp.asarray(x, dtype) for x in (signals, dictionary, PENALTY, step_size)))

    def solve(self, lasso: Lasso, num_steps: int | None = None, codes0: Any = None) -> jax.Array:
        num_steps = self.num_steps if num_steps is None else num_steps
        return sc.solvers.solve(self.solver, lasso, num_steps=num_steps, codes0=codes0)


def _solver_cases():
    gap, sure = (3e-6, 1e-8), (3e-6, 1e-12)
    for signed in (False, True):
        prox = soft_threshold if signed else nonnegative_soft_threshold
        name = "signed" if signed else "nonnegative"
        extra = int(signed)  # soft_threshold: 3 arithmetic operations per entry and not 2
        yield pytest.param(
            SolverCase(
                ista(prox=prox), signed, None, 20_000, gap, numpy_ista,
                lambda s, m, n, extra=extra: s * (4 * m * n + m + (4 + extra) * n) + 1,
                (ista, "4MN + M + 4N arithmetic operations per signal per step, and 1 per step"),
                True, monotone=True,
            ),
            id=f"ista-{name}",
        )  # fmt: skip
        yield pytest.param(
            SolverCase(
                lca(prox=prox), signed, None, 20_000, gap, numpy_lca,
                lambda s, m, n, extra=extra: s * (4 * m * n + m + (6 + extra) * n),
                (lca, "4MN + M + 6N arithmetic operations per signal per step."),
                True, monotone=True,
            ),
            id=f"lca-{name}",
        )  # fmt: skip
        yield pytest.param(
            SolverCase(
                coordinate_descent(prox=prox), signed, None, 5000, sure, numpy_coordinate_descent,
                lambda s, m, n, extra=extra: s * (6 * m * n + m + (5 + extra) * n) + 2 * m * n,
                (
                    coordinate_descent,
                    "6MN + M + 5N arithmetic operations per signal per step, and 2MN per step",
                ),
                True, monotone=True, sizeless=True,
            ),
            id=f"coordinate_descent-{name}",
        )  # fmt: skip
        yield pytest.param(
            SolverCase(
                fista(prox=prox), signed, None, 10_000, gap, numpy_fista,
                lambda s, m, n, extra=extra: s * (4 * m * n + m + (7 + extra) * n) + 9,
                (fista, "4MN + M + 7N arithmetic operations per signal per step, and 9 per step"),
                True,
            ),
            id=f"fista-{name}",
        )  # fmt: skip
        yield pytest.param(
            SolverCase(
                fista(prox=prox, restart=gradient_restart), signed, None, 1000, sure,
                lambda *args, **kwargs: numpy_fista(*args, **kwargs, restart=True),
                lambda s, m, n, extra=extra: s * (4 * m * n + m + (13 + extra) * n + 6) + 1,
                (fista, "4MN + M + 13N + 6 per signal per step, and 1 per step"),
                True,
            ),
            id=f"fista_restart-{name}",
        )  # fmt: skip
        yield pytest.param(
            SolverCase(
                sparsa(prox=prox), signed, None, 2000, sure, numpy_sparsa,
                lambda s, m, n, extra=extra: s * (4 * m * n + 7 * m + (10 + extra) * n + 14) + 2,
                (sparsa, "4MN + 7M + 10N + 14 per signal per step, and 2 per step"),
                True, rounding=(10, 1e4), start_products=1,
                start_cost=lambda s, m, n: s * (2 * m * n + 4 * m + 2 * n + 2) + 1,
            ),
            id=f"sparsa-{name}",
        )  # fmt: skip
    yield pytest.param(
        SolverCase(
            log_adam(), False, 0.01, 20_000, (2e-3, 2e-3), numpy_log_adam,
            lambda s, m, n: s * (4 * m * n + m + 18 * n) + 5,
            (log_adam, "4MN + M + 18N arithmetic operations per signal per step, and 5 per step"),
            False,
        ),
        id="log_adam",
    )  # fmt: skip


SOLVERS = list(_solver_cases())
PROXIMAL = [case for case in SOLVERS if case.values[0].proximal]


# --- proximal operators ----------------------------------------------------------------------


class ProxCase(NamedTuple):
    """A proximal operator, the penalty it belongs to (inf where infeasible), and its NumPy form.

    ``ridge`` is the weight of half the squared code in the penalty.
    """

    prox: Callable
    penalty: Callable
    reference: Callable
    ridge: float = 0.0


def _prox_case(signed, ridge=0.0):
    prox = soft_threshold if signed else nonnegative_soft_threshold

    def penalty(z):
        feasible = np.abs(z) if signed else np.where(z >= 0, z, np.inf)
        return feasible + 0.5 * ridge * z * z

    def reference(x, t):
        return numpy_prox(signed)(x, t) / (1 + ridge * t)

    name = prox.__name__
    if ridge:
        prox, name = elastic_net(ridge, prox=prox), f"elastic_net-{name}"
    return pytest.param(ProxCase(prox, penalty, reference, ridge), id=name)


PROXES = [_prox_case(signed, ridge) for signed in (True, False) for ridge in (0.0, 0.7)]


# --- helpers ---------------------------------------------------------------------------------


def as_numpy(tree: Any, dtype: Any = np.float64) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, dtype), tree)


def docstring(fn: Callable) -> str:
    """Return a docstring on one line, so that a stated formula is found across line breaks."""
    return " ".join((inspect.getdoc(fn) or "").split())


def numpy_gap(signals, dictionary, codes, penalty, *, signed, ridge=0.0, group_size=1):
    """Return relative duality gaps in float64, of an elastic net as a lasso with more rows."""
    x, d, z = (np.asarray(a, np.float64) for a in (signals, dictionary, codes))
    weights = np.broadcast_to(np.asarray(penalty, np.float64), (len(d),))
    d = np.hstack([d, np.diag(np.sqrt(ridge * weights))])
    x = np.concatenate([x, np.zeros((*x.shape[:-1], len(d)))], axis=-1)
    residual = x - z @ d
    inner = residual @ d.T
    inner = inner if signed else np.maximum(inner, 0)

    def norms(a):
        return np.linalg.norm(a.reshape(*a.shape[:-1], -1, group_size), axis=-1)

    heavy = weights[::group_size]
    with np.errstate(divide="ignore"):
        largest = 1 / np.max(norms(inner) / heavy, axis=-1)
    squares = np.sum(residual**2, axis=-1)
    best = np.sum(x * residual, axis=-1) / np.where(squares > 0, squares, 1)
    dual = x - np.clip(best, 0, largest)[..., None] * residual
    half = 0.5 * np.sum(x**2, axis=-1)
    primal = 0.5 * squares + np.sum(heavy * norms(z), axis=-1)
    return (primal - half + 0.5 * np.sum(dual**2, axis=-1)) / np.where(half > 0, half, 1)


def raises(error, message, call):
    """Expect an error of one line that matches."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def spoiled(array, value, index=(2, 3)):
    array = np.array(array)
    array[index] = value
    return array
