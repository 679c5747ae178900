"""Encoders that share their weight or their bias with the decoder."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax.types import Array, Aux, Encoder, Key, PyTree

__all__ = ["CenteredParams", "centered", "tied"]


@functools.lru_cache(maxsize=None, typed=True)
def tied(encoder: Encoder) -> Encoder:
    """Make the decoder's dictionary an encoder's weight: half the parameters, one set of atoms.

    In training, :func:`~sparsecode_jax.training.fit` puts the dictionary into the encoder, so that
    both its uses move it. Encoders alone keep a copy, ``params.weight``.

    Args:
      encoder: one whose parameters have a ``weight`` (N, M), such as :func:`linear`,
        :func:`top_k`, :func:`jump_relu`, :func:`gated`. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with the same parameters.

    Raises:
      TypeError: the encoder has no weight of its own.
    """
    _checks.encoder("tied", encoder)
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    if getattr(params, "weight", None) is None:
        raise TypeError(
            f"tied: an encoder with parameters {type(params).__name__} has no single weight to "
            "share with the dictionary; one such as linear(M, N) or top_k(M, N, num_active=K) is "
            "expected. Write centered(tied(encoder)) for both."
        )
    return encoder._replace(tie=_tie_weight)


def _tie_weight(params: Any, dictionary: Array, bias: Array | None) -> Any:
    return params._replace(weight=dictionary)


class CenteredParams(NamedTuple):
    """What is subtracted from the signals, (M,), and the parameters of the encoder of the rest."""

    center: Array
    encoder: PyTree


@functools.lru_cache(maxsize=None, typed=True)
def centered(encoder: Encoder, num_measurements: int, *, tie: bool = True) -> Encoder:
    r"""Subtract a learned pre-encoder bias from the signals before an encoder.

    .. math:: z = f(x - c)

    Args:
      encoder: of any kind. **Static**.
      num_measurements: M. **Static**.
      tie: whether c is the decoder's bias, if there is one (``fit(decoder_bias=True)``); otherwise
        it is a parameter of its own. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`CenteredParams`, c = 0 at first.

    **Cost**: M arithmetic operations a signal more than the encoder.
    """
    _checks.encoder("centered", encoder)
    _checks.count("centered", "num_measurements", num_measurements)

    def init(key: Key) -> CenteredParams:
        params = encoder.init(key)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return CenteredParams(jnp.zeros((num_measurements,), dtype), params)

    def apply(params: CenteredParams, signals: Array) -> Array:
        return encoder.apply(params.encoder, signals - params.center)

    def aux(params: CenteredParams, signals: Array) -> tuple[Array, Aux]:
        assert encoder.aux is not None
        return encoder.aux(params.encoder, signals - params.center)

    def put(params: CenteredParams, dictionary: Array, bias: Array | None) -> CenteredParams:
        inner = params.encoder
        if encoder.tie is not None:
            inner = encoder.tie(inner, dictionary, bias)
        return CenteredParams(params.center if bias is None or not tie else bias, inner)

    def rescale(params: CenteredParams, scale: Array) -> CenteredParams:
        assert encoder.rescale is not None
        return CenteredParams(scale * params.center, encoder.rescale(params.encoder, scale))

    return Encoder(
        init,
        apply,
        None if encoder.aux is None else aux,
        put if tie or encoder.tie is not None else None,
        None if encoder.rescale is None else rescale,
    )
