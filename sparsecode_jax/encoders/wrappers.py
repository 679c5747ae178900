"""Encoders around encoders: with the decoder's weight or bias, and for signals of another scale."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder, Key, PyTree, Role

__all__ = ["CenteredParams", "centered", "normalized", "tied"]


@cached
def tied(encoder: Encoder) -> Encoder:
    """Make the decoder's dictionary an encoder's weight: half the parameters, one set of atoms.

    In training, :func:`~sparsecode_jax.training.fit` puts the dictionary into the encoder, so that
    both its uses move it. Encoders alone keep a copy, ``params.weight``.

    Args:
      encoder: one with a weight (N, M), as its ``roles`` say, such as :func:`linear`,
        :func:`top_k`, :func:`jump_relu`, :func:`gated`. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with the same parameters.

    Raises:
      TypeError: the encoder has no weight of its own, or shares something already.
    """
    _checks.encoder("tied", encoder)
    weights = [role for role in jax.tree.leaves(encoder.roles) if role is Role.WEIGHT]
    if len(weights) != 1 or encoder.tie is not None:
        kind = type(jax.eval_shape(encoder.init, jax.random.key(0))).__name__
        raise TypeError(
            f"tied: an encoder with parameters {kind} has {len(weights)} weights to share with the "
            f"dictionary and shares {'nothing' if encoder.tie is None else 'something'} already; "
            "one weight and nothing is expected, such as linear(M, N) or top_k(M, N, "
            "num_active=K). Write centered(tied(encoder)) for both."
        )
    return encoder._replace(tie=Bound(_tie_weight, encoder.roles))


def _tie_weight(roles: PyTree, params: PyTree, dictionary: Array, bias: Array | None) -> PyTree:
    return jax.tree.map(lambda role, x: dictionary if role is Role.WEIGHT else x, roles, params)


class CenteredParams(NamedTuple):
    """What is subtracted from the signals, (M,), and the parameters of the encoder of the rest."""

    center: Array
    encoder: PyTree


@cached
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

    **Cost**: M arithmetic operations per signal more than the encoder.
    """
    _checks.encoder("centered", encoder)
    _checks.count("centered", "num_measurements", num_measurements)
    _checks.flag("centered", "tie", tie)

    return Encoder(
        Bound(_init, encoder, num_measurements),
        Bound(_apply, encoder),
        None if encoder.aux is None else Bound(_aux, encoder),
        Bound(_put, encoder, tie) if tie or encoder.tie is not None else None,
        None if encoder.roles is None else CenteredParams(Role.SHARED, encoder.roles),  # type: ignore[arg-type]
        None if encoder.activation is None else Bound(_inner_activation, encoder),
        encoder.num_signals,
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
    scale = _checks.static("normalized", "scale", scale)
    _checks.positive("normalized", scale=scale)
    return _normalized(encoder, scale)


@cached
def _normalized(encoder: Encoder, scale: float) -> Encoder:
    return encoder._replace(
        apply=Bound(_normalized_apply, encoder, scale),
        aux=None if encoder.aux is None else Bound(_normalized_aux, encoder, scale),
        tie=None if encoder.tie is None else Bound(_normalized_put, encoder, scale),
        activation=None,
    )


def _normalized_apply(encoder: Encoder, scale: float, params: PyTree, signals: Array) -> Array:
    (signals,) = _checks.floating("normalized", signals)
    return scale * encoder.apply(params, signals / scale)


def _normalized_aux(
    encoder: Encoder, scale: float, params: PyTree, signals: Array
) -> tuple[Array, Aux]:
    assert encoder.aux is not None
    (signals,) = _checks.floating("normalized", signals)
    codes, aux = encoder.aux(params, signals / scale)
    scaled = {
        name: scale * value
        for name, value in aux._asdict().items()
        if name in ("latents", "gate_latents") and value is not None
    }
    active = aux.active
    if active is not None:
        active = SparseCodes(scale * active.values, active.indices, active.num_atoms)
    return scale * codes, aux._replace(active=active, **scaled)


def _normalized_put(
    encoder: Encoder, scale: float, params: PyTree, dictionary: Array, bias: Array | None
) -> PyTree:
    assert encoder.tie is not None
    return encoder.tie(params, dictionary, None if bias is None else bias / scale)


def _init(encoder: Encoder, num_measurements: int, key: Key) -> CenteredParams:
    params = encoder.init(key)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return CenteredParams(jnp.zeros((num_measurements,), dtype), params)


def _apply(encoder: Encoder, params: CenteredParams, signals: Array) -> Array:
    signals = _checks.takes("centered", params, signals, params.center.shape[-1])
    return encoder.apply(params.encoder, signals - as_row(params.center, signals))


def _aux(encoder: Encoder, params: CenteredParams, signals: Array) -> tuple[Array, Aux]:
    assert encoder.aux is not None
    signals = _checks.takes("centered", params, signals, params.center.shape[-1])
    return encoder.aux(params.encoder, signals - as_row(params.center, signals))


def _inner_activation(
    encoder: Encoder, params: CenteredParams, latents: Array
) -> tuple[Array, Aux]:
    assert encoder.activation is not None
    return encoder.activation(params.encoder, latents)


def _put(
    encoder: Encoder, tie: bool, params: CenteredParams, dictionary: Array, bias: Array | None
) -> CenteredParams:
    center = params.center if bias is None or not tie else bias
    inner = params.encoder
    if encoder.tie is not None:  # what is left of the bias for signals less the center
        inner = encoder.tie(inner, dictionary, None if bias is None else bias - center)
    return CenteredParams(center, inner)
