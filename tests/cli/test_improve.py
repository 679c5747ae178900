"""``improve``: the library's frontier, codes of the whole file, and runs that go on."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import sparsecode_jax as sc
from sparsecode_jax.cli import improve as command

from .shell import M, N, S, run

OPTIONS = ("--num-steps", "--num-choice", 100, "--batch-size", 100, "--quiet", "--no-figure")


@pytest.fixture(scope="module")
def sae():
    atoms = sc.dictionaries.random(jax.random.key(5), num_atoms=N, num_measurements=M)
    params = sc.encoders.LinearParams(atoms, jnp.zeros(N))
    return sc.io.as_sae(sc.encoders.top_k(M, N, num_active=2), params, atoms)


@pytest.fixture
def folder(files, sae):
    sc.io.save_sae("sae", sae)
    return files


def improve(*words):
    return run("improve", "sae", "signals.npy", *OPTIONS, *words)


def test_writes_the_frontier_and_the_codes_of_all_signals(folder, sae, capsys):
    assert improve("--output", "better.npz") == 0
    out = capsys.readouterr().out
    expected = sc.improve(
        sae, folder.signals, num_choice=100, batch_size=100, num_steps=[], progress=None
    )
    arrays, manifest = sc.io.load_results("better")
    np.testing.assert_allclose(arrays["r2"], expected.r2, atol=1e-6)
    np.testing.assert_array_equal(arrays["flops"], expected.flops)
    assert manifest["names"] == list(expected.names) and manifest["num_scored"] == S - 100
    assert manifest["best"] == expected.names[expected.best]
    assert f"{expected.r2[expected.best]:.4f}" in out and "wrote better.npz, better.json" in out
    codes = scipy.sparse.load_npz("better.npz").toarray()
    best = expected.inferences[expected.best](folder.signals)
    np.testing.assert_allclose(codes, best, atol=1e-5)
    np.testing.assert_allclose(arrays["atom_usage"], (codes != 0).mean(axis=0))
    assert not pathlib.Path("better.partial").exists()
    json.loads(pathlib.Path("better.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_recommends_within_a_budget_and_draws(folder, capsys):
    words = [word for word in OPTIONS if word != "--no-figure"]
    assert run("improve", "sae", "signals.npy", *words, "--max-flops", 250) == 0
    manifest = sc.io.load_results("improved")[1]
    assert manifest["best"] == "encoder" and manifest["num_active"] == 2
    assert "within 250 FLOPs" in capsys.readouterr().out
    assert pathlib.Path("improved.png").stat().st_size > 10_000
    assert improve("--max-flops", 3, "--output", "other") == 2
    assert "the cheapest inference, encoder, takes" in capsys.readouterr().err
    assert improve("--max-flops", 250, "--output", "other") == 0  # and goes on
    assert "going on with" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(folder, monkeypatch, capsys):
    saved, written = [], command.sparse_part

    def stops(codes):
        saved.append(len(codes))
        if len(saved) == 2:
            raise KeyboardInterrupt
        return written(codes)

    monkeypatch.setattr(command, "_BATCH_CODES", 0)  # batches of 256
    monkeypatch.setattr(command, "sparse_part", stops)
    assert improve() == 130
    assert "are kept in improved.partial; the same command goes on" in capsys.readouterr().err
    assert improve() == 0
    assert "going on with what is in improved.partial" in capsys.readouterr().out
    assert saved == [256, 244, 244]
    assert scipy.sparse.load_npz("improved.npz").shape == (S, N)
    assert improve("--num-active", 3) == 2
    assert "there already" in capsys.readouterr().err
    assert improve("--num-active", 3, "--overwrite") == 0
    assert sc.io.load_results("improved")[1]["num_active"] == 3


def test_bad_input_is_one_line(folder, capsys):
    for words, text in (
        (("none", "signals.npy"), "none"),
        (("sae", "few.npy"), "9 signals; at least 10"),
        (("sae", "none.npy"), "none.npy: no such file"),
        (("sae", "signals.npy", "--distributed"), "unrecognized arguments: --distributed"),
        (("sae", "signals.npy", "--num-active", 13), "num_active"),
        (("sae", "signals.npy", "--num-choice", 500), "num_choice"),
        (("sae", "wide.npy"), "shape (50, 9); (S, 8) is expected"),
        (("sae", "nan.npy"), "signal 40 is not finite"),
    ):
        np.save("few.npy", np.ones((9, M)))
        np.save("wide.npy", np.ones((50, 9)))
        np.save("nan.npy", np.where(np.arange(50)[:, None] == 40, np.nan, np.ones((50, M))))
        assert run("improve", *words, "--quiet", "--num-steps") == 2, words
        err = capsys.readouterr().err
        assert err.startswith("sparsecode-jax improve: ") and err.count("\n") == 1, err
        assert text in err, err
        assert not list(pathlib.Path().glob("improved*")), words
