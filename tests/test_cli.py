"""The command line: its results equal the library's, runs go on, and errors are ones to rely on."""

import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse

import sparsecode_jax as sc
from sparsecode_jax.cli import encode, learn, main, parser
from sparsecode_jax.cli.inputs import Statistics, open_signals

ROOT = pathlib.Path(__file__).parents[1]
M, N, S = 8, 12, 500
PENALTY = 0.05
ROUNDS, HOPS = 60, 5
SMALL_LEARN = ["--num-atoms", N, "--num-rounds", ROUNDS, "--num-restarts", 3, "--num-hops", HOPS,
               "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    return sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=S, num_measurements=M, num_atoms=N
    )


@pytest.fixture
def files(problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("signals.npy", problem.signals)
    np.savez("d.npz", dictionary=problem.dictionary)
    np.save("d.npy", problem.dictionary)
    return problem


def run(*words):
    return main([str(word) for word in words])


def run_encode(*words, penalty=PENALTY):
    given = () if penalty is None else ("--penalty", penalty)
    return run(
        "encode", "signals.npy", "--dictionary", "d.npz", *given, "--batch-size", 200, "--quiet",
        "--no-figure", *words,
    )  # fmt: skip


# encode


def test_encode_is_sparse_encode(files, capsys):
    assert run_encode("--tolerance", 1e-5) == 0
    codes = scipy.sparse.load_npz("codes.npz").toarray()
    batches = np.pad(files.signals, ((0, 1), (0, 0)), mode="edge").reshape(3, 167, M)
    expected = [sc.sparse_encode(b, files.dictionary, PENALTY, tolerance=1e-5) for b in batches]
    assert codes.shape == (S, N)
    np.testing.assert_allclose(codes, np.concatenate(expected)[:S], atol=1e-6)
    out = capsys.readouterr().out
    assert "encoded 500 signals" in out and "wrote codes.npz, codes.json" in out
    assert not pathlib.Path("codes.partial").exists()


def test_scores_are_those_of_the_codes(files):
    assert run_encode() == 0
    arrays, manifest = sc.io.load_results("codes")
    codes = scipy.sparse.load_npz("codes.npz").toarray().astype(float)
    signals, dictionary = np.asarray(files.signals, float), np.asarray(files.dictionary, float)
    errors = ((signals - codes @ dictionary) ** 2).sum(axis=1)
    objectives = errors / 2 + PENALTY * codes.sum(axis=1)
    variance = ((signals - signals.mean(axis=0)) ** 2).sum()
    assert manifest["objective"] == pytest.approx(objectives.mean(), rel=1e-5)
    assert manifest["r2"] == pytest.approx(1 - errors.sum() / variance, abs=1e-5)
    assert manifest["l0"] == pytest.approx((codes != 0).sum(axis=1).mean())
    assert manifest["converged_fraction"] == 1 and manifest["tolerance"] == 1e-4
    np.testing.assert_allclose(arrays["atom_usage"], (codes != 0).mean(axis=0))
    batches = [objectives[i : i + 167].mean() for i in (0, 167, 334)]  # 500 in equal parts
    np.testing.assert_allclose(arrays["batch_objective"], batches, rtol=1e-5)
    assert np.array_equal(arrays["active_atoms"], np.bincount((codes != 0).sum(1), minlength=N + 1))
    assert manifest["arrays"]["data"] == [(codes != 0).sum()] and "jax" in manifest["versions"]


def test_dense_codes_keep_leading_axes_and_any_numbers_are_read(files):
    signals = np.round(20 * np.asarray(files.signals)).astype(np.int16).reshape(5, 100, M)
    np.save("signals.npy", signals)
    assert run_encode("--dense", "--signed", "--num-steps", 20, "--output", "z.npz") == 0
    codes = np.load("z.npy")
    solver = sc.solvers.fista(prox=sc.prox.soft_threshold)
    flat = signals.reshape(-1, M).astype(np.float32)
    expected = sc.sparse_encode(flat, files.dictionary, PENALTY, num_steps=20, solver=solver)
    assert codes.shape == (5, 100, N) and (codes < 0).any()
    np.testing.assert_allclose(codes.reshape(-1, N), expected, rtol=1e-4, atol=1e-3)
    assert "converged_fraction" in sc.io.load_results("z")[1]


@pytest.mark.parametrize("name", ["omp", "subspace-pursuit"])
def test_pursuits_take_a_number_of_atoms(files, name):
    assert run_encode("--solver", name, "--num-active", 2, penalty=None) == 0
    codes = scipy.sparse.load_npz("codes.npz")
    factory = {
        "omp": sc.solvers.orthogonal_matching_pursuit,
        "subspace-pursuit": sc.solvers.subspace_pursuit,
    }[name]
    steps = {"omp": 2, "subspace-pursuit": 10}[name]
    expected = sc.sparse_encode(
        files.signals[:167], files.dictionary, 0.0, num_steps=steps, solver=factory(2)
    )
    np.testing.assert_allclose(codes.toarray()[:167], expected, atol=1e-5)
    assert codes.getnnz(axis=1).max() <= 2


def test_the_default_penalty_is_stated(files, capsys):
    assert run_encode(penalty=None) == 0
    penalty = sc.io.load_results("codes")[1]["penalty"]
    norms = np.linalg.norm(np.asarray(files.signals, float), axis=1)
    assert penalty == pytest.approx(0.015 * np.sqrt((norms**2).mean()))
    assert f"penalty {penalty:.4g}" in capsys.readouterr().out


def test_counted_operations_of_a_run_are_those_of_the_flops_command(files, capsys):
    assert run_encode("--num-steps", 7, "--batch-size", 500) == 0
    counted = sc.io.load_results("codes")[1]["flops"]["total"]
    capsys.readouterr()
    sizes = ["--num-measurements", M, "--num-atoms", N, "--num-signals", S]
    assert run("flops", "encode", *sizes, "--num-steps", 7, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((S, M), (N, M), ())]
    expected = sc.flops.eval_flops(lambda x, d, p: sc.sparse_encode(x, d, p, num_steps=7), *shapes)
    assert result["total"] == expected.total() == counted
    assert result["by_class"] == expected.by("class")
    assert result["per_signal"] == expected.total() / S
    assert result["per_iteration"] == S * (4 * M * N + M + 7 * N) + 9  # fista's formula


# interrupted runs


def test_an_interrupted_encode_goes_on_and_ends_in_the_same_bytes(files, monkeypatch, capsys):
    assert run_encode("--output", "whole") == 0
    save, saved = encode._save, []

    def stop_at_the_second(partial, index, *rest):
        if index == 1 and not saved[1:]:
            saved.append("stopped")
            raise KeyboardInterrupt
        saved.append(index)
        save(partial, index, *rest)

    monkeypatch.setattr(encode, "_save", stop_at_the_second)
    assert run_encode() == 130
    assert "1 of 3 batches are kept in codes.partial" in capsys.readouterr().err
    assert not list(pathlib.Path().glob("codes.*z"))
    assert run_encode("--penalty", 2 * PENALTY) == 2
    message = capsys.readouterr().err
    assert "penalty was 0.05, is 0.1" in message and "--overwrite" in message
    assert run_encode() == 0
    assert saved == [0, "stopped", 1, 2]  # nothing twice
    assert pathlib.Path("codes.npz").read_bytes() == pathlib.Path("whole.npz").read_bytes()


def test_overwrite_drops_parts_of_another_run_and_results(files, monkeypatch, capsys):
    assert run_encode("--output", "other", "--penalty", 0.1) == 0
    assert run_encode() == 0
    assert run_encode("--penalty", 0.1) == 2
    assert "codes.npz, codes.json there already" in capsys.readouterr().err
    assert run_encode("--penalty", 0.1, "--overwrite") == 0
    assert pathlib.Path("codes.npz").read_bytes() == pathlib.Path("other.npz").read_bytes()


def test_a_killed_process_loses_nothing(files):
    program = (
        "import os, sys\n"
        "from sparsecode_jax.cli import encode, main\n"
        "save = encode._save\n"
        "def kill(partial, index, *rest):\n"
        "    save(partial, index, *rest)\n"
        "    os.kill(os.getpid(), 9)\n"
        "encode._save = kill\n"
        "main(sys.argv[1:])\n"
    )
    words = ["encode", "signals.npy", "--dictionary", "d.npz", "--penalty", str(PENALTY)]
    words += ["--batch-size", "200", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, *words], env=environment, timeout=120)
    assert done.returncode == -9
    before = pathlib.Path("codes.partial/00000000.npz").stat()
    assert run_encode("--output", "whole") == 0
    assert pathlib.Path("codes.partial/00000000.npz").stat() == before
    assert run_encode() == 0
    assert pathlib.Path("codes.npz").read_bytes() == pathlib.Path("whole.npz").read_bytes()


# learn


def test_learn_recovers_the_dictionary_and_encode_takes_it(files, capsys):
    assert run("learn", "signals.npy", *SMALL_LEARN) == 0
    arrays, manifest = sc.io.load_results("learned")
    assert sc.metrics.dictionary_mcc(files.dictionary, arrays["dictionary"]) > 0.95

    def part(index, **options):
        key = jax.random.fold_in(jax.random.key(0), index)
        return sc.learning.learn_dictionary(
            key, files.signals, num_atoms=N, num_rounds=ROUNDS, **options
        )

    found = [part(i, num_restarts=1) for i in range(3)]
    np.testing.assert_array_equal(arrays["objectives"], [f.objective for f in found])
    best = found[manifest["best_restart"]]
    assert best.objective == min(arrays["objectives"])
    for hop, after in enumerate(arrays["hops"]):
        options = {"num_restarts": 3, "num_hops": 1, "dictionary0": best.dictionary}
        found.append(part(3 + hop, **options))
        best = min(best, found[-1], key=lambda f: f.objective)
        assert after == best.objective
    assert len(arrays["hops"]) == HOPS and best.objective < min(arrays["objectives"])
    assert best is found[3 + manifest["best_hop"]]
    np.testing.assert_array_equal(arrays["dictionary"], best.dictionary)
    np.testing.assert_allclose(arrays["atom_usage"], (np.asarray(best.codes) != 0).mean(axis=0))
    assert manifest["signals"]["drawn_at_random"] is False and "rows" not in arrays
    assert pathlib.Path("learned.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    sizes = ["--num-measurements", M, "--num-atoms", N, "--num-signals", S]
    words = ["--num-rounds", ROUNDS, "--num-restarts", 3, "--num-hops", HOPS, "--json"]
    assert run("flops", "learn", *sizes, *words) == 0
    result = json.loads(capsys.readouterr().out)
    counted = result["total"]
    assert counted == manifest["flops"]["total"]
    assert counted == 3 * result["per_restart"] + HOPS * result["per_hop"]
    assert counted == pytest.approx(sum(f.flops for f in found), rel=1e-3)  # and scaling

    words = ["encode", "signals.npy", "--dictionary", "learned.npz", "--quiet"]
    assert run(*words) == 0
    assert "which the dictionary was learned with" in capsys.readouterr().out
    scores = sc.io.load_results("codes")[1]
    assert scores["objective"] == pytest.approx(manifest["objective"], rel=1e-2)
    assert scores["r2"] > 0.99
    assert pathlib.Path("codes.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_learn_goes_on(files, monkeypatch, capsys):
    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    assert run("learn", "signals.npy", *SMALL_LEARN, "--output", "whole", "--no-figure") == 0
    original, copies = learn.learn_once, []

    def stop_twice(*words, num_copies=1, **options):
        copies.append(num_copies)
        if len(copies) in (2, 6):  # the second restart, and the second hop after going on
            raise KeyboardInterrupt
        return original(*words, num_copies=num_copies, **options)

    monkeypatch.setattr(learn, "learn_once", stop_twice)
    command = ["learn", "signals.npy", *SMALL_LEARN, "--no-figure"]
    assert run(*command) == 130
    kept = f"1 of 3 restarts and 0 of {HOPS} hops"
    assert f"{kept} are kept in learned.partial" in capsys.readouterr().err
    assert run(*command) == 130
    out, err = capsys.readouterr()
    assert f"going on: {kept} are in learned.partial" in out
    assert f"3 of 3 restarts and 1 of {HOPS} hops are kept" in err
    hop = pathlib.Path("learned.partial/00000003.npz")
    before = hop.stat(), hop.read_bytes()
    saved = {}
    monkeypatch.setattr(learn.Partial, "remove", lambda p: saved.update(
        {f.name: f.read_bytes() for f in p.folder.iterdir()}, stat=hop.stat()))  # fmt: skip
    assert run(*command) == 0
    assert (saved["stat"], saved[hop.name]) == before
    assert copies == [1, 1, 1, 1, 3, 3, *[3] * (HOPS - 1)]  # nothing twice
    whole, resumed = (sc.io.load_results(name)[0] for name in ("whole", "learned"))
    assert len(whole["hops"]) == HOPS and whole["hops"][-1] < whole["objectives"].min()
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_hops_begin_at_the_best_so_far_and_a_worse_one_is_not_kept(files, monkeypatch, capsys):
    values, starts = iter(np.float32([3, np.nan, 2, 4, 1, np.nan])), []

    def learn_once(key, signals, penalty, best=None, *, num_copies=1, **_):
        starts.append(None if best is None else (best[0, 0], num_copies))
        value, codes = next(values), np.zeros((S, N))
        dictionary = np.full((N, M), value)
        return sc.learning.Learned(dictionary, codes, value, 0.1, None, None, None, 0)

    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    monkeypatch.setattr(learn, "learn_once", learn_once)
    words = ["learn", "signals.npy", "--num-atoms", N, "--num-restarts", 3, "--num-hops", 3]
    assert run(*words) == 0
    assert starts == [None, None, None, (2, 3), (2, 3), (1, 3)]
    arrays, manifest = sc.io.load_results("learned")
    np.testing.assert_array_equal(arrays["objectives"], [3, np.nan, 2])
    np.testing.assert_array_equal(arrays["hops"], [2, 1, 1])
    assert arrays["dictionaries"].shape == (3, N, M) and np.all(arrays["dictionary"] == 1)
    assert manifest["objective"] == 1
    assert manifest["best_restart"] == 2 and manifest["best_hop"] == 1
    err = capsys.readouterr().err
    assert "3/3" in err and "restarts/s" in err and "hops/s" in err


def test_counts_not_given_are_those_of_the_library(capsys):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(sc.learning.learn_dictionary).parameters.items()
    }
    options = parser.parse(["learn", "x.npy", "--num-atoms", "4"])
    for name in ("num_rounds", "num_steps", "num_restarts", "num_hops"):
        assert getattr(options, name) == defaults[name]
    words = ["--num-measurements", 3, "--num-atoms", 600, "--num-signals", 700]
    assert run("flops", "learn", *words, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_restarts"], result["num_hops"]) == (1, 0) and "per_hop" not in result
    assert (result["num_rounds"], result["num_steps"]) == (100, 8)
    key, signals = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((700, 3), "float32")
    expected = sc.flops.eval_flops(
        lambda k, x: sc.learning.learn_dictionary(k, x, num_atoms=600)[:3], key, signals
    )
    assert result["total"] == expected.total() and result["by_class"] == expected.by("class")
    small = ["--num-measurements", 3, "--num-atoms", 100, "--num-signals", 200, "--num-rounds", 2]
    assert run("flops", "learn", *small, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_restarts"], result["num_hops"]) == (10, 6)


def test_learn_draws_rows_and_reads_no_others(files, capsys):
    signals = np.array(files.signals)
    rows = np.sort(np.random.default_rng(3).choice(S, 100, replace=False, shuffle=False))
    others = np.setdiff1d(np.arange(S), rows)
    signals[others] = np.nan
    np.save("signals.npy", signals)
    words = ["learn", "signals.npy", "--num-atoms", 4, "--num-rounds", 2, "--num-restarts", 1,
             "--max-signals", 100, "--seed", 3, "--quiet", "--no-figure"]  # fmt: skip
    assert run(*words) == 0
    assert "learning from 100 of the 500 signals" in capsys.readouterr().out
    np.testing.assert_array_equal(sc.io.load_results("learned")[0]["rows"], rows)
    signals[rows[7], 2] = np.inf
    np.save("signals.npy", signals)
    assert run(*words, "--output", "again") == 2
    assert f"has inf at row {rows[7]}, column 2" in capsys.readouterr().err


# reading


def test_a_file_is_read_in_batches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = (400_000, 16)  # 25.6 MB
    file = np.lib.format.open_memmap("signals.npy", "w+", np.float32, shape)
    file[:, 0] = 1
    del file
    np.save("d.npy", np.eye(2, 16, dtype=np.float32))
    words = ["encode", "signals.npy", "--dictionary", "d.npy", "--num-steps", 2, "--quiet",
             "--penalty", 0.5, "--batch-size", 20_000, "--no-figure", "--dense"]  # fmt: skip
    tracemalloc.start()
    try:
        assert run(*words) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    codes = np.load("codes.npy", mmap_mode="r")
    np.testing.assert_allclose(codes[::997], np.tile([0.5, 0], (len(codes[::997]), 1)), atol=1e-4)


def test_statistics_of_batches_are_those_of_the_whole(files):
    rows = 1000 + np.asarray(files.signals, np.float32)
    found = Statistics.of(rows[i : i + 70] for i in range(0, S, 70))
    exact = rows.astype(float)
    assert found.deviation == pytest.approx(((exact - exact.mean(0)) ** 2).sum(), rel=1e-9)
    assert found.rms == pytest.approx(np.sqrt((exact**2).sum(1).mean()))
    assert found.largest == exact.max() and found.checksum == Statistics.of([rows]).checksum


def test_other_layouts_and_byte_orders(tmp_path):
    rows = np.arange(12.0).reshape(4, 3)
    for array in (np.asfortranarray(rows), rows.astype(">f8"), rows.astype(np.float16)):
        np.save(tmp_path / "x.npy", array)
        batch = open_signals(tmp_path / "x.npy").batch(slice(1, 3))
        assert batch.dtype == np.float32 and np.array_equal(batch, rows[1:3])


# flops of one's own functions


def test_flops_of_a_function_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("helper.py").write_text("scale = 2.0\n")
    pathlib.Path("model.py").write_text(
        "import jax\nfrom helper import scale\n"
        "def apply(x, w): return scale * (x @ w.T)\n"
        "def halve(x): return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)\n"
        "def broken(x): return x.reshape(7)\n"
    )
    assert run("flops", "model.py:apply", "--shapes", "64,16", "float32[32,16]", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 2 * 64 * 32 * 16 + 64 * 32
    words = ["flops", "model.py:apply", "--shapes", "64,16", "32,16", "--convention", "matmul"]
    assert run(*words) == 0
    assert re.search(r"total \(matmul\) +65,536\n", capsys.readouterr().out)
    assert run("flops", "model.py:halve", "--shapes", "float32[]") == 1
    out, err = capsys.readouterr()
    assert "?" in out and "value_and_flops" in err
    assert run("flops", "model.py:broken", "--shapes", "3") == 1
    assert "failed: TypeError" in capsys.readouterr().err
    for program, shapes, text in (
        ("model.py:nothing", ["3"], "has no function 'nothing'"),
        ("missing.py:apply", ["3"], "missing.py: no such file"),
        ("model.py", ["3"], "encode, learn or path/to/file.py:function is expected"),
        ("model.py:apply", ["3", "four"], "--shapes 'four' is not a shape"),
        ("encode", ["3"], "--num-measurements, --num-atoms, --num-signals not given"),
    ):
        assert run("flops", program, "--shapes", *shapes) == 2
        assert text in capsys.readouterr().err


# errors


def nan(signals):
    signals[437, 3] = np.nan
    return signals


ENCODE_ERRORS = {
    "missing file": (lambda x: None, [], "signals.npy: no such file; a .npy file"),
    "objects": (lambda x: x.astype(object), [], "Python objects in dtype.); a .npy"),
    "not an array": (lambda x: b"text", [], "signals.npy is not readable"),
    "complex": (lambda x: x + 0j, [], "hold complex64 values; real numbers"),
    "strings": (lambda x: x.astype(str), [], "real numbers"),
    "one axis": (lambda x: x[0], [], "has shape (8,); a non-empty (S, M)"),
    "empty": (lambda x: x[:0], [], "has shape (0, 8)"),
    "not finite": (nan, [], "has nan at row 437, column 3, and 1 such rows"),
    "zeros": (lambda x: 0 * x, [], "holds nothing but zeros"),
    "too large": (lambda x: 1e30 * x, [], "whose square float32 cannot hold"),
    "too large for float32": (lambda x: 1e50 * x.astype(float), [], "finite in float32"),
    "width": (lambda x: x[:, :5], [], "signals have 5 measurements (shape (500, 5)) but the"),
    "no dictionary": (lambda x: x, ["--dictionary", "no.npz"], "no.npz: no such file"),
    "no key": (lambda x: x, ["--dictionary", "other.npz"], "no array 'dictionary' (it has: atoms)"),
    "zero atom": (lambda x: x, ["--dictionary", "zero.npy"], "1 zero atoms (the first is row 2)"),
    "penalty": (lambda x: x, ["--penalty", "-1"], "'-1' given; a finite number > 0"),
    "penalty nan": (lambda x: x, ["--penalty", "nan"], "'nan' given; a finite number > 0"),
    "steps": (lambda x: x, ["--num-steps", "1.5"], "'1.5' given; an integer >= 1"),
    "tolerance": (lambda x: x, ["--tolerance", "1e-9"], "below what float32 can certify"),
    "both": (lambda x: x, ["--tolerance", ".1", "--num-steps", "3"], "not allowed with"),
    "solver": (lambda x: x, ["--solver", "magic"], "invalid choice"),
    "no K": (lambda x: x, ["--solver", "ols"], "--num-active is not given; --solver ols expects"),
    "K too large": (lambda x: x, ["--solver", "ols", "--num-active", "13"], "from 1 to 12"),
    "K of a lasso": (lambda x: x, ["--num-active", "3"], "--num-active 3 is given, but sparsa"),
    "folder": (lambda x: x, ["--output", "."], "--output . is a folder"),
    "input": (lambda x: x, ["--output", "signals", "--dense"], "would replace the input"),
    "option": (lambda x: x, ["--fast"], "unrecognized arguments: --fast"),
}


@pytest.mark.parametrize("case", ENCODE_ERRORS)
def test_bad_input_is_said_in_one_line(files, capsys, case):
    change, words, text = ENCODE_ERRORS[case]
    changed = change(np.array(files.signals))
    pathlib.Path("signals.npy").unlink()
    if isinstance(changed, bytes):
        pathlib.Path("signals.npy").write_bytes(changed)
    elif changed is not None:
        np.save("signals.npy", changed)
    np.savez("other.npz", atoms=files.dictionary)
    np.save("zero.npy", np.where(np.arange(N)[:, None] == 2, 0, files.dictionary))
    before = sorted(os.listdir())
    given = None if "ols" in words else PENALTY
    assert run_encode(*words, penalty=given) == 2
    out, err = capsys.readouterr()
    assert text in err and err.startswith("sparsecode-jax") and err.count("\n") == 1
    assert "Traceback" not in err and out == ""
    assert sorted(os.listdir()) == before  # nothing is left behind


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--num-atoms"),
        (["--num-atoms", "0"], "'0' given; an integer >= 1 is expected"),
        (["--num-atoms", "501"], "500 signals cannot determine 501 atoms"),
        (["--num-atoms", "3", "--num-hops", "-1"], "'-1' given; an integer >= 0 is expected"),
        (["--num-atoms", "3", "--seed", "-1"], "an integer from 0 to 2^32 - 1"),
        (["--num-atoms", "3", "--output", "d"], "d.npz there already"),
    ],
)
def test_bad_input_of_learn(files, capsys, words, text):
    assert run("learn", "signals.npy", *words) == 2
    err = capsys.readouterr().err
    assert text in err and err.startswith("sparsecode-jax learn: ") and err.count("\n") == 1


def test_a_run_that_fails_says_so_without_a_traceback(files, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "_save", full)
    assert run_encode() == 1
    err = capsys.readouterr().err
    assert "encode: failed: OSError: [Errno 28] No space left on device" in err
    assert "Traceback" not in err
    with pytest.raises(OSError, match="No space"):
        run_encode("--debug")


def test_signals_that_did_not_converge_are_warned_of(files, monkeypatch, capsys):
    assert run_encode("--penalty", 100, "--output", "none") == 0
    assert "all codes are 0" in capsys.readouterr().err
    monkeypatch.setattr("sparsecode_jax.solvers._core._MOST_STEPS", 5)
    assert run_encode("--tolerance", 1e-5) == 0
    manifest = sc.io.load_results("codes")[1]
    missed = round(S * (1 - manifest["converged_fraction"]))
    assert 0 < missed < S and manifest["mean_steps"] == 5
    expected = f"warning: {missed} signals are not within the tolerance 1e-05"
    assert expected in capsys.readouterr().err


# the program


def test_help_and_version(capsys):
    for words in ([], ["learn"], ["encode"], ["flops"]):
        assert run(*words, "--help") == 0
        out = capsys.readouterr().out
        assert out.startswith("usage: sparsecode-jax") and len(out.splitlines()) > 20
        assert max(map(len, out.splitlines())) <= 100
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith(f"sparsecode-jax {sc.__version__} (jax ")
    assert run() == 2
    assert run("encode") == 2
    assert "signals, --dictionary" in capsys.readouterr().err


def test_the_module_runs_and_its_help_loads_no_plots():
    program = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('sparsecode_jax', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'matplotlib', 'scipy.optimize', 'scipy.stats', 'sparsecode_jax.cli.encode'}"
        " & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "no_such_platform"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "exit codes: 0 done" in done.stdout


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    block = re.search(r"\*\*From the shell:\*\*.*?```\n(.*?)```", text, flags=re.DOTALL)
    assert block
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in block[1].replace("\\\n", "").splitlines()]
    assert [line[0] for line in lines] == ["python", *["sparsecode-jax"] * 3]
    exec(lines[0][2], {})  # python -c
    for line in lines[1:]:
        assert main(line[1:]) == 0
    assert "R² .999" in text and "R² 0.999" in capsys.readouterr().out


def test_conventions_of_the_parser_are_those_of_the_library(capsys):
    for name in sc.flops.CONVENTIONS:
        words = ["--num-measurements", 4, "--num-atoms", 5, "--num-signals", 6]
        assert run("flops", "encode", *words, "--convention", name, "--num-steps", 1) == 0
        assert f"total ({name})" in capsys.readouterr().out
