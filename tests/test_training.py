"""What training can do besides plain steps: schedules, averages, decoders, normalization."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders, training
from sparsecode_jax.training import Autoencoder, losses, schedules

from .contracts import M, N
from .fitting import (
    CODES,
    DICTIONARY,
    KEY,
    LINEAR,
    SIGNALS,
    TOP_K,
    by_hand,
    fit,
    start,
    unit,
)

# --- schedules, clipping, averages ---------------------------------------------------------------


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
        jax.random.split(KEY, 2), learning_rate=rates,
        optimizer=schedules.scheduled(optax.sgd, schedules.cosine(12)),
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


def test_the_number_of_active_codes_is_annealed_and_kept():
    encoder = encoders.batch_top_k(M, N, num_active=None)
    seen = []

    def loss(codes, batch):
        jax.debug.callback(lambda n: seen.append(float(n)), jnp.mean(jnp.sum(codes != 0, -1)))
        return losses.squared_error(codes, batch)

    params = fit(encoder=encoder, num_steps=0).params
    params = params._replace(encoder=params.encoder._replace(num_active=jnp.float32(2)))
    annealed = schedules.linear(4, first=3.0)
    options = {"encoder": encoder, "params0": params, "loss": loss}
    got = fit(**options, active_schedule=annealed, num_steps=6)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen)[:6], [2, 2, 3, 4, 5, 6], atol=0.05)
    assert float(got.params.encoder.num_active) == 2


def test_frequencies_are_a_moving_average_of_activity():
    got = fit(num_steps=3, frequency_decay=0.75, learning_rate=1e-12)
    active = np.mean(np.asarray(LINEAR.apply(got.params.encoder, SIGNALS) > 0), axis=0)
    assert len(np.unique(active)) > 5
    np.testing.assert_allclose(got.state.frequency, (1 - 0.75**3) * active, rtol=1e-5)
    assert got.state.idle is not None and fit().state.frequency is None


def test_prefixes_follow_the_frequencies_of_the_steps_before():
    seen = []

    def loss(codes, batch):
        jax.debug.callback(lambda f: seen.append(np.asarray(f)), batch.frequency)
        return losses.matryoshka((4, N), by_frequency=True)(codes, batch)

    got = fit(loss=loss, num_steps=2, frequency_decay=0.9)
    jax.effects_barrier()
    first, second = sorted(seen, key=np.sum)[-2:]
    assert not np.any(first) and np.any(second)
    assert np.any(np.asarray(got.state.frequency) != second)


def test_parameters_are_averaged_without_bias_to_zero():
    def update(g, p, step):
        return jax.tree.map(lambda x, s: x - 0.3 * s, p, g)

    history = by_hand(12, params=start(), update=update)[1:]
    weights = 0.8 ** np.arange(11, -1, -1)
    weights /= weights.sum()
    mean = jax.tree.map(lambda *x: sum(w * y for w, y in zip(weights, x, strict=True)), *history)
    decay = np.asarray(0.8)  # which has no hash
    got = fit(optimizer=optax.sgd, learning_rate=0.3, average_decay=decay)
    chex.assert_trees_all_close(got.params, unit(mean), atol=1e-6)
    nothing = fit(average_decay=0.8, num_steps=0)
    chex.assert_trees_all_close(nothing.params, start(), atol=1e-7)


# --- the decoder ---------------------------------------------------------------------------------


def test_projected_gradients_are_orthogonal_to_their_atoms():
    def update(g, p, step):
        atoms = p.dictionary
        along = jnp.sum(g.dictionary * atoms, axis=1, keepdims=True)
        assert float(jnp.abs(along).max()) > 1e-4
        g = g._replace(dictionary=g.dictionary - along * atoms)
        return jax.tree.map(lambda x, s: x - 0.3 * s, p, g)

    expected = unit(by_hand(12, params=start(), update=update)[-1])

    def projected(rate):
        return optax.chain(training.project_gradients(), optax.sgd(rate))

    got = fit(optimizer=projected, learning_rate=0.3)
    chex.assert_trees_all_close(got.params, expected, atol=1e-6)


def test_atoms_of_any_norm_if_asked():
    free = fit(unit_atoms=False, loss=losses.l1, num_steps=30, learning_rate=0.05)
    norms = jnp.linalg.norm(free.params.dictionary, axis=1)
    assert float(jnp.abs(norms - 1).max()) > 0.05


def test_the_decoder_bias_starts_at_the_mean_and_learns():
    shifted = SIGNALS + 3
    encoder = encoders.centered(LINEAR, M)
    begun = fit(encoder=encoder, signals=shifted, bias="mean", num_steps=0)
    np.testing.assert_allclose(begun.params.bias, shifted.mean(0), rtol=1e-5)
    done = fit(encoder=encoder, signals=shifted, bias="mean", num_steps=300)
    assert float(jnp.abs(done.params.bias - begun.params.bias).max()) > 1e-3
    np.testing.assert_array_equal(done.params.encoder.center, done.params.bias)  # tied
    record = training.scores(encoder, shifted)
    assert record(done.params)["r2"] > record(begun.params)["r2"]
    own = fit(encoder=encoders.centered(LINEAR, M, tie=False), signals=shifted, bias="mean")
    assert float(jnp.abs(own.params.encoder.center - own.params.bias).max()) > 1


def test_scores_tell_what_does_not_fit_the_signals():
    for options, message in (
        ({"true_codes": np.ones((len(SIGNALS) - 1, N))}, "same S signals"),
        ({"true_dictionary": np.ones((M, N))}, f"atoms have {N}"),
    ):
        with pytest.raises(ValueError, match=f"^scores: .*{message}"):
            training.scores(LINEAR, SIGNALS, **options)
    with pytest.raises(ValueError, match=r"^scores: signals have shape .*\(S, M\)"):
        training.scores(LINEAR, SIGNALS[None])


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


@pytest.mark.parametrize(
    "encoder",
    [LINEAR, TOP_K, encoders.gated(M, N), encoders.centered(encoders.tied(LINEAR), M)],
    ids=["linear", "top_k", "gated", "centered"],
)
def test_a_normalized_encoder_gives_scaled_codes_and_latents(encoder):
    params = fit(encoder=encoder, bias="mean").params.encoder
    raw, scale = encoders.normalized(encoder, 4.0), 4.0
    np.testing.assert_allclose(
        raw.apply(params, scale * SIGNALS), scale * encoder.apply(params, SIGNALS), rtol=1e-6
    )
    if encoder.aux is not None:
        codes, aux = encoder.aux(params, SIGNALS)
        got, scaled = raw.aux(params, scale * SIGNALS)
        np.testing.assert_allclose(got, scale * codes, rtol=1e-6)
        expected = aux._replace(
            latents=scale * aux.latents if aux.latents is not None else None,
            active=aux.active and dataclasses.replace(aux.active, values=scale * aux.active.values),
            gate_latents=scale * aux.gate_latents if aux.gate_latents is not None else None,
        )
        chex.assert_trees_all_close(scaled, expected, rtol=1e-6)


@pytest.mark.parametrize("encoder", [LINEAR, encoders.tied(LINEAR)], ids=["linear", "tied"])
def test_a_normalized_encoder_trains_as_on_normalized_signals(encoder):
    """The lasso of scaled signals, at the scaled penalty, is c^2 times as large."""
    scale, rate = 4.0, 0.3
    options = {"optimizer": optax.sgd, "loss": losses.lasso, "num_steps": 12}
    plain = fit(encoder=encoder, learning_rate=rate, penalty=0.05, **options)
    raw = fit(
        encoder=encoders.normalized(encoder, scale), signals=scale * SIGNALS,
        learning_rate=rate / scale**2, penalty=0.05 * scale, **options,
    )  # fmt: skip
    chex.assert_trees_all_close(raw.params, plain.params, atol=1e-5)
    assert float(jnp.abs(plain.params.dictionary - start().dictionary).max()) > 0.05


def test_a_part_without_a_run_axis_is_where_all_runs_begin():
    keys, begun = jax.random.split(KEY, 3), start()._replace(bias=jnp.ones(M))
    many = fit(keys, params0=begun, batch_size=7)
    each = [fit(key, params0=begun, batch_size=7).params for key in keys]
    chex.assert_trees_all_close(
        many.params, jax.tree.map(lambda *x: jnp.stack(x), *each), atol=1e-5
    )
    assert float(jnp.abs(many.params.dictionary[0] - many.params.dictionary[1]).max()) > 1e-4


# --- numbers -------------------------------------------------------------------------------------


def test_k_is_neither_averaged_away_nor_decayed():
    encoder = encoders.top_k(M, N, num_active=None)
    params = encoder.init(KEY)._replace(num_active=jnp.float32(3))
    decaying = functools.partial(optax.adamw, weight_decay=0.5)
    start = Autoencoder(params, jnp.asarray(DICTIONARY))
    got = fit(encoder=encoder, params0=start, average_decay=0.999, num_steps=40, optimizer=decaying)
    codes = encoder.apply(got.params.encoder, SIGNALS)
    assert int(jnp.max(jnp.sum(codes != 0, axis=1))) == 3


@pytest.mark.parametrize(
    "encoder", [LINEAR, encoders.lista(M, N, num_layers=3), encoders.lista_cp(M, N, num_layers=2)]
)
def test_half_precision_signals_train_full_precision_parameters(encoder):
    signals = jnp.asarray(SIGNALS + 3, jnp.bfloat16)
    options = {"encoder": encoder, "bias": "mean", "num_steps": 30}
    begun = fit(signals=signals, **{**options, "num_steps": 0}).params
    got = fit(signals=signals, **options).params
    exact = fit(signals=signals.astype(jnp.float32), **options).params
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert float(jnp.abs(got.bias - begun.bias).max()) > 1e-2
    chex.assert_trees_all_close(got, exact, atol=1e-4)


def test_schedules_and_losses_may_return_python_numbers():
    half = schedules.scheduled(optax.sgd, optax.constant_schedule(0.5))
    got = fit(optimizer=half)
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
    got = fit(
        encoder=encoders.lista(M, N, num_layers=3), params0=start, num_atoms=N, loss=losses.lasso
    )
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
