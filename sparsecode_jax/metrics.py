"""Metrics of codes and dictionaries: the mean correlation coefficient (MCC) in its named variants.

"MCC" means several things in the literature; each variant here has its own name, and
:func:`mcc_chance` and :func:`dictionary_mcc_chance` give the score of an unrelated answer, which is
far from zero when the dimension is small (0.67 for random dictionaries of 16 atoms in 8
dimensions). Codes may be :class:`~sparsecode_jax.SparseCodes` in all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._scaling import in_units, unit_of
from sparsecode_jax._sharding import automatic, to_host
from sparsecode_jax._sparse import SparseCodes, dense
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = [
    "dead_fraction",
    "dictionary_mcc",
    "dictionary_mcc_chance",
    "l0",
    "latent_correlation",
    "mcc",
    "mcc_chance",
    "mse",
    "nearest_neighbor_cosine",
    "pearson_dictionary_mcc",
    "r2",
]

Codes = ArrayLike | SparseCodes

_MIN_VARIANCE = 1e-12  # below it, in units of its largest value, a latent counts as constant


@automatic
def mcc(true_codes: Codes, codes: Codes) -> Array:
    r"""Return the latent MCC: correlate every pair of latents, match them, average.

    .. math:: \frac1N \max_{\pi} \sum_{i} |\mathrm{corr}(z^*_i, z_{\pi(i)})|

    over one-to-one assignments :math:`\pi` (the optimal one, by the Hungarian algorithm). A latent
    that does not vary (by more than a millionth of its largest magnitude) has correlation 0. With
    fewer latents than true ones the unmatched true latents count as 0; with more, the best N are
    matched. No scale of a latent, however large or small, changes the value.

    Args:
      true_codes: (..., S, N). **Traced**.
      codes: (..., S, N'), the same leading axes. **Traced**.

    Returns:
      (...,), from 0 to 1. The value is the same under ``jit`` and ``vmap`` (optax's Hungarian
      algorithm) and on concrete arrays (scipy's, on the host, which is faster for large N).

    Raises:
      ValueError: shapes that disagree, or fewer than 2 samples.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> codes = jax.random.normal(jax.random.key(0), (100, 4))
      >>> float(sc.metrics.mcc(codes, -2 * codes[:, ::-1]).round(4))
      1.0
    """
    true_codes, codes = _checks.floating("mcc", dense(true_codes), dense(codes))
    _check_samples("mcc", true_codes, codes)
    _checks.finite("mcc", true_codes=true_codes, codes=codes)
    return _matched_mean(_absolute_correlations(true_codes, codes))


@automatic
def latent_correlation(true_codes: Codes, codes: Codes) -> Array:
    """Return the mean signed Pearson correlation of latent i with true latent i: no matching.

    The paper's metric where codes are known in training (0 where a latent does not vary, as in
    :func:`mcc`).

    Args:
      true_codes: (..., S, N). **Traced**.
      codes: (..., S, N). **Traced**.

    Returns:
      (...,), from -1 to 1.
    """
    true_codes, codes = _checks.floating("latent_correlation", dense(true_codes), dense(codes))
    _check_samples("latent_correlation", true_codes, codes)
    _checks.finite("latent_correlation", true_codes=true_codes, codes=codes)
    if true_codes.shape != codes.shape:
        raise ValueError(
            f"latent_correlation: true codes {true_codes.shape} and codes {codes.shape} differ; "
            "latents are compared one by one. Use mcc to match unequal numbers of latents."
        )
    return jnp.mean(jnp.sum(_standardize(true_codes) * _standardize(codes), axis=-2), axis=-1)


@automatic
def dictionary_mcc(true_dictionary: ArrayLike, dictionary: ArrayLike) -> Array:
    """Return the mean absolute cosine of optimally matched atoms, which may have any norms.

    Args:
      true_dictionary: (..., N, M). **Traced**.
      dictionary: (..., N', M). **Traced**.

    Returns:
      (...,), from 0 to 1; true atoms left without a partner (N' < N) count as 0.
    """
    name = "dictionary_mcc"
    return _matched_mean(_absolute_cosines(name, true_dictionary, dictionary, center=False))


@automatic
def pearson_dictionary_mcc(true_dictionary: ArrayLike, dictionary: ArrayLike) -> Array:
    """Return the paper's dictionary MCC: absolute Pearson correlation of matched atoms' entries.

    Atoms are centered over their coordinates before the cosine is taken, and matched optimally
    (this reproduces the published values to six digits).

    Args:
      true_dictionary: (..., N, M). **Traced**.
      dictionary: (..., N', M). **Traced**.

    Returns:
      (...,), from 0 to 1; true atoms left without a partner (N' < N) count as 0.
    """
    name = "pearson_dictionary_mcc"
    return _matched_mean(_absolute_cosines(name, true_dictionary, dictionary, center=True))


def mcc_chance(
    key: Key, true_codes: Codes, codes: Codes, *, num_draws: int = 20
) -> tuple[Array, Array]:
    """Return the latent MCC of codes whose samples are shuffled: the chance level.

    Args:
      key: PRNG key. **Traced**.
      true_codes: (S, N). **Traced**.
      codes: (S, N'). **Traced**.
      num_draws: shuffles. **Static**.

    Returns:
      Mean and standard deviation over the shuffles.
    """
    _checks.key("mcc_chance", key)
    true_codes, codes = _checks.floating("mcc_chance", dense(true_codes), dense(codes))
    _check_samples("mcc_chance", true_codes, codes)
    _checks.finite("mcc_chance", true_codes=true_codes, codes=codes)
    scores = [
        mcc(true_codes, jax.random.permutation(k, codes, axis=0))
        for k in jax.random.split(key, _checks.count("mcc_chance", "num_draws", num_draws))
    ]
    return jnp.mean(jnp.stack(scores)), jnp.std(jnp.stack(scores))


def dictionary_mcc_chance(
    key: Key,
    true_dictionary: ArrayLike,
    *,
    num_atoms: int | None = None,
    metric: Callable = dictionary_mcc,
    num_draws: int = 20,
) -> tuple[Array, Array]:
    """Return the dictionary MCC of random unit atoms: the chance level.

    Args:
      key: PRNG key. **Traced**.
      true_dictionary: (N, M). **Traced**.
      num_atoms: N' of the random dictionaries; None means N. **Static**.
      metric: ``dictionary_mcc`` or ``pearson_dictionary_mcc``: compare like with like. **Static**.
      num_draws: random dictionaries. **Static**.

    Returns:
      Mean and standard deviation over the draws.
    """
    _checks.key("dictionary_mcc_chance", key)
    _checks.function("dictionary_mcc_chance", "metric", metric)
    if num_atoms is not None:
        _checks.count("dictionary_mcc_chance", "num_atoms", num_atoms)
    (true_dictionary,) = _checks.floating("dictionary_mcc_chance", true_dictionary)
    _checks.matrix("dictionary_mcc_chance", "true dictionary", true_dictionary)
    _checks.finite("dictionary_mcc_chance", true_dictionary=true_dictionary)
    num_true, num_measurements = true_dictionary.shape
    scores = [
        metric(
            true_dictionary,
            dictionaries.random(
                k, num_atoms=num_atoms or num_true, num_measurements=num_measurements
            ),
        )
        for k in jax.random.split(
            key, _checks.count("dictionary_mcc_chance", "num_draws", num_draws)
        )
    ]
    return jnp.mean(jnp.stack(scores)), jnp.std(jnp.stack(scores))


@automatic
def mse(signals: ArrayLike, reconstruction: ArrayLike) -> Array:
    """Return the squared error averaged over samples and measurements.

    Args:
      signals: (..., S, M). **Traced**.
      reconstruction: the same shape. **Traced**.

    Returns:
      (...,).
    """
    signals, reconstruction = _same_shape("mse", signals, reconstruction)
    difference = signals - reconstruction
    unit, inverse = unit_of(difference, axis=(-2, -1))
    mean = jnp.mean((difference * inverse) ** 2, axis=(-2, -1), keepdims=True)
    return (mean * unit * unit)[..., 0, 0]


@automatic
def r2(signals: ArrayLike, reconstruction: ArrayLike) -> Array:
    """Return the explained variance: 1 - (squared error) / (squared deviation from the mean).

    Both sums run over all samples and measurements, so the value does not depend on how samples
    are batched or on the signals' scale, and predicting the mean signal scores 0.

    Args:
      signals: (..., S, M) with S >= 2. **Traced**.
      reconstruction: the same shape. **Traced**.

    Returns:
      (...,), at most 1.
    """
    signals, reconstruction = _same_shape("r2", signals, reconstruction)
    _checks.samples("r2", "signals", signals, minimum=2)
    _, inverse = unit_of(signals, axis=(-2, -1))
    signals, reconstruction = signals * inverse, reconstruction * inverse
    residual = jnp.sum((signals - reconstruction) ** 2, axis=(-2, -1))
    deviation = signals - jnp.mean(signals, axis=-2, keepdims=True)
    return 1 - residual / jnp.sum(deviation**2, axis=(-2, -1))


@automatic
def l0(codes: Codes, *, threshold: ArrayLike = 0.0) -> Array:
    """Return the mean number of latents per sample with ``|code| > threshold``.

    Args:
      codes: (..., S, N). **Traced**.
      threshold: >= 0; codes of unconverged or exponential parametrisations are never exactly 0.
        **Traced**.

    Returns:
      (...,), from 0 to N; NaN if a code or the threshold is.
    """
    values, threshold = _counted("l0", codes, threshold)
    active = jnp.abs(values) > threshold
    mean = jnp.mean(jnp.sum(active, axis=-1, dtype=jnp.result_type(float)), axis=-1)
    return _known(mean, values, threshold)


@automatic
def dead_fraction(codes: Codes, *, threshold: ArrayLike = 0.0) -> Array:
    """Return the fraction of latents that no sample activates.

    Args:
      codes: (..., S, N). **Traced**.
      threshold: a latent is active where ``|code| > threshold``. **Traced**.

    Returns:
      (...,), from 0 to 1; NaN if a code or the threshold is.
    """
    values, threshold = _counted("dead_fraction", codes, threshold)
    active = jnp.abs(values) > threshold
    if isinstance(codes, SparseCodes):
        flat = (*codes.shape[:-2], -1)
        counts, places = active.astype(jnp.int32).reshape(flat), codes.indices.reshape(flat)
        used = SparseCodes(counts, places, codes.num_atoms).dense() > 0
    else:
        used = jnp.any(active, axis=-2)
    return _known(jnp.mean(~used, axis=-1, dtype=jnp.result_type(float)), values, threshold)


@automatic
def nearest_neighbor_cosine(dictionary: ArrayLike) -> Array:
    """Return each atom's largest cosine with another atom, averaged over atoms.

    Args:
      dictionary: (N, M), N >= 2. **Traced**.

    Returns:
      A scalar, from -1 to 1; 1 means that every atom has a duplicate.
    """
    (dictionary,) = _checks.floating("nearest_neighbor_cosine", dictionary)
    _checks.matrix("nearest_neighbor_cosine", "dictionary", dictionary, minimum=2)
    atoms = dictionaries.normalize(dictionary)
    cosines = dictionaries.correlate(atoms, atoms)
    others = jnp.where(jnp.eye(cosines.shape[0], dtype=bool), -jnp.inf, cosines)
    return jnp.mean(jnp.max(others, axis=-1))


def _counted(name: str, codes: Codes, threshold: ArrayLike) -> tuple[Array, Array]:
    """Return the codes, or the values of sparse ones, and a threshold that they are counted by."""
    values = codes.checked()[0] if isinstance(codes, SparseCodes) else codes
    values, threshold = _checks.floating(name, values, threshold)
    _checks.samples(name, "codes", codes if isinstance(codes, SparseCodes) else values)
    _checks.scalar(name, "threshold", threshold)
    return values, threshold


def _known(value: Array, codes: Array, threshold: Array) -> Array:
    """Return a value (...,) of codes (..., S, N), NaN where comparisons met a NaN."""
    lost = jnp.any(jnp.isnan(codes) | jnp.isnan(threshold), axis=(-2, -1))
    return jnp.where(lost, jnp.nan, value)


def _standardize(codes: Array) -> Array:
    """Center columns and scale them to unit norm; constant columns become 0."""
    codes = in_units(codes.astype(jnp.promote_types(codes.dtype, jnp.float32)), axis=-2)
    mean = jnp.mean(codes, axis=-2, keepdims=True)
    centered = codes - mean
    squares = jnp.sum(centered**2, axis=-2, keepdims=True)
    rounding = (16 * jnp.finfo(codes.dtype).eps * mean) ** 2  # what is left of a large constant
    constant = squares / codes.shape[-2] < jnp.maximum(_MIN_VARIANCE, rounding)
    return jnp.where(constant, 0, centered / jnp.sqrt(jnp.where(constant, 1, squares)))


def _absolute_correlations(true_codes: Array, codes: Array) -> Array:
    columns = jnp.swapaxes(_standardize(true_codes), -1, -2)
    return jnp.abs(jnp.matmul(columns, _standardize(codes), precision=jax.lax.Precision.HIGHEST))


def _absolute_cosines(
    name: str, true_dictionary: ArrayLike, dictionary: ArrayLike, *, center: bool
) -> Array:
    true_dictionary, dictionary = _checks.floating(name, true_dictionary, dictionary)
    for label, array in (("true dictionary", true_dictionary), ("dictionary", dictionary)):
        if array.ndim < 2 or 0 in array.shape:
            raise ValueError(
                f"{name}: the {label} has shape {array.shape}; (N, M) is expected, with at least "
                "one atom of one measurement."
            )
    _checks.same_measurements(name, true_dictionary, dictionary)
    _checks.finite(name, true_dictionary=true_dictionary, dictionary=dictionary)
    true_dictionary, dictionary = in_units(true_dictionary), in_units(dictionary)
    if center:
        true_dictionary = true_dictionary - jnp.mean(true_dictionary, axis=-1, keepdims=True)
        dictionary = dictionary - jnp.mean(dictionary, axis=-1, keepdims=True)
    rows = dictionaries.unit_rows(true_dictionary)
    columns = jnp.swapaxes(dictionaries.unit_rows(dictionary), -1, -2)
    return jnp.abs(jnp.matmul(rows, columns, precision=jax.lax.Precision.HIGHEST))


def _matched_mean(scores: Array) -> Array:
    """Mean over true rows of the best one-to-one assignment of (..., N, N') scores."""
    if _checks.concrete(scores):
        import scipy.optimize  # on use: it is slow to load

        host = to_host(scores)
        flat = host.reshape((-1,) + host.shape[-2:])
        totals = []
        for matrix in flat:
            rows, columns = scipy.optimize.linear_sum_assignment(matrix, maximize=True)
            totals.append(matrix[rows, columns].sum() / matrix.shape[0])
        return jnp.asarray(np.reshape(totals, host.shape[:-2]), dtype=scores.dtype)

    def matched(matrix: Array) -> Array:
        rows, columns = optax.assignment.hungarian_algorithm(-matrix)
        return jnp.sum(matrix[rows, columns]) / matrix.shape[0]

    return _over_leading(matched, scores)


def _over_leading(fn: Callable[[Array], Array], scores: Array) -> Array:
    flat = scores.reshape((-1,) + scores.shape[-2:])
    return jax.vmap(fn)(flat).reshape(scores.shape[:-2])


def _check_samples(name: str, true_codes: Array, codes: Array) -> None:
    for label, array in (("true codes", true_codes), ("codes", codes)):
        if array.ndim < 2 or 0 in array.shape:
            raise ValueError(
                f"{name}: the {label} have shape {array.shape}; a non-empty (samples, latents) "
                "array is expected."
            )
    if true_codes.shape[:-1] != codes.shape[:-1]:
        raise ValueError(
            f"{name}: true codes {true_codes.shape} and codes {codes.shape} must agree in all axes "
            "but the last (samples are rows). If your samples are columns, pass codes.T."
        )
    if codes.shape[-2] < 2:
        raise ValueError(f"{name}: {codes.shape[-2]} sample; a correlation needs at least 2.")


def _same_shape(name: str, signals: ArrayLike, reconstruction: ArrayLike) -> tuple[Array, Array]:
    signals, reconstruction = _checks.floating(name, signals, reconstruction)
    if signals.shape != reconstruction.shape or signals.ndim < 2 or signals.size == 0:
        raise ValueError(
            f"{name}: signals {signals.shape} and reconstruction {reconstruction.shape}; two "
            "arrays of one shape (..., S, M), not empty, are expected."
        )
    return signals, reconstruction
