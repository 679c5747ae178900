"""An encoder whose codes are refined by gradient steps with its own weights."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import combine_rows
from sparsecode_jax.types import Array, Aux, Encoder, Key, PyTree, Role

__all__ = ["RefinedParams", "refined"]


class RefinedParams(NamedTuple):
    """The decoder's dictionary (N, M) and bias (M,), and the parameters of the encoder."""

    dictionary: Array
    bias: Array
    encoder: PyTree


@cached
def refined(encoder: Encoder, *, num_steps: int = 1, step_size: float = 0.25) -> Encoder:
    r"""Let an encoder correct its codes by what they leave of the signal: ISTA with its weights.

    .. math:: z_0 = \sigma(xW^\top + b), \qquad
       z_{t+1} = \sigma\big(z_t + \eta\,(x - z_t D - c)W^\top\big)

    with :math:`\sigma` the encoder's own activation (ReLU, TopK, BatchTopK, the jump).
    D and c, the decoder's dictionary and bias, are put in by
    :func:`~sparsecode_jax.training.fit`; the weights are those of the encoder and no more.
    Gradients go through all steps. The bias b acts in the first pass alone.

    Args:
      encoder: a linear map and an activation: :func:`linear`, :func:`top_k`, :func:`abs_top_k`,
        :func:`batch_top_k`, :func:`jump_relu`, and :func:`tied` or :func:`centered` ones.
        **Static**.
      num_steps: T, after the first pass. **Static**.
      step_size: of the gradient. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`RefinedParams`. Its dictionary is the
      unit rows of the weight, and its bias 0, until they are put in.

    Raises:
      TypeError: the encoder is no linear map and an activation.

    **Cost**: that of the encoder, M arithmetic operations, and 4MN + M + 2N and the activation more
    per signal per step; with a static K of each signal 2MN + 2KM + M + 2N.

    References:
      Gregor and LeCun, 2010, for steps that an encoder takes with learned weights. The best
      entries of SynthSAEBench, arXiv 2602.14687, take one of size 1/4 between two BatchTopK.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> encoder = sc.encoders.refined(sc.encoders.batch_top_k(8, 16, num_active=3))
      >>> params = encoder.init(jax.random.key(0))
      >>> encoder.apply(params, jax.random.normal(jax.random.key(1), (5, 8))).shape
      (5, 16)
    """
    _checks.encoder("refined", encoder)
    _checks.count("refined", "num_steps", num_steps)
    step_size = _checks.static("refined", "step_size", step_size)
    _checks.positive("refined", step_size=step_size)
    weights = [role for role in jax.tree.leaves(encoder.roles) if role is Role.WEIGHT]
    if encoder.activation is None or len(weights) != 1:
        kind = type(jax.eval_shape(encoder.init, jax.random.key(0))).__name__
        raise TypeError(
            f"refined: an encoder with parameters {kind} is no linear map followed by an "
            "activation; one is expected, such as linear(M, N) or batch_top_k(M, N, num_active=K)."
        )
    aux = Bound(_aux, encoder, num_steps, step_size)
    roles = RefinedParams(Role.TIED, Role.TIED, encoder.roles)  # type: ignore[arg-type]
    return Encoder(Bound(_init, encoder), Bound(_apply, aux), aux, Bound(_put, encoder), roles)


def _weight(encoder: Encoder, params: PyTree) -> Array:
    pairs = zip(jax.tree.leaves(encoder.roles), jax.tree.leaves(params), strict=True)
    return next(leaf for role, leaf in pairs if role is Role.WEIGHT)


def _init(encoder: Encoder, key: Key) -> RefinedParams:
    params = encoder.init(key)
    dictionary = dictionaries.unit_rows(_weight(encoder, params))
    return RefinedParams(dictionary, jnp.zeros_like(dictionary[0]), params)


def _aux(
    encoder: Encoder, num_steps: int, step_size: float, params: RefinedParams, signals: Array
) -> tuple[Array, Aux]:
    assert encoder.aux is not None and encoder.activation is not None
    signals = _checks.takes("refined", params, signals, params.dictionary.shape[-1])
    centered = signals - as_row(params.bias, signals)
    weight = _weight(encoder, params.encoder)
    codes, aux = encoder.aux(params.encoder, signals)
    for _ in range(num_steps):
        latents = codes + step_size * ((centered - _decoded(codes, aux, params)) @ weight.T)
        codes, aux = encoder.activation(params.encoder, latents)
    return codes, aux


def _decoded(codes: Array, aux: Aux, params: RefinedParams) -> Array:
    active = aux.active
    if active is None:
        return codes @ params.dictionary
    return combine_rows(active.values, active.indices, params.dictionary)


def _apply(aux: Bound, params: RefinedParams, signals: Array) -> Array:
    return aux(params, signals)[0]


def _put(
    encoder: Encoder, params: RefinedParams, dictionary: Array, bias: Array | None
) -> RefinedParams:
    inner = params.encoder
    if encoder.tie is not None:
        inner = encoder.tie(inner, dictionary, bias)
    return RefinedParams(dictionary, params.bias if bias is None else bias, inner)
