"""Every public program lowers for GPU and TPU; nothing is compiled and no accelerator is needed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, SparseCodes, dictionaries, metrics, solvers, synthetic
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
    "mlp": (sc.encoders.mlp(M, N, hidden=(8,)), losses.lasso),
    "residual_mlp": (sc.encoders.residual_mlp(M, N, width=8, num_blocks=2), losses.lasso),
    "lista": (sc.encoders.lista(M, N, num_layers=2), losses.lasso),
    "lista_cp": (sc.encoders.lista_cp(M, N, num_layers=2), losses.lasso),
    "alista": (sc.encoders.alista(M, N, num_layers=2), losses.lasso),
    "unrolled": (sc.encoders.unrolled(solvers.fista(), M, N, num_steps=2), losses.lasso),
    "pursuit": (
        sc.encoders.unrolled(sc.solvers.orthogonal_matching_pursuit(K), M, N, num_steps=K),
        losses.lasso,
    ),
}


@pytest.mark.parametrize(("encoder", "loss"), TRAINED.values(), ids=TRAINED)
def test_training_steps_lower(encoder, loss):
    training_step(encoder, loss, batch_size=8)


def test_a_training_step_of_free_codes_lowers():
    training_step(sc.encoders.free_codes(S, N), losses.lasso, batch_size=None)


def training_step(encoder, loss, batch_size):
    data = TrainData(SIGNALS, None, None, SCALAR, SCALAR)
    params = Autoencoder(jax.eval_shape(encoder.init, KEY), ATOMS)
    state = jax.eval_shape(functools.partial(init_state, num_latents=N), KEY, params, data)
    recipe = Recipe(loss=loss, batch_size=batch_size, dead_after=5)
    step = functools.partial(train_step, encoder=encoder, recipe=recipe)
    assert lower(step, state, data).params.dictionary == (N, M)


def total(codes):
    return jnp.sum(codes, axis=-1)


def swept(signals, penalties):
    def run(signal, penalty):
        return jnp.sum(sc.sparse_encode(signal, ATOMS_OF_ONES, penalty, num_steps=2))

    return sc.sweep(run, signal=signals, penalty=penalties)


ATOMS_OF_ONES = np.ones((N, M), np.float32)
CODES, SLOTS = array(S, N), SparseCodes(array(S, K), array(S, K, dtype=jnp.int32), N)
FEATURES = synthetic.FeatureModel(
    ATOMS, array(N), means=array(N), deviations=array(N), factors=array(N, 2),
    tree=synthetic.tree(synthetic.balanced_trees(2, branching=2, depth=2, num_units=N)),
)  # fmt: skip
DRAWN = {"num_samples": S, "num_measurements": M, "num_atoms": N}

#: By name: a pure function, what it takes, and the shapes of what it returns.
FUNCTIONS = {
    "mcc": (metrics.mcc, (CODES, array(S, N + 2)), ()),
    "latent_correlation": (metrics.latent_correlation, (CODES, CODES), ()),
    "latent_f1": (
        lambda z, y, d: metrics.latent_f1(z, y, true_dictionary=d, dictionary=d),
        (CODES, SLOTS, ATOMS), (N,),
    ),
    "dictionary_mcc": (metrics.dictionary_mcc, (ATOMS, array(N + 2, M)), ()),
    "pearson_dictionary_mcc": (metrics.pearson_dictionary_mcc, (ATOMS, ATOMS), ()),
    "uniqueness": (metrics.uniqueness, (ATOMS, ATOMS), ()),
    "nearest_neighbor_cosine": (metrics.nearest_neighbor_cosine, (ATOMS,), ()),
    "mse": (metrics.mse, (SIGNALS, SIGNALS), ()),
    "r2": (metrics.r2, (SIGNALS, SIGNALS), ()),
    "shrinkage": (metrics.shrinkage, (SIGNALS, SIGNALS), ()),
    "l0": (metrics.l0, (CODES,), ()),
    "dead_fraction": (metrics.dead_fraction, (SLOTS,), ()),
    "sweep": (swept, (SIGNALS, array(3)), (S, 3)),
    "trajectory": (
        functools.partial(solvers.trajectory, solvers.fista(), num_steps=5, record=total,
                          record_every=2),
        (LASSO,), ((S, N), (2, S)),
    ),
    "leave_one_out": (
        functools.partial(solvers.leave_one_out, threshold=0.1), (CODES, SIGNALS, ATOMS), (S, N)
    ),
    "prepare": (sc.dictionaries.prepare, (ATOMS,), dictionaries.Prepared((N, M), (), (N, N))),
    "as_sparse": (
        lambda x, d: sc.sparse_encode(x, d, num_active=K, as_sparse=True).values,
        (SIGNALS, ATOMS), (S, K),
    ),
    "sample_problem": (
        lambda key, k: synthetic.sample_problem(key, k, noise=0.1, **DRAWN).signals,
        (KEY, array(dtype=jnp.int32)), (S, M),
    ),
    "sample_features": (
        lambda key, model: synthetic.sample_features(
            key, model, num_samples=S, max_active=4
        ).signals,
        (KEY, FEATURES), (S, M),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "arguments", "shapes"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_lower(fn, arguments, shapes):
    assert lower(fn, *arguments) == shapes


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
