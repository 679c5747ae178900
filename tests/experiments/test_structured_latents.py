"""Structured latents: the data have their structure, and the short version its table."""

import dataclasses
import re

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import structured_latents as latents
from experiments import structured_latents_report as report
from experiments.structures import STRUCTURES, Size


@pytest.fixture(scope="module", params=list(STRUCTURES))
def data(request):
    return request.param, latents.draw(request.param, (7, 8))


def test_signals_are_codes_times_atoms_at_the_papers_scale(data):
    name, sets = data
    assert sets.train_signals.shape == (2, 1024, 8)
    for half in ("train", "test"):
        signals, codes = getattr(sets, f"{half}_signals"), getattr(sets, f"{half}_codes")
        np.testing.assert_allclose(signals, codes @ sets.dictionary, atol=1e-4)
        squares = (signals**2).sum(axis=-1).mean(axis=-1)
        np.testing.assert_allclose(squares, 3, rtol=0.2, err_msg=name)
    active = (sets.train_codes != 0).sum(axis=-1)
    assert 2.5 < active.mean() < 3.6
    assert (active == 3).all() == (name.startswith(("exactly", "Zipf")))
    assert not np.allclose(sets.train_signals[0], sets.test_signals[0])


def test_structures_are_what_they_are_called():
    zipf, circles, tree = (
        latents.draw(name, (7,)).train_codes[0]
        for name in ("Zipf (the authors')", "circles", "hierarchy")
    )
    rates = (zipf != 0).mean(axis=0)
    assert rates[0] > 0.6 > 0.1 > rates[-1]
    sizes = np.abs(zipf).sum(axis=0) / (zipf != 0).sum(axis=0)
    assert sizes[0] > 2 * sizes[4]  # magnitudes fall with the weight, to a tenth of it
    np.testing.assert_array_equal(circles[:, ::2] != 0, circles[:, 1::2] != 0)
    assert (circles < 0).any()
    assert (((tree[:, 4:7] > 0).sum(axis=1)) <= 1).all()
    assert not ((tree[:, 4] > 0) & (tree[:, 0] == 0)).any()


@pytest.mark.parametrize("name", ["hierarchy", "circles", "correlated firing"])
def test_structures_keep_their_law_at_other_sizes(name):
    size = Size(num_measurements=40, num_atoms=128, num_active=6, num_train=1500, num_test=500)
    sets = latents.draw(name, (7,), size)
    assert sets.train_signals.shape == (1, 1500, 40) and sets.test_codes.shape == (1, 500, 128)
    codes = sets.train_codes[0]
    np.testing.assert_allclose(sets.train_signals[0], codes @ sets.dictionary[0], atol=1e-4)
    np.testing.assert_allclose((sets.train_signals**2).sum(axis=-1).mean(), 6, rtol=0.1)
    assert 5 < (codes != 0).sum(axis=1).mean() < 7
    if name == "circles":
        np.testing.assert_array_equal(codes[:, ::2] != 0, codes[:, 1::2] != 0)


def test_the_short_version_writes_results_and_table(tmp_path):
    latents.main(latents.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / latents.NAME)
    assert arrays["latent"].shape == (1, len(report.METHODS), 1)
    assert manifest["structures"] == list(latents.QUICK.structures)
    true, sae = (report.METHODS.index(m) for m in ("true + lasso", "TopK SAE"))
    assert (arrays["latent"][:, true] > arrays["latent"][:, sae]).all()
    text = (tmp_path / f"{latents.NAME}.txt").read_text()
    assert "1 data sets" in text and "Zipf" in text and "±" not in text
    assert arrays["published_latent"].shape == (1, len(report.PUBLISHED), 1)
    assert np.isfinite(arrays["published_latent"]).all()
    # Equal training FLOPs: autoencoders get within a step of those of the learned dictionary.
    learned, training = arrays["flops"][:, None], arrays["training"]
    saes = [report.METHODS.index(name) for name in (report.TOP_K, report.SAE)]
    assert ((0.98 * learned < training[:, saes]) & (training[:, saes] <= learned)).all()
    encoder = 2 * 8 * 16 + 16  # of the published SAE, a signal
    assert (arrays["published_inference"][:, 0] == encoder).all()
    lasso = report.METHODS.index("true + lasso")
    assert (arrays["inference"][:, lasso] > 20 * encoder).all()
    large = report.methods_of(latents.QUICK, True)
    assert arrays["large_latent"].shape == (1, len(large), 1)
    assert (arrays["large_latent"][:, large.index("true + lasso")] > 0.95).all()
    assert "N = 64" in text and "0 of 1" in text
    # There nothing costs more than one pass of FISTA, and the learner took one of the ways tried.
    budget = arrays["choice_flops"][0, 0]
    spent = arrays["large_training"][0]
    at = large.index
    assert spent[at("learned + lasso")] <= budget and spent[at(report.TOP_K)] <= budget
    assert spent[at(report.TOP_K)] > 0.98 * budget
    assert spent[at("learned + lasso")] in arrays["choice_flops"]
    assert "lasso, refit" in text and len(re.findall(r"\d\*", text)) == 1


def test_the_learner_takes_what_explains_most_within_its_budget():
    chosen = {"flops": np.asarray([3.0, 3.1, 2.0, 1.0]), "r2": np.asarray([0.5, 0.9, 0.6, 0.4])}
    assert report.best_way(chosen) == 2


def test_the_learner_chooses_codes_without_the_truth():
    config = dataclasses.replace(latents.QUICK, ways=(("FISTA",), ("lasso",), ("lasso", "refit")))
    chosen = latents.choose("independent", config)
    assert chosen["flops"].shape == chosen["r2"].shape == (3,)
    assert chosen["flops"][1] < chosen["flops"][2] < 2.5 * chosen["flops"][1]
    learned = latents.chosen_learner(config, chosen)
    assert learned.budget == chosen["flops"][0]
    assert learned.settings[report.TOP_K]["learning_rate"] == config.rates[0]
    signals = latents.draw("independent", (config.tuning_seed,), config.large)
    found = learned.learn(signals.train_signals[0])
    best = report.best_way(chosen)
    assert found.flops == chosen["flops"][best]
    np.testing.assert_array_equal(
        found.dictionary,
        latents._on_large(config).learn(signals.train_signals[0], config.ways[best]).dictionary,
    )


def test_runs_that_are_not_finite_are_counted_as_failed():
    truth = latents.draw("independent", (1, 2)).test_codes
    codes = truth.copy()
    codes[1, 0, 0] = np.nan
    mcc, dead = latents.score(truth, codes)
    assert (
        mcc[0] == pytest.approx(1, abs=1e-5)
        and np.isnan(mcc[1])
        and dead[0] == 0
        and np.isnan(dead[1])
    )
    codes[1] = 0
    mcc, dead = latents.score(truth, codes)
    assert mcc[1] == 0 and dead[1] == 16
    values = np.stack([mcc, [np.nan, 1]])[None]
    assert "1 of 2 failed" in report._rows(["x"], values, [1])[0]


def test_learned_dictionaries_are_compared_with_autoencoders_by_data_set():
    values = np.zeros((1, len(report.METHODS), 3))
    values[0, report.METHODS.index("learned + lasso")] = 0.5, 0.6, 0.9
    values[0, report.METHODS.index("TopK SAE + lasso")] = 0.4, 0.5, 0.7
    text = report._compared(("hierarchy",), values)
    learned = (0.5, 0.6, 0.9)
    p, other = (sc.statistics.compare_pairs(learned, x).p_t for x in ((0.4, 0.5, 0.7), (0,) * 3))
    row = next(line for line in text.splitlines() if line.startswith("TopK SAE + lasso"))
    assert row.split()[5] == "+0.133" and row.split()[-2] == f"{p:.2g}"
    assert other < p and row.split()[-1] == f"{max(2 * other, p):.2g}"  # of two, by Holm
    assert report._compared(("hierarchy",), values[..., :1]) == ""
