"""Derivatives of a lasso's solution by the implicit function theorem."""

from __future__ import annotations

import functools
from collections.abc import Callable

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
    found, and how they were found is not differentiated. Reverse mode, first derivatives.

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attach(prox: Callable, problem: Lasso, codes: Array) -> Array:
    return codes


def _forward(prox: Callable, problem: Lasso, codes: Array) -> tuple[Array, tuple[Lasso, Array]]:
    return codes, (problem, codes)


def _backward(prox: Callable, saved: tuple[Lasso, Array], cotangent: Array) -> tuple[Lasso, Array]:
    (signals, dictionary, penalty, step_size, gram), codes = saved
    weight = ridge(prox, penalty)
    limit = 2 * min(dictionary.shape) + 10
    rounding = float(jnp.finfo(codes.dtype).eps)  # of bfloat16 it would promote to float32
    small = rounding ** (2 / 3) * jnp.max(jnp.sum(dictionary * dictionary, axis=-1))

    def solve(right: Array, on: Array) -> Array:
        def hessian(v: Array) -> Array:
            return jnp.where(on, correlate(reconstruct(v, dictionary), dictionary) + weight * v, 0)

        def solve_raised(right: Array) -> Array:
            raised = lambda v: hessian(v) + small * v  # noqa: E731
            return cg(raised, right, tol=10 * rounding, maxiter=limit)[0]

        # H / (H + small)^2 for 1 / H: directions in which atoms depend on one another drop out.
        return solve_raised(hessian(solve_raised(jnp.where(on, right, 0))))

    num_atoms, num_measurements = dictionary.shape
    flat = codes.reshape(-1, num_atoms)
    pulled = jax.vmap(solve)(cotangent.reshape(-1, num_atoms), flat != 0)
    image = reconstruct(pulled, dictionary)
    residual = signals.reshape(-1, num_measurements) - reconstruct(flat, dictionary)
    by_dictionary = correlate(pulled.T, residual.T) - correlate(flat.T, image.T)
    by_weight = -pulled * (
        jnp.sign(flat) + as_row(ridge(prox, jnp.ones_like(penalty)), flat) * flat
    )
    by_penalty = jnp.sum(by_weight) if penalty.ndim == 0 else jnp.sum(by_weight, axis=0)
    unused = jax.tree.map(jnp.zeros_like, (step_size, gram))
    by_problem = Lasso(image.reshape(signals.shape), by_dictionary, by_penalty, *unused)
    return by_problem, jnp.zeros_like(codes)


_attach.defvjp(_forward, _backward)
