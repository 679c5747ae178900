"""Intervals over seeds against scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

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
