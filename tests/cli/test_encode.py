"""``encode``: its results equal the library's, runs go on, and files are read in batches."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse

import sparsecode_jax as sc
from sparsecode_jax.cli import encode, inference, outputs
from sparsecode_jax.cli.inputs import Statistics, open_signals

from .shell import PENALTY, M, N, S, run, run_encode

ROOT = pathlib.Path(__file__).parents[2]


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


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("num_atoms", "name"), [(1023, "sparsa"), (1024, "working-set")])
def test_the_default_method_is_the_default_solver(num_atoms, name, signed):
    shape = num_atoms, 40
    method = inference.choose(None, signed=signed, num_active=None, num_steps=None, shape=shape)
    prox = sc.prox.soft_threshold if signed else sc.prox.nonnegative_soft_threshold
    solver, options = sc.solvers.default_solver(jax.ShapeDtypeStruct(shape, "float32"), prox=prox)
    assert method == (name, solver, None, options["max_steps"], options["check_every"])


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


# interrupted runs


def test_an_interrupted_encode_goes_on_and_ends_in_the_same_bytes(files, monkeypatch, capsys):
    assert run_encode("--output", "whole") == 0
    save, saved = encode._save, []

    def stop_at_the_second(output, index, *rest):
        if index == 1 and not saved[1:]:
            saved.append("stopped")
            raise KeyboardInterrupt
        saved.append(index)
        save(output, index, *rest)

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


def contents(pattern):
    return {path.name: path.read_bytes() for path in pathlib.Path().glob(pattern) if path.is_file()}


def test_overwrite_leaves_nothing_of_the_earlier_run(files):
    words = ["encode", "signals.npy", "--dictionary", "d.npz", "--quiet", "--overwrite"]
    assert run(*words, "--dense", "--output", "codes") == 0
    assert contents("codes*").keys() == {"codes.npz", "codes.json", "codes.npy", "codes.png"}
    assert run_encode("--overwrite") == 0
    assert contents("codes*").keys() == {"codes.npz", "codes.json"}
    assert scipy.sparse.load_npz("codes.npz").shape == (S, N)
    np.save("mine.npy", np.ones(3))  # of no run
    assert run_encode("--output", "mine") == 0
    assert run_encode("--output", "mine", "--overwrite") == 0
    assert run_encode("--output", "signals") == 0
    assert run_encode("--output", "signals", "--overwrite") == 0
    assert len(contents("mine.*")) == len(contents("signals.*")) == 3


@pytest.mark.parametrize("where", ["_save", "write_npz", "manifest_text"])
def test_an_overwriting_run_that_fails_loses_nothing(files, monkeypatch, capsys, where):
    def full(*_):
        raise OSError(28, "No space left on device")

    assert run_encode("--dense") == 0
    before = contents("codes.*")
    with monkeypatch.context() as patch:
        patch.setattr(encode, where, full)
        assert run_encode("--penalty", 0.2, "--overwrite") == 1
    after = contents("codes.[njp]*")
    assert after == {k: v for k, v in before.items() if k in after} and len(after) == 3
    assert run_encode("--penalty", 0.2, "--overwrite") == 0
    assert "No space" in capsys.readouterr().err
    assert contents("codes.[njp]*").keys() == {"codes.npz", "codes.json"}


def test_a_stop_between_two_files_is_finished_by_the_same_command(files, monkeypatch, capsys):
    assert run_encode("--output", "whole", "--penalty", 0.2) == 0
    assert run_encode() == 0
    replace, places = os.replace, []

    def stop(source, place):
        if pathlib.Path(place).name in ("codes.npz", "codes.json"):
            places.append(pathlib.Path(place).name)
            if len(places) == 2:
                raise KeyboardInterrupt
        replace(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        assert run_encode("--penalty", 0.2, "--overwrite") == 130
    assert "interrupted; all parts are kept in codes.partial" in capsys.readouterr().err
    assert places == ["codes.npz", "codes.json"] and not pathlib.Path("codes.json").exists()
    assert run_encode("--penalty", 0.3) == 2  # whoever comes next finishes it
    assert "codes.npz, codes.json there already" in capsys.readouterr().err
    assert contents("codes.*")["codes.npz"] == contents("whole.*")["whole.npz"]


OWN = {".npz": "0123456789-result.npz", ".json": "0123456789-result.json"}
JOURNALS = {
    "cut": "{",
    "no object": "[]",
    "empty": "{}",
    "deep": "[" * 100_000,
    "nothing ready": {"ready": {}},
    "no manifest": {"ready": {".npz": "0123456789-result.npz"}},
    "another name": {"ready": {**OWN, ".npz": "0123456789-00000000.npz"}},
    "another run": {"ready": {**OWN, ".npz": "abcdefabcd-result.npz"}},
    "no checksum": {"ready": {".json": "../../../me-result.json"}},
    "another suffix": {"ready": {**OWN, ".txt": "0123456789-result.txt"}},
    "drops another": {"drop": ["/../precious.txt"]},
    "drops a list": {"drop": [[".npz"]]},
    "drops by an object": {"drop": {".npz": 1}},
    "outside": {"parts": ["../precious.txt"]},
    "absolute": {"parts": ["/precious.txt"]},
    "the folder": {"parts": ["."]},
    "the folder above": {"parts": [".."]},
    "no name": {"parts": [""]},
    "the journal": {"parts": ["publish.json"]},
    "a number": {"parts": [3]},
    "names in an object": {"parts": {"a": 1}},
    "more": {"more": []},
}


def everything():
    return {path: path.read_bytes() for path in pathlib.Path().rglob("*") if path.is_file()}


def test_a_damaged_journal_is_refused_and_moves_and_deletes_nothing(files, monkeypatch, capsys):
    assert run_encode("--output", "whole") == 0
    pathlib.Path("precious.txt").write_text("mine")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "_move", stop)
        assert run_encode() == 130
    journal = pathlib.Path("codes.partial/publish.json")
    for damage, said in JOURNALS.items():
        whole = {"ready": OWN, "drop": [], "parts": []}
        journal.write_text(said if isinstance(said, str) else json.dumps({**whole, **said}))
        capsys.readouterr()
        before = everything()
        for words in ((), ("--overwrite",), ("--penalty", 0.2)):
            assert run_encode(*words) == 2, damage
            err = capsys.readouterr().err
            assert "codes.partial/publish.json is damaged" in err and err.count("\n") == 1, damage
        assert everything() == before, damage
    journal.unlink()  # as the message says
    assert run_encode() == 0
    assert contents("codes.*")["codes.npz"] == contents("whole.*")["whole.npz"]
    assert not pathlib.Path("codes.partial").exists()


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
    (part,) = pathlib.Path("codes.partial").glob("*-00000000.npz")
    before = part.stat()
    assert run_encode("--output", "whole") == 0
    assert part.stat() == before
    assert run_encode() == 0
    assert pathlib.Path("codes.npz").read_bytes() == pathlib.Path("whole.npz").read_bytes()


# runs that must not mix


def interrupted(monkeypatch, *words):
    """Encode until one batch is there, and stop."""
    save, saved = encode._save, []

    def stop(output, index, *rest):
        if index == 1:
            raise KeyboardInterrupt
        saved.append(index)
        save(output, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "_save", stop)
        assert run_encode(*words) == 130


def test_an_overwriting_run_is_beside_what_another_left_until_it_ends(files, monkeypatch, capsys):
    assert run_encode("--output", "whole") == 0
    interrupted(monkeypatch)
    before = {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()}
    interrupted(monkeypatch, "--penalty", 0.1, "--overwrite")
    after = {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()}
    assert before.items() < after.items() and len(after) == 2 * len(before)
    assert run_encode() == 0  # the first goes on; what the other has stays
    assert contents("codes.*")["codes.npz"] == contents("whole.*")["whole.npz"]
    own = {name: data for name, data in after.items() if name not in before}
    assert {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()} == own
    assert run_encode("--penalty", 0.3, "--output", "codes") == 2
    assert "there already" in capsys.readouterr().err
    assert run_encode("--penalty", 0.1, "--overwrite") == 0
    assert not pathlib.Path("codes.partial").exists()


def test_a_run_that_fails_at_once_leaves_no_trace_beside_anothers_parts(files, monkeypatch):
    interrupted(monkeypatch)
    before = {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(encode, "_save", fail)
        assert run_encode("--penalty", 0.1, "--overwrite") == 1
    assert {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()} == before
    assert run_encode("--penalty", 0.2, "--overwrite") == 0
    assert not pathlib.Path("codes.partial").exists()


@pytest.mark.parametrize("change", ["no identity", "another's", "damaged", "stranger"])
def test_parts_that_are_not_of_this_run_are_refused_and_left(files, monkeypatch, capsys, change):
    interrupted(monkeypatch)
    (part,) = pathlib.Path("codes.partial").glob("*-00000000.npz")
    if change == "no identity":
        with np.load(part) as held:
            arrays = {name: held[name] for name in held.files if name.isdigit()}
        np.savez(part, **arrays)
    elif change == "another's":
        interrupted(monkeypatch, "--penalty", 0.1, "--output", "other")
        (other,) = pathlib.Path("other.partial").glob("*-00000000.npz")
        part.write_bytes(other.read_bytes())
    elif change == "damaged":
        part.write_bytes(part.read_bytes()[:-40])
    else:
        for path in pathlib.Path("codes.partial").iterdir():
            path.unlink()
        (pathlib.Path("codes.partial") / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()}
    capsys.readouterr()
    assert run_encode() == 2
    err = capsys.readouterr().err
    said = {"another's": "penalty was 0.1, is 0.05", "stranger": "notes.txt, which is of no run"}
    said = said.get(change, "is not a checkpoint")
    assert said in err and err.count("\n") == 1 and "codes.partial" in err
    assert {p.name: p.read_bytes() for p in pathlib.Path("codes.partial").iterdir()} == before
    assert not pathlib.Path("codes.npz").exists()


def test_a_folder_that_is_removed_meanwhile_is_made_again(files, monkeypatch):
    assert run_encode("--output", "whole") == 0
    save, saved = encode._save, []

    def remove(output, index, *rest):
        save(output, index, *rest)
        saved.append(index)
        if saved == [0, 1]:
            shutil.rmtree("codes.partial")

    monkeypatch.setattr(encode, "_save", remove)
    assert run_encode() == 0
    assert saved == [0, 1, 2, 0, 1]
    assert contents("codes.*")["codes.npz"] == contents("whole.*")["whole.npz"]


def test_results_follow_links_and_keep_the_umask(files, tmp_path):
    pathlib.Path("far").mkdir()
    pathlib.Path("codes.npz").symlink_to("far/codes.npz")
    before = os.umask(0o077)
    try:
        assert run_encode("--overwrite") == 0
        assert run_encode("--overwrite", "--penalty", 0.1) == 0
    finally:
        os.umask(before)
    assert pathlib.Path("codes.npz").is_symlink()
    assert pathlib.Path("far/codes.npz").stat().st_mode & 0o777 == 0o600
    assert scipy.sparse.load_npz("codes.npz").shape == (S, N)


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
