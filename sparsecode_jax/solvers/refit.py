"""Least squares on the support of given codes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from sparsecode_jax import _checks
from sparsecode_jax._scaling import unit_of
from sparsecode_jax._sharding import Layout, by_signal, on_automatic_axes, over_devices
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.dictionaries import Prepared, opened, unit_atoms
from sparsecode_jax.prox import keeps_negatives, nonnegative_soft_threshold
from sparsecode_jax.solvers import _support
from sparsecode_jax.solvers._spread import held, spread
from sparsecode_jax.types import Array, ArrayLike, Lasso

__all__ = ["refit"]

_BLOCK = 2**26  # numbers of the atoms that are gathered at once
_Atoms = tuple[Array, Array | None]  # a dictionary, and its Gram matrix where it is known


@on_automatic_axes
def refit(
    codes: ArrayLike | SparseCodes,
    signals: ArrayLike,
    dictionary: ArrayLike | Prepared,
    *,
    num_active: int | None = None,
    prox: Callable[[Array, Array], Array] = nonnegative_soft_threshold,
) -> Any:
    r"""Keep the support of given codes, such as an encoder's, and fit the codes anew on it.

    .. math:: \min_z \|x - zD\|^2 \quad\text{subject to}\quad
       \mathrm{supp}(z) \subseteq \mathrm{supp}(H_K(z_0)),\ z \ge 0

    Non-negative codes are the non-negative least squares, by 2K exchanges of one atom each.

    Args:
      codes: z_0, (..., N), or :class:`~sparsecode_jax.SparseCodes` of them. **Traced**.
      signals: (..., M). **Traced**.
      dictionary: (N, M), prepared or not. **Traced**.
      num_active: K: the support is that of the K largest magnitudes; None for all slots of
        ``SparseCodes``. **Static**.
      prox: ``nonnegative_soft_threshold`` for non-negative codes; ``soft_threshold`` for signed
        ones, which are plain least squares. **Static**.

    Returns:
      Codes (..., N), by value and place if the given ones are.

    Raises:
      ValueError: shapes that disagree, non-finite numbers, a zero atom, no signal, or num_active
        is not an integer from 1 to N (or to the number of slots).

    **Cost**: 2MK^2 + 2MK + 3K + 2M - 1 arithmetic operations per signal (2K^2 in the place of 2MK^2
    where the dictionary is prepared and has its Gram matrix), and K(K + 1)(2K + 1)/6 + 2K^2 for
    signed codes or 4K^3 + 20K^2 + 9K - 2 for non-negative ones; 5MN once, or 5MK per signal where
    there are fewer than N/K. It works on blocks of signals whose atoms, K of M numbers each, take
    at most 256 MB in float32.

    References:
      Lawson and Hanson, 1974, chapter 23.
    """
    name = "refit"
    codes, signals, dictionary, gram = check_codes(name, codes, signals, dictionary)
    if num_active is None and isinstance(codes, SparseCodes):
        num_active = codes.values.shape[-1]
    _checks.count(name, "num_active", num_active)
    _checks.num_active(name, num_active, dictionary.shape[0])
    if isinstance(codes, SparseCodes) and num_active > codes.values.shape[-1]:  # type: ignore[operator]
        raise ValueError(
            f"{name}: num_active is {num_active}, but the codes have {codes.values.shape[-1]} "
            "slots; at most that many is expected. Leave num_active out to take them all."
        )
    signed = keeps_negatives(name, prox)
    zero = jnp.zeros((), signals.dtype)
    problem = Lasso(signals, dictionary, zero, zero)
    codes, layout = spread(name, None, problem, codes)
    dictionary = held(signals, dictionary)
    gram = None if gram is None else held(signals, gram)
    return _refit(codes, signals, (dictionary, gram), num_active, signed, layout)


def check_codes(
    name: str, codes: Any, signals: Any, dictionary: Any
) -> tuple[Array | SparseCodes, Array, Array, Array | None]:
    """Return codes, dense or not, signals, the dictionary and its Gram matrix if any, or raise."""
    dictionary, _, gram = opened(dictionary)
    sparse = isinstance(codes, SparseCodes)
    values, places = codes.checked() if sparse else (codes, None)
    values, signals, dictionary = _checks.floating(name, values, signals, dictionary)
    _checks.signals_shape(name, signals)
    _checks.dictionary_matrix(name, dictionary)
    _checks.same_measurements(name, signals, dictionary)
    codes = dataclasses.replace(codes, values=values, indices=places) if sparse else values
    expected = signals.shape[:-1] + dictionary.shape[:1]
    _checks.codes_shape(name, "the codes", codes, expected)
    _checks.finite(name, codes=values, signals=signals, dictionary=dictionary)
    return codes, signals, dictionary, _checks.gram_matrix(name, gram, dictionary)


@functools.partial(jax.jit, static_argnames=("num_active", "signed", "layout"))
def _refit(
    codes: Array | SparseCodes,
    signals: Array,
    dictionary: _Atoms,
    num_active: int,
    signed: bool,
    layout: Layout | None,
) -> Any:
    fit = functools.partial(_in_blocks, num_active=num_active, signed=signed)
    rows, whole = by_signal(layout), PartitionSpec()
    return over_devices(fit, layout, (rows, rows, whole), rows)(codes, signals, dictionary)


def _in_blocks(
    codes: Any, signals: Array, dictionary: _Atoms, *, num_active: int, signed: bool
) -> Any:
    """Fit as many signals at a time as their atoms leave room for."""
    count = signals.size // signals.shape[-1]
    # Of few signals only the atoms that they use are scaled to unit norm.
    once = _unit_atoms(dictionary[0]) if count * num_active >= dictionary[0].shape[0] else None

    def fit(codes: Any, signals: Array) -> Any:
        return _fit(codes, signals, dictionary, once, num_active=num_active, signed=signed)

    width = num_active * signals.shape[-1]
    if count * width <= _BLOCK:
        return fit(codes, signals)
    leading = signals.shape[:-1]
    rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (codes, signals))
    fits = jax.lax.map(lambda row: fit(*row), rows, batch_size=max(1, _BLOCK // width))
    return jax.tree.map(lambda x: x.reshape(*leading, x.shape[-1]), fits)


def _unit_atoms(atoms: Array) -> tuple[Array, Array]:
    """Scale atoms (..., M) to unit norm; return what codes of these are multiplied by, too."""
    small = unit_of(atoms)[1]  # or squares of atoms of 1e-20 would be 0, and of 1e20 infinite
    atoms, norms, _ = unit_atoms(atoms * small)
    return atoms, small[..., 0] / norms


def _fit(
    codes: Any,
    signals: Array,
    dictionary: _Atoms,
    once: tuple[Array, Array] | None,
    *,
    num_active: int,
    signed: bool,
) -> Any:
    sparse = isinstance(codes, SparseCodes)
    magnitudes, places = jax.lax.top_k(jnp.abs(codes.values if sparse else codes), num_active)
    if sparse:
        places = _support.at(codes.indices, places)
    if once is None:
        chosen, scale = jax.lax.optimization_barrier(_unit_atoms(dictionary[0][places]))
    else:
        chosen, scale = once[0][places], once[1][places]
    if dictionary[1] is None:
        block = jnp.einsum("...km,...lm->...kl", chosen, chosen, precision="highest")
    else:
        block = _support.block_of(dictionary[1], places) * scale[..., :, None] * scale[..., None, :]
    unit, inverse = unit_of(signals)  # or squares of signals of 1e-20 would be 0
    projections = jnp.einsum("...m,...km->...k", signals * inverse, chosen, precision="highest")
    values = _support.fit(block, projections, magnitudes > 0, signed) * unit * scale
    # Not of the largest alone: of a part of what ``top_k`` returns XLA makes a sort of all codes.
    known = jnp.isfinite(projections) & jnp.isfinite(magnitudes)
    known = jnp.all(known, axis=-1, keepdims=True)
    if sparse:
        return SparseCodes(jnp.where(known, values, jnp.nan), places, codes.num_atoms)
    none = jnp.where(known, jnp.zeros_like(codes), jnp.nan)  # of what is not finite
    return _support.add_at(none, places, values)
