"""Scores of a sparse autoencoder whose signals come from known features, batch by batch.

The definitions are those of SAELens (``sae_lens.synthetic``), so that scores can be put beside
published ones; ``tests/bench/test_saelens.py`` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._scaling import unit_of
from sparsecode_jax._sharding import automatic, one_mesh, relabeled, to_host
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.metrics._matching import matched_mean, unit_atoms
from sparsecode_jax.metrics._samples import Codes, norm_ratios, same_shape
from sparsecode_jax.types import Array, ArrayLike

__all__ = ["FeatureScores", "latent_f1", "score_features", "uniqueness"]

Read = Array | SparseCodes  # codes that were read and checked
Batch = tuple[ArrayLike, Codes, Codes, ArrayLike]

_ATOMS_AT_ONCE = 256  # that are compared with all true ones
_SAMPLES_AT_ONCE = 32  # whose true codes, where they are sparse, are looked up in a dense row each


class FeatureScores(NamedTuple):
    """What :func:`score_features` finds, in double precision on the host.

    Attributes:
      f1: (N',), of each latent, as in :func:`latent_f1`; the published F1 is its mean.
      precision: (N',), of the samples where a latent fires, the fraction where its feature does.
      recall: (N',), of the samples where its feature fires, the fraction where the latent does.
      mcc: of the dictionaries, :func:`matched_dictionary_mcc`.
      uniqueness: of the dictionaries, :func:`uniqueness`.
      explained_variance: about the mean of all signals, as in :func:`r2`.
      l0: the mean number of active latents per sample, :func:`l0`.
      true_l0: the same of the true codes.
      dead_fraction: of latents that no sample activates, :func:`dead_fraction`.
      shrinkage: :func:`shrinkage`.
      num_samples: S, of all batches together.
    """

    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    mcc: float
    uniqueness: float
    explained_variance: float
    l0: float
    true_l0: float
    dead_fraction: float
    shrinkage: float
    num_samples: int


class _Counts(NamedTuple):
    """Numbers of samples, (N',) integers: a latent fires, its feature does, both do."""

    fires: Any
    true: Any
    both: Any


class _Total(NamedTuple):
    """Sums over all samples so far, on the host: Python's and NumPy's integers and doubles."""

    num_samples: int
    counts: _Counts
    num_true: int
    mean: np.ndarray
    squares: float
    errors: float
    ratios: float
    num_ratios: int


class _Sums(NamedTuple):
    """Sums over the samples of one batch, of signals and errors in units of ``unit``."""

    counts: _Counts
    num_true: Array  # active true codes
    unit: Array
    mean: Array  # (M,)
    rest: Array  # (M,), of deviations from that mean, which is rounded
    squares: Array  # (M,), of the same deviations
    errors: Array  # (M,), of squares
    ratios: Array
    num_ratios: Array


@automatic
def latent_f1(
    true_codes: Codes, codes: Codes, *, true_dictionary: ArrayLike, dictionary: ArrayLike
) -> Array:
    r"""Return how well each latent detects the true feature that its atom is nearest to.

    Latent j stands for the feature with the largest absolute cosine between their atoms. Several
    latents may stand for one feature: they are not matched one to one.

    .. math:: F_j = \frac{2 P_j R_j}{P_j + R_j},\quad
       P_j = \frac{\#(z_j \ne 0 \wedge z^*_{i(j)} > 0)}{\#(z_j \ne 0)},\quad
       R_j = \frac{\#(z_j \ne 0 \wedge z^*_{i(j)} > 0)}{\#(z^*_{i(j)} > 0)}

    where # counts samples. What is undefined is 0. :func:`score_features` takes more samples than
    fit into memory, and returns precision and recall too.

    Args:
      true_codes: (S, N), which fire where they are positive. **Traced**.
      codes: (S, N'), which fire where they are not 0. Neither these nor the true codes are made
        dense if they are :class:`~sparsecode_jax.SparseCodes`. **Traced**.
      true_dictionary: (N, M), of any norms. **Traced**.
      dictionary: (N', M), of any norms. **Traced**.

    Returns:
      (N',), from 0 to 1; NaN under jit if any argument holds what is not finite.

    Raises:
      ValueError: shapes that disagree, or numbers that are not finite.

    Example:
      >>> import jax.numpy as jnp, sparsecode_jax as sc
      >>> true = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> found = jnp.array([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
      >>> atoms = jnp.eye(2)
      >>> sc.metrics.latent_f1(true, found, true_dictionary=atoms, dictionary=atoms[::-1])
      Array([0.6666667, 0.8      ], dtype=float32)
    """
    name = "latent_f1"
    true_atoms, atoms = _two_dictionaries(name, true_dictionary, dictionary)
    true_codes, codes = _two_codes(name, true_codes, codes, true_atoms, atoms)
    return _latent_f1(true_codes, codes, true_atoms, atoms)


@automatic
def uniqueness(true_dictionary: ArrayLike, dictionary: ArrayLike) -> Array:
    """Return how many true features are the nearest one of some latent, per latent.

    The nearest one has the largest absolute cosine, as in :func:`latent_f1`.

    Args:
      true_dictionary: (N, M), of any norms. **Traced**.
      dictionary: (N', M), of any norms. **Traced**.

    Returns:
      A scalar, from 1/N' (all latents stand for one feature) to 1 (each has its own); NaN under
      jit if a dictionary holds what is not finite.

    Raises:
      ValueError: shapes that disagree, or numbers that are not finite.
    """
    true_atoms, atoms = _two_dictionaries("uniqueness", true_dictionary, dictionary)
    return _uniqueness(true_atoms, atoms)


def score_features(
    batches: Iterable[Batch], *, true_dictionary: ArrayLike, dictionary: ArrayLike
) -> FeatureScores:
    """Score a sparse autoencoder against known features, over as many batches as there are.

    The scores are those of the functions of one batch on all samples at once, whatever the sizes
    of batches: counts are integers, sums over batches are in double precision, and variances are
    about the mean of all signals. Batches of one shape share a compiled program.

    Args:
      batches: tuples (signals, true_codes, codes, reconstruction) with shapes (S, M), (S, N),
        (S, N') and (S, M), such as a generator gives; S may change. Codes are arrays or
        :class:`~sparsecode_jax.SparseCodes`, which are not made dense.
      true_dictionary: (N, M), of any norms.
      dictionary: (N', M), of any norms.

    Returns:
      :class:`FeatureScores`.

    Raises:
      ValueError: shapes that disagree, numbers that are not finite, fewer than 2 samples.
      TypeError: a batch that is no such tuple, or arrays that are traced.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=500, num_measurements=16, num_atoms=24
      ... )
      >>> codes = sc.sparse_encode(problem.signals, problem.dictionary, num_active=3)
      >>> batch = problem.signals, problem.codes, codes, codes @ problem.dictionary
      >>> same = {"true_dictionary": problem.dictionary, "dictionary": problem.dictionary}
      >>> scores = sc.metrics.score_features([batch], **same)
      >>> bool(scores.f1.mean() > 0.95), round(scores.mcc, 4), scores.num_samples
      (True, 1.0, 500)
    """
    name = "score_features"
    if not (_checks.concrete(true_dictionary) and _checks.concrete(dictionary)):
        raise TypeError(
            f"{name}: a dictionary is traced, but batches are added up on the host; arrays are "
            "expected. Call it outside of jit, vmap and grad, or see latent_f1."
        )
    pair = relabeled((true_dictionary, dictionary))
    one_mesh(name, true_dictionary=pair[0], dictionary=pair[1])
    true_atoms, atoms = _two_dictionaries(name, *pair)
    nearest = _nearest(true_atoms, atoms)
    found = _no_samples(atoms)
    for number, batch in enumerate(_listed(name, batches)):
        arrays = _one_batch(f"{name}: batch {number}", batch, true_atoms, atoms)
        found = _added(found, len(arrays[0]), jax.tree.map(to_host, _sums(*arrays, nearest)))
    if found.num_samples < 2:
        raise ValueError(
            f"{name}: {found.num_samples} samples in all batches; at least 2 are expected. A "
            "generator that was read before is empty: make a new one."
        )
    precision, recall, f1 = _rates(found.counts, np)
    matched = matched_mean(true_atoms, atoms.T, over=min(len(true_atoms), len(atoms)))
    with np.errstate(divide="ignore", invalid="ignore"):  # signals that are constant, or all 0
        explained = float(1 - np.float64(found.errors) / found.squares)
        shrunk = float(np.float64(found.ratios) / found.num_ratios)
    return FeatureScores(
        f1=f1,
        precision=precision,
        recall=recall,
        mcc=float(matched),
        uniqueness=len(np.unique(to_host(nearest))) / len(atoms),
        explained_variance=explained,
        l0=float(found.counts.fires.sum() / found.num_samples),
        true_l0=found.num_true / found.num_samples,
        dead_fraction=float(np.mean(found.counts.fires == 0)),
        shrinkage=shrunk,
        num_samples=found.num_samples,
    )


@jax.jit
def _latent_f1(true_codes: Read, codes: Read, true_atoms: Array, atoms: Array) -> Array:
    f1 = _rates(_counts(true_codes, codes, _nearest(true_atoms, atoms)), jnp)[2]
    known = jnp.all(jnp.isfinite(_values(true_codes))) & jnp.all(jnp.isfinite(_values(codes)))
    return jnp.where(known & _known(true_atoms, atoms), f1, jnp.nan)


@jax.jit
def _uniqueness(true_atoms: Array, atoms: Array) -> Array:
    used = jnp.zeros(len(true_atoms), bool).at[_nearest(true_atoms, atoms)].set(True)
    return jnp.where(_known(true_atoms, atoms), jnp.sum(used) / len(atoms), jnp.nan)


def _known(true_atoms: Array, atoms: Array) -> Array:
    """Say whether all atoms were finite: those of unit norm are NaN if they were not."""
    return ~(jnp.any(jnp.isnan(true_atoms)) | jnp.any(jnp.isnan(atoms)))


@jax.jit
def _nearest(true_atoms: Array, atoms: Array) -> Array:
    """Return the true atom of largest absolute cosine for each atom, (N',), without (N', N)."""

    def best(atom: Array) -> Array:
        cosines = jnp.matmul(true_atoms, atom, precision=jax.lax.Precision.HIGHEST)
        return jnp.argmax(jnp.abs(cosines))

    return jax.lax.map(best, atoms, batch_size=_ATOMS_AT_ONCE)


def _counts(true_codes: Read, codes: Read, nearest: Array) -> _Counts:
    """Count the samples of latents and of the features that are nearest to them."""
    fires = _values(codes) != 0
    true = _by_latent(_values(true_codes) > 0, true_codes)[nearest]
    both = fires & (_true_values(true_codes, codes, nearest) > 0)
    return _Counts(_by_latent(fires, codes), true, _by_latent(both, codes))


def _true_values(true_codes: Read, codes: Read, nearest: Array) -> Array:
    """Return the true code that belongs to each code: (S, N'), or (S, K) of sparse codes."""
    if isinstance(codes, SparseCodes):
        wanted = nearest[codes.indices]
    else:
        wanted = jnp.broadcast_to(nearest[None], codes.shape)
    if not isinstance(true_codes, SparseCodes):
        return jnp.take_along_axis(true_codes, wanted, axis=-1)
    row = jnp.zeros(true_codes.num_atoms, true_codes.dtype)

    def look_up(sample: tuple[Array, Array, Array]) -> Array:
        values, places, wanted = sample
        return row.at[places].add(values)[wanted]

    samples = true_codes.values, true_codes.indices, wanted
    return jax.lax.map(look_up, samples, batch_size=_SAMPLES_AT_ONCE)


def _by_latent(flags: Array, codes: Read) -> Array:
    """Count flags, one for each code (S, N) or slot (S, K), by latent: (N,)."""
    if not isinstance(codes, SparseCodes):
        return jnp.sum(flags, axis=0, dtype=jnp.int32)
    zeros = jnp.zeros(codes.num_atoms, jnp.int32)
    return zeros.at[codes.indices].add(flags.astype(jnp.int32))


def _values(codes: Read) -> Any:
    return codes.values if isinstance(codes, SparseCodes) else codes


def _rates(counts: _Counts, xp: Any) -> tuple[Any, Any, Any]:
    """Return precision, recall and F1; what is undefined has no sample in common, and is 0."""
    fires, true, both = counts
    precision, recall = both / xp.maximum(fires, 1), both / xp.maximum(true, 1)
    return precision, recall, 2 * both / xp.maximum(fires + true, 1)


@jax.jit
def _sums(
    signals: Array, true_codes: Read, codes: Read, reconstruction: Array, nearest: Array
) -> _Sums:
    precise = jnp.promote_types(signals.dtype, jnp.float32)
    signals, reconstruction = signals.astype(precise), reconstruction.astype(precise)
    unit, inverse = unit_of(signals, axis=(0, 1))
    scaled = signals * inverse
    mean = jnp.mean(scaled, axis=0)
    deviations = scaled - mean[None]
    ratios, defined = norm_ratios(signals, reconstruction)
    return _Sums(
        counts=_counts(true_codes, codes, nearest),
        num_true=jnp.sum(_values(true_codes) != 0, dtype=jnp.int32),
        unit=unit[0, 0],
        mean=mean,
        rest=jnp.sum(deviations, axis=0),
        squares=jnp.sum(deviations**2, axis=0),
        errors=jnp.sum((scaled - reconstruction * inverse) ** 2, axis=0),
        ratios=jnp.sum(jnp.where(defined, ratios, 0)),
        num_ratios=jnp.sum(defined, dtype=jnp.int32),
    )


def _no_samples(atoms: Array) -> _Total:
    none = np.zeros(len(atoms), np.int64)
    return _Total(0, _Counts(none, none, none), 0, np.zeros(atoms.shape[1]), 0.0, 0.0, 0.0, 0)


def _added(total: _Total, size: int, batch: _Sums) -> _Total:
    """Add a batch: variances about two means become one about their common mean (Chan)."""
    unit = float(batch.unit)
    mean = unit * (batch.mean + batch.rest.astype(np.float64) / size)
    squares = unit**2 * float(np.sum(batch.squares, dtype=np.float64))
    both, between = total.num_samples + size, mean - total.mean
    between_squares = float(np.sum(between**2)) * total.num_samples * size / both
    return _Total(
        num_samples=both,
        counts=_Counts(*map(np.add, total.counts, batch.counts)),
        num_true=total.num_true + int(batch.num_true),
        mean=total.mean + between * (size / both),
        squares=total.squares + squares + between_squares,
        errors=total.errors + unit**2 * float(np.sum(batch.errors, dtype=np.float64)),
        ratios=total.ratios + float(batch.ratios),
        num_ratios=total.num_ratios + int(batch.num_ratios),
    )


def _two_dictionaries(
    name: str, true_dictionary: ArrayLike, dictionary: ArrayLike
) -> tuple[Array, Array]:
    """Return both dictionaries with atoms of unit norm, or raise."""
    for label, array in (("true dictionary", true_dictionary), ("dictionary", dictionary)):
        _checks.matrix(name, label, _checks.floating(name, array)[0])
    return unit_atoms(name, true_dictionary, dictionary)


def _two_codes(
    name: str, true_codes: Codes, codes: Codes, true_atoms: Array, atoms: Array
) -> tuple[Read, Read]:
    """Return both codes as they are, of arrays, or raise."""
    true_read, read = _floating_codes(name, true_codes), _floating_codes(name, codes)
    for label, one, rows in (("true codes", true_read, true_atoms), ("codes", read, atoms)):
        if one.ndim != 2 or 0 in one.shape or one.shape[1] != len(rows):
            raise ValueError(
                f"{name}: the {label} have shape {one.shape}; (S, {len(rows)}) is expected: a row "
                f"for each of at least one sample, an entry for each of {len(rows)} atoms."
            )
    if true_read.shape[0] != read.shape[0]:
        raise ValueError(
            f"{name}: true codes {true_read.shape} and codes {read.shape} have different numbers "
            "of samples; rows of both that belong to the same signals are expected."
        )
    _checks.finite(name, true_codes=_values(true_read), codes=_values(read))
    return true_read, read


def _floating_codes(name: str, codes: Codes) -> Any:
    if not isinstance(codes, SparseCodes):
        return _checks.floating(name, codes)[0]
    values, indices = codes.checked()
    return SparseCodes(_checks.floating(name, values)[0], indices, codes.num_atoms)


def _listed(name: str, batches: Any) -> Iterator:
    try:
        return iter(batches)
    except TypeError:
        raise TypeError(
            f"{name}: batches is {type(batches).__name__}; an iterable of tuples (signals, "
            "true_codes, codes, reconstruction) is expected, such as a list or a generator."
        ) from None


def _one_batch(
    name: str, batch: Any, true_atoms: Array, atoms: Array
) -> tuple[Array, Read, Read, Array]:
    """Return the arrays of a batch, or raise."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 4:
        raise TypeError(
            f"{name} is {type(batch).__name__}; a tuple (signals, true_codes, codes, "
            "reconstruction) is expected. A single batch goes into a list."
        )
    if not all(map(_checks.concrete, jax.tree.leaves(batch))):
        raise TypeError(
            f"{name} is traced, but batches are added up on the host; arrays are expected. Call it "
            "outside of jit, vmap and grad, or see latent_f1."
        )
    signals, true_codes, codes, reconstruction = relabeled(tuple(batch))
    one_mesh(
        name, signals=signals, true_codes=true_codes, codes=codes, reconstruction=reconstruction,
        true_dictionary=true_atoms, dictionary=atoms,
    )  # fmt: skip
    signals, reconstruction = same_shape(name, signals, reconstruction)
    true_codes, codes = _two_codes(name, true_codes, codes, true_atoms, atoms)
    expected = len(_values(codes)), atoms.shape[1]
    if signals.shape != expected:
        raise ValueError(
            f"{name}: the signals have shape {signals.shape}; {expected} is expected, a row for "
            "each row of the codes and a measurement for each of the atoms."
        )
    _checks.finite(name, signals=signals, reconstruction=reconstruction)
    return signals, true_codes, codes, reconstruction
