"""Runs over processes keep checkpoints: whole, refused alike, resumed by any number of them."""

import json
import shutil
import time

import jax
import numpy as np
import pytest

import sparsecode_jax as sc

from .processes import start

TOLERANCE = {"fit": 1e-4, "each": 1e-4, "learn": 1e-3, "online": 1e-3, "sweep": 1e-5}


def ended(processes, timeout=300):
    """Return the exit codes and errors of processes, and for how long others outlive the first."""
    began = time.monotonic()
    try:
        while all(process.poll() is None for process in processes):
            assert time.monotonic() < began + timeout
            time.sleep(0.1)
        first = time.monotonic()
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
        return [process.returncode for process in processes], errors, time.monotonic() - first
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(num, *words):
    codes, errors, _ = ended(start("tests.kept", num, *words))
    assert codes == [0] * num, errors


def same(folder, num):
    """Compare what runs that were resumed found with what they do without interruption."""
    for i in range(num):
        found = np.load(folder / f"found-{num}-{i}.npz")
        names = [name.partition("/")[2] for name in found.files if name.startswith("found/")]
        assert names
        for name in names:
            expected = found[f"expected/{name}"]
            rtol = TOLERANCE[name.partition("/")[0].partition("-")[0]]
            np.testing.assert_allclose(
                found[f"found/{name}"], expected, rtol=rtol, atol=rtol * np.abs(expected).max(),
                err_msg=name,
            )  # fmt: skip
            np.testing.assert_array_equal(found[f"again/{name}"], found[f"found/{name}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two processes whose runs are interrupted, refused and at last killed."""
    path = tmp_path_factory.mktemp("kept")
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 3, num_samples=64, num_measurements=16, num_atoms=24
    )
    np.save(path / "signals.npy", problem.signals)
    codes, errors, seconds = ended(start("tests.kept", 2, path, "all"))
    assert codes[1] == -9, errors
    assert codes[0] not in (0, -9) and errors[0] and seconds < 60, (codes, seconds, errors)
    return path


def test_an_interrupted_run_over_processes_says_what_it_keeps(folder):
    for i in range(2):
        said = json.loads((folder / f"notes-{i}.json").read_text())
        assert sorted(said) == ["each", "fit", "learn", "sweep"]
        assert said.pop("sweep") == []  # each chunk is written when it is done
        for name, notes in said.items():
            (note,) = notes
            assert f"{name} keeps" in note and note.endswith("the same call goes on from it.")
    assert (folder / "fit.arrays").is_dir()


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("another run", "ValueError: fit: fit belongs to another run (key, initial parameters);"),
        ("other arguments", "ValueError: fit: process 1 of 2 has another run than process 0 (key,"),
        ("no shared folder", "ValueError: fit: process 1 of 2 does not see in own-1 what process"),
        ("busy", "BusyError: fit: held is being written by process 7 on another; one run at"),
        ("damaged", "ValueError: fit: damaged is not a checkpoint (File is not a zip file); a"),
        ("full disk of one", "OSError: [Errno 28] No space left on device"),
        (
            "no orbax",
            "ImportError: fit: checkpoints of several processes are written and read by orbax",
        ),
        ("error of one", "ArithmeticError: of process 1"),
        (
            "a batch that does not divide",
            "ValueError: fit: batches of 15 signals do not divide over the 2 devices",
        ),
        (
            "one axis for two",
            "ValueError: sparse_encode: signals and atoms are both split over the mesh axis 'rows'",
        ),
        ("atoms that are split", "ValueError: solve: "),
        (
            "without its arrays",
            "ValueError: fit: moved is not a checkpoint (its arrays, which move",
        ),
    ],
)
def test_what_one_process_meets_all_are_told(folder, case, sentence):
    said = [json.loads((folder / f"refused-{i}.json").read_text())[case] for i in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith(sentence)
    left = {path.name for path in folder.iterdir()}
    assert not left & {"new", "full", "full.arrays", "without", "held", "own-0", "moved.arrays"}


def test_what_two_processes_kept_one_ends_alike(folder):
    kept = list((folder / "fit-killed.arrays").iterdir())
    assert len(kept) == 2, "the kill was to come between the first write and the end of the next"
    run(1, folder, "resumed", "fit", "each", "learn", "sweep", "fit-killed")
    same(folder, 1)
    assert not list(folder.glob("*.arrays")), "arrays of one process lie in the file"
    assert not list(folder.glob("*.new"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 2), (4, 2)])
def test_a_run_goes_on_over_other_processes(tmp_path, folder, before, after):
    shutil.copy(folder / "signals.npy", tmp_path)
    run(before, tmp_path, "interrupted", *TOLERANCE)
    run(after, tmp_path, "resumed", *TOLERANCE)
    same(tmp_path, after)


@pytest.mark.slow
def test_four_processes_killed_inside_writes_lose_nothing(tmp_path, folder):
    """One of them dies at some operation of a write, in turn; two processes and one go on."""
    shutil.copy(folder / "signals.npy", tmp_path)
    kills = {
        "fit": [(0, 1), (0, 3), (0, 5), (3, 0), (3, 1)],
        "learn": [(0, 2), (3, 1)],
        "each": [(0, 2), (3, 1)],
        "online": [(0, 2), (3, 1)],
        "sweep": [(0, 2), (0, 5)],  # the first process alone writes a chunk's results
    }
    names = [f"{name}-killed" for name in kills]
    for task, process, count in [(name, *kill) for name in kills for kill in kills[name]]:
        codes, errors, seconds = ended(
            start("tests.kept", 4, tmp_path, "killed", f"{task}-killed", process, count)
        )
        if any(codes):  # else it ended before that operation
            assert codes[process] == -9, errors
            assert all(codes) and seconds < 60, (codes, seconds, errors)
    shutil.copytree(tmp_path, tmp_path / "one")
    run(2, tmp_path, "resumed", *names)
    same(tmp_path, 2)
    run(1, tmp_path / "one", "resumed", *names)
    same(tmp_path / "one", 1)
