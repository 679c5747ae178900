"""Restarts in chunks of rounds: the same to the bit, seen on the way, and kept."""

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.learning._chunks import restart_in_chunks

from .shell import N


@pytest.mark.parametrize("signed", [False, True])
def test_rounds_in_chunks_are_those_of_the_library(problem, signed):
    key, num_rounds = jax.random.key(1), 20
    prox = sc.prox.soft_threshold if signed else sc.prox.nonnegative_soft_threshold
    options = {"num_atoms": N, "penalty": 0.05 if signed else None, "num_rounds": num_rounds,
               "num_steps": 4, "solver": sc.solvers.sparsa(prox=prox)}  # fmt: skip
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
