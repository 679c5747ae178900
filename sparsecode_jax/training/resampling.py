"""Give dead latents a new start at signals that are badly explained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from sparsecode_jax import dictionaries
from sparsecode_jax._rows import as_row
from sparsecode_jax.training._draws import draw_batch
from sparsecode_jax.training.step import (
    Autoencoder,
    Recipe,
    Source,
    TrainData,
    TrainState,
    annealed,
    encode,
    project,
)
from sparsecode_jax.types import Array, Encoder, Role

__all__ = ["check_resampling", "resample"]

_START = 0.2  # of the mean norm of the other latents' weights
_PER_LATENT = (Role.WEIGHT, Role.BIAS, Role.SCALE)


def resample(
    state: TrainState, data: TrainData, encoder: Encoder, recipe: Recipe, source: Source = Source()
) -> TrainState:
    """Replace the dead latents of one run and reset their optimizer state. Pure.

    Signals are drawn without replacement, with probability proportional to the square of their
    squared error, from those that the next step would train on; each dead latent's atom becomes one
    of them, scaled to unit norm, its encoder weight a fifth of the others' mean norm in that
    direction, and what else is its own as the encoder's roles say.

    References:
      Bricken et al., 2023, "Towards Monosemanticity", appendix "Neuron Resampling".
    """
    assert state.idle is not None and recipe.dead_after is not None
    dead = state.idle >= recipe.dead_after
    params = project(state.params) if recipe.unit_atoms else state.params
    signals, _ = draw_batch(state.key, state.step, data, recipe.batch_size, source.sampler)
    dictionary = data.dictionary if params.dictionary is None else params.dictionary
    assert dictionary is not None
    now = annealed(encoder, params._replace(dictionary=dictionary), recipe, state.step)
    codes, _ = encode(encoder, now, signals)
    centered = signals if params.bias is None else signals - as_row(params.bias, signals)
    error = jnp.sum(jnp.square(centered - codes @ dictionary), axis=-1)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    chance = 2 * jnp.log(error + 1e-30) + jax.random.gumbel(key, error.shape, error.dtype)
    count = min(dead.shape[0], error.shape[0])
    _, rows = jax.lax.top_k(chance, count)  # without replacement: equal latents would stay equal
    nth = jnp.maximum(jnp.cumsum(dead) - 1, 0)
    dead = dead & (nth < count)  # the rest wait for the next time
    fresh = dictionaries.unit_rows(centered[rows[jnp.minimum(nth, count - 1)]])
    dead = dead & (jnp.sum(fresh * fresh, axis=-1) > 0)  # a zero signal has no direction
    replaced = jax.tree.map(
        lambda role, x: _replace(role, x, dead, fresh), encoder.roles, params.encoder
    )
    new = params._replace(encoder=replaced)
    if params.dictionary is not None:
        atoms = jnp.where(dead[:, None], fresh, params.dictionary)
        new = new._replace(dictionary=atoms)
    mask = jax.tree.map(lambda role, x: _mask(role, x, dead), encoder.roles, params.encoder)
    masks = Autoencoder(
        mask,
        None if params.dictionary is None else dead[:, None],
        None if params.bias is None else jnp.asarray(False),
    )
    optimizer = optax.tree_utils.tree_map_params(
        recipe.optimizer(data.learning_rate),
        lambda x, m, p: jnp.where(m, 0, x) if x.shape == p.shape else x,
        state.optimizer,
        masks,
        params,
    )
    average = state.average
    if average is not None and recipe.average_decay is not None:
        weight = 1 - recipe.average_decay ** state.step.astype(
            state.loss.dtype
        )  # what the running sum is divided by
        average = jax.tree.map(lambda a, m, p: jnp.where(m, weight * p, a), average, masks, new)
    idle = jnp.where(dead, 0, state.idle)
    return state._replace(params=new, optimizer=optimizer, average=average, idle=idle)


def check_resampling(encoder: Encoder) -> None:
    """Raise unless the encoder says where its latents' directions are: its own or the decoder's."""
    if not {Role.WEIGHT, Role.TIED} & set(jax.tree.leaves(encoder.roles)):
        params = jax.eval_shape(encoder.init, jax.random.key(0))
        raise ValueError(
            f"fit: resample_every with an encoder of parameters {type(params).__name__}; one whose "
            "roles say where the direction of each latent is is expected, such as linear, top_k, "
            "jump_relu, gated or unrolled."
        )


def _mask(role: Role, leaf: Array, dead: Array) -> Array:
    """Say which entries of a leaf belong to dead latents."""
    if role not in _PER_LATENT:
        return jnp.asarray(False)
    return dead.reshape(-1, *[1] * (leaf.ndim - 1))


def _replace(role: Role, leaf: Array, dead: Array, fresh: Array) -> Array:
    """Give the dead latents' entries of a leaf a new start."""
    alive = jnp.maximum(jnp.sum(~dead), 1).astype(leaf.dtype)
    if role is Role.WEIGHT:
        norms = jnp.sqrt(jnp.sum(leaf * leaf, axis=-1))
        others = jnp.sum(jnp.where(dead, 0, norms)) / alive
        length = _START * jnp.where(jnp.all(dead), 1, others)
        return jnp.where(dead[:, None], length * fresh, leaf)
    if role is Role.SCALE:
        return jnp.where(dead, jnp.sum(jnp.where(dead, 0, leaf)) / alive, leaf)
    return jnp.where(dead, 0, leaf) if role is Role.BIAS else leaf
