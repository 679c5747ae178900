"""``learn``: its results equal the library's, and runs go on."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import learn
from sparsecode_jax.dictionary_learning import _stages, search

from .shell import HOPS, ROUNDS, SMALL_LEARN, M, N, S, run


def test_learn_is_learn_dictionary_and_encode_takes_it(files, capsys):
    assert run("learn", "signals.npy", *SMALL_LEARN) == 0
    arrays, manifest = sc.io.load_results("learned")
    assert sc.metrics.dictionary_mcc(files.dictionary, arrays["dictionary"]) > 0.95
    found = sc.dictionary_learning.learn_dictionary(
        jax.random.key(0), files.signals, num_atoms=N, num_rounds=ROUNDS, num_restarts=3,
        num_hops=HOPS, progress=None,
    )  # fmt: skip
    for name in ("dictionary", "objective", "penalty", "objectives", "dictionaries", "hops"):
        np.testing.assert_array_equal(arrays[name], getattr(found, name), name)
    assert manifest["flops"]["total"] == found.flops
    assert arrays["objectives"][manifest["best_restart"]] == arrays["objectives"].min()
    assert len(arrays["hops"]) == HOPS and arrays["hops"][-1] < arrays["objectives"].min()
    assert arrays["hops"][manifest["best_hop"]] == arrays["hops"].min()
    assert manifest["objective"] == arrays["objective"]
    np.testing.assert_allclose(arrays["atom_usage"], (np.asarray(found.codes) != 0).mean(axis=0))
    assert manifest["signals"]["drawn_at_random"] is False and "rows" not in arrays
    assert pathlib.Path("learned.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    sizes = ["--num-measurements", M, "--num-atoms", N, "--num-signals", S]
    words = ["--num-rounds", ROUNDS, "--num-restarts", 3, "--num-hops", HOPS, "--json"]
    assert run("flops", "learn", *sizes, *words) == 0
    result = json.loads(capsys.readouterr().out)
    counted = result["total"]
    assert counted == manifest["flops"]["total"]
    searches = 3 * result["per_restart"] + HOPS * result["per_hop"]
    assert counted == searches + result["refinement"] + result["codes"]

    words = ["encode", "signals.npy", "--dictionary", "learned.npz", "--quiet"]
    assert run(*words) == 0
    assert "which the dictionary was learned with" in capsys.readouterr().out
    scores = sc.io.load_results("codes")[1]
    assert scores["objective"] == pytest.approx(manifest["objective"], rel=1e-2)
    assert scores["r2"] > 0.99
    assert pathlib.Path("codes.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_learn_goes_on_to_the_same_result(files, monkeypatch, capsys):
    command = ["learn", "signals.npy", *SMALL_LEARN, "--no-figure"]
    assert run(*command, "--output", "whole") == 0
    advance, ran = _stages.advance_some, []

    def stop(keys, signals, schedule, ahead, start, stop, **method):
        if len(ran) in (3, 9, 25):
            ran.append("stopped")
            raise KeyboardInterrupt
        ran.append(stop - start)
        return advance(keys, signals, schedule, ahead, start, stop, **method)

    monkeypatch.setattr(_stages, "advance_some", stop)
    monkeypatch.setattr(search, "_CHUNK_SECONDS", 0.02)
    total = ROUNDS + HOPS * 36 + 3 * ROUNDS
    for _ in range(3):
        assert run(*command) == 130
        done = sum(count for count in ran if count != "stopped")
        err = capsys.readouterr().err
        kept = f"interrupted; {done} of {total} rounds are kept in learned.partial"
        assert kept in err or done == total
        assert sorted(os.listdir("learned.partial"))[0].endswith("-run.npz")
    assert run(*command) == 0
    assert "going on with what is in learned.partial" in capsys.readouterr().out
    assert sum(count for count in ran if count != "stopped") == total  # nothing twice
    whole, resumed = (sc.io.load_results(name)[0] for name in ("whole", "learned"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert not list(pathlib.Path().glob("*.partial*"))


def test_learn_draws_rows_and_reads_no_others(files, capsys):
    signals = np.array(files.signals)
    rows = np.sort(np.random.default_rng(3).choice(S, 100, replace=False, shuffle=False))
    others = np.setdiff1d(np.arange(S), rows)
    signals[others] = np.nan
    np.save("signals.npy", signals)
    words = ["learn", "signals.npy", "--num-atoms", 4, "--num-rounds", 2, "--num-restarts", 1,
             "--max-signals", 100, "--seed", 3, "--quiet", "--no-figure"]  # fmt: skip
    assert run(*words) == 0
    assert "learning from 100 of the 500 signals" in capsys.readouterr().out
    np.testing.assert_array_equal(sc.io.load_results("learned")[0]["rows"], rows)
    signals[rows[7], 2] = np.inf
    np.save("signals.npy", signals)
    assert run(*words, "--output", "again") == 2
    assert f"has inf at row {rows[7]}, column 2" in capsys.readouterr().err


def test_learning_nothing_is_warned_of(files, capsys):
    words = ["--num-atoms", 12, "--num-rounds", 2, "--num-restarts", 1, "--quiet", "--no-figure"]
    assert run("learn", "signals.npy", *words, "--penalty", 1e5) == 0
    assert sc.io.load_results("learned")[1]["l0"] == 0
    assert "warning: all codes are 0, so nothing was learned" in capsys.readouterr().err
    assert run("learn", "signals.npy", *words, "--output", "other") == 0
    assert capsys.readouterr().err == ""


def test_restarts_that_are_not_finite_are_said(files, monkeypatch, capsys):
    original = learn.learn_dictionary

    def broken(*words, **options):
        return original(*words, **options)._replace(objectives=np.full(2, np.nan))

    words = ["learn", "signals.npy", "--num-atoms", 4, "--num-rounds", 2, "--num-restarts", 2,
             "--num-hops", 0, "--no-figure", "--quiet"]  # fmt: skip
    monkeypatch.setattr(learn, "learn_dictionary", broken)
    assert run(*words) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert "failed: FloatingPointError: none of the 2 restarts has finite numbers" in err
    monkeypatch.setattr(learn, "learn_dictionary", original)
    assert run(*words, "--penalty", 0.1, "--overwrite") == 0
    assert capsys.readouterr().err == "" and not list(pathlib.Path().glob("*.partial*"))


def test_a_manifest_holds_null_where_a_number_is_undefined(files):
    np.save("signals.npy", np.ones((20, M)))
    words = ["--num-atoms", 2, "--num-rounds", 2, "--num-restarts", 1, "--quiet", "--no-figure"]
    assert run("learn", "signals.npy", *words) == 0
    text = pathlib.Path("learned.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["r2"] is None
