"""Restarts in chunks of rounds: the same to the bit, seen on the way, and kept."""

import itertools
import os
import pathlib

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import learn, restarts
from sparsecode_jax.learning._chunks import Chunks, restart_in_chunks

from .shell import N, run


@pytest.mark.full_effort
def test_rounds_in_chunks_are_those_of_the_library(problem):
    key, num_rounds = jax.random.key(1), 20
    solver = sc.solvers.sparsa(prox=sc.prox.soft_threshold)
    options = {"num_atoms": N, "penalty": 0.05, "num_rounds": num_rounds, "num_steps": 4,
               "solver": solver}  # fmt: skip
    expected = sc.learning.learn_dictionary(
        key, problem.signals, num_restarts=1, num_hops=0, num_settling=0, **options
    )
    for chunk in (num_rounds, 7):
        chunks = restart_in_chunks(key, problem.signals, **options)
        carried = chunks.begin()
        for done in range(0, num_rounds, chunk):
            carried = chunks.advance(carried, done, min(chunk, num_rounds - done))
        found = chunks.finish(carried)._replace(flops=expected.flops)
        for name, value in expected._asdict().items():
            np.testing.assert_array_equal(getattr(found, name), value, name)


WORDS = ["learn", "signals.npy", "--num-atoms", N, "--num-rounds", 12, "--num-restarts", 2,
         "--num-hops", 0, "--no-figure"]  # fmt: skip


@pytest.mark.full_effort
def test_a_long_restart_shows_its_rounds_and_an_interrupt_keeps_them(files, monkeypatch, capsys):
    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    assert run(*WORDS, "--quiet", "--output", "whole") == 0
    advance, ran = Chunks.advance, []

    def stop(self, carried, done, num):
        if len(ran) == 5:  # in the second restart
            ran.append("stopped")
            raise KeyboardInterrupt
        ran.append((done, num))
        return advance(self, carried, done, num)

    monkeypatch.setattr(Chunks, "advance", stop)
    monkeypatch.setattr(restarts, "_WORK", 1.1 * 4 * work_of_a_round())
    capsys.readouterr()
    assert run(*WORDS) == 130
    err = capsys.readouterr().err
    assert "interrupted; 1 of 2 restarts and 8 rounds of the next are kept" in err
    assert "20/24" in err and "rounds/s" in err and "objective" in err
    assert run(*WORDS) == 0
    out, err = capsys.readouterr()
    assert "going on: 1 of 2 restarts and 8 rounds of the next are in learned.partial" in out
    assert "24/24" in err
    assert ran == [(0, 4), (4, 4), (8, 4), (0, 4), (4, 4), "stopped", (8, 4)]  # nothing twice
    whole, found = (sc.io.load_results(name)[0] for name in ("whole", "learned"))
    assert all(np.array_equal(whole[name], found[name]) for name in whole)
    assert not pathlib.Path("learned.partial").exists()


def test_rounds_are_kept_every_so_often(files, monkeypatch, capsys):
    monkeypatch.setattr(learn, "count_parts", lambda *_: [])
    monkeypatch.setattr(restarts, "_WORK", 1.1 * 4 * work_of_a_round())
    monkeypatch.setattr(restarts, "_EVERY", -1.0)
    advance, ran = Chunks.advance, itertools.count()

    def fail(self, carried, done, num):
        if next(ran) == 2:
            raise OSError("the machine stops")
        return advance(self, carried, done, num)

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "advance", fail)
        assert run(*WORDS, "--quiet") == 1
    assert sorted(os.listdir("learned.partial")) == ["00000000.rounds.npz", "config.json"]
    capsys.readouterr()
    with np.load("learned.partial/00000000.rounds.npz") as kept:
        seconds, arrays = float(kept["seconds"]), dict(kept)
    arrays["seconds"] = np.asarray(1000 + seconds)
    np.savez("learned.partial/00000000.rounds.npz", **arrays)
    assert run(*WORDS, "--quiet") == 0
    assert 0 < seconds < sc.io.load_results("learned")[1]["seconds"] - 1000
    assert "0 of 2 restarts and 8 rounds of the next" in capsys.readouterr().out


@pytest.mark.parametrize(("rounds", "most", "expected"), [(100, 30, 25), (97, 30, 1), (9, 30, 9)])
def test_chunks_divide_the_rounds(rounds, most, expected, monkeypatch):
    monkeypatch.setattr(restarts, "_WORK", 1.01 * most * work_of_a_round())
    sizes = {"num_atoms": N, "num_rounds": rounds, "num_steps": 8}
    assert restarts.chunk_size((500, 8), sizes) == expected


def work_of_a_round():
    return 500 * N * (4 * 8 * 10 + 2 * N)
