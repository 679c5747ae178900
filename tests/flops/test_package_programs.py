"""Every solver, encoder and training step of the package, against the counting-scalar oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax.dictionary_learning import updates
from sparsecode_jax.training import Autoencoder, Recipe, TrainData, init_state, losses, train_step

from .test_oracle import check

M, N, S = 3, 5, 2
_rng = np.random.default_rng(1)
D = jnp.asarray(sc.dictionaries.normalize(_rng.normal(size=(N, M)).astype(np.float32)))
X = jnp.asarray(_rng.normal(size=(S, M)).astype(np.float32))
CODES = jnp.asarray(np.abs(_rng.normal(size=(S, N))).astype(np.float32))
KEY = jax.random.key(0)
MORE_X = jnp.asarray(_rng.normal(size=(4 * N, M)).astype(np.float32))  # least squares needs many
MORE_CODES = jnp.asarray(np.abs(_rng.normal(size=(4 * N, N))).astype(np.float32))

SOLVERS = {
    "ista": sc.solvers.ista(),
    "ista signed": sc.solvers.ista(prox=sc.prox.soft_threshold),
    "fista": sc.solvers.fista(),
    "fista restart": sc.solvers.fista(restart=sc.solvers.gradient_restart),
    "log_adam": sc.solvers.log_adam(),
    "omp": sc.solvers.orthogonal_matching_pursuit(2),
    "ols": sc.solvers.orthogonal_least_squares(2),
    "ols signed": sc.solvers.orthogonal_least_squares(2, prox=sc.prox.soft_threshold),
    "matching pursuit": sc.solvers.matching_pursuit(),
    "gradient pursuit": sc.solvers.gradient_pursuit(2),
    "iterative hard thresholding": sc.solvers.iterative_hard_thresholding(2),
    "cosamp": sc.solvers.cosamp(1),
    "subspace pursuit": sc.solvers.subspace_pursuit(1),
    "exhaustive": sc.solvers.exhaustive(1),
    "lca": sc.solvers.lca(),
    "coordinate descent": sc.solvers.coordinate_descent(),
    "sparsa": sc.solvers.sparsa(),
    "sparsa signed": sc.solvers.sparsa(prox=sc.prox.soft_threshold),
    "working set": sc.solvers.working_set((2, 3), inner_steps=2),
}
ENCODERS = {
    "linear": sc.encoders.linear(M, N),
    "linear, no bias": sc.encoders.linear(M, N, use_bias=False),
    "mlp": sc.encoders.mlp(M, N, hidden=(4,)),
    "mlp, deep": sc.encoders.mlp(M, N, hidden=(4, 3), use_bias=False),
    "free codes": sc.encoders.free_codes(S, N),
}
TRAINED = {  # the bisection of traced top_k and batch_top_k is on bits, which scalars have not
    "top_k": (sc.encoders.top_k(M, N, num_active=2), losses.squared_error),
    "abs_top_k, matryoshka": (
        sc.encoders.abs_top_k(M, N, num_active=2),
        losses.matryoshka((2, N), losses.squared_error),
    ),
    "linear, aux_k": (
        sc.encoders.linear(M, N),
        losses.aux_k(losses.squared_error, num_aux=2),
    ),
    "jump_relu": (sc.encoders.jump_relu(M, N, threshold0=0.1, bandwidth=0.5), losses.l0),
    "gated": (sc.encoders.gated(M, N), losses.gated),
    "residual_mlp": (sc.encoders.residual_mlp(M, N, width=4, num_blocks=2), losses.lasso),
    "lista": (sc.encoders.lista(M, N, num_layers=3), losses.lasso),
    "lista_cp": (sc.encoders.lista_cp(M, N, num_layers=2), losses.lasso),
    "matching_pursuit": (
        sc.encoders.unrolled(sc.solvers.matching_pursuit(), M, N, num_steps=2),
        losses.squared_error,
    ),
    "centered, tied": (
        sc.encoders.centered(sc.encoders.tied(sc.encoders.linear(M, N)), M),
        losses.l1,
    ),
}
UPDATES = {  # K-SVD takes an eigendecomposition, which is charged by formula: nothing to count
    "method of optimal directions": updates.method_of_optimal_directions(),
    "approximate k_svd": updates.approximate_k_svd(),
    "block coordinate": updates.block_coordinate(),
    "projected gradient": updates.projected_gradient(learning_rate=0.5),
    "projected gradient, 1/L": updates.projected_gradient(),
    "neural": updates.neural_update(learning_rate=0.5),
    "decorrelated": updates.decorrelated(
        updates.neural_update(learning_rate=0.5), max_coherence=0.5, num_rotations=2
    ),
    "deflated": updates.deflated(updates.block_coordinate(prior=5.0), max_coherence=0.2),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers(name):
    def run(x, d):
        problem = sc.Lasso(x, d, jnp.float32(0.05), jnp.float32(0.1))
        return sc.solvers.solve(SOLVERS[name], problem, num_steps=2)

    check(run, X, D)


def test_step_size():
    check(functools.partial(sc.dictionaries.step_size, num_squarings=2), D)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    encoder = ENCODERS[name]
    check(encoder.apply, encoder.init(KEY), X)


@pytest.mark.parametrize("loss", [losses.paper, losses.lasso, losses.cosine])
@pytest.mark.parametrize("name", ENCODERS)
def test_training_steps(name, loss):
    """The whole step: projection, gradient, update.

    The cosine's gradients vanish where a latent is silent, and Adam's first step divides them by
    their own size, so that rounding decides its values: plain gradient descent there.
    """
    optimizer = optax.sgd if loss is losses.cosine else optax.adam
    encoder = ENCODERS[name]
    params = Autoencoder(encoder.init(KEY), D)
    data = TrainData(X, CODES, None, jnp.float32(0.01), jnp.float32(0.001))
    recipe = Recipe(loss=loss, optimizer=optimizer)
    state = init_state(KEY, params, data, recipe)

    def step(params, optimizer_state):
        before = state._replace(params=params, optimizer=optimizer_state)
        after = train_step(before, data, encoder, recipe)
        return after.params, after.loss

    check(step, params, state.optimizer)


@pytest.mark.parametrize("name", TRAINED)
def test_steps_of_every_architecture(name):
    """Plain gradient descent: Adam's first step divides gradients of 0 by their own size."""
    encoder, loss = TRAINED[name]
    params = Autoencoder(encoder.init(KEY), D, jnp.zeros(M))
    data = TrainData(X, CODES, None, jnp.float32(0.01), jnp.float32(0.001))
    recipe = Recipe(loss=loss, optimizer=optax.sgd, dead_after=0 if "aux" in name else None)
    state = init_state(KEY, params, data, recipe, num_latents=N)

    def step(params):
        after = train_step(state._replace(params=params), data, encoder, recipe)
        return after.params, after.loss

    check(step, params)


@pytest.mark.parametrize("name", UPDATES)
def test_dictionary_updates(name):
    update = UPDATES[name]
    check(update.step, update.init(D), MORE_X, D, MORE_CODES)
