"""Signals and their dictionary, in a folder of each test's own."""

import jax
import numpy as np
import pytest

import sparsecode_jax as sc

from .shell import M, N, S


@pytest.fixture(scope="package")
def problem():
    return sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=S, num_measurements=M, num_atoms=N
    )


@pytest.fixture
def files(problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("signals.npy", problem.signals)
    np.savez("d.npz", dictionary=problem.dictionary)
    np.save("d.npy", problem.dictionary)
    return problem
