"""Mean correlation coefficients: scores of pairs, the best one-to-one matching, its mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._scaling import in_units
from sparsecode_jax._sharding import automatic, to_host
from sparsecode_jax._sparse import dense
from sparsecode_jax.metrics._samples import Codes
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = [
    "dictionary_mcc",
    "dictionary_mcc_chance",
    "latent_correlation",
    "matched_dictionary_mcc",
    "matched_mean",
    "mcc",
    "mcc_chance",
    "pearson_dictionary_mcc",
    "unit_atoms",
]

_MIN_VARIANCE = 1e-12  # below it, in units of its largest value, a latent counts as constant
_AT_ONCE = 2**24  # scores that a product makes on the way to the host: 64 MiB


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
    return matched_mean(_latents(true_codes), _standardize(codes), over=true_codes.shape[-1])


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
    return _mean_correlation(true_codes, codes)


@automatic
def dictionary_mcc(true_dictionary: ArrayLike, dictionary: ArrayLike) -> Array:
    """Return the mean absolute cosine of optimally matched atoms, which may have any norms.

    Args:
      true_dictionary: (..., N, M). **Traced**.
      dictionary: (..., N', M). **Traced**.

    Returns:
      (...,), from 0 to 1; true atoms left without a partner (N' < N) count as 0.
    """
    true, found = unit_atoms("dictionary_mcc", true_dictionary, dictionary)
    return matched_mean(true, jnp.swapaxes(found, -1, -2), over=true.shape[-2])


@automatic
def matched_dictionary_mcc(true_dictionary: ArrayLike, dictionary: ArrayLike) -> Array:
    """Return the mean absolute cosine over the matched pairs alone, as SAELens defines its MCC.

    The sum of :func:`dictionary_mcc`, divided by the number of pairs min(N, N') and not by the
    number of true atoms N: what a dictionary with fewer atoms leaves out does not count against
    it. With as many atoms as true ones, or more, the two are the same.

    Args:
      true_dictionary: (..., N, M), of any norms. **Traced**.
      dictionary: (..., N', M), of any norms. **Traced**.

    Returns:
      (...,), from 0 to 1.

    Example:
      >>> import jax.numpy as jnp, sparsecode_jax as sc
      >>> true = jnp.eye(4)
      >>> float(sc.metrics.dictionary_mcc(true, true[:3]))
      0.75
      >>> float(sc.metrics.matched_dictionary_mcc(true, true[:3]))
      1.0
    """
    true, found = unit_atoms("matched_dictionary_mcc", true_dictionary, dictionary)
    over = min(true.shape[-2], found.shape[-2])
    return matched_mean(true, jnp.swapaxes(found, -1, -2), over=over)


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
    true, found = unit_atoms(name, true_dictionary, dictionary, center=True)
    return matched_mean(true, jnp.swapaxes(found, -1, -2), over=true.shape[-2])


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
    return _mean_and_deviation(scores)


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
      metric: ``dictionary_mcc``, ``matched_dictionary_mcc`` or ``pearson_dictionary_mcc``: compare
        like with like. **Static**.
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
    return _mean_and_deviation(scores)


@jax.jit
def _mean_and_deviation(scores: list[Array]) -> tuple[Array, Array]:
    return jnp.mean(jnp.stack(scores)), jnp.std(jnp.stack(scores))


@functools.partial(jax.jit, inline=True)
def _mean_correlation(true_codes: Array, codes: Array) -> Array:
    return jnp.mean(jnp.sum(_standardize(true_codes) * _standardize(codes), axis=-2), axis=-1)


@functools.partial(jax.jit, inline=True)
def _standardize(codes: Array) -> Array:
    """Center columns and scale them to unit norm; constant columns become 0."""
    codes = in_units(codes.astype(jnp.promote_types(codes.dtype, jnp.float32)), axis=-2)
    mean = jnp.mean(codes, axis=-2, keepdims=True)
    centered = codes - mean
    squares = jnp.sum(centered**2, axis=-2, keepdims=True)
    rounding = (16 * jnp.finfo(codes.dtype).eps * mean) ** 2  # what is left of a large constant
    constant = squares / codes.shape[-2] < jnp.maximum(_MIN_VARIANCE, rounding)
    return jnp.where(constant, 0, centered / jnp.sqrt(jnp.where(constant, 1, squares)))


@functools.partial(jax.jit, inline=True)
def _latents(codes: Array) -> Array:
    """Return the columns that :func:`_standardize` makes as rows: (..., S, N) to (..., N, S)."""
    return jnp.swapaxes(_standardize(codes), -1, -2)


def unit_atoms(
    name: str, true_dictionary: ArrayLike, dictionary: ArrayLike, *, center: bool = False
) -> tuple[Array, Array]:
    """Return both dictionaries with atoms of unit norm, so that products are cosines, or raise."""
    true_dictionary, dictionary = _checks.floating(name, true_dictionary, dictionary)
    for label, array in (("true dictionary", true_dictionary), ("dictionary", dictionary)):
        if array.ndim < 2 or 0 in array.shape:
            raise ValueError(
                f"{name}: the {label} has shape {array.shape}; (N, M) is expected, with at least "
                "one atom of one measurement."
            )
    _checks.same_measurements(name, true_dictionary, dictionary)
    _checks.finite(name, true_dictionary=true_dictionary, dictionary=dictionary)
    return _unit_atoms(true_dictionary, center=center), _unit_atoms(dictionary, center=center)


@functools.partial(jax.jit, static_argnames="center", inline=True)
def _unit_atoms(dictionary: Array, *, center: bool) -> Array:
    dictionary = in_units(dictionary)
    if center:
        dictionary = dictionary - jnp.mean(dictionary, axis=-1, keepdims=True)
    return dictionaries.unit_rows(dictionary)


def matched_mean(true: Array, found: Array, *, over: int) -> Array:
    """Match rows of scores ``|true @ found|`` with columns, one to one, and add up; by a count.

    Takes (..., N, L) and (..., L, N'), and returns (...,).
    """
    if _checks.concrete(true) and _checks.concrete(found):
        leading = np.broadcast_shapes(true.shape[:-2], found.shape[:-2])
        totals = [scores.sum() / over for scores in _matched_on_host(true, found, leading)]
        return jnp.asarray(np.reshape(totals, leading), dtype=true.dtype)

    def matched(matrix: Array) -> Array:
        rows, columns = optax.assignment.hungarian_algorithm(-matrix)
        mean = jnp.sum(matrix[rows, columns]) / over
        return jnp.where(jnp.any(jnp.isnan(matrix)), jnp.nan, mean)  # of unmatched rows too

    scores = _scores(true, found)
    flat = scores.reshape((-1,) + scores.shape[-2:])
    return jax.vmap(matched)(flat).reshape(scores.shape[:-2])


@functools.partial(jax.jit, inline=True)
def _scores(true: Array, found: Array) -> Array:
    return jnp.abs(jnp.matmul(true, found, precision=jax.lax.Precision.HIGHEST))


def _matched_on_host(true: Array, found: Array, leading: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the scores of the matched pairs, for each of the leading axes."""
    shape = true.shape[-2], found.shape[-1]
    size = min(max(_AT_ONCE // shape[1], 1), shape[0])
    if math.prod(leading) * shape[0] <= size:
        for scores in to_host(_scores(true, found)).reshape((-1, *shape)):
            yield _best_pairs(shape, [(0, scores)])
        return
    true, found = (jnp.broadcast_to(x, leading + x.shape[-2:]) for x in (true, found))
    pairs = (x.reshape((-1,) + x.shape[-2:]) for x in (true, found))
    for one, other in zip(*pairs, strict=True):
        starts = [*range(0, shape[0] - size, size), shape[0] - size]
        rows = ((s, jax.lax.dynamic_slice_in_dim(one, s, size)) for s in starts)
        yield _best_pairs(shape, ((s, to_host(_scores(some, other))) for s, some in rows))


def _best_pairs(shape: tuple[int, int], blocks: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return the scores of the best one-to-one pairs of a matrix, from blocks of its rows.

    SciPy copies what is not float64, is to be maximized or has more rows than columns: of 16,384
    by 16,384 scores each copy is 2 GiB. It is given the one array that it needs.
    """
    import scipy.optimize  # on use: it is slow to load

    tall = shape[0] > shape[1]
    costs = np.empty(shape[::-1] if tall else shape)
    by_row = costs.T if tall else costs
    for start, scores in blocks:
        by_row[start : start + len(scores)] = -scores
    rows, columns = scipy.optimize.linear_sum_assignment(costs)
    best = -costs[rows, columns]
    return (best[np.argsort(columns)] if tall else best).astype(scores.dtype)


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
