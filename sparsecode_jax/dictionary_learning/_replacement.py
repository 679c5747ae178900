"""Where atoms begin, and what takes the places of those that earn nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from sparsecode_jax import dictionaries
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = [
    "WIDE",
    "average_moments",
    "code_moments",
    "renew_atoms",
    "rms_norm",
    "start_from_signals",
]

WIDE = 8192  # atoms, above which nothing of N x N numbers is made (256 MiB in float32)
_ROWS = 1024  # of atoms at a time, then
_DEAD = 1e-3  # an atom of less than this fraction of the mean energy
_FEW = 0.1  # an atom of few large codes: this fraction of the mean participation ratio
_CLOSE = 0.98  # the cosine from which the weaker of two atoms is renewed


def code_moments(codes: Array) -> Array:
    """Return the mean square and the mean fourth power of each atom's codes, (2, N)."""
    squares = codes * codes
    return jnp.stack([jnp.mean(squares, axis=0), jnp.mean(squares * squares, axis=0)])


def rms_norm(signals: Array) -> Array:
    """Return the root mean square norm of signals (B, M), whatever their scale; 1 if all are 0."""
    largest = jnp.max(jnp.abs(signals))
    largest = jnp.where(largest > 0, largest, 1)
    scaled = signals / largest
    return largest * jnp.maximum(jnp.sqrt(jnp.mean(jnp.sum(scaled * scaled, axis=-1))), 1e-30)


def start_from_signals(key: Key, signals: Array, num_atoms: int) -> Array:
    """Draw unit atoms (N, M) from signals (B, M) without replacement."""
    places = jax.random.choice(key, signals.shape[0], (num_atoms,), replace=False)
    return dictionaries.unit_rows(_spread(signals[places], key))


def _spread(atoms: Array, key: Key) -> Array:
    """Replace zero signals by noise, so that every atom has a direction."""
    zero = jnp.sum(atoms * atoms, axis=-1, keepdims=True) == 0
    return jnp.where(zero, jax.random.normal(key, atoms.shape, atoms.dtype), atoms)


def renew_atoms(
    key: Key,
    signals: Array,
    dictionary: Array,
    codes: Array,
    allowed: ArrayLike = True,
    moments: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Put residuals in the places of atoms that earn nothing, or that few signals use.

    An atom goes if its energy :math:`e_j = \mathrm{E} z_j^2` is negligible, if its participation
    ratio :math:`e_j^2 / \mathrm{E} z_j^4`, the fraction of signals that share it, is far below the
    mean (it has memorized some signals), or if an atom of more energy is almost the same (or, where
    codes are negative, its opposite). Residuals are drawn without replacement, by their energy.

    Args:
      key: of the draw. **Traced**.
      signals: (B, M). **Traced**.
      dictionary: unit atoms, (N, M). **Traced**.
      codes: (B, N). **Traced**.
      allowed: whether anything is renewed, (). **Traced**.
      moments: of the codes, (2, N), over more signals than these; None takes those of ``codes``.
        **Traced**.

    Returns:
      The dictionary, the codes with zeros for new atoms, and which are new, (N,).
    """
    num_atoms = dictionary.shape[0]
    energy, fourth = code_moments(codes) if moments is None else moments
    shared = _participation(energy, fourth)
    place, signed = jnp.arange(num_atoms), jnp.any(codes < 0)

    def has_stronger_twin(atom: Array, mine: Array, here: Array) -> Array:
        cosines = jnp.matmul(dictionary, atom, precision="highest")
        cosines = jnp.where(signed, jnp.abs(cosines), cosines)
        stronger = (energy > mine) | ((energy == mine) & (place < here))
        return jnp.any((cosines > _CLOSE) & stronger)

    each = dictionary, energy, place
    if num_atoms > WIDE:
        out = jax.lax.map(lambda one: has_stronger_twin(*one), each, batch_size=_ROWS)
    else:
        out = jax.vmap(has_stronger_twin)(*each)
    out |= (shared <= _FEW * jnp.mean(shared)) | (energy <= _DEAD * jnp.mean(energy))
    residual = signals - dictionaries.reconstruct(codes, dictionary)
    sizes = jnp.sum(residual * residual, axis=-1)
    chance = jnp.log(sizes + jnp.finfo(sizes.dtype).tiny)
    chance = chance + jax.random.gumbel(key, sizes.shape, sizes.dtype)
    count = min(num_atoms, signals.shape[0])
    _, drawn = jax.lax.top_k(chance, count)
    rank = jnp.cumsum(out) - 1
    out = jnp.asarray(allowed) & out & (rank < count)
    fresh = dictionaries.unit_rows(residual[drawn][jnp.clip(rank, 0, count - 1)])
    out &= jnp.sum(fresh * fresh, axis=-1) > 0
    return jnp.where(out[:, None], fresh, dictionary), jnp.where(out[None], 0, codes), out


def average_moments(moments: Array, new: Array) -> Array:
    """Give new atoms (N,) the mean energy and participation: they have time to prove themselves."""
    energy, fourth = moments
    shared = jnp.mean(_participation(energy, fourth))
    mean = jnp.mean(energy)
    usual = mean * mean / jnp.where(shared > 0, shared, 1)
    return jnp.stack([jnp.where(new, mean, energy), jnp.where(new, usual, fourth)])


def _participation(energy: Array, fourth: Array) -> Array:
    return energy * energy / jnp.where(fourth > 0, fourth, 1)
