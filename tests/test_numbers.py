"""Numbers at the ends of their range, and those that are none: right, or told, but never wrong."""

import jax
import numpy as np
import pytest

from sparsecode_jax import dictionaries, metrics

from .contracts import M, N, sparse_problem

SIGNALS, DICTIONARY, CODES = sparse_problem()
OTHER = sparse_problem(1)
SCALES = (1e-30, 1e-20, 1e20, 1e30)
each_scale = pytest.mark.parametrize("scale", SCALES)


# --- metrics -------------------------------------------------------------------------------------

NEAR = CODES + 0.1 * np.random.default_rng(2).normal(size=CODES.shape).astype(np.float32)
SCORES = {
    "mcc": lambda s: metrics.mcc(CODES, s * NEAR),
    "latent_correlation": lambda s: metrics.latent_correlation(s * CODES, NEAR),
    "dictionary_mcc": lambda s: metrics.dictionary_mcc(DICTIONARY, s * OTHER.dictionary),
    "pearson_dictionary_mcc": lambda s: metrics.pearson_dictionary_mcc(
        s * DICTIONARY, OTHER.dictionary
    ),
    "nearest_neighbor_cosine": lambda s: metrics.nearest_neighbor_cosine(s * DICTIONARY),
    "r2": lambda s: metrics.r2(s * SIGNALS, s * (SIGNALS + OTHER.signals / 10)),
    "coherence": lambda s: dictionaries.coherence(s * DICTIONARY),
}


@each_scale
@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_see_the_scale(name, scale):
    expected = SCORES[name](np.float32(1))
    assert 0.1 < float(expected) < 1
    np.testing.assert_allclose(SCORES[name](np.float32(scale)), expected, rtol=2e-6)


def test_scores_do_not_see_the_scale_of_one_atom_or_latent():
    some = np.logspace(-30, 30, N, dtype=np.float32)
    for name, ours in (("mcc", NEAR * some), ("latent_correlation", NEAR * some)):
        expected = getattr(metrics, name)(CODES, NEAR)
        np.testing.assert_allclose(getattr(metrics, name)(CODES, ours), expected, rtol=2e-6)
    ours = metrics.dictionary_mcc(DICTIONARY, OTHER.dictionary * some[:, None])
    np.testing.assert_allclose(ours, SCORES["dictionary_mcc"](1), rtol=2e-6)
    zero = np.zeros((1, M), np.float32)
    for scale in (1, *SCALES):
        atoms = np.concatenate([DICTIONARY, zero]) * np.float32(scale)
        value = metrics.dictionary_mcc(atoms, atoms)  # a zero atom is like none
        np.testing.assert_allclose(value, N / (N + 1), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_mean_squared_error_is_that_of_float64(scale):
    ours = metrics.mse(SIGNALS * np.float32(scale), np.zeros_like(SIGNALS))
    np.testing.assert_allclose(ours, np.mean(SIGNALS.astype(np.float64) ** 2) * scale**2, rtol=1e-5)
    largest = np.full((4, 2), 1.5e19, np.float32)  # whose sum of squares overflows
    np.testing.assert_allclose(metrics.mse(largest, 0 * largest), 1.5e19**2, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("name", ["l0", "dead_fraction"])
def test_counts_of_what_is_no_number_are_none(name, wrap):
    metric = wrap(getattr(metrics, name))
    stack = np.stack([CODES, CODES])
    stack[1, 2, 3] = np.nan
    got = metric(stack)
    assert got[0] == metric(CODES) and np.isnan(got[1])
    assert np.isnan(metric(CODES, threshold=np.nan))


TRACED = {
    "mcc": (metrics.mcc, CODES, CODES),
    "latent_correlation": (metrics.latent_correlation, CODES, CODES),
    "dictionary_mcc": (metrics.dictionary_mcc, DICTIONARY, DICTIONARY),
    "pearson_dictionary_mcc": (metrics.pearson_dictionary_mcc, DICTIONARY, DICTIONARY),
    "mse": (metrics.mse, SIGNALS, SIGNALS),
    "r2": (metrics.r2, SIGNALS, SIGNALS),
    "l0": (metrics.l0, CODES),
    "dead_fraction": (metrics.dead_fraction, CODES),
    "nearest_neighbor_cosine": (metrics.nearest_neighbor_cosine, DICTIONARY),
    "coherence": (dictionaries.coherence, DICTIONARY),
    "spectral_norm": (dictionaries.spectral_norm, DICTIONARY),
}


@pytest.mark.parametrize("name", TRACED)
def test_metrics_of_what_is_no_number_are_none(name):
    fn, *arrays = TRACED[name]
    arrays[-1] = np.array(arrays[-1])
    arrays[-1][2, 3] = np.nan
    assert np.isnan(jax.jit(fn)(*arrays))
