"""What theory says about one pass of a linear map and a ReLU, made checkable."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize

import sparsecode_jax as sc


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

    The choice of Rangamani et al., 2018 ("Sparse coding and autoencoders"), who let K, the
    coherence :math:`\mu` and the distance :math:`\delta` of weight from atoms shrink with powers of
    the dimension; m is the mean magnitude. Their asymptotic statement is not transcribed here:
    :func:`recovers` is a condition for finite sizes, from the same two inequalities.
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
