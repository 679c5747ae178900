"""Where atoms begin, and what takes the places of those that earn nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax import dictionaries
from sparsecode_jax.prox import nonnegative_soft_threshold
from sparsecode_jax.types import Array, Key, Solver

__all__ = [
    "is_signed",
    "mean_use",
    "renew_atoms",
    "replace_atoms",
    "rms_norm",
    "start_from_signals",
]

_DEAD = 1e-3  # an atom used less than this fraction of the mean use
_TWINS = 0.95  # the cosine from which two atoms are one
_FEW = 0.1  # an atom of few large codes: this fraction of the mean participation ratio
_CLOSE = 0.98  # the cosine from which the weaker of two atoms is renewed


def is_signed(solver: Solver) -> bool:
    """Say whether a solver may return negative codes, for which an atom equals its negative."""
    return solver.prox is not nonnegative_soft_threshold


def mean_use(codes: Array) -> Array:
    """Return the mean absolute code of each atom, (N,)."""
    return jnp.mean(jnp.abs(codes), axis=0)


def rms_norm(signals: Array) -> Array:
    """Return the root mean square norm of signals (B, M), whatever their scale; 1 if all are 0."""
    largest = jnp.max(jnp.abs(signals))
    largest = jnp.where(largest > 0, largest, 1)
    scaled = signals / largest
    return largest * jnp.maximum(jnp.sqrt(jnp.mean(jnp.sum(scaled * scaled, axis=-1))), 1e-30)


def start_from_signals(key: Key, signals: Array, num_atoms: int) -> Array:
    """Draw unit atoms (N, M) from signals (B, M) without replacement."""
    places = jax.random.choice(key, signals.shape[0], (num_atoms,), replace=False)
    return dictionaries.normalize(_spread(signals[places], key))


def _spread(atoms: Array, key: Key) -> Array:
    """Replace zero signals by noise, so that every atom has a direction."""
    zero = jnp.sum(atoms * atoms, axis=-1, keepdims=True) == 0
    return jnp.where(zero, jax.random.normal(key, atoms.shape, atoms.dtype), atoms)


def replace_atoms(
    signals: Array,
    dictionary: Array,
    codes: Array,
    allowed: Array,
    *,
    use: Array | None = None,
    signed: bool = False,
) -> tuple[Array, Array, Array]:
    """Replace unused atoms and second twins by the largest residuals, one each.

    Args:
      signals: (B, M). **Traced**.
      dictionary: unit atoms, (N, M). **Traced**.
      codes: (B, N). **Traced**.
      allowed: whether anything is replaced, (). **Traced**.
      use: of each atom, (N,); None takes the mean absolute codes. **Traced**.
      signed: whether atoms of opposite direction are twins. **Static**.

    Returns:
      The dictionary, the codes with zeros for new atoms, and which are new, (N,).
    """
    num_atoms = dictionary.shape[0]
    use = mean_use(codes) if use is None else use
    cosines = jnp.matmul(dictionary, dictionary.T, precision="highest")
    cosines = jnp.abs(cosines) if signed else cosines
    earlier = jnp.tril(jnp.ones((num_atoms, num_atoms), bool), -1)
    twin = jnp.any((cosines > _TWINS) & earlier, axis=1)
    out = allowed & ((use <= _DEAD * jnp.mean(use)) | twin)
    residual = signals - dictionaries.reconstruct(codes, dictionary)
    candidates = min(num_atoms, signals.shape[0])
    _, worst = jax.lax.top_k(jnp.sum(residual * residual, axis=-1), candidates)
    rank = jnp.maximum(jnp.cumsum(out) - 1, 0)
    if candidates < num_atoms:  # a small batch has no residual for the rest
        out, rank = out & (rank < candidates), jnp.minimum(rank, candidates - 1)
    fresh = dictionaries.normalize(residual[worst][rank])
    dead = jnp.sum(fresh * fresh, axis=-1, keepdims=True) == 0
    fresh = jnp.where(dead, dictionary, fresh)
    return jnp.where(out[:, None], fresh, dictionary), jnp.where(out, 0, codes), out


def renew_atoms(
    key: Key,
    signals: Array,
    dictionary: Array,
    codes: Array,
    allowed: Array,
    *,
    signed: bool = False,
) -> tuple[Array, Array, Array]:
    r"""Put residuals in the places of atoms that earn nothing, or that few signals use.

    An atom goes if its energy :math:`e_j = \sum z_j^2` is negligible, if its participation ratio
    :math:`e_j^2 / \sum z_j^4`, the number of signals that share it, is far below the mean (it has
    memorized some signals), or if an atom of more energy is almost the same. Residuals are drawn
    without replacement, by their energy.

    Args:
      key: of the draw. **Traced**.
      signals: (B, M). **Traced**.
      dictionary: unit atoms, (N, M). **Traced**.
      codes: (B, N). **Traced**.
      allowed: whether anything is renewed, (). **Traced**.
      signed: whether atoms of opposite direction are the same. **Static**.

    Returns:
      The dictionary, the codes with zeros for new atoms, and which are new, (N,).
    """
    num_atoms = dictionary.shape[0]
    squares = codes * codes
    energy = jnp.sum(squares, axis=0)
    fourth = jnp.sum(squares * squares, axis=0)
    shared = energy * energy / jnp.where(fourth > 0, fourth, 1)
    cosines = jnp.matmul(dictionary, dictionary.T, precision="highest")
    cosines = jnp.abs(cosines) if signed else cosines
    place = jnp.arange(num_atoms)
    ties = (energy == energy[:, None]) & (place < place[:, None])
    stronger = (energy > energy[:, None]) | ties
    out = jnp.any((cosines > _CLOSE) & stronger, axis=1)
    out |= (shared <= _FEW * jnp.mean(shared)) | (energy <= _DEAD * jnp.mean(energy))
    residual = signals - dictionaries.reconstruct(codes, dictionary)
    sizes = jnp.sum(residual * residual, axis=-1)
    chance = jnp.log(sizes + jnp.finfo(sizes.dtype).tiny)
    chance = chance + jax.random.gumbel(key, sizes.shape, sizes.dtype)
    count = min(num_atoms, signals.shape[0])
    _, drawn = jax.lax.top_k(chance, count)
    rank = jnp.cumsum(out) - 1
    out = allowed & out & (rank < count)
    fresh = dictionaries.normalize(residual[drawn][jnp.clip(rank, 0, count - 1)])
    out &= jnp.sum(fresh * fresh, axis=-1) > 0
    return jnp.where(out[:, None], fresh, dictionary), jnp.where(out, 0, codes), out
