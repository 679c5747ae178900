"""The encoders of TopK sparse autoencoders: per signal, by magnitude, and over a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._order import is_kept, kth_largest
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.encoders._select import largest, latents_at, scatter, take
from sparsecode_jax.encoders.jump_relu import JumpReluParams
from sparsecode_jax.encoders.linear import LinearParams, affine, linear_init, linear_roles
from sparsecode_jax.encoders.wrappers import CenteredParams
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder, Key, Role

__all__ = ["TopKParams", "abs_top_k", "batch_top_k", "batch_top_k_threshold", "top_k"]


class TopKParams(NamedTuple):
    """Weight (N, M), bias (N,) or None, and the number of codes to keep, (), which is not trained.

    The number is held as a float, so that every parameter can be differentiated; its gradient is 0.
    """

    weight: Array
    bias: Array | None
    num_active: Array


@cached
def top_k(
    num_measurements: int, num_atoms: int, *, num_active: int | None, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps each signal's K largest latents, if they are positive.

    .. math:: z = \max(\mathrm{TopK}(x W^\top + b), 0)

    Training decodes K atoms per signal, and its gradients touch K rows of W and of the dictionary.
    Differentiable in reverse mode only.

    With ``num_active=None``, K is one of the parameters: one program sweeps it, vmapped over
    parameters with different ``num_active``. The threshold is then found by bisection on the
    latents' bits: exact, without a sort, and of the same cost for every K; a static K is faster.
    Latents that tie for the last place are all kept.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**. None makes it a parameter, which ``init`` sets to 1.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`,
      or with :class:`TopKParams`, in which K is **Traced**.

    **Cost**: 2MN + N + K arithmetic operations per signal, 2MN + K without bias, and the selection.

    References:
      Makhzani and Frey, 2013; Gao et al., 2024, Eq. (3).

    Example:
      >>> import jax, jax.numpy as jnp, sparsecode_jax as sc
      >>> encoder = sc.encoders.top_k(8, 16, num_active=None)
      >>> params = encoder.init(jax.random.key(0))
      >>> count = lambda k: (encoder.apply(params._replace(num_active=k), jnp.ones(8)) != 0).sum()
      >>> [int(n) for n in jax.vmap(count)(jnp.arange(1.0, 4.0))]
      [1, 2, 3]
    """
    return _build(_Rule("top_k"), num_measurements, num_atoms, num_active, use_bias)


@cached
def abs_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int | None, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps each signal's K latents of largest magnitude, signs included.

    .. math:: z = \mathrm{AbsTopK}(x W^\top + b)

    One latent can stand for two opposite directions.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**. None makes it a parameter, as in :func:`top_k`.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`,
      or with :class:`TopKParams`, in which K is **Traced**.

    **Cost**: 2MN + N arithmetic operations per signal, 2MN without bias, and the selection.

    References:
      Zhu et al., 2025, "AbsTopK: Rethinking Sparse Autoencoders For Bidirectional Features".
    """
    rule = _Rule("abs_top_k", signed=True)
    return _build(rule, num_measurements, num_atoms, num_active, use_bias)


@cached
def batch_top_k(
    num_measurements: int, num_atoms: int, *, num_active: int | None, use_bias: bool = True
) -> Encoder:
    r"""Build a linear map that keeps the B * K largest positive latents of a batch of B signals.

    .. math:: z = u \cdot 1[u \ge \tau], \qquad u = \max(x W^\top + b, 0)

    with :math:`\tau` the (BK)-th largest of all u: K codes per signal on average, more for some and
    fewer for others. All leading axes are one batch, so a signal's codes depend on the others
    (under shard_map, on those of its device). For inference turn the parameters into those of
    :func:`jump_relu` by :func:`batch_top_k_threshold`.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_active: K, at most N. **Static**. None makes it a parameter, as in :func:`top_k`; there
        it need not be whole: round(B * K) codes are kept.
      use_bias: whether there is a b. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`~sparsecode_jax.encoders.LinearParams`,
      or with :class:`TopKParams`, in which K is **Traced**.

    References:
      Bussmann, Leask, Nanda, 2024, "BatchTopK Sparse Autoencoders", Eq. (5)-(7).
    """
    rule = _Rule("batch_top_k", by_batch=True)
    return _build(rule, num_measurements, num_atoms, num_active, use_bias)


class _Rule(NamedTuple):
    """Which latents are kept: by magnitude or by value, of each signal or of the whole batch."""

    name: str
    signed: bool = False
    by_batch: bool = False


def _build(
    rule: _Rule, num_measurements: int, num_atoms: int, num_active: int | None, use_bias: bool
) -> Encoder:
    draw = linear_init(rule.name, num_measurements, num_atoms, use_bias)
    apply, aux = Bound(_apply, rule, num_active), Bound(_aux, rule, num_active)
    activation = Bound(_activation, rule, num_active)
    roles = linear_roles(use_bias)
    if num_active is None:
        roles = TopKParams(*roles, Role.NUM_ACTIVE)  # type: ignore[call-arg]
        return Encoder(Bound(_init, draw), apply, aux, roles=roles, activation=activation)
    _static_active(rule.name, num_active, num_atoms)
    return Encoder(draw, apply, aux, roles=roles, activation=activation)


def _init(draw: Callable[[Key], LinearParams], key: Key) -> TopKParams:
    params = draw(key)
    return TopKParams(*params, jnp.ones((), params.weight.dtype))


def _aux(rule: _Rule, num_active: int | None, params: Any, signals: Array) -> tuple[Array, Aux]:
    signals = _checks.takes(rule.name, params, signals, params.weight.shape[-1])
    latents = affine(rule.name, params, signals)
    if num_active is None or rule.by_batch:
        return _activation(rule, num_active, params, latents)
    indices = _places(rule, num_active, latents)
    values = take(params, signals, jax.lax.stop_gradient(latents), indices)
    return _chosen(rule, latents, indices, values)


def _places(rule: _Rule, num_active: int, latents: Array) -> Array:
    fixed = jax.lax.stop_gradient(latents)
    return largest(jnp.abs(fixed) if rule.signed else fixed, num_active)


def _chosen(rule: _Rule, latents: Array, indices: Array, values: Array) -> tuple[Array, Aux]:
    active = SparseCodes(values if rule.signed else jax.nn.relu(values), indices, latents.shape[-1])
    return scatter(active.values, indices, latents), Aux(latents=latents, active=active)


def _activation(
    rule: _Rule, num_active: int | None, params: Any, latents: Array
) -> tuple[Array, Aux]:
    if num_active is not None and not rule.by_batch:
        indices = _places(rule, num_active, latents)
        return _chosen(rule, latents, indices, latents_at(latents, indices))
    candidates = latents if rule.signed else jax.nn.relu(latents)
    count = jax.lax.stop_gradient(params.num_active) if num_active is None else num_active
    axes = tuple(range(latents.ndim)) if rule.by_batch else -1
    sharing = math.prod(latents.shape[:-1]) if rule.by_batch else 1
    rank = jnp.round(count * sharing).astype(jnp.int32)
    kept = is_kept(jnp.abs(candidates) if rule.signed else candidates, rank, axes)
    return jnp.where(kept, candidates, 0), Aux(latents=latents)


def _apply(rule: _Rule, num_active: int | None, params: Any, signals: Array) -> Array:
    return _aux(rule, num_active, params, signals)[0]


def batch_top_k_threshold(
    params: Any, signals: ArrayLike, *, num_active: ArrayLike | None = None
) -> Any:
    """Turn the parameters of :func:`batch_top_k` into those of :func:`jump_relu`, for inference.

    The threshold, one for all latents, is midway between the last latent kept and the first one
    dropped over all the signals, so that they have ``num_active`` codes on average (fewer if fewer
    latents are positive), and codes of other signals do not depend on their batch.

    Args:
      params: trained; those of ``centered(...)`` too. **Traced**.
      signals: (..., M), the more the better: of the training distribution. **Traced**.
      num_active: K, which need not be whole; None takes the one that is a parameter. **Traced**.

    Returns:
      Parameters of ``jump_relu(M, N)`` that give the same codes on these signals; centered as the
      ones given.

    Raises:
      TypeError: parameters of another encoder.
      ValueError: shapes that disagree.
    """
    name = "batch_top_k_threshold"
    (signals,) = _checks.floating(name, signals)
    if isinstance(params, CenteredParams):
        inner = batch_top_k_threshold(
            params.encoder, signals - as_row(params.center, signals), num_active=num_active
        )
        return CenteredParams(params.center, inner)
    if not hasattr(params, "weight"):
        raise TypeError(
            f"{name}: parameters of type {type(params).__name__}; those of batch_top_k(...), or of "
            "centered(batch_top_k(...)), are expected, which have one threshold."
        )
    _checks.signals_shape(name, signals)
    _checks.same_measurements(name, signals, params.weight)
    if num_active is None:
        if not isinstance(params, TopKParams):
            raise ValueError(
                f"{name}: no num_active, and the parameters hold none; pass the K that they were "
                "trained with."
            )
        num_active = params.num_active
    _mean_active(name, num_active, params.weight.shape[0])
    positive = jax.nn.relu(affine(name, params, signals)).ravel()
    rank = jnp.round(jnp.asarray(num_active) * math.prod(signals.shape[:-1])).astype(jnp.int32)
    last = kth_largest(positive, rank)[0]
    first = jnp.max(jnp.where(positive < last, positive, 0))
    threshold = jnp.maximum((last + first) / 2, jnp.finfo(positive.dtype).tiny)
    known = jnp.all(jnp.isfinite(positive)) & jnp.isfinite(jnp.asarray(num_active))
    threshold = jnp.where(known, threshold, jnp.nan)
    log_threshold = jnp.full(params.weight.shape[:1], jnp.log(threshold), positive.dtype)
    return JumpReluParams(params.weight, params.bias, log_threshold)


def _static_active(name: str, value: Any, num_atoms: int) -> None:
    """Raise unless K is a static integer from 1 to N."""
    _checks.count(name, "num_atoms", num_atoms)
    _checks.count(name, "num_active", value)
    _checks.num_active(name, value, num_atoms)


def _mean_active(name: str, value: Any, num_atoms: int) -> None:
    """Raise unless a mean number of codes is one number, above 0 and at most N if concrete."""
    (value,) = _checks.real(name, value)
    _checks.scalar(name, "num_active", value)
    if _checks.concrete(value) and not 0 < float(value) <= num_atoms:
        raise ValueError(
            f"{name}: num_active is {value} but there are {num_atoms} atoms; a number above 0, at "
            f"most {num_atoms}, is expected."
        )
