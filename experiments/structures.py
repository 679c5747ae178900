"""Structures of latents, of any size: draw dictionaries, codes and signals that have them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import authors
from experiments.crossing import Data, K, M, N
from sparsecode_jax import synthetic


class Size(NamedTuple):
    """Measurements M, atoms N, active atoms K (or their mean), training and test signals."""

    num_measurements: int
    num_atoms: int
    num_active: int
    num_train: int
    num_test: int


PAPER = Size(M, N, K, authors.NUM_SAMPLES, authors.NUM_SAMPLES)
Draw = Callable[[jax.Array, jax.Array, Size], tuple[jax.Array, jax.Array]]


def _exactly(
    key: jax.Array, atoms: jax.Array, size: Size, *, zipf: bool
) -> tuple[jax.Array, jax.Array]:
    """Draw K of N: all alike, or as the paper's authors draw Zipf latents."""
    weights = 1 / jnp.arange(1.0, size.num_atoms + 1)
    weights = weights / jnp.sum(weights)
    problem = synthetic.sample_problem(
        key, size.num_active, num_samples=size.num_train + size.num_test,
        num_measurements=size.num_measurements, num_atoms=size.num_atoms, dictionary=atoms,
        weights=weights if zipf else None,
    )  # fmt: skip
    codes = problem.codes * (weights + 0.1 if zipf else 1)
    return codes @ atoms, codes


def _features(
    key: jax.Array, atoms: jax.Array, size: Size, **parts: object
) -> tuple[jax.Array, jax.Array]:
    """Draw features of a model, by default independent ones with half-normal magnitudes."""
    n = size.num_atoms
    given = {
        "probabilities": jnp.full(n, size.num_active / n), "magnitudes": synthetic.half_normal,
        **parts,
    }  # fmt: skip
    batch = synthetic.sample_features(
        key, synthetic.FeatureModel(atoms, **given),
        num_samples=size.num_train + size.num_test, max_active=n,
    )  # fmt: skip
    return batch.signals, batch.codes.dense()


def _correlated(key: jax.Array, atoms: jax.Array, size: Size) -> tuple[jax.Array, jax.Array]:
    """Fire by two common factors, which have half of the variance."""
    key, factor_key = jax.random.split(key)
    factors = jax.random.normal(factor_key, (size.num_atoms, 2))
    factors = math.sqrt(0.5) * factors / jnp.linalg.norm(factors, axis=1, keepdims=True)
    return _features(key, atoms, size, factors=factors)


def _hierarchical(key: jax.Array, atoms: jax.Array, size: Size) -> tuple[jax.Array, jax.Array]:
    """Fire trees of a root and three children, of which one at most is active."""
    n = size.num_atoms
    parents = synthetic.balanced_trees(n // 4, branching=3, depth=1, num_units=n)
    hierarchy = synthetic.tree(parents)
    wanted = jnp.where(jnp.asarray(parents) < 0, 0.4, 0.11)  # 3 of 16, in the mean
    wanted = wanted * (size.num_active * 16 / (n * 3))
    probabilities = synthetic.compensate(wanted, hierarchy)
    return _features(key, atoms, size, probabilities=probabilities, tree=hierarchy)


def _circles(key: jax.Array, atoms: jax.Array, size: Size) -> tuple[jax.Array, jax.Array]:
    """Fire pairs, each a point on a circle."""
    pairs = size.num_atoms // 2
    return _features(
        key, atoms, size, probabilities=jnp.full(pairs, size.num_active / size.num_atoms),
        groups=jnp.full(pairs, 2), means=1.0, magnitudes=synthetic.gaussian, deviations=0.1,
    )  # fmt: skip


STRUCTURES: dict[str, Draw] = {
    "exactly 3 of 16 (the paper)": functools.partial(_exactly, zipf=False),
    "independent": _features,
    "Zipf (the authors')": functools.partial(_exactly, zipf=True),
    "correlated firing": _correlated,
    "hierarchy": _hierarchical,
    "log-normal magnitudes": functools.partial(_features, magnitudes=synthetic.log_normal),
    "uniform magnitudes": functools.partial(_features, magnitudes=synthetic.uniform),
    "circles": _circles,
}


def draw(structure: str, seeds: tuple[int, ...], size: Size = PAPER) -> Data:
    """Draw data sets of a structure; the root mean square norm of signals is sqrt(K)."""
    sets = []
    for seed in seeds:
        atom_key, key = jax.random.split(jax.random.key(seed))
        atoms = sc.dictionaries.random(
            atom_key, num_atoms=size.num_atoms, num_measurements=size.num_measurements
        )
        signals, codes = STRUCTURES[structure](key, atoms, size)
        norm = float(jnp.sqrt(jnp.mean(jnp.sum(signals**2, axis=1))))
        scale = math.sqrt(size.num_active) / norm
        parts = (slice(None, size.num_train), slice(size.num_train, None))
        halves = [(scale * signals[part], scale * codes[part]) for part in parts]
        sets.append((*halves[0], *halves[1], atoms))
    return Data(*(np.stack(part) for part in zip(*sets, strict=True)))
