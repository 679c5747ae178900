"""The main job in its short version, its selection rule, and interruption by a real kill."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import (
    accounts,
    common,
    contenders,
    curves,
    frontier,
    natural_images,
    paper,
    pareto,
    settings,
    truth_free,
)
from experiments.curves import efficient

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("pareto")
    pareto.main(pareto.QUICK, out)
    return out


def test_writes_results_table_and_figure(quick):
    for name in ("pareto.npz", "pareto.json", "pareto.txt", "pareto.png"):
        assert (quick / name).stat().st_size > 0
    text = (quick / "pareto.txt").read_text()
    for label in (
        "FISTA + restart",
        "ITO (Adam on log-codes)",
        "SAE + FISTA (warm start)",
        "LISTA",
    ):
        assert label in text


def test_fista_needs_500_times_fewer_flops_than_the_published_ito(quick):
    curves = pareto.unpack(sc.io.load_results(quick / "pareto")[0])["known"]
    index = pareto.first_reaching(curves["fista"], 0.9667)
    published_ito = paper.code_optimization(8, 16, 1024, 19_900)
    assert published_ito / curves["fista"].published[index] > 500
    assert curves["fista"].mcc.shape[1] == 1
    assert curves["fresh_fista"].mcc.shape[1] == 5


def test_learning_by_turns_passes_the_published_sae_for_50_times_fewer_flops(quick):
    curves = pareto.unpack(sc.io.load_results(quick / "pareto")[0])["unknown"]
    published = paper.published("unknown_dictionary")["sae"]
    spent = published["train_flops"] + published["test_flops"]
    assert curves["alternating"].mcc.min() > 0.7 > published["mcc_test"][-1]
    assert spent[-1] / curves["alternating"].measured[-1] > 50


def test_lista_starts_as_ista_and_training_it_is_charged(quick):
    curves = pareto.unpack(sc.io.load_results(quick / "pareto")[0])["known"]
    lista, problem = curves["lista"], settings.data("known_dictionary")
    codes = sc.sparse_encode(
        problem.test_signals, problem.dictionary, 0.05, solver=sc.solvers.ista(), num_steps=2
    )
    untrained = sc.metrics.mcc(problem.test_codes, codes)
    assert lista.steps.tolist() == [0, 30]
    np.testing.assert_allclose(lista.mcc[0], untrained, rtol=1e-4)
    assert lista.mcc[1].mean() > lista.mcc[0].mean()
    forward = 2 * 1024 * 8 * 16  # one product of the signals
    assert lista.measured[0] > 3 * forward and lista.measured[1] > 30 * 128 / 1024 * 9 * forward


def test_figure_is_redrawn_from_results_alone(quick, monkeypatch):
    monkeypatch.setattr(frontier, "known_dictionary", None)  # any computation would fail
    (quick / "pareto.png").unlink()
    pareto.report(quick)
    assert (quick / "pareto.png").exists()


def test_published_mcc_stands_beside_ours():
    """The best of both where the dictionary is known, else the last; none where none is."""
    toy = curves.Curve(*np.ones((3, 2), int), np.array([[0.5], [0.25]]), np.full(2, np.nan))
    known = dict.fromkeys(("sae", "fista"), toy)
    unknown = dict.fromkeys(("sae", "sae_dictionary", "alternating"), toy)
    text = pareto.tables({"known": known, "unknown": unknown})
    for words in (
        r"\nSAE .* 0\.5000 +0\.7097 +1, deterministic\n",
        r"\nFISTA .* 0\.5000 +1, deterministic\n",
        r"\nSAE +0\.2500 ± nan +0\.5657 +0\.5000 ",
        r"\nSAE, dictionary MCC +0\.2500 ± nan +0\.7453 +0\.5000 ",
        r"\nalternating minimization, FISTA \+ restart +0\.2500 ± nan +0\.5000 ",
    ):
        assert re.search(words, text), words


def test_efficient_operating_points():
    work = np.asarray([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    train = np.asarray([[0.5, 0.6, 0.7], [0.4, 0.8, 0.75]])
    # cheapest: the better of the two; then 0.8 at work 2; nothing dearer beats it
    assert efficient(work, train).tolist() == [0, 4]


def test_each_signal_takes_the_atoms_that_the_rule_asks_for():
    """On orthonormal atoms a pursuit takes the codes from the largest to the smallest."""
    draw = np.random.default_rng(0)
    sizes = np.tile([1, 2, 3, 4], 16)
    codes = np.zeros((64, 8), np.float32)
    for row, size in zip(codes, sizes, strict=True):
        row[draw.choice(8, size, replace=False)] = draw.uniform(0.5, 2, size)
    problems = curves.Problems(codes[None], codes[None], np.eye(8, dtype=np.float32)[None])
    found = curves.stopped("omp", problems, {"": problems, "few_": problems}, most=5)
    assert found.keys() == {
        f"{prefix}omp_by_{rule}" for prefix in ("", "few_") for rule in ("error", "penalty")
    }
    for rule, most in (("error", 4), ("penalty", 5)):  # the fifth atom shows how little it explains
        got = found[f"omp_by_{rule}"]
        assert got.steps[-1] == most
        assert got.mcc[-1] == pytest.approx(1, abs=1e-5)
        assert np.all(np.diff(got.mcc[:, 0]) > 0) and np.all(np.diff(got.measured) > 0)
    halves, (_, path) = curves._greedy_path(
        problems, solver=sc.solvers.orthogonal_matching_pursuit(5), num_steps=5
    )
    scale = 0.5 * np.mean(np.sum(codes**2, axis=1))
    counts = curves._taken(curves.STOPS["error"], 1e-3, np.asarray(halves), scale)[0]
    np.testing.assert_array_equal(counts, sizes)
    few = curves.Problems(*(field[:, ::4] if field.shape[1] == 64 else field for field in problems))
    test = curves.stopped("omp", few, {"": problems}, most=5)["omp_by_error"]
    assert test.steps[-1] == 1 and test.mcc[-1] < 0.9  # others get no more than was charged
    taken = curves._taken(curves.STOPS["penalty"], 0.2, np.asarray(halves), scale)[0]
    np.testing.assert_array_equal(taken, np.sum(0.5 * codes**2 >= 0.2 * scale, axis=1))
    kept = np.take_along_axis(np.asarray(path)[0], taken[None, :, None], axis=0)[0]
    np.testing.assert_allclose(kept, np.where(0.5 * codes**2 >= 0.2 * scale, codes, 0), atol=1e-6)


def test_penalty_of_each_point_is_not_chosen_on_the_test_half(quick, monkeypatch, tmp_path):
    """Shuffling the test codes' rows changes scores but no choice."""
    original = settings.data
    config = pareto.QUICK

    def shuffled(setting):
        data = original(setting)
        return data._replace(test_codes=data.test_codes[::-1])

    monkeypatch.setattr(settings, "data", shuffled)
    with common.stages(tmp_path, "shuffled", config) as stages:
        wide = frontier.train_wide(config, stages)
        after = frontier.known_dictionary(config, stages, wide["known_dictionary"])
        after |= {"lista": contenders.known_dictionary(config, stages)["lista"]}
    before = pareto.unpack(sc.io.load_results(quick / "pareto")[0])["known"]
    for method in ("ista", "fista", "fista_restart", "sae_fista", "lista"):
        np.testing.assert_array_equal(before[method].penalty, after[method].penalty)
        np.testing.assert_array_equal(before[method].steps, after[method].steps)
        assert after[method].mcc.max() < 0.2 < before[method].mcc.max()


def test_measured_account_equals_closed_forms():
    """A FISTA step is 4MN + M + 7N per signal, and 9; the ReLU encoder is 2MN + N per signal."""
    solver = frontier.SOLVERS["fista"]
    ten = accounts.inference(solver, 10).measured - accounts.inference(solver, 0).measured
    assert ten == 10 * (1024 * (4 * 8 * 16 + 8 + 7 * 16) + 9)
    assert accounts.encoding("known_dictionary", ()).measured == 1024 * (2 * 8 * 16 + 16)
    assert accounts.inference(solver, 10).published == paper.code_optimization(8, 16, 1024, 10)


@pytest.mark.slow  # daily: tests/test_runs.py kills at every write, test_recovery.py stops a study
def test_killed_experiment_resumes_and_ends_bit_identical(tmp_path):
    command = [sys.executable, "-m", "experiments.known_dictionary", "--quick", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [*command, str(tmp_path / "killed")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("partial/*/sae.npz")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "known_dictionary.npz").exists()
    outputs = [
        subprocess.run(
            [*command, str(tmp_path / folder)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in ("killed", "whole")
    ]
    assert "resuming from" in outputs[0]
    assert "resuming from" not in outputs[1]
    resumed, _ = sc.io.load_results(tmp_path / "killed" / "known_dictionary")
    whole, _ = sc.io.load_results(tmp_path / "whole" / "known_dictionary")
    assert resumed.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


BAD_SIGNALS = {
    "integers": (np.arange(60).reshape(20, 3), "holds int64; a float array is expected"),
    "one axis": (np.ones(30), r"has shape \(30,\)"),
    "few samples": (np.ones((3, 3)), "at least 20 samples"),
    "non-finite": (np.full((30, 3), np.nan), "30 samples hold non-finite numbers"),
    "constant": (np.ones((30, 3)), "all samples are equal"),
}


@pytest.mark.parametrize("case", BAD_SIGNALS)
def test_own_data_says_what_is_wrong(case, tmp_path):
    array, message = BAD_SIGNALS[case]
    np.save(tmp_path / "my.npy", array)
    with pytest.raises(SystemExit, match=message):
        truth_free.own_data(tmp_path / "my.npy", truth_free.QUICK, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["my.npy"]


def test_own_data_that_is_no_array(tmp_path):
    with pytest.raises(SystemExit, match="no such file"):
        truth_free.own_data(tmp_path / "my.npy", truth_free.QUICK, tmp_path)
    (tmp_path / "my.npy").write_text("1,2,3")
    with pytest.raises(SystemExit, match="not a readable .npy"):
        truth_free.own_data(tmp_path / "my.npy", truth_free.QUICK, tmp_path)


def test_own_data_end_to_end(tmp_path):
    signals = np.random.default_rng(0).standard_normal((200, 6)) * 50
    np.save(tmp_path / "my.npy", signals)
    truth_free.own_data(tmp_path / "my.npy", truth_free.QUICK, tmp_path)
    result = truth_free.load(tmp_path, "own_data_my")
    assert result.dictionaries["fista"].shape == (3, 24, 6)
    assert (tmp_path / "own_data_my.png").exists()
    # Training cannot be worse than nothing: FISTA explains more at a smaller penalty.
    assert np.all(np.diff(result.r2["fista"][:, -1]) < 0)


def test_scaling_is_by_one_number_from_the_training_signals():
    rng = np.random.default_rng(0)
    train, test = truth_free.scale(
        7 * rng.standard_normal((50, 4)), 3 * rng.standard_normal((9, 4))
    )
    assert np.isclose(np.mean(np.sum(train**2, axis=1)), 1)
    assert np.mean(np.sum(test**2, axis=1)) < 0.5


def test_penalty_is_found_by_the_target_l0():
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((256, 8)).astype(np.float32)
    atoms = np.asarray(sc.dictionaries.normalize(rng.standard_normal((32, 8)).astype(np.float32)))
    penalty = truth_free.find_penalty(signals, atoms, 3.0)
    codes = sc.sparse_encode(signals, atoms, penalty, solver=truth_free.SOLVER, num_steps=50)
    assert abs(float(sc.metrics.l0(codes)) - 3.0) < 0.1


def test_natural_images_end_to_end(tmp_path):
    config = dataclasses.replace(truth_free.QUICK, num_atoms=160)
    natural_images.main(config, tmp_path)
    for name in ("natural_images.npz", "natural_images.txt", "natural_images_atoms.png"):
        assert (tmp_path / name).stat().st_size > 0
    result = truth_free.load(tmp_path, "natural_images")
    assert result.dictionaries["sae"].shape == (3, 160, 144)


def test_patches_are_whitened_scaled_and_apart():
    train, test = natural_images.patches(num_patches=400)
    assert train.shape == (400, 144)
    assert test.shape == (100, 144)
    np.testing.assert_allclose(np.mean(np.sum(train**2, axis=1)), 1, rtol=1e-5)
    np.testing.assert_allclose(train.mean(axis=1), 0, atol=1e-6)
