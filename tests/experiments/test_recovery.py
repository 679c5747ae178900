"""Dictionary learning on published comparisons, in short."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn import metrics

from experiments import dictionary_learning, external_table, sample_complexity


def test_the_papers_unknown_dictionary_is_learned_and_charged(tmp_path, capsys):
    config = dataclasses.replace(dictionary_learning.QUICK, data_seeds=())
    dictionary_learning.main(config, tmp_path)
    printed = capsys.readouterr().out
    assert "20240926" in printed and "Published: SAE .566" in printed
    assert printed.rstrip().endswith("sparse coding .691.")
    with np.load(tmp_path / "dictionary_learning.npz") as arrays:
        assert arrays["dictionary"] > 0.95 and arrays["latent"] > 0.9  # published: .84, .69
        assert arrays["ceiling"] > 0.98
        assert 1e9 < arrays["flops"] < 1e10  # 4 restarts of 60 rounds, one hop, refinement


def test_the_external_data_are_as_described():
    problem = external_table.draw(7, 50, 5, 200)
    assert problem.signals.shape == (1200, math.ceil(10 * math.log(10)))
    assert np.all((problem.codes > 0).sum(axis=1) == 5) and problem.codes.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(problem.dictionary, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(problem.signals, problem.codes @ problem.dictionary, atol=1e-5)
    again = external_table.draw(8, 50, 5, 200)
    assert not np.allclose(again.dictionary, problem.dictionary)


def test_samples_of_both_distributions_are_as_published():
    atoms, (train, scored, outside) = sample_complexity.draw(60, 400, 3)
    assert atoms.shape == (60, math.ceil(20 * math.log(6)))
    for part in (train, scored, outside):
        assert part.codes.shape == (200, 60) and (part.codes > 0).sum(axis=1).max() == 10
        np.testing.assert_allclose(part.signals, part.codes @ atoms, atol=1e-5)
    with_first = scored.codes[scored.codes[:, 0] > 0]
    assert 60 < len(with_first) < 140  # of 200, one half on average
    assert not (with_first[:, 30:] > 0).any() and (outside.codes[:, 0] > 0).all()
    assert not (outside.codes[:, 1:30] > 0).any()
    assert not np.array_equal(train.codes, scored.codes)


def test_areas_and_matching_agree_with_outside_definitions():
    rng = np.random.default_rng(0)
    codes = np.maximum(rng.normal(size=(80, 5)), 0)  # with ties
    labels = rng.random(80) > 0.6
    expected = [metrics.roc_auc_score(labels, column) for column in codes.T]
    areas = sample_complexity.areas(codes, labels)
    np.testing.assert_allclose(areas, np.maximum(expected, 1 - np.asarray(expected)), rtol=1e-12)

    true = np.where(rng.random((80, 4)) < 0.5, rng.random((80, 4)), 0)
    true[:, 2] = 0  # never active: it is no latent to be found
    found = 5 * np.concatenate([true[:, [3, 0, 1]], 0.01 * codes], axis=1)
    assert sample_complexity.published_mcc(true, found) == pytest.approx(1, abs=1e-6)


def test_more_samples_recover_what_few_cannot(tmp_path, capsys):
    sample_complexity.main(sample_complexity.QUICK, tmp_path)
    assert "of bound" in capsys.readouterr().out
    with np.load(tmp_path / "sample_complexity.npz") as arrays:
        few, many = arrays["mcc_out"]
        assert few < 0.6 and many > 0.9
        assert arrays["true_mcc_out"].min() > 0.94 and arrays["chance_out"][1] < 0.25
        assert arrays["accuracy_out"][1] > 0.8 and arrays["auc_out"][1] > 0.95


def test_up_to_the_bound_there_are_as_many_unknowns_as_numbers():
    """Atoms and codes on drawn supports move signals in every direction, and not far above it."""
    rng = np.random.default_rng(1)
    num_atoms, size, active = 12, 8, 3
    bound = sample_complexity.bound(num_atoms, size, active)  # 16.8 signals
    free = []
    for count in (int(0.9 * bound), int(1.2 * bound)):
        supports = np.stack([rng.choice(num_atoms, active, replace=False) for _ in range(count)])
        codes = np.zeros((count, num_atoms))
        np.put_along_axis(codes, supports, rng.normal(size=supports.shape), axis=1)
        atoms = rng.normal(size=(num_atoms, size))
        by_atoms = np.kron(codes, np.eye(size))  # derivatives of signals (count * size)
        by_codes = np.zeros((count, size, count, active))
        for row, places in enumerate(supports):
            by_codes[row, :, row] = atoms[places].T
        derivatives = np.concatenate([by_atoms, by_codes.reshape(count * size, -1)], axis=1)
        free.append(np.linalg.matrix_rank(derivatives) / (count * size))
    assert free[0] == 1 and free[1] < 1


def test_means_over_seeds_stand_below_the_runs_with_their_intervals():
    case, seeds = (100, 10), external_table.Config.seeds
    keys = ("test", "train", "test_ceiling", "train_ceiling", "dictionary", "flops", "seconds")
    runs = {
        (*case, seed): dict.fromkeys(keys, 0.9) | {"test": value}
        for seed, value in zip(seeds, (0.1, 0.2, 0.6), strict=True)
    }
    text = external_table.table(external_table.Config(cases=(case,)), runs)
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom
    assert f"100  10  3  0.3000±{half:.4f}  0.9000±0.0000" in text

    config = dataclasses.replace(dictionary_learning.QUICK, learner_seeds=(0, 1))
    rows = [(seed, 0, 1.0, 1.0, latent, 0.8, 1e9) for seed, latent in enumerate((0.5, 0.7, 0.6))]
    paper, other = dictionary_learning.table(rows, config).split("below it\n")[1].split("\n")[1:3]
    half = 12.706205 * 0.1  # t of 1 degree of freedom, deviation over the root of n
    assert paper.split()[-3:] == [f"0.6000±{half:.4f}", "0.8000±0.0000", f"0.2000±{half:.4f}"]
    assert other.split()[-3:] == ["0.6000", "0.8000", "0.2000"]
