"""The program: its help, its entry points and the README's commands."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import sparsecode_jax as sc
from sparsecode_jax.cli import main

from .shell import run

ROOT = pathlib.Path(__file__).parents[2]


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
