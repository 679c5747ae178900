"""Runs tests/devices in interpreters that have eight devices, a file at a time."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent / "devices"
FILES = {path.name: path.read_text() for path in sorted(HERE.glob("test_*.py"))}
WHOLE = "pytestmark = pytest.mark.full_effort"  # a file without another test
# What is read there, HLO and its memory, is made before LLVM's part: half of the compilation.
READ = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def on_eight_devices(name, request, *marks, flags=""):
    """Run the tests of a file with these marks, of those that this run is to run."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / name)]
    if "not slow" in request.config.getoption("-m"):
        marks = (*marks, "not slow")
    command += ["-m", " and ".join(marks)]
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("name", [name for name, text in FILES.items() if WHOLE not in text])
def test_on_eight_devices(name, request):
    on_eight_devices(name, request, "not full_effort")


@pytest.mark.full_effort
@pytest.mark.parametrize("name", [name for name, text in FILES.items() if "full_effort" in text])
def test_on_eight_devices_at_full_effort(name, request):
    on_eight_devices(name, request, "full_effort", flags=READ)
