"""Steps that learned ISTA saves: errors against NumPy, and the short version's table."""

import dataclasses
import re

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import learned_ista
from sparsecode_jax.prox import soft_threshold

CONFIG = learned_ista.Config(side=3, atoms=(12,), layers=(1, 4), seeds=(0,), most=8, num_steps=1)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(12, 9)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    signals = rng.normal(size=(40, 9)).astype(np.float32)
    codes = sc.sparse_encode(
        signals, atoms, 0.2, tolerance=1e-5, solver=sc.solvers.sparsa(prox=soft_threshold)
    )
    return {
        "dictionary": atoms, "penalty": np.float32(0.2), "train": signals, "test": signals,
        "train_codes": np.asarray(codes), "codes": np.asarray(codes),
    }  # fmt: skip


def test_errors_of_steps_are_those_of_ista_in_numpy(given):
    found = learned_ista.of_solvers(given, CONFIG)
    step = 1 / np.linalg.norm(given["dictionary"].astype(np.float64), 2) ** 2
    atoms = given["dictionary"].astype(np.float64)
    codes, errors = np.zeros((40, 12)), []
    for _ in range(CONFIG.most):
        inner = codes - step * (codes @ atoms - given["test"]) @ atoms.T
        codes = np.sign(inner) * np.maximum(np.abs(inner) - step * 0.2, 0)
        errors.append(np.sum((codes - given["codes"]) ** 2) / np.sum(given["codes"] ** 2))
    np.testing.assert_allclose(found[0], errors, rtol=1e-4)
    assert (found[1, 2:] < found[0, 2:]).all(), "FISTA is ahead from the third step on"


def test_untrained_layers_are_steps_of_ista_and_training_pays(given):
    still = dataclasses.replace(CONFIG, learning_rate=1e-9, batch_size=8)
    steps = learned_ista.of_solvers(given, CONFIG)[0]
    for depth in CONFIG.layers:
        np.testing.assert_allclose(
            learned_ista.of_lista(given, still, depth, 0), steps[depth - 1], rtol=1e-4
        )
    learned = dataclasses.replace(still, learning_rate=1e-2, num_steps=200)
    assert learned_ista.of_lista(given, learned, 1, 0) < 0.7 * steps[0]


def test_steps_to_an_error_are_counted():
    curve = np.array([0.5, 0.2, 0.1])
    assert learned_ista.steps_to(curve, 0.2) == 2 and learned_ista.steps_to(curve, 0.05) == np.inf
    assert learned_ista._steps(np.array([2.0, 4.0]), 5) == "3"
    assert learned_ista._steps(np.array([2.0, np.inf]), 5) == "over 5 in 1 of 2"


def test_operations_of_a_step_are_counted():
    own, (ista, fista) = learned_ista.flops(CONFIG, 12, 4)
    m, n, layers = 9, 12, 4
    assert own == 2 * layers * m * n + 2 * (layers - 1) * n**2 + (layers - 1) * n + 3 * layers * n
    assert 4 * m * n < ista < fista < 4 * m * n + 20 * (m + n)


@pytest.mark.full_effort  # runs longer than it compiles
def test_the_short_version_shows_that_layers_save_steps(tmp_path, capsys):
    learned_ista.main(learned_ista.QUICK, tmp_path)
    text = (tmp_path / "learned_ista.txt").read_text()
    assert text in capsys.readouterr().out and "nan" not in text
    arrays, _ = sc.io.load_results(tmp_path / "learned_ista")
    assert arrays["lista"].shape == (1, 2, 2) and arrays["solvers"].shape == (1, 2, 2, 60)
    for i, depth in enumerate(learned_ista.QUICK.layers):
        assert (arrays["lista"][0, :, i] < arrays["solvers"][0, :, 1, depth - 1]).all()
    assert re.search(r"^36 +3 ", text, re.M)


def test_trainings_that_end_above_their_start_are_counted_and_steps_not_compared():
    config = dataclasses.replace(learned_ista.QUICK, layers=(1, 3), seeds=(0, 1))
    curves = np.stack([np.linspace(0.9, 0.1, config.most)] * 2)
    found = {
        (config.atoms[0], seed): {"solvers": curves, "lista": np.asarray(errors), "active": 3.0}
        for seed, errors in enumerate(((0.5, 0.4), (0.5, 0.95)))
    }
    text = learned_ista.table(dataclasses.replace(config, atoms=config.atoms[:1]), found)
    good, bad = (line.split() for line in text.splitlines()[3:5])
    assert good[5:8] == ["0", "of", "2"] and good[8].isdigit()
    assert bad[5:8] == ["1", "of", "2"] and bad[8:10] == ["-", "-"] and bad[-1] == "-"
