"""Commands over processes: what one gives, said and written once, and gone on with by one."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import sparsecode_jax as sc

from ..processes import free_port
from .shell import run

ROOT = pathlib.Path(__file__).parents[2]
# What is interrupted is so after the first time that it keeps something.
INTERRUPTED = """
import sys
from sparsecode_jax.cli import main
from sparsecode_jax.io import runs
keep = runs.Run.keep
def stop(self, *args):
    keep(self, *args)
    raise KeyboardInterrupt
runs.Run.keep = stop
sys.exit(main())
"""
JOIN = "from sparsecode_jax import _processes; _processes.join('learn', seconds=4)"
LEARN = ("--num-atoms", 12, "--num-restarts", 2, "--num-hops", 0, "--num-rounds", 20)


@pytest.fixture(autouse=True)
def signals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=300, num_measurements=8, num_atoms=12
    )
    np.save("signals.npy", problem.signals)
    np.save("atoms.npy", problem.dictionary)


def launched(num, *words, program=("-m", "sparsecode_jax"), started=None, told=None):
    """Run a command as srun does, and return its exit codes, outputs and errors.

    ``told`` has how many processes each is told of, if not all of the same number.
    """
    told = [num] * num if told is None else told
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "SLURM_JOB_ID": str(10_000 + int(free_port()) % 4096),  # JAX takes the port from it
        "SLURM_STEP_NODELIST": "localhost",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            env={
                **env, "SLURM_NTASKS": str(told[i]), "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(num if started is None else started)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*said, strict=True)


def close(one, other, rtol):
    one, other = np.load(one), np.load(other)
    assert one.files == other.files
    for name in one.files:
        if one[name].dtype.kind == "f" and one[name].size:
            scale = np.abs(one[name]).max()
            np.testing.assert_allclose(
                one[name], other[name], rtol=rtol, atol=rtol * scale, err_msg=name
            )


def test_codes_of_two_processes_are_those_of_one_and_said_by_the_first():
    words = ("signals.npy", "--dictionary", "atoms.npy", "--penalty", 0.1, "--batch-size", 70)
    options = ("--no-figure", "--quiet")
    codes, out, errors = launched(2, "encode", *words, *options, "--distributed")
    assert codes == [0, 0], errors
    assert "encoded 300 signals" in out[0] and out[1] == ""
    assert run("encode", *words, *options, "--output", "alone") == 0
    found, expected = np.load("codes.npz"), np.load("alone.npz")
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])
    assert sorted(path.name for path in pathlib.Path().iterdir()) == [
        "alone.json", "alone.npz", "atoms.npy", "codes.json", "codes.npz", "signals.npy",
    ]  # fmt: skip


def test_learning_that_two_processes_began_one_ends():
    options = (*LEARN, "--no-figure", "--quiet")
    codes, out, errors = launched(
        2, "learn", "signals.npy", *options, "--distributed", program=("-c", INTERRUPTED)
    )
    assert codes == [130, 130], errors
    assert out[1] == ""
    assert sorted(error.count("rounds are kept in learned.partial") for error in errors) == [0, 1]
    assert list(pathlib.Path("learned.partial").glob("*-state.npz.arrays"))
    assert run("learn", "signals.npy", *options) == 0
    assert not pathlib.Path("learned.partial").exists()
    assert run("learn", "signals.npy", *options, "--output", "alone") == 0
    close("learned.npz", "alone.npz", 1e-3)


def test_an_error_ends_all_and_is_said_once():
    rows = np.load("signals.npy")
    rows[250, 3] = np.nan
    np.save("signals.npy", rows)
    codes, out, errors = launched(2, "learn", "signals.npy", *LEARN, "--distributed")
    assert codes == [2, 2], errors
    assert out == ("", "")
    assert sorted(error.count("signals.npy has nan at row 250") for error in errors) == [0, 1]
    assert sorted(len(error.splitlines()) for error in errors) == [0, 1]


def test_processes_that_are_told_different_numbers_end():
    words = ("flops", "learn", "--num-atoms", 4, "--num-signals", 100, "--num-measurements", 8)
    codes, out, errors = launched(2, *words, "--distributed", told=[2, 3])
    assert codes == [2, 2], errors
    assert out == ("", "")
    said = "process 0 was told of 2 processes and process 1 of 3; one number is expected. Start"
    assert sorted(error.count(said) for error in errors) == [0, 1]
    assert sorted(len(error.splitlines()) for error in errors) == [0, 1]


def test_without_a_cluster_it_is_refused(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_"))]:
        monkeypatch.delenv(name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    words = ["flops", "learn", "--num-atoms", "4", "--distributed"]
    done = subprocess.run(
        [sys.executable, "-m", "sparsecode_jax", *words], env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("sparsecode-jax flops: no cluster was found (") and done.stdout == ""


def test_operations_are_counted_and_said_by_the_first():
    words = ("flops", "learn", "--num-atoms", 4, "--num-signals", 100, "--num-measurements", 8)
    codes, out, errors = launched(2, *words, "--distributed")
    assert codes == [0, 0], errors
    assert out[0] and out[1] == ""


@pytest.mark.slow
def test_four_processes_learn_what_one_learns():
    options = (*LEARN, "--no-figure", "--quiet")
    codes, _, errors = launched(4, "learn", "signals.npy", *options, "--distributed")
    assert codes == [0] * 4, errors
    assert run("learn", "signals.npy", *options, "--output", "alone") == 0
    close("learned.npz", "alone.npz", 1e-3)


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named_by_numbers():
    codes, _, errors = launched(3, program=("-c", JOIN), started=2)
    assert all(codes), errors
    for i, error in enumerate(errors):  # or it hears of the end of the first
        assert f"learn: process {i} of 3 did not meet the others at" in error, (i, error)
