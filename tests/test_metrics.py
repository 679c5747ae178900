"""Metrics against oracles, and the laws a metric must obey whatever it is applied to."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import r2_score

from sparsecode_jax import dictionaries, metrics, synthetic

from .contracts import M, N, sparse_problem

SHAPES = {"square": (6, 6), "fewer": (6, 4), "more": (4, 6), "one": (1, 5)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
three_shapes = pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 6)])  # traced: slow to compile


def codes_pair(shape, samples=60, seed=0):
    """Two unequal sets of codes with known, imperfect correlations."""
    rng = np.random.default_rng(seed)
    source = np.abs(rng.normal(size=(samples, max(shape))))
    true = source[:, : shape[0]]
    found = source[:, ::-1][:, : shape[1]] + 0.7 * rng.normal(size=(samples, shape[1]))
    return true.astype(np.float32), found.astype(np.float32)


def numpy_mcc(true, found):
    together = np.corrcoef(true.astype(np.float64), found.astype(np.float64), rowvar=False)
    scores = np.abs(np.atleast_2d(together)[: true.shape[1], true.shape[1] :])
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return scores[rows, columns].sum() / true.shape[1]


def numpy_dictionary_mcc(true, found, *, centered):
    if centered:
        true, found = (x - x.mean(axis=1, keepdims=True) for x in (true, found))
    true, found = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (true, found))
    scores = np.abs(true @ found.T)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return scores[rows, columns].sum() / len(true)


# --- mcc -------------------------------------------------------------------------------------


@each_shape
def test_mcc_against_numpy_and_scipy(shape):
    true, found = codes_pair(shape)
    expected = numpy_mcc(true, found)
    assert 0.1 < expected < 0.95
    assert float(metrics.mcc(true, found)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (4, 3), (3, 4)])
def test_mcc_by_exhaustive_search_over_matchings(shape):
    true, found = codes_pair(shape, seed=3)
    scores = np.abs(np.corrcoef(true, found, rowvar=False)[: shape[0], shape[0] :])
    small, large = sorted(shape)
    scores = scores if shape[0] == small else scores.T
    best = max(
        sum(scores[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(large), small)
    )
    assert float(metrics.mcc(true, found)) == pytest.approx(best / shape[0], abs=1e-5)


def test_mcc_matches_optimally_and_not_greedily():
    # Greedy takes 0.7 and is left with 0.1; the optimum takes 0.65 twice.
    scores = np.array([[0.7, 0.65], [0.65, 0.1]])
    basis = np.random.default_rng(0).normal(size=(500, 4))
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    true, rest = basis[:, :2], basis[:, 2:]
    found = true @ scores + rest * np.sqrt(1 - (scores**2).sum(axis=0))
    for fn in (metrics.mcc, jax.jit(metrics.mcc)):
        assert float(fn(true, found)) == pytest.approx(0.65, abs=1e-5)


@three_shapes
def test_host_jit_and_vmap_give_one_value(shape):
    true, found = codes_pair(shape)
    stack = np.stack([found, found[:, ::-1] ** 2, found + true[:, :1]])
    repeated = np.broadcast_to(true, (3, *true.shape))
    host = [metrics.mcc(true, z) for z in stack]
    np.testing.assert_allclose(metrics.mcc(repeated, stack), host, atol=1e-6)
    two = metrics.mcc(repeated[:, None], stack[:, None])
    assert two.shape == (3, 1)
    np.testing.assert_allclose(two[:, 0], host, atol=1e-6)

    @jax.jit
    def traced(true, repeated, stack):
        mapped = jax.vmap(metrics.mcc, in_axes=(None, 0))(true, stack)
        return metrics.mcc(true, stack[0]), mapped, metrics.mcc(repeated, stack)

    one, mapped, leading = traced(true, repeated, stack)
    assert one.shape == ()
    np.testing.assert_allclose(one, host[0], atol=1e-6)
    np.testing.assert_allclose(mapped, host, atol=1e-6)
    np.testing.assert_allclose(leading, host, atol=1e-6)


def test_mcc_is_invariant_to_permutation_scale_sign_and_shift():
    true, found = codes_pair((6, 6))
    expected = float(metrics.mcc(true, found))
    order = np.random.default_rng(0).permutation(6)
    for changed in (
        found[:, order],
        found * np.array([1e-3, 1e3, -1, 2, -3, 7], np.float32),
        found + np.arange(6, dtype=np.float32),
    ):
        assert float(metrics.mcc(true, changed)) == pytest.approx(expected, abs=1e-5)
    assert float(metrics.mcc(true[:, order], found)) == pytest.approx(expected, abs=1e-6)
    samples = np.random.default_rng(1).permutation(len(true))
    assert float(metrics.mcc(true[samples], found[samples])) == pytest.approx(expected, abs=1e-6)
    twice = metrics.mcc(np.concatenate([true] * 2), np.concatenate([found] * 2))
    assert float(twice) == pytest.approx(expected, abs=1e-6)


def test_mcc_of_identical_codes_is_one():
    true = sparse_problem().codes
    assert float(metrics.mcc(true, true)) == pytest.approx(1, abs=1e-6)
    assert float(jax.jit(metrics.mcc)(true, -3 * true[:, ::-1])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["host", "jit"])
@pytest.mark.parametrize("value", [0.0, 1.0, 3.3, 100.1, -7e4])
def test_constant_latents_count_as_zero(wrap, value):
    true, found = codes_pair((4, 4), samples=1000)
    score = wrap(metrics.mcc)
    constant = np.full_like(found[:, :1], value)
    dead = np.concatenate([constant, true[:, 1:]], axis=1)
    assert float(score(true, dead)) == pytest.approx(0.75, abs=0.02)  # 3 of 4 and no chance match
    assert float(score(dead, dead)) == pytest.approx(0.75, abs=1e-5)
    assert float(score(constant, constant)) == 0
    assert float(metrics.latent_correlation(constant, constant)) == 0


def test_unmatched_true_latents_count_as_zero_and_surplus_ones_do_not():
    true, _ = codes_pair((6, 6))
    noise = np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
    for fn in (metrics.mcc, jax.jit(metrics.mcc)):
        assert float(fn(true, true[:, :4])) == pytest.approx(4 / 6, abs=1e-6)
        assert float(fn(true[:, :4], true)) == pytest.approx(1, abs=1e-6)
        assert float(fn(true, np.concatenate([noise, true], axis=1))) == pytest.approx(1, abs=1e-6)


def test_mcc_in_every_dtype():
    true, found = codes_pair((6, 6))
    expected = numpy_mcc(true, found)
    with jax.enable_x64(True):
        double = metrics.mcc(true.astype(np.float64), found.astype(np.float64))
        assert double.dtype == jnp.float64
    assert float(double) == pytest.approx(expected, abs=1e-12)
    half = metrics.mcc(jnp.asarray(true, jnp.bfloat16), jnp.asarray(found, jnp.bfloat16))
    assert float(half) == pytest.approx(expected, abs=0.02)
    integers = np.round(10 * true).astype(int)
    assert float(metrics.mcc(integers, integers)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("mean", [3.0, 10.0, -50.0])
def test_dense_latents_are_not_mistaken_for_constant_ones(dtype, mean):
    """Every value is resolved: the spread is at least four times the spacing of the numbers."""
    true = np.random.default_rng(0).normal(size=(500, 6)) * abs(mean) / 10 + mean
    true = jnp.asarray(true, dtype)
    for fn in (metrics.mcc, metrics.latent_correlation):
        assert float(fn(true, true)) == pytest.approx(1, abs=0.02)


# --- latent correlation ----------------------------------------------------------------------


def test_latent_correlation_is_signed_and_unmatched():
    true, found = codes_pair((6, 6))
    expected = np.mean(np.diag(np.corrcoef(true, found, rowvar=False)[:6, 6:]))
    assert float(metrics.latent_correlation(true, found)) == pytest.approx(expected, abs=1e-5)
    assert float(metrics.latent_correlation(true, -true)) == pytest.approx(-1, abs=1e-5)
    rolled = metrics.latent_correlation(true, np.roll(true, 1, axis=1))
    assert abs(float(rolled)) < 0.3
    stack = np.stack([true, found])
    loop = [metrics.latent_correlation(t, found) for t in stack]
    both = metrics.latent_correlation(stack, np.stack([found, found]))
    np.testing.assert_allclose(both, loop, atol=1e-6)
    jitted = jax.jit(jax.vmap(metrics.latent_correlation, (0, None)))(stack, found)
    np.testing.assert_allclose(jitted, loop, atol=1e-6)


# --- dictionaries ----------------------------------------------------------------------------

DICTIONARY_METRICS = pytest.mark.parametrize(
    ("metric", "centered"),
    [(metrics.dictionary_mcc, False), (metrics.pearson_dictionary_mcc, True)],
    ids=["dictionary_mcc", "pearson_dictionary_mcc"],
)


@DICTIONARY_METRICS
@three_shapes
def test_dictionary_mcc_against_numpy_host_jit_and_vmap(metric, centered, shape):
    rng = np.random.default_rng(0)
    true = rng.normal(0.3, size=(shape[0], M)).astype(np.float32)
    found = rng.normal(0.3, size=(2, shape[1], M)).astype(np.float32)
    expected = [numpy_dictionary_mcc(true, d, centered=centered) for d in found]
    np.testing.assert_allclose([metric(true, d) for d in found], expected, atol=1e-5)
    np.testing.assert_allclose(metric(np.stack([true, true]), found), expected, atol=1e-5)
    mapped = jax.jit(jax.vmap(metric, in_axes=(None, 0)))(true, found)
    np.testing.assert_allclose(mapped, expected, atol=1e-5)


@DICTIONARY_METRICS
def test_dictionary_mcc_is_invariant_to_permutation_scale_and_sign(metric, centered):
    rng = np.random.default_rng(0)
    true, found = rng.normal(size=(2, 6, M)).astype(np.float32)
    expected = float(metric(true, found))
    scales = np.array([1e-3, 1e3, -1, 2, -3, 7], np.float32)[:, None]
    for changed in (found[::-1], found * scales, *([found + scales] if centered else [])):
        assert float(metric(true, changed)) == pytest.approx(expected, abs=2e-4)
    assert float(metric(true, -2 * true[::-1])) == pytest.approx(1, abs=1e-6)
    assert float(metric(true, true[:3])) == pytest.approx(0.5, abs=1e-6)
    dead = true * (np.arange(6) > 0)[:, None]
    assert float(metric(dead, dead)) == pytest.approx(5 / 6, abs=1e-6)


def test_only_the_pearson_variant_ignores_a_shift_of_an_atom():
    true = np.random.default_rng(0).normal(size=(6, M)).astype(np.float32)
    assert float(metrics.pearson_dictionary_mcc(true, true + 3)) == pytest.approx(1, abs=1e-5)
    assert float(metrics.dictionary_mcc(true, true + 3)) < 0.8


def test_nearest_neighbor_cosine_by_brute_force():
    dictionary = 2 * sparse_problem().dictionary
    atoms = dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)
    expected = np.mean(
        [max(a @ b for j, b in enumerate(atoms) if j != i) for i, a in enumerate(atoms)]
    )
    actual = float(metrics.nearest_neighbor_cosine(dictionary))
    assert actual == pytest.approx(expected, abs=1e-6)
    doubled = np.concatenate([dictionary, 3 * dictionary])
    assert float(metrics.nearest_neighbor_cosine(doubled)) == pytest.approx(1, abs=1e-6)
    assert float(metrics.nearest_neighbor_cosine(np.stack([atoms[0], -atoms[0]]))) == pytest.approx(
        -1, abs=1e-6
    )
    assert float(metrics.nearest_neighbor_cosine(np.eye(4))) == 0


# --- chance levels ---------------------------------------------------------------------------


@pytest.mark.parametrize(("num_atoms", "expected"), [(16, 0.670), (32, 0.731), (64, 0.793)])
def test_chance_level_of_random_dictionaries_in_eight_dimensions(num_atoms, expected):
    def draw(key):
        return dictionaries.random(key, num_atoms=num_atoms, num_measurements=8)

    true, other = jax.vmap(jax.vmap(draw))(jax.random.split(jax.random.key(0), (2, 80)))
    scores = metrics.pearson_dictionary_mcc(true, other)
    assert float(jnp.mean(scores)) == pytest.approx(expected, abs=0.01)


@DICTIONARY_METRICS
def test_dictionary_mcc_chance_is_the_mean_over_unrelated_dictionaries(metric, centered):
    true = dictionaries.random(jax.random.key(0), num_atoms=N, num_measurements=M)
    mean, deviation = metrics.dictionary_mcc_chance(
        jax.random.key(1), true, metric=metric, num_draws=50
    )
    rng = np.random.default_rng(0)
    scores = [
        numpy_dictionary_mcc(np.asarray(true), rng.normal(size=(N, M)), centered=centered)
        for _ in range(300)
    ]
    assert float(mean) == pytest.approx(np.mean(scores), abs=0.015)
    assert float(deviation) == pytest.approx(np.std(scores), rel=0.5)
    fewer, _ = metrics.dictionary_mcc_chance(
        jax.random.key(1), true, num_atoms=N // 2, metric=metric, num_draws=5
    )
    assert float(fewer) <= 0.5
    more, _ = metrics.dictionary_mcc_chance(
        jax.random.key(1), true, num_atoms=4 * N, metric=metric, num_draws=5
    )
    assert float(more) > float(mean) + 0.05


def test_chance_level_of_sparse_half_normal_codes():
    def draw(seed):
        return synthetic.sample_problem(
            jax.random.key(seed), 3, num_samples=1024, num_measurements=8, num_atoms=16
        ).codes

    true, other = draw(0), draw(1)
    direct = float(metrics.mcc(true, other))
    mean, deviation = metrics.mcc_chance(jax.random.key(2), true, true, num_draws=20)
    assert direct == pytest.approx(0.058, abs=0.005)
    assert float(mean) == pytest.approx(0.058, abs=0.005)
    assert 0 < float(deviation) < 0.01
    shuffled, _ = metrics.mcc_chance(jax.random.key(2), true, other, num_draws=20)
    assert float(shuffled) == pytest.approx(float(mean), abs=0.005)


# --- reconstruction --------------------------------------------------------------------------


@pytest.fixture
def reconstruction():
    rng = np.random.default_rng(0)
    signals = (rng.normal(size=(50, M)) * np.arange(1, M + 1) + 3).astype(np.float32)
    return signals, signals + rng.normal(size=(50, M)).astype(np.float32)


def test_r2_against_scikit_learn(reconstruction):
    expected = r2_score(*reconstruction, multioutput="variance_weighted")
    assert float(metrics.r2(*reconstruction)) == pytest.approx(expected, abs=1e-5)
    worse = reconstruction[0], 3 * reconstruction[1]
    expected = r2_score(*worse, multioutput="variance_weighted")
    assert expected < 0
    assert float(metrics.r2(*worse)) == pytest.approx(expected, rel=1e-5)


def test_mse_against_numpy(reconstruction):
    signals, other = reconstruction
    expected = np.mean((signals.astype(np.float64) - other) ** 2)
    assert float(metrics.mse(signals, other)) == pytest.approx(expected, rel=1e-5)


def test_predicting_the_mean_scores_zero_and_the_signals_score_one(reconstruction):
    signals = reconstruction[0]
    mean = np.broadcast_to(signals.mean(axis=0), signals.shape)
    assert float(metrics.r2(signals, mean)) == pytest.approx(0, abs=1e-6)
    assert float(metrics.r2(signals, signals)) == 1
    assert float(metrics.mse(signals, signals)) == 0


def test_reconstruction_scores_do_not_depend_on_the_size_or_order_of_the_data(reconstruction):
    order = np.random.default_rng(0).permutation(50)
    for metric in (metrics.mse, metrics.r2):
        expected = float(metric(*reconstruction))
        copies = [np.concatenate([x] * 3) for x in reconstruction]
        assert float(metric(*copies)) == pytest.approx(expected, rel=1e-5)
        shuffled = [x[order] for x in reconstruction]
        assert float(metric(*shuffled)) == pytest.approx(expected, rel=1e-5)


def test_r2_has_no_scale_and_no_origin_and_mse_has_a_square(reconstruction):
    signals, other = reconstruction
    expected = float(metrics.r2(signals, other))
    assert float(metrics.r2(10 * signals, 10 * other)) == pytest.approx(expected, abs=1e-5)
    assert float(metrics.r2(signals + 5, other + 5)) == pytest.approx(expected, abs=1e-5)
    squared = 100 * float(metrics.mse(signals, other))
    assert float(metrics.mse(10 * signals, 10 * other)) == pytest.approx(squared, rel=1e-5)


@pytest.mark.parametrize("metric", [metrics.mse, metrics.r2], ids=["mse", "r2"])
def test_reconstruction_scores_under_leading_axes_jit_and_vmap(metric, reconstruction):
    signals, other = reconstruction
    stack = np.stack([other, signals, 2 * other]).reshape(3, 1, 50, M)
    repeated = np.broadcast_to(signals, stack.shape)
    expected = np.asarray([[metric(signals, x[0])] for x in stack])
    np.testing.assert_allclose(metric(repeated, stack), expected, rtol=1e-5, atol=1e-6)
    mapped = jax.jit(jax.vmap(jax.vmap(metric)))(repeated, stack)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-6)


# --- counting latents ------------------------------------------------------------------------


def test_l0_and_dead_fraction_by_counting():
    codes = np.array([[0, 1, 0, -2, 1e-9], [0, 3, 0, 0, 0], [0, 0, 0, 0.5, 0]], np.float32)
    assert float(metrics.l0(codes)) == pytest.approx(5 / 3)
    assert float(metrics.l0(codes, threshold=1e-6)) == pytest.approx(4 / 3)
    assert float(metrics.l0(codes, threshold=0.5)) == pytest.approx(1)  # strictly above
    assert float(metrics.dead_fraction(codes)) == pytest.approx(2 / 5)
    assert float(metrics.dead_fraction(codes, threshold=1e-6)) == pytest.approx(3 / 5)
    assert float(metrics.dead_fraction(codes, threshold=5)) == 1


@pytest.mark.parametrize("metric", [metrics.l0, metrics.dead_fraction], ids=["l0", "dead"])
def test_counts_under_leading_axes_jit_and_dtypes(metric):
    codes = np.random.default_rng(0).normal(size=(2, 3, 5, N)) > 1
    expected = np.asarray([[metric(c) for c in row] for row in codes.astype(np.float32)])
    for dtype in ("float32", "bfloat16", "int32"):
        chex.assert_trees_all_close(metric(jnp.asarray(codes, dtype)), expected, rtol=1e-6)
    jitted = jax.jit(jax.vmap(metric))(codes.astype(np.float32))
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)


def test_l0_of_many_samples_is_exact_in_low_precision():
    codes = jnp.ones((3000, 300), jnp.bfloat16)  # bfloat16 cannot count beyond 256
    assert float(metrics.l0(codes)) == 300
    assert float(metrics.dead_fraction(codes)) == 0
