"""Arrays on different meshes, or on a mesh and one device: refused by our own sentence."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import sparsecode_jax as sc
from sparsecode_jax import Lasso, dictionary_learning, encoders, metrics, objectives, solvers
from sparsecode_jax._sharding import one_mesh

from .conftest import KINDS, assert_close, mesh_of, put

KIND = pytest.mark.parametrize("kind", KINDS)
KEY = jax.random.key(0)
LINEAR, TOP_K = encoders.linear(16, 24), encoders.top_k(16, 24, num_active=3)
UNROLLED = encoders.unrolled(solvers.fista(), 16, 24, num_steps=2)
OPTIONS = {"num_atoms": 24, "progress": None}
TRAINING = {"num_steps": 1, "progress": None}


def there(encoder, put_there):
    return jax.tree.map(put_there, encoder.init(KEY))


def steps(x, d, **options):
    return sc.sparse_encode(x, d, options.pop("penalty", 0.05), num_steps=2, **options)


def swept(run, axes):
    return run(lambda a, b: a * b, **axes)


# By what is called and what is said to lie elsewhere: what is called with signals x (64, 16) split
# over eight devices, a dictionary d and codes z, both uncommitted, and ``to``, which puts an array
# whole onto four devices.
CALLS = {
    ("sparse_encode", "dictionary"): lambda x, d, z, to: steps(x, to(d)),
    ("sparse_encode", "codes0"): lambda x, d, z, to: steps(x, d, codes0=to(z)),
    ("sparse_encode", "penalty"): lambda x, d, z, to: steps(x, d, penalty=to(np.full(24, 0.1))),
    ("solve", "codes0"): lambda x, d, z, to: solvers.solve(
        solvers.fista(), Lasso(x, d, 0.05, 0.1), num_steps=2, codes0=to(z)
    ),
    ("solve_to_tolerance", "problem.dictionary"): lambda x, d, z, to: solvers.solve_to_tolerance(
        solvers.sparsa(), Lasso(x, to(d), 0.05, 0.1), tolerance=1e-2, max_steps=9
    ),
    ("trajectory", "problem.dictionary"): lambda x, d, z, to: solvers.trajectory(
        solvers.fista(), Lasso(x, to(d), 0.05, 0.1), num_steps=2, record=metrics.l0
    ),
    ("refit", "codes"): lambda x, d, z, to: solvers.refit(to(z), x, d, num_active=3),
    ("leave_one_out", "codes"): lambda x, d, z, to: solvers.leave_one_out(
        to(z), x, d, threshold=0.1
    ),
    ("penalty_for", "dictionary"): lambda x, d, z, to: solvers.penalty_for(x, to(d), num_active=3),
    ("mcc", "codes"): lambda x, d, z, to: metrics.mcc(x, to(z)),
    ("r2", "reconstruction"): lambda x, d, z, to: metrics.r2(x, to(np.zeros_like(z @ d))),
    ("mse", "signals"): lambda x, d, z, to: metrics.mse(signals=to(z @ d), reconstruction=x),
    ("score_features: batch 0", "dictionary"): lambda x, d, z, to: metrics.score_features(
        [(x, z, z, z @ d)], true_dictionary=d, dictionary=to(d)
    ),
    ("lasso", "dictionary"): lambda x, d, z, to: objectives.lasso(x, to(d), z, 0.1),
    ("correlate", "dictionary"): lambda x, d, z, to: sc.dictionaries.correlate(x, to(d)),
    ("linear", "params.weight"): lambda x, d, z, to: LINEAR.apply(there(LINEAR, to), x),
    ("top_k", "params.weight"): lambda x, d, z, to: TOP_K.aux(there(TOP_K, to), x),
    ("unrolled", "params.dictionary"): lambda x, d, z, to: UNROLLED.apply(there(UNROLLED, to), x),
    ("fit", "model.encoder.weight"): lambda x, d, z, to: sc.training.fit(
        KEY, LINEAR, x, model=sc.training.Autoencoder(there(LINEAR, to), d), **TRAINING
    ),
    ("fit", "model.dictionary"): lambda x, d, z, to: sc.training.fit(
        KEY, LINEAR, iter([x]), model=sc.training.Autoencoder(LINEAR.init(KEY), to(d)), **TRAINING
    ),
    ("alternate", "dictionary"): lambda x, d, z, to: dictionary_learning.alternate(
        x, to(d), np.ones(1), num_steps=1
    ),
    ("learn_dictionary", "dictionary0"): lambda x, d, z, to: dictionary_learning.learn_dictionary(
        KEY, x, num_hops=0, num_rounds=1, dictionary0=to(d), **OPTIONS
    ),
    (
        "learn_dictionary_online",
        "dictionary0",
    ): lambda x, d, z, to: dictionary_learning.learn_dictionary_online(
        KEY, iter([x]), dictionary0=to(d), **OPTIONS
    ),
    (
        "learn_dictionary_online",
        "batches[1]",
    ): lambda x, d, z, to: dictionary_learning.learn_dictionary_online(
        KEY, iter([x, to(z @ d)]), **OPTIONS
    ),
    ("sweep", "b"): lambda x, d, z, to: swept(sc.sweep, {"a": x, "b": to(d)}),
    ("sweep_chunked", "b"): lambda x, d, z, to: swept(
        sc.sweep_chunked, {"a": x, "b": to(d), "chunk_size": 8, "progress": None}
    ),
}


@KIND
@pytest.mark.parametrize(("name", "label"), CALLS)
def test_arrays_on_different_meshes_are_refused_by_name(data, kind, name, label):
    signals = put(data.signals, mesh_of(kind, signals=8), "signals")
    few = mesh_of(kind, signals=4)
    arguments = signals, data.dictionary, data.codes, lambda x: put(np.float32(x), few)
    with pytest.raises(ValueError, match="one mesh is expected") as raised:
        CALLS[name, label](*arguments)
    said = str(raised.value)
    assert said.startswith(f"{name}: ")
    assert "the mesh {'signals': 8}" in said and "the mesh {'signals': 4}" in said
    assert re.search(rf"'{re.escape(label)}' (lies )?on the mesh {{'signals': 4}}", said), said
    assert ".sharding.mesh, spec))." in said


@KIND
def test_what_may_stay_where_it_is(data, kind):
    """Arrays that are not committed, one device's mesh, and the same devices under other names."""
    mesh = mesh_of(kind, signals=8)
    signals = put(data.signals, mesh, "signals")
    expected = steps(data.signals, data.dictionary)
    same = put(data.dictionary, mesh_of(kind, signals=4, atoms=2))
    for dictionary in (jax.numpy.asarray(data.dictionary), put(data.dictionary, mesh), same):
        assert_close(steps(signals, dictionary), expected, 1e-5)
    one_mesh("test", a=put(data.signals, mesh_of(kind, signals=1)), b=data.dictionary)
    alone = jax.device_put(data.dictionary, jax.devices()[0])
    one_mesh("test", a=put(data.signals, mesh_of("automatic", signals=1)), b=alone)
    encoded = jax.jit(lambda d: steps(signals, d))(data.dictionary)  # nothing is known of d
    assert_close(encoded, expected, 1e-5)


def test_what_tells_two_meshes_apart_is_said(data):
    first, signals = mesh_of("automatic", signals=8), data.signals
    back = Mesh(first.devices[::-1], first.axis_names, axis_types=first.axis_types)
    place = {
        "first": put(signals, first),
        "back": put(signals, back),
        "explicit": put(signals, mesh_of("explicit", signals=8)),
        "other": put(signals, mesh_of("explicit", atoms=8)),
        "three": jax.device_put(signals, jax.devices()[3]),
        "four": jax.device_put(signals, jax.devices()[4]),
    }
    cases = (
        ("first", "back", "of devices 0, 1, 2, 3, 4, 5, 6, 7 and 'back' on .* of devices 7, 6, 5"),
        ("first", "explicit", "of automatic axes and 'explicit' on .* of explicit axes"),
        ("explicit", "other", r"{'signals': 8} and 'other' on the mesh {'atoms': 8}"),
        ("first", "three", r"on device 3 alone.*put\(three, NamedSharding\(first.sharding.mesh"),
        ("three", "first", r"on device 3 alone.*put\(three, NamedSharding\(first.sharding.mesh"),
        ("three", "four", r"3 alone and 'four' on .* 4 alone.*put\(four, three.sharding\)"),
    )
    for one, other, message in cases:
        with pytest.raises(ValueError, match=f"^test: .*{message}"):
            one_mesh("test", **{one: place[one], other: place[other]})


@KIND
def test_axes_of_a_sweep_on_meshes_of_other_axes(data, kind):
    """The same devices, so that only the layout of a grid needs to have one mesh."""
    over, under = mesh_of(kind, runs=8), mesh_of(kind, signals=8)
    axes = {"a": put(data.signals, over, "runs"), "b": put(data.signals, under, "signals")}
    message = r"axis 'b' lies on the mesh {'signals': 8} and another one on the mesh {'runs': 8}"
    for run, options in ((sc.sweep, {}), (sc.sweep_chunked, {"chunk_size": 8, "progress": None})):
        with pytest.raises(ValueError, match=f"{run.__name__}: {message}; one mesh is expected"):
            swept(run, {**axes, **options})
