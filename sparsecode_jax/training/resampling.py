"""Give dead latents a new start at signals that are badly explained."""

from __future__ import annotations

from typing import Any

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
    encode,
    project,
)
from sparsecode_jax.types import Array, Encoder

__all__ = ["check_resampling", "resample"]

_START = 0.2  # of the mean norm of the other latents' weights


def resample(
    state: TrainState, data: TrainData, encoder: Encoder, recipe: Recipe, source: Source = Source()
) -> TrainState:
    """Replace the dead latents of one run and reset their optimizer state. Pure.

    Signals are drawn without replacement, with probability proportional to the square of their
    squared error, from those that the next step would train on; each dead latent's atom becomes one
    of them, scaled to unit norm, its encoder weight a fifth of the
    others' mean norm in that direction, its biases 0 and any other parameter of its own the mean
    of the others'.

    References:
      Bricken et al., 2023, "Towards Monosemanticity", appendix "Neuron Resampling".
    """
    assert state.idle is not None and recipe.dead_after is not None
    dead = state.idle >= recipe.dead_after
    params = project(state.params) if recipe.unit_atoms else state.params
    signals, _ = draw_batch(state.key, state.step, data, recipe.batch_size, source.sampler)
    dictionary = data.dictionary if params.dictionary is None else params.dictionary
    assert dictionary is not None
    codes, _ = encode(encoder, params._replace(dictionary=dictionary), signals)
    centered = signals if params.bias is None else signals - as_row(params.bias, signals)
    error = jnp.sum(jnp.square(centered - codes @ dictionary), axis=-1)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    chance = 2 * jnp.log(error + 1e-30) + jax.random.gumbel(key, error.shape, error.dtype)
    count = min(dead.shape[0], error.shape[0])
    _, rows = jax.lax.top_k(chance, count)  # without replacement: equal latents would stay equal
    nth = jnp.maximum(jnp.cumsum(dead) - 1, 0)
    dead = dead & (nth < count)  # the rest wait for the next time
    fresh = dictionaries.normalize(centered[rows[jnp.minimum(nth, count - 1)]])
    dead = dead & (jnp.sum(fresh * fresh, axis=-1) > 0)  # a zero signal has no direction
    replaced = jax.tree_util.tree_map_with_path(
        lambda path, x: _replace(path, x, dead, fresh), params.encoder
    )
    new = params._replace(encoder=replaced)
    if params.dictionary is not None:
        atoms = jnp.where(dead[:, None], fresh, params.dictionary)
        new = new._replace(dictionary=atoms)
    mask = jax.tree_util.tree_map_with_path(lambda p, x: _mask(p, x, dead), params.encoder)
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


def check_resampling(params: Any) -> None:
    """Raise unless the encoder has one weight row a latent."""
    own = params.encoder
    while hasattr(own, "encoder"):
        own = own.encoder
    if getattr(own, "weight", None) is None:
        raise ValueError(
            f"fit: resample_every with an encoder of parameters {type(own).__name__}; one with a "
            "weight row for each latent is expected, such as linear, top_k, jump_relu or gated."
        )


def _mask(path: Any, leaf: Array, dead: Array) -> Array:
    """Say which entries of a leaf belong to dead latents."""
    if leaf.shape[:1] != dead.shape or not _per_latent(path):
        return jnp.asarray(False)
    return dead.reshape(-1, *[1] * (leaf.ndim - 1))


def _replace(path: Any, leaf: Array, dead: Array, fresh: Array) -> Array:
    name = _name(path)
    alive = jnp.maximum(jnp.sum(~dead), 1)
    if leaf.ndim == 2 and name == "weight":
        norms = jnp.sqrt(jnp.sum(leaf * leaf, axis=-1))
        others = jnp.sum(jnp.where(dead, 0, norms)) / alive
        length = _START * jnp.where(jnp.all(dead), 1, others)
        return jnp.where(dead[:, None], length * fresh, leaf)
    if leaf.shape == dead.shape and _per_latent(path):
        mean = jnp.sum(jnp.where(dead, 0, leaf)) / alive
        return jnp.where(dead, 0 if "bias" in name else mean, leaf)
    return leaf


def _per_latent(path: Any) -> bool:
    """Say whether a leaf has one row a latent, by its name: shapes alone can agree by chance."""
    name = _name(path)
    return name in ("weight", "dictionary") or "bias" in name or name.startswith("log_")


def _name(path: Any) -> str:
    return getattr(path[-1], "name", "") if path else ""
