"""Encoders around encoders: with the decoder's weight or bias, and for signals of another scale."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder, Key, PyTree

__all__ = ["CenteredParams", "centered", "normalized", "tied"]


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
      tie: whether c is the decoder's bias, if there is one (``Model(bias="mean")``); otherwise
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


def normalized(encoder: Encoder, scale: ArrayLike) -> Encoder:
    r"""Let an encoder that was trained on signals divided by a scale take the signals themselves.

    .. math:: z = c\, f(x / c)

    The codes are for the same dictionary; a decoder's bias is to be multiplied by the scale.

    Args:
      encoder: of any kind; it keeps its parameters. **Static**.
      scale: c > 0, a number, such as the root mean square entry of the training signals.
        **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with the same parameters.

    Raises:
      ValueError: the scale is not a finite number > 0.

    **Cost**: M + N arithmetic operations per signal more than the encoder.

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> encoder = sc.encoders.linear(4, 6)
      >>> params, x = encoder.init(jax.random.key(0)), jnp.ones((3, 4))
      >>> raw = sc.encoders.normalized(encoder, 10.0)
      >>> bool(jnp.allclose(raw.apply(params, 10 * x), 10 * encoder.apply(params, x)))
      True
    """
    _checks.encoder("normalized", encoder)
    _checks.scalar("normalized", "scale", scale)
    _checks.positive("normalized", scale=scale)
    return _normalized(encoder, float(np.asarray(scale)))


@functools.lru_cache(maxsize=None, typed=True)
def _normalized(encoder: Encoder, scale: float) -> Encoder:
    def apply(params: PyTree, signals: Array) -> Array:
        return scale * encoder.apply(params, signals / scale)

    def aux(params: PyTree, signals: Array) -> tuple[Array, Aux]:
        assert encoder.aux is not None
        codes, more = encoder.aux(params, signals / scale)
        active = more.active and (scale * more.active[0], more.active[1])
        scaled = {
            name: None if value is None else scale * value
            for name, value in more._asdict().items()
            if name in ("latents", "gate_latents")
        }
        return scale * codes, more._replace(active=active, **scaled)

    def put(params: PyTree, dictionary: Array, bias: Array | None) -> PyTree:
        assert encoder.tie is not None
        return encoder.tie(params, dictionary, None if bias is None else bias / scale)

    return encoder._replace(
        apply=apply,
        aux=None if encoder.aux is None else aux,
        tie=None if encoder.tie is None else put,
        rescale=None,
    )
