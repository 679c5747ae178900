"""Training: runs that do not know of each other, what a step computes, starts, divergence."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, encoders, solvers, training
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import Autoencoder, TrainData, _draws, losses

from .contracts import M, N, S, as_numpy, sparse_problem
from .training_settings import (
    CODES,
    DICTIONARY,
    FREE,
    KEY,
    LINEAR,
    SIGNALS,
    assert_same_bits,
    each_setting,
    fit,
    fit_module,
    host,
    identity,
)

# --- runs ----------------------------------------------------------------------------------------


@each_setting
def test_a_batch_of_keys_is_as_many_runs(setting):
    with jax.enable_x64(
        True
    ):  # in float32 twenty steps of programs of two shapes differ by rounding
        _check_runs(setting)


def _check_runs(setting):
    keys = jax.random.split(KEY, 3)
    setting = {"signals": SIGNALS.astype(np.float64), **setting}
    together = fit(keys, record=identity, record_steps=[0, 20], **setting)
    for run, key in enumerate(keys):
        alone = fit(key, record=identity, record_steps=[0, 20], **setting)
        mine = jax.tree.map(lambda x, run=run: x[run], together.params)
        chex.assert_trees_all_close(mine, alone.params, rtol=1e-5, atol=1e-6)
        records = jax.tree.map(lambda x, run=run: x[:, run], together.records)
        chex.assert_trees_all_close(records, alone.records, rtol=1e-5, atol=1e-6)
        assert float(together.state.loss[run]) == pytest.approx(float(alone.state.loss), rel=1e-5)
    first = jax.tree.leaves(together.params.encoder)[0]
    if setting.get("encoder") is not FREE:
        assert not np.allclose(first[0], first[1])


@jax.enable_x64(True)  # as above
def test_runs_may_have_their_own_data_dictionary_penalty_and_learning_rate():
    problems = [sparse_problem(seed) for seed in range(3)]
    stacked = (np.stack(x) for x in zip(*problems, strict=True))
    signals, dictionaries, codes = (x.astype(np.float64) for x in stacked)
    keys = jax.random.split(KEY, 3)
    own = {
        "penalty": np.array([0.0, 0.1, 1.0]),
        "learning_rate": np.array([1e-3, 1e-2, 0.1]),
    }

    def loss(codes, batch):
        return losses.paper(codes, batch) + losses.cosine(codes, batch)

    together = fit(
        keys, signals=signals, dictionary=dictionaries, true_codes=codes, loss=loss, **own
    )
    for run in range(3):
        alone = fit(
            keys[run],
            signals=signals[run],
            dictionary=dictionaries[run],
            true_codes=codes[run],
            loss=loss,
            **{name: value[run] for name, value in own.items()},
        )
        mine = jax.tree.map(lambda x, run=run: x[run], together.params)
        chex.assert_trees_all_close(mine, alone.params, rtol=1e-5, atol=1e-6)


def test_one_key_in_a_vector_has_a_run_axis_and_old_style_keys_are_keys():
    vector, scalar = fit(KEY[None]), fit(KEY)
    assert vector.params.dictionary.shape == (1, N, M)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0], vector.params), scalar.params, rtol=1e-5, atol=1e-6
    )
    assert_same_bits(fit(jax.random.PRNGKey(0)).params, scalar.params)


# --- what a step computes ------------------------------------------------------------------------


def test_training_equals_gradient_descent_in_numpy():
    """A linear encoder and a learned dictionary on the paper's loss, gradients by hand."""
    rate, penalty = 0.5, 0.2
    start = fit(num_steps=0).params
    weight, bias = (np.asarray(x, np.float64) for x in start.encoder)
    atoms, signals = np.asarray(start.dictionary, np.float64), SIGNALS.astype(np.float64)
    for _ in range(20):
        atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        codes = np.maximum(signals @ weight.T + bias, 0)
        residual = 2 * (codes @ atoms - signals) / signals.size
        upstream = (residual @ atoms.T + penalty / codes.size) * (codes > 0)
        weight = weight - rate * upstream.T @ signals
        bias = bias - rate * upstream.sum(axis=0)
        atoms = atoms - rate * codes.T @ residual
    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    ours = fit(optimizer=optax.sgd, learning_rate=rate, penalty=penalty).params
    moved = np.max(np.abs(np.asarray(start.dictionary) - atoms))
    assert moved > 0.02
    np.testing.assert_allclose(ours.encoder.weight, weight, atol=2e-6)
    np.testing.assert_allclose(ours.encoder.bias, bias, atol=2e-6)
    np.testing.assert_allclose(ours.dictionary, atoms, atol=2e-6)


def test_free_codes_on_the_papers_loss_are_the_log_adam_solver():
    """The equivalence that log_adam's docstring states, epsilon included."""
    fitted = fit(
        encoder=FREE, dictionary=DICTIONARY, penalty=0.3, learning_rate=0.05, num_steps=300
    )
    problem = Lasso(SIGNALS, DICTIONARY, np.float32(0.3 * M / (2 * N)), np.float32(0.05))
    solver = solvers.log_adam(epsilon=1e-8 * S * M / 2)
    codes = solvers.solve(solver, problem, num_steps=300)
    trained = FREE.apply(fitted.params.encoder, SIGNALS)
    assert float(jnp.max(codes)) > 0.3
    np.testing.assert_allclose(trained, codes, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_scan_over_train_step_is_fit(batch_size):
    fitted = fit(batch_size=batch_size)
    start = fit(num_steps=0)
    data = TrainData(jnp.asarray(SIGNALS), None, None, jnp.float32(0.01), jnp.float32(0.01))
    state = training.init_state(KEY, start.state.params, data)
    recipe = training.Recipe(loss=losses.paper, batch_size=batch_size)
    step = functools.partial(training.train_step, encoder=LINEAR, recipe=recipe)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: (step(s, data), s.loss), state, length=20)[0]

    chex.assert_trees_all_close(host(run(state)), host(fitted.state), rtol=1e-5, atol=1e-6)
    assert int(fitted.state.step) == 20
    assert eval_flops(step, state, data).total("matmul") > 4 * M * N * (batch_size or S)


def test_minibatches_are_drawn_anew_each_step_from_the_key_and_the_step():
    seen = []

    def loss(codes, batch):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), batch.signals)
        return losses.paper(codes, batch)

    fit(loss=loss, batch_size=7, num_steps=4)
    jax.effects_barrier()
    expected = []
    for step in range(4):
        bits = jax.random.bits(jax.random.fold_in(KEY, step), (7,), jnp.uint32)
        expected.append(SIGNALS[[int(b) * S >> 32 for b in bits]])
    np.testing.assert_array_equal(seen, expected)
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("num_rows", [1, 2, 1000, 65_535, 65_536, 70_001, 2**31 - 1])
def test_rows_are_the_upper_half_of_the_product_of_bits_and_their_number(num_rows):
    rows = _draws.random_rows(KEY, 1000, num_rows)
    bits = jax.random.bits(KEY, (1000,), jnp.uint32)
    np.testing.assert_array_equal(rows, [int(b) * num_rows >> 32 for b in bits])


def test_true_codes_follow_their_signals_into_a_minibatch():
    def loss(codes, batch):
        mismatch = jnp.sum((batch.signals - batch.true_codes @ batch.dictionary) ** 2)
        return mismatch + 0 * jnp.sum(codes)

    fitted = fit(dictionary=DICTIONARY, true_codes=CODES, loss=loss, batch_size=7, num_steps=3)
    assert float(fitted.state.loss) < 1e-8


@each_setting
def test_learned_atoms_have_unit_norm_and_fixed_ones_stay(setting):
    fitted = fit(record=identity, record_steps=[0, 5, 20], **setting)
    for dictionary in (fitted.params.dictionary, *fitted.records.dictionary):
        if "dictionary" in setting:
            np.testing.assert_array_equal(dictionary, setting["dictionary"])
        else:
            np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1, rtol=1e-6)


def test_a_fixed_dictionary_is_not_renormalized():
    fitted = fit(dictionary=3 * DICTIONARY)
    np.testing.assert_array_equal(fitted.params.dictionary, 3 * DICTIONARY)
    codes = LINEAR.apply(fitted.params.encoder, SIGNALS)
    assert codes.shape == (S, N)


@pytest.mark.parametrize("dictionary", [None, DICTIONARY], ids=["learned", "fixed"])
def test_sparse_coding_by_free_codes_lowers_the_loss(dictionary):
    kwargs = {} if dictionary is None else {"dictionary": dictionary}
    fitted = fit(
        encoder=FREE,
        num_steps=1500,
        learning_rate=0.03,
        penalty=0.01,
        record=identity,
        record_steps=[0, 300, 1500],
        **kwargs,
    )
    values = [
        sc.objectives.paper_loss(
            SIGNALS, atoms, FREE.apply(encoders.FreeCodesParams(logs), SIGNALS), 0.01
        )
        for atoms, logs in zip(
            fitted.records.dictionary, fitted.records.encoder.log_codes, strict=True
        )
    ]
    assert values[0] > 5 * values[1] > 5 * values[2]
    assert float(fitted.state.loss) == pytest.approx(float(values[2]), rel=0.05)


def test_training_an_autoencoder_explains_the_signals():
    problem = sparse_problem(5, num_samples=500)
    fitted = fit(signals=problem.signals, num_steps=1500, batch_size=64, penalty=0.001)
    codes = LINEAR.apply(fitted.params.encoder, problem.signals)
    reconstruction = sc.dictionaries.reconstruct(codes, fitted.params.dictionary)
    assert float(sc.metrics.r2(problem.signals, reconstruction)) > 0.9


# --- losses --------------------------------------------------------------------------------------


def test_losses_against_numpy():
    rng = np.random.default_rng(0)
    codes = np.abs(rng.normal(size=CODES.shape)).astype(np.float32)
    batch = losses.Batch(SIGNALS, DICTIONARY, np.float32(0.3), CODES)
    x, d, z, true = as_numpy((SIGNALS, DICTIONARY, codes, CODES))
    squares = (x - z @ d) ** 2
    expected = squares.mean() + 0.3 * np.abs(z).mean()
    assert float(losses.paper(codes, batch)) == pytest.approx(expected, rel=1e-5)
    expected = np.mean(0.5 * squares.sum(axis=1) + 0.3 * np.abs(z).sum(axis=1))
    assert float(losses.lasso(codes, batch)) == pytest.approx(expected, rel=1e-5)
    norms = np.linalg.norm(z, axis=0) * np.linalg.norm(true, axis=0)
    expected = -np.mean((z * true).sum(axis=0) / norms)
    assert float(losses.cosine(codes, batch)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.cosine(true, batch)) == pytest.approx(-1, abs=1e-5)
    assert float(losses.cosine(-5 * true, batch)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "loss", [losses.paper, losses.lasso, losses.cosine], ids=lambda f: f.__name__
)
def test_losses_do_not_depend_on_the_size_of_the_batch_and_have_finite_gradients(loss):
    codes = CODES + 0.1
    double = [np.concatenate([x, x]) for x in (SIGNALS, CODES, codes)]
    once = loss(codes, losses.Batch(SIGNALS, DICTIONARY, 0.3, CODES))
    twice = loss(double[2], losses.Batch(double[0], DICTIONARY, 0.3, double[1]))
    assert float(once) == pytest.approx(float(twice), rel=1e-5)
    dead = codes * (np.arange(N) > 2)
    batch = losses.Batch(SIGNALS, DICTIONARY, 0.3, CODES * (np.arange(N) != 7))
    chex.assert_tree_all_finite(jax.grad(loss)(dead.astype(np.float32), batch))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.paper, "losses.paper: there is no dictionary; pass dictionary= "),
        (losses.lasso, "losses.lasso: there is no dictionary; pass dictionary= "),
        (losses.cosine, "losses.cosine: there are no true codes; give fit .signals, true_codes."),
    ],
)
def test_losses_say_what_they_miss(loss, message):
    with pytest.raises(ValueError, match=message):
        loss(CODES, losses.Batch(SIGNALS, None, 0.3, None))


# --- starts and records --------------------------------------------------------------------------


def test_no_steps_return_the_start():
    fitted = fit(num_steps=0, record=identity, record_steps=[0])
    assert int(fitted.state.step) == 0
    assert np.isinf(fitted.state.loss) and fitted.losses.shape == (0,)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[0], fitted.records), fitted.params, rtol=1e-6
    )
    encoder_key, dictionary_key = jax.random.split(KEY)
    drawn = sc.dictionaries.random(dictionary_key, num_atoms=N, num_measurements=M)
    chex.assert_trees_all_close(
        fitted.params, Autoencoder(LINEAR.init(encoder_key), drawn), rtol=1e-6
    )


def test_training_starts_at_params0():
    start = fit(num_steps=5).params
    again = fit(num_steps=0, params0=start).params
    chex.assert_trees_all_close(again, start, rtol=1e-6)
    scaled = fit(num_steps=0, params0=start._replace(dictionary=5 * start.dictionary)).params
    chex.assert_trees_all_close(scaled, start, rtol=1e-6)
    moved = fit(num_steps=5, params0=start)
    assert float(moved.state.loss) < float(fit(num_steps=5).state.loss)
    fixed = fit(num_steps=5, params0=start._replace(dictionary=None), dictionary=DICTIONARY)
    np.testing.assert_array_equal(fixed.params.dictionary, DICTIONARY)
    keys = jax.random.split(KEY, 2)
    runs = fit(keys, num_steps=3).params
    chex.assert_trees_all_close(fit(keys, num_steps=0, params0=runs).params, runs, rtol=1e-6)


def test_a_loss_without_dictionary_needs_none():
    start = Autoencoder(LINEAR.init(KEY), None)
    kwargs = {"params0": start, "true_codes": CODES, "loss": losses.cosine}
    fitted = fit(num_steps=200, **kwargs)
    assert fitted.params.dictionary is None
    assert float(fitted.state.loss) < float(fit(num_steps=1, **kwargs).state.loss) - 0.2


def test_records_are_taken_at_their_steps():
    steps = [0, 1, 7, 20]
    fitted = fit(
        record=lambda p: {"w": p.encoder.weight, "n": (p.dictionary**2).sum()}, record_steps=steps
    )
    np.testing.assert_array_equal(fitted.steps, steps)
    assert fitted.records["w"].shape == (4, N, M)
    np.testing.assert_allclose(fitted.records["n"], N, rtol=1e-6)
    for step, weight in zip(steps, fitted.records["w"], strict=True):
        np.testing.assert_array_equal(weight, fit(num_steps=step).params.encoder.weight)
    without = fit()
    assert without.records is None
    assert without.steps.shape == (0,)


# --- divergence ----------------------------------------------------------------------------------


DIVERGING = {
    "encoder": FREE,
    "learning_rate": np.array([1e-3, 1e30], np.float32),
    "key": jax.random.split(KEY, 2),
}


def test_a_diverging_run_is_named(monkeypatch):
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 0.0)
    message = r"fit: the loss of run 1 \(of 2\) is not finite at step 2; .*Lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(**DIVERGING)


def test_the_step_of_divergence_is_true_whatever_the_chunks(monkeypatch):
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)  # looks at steps 1, 11, 20
    with pytest.raises(FloatingPointError, match="run 1 .* is not finite (at step 2|by step 11);"):
        fit(**DIVERGING)


def test_divergence_keeps_the_last_checkpoint_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 0.0)
    with pytest.raises(FloatingPointError) as caught:
        fit(checkpoint=tmp_path / "c", **DIVERGING)
    (note,) = caught.value.__notes__
    step = int(re.search(r"c keeps step (\d+); the same call goes on from it", note)[1])
    with np.load(tmp_path / "c") as kept:
        assert np.all(kept["0"] == step)
        assert all(np.isfinite(kept[str(i)]).all() for i in range(2, 5))  # the parameters


# --- the rest ------------------------------------------------------------------------------------


def test_double_precision():
    with jax.enable_x64(True):
        double = fit(signals=SIGNALS.astype(np.float64))
    assert double.params.encoder.weight.dtype == np.float64
    single = fit(params0=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), double.params))
    assert np.all(np.isfinite(single.state.loss))


@pytest.mark.parametrize("loss", [losses.paper, losses.cosine], ids=["paper", "cosine"])
@pytest.mark.parametrize("encoder", [LINEAR, FREE], ids=["linear", "free_codes"])
@pytest.mark.parametrize("fixed", [False, True])
def test_single_precision_signals_in_double_precision_mode(loss, encoder, fixed):
    kwargs = {"dictionary": DICTIONARY} if fixed else {"num_atoms": N}
    with jax.enable_x64(True):
        fitted = fit(encoder=encoder, true_codes=CODES, loss=loss, num_steps=2, **kwargs)
        assert np.isfinite(fitted.state.loss)


def test_a_loss_may_be_of_lower_precision_than_the_parameters():
    def loss(codes, batch):
        return jnp.mean((codes - batch.true_codes) ** 2).astype(jnp.bfloat16)

    assert np.isfinite(fit(true_codes=CODES, loss=loss, num_steps=2).state.loss)


def test_integer_signals_are_cast():
    fitted = fit(signals=np.round(3 * SIGNALS).astype(int), num_steps=2)
    assert fitted.params.dictionary.dtype == jnp.float32


def test_the_bar_is_labelled_or_absent(capfd):
    fit(progress=None)
    assert capfd.readouterr() == ("", "")
    fit(progress="training the SAE", num_steps=3)
    out, err = capfd.readouterr()
    assert out == ""
    assert "training the SAE" in err
    assert "3/3" in err
    assert "loss" in err


def test_all_of_fit_is_public():
    assert {"fit", "train_step", "init_state", "losses"} <= set(training.__all__)
    assert training.fit is fit_module.fit
