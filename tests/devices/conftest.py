"""Tests that need eight devices; tests/test_devices.py runs them where there are so many."""

import os
import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import sparsecode_jax as sc

ENOUGH = "--xla_force_host_platform_device_count=8"
if ENOUGH not in os.environ.get("XLA_FLAGS", ""):
    collect_ignore_glob = ["test_*.py"]

KINDS = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}


def mesh_of(kind, **sizes):
    shape = tuple(sizes.values())
    devices = np.asarray(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, tuple(sizes), axis_types=(KINDS[kind],) * len(shape))


def put(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def spec_of(x):
    """Return the entries of an array's spec, without those at the end that say nothing."""
    spec = list(x.sharding.spec)
    while spec and spec[-1] is None:
        spec.pop()
    return tuple(spec)


def assert_close(ours, theirs, rtol):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            continue
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(np.abs(y).max(), 1e-30))


def gathers(text):
    """Return the shapes of the arrays that a compiled program gathers."""
    shapes = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    return {
        tuple(map(int, dims.split(","))) for s in shapes for dims in re.findall(r"\[(.*?)\]", s)
    }


@pytest.fixture(scope="session")
def data():
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 3, num_samples=64, num_measurements=16, num_atoms=24
    )
    return jax.tree.map(np.asarray, problem)
