"""Every public program lowers for GPU and TPU; nothing is compiled and no accelerator is needed."""

import functools

import jax
import jax.numpy as jnp
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.dictionary_learning import alternate, online, updates
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.training import Autoencoder, Recipe, TrainData, init_state, losses, train_step

from . import tolerance
from .contracts import SOLVERS, K, M, N, S
from .encoder_cases import ENCODERS

PROX = {True: nonnegative_soft_threshold, False: soft_threshold}

PLATFORMS = ("cuda", "tpu")


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


KEY = array(dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)
SIGNALS, ATOMS, SCALAR = array(S, M), array(N, M), array()
LASSO = Lasso(SIGNALS, ATOMS, SCALAR, SCALAR)


def lower(fn, *args):
    """Lower for both platforms; return the shapes of the results."""
    exported = jax.export.export(jax.jit(fn), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS
    return jax.tree.unflatten(exported.out_tree, [x.shape for x in exported.out_avals])


def solver_table():
    """Return every case of the contract table, and the pursuits of the table of tolerances."""
    table = {case.id: case.values[0].solver for case in SOLVERS}
    pursuits = {name: case.solver for name, case in tolerance.CASES.items() if case.numpy is None}
    other = {"working set": tolerance.CASES["working set"].solver}
    return {**table, **pursuits, **other, "exhaustive": solvers.exhaustive(2)}


@pytest.mark.parametrize("solver", solver_table().values(), ids=solver_table())
def test_solvers_lower_for_a_number_of_steps(solver):
    shape = lower(functools.partial(solvers.solve, solver, num_steps=2), LASSO)
    assert shape == (S, N)


@tolerance.each
def test_solvers_lower_to_a_tolerance(case):
    codes, info = lower(lambda problem: case.run(problem), LASSO)
    assert codes == (S, N) and set(info) == {(S,)}


@pytest.mark.parametrize("num_atoms", [N, 1024])
def test_the_front_lowers_with_its_gradient(num_atoms):
    def total(x, d, penalty):
        return jnp.sum(sc.sparse_encode(x, d, penalty, tolerance=1e-4))

    atoms = array(num_atoms, M)
    assert lower(jax.grad(total, argnums=1), SIGNALS, atoms, SCALAR) == atoms.shape


@pytest.mark.parametrize("nonnegative", [False, True])
def test_refit_lowers(nonnegative):
    fit = functools.partial(solvers.refit, num_active=K, prox=PROX[nonnegative])
    assert lower(fit, array(S, N), SIGNALS, ATOMS) == (S, N)


@pytest.mark.parametrize("case", ENCODERS)
def test_encoders_lower(case):
    encoder = case.encoder()
    params = jax.eval_shape(encoder.init, KEY)
    assert lower(encoder.apply, params, SIGNALS) == (S, N)


TRAINED = {
    "linear": (sc.encoders.linear(M, N), losses.lasso),
    "jump_relu": (sc.encoders.jump_relu(M, N), losses.l0),
    "gated": (sc.encoders.gated(M, N), losses.gated),
    "top_k": (sc.encoders.top_k(M, N, num_active=K), losses.aux_k(num_aux=4)),
    "batch_top_k": (sc.encoders.batch_top_k(M, N, num_active=K), losses.squared_error),
    "lista": (sc.encoders.lista(M, N, num_layers=2), losses.lasso),
    "unrolled": (sc.encoders.unrolled(solvers.fista(), M, N, num_steps=2), losses.lasso),
    "pursuit": (
        sc.encoders.unrolled(sc.solvers.orthogonal_matching_pursuit(K), M, N, num_steps=K),
        losses.lasso,
    ),
}


@pytest.mark.parametrize(("encoder", "loss"), TRAINED.values(), ids=TRAINED)
def test_training_steps_lower(encoder, loss):
    data = TrainData(SIGNALS, None, None, SCALAR, SCALAR)
    params = Autoencoder(jax.eval_shape(encoder.init, KEY), ATOMS)
    state = jax.eval_shape(functools.partial(init_state, num_latents=N), KEY, params, data)
    recipe = Recipe(loss=loss, batch_size=8, dead_after=5)
    step = functools.partial(train_step, encoder=encoder, recipe=recipe)
    assert lower(step, state, data).params.dictionary == (N, M)


UPDATES = ("method_of_optimal_directions", "approximate_k_svd", "k_svd", "block_coordinate",
           "projected_gradient")  # fmt: skip


@pytest.mark.parametrize("name", UPDATES)
def test_rounds_lower(name):
    turn = functools.partial(
        alternate, num_steps=2, update=getattr(updates, name)(), replacing=True, momentum=0.9
    )
    assert lower(turn, SIGNALS, ATOMS, array(1)).dictionary == (N, M)


def test_the_online_learners_step_lowers():
    update = updates.block_coordinate()
    state = online._State(ATOMS, jax.eval_shape(update.init, ATOMS), array(2, N), SCALAR)
    step = functools.partial(
        online._step, solver=solvers.fista(), update=update, num_steps=2, num_refitted=3
    )
    after, value = lower(step, KEY, state, SIGNALS, array(M), SCALAR, SCALAR)
    assert after.dictionary == (N, M) and value == ()
