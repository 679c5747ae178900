r"""Learning curves of shallow non-linear autoencoders by equations (see Refinetti, Goldt, 2022).

An autoencoder :math:`\hat x = g(xW^\top)V` of K latents, with :math:`g(\lambda) =
\mathrm{erf}(\lambda/\sqrt 2)`, sees one fresh Gaussian signal a step and descends half of
:math:`\|x - \hat x\|^2` at the rate :math:`1/D`. The signals' covariance has P spikes of
variance :math:`s_p` and a bulk of total variance 1 over the D - P other directions. As D grows,
what the autoencoder does is described by few numbers, the overlaps of its weights with the spikes
and the products T of its decoder's parts in the bulk, and these follow ordinary differential
equations in the time t = steps/D. The equations below were derived for this setting from Gaussian
integrals; they are not transcribed from the paper, which scales weights and rates in another way.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax.scipy.special import erf

from experiments import common


class Overlaps(NamedTuple):
    """What a shallow autoencoder's error depends on, with any leading axes.

    Attributes:
      encoder: (..., K, P), the encoder's weights at the spikes.
      decoder: (..., K, P), the decoder's weights at the spikes.
      bulk: (..., K, K), products of the decoder's rows over the other directions.
    """

    encoder: Any
    decoder: Any
    bulk: Any


class _Moments(NamedTuple):
    """Gaussian averages over latents: fields, their covariance with spikes, E g' and E g g."""

    fields: np.ndarray  # (K, K) covariance of the latents before g
    spikes: np.ndarray  # (K, P) their covariance with each spike's unit normal coordinate
    slopes: np.ndarray  # (K,) E g'
    products: np.ndarray  # (K, K) E g g


def _moments(encoder: np.ndarray, spikes: np.ndarray) -> _Moments:
    covariance = encoder * np.sqrt(spikes)
    fields = covariance @ covariance.T
    spread = 1 + np.diag(fields)
    products = 2 / np.pi * np.arcsin(fields / np.sqrt(np.outer(spread, spread)))
    return _Moments(fields, covariance, np.sqrt(2 / np.pi / spread), products)


def errors(state: Overlaps, spikes: np.ndarray) -> np.ndarray:
    """Return the mean squared error in each spike's direction and, last, in the bulk, (P + 1,)."""
    encoder, decoder, bulk = state
    moments = _moments(encoder, spikes)
    with_signals = moments.slopes[:, None] * moments.spikes * np.sqrt(spikes)
    seen = np.einsum("kp,kl,lp->p", decoder, moments.products, decoder)
    inside = spikes - 2 * np.sum(decoder * with_signals, axis=0) + seen
    return np.append(inside, 1 + np.sum(bulk * moments.products))


def velocity(state: Overlaps, spikes: np.ndarray, *, tied: bool) -> Overlaps:
    r"""Return the time derivative of the overlaps at the rate 1.

    It is minus half of the gradient of the summed :func:`errors`; with tied weights encoder and
    decoder are one array and follow the sum of both. With :math:`A = VV^\top` over all directions,
    :math:`E[g'_k g_l c_p]` and :math:`E[g'_k c_q c_p]` are the integrals that the encoder needs.
    """
    encoder, decoder, bulk = state
    fields, with_spikes, slopes, products = _moments(encoder, spikes)
    spread, root = 1 + np.diag(fields), np.sqrt(spikes)
    weights = (decoder @ decoder.T + bulk) * (2 / np.pi)
    weights = weights / np.sqrt(np.outer(spread, spread) - fields**2)
    seen = np.sum(weights * fields, axis=1) / spread
    of_output = weights @ with_spikes - seen[:, None] * with_spikes
    scaled = decoder * root
    along = np.sum(scaled * with_spikes, axis=1) / spread
    of_signal = slopes[:, None] * (scaled - along[:, None] * with_spikes)
    encoder_by = root * (of_signal - of_output)
    decoder_by = root * slopes[:, None] * with_spikes - products @ decoder
    if tied:
        encoder_by = decoder_by = encoder_by + decoder_by
    return Overlaps(encoder_by, decoder_by, -(products @ bulk + bulk @ products))


def predict(state: Overlaps, spikes: np.ndarray, times: np.ndarray, *, tied: bool) -> Overlaps:
    """Integrate the equations at the rate 1 from a start at time 0; fields (times, ...)."""
    shapes = [np.shape(field) for field in state]
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]

    def unpack(flat: np.ndarray) -> Overlaps:
        parts = np.split(flat, cuts, axis=-1)
        return Overlaps(*(
            part.reshape(*part.shape[:-1], *shape)
            for part, shape in zip(parts, shapes, strict=True)
        ))  # fmt: skip

    def by_time(_: float, flat: np.ndarray) -> np.ndarray:
        return np.concatenate([x.ravel() for x in velocity(unpack(flat), spikes, tied=tied)])

    found = scipy.integrate.solve_ivp(
        by_time, (0.0, times[-1]), np.concatenate([np.ravel(field) for field in state]),
        t_eval=times, method="LSODA", rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    return unpack(found.y.T)


@functools.partial(
    jax.jit, static_argnames=("num_measurements", "num_records", "record_every", "tied")
)
def simulate(
    key: jax.Array,
    state: Overlaps,
    spikes: jax.Array,
    *,
    num_measurements: int,
    num_records: int,
    record_every: int,
    tied: bool,
) -> Overlaps:
    """Train an autoencoder of D measurements by stochastic gradient descent at the rate 1.

    Args:
      key: of the weights in the bulk and of the signals.
      state: overlaps at the start; of ``bulk`` the mean of the diagonal is used.
      spikes: (P,) variances.
      num_measurements: D.
      num_records: times at which overlaps are returned.
      record_every: steps, of one signal each, before the next of them.
      tied: whether the decoder is the encoder.

    Returns:
      Overlaps after each ``record_every`` steps, fields (num_records, ...).
    """
    (num_latents, num_spikes), rest = state.encoder.shape, num_measurements - len(spikes)
    deviations = jnp.concatenate([jnp.sqrt(spikes), jnp.full((rest,), 1 / np.sqrt(rest))])
    scale = jnp.sqrt(jnp.trace(state.bulk) / (num_latents * rest))
    noise_key, signal_key = jax.random.split(key)
    noise = scale * jax.random.normal(noise_key, (2, num_latents, rest))
    decoder = jnp.concatenate([state.decoder, noise[0]], axis=1)
    encoder = decoder if tied else jnp.concatenate([state.encoder, noise[1]], axis=1)

    def step(weights: tuple[Any, Any], number: Any) -> tuple[tuple[Any, Any], None]:
        encoder, decoder = weights
        draw = jax.random.normal(jax.random.fold_in(signal_key, number), (num_measurements,))
        signal = deviations * draw
        latents = encoder @ signal
        codes, slopes = erf(latents / np.sqrt(2)), jnp.sqrt(2 / np.pi) * jnp.exp(-(latents**2) / 2)
        error = signal - codes @ decoder
        encoder_by = (slopes * (decoder @ error))[:, None] * signal
        decoder_by = codes[:, None] * error
        if tied:
            encoder_by = decoder_by = encoder_by + decoder_by
        rate = 1 / num_measurements
        return (encoder + rate * encoder_by, decoder + rate * decoder_by), None

    def record(weights: tuple[Any, Any], number: Any) -> tuple[tuple[Any, Any], Overlaps]:
        steps = number * record_every + jnp.arange(record_every)
        encoder, decoder = weights = jax.lax.scan(step, weights, steps)[0]
        bulk = decoder[:, num_spikes:] @ decoder[:, num_spikes:].T
        return weights, Overlaps(encoder[:, :num_spikes], decoder[:, :num_spikes], bulk)

    return jax.lax.scan(record, (encoder, decoder), jnp.arange(num_records))[1]


# --- the comparison of experiments.theory ---------------------------------------------------------

SPIKES = np.asarray([4.0, 2.0, 1.0])
NUM_LATENTS, NUM_RECORDS, LATE = 2, 100, 2000.0


def start(*, tied: bool) -> Overlaps:
    """Return small overlaps, the same for all sizes; the decoder's bulk has rows of norm .5."""
    draws = 0.1 * np.random.default_rng(0).standard_normal((2, NUM_LATENTS, len(SPIKES)))
    return Overlaps(draws[0], draws[0 if tied else 1], 0.25 * np.eye(NUM_LATENTS))


def numbers(sizes: tuple[int, ...], seeds: tuple[int, ...], duration: float) -> dict[str, Any]:
    """Return errors by direction of the equations and of simulations, and the equations' late ones.

    ``predicted`` (tied, times, P + 1), ``simulated`` (tied, size, seed, times, P + 1) and ``late``
    (tied, P + 1), at the time 2,000.
    """
    times = duration * np.arange(NUM_RECORDS + 1) / NUM_RECORDS
    found: dict[str, list[Any]] = {"predicted": [], "simulated": [], "late": []}
    for tied in (False, True):
        state = start(tied=tied)
        curves = predict(state, SPIKES, np.append(times, LATE), tied=tied)
        curve = np.stack([errors(Overlaps(*each), SPIKES) for each in zip(*curves, strict=True)])
        found["predicted"].append(curve[1:-1])
        found["late"].append(curve[-1])
        found["simulated"].append([
            [_simulated(state, size, seed, duration, tied) for seed in seeds] for size in sizes
        ])  # fmt: skip
    return {name: np.asarray(value) for name, value in found.items()}


def _simulated(state: Overlaps, size: int, seed: int, duration: float, tied: bool) -> np.ndarray:
    curves = simulate(
        jax.random.key(seed), Overlaps(*map(jnp.float32, state)), jnp.float32(SPIKES),
        num_measurements=size, num_records=NUM_RECORDS,
        record_every=round(duration * size / NUM_RECORDS), tied=tied,
    )  # fmt: skip
    rows = zip(*map(np.float64, curves), strict=True)
    return np.stack([errors(Overlaps(*each), SPIKES) for each in rows])


def table(found: dict[str, Any], sizes: tuple[int, ...], duration: float) -> str:
    """Compare simulations of each size with the equations, and those with principal components."""
    times = duration * np.arange(1, NUM_RECORDS + 1) / NUM_RECORDS
    rows: list[list[Any]] = []
    for tied, weights in enumerate(("untied", "tied")):
        predicted = found["predicted"][tied]
        rows.append([
            weights, "equations", "", *(f"{_half(predicted, p, times):.1f}" for p in range(2)),
            f"{predicted[-1].sum():.3f}", f"{found['late'][tied].sum():.3f}",
        ])  # fmt: skip
        for size, runs in zip(sizes, found["simulated"][tied], strict=True):
            off = np.max(np.abs(np.sum(runs - predicted, axis=-1)), axis=-1)
            halves = np.asarray([[_half(run, p, times) for p in range(2)] for run in runs])
            rows.append([
                weights, f"D = {size:,}", common.estimate(off),
                *(common.estimate(half, digits=1) for half in halves.T),
                common.estimate(runs[:, -1].sum(axis=-1)), "",
            ])  # fmt: skip
    header = (
        "weights", "", "largest difference of errors", "half of spike 1 at", "half of spike 2 at",
        f"error at {duration:g}", f"at {LATE:,.0f}",
    )  # fmt: skip
    return (
        f"Autoencoders of {NUM_LATENTS} latents erf(x/√2), signals with spikes of variance "
        f"{', '.join(f'{spike:g}' for spike in SPIKES)} and a bulk of total variance 1,\none fresh "
        "signal a step, times in steps/D; principal components have the error "
        f"{1 + np.sum(SPIKES[NUM_LATENTS:]):g}; means of {found['simulated'].shape[2]} runs with "
        f"95 % t intervals\n{common.format_table(header, rows)}\n"
    )


def _half(curve: np.ndarray, spike: int, times: np.ndarray) -> float:
    """Return when half of a spike's variance is explained; infinity if it never is."""
    there = np.flatnonzero(curve[:, spike] <= SPIKES[spike] / 2)
    return float(times[there[0]]) if len(there) else np.inf
