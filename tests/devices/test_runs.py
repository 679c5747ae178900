"""Sweeps, training, dictionary learning, encoders and metrics on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sparsecode_jax as sc
from sparsecode_jax import dictionary_learning, encoders, metrics, training
from sparsecode_jax._positive import solve_positive
from sparsecode_jax.io import Run

from ..encoder_cases import ENCODERS as ENCODER_CASES
from .conftest import KINDS, assert_close, mesh_of, put, spec_of

KIND = pytest.mark.parametrize("kind", KINDS)
SLOW = pytest.mark.slow  # the rest of a grid of devices
KEYS = jax.random.split(jax.random.key(1), 8)
PENALTIES = jnp.array([0.01, 0.1])


def score(seed, penalty):
    problem = sc.synthetic.sample_problem(seed, 3, num_samples=16, num_measurements=8, num_atoms=12)
    codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=10)
    return metrics.mcc(problem.codes, codes)


@KIND
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_sweep_runs_where_its_seeds_are(kind, devices):
    mesh = mesh_of(kind, runs=devices)
    found = sc.sweep(score, seed=put(KEYS, mesh, "runs"), penalty=PENALTIES)
    assert devices == 1 or spec_of(found) == ("runs",)
    assert_close(found, sc.sweep(score, seed=KEYS, penalty=PENALTIES), 1e-5)


@KIND
def test_a_sweep_over_two_mesh_axes_and_in_chunks(kind):
    mesh = mesh_of(kind, runs=4, penalties=2)
    axes = {"seed": put(KEYS, mesh, "runs"), "penalty": put(PENALTIES, mesh, "penalties")}
    expected = sc.sweep(score, seed=KEYS, penalty=PENALTIES)
    found = sc.sweep(score, **axes)
    assert spec_of(found) == ("runs", "penalties")
    assert_close(found, expected, 1e-5)
    chunked = sc.sweep_chunked(score, chunk_size=8, progress=None, **axes)
    assert_close(chunked, expected, 1e-5)
    with pytest.raises(ValueError, match="6 points at a time do not divide over the 8 devices"):
        sc.sweep_chunked(score, chunk_size=6, progress=None, **axes)
    with pytest.raises(ValueError, match="over the same mesh axis"):
        sc.sweep(score, seed=put(KEYS, mesh, "runs"), penalty=put(KEYS, mesh, "runs"))


SWEPT = {
    "steps": {"num_steps": 5},
    "tolerance": {"tolerance": 1e-4},
    "slots": {"num_active": 3},
}


@KIND
@pytest.mark.parametrize("call", SWEPT)
@pytest.mark.parametrize("split", [True, False])
def test_what_is_whole_on_the_mesh_may_be_closed_over(data, kind, call, split):
    """By a sweep that is split over the same mesh, or by any other program."""
    mesh = mesh_of(kind, runs=8)
    scales = jnp.linspace(0.5, 2, 8)

    def swept(signals, dictionary, scales):
        own = {} if call == "slots" else {"penalty": 0.05}
        encode = lambda scale: sc.sparse_encode(  # noqa: E731
            signals * scale if call == "slots" else signals, dictionary,
            **{k: v * scale for k, v in own.items()}, **SWEPT[call],
        )  # fmt: skip
        return sc.sweep(encode, scale=scales)

    whole = data.signals if call == "slots" else put(data.signals, mesh)  # JAX's own product
    found = swept(whole, put(data.dictionary, mesh), put(scales, mesh, "runs") if split else scales)
    assert_close(found, swept(data.signals, data.dictionary, scales), 1e-5)
    if split:
        assert spec_of(found) == ("runs",)


@KIND
def test_what_is_split_is_no_part_of_a_sweep_over_the_same_mesh(data, kind):
    mesh = mesh_of(kind, runs=8)
    signals, penalties = put(data.signals, mesh, "runs"), put(jnp.linspace(0.1, 1, 8), mesh, "runs")
    run = lambda penalty: sc.sparse_encode(signals, data.dictionary, penalty, num_steps=2)  # noqa: E731
    with pytest.raises(ValueError, match=r"sparse_encode: an array \(64, 16\), split by .*'runs'"):
        sc.sweep(run, penalty=penalties)
    with pytest.raises(ValueError, match="an argument of these is expected"):
        sc.sweep_chunked(run, penalty=penalties, chunk_size=8, progress=None)


ENCODERS = {
    "linear": encoders.linear(16, 24),
    "top_k": encoders.top_k(16, 24, num_active=3),
    "batch_top_k": encoders.batch_top_k(16, 24, num_active=3),
}


def train(key, signals, encoder, num_steps, **recipe):
    return training.fit(
        key, ENCODERS[encoder], signals, num_atoms=24, num_steps=num_steps, progress=None,
        recipe=training.Recipe(**recipe),
    ).params  # fmt: skip


@KIND
@pytest.mark.parametrize(
    ("devices", "num_steps", "rtol"), [(2, 1, 1e-5), (4, 1, 1e-5), (8, 1, 1e-5), (4, 20, 1e-4)]
)
def test_runs_train_where_their_keys_are(data, kind, devices, num_steps, rtol):
    mesh = mesh_of(kind, runs=devices)
    found = train(put(KEYS, mesh, "runs"), data.signals, "linear", num_steps, batch_size=8)
    assert {spec_of(x) for x in jax.tree.leaves(found)} == {("runs",)}
    assert_close(found, train(KEYS, data.signals, "linear", num_steps, batch_size=8), rtol)


@KIND
@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(("encoder", "devices"), [("linear", 2), ("top_k", 8), ("batch_top_k", 4)])
def test_signals_are_trained_on_where_they_are(data, kind, batch_size, encoder, devices):
    mesh = mesh_of(kind, signals=devices)
    signals = put(data.signals, mesh, "signals")
    for num_steps, rtol in ((1, 1e-5), (20, 1e-4)):
        found = train(KEYS[0], signals, encoder, num_steps, batch_size=batch_size)
        expected = train(KEYS[0], data.signals, encoder, num_steps, batch_size=batch_size)
        assert_close(found, expected, rtol)


@pytest.mark.parametrize("encoder", ["linear", "top_k"])
@pytest.mark.parametrize("split", [True, False])
def test_runs_and_signals_on_a_mesh_of_two_axes(data, encoder, split):
    mesh = mesh_of("explicit", runs=2, signals=4)
    keys = put(KEYS, mesh, "runs") if split else KEYS
    signals = put(data.signals, mesh, "signals")
    found = train(keys, signals, encoder, 20, batch_size=8)
    assert_close(found, train(KEYS, data.signals, encoder, 20, batch_size=8), 1e-4)


@KIND
@pytest.mark.parametrize("batch_size", [None, 16])
def test_runs_and_signals_on_one_mesh_axis_are_refused(data, kind, batch_size):
    mesh = mesh_of(kind, runs=8)
    keys, signals = put(KEYS, mesh, "runs"), put(data.signals, mesh, "runs")
    with pytest.raises(ValueError, match="fit: runs are split over the mesh axis 'runs', and so"):
        train(keys, signals, "linear", 1, batch_size=batch_size)


def one_step(signals, batch_size):
    encoder = ENCODERS["linear"]
    atoms = sc.dictionaries.random(KEYS[1], num_atoms=24, num_measurements=16)
    params = training.Autoencoder(encoder.init(KEYS[0]), atoms)
    given = training.TrainData(signals, None, None, jnp.float32(0.05), jnp.float32(1e-2))
    recipe = training.Recipe(batch_size=batch_size)
    state = training.init_state(KEYS[0], params, given, recipe)
    return training.train_step(state, given, encoder, recipe).params


@KIND
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_single_step_of_training(data, kind, batch_size):
    signals = put(data.signals, mesh_of(kind, signals=8), "signals")
    expected = one_step(data.signals, batch_size)
    assert_close(one_step(signals, batch_size), expected, 1e-5)
    traced = jax.jit(lambda x: one_step(x, batch_size))
    if kind == "automatic":
        assert_close(traced(signals), expected, 1e-5)
        return
    with pytest.raises(ValueError, match="train_step: .* Call it through jax.sharding.auto_axes"):
        traced(signals)
    inside = jax.sharding.auto_axes(
        lambda x: one_step(x, batch_size), axes="signals",
        out_sharding=NamedSharding(signals.sharding.mesh, PartitionSpec()),
    )  # fmt: skip
    assert_close(jax.jit(inside)(signals), expected, 1e-5)


def test_a_batch_that_does_not_divide_is_refused(data):
    signals = put(data.signals, mesh_of("automatic", signals=8), "signals")
    with pytest.raises(ValueError, match="batches of 12 signals do not divide over the 8 devices"):
        train(KEYS[0], signals, "linear", 1, batch_size=12)


def learn(signals, num_rounds=1):
    return dictionary_learning.learn_dictionary(
        KEYS[0], signals, num_atoms=24, num_restarts=1, num_hops=0, num_rounds=num_rounds,
        progress=None,
    )[:3]  # fmt: skip


def alternate(signals, dictionary, update):
    return dictionary_learning.alternate(
        signals, dictionary, np.full(1, 0.05, np.float32), num_steps=3, update=update
    )[:2]


@KIND
@pytest.mark.parametrize(
    "name", ["method_of_optimal_directions", "k_svd", "block_coordinate", "projected_gradient"]
)
def test_a_round_by_itself(data, kind, name):
    update = getattr(dictionary_learning.updates, name)()
    signals = put(data.signals, mesh_of(kind, signals=8), "signals")
    found = alternate(signals, data.dictionary, update)
    expected = alternate(data.signals, data.dictionary, update)
    assert spec_of(found[1]) == ("signals",)
    assert_close(found, expected, 1e-5)
    traced = jax.jit(lambda x: alternate(x, data.dictionary, update))
    if kind == "automatic":
        assert_close(traced(signals), expected, 1e-5)
        return
    with pytest.raises(ValueError, match="alternate: .* Call it through jax.sharding.auto_axes"):
        traced(signals)


def learn_online(signals, dictionary):
    return dictionary_learning.learn_dictionary_online(
        KEYS[0], [signals] * 2, num_atoms=24, dictionary0=dictionary, progress=None
    )[:3]


DEVICES = pytest.mark.parametrize("devices", [2, 8, *(pytest.param(n, marks=SLOW) for n in (1, 4))])


@KIND
@DEVICES
def test_dictionaries_are_learned_where_the_signals_are(data, kind, devices):
    mesh = mesh_of(kind, signals=devices)
    found, expected = learn(put(data.signals, mesh, "signals")), learn(data.signals)
    assert devices == 1 or spec_of(found[1]) == ("signals",)
    assert found[0].sharding.mesh == mesh
    assert_close(found[0], expected[0], 1e-5)
    assert_close(found[1:], expected[1:], 1e-3)  # codes are found to a tolerance


def test_a_whole_search_is_that_of_one_device(data):
    mesh = mesh_of("explicit", signals=4)
    found, expected = learn(put(data.signals, mesh, "signals"), 20), learn(data.signals, 20)
    assert spec_of(found[1]) == ("signals",)
    assert_close(found, expected, 1e-3)


@KIND
@DEVICES
def test_dictionaries_are_learned_online_where_the_batches_are(data, kind, devices):
    mesh = mesh_of(kind, signals=devices)
    found = learn_online(put(data.signals, mesh, "signals"), put(data.dictionary, mesh))
    assert found[0].sharding.mesh == mesh
    assert_close(found, learn_online(data.signals, data.dictionary), 1e-5)


@KIND
def test_a_search_goes_on_where_its_signals_are(data, kind, tmp_path, monkeypatch):
    loaded, load = [], Run.load
    monkeypatch.setattr(
        Run, "load", lambda self, like: loaded.append(load(self, like)) or loaded[-1]
    )

    def learn(**options):
        return dictionary_learning.learn_dictionary(
            KEYS[0], put(data.signals, mesh_of(kind, signals=4), "signals"), num_atoms=24,
            num_restarts=2, num_hops=1, num_rounds=6, progress=None, **options,
        )  # fmt: skip

    learn(checkpoint=tmp_path / "c", callback=lambda news: news.round >= 8)  # within the hop
    found = learn(checkpoint=tmp_path / "c")
    (*_, ahead, best, _, _), *_ = loaded
    assert spec_of(ahead.fitted.codes) == (None, "signals") and spec_of(best.codes) == ("signals",)
    others = ahead.dictionary, ahead.value, ahead.fitted.dictionary, best.dictionary, best.value
    assert {spec_of(x) for x in others} == {()}
    assert_close(found[:3], learn()[:3], 1e-6)


@KIND
def test_batches_of_a_stream_may_be_split(data, kind):
    signals = put(data.signals, mesh_of(kind, signals=4), "signals")
    found, expected = (train(KEYS[0], iter([x] * 3), "linear", 3) for x in (signals, data.signals))
    assert_close(found, expected, 1e-5)


@KIND
def test_layouts_that_training_cannot_use_are_refused(data, kind):
    mesh = mesh_of(kind, signals=4, atoms=2)
    signals = put(data.signals, mesh, "signals")
    params = jax.tree.map(np.asarray, train(KEYS[0], data.signals, "linear", 1))
    twice = params._replace(dictionary=put(params.dictionary, mesh, "signals"))
    other = params._replace(dictionary=put(params.dictionary, mesh_of(kind, atoms=2), "atoms"))
    for start, message in ((twice, "both split over the mesh axis"), (other, "lies on the mesh")):
        with pytest.raises(ValueError, match=message):
            training.fit(
                KEYS[0], ENCODERS["linear"], signals, model=start, num_steps=1, progress=None
            )


@KIND
@pytest.mark.parametrize("sizes", [(4, 2), *(pytest.param((n,), marks=SLOW) for n in (1, 2, 8))])
@pytest.mark.parametrize("case", ENCODER_CASES)
def test_encoders_keep_codes_with_their_signals(data, kind, sizes, case):
    mesh = mesh_of(kind, **dict(zip(("signals", "atoms"), sizes, strict=False)))
    signals = put(data.signals, mesh, "signals")
    encoder = case.build(64, 16, 24)
    params = encoder.init(KEYS[0])
    split = jax.tree.map(lambda p: put(p, mesh), params)
    codes = encoder.apply(split, signals)
    assert_close(codes, encoder.apply(params, data.signals), 1e-5)
    if not isinstance(params, encoders.FreeCodesParams):  # which lie where their parameters do
        assert sizes == (1,) or spec_of(codes)[:1] == ("signals",)


DIFFERENTIATED = {
    **ENCODERS,
    "refined": encoders.refined(ENCODERS["top_k"]),
    "lista": encoders.lista(16, 24, num_layers=2),
}


@KIND
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_gradients_of_encoders_inside_a_program(data, kind, name):
    mesh = mesh_of(kind, signals=4)
    signals = put(data.signals, mesh, "signals")
    encoder = DIFFERENTIATED[name]
    params = encoder.init(KEYS[0])
    split = jax.tree.map(lambda p: put(p, mesh), params)
    gradient = jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(encoder.apply(p, x) ** 2)))
    assert_close(gradient(split, signals), gradient(params, data.signals), 1e-5)


METRICS = {
    "mcc": metrics.mcc,
    "latent_correlation": metrics.latent_correlation,
    "mse": metrics.mse,
    "r2": metrics.r2,
    "shrinkage": metrics.shrinkage,
    "l0": lambda true, codes: metrics.l0(codes),
    "dead_fraction": lambda true, codes: metrics.dead_fraction(codes),
    "latent_f1": lambda true, codes: metrics.latent_f1(true, codes, **PAIR),
}
PAIR = {"true_dictionary": np.eye(24, 16), "dictionary": np.eye(24, 16)[::-1]}
OF_DICTIONARIES = {
    "dictionary_mcc": metrics.dictionary_mcc,
    "matched_dictionary_mcc": metrics.matched_dictionary_mcc,
    "pearson_dictionary_mcc": metrics.pearson_dictionary_mcc,
    "uniqueness": metrics.uniqueness,
    "nearest_neighbor_cosine": lambda true, found: metrics.nearest_neighbor_cosine(found),
}


@KIND
@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_all_samples(data, kind, name):
    mesh = mesh_of(kind, signals=8)
    noise = np.random.default_rng(0).normal(size=data.codes.shape)
    pair = data.codes, np.where(data.codes > 0, data.codes + 0.1 * noise, 0).astype(np.float32)
    placed = [put(x, mesh, "signals") for x in pair]
    assert_close(METRICS[name](*placed), METRICS[name](*pair), 1e-5)
    assert_close(jax.jit(METRICS[name])(*placed), METRICS[name](*pair), 1e-5)
    if name == "mcc":
        named = jax.jit(lambda p, q: metrics.mcc(true_codes=p, codes=q))
        assert_close(named(*placed), metrics.mcc(*pair), 1e-5)


@KIND
@pytest.mark.parametrize("name", OF_DICTIONARIES)
def test_metrics_of_dictionaries_whose_atoms_are_split(data, kind, name):
    mesh = mesh_of(kind, atoms=8)
    noise = np.random.default_rng(0).normal(size=data.dictionary.shape)
    pair = data.dictionary, (data.dictionary + 0.1 * noise).astype(np.float32)
    placed = [put(x, mesh, "atoms") for x in pair]
    assert_close(OF_DICTIONARIES[name](*placed), OF_DICTIONARIES[name](*pair), 1e-5)


@KIND
def test_scores_of_batches_that_are_split(data, kind):
    mesh = mesh_of(kind, signals=8)
    pair = {"true_dictionary": data.dictionary, "dictionary": data.dictionary[::-1]}
    batch = data.signals, data.codes, data.codes[:, ::-1], 0.9 * data.signals
    split = tuple(put(np.ascontiguousarray(x), mesh, "signals") for x in batch)
    found, expected = (metrics.score_features([x] * 2, **pair) for x in (split, batch))
    assert_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), 1e-5)


@pytest.mark.slow  # chaotic beyond a few rounds: searches that are long enough end alike
@pytest.mark.parametrize("key", [0, 1, 2])
def test_whole_runs_of_the_learner_end_within_one_percent(key):
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 3, num_samples=1024, num_measurements=8, num_atoms=16
    )
    mesh = mesh_of("explicit", signals=8)
    found, expected = (
        dictionary_learning.learn_dictionary(KEYS[key], x, num_atoms=16, num_hops=16)
        for x in (put(problem.signals, mesh, "signals"), problem.signals)
    )
    np.testing.assert_allclose(found.objective, expected.objective, rtol=0.01)


def test_batches_of_equations_end_on_several_devices():
    """The kernels of LAPACK for batches wait for threads that wait for them, on two or more."""
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 8, num_samples=512, num_measurements=40, num_atoms=100
    )
    mesh = mesh_of(next(iter(KINDS)), signals=2)
    signals, codes = (put(x, mesh, "signals") for x in (problem.signals, problem.codes))
    found = dictionary_learning.learn_dictionary(
        KEYS[0], signals, num_atoms=100, num_restarts=2, num_hops=0, num_rounds=2, progress=None
    )
    assert np.isfinite(found.objective)
    fitted = sc.solvers.refit(
        codes, signals, problem.dictionary, num_active=8, prox=sc.prox.soft_threshold
    )
    expected = np.zeros(codes.shape)
    for row, (x, z) in enumerate(zip(problem.signals, problem.codes, strict=True)):
        used = np.flatnonzero(z)
        atoms = np.asarray(problem.dictionary, np.float64)[used]
        expected[row, used] = np.linalg.lstsq(atoms.T, np.asarray(x, np.float64))[0]
    np.testing.assert_allclose(fitted, expected, atol=1e-4)


@pytest.mark.parametrize("upper", [False, True])
def test_equations_on_several_devices(upper):
    rng = np.random.default_rng(0)
    factor, right = rng.normal(size=(5, 20, 30)), rng.normal(size=(5, 20, 3))
    matrix = factor @ factor.swapaxes(-1, -2) + np.eye(20)
    found = solve_positive(jnp.float32(matrix), jnp.float32(right), upper=upper)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-3, atol=1e-5)
    assert jnp.isnan(solve_positive(jnp.float32(-matrix), jnp.float32(right), upper=upper)).all()
