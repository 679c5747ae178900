"""Dictionary learning from batches: recovery, resume, and what it is charged."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.datasets import make_sparse_coded_signal
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning
from sklearn.decomposition import sparse_encode as sklearn_encode

import sparsecode_jax as sc
from sparsecode_jax.dictionary_learning import learn_dictionary, updates
from sparsecode_jax.flops import eval_flops

online = importlib.import_module("sparsecode_jax.dictionary_learning.online")
KEY = jax.random.key(5)
N, M = 20, 12


def learn_online(batches, key=KEY, **kwargs):
    kwargs = {"num_atoms": N, "progress": None, **kwargs}
    return sc.dictionary_learning.learn_dictionary_online(key, batches, **kwargs)


learn = learn_online


@pytest.fixture(scope="module")
def problem():
    return sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=4000, num_measurements=M, num_atoms=N
    )


@pytest.fixture(scope="module")
def batches(problem):
    return list(np.asarray(problem.signals).reshape(40, 100, M))


@pytest.fixture(scope="module")
def found(batches):
    return learn(batches, num_epochs=3)


def test_recovers_the_dictionary(problem, found):
    assert sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.98
    np.testing.assert_allclose(jnp.linalg.norm(found.dictionary, axis=1), 1, atol=1e-5)
    assert found.objectives.shape == (120,) and found.num_signals == 12_000
    assert found.objectives[-20:].mean() < 0.8 * found.objectives[:5].mean()


def test_objectives_are_those_of_the_batches_when_they_came(batches, found):
    start = found.dictionary
    one = learn(batches[:1], dictionary0=start, penalty=found.penalty, num_steps=300)
    codes = sc.sparse_encode(batches[0], start, found.penalty, tolerance=1e-5)
    value = sc.objectives.lasso(batches[0], start, codes, found.penalty).mean()
    np.testing.assert_allclose(one.objectives, [value], rtol=1e-3)


def test_scaling_the_signals_changes_nothing_but_units(batches):
    some = batches[:6]
    one, eight = learn(some), learn([8 * batch for batch in some])
    np.testing.assert_allclose(eight.dictionary, one.dictionary, atol=1e-4)
    np.testing.assert_allclose(eight.penalty, 8 * one.penalty, rtol=1e-5)
    np.testing.assert_allclose(eight.objectives, 64 * one.objectives, rtol=1e-3)


def test_batches_may_differ_in_size_and_come_from_a_function(batches, compilations):
    ragged = [*batches[:5], batches[5][:30]]
    listed = learn(ragged, num_epochs=2)
    assert listed.num_signals == 2 * 530
    before = compilations.count
    epochs = []

    def stream(epoch):
        epochs.append(epoch)
        return iter(ragged)

    called = learn(stream, num_epochs=2)
    assert epochs == [0, 1]
    assert compilations.count == before  # one program a batch size, and none again
    np.testing.assert_array_equal(called.dictionary, listed.dictionary)
    np.testing.assert_array_equal(learn(iter(ragged)).objectives, listed.objectives[:6])


def test_atoms_may_begin_in_batches_smaller_than_their_number(batches):
    small = [batch[:7] for batch in batches]
    result = learn(small, num_steps=20)
    assert bool(jnp.all(jnp.isfinite(result.dictionary)))
    assert result.objectives[-10:].mean() < result.objectives[:5].mean()


def test_every_batch_is_charged(batches):
    run = functools.partial(
        online._step,
        solver=sc.solvers.fista(),
        update=updates.block_coordinate(),
        num_steps=30,
        num_refitted=None,
    )
    atoms = jnp.ones((N, M))
    state = online._State(
        atoms, updates.block_coordinate().init(atoms), jnp.ones((2, N)), jnp.ones(())
    )
    numbers = jnp.ones(M), jnp.ones(()), None  # bias, scale, and no target of L0
    costs = [
        int(eval_flops(run, KEY, state, jnp.ones((size, M)), *numbers).total())
        for size in (100, 30)
    ]
    assert learn([*batches[:3], batches[3][:30]]).flops == 3 * costs[0] + costs[1]
    assert costs[0] > 30 * 100 * 4 * M * N  # at least its steps


def test_the_default_steps_learn_as_well_as_many(batches):
    found = [learn(batches, num_epochs=3, num_steps=steps) for steps in (None, 100)]
    few, many = (one.objectives[-20:].mean() for one in found)
    assert abs(few / many - 1) < 0.02
    assert found[0].flops < found[1].flops / 2


def test_work_that_depends_on_values_is_not_said(batches):
    several = sc.solvers.working_set((4, 8))  # which of them is a matter of the round
    assert learn(batches[:1], solver=several, num_steps=3).flops is None
    assert learn(batches[:1], solver=sc.solvers.working_set((8,)), num_steps=3).flops > 0


def test_dead_atoms_and_twins_are_replaced(batches):
    start = np.tile(np.eye(M)[:1], (N, 1))  # one atom N times: all but the first are twins
    result = learn(batches[:10], dictionary0=start)
    assert sc.dictionaries.coherence(result.dictionary) < 0.96
    use = jnp.abs(sc.sparse_encode(batches[0], result.dictionary, result.penalty, num_steps=200))
    assert float((use.mean(axis=0) > 1e-3 * use.mean()).mean()) > 0.8


def test_the_penalty_is_steered_to_an_l0(batches):
    steered = learn(batches, num_epochs=2, target_l0=1.8, penalty=1e-3)
    some = np.concatenate(batches[-10:])
    codes = sc.sparse_encode(some, steered.dictionary, steered.penalty, num_steps=100)
    assert abs(sc.metrics.l0(codes) - 1.8) < 0.1
    fixed = learn(batches[:2], penalty=1e-3)
    np.testing.assert_allclose(fixed.penalty, 1e-3, rtol=1e-6)


def test_a_refit_is_nonnegative_least_squares_before_the_update(batches):
    batch = np.asarray(batches[0], np.float64)
    start = sc.dictionaries.random(KEY, num_atoms=N, num_measurements=M)
    penalty = 0.3 * np.sqrt(np.mean(np.sum(batch**2, axis=1)))
    result = learn(
        [batches[0]], dictionary0=start, penalty=penalty, num_steps=500, refit=4,
        update=updates.projected_gradient(learning_rate=0.1),
    )  # fmt: skip
    scale = np.sqrt(np.mean(np.sum(batch**2, axis=1)))
    signals, atoms = batch / scale, np.asarray(start, np.float64)
    shrunken = sc.sparse_encode(signals, atoms, penalty / scale, tolerance=1e-5)
    codes = np.zeros(shrunken.shape)
    for x, row, code in zip(signals, codes, np.asarray(shrunken), strict=True):
        kept = np.argsort(-code, kind="stable")[:4]
        kept = kept[code[kept] > 0]
        if kept.size:
            row[kept] = nnls(atoms[kept].T, x)[0]
    expected = atoms - 0.1 * codes.T @ (codes @ atoms - signals) / len(signals)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(result.dictionary, expected, atol=1e-5)
    assert np.abs(codes - np.asarray(shrunken)).max() > 0.05  # the penalty shrinks what it keeps


def test_solver_and_refit_share_the_products_of_atoms(batches, monkeypatch):
    solver = sc.solvers.working_set((4,))
    options = {"solver": solver, "num_steps": 2, "refit": 4, "num_atoms": 2 * N}
    start = sc.dictionaries.random(KEY, num_atoms=2 * N, num_measurements=M)
    shared = learn(batches[:1], dictionary0=start, **options)
    asked = []
    monkeypatch.setattr(online, "_shares", lambda *sizes: asked.append(sizes))
    online._step.clear_cache()
    apart = learn(batches[:1], dictionary0=start, **options)
    online._step.clear_cache()
    assert asked[0] == (len(batches[0]), 4, 2 * N)
    np.testing.assert_allclose(shared.dictionary, apart.dictionary, atol=1e-4)
    size, n = len(batches[0]), 2 * N
    blocks = size * (3 * 2 * M * 16 - 2 * 16)  # of two rounds and a refit; scales of the last
    assert apart.flops - shared.flops == blocks - 2 * M * n * n


def test_products_are_shared_where_that_costs_less():
    assert online._shares(1024, 64, 4096) and online._shares(256, 128, 4096)
    assert not online._shares(1023, 64, 4096) and not online._shares(10**6, 64, 8193)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_l0": 0}, "target_l0 is 0"),
        ({"target_l0": N + 1}, f"target_l0 is {N + 1} but there are {N} atoms"),
        ({"target_l0": 3, "num_active": 3}, "has no penalty to steer"),
        ({"refit": 3, "num_active": 3}, "least squares already"),
        ({"refit": N + 1}, f"refit is {N + 1} but there are {N} atoms"),
        (
            {"refit": 3, "solver": sc.solvers.working_set(4)._replace(prox=None)},
            "does not say its proximal operator",
        ),
    ],
)
def test_targets_and_refits_that_cannot_be(batches, given, message):
    with pytest.raises(ValueError, match=message):
        learn(batches[:1], **given)


class Killed(Exception):
    """What stops a run in these tests."""


@pytest.mark.parametrize(
    ("stop", "options"), [(1, {}), (5, {"target_l0": 2, "refit": 4}), (11, {})]
)
def test_a_killed_run_resumes_to_the_same_bits(batches, tmp_path, stop, options):
    data = [*batches[:5], batches[5][:30]]
    learn = functools.partial(learn_online, **options)
    whole = learn(data, num_epochs=2)

    def broken(epoch):
        for index, batch in enumerate(data):
            if epoch * len(data) + index == stop:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        learn(broken, num_epochs=2, checkpoint=tmp_path / "c")
    resumed = learn(data, num_epochs=2, checkpoint=tmp_path / "c")
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    again = learn(data, num_epochs=2, checkpoint=tmp_path / "c")  # nothing is left to do
    np.testing.assert_array_equal(again.dictionary, whole.dictionary)


def test_a_checkpoint_of_another_run_is_refused(batches, tmp_path):
    learn(batches[:2], checkpoint=tmp_path / "c")
    start = np.eye(N, M) + 0.1
    for change in (
        {"key": jax.random.key(6)},
        {"penalty": 0.3},
        {"num_steps": 99},
        {"dictionary0": start},
        {"target_l0": 2.0},
    ):
        (name,) = change
        with pytest.raises(ValueError, match=f"c belongs to another run .*{name}"):
            learn(batches[:2], checkpoint=tmp_path / "c", **change)
    solver = sc.solvers.fista(prox=sc.prox.soft_threshold)
    with pytest.raises(ValueError, match=r"another run \(learning step\); one of the same run"):
        learn(batches[:2], checkpoint=tmp_path / "c", solver=solver)
    with pytest.raises(ValueError, match=r"another run \(the first 2 batches differ\)"):
        learn([batches[0], batches[1] + 1e-6, batches[2]], checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="has seen 2 batches, but there are 1;"):
        learn(batches[:1], checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": 0}, "num_atoms is 0; an integer >= 1"),
        ({"num_epochs": 0}, "num_epochs is 0; an integer >= 1"),
        ({"num_atoms": 500}, "200 signals cannot determine 500 atoms"),
        ({"penalty": -1.0}, "penalty is -1.0; a finite number > 0"),
        ({"penalty": np.ones(N)}, "the penalty has shape \\(20,\\); one number"),
        ({"dictionary0": np.ones((3, M))}, "dictionary0 has 3 atoms"),
        ({"dictionary0": np.ones((N, 5))}, "signals have 12 measurements"),
    ],
)
def test_errors(batches, change, message):
    with pytest.raises(ValueError, match=message):
        learn(batches[:2], **change)


def test_errors_of_batches(batches):
    with pytest.raises(ValueError, match="batches are a generator, which ends after one of 2"):
        learn(iter(batches), num_epochs=2)
    with pytest.raises(ValueError, match="batch 1 holds 1 non-finite numbers"):
        learn([batches[0], _nan()])
    with pytest.raises(ValueError, match="signals have 3 measurements"):
        learn([batches[0], batches[1][:, :3]])
    with pytest.raises(ValueError, match="the batch 1 have shape \\(12,\\)"):
        learn([batches[0], batches[1][0]])
    with pytest.raises(ValueError, match="learn_dictionary_online: batch 0 has shape"):
        learn([batches[0][None]], dictionary0=np.ones((N, M)))
    with pytest.raises(ValueError, match="0 signals cannot determine 20 atoms"):
        learn([])
    with pytest.raises(TypeError, match="float16; float32 or float64 is expected"):
        learn([batches[0].astype(np.float16)])
    with pytest.raises(TypeError, match="Call its factory, with parentheses: updates.k_svd"):
        learn(batches, update=updates.k_svd)


def _nan():
    batch = np.ones((100, M))
    batch[3, 4] = np.nan
    return batch


# --- scikit-learn -----------------------------------------------------------------------------


def objective(signals, dictionary, penalty):
    """The mean signed lasso objective, its codes by scikit-learn."""
    dictionary = np.asarray(dictionary, np.float64)
    codes = sklearn_encode(signals, dictionary, algorithm="lasso_lars", alpha=penalty)
    error = 0.5 * np.sum((signals - codes @ dictionary) ** 2, axis=1)
    return np.mean(error + penalty * np.abs(codes).sum(axis=1))


@pytest.mark.filterwarnings("ignore")
def test_the_objective_is_as_low_as_scikit_learns():
    signals, _, _ = make_sparse_coded_signal(
        n_samples=600, n_components=16, n_features=10, n_nonzero_coefs=2, random_state=0
    )
    penalty = 0.15
    solver = sc.solvers.fista(prox=sc.prox.soft_threshold)
    batch = DictionaryLearning(
        16, alpha=penalty, max_iter=50, fit_algorithm="cd", random_state=0
    ).fit(signals)
    stream = MiniBatchDictionaryLearning(
        16, alpha=penalty, max_iter=20, batch_size=100, random_state=0
    ).fit(signals)
    whole = learn_dictionary(
        KEY, signals, num_atoms=16, penalty=penalty, num_rounds=100, num_restarts=2, solver=solver
    )
    ours = learn(
        signals.reshape(6, 100, 10), num_atoms=16, penalty=penalty, num_epochs=10, solver=solver
    )
    theirs = [objective(signals, x.components_, penalty) for x in (batch, stream)]
    assert objective(signals, whole.dictionary, penalty) < 1.01 * theirs[0]
    assert objective(signals, ours.dictionary, penalty) < 1.01 * theirs[1]
    np.testing.assert_allclose(
        whole.objective, objective(signals, whole.dictionary, penalty), rtol=1e-3
    )
