"""Dead latents: counted, restarted, brought back by AuxK."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.encoders import LinearParams
from sparsecode_jax.training import Autoencoder, losses
from sparsecode_jax.types import Role

from .contracts import M, N, sparse_problem
from .fitting import DICTIONARY, KEY, LINEAR, SIGNALS, TOP_K, fit


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
        trained = fit(signals=signals, loss=loss, **options)
        assert trained.flops > 300 * 300 * M * N  # its steps can be counted
        codes = TOP_K.apply(trained.params.encoder, signals)
        return float(sc.metrics.dead_fraction(codes))

    assert dead(losses.aux_k(num_aux=8, weight=1.0)) < dead(losses.squared_error)


def test_what_belongs_to_a_latent_is_declared_not_named():
    """Parameters called anything train, and get the new start that their roles say."""

    class Renamed(NamedTuple):
        num_active: jax.Array  # the weight
        weight: jax.Array  # the bias
        bias: jax.Array  # shared by all latents

    def init(key):
        weight, bias = LINEAR.init(key)
        return Renamed(weight, bias, jnp.full((N,), 0.5))

    def apply(params, signals):
        return 2 * params.bias * LINEAR.apply(LinearParams(*params[:2]), signals)

    roles = Renamed(Role.WEIGHT, Role.BIAS, Role.SHARED)
    encoder = sc.Encoder(init, apply, roles=roles)
    usual = LINEAR.init(KEY)
    dead = usual.bias.at[:4].set(-1e3)
    start = Autoencoder(init(KEY)._replace(weight=dead), jnp.asarray(DICTIONARY))
    options = {"dead_after": 3, "resample_every": 6, "num_steps": 7, "learning_rate": 1e-12}
    got = fit(encoder=encoder, params0=start, **options).params.encoder
    expected = fit(params0=Autoencoder(usual._replace(bias=dead), start.dictionary), **options)
    np.testing.assert_allclose(got.num_active, expected.params.encoder.weight, atol=1e-6)
    np.testing.assert_allclose(got.weight, expected.params.encoder.bias, atol=1e-6)
    np.testing.assert_allclose(got.bias, 0.5, atol=1e-6)
    moved = fit(encoder=encoder, params0=start, num_steps=3, learning_rate=0.1).params.encoder
    for name in Renamed._fields:
        assert float(jnp.abs(getattr(moved, name) - getattr(start.encoder, name)).max()) > 1e-3
    frozen = encoder._replace(roles=roles._replace(bias=Role.FROZEN))
    kept = fit(encoder=frozen, params0=start, num_steps=3, learning_rate=0.1).params.encoder
    np.testing.assert_array_equal(kept.bias, start.encoder.bias)
    undeclared = encoder._replace(roles=None)
    with pytest.raises(ValueError, match="roles say where the direction of each latent is"):
        fit(encoder=undeclared, params0=start, **options)


def test_dead_latents_are_replaced_at_the_number_of_active_codes_of_their_step():
    """Three times one active code is three, in the steps and where dead latents start anew."""
    encoder = encoders.top_k(M, N, num_active=None)
    params = dead_start(encoder)
    options = {"encoder": encoder, "loss": losses.squared_error, "dead_after": 2, "num_steps": 9,
               "resample_every": 4}  # fmt: skip

    def of(count):
        return params._replace(encoder=params.encoder._replace(num_active=jnp.float32(count)))

    scaled = fit(params0=of(1), active_schedule=lambda step: jnp.float32(3), **options)
    plain = fit(params0=of(3), **options)
    assert np.any(np.asarray(plain.state.idle)[:5] < 9)  # some were replaced
    np.testing.assert_array_equal(scaled.params.dictionary, plain.params.dictionary)
