"""Compiling for a TPU without one, where its compiler is installed (the ``tpu`` extra)."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

ROOT = pathlib.Path(__file__).parents[1]
WITHOUT = """
import importlib.metadata as metadata
known = metadata.version
def version(name):
    if name == "libtpu":
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.version = version
from benchmarks import tpu
tpu.main(["--quick"])
"""


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_without_the_compiler_it_says_what_to_install():
    done = run("-c", WITHOUT)
    assert done.returncode == 1
    assert "libtpu, which holds the compiler for TPUs, is not installed" in done.stderr
    assert 'pip install -c constraints.txt ".[tpu]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_every_program_of_the_table_can_be_traced():
    with mock.patch.dict(os.environ):  # which it sets where it is imported
        tpu = importlib.import_module("benchmarks.tpu")
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("chip",))
    listed = tpu.programs(tpu.TINY, mesh)
    assert len({program.name for program in listed}) == len(listed) > 60
    for program in listed:
        shapes = jax.tree.leaves(jax.eval_shape(program.fn, *program.args))
        assert shapes, program.name


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is in the tpu extra: make accelerators installs it",
)
def test_tiny_programs_compile_and_are_kept(tmp_path):
    command = ("-m", "benchmarks.tpu", "--quick", "--out", tmp_path, "--write", tmp_path / "table")
    first = run(*command)
    assert first.returncode == 0, first.stderr
    kept = json.loads((tmp_path / "tpu-quick.json").read_text())
    assert len(kept["rows"]) == 4
    for name, row in kept["rows"].items():
        assert "error" not in row, row
        assert f"{name}: " in first.stdout
        assert row["temporaries"] >= 0 and row["arguments"] > 0
    text = (tmp_path / "table").read_text()
    assert f"libtpu {kept['libtpu']}" in text and "Nothing was run on a TPU." in text
    again = run(*command)
    assert again.stdout.count("(kept)") == 4
    assert (tmp_path / "table").read_text() == text
