"""What training can do besides plain steps: schedules, averages, streams, dead latents, budgets."""

import functools
import itertools
import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders, learning
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.learning import Autoencoder, TrainData, losses, schedules

from .contracts import M, N, sparse_problem

KEY = jax.random.key(0)
LINEAR = encoders.linear(M, N)
TOP_K = encoders.top_k(M, N, num_active=3)
SIGNALS, DICTIONARY, CODES = sparse_problem()


def fit(key=KEY, encoder=LINEAR, signals=SIGNALS, **kwargs):
    if not {"dictionary", "num_atoms", "params0"} & kwargs.keys():
        kwargs["num_atoms"] = N
    if not {"num_steps", "max_flops"} & kwargs.keys():
        kwargs["num_steps"] = 12
    return learning.fit(
        key, encoder, signals, **{"learning_rate": 0.01, "progress": None, **kwargs}
    )


def by_hand(num_steps, *, params, update, loss=losses.paper, encoder=LINEAR):
    """Train with a loop of our own: ``update(gradients, params, step) -> params``."""
    history = [params]
    for step in range(num_steps):
        atoms = params.dictionary / jnp.linalg.norm(params.dictionary, axis=1, keepdims=True)
        params = params._replace(dictionary=atoms)

        def objective(p):
            batch = losses.Batch(SIGNALS, p.dictionary, jnp.float32(0.01), None, p.bias)
            return loss(encoder.apply(p.encoder, SIGNALS), batch)

        params = update(jax.grad(objective)(params), params, step)
        history.append(params)
    return history


def start():
    return fit(num_steps=0).params


PARAMS = Autoencoder(LINEAR.init(KEY), jnp.asarray(DICTIONARY))


def unit(params):
    atoms = params.dictionary / jnp.linalg.norm(params.dictionary, axis=1, keepdims=True)
    return params._replace(dictionary=atoms)


# --- schedules, clipping, averages -----------------------------------------------------------


def test_schedules_have_the_shapes_they_say():
    steps = jnp.arange(0, 40)
    rise = schedules.warmup(10)(steps)
    np.testing.assert_allclose(rise, np.minimum(np.arange(1, 41) / 10, 1), rtol=1e-6)
    wave = jax.vmap(schedules.cosine(40, last=0.1))(steps)
    np.testing.assert_allclose(
        wave, [optax.cosine_decay_schedule(1.0, 40, alpha=0.1)(t) for t in range(40)], atol=1e-6
    )
    line = schedules.linear_decay(40, num_warmup=5, num_decay=10)(steps)
    assert float(line[4]) == 1 and float(line[30]) == 1 and float(line[35]) == 0.5
    assert schedules.warmup(10) is schedules.warmup(10)
    assert float(schedules.cosine(40)(100)) == pytest.approx(0, abs=1e-7)


def test_a_schedule_survives_a_traced_peak():
    rates = jnp.asarray([0.003, 0.03])
    together = fit(
        jax.random.split(KEY, 2), learning_rate=rates, learning_rate_schedule=schedules.cosine(12),
        optimizer=optax.sgd,
    )  # fmt: skip
    shape = schedules.cosine(12)
    for i, rate in enumerate(rates):
        params = fit(jax.random.split(KEY, 2)[i], num_steps=0).params

        def update(g, p, step, rate=rate):
            return jax.tree.map(lambda x, s: x - rate * shape(step) * s, p, g)

        expected = unit(by_hand(12, params=params, update=update)[-1])
        got = jax.tree.map(lambda x, i=i: x[i], together.params)
        chex.assert_trees_all_close(got, expected, atol=1e-6)


def test_the_penalty_warms_up():
    seen = []

    def loss(codes, batch):
        jax.debug.callback(lambda p: seen.append(float(p)), batch.penalty)
        return losses.paper(codes, batch)

    fit(loss=loss, penalty=0.5, penalty_schedule=schedules.warmup(4), num_steps=6)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen)[-6:], [0.125, 0.25, 0.375, 0.5, 0.5, 0.5], rtol=1e-6)


def test_long_gradients_are_clipped_as_optax_does():
    def clipped(rate):
        return optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(rate))

    expected = fit(optimizer=clipped, learning_rate=0.5)
    got = fit(optimizer=optax.sgd, learning_rate=0.5, max_gradient_norm=0.05)
    chex.assert_trees_all_close(got.params, expected.params, atol=1e-6)
    free = fit(optimizer=optax.sgd, learning_rate=0.5)
    assert float(jnp.abs(got.params.dictionary - free.params.dictionary).max()) > 1e-3


def test_parameters_are_averaged_without_bias_to_zero():
    def update(g, p, step):
        return jax.tree.map(lambda x, s: x - 0.3 * s, p, g)

    history = by_hand(12, params=start(), update=update)[1:]
    weights = 0.8 ** np.arange(11, -1, -1)
    weights /= weights.sum()
    mean = jax.tree.map(lambda *x: sum(w * y for w, y in zip(weights, x, strict=True)), *history)
    got = fit(optimizer=optax.sgd, learning_rate=0.3, average_decay=0.8)
    chex.assert_trees_all_close(got.params, unit(mean), atol=1e-6)
    nothing = fit(average_decay=0.8, num_steps=0)
    chex.assert_trees_all_close(nothing.params, start(), atol=1e-7)


# --- the decoder -----------------------------------------------------------------------------


def test_projected_gradients_are_orthogonal_to_their_atoms():
    def update(g, p, step):
        atoms = p.dictionary
        along = jnp.sum(g.dictionary * atoms, axis=1, keepdims=True)
        assert float(jnp.abs(along).max()) > 1e-4
        g = g._replace(dictionary=g.dictionary - along * atoms)
        return jax.tree.map(lambda x, s: x - 0.3 * s, p, g)

    expected = unit(by_hand(12, params=start(), update=update)[-1])
    got = fit(optimizer=optax.sgd, learning_rate=0.3, project_gradient=True)
    chex.assert_trees_all_close(got.params, expected, atol=1e-6)


def test_atoms_of_any_norm_if_asked():
    free = fit(unit_atoms=False, loss=losses.l1, num_steps=30, learning_rate=0.05)
    norms = jnp.linalg.norm(free.params.dictionary, axis=1)
    assert float(jnp.abs(norms - 1).max()) > 0.05


def test_the_decoder_bias_starts_at_the_mean_and_learns():
    shifted = SIGNALS + 3
    encoder = encoders.centered(LINEAR, M)
    begun = fit(encoder=encoder, signals=shifted, decoder_bias=True, num_steps=0)
    np.testing.assert_allclose(begun.params.bias, shifted.mean(0), rtol=1e-5)
    done = fit(encoder=encoder, signals=shifted, decoder_bias=True, num_steps=300)
    assert float(jnp.abs(done.params.bias - begun.params.bias).max()) > 1e-3
    np.testing.assert_array_equal(done.params.encoder.center, done.params.bias)  # tied
    record = learning.scores(encoder, shifted)
    assert record(done.params)["r2"] > record(begun.params)["r2"]
    own = fit(encoder=encoders.centered(LINEAR, M, tie=False), signals=shifted, decoder_bias=True)
    assert float(jnp.abs(own.params.encoder.center - own.params.bias).max()) > 1


def test_a_tied_weight_is_the_dictionary_and_both_uses_move_it():
    encoder = encoders.tied(encoders.linear(M, N, use_bias=False))

    def objective(atoms):
        codes = jnp.maximum(SIGNALS @ atoms.T, 0)
        error = jnp.mean((SIGNALS - codes @ atoms) ** 2)
        return error + 0.01 * jnp.mean(jnp.abs(codes))

    atoms = fit(encoder=encoder, num_steps=0).params.dictionary
    for _ in range(5):
        atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
        atoms = atoms - 0.3 * jax.grad(objective)(atoms)
    atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
    got = fit(encoder=encoder, num_steps=5, optimizer=optax.sgd, learning_rate=0.3).params
    np.testing.assert_allclose(got.dictionary, atoms, atol=1e-6)
    np.testing.assert_array_equal(got.encoder.weight, got.dictionary)


# --- normalization ---------------------------------------------------------------------------

FOLDING = {
    "linear": LINEAR,
    "top_k": TOP_K,
    "jump_relu": encoders.jump_relu(M, N, threshold0=0.1, bandwidth=0.1),
    "centered": encoders.centered(encoders.tied(LINEAR), M),
    "lista": encoders.lista(M, N, num_layers=3),
}


@pytest.mark.parametrize("encoder", FOLDING.values(), ids=FOLDING.keys())
def test_normalization_is_folded_into_the_parameters(encoder):
    options = {"loss": losses.lasso, "decoder_bias": True, "encoder": encoder}
    scale = np.sqrt(np.mean(SIGNALS**2))
    plain = fit(signals=SIGNALS / scale, **options).params
    folded = fit(normalize=True, **options).params
    codes = encoder.apply(plain.encoder, SIGNALS / scale)
    np.testing.assert_allclose(encoder.apply(folded.encoder, SIGNALS), scale * codes, atol=2e-5)
    np.testing.assert_allclose(folded.bias, scale * plain.bias, atol=1e-5)
    np.testing.assert_allclose(folded.dictionary, plain.dictionary, atol=1e-5)
    again = fit(normalize=True, params0=folded, num_steps=0, **options)  # unfolded, and folded
    chex.assert_trees_all_close(again.params, folded, atol=1e-6)


# --- streams ---------------------------------------------------------------------------------


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
    assert len(got.records) == len(got.losses) == 1
    chex.assert_trees_all_equal(got.params, fit(num_steps=5).params)


def test_a_stream_resumes_where_it_was(tmp_path):
    batches = [SIGNALS * (1 + 0.1 * i) for i in range(12)]
    expected = fit(signals=iter(batches))
    fit(signals=iter(batches), num_steps=7, checkpoint=tmp_path / "run")
    got = fit(signals=iter(batches), checkpoint=tmp_path / "run")
    chex.assert_trees_all_equal(got.params, expected.params)


# --- dead latents ----------------------------------------------------------------------------


def dead_start(encoder=LINEAR, dead=slice(0, 5)):
    params = fit(encoder=encoder, num_steps=0).params
    bias = params.encoder.bias.at[dead].set(-100.0)
    return params._replace(encoder=params.encoder._replace(bias=bias))


def test_idle_counts_the_steps_since_activity():
    got = fit(params0=dead_start(), dead_after=3, num_steps=7)
    active = np.asarray(LINEAR.apply(got.params.encoder, SIGNALS) > 0).any(0)
    assert np.all(np.asarray(got.state.idle)[:5] == 7)
    assert np.all(np.asarray(got.state.idle)[5:][active[5:]] == 0)
    assert fit().state.idle is None


def test_resampling_restarts_dead_latents_alone_and_resets_their_optimizer():
    options = {"dead_after": 3, "resample_every": 6, "learning_rate": 1e-12}
    early = fit(params0=dead_start(), num_steps=6, **options)
    after = fit(params0=dead_start(), num_steps=7, **options)  # resampled, and one idle step
    dead = np.asarray(early.state.idle) >= 3
    assert dead[:5].all() and not dead.all()
    old, new = early.params, after.params
    np.testing.assert_allclose(new.dictionary[~dead], old.dictionary[~dead], atol=1e-6)
    np.testing.assert_allclose(new.encoder.weight[~dead], old.encoder.weight[~dead], atol=1e-6)
    rows = SIGNALS / np.linalg.norm(SIGNALS, axis=1, keepdims=True)
    cosines = np.asarray(new.dictionary[dead]) @ rows.T
    np.testing.assert_allclose(cosines.max(1), 1, atol=1e-5)  # each is one of the signals
    norms = np.linalg.norm(np.asarray(new.encoder.weight), axis=1)
    np.testing.assert_allclose(norms[dead], 0.2 * norms[~dead].mean(), rtol=1e-4)
    np.testing.assert_allclose(new.encoder.bias[dead], 0, atol=1e-6)
    assert np.all(np.asarray(after.state.idle)[dead] <= 1)
    # their first moment has seen one gradient, the others' seven
    moments = after.state.optimizer[0].mu.encoder.weight
    fresh = fit(params0=new, num_steps=1, **options).state.optimizer[0].mu.encoder.weight
    np.testing.assert_allclose(moments[dead], fresh[dead], rtol=1e-3, atol=1e-7)
    assert float(jnp.abs(moments[~dead] - fresh[~dead]).max()) > 1e-4


def all_dead():
    params = fit(num_steps=0).params
    return params._replace(encoder=params.encoder._replace(bias=jnp.full(N, -100.0)))


def test_badly_explained_signals_are_the_first_drawn_and_none_twice():
    signals = np.concatenate([SIGNALS * 1e-3, 10 * SIGNALS[:1]])  # one with nearly all the error
    got = fit(signals=signals, params0=all_dead(), dead_after=1, resample_every=2, num_steps=3,
              learning_rate=1e-12)  # fmt: skip
    direction = SIGNALS[0] / np.linalg.norm(SIGNALS[0])
    np.testing.assert_allclose(got.params.dictionary[0] @ direction, 1, atol=1e-5)
    rows = signals / np.linalg.norm(signals, axis=1, keepdims=True)
    drawn = np.argmax(np.asarray(got.params.dictionary) @ rows[1:].T, axis=1)
    assert len(np.unique(drawn)) >= N - 1  # signal 0 is there twice


def test_zero_signals_give_no_atom_a_new_direction():
    got = fit(signals=0 * SIGNALS, params0=all_dead(), dead_after=1, resample_every=2, num_steps=3)
    np.testing.assert_allclose(jnp.linalg.norm(got.params.dictionary, axis=1), 1, rtol=1e-5)
    assert bool(jnp.all(jnp.isfinite(got.params.encoder.weight)))


def test_numbers_of_layers_are_no_numbers_of_latents():
    """ALISTA of as many layers as atoms: shapes agree, but what they hold does not."""
    encoder = encoders.alista(M, N, num_layers=N)
    own = encoder.init(KEY)._replace(thresholds=jnp.linspace(900.0, 1000.0, N))  # all are dead
    options = {"encoder": encoder, "dead_after": 1, "resample_every": 2, "learning_rate": 1e-12}
    got = fit(params0=Autoencoder(own, DICTIONARY), num_steps=3, **options)
    assert int(got.state.idle.max()) <= 1  # they were resampled
    np.testing.assert_allclose(got.params.encoder.thresholds, own.thresholds, rtol=1e-5)
    np.testing.assert_allclose(got.params.encoder.step_sizes, own.step_sizes, rtol=1e-5)


def test_where_all_latents_are_dead_training_goes_on():
    options = {"params0": all_dead(), "dead_after": 1, "resample_every": 4}
    assert float(jnp.max(LINEAR.apply(fit(num_steps=4, **options).params.encoder, SIGNALS))) == 0
    got = fit(num_steps=60, **options)
    assert float(jnp.mean(LINEAR.apply(got.params.encoder, SIGNALS) > 0)) > 0.05


def test_a_small_batch_restarts_as_many_latents_as_it_has_signals():
    options = {"dead_after": 1, "resample_every": 4, "batch_size": 3, "learning_rate": 1e-12}
    before = fit(params0=all_dead(), num_steps=4, **options).params
    after = fit(params0=all_dead(), num_steps=5, **options).params
    moved = np.abs(np.asarray(after.dictionary - before.dictionary)).max(axis=1) > 1e-3
    assert moved.sum() == 3
    rows = np.asarray(after.encoder.weight)[moved]
    assert len(np.unique(rows.round(6), axis=0)) == 3


def test_averages_of_restarted_latents_start_anew():
    options = {"params0": dead_start(), "dead_after": 3, "resample_every": 6, "num_steps": 7}
    plain = fit(learning_rate=1e-9, **options).params
    mean = fit(learning_rate=1e-9, average_decay=0.99, **options).params
    np.testing.assert_allclose(mean.encoder.bias[:5], plain.encoder.bias[:5], atol=1e-4)
    np.testing.assert_allclose(mean.dictionary[:5], plain.dictionary[:5], atol=1e-4)


def test_a_stream_restarts_latents_at_its_next_batch():
    first, later = np.zeros((2, 20, M), np.float32)
    first[:, 0], later[:, 1] = 1, np.arange(1, 21)
    got = fit(
        signals=iter([first] + [later] * 7), params0=all_dead(), dead_after=1, resample_every=6,
        num_steps=7, learning_rate=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(got.params.dictionary[:, 1], 1, atol=1e-5)


def test_optimizers_with_factored_state_survive_resampling():
    got = fit(params0=dead_start(), dead_after=3, resample_every=6, optimizer=optax.adafactor)
    assert bool(jnp.all(jnp.isfinite(got.params.dictionary)))


@pytest.mark.parametrize("runs", [None, 2], ids=["one_run", "runs"])
def test_resampling_survives_interruption_bit_by_bit(runs, tmp_path):
    keys = KEY if runs is None else jax.random.split(KEY, runs)
    params = dead_start()
    if runs:
        params = jax.tree.map(lambda x: jnp.stack([x] * runs), params)
    options = {"params0": params, "dead_after": 2, "resample_every": 4, "batch_size": 9}
    expected = fit(keys, num_steps=14, **options)
    for stop in (4, 7, 8):  # at a resampling, between, at the next
        fit(keys, num_steps=stop, checkpoint=tmp_path / f"{stop}", **options)
        got = fit(keys, num_steps=14, checkpoint=tmp_path / f"{stop}", **options)
        chex.assert_trees_all_equal(got.params, expected.params)


def test_aux_k_brings_dead_latents_back():
    signals = sparse_problem(num_samples=300).signals
    params = dead_start(TOP_K, slice(0, 8))
    bias = jnp.where(params.encoder.bias < -9, -0.5, 0.5)  # never among the largest, not hopeless
    params = params._replace(encoder=params.encoder._replace(bias=bias))
    options = {"encoder": TOP_K, "params0": params, "num_steps": 300, "dead_after": 5}

    def dead(loss):
        trained = fit(signals=signals, loss=loss, **options).params
        return float(sc.metrics.dead_fraction(TOP_K.apply(trained.encoder, signals)))

    assert dead(losses.aux_k(num_aux=8, weight=1.0)) < dead(losses.squared_error)


# --- budgets, news, scores -------------------------------------------------------------------


def test_a_budget_of_flops_sets_the_number_of_steps():
    data = TrainData(SIGNALS, None, None, jnp.float32(0.01), jnp.float32(0.01))
    params = start()
    state = learning.init_state(KEY, params, data)
    step = functools.partial(learning.train_step, encoder=LINEAR)
    one = int(eval_flops(step, state, data).total())
    got = fit(max_flops=10.9 * one)
    assert int(got.state.step) == 10 and got.flops == 10 * one
    many = fit(jax.random.split(KEY, 3), max_flops=10.9 * one)
    assert many.flops == got.flops and many.state.step.tolist() == [10] * 3
    other = fit(encoder=encoders.mlp(M, N), max_flops=10.9 * one)
    assert 0 < int(other.state.step) < 10 and other.flops <= 10.9 * one


def test_resampling_is_charged_and_fits_into_the_budget():
    options = {"dead_after": 2, "resample_every": 5}
    flops = {n: fit(num_steps=n, **options).flops for n in (1, 5, 6, 10, 11)}
    step = flops[1]
    again = flops[6] - 6 * step
    assert again > 2 * len(SIGNALS) * M * N  # it encodes and decodes all signals
    assert flops[5] == 5 * step and flops[10] == 10 * step + again
    assert flops[11] == 11 * step + 2 * again
    for budget in (flops[10], flops[11] - 1, flops[11]):
        got = fit(max_flops=budget, **options)
        assert int(got.state.step) == (11 if budget == flops[11] else 10)
        assert got.flops <= budget


def test_flops_so_far_are_kept_at_the_records():
    got = fit(record=lambda p: p.dictionary, record_steps=[0, 5, 12])
    np.testing.assert_array_equal(got.record_flops, np.asarray([0, 5, 12]) * (got.flops // 12))


def test_a_callback_may_take_metrics_of_what_would_be_returned():
    scores, seen = learning.scores(LINEAR, SIGNALS), []
    got = fit(callback=lambda news: seen.append((news.params, scores(news.params))))
    chex.assert_trees_all_equal(seen[-1][0], got.params)
    assert float(seen[-1][1]["r2"]) > float(seen[0][1]["r2"])


def test_a_callback_is_told_and_may_stop(monkeypatch):
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
    assert int(cut.state.step) == 4 and cut.steps.tolist() in ([], [4])
    chex.assert_trees_all_equal(cut.params, fit(num_steps=4).params)


def test_a_callback_may_stop_on_the_loss():
    assert int(fit(callback=lambda n: n.loss < 1e9).state.step) < 12
    keys = jax.random.split(KEY, 2)
    assert fit(keys, callback=lambda n: n.loss < 1e9).state.step.tolist() < [12, 12]
    assert int(fit(callback=lambda n: None).state.step) == 12


def test_losses_are_kept_at_the_records():
    got = fit(record=lambda p: p.dictionary, record_steps=[0, 5, 12])
    assert np.isnan(got.losses[0]) and got.losses[2] == got.state.loss
    assert got.losses[1] == fit(num_steps=5).state.loss


def test_scores_are_the_metrics():
    record = learning.scores(LINEAR, SIGNALS, true_codes=CODES, true_dictionary=DICTIONARY)
    got = fit(record=record, record_steps=[12], decoder_bias=True)
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


# --- architectures ---------------------------------------------------------------------------

ARCHITECTURES = {
    "linear": (LINEAR, losses.lasso),
    "tied": (encoders.tied(LINEAR), losses.lasso),
    "top_k": (TOP_K, losses.squared_error),
    "variable_top_k": (encoders.variable_top_k(M, N, num_active=3), losses.squared_error),
    "batch_top_k": (encoders.batch_top_k(M, N, num_active=3), losses.squared_error),
    "matryoshka": (
        encoders.batch_top_k(M, N, num_active=3), losses.matryoshka((4, 8, N), losses.squared_error)
    ),
    "abs_top_k": (encoders.abs_top_k(M, N, num_active=3), losses.squared_error),
    "jump_relu": (encoders.jump_relu(M, N, threshold0=0.1, bandwidth=0.2), losses.l0),
    "gated": (encoders.gated(M, N), losses.gated),
    "residual_mlp": (encoders.residual_mlp(M, N), losses.lasso),
    "lista": (encoders.lista(M, N, num_layers=3), losses.lasso),
    "lista_cp": (encoders.lista_cp(M, N, num_layers=3), losses.lasso),
    "alista": (encoders.alista(M, N, num_layers=3), losses.lasso),
    "matching_pursuit": (encoders.matching_pursuit(M, N, num_active=3), losses.squared_error),
    "orthogonal_matching_pursuit": (
        encoders.orthogonal_matching_pursuit(M, N, num_active=3), losses.squared_error
    ),
}  # fmt: skip


@pytest.mark.parametrize(("encoder", "loss"), ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_architecture_learns_to_explain_held_out_signals(encoder, loss, tmp_path):
    train, test = (sparse_problem(num_samples=n).signals for n in (600, 900))
    test = test[600:]
    record = learning.scores(encoder, test)
    got = fit(
        encoder=encoder, signals=train, loss=loss, penalty=0.02, num_steps=400, record=record,
        record_steps=[0, 400],
    )  # fmt: skip
    first, last = got.records["r2"]
    assert last > 0.6 and last > first
    # and what was learned is saved and loaded, whatever the encoder
    learning.save(tmp_path / "model", got.params, manifest={"note": "a test"})
    back = learning.load(tmp_path / "model", encoder)
    chex.assert_trees_all_equal(back, got.params)


def test_a_trained_lista_beats_ista_of_the_same_depth():
    problem = sparse_problem(num_samples=1000)
    train, test = problem.signals[:500], problem.signals[500:]
    encoder = encoders.lista(M, N, num_layers=5)
    params = encoders.lista_params(DICTIONARY, 0.05, num_layers=5)

    def score(params):
        codes = encoder.apply(params, test)
        return float(jnp.mean(sc.objectives.lasso(test, DICTIONARY, codes, 0.05)))

    got = fit(
        encoder=encoder, signals=train, dictionary=DICTIONARY, params0=Autoencoder(params, None),
        loss=losses.lasso, penalty=0.05, num_steps=500, learning_rate=2e-3,
    )  # fmt: skip
    best = sc.sparse_encode(test, DICTIONARY, 0.05, tolerance=1e-6)
    floor = float(jnp.mean(sc.objectives.lasso(test, DICTIONARY, best, 0.05)))
    assert floor < score(got.params.encoder) < floor + 0.5 * (score(params) - floor)


@pytest.mark.parametrize("loss", [losses.squared_error, losses.aux_k(num_aux=2)])
@pytest.mark.parametrize(
    "encoder",
    [
        encoders.top_k(64, 256, num_active=8),
        encoders.variable_top_k(64, 256, num_active=8),
        encoders.abs_top_k(64, 256, num_active=8),
        encoders.batch_top_k(64, 256, num_active=8),
    ],
)
def test_training_top_k_sorts_nothing(encoder, loss):
    """Two runs at once: on CPU a top_k under vmap may hide a full sort."""
    keys = jax.random.split(KEY, 2)
    dictionary = sc.dictionaries.random(KEY, num_atoms=256, num_measurements=64)
    data = TrainData(np.ones((500, 64), np.float32), None, None, jnp.zeros(()), jnp.ones(()))
    step = functools.partial(learning.train_step, encoder=encoder, loss=loss, dead_after=3)

    def one(key):
        params = Autoencoder(encoder.init(key), dictionary)
        return step(learning.init_state(key, params, data, num_latents=256), data)

    assert "sort(" not in jax.jit(jax.vmap(one)).lower(keys).compile().as_text()


def test_a_top_k_step_decodes_and_updates_k_atoms_a_signal():
    signals = np.zeros((500, 64), np.float32)
    data = TrainData(signals, None, None, jnp.float32(0), jnp.float32(0.01))

    def products(encoder):
        params = Autoencoder(encoder.init(KEY), jnp.zeros((256, 64)))
        step = functools.partial(learning.train_step, encoder=encoder, loss=losses.squared_error)
        return eval_flops(step, learning.init_state(KEY, params, data), data).total()

    dense = 2 * 500 * 64 * 256
    assert products(encoders.linear(64, 256)) > 5 * dense
    assert products(encoders.top_k(64, 256, num_active=4)) < 1.7 * dense


# --- numbers ---------------------------------------------------------------------------------


def test_k_is_neither_averaged_away_nor_decayed():
    encoder = encoders.variable_top_k(M, N, num_active=3)
    decaying = functools.partial(optax.adamw, weight_decay=0.5)
    got = fit(encoder=encoder, average_decay=0.999, num_steps=40, optimizer=decaying)
    codes = encoder.apply(got.params.encoder, SIGNALS)
    assert int(jnp.max(jnp.sum(codes != 0, axis=1))) == 3


@pytest.mark.parametrize(
    "encoder", [LINEAR, FOLDING["lista"], encoders.lista_cp(M, N, num_layers=2)]
)
def test_half_precision_signals_train_full_precision_parameters(encoder):
    signals = jnp.asarray(SIGNALS + 3, jnp.bfloat16)
    options = {"encoder": encoder, "decoder_bias": True, "num_steps": 30}
    begun = fit(signals=signals, **{**options, "num_steps": 0}).params
    got = fit(signals=signals, **options).params
    exact = fit(signals=signals.astype(jnp.float32), **options).params
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert float(jnp.abs(got.bias - begun.bias).max()) > 1e-2
    chex.assert_trees_all_close(got, exact, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_normalization_of_extreme_signals(scale):
    plain = fit(normalize=True, loss=losses.lasso).params
    got = fit(signals=SIGNALS * scale, normalize=True, loss=losses.lasso).params
    np.testing.assert_allclose(got.dictionary, plain.dictionary, atol=1e-3)
    np.testing.assert_allclose(got.encoder.bias / scale, plain.encoder.bias, atol=1e-3)


def test_schedules_and_losses_may_return_python_numbers():
    got = fit(learning_rate_schedule=optax.constant_schedule(0.5), optimizer=optax.sgd)
    same = fit(learning_rate=0.005, optimizer=optax.sgd)
    chex.assert_trees_all_close(got.params, same.params, atol=1e-7)
    fit(loss=lambda codes, batch: 0.0)


def test_batches_may_be_problems_and_must_be_alike():
    problem = sc.synthetic.SparseProblem(SIGNALS, DICTIONARY, CODES)
    options = {"dictionary": DICTIONARY, "loss": losses.cosine}
    expected = fit(true_codes=CODES, **options)
    got = fit(signals=iter([problem] * 12), **options)
    chex.assert_trees_all_equal(got.params, expected.params)
    for second, shape in ((SIGNALS[:, :5], "(20, 5)"), (SIGNALS[None], "(1, 20, 8)")):
        with pytest.raises(ValueError, match=f"has shape {re.escape(shape)}; (.*), as the first"):
            fit(signals=iter([SIGNALS, second]))

    class Loader:
        def __iter__(self):
            return iter([SIGNALS])

    with pytest.raises(TypeError, match="pass iter"):
        fit(signals=Loader())


def test_a_known_encoder_may_learn_a_new_dictionary():
    start = Autoencoder(encoders.lista_params(DICTIONARY, 0.05, num_layers=3), None)
    got = fit(encoder=FOLDING["lista"], params0=start, num_atoms=N, loss=losses.lasso)
    assert got.params.dictionary.shape == (N, M)


@pytest.mark.parametrize("name", ["top_k", "aux_k", "lista_cp", "alista"])
def test_losses_are_sharded_with_the_check_of_varying_types(name):
    encoder = {"top_k": TOP_K, "aux_k": TOP_K}.get(name) or getattr(encoders, name)(
        M, N, num_layers=2
    )
    loss = losses.aux_k(num_aux=2) if name == "aux_k" else losses.squared_error
    params = encoder.init(KEY)

    def value(params, dictionary, signals):
        codes, aux = (
            encoder.aux(params, signals) if encoder.aux else (encoder.apply(params, signals), None)
        )
        batch = losses.Batch(signals, dictionary, 0.1, None, None, aux, jnp.arange(N) < 9)
        return loss(codes, batch)

    def gradient(params, dictionary, signals):
        slopes = jax.grad(value, argnums=(0, 1))(params, dictionary, signals)
        return jax.lax.pmean(slopes, "b")

    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    sharded = jax.jit(jax.shard_map(
        gradient, mesh=mesh, in_specs=(spec(), spec(), spec("b")), out_specs=spec()
    ))(params, DICTIONARY, SIGNALS)  # fmt: skip
    expected = jax.grad(value, argnums=(0, 1))(params, jnp.asarray(DICTIONARY), SIGNALS)
    chex.assert_trees_all_close(sharded, expected, atol=1e-6)


# --- on disk, and errors ---------------------------------------------------------------------


def test_saved_parameters_are_named_and_refuse_another_encoder(tmp_path):
    params = fit(decoder_bias=True).params
    npz, manifest = learning.save(tmp_path / "model", params, manifest={"encoder": "linear"})
    with np.load(npz) as arrays:
        assert set(arrays) == {"encoder.weight", "encoder.bias", "dictionary", "bias"}
    assert '"encoder": "linear"' in manifest.read_text()
    for other in (encoders.gated(M, N), encoders.linear(M, N + 1), encoders.mlp(M, N)):
        with pytest.raises(ValueError, match="is expected by this one"):
            learning.load(tmp_path / "model", other)
    runs = fit(jax.random.split(KEY, 3)).params
    learning.save(tmp_path / "runs", runs)
    chex.assert_trees_all_equal(learning.load(tmp_path / "runs", LINEAR), runs)
    with pytest.raises(FileNotFoundError):
        learning.load(tmp_path / "nothing", LINEAR)


def test_saved_half_precision_comes_back_as_it_was(tmp_path):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), fit().params)
    params = params._replace(dictionary=params.dictionary.astype(jnp.float32))
    learning.save(tmp_path / "model", params)
    chex.assert_trees_all_equal(learning.load(tmp_path / "model", LINEAR), params)
    assert learning.load(tmp_path / "model", LINEAR).encoder.weight.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        {"dictionary": jnp.ones((N + 1, M))},
        {"dictionary": jnp.ones((N, M + 1))},
        {"dictionary": jnp.ones((3, N, M))},
        {"bias": jnp.ones(M - 1)},
        {"bias": jnp.ones((2, M))},
    ],
)
def test_a_decoder_that_does_not_fit_the_encoder_is_refused(tmp_path, change):
    params = fit(decoder_bias=True).params
    learning.save(tmp_path / "model", params._replace(**change))
    with pytest.raises(ValueError, match=f"holds a {next(iter(change))} of shape"):
        learning.load(tmp_path / "model", LINEAR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 3, "max_flops": 1e9}, "both num_steps and max_flops"),
        ({"num_steps": None}, "neither num_steps nor max_flops"),
        ({"max_flops": 10.0}, "at least one step is expected to fit"),
        ({"resample_every": 5}, "resample_every without dead_after"),
        ({"resample_every": 5, "dead_after": 3, "encoder": encoders.mlp(M, N)}, "weight row"),
        ({"average_decay": 1.5}, "average_decay is 1.5"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm is -1.0"),
        ({"dead_after": 0}, "dead_after is 0"),
        ({"signals": iter([])}, "the stream of signals is empty"),
        ({"signals": iter([np.ones(M)])}, r"has shape \(8,\); \(B, M\)"),
        ({"signals": iter([SIGNALS]), "batch_size": 4}, "stream of batches"),
        ({"signals": 0 * SIGNALS, "normalize": True}, "all signals are zero"),
        ({"loss": losses.aux_k(num_aux=2)}, "pass dead_after="),
        ({"dictionary": DICTIONARY, "project_gradient": True}, "a dictionary that is not learned"),
        ({"unit_atoms": False, "project_gradient": True}, "unit_atoms=False"),
        ({"params0": PARAMS._replace(bias=jnp.zeros(1))}, r"bias in params0 has shape \(1,\)"),
        ({"params0": PARAMS, "num_atoms": 5}, r"shape \(16, 8\); \(5, 8\)"),
        ({"params0": PARAMS._replace(dictionary=0 * DICTIONARY)}, "16 zero atoms"),
        ({"key": jax.random.split(KEY, 0)}, "keys of shape"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**{"num_steps": 3, **options} if "max_flops" not in options else options)


def test_an_optimizer_that_was_built_already():
    with pytest.raises(TypeError, match="such as optax.adam itself"):
        fit(optimizer=optax.adam(1e-3))


def test_a_factory_that_was_not_called():
    with pytest.raises(TypeError, match="fit: got a factory that was not called"):
        fit(encoder=encoders.linear)


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    fit(encoder=TOP_K, checkpoint=tmp_path / "run")
    for other in (
        {"encoder": encoders.top_k(M, N, num_active=4)},
        {"encoder": TOP_K, "max_gradient_norm": 1.0},
        {"encoder": TOP_K, "learning_rate_schedule": schedules.warmup(3)},
    ):
        with pytest.raises(ValueError, match="belongs to another run"):
            fit(checkpoint=tmp_path / "run", **other)
    fit(checkpoint=tmp_path / "plain")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(encoder=encoders.tied(LINEAR), checkpoint=tmp_path / "plain")

    def sampler(signals):
        return lambda key, step: signals

    fit(signals=sampler(SIGNALS), checkpoint=tmp_path / "drawn")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(signals=sampler(2 * SIGNALS), checkpoint=tmp_path / "drawn")

    def through(name):  # functions of one name that call others
        return {
            "lasso": lambda codes, batch: losses.lasso(codes, batch),
            "squared": lambda codes, batch: losses.squared_error(codes, batch),
            "text": lambda codes, batch: losses.lasso(codes, batch) + 0 * len("text"),
            "other text": lambda codes, batch: losses.lasso(codes, batch) + 0 * len("txet"),
        }[name]

    for one, other in (("lasso", "squared"), ("text", "other text")):
        fit(loss=through(one), checkpoint=tmp_path / one)
        fit(loss=through(one), checkpoint=tmp_path / one)
        with pytest.raises(ValueError, match="belongs to another run"):
            fit(loss=through(other), checkpoint=tmp_path / one)
    fit(encoder=TOP_K, learning_rate_schedule=schedules.warmup(3), checkpoint=tmp_path / "warm")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(encoder=TOP_K, learning_rate_schedule=schedules.warmup(4), checkpoint=tmp_path / "warm")
