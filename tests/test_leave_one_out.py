"""Leave-one-out: each code against the residual without it, by brute force."""

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.solvers import leave_one_out

from .contracts import docstring

S, M, N = 30, 8, 20


def draw(seed=0):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(N, M)) * rng.uniform(0.5, 2, size=(N, 1))
    codes = np.where(rng.random((S, N)) < 0.3, rng.normal(size=(S, N)), 0)
    signals = codes @ dictionary + 0.5 * rng.normal(size=(S, M))
    return tuple(x.astype(np.float32) for x in (codes, signals, dictionary))


def by_hand(codes, signals, dictionary, threshold):
    kept = np.zeros_like(codes)
    for s, i in zip(*np.nonzero(codes), strict=True):
        others = codes[s].copy()
        others[i] = 0
        left = (signals[s] - others @ dictionary) @ dictionary[i]
        if np.sign(codes[s, i]) * left > np.broadcast_to(threshold, N)[i]:
            kept[s, i] = codes[s, i]
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.7, np.linspace(0, 3, N).astype(np.float32)])
def test_each_code_is_kept_by_what_the_others_leave(threshold):
    codes, signals, dictionary = draw()
    expected = by_hand(*(x.astype(np.float64) for x in (codes, signals, dictionary)), threshold)
    assert 0 < (expected != 0).sum() < (codes != 0).sum()
    found = leave_one_out(codes, signals, dictionary, threshold=threshold)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    few = sc.SparseCodes.from_dense(codes)
    sparse = leave_one_out(few, signals, dictionary, threshold=threshold)
    np.testing.assert_array_equal(sparse.indices, few.indices)
    np.testing.assert_allclose(sparse.dense(), expected, rtol=1e-6)


def test_the_threshold_may_be_swept_and_signals_have_any_leading_axes():
    codes, signals, dictionary = draw()
    many = jax.vmap(lambda t: leave_one_out(codes, signals, dictionary, threshold=t))(
        np.float32([0.0, 0.5, 5.0])
    )
    np.testing.assert_array_equal(many[1], leave_one_out(codes, signals, dictionary, threshold=0.5))
    counts = (np.asarray(many) != 0).sum(axis=(1, 2))
    assert counts[0] > counts[1] > counts[2]
    parts = [x.reshape(5, 6, -1) for x in (codes, signals)]
    found = leave_one_out(*parts, dictionary, threshold=0.5)
    np.testing.assert_allclose(found.reshape(S, N), many[1], rtol=1e-6)


def test_orthogonal_atoms_are_kept_by_the_codes_of_the_signals():
    signals = np.float32([[2.0, 0.3, -1.0]])
    found = leave_one_out(signals, signals, np.eye(3, dtype=np.float32), threshold=0.5)
    np.testing.assert_array_equal(found, [[2.0, 0.0, -1.0]])


def test_what_is_no_number_gives_none():
    codes, signals, dictionary = draw()
    signals[3, 1] = np.nan
    found = jax.jit(lambda *a: leave_one_out(*a, threshold=0.5))(codes, signals, dictionary)
    assert np.isnan(found[3]).any()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()


def test_errors():
    codes, signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"leave_one_out: the threshold has shape \(3,\)"):
        leave_one_out(codes, signals, dictionary, threshold=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"leave_one_out: the codes have shape \(30, 19\)"):
        leave_one_out(codes[:, 1:], signals, dictionary, threshold=0.5)


def test_cost():
    arrays = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in draw()]

    def run(*a):
        return leave_one_out(*a, threshold=0.5)

    once, k = 2 * M * N - N, 5
    assert eval_flops(run, *arrays).total() == S * (4 * M * N + 4 * N + M) + once
    slots = sc.SparseCodes(
        jax.ShapeDtypeStruct((S, k), np.float32), jax.ShapeDtypeStruct((S, k), np.int32), N
    )
    found = eval_flops(run, slots, *arrays[1:]).total()
    assert found == S * (4 * M * k + 3 * k + M) + once
    text = docstring(leave_one_out)
    assert "4MN + 4N + M arithmetic operations per signal" in text
    assert "4MK + 3K + M for ``SparseCodes`` of K slots, and 2MN - N once" in text
