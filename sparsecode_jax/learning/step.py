"""One pure training step, and the state and data it works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsecode_jax import dictionaries
from sparsecode_jax.learning import losses
from sparsecode_jax.types import Array, Encoder, Key, PyTree

__all__ = [
    "Autoencoder",
    "Loss",
    "Optimizer",
    "TrainData",
    "TrainState",
    "init_state",
    "project",
    "train_step",
]

Optimizer = Callable[[Array], optax.GradientTransformation]
Loss = Callable[[Array, losses.Batch], Array]


class Autoencoder(NamedTuple):
    """Encoder parameters beside a dictionary (N, M); None where the dictionary is not learned."""

    encoder: PyTree
    dictionary: Array | None


class TrainData(NamedTuple):
    """What one run trains on; every field is traced.

    Attributes:
      signals: (S, M).
      true_codes: (S, N) or None.
      dictionary: (N, M) if it is fixed, None if it is learned or not needed.
      penalty: ().
      learning_rate: ().
    """

    signals: Array
    true_codes: Array | None
    dictionary: Array | None
    penalty: Array
    learning_rate: Array


class TrainState(NamedTuple):
    """Everything that changes in training; the loss is that of the last step, before its update."""

    step: Array
    key: Key
    params: Autoencoder
    optimizer: PyTree
    loss: Array


def init_state(
    key: Key, params: Autoencoder, data: TrainData, *, optimizer: Optimizer = optax.adam
) -> TrainState:
    """Return the state of one run before its first step. Pure; vmap it for many runs."""
    state = optimizer(data.learning_rate).init(params)
    dtype = jnp.result_type(data.signals, *jax.tree.leaves(params))
    return TrainState(jnp.int32(0), key, params, state, jnp.asarray(jnp.nan, dtype))


def train_step(
    state: TrainState,
    data: TrainData,
    *,
    encoder: Encoder,
    loss: Loss = losses.paper,
    optimizer: Optimizer = optax.adam,
    batch_size: int | None = None,
) -> TrainState:
    """Take one gradient step. Pure: jit it, vmap it, scan it, count its FLOPs.

    A learned dictionary is first projected to unit atoms; the projection is not differentiated.
    Minibatch indices come from ``fold_in(key, step)``.

    Args:
      state: from :func:`init_state`. **Traced**.
      data: of this run. **Traced**.
      encoder: **Static**.
      loss: ``(codes, Batch) -> ()``. **Static**.
      optimizer: ``(learning_rate) -> optax.GradientTransformation``. **Static**.
      batch_size: signals a step, drawn with replacement; None means all of them. **Static**.

    Returns:
      The next state.
    """
    signals, true_codes = data.signals, data.true_codes
    if batch_size is not None:
        key = jax.random.fold_in(state.key, state.step)
        rows = jax.random.randint(key, (batch_size,), 0, signals.shape[0])
        signals = signals[rows]
        true_codes = None if true_codes is None else true_codes[rows]
    params = project(state.params)

    def objective(params: Autoencoder) -> Array:
        dictionary = data.dictionary if params.dictionary is None else params.dictionary
        codes = encoder.apply(params.encoder, signals)
        return loss(codes, losses.Batch(signals, dictionary, data.penalty, true_codes))

    value, gradients = jax.value_and_grad(objective)(params)
    updates, optimizer_state = optimizer(data.learning_rate).update(
        gradients, state.optimizer, params
    )
    params = optax.apply_updates(params, updates)
    value = value.astype(state.loss.dtype)
    return TrainState(state.step + 1, state.key, params, optimizer_state, value)


def project(params: Autoencoder) -> Autoencoder:
    """Scale the atoms of a learned dictionary to unit norm."""
    if params.dictionary is None:
        return params
    return params._replace(dictionary=dictionaries.normalize(params.dictionary))
