"""Derivatives of a lasso's solution by the implicit function theorem."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from sparsecode_jax import _checks
from sparsecode_jax._rows import as_row
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.prox import nonnegative_soft_threshold, ridge, separable
from sparsecode_jax.types import Array, Lasso

__all__ = ["with_implicit_gradient"]


def with_implicit_gradient(
    problem: Lasso, codes: Array, *, prox: Callable = nonnegative_soft_threshold
) -> Array:
    r"""Return the same codes, with the derivatives of the lasso's exact solution.

    On the support A of the solution the optimality condition
    :math:`D_A (x - zD)^\top = \lambda_A s_A` (s are the signs of z; an elastic net adds its ridge)
    holds in a neighborhood. The cotangent g of the codes therefore pulls back through v, which is
    zero off the support and on it solves :math:`D_A D_A^\top v_A = g_A`:

    .. math:: \bar x = vD,\quad \bar\lambda = -v \odot s,\quad
       \bar D = v^\top (x - zD) - z^\top (vD)

    v is found by conjugate gradients for each signal. Where atoms of a support depend on one
    another (copies, or more atoms than measurements) the solution is not unique and has no
    derivative; those directions are left out. Memory does not depend on how the codes were
    found, and how they were found is not differentiated. Forward and reverse mode, of any order.

    Args:
      problem: signals (..., M), dictionary (N, M), penalty () or (N,). **Traced**.
      codes: a solution of it, (..., N), close to exact: errors in the codes are errors in the
        derivative, and a wrong support is a wrong derivative. **Traced**.
      prox: ``nonnegative_soft_threshold``, ``soft_threshold`` or an elastic net. **Static**.

    Returns:
      Codes (..., N), differentiable in signals, dictionary and penalty.

    Raises:
      ValueError: a penalty whose derivative is not known.

    **Cost**: of a derivative, 4MN + 4N in products per signal and conjugate gradient step, at most
    4 min(M, N) + 20 of them; 12MN + 8N per signal and 8MN once.

    References:
      Mairal, Bach, Ponce, 2012, "Task-driven dictionary learning", Proposition 1; Bertrand et al.,
      2022, "Implicit differentiation for fast hyperparameter selection".
    """
    _checks.separable("with_implicit_gradient", prox, separable(prox))
    _checks.real("with_implicit_gradient", codes)
    problem, codes = _checks.prepared("with_implicit_gradient", problem, codes)
    return _attach(prox, problem, jax.lax.stop_gradient(codes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attach(prox: Callable, problem: Lasso, codes: Array) -> Array:
    return codes


def _derivative(
    prox: Callable, primals: tuple[Lasso, Array], tangents: tuple[Lasso, Any]
) -> tuple[Array, Array]:
    """Move the codes with the problem; the transpose of this linear map is the gradient."""
    problem, codes = primals
    codes = _attach(prox, problem, codes)  # so that derivatives have derivatives
    signals, dictionary, penalty, *_ = problem
    by_signals, by_dictionary, by_penalty, *_ = tangents[0]
    residual = signals - reconstruct(codes, dictionary)
    weight = jnp.sign(codes) + as_row(ridge(prox, jnp.ones_like(penalty)), codes) * codes
    right = correlate(residual, by_dictionary) - as_row(by_penalty, codes) * weight
    right += correlate(by_signals - reconstruct(codes, by_dictionary), dictionary)
    flat = (x.reshape(-1, dictionary.shape[0]) for x in (right, codes != 0))
    moved = jax.vmap(functools.partial(_solve, prox, dictionary, penalty))(*flat)
    return codes, moved.reshape(codes.shape)


_attach.defjvp(_derivative)


def _solve(prox: Callable, dictionary: Array, penalty: Array, right: Array, on: Array) -> Array:
    """Solve the equations of the support for one signal."""
    weight = ridge(prox, penalty)
    limit = 2 * min(dictionary.shape) + 10
    rounding = float(jnp.finfo(right.dtype).eps)  # of bfloat16 it would promote to float32
    small = rounding ** (2 / 3) * jnp.max(jnp.sum(dictionary * dictionary, axis=-1))
    small = jax.lax.stop_gradient(small)

    def on_support(v: Array) -> Array:
        return jnp.where(on, v, 0)

    def hessian(v: Array) -> Array:
        return on_support(correlate(reconstruct(v, dictionary), dictionary) + weight * v)

    def raised(v: Array) -> Array:
        return hessian(v) + small * v

    def by_cg(equations: Callable, right: Array) -> Array:
        return cg(equations, right, tol=10 * rounding, maxiter=limit)[0]

    # cg puts its start and the right side on the device at once, so that it has no transpose.
    solve_raised = functools.partial(
        jax.lax.custom_linear_solve, raised, solve=by_cg, symmetric=True
    )

    # H / (H + small)^2 for 1 / H: directions in which atoms depend on one another drop out. What
    # is solved for is 0 off the support, read from the left, too, as derivatives do.
    return on_support(solve_raised(hessian(on_support(solve_raised(on_support(right))))))
