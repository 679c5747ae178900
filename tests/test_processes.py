"""Several real processes on this machine give what one gives; one that dies ends the others."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import sparsecode_jax as sc

from .processes import free_port, start

ROOT = pathlib.Path(__file__).parents[1]
TOLERANCE = {"batches": 1e-4, "runs": 1e-4, "dictionary": 1e-3}  # of what many steps amplify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 3, num_samples=64, num_measurements=16, num_atoms=24
    )
    for name in ("signals", "dictionary", "codes"):
        np.save(path / f"{name}.npy", getattr(problem, name))
    (alone,) = start("tests.processes", 1, "automatic", path)
    _, error = alone.communicate(timeout=300)
    assert alone.returncode == 0, error
    return path


@pytest.mark.parametrize(
    ("num", "kind"),
    [
        (2, "automatic"),
        pytest.param(2, "explicit", marks=pytest.mark.slow),
        pytest.param(4, "automatic", marks=pytest.mark.slow),
    ],
)
def test_processes_together_give_what_one_gives(folder, num, kind):
    processes = start("tests.processes", num, kind, folder)
    for process in processes:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    expected = np.load(folder / "automatic-1-0.npz")
    for i in range(num):
        found = np.load(folder / f"{kind}-{num}-{i}.npz")
        assert sorted(found.files) == sorted(expected.files)
        assert "non-finite numbers (the first at index (33, 2))" in str(found["message"])
        for name in set(found.files) - {"message"}:
            rtol = TOLERANCE.get(name.rstrip("0123456789"), 1e-5)
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                found[name], expected[name], rtol=rtol, atol=rtol * scale, err_msg=name
            )


LOOP = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, num, process, kind, out = sys.argv[1:]
jax.distributed.initialize(
    f"localhost:{port}", int(num), int(process), heartbeat_timeout_seconds=10
)
import numpy as np, sparsecode_jax as sc
from jax.sharding import AxisType, NamedSharding, PartitionSpec
mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("rows"))
signals = jax.make_array_from_callback(
    (64, 16), rows, lambda index: np.ones((64, 16), np.float32)[index]
)
def said(news):
    print("step", flush=True)
sc.training.fit(
    jax.random.key(0), sc.encoders.linear(16, 24), signals, num_atoms=24, num_steps=10**7,
    callback=said, progress=None,
)
"""


def test_the_others_end_with_an_error_when_one_is_killed(tmp_path):
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    first, second = (
        subprocess.Popen(
            [sys.executable, str(script), port, "2", str(i), "automatic", str(tmp_path)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    )  # fmt: skip
    try:
        assert "step\n" in iter(first.stdout.readline, "")  # it trains; the transport speaks before
        second.send_signal(signal.SIGKILL)
        _, error = first.communicate(timeout=60)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert first.returncode != 0, error
    assert error


def test_the_example_for_many_hosts_as_slurm_starts_it(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    job = {
        "SLURM_JOB_ID": str(10_000 + int(free_port()) % 4096),  # JAX takes the port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    command = [
        sys.executable,
        str(ROOT / "examples" / "many_hosts.py"),
        str(folder / "signals.npy"),
        str(folder / "trained"),
    ]
    processes = [
        subprocess.Popen(
            command, env={**env, **job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "64 signals on 2 devices, 2 hosts" in outputs[0][0]
    assert "R2, trained" in outputs[0][0] and "R2" not in outputs[1][0]
    assert (folder / "trained").is_file() and (folder / "trained.arrays").is_dir()
