"""The authors' Zipf latents: the short version, its work and its failures."""

import dataclasses

import numpy as np

import sparsecode_jax as sc
from experiments import accounts, authors, settings, zipf


def test_the_short_version_has_every_setting_and_method(tmp_path):
    zipf.main(zipf.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / zipf.NAME)
    for setting in settings.SETTINGS:
        last = manifest["records"][setting]
        assert last == [100]
        for method in ("sae", "mlp32"):
            mcc = arrays[f"{setting}/{method}/mcc"]
            assert mcc.shape == (1, 5) and np.isfinite(mcc).all() and len(np.unique(mcc)) == 5
            hidden = (32,) if method == "mlp32" else ()
            step = accounts.training_step(setting, hidden).measured
            assert arrays[f"{setting}/{method}/training"] == 101 * step  # a step more than logged
    known = arrays["known_dictionary/true + lasso/mcc"]
    assert known.shape == (1, 1) and known > 0.9 > arrays["known_dictionary/ito/mcc"]
    assert arrays["known_codes/least squares + lasso/dictionary"] > 0.999
    assert arrays["unknown_dictionary/learned + lasso/mcc"].shape == (1, 5)
    assert arrays["unknown_dictionary/sae_ito/dictionary"].shape == (5,)
    text = (tmp_path / f"{zipf.NAME}.txt").read_text()
    assert "No values were published" in " ".join(text.split())
    assert "Holm p" in text and "95 %" in text


def test_steps_are_those_that_the_authors_logged():
    config = zipf.Config()
    assert zipf.steps("known_codes", config) == (100, 1_000, 10_000, 19_990)
    assert zipf.steps("unknown_dictionary", config) == (100, 1_000, 10_000, 39_500)
    short = dataclasses.replace(config, most_steps=501)
    assert zipf.steps("known_dictionary", short) == (100, 500)


def test_runs_that_are_not_finite_are_counted():
    problem = settings.data("known_dictionary", authors.zipf_weights())
    codes = np.stack([problem.test_codes, problem.test_codes])
    codes[1, 0, 0] = np.inf
    found = zipf.scored("known_dictionary", problem, [codes], training=0, inference=1)
    assert found.mcc[0, 0] > 0.999 and np.isnan(found.mcc[0, 1])
    table = zipf.table("known_dictionary", {"sae": found}, zipf.QUICK)
    assert "1 of 2 failed" in table
