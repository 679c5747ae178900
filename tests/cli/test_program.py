"""The program: its help, its entry points and the README's commands."""

import importlib.metadata
import inspect
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import main

from .shell import run

ROOT = pathlib.Path(__file__).parents[2]


def test_help_and_version(capsys):
    for words in ([], ["learn"], ["encode"], ["improve"], ["flops"]):
        assert run(*words, "--help") == 0
        out = capsys.readouterr().out
        assert out.startswith("usage: sparsecode-jax") and len(out.splitlines()) > 20
        assert max(map(len, out.splitlines())) <= 100
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith(f"sparsecode-jax {sc.__version__} (jax ")
    assert run() == 2
    assert run("encode") == 2
    assert "signals, --dictionary" in capsys.readouterr().err


def test_help_names_the_defaults_of_the_library(capsys):
    assert run("flops", "--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "8 per round for learn" in out
    assert f"of a restart (default: {default_of_learning('num_rounds')})" in out
    assert run("learn", "--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "per round (default: 8)" in out


def default_of_learning(name):
    return inspect.signature(sc.dictionary_learning.learn_dictionary).parameters[name].default


def test_unknown_words_are_errors_of_the_command(capsys):
    for words in (["flops", "m.py:f", "--shapes", "-x"], ["encode", "x", "--dictionary", "d", "y"]):
        assert run(*words) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"sparsecode-jax {words[0]}: unrecognized arguments: {words[-1]}")
        assert err.count("\n") == 1


def test_the_installed_entry_point_runs():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert list(declared) == ["sparsecode-jax"]
    module, _, name = declared["sparsecode-jax"].partition(":")
    point = importlib.metadata.EntryPoint(
        "sparsecode-jax", declared["sparsecode-jax"], "console_scripts"
    )
    assert point.load() is main
    program = f"import sys; from {module} import {name}; sys.exit({name}())"  # as installers write
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: sparsecode-jax [-h]") and done.stderr == ""


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


@pytest.mark.full_effort  # runs longer than it compiles
def test_the_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    block = re.search(r"```\n(python -c .*?)```", text, flags=re.DOTALL)
    assert block
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True) for line in block[1].replace("\\\n", "").splitlines()]
    assert [line[0] for line in lines] == ["python", *["sparsecode-jax"] * 3]
    exec(lines[0][2], {})  # python -c
    for line in lines[1:]:
        assert main(line[1:]) == 0
    assert "R² .999" in text and "R² 0.999" in capsys.readouterr().out


def start(*words, stdout=subprocess.DEVNULL, shell_end=""):
    command = [sys.executable, "-m", "sparsecode_jax", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if shell_end:
        command = ["sh", "-c", f'"$@" {shell_end}', "sh", *command]
    return subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE)


LONG = ["learn", "signals.npy", "--num-atoms", 8, "--num-rounds", 20_000, "--num-restarts", 2]


def test_sigterm_keeps_what_ctrl_c_keeps(files):
    child = start(*LONG)
    deadline = time.monotonic() + 120
    while not list(pathlib.Path().glob("learned.partial/*-state.npz")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    err = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 143
    said = err.splitlines()[-1]
    assert said.startswith("sparsecode-jax learn: interrupted; ") and "Traceback" not in err
    assert "rounds are kept in learned.partial; the same command goes on from there." in said
    assert not list(pathlib.Path().rglob("*.new")) and not list(pathlib.Path().glob("*.lock"))


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- 2>&-", "| true"])
def test_closed_streams_harm_nothing(files, closed):
    words = ["encode", "signals.npy", "--dictionary", "d.npz", "--penalty", 0.05, "--no-figure"]
    child = start(*words, shell_end=closed)
    child.communicate(timeout=120)
    arrays, manifest = sc.io.load_results("codes")
    assert manifest["num_signals"] == 500 and np.isfinite(arrays["data"]).all()
    assert not list(pathlib.Path().glob("codes.partial*"))


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", ["encode", "learn"])
def test_a_reader_of_stdout_that_goes_stops_nothing(files, monkeypatch, command, buffered):
    words = {
        "encode": ["encode", "signals.npy", "--dictionary", "d.npy", "--no-figure", "--quiet"],
        "learn": ["learn", "signals.npy", "--num-atoms", 8, "--num-rounds", 3, "--num-restarts", 1,
                  "--num-hops", 0, "--quiet"],
    }[command]  # fmt: skip
    if not buffered:
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    reader, writer = os.pipe()
    os.close(reader)
    child = start(*words, stdout=writer)
    os.close(writer)
    assert child.communicate(timeout=120)[1] == b"" and child.returncode == 0
    assert pathlib.Path({"encode": "codes.npz", "learn": "learned.npz"}[command]).exists()
    assert not list(pathlib.Path().glob("*.partial*"))
