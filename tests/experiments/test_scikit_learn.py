"""Dictionaries by scikit-learn and ours: the same signed data, and the short version's table."""

import numpy as np

import sparsecode_jax as sc
from experiments import scikit_learn


def test_data_are_signed_codes_times_unit_atoms():
    train, test, codes, atoms = scikit_learn.draw(scikit_learn.Config(num_samples=50), 16, 8, 3, 0)
    assert train.shape == test.shape == (50, 8) and atoms.shape == (16, 8)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(test, codes @ atoms, atol=1e-5)
    assert ((codes != 0).sum(axis=1) == 3).all() and (codes < 0).any()
    assert not np.allclose(train, test)


def test_the_short_version_writes_results_and_table(tmp_path):
    scikit_learn.main(scikit_learn.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / scikit_learn.NAME)
    assert arrays["case"].tolist() == [[16, 8, 3, 0]]
    assert arrays["dictionary"][0] > arrays["chance"][0] + 0.2
    assert arrays["ceiling"][0] > 0.9
    assert manifest["config"]["max_iterations"] == scikit_learn.QUICK.max_iterations
    text = (tmp_path / f"{scikit_learn.NAME}.txt").read_text()
    assert "1 data sets a cell" in text and "nan" not in text


def test_cells_are_compared_in_pairs():
    config = scikit_learn.Config((16, 32), (8,), (3,), (0, 1))
    row = {"sklearn_latent": 0.5, "latent": 0.6, "ceiling": 0.9, "chance": 0.6, "flops": 1e9,
           "sklearn_seconds": 2.0, "seconds": 1.0, "sklearn_dictionary": 0.7}  # fmt: skip
    done = {
        (n, 8, 3, seed): {**row, "dictionary": 0.8 + n / 1000}
        for n in config.num_atoms for seed in config.seeds
    }  # fmt: skip
    text = scikit_learn.table(config, done)
    assert "paired over 2 cells: +0.124" in text
