"""Every architecture trains, and TopK steps stay sparse."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders, training
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import Autoencoder, TrainData, losses

from .contracts import M, N, sparse_problem
from .fitting import (
    DICTIONARY,
    KEY,
    LINEAR,
    TOP_K,
    fit,
)

TRACED = encoders.top_k(M, N, num_active=None)
HELD = TRACED._replace(init=lambda key: TRACED.init(key)._replace(num_active=jnp.float32(3)))
ARCHITECTURES = {
    "linear": (LINEAR, losses.lasso),
    "tied": (encoders.tied(LINEAR), losses.lasso),
    "top_k": (TOP_K, losses.squared_error),
    "top_k, traced": (HELD, losses.squared_error),
    "batch_top_k": (encoders.batch_top_k(M, N, num_active=3), losses.squared_error),
    "matryoshka": (
        encoders.batch_top_k(M, N, num_active=3), losses.matryoshka((4, 8, N), losses.squared_error)
    ),
    "refined": (
        encoders.refined(encoders.top_k(M, N, num_active=3)),
        losses.matryoshka((4, 8, N), losses.tilted(0.05), detached=True),
    ),
    "abs_top_k": (encoders.abs_top_k(M, N, num_active=3), losses.squared_error),
    "jump_relu": (encoders.jump_relu(M, N, threshold0=0.1, bandwidth=0.2), losses.l0),
    "gated": (encoders.gated(M, N), losses.gated),
    "residual_mlp": (encoders.residual_mlp(M, N), losses.lasso),
    "lista": (encoders.lista(M, N, num_layers=3), losses.lasso),
    "lista_cp": (encoders.lista_cp(M, N, num_layers=3), losses.lasso),
    "alista": (encoders.alista(M, N, num_layers=3), losses.lasso),
    "matching_pursuit": (
        encoders.unrolled(sc.solvers.matching_pursuit(), M, N, num_steps=3), losses.squared_error
    ),
    "orthogonal_matching_pursuit": (
        encoders.unrolled(sc.solvers.orthogonal_matching_pursuit(3), M, N, num_steps=3),
        losses.squared_error,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("encoder", "loss"), ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_every_architecture_learns_to_explain_held_out_signals(encoder, loss, tmp_path):
    train, test = (sparse_problem(num_samples=n).signals for n in (600, 900))
    test = test[600:]
    record = training.scores(encoder, test)
    got = fit(
        encoder=encoder, signals=train, loss=loss, penalty=0.02, num_steps=400, record=record,
        record_steps=[0, 400],
    )  # fmt: skip
    first, last = got.records["r2"]
    assert last > 0.6 and last > first
    # and what was learned is saved and loaded, whatever the encoder
    training.save(tmp_path / "model", got.params, manifest={"note": "a test"})
    back = training.load(tmp_path / "model", encoder)
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


@pytest.mark.full_effort
@pytest.mark.parametrize("loss", [losses.squared_error, losses.aux_k(num_aux=2)])
@pytest.mark.parametrize(
    "encoder",
    [
        encoders.top_k(64, 256, num_active=8),
        encoders.top_k(64, 256, num_active=None),
        encoders.abs_top_k(64, 256, num_active=8),
        encoders.batch_top_k(64, 256, num_active=8),
    ],
)
def test_training_top_k_sorts_nothing(encoder, loss):
    """Two runs at once: on CPU a top_k under vmap may hide a full sort."""
    keys = jax.random.split(KEY, 2)
    dictionary = sc.dictionaries.random(KEY, num_atoms=256, num_measurements=64)
    data = TrainData(np.ones((500, 64), np.float32), None, None, jnp.zeros(()), jnp.ones(()))
    recipe = training.Recipe(loss=loss, dead_after=3)
    step = functools.partial(training.train_step, encoder=encoder, recipe=recipe)

    def one(key):
        params = Autoencoder(encoder.init(key), dictionary)
        return step(training.init_state(key, params, data, num_latents=256), data)

    assert "sort(" not in jax.jit(jax.vmap(one)).lower(keys).compile().as_text()


def test_a_top_k_step_decodes_and_updates_k_atoms_a_signal():
    signals = np.zeros((500, 64), np.float32)
    data = TrainData(signals, None, None, jnp.float32(0), jnp.float32(0.01))

    def products(encoder):
        params = Autoencoder(encoder.init(KEY), jnp.zeros((256, 64)))
        recipe = training.Recipe(loss=losses.squared_error)
        step = functools.partial(training.train_step, encoder=encoder, recipe=recipe)
        return eval_flops(step, training.init_state(KEY, params, data), data).total()

    dense = 2 * 500 * 64 * 256
    assert products(encoders.linear(64, 256)) > 5 * dense
    assert products(encoders.top_k(64, 256, num_active=4)) < 1.7 * dense
