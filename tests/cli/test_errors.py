"""Faults of commands and files: said in one line that names the way out."""

import io
import os
import pathlib
import warnings

import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import encode

from .shell import PENALTY, N, S, run, run_encode


def nan(signals):
    signals[437, 3] = np.nan
    return signals


def claims(shape):
    """Return an .npy of a few numbers that says that it has others."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(96)


OMP = ["--solver", "omp", "--num-active", "2"]
ENCODE_ERRORS = {
    "missing file": (lambda x: None, [], "signals.npy: no such file; a .npy file"),
    "objects": (lambda x: x.astype(object), [], "Python objects in its dtype); a .npy"),
    "not an array": (lambda x: b"text", [], "signals.npy is not readable"),
    "complex": (lambda x: x + 0j, [], "hold complex64 values; real numbers"),
    "strings": (lambda x: x.astype(str), [], "real numbers"),
    "one axis": (lambda x: x[0], [], "has shape (8,); a non-empty (S, M)"),
    "empty": (lambda x: x[:0], [], "has shape (0, 8)"),
    "not finite": (nan, [], "has nan at row 437, column 3, and 1 such rows"),
    "zeros": (lambda x: 0 * x, [], "holds nothing but zeros"),
    "too large": (lambda x: 1e30 * x, [], "too far from 1 for sums of squares"),
    "too large for steps": (
        lambda x: 1e25 * x,
        ["--num-steps", "10"],
        "too far from 1 for sums of squares",
    ),
    "too large for a pursuit": (lambda x: 1e25 * x, OMP, "too far from 1 for sums of squares"),
    "too small": (lambda x: 1e-30 * x, [], "too far from 1 for sums of squares"),
    "penalty too large": (lambda x: x, ["--penalty", "1e39"], "the penalty is 1e+39, which is"),
    "penalty too small": (lambda x: x, ["--penalty", "1e-46"], "the penalty is 1e-46, which is"),
    "penalty of a file": (
        lambda x: x,
        ["--dictionary", "inf.npz"],
        "inf.npz holds the penalty inf",
    ),
    "no penalty": (lambda x: x, ["--dictionary", "abc.npz"], "abc.npz holds the penalty abc; one"),
    "penalties": (lambda x: x, ["--dictionary", "many.npz"], "many.npz holds the penalty [1. 2.]"),
    "no sign": (lambda x: x, ["--dictionary", "sign.npz"], "sign.npz holds signed = maybe; True"),
    "large atoms": (lambda x: x, ["--dictionary", "large.npy"], "12 atoms of large.npy have norms"),
    "larger atoms": (lambda x: x, ["--dictionary", "larger.npy"], "larger.npy have norms below"),
    "small atoms": (lambda x: x, ["--dictionary", "small.npy"], "1 atoms of small.npy have norms"),
    "nan atom": (lambda x: x, ["--dictionary", "nan.npy"], "dictionary holds 8 non-finite numbers"),
    "object atoms": (lambda x: x, ["--dictionary", "object.npz"], "object.npz is not readable"),
    "claims": (lambda x: claims((10**9, 8)), [], "size that it claims); a .npy"),
    "negative shape": (lambda x: claims((-3, 8)), [], "size that it claims); a .npy"),
    "claimed atoms": (lambda x: x, ["--dictionary", "claims.npy"], "size that it claims); a"),
    "cut header": (lambda x: claims((30, 6)).replace(b"(30, 6)", b"(30, 6 "), [], "not readable"),
    "cut file": (lambda x: x, ["--dictionary", "cut.npz"], "cut.npz is not readable"),
    "too large for float32": (lambda x: 1e50 * x.astype(float), [], "finite in float32"),
    "width": (lambda x: x[:, :5], [], "signals have 5 measurements (shape (500, 5)) but the"),
    "no dictionary": (lambda x: x, ["--dictionary", "no.npz"], "no.npz: no such file"),
    "no key": (lambda x: x, ["--dictionary", "other.npz"], "no array 'dictionary' (it has: atoms)"),
    "zero atom": (lambda x: x, ["--dictionary", "zero.npy"], "1 zero atoms (the first is row 2)"),
    "penalty": (lambda x: x, ["--penalty", "-1"], "'-1' given; a finite number > 0"),
    "penalty nan": (lambda x: x, ["--penalty", "nan"], "'nan' given; a finite number > 0"),
    "too many steps": (lambda x: x, ["--num-steps", "3000000000"], "1 to 100,000,000 is expected"),
    "steps": (lambda x: x, ["--num-steps", "1.5"], "'1.5' given; an integer from 1 to"),
    "tolerance": (lambda x: x, ["--tolerance", "1e-9"], "below what float32 can certify"),
    "both": (lambda x: x, ["--tolerance", ".1", "--num-steps", "3"], "not allowed with"),
    "solver": (lambda x: x, ["--solver", "magic"], "invalid choice"),
    "no K": (lambda x: x, ["--solver", "ols"], "--num-active is not given; --solver ols expects"),
    "K too large": (lambda x: x, ["--solver", "ols", "--num-active", "13"], "from 1 to 12"),
    "K of a lasso": (lambda x: x, ["--num-active", "3"], "--num-active 3 is given, but sparsa"),
    "folder": (lambda x: x, ["--output", "."], "--output . is a folder"),
    "suffix": (lambda x: x, ["--output", ".npz"], "--output .npz is a suffix; a name"),
    "no writing": (lambda x: x, ["--output", "/proc/x"], "--output /proc/x cannot be written"),
    "under a file": (lambda x: x, ["--output", "d.npy/x"], "--output d.npy/x cannot be written"),
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
    atoms = np.array(files.dictionary)
    np.savez("inf.npz", dictionary=atoms, penalty=np.inf)
    np.savez("abc.npz", dictionary=atoms, penalty="abc")
    np.savez("many.npz", dictionary=atoms, penalty=[1.0, 2.0])
    np.savez("sign.npz", dictionary=atoms, penalty=1, signed="maybe")
    np.save("large.npy", 1e30 * atoms)
    np.save("larger.npy", 1e60 * atoms.astype(float))
    np.save("small.npy", np.where(np.arange(N)[:, None] == 2, 1e-30, 1) * atoms)
    np.save("nan.npy", np.where(np.arange(N)[:, None] == 2, np.nan, atoms))
    np.savez("object.npz", dictionary=atoms.astype(object))
    pathlib.Path("claims.npy").write_bytes(claims((10**9, 8)))
    whole = pathlib.Path("d.npz").read_bytes()
    pathlib.Path("cut.npz").write_bytes(whole[:200] + b"xxxxxxxx" + whole[208:])
    before = sorted(os.listdir())
    given = None if {"--solver", "--dictionary"} & set(words) else PENALTY
    assert run_encode(*words, penalty=given) == 2
    out, err = capsys.readouterr()
    assert text in err and err.startswith("sparsecode-jax") and err.count("\n") == 1
    assert "Traceback" not in err and "encode: encode" not in err and out == ""
    assert sorted(os.listdir()) == before  # nothing is left behind


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--num-atoms"),
        (["--num-atoms", "0"], "'0' given; an integer from 1 to"),
        (["--num-atoms", "501"], "500 signals cannot determine 501 atoms"),
        (["--num-atoms", "3", "--num-hops", "-1"], "'-1' given; an integer from 0 to"),
        (["--num-atoms", "3", "--num-steps", "99999999999"], "from 1 to 100,000,000"),
        (["--num-atoms", "3", "--num-rounds", "99999999999"], "from 1 to 1,000,000"),
        (["--num-atoms", "3", "--penalty", "1e39"], "the penalty is 1e+39, which is"),
        (["--num-atoms", "3", "--penalty", "1e-46"], "the penalty is 1e-46, which is"),
        (["--num-atoms", "3", "--output", "/proc/x"], "--output /proc/x cannot be written"),
        (["--num-atoms", "3", "--seed", "-1"], "an integer from 0 to 2^32 - 1"),
        (["--num-atoms", "3", "--output", "d"], "d.npz there already"),
    ],
)
def test_bad_input_of_learn(files, capsys, words, text):
    assert run("learn", "signals.npy", *words) == 2
    out, err = capsys.readouterr()
    assert text in err and err.startswith("sparsecode-jax learn: ") and err.count("\n") == 1
    assert out == "" and not list(pathlib.Path().glob("learned*")) and "learn: learn" not in err


@pytest.mark.parametrize("factor", [1e25, 1e-30])
def test_learn_wants_signals_whose_squares_float32_holds(files, capsys, factor):
    np.save("signals.npy", factor * np.asarray(files.signals))
    before = sorted(os.listdir())
    assert run("learn", "signals.npy", "--num-atoms", 4) == 2
    out, err = capsys.readouterr()
    assert "too far from 1 for sums of squares" in err and err.count("\n") == 1 and out == ""
    assert sorted(os.listdir()) == before


def test_a_run_that_fails_says_so_without_a_traceback(files, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "_save", full)
    assert run_encode() == 1
    err = capsys.readouterr().err
    assert "encode: failed: OSError: [Errno 28] No space left on device" in err
    assert "Traceback" not in err and err.count("\n") == 1 and "--debug for the traceback" in err
    assert not list(pathlib.Path().glob("codes*"))
    with pytest.raises(OSError, match="No space"):
        run_encode("--debug")


def test_signals_that_did_not_converge_are_warned_of(files, monkeypatch, capsys):
    assert run_encode("--penalty", 100, "--output", "none") == 0
    assert "all codes are 0; a smaller --penalty" in capsys.readouterr().err
    np.save("short.npy", 1e-8 * np.asarray(files.dictionary))
    assert run_encode("--dictionary", "short.npy", "--output", "short") == 0
    err = capsys.readouterr().err
    assert "norms from 1e-08 to 1e-08" in err and "--penalty" not in err
    monkeypatch.setitem(encode.inference.MOST_STEPS, "sparsa", 5)
    assert run_encode("--tolerance", 1e-5) == 0
    manifest = sc.io.load_results("codes")[1]
    missed = round(S * (1 - manifest["converged_fraction"]))
    assert 0 < missed < S and manifest["mean_steps"] == 5
    expected = f"warning: {missed} signals are not within the tolerance 1e-05"
    assert expected in capsys.readouterr().err


def test_batches_that_are_not_finite_fail_and_are_not_kept(files, monkeypatch, capsys):
    original = encode.inference.encode_batch

    def overflowing(method):
        def run(*args):
            codes, scores, count = original(method)(*args)
            return codes, scores._replace(objective=np.inf * scores.objective), count

        return run

    monkeypatch.setattr(encode.inference, "encode_batch", overflowing)
    assert run_encode() == 1
    err = capsys.readouterr().err
    assert "failed: FloatingPointError: rows 0 to 166" in err and err.count("\n") == 1
    assert not list(pathlib.Path().glob("codes*"))


def test_warnings_are_one_line_without_source(files, monkeypatch, capsys):
    def warn(*_):
        warnings.warn("overflow encountered\nin cast", RuntimeWarning, stacklevel=1)
        raise OSError("full")

    monkeypatch.setattr(encode, "_save", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_encode() == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sparsecode-jax encode: warning: overflow encountered in cast"
    assert len(lines) == 2 and "failed: OSError: full" in lines[1]
