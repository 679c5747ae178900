"""Signals of a feature model, drawn by eight devices, each its own part."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sparsecode_jax as sc

from .conftest import assert_close, mesh_of, spec_of


@pytest.fixture(scope="module")
def model():
    return sc.synthetic.synth_sae_bench(
        jax.random.key(0), num_features=1000, num_measurements=16, num_roots=10,
        num_orthogonalizing_steps=0,
    )  # fmt: skip


def draw(key, model):
    return sc.synthetic.sample_features(key, model, num_samples=64, max_active=60)


def by_sample(mesh, tree):
    rows = NamedSharding(mesh, PartitionSpec("signals"))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: rows if x.ndim else whole, tree)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_samples_split_over_devices_are_those_of_one(model, num_devices):
    alone = draw(jax.random.key(1), model)
    mesh = mesh_of("automatic", signals=num_devices)
    split = jax.jit(draw, out_shardings=by_sample(mesh, alone))
    batch = split(jax.random.key(1), jax.device_put(model, NamedSharding(mesh, PartitionSpec())))
    assert_close(batch, alone, 1e-5)
    assert spec_of(batch.signals) == ("signals",)


@pytest.mark.full_effort
def test_no_device_gathers_the_samples_of_others(model):
    mesh = mesh_of("automatic", signals=8)
    alone = jax.eval_shape(draw, jax.random.key(1), model)
    split = jax.jit(draw, out_shardings=by_sample(mesh, alone))
    whole = jax.device_put(model, NamedSharding(mesh, PartitionSpec()))
    program = split.lower(jax.random.key(1), whole).compile().as_text()
    gathered = re.findall(r"= \S*\[([\d,]*)\]\S* all-gather", program)
    assert not [shape for shape in gathered if "64" in shape.split(",")], gathered


def test_fit_draws_on_all_devices(model):
    mesh = mesh_of("automatic", signals=8)
    place = NamedSharding(mesh, PartitionSpec("signals"))

    def sampler(key, step):
        return draw(key, model).signals

    def split(key, step):
        return jax.lax.with_sharding_constraint(draw(key, model).signals, place)

    results = [
        sc.training.fit(
            jax.random.key(2), sc.encoders.top_k(16, 24, num_active=4), signals, num_atoms=24,
            num_steps=5, progress=None,
        )
        for signals in (sampler, split)
    ]  # fmt: skip
    assert_close(results[0].losses, results[1].losses, 1e-4)
    assert np.isfinite(results[1].losses).all()
