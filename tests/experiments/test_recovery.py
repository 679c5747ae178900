"""Dictionary learning on published comparisons, in short."""

import dataclasses
import math

import numpy as np

from experiments import dictionary_learning, external_table, phase_diagram


def test_the_phase_diagram_runs_and_goes_on(tmp_path, capsys):
    config = phase_diagram.QUICK
    phase_diagram.main(config, tmp_path)
    first = capsys.readouterr().out
    assert "16  16  3" in first and (tmp_path / "phase_diagram.npz").exists()
    kept = (tmp_path / "phase_diagram_cases.json").read_bytes()
    phase_diagram.main(config, tmp_path)  # nothing is left to run
    assert (tmp_path / "phase_diagram_cases.json").read_bytes() == kept
    assert capsys.readouterr().out == first
    with np.load(tmp_path / "phase_diagram.npz") as arrays:
        assert arrays["latent"][0] > 0.98 and arrays["ceiling"][0] > 0.98


def test_the_papers_unknown_dictionary_is_learned_and_charged(tmp_path, capsys):
    config = dataclasses.replace(dictionary_learning.QUICK, data_seeds=())
    dictionary_learning.main(config, tmp_path)
    assert "20240926" in capsys.readouterr().out
    with np.load(tmp_path / "dictionary_learning.npz") as arrays:
        assert arrays["dictionary"] > 0.95 and arrays["latent"] > 0.9  # published: .84, .70
        assert arrays["ceiling"] > 0.98
        assert 1e9 < arrays["flops"] < 1e10  # 4 restarts of 60 rounds, one hop, settling


def test_published_numbers_of_every_cell():
    cells = phase_diagram.published()
    assert len(cells) == 24 and abs(cells[16, 8, 3] - 0.7325) < 1e-3


def test_the_external_data_are_as_described():
    problem = external_table.draw(7, 50, 5, 200)
    assert problem.signals.shape == (1200, math.ceil(10 * math.log(10)))
    assert np.all((problem.codes > 0).sum(axis=1) == 5) and problem.codes.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(problem.dictionary, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(problem.signals, problem.codes @ problem.dictionary, atol=1e-5)
    again = external_table.draw(8, 50, 5, 200)
    assert not np.allclose(again.dictionary, problem.dictionary)
