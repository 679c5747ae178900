"""Least squares on given supports, against SciPy and NumPy one signal at a time."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import sparsecode_jax as sc
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.solvers import refit

from .contracts import docstring

module = sys.modules[refit.__module__]

PROX = {True: nonnegative_soft_threshold, False: soft_threshold}

M, N, S = 12, 20, 60


def draw(seed=0):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(N, M)) * np.linspace(0.5, 2, N)[:, None]
    return rng.normal(size=(S, N)), rng.normal(size=(S, M)), dictionary


def separately(codes, signals, dictionary, num_active, nonnegative):
    fits = np.zeros_like(codes)
    for fit, code, signal in zip(fits, codes, signals, strict=True):
        support = np.argsort(-np.abs(code))[:num_active]
        support = support[code[support] != 0]
        atoms = dictionary[support].T
        fit[support] = (
            nnls(atoms, signal)[0] if nonnegative else np.linalg.lstsq(atoms, signal, rcond=None)[0]
        )
    return fits


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("num_active", [1, 4, 10, 12])
def test_is_the_least_squares_of_each_support(nonnegative, num_active):
    arrays = draw()
    arrays[0][:, 6:] *= np.random.default_rng(1).random((S, N - 6)) < 0.4  # fewer than K, for some
    with jax.enable_x64(True):
        ours = refit(*arrays, num_active=num_active, prox=PROX[nonnegative])
    theirs = separately(*arrays, num_active, nonnegative)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert np.any(theirs < 0) != nonnegative


def test_more_atoms_than_measurements():
    codes, signals, dictionary = draw(3)
    signals = np.abs(codes) @ dictionary / 5 + signals  # most atoms are in use
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 1e-4)):
        with jax.enable_x64(dtype == np.float64):
            arrays = (x.astype(dtype) for x in (codes, signals, dictionary))
            fits = np.asarray(refit(*arrays, num_active=N), np.float64)
        assert fits.min() == 0
        error = np.sum((signals - fits @ dictionary) ** 2, axis=1)
        least = np.asarray([nnls(dictionary.T, x)[1] ** 2 for x in signals])
        assert np.all(error <= least + tolerance * np.sum(signals**2, axis=1))


def test_zero_codes_zero_signals_and_duplicate_atoms():
    atoms = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    signals = np.asarray([[2, 1, 0], [0, 0, 0], [2, 1, 0]], np.float32)
    codes = np.ones((3, 3), np.float32)
    codes[2] = 0
    for nonnegative in (False, True):
        fits = np.asarray(refit(codes, signals, atoms, num_active=3, prox=PROX[nonnegative]))
        np.testing.assert_allclose(fits[0] @ atoms, signals[0], atol=1e-5)
        np.testing.assert_array_equal(fits[1:], 0)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_scale_of_the_atoms_does_not_matter(scale):
    codes, signals, dictionary = (x.astype(np.float32) for x in draw(5))
    few = sc.SparseCodes.from_dense(codes, num_active=4)
    expected = refit(codes, signals, dictionary, num_active=4)
    assert np.abs(expected).max() > 0.1
    scaled = dictionary * np.float32(scale)
    for found in (refit(codes, signals, scaled, num_active=4), refit(few, signals, scaled).dense()):
        np.testing.assert_allclose(found * np.float32(scale), expected, rtol=1e-3, atol=1e-5)


def test_leading_axes_dtype_and_vmap(compilations):
    codes, signals, dictionary = (x.astype(np.float32) for x in draw(4))
    fits = refit(codes, signals, dictionary, num_active=4)
    assert fits.dtype == np.float32
    np.testing.assert_allclose(
        refit(codes[0], signals[0], dictionary, num_active=4), fits[0], atol=1e-5
    )
    stacked = refit(codes.reshape(4, 15, N), signals.reshape(4, 15, M), dictionary, num_active=4)
    np.testing.assert_allclose(stacked.reshape(S, N), fits, atol=1e-5)
    mapped = jax.vmap(lambda d: refit(codes, signals, d, num_active=4))(
        np.stack([dictionary, 2 * dictionary])
    )
    np.testing.assert_allclose(mapped[0], fits, atol=1e-5)
    np.testing.assert_allclose(2 * mapped[1], fits, atol=1e-5)
    compilations.count = 0
    refit(codes + 1, 2 * signals, dictionary[::-1].copy(), num_active=4)
    assert compilations.count == 0


def test_errors():
    codes, signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"refit: the codes have shape \(60, 19\); \(60, 20\)"):
        refit(codes[:, 1:], signals, dictionary, num_active=2)
    with pytest.raises(ValueError, match="refit: num_active is 21 but there are 20 atoms"):
        refit(codes, signals, dictionary, num_active=21)
    with pytest.raises(ValueError, match="refit: codes holds 1 non-finite numbers"):
        refit(np.where(codes == codes.max(), np.nan, codes), signals, dictionary, num_active=2)


def test_few_signals_are_fitted_as_among_many():
    """Theirs are the only atoms that are scaled."""
    codes, signals, dictionary = draw()
    whole = refit(codes, signals, dictionary, num_active=3)
    for size in (1, 2, 6, 7):
        some = refit(codes[:size], signals[:size], dictionary, num_active=3)
        np.testing.assert_allclose(some, whole[:size], atol=1e-5)
    alone = jax.vmap(lambda z, x: refit(z, x, dictionary, num_active=3))(codes, signals)
    np.testing.assert_allclose(alone, whole, atol=1e-5)

    def total(d, size):
        return jnp.sum(refit(codes[:size], signals[:size], d, num_active=3) ** 2)

    each = [jax.grad(total)(jnp.asarray(dictionary), size) for size in (6, 7)]
    last = jax.grad(lambda d: total(d, 7) - total(d, 6))(jnp.asarray(dictionary))
    np.testing.assert_allclose(each[1] - each[0], last, atol=1e-3)
    assert np.max(np.abs(last)) > 0.01


def test_a_dictionary_that_a_program_closes_over_is_no_constant_to_compute_with():
    codes, signals, dictionary = (jnp.asarray(x, np.float32) for x in draw())
    text = str(jax.make_jaxpr(lambda z, x: refit(z, x, dictionary, num_active=3))(codes, signals))
    assert text.count("optimization_barrier") == 1
    given = jax.make_jaxpr(lambda *a: refit(*a, num_active=3))(codes, signals, dictionary)
    assert "optimization_barrier" not in str(given)


@pytest.mark.parametrize(
    "compute", [sc.dictionaries.step_size, sc.dictionaries.coherence, sc.dictionaries.prepare]
)
def test_numbers_of_a_dictionary_that_is_a_constant_are_not_computed_while_compiling(compute):
    atoms = jnp.asarray(draw()[2], np.float32)
    assert "optimization_barrier" in str(jax.make_jaxpr(lambda: compute(atoms))())


@pytest.mark.full_effort
def test_nothing_is_sorted():
    shapes = (64, 2048), (64, 16), (2048, 16)
    codes, signals, dictionary = (jax.ShapeDtypeStruct(s, np.float32) for s in shapes)
    program = jax.jit(lambda *a: refit(*a, num_active=8)).lower(codes, signals, dictionary)
    assert " sort(" not in program.compile().as_text()


@pytest.mark.parametrize("k", [1, 3, 8])
def test_cost(k):
    cholesky = k * (k + 1) * (2 * k + 1) // 6
    common = 2 * M * k * k + 2 * M * k + 3 * k + 2 * M - 1
    once = 5 * M * N

    def count(**kwargs):
        arrays = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in draw()]
        return eval_flops(lambda *a: refit(*a, num_active=k, **kwargs), *arrays).total()

    assert count(prox=soft_threshold) == S * (common + cholesky + 2 * k * k) + once
    assert count() == S * (common + 4 * k**3 + 20 * k * k + 9 * k - 2) + once
    few = [jax.ShapeDtypeStruct((2, *x.shape[1:]), np.float32) for x in draw()[:2]]
    few.append(jax.ShapeDtypeStruct((N, M), np.float32))
    found = eval_flops(lambda *a: refit(*a, num_active=k, prox=soft_threshold), *few).total()
    assert found == 2 * (common + 5 * M * k + cholesky + 2 * k * k)
    text = docstring(refit)
    assert "2MK^2 + 2MK + 3K + 2M - 1 arithmetic operations per signal" in text
    assert "5MN once, or 5MK per signal" in text
    assert "K(K + 1)(2K + 1)/6 + 2K^2 for signed codes" in text
    assert "or 4K^3 + 20K^2 + 9K - 2 for non-negative ones" in text


@pytest.mark.parametrize("nonnegative", [False, True])
def test_codes_by_value_and_place_give_the_same_as_dense_ones(nonnegative, monkeypatch):
    codes, signals, dictionary = draw()
    prox = PROX[nonnegative]
    for num_active, slots in ((3, 3), (3, 7), (None, 5)):
        few = sc.SparseCodes.from_dense(codes, num_active=slots)
        expected = refit(few.dense(), signals, dictionary, num_active=num_active or 5, prox=prox)
        found = refit(few, signals, dictionary, num_active=num_active, prox=prox)
        assert found.values.shape == (60, num_active or 5)
        np.testing.assert_allclose(found.dense(), expected, rtol=1e-5, atol=1e-5)
    free = sc.SparseCodes(few.values.at[:, 2:].set(0), few.indices.at[:, 2:].set(0), 20)
    assert not np.asarray(refit(free, signals, dictionary).values)[:, 2:].any()
    with pytest.raises(ValueError, match="num_active is 6, but the codes have 5 slots"):
        refit(few, signals, dictionary, num_active=6)
    with pytest.raises(ValueError, match=r"codes have shape \(60, 19\); \(60, 20\)"):
        refit(sc.SparseCodes(few.values, few.indices % 19, 19), signals, dictionary)
    monkeypatch.setattr(module, "_BLOCK", 5 * 7 * dictionary.shape[1])  # blocks of 7 signals
    module._refit.clear_cache()
    blocks = refit(few, signals, dictionary, prox=prox)
    module._refit.clear_cache()
    np.testing.assert_allclose(blocks.dense(), refit(few, signals, dictionary, prox=prox).dense())
