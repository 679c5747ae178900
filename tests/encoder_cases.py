"""The table of encoders that contract tests run over, each with its forward pass in NumPy.

A new encoder gains all the laws of its kind by one more entry here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Encoder

from . import greedy
from .contracts import K, M, N, S, numpy_ista

LAYERS = 4


class EncoderCase(NamedTuple):
    """One encoder and its NumPy form.

    Attributes:
      build: ``(num_samples, num_measurements, num_atoms) -> Encoder``.
      reference: ``(params, signals) -> codes`` in NumPy.
      leading: the leading axes it works with.
      random: whether init draws.
      cost: arithmetic operations for S signals, M measurements, N atoms; None if not stated.
      cost_text: how the docstring states it.
      signed: whether codes may be negative.
      fixed: names of parameters without gradient.
      atol: of codes against NumPy.
    """

    build: Callable[[int, int, int], Encoder]
    reference: Callable
    leading: tuple[tuple[int, ...], ...] = ((), (S,), (4, 5))
    random: bool = True
    cost: Callable[[int, int, int], int] | None = None
    cost_text: tuple[Callable, str] | None = None
    signed: bool = False
    fixed: tuple[str, ...] = ()
    atol: float = 2e-6

    def encoder(self) -> Encoder:
        return self.build(S, M, N)


def _affine(p, x):
    latents = np.einsum("...m,nm->...n", x, p.weight)
    return latents if p.bias is None else latents + p.bias


def _layers(weights, biases, signals):
    for weight, bias in zip(weights, biases, strict=True):
        signals = np.einsum("...m,nm->...n", signals, weight)
        signals = np.maximum(signals if bias is None else signals + bias, 0)
    return signals


def _layers_cost(hidden, use_bias):
    def cost(s, m, n):
        widths = (m, *hidden, n)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        return s * sum(2 * i * o + (2 if use_bias else 1) * o for i, o in pairs)

    return cost


def _linear(use_bias):
    return EncoderCase(
        lambda s, m, n: sc.encoders.linear(m, n, use_bias=use_bias),
        lambda p, x: np.maximum(_affine(p, x), 0),
        cost=_layers_cost((), use_bias),
        cost_text=(
            sc.encoders.linear, "2MN + 2N arithmetic operations per signal, 2MN + N without bias"
        ),
    )  # fmt: skip


def _mlp(hidden, use_bias):
    return EncoderCase(
        lambda s, m, n: sc.encoders.mlp(m, n, hidden=hidden, use_bias=use_bias),
        lambda p, x: _layers(p.weights, p.biases, x),
        cost=_layers_cost(hidden, use_bias),
        cost_text=(
            sc.encoders.mlp,
            "for each layer 2 h_in h_out + 2 h_out arithmetic operations per signal, h_out fewer "
            "without biases",
        ),
    )


@functools.cache
def _flax_dense(num_measurements, num_atoms):
    module = nn.Sequential([nn.Dense(num_atoms), nn.relu])
    return sc.encoders.from_flax(module, num_measurements=num_measurements)


def _numpy_flax_dense(params, signals):
    layer = params["params"]["layers_0"]
    return _layers((layer["kernel"].T,), (layer["bias"],), signals)


def _keep(latents, magnitudes, num_active):
    """Keep the entries of the largest magnitudes, by sorting."""
    kept = np.zeros_like(latents)
    places = np.argsort(-magnitudes, axis=-1, kind="stable")[..., :num_active]
    np.put_along_axis(kept, places, np.take_along_axis(latents, places, -1), -1)
    return kept


def _count(p):
    return int(p.num_active) if isinstance(p, sc.encoders.TopKParams) else K


def _top_k(p, x):
    latents = _affine(p, x)
    return np.maximum(_keep(latents, latents, _count(p)), 0)


def _abs_top_k(p, x):
    latents = _affine(p, x)
    return _keep(latents, np.abs(latents), _count(p))


def _batch_top_k(p, x):
    latents = np.maximum(_affine(p, x), 0)
    flat = latents.reshape(1, -1)
    return _keep(flat, flat, _count(p) * max(1, int(np.prod(x.shape[:-1])))).reshape(latents.shape)


def _jump_relu(p, x):
    latents = _affine(p, x)
    return np.where(latents > np.exp(p.log_threshold), latents, 0)


def _gated(p, x):
    shared = np.einsum("...m,nm->...n", x, p.weight)
    magnitude = np.maximum(shared * np.exp(p.log_magnitude) + p.magnitude_bias, 0)
    return (shared + p.gate_bias > 0) * magnitude


def _residual_mlp(p, x):
    hidden = _affine(p.first, x)
    for inner, inner_bias, outer, outer_bias in zip(*p.inner, *p.outer, strict=True):
        inside = np.maximum(np.einsum("...m,nm->...n", hidden, inner) + inner_bias, 0)
        hidden = hidden + np.einsum("...m,nm->...n", inside, outer) + outer_bias
    return np.maximum(_affine(p.last, hidden), 0)


def _lista(p, x):
    codes = np.maximum(x @ p.weights[0].T - p.thresholds[0], 0)
    for weight, recurrent, threshold in zip(
        p.weights[1:], p.recurrent, p.thresholds[1:], strict=True
    ):
        codes = np.maximum(x @ weight.T + codes @ recurrent.T - threshold, 0)
    return codes


def _lista_cp(p, x):
    codes = np.zeros((*x.shape[:-1], len(p.dictionary)))
    for weight, threshold in zip(p.weights, p.thresholds, strict=True):
        codes = np.maximum(codes + (x - codes @ p.dictionary) @ weight.T - threshold, 0)
    return codes


def _alista(p, x):
    codes = np.zeros((*x.shape[:-1], len(p.dictionary)))
    for step, threshold in zip(p.step_sizes, p.thresholds, strict=True):
        codes = codes + step * (x - codes @ p.dictionary) @ p.weight.T
        codes = np.maximum(codes - threshold, 0)
    return codes


def _each(fn):
    def codes(params, signals):
        flat = signals.reshape(-1, signals.shape[-1])
        found = np.stack([fn(params, x) for x in flat])
        return found.reshape(*signals.shape[:-1], -1)

    return codes


@_each
def _matching_pursuit(p, x):
    return greedy.matching_pursuit(x, p.dictionary, K, K, False)


@_each
def _orthogonal_matching_pursuit(p, x):
    codes, support = np.zeros(len(p.dictionary)), []
    for _ in range(K):
        support += greedy.correlated(x, p.dictionary, codes, False, 1)
        codes = np.zeros(len(p.dictionary))
        codes[support] = np.linalg.lstsq(p.dictionary[support].T, x, rcond=None)[0]
    return np.maximum(codes, 0)


def _unrolled_ista(p, x):
    flat = x.reshape(-1, x.shape[-1])
    step = float(sc.dictionaries.step_size(p.dictionary.astype(np.float32)))
    penalty = np.exp(p.log_penalty)
    codes = numpy_ista(flat, p.dictionary, penalty, step, LAYERS, signed=False)
    return codes.reshape(*x.shape[:-1], -1)


def _centered(p, x):
    return np.maximum(_affine(p.encoder, x - p.center), 0)


def _refined(forward, step_size):
    """Two more passes of an activation, which is what an encoder does to its own latents."""

    def codes(p, x):
        found = forward(p.encoder, x)
        for _ in range(2):
            rest = x - p.bias - found @ p.dictionary
            latents = found + step_size * rest @ p.encoder.weight.T
            inner = p.encoder._replace(weight=np.eye(latents.shape[-1]), bias=None)
            found = forward(inner, latents)
        return found

    return codes


def _weights(factory, reference, *, cost=None, text=None, fixed=(), signed=False, atol=2e-6, **kw):
    """Build a case from a factory of (M, N, ...)."""
    return EncoderCase(
        lambda s, m, n: factory(m, n, **kw), reference,
        cost=cost, cost_text=None if text is None else (factory, text),
        fixed=fixed, signed=signed, atol=atol,
    )  # fmt: skip


def _refined_encoder(factory, options, num_samples, num_measurements, num_atoms):
    inner = factory(num_measurements, num_atoms, **options)
    return sc.encoders.refined(inner, num_steps=2, step_size=0.3)


def _cases():
    e = sc.encoders
    for use_bias, name in ((True, "bias"), (False, "no_bias")):
        yield f"linear-{name}", _linear(use_bias)
        for hidden in ((), (8,), (8, 4)):
            yield f"mlp{list(hidden)}-{name}", _mlp(hidden, use_bias)
        yield (
            f"top_k-{name}",
            _weights(
                e.top_k, _top_k, num_active=K, use_bias=use_bias,
                cost=lambda s, m, n, b=use_bias: s * (2 * m * n + b * n + K),
                text="2MN + N + K arithmetic operations per signal, 2MN + K without bias",
            ),
        )  # fmt: skip
    free_codes = EncoderCase(
        lambda s, m, n: e.free_codes(s, n),
        lambda p, x: np.exp(p.log_codes),
        ((S,),), False, lambda s, m, n: s * n,
        (e.free_codes, "N exponentials per signal"),
    )  # fmt: skip
    yield "free_codes", free_codes
    yield "from_flax", EncoderCase(lambda s, m, n: _flax_dense(m, n), _numpy_flax_dense)
    yield (
        "abs_top_k",
        _weights(
            e.abs_top_k, _abs_top_k, num_active=K, signed=True,
            cost=lambda s, m, n: s * (2 * m * n + n),
            text="2MN + N arithmetic operations per signal, 2MN without bias",
        ),
    )  # fmt: skip
    yield "batch_top_k", _weights(e.batch_top_k, _batch_top_k, num_active=K)
    for factory, forward in (
        (e.top_k, _top_k), (e.abs_top_k, _abs_top_k), (e.batch_top_k, _batch_top_k),
    ):  # fmt: skip
        signed = factory is e.abs_top_k
        case = _weights(factory, forward, num_active=None, fixed=("num_active",), signed=signed)
        yield f"{factory.__name__}-traced", case
    yield "jump_relu", _weights(e.jump_relu, _jump_relu, threshold0=0.3, bandwidth=0.5)
    yield (
        "gated",
        _weights(
            e.gated, _gated, fixed=("gate_bias",),
            cost=lambda s, m, n: s * (2 * m * n + 4 * n) + n,
            text="2MN + 4N arithmetic operations per signal, and N exponentials",
        ),
    )  # fmt: skip
    yield (
        "residual_mlp",
        _weights(
            e.residual_mlp, _residual_mlp, width=8, num_blocks=3,
            cost=lambda s, m, n: s * (2 * 8 * (m + n) + 8 + 2 * n + 3 * (4 * 64 + 4 * 8)),
            text="2h(M + N) + h + 2N + L(4h^2 + 4h) arithmetic operations per signal",
        ),
    )  # fmt: skip
    t = LAYERS
    yield (
        "lista",
        _weights(
            e.lista, _lista, num_layers=t,
            cost=lambda s, m, n: s * (2 * t * (m * n + n) + (t - 1) * (2 * n * n + n)),
            text="2TMN + 2(T - 1)N^2 + (T - 1)N + 2TN arithmetic operations per signal",
        ),
    )  # fmt: skip
    yield (
        "lista_cp",
        _weights(
            e.lista_cp, _lista_cp, num_layers=t,
            cost=lambda s, m, n: s * t * (4 * m * n + m + 3 * n),
            text="T(4MN + M + 3N) arithmetic operations per signal",
        ),
    )  # fmt: skip
    yield (
        "alista",
        _weights(
            e.alista, _alista, num_layers=t, fixed=("dictionary", "weight"),
            cost=lambda s, m, n: s * t * (4 * m * n + m + 4 * n),
            text="T(4MN + M + 4N) arithmetic operations per signal",
        ),
    )  # fmt: skip
    for solver, forward, atol in (
        (sc.solvers.matching_pursuit(), _matching_pursuit, 2e-6),
        (sc.solvers.orthogonal_matching_pursuit(K), _orthogonal_matching_pursuit, 2e-5),
    ):
        factory = functools.partial(e.unrolled, solver)
        yield (
            f"unrolled-{forward.__name__}",
            _weights(factory, forward, num_steps=K, fixed=("log_penalty",), atol=atol),
        )
    ista = sc.solvers.ista()
    yield (
        "unrolled-ista",
        EncoderCase(
            lambda s, m, n: e.unrolled(ista, m, n, num_steps=LAYERS), _unrolled_ista
        ),
    )  # fmt: skip
    for factory, forward, options in (
        (e.linear, lambda p, x: np.maximum(_affine(p, x), 0), {}),
        (e.top_k, _top_k, {"num_active": K}),
        (e.batch_top_k, _batch_top_k, {"num_active": None}),
        (e.jump_relu, _jump_relu, {"threshold0": 0.3, "bandwidth": 0.5}),
    ):
        yield (
            f"refined-{factory.__name__}",
            EncoderCase(
                functools.partial(_refined_encoder, factory, options), _refined(forward, 0.3),
                fixed=("encodernum_active",) if options == {"num_active": None} else (),
                cost=None if options else lambda s, m, n: s * (
                    (2 * m * n + 2 * n) + m + 2 * (4 * m * n + m + 3 * n)
                ),
                cost_text=(
                    e.refined, "that of the encoder, M arithmetic operations, and 4MN + M + 2N and "
                    "the activation more per signal per step",
                ),
            ),
        )  # fmt: skip
    yield (
        "tied",
        EncoderCase(
            lambda s, m, n: e.tied(e.linear(m, n)), lambda p, x: np.maximum(_affine(p, x), 0)
        ),
    )
    yield "centered", EncoderCase(lambda s, m, n: e.centered(e.linear(m, n), m), _centered)
    yield (
        "centered-tied",
        EncoderCase(lambda s, m, n: e.centered(e.tied(e.linear(m, n)), m), _centered),
    )
    yield (
        "normalized",
        EncoderCase(
            lambda s, m, n: e.normalized(e.linear(m, n), 2.5),
            lambda p, x: 2.5 * np.maximum(_affine(p, x / 2.5), 0),
            cost=lambda s, m, n: s * (2 * m * n + m + 3 * n),
            cost_text=(e.normalized, "M + N arithmetic operations per signal more"),
        ),
    )


ENCODERS = [pytest.param(case, id=name) for name, case in _cases()]
