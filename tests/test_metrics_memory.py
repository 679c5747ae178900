"""What metrics of thousands of latents hold in memory at most, in processes of their own."""

import os
import subprocess
import sys

import pytest

MIB = 2**20
BEGIN = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from sparsecode_jax import SparseCodes, metrics
from sparsecode_jax.metrics import _matching

def peak():
    if sys.platform == "linux":  # where getrusage begins at what the parent held
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * int(next(x.split()[1] for x in lines if x.startswith("VmHWM")))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most

rng = np.random.default_rng(0)

def atoms(number, size):
    return rng.normal(size=(number, size)).astype(np.float32)
"""


def measured(program):
    """Return the numbers that a program prints."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", BEGIN + program]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert run.returncode == 0, run.stderr
    return [float(word) for word in run.stdout.split()]


@pytest.mark.parametrize("num_found", [5000, 4900], ids=["square", "tall"])
def test_a_matching_holds_one_matrix_of_costs(num_found):
    """Each copy that SciPy makes is one more: of another dtype, negated, or transposed."""
    before, after, score = measured(f"""
_matching._AT_ONCE = 2**20
true = atoms(5000, 32)
found = true[rng.permutation(5000)[:{num_found}]] + 0.1 * atoms({num_found}, 32)
metrics.dictionary_mcc(true[:40], found[:30])
print(peak())
score = metrics.dictionary_mcc(true, found)
print(peak(), score)
""")
    matrix = 8 * 5000 * num_found
    assert matrix < after - before < 1.5 * matrix + 64 * MIB
    assert score > 0.95


@pytest.mark.slow
def test_sixteen_thousand_latents_are_matched_within_four_gibibytes():
    after, score = measured("""
score = metrics.dictionary_mcc(atoms(16384, 768), atoms(16384, 768))
print(peak(), score)
""")
    assert after < 4 * 1024 * MIB
    assert 0.1 < score < 0.2
