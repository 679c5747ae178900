"""Adam on log-codes: the paper's own inference-time optimization."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax.dictionaries import correlate, reconstruct
from sparsecode_jax.objectives import duality_gap
from sparsecode_jax.types import Array, Lasso, PyTree, Solver

__all__ = ["LogAdamState", "log_adam"]

LOG_CODES0 = -10.0  # the paper's start; also the floor of a warm start
_DEFAULT_STEP_SIZE = 3e-3  # the paper's learning rate at test time


class LogAdamState(NamedTuple):
    """Log-codes (..., N) and Adam's moments."""

    log_codes: Array
    optimizer: PyTree


@cached
def log_adam(*, epsilon: float = 1e-8) -> Solver:
    r"""Build the paper's solver: Adam on the logarithm of non-negative codes.

    .. math:: z = e^s,\qquad g = e^s \odot \big((e^s D - x) D^\top + \lambda\big),\qquad
       s \leftarrow s - \eta\,\mathrm{Adam}(g)

    The codes start at exp(-10) or at the warm start, floored there; they are never exactly zero.
    The problem's ``step_size`` is Adam's learning rate. The penalty and the objective are the
    lasso's, per signal: the paper's loss is this one times 2/(nM) for n signals, and Adam does not
    see the factor except in epsilon, so the paper's own trajectory is
    ``log_adam(epsilon=1e-8 * n * M / 2)`` with the penalty times M/(2N).

    Args:
      epsilon: added to Adam's root mean square. **Static**.

    Returns:
      A :class:`~sparsecode_jax.types.Solver` for non-negative codes, with state
      :class:`LogAdamState`.

    **Cost**: 4MN + M + 18N arithmetic operations per signal per step, and 5 per step.

    References:
      O'Neill, Gumran, Klindt, arXiv 2411.13117; Kingma and Ba, 2015, Algorithm 1.
    """
    epsilon = _checks.static("log_adam", "epsilon", epsilon)
    _checks.nonnegative("log_adam", epsilon=epsilon)
    init, step = Bound(_init, epsilon), Bound(_step, epsilon)
    return Solver(init, step, _codes, _learning_rate, _gap, splits_atoms=True)


def _init(epsilon: float, problem: Lasso, codes0: Array | None = None) -> LogAdamState:
    shape = problem.signals.shape[:-1] + problem.dictionary.shape[:1]
    log_codes = jnp.full(shape, LOG_CODES0, problem.signals.dtype)
    if codes0 is not None:
        log_codes = jnp.log(jnp.maximum(codes0, jnp.exp(log_codes)))
    return LogAdamState(log_codes, optax.adam(problem.step_size, eps=epsilon).init(log_codes))


def _step(epsilon: float, state: LogAdamState, problem: Lasso) -> LogAdamState:
    signals, dictionary, penalty, learning_rate, _ = problem
    codes = jnp.exp(state.log_codes)
    residual = reconstruct(codes, dictionary) - signals
    gradient = codes * (correlate(residual, dictionary) + as_row(penalty, codes))
    optimizer = optax.adam(learning_rate, eps=epsilon)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer)
    return LogAdamState(optax.apply_updates(state.log_codes, updates), optimizer_state)


def _codes(state: LogAdamState) -> Array:
    return jnp.exp(state.log_codes)


def _learning_rate(dictionary: Array) -> Array:
    return jnp.asarray(_DEFAULT_STEP_SIZE, dictionary.dtype)


def _gap(state: LogAdamState, problem: Lasso) -> Array:
    signals, dictionary, penalty, _, _ = problem
    return duality_gap(signals, dictionary, _codes(state), penalty)
