"""Runs of training: streams of signals, budgets of FLOPs, news, scores."""

import functools
import itertools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders, metrics, training
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import TrainData, _curve, losses

from .contracts import M, N
from .fitting import (
    CODES,
    DICTIONARY,
    KEY,
    LINEAR,
    SIGNALS,
    fit,
    start,
)

# --- streams -------------------------------------------------------------------------------------


def draw(key, step):
    """Draw a batch on the device."""
    codes = jnp.where(jax.random.uniform(key, (16, N)) < 0.2, jax.random.normal(key, (16, N)), 0)
    return jnp.abs(codes) @ DICTIONARY + 0.01 * step


def test_a_sampler_draws_each_step_from_the_key_and_the_step():
    got = fit(signals=draw, optimizer=optax.sgd)
    batches = (draw(jax.random.fold_in(KEY, t), t) for t in range(12))
    expected = fit(signals=batches, optimizer=optax.sgd)
    chex.assert_trees_all_close(got.params, expected.params, atol=1e-6)
    runs = fit(jax.random.split(KEY, 2), signals=draw, optimizer=optax.sgd)
    alone = fit(jax.random.split(KEY, 2)[1], signals=draw, optimizer=optax.sgd)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], runs.params), alone.params, atol=1e-6)


def test_an_iterator_of_the_same_batch_is_the_array():
    expected = fit(num_steps=9)
    got = fit(signals=itertools.repeat(SIGNALS, 9), num_steps=None)
    chex.assert_trees_all_equal(got.params, expected.params)
    assert int(got.state.step) == 9 and got.flops == expected.flops


def test_streams_may_carry_true_codes():
    options = {"dictionary": DICTIONARY, "loss": losses.cosine}
    expected = fit(true_codes=CODES, **options)
    got = fit(signals=iter([(SIGNALS, CODES)] * 12), **options)
    chex.assert_trees_all_equal(got.params, expected.params)
    drawn = fit(signals=lambda key, step: (jnp.asarray(SIGNALS), jnp.asarray(CODES)), **options)
    chex.assert_trees_all_close(drawn.params, expected.params, atol=1e-6)


def test_a_stream_that_ends_early_returns_what_was_trained():
    with pytest.warns(UserWarning, match="ended after 5 of 12 steps"):
        got = fit(signals=iter([SIGNALS] * 5), record=lambda p: p.dictionary, record_steps=[2, 9])
    assert int(got.state.step) == 5 and got.steps.tolist() == [2]
    assert len(got.records) == 1 and got.loss_steps.tolist() == [1, 2, 3, 4, 5]
    chex.assert_trees_all_equal(got.params, fit(num_steps=5).params)


def test_a_stream_resumes_where_it_was(tmp_path):
    batches = [SIGNALS * (1 + 0.1 * i) for i in range(12)]
    expected = fit(signals=iter(batches))
    fit(signals=iter(batches), num_steps=7, checkpoint=tmp_path / "run")
    got = fit(signals=iter(batches), checkpoint=tmp_path / "run")
    chex.assert_trees_all_equal(got.params, expected.params)
    fit(signals=iter(batches), num_steps=7, checkpoint=tmp_path / "other")
    before = (tmp_path / "other").read_bytes()
    changed = [*batches[:6], batches[6] + 1e-6, *batches[7:]]
    with pytest.raises(ValueError, match=r"another run \(the first 7 batches differ\)"):
        fit(signals=iter(changed), checkpoint=tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == before


# --- budgets, news, scores -----------------------------------------------------------------------


def test_a_budget_of_flops_sets_the_number_of_steps():
    data = TrainData(SIGNALS, None, None, jnp.float32(0.01), jnp.float32(0.01))
    params = start()
    state = training.init_state(KEY, params, data)
    step = functools.partial(
        training.train_step, encoder=LINEAR, recipe=training.Recipe(losses.paper)
    )
    one = int(eval_flops(step, state, data).total())
    got = fit(num_steps=training.MaxFlops(10.9 * one))
    assert int(got.state.step) == 10 and got.flops == 10 * one
    many = fit(jax.random.split(KEY, 3), num_steps=training.MaxFlops(10.9 * one))
    assert many.flops == got.flops and many.state.step.tolist() == [10] * 3
    other = fit(encoder=encoders.mlp(M, N), num_steps=training.MaxFlops(10.9 * one))
    assert 0 < int(other.state.step) < 10 and other.flops <= 10.9 * one


def test_resampling_is_charged_and_fits_into_the_budget():
    options = {"dead_after": 2, "resample_every": 5}
    flops = {n: fit(num_steps=n, **options).flops for n in (1, 5, 6, 10, 11)}
    step = flops[1]
    again = flops[6] - 6 * step
    assert again > 2 * len(SIGNALS) * M * N  # it encodes and decodes all signals
    assert flops[5] == 5 * step and flops[10] == 10 * step + again
    assert flops[11] == 11 * step + 2 * again
    assert int(fit(num_steps=training.MaxFlops(np.inf), callback=lambda news: True).state.step) == 1
    for budget in (flops[10], flops[11] - 1, flops[11]):
        got = fit(num_steps=training.MaxFlops(budget), **options)
        assert int(got.state.step) == (11 if budget == flops[11] else 10)
        assert got.flops <= budget


def test_flops_so_far_are_kept_at_the_records():
    steps, record = [0, 5, 12], lambda p: p.dictionary
    got = fit(record=record, record_steps=steps)
    np.testing.assert_array_equal(got.record_flops, np.asarray(steps) * (got.flops // 12))
    options = {"dead_after": 2, "resample_every": 5, "record": record, "record_steps": steps}
    runs = fit(jax.random.split(KEY, 2), **options)
    alone = [0] + [fit(num_steps=n, dead_after=2, resample_every=5).flops for n in (5, 12)]
    np.testing.assert_array_equal(runs.record_flops, alone)


def test_a_callback_may_take_metrics_of_what_would_be_returned():
    scores, seen = training.scores(LINEAR, SIGNALS), []
    got = fit(callback=lambda news: seen.append((news.params, scores(news.params))))
    chex.assert_trees_all_equal(seen[-1][0], got.params)
    assert float(seen[-1][1]["r2"]) > float(seen[0][1]["r2"])


def test_a_callback_is_told_and_may_stop():
    news = []
    full = fit(callback=news.append, record=lambda p: p.dictionary, record_steps=[4, 8])
    assert [n.step for n in news][-1] == 12 and {4, 8} <= {n.step for n in news}
    assert news[-1].flops == full.flops and news[-1].loss == full.state.loss
    assert all(b.seconds >= a.seconds for a, b in itertools.pairwise(news))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut = fit(
            callback=lambda n: n.step >= 4, record=lambda p: p.dictionary, record_steps=[4, 8]
        )
    assert int(cut.state.step) == 4 and cut.steps.tolist() == [4]
    chex.assert_trees_all_equal(cut.params, fit(num_steps=4).params)


def test_a_callback_may_stop_on_the_loss():
    assert int(fit(callback=lambda n: n.loss < 1e9).state.step) < 12
    keys = jax.random.split(KEY, 2)
    assert fit(keys, callback=lambda n: n.loss < 1e9).state.step.tolist() < [12, 12]
    assert int(fit(callback=lambda n: None).state.step) == 12


def test_a_curve_of_losses_is_kept_without_being_asked_for():
    got = fit()
    assert got.loss_steps.tolist() == list(range(1, 13)) and got.losses[-1] == got.state.loss
    assert got.losses[4] == fit(num_steps=5).state.loss
    runs = fit(jax.random.split(KEY, 2))
    assert runs.losses.shape == (12, 2)
    chex.assert_trees_all_close(
        runs.losses[:, 0], fit(jax.random.split(KEY, 2)[0]).losses, rtol=1e-5
    )


@pytest.mark.parametrize("num_steps", [40, 41, 81, 160, 163])
def test_a_long_curve_has_no_more_points_than_it_may(num_steps, monkeypatch, tmp_path):
    full = fit(num_steps=num_steps).losses
    monkeypatch.setattr(_curve, "_POINTS", 40)
    got = fit(num_steps=num_steps)
    every = got.loss_steps[0]
    assert len(got.losses) == num_steps // every <= 40 and every == 2 ** int(np.log2(every))
    np.testing.assert_array_equal(got.losses, full[every - 1 :: every])
    for cut in (40, 80, num_steps):
        if cut <= num_steps:
            again = fit(num_steps=cut, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(again.losses, got.losses)  # wherever it was cut


def test_scores_are_the_metrics():
    record = training.scores(LINEAR, SIGNALS, true_codes=CODES, true_dictionary=DICTIONARY)
    got = fit(record=record, record_steps=[12], bias="mean")
    params = got.params
    codes = LINEAR.apply(params.encoder, SIGNALS)
    reconstruction = codes @ params.dictionary + params.bias
    expected = {
        "l0": float(jnp.mean(jnp.sum(codes != 0, axis=1))),
        "dead": float(jnp.mean(jnp.all(codes == 0, axis=0))),
        "mse": float(jnp.mean((SIGNALS - reconstruction) ** 2)),
        "mcc": float(sc.metrics.mcc(CODES, codes)),
        "r2": float(sc.metrics.r2(SIGNALS, reconstruction)),
        "dictionary_mcc": float(sc.metrics.dictionary_mcc(DICTIONARY, params.dictionary)),
    }
    assert got.records.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got.records[name], [value], rtol=1e-4, err_msg=name)


# --- a penalty that is steered -------------------------------------------------------------------


def test_a_penalty_is_steered_by_the_codes_of_each_step():
    """Against the law itself, with the codes of a run whose penalty is kept at each step's."""
    target, penalties, params = 2.0, [0.05], start()
    for _ in range(6):
        count = np.mean(np.sum(np.asarray(LINEAR.apply(params.encoder, SIGNALS)) != 0, axis=1))
        step = fit(num_steps=1, params0=params, penalty=penalties[-1], optimizer=optax.sgd)
        penalties.append(penalties[-1] * np.exp(0.01 * np.clip(count / target - 1, -1, 1)))
        params = step.params
    found = fit(num_steps=6, params0=start(), penalty=0.05, target_l0=target, optimizer=optax.sgd)
    assert float(found.state.penalty) == pytest.approx(penalties[-1], rel=1e-5)
    chex.assert_trees_all_close(found.params, params, atol=1e-6)
    assert len(set(np.round(penalties, 6))) == 7


def test_runs_of_several_l0_reach_theirs():
    targets = np.array([1.5, 3.0], np.float32)
    found = fit(
        jax.random.split(KEY), target_l0=targets, penalty=0.1, num_steps=2500, loss=losses.lasso
    )
    reached = jax.vmap(lambda p: metrics.l0(LINEAR.apply(p, SIGNALS)))(found.params.encoder)
    np.testing.assert_allclose(reached, targets, rtol=0.1)
    assert found.state.penalty.shape == (2,) and found.state.penalty[0] > found.state.penalty[1]
    one = fit(target_l0=2.0, num_steps=1).flops - fit(num_steps=1).flops
    assert 0 < one <= 2 * CODES.size + 20


def test_a_penalty_is_steered_so_far_and_no_farther():
    none = losses.squared_error  # which knows no penalty
    found = fit(target_l0=1.0, penalty=0.1, num_steps=3000, loss=none)
    assert float(found.state.penalty) == pytest.approx(1e5, rel=1e-4)


def test_a_schedule_is_a_factor_of_a_steered_penalty_and_it_resumes(tmp_path):
    options = {"penalty": 0.1, "target_l0": 2.0, "loss": losses.lasso}
    plain = fit(**options)
    half = {**options, "penalty": 0.05}
    halved = fit(**options, penalty_schedule=lambda step: jnp.where(step < 0, 1.0, 0.5))
    chex.assert_trees_all_close(halved.params, fit(**half).params, rtol=1e-5, atol=1e-7)
    assert float(halved.state.penalty) == pytest.approx(2 * float(fit(**half).state.penalty))
    file = tmp_path / "run.npz"
    fit(**options, num_steps=5, checkpoint=file)
    chex.assert_trees_all_equal(fit(**options, checkpoint=file).state, plain.state)
    with pytest.raises(ValueError, match="target_l0"):
        fit(**{**options, "target_l0": 3.0}, checkpoint=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_l0": 0.0}, "target_l0"),
        ({"target_l0": float(N + 1)}, f"target_l0 is {N + 1} but there are {N} latents"),
        ({"target_l0": 2.0, "penalty": 0.0}, "the penalty is 0 and target_l0 is given"),
        ({"target_l0": np.ones(3)}, "target_l0 of shape"),
        ({"target_l0": np.nan}, "target_l0"),
    ],
)
def test_l0_that_no_penalty_is_steered_to(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**options)
