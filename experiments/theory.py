"""What theory says about autoencoders and dictionaries near their start, made checkable.

Claim: theorems that the paper's reviewers cite hold in these numbers. Kunin et al., 2019: every
minimum of a linear autoencoder with weight decay has the same loss, the decoder is the encoder
transposed and its singular vectors are the principal directions of the signals; so it finds an
orthogonal frame of at most M directions, whose MCC with the paper's atoms (.631) is not above that
of frames at random (.687).
Arora et al., 2015, and Nguyen et al., 2019: from a start near incoherent atoms both updates
approach them by a constant factor a step (.705 and .712 in the first from .3, where the leading
term of the proofs gives .700), down to a floor of .009 and .016; with the paper's atoms, of
coherence .77, both diverge from .1 already.
Refinetti and Goldt, 2022: shallow non-linear autoencoders follow equations for a few overlaps
(``experiments.shallow_autoencoders``), up to .2 of an error that falls from 8 to 2.2 with 250
measurements and .06 with 4,000 (.14 with tied weights), and learn the principal components one
after the other; by the equations they come to the error of these, 2, and with tied weights to 3.19.
Rangamani et al., 2018: one ReLU layer near incoherent atoms recovers supports. In their asymptotic
setting, K = h^p of h atoms, with identity and Hadamard atoms that is certain from h = 2^12, 2^15,
2^18 and 2^32 on for p = .1, .2, .3 and .4 (and all of 20 to 200 supports are found at 2^11, 2^14,
2^14 and 2^23); for p = .5 and .6 none is found at five h from 2^11 to 2^23, whatever the bias.

One pass and its rank bound, the exception at K = 1, and support recovery at fixed sizes are
measured by ``experiments.amortisation_gap``, which uses the functions below.

Command: ``python -m experiments.theory`` (3 minutes; ``--quick`` 15 seconds). Expected:
docs/results/theory.txt.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.stats

import sparsecode_jax as sc
from experiments import authors, common, shallow_autoencoders

NAME = "theory"
LOW, HIGH = 1.0, 2.0  # magnitudes of the codes
MEAN, SQUARE = (LOW + HIGH) / 2, (LOW**2 + LOW * HIGH + HIGH**2) / 3


def rank_defect(dictionary: np.ndarray, weight: np.ndarray) -> float:
    r"""Return :math:`\|I - DW^\top\|_F^2`, at least N - M for every weight (N, M).

    Codes z become signals zD and then latents zDW', a map of rank M at most: by Eckart, Young and
    Mirsky no such map is nearer to the identity. The pseudo-inverse of D attains it.
    """
    product = np.asarray(dictionary, np.float64) @ np.asarray(weight, np.float64).T
    return float(np.sum((np.eye(len(product)) - product) ** 2))


def scaled(dictionary: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Scale each row of a weight (N, M) so that the rank defect is smallest."""
    product = np.asarray(dictionary, np.float64) @ np.asarray(weight, np.float64).T
    norms = np.sum(product**2, axis=0)
    return weight * (np.diag(product) / np.where(norms > 0, norms, 1))[:, None]


def separators(dictionary: np.ndarray) -> np.ndarray:
    """Return for each atom a w with w·d = 1 and w·d' <= 0 for all other atoms, (N, M).

    Rows are NaN where there is none: the atom lies in the cone of the others. With such rows as
    weight, a ReLU layer without bias decodes signals of one atom (K = 1) exactly, although M < N.
    """
    atoms = np.asarray(dictionary, np.float64)
    rows = np.full(atoms.shape, np.nan)
    for i, atom in enumerate(atoms):
        others = np.delete(atoms, i, axis=0)
        found = scipy.optimize.linprog(
            np.zeros(atoms.shape[1]), A_ub=others, b_ub=np.zeros(len(others)),
            A_eq=atom[None], b_eq=[1.0], bounds=(None, None),
        )  # fmt: skip
        if found.status == 0:
            rows[i] = found.x
    return rows


def spikes_and_waves(num_measurements: int) -> np.ndarray:
    """Return the identity over a Hadamard matrix, (2M, M): the coherence is 1/sqrt(M)."""
    waves = scipy.linalg.hadamard(num_measurements) / np.sqrt(num_measurements)
    return np.concatenate([np.eye(num_measurements), waves]).astype(np.float32)


def support_bias(coherence: float, num_active: int, distance: float, mean: float) -> float:
    r"""Return the threshold :math:`\epsilon = 2 K m (\mu + \delta)` of the ReLU layer.

    After Rangamani et al., 2018 ("Sparse coding and autoencoders"), who let K grow, and the
    coherence :math:`\mu` and the distance :math:`\delta` of weight from atoms shrink, with powers
    of the dimension; m is the mean magnitude. The factor 2 is what :func:`recovers` needs. Their
    asymptotic statement is not transcribed here: :func:`recovers` is a condition for finite sizes,
    from the same two inequalities, and :func:`supports_found` measures what happens as they grow.
    """
    return 2 * num_active * mean * (coherence + distance)


def recovers(coherence: float, num_active: int, distance: float, low: float, high: float) -> bool:
    r"""Say whether every support is certain to be recovered, for magnitudes U(low, high).

    A latent off the support receives at most :math:`K b (\mu + \delta)`, below the threshold
    :math:`\epsilon = 2Km(\mu + \delta)` if :math:`b < 2m`. One on the support receives at least
    :math:`a(1 - \delta)` less that, and stays above it if

    .. math:: a (1 - \delta) > 2\epsilon = 4 K m (\mu + \delta)
    """
    mean = (low + high) / 2
    threshold = support_bias(coherence, num_active, distance, mean)
    return bool(high < 2 * mean and low * (1 - distance) > 2 * threshold)


def support_recovery(
    dictionary: np.ndarray,
    num_active: int,
    distance: float,
    *,
    magnitudes: tuple[float, float] | None,
    num_samples: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Return how often a ReLU layer near the dictionary finds exactly the support.

    Args:
      dictionary: (N, M), unit atoms.
      num_active: K.
      distance: of each row of the weight from its atom, in a random direction.
      magnitudes: (low, high) of uniform magnitudes; None for half-normal ones.
      num_samples: signals.
      seed: of signals and directions.

    Returns:
      The rates at the threshold of :func:`support_bias` and at the best of 200 thresholds.
    """
    rng = np.random.default_rng(seed)
    atoms = np.asarray(dictionary, np.float64)
    directions = rng.standard_normal(atoms.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ranks = np.argsort(np.argsort(rng.random((num_samples, len(atoms))), axis=1), axis=1)
    active = ranks < num_active
    if magnitudes is None:
        sizes, mean = np.abs(rng.standard_normal(active.shape)), np.sqrt(2 / np.pi)
    else:
        sizes, mean = rng.uniform(*magnitudes, active.shape), sum(magnitudes) / 2
    latents = (active * sizes) @ atoms @ (atoms + distance * directions).T
    weakest = np.min(np.where(active, latents, np.inf), axis=1)
    strongest = np.max(np.where(active, -np.inf, latents), axis=1)

    def rate(threshold: float) -> float:
        return float(np.mean((weakest > threshold) & (strongest <= threshold)))

    coherence = float(sc.dictionaries.coherence(atoms.astype(np.float32)))
    best = max(map(rate, np.linspace(0, weakest.max(), 200)))
    return rate(support_bias(coherence, num_active, distance, float(mean))), best


def hadamard_transform(values: np.ndarray) -> np.ndarray:
    """Multiply rows (..., n) by a Hadamard matrix over its root, in n log2(n) additions each."""
    size = values.shape[-1]
    for _ in range(size.bit_length() - 1):
        even, odd = values[..., ::2], values[..., 1::2]
        values = np.concatenate([even + odd, even - odd], axis=-1)
    return values / size**0.5


def growing(size: float, power: float, margin: float) -> tuple[float, int, float]:
    r"""Return coherence, K and distance of h atoms, identity and Hadamard, as h grows.

    The asymptotic setting of Rangamani et al., :math:`K = h^p` and a distance that shrinks with a
    power of h, here :math:`h^{-p-\nu}`; :math:`\mu = \sqrt{2/h}` is that of these atoms.
    """
    return (2 / size) ** 0.5, round(size**power), size ** -(power + margin)


def supports_found(
    size: int, power: float, margin: float, num_signals: int, seed: int
) -> np.ndarray:
    r"""Count the signals whose support a ReLU layer finds exactly, as :func:`growing` sets it.

    For each signal x the weight is the worst one at the distance :math:`\delta` of the atoms, which
    is what a guarantee has to bear: latents of active atoms lose :math:`\delta\|x\|`, others gain
    it. No matrix is stored.

    Args:
      size: h, a power of two, of which half are the measurements.
      power: p.
      margin: :math:`\nu`.
      num_signals: signals, magnitudes U(1, 2).
      seed: of the signals.

    Returns:
      (2,), the numbers at the bias of :func:`support_bias` and at the best for each signal.
    """
    rng = np.random.default_rng(seed)
    coherence, num_active, distance = growing(size, power, margin)
    bias = support_bias(coherence, num_active, distance, MEAN)
    found = np.zeros(2, int)
    for _ in range(num_signals):
        codes = np.zeros(size, np.float32)
        support = rng.choice(size, num_active, replace=False)
        codes[support] = rng.uniform(LOW, HIGH, num_active)
        spikes, waves = np.split(codes, 2)
        signal = spikes + hadamard_transform(waves)
        latents = np.concatenate([signal, hadamard_transform(signal)])
        deviation = distance * np.linalg.norm(signal)
        weakest = latents[support].min() - deviation
        latents[support] = -np.inf
        strongest = latents.max() + deviation
        found += [weakest > bias >= strongest, weakest > strongest]
    return found


def certain_from(power: float, margin: float) -> int | None:
    r"""Return the least i so that :func:`recovers` holds for h = 2^i and above, or None.

    By :math:`4Km(\mu + \delta) = 4m(\sqrt2\,h^{p-1/2} + h^{-\nu})` it holds from some h on if p is
    below 1/2, and never if it is not: :math:`4\sqrt2\,m` is above every magnitude.
    """
    fails = [i for i in range(1, 1000) if not recovers(*growing(2.0**i, power, margin), LOW, HIGH)]
    return fails[-1] + 1 if fails[-1] < 999 else None


# --- linear autoencoders with weight decay (Kunin et al., 2019) -----------------------------------


class LinearAutoencoder(NamedTuple):
    """A trained encoder (k, M) and decoder (M, k), and their loss."""

    loss: float
    encoder: np.ndarray
    decoder: np.ndarray


def linear_autoencoder(
    covariance: np.ndarray, num_latents: int, decay: float, seed: int
) -> LinearAutoencoder:
    r"""Minimize :math:`E\|x - W_2 W_1 x\|^2 + \lambda(\|W_1\|^2 + \|W_2\|^2)` by L-BFGS."""
    size = len(covariance)
    cut, rng = num_latents * size, np.random.default_rng(seed)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        encoder, decoder = flat[:cut].reshape(-1, size), flat[cut:].reshape(size, -1)
        rest = np.eye(size) - decoder @ encoder
        slope = -2 * rest @ covariance
        gradients = decoder.T @ slope + 2 * decay * encoder, slope @ encoder.T + 2 * decay * decoder
        value = np.sum(rest @ covariance * rest) + decay * np.sum(flat**2)
        return float(value), np.concatenate([gradient.ravel() for gradient in gradients])

    found = scipy.optimize.minimize(
        objective, 0.3 * rng.standard_normal(2 * cut), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10},
    )  # fmt: skip
    return LinearAutoencoder(
        float(found.fun), found.x[:cut].reshape(-1, size), found.x[cut:].reshape(size, -1)
    )


def least_loss(eigenvalues: np.ndarray, num_latents: int, decay: float) -> float:
    r"""Return the loss of every minimum, for eigenvalues in descending order.

    A direction of variance :math:`\sigma^2 > \lambda` gets :math:`w^2 = 1 - \lambda/\sigma^2` and
    costs :math:`2\lambda - \lambda^2/\sigma^2`; the others cost :math:`\sigma^2`.
    """
    kept = eigenvalues[:num_latents]
    cost = np.where(kept > decay, 2 * decay - decay**2 / np.maximum(kept, decay), kept)
    return float(np.sum(eigenvalues) - np.sum(kept) + np.sum(cost))


# --- dictionaries from a near start (Arora et al., 2015; Nguyen et al., 2019) ---------------------


def near_start(
    true: np.ndarray,
    num_active: int,
    distance: float,
    *,
    rule: str,
    rate: float,
    num_steps: int,
    num_samples: int,
    seed: int,
) -> np.ndarray:
    r"""Learn from atoms at a distance from the true ones; return mean distances, (steps + 1,).

    Both encode fresh signals by one pass, :math:`z = H_{1/2}(Dx)`, a hard threshold at half of the
    least magnitude. "arora" (Algorithm 2) updates by :math:`\eta\,E[\mathrm{sgn}(z)^\top(x - zD)]`,
    "nguyen" by the gradient of the tied autoencoder's error. By the leading terms, K of N atoms
    being active, the distance shrinks by :math:`1 - \eta\,\frac KN E|z|` and
    :math:`1 - \eta\,\frac KN E z^2`; ``rate`` is what is taken from 1.

    Args:
      true: (N, M), unit atoms.
      num_active: K.
      distance: of each atom from the true one, in a random direction.
      rule: "arora" or "nguyen".
      rate: predicted part of the distance that goes in each step.
      num_steps: updates.
      num_samples: fresh signals of each.
      seed: of the start and the signals.
    """
    rng = np.random.default_rng(seed)
    true = np.asarray(true, np.float32)
    directions = rng.standard_normal(true.shape).astype(np.float32)
    atoms = true + distance * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    moment = {"arora": MEAN, "nguyen": SQUARE}[rule]
    step = rate * len(true) / (num_active * moment * num_samples)
    distances = [np.mean(np.linalg.norm(atoms - true, axis=1))]
    for _ in range(num_steps):
        codes = np.zeros((num_samples, len(true)), np.float32)
        places = np.argpartition(rng.random(codes.shape), num_active, axis=1)[:, :num_active]
        values = rng.uniform(LOW, HIGH, places.shape) * rng.choice([-1, 1], places.shape)
        np.put_along_axis(codes, places, values.astype(np.float32), axis=1)
        signals = codes @ true
        latents = signals @ atoms.T
        active = np.abs(latents) > LOW / 2
        found = np.where(active, latents, 0)
        error = signals - found @ atoms
        if rule == "arora":
            slope = np.sign(found).T @ error
        else:
            slope = found.T @ error + np.where(active, error @ atoms.T, 0).T @ signals
        atoms = atoms + np.float32(step) * slope
        distances.append(np.mean(np.linalg.norm(atoms - true, axis=1)))
        if not distances[-1] < 1e3:  # it left for good
            break
    rest = num_steps + 1 - len(distances)
    return np.asarray(distances + [np.inf] * rest, np.float64)


@dataclasses.dataclass(frozen=True)
class Config:
    """Linear autoencoders on the paper's signals; near starts of both rules; growing supports."""

    latents: tuple[int, ...] = (1, 3, 8, 16)
    decays: tuple[float, ...] = (0.0, 0.01, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    num_measurements: int = 256
    distances: tuple[float, ...] = (0.1, 0.3)
    rate: float = 0.3
    num_steps: int = 20
    num_samples: int = 4000
    near_seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[int, ...] = (250, 1000, 4000)
    size_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    duration: float = 20.0
    powers: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    margin: float = 0.25
    exponents: tuple[int, ...] = (11, 14, 17, 20, 23)
    num_signals: tuple[int, ...] = (200, 200, 200, 100, 20)


QUICK = Config(
    latents=(3,), seeds=(0, 1), num_measurements=128, distances=(0.3,), num_steps=8,
    num_samples=2000, near_seeds=(0,), sizes=(250,), size_seeds=(0, 1), duration=10.0,
    powers=(0.1, 0.3, 0.6), exponents=(6, 14), num_signals=(10, 20),
)  # fmt: skip


def linear_numbers(config: Config) -> np.ndarray:
    """Return (latents, decay, seed, number): how far each minimum is from what is proved."""
    problem = authors.data(authors.UNKNOWN_SEED)
    signals = problem.train_signals.astype(np.float64)
    covariance = signals.T @ signals / len(signals)
    eigenvalues, directions = np.linalg.eigh(covariance)
    eigenvalues, directions = eigenvalues[::-1], directions[:, ::-1]

    def numbers(count: int, decay: float, seed: int) -> tuple[float, ...]:
        found, kept = (
            linear_autoencoder(covariance, count, decay, seed),
            min(count, len(covariance)),
        )
        left, singular, _ = np.linalg.svd(found.decoder, full_matrices=False)
        expected = np.sqrt(np.maximum(0, 1 - decay / eigenvalues[:kept]))
        asymmetry = np.linalg.norm(found.encoder - found.decoder.T)
        return (
            found.loss - least_loss(eigenvalues, count, decay),
            float(asymmetry / np.linalg.norm(found.decoder)),
            float(np.max(np.abs(singular[:kept] - expected))),
            float(np.min(np.abs(np.sum(left[:, :kept] * directions[:, :kept], axis=0)))),
            float(sc.metrics.matched_dictionary_mcc(problem.dictionary, left[:, :kept].T)),
        )

    cases = itertools.product(config.latents, config.decays, config.seeds)
    shape = len(config.latents), len(config.decays), len(config.seeds), -1
    return np.reshape([numbers(*case) for case in cases], shape)


def linear_table(config: Config, found: np.ndarray) -> str:
    """Compare minima of linear autoencoders with their closed form."""
    atoms = authors.data(authors.UNKNOWN_SEED).dictionary
    rows = []
    for i, count in enumerate(config.latents):
        for j, decay in enumerate(config.decays):
            loss, transpose, singular, aligned, mcc = found[i, j].T
            rows.append([
                count, f"{decay:g}", f"{loss.max():.1e}", f"{transpose.max():.1e}",
                f"{singular.max():.1e}", f"{aligned.min():.6f}", common.estimate(mcc),
                f"{_chance(atoms, min(count, atoms.shape[1])):.3f}",
            ])  # fmt: skip
    header = (
        "latents", "decay", "loss over least", "|W1 - W2'|/|W2|", "singular values off",
        "least |cosine| of directions", "dictionary MCC", "chance",
    )  # fmt: skip
    return (
        f"Linear autoencoders on the paper's signals, {len(config.seeds)} random starts each: the "
        "worst of all; MCC of their directions\nover the matched pairs with the 95 % t interval "
        "over these starts, on one data set, and of orthonormal frames at random\n"
        f"{common.format_table(header, rows)}\n"
    )


def _chance(atoms: np.ndarray, count: int) -> float:
    """Return the dictionary MCC of orthonormal frames at random, 100 of them."""
    draws = np.random.default_rng(0).standard_normal((100, *[atoms.shape[1]] * 2))
    frames = np.linalg.qr(draws)[0][:, :count]
    return float(np.mean([sc.metrics.matched_dictionary_mcc(atoms, frame) for frame in frames]))


def _near_cases(config: Config) -> list[tuple[str, np.ndarray, str, float]]:
    dictionaries = {
        "identity and Hadamard": spikes_and_waves(config.num_measurements),
        "paper": authors.data(authors.UNKNOWN_SEED).dictionary,
    }
    return [
        (name, true, rule, distance)
        for name, true in dictionaries.items()
        for rule in ("arora", "nguyen")
        for distance in config.distances
    ]


def near_numbers(config: Config) -> np.ndarray:
    """Return mean distances, (case, seed, steps + 1)."""
    return np.stack([
        np.stack([
            near_start(
                true, 3, distance, rule=rule, rate=config.rate, seed=seed,
                num_steps=config.num_steps, num_samples=config.num_samples,
            )
            for seed in config.near_seeds
        ])
        for _, true, rule, distance in _near_cases(config)
    ])  # fmt: skip


def near_table(config: Config, found: np.ndarray) -> str:
    """Compare rates of convergence with those of the proofs' leading terms."""
    rows: list[list[Any]] = []
    for (name, true, rule, distance), curves in zip(_near_cases(config), found, strict=True):
        gone = int(np.sum(~(curves[:, -1] < 1e3)))
        rows.append([
            name, rule, true.shape[1], true.shape[0], f"{distance:g}", f"{1 - config.rate:.3f}",
            *(_factor(curves[:, i + 1] / curves[:, i]) for i in range(3)),
            f"{gone} of {len(curves)} diverged" if gone else common.estimate(curves[:, -1]),
        ])  # fmt: skip
    header = (
        "dictionary", "rule", "M", "N", "start", "predicted factor", "step 1", "step 2", "step 3",
        f"distance after {config.num_steps}",
    )  # fmt: skip
    return (
        f"Mean distance of atoms from the true ones, K = 3, {config.num_samples:,} fresh signals a "
        f"step, {len(config.near_seeds)} runs, 95 % t intervals\n"
        f"{common.format_table(header, rows)}\n"
    )


def _factor(values: np.ndarray) -> str:
    return common.estimate(values) if np.all(values < 100) else "over 100"


def support_numbers(config: Config) -> np.ndarray:
    """Return how many supports are found, (power, size, bias)."""
    return np.asarray([
        [
            supports_found(2**i, power, config.margin, number, seed=i)
            for i, number in zip(config.exponents, config.num_signals, strict=True)
        ]
        for power in config.powers
    ])  # fmt: skip


def support_table(config: Config, found: np.ndarray) -> str:
    """Show how support recovery behaves as dictionaries grow."""
    rows: list[list[Any]] = []
    for power, counts in zip(config.powers, found, strict=True):
        start = certain_from(power, config.margin)
        certain = [
            recovers(*growing(2.0**i, power, config.margin), LOW, HIGH) for i in config.exponents
        ]
        for kind, bias in enumerate(("ε", "best")):
            cells = [
                _fraction(count, number) + "*" * (sure and not kind)
                for count, number, sure in zip(
                    counts[:, kind], config.num_signals, certain, strict=True
                )
            ]
            known = ("never" if start is None else f"2^{start}") if not kind else ""
            rows.append([f"{power:g}", bias, *cells, known])
    columns = zip(config.exponents, config.num_signals, strict=True)
    header = ("p", "bias", *(f"h = 2^{i}, n = {number}" for i, number in columns), "certain from")
    return (
        "One ReLU layer as the dictionary grows: h atoms, identity and Hadamard, K = h^p active, "
        f"weights at δ = h^-(p + {config.margin:g}) from\nthe atoms: the part of n signals whose "
        "support is found exactly, with the 95 % Clopper-Pearson interval\n"
        f"{common.format_table(header, rows)}\n"
        f"ε = 2 K m (μ + δ), μ = √(2/h), magnitudes U({LOW:g}, {HIGH:g}) of mean m; best: the best "
        "bias for each signal x. Weights are the worst for each:\nlatents of active atoms lose "
        "δ|x|, others gain it. *: a (1 - δ) > 2ε, a the least magnitude, so that recovery is "
        "certain; 'certain\nfrom' is the h from which on this holds. It needs K μ to vanish, "
        "p < 1/2, and so does every bias here: of codes that are not negative\nthe atom of equal "
        "entries receives about K μ m/2, which is m/√2 > a at p = 1/2 and grows above.\n"
    )


def _fraction(count: int, num_signals: int) -> str:
    low, high = scipy.stats.binomtest(int(count), num_signals).proportion_ci()
    return f"{count / num_signals:.2f} [{low:.2f}, {high:.2f}]"


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Check the theorems, print and write the tables and the numbers."""
    started = time.monotonic()
    of_shallow = config.sizes, config.size_seeds, config.duration
    with common.stages(out, NAME, config) as stages:
        linear = stages.once("linear", lambda: {"numbers": linear_numbers(config)})["numbers"]
        near = stages.once("near", lambda: {"distances": near_numbers(config)})["distances"]
        supports = stages.once("supports", lambda: {"found": support_numbers(config)})["found"]
        shallow = stages.once("shallow", lambda: shallow_autoencoders.numbers(*of_shallow))
        text = (
            f"{linear_table(config, linear)}\n{near_table(config, near)}\n"
            f"{shallow_autoencoders.table(shallow, config.sizes, config.duration)}\n"
            "Without decay minima are "
            "not isolated and directions mix. arora: Algorithm 2 of Arora et al., 2015; nguyen: "
            "gradient of the\ntied autoencoder, Nguyen et al., 2019. Magnitudes "
            f"U({LOW:g}, {HIGH:g}) with signs at random.\n\n{support_table(config, supports)}"
        )
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config),
            "axes": {
                "linear": ["latents", "decay", "seed", "loss, transpose, singular, aligned, MCC"],
                "near": ["case", "seed", "step"],
                "supports": ["power", "size", "bias"],
                "shallow_simulated": ["tied", "size", "seed", "time", "spike or bulk"],
            },
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        kept = {f"shallow_{name}": value for name, value in shallow.items()}
        sc.io.save_results(
            out / NAME, {"linear": linear, "near": near, "supports": supports, **kept}, manifest
        )
        (out / f"{NAME}.txt").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
