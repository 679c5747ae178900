"""Runs tests/devices in interpreters that have eight devices, a file at a time."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent / "devices"


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("test_*.py")))
def test_on_eight_devices(name, request):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    if "not slow" in request.config.getoption("-m"):
        command += ["-m", "not slow"]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
