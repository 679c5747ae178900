"""Structured latents: the data have their structure, and the short version its table."""

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import structured_latents as latents


@pytest.fixture(scope="module", params=list(latents.STRUCTURES))
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


def test_the_short_version_writes_results_and_table(tmp_path):
    latents.main(latents.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / latents.NAME)
    assert arrays["latent"].shape == (2, len(latents.METHODS), 1)
    assert manifest["structures"] == list(latents.QUICK.structures)
    true, sae = (latents.METHODS.index(m) for m in ("true + lasso", "TopK SAE"))
    assert (arrays["latent"][:, true] > arrays["latent"][:, sae]).all()
    text = (tmp_path / f"{latents.NAME}.txt").read_text()
    assert "1 data sets" in text and "hierarchy" in text and "±" not in text


def test_learned_dictionaries_are_compared_with_autoencoders_by_data_set():
    config = latents.Config(seeds=(1, 2, 3))
    values = np.zeros((1, len(latents.METHODS), 3))
    values[0, latents.METHODS.index("learned + lasso")] = 0.5, 0.6, 0.9
    values[0, latents.METHODS.index("TopK SAE + lasso")] = 0.4, 0.5, 0.7
    text = latents._compared(("hierarchy",), values, config)
    learned = (0.5, 0.6, 0.9)
    p, other = (sc.statistics.compare_pairs(learned, x).p_t for x in ((0.4, 0.5, 0.7), (0,) * 3))
    row = next(line for line in text.splitlines() if line.startswith("TopK SAE + lasso"))
    assert row.split()[5] == "+0.133" and row.split()[-2] == f"{p:.2g}"
    assert other < p and row.split()[-1] == f"{max(2 * other, p):.2g}"  # of two, by Holm
    assert latents._compared(("hierarchy",), values, latents.QUICK) == ""
