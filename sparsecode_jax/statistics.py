"""Statistics over seeds: intervals, comparisons of methods, and how many seeds are enough.

Values are numbers on the host, one per run; results are float64. A run that failed is given as NaN
(or an infinity): it is counted in ``num_failed`` and makes the numbers that depend on it NaN. It is
never dropped, for the runs that are left would be those that went well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from sparsecode_jax import _checks

__all__ = [
    "GroupComparison",
    "Interval",
    "PairedComparison",
    "bootstrap_interval",
    "compare_groups",
    "compare_pairs",
    "holm",
    "mean_interval",
    "power",
    "seeds_needed",
]

_DRAWS = 9999  # of permutations and of bootstrap samples, unless said otherwise
_MOST_SEEDS = 2**31 - 1


class Interval(NamedTuple):
    """An estimate and its confidence interval.

    Attributes:
      estimate: from all runs.
      low: lower end.
      high: upper end.
    """

    estimate: float
    low: float
    high: float


class PairedComparison(NamedTuple):
    """What :func:`compare_pairs` returns; differences are first minus second.

    Attributes:
      num_pairs: pairs of runs, failed ones included.
      num_failed: pairs with a run that is not finite; every number below is NaN if there are any.
      difference: mean difference, with its t interval.
      bootstrap: the same with its bootstrap interval.
      effect_size: Hedges' g of the differences: their mean over their standard deviation,
        corrected for few pairs.
      p_t: of the paired t test, two-sided like the others.
      p_wilcoxon: of Wilcoxon's signed-rank test.
      p_permutation: of flipping the signs of differences; exact if ``num_draws`` cover all flips.
    """

    num_pairs: int
    num_failed: int
    difference: Interval
    bootstrap: Interval
    effect_size: float
    p_t: float
    p_wilcoxon: float
    p_permutation: float


class GroupComparison(NamedTuple):
    """What :func:`compare_groups` returns; differences are first minus second.

    Attributes:
      num_first: runs of the first group, failed ones included.
      num_second: runs of the second.
      num_failed: runs that are not finite; every number below is NaN if there are any.
      difference: of the means, with Welch's interval.
      bootstrap: the same with its bootstrap interval.
      effect_size: Hedges' g: the difference over the pooled standard deviation, corrected for
        few runs.
      superiority: how often a run of the first group is above one of the second, ties as halves.
      p_welch: of Welch's t test, two-sided like the others.
      p_mann_whitney: of the Mann-Whitney test.
      p_permutation: of exchanging runs between the groups.
    """

    num_first: int
    num_second: int
    num_failed: int
    difference: Interval
    bootstrap: Interval
    effect_size: float
    superiority: float
    p_welch: float
    p_mann_whitney: float
    p_permutation: float


def mean_interval(
    values: ArrayLike, *, axis: int = -1, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the mean over independent runs and the half-width of its confidence interval.

    .. math:: \bar v \pm t_{n-1,(1+\ell)/2}\; s / \sqrt n

    Args:
      values: runs along ``axis``; NumPy or JAX, on the host.
      axis: the run axis.
      level: of confidence, between 0 and 1.

    Returns:
      Mean and half-width, ``values`` without the axis. With one run the half-width is NaN: one run
      says nothing about spread.
    """
    name = "mean_interval"
    array = _numbers(name, values)
    _checks.count(name, "axis", axis, minimum=-max(array.ndim, 1), maximum=max(array.ndim, 1) - 1)
    _checks.fraction(name, "level", level, inside=True)
    count = array.shape[axis] if array.ndim else 0
    if count == 0:
        raise ValueError(
            f"mean_interval: {count} runs at level {level}; at least one run and a level between 0 "
            "and 1 are expected."
        )
    mean = array.mean(axis=axis)
    if count == 1:
        return mean, np.full_like(mean, np.nan)
    with np.errstate(invalid="ignore"):  # of infinities it is NaN
        deviation = array.std(axis=axis, ddof=1)
    return mean, _quantile(level, count - 1) * deviation / np.sqrt(count)


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    num_draws: int = _DRAWS,
    seed: int = 0,
) -> Interval:
    """Return a statistic of runs and its bootstrap interval (bias-corrected and accelerated).

    Below ten runs it is too narrow: :func:`mean_interval` is the one to take for means. Where no
    run alone moves the statistic (quantiles of tied runs), plain percentiles are taken.

    Args:
      values: (n,), n >= 2.
      statistic: ``(values, axis) -> values`` without the axis, such as ``np.median``.
      level: of confidence, between 0 and 1.
      num_draws: samples that are drawn from the runs; at least 100.
      seed: of the draws.

    Returns:
      An :class:`Interval`; all NaN if a run is not finite.

    References:
      Efron, 1987, "Better bootstrap confidence intervals".
    """
    name = "bootstrap_interval"
    runs = _runs(name, "values", values)
    _checks.function(name, "statistic", statistic)
    _check_draws(name, level, num_draws, seed)
    if not np.isfinite(runs).all():
        return Interval(math.nan, math.nan, math.nan)
    return _bootstrap((runs,), statistic, level, num_draws, seed)


def compare_pairs(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    num_draws: int = _DRAWS,
    seed: int = 0,
) -> PairedComparison:
    """Compare two methods on the same seeds: t, Wilcoxon and permutation tests of differences.

    With n pairs no rank or permutation test has a p-value below 2^(1-n): .0625 for five seeds.

    Args:
      first: (n,), one number per seed, n >= 2.
      second: (n,), of the same seeds in the same order.
      level: of confidence, between 0 and 1.
      num_draws: of the permutation test, where it is not exact, and of the bootstrap; at least 100.
      seed: of the draws.

    Returns:
      A :class:`PairedComparison`. For several comparisons hand their p-values to :func:`holm`.
    """
    name = "compare_pairs"
    one, other = _runs(name, "first", first), _runs(name, "second", second)
    if one.shape != other.shape:
        raise ValueError(
            f"{name}: first has {len(one)} runs and second {len(other)}; one of each for every "
            "seed is expected. Runs on different seeds are for compare_groups."
        )
    _check_draws(name, level, num_draws, seed)
    failed = int(np.sum(~(np.isfinite(one) & np.isfinite(other))))
    if failed:
        nothing = Interval(math.nan, math.nan, math.nan)
        return PairedComparison(len(one), failed, nothing, nothing, *[math.nan] * 4)
    import scipy.stats  # on use: it takes as long to load as JAX

    found = one - other
    count, mean, deviation = len(found), float(found.mean()), float(found.std(ddof=1))
    difference, p_t = _student(mean, deviation / math.sqrt(count), count - 1, level)
    p_wilcoxon = p_permutation = 1.0
    if np.any(found):
        p_wilcoxon = float(scipy.stats.wilcoxon(found).pvalue)
        p_permutation = _permutation((one, other), "samples", num_draws, seed)
    return PairedComparison(
        count, 0, difference, _bootstrap((found,), np.mean, level, num_draws, seed),
        _hedges(mean, deviation, count - 1), p_t, p_wilcoxon, p_permutation,
    )  # fmt: skip


def compare_groups(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    num_draws: int = _DRAWS,
    seed: int = 0,
) -> GroupComparison:
    """Compare two groups of independent runs: Welch, Mann-Whitney and permutation tests.

    Args:
      first: (n,), n >= 2.
      second: (m,), m >= 2.
      level: of confidence, between 0 and 1.
      num_draws: of the permutation test, where it is not exact, and of the bootstrap; at least 100.
      seed: of the draws.

    Returns:
      A :class:`GroupComparison`.
    """
    name = "compare_groups"
    one, other = _runs(name, "first", first), _runs(name, "second", second)
    _check_draws(name, level, num_draws, seed)
    failed = int(np.sum(~np.isfinite(one)) + np.sum(~np.isfinite(other)))
    if failed:
        nothing = Interval(math.nan, math.nan, math.nan)
        return GroupComparison(len(one), len(other), failed, nothing, nothing, *[math.nan] * 5)
    import scipy.stats  # on use: it takes as long to load as JAX

    sizes = np.asarray([len(one), len(other)])
    variances = np.asarray([one.var(ddof=1), other.var(ddof=1)])
    mean, errors = float(one.mean() - other.mean()), variances / sizes
    freedom = float(sizes.sum() - 2)
    pooled = math.sqrt(float(variances @ (sizes - 1)) / freedom)
    welch = freedom
    if pooled > 0:  # in units of its largest, so that no square vanishes
        shares = errors / np.max(errors)
        welch = float(shares.sum() ** 2 / np.sum(shares**2 / (sizes - 1)))
    difference, p_welch = _student(mean, math.sqrt(float(errors.sum())), welch, level)
    superiority, p_mann_whitney, p_permutation = 0.5, 1.0, 1.0
    if np.any(one != one[0]) or np.any(other != one[0]):
        ranks = scipy.stats.mannwhitneyu(one, other)
        superiority = float(ranks.statistic) / (len(one) * len(other))
        p_mann_whitney = float(ranks.pvalue)
        p_permutation = _permutation((one, other), "independent", num_draws, seed)
    return GroupComparison(
        len(one), len(other), 0, difference,
        _bootstrap((one, other), _mean_difference, level, num_draws, seed),
        _hedges(mean, pooled, freedom), superiority, p_welch, p_mann_whitney, p_permutation,
    )  # fmt: skip


def holm(p_values: ArrayLike) -> np.ndarray:
    r"""Return p-values corrected for their number by Holm's step-down rule.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})

    Whoever calls significant what is below a level then errs in any of the m comparisons with at
    most that probability, however they depend on one another.

    Args:
      p_values: (m,), from 0 to 1; NaN for a comparison that failed, which still counts among the m.

    Returns:
      (m,), in the order of the arguments, NaN where a comparison failed.

    References:
      Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    (given,) = _vectors("holm", p_values=p_values)
    if np.any((given < 0) | (given > 1)):
        raise ValueError(
            f"holm: the p-values are from {np.nanmin(given):g} to {np.nanmax(given):g}; numbers "
            "from 0 to 1 are expected."
        )
    order = np.argsort(given)  # NaN last, as the least significant
    factors = np.arange(len(given), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(factors * given[order]), 1)
    result = np.empty_like(given)
    result[order] = corrected
    return result


def power(
    difference: float,
    deviation: float,
    num_seeds: int,
    *,
    num_groups: int = 1,
    level: float = 0.95,
) -> float:
    r"""Return how often a two-sided t test finds a difference of means that is there.

    .. math:: P(|T| > t_{\nu,(1+\ell)/2}), \quad
       T \sim t_\nu\!\left(\frac{\delta}{\sigma}\sqrt{\frac n g}\right), \quad \nu = g(n - 1)

    Args:
      difference: :math:`\delta`, of the means.
      deviation: :math:`\sigma` > 0: of the differences of pairs, or within each group.
      num_seeds: n, pairs, or runs of each group, at least 2.
      num_groups: g: 1 for pairs on the same seeds, 2 for independent groups.
      level: of confidence, between 0 and 1; the test's significance is 1 - level.

    Returns:
      A probability.
    """
    _check_power("power", difference, deviation, num_groups, level)
    _checks.count("power", "num_seeds", num_seeds, minimum=2)
    return _power(abs(float(difference)) / float(deviation), num_seeds, num_groups, level)


def seeds_needed(
    difference: float,
    deviation: float,
    *,
    target: float = 0.8,
    num_groups: int = 1,
    level: float = 0.95,
) -> int:
    """Return the fewest seeds with which a t test has the wanted power (:func:`power`).

    Args:
      difference: of the means that is to be found, not 0.
      deviation: > 0: of the differences of pairs, or within each group.
      target: the power, between 0 and 1.
      num_groups: 1 for pairs on the same seeds, 2 for independent groups.
      level: of confidence, between 0 and 1.

    Returns:
      Pairs, or runs of each group, at least 2.
    """
    name = "seeds_needed"
    _check_power(name, difference, deviation, num_groups, level)
    _checks.fraction(name, "target", target, inside=True)
    effect = abs(float(difference)) / float(deviation)

    def enough(count: int) -> bool:
        return _power(effect, count, num_groups, level) >= target

    low, high = 1, 2
    while not enough(high):
        if high > _MOST_SEEDS // 2:
            raise ValueError(
                f"{name}: a difference of {difference} where runs deviate by {deviation} takes "
                f"over {high} seeds; a difference that can be measured is expected."
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# --- what they share ------------------------------------------------------------------------------


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    if not _checks.concrete(values):
        raise TypeError(f"{name}: the values are traced; numbers are expected. Call it outside.")
    (values,) = _checks.real(name, values)
    return np.asarray(values, dtype=np.float64)


def _vectors(name: str, **named: ArrayLike) -> list[np.ndarray]:
    found = []
    for label, values in named.items():
        array = _numbers(name, values)
        if array.ndim != 1 or not array.size:
            raise ValueError(
                f"{name}: {label} have shape {array.shape}; a vector of numbers is expected."
            )
        found.append(array)
    return found


def _runs(name: str, label: str, values: ArrayLike) -> np.ndarray:
    array = _numbers(name, values)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{name}: {label} has shape {array.shape}; one number per run, of at least two runs, "
            "is expected. One run says nothing about spread."
        )
    return array


def _check_draws(name: str, level: float, num_draws: int, seed: int) -> None:
    _checks.fraction(name, "level", level, inside=True)
    _checks.count(name, "num_draws", num_draws, minimum=100)
    _checks.count(name, "seed", seed, minimum=0)


def _check_power(
    name: str, difference: float, deviation: float, num_groups: int, level: float
) -> None:
    if not math.isfinite(_checks.static(name, "difference", difference)) or not difference:
        raise ValueError(
            f"{name}: difference is {difference}; a finite number other than 0 is expected."
        )
    _checks.positive(name, deviation=_checks.static(name, "deviation", deviation))
    _checks.count(name, "num_groups", num_groups, maximum=2)
    _checks.fraction(name, "level", level, inside=True)


def _quantile(level: float, freedom: float) -> float:
    import scipy.stats  # on use: it takes as long to load as JAX

    return float(scipy.stats.t.ppf((1 + level) / 2, freedom))


def _student(mean: float, error: float, freedom: float, level: float) -> tuple[Interval, float]:
    """Return a mean's t interval and the p-value of its being zero."""
    import scipy.stats

    half = _quantile(level, freedom) * error
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half), p


def _hedges(mean: float, deviation: float, freedom: float) -> float:
    if deviation == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    if freedom < 2:
        return math.nan  # the correction is zero: one degree of freedom says nothing
    half = freedom / 2
    correction = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    return correction * mean / deviation


def _mean_difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> Any:
    return np.mean(first, axis=axis) - np.mean(second, axis=axis)


def _permutation(pair: tuple, kind: str, num_draws: int, seed: int) -> float:
    import scipy.stats

    found = scipy.stats.permutation_test(
        pair, _mean_difference, permutation_type=kind, vectorized=True, n_resamples=num_draws,
        batch=1000, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _bootstrap(
    groups: tuple, statistic: Callable[..., Any], level: float, num_draws: int, seed: int
) -> Interval:
    import scipy.stats

    estimate = float(statistic(*groups, axis=-1))
    if all(np.all(group == group[0]) for group in groups):  # every sample is the same
        return Interval(estimate, estimate, estimate)
    options: dict[str, Any] = {"vectorized": True, "confidence_level": level}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            groups, statistic, n_resamples=num_draws, batch=1000, rng=np.random.default_rng(seed),
            **options,
        )  # fmt: skip
        if not np.isfinite(found.confidence_interval).all():  # of ties: no run alone moves it
            found = scipy.stats.bootstrap(
                groups, statistic, n_resamples=0, bootstrap_result=found, method="percentile",
                **options,
            )  # fmt: skip
    low, high = map(float, found.confidence_interval)
    return Interval(estimate, low, high)


def _power(effect: float, num_seeds: int, num_groups: int, level: float) -> float:
    import scipy.stats

    freedom = num_groups * (num_seeds - 1)
    center = effect * math.sqrt(num_seeds / num_groups)
    if center > 1e3 * math.sqrt(freedom):  # beyond what the distribution's code can compute
        return 1.0
    bound = _quantile(level, freedom)
    tails = scipy.stats.nct.sf(bound, freedom, center), scipy.stats.nct.cdf(-bound, freedom, center)
    return min(1.0, float(np.nansum(tails)))  # a tail is NaN where it is too small to matter
