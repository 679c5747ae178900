"""Sparse problems: what is drawn is what was asked for, whatever is traced or mapped."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sparsecode_jax import synthetic
from sparsecode_jax.synthetic import problems

SIZES = {"num_samples": 400, "num_measurements": 8, "num_atoms": 16}


def sample(seed=0, num_active=3, **overrides):
    return synthetic.sample_problem(jax.random.key(seed), num_active, **{**SIZES, **overrides})


def counts(codes):
    return np.sum(np.asarray(codes) != 0, axis=-1)


@pytest.mark.parametrize("num_active", [0, 1, 3, 15, 16])
def test_exactly_k_atoms_are_active(num_active):
    problem = sample(num_active=num_active)
    np.testing.assert_array_equal(counts(problem.codes), np.full(400, num_active))
    np.testing.assert_allclose(
        problem.signals, np.asarray(problem.codes) @ np.asarray(problem.dictionary), atol=1e-5
    )


def test_the_second_draw_compiles_nothing(compilations):
    sample(seed=1)
    compilations.count = 0
    sample(seed=2, num_active=4)
    assert compilations.count == 0


def test_shapes_dtypes_and_unit_atoms():
    problem = sample()
    assert [x.shape for x in problem] == [(400, 8), (16, 8), (400, 16)]
    assert {x.dtype for x in problem} == {jnp.dtype("float32")}
    np.testing.assert_allclose(np.linalg.norm(problem.dictionary, axis=1), 1, rtol=1e-6)
    with jax.enable_x64(True):
        assert {x.dtype for x in sample()} == {jnp.dtype("float64")}


def test_k_is_traced_and_vmapped():
    traced = jax.jit(lambda k: sample(num_active=k))
    chex.assert_trees_all_close(traced(3), sample(), atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 2)

    def draw(key, k):
        return synthetic.sample_problem(key, k, **SIZES)

    grid = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keys, jnp.arange(17))
    expected = np.broadcast_to(np.arange(17)[:, None], (2, 17, 400))
    np.testing.assert_array_equal(counts(grid.codes), expected)
    alone = draw(keys[1], 5)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1, 5], grid), alone, atol=1e-6)


def test_a_traced_k_that_is_impossible_gives_no_problem():
    draw = jax.jit(
        lambda k: synthetic.sample_problem(
            jax.random.key(0), k, num_samples=5, num_measurements=3, num_atoms=4
        )
    )
    for k in (-1, 5):
        assert np.isnan(draw(k).codes).all() and np.isnan(draw(k).signals).all()
    for k in (0, 4):
        assert ((draw(k).codes != 0).sum(axis=1) == k).all()


def test_every_atom_is_as_likely_as_every_other():
    active = np.asarray(sample(num_samples=20_000).codes) != 0
    assert scipy.stats.chisquare(active.sum(axis=0)).pvalue > 1e-3
    pairs = active.T.astype(float) @ active / len(active)
    off = pairs[~np.eye(16, dtype=bool)]
    np.testing.assert_allclose(off, 3 / 16 * 2 / 15, atol=0.006)


def test_the_key_decides_everything_and_supports_are_nested_in_k():
    chex.assert_trees_all_equal(sample(), sample())
    assert not np.allclose(sample().signals, sample(1).signals)
    fewer, more = sample(num_active=2).codes, sample(num_active=5).codes
    np.testing.assert_array_equal(jnp.where(fewer != 0, more, 0), fewer)


@pytest.mark.parametrize(
    ("magnitudes", "distribution"),
    [
        (synthetic.half_normal, scipy.stats.halfnorm),
        (synthetic.gaussian, scipy.stats.norm),
        (synthetic.uniform, scipy.stats.uniform),
    ],
    ids=["half_normal", "gaussian", "uniform"],
)
def test_magnitudes_have_their_distribution(magnitudes, distribution):
    codes = np.asarray(sample(num_samples=3000, magnitudes=magnitudes).codes)
    assert scipy.stats.kstest(codes[codes != 0], distribution.cdf).pvalue > 1e-3


def test_the_default_magnitudes_are_half_normal_and_your_own_are_used():
    chex.assert_trees_all_equal(sample(), sample(magnitudes=synthetic.half_normal))
    codes = np.asarray(sample(magnitudes=lambda key, shape: jnp.full(shape, -2.5)).codes)
    assert set(np.unique(codes)) == {-2.5, 0}


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_noise_has_the_standard_deviation_asked_for(noise):
    clean, noisy = sample(num_samples=4000), sample(num_samples=4000, noise=noise)
    chex.assert_trees_all_equal(clean.codes, noisy.codes)
    chex.assert_trees_all_equal(clean.dictionary, noisy.dictionary)
    added = np.asarray(noisy.signals - clean.signals)
    assert scipy.stats.kstest(added.ravel() / noise, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(added, rowvar=False) - np.eye(8)).max() < 4 / np.sqrt(4000)
    traced = jax.jit(lambda n: sample(num_samples=4000, noise=n))(noise)
    chex.assert_trees_all_close(traced, noisy, atol=1e-5)


def test_a_given_dictionary_is_used_as_it_is():
    dictionary = 3 * np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    problem = sample(dictionary=dictionary)
    chex.assert_trees_all_equal(problem.dictionary, jnp.asarray(dictionary))
    chex.assert_trees_all_equal(problem.codes, sample().codes)
    np.testing.assert_allclose(problem.signals, problem.codes @ dictionary, atol=1e-4)


def test_supports_are_those_of_a_stable_sort_by_rank():
    draws = np.floor(np.random.default_rng(0).random((30, 200)) * 8) / 8  # full of equal numbers
    for rows, dtype in ((draws, np.float32), (draws[:3], np.float64), (draws[:, :1], np.float32)):
        ranks = np.argsort(np.argsort(rows, axis=-1, kind="stable"), axis=-1, kind="stable")
        for count in {0, 1, 7, 100, 199, 200} & set(range(rows.shape[1] + 1)):
            with jax.enable_x64(dtype == np.float64):
                smallest = problems._smallest(jnp.asarray(rows, dtype), count)
            np.testing.assert_array_equal(smallest, ranks < count)


def test_weights_are_chances_of_one_draw_after_another():
    weights = 1 / np.arange(1, 6)
    first = weights / weights.sum()
    pairs = {}  # of two draws without replacement, by enumeration
    for one, other in itertools.permutations(range(5), 2):
        both = frozenset((one, other))
        pairs[both] = pairs.get(both, 0) + first[one] * first[other] / (1 - first[one])
    codes = np.asarray(sample(num_active=2, num_samples=20_000, num_atoms=5, weights=weights).codes)
    supports = [frozenset(np.flatnonzero(row)) for row in codes]
    found = [supports.count(both) for both in pairs]
    expected = 20_000 * np.array(list(pairs.values()))
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-3
    with pytest.raises(ValueError, match=r"weights have shape \(5,\); \(16,\)"):
        sample(weights=weights)
    with pytest.raises(ValueError, match="weights is"):
        sample(num_atoms=2, num_active=1, weights=[1.0, 0.0])
