"""Initial weights with which encoders are steps of ISTA on a given dictionary.

From random weights some latents are never active and so never learn, one or two of 16 here; from
these none is. Hidden units that the steps do not need keep their random weights in, and have no
weights out.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

import sparsecode_jax as sc


@functools.singledispatch
def as_ista(params: Any, dictionary: Any, penalty: Any) -> Any:
    """Return parameters like these with which the encoder is one or, for LISTA, T steps of ISTA.

    Args:
      params: of ``linear``, ``mlp`` (with biases), ``residual_mlp`` or ``lista``; hidden widths of
        at least N.
      dictionary: (N, M).
      penalty: ().
    """
    raise TypeError(f"as_ista: {type(params).__name__} is no encoder's that it knows.")


@as_ista.register
def _lista(params: sc.encoders.ListaParams, dictionary: Any, penalty: Any) -> Any:
    layers = params.weights.shape[0]
    return sc.encoders.lista_params(dictionary, penalty, num_layers=layers)


@as_ista.register
def _linear(params: sc.encoders.LinearParams, dictionary: Any, penalty: Any) -> Any:
    weight, threshold = _step(dictionary, penalty)
    return sc.encoders.LinearParams(weight, None if params.bias is None else -threshold)


@as_ista.register
def _mlp(params: sc.encoders.MlpParams, dictionary: Any, penalty: Any) -> Any:
    weight, threshold = _step(dictionary, penalty)
    atoms = len(weight)
    drawn = [bias for bias in params.biases if bias is not None]
    weights = [params.weights[0].at[:atoms].set(weight)]
    biases = [drawn[0].at[:atoms].set(-threshold)]
    for later, bias in zip(params.weights[1:], drawn[1:], strict=True):
        weights.append(later.at[:atoms].set(jnp.eye(atoms, later.shape[1], dtype=later.dtype)))
        biases.append(bias.at[:atoms].set(0))
    return sc.encoders.MlpParams(tuple(weights), tuple(biases))


@as_ista.register
def _residual(params: sc.encoders.ResidualMlpParams, dictionary: Any, penalty: Any) -> Any:
    weight, threshold = _step(dictionary, penalty)
    atoms = len(weight)
    first, outer, last = params.first, params.outer, params.last
    assert first.bias is not None
    first = first._replace(
        weight=first.weight.at[:atoms].set(weight), bias=first.bias.at[:atoms].set(-threshold)
    )
    outer = jax.tree.map(lambda x: x.at[:, :atoms].set(0), outer)
    last = last._replace(
        weight=jnp.eye(atoms, last.weight.shape[1], dtype=last.weight.dtype),
        bias=jnp.zeros_like(last.bias),
    )
    return sc.encoders.ResidualMlpParams(first, params.inner, outer, last)


def _step(dictionary: Any, penalty: Any) -> tuple[jax.Array, jax.Array]:
    step = sc.encoders.lista_params(dictionary, penalty, num_layers=1)
    return step.weights[0], step.thresholds[0]


def at_dictionary(params: Any, dictionary: Any) -> Any:
    """Return an SAE's parameters with the dictionary as weight and without biases."""
    fields = params._asdict()
    biases = {k: jnp.zeros_like(v) for k, v in fields.items() if "bias" in k and v is not None}
    return params._replace(weight=jnp.asarray(dictionary), **biases)
