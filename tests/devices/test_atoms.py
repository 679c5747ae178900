"""Dictionaries whose atoms are split over devices: solvers, encoders and their training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, encoders, solvers, training
from sparsecode_jax._sharding import Layout, layout_of
from sparsecode_jax.solvers import _core
from sparsecode_jax.training import step as steps

from .conftest import KINDS, assert_close, gathers, mesh_of, put, spec_of

PENALTY, KEY = 0.05, jax.random.key(3)
KIND = pytest.mark.parametrize("kind", KINDS)
SOLVERS = {
    "ista": solvers.ista(),
    "fista": solvers.fista(),
    "sparsa": solvers.sparsa(),
    "lca": solvers.lca(),
    "log_adam": solvers.log_adam(),
}
ENCODERS = {
    "linear": lambda m, n: encoders.linear(m, n),
    "top_k": lambda m, n: encoders.top_k(m, n, num_active=3),
    "batch_top_k": lambda m, n: encoders.batch_top_k(m, n, num_active=3),
}


def lasso(signals, dictionary):
    return Lasso(signals, dictionary, PENALTY, sc.dictionaries.step_size(dictionary))


@KIND
@pytest.mark.parametrize("name", SOLVERS)
def test_atoms_are_split_by_a_spec_of_the_dictionary(data, kind, name):
    mesh = mesh_of(kind, signals=4, atoms=2)
    solver = SOLVERS[name]
    run = lambda x, d: sc.sparse_encode(x, d, PENALTY, num_steps=10, solver=solver)  # noqa: E731
    codes = run(put(data.signals, mesh, "signals"), put(data.dictionary, mesh, "atoms"))
    assert spec_of(codes) == ("signals", "atoms")
    assert_close(codes, run(data.signals, data.dictionary), 1e-5)


OF_SPLIT_ATOMS = {
    "reconstruct": lambda x, d, z: sc.dictionaries.reconstruct(z, d),
    "correlate": lambda x, d, z: sc.dictionaries.correlate(x, d),
    "coherence": lambda x, d, z: sc.dictionaries.coherence(d),
    "orthogonalize": lambda x, d, z: sc.dictionaries.orthogonalize(d, num_steps=2),
    "lasso": lambda x, d, z: sc.objectives.lasso(x, d, z, PENALTY),
    "paper_loss": lambda x, d, z: sc.objectives.paper_loss(x, d, z, PENALTY),
    "reconstruction_error": lambda x, d, z: sc.objectives.reconstruction_error(x, d, z + 1),
    "relative_error": lambda x, d, z: sc.objectives.relative_error(x, d, z + 1),
    "duality_gap": lambda x, d, z: sc.objectives.duality_gap(x, d, z + 1, PENALTY),
    "kkt_residual": lambda x, d, z: sc.objectives.kkt_residual(x, d, z + 1, PENALTY),
    "residual_gap": lambda x, d, z: sc.objectives.residual_gap(
        x, d, x, sc.dictionaries.correlate(x, d), 0 * z, PENALTY
    ),
}


@KIND
@pytest.mark.parametrize("name", OF_SPLIT_ATOMS)
def test_codes_of_split_atoms_are_scored_where_they_are(data, kind, name):
    mesh = mesh_of(kind, signals=4, atoms=2)
    run = OF_SPLIT_ATOMS[name]
    expected = run(data.signals, data.dictionary, data.codes)
    split = [
        put(data.signals, mesh, "signals"), put(data.dictionary, mesh, "atoms"),
        put(data.codes, mesh, "signals", "atoms"),
    ]  # fmt: skip
    assert_close(run(*split), expected, 1e-5)


@KIND
def test_split_atoms_to_a_tolerance(data, kind):
    where = put(data.dictionary, mesh_of(kind, atoms=8), "atoms")
    run = lambda d: solvers.solve_to_tolerance(  # noqa: E731
        solvers.sparsa(), lasso(data.signals, d), tolerance=1e-4, max_steps=500, check_every=5
    )
    (codes, info), (expected, _) = run(where), run(data.dictionary)
    assert np.all(info.converged)
    values = [
        sc.objectives.lasso(data.signals, data.dictionary, np.asarray(z), PENALTY)
        for z in (codes, expected)
    ]
    np.testing.assert_allclose(*values, rtol=1e-3)  # both are within the tolerance of the optimum


@pytest.mark.parametrize("name", SOLVERS)
def test_one_signal(data, name):
    where = put(data.dictionary, mesh_of("automatic", signals=4, atoms=2), "atoms")
    run = lambda d: solvers.solve(SOLVERS[name], lasso(data.signals[0], d), num_steps=3)  # noqa: E731
    assert_close(run(where), run(data.dictionary), 1e-5)


@KIND
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_and_their_training(data, kind, name):
    mesh = mesh_of(kind, signals=4, atoms=2)
    encoder = ENCODERS[name](16, 24)
    dictionary = sc.dictionaries.random(jax.random.key(2), num_atoms=24, num_measurements=16)
    alone = training.Autoencoder(encoder.init(jax.random.key(1)), dictionary)
    split = jax.tree.map(lambda p: put(p, mesh, "atoms"), alone)
    signals = put(data.signals, mesh, "signals")
    codes = encoder.apply(split.encoder, signals)
    assert spec_of(codes) == ("signals", "atoms")
    assert_close(codes, encoder.apply(alone.encoder, data.signals), 1e-5)
    options = {"recipe": training.Recipe(batch_size=16), "progress": None}
    for num_steps, rtol in ((1, 1e-5), (20, 1e-4)):
        found, expected = (
            training.fit(KEY, encoder, x, model=start, num_steps=num_steps, **options).params
            for x, start in ((signals, split), (data.signals, alone))
        )
        assert {spec_of(p) for p in jax.tree.leaves(found)} == {("atoms",)}
        assert_close(found, expected, rtol)


def needed(compiled):
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes


@pytest.mark.full_effort
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_take_memory_on_each_device_for_its_own_atoms(name):
    mesh = mesh_of("automatic", atoms=8)
    rng = np.random.default_rng(0)
    signals = jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)
    dictionary = jnp.asarray(rng.normal(size=(4096, 32)), jnp.float32)
    found = {}
    for devices, where in ((1, dictionary), (8, put(dictionary, mesh, "atoms"))):
        problem = Lasso(signals, where, jnp.float32(0.05), jnp.float32(0.01))
        layout = layout_of("test", signals, where)
        compiled = _core._solve.lower(SOLVERS[name], problem, None, 5, layout).compile()
        found[devices] = needed(compiled)
        assert "all-gather" not in compiled.as_text()
    assert found[8] < found[1] / 5


def training_step(encoder, num, layout, atoms=(), batch_size=None):
    """Compile a step of an encoder, on many devices where there is a layout."""
    num_signals, num_atoms, num_measurements = num
    place = (lambda x, *spec: x) if layout is None else lambda x, *s: put(x, layout.mesh, *s)
    x = place(np.zeros((num_signals, num_measurements), np.float32), "signals")
    dictionary = jnp.ones((num_atoms, num_measurements))
    params = steps.Autoencoder(encoder.init(jax.random.key(0)), dictionary)
    params = jax.tree.map(lambda p: place(p, *atoms), params)
    data = steps.TrainData(x, None, None, jnp.float32(0.01), jnp.float32(1e-3))
    state = steps.init_state(jax.random.key(0), params, data)
    recipe, source = steps.Recipe(batch_size=batch_size), steps.Source(layout=layout)
    step = jax.jit(lambda s, d: steps.train_step(s, d, encoder, recipe, source=source))
    return step.lower(state, data).compile()


@pytest.mark.full_effort
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("atoms", [(), ("atoms",)])
@pytest.mark.parametrize("batch_size", [None, 64])
def test_a_training_step_gathers_neither_signals_nor_codes(name, atoms, batch_size):
    num = 1024, 96, 16
    layout = Layout(mesh_of("automatic", signals=4, atoms=2), ("signals",), atoms)
    compiled = training_step(ENCODERS[name](16, 96), num, layout, atoms, batch_size)
    found, rows = gathers(compiled.as_text()), batch_size or num[0]
    assert all(shape[0] <= rows and np.prod(shape[1:]) <= 2 * 4 for shape in found), found


@pytest.mark.full_effort
@pytest.mark.parametrize("name", ["linear", "top_k"])
def test_training_takes_memory_on_each_device_for_its_own_atoms(name):
    num = 64, 4096, 32
    encoder = ENCODERS[name](32, 4096)
    layout = Layout(mesh_of("automatic", signals=1, atoms=8), ("signals",), ("atoms",))
    alone = needed(training_step(encoder, num, None))
    assert needed(training_step(encoder, num, layout, ("atoms",))) < alone / 4
