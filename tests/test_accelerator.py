"""The accelerator benchmark in its short version: what it writes, keeps, and says of failures."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from benchmarks import accelerator, accelerator_rows, torch_peers
from benchmarks.problems import Scale, draw, worst_gap

ROOT = pathlib.Path(__file__).parents[1]
CHEAP = "check-omp-b"
SMALL = Scale(12, 40, 4, 30, 1e-5)


def no_torch(platform):
    return None, "not installed"


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_peers, "load", no_torch)
        patch.setattr(accelerator, "limits", lambda *_: {"float32": 1e11, "bytes": 1e10})
        yield patch


@pytest.fixture(scope="module")
def quick(patched, tmp_path_factory):
    out = tmp_path_factory.mktemp("accelerator") / "table.txt"
    assert accelerator.main(["--quick", "--out", str(out)]) == 0
    return out


def test_writes_a_table_and_a_manifest_of_every_row(quick):
    stored = json.loads(quick.with_suffix(".json").read_text())
    names = [row.name for row in accelerator_rows.rows(accelerator_rows.QUICK)]
    assert list(stored["rows"]) == names
    assert stored["machine"]["jax"] == jax.__version__
    text = quick.read_text()
    assert all(name in text for name in names)
    assert "This is a CPU" in text and "torch: not installed" in text
    assert "TF32 on both sides" not in text


def test_checks_pass_and_timed_rows_are_counted(quick):
    rows = json.loads(quick.with_suffix(".json").read_text())["rows"]
    for name, row in rows.items():
        assert "failure" not in row, name
        if name.startswith("check-"):
            assert "seconds" not in row and row["result"]
            continue
        assert len(row["seconds"]["ours"]) == 2
        assert row["flops"] > 0 and row["bytes"] > 0
        assert row["flop_share"] == pytest.approx(row["flops"] / row["median"]["ours"] / 1e11)
        assert "ratio" not in row


def test_what_was_measured_is_kept(quick, capsys, monkeypatch):
    def never(self, row, seconds):
        raise AssertionError(f"{row.name} was measured again")

    before = quick.read_text()
    monkeypatch.setattr(accelerator.Session, "run", never)
    assert accelerator.main(["--quick", "--out", str(quick)]) == 0
    assert "rows are kept" in capsys.readouterr().out
    assert quick.read_text() == before


def test_another_version_or_size_is_measured_anew(quick, tmp_path, monkeypatch):
    out = tmp_path / "table.txt"
    stored = json.loads(quick.with_suffix(".json").read_text())
    stored["machine"]["torch"] = stored["rows"][CHEAP]["identity"]["machine"]["torch"] = "1.0"
    stored["rows"]["check-ols-b"]["identity"]["sizes"]["num_atoms"] = 7
    out.with_suffix(".json").write_text(json.dumps(stored))
    ran = []

    def stand_in(self, row, seconds):
        ran.append(row.name)
        return {"identity": self.identity(row), "title": row.title, "result": ""}

    monkeypatch.setattr(accelerator.Session, "run", stand_in)
    names = [CHEAP, "check-ols-b", "check-lasso-b"]
    accelerator.main(["--quick", "--out", str(out), "--rows", *names])
    assert set(ran) == {CHEAP, "check-ols-b"}


def test_a_row_that_fails_says_why_and_the_others_run(patched, tmp_path, capsys, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

    monkeypatch.setattr(accelerator_rows, "check_lasso", exhausted)
    out = tmp_path / "table.txt"
    arguments = ["--quick", "--out", str(out), "--rows", "check-lasso-b", CHEAP]
    assert accelerator.main(arguments) == 1
    assert "failed: RuntimeError: RESOURCE_EXHAUSTED: out of memory (" in capsys.readouterr().out
    text = out.read_text()
    assert "failed: check-lasso-b: RuntimeError" in text and "and more" not in text
    assert "equal supports" in text
    monkeypatch.undo()


def test_rows_beyond_the_time_are_named(patched, tmp_path):
    out = tmp_path / "table.txt"
    assert accelerator.main(["--quick", "--out", str(out), "--seconds", "0"]) == 1
    assert "left out, time being used up (run again): check-lasso-b" in out.read_text()


def test_unknown_rows_are_refused(capsys):
    with pytest.raises(SystemExit):
        accelerator.main(["--quick", "--rows", "nothing"])
    assert "there is no row 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["orthogonal_matching_pursuit", "orthogonal_least_squares"])
def test_the_reference_is_the_pursuit(name):
    problem = draw(SMALL, 3, False)
    expected, margin = accelerator_rows.reference_supports(
        problem, 20, name == "orthogonal_least_squares"
    )
    assert expected.shape == (20, 40) and (expected.sum(axis=1) == 4).all() and (margin > 0).all()
    with jax.enable_x64(True):
        solver = getattr(sc.solvers, name)(4, prox=sc.prox.soft_threshold)
        x, d = (np.asarray(a, np.float64) for a in (problem.signals[:20], problem.dictionary))
        codes = sc.solvers.solve(solver, sc.Lasso(x, d, 0.0, 1.0), num_steps=4)
    np.testing.assert_array_equal(np.asarray(codes) != 0, expected)


def test_a_lasso_check_that_misses_its_gap_fails(monkeypatch):
    def rough(scale):
        return lambda signals, atoms: (
            sc.sparse_encode(signals, atoms, draw(scale, 201, False).penalty, num_steps=3),
            np.zeros(scale.num_signals, bool),
        )

    monkeypatch.setattr(accelerator_rows, "lasso_program", rough)
    said, good = accelerator_rows.check_lasso(SMALL)
    assert not good and "0.00%" in said


def test_a_peer_with_other_supports_fails_the_row():
    class Theirs(np.ndarray):
        cpu = numpy = lambda self: self

    judge = accelerator_rows.pursuit_work(SMALL, "orthogonal_matching_pursuit").judge
    ours = np.eye(10, 12, dtype=np.float32)
    assert judge(ours, ours.view(Theirs)) == "same support as torch: 100.00%"
    with pytest.raises(ArithmeticError, match="torch: 80.00%, at least 90% is expected"):
        judge(ours, np.where(np.arange(10)[:, None] < 2, 0, ours).view(Theirs))


def test_the_program_that_is_timed_is_sparse_encode():
    scale = accelerator_rows.QUICK.b  # compiled above
    problem = accelerator_rows.problem_of(scale)
    codes, converged = accelerator_rows.lasso_program(scale)(*accelerator_rows.on_device(scale))
    plain = sc.sparse_encode(
        problem.signals, problem.dictionary, problem.penalty, tolerance=scale.tolerance
    )
    assert bool(converged.all())
    np.testing.assert_allclose(codes, plain, atol=1e-5)
    assert worst_gap(problem, codes) <= 1.03 * scale.tolerance


def test_runs_without_plots_and_peers_and_leaves_memory_to_torch():
    program = (
        "import sys; import benchmarks.accelerator, os; "
        "assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'; "
        "assert 'OPENBLAS_CORETYPE' not in os.environ or 'benchmarks.peers' not in sys.modules; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"matplotlib", "torch", "sklearn", "spams"}


def peer_of(seconds):
    """Return torch's side of a row that takes so long, or fails where it is None."""

    def peer(tools):
        if seconds[tools] is None:
            raise RuntimeError("no compiler was found\nand more")
        return lambda: time.sleep(seconds[tools])

    return accelerator_rows.Work(lambda: jnp.ones(()), counted, peer, lambda *_: "same")


def counted():
    return sc.flops.eval_flops(lambda x: x + 1.0, jnp.ones(4))


def test_torch_runs_in_its_fastest_way_and_ratios_are_of_its_times():
    work = peer_of({"a": 0.02, "b": 0.001, "c": None})
    clock = accelerator.Clock(60)
    record = accelerator.measure(work, {k: k for k in "abc"}, lambda _: None, clock, 2)
    assert "failure" not in record
    assert record["ways"]["c"] == "failed (RuntimeError: no compiler was found)"
    assert max(record["seconds"]["torch"]) < 0.02
    found = accelerator.summary(record, "float32", {"float32": 1e9, "bytes": 1e9})
    each = np.asarray(record["seconds"]["ours"]) / np.asarray(record["seconds"]["torch"])
    assert found["ratio"] == pytest.approx(np.median(each))
    assert found["flops"] == 4 and found["bytes"] == 32


def test_where_no_way_of_torch_works_ours_is_kept_and_the_row_has_failed():
    work = peer_of({"a": None})
    record = accelerator.measure(work, {"a": "a"}, lambda _: None, accelerator.Clock(60), 2)
    assert record["failure"].startswith("torch: failed (RuntimeError: no compiler")
    assert list(record["seconds"]) == ["ours"]


def test_of_two_runs_with_one_manifest_the_second_is_refused(tmp_path):
    with (
        sc.io.Run(tmp_path / "table.json", {}, name="first"),
        pytest.raises(SystemExit, match=r"benchmarks.accelerator: .* is being written by process"),
    ):
        accelerator.main(["--quick", "--out", str(tmp_path / "table.txt")])
