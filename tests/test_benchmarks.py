"""Benchmarks of the library by itself: two packages side by side, and what users wait for."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from benchmarks import compare, waits
from benchmarks.programs import PROGRAMS

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """This package, but for twenty times the steps of a pursuit, and one that is not there."""
    folder = tmp_path_factory.mktemp("base").resolve()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sparsecode_jax", folder / "sparsecode_jax", ignore=ignored)
    solvers = folder / "sparsecode_jax" / "solvers"
    before = (solvers / "_core.py").read_text()
    after = before.replace("num_steps = num_active if", "num_steps = 20 * num_active if", 1)
    assert after != before
    (solvers / "_core.py").write_text(after)
    (solvers / "__init__.py").write_text(
        (solvers / "__init__.py").read_text() + "\ndel orthogonal_matching_pursuit\n"
    )
    return folder


def test_two_packages_are_timed_in_turn(base):
    row = compare.measure("OLS a", base, rounds=5)
    assert row["now"]["flops"] < row["base"]["flops"]
    assert len(row["ratios"]) == 5 and row["unit"] == "signal"
    assert sorted(row["ratios"])[2] < 1  # of sixty steps and three
    text = compare.table({"OLS a": row}, "abc1234")
    assert "now / abc1234" in text and "a signal" in text


def test_what_the_base_cannot_run_is_said(base, capfd):
    row = compare.measure("OMP c", base, rounds=1)
    assert list(row["failed"]) == ["base"] and "AttributeError" in row["failed"]["base"]
    assert "OMP c did not run (base: AttributeError" in compare.table({"OMP c": row}, "abc1234")


def test_what_compare_refuses():
    with pytest.raises(SystemExit, match=r"no program begins with \['nothing'\]"):
        compare.main(["--only", "nothing"])
    with pytest.raises(SystemExit, match="--base no-such-commit is no commit here"):
        compare.main(["--base", "no-such-commit"])
    assert compare.chosen(["lasso c", "OLS"])[-1] == "OLS c"
    assert compare.chosen(None) == list(PROGRAMS)


def test_waits_are_measured_and_told(monkeypatch):
    calls = waits.public_calls((8, 16, 3, 32))
    few = {name: calls[name] for name in ("solve(ista)", "train_step(linear)")}
    monkeypatch.setattr(waits, "public_calls", lambda size: few)
    found = {
        "machine": {"cpu": "this one"},
        "imports": waits.imports(1),
        "eager": waits.eager(2),
        "first-a": waits.first_calls((8, 16, 3, 32)),
        "steps-a": waits.distribution("a"),
        "program-lasso a": waits.limits("lasso a", 2),
    }
    assert all(seconds > 0 for seconds in found["first-a"].values())
    for row in found["steps-a"].values():
        assert row["quantiles"] == sorted(row["quantiles"]) and 0.01 <= row["share"] < 0.5
    row = found["program-lasso a"]
    assert 0 < row["limit"] < 1 and row["flops"] > 2 * 8 * 16 and row["temporaries"] >= 0
    text = waits.table(found)
    for said in ("import sparsecode_jax", "num_active=3", "train_step(linear)", "coherent", "MiB"):
        assert said in text


def test_the_entry_for_benchopt_finds_what_scikit_learn_finds(tmp_path):
    """Benchopt itself is not installed: what it calls is called, in a process with float64."""
    (tmp_path / "benchopt.py").write_text("class BaseSolver: pass\n")
    program = """
import numpy as np
from sklearn.linear_model import Lasso
from benchmarks.benchopt_lasso import Solver
rng = np.random.default_rng(0)
design = rng.normal(size=(40, 60))
signal = design[:, :5] @ rng.normal(size=5) + 0.1 * rng.normal(size=40)
penalty = 0.1 * np.abs(design.T @ signal).max()
expected = Lasso(penalty / 40, fit_intercept=False, tol=1e-12).fit(design, signal).coef_
for name in Solver.parameters["solver"]:
    solver = Solver()
    solver.solver = name
    assert solver.skip(X=design, y=signal, lmbd=penalty, fit_intercept=True)[0]
    solver.set_objective(X=design, y=signal, lmbd=penalty, fit_intercept=False)
    solver.warm_up()
    tolerance = 3e38
    for _ in range(12):
        tolerance = solver.get_next(tolerance)
    solver.run(tolerance)
    np.testing.assert_allclose(solver.get_result()["beta"], expected, atol=1e-6)
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
