"""One pure training step, and the state and data it works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsecode_jax import dictionaries
from sparsecode_jax._sharding import Layout, traced_layout
from sparsecode_jax.training import losses
from sparsecode_jax.training._draws import draw_batch
from sparsecode_jax.types import Array, Aux, Encoder, Key, PyTree

__all__ = [
    "Autoencoder",
    "Loss",
    "Optimizer",
    "Recipe",
    "Schedule",
    "TrainData",
    "TrainState",
    "encode",
    "init_state",
    "project",
    "train_step",
]

Optimizer = Callable[[Array], optax.GradientTransformation]
Loss = Callable[[Array, losses.Batch], Array]
Schedule = Callable[[Array], Array]


class Autoencoder(NamedTuple):
    """Encoder parameters beside a dictionary (N, M) and the decoder's bias (M,).

    The dictionary is None where it is not learned, the bias where there is none. Signals are
    reconstructed as ``codes @ dictionary + bias``.
    """

    encoder: PyTree
    dictionary: Array | None
    bias: Array | None = None


class TrainData(NamedTuple):
    """What one run trains on; every field is traced.

    Attributes:
      signals: (S, M); None if a sampler draws them.
      true_codes: (S, N) or None.
      dictionary: (N, M) if it is fixed, None if it is learned or not needed.
      penalty: ().
      learning_rate: ().
      scale: (), what signals and true codes are divided by first; None for 1.
    """

    signals: Array | None
    true_codes: Array | None
    dictionary: Array | None
    penalty: Array
    learning_rate: Array
    scale: Array | None = None


class TrainState(NamedTuple):
    """Everything that changes in training.

    Attributes:
      step: updates so far, ().
      key: of the run.
      params: an :class:`Autoencoder`.
      optimizer: its state.
      loss: of the last step, before its update, ().
      average: running sum of the parameters, if they are averaged.
      idle: steps since each latent was last active, (N,), if dead latents are counted.
    """

    step: Array
    key: Key
    params: Autoencoder
    optimizer: PyTree
    loss: Array
    average: Autoencoder | None = None
    idle: Array | None = None


class Recipe(NamedTuple):
    """The static part of a training step; the fields are arguments of :func:`train_step`."""

    loss: Loss = losses.paper
    optimizer: Optimizer = optax.adam
    batch_size: int | None = None
    sampler: Callable[[Key, Array], Any] | None = None
    penalty_schedule: Schedule | None = None
    learning_rate_schedule: Schedule | None = None
    max_gradient_norm: float | None = None
    average_decay: float | None = None
    unit_atoms: bool = True
    project_gradient: bool = False
    dead_after: int | None = None
    layout: Layout | None = None


def init_state(
    key: Key,
    params: Autoencoder,
    data: TrainData,
    *,
    optimizer: Optimizer = optax.adam,
    average: bool = False,
    num_latents: int | None = None,
) -> TrainState:
    """Return the state of one run before its first step. Pure; vmap it for many runs.

    Args:
      key: of the run. **Traced**.
      params: where to start. **Traced**.
      data: of this run. **Traced**.
      optimizer: ``(learning_rate) -> optax.GradientTransformation``. **Static**.
      average: whether parameters will be averaged (``average_decay``). **Static**.
      num_latents: N, if dead latents will be counted (``dead_after``), else None. **Static**.

    Returns:
      A :class:`TrainState`.
    """
    state = optimizer(data.learning_rate).init(params)
    arrays = [x for x in (data.signals, *jax.tree.leaves(params)) if x is not None]
    dtype = jnp.result_type(*arrays)
    return TrainState(
        jnp.int32(0),
        key,
        params,
        state,
        jnp.asarray(jnp.nan, dtype),
        jax.tree.map(jnp.zeros_like, params) if average else None,
        None if num_latents is None else jnp.zeros((num_latents,), jnp.int32),
    )


def train_step(
    state: TrainState,
    data: TrainData,
    *,
    encoder: Encoder,
    loss: Loss = losses.paper,
    optimizer: Optimizer = optax.adam,
    batch_size: int | None = None,
    sampler: Callable[[Key, Array], Any] | None = None,
    penalty_schedule: Schedule | None = None,
    learning_rate_schedule: Schedule | None = None,
    max_gradient_norm: float | None = None,
    average_decay: float | None = None,
    unit_atoms: bool = True,
    project_gradient: bool = False,
    dead_after: int | None = None,
    layout: Layout | None = None,
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
      sampler: ``(key, step) -> signals`` (B, M), or ``(signals, true_codes)``, in the place of
        ``data.signals``; the key is a new one each step. **Static**.
      penalty_schedule: ``(step) -> factor`` of the penalty, such as
        :func:`~sparsecode_jax.training.schedules.warmup`. **Static**.
      learning_rate_schedule: ``(step) -> factor`` of the learning rate. **Static**.
      max_gradient_norm: longer gradients are scaled down to this norm. **Static**.
      average_decay: d of the exponential moving average of the parameters. **Static**.
      unit_atoms: whether a learned dictionary is projected. **Static**.
      project_gradient: whether the part of an atom's gradient along the atom, which the projection
        undoes, is taken out before the optimizer sees it. **Static**.
      dead_after: steps without activity after which a latent is dead, in ``Batch.dead``; None does
        not count. **Static**.
      layout: how a batch, and the atoms, lie on devices, as ``fit`` finds it; None leaves it to the
        compiler. **Static**.

    Returns:
      The next state.
    """
    signals, true_codes = draw_batch(state.key, state.step, data, batch_size, sampler, layout)
    params = project(state.params) if unit_atoms else state.params
    penalty = data.penalty
    if penalty_schedule is not None:
        penalty = penalty * jnp.asarray(penalty_schedule(state.step), penalty.dtype)
    dead = None if dead_after is None or state.idle is None else state.idle >= dead_after

    def objective(params: Autoencoder) -> tuple[Array, Array | None]:
        dictionary = data.dictionary if params.dictionary is None else params.dictionary
        codes, aux = encode(encoder, params._replace(dictionary=dictionary), signals)
        batch = losses.Batch(signals, dictionary, penalty, true_codes, params.bias, aux, dead)
        return jnp.asarray(loss(codes, batch)), codes if dead_after is not None else None

    with traced_layout(layout):
        (value, codes), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    if project_gradient and params.dictionary is not None:
        slope, atoms = gradients.dictionary, params.dictionary
        along = jnp.sum(slope * atoms, axis=-1, keepdims=True)
        square = jnp.sum(atoms * atoms, axis=-1, keepdims=True)
        slope = slope - along / jnp.where(square > 0, square, 1) * atoms
        gradients = gradients._replace(dictionary=slope)
    if max_gradient_norm is not None:
        norm = optax.tree.norm(gradients)
        factor = max_gradient_norm / jnp.maximum(norm, max_gradient_norm)
        gradients = jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)
    rate = data.learning_rate
    if learning_rate_schedule is not None:
        rate = rate * jnp.asarray(learning_rate_schedule(state.step), rate.dtype)
    updates, optimizer_state = optimizer(rate).update(gradients, state.optimizer, params)
    params = _keep_counts(params, optax.apply_updates(params, updates))
    average, idle = state.average, state.idle
    if average is not None and average_decay is not None:
        average = jax.tree.map(
            lambda a, p: a * average_decay + (1 - average_decay) * p, average, params
        )
    if idle is not None and codes is not None:
        active = jnp.any(codes != 0, axis=tuple(range(codes.ndim - 1)))
        idle = jnp.where(active, 0, idle + 1)
    value = jnp.asarray(value, state.loss.dtype)
    return TrainState(state.step + 1, state.key, params, optimizer_state, value, average, idle)


def encode(encoder: Encoder, params: Autoencoder, signals: Array) -> tuple[Array, Aux | None]:
    """Return codes and what the encoder has for losses, with all that is shared put in."""
    own = bound(encoder, params)
    if encoder.aux is None:
        return encoder.apply(own, signals), None
    return encoder.aux(own, signals)


def bound(encoder: Encoder, params: Autoencoder) -> PyTree:
    """Return the encoder's params with the decoder's dictionary and bias where it shares them."""
    if encoder.tie is None or params.dictionary is None:
        return params.encoder
    return encoder.tie(params.encoder, params.dictionary, params.bias)


def project(params: Autoencoder) -> Autoencoder:
    """Scale the atoms of a learned dictionary to unit norm."""
    if params.dictionary is None:
        return params
    return params._replace(dictionary=dictionaries.normalize(params.dictionary))


def _keep_counts(before: Autoencoder, after: Autoencoder) -> Autoencoder:
    """Put back what is counted, not trained, and which weight decay would move."""

    def kept(path: Any, old: Array, new: Array) -> Array:
        return old if getattr(path[-1], "name", "") == "num_active" else new

    return jax.tree_util.tree_map_with_path(kept, before, after)
