"""The paper's methods with settings of each run's own: the same programs, and short versions."""

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import authors, bias, common, hidden_width, settings, top_k, variants
from experiments import penalty_pareto as pareto


@pytest.fixture(scope="module")
def given():
    seeds = (authors.UNKNOWN_SEED, authors.UNKNOWN_SEED + 1)
    return variants.runs((authors.UNKNOWN_SEED, 5), seeds, (0.01, 0.5))


@pytest.mark.parametrize("method", variants.METHODS)
def test_the_first_run_is_that_of_the_papers_setting(given, method):
    """Run 0 has the published data, weights and penalty: it is the same as in settings."""
    one = variants.train(method, given, num_steps=10, learning_rate=1e-3)
    hidden = {"sae": (), "mlp32": (32,)}.get(method, method)
    expected = settings.train("unknown_dictionary", hidden, num_steps=10, record_steps=[10])
    atoms = expected.records if method == variants.SPARSE_CODING else expected.records.dictionary
    np.testing.assert_allclose(one.params.dictionary[0], atoms[0, 0], atol=1e-5)
    codes = variants.infer_codes(method, given, one.params, num_steps=30)
    assert codes.shape == (2, 1024, 16)
    if method == "sae":
        weight = expected.records.encoder.weight[0, 0]
        signals = settings.data("unknown_dictionary").test_signals
        np.testing.assert_allclose(codes[0], np.maximum(signals @ weight.T, 0), atol=1e-4)


def test_other_data_penalties_and_biases_are_used(given):
    assert not np.allclose(given.data.train_signals[0], given.data.train_signals[1])
    plain, biased = (
        variants.train("sae", given, num_steps=3, learning_rate=1e-3, use_bias=use)
        for use in (False, True)
    )
    assert plain.params.encoder.bias is None and biased.params.encoder.bias.shape == (2, 16)
    heavy = given._replace(penalties=np.float32([0.01, 5]))
    other = variants.train("sae", heavy, num_steps=3, learning_rate=1e-3)
    np.testing.assert_array_equal(
        *(fit.params.dictionary[0] for fit in (plain, other)), err_msg="run 0 is the same"
    )
    assert np.max(np.abs(plain.params.encoder.weight[1] - other.params.encoder.weight[1])) > 1e-4


def test_codes_are_optimized_for_each_runs_signals_and_penalty(given):
    atoms, signals = given.data.dictionary, given.data.test_signals[:, :64]
    options = {"num_steps": 200, "learning_rate": 0.1}
    both = settings.optimize_codes(atoms, signals, penalty=given.penalties, **options)
    for i in range(2):
        one = settings.optimize_codes(
            atoms[i : i + 1], signals[i], penalty=float(given.penalties[i]), **options
        )
        np.testing.assert_allclose(both[i], one[0], rtol=1e-3, atol=1e-4)
    other = settings.optimize_codes(atoms, signals, penalty=given.penalties[::-1], **options)
    assert np.abs(both - other).max() > 0.05


def test_scores_are_means_over_signals(given):
    codes = given.data.test_codes + np.float32(5e-4)  # below the largest threshold
    found = variants.scores(given, given.data.dictionary, codes)
    np.testing.assert_allclose(found["l0_0.001"], 3 / 16, rtol=1e-2)
    np.testing.assert_allclose(found["l0_0.0001"], 1)
    np.testing.assert_allclose(found["mean_abs_code"], codes.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose([found["latent_mcc"], found["dict_mcc"]], 1, atol=1e-5)
    error = 5e-4**2 * (given.data.dictionary.sum(axis=1) ** 2).mean(axis=1)
    np.testing.assert_allclose(found["mse"], error, rtol=1e-2)
    assert not found["dead"].any()
    codes[1, :, :4] = 5e-4
    dead = variants.scores(given, given.data.dictionary, codes)["dead"]
    np.testing.assert_allclose(dead, [0, 1 / 4])
    codes[0, 0, 0] = np.inf  # this run has failed, the other one has not
    for values in variants.scores(given, given.data.dictionary, codes).values():
        np.testing.assert_array_equal(np.isnan(values), [True, False])


def test_estimates_count_failures():
    assert common.estimate([0.5, 0.6, 0.7]) == "0.600±0.248"
    assert common.estimate([0.5], 2) == "0.50"
    assert common.estimate([0.5, np.nan, np.inf]) == "2 of 3 failed"


def test_the_largest_codes_are_kept_and_fitted():
    rng = np.random.default_rng(0)
    codes = rng.random((20, 16), np.float32)
    atoms = np.asarray(sc.dictionaries.random(jax.random.key(0), num_atoms=16, num_measurements=8))
    signals = codes @ atoms
    kept = np.asarray(top_k.largest(codes, 3))
    bound = np.sort(codes, axis=1)[:, -3][:, None]
    np.testing.assert_array_equal(kept, np.where(codes >= bound, codes, 0))
    errors = {}
    for way in top_k.WAYS:
        found = np.asarray(top_k.encode(way, 3, codes, signals, atoms, 3000))
        assert ((found != 0).sum(axis=1) <= 3).all() and (found >= 0).all(), way
        errors[way] = np.sum((found @ atoms - signals) ** 2)
    assert errors["refit"] < 0.9 * errors["cut"]
    assert errors["mask"] < 0.9 * errors["cut"]
    assert errors["ols"] < errors["refit"]


def test_published_penalties_are_read():
    before = pareto.published()
    assert before["sae"][0.001]["mse"] == 0.000102451
    assert before["sparse_coding"][0.5]["latent_mcc"] == 0.8357
    assert before["mlp32"][5.0]["l0_0.001"] == 0.00986735
    assert {len(rows) for rows in before.values()} == {9}


@pytest.mark.full_effort  # runs longer than it compiles
@pytest.mark.parametrize("experiment", [bias, top_k, pareto, hidden_width])
def test_short_versions_write_results_and_tables(experiment, tmp_path):
    experiment.main(experiment.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / experiment.NAME)
    assert manifest["config"]["num_steps"] == experiment.QUICK.num_steps
    assert all(np.isfinite(values).all() for values in arrays.values())
    text = (tmp_path / f"{experiment.NAME}.txt").read_text()
    assert "ublished" in text and "nan" not in text
    assert (tmp_path / f"{experiment.NAME}.png").exists() == (experiment is pareto)
    assert not (tmp_path / "partial").exists()
