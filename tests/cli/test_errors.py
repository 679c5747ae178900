"""Faults of commands and files: said in one line that names the way out."""

import os
import pathlib

import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import encode

from .shell import PENALTY, N, S, run, run_encode


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
