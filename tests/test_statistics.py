"""Statistics over seeds against scipy, closed forms and brute force."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sparsecode_jax import statistics
from sparsecode_jax.statistics import mean_interval


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_interval_against_scipy(level, count):
    values = np.random.default_rng(0).normal(3, 2, size=(4, count))
    mean, half = mean_interval(values, level=level)
    low, high = scipy.stats.t.interval(
        level, count - 1, loc=values.mean(axis=1), scale=scipy.stats.sem(values, axis=1)
    )
    np.testing.assert_allclose(mean - half, low)
    np.testing.assert_allclose(mean + half, high)


def test_any_axis_and_jax_arrays():
    values = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    expected = mean_interval(np.moveaxis(values, 0, -1))
    for actual in (mean_interval(values, axis=0), mean_interval(jnp.asarray(values), axis=0)):
        assert actual[0].shape == actual[1].shape == (2, 3)
        assert actual[0].dtype == np.float64
        np.testing.assert_allclose(actual, expected)
    mean, half = mean_interval([1, 2, 3])
    assert float(mean) == 2
    assert float(half) == pytest.approx(scipy.stats.t.ppf(0.975, 2) / np.sqrt(3))


def test_intervals_cover_the_truth_as_often_as_they_say():
    values = np.random.default_rng(0).normal(size=(4000, 5))
    mean, half = mean_interval(values, level=0.9)
    covered = np.mean(np.abs(mean) <= half)
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 4000))


def test_one_run_says_nothing_about_spread():
    mean, half = mean_interval(np.ones((3, 1)))
    np.testing.assert_array_equal(mean, np.ones(3))
    assert np.all(np.isnan(half))


def test_equal_runs_have_no_spread():
    mean, half = mean_interval(np.full(5, 2.5))
    assert (float(mean), float(half)) == (2.5, 0)


@pytest.mark.parametrize("level", [0, 1, float("nan")])
def test_levels_that_are_no_fractions(level):
    with pytest.raises(
        ValueError, match=f"mean_interval: level is {level}; a number between 0 and 1"
    ):
        mean_interval([1.0, 2.0], level=level)


def test_no_runs():
    with pytest.raises(ValueError, match=r"mean_interval: \d runs at level .*; at least one run"):
        mean_interval([])


# --- comparisons ----------------------------------------------------------------------------------


def draw(seed, *sizes, shift=0.5):
    rng = np.random.default_rng(seed)
    return [rng.gamma(2, size=size) + i * shift for i, size in enumerate(sizes)]


def one_sided_twice(values, observed):
    """Return the two-sided p-value of a statistic among all its equally likely values."""
    low = np.mean(values <= observed + 1e-12)
    high = np.mean(values >= observed - 1e-12)
    return min(1.0, 2 * min(low, high))


@pytest.mark.parametrize("count", [2, 5, 9])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_pairs_against_scipy_and_all_signs(count, level):
    first, second = draw(count, count, count)
    found = statistics.compare_pairs(first, second, level=level)
    expected = scipy.stats.ttest_rel(first, second)
    interval = expected.confidence_interval(level)
    assert (found.num_pairs, found.num_failed) == (count, 0)
    np.testing.assert_allclose(found.difference, (np.mean(first - second), *interval))
    assert found.p_t == pytest.approx(expected.pvalue)
    assert found.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(first, second).pvalue)
    signs = np.asarray(list(itertools.product([1, -1], repeat=count)))
    means = signs @ (first - second) / count
    assert found.p_permutation == pytest.approx(one_sided_twice(means, means[0]))
    assert found.bootstrap.low <= found.bootstrap.estimate <= found.bootstrap.high
    assert found.bootstrap.estimate == found.difference.estimate


@pytest.mark.parametrize("sizes", [(2, 3), (4, 4), (3, 6)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_groups_against_scipy_and_all_exchanges(sizes, level):
    first, second = draw(sum(sizes), *sizes)
    found = statistics.compare_groups(first, second, level=level)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(level)
    assert (found.num_first, found.num_second, found.num_failed) == (*sizes, 0)
    np.testing.assert_allclose(found.difference, (first.mean() - second.mean(), *interval))
    assert found.p_welch == pytest.approx(expected.pvalue)
    ranks = scipy.stats.mannwhitneyu(first, second)
    assert found.p_mann_whitney == pytest.approx(ranks.pvalue)
    above = np.mean(first[:, None] > second) + np.mean(first[:, None] == second) / 2
    assert found.superiority == pytest.approx(above)
    every = np.concatenate([first, second])
    means = []
    for chosen in itertools.combinations(range(len(every)), sizes[0]):
        rest = np.delete(every, chosen)
        means.append(every[list(chosen)].mean() - rest.mean())
    assert found.p_permutation == pytest.approx(one_sided_twice(np.asarray(means), means[0]))


def test_effect_sizes_are_unbiased():
    """Hedges: the corrected effect has the true effect as its mean; the plain one is larger."""
    rng = np.random.default_rng(0)
    pairs, groups = [], []
    for _ in range(4000):
        values = rng.normal(0.6, 1, size=5)
        pairs.append(statistics._hedges(values.mean(), values.std(ddof=1), 4))
        one, other = rng.normal(0.6, 1, size=4), rng.normal(0, 1, size=4)
        pooled = math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
        groups.append(statistics._hedges(one.mean() - other.mean(), pooled, 6))
    for found in (pairs, groups):
        assert np.mean(found) == pytest.approx(0.6, abs=4 * np.std(found) / 4000**0.5)


def test_effect_sizes_are_those_of_the_comparison():
    first, second = draw(0, 6, 6)
    paired, groups = (
        compare(first, second) for compare in (statistics.compare_pairs, statistics.compare_groups)
    )
    correction = math.gamma(2.5) / math.gamma(2) / math.sqrt(2.5)
    change = first - second
    assert paired.effect_size == pytest.approx(correction * change.mean() / change.std(ddof=1))
    correction = math.gamma(5) / math.gamma(4.5) / math.sqrt(5)
    pooled = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    assert groups.effect_size == pytest.approx(correction * change.mean() / pooled)


@pytest.mark.parametrize("compare", [statistics.compare_pairs, statistics.compare_groups])
def test_comparisons_turn_over_and_move_along(compare):
    first, second = draw(3, 7, 7)
    one, back = compare(first, second), compare(second, first)
    moved = compare(10 * first + 3, 10 * second + 3)
    assert back.difference.estimate == pytest.approx(-one.difference.estimate)
    assert back.difference.low == pytest.approx(-one.difference.high)
    assert back.effect_size == pytest.approx(-one.effect_size)
    for name in [name for name in one._fields if name.startswith("p_")]:
        assert getattr(back, name) == pytest.approx(getattr(one, name))
        assert getattr(moved, name) == pytest.approx(getattr(one, name))
    assert moved.effect_size == pytest.approx(one.effect_size)
    np.testing.assert_allclose(moved.bootstrap, np.multiply(10, one.bootstrap), rtol=0.02)


@pytest.mark.parametrize("compare", [statistics.compare_pairs, statistics.compare_groups])
def test_failed_runs_are_counted_and_never_dropped(compare):
    first, second = draw(0, 5, 5)
    for bad, where in ((np.nan, 1), (np.inf, 2), (-np.inf, 3)):
        spoiled = first.copy()
        spoiled[where] = bad
        found = compare(spoiled, second)
        assert found.num_failed == 1
        assert {len(first)} == {n for n in found[:2] if n > 1}
        for name in found._fields:
            if not name.startswith("num"):
                assert np.isnan(getattr(found, name)).all(), name
        assert np.isnan(statistics.bootstrap_interval(spoiled)).all()


@pytest.mark.parametrize("compare", [statistics.compare_pairs, statistics.compare_groups])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_runs_without_spread(compare, shift):
    found = compare(np.full(4, 1 + shift), np.full(4, 1.0))
    assert found.difference == found.bootstrap == (shift, shift, shift)
    assert found.effect_size == (math.inf if shift else 0)
    assert (found[-3], found[-2] < 1, found[-1] < 1) == (float(not shift), shift > 0, shift > 0)


def test_five_seeds_cannot_be_significant_by_ranks():
    found = statistics.compare_pairs(np.arange(5) + 10.0, np.arange(5) ** 1.1)
    assert found.p_wilcoxon == found.p_permutation == 0.0625
    assert found.p_t < 0.001


def test_tests_err_as_often_as_they_say():
    rng = np.random.default_rng(0)
    names = ("p_t", "p_wilcoxon", "p_permutation")
    found = [
        statistics.compare_pairs(rng.normal(size=8), rng.normal(size=8), num_draws=256)
        for _ in range(400)
    ]
    for name in names:
        wrong = np.mean([getattr(comparison, name) <= 0.1 for comparison in found])
        assert wrong == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 400)), name


# --- bootstrap, several comparisons, power --------------------------------------------------------


def test_the_bootstrap_covers_means_and_medians():
    rng = np.random.default_rng(0)
    hits = {np.mean: [], np.median: []}
    for _ in range(300):
        values = rng.normal(size=40)
        for statistic, kept in hits.items():
            found = statistics.bootstrap_interval(
                values, statistic=statistic, level=0.9, num_draws=400
            )
            assert found.estimate == pytest.approx(statistic(values))
            kept.append(found.low <= 0 <= found.high)
    for statistic, kept in hits.items():
        assert np.mean(kept) == pytest.approx(0.9, abs=0.07), statistic


def test_the_bootstrap_is_near_the_t_interval_and_repeats():
    values = np.random.default_rng(0).normal(size=200)
    found = statistics.bootstrap_interval(values, seed=1)
    mean, half = mean_interval(values)
    np.testing.assert_allclose(found, (mean, mean - half, mean + half), atol=0.1 * float(half))
    assert found == statistics.bootstrap_interval(values, seed=1)
    assert found != statistics.bootstrap_interval(values, seed=2)
    wider = statistics.bootstrap_interval(values, level=0.99, seed=1)
    assert wider.low < found.low < found.high < wider.high


def test_the_bootstrap_of_a_quantile_of_tied_runs():
    values = np.repeat([0.0, 1.0, 2.0], [5, 20, 5])
    found = statistics.bootstrap_interval(values, statistic=np.median)
    assert found == (1, 1, 1)
    values = np.repeat([0.0, 1.0, 2.0], [8, 5, 8])
    found = statistics.bootstrap_interval(values, statistic=np.median)
    assert found == (1, 0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_bonferroni_over_every_subset(seed):
    """A hypothesis falls if every set of hypotheses that holds it does (closed testing)."""
    p = np.random.default_rng(seed).random(5) ** 3
    expected = [
        max(
            min(1, size * min(p[list(chosen)]))
            for size in range(1, 6)
            for chosen in itertools.combinations(range(5), size)
            if i in chosen
        )
        for i in range(5)
    ]
    np.testing.assert_allclose(statistics.holm(p), expected)


def test_a_failed_comparison_counts_among_all():
    np.testing.assert_allclose(statistics.holm([0.02, np.nan, 0.01]), [0.04, np.nan, 0.03])
    np.testing.assert_array_equal(statistics.holm([0.3]), [0.3])
    with pytest.raises(ValueError, match="holm: the p-values are from 0 to 1.5"):
        statistics.holm([0, 1.5])


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("num_seeds", [2, 5, 20])
def test_power_is_how_often_the_test_finds_the_difference(num_groups, num_seeds):
    rng = np.random.default_rng(0)
    first = rng.normal(0.8, 1, size=(20_000, num_seeds))
    if num_groups == 1:
        p = scipy.stats.ttest_1samp(first, 0, axis=1).pvalue
    else:
        p = scipy.stats.ttest_ind(first, rng.normal(size=first.shape), axis=1).pvalue
    found = statistics.power(1.6, 2.0, num_seeds, num_groups=num_groups, level=0.9)
    assert found == pytest.approx(np.mean(p <= 0.1), abs=0.015)
    assert found == statistics.power(-0.8, 1.0, num_seeds, num_groups=num_groups, level=0.9)


def test_seeds_needed_are_the_textbooks_and_the_fewest():
    assert statistics.seeds_needed(0.5, 1, num_groups=2) == 64  # Cohen 1988, table 2.4.1
    assert statistics.seeds_needed(0.8, 1, num_groups=2) == 26
    assert statistics.seeds_needed(0.5, 1) == 34
    for difference, target, groups in itertools.product((0.1, 1, 30), (0.5, 0.9), (1, 2)):
        found = statistics.seeds_needed(difference, 1, target=target, num_groups=groups)
        assert statistics.power(difference, 1, found, num_groups=groups) >= target
        assert found == 2 or statistics.power(difference, 1, found - 1, num_groups=groups) < target


def test_power_of_differences_far_from_the_noise():
    for effect in (10, 50, 300, 1e4, 1e10):
        assert statistics.power(effect, 1, 5) == pytest.approx(1)
    assert statistics.power(1e-9, 1, 5) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="seeds_needed: a difference of 1e-06 where runs deviate"):
        statistics.seeds_needed(1e-6, 1)
