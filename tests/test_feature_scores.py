"""Scores of autoencoders against known features: loops over samples, and whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sparsecode_jax import SparseCodes, metrics
from sparsecode_jax.metrics import _features

M, N, LATENTS = 12, 20, 15
KINDS = {"dense": jnp.asarray, "sparse": SparseCodes.from_dense}
each_pair = pytest.mark.parametrize("true_kind", KINDS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def draw(samples=90, latents=LATENTS, seed=0):
    """Return signals, true codes, codes, reconstruction, true dictionary, dictionary."""
    rng = np.random.default_rng(seed)
    true_dictionary = rng.normal(size=(N, M))
    true_codes = (rng.random((samples, N)) < 0.2) * rng.uniform(0.5, 2, (samples, N))
    true_codes[:, 3] = 0  # a feature that no sample has
    true_codes[::9] *= -1  # which does not fire
    from_true = rng.integers(N, size=latents)  # some features have several latents, some none
    from_true[:2] = 3, from_true[2]
    dictionary = -3 * true_dictionary[from_true] + 0.4 * rng.normal(size=(latents, M))
    codes = true_codes[:, from_true] * (rng.random((samples, latents)) < 0.8)
    codes += (rng.random((samples, latents)) < 0.05) * rng.normal(size=(samples, latents))
    codes[:, 4] = 0  # a latent that no sample activates
    signals = true_codes @ true_dictionary + 3
    reconstruction = 0.9 * signals + 0.1 * rng.normal(size=signals.shape)
    arrays = signals, true_codes, codes, reconstruction, true_dictionary, dictionary
    return tuple(x.astype(np.float32) for x in arrays)


def loops(signals, true_codes, codes, reconstruction, true_dictionary, dictionary):
    """Count sample by sample and latent by latent, in float64."""
    cosines = np.zeros((len(dictionary), len(true_dictionary)))
    for j, atom in enumerate(dictionary.astype(np.float64)):
        for i, true in enumerate(true_dictionary.astype(np.float64)):
            cosines[j, i] = abs(atom @ true) / np.sqrt((atom @ atom) * (true @ true))
    rates = np.zeros((3, len(dictionary)))
    for j in range(len(dictionary)):
        hits = misses = alarms = 0
        for found, truth in zip(codes[:, j], true_codes[:, cosines[j].argmax()], strict=True):
            hits += found != 0 and truth > 0
            alarms += found != 0 and not truth > 0
            misses += found == 0 and truth > 0
        precision = hits / (hits + alarms) if hits + alarms else 0
        recall = hits / (hits + misses) if hits + misses else 0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        rates[:, j] = precision, recall, f1
    x, y = signals.astype(np.float64), reconstruction.astype(np.float64)
    pairs = linear_sum_assignment(-cosines)
    norms = [(np.sqrt(r @ r), np.sqrt(s @ s)) for r, s in zip(y, x, strict=True)]
    return {
        "precision": rates[0], "recall": rates[1], "f1": rates[2],
        "mcc": cosines[pairs].mean(),
        "uniqueness": len({int(c.argmax()) for c in cosines}) / len(dictionary),
        "explained_variance": 1 - ((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum(),
        "l0": sum(float((z != 0).sum()) for z in codes) / len(codes),
        "true_l0": sum(float((z != 0).sum()) for z in true_codes) / len(codes),
        "dead_fraction": np.mean([not any(column != 0) for column in codes.T]),
        "shrinkage": np.mean([a / b for a, b in norms if b]),
        "num_samples": len(codes),
    }  # fmt: skip


DATA = draw()
EXPECTED = loops(*DATA)
DICTIONARIES = {"true_dictionary": DATA[4], "dictionary": DATA[5]}


def score(data, sizes, kinds=("dense", "dense"), **dictionaries):
    """Score in batches of given sizes, from a generator."""
    true_kind, kind = (KINDS[name] for name in kinds)
    ends = np.cumsum(sizes)
    assert ends[-1] == len(data[0])
    parts = [[x[e - s : e] for x in data[:4]] for s, e in zip(sizes, ends, strict=True)]
    batches = ((x, true_kind(z), kind(found), y) for x, z, found, y in parts)
    return metrics.score_features(batches, **(dictionaries or DICTIONARIES))


def agree(scores, expected, atol=2e-6):
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(scores, name), value, atol=atol, rtol=0, err_msg=name)


# --- latents -------------------------------------------------------------------------------------


def test_the_example_has_all_cases():
    f1, precision, recall = (EXPECTED[name] for name in ("f1", "precision", "recall"))
    assert f1[4] == precision[4] == recall[4] == 0  # a dead latent
    assert recall[0] == 0 and np.sum(DATA[2][:, 0] != 0) > 0  # fires, but its feature never does
    assert (DATA[2] < 0).any() and 0.3 < f1.mean() < 0.9 and len(set(precision)) > 8
    assert EXPECTED["uniqueness"] < 0.9 and 0 < EXPECTED["dead_fraction"] < 0.2


@each_pair
@each_kind
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_latent_f1_by_counting(true_kind, kind, wrap):
    true_codes, codes = KINDS[true_kind](DATA[1]), KINDS[kind](DATA[2])
    f1 = wrap(metrics.latent_f1)(true_codes, codes, **DICTIONARIES)
    assert f1.shape == (LATENTS,) and f1.dtype == jnp.float32
    np.testing.assert_allclose(f1, EXPECTED["f1"], atol=1e-6)


def test_latent_f1_of_many_atoms_and_samples_at_once_and_under_vmap():
    data = draw(70, latents=700, seed=1)
    expected = loops(*data)["f1"]
    named = {"true_dictionary": data[4], "dictionary": data[5]}
    np.testing.assert_allclose(metrics.latent_f1(*data[1:3], **named), expected, atol=1e-6)
    stack = [jnp.stack([x, x[::-1]]) for x in data[1:3]]
    both = jax.vmap(lambda z, found: metrics.latent_f1(z, found, **named))(*stack)
    np.testing.assert_allclose(both, [expected, expected], atol=1e-6)


def test_signs_and_scales_do_not_count_and_negative_truth_does_not_fire():
    f1 = metrics.latent_f1(DATA[1], DATA[2], **DICTIONARIES)
    for scale in (1e-30, -1.0, 1e30):
        named = {name: np.float32(scale) * d for name, d in DICTIONARIES.items()}
        np.testing.assert_array_equal(metrics.latent_f1(DATA[1], -DATA[2], **named), f1)
        assert metrics.uniqueness(**named) == pytest.approx(EXPECTED["uniqueness"])
    assert not metrics.latent_f1(-np.abs(DATA[1]), DATA[2], **DICTIONARIES).any()


def test_slots_that_are_not_in_use_count_as_nothing():
    sparse = SparseCodes(jnp.array([[2.0, 0], [0, 0]]), jnp.array([[1, 1], [0, 1]]), 2)
    atoms = {"true_dictionary": np.eye(2), "dictionary": np.eye(2)}
    for values in ([[0, 1.0], [0, 0]], [[1.0, 0], [0, 0]]):
        true = SparseCodes(jnp.array(values), jnp.array([[1, 1], [1, 1]]), 2)
        for pair in ((true, sparse), (true.dense(), sparse), (true, sparse.dense())):
            np.testing.assert_array_equal(metrics.latent_f1(*pair, **atoms), [0, 1])


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 6), (1, 300), (300, 1)])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_uniqueness_by_a_set(shape, wrap):
    rng = np.random.default_rng(2)
    true, found = (rng.normal(size=(n, M)).astype(np.float32) for n in shape)
    cosines = np.abs(found @ (true / np.linalg.norm(true, axis=1, keepdims=True)).T)
    expected = len(set(cosines.argmax(axis=1).tolist())) / shape[1]
    assert float(wrap(metrics.uniqueness)(true, found)) == pytest.approx(expected)


# --- dictionaries and norms ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 6)])
def test_matched_mcc_divides_by_the_pairs(shape):
    rng = np.random.default_rng(3)
    true, found = (rng.normal(size=(n, M)).astype(np.float32) for n in shape)
    matched = metrics.matched_dictionary_mcc(true, found)
    by_atoms = metrics.dictionary_mcc(true, found) * shape[0] / min(shape)
    np.testing.assert_allclose(matched, by_atoms, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(metrics.matched_dictionary_mcc)(true, found), matched, 1e-6)
    scaled = metrics.matched_dictionary_mcc(true * np.float32(1e20), -found[::-1])
    np.testing.assert_allclose(scaled, matched, rtol=1e-6)


def test_shrinkage_is_a_mean_of_ratios_over_signals_that_are_not_zero():
    signals, reconstruction = DATA[0], DATA[3]
    expected = EXPECTED["shrinkage"]
    assert float(metrics.shrinkage(signals, reconstruction)) == pytest.approx(expected, rel=1e-6)
    assert float(metrics.shrinkage(signals, 0.25 * signals)) == pytest.approx(0.25, rel=1e-6)
    padded = [np.concatenate([x, np.zeros_like(x[:7])]) for x in (signals, reconstruction)]
    padded[1][-7:] = 5
    assert float(metrics.shrinkage(*padded)) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(metrics.shrinkage(0 * signals, reconstruction))
    for scale in (1e-30, 1e30):
        x, y = (np.float32(scale) * a for a in (signals, reconstruction))
        assert float(metrics.shrinkage(x, y)) == pytest.approx(expected, rel=1e-6)
    stack = np.stack([signals, signals[::-1]]), np.stack([reconstruction, reconstruction[::-1]])
    np.testing.assert_allclose(metrics.shrinkage(*stack), [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(metrics.shrinkage)(*stack), [expected] * 2, rtol=1e-6)


# --- streams -------------------------------------------------------------------------------------


@each_pair
@each_kind
@pytest.mark.parametrize("sizes", [[90], [30, 30, 30], [1, 64, 2, 23]], ids=str)
def test_scores_by_counting_whatever_the_batches(true_kind, kind, sizes):
    scores = score(DATA, sizes, (true_kind, kind))
    agree(scores, EXPECTED)
    assert set(EXPECTED) == set(metrics.FeatureScores._fields)


def test_scores_are_those_of_the_functions_of_one_batch():
    signals, true_codes, codes, reconstruction = DATA[:4]
    scores = score(DATA, [50, 40])
    expected = {
        "f1": metrics.latent_f1(true_codes, codes, **DICTIONARIES),
        "mcc": metrics.matched_dictionary_mcc(*DICTIONARIES.values()),
        "uniqueness": metrics.uniqueness(**DICTIONARIES),
        "explained_variance": metrics.r2(signals, reconstruction),
        "l0": metrics.l0(codes), "true_l0": metrics.l0(true_codes),
        "dead_fraction": metrics.dead_fraction(codes),
        "shrinkage": metrics.shrinkage(signals, reconstruction),
    }  # fmt: skip
    agree(scores, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scores_do_not_see_the_scale(scale):
    scaled = [np.float32(scale) * x for x in (DATA[0], DATA[3])]
    agree(score((scaled[0], *DATA[1:3], scaled[1]), [50, 40]), EXPECTED)


@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0])
def test_variance_is_about_the_mean_of_all_batches(offset):
    """One batch is one cluster, and the mean is far from 0."""
    rng = np.random.default_rng(4)
    parts = rng.normal(size=(6, 500, M)) + offset + np.arange(6)[:, None, None]
    signals = parts.reshape(-1, M).astype(np.float32)
    reconstruction = signals + rng.normal(size=signals.shape).astype(np.float32)
    x, y = (a.astype(np.float64) for a in (signals, reconstruction))
    expected = 1 - ((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    codes = np.ones((len(x), N), np.float32), np.ones((len(x), LATENTS), np.float32)
    for sizes in ([3000], [500] * 6, [1, 2999]):
        found = score((signals, *codes, reconstruction), sizes).explained_variance
        assert found == pytest.approx(expected, abs=2e-7)


def test_half_a_million_samples_lose_no_precision():
    """Sums in float32 would: of ones they are right, of a third they are not."""
    size, number = 250_000, 2
    rng = np.random.default_rng(5)
    some = (1 / 3 + rng.random((size, 2)) / 1000).astype(np.float32)
    true = np.ones((size, 1), np.float32)
    true[0] = 0
    batch = some, true, np.ones((size, 1), np.float32), some * np.float32(0.7)
    atoms = np.ones((1, 2), np.float32)
    scores = metrics.score_features(
        (batch for _ in range(number)), true_dictionary=atoms, dictionary=atoms
    )
    assert scores.num_samples == size * number
    assert scores.precision[0] == (size - 1) / size and scores.recall[0] == 1
    assert scores.l0 == 1 and scores.true_l0 == (size - 1) / size
    x, y = (a.astype(np.float64) for a in (batch[0], batch[3]))
    expected = 1 - ((x - y) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert scores.explained_variance == pytest.approx(expected, rel=1e-6)
    ratios = np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)
    assert scores.shrinkage == pytest.approx(ratios.mean(), rel=2e-7)


def test_one_program_for_batches_of_one_shape(compilations):
    score(DATA, [30, 30, 30])
    before = compilations.count
    score(DATA, [30, 30, 30], true_dictionary=DATA[4] + 1, dictionary=DATA[5] * 2)
    assert compilations.count == before


def test_scores_in_other_dtypes():
    with jax.enable_x64(True):
        double = [x.astype(np.float64) for x in DATA]
        scores = score(double, [50, 40], true_dictionary=double[4], dictionary=double[5])
        agree(scores, EXPECTED, atol=1e-12)
    half = [jnp.asarray(x, jnp.bfloat16) for x in DATA[:4]]
    scores = score(half, [50, 40])
    np.testing.assert_allclose(scores.f1, EXPECTED["f1"], atol=1e-6)
    assert scores.explained_variance == pytest.approx(EXPECTED["explained_variance"], abs=0.02)
    assert scores.shrinkage == pytest.approx(EXPECTED["shrinkage"], abs=0.01)


def test_signals_that_are_constant_have_no_explained_variance():
    ones = np.ones((4, M), np.float32)
    batch = ones, np.ones((4, N), np.float32), np.ones((4, LATENTS), np.float32), 0 * ones
    scores = metrics.score_features([batch], **DICTIONARIES)
    assert scores.explained_variance == -np.inf and scores.shrinkage == 0
    nothing = metrics.score_features([(0 * ones, *batch[1:])], **DICTIONARIES)
    assert np.isnan(nothing.explained_variance) and np.isnan(nothing.shrinkage)


@pytest.mark.full_effort
@pytest.mark.parametrize("streamed", [False, True], ids=["latent_f1", "score_features"])
def test_sparse_codes_are_not_made_dense(streamed):
    samples, features, slots, latents, size = 8192, 16384, 64, 4096, 32

    def shaped(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def sparse(number, slots):
        places = jax.ShapeDtypeStruct((samples, slots), jnp.int32)
        return SparseCodes(shaped(samples, slots), places, number)

    codes = sparse(features, slots), sparse(latents, slots // 2)
    if streamed:
        signals, nearest = shaped(samples, size), jax.ShapeDtypeStruct((latents,), jnp.int32)
        lowered = _features._sums.lower(signals, *codes, signals, nearest)
    else:
        atoms = {"true_dictionary": shaped(features, size), "dictionary": shaped(latents, size)}
        lowered = jax.jit(metrics.latent_f1).lower(*codes, **atoms)
    held = lowered.compile().memory_analysis().temp_size_in_bytes
    assert held < samples * latents  # a byte each


# --- what is refused -----------------------------------------------------------------------------

BATCH = DATA[:4]
ERRORS = {
    "true codes (90, 19)": lambda b: (b[0], b[1][:, 1:], *b[2:]),
    "the codes have shape (90, 16)": lambda b: (*b[:2], np.ones((90, 16)), b[3]),
    "the codes have shape (90,)": lambda b: (*b[:2], b[2][:, 0], b[3]),
    "different numbers of samples": lambda b: (*b[:2], b[2][1:], b[3]),
    "the signals have shape (90, 11)": lambda b: (b[0][:, 1:], *b[1:3], b[3][:, 1:]),
    "the signals have shape (89, 12)": lambda b: (b[0][1:], *b[1:3], b[3][1:]),
    "reconstruction (89, 12)": lambda b: (*b[:3], b[3][1:]),
    "codes holds 1 non-finite": lambda b: (
        *b[:2],
        np.where(b[2] == b[2].max(), np.nan, b[2]),
        b[3],
    ),
    "signals holds 1 non-finite": lambda b: (np.where(b[0] == b[0].max(), np.inf, b[0]), *b[1:]),
}


@pytest.mark.parametrize("text", ERRORS)
def test_bad_batches_are_named(text):
    batches = [BATCH, ERRORS[text](BATCH)]
    with pytest.raises(ValueError, match="^score_features: batch 1: ") as told:
        metrics.score_features(batches, **DICTIONARIES)
    assert text.replace("true codes (90, 19)", "the true codes have shape (90, 19)") in str(
        told.value
    )


def test_what_is_no_stream_is_told():
    with pytest.raises(TypeError, match="^score_features: batches is int; an iterable"):
        metrics.score_features(3, **DICTIONARIES)
    with pytest.raises(TypeError, match="^score_features: batch 0 is ndarray; .* into a list"):
        metrics.score_features(BATCH, **DICTIONARIES)
    with pytest.raises(
        ValueError, match="^score_features: 0 samples in all batches; .*read before"
    ):
        metrics.score_features(iter([]), **DICTIONARIES)
    with pytest.raises(TypeError, match="^score_features: batch 0 is traced"):
        jax.jit(lambda *b: metrics.score_features([b], **DICTIONARIES))(*BATCH)
    with pytest.raises(TypeError, match="^score_features: a dictionary is traced"):
        jax.jit(lambda d: metrics.score_features([], true_dictionary=d, dictionary=d))(DATA[4])


def test_what_is_not_finite_is_told_or_gives_none():
    bad = DATA[2].copy()
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match="^latent_f1: codes holds 1 non-finite"):
        metrics.latent_f1(DATA[1], bad, **DICTIONARIES)
    sparse = SparseCodes.from_dense(DATA[2], num_active=5)
    broken = SparseCodes(sparse.values.at[2, 1].set(np.inf), sparse.indices, LATENTS)
    with pytest.raises(ValueError, match="^latent_f1: codes holds 1 non-finite"):
        metrics.latent_f1(DATA[1], broken, **DICTIONARIES)
    assert np.isnan(jax.jit(metrics.latent_f1)(DATA[1], bad, **DICTIONARIES)).all()
    atoms = DATA[5].copy()
    atoms[0, 0] = np.inf
    with pytest.raises(ValueError, match="^uniqueness: dictionary holds 1 non-finite"):
        metrics.uniqueness(DATA[4], atoms)
    assert np.isnan(jax.jit(metrics.uniqueness)(DATA[4], atoms))
    f1 = jax.jit(metrics.latent_f1)(*DATA[1:3], true_dictionary=DATA[4], dictionary=atoms)
    assert np.isnan(f1).all()
