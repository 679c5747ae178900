"""ALISTA: unrolled ISTA whose weight is computed, and only steps and thresholds are learned."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._positive import solve_positive
from sparsecode_jax.encoders._layers import (
    Prox,
    lasso_of,
    no_codes,
    repeat,
    unrolled_init,
)
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.types import Array, ArrayLike, Encoder, Role

__all__ = ["AlistaParams", "alista", "alista_params", "alista_weight"]


class AlistaParams(NamedTuple):
    """Dictionary and weight (N, M), which are not trained here; T step sizes and T thresholds."""

    dictionary: Array
    weight: Array
    step_sizes: Array
    thresholds: Array


@cached
def alista(
    num_measurements: int,
    num_atoms: int,
    *,
    num_layers: int,
    prox: Prox = nonnegative_soft_threshold,
) -> Encoder:
    r"""Build ALISTA: two learned numbers per layer, and a weight of least coherence with the atoms.

    .. math:: z_{t+1} = \mathrm{prox}_{\theta_t}\big(z_t + \gamma_t (x - z_t D) W^\top\big),
       \qquad z_0 = 0

    Gradients do not reach D and W through the codes.
    :func:`~sparsecode_jax.training.fit` puts the decoder's dictionary in, learned or fixed, and
    computes W from it in every step.

    Args:
      num_measurements: M. **Static**.
      num_atoms: N. **Static**.
      num_layers: T. **Static**.
      prox: ``(x, threshold) -> x``; ``soft_threshold`` for signed codes. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` with :class:`AlistaParams`.

    **Cost**: T(4MN + M + 4N) arithmetic operations per signal.

    References:
      Liu, Chen, Wang, Yin, 2019, Eq. (8) and (16).
    """
    _checks.function("alista", "prox", prox)
    init = unrolled_init("alista", num_measurements, num_atoms, num_layers, alista_params)

    roles = AlistaParams(*[Role.TIED] * 2, *[Role.SHARED] * 2)  # type: ignore[arg-type]
    return Encoder(init, Bound(_apply, prox), tie=_tie, roles=roles)


def _apply(prox: Prox, params: AlistaParams, signals: Array) -> Array:
    signals = _checks.takes("alista", params, signals, params.dictionary.shape[-1])
    return _layers(params, signals, prox=prox)


# Eagerly the loop over the layers would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="prox", inline=True)
def _layers(params: AlistaParams, signals: Array, *, prox: Prox) -> Array:
    dictionary, weight = jax.lax.stop_gradient((params.dictionary, params.weight))

    def layer(codes: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        step, threshold = now
        return prox(codes + step * ((signals - codes @ dictionary) @ weight.T), threshold), None

    start = no_codes(signals, dictionary)
    return jax.lax.scan(layer, start, (params.step_sizes, params.thresholds))[0]


def alista_weight(dictionary: ArrayLike) -> Array:
    r"""Return the weight of least generalized coherence with a dictionary, in closed form.

    .. math:: \min_W \|WD^\top\|_F^2 \quad\text{s.t. } \langle w_j, d_j\rangle = 1, \qquad
       w_j = \frac{G^{-1} d_j}{d_j^\top G^{-1} d_j}, \quad G = D^\top D

    With fewer atoms than measurements the inverse is the pseudoinverse.

    Args:
      dictionary: (N, M), of rank min(N, M). **Traced**.

    Returns:
      (N, M), of the dictionary's dtype; half precision is solved in float32.

    **Cost**: with P = min(N, M): 2MNP for the Gram matrix, P^3/3 + 2MNP for the equations.

    References:
      Liu, Chen, Wang, Yin, 2019, Eq. (16).
    """
    (dictionary,) = _checks.floating("alista_weight", dictionary)
    _checks.dictionary_matrix("alista_weight", dictionary)
    atoms = dictionary.astype(jnp.promote_types(dictionary.dtype, jnp.float32))
    wide = atoms.shape[0] < atoms.shape[1]  # (D'D)^+ D' = D' (DD')^-1
    gram = (
        dictionaries.correlate(atoms, atoms) if wide else dictionaries.correlate(atoms.T, atoms.T)
    )
    ridge = jnp.finfo(gram.dtype).eps * jnp.trace(gram)  # for dictionaries of lower rank
    matrix = gram + ridge * jnp.eye(len(gram), dtype=gram.dtype)
    weight = solve_positive(matrix, atoms if wide else atoms.T, upper=True)
    weight = weight if wide else weight.T
    weight = weight / jnp.sum(weight * atoms, axis=1, keepdims=True)
    return weight.astype(dictionary.dtype)


def alista_params(
    dictionary: ArrayLike,
    penalty: ArrayLike,
    *,
    num_layers: int,
    weight: ArrayLike | None = None,
) -> AlistaParams:
    """Return ALISTA's parameters before training.

    Thresholds are the penalty times the step, which is the largest that is safe for this weight.
    With the dictionary as ``weight`` the encoder is T steps of ISTA, as it stands; training puts
    the weight of least coherence in.

    Args:
      dictionary: (N, M). **Traced**.
      penalty: (). **Traced**.
      num_layers: T. **Static**.
      weight: (N, M); None takes :func:`alista_weight`. **Traced**.

    Returns:
      An :class:`AlistaParams`.

    Raises:
      ValueError: shapes that disagree, a zero atom, a negative penalty.
    """
    dictionary, penalty = lasso_of("alista_params", dictionary, penalty, num_layers)
    _checks.scalar("alista_params", "penalty", penalty)
    if weight is None:
        weight = alista_weight(dictionary)
    _checks.real("alista_params", weight)
    weight = jnp.asarray(weight, dictionary.dtype)
    _checks.dictionary_shape("alista_params", weight, dictionary.shape, "weight")
    # D^T W has the eigenvalues of W D^T; a norm bounds them
    step = 1 / dictionaries.spectral_norm(dictionary.T @ weight)
    return AlistaParams(
        dictionary, weight, repeat(step, num_layers), repeat(step * penalty, num_layers)
    )


def _tie(params: AlistaParams, dictionary: Array, bias: Array | None) -> AlistaParams:
    fixed = jax.lax.stop_gradient(dictionary)
    return params._replace(dictionary=fixed, weight=alista_weight(fixed))
