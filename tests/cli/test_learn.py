"""``learn``: its results equal the library's, and runs go on."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import learn

from .shell import HOPS, ROUNDS, SMALL_LEARN, M, N, S, run


@pytest.mark.full_effort
def test_learn_recovers_the_dictionary_and_encode_takes_it(files, capsys):
    assert run("learn", "signals.npy", *SMALL_LEARN) == 0
    arrays, manifest = sc.io.load_results("learned")
    assert sc.metrics.dictionary_mcc(files.dictionary, arrays["dictionary"]) > 0.95

    def part(index, **options):
        key = jax.random.fold_in(jax.random.key(0), index)
        return sc.learning.learn_dictionary(
            key, files.signals, num_atoms=N, num_rounds=ROUNDS, **options
        )

    once = {"num_hops": 0, "num_settling": 0}

    found = [part(i, num_restarts=1, **once) for i in range(3)]
    np.testing.assert_array_equal(arrays["objectives"], [f.objective for f in found])
    best = found[manifest["best_restart"]]
    assert best.objective == min(arrays["objectives"])
    for hop, after in enumerate(arrays["hops"]):
        options = {"num_restarts": 3, "num_hops": 1, "num_settling": 0}
        found.append(part(3 + hop, dictionary0=best.dictionary, **options))
        best = min(best, found[-1], key=lambda f: f.objective)
        assert after == best.objective
    assert len(arrays["hops"]) == HOPS and best.objective < min(arrays["objectives"])
    assert best is found[3 + manifest["best_hop"]]
    options = {"num_hops": 0, "num_settling": 3 * ROUNDS, "dictionary0": best.dictionary}
    settled = part(3 + HOPS, **options)
    found.append(settled)
    assert np.abs(settled.dictionary - best.dictionary).max() > 1e-4
    np.testing.assert_array_equal(arrays["dictionary"], settled.dictionary)
    assert manifest["objective"] == arrays["objective"] == settled.objective
    np.testing.assert_allclose(arrays["atom_usage"], (np.asarray(settled.codes) != 0).mean(axis=0))
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
    assert counted == searches + result["settling"]
    assert counted == pytest.approx(sum(f.flops for f in found), rel=1e-3)  # and scaling

    words = ["encode", "signals.npy", "--dictionary", "learned.npz", "--quiet"]
    assert run(*words) == 0
    assert "which the dictionary was learned with" in capsys.readouterr().out
    scores = sc.io.load_results("codes")[1]
    assert scores["objective"] == pytest.approx(manifest["objective"], rel=1e-2)
    assert scores["r2"] > 0.99
    assert pathlib.Path("codes.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_learn_goes_on_also_to_settle(files, monkeypatch, capsys):
    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    assert run("learn", "signals.npy", *SMALL_LEARN, "--output", "whole", "--no-figure") == 0
    original, copies = learn.learn_once, []

    def stop_twice(*words, num_copies=1, **options):
        copies.append("settles" if options.get("settles") else num_copies)
        if len(copies) in (2, 6, 11):  # the second restart, the second hop, and settling
            raise KeyboardInterrupt
        return original(*words, num_copies=num_copies, **options)

    monkeypatch.setattr(learn, "learn_once", stop_twice)
    command = ["learn", "signals.npy", *SMALL_LEARN, "--no-figure"]
    assert run(*command) == 130
    kept = f"1 of 3 restarts and 0 of {HOPS} hops"
    assert f"{kept} are kept in learned.partial" in capsys.readouterr().err
    assert run(*command) == 130
    out, err = capsys.readouterr()
    assert f"going on: {kept} are in learned.partial" in out
    assert f"3 of 3 restarts and 1 of {HOPS} hops are kept" in err
    assert run(*command) == 130
    out, err = capsys.readouterr()
    assert f"going on: 3 of 3 restarts and 1 of {HOPS} hops are in learned.partial" in out
    assert f"3 of 3 restarts and {HOPS} of {HOPS} hops are kept" in err
    hop = pathlib.Path("learned.partial/00000003.npz")
    before = hop.stat(), hop.read_bytes()
    saved = {}
    monkeypatch.setattr(learn.Partial, "remove", lambda p: saved.update(
        {f.name: f.read_bytes() for f in p.folder.iterdir()}, stat=hop.stat()))  # fmt: skip
    assert run(*command) == 0
    assert (saved["stat"], saved[hop.name]) == before
    assert copies == [1, 1, 1, 1, 3, 3, *[3] * (HOPS - 1), "settles", "settles"]  # nothing twice
    whole, resumed = (sc.io.load_results(name)[0] for name in ("whole", "learned"))
    assert len(whole["hops"]) == HOPS and whole["hops"][-1] < whole["objectives"].min()
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_hops_begin_at_the_best_so_far_and_a_worse_one_is_not_kept(files, monkeypatch, capsys):
    values, starts = iter(np.float32([3, np.nan, 2, 4, 1, np.nan, 1.5])), []

    def learn_once(key, signals, penalty, best=None, *, num_copies=1, settles=False, **_):
        how = "settles" if settles else num_copies
        starts.append(None if best is None else (best[0, 0], how))
        value, codes = next(values), np.zeros((S, N))
        dictionary = np.full((N, M), value)
        return sc.learning.Learned(dictionary, codes, value, 0.1, None, None, None, 0)

    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    monkeypatch.setattr(learn, "learn_once", learn_once)
    words = ["learn", "signals.npy", "--num-atoms", N, "--num-restarts", 3, "--num-hops", 3]
    assert run(*words) == 0
    assert starts == [None, None, None, (2, 3), (2, 3), (1, 3), (1, "settles")]
    arrays, manifest = sc.io.load_results("learned")
    np.testing.assert_array_equal(arrays["objectives"], [3, np.nan, 2])
    np.testing.assert_array_equal(arrays["hops"], [2, 1, 1])
    assert arrays["dictionaries"].shape == (3, N, M) and np.all(arrays["dictionary"] == 1.5)
    assert manifest["objective"] == 1.5  # settled is the result, whatever its objective
    assert manifest["best_restart"] == 2 and manifest["best_hop"] == 1
    err = capsys.readouterr().err
    assert "3/3" in err and "restarts/s" in err and "hops/s" in err


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


def test_parts_that_are_not_finite_are_not_kept(files, monkeypatch, capsys):
    original = learn.learn_once

    def broken(*words, **options):
        return original(*words, **options)._replace(objective=np.float32(np.nan))

    words = ["learn", "signals.npy", "--num-atoms", 4, "--num-rounds", 2, "--num-restarts", 2,
             "--num-hops", 0, "--no-figure"]  # fmt: skip
    monkeypatch.setattr(learn, "learn_once", broken)
    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    before = sorted(os.listdir())
    assert run(*words) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert "failed: FloatingPointError: none of the 2 restarts has finite numbers" in err
    assert sorted(os.listdir()) == before
    monkeypatch.setattr(learn, "learn_once", original)
    assert run(*words, "--penalty", 0.1, "--quiet") == 0  # and no parts of before refuse it
    assert capsys.readouterr().err == ""


def test_a_manifest_holds_null_where_a_number_is_undefined(files):
    np.save("signals.npy", np.ones((20, M)))
    words = ["--num-atoms", 2, "--num-rounds", 2, "--num-restarts", 1, "--quiet", "--no-figure"]
    assert run("learn", "signals.npy", *words) == 0
    text = pathlib.Path("learned.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["r2"] is None
