"""TopK encoders whose number of codes is a parameter, so that one program sweeps it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound
from sparsecode_jax.encoders._select import is_kept
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init
from sparsecode_jax.types import Array, Aux, Encoder, Key

__all__ = [
    "VariableTopKParams",
    "variable_abs_top_k",
    "variable_batch_top_k",
    "variable_top_k",
]


class VariableTopKParams(NamedTuple):
    """Weight (N, M), bias (N,) or None, and the number of codes to keep, (), which is not trained.

    The number is held as a float, so that every parameter can be differentiated; its gradient is 0.
    """

    weight: Array
    bias: Array | None
    num_active: Array


@functools.lru_cache(maxsize=None, typed=True)
def variable_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int = 1, use_bias: bool = True
) -> Encoder:
    """Build :func:`top_k` with K among its parameters, so that one program sweeps K.

    vmap over parameters with different ``num_active``. The threshold is found by bisection on the
    latents' bits: exact, without a sort, and of the same cost for every K; a static K is faster.
    Latents that tie for the last place are all kept.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: the K that ``init`` puts into the parameters. **Static**; in them **Traced**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`VariableTopKParams`.

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> encoder = sc.encoders.variable_top_k(8, 16)
      >>> params = encoder.init(jax.random.key(0))
      >>> count = lambda k: (encoder.apply(params._replace(num_active=k), jnp.ones(8)) != 0).sum()
      >>> [int(n) for n in jax.vmap(count)(jnp.arange(1.0, 4.0))]
      [1, 2, 3]
    """
    sizes = num_measurements, num_atoms, num_active, use_bias
    return _build("variable_top_k", _largest, *sizes)


@functools.lru_cache(maxsize=None, typed=True)
def variable_abs_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int = 1, use_bias: bool = True
) -> Encoder:
    """Build :func:`abs_top_k` with K among its parameters, as :func:`variable_top_k` has it.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: the K that ``init`` puts into the parameters. **Static**; in them **Traced**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`VariableTopKParams`.
    """
    sizes = num_measurements, num_atoms, num_active, use_bias
    return _build("variable_abs_top_k", _largest_in_magnitude, *sizes)


@functools.lru_cache(maxsize=None, typed=True)
def variable_batch_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int = 1, use_bias: bool = True
) -> Encoder:
    """Build :func:`batch_top_k` with K among its parameters, as :func:`variable_top_k` has it.

    K is a mean over the batch and need not be whole: round(B * K) codes of B signals are kept.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: the K that ``init`` puts into the parameters. **Static**; in them **Traced**.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`VariableTopKParams`.
    """
    sizes = num_measurements, num_atoms, num_active, use_bias
    return _build("variable_batch_top_k", _largest_of_all, *sizes)


def _build(
    name: str,
    select: Callable[[Array, Array], Array],
    num_measurements: int,
    num_atoms: int,
    num_active: int,
    use_bias: bool,
) -> Encoder:
    draw = linear_init(name, num_measurements, num_atoms, use_bias)
    _checks.static_active(name, num_active, num_atoms)

    return Encoder(
        Bound(_init, draw, num_active),
        Bound(_apply, name, select),
        Bound(_aux, name, select),
    )


def _init(draw: Callable[[Key], LinearParams], num_active: int, key: Key) -> VariableTopKParams:
    params = draw(key)
    count = jnp.asarray(num_active, params.weight.dtype)
    return VariableTopKParams(params.weight, params.bias, count)


def _aux(
    name: str, select: Callable, params: VariableTopKParams, signals: Array
) -> tuple[Array, Aux]:
    latents = affine(name, params, signals)
    return select(latents, jax.lax.stop_gradient(params.num_active)), Aux(latents=latents)


def _apply(name: str, select: Callable, params: VariableTopKParams, signals: Array) -> Array:
    return _aux(name, select, params, signals)[0]


def _largest(latents: Array, num_active: Array) -> Array:
    positive = jax.nn.relu(latents)
    return jnp.where(is_kept(positive, jnp.round(num_active).astype(jnp.int32)), positive, 0)


def _largest_in_magnitude(latents: Array, num_active: Array) -> Array:
    return jnp.where(is_kept(jnp.abs(latents), jnp.round(num_active).astype(jnp.int32)), latents, 0)


def _largest_of_all(latents: Array, num_active: Array) -> Array:
    positive = jax.nn.relu(latents)
    total = jnp.round(num_active * math.prod(latents.shape[:-1])).astype(jnp.int32)
    return jnp.where(is_kept(positive, total, tuple(range(positive.ndim))), positive, 0)
