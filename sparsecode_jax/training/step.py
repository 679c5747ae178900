"""One pure training step, and the state and data it works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsecode_jax import dictionaries, objectives
from sparsecode_jax._sharding import (
    Layout,
    on_automatic_axes,
    traced_layout,
    untraced_or_automatic,
)
from sparsecode_jax.metrics import l0
from sparsecode_jax.training import losses
from sparsecode_jax.training._draws import draw_batch
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder, Key, PyTree, Role

__all__ = [
    "Autoencoder",
    "Loss",
    "Model",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Source",
    "TrainData",
    "TrainState",
    "encode",
    "init_state",
    "project",
    "project_gradients",
    "train_step",
]

_GAIN = 0.01  # of the penalty's logarithm per step
_FARTHEST = 1e6  # factor between a penalty and where it began, at most

Optimizer = Callable[[Array], optax.GradientTransformation]
Loss = Callable[[Array, losses.Batch], Array]
Schedule = Callable[[Array], Array]


class Autoencoder(NamedTuple):
    """Encoder parameters beside a dictionary (N, M) and the decoder's bias (M,).

    In the state of training the dictionary is None where it is not learned; what ``fit`` returns
    has the one that was given. The bias is None where there is none. Signals are reconstructed as
    ``codes @ dictionary + bias``.
    """

    encoder: PyTree
    dictionary: Array | None
    bias: Array | None = None


class Model(NamedTuple):
    """The parts of a model that are given to :func:`~sparsecode_jax.training.fit`.

    What is None is drawn from the key, or is not there. With R runs a part may have a leading axis
    R; one without it is where all runs begin.

    Attributes:
      encoder: parameters of the encoder to begin with.
      dictionary: (N, M), to begin with; it is learned.
      bias: of the decoder, (M,), to begin with; it is learned. ``"mean"`` takes the mean of the
        signals.
      fixed_dictionary: (N, M), which is kept as it is, in the place of one that is learned.
    """

    encoder: PyTree = None
    dictionary: ArrayLike | None = None
    bias: ArrayLike | str | None = None
    fixed_dictionary: ArrayLike | None = None


class TrainData(NamedTuple):
    """What one run trains on; every field is traced.

    Attributes:
      signals: (S, M); None if a sampler draws them.
      true_codes: (S, N) or None.
      dictionary: (N, M) if it is fixed, None if it is learned or not needed.
      penalty: ().
      learning_rate: ().
      target_l0: the mean number of active codes that the penalty is steered to, (); None keeps it.
    """

    signals: Array | None
    true_codes: Array | None
    dictionary: Array | None
    penalty: Array
    learning_rate: Array
    target_l0: Array | None = None


class TrainState(NamedTuple):
    """Everything that changes in training.

    Attributes:
      step: updates so far, ().
      key: of the run.
      params: an :class:`Autoencoder`.
      optimizer: its state.
      loss: of the last step, before its update, (); infinite before the first.
      average: running sum of the parameters, if they are averaged.
      idle: steps since each latent was last active, (N,), if activity is counted.
      penalty: of the next step, before its schedule, (), if it is steered to an L0.
      frequency: how often each latent has been active, a moving average, (N,), if it is counted.
    """

    step: Array
    key: Key
    params: Autoencoder
    optimizer: PyTree
    loss: Array
    average: Autoencoder | None = None
    idle: Array | None = None
    penalty: Array | None = None
    frequency: Array | None = None


class Recipe(NamedTuple):
    """How a model is trained: the static choices, one record for ``fit`` and for a single step.

    Attributes:
      loss: ``(codes, Batch) -> ()``; see :mod:`~sparsecode_jax.training.losses`. The default is the
        objective of the library, half the squared error and the penalty times the l1 norm.
      optimizer: ``(learning_rate) -> optax.GradientTransformation``, such as ``optax.adam``; what
        optax can do (clipping, schedules, weight decay) is chained there. Keep one function object:
        a fresh lambda is a new program.
      batch_size: signals per step, drawn with replacement; None means all of them.
      penalty_schedule: ``(step) -> factor`` of the penalty, see
        :mod:`~sparsecode_jax.training.schedules`.
      average_decay: d of the exponential moving average of the parameters, which are returned; None
        returns the last ones.
      unit_atoms: whether learned atoms are kept at unit norm.
      dead_after: steps without activity after which a latent is dead, in ``Batch.dead``; None does
        not count.
      resample_every: steps after which the dead latents get a new start (not after the last step),
        with their optimizer state reset; it needs ``dead_after``.
      frequency_decay: d of the exponential moving average of how often each latent is active, in
        ``Batch.frequency``; None does not count.
      active_schedule: ``(step) -> factor`` of the number of active codes, of an encoder that has it
        among its parameters (``Role.NUM_ACTIVE``), such as ``top_k(M, N, num_active=None)``;
        ``schedules.linear(1000, first=3)`` begins with three times as many. Encoders keep the
        number itself.

    Example:
      >>> import optax, sparsecode_jax as sc
      >>> recipe = sc.training.Recipe(loss=sc.training.losses.squared_error, batch_size=256)
      >>> recipe._replace(optimizer=optax.sgd).batch_size
      256
    """

    loss: Loss = losses.lasso
    optimizer: Optimizer = optax.adam
    batch_size: int | None = None
    penalty_schedule: Schedule | None = None
    average_decay: float | None = None
    unit_atoms: bool = True
    dead_after: int | None = None
    resample_every: int | None = None
    frequency_decay: float | None = None
    active_schedule: Schedule | None = None


class Source(NamedTuple):
    """Where the signals of a step come from, and how they lie on devices; hashable.

    Attributes:
      sampler: ``(key, step) -> signals`` (B, M), or ``(signals, true_codes)``, in the place of
        ``data.signals``; the key is a new one each step.
      layout: of a batch and of the atoms, as ``fit`` finds it; None leaves it to the compiler.
    """

    sampler: Callable[[Key, Array], Any] | None = None
    layout: Layout | None = None


def init_state(
    key: Key,
    params: Autoencoder,
    data: TrainData,
    recipe: Recipe = Recipe(),
    *,
    num_latents: int | None = None,
) -> TrainState:
    """Return the state of one run before its first step. Pure; vmap it for many runs.

    Args:
      key: of the run. **Traced**.
      params: where to start. **Traced**.
      data: of this run. **Traced**.
      recipe: **Static**.
      num_latents: N, if the activity of latents will be counted (``recipe.dead_after``,
        ``recipe.frequency_decay``), else None. **Static**.

    Returns:
      A :class:`TrainState`.

    Raises:
      ValueError: a ``recipe.frequency_decay`` without ``num_latents``.
    """
    state = recipe.optimizer(data.learning_rate).init(params)
    arrays = [x for x in (data.signals, *jax.tree.leaves(params)) if x is not None]
    dtype = jnp.result_type(*arrays)
    frequency = None
    if recipe.frequency_decay is not None:
        if num_latents is None:
            raise ValueError(
                "init_state: the recipe has a frequency_decay and num_latents is None; pass "
                "num_latents, the number of latents whose activity is counted."
            )
        frequency = jnp.zeros((num_latents,), dtype)
    return TrainState(
        jnp.int32(0),
        key,
        params,
        state,
        jnp.asarray(jnp.inf, dtype),
        jax.tree.map(jnp.zeros_like, params) if recipe.average_decay is not None else None,
        None if num_latents is None else jnp.zeros((num_latents,), jnp.int32),
        None if data.target_l0 is None else jnp.asarray(data.penalty, dtype),
        frequency,
    )


@on_automatic_axes
def train_step(
    state: TrainState,
    data: TrainData,
    encoder: Encoder,
    recipe: Recipe = Recipe(),
    *,
    source: Source = Source(),
) -> TrainState:
    """Take one gradient step. Pure: jit it, vmap it, scan it, count its FLOPs.

    A learned dictionary is first projected to unit atoms; the projection is not differentiated.
    Minibatch indices come from ``fold_in(key, step)``.

    Args:
      state: from :func:`init_state`. **Traced**.
      data: of this run. **Traced**.
      encoder: **Static**.
      recipe: **Static**.
      source: where a batch comes from, if not from ``data.signals``. **Static**.

    Returns:
      The next state.

    Raises:
      ValueError: arrays that are split over explicit mesh axes, inside of a program.
    """
    untraced_or_automatic("train_step", (state, data))
    dead_after, average_decay = recipe.dead_after, recipe.average_decay
    signals, true_codes = draw_batch(state.key, state.step, data, recipe.batch_size, *source)
    params = project(state.params) if recipe.unit_atoms else state.params
    base = penalty = data.penalty if state.penalty is None else state.penalty
    if recipe.penalty_schedule is not None:
        penalty = penalty * jnp.asarray(recipe.penalty_schedule(state.step), penalty.dtype)
    dead = None if dead_after is None or state.idle is None else state.idle >= dead_after
    if dead is not None and dead_after == 0:
        dead = np.ones(dead.shape, bool)  # type: ignore[assignment]  # known while it is traced

    counted = state.idle is not None or data.target_l0 is not None

    def objective(params: Autoencoder) -> tuple[Array, Array | None]:
        dictionary = data.dictionary if params.dictionary is None else params.dictionary
        params = annealed(encoder, params, recipe, state.step)
        codes, aux = encode(encoder, params._replace(dictionary=dictionary), signals)
        batch = losses.Batch(
            signals, dictionary, penalty, true_codes, params.bias, aux, dead, state.frequency
        )
        return jnp.asarray(recipe.loss(codes, batch)), codes if counted else None

    with traced_layout(source.layout):
        (value, codes), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    with jax.numpy_dtype_promotion("standard"):  # which optax's Adam counts on
        optimizer = recipe.optimizer(data.learning_rate)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, params)
    params = _keep_frozen(encoder, params, optax.apply_updates(params, updates))
    average, idle = state.average, state.idle
    if average is not None and average_decay is not None:
        average = jax.tree.map(
            lambda a, p: a * average_decay + (1 - average_decay) * p, average, params
        )
    steered = state.penalty
    if steered is not None and data.target_l0 is not None and codes is not None:
        steered = objectives.steered_penalty(base, l0(codes), data.target_l0, _GAIN)
        steered = jnp.clip(steered, data.penalty / _FARTHEST, data.penalty * _FARTHEST)
    frequency = state.frequency
    if idle is not None and codes is not None:
        active = jnp.any(codes != 0, axis=tuple(range(codes.ndim - 1)))
        idle = jnp.where(active, 0, idle + 1)
    if frequency is not None and codes is not None and recipe.frequency_decay is not None:
        rate = jnp.mean(codes != 0, axis=tuple(range(codes.ndim - 1)), dtype=frequency.dtype)
        frequency = recipe.frequency_decay * frequency + (1 - recipe.frequency_decay) * rate
    value = jnp.asarray(value, state.loss.dtype)
    return TrainState(
        state.step + 1, state.key, params, optimizer_state, value, average, idle, steered, frequency
    )


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
    return params._replace(dictionary=dictionaries.unit_rows(params.dictionary))


def project_gradients() -> optax.GradientTransformation:
    """Take the part along its atom, which the projection to unit norm undoes, out of a gradient.

    A transformation of the gradients of an :class:`Autoencoder`, for a :class:`Recipe`'s optimizer.

    Example:
      >>> import optax
      >>> from sparsecode_jax.training import Recipe, project_gradients
      >>> def optimizer(learning_rate):
      ...     return optax.chain(
      ...         project_gradients(), optax.clip_by_global_norm(1.0), optax.adam(learning_rate))
      >>> recipe = Recipe(optimizer=optimizer)
    """

    def update(gradients: Autoencoder, state: Any, params: Any = None) -> tuple[Autoencoder, Any]:
        if params.dictionary is None:
            return gradients, state
        slope, atoms = gradients.dictionary, params.dictionary
        along = jnp.sum(slope * atoms, axis=-1, keepdims=True)
        square = jnp.sum(atoms * atoms, axis=-1, keepdims=True)
        slope = slope - along / jnp.where(square > 0, square, 1) * atoms
        return gradients._replace(dictionary=slope), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def annealed(encoder: Encoder, params: Autoencoder, recipe: Recipe, step: Array) -> Autoencoder:
    """Multiply the numbers of active codes among the encoder's parameters by their schedule."""
    if recipe.active_schedule is None:
        return params
    factor = recipe.active_schedule(step)

    def scaled(role: Role, leaf: Array) -> Array:
        return leaf * jnp.asarray(factor, leaf.dtype) if role is Role.NUM_ACTIVE else leaf

    return params._replace(encoder=jax.tree.map(scaled, encoder.roles, params.encoder))


def _keep_frozen(encoder: Encoder, before: Autoencoder, after: Autoencoder) -> Autoencoder:
    """Put back what is not trained, and which weight decay would move."""
    if encoder.roles is None:
        return after

    def kept(role: Role, old: Array, new: Array) -> Array:
        return old if role in (Role.FROZEN, Role.TIED, Role.NUM_ACTIVE) else new

    own = jax.tree.map(kept, encoder.roles, before.encoder, after.encoder)
    return after._replace(encoder=own)
