"""Dictionary learning on published comparisons, in short."""

import dataclasses
import math

import numpy as np
import pytest

from experiments import dictionary_learning, external_table, phase_diagram


def test_the_phase_diagram_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    config = dataclasses.replace(phase_diagram.QUICK, num_runs=2)
    measure, ran = phase_diagram.measure, []

    def stop(*case):
        if len(ran) == 1:
            ran.append("stopped")
            raise KeyboardInterrupt
        ran.append(case[-1])
        return measure(*case)

    monkeypatch.setattr(phase_diagram, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        phase_diagram.main(config, tmp_path)
    assert [p.name for p in tmp_path.rglob("*.npz")] == ["16-16-3-0.npz"]
    phase_diagram.main(config, tmp_path)
    assert ran == [0, "stopped", 1]  # nothing twice
    assert "16  16  3" in capsys.readouterr().out
    assert not list(tmp_path.rglob("16-*"))
    with np.load(tmp_path / "phase_diagram.npz") as arrays:
        assert min(arrays["latent"]) > 0.97 and min(arrays["ceiling"]) > 0.97


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
