"""Solvers on signals that lie on many devices, over automatic and explicit axes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax._sharding import layout_of
from sparsecode_jax.solvers import _core, _tolerance

from .. import tolerance
from ..contracts import SOLVERS
from .conftest import KINDS, assert_close, mesh_of, put, spec_of

PENALTY = 0.05
KIND = pytest.mark.parametrize("kind", KINDS)
COLLECTIVE = re.compile(
    r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)


def lasso(signals, dictionary):
    return Lasso(signals, dictionary, PENALTY, sc.dictionaries.step_size(dictionary))


CALLS = {
    "prepared": lambda x, d: sc.sparse_encode(x, sc.dictionaries.prepare(d), num_active=3),
    "slots": lambda x, d: sc.sparse_encode(x, d, num_active=3, as_sparse=True).values,
    "steps": lambda x, d: sc.sparse_encode(x, d, PENALTY, num_steps=20),
    "tolerance": lambda x, d: sc.sparse_encode(x, d, PENALTY, tolerance=1e-4),
    "refit": lambda x, d: solvers.refit(jax.nn.relu(x @ d.T), x, d, num_active=4),
}


@KIND
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_codes_are_those_of_one_device_and_stay_with_their_signals(data, kind, call, devices):
    mesh = mesh_of(kind, signals=devices)
    signals = put(data.signals, mesh, "signals")
    codes = CALLS[call](signals, put(data.dictionary, mesh))
    assert devices == 1 or (spec_of(codes) == ("signals",) and codes.sharding.mesh == mesh)
    assert_close(codes, CALLS[call](data.signals, data.dictionary), 1e-5)


def total(codes):
    return jnp.sum(codes, axis=-1)


RUNS = {
    "solve": lambda problem: solvers.solve(solvers.ista(), problem, num_steps=5),
    "solve_to_tolerance": lambda problem: solvers.solve_to_tolerance(
        solvers.fista(), problem, tolerance=1e-3, max_steps=200, check_every=5
    ),
    "trajectory": lambda problem: solvers.trajectory(
        solvers.lca(), problem, num_steps=4, record=total, record_every=2
    ),
    "pursuit": lambda problem: solvers.solve(
        solvers.orthogonal_matching_pursuit(3), problem, num_steps=3
    ),
    "working set": lambda problem: solvers.solve(WORKING_SET, problem, num_steps=2),
}
WORKING_SET = tolerance.CASES["working set"].solver
GRID = [2, 8, *(pytest.param(devices, marks=pytest.mark.slow) for devices in (1, 4))]


@KIND
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("devices", GRID)  # slow: the rest of the grid, and 4 in other tests here
def test_every_way_to_run_a_solver(data, kind, name, devices):
    signals = put(data.signals, mesh_of(kind, signals=devices), "signals")
    found = RUNS[name](lasso(signals, data.dictionary))
    assert devices == 1 or "signals" in spec_of(jax.tree.leaves(found)[0])
    assert_close(found, RUNS[name](lasso(data.signals, data.dictionary)), 1e-5)


SOON = "matching pursuit", "iterative hard thresholding", "cosamp"
PURSUITS = [
    pytest.param(name, marks=() if name in SOON else pytest.mark.slow)
    for name, case in tolerance.CASES.items()
    if case.numpy is None
]


@KIND
@pytest.mark.parametrize("name", PURSUITS)
def test_every_pursuit(data, kind, name):  # slow: those that CALLS has, or whose parts it has
    solver = tolerance.CASES[name].solver
    run = lambda x: solvers.solve(solver, lasso(x, data.dictionary), num_steps=3)  # noqa: E731
    codes = run(put(data.signals, mesh_of(kind, signals=4), "signals"))
    assert spec_of(codes) == ("signals",)
    assert_close(codes, run(data.signals), 1e-5)


@KIND
@pytest.mark.parametrize("case", SOLVERS)
def test_every_solver(data, kind, case):
    mesh = mesh_of(kind, signals=4)
    solver = case.solver
    run = lambda x: solvers.solve(solver, lasso(x, data.dictionary), num_steps=3)  # noqa: E731
    codes = run(put(data.signals, mesh, "signals"))
    assert spec_of(codes) == ("signals",)
    assert_close(codes, run(data.signals), 1e-5)


@KIND
def test_each_device_stops_when_its_own_signals_are_done(data, kind):
    mesh = mesh_of(kind, signals=4)
    run = lambda x: solvers.solve_to_tolerance(  # noqa: E731
        solvers.sparsa(), lasso(x, data.dictionary), tolerance=1e-4, max_steps=500, check_every=5
    )
    codes, info = run(put(data.signals, mesh, "signals"))
    expected, like = run(data.signals)
    assert_close(codes, expected, 1e-5)
    np.testing.assert_array_equal(info.num_steps, like.num_steps)
    assert {spec_of(x) for x in info} == {("signals",)}


@KIND
def test_two_leading_axes_on_a_mesh_of_two(data, kind):
    mesh = mesh_of(kind, days=2, signals=4)
    signals = data.signals.reshape(4, 16, 16)
    codes = CALLS["steps"](put(signals, mesh, "days", "signals"), data.dictionary)
    assert spec_of(codes) == ("days", "signals")
    assert_close(codes, CALLS["steps"](signals, data.dictionary), 1e-5)


@KIND
def test_records_of_a_trajectory_are_of_all_signals(data, kind):
    mesh = mesh_of(kind, signals=4)

    def record(codes):
        return jnp.sum(codes != 0), jnp.sum(codes, axis=-1)

    run = lambda x: solvers.trajectory(  # noqa: E731
        solvers.fista(), lasso(x, data.dictionary), num_steps=4, record=record, record_every=2
    )
    codes, records = run(put(data.signals, mesh, "signals"))
    assert spec_of(codes) == ("signals",)
    assert spec_of(records[1]) == (None, "signals")
    assert_close((codes, records), run(data.signals), 1e-5)


@pytest.mark.parametrize("call", ["steps", "tolerance"])
def test_inside_a_program_on_explicit_axes_with_gradients(data, call):
    mesh = mesh_of("explicit", signals=4)
    signals, dictionary = put(data.signals, mesh, "signals"), put(data.dictionary, mesh)
    both = jax.jit(jax.value_and_grad(lambda x, d: jnp.sum(CALLS[call](x, d) ** 2), argnums=(0, 1)))
    value, gradients = both(signals, dictionary)
    expected, expected_gradients = both(data.signals, data.dictionary)
    assert_close(value, expected, 1e-5)
    assert_close(gradients, expected_gradients, 1e-3)
    assert spec_of(gradients[0]) == ("signals",)


@pytest.mark.full_effort
@pytest.mark.parametrize("call", ["steps", "tolerance"])
def test_nothing_is_communicated(data, call):
    mesh = mesh_of("automatic", signals=8)
    signals = put(data.signals, mesh, "signals")
    problem = Lasso(signals, jnp.asarray(data.dictionary), jnp.float32(0.05), jnp.float32(0.1))
    layout = layout_of("test", signals)
    if call == "steps":
        program = _core._solve.lower(solvers.fista(), problem, None, 5, layout)
    else:
        program = _tolerance._solve_to_tolerance.lower(
            solvers.sparsa(), problem, None, 1e-4, 500, 5, 8, layout
        )
    assert not COLLECTIVE.search(program.compile().as_text())


@KIND
@pytest.mark.parametrize("context", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_mesh_as_context_changes_nothing(data, kind, context, call):
    expected = CALLS[call](data.signals, data.dictionary)
    signals = put(data.signals, mesh_of(kind, signals=4), "signals")
    with jax.set_mesh(mesh_of(context, signals=4)):
        plain = CALLS[call](data.signals, data.dictionary)
        if kind == context:
            codes = CALLS[call](signals, data.dictionary)
            assert spec_of(codes) == ("signals",)
            assert_close(codes, expected, 1e-5)
    assert_close(plain, expected, 1e-5)


def test_a_warm_start_that_is_whole_inside_a_program_on_explicit_axes(data):
    signals = put(data.signals, mesh_of("explicit", signals=4), "signals")
    run = jax.jit(lambda x, z: sc.sparse_encode(x, data.dictionary, 0.05, num_steps=3, codes0=z))
    assert_close(run(signals, data.codes), run(data.signals, data.codes), 1e-5)


def test_split_arrays_closed_over_in_a_program(data):
    signals = put(data.signals, mesh_of("automatic", signals=4), "signals")
    run = lambda x: jax.jit(lambda d: CALLS["steps"](x, d))(data.dictionary)  # noqa: E731
    assert_close(run(signals), run(data.signals), 1e-5)


def test_a_second_call_compiles_nothing(data, compilations):
    mesh = mesh_of("explicit", signals=4)
    signals = put(data.signals, mesh, "signals")
    encoder = sc.encoders.top_k(16, 24, num_active=3)
    params = encoder.init(jax.random.key(0))
    calls = [
        lambda: CALLS["steps"](signals, data.dictionary),
        lambda: CALLS["tolerance"](signals, data.dictionary),
        lambda: sc.metrics.l0(put(data.codes, mesh, "signals")),
        lambda: encoder.apply(
            params, put(data.signals, mesh_of("automatic", signals=4), "signals")
        ),
    ]
    for call in calls:
        call()
    before = compilations.count
    for call in calls:
        call()
    assert compilations.count == before


@KIND
def test_bad_layouts_are_refused_in_one_sentence(data, kind):
    mesh = mesh_of(kind, signals=4, atoms=2)
    other = mesh_of(kind, atoms=8)  # the same devices
    x, d = data.signals, data.dictionary
    rows = put(x, mesh, "signals")
    cases = (
        (put(x, mesh, None, "signals"), d, "measurements of the signals are split"),
        (rows, put(d, mesh, None, "atoms"), "measurements of the dictionary are split"),
        (rows, put(d, other, "atoms"), "'signals' lies on the mesh .* and 'dictionary' on"),
        (rows, put(d, mesh, "signals"), "both split over the mesh axis 'signals'"),
    )
    for signals, dictionary, message in cases:
        with pytest.raises(ValueError, match=message):
            CALLS["steps"](signals, dictionary)
    split = put(d, mesh, "atoms")
    pursuit = solvers.orthogonal_matching_pursuit(3)
    with pytest.raises(ValueError, match="split over its atoms .* needs every atom"):
        solvers.solve(pursuit, Lasso(rows, split, 0.05, 0.1), num_steps=3)
    with pytest.raises(ValueError, match="split over its atoms .* needs every atom"):
        solvers.refit(put(data.codes, mesh, "signals"), rows, split, num_active=3)
    explicit = mesh_of("explicit", signals=4, atoms=2)
    traced = jax.jit(lambda x, d: sc.sparse_encode(x, d, PENALTY, num_steps=2, step_size=0.1))
    with pytest.raises(ValueError, match="automatic axes are expected there"):
        traced(put(x, explicit, "signals"), put(d, explicit, "atoms"))


@KIND
def test_sparse_codes_stay_with_their_signals(data, kind):
    mesh = mesh_of(kind, signals=4)
    alone = sc.SparseCodes.from_dense(data.codes, num_active=3)
    codes = jax.tree.map(lambda x: put(x, mesh, "signals"), alone)
    signals = put(data.signals, mesh, "signals")
    for run in (
        lambda x, z: z.dense(),
        lambda x, z: sc.dictionaries.reconstruct(z, data.dictionary),
        lambda x, z: sc.objectives.reconstruction_error(x, data.dictionary, z),
        lambda x, z: sc.SparseCodes.from_dense(z.dense(), num_active=3).values,
    ):
        got = run(signals, codes)
        assert spec_of(got)[0] == "signals"
        assert_close(got, run(data.signals, alone), 1e-5)
    for metric in (sc.metrics.l0, sc.metrics.dead_fraction):
        assert_close(metric(codes), metric(alone), 1e-6)
    assert (codes.to_scipy() != alone.to_scipy()).nnz == 0
