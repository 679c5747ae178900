"""Everything runs under JAX's stricter modes too, and gives what it gives without them."""

import contextlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, dictionaries, encoders, metrics, prox, solvers, training
from sparsecode_jax.dictionary_learning import (
    learn_dictionary,
    learn_dictionary_online,
    updates,
)
from sparsecode_jax.training import Recipe, losses

from .contracts import M, N, S, sparse_problem
from .encoder_cases import ENCODERS
from .test_numbers import EVERY, NEAR

SIGNALS, DICTIONARY, CODES = sparse_problem()
KEY = jax.random.key(0)
MODES = {
    "debug_nans": lambda: jax.debug_nans(True),
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "checks": lambda: jax.enable_checks(True),
    "x64": lambda: jax.enable_x64(True),
}


@contextlib.contextmanager
def strict():
    """Enter all modes that let numbers be what they are: one that is broken says which it was."""
    with contextlib.ExitStack() as stack:
        for mode in MODES.keys() - {"x64"}:
            stack.enter_context(MODES[mode]())
        yield


TOGETHER = {"strict": strict, "x64": MODES["x64"]}
each_mode = pytest.mark.parametrize("mode", TOGETHER)
SLOW = ("checks", "x64", "rank_promotion")  # of training: two are enough for every day
in_training = pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW else m for m in MODES]
)


def agree(mode, run, rtol=2e-5):
    """Compare what a run gives in a mode and without; float64 is another problem's rounding."""
    expected = run()
    with TOGETHER[mode]():
        got = run()
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


@each_mode
@pytest.mark.parametrize("name", EVERY)
def test_solvers(mode, name):
    solver = EVERY[name]

    def run():
        choose = solver.step_size or dictionaries.step_size
        lasso = Lasso(SIGNALS, DICTIONARY, 0.05, choose(jnp.asarray(DICTIONARY)))
        info = solvers.solve_to_tolerance(solver, lasso, tolerance=1e-2, max_steps=50)[1]
        return solvers.solve(solver, lasso, num_steps=4), info.gap <= 1e-2

    agree(mode, run)


@each_mode
def test_fronts(mode):
    net = prox.elastic_net(0.5)

    def run():
        weights = np.full(N, 0.05, np.float32)
        few = sc.SparseCodes.from_dense(NEAR, num_active=4)
        to = [
            sc.sparse_encode(SIGNALS, DICTIONARY, 0.05, tolerance=1e-4),
            sc.sparse_encode(SIGNALS, DICTIONARY, weights, num_steps=5),
            sc.sparse_encode(
                SIGNALS, DICTIONARY, 0.05, num_steps=5, solver=solvers.sparsa(prox=net)
            ),
            sc.solvers.refit(NEAR, SIGNALS, DICTIONARY, num_active=4),
            sc.solvers.refit(few, SIGNALS, DICTIONARY),
            sc.solvers.leave_one_out(few, SIGNALS, DICTIONARY, threshold=0.1),
            sc.solvers.leave_one_out(NEAR, SIGNALS, DICTIONARY, threshold=2 * weights),
        ]
        gradient = jax.grad(
            lambda d: sc.sparse_encode(SIGNALS, d, 0.05, tolerance=1e-5).sum()
        )(jnp.asarray(DICTIONARY))  # fmt: skip
        scores = [
            metrics.mcc(CODES, NEAR), metrics.latent_correlation(CODES, NEAR),
            metrics.dictionary_mcc(DICTIONARY, DICTIONARY[::-1]), metrics.l0(NEAR),
            metrics.pearson_dictionary_mcc(DICTIONARY, DICTIONARY), metrics.dead_fraction(CODES),
            metrics.mse(SIGNALS, SIGNALS + 1), metrics.r2(SIGNALS, SIGNALS + 1),
            metrics.latent_f1(CODES, NEAR, true_dictionary=DICTIONARY, dictionary=DICTIONARY),
            metrics.uniqueness(DICTIONARY, DICTIONARY), metrics.shrinkage(SIGNALS, SIGNALS + 1),
            metrics.score_features(
                [(SIGNALS, CODES, NEAR, SIGNALS + 1)],
                true_dictionary=DICTIONARY, dictionary=DICTIONARY,
            ),
            metrics.nearest_neighbor_cosine(DICTIONARY), dictionaries.coherence(DICTIONARY),
            sc.objectives.kkt_residual(SIGNALS, DICTIONARY, CODES, 0.05),
            sc.objectives.relative_error(SIGNALS, DICTIONARY, CODES),
            jax.jit(metrics.mcc)(CODES, NEAR),
        ]  # fmt: skip
        return to, scores, jnp.isfinite(gradient)

    agree(mode, run, rtol=1e-3)


@each_mode
@pytest.mark.parametrize("case", ENCODERS)
def test_encoders(mode, case):
    encoder = case.encoder()
    with jax.enable_x64(False):
        params = encoder.init(KEY)
    agree(mode, lambda: encoder.apply(params, SIGNALS), rtol=1e-4)


@each_mode
def test_feature_models(mode):
    synthetic, atoms, rates = sc.synthetic, DICTIONARY[:6], np.float32([0.5, 1, 0.1, 0.1, 0, 0.2])
    first = np.array([True] + 5 * [False])
    groups = {"dictionary": DICTIONARY[:12], "groups": np.array([1, 2, 3, 1, 2, 3], np.int32)}

    def run():
        hierarchy = synthetic.tree([-1, -1, 0, 0, 1, 1], scaled=True, exclusive=first)
        model = synthetic.FeatureModel(
            atoms, synthetic.compensate(rates, hierarchy), bias=np.ones(M, np.float32),
            means=np.ones(6, np.float32), deviations=0.1,
            factors=np.full((6, 2), 0.3, np.float32), tree=hierarchy, noise=0.1,
        )  # fmt: skip
        bench = synthetic.synth_sae_bench(
            KEY, num_features=512, num_measurements=4, num_orthogonalizing_steps=2
        )
        drawn = [
            synthetic.sample_features(KEY, made, num_samples=9, max_active=5)
            for made in (model, replace(model, tree=None), replace(model, **groups))
        ]
        if mode != "x64":
            return bench, drawn
        assert all(np.isfinite(batch.signals).all() for batch in drawn)  # of other numbers
        return bench.probabilities, bench.tree

    agree(mode, run)


def tapered(learning_rate):
    falling = training.schedules.linear_decay(5)
    steps = training.schedules.scheduled(optax.sgd, falling)(learning_rate)
    return optax.chain(training.project_gradients(), optax.clip_by_global_norm(1.0), steps)


TRAININGS = {
    "linear": (encoders.linear(M, N), Recipe(losses.paper)),
    "lasso": (encoders.tied(encoders.linear(M, N)), Recipe()),
    "top_k": (
        encoders.centered(encoders.top_k(M, N, num_active=3), M),
        Recipe(losses.aux_k(num_aux=4), dead_after=2, batch_size=7),
    ),
    "resampled": (
        encoders.jump_relu(M, N), Recipe(dead_after=1, resample_every=2, batch_size=7)
    ),
    "jump_relu": (encoders.jump_relu(M, N), Recipe(losses.l0, average_decay=0.9)),
    "gated": (encoders.normalized(encoders.gated(M, N), 2.0), Recipe(losses.gated)),
    "matryoshka": (
        encoders.batch_top_k(M, N, num_active=3), Recipe(losses.matryoshka((4, 8, N)))
    ),
    "refined": (
        encoders.refined(encoders.batch_top_k(M, N, num_active=None)),
        Recipe(
            losses.matryoshka((4, 8, N), losses.tilted(0.1), detached=True, by_frequency=True),
            active_schedule=training.schedules.linear(3, first=3.0), frequency_decay=0.9,
        ),
    ),
    "schedules": (
        encoders.lista(M, N, num_layers=2),
        Recipe(losses.elastic_net(0.3), tapered, penalty_schedule=training.schedules.warmup(3)),
    ),
    "unrolled": (encoders.unrolled(solvers.fista(), M, N, num_steps=3), Recipe()),
    "pursuit": (
        encoders.unrolled(solvers.matching_pursuit(), M, N, num_steps=3),
        Recipe(losses.squared_error),
    ),
}  # fmt: skip


@in_training
@pytest.mark.parametrize("name", TRAININGS)
def test_training(mode, name):
    encoder, recipe = TRAININGS[name]
    keys = jax.random.split(KEY, 2)
    with MODES[mode]():
        result = training.fit(
            keys, encoder, SIGNALS, num_atoms=N, num_steps=4, progress=None, recipe=recipe,
            model=training.Model(bias="mean"),
        )  # fmt: skip
    assert np.all(np.isfinite(result.state.loss)) and np.all(np.isfinite(result.losses))


UPDATES = {
    "mod": updates.method_of_optimal_directions(),
    "k_svd": updates.k_svd(),
    "approximate_k_svd": updates.approximate_k_svd(),
    "block_coordinate": updates.block_coordinate(),
    "projected_gradient": updates.projected_gradient(),
    "neural": updates.decorrelated(updates.neural_update(learning_rate=0.1), max_coherence=0.9),
}


DAILY = ("mod", "block_coordinate")  # the updates that learners take by default


@in_training
@pytest.mark.parametrize(
    "name",
    [n if n in DAILY else pytest.param(n, marks=pytest.mark.slow) for n in UPDATES],
)
def test_dictionary_learning(mode, name):
    with MODES[mode]():
        learned = learn_dictionary(
            KEY, SIGNALS, num_atoms=6, num_rounds=2, num_restarts=1, num_hops=0,
            num_refinement_rounds=1, update=UPDATES[name],
        )  # fmt: skip
        online = learn_dictionary_online(KEY, [SIGNALS[: S // 2], SIGNALS[S // 2 :]], num_atoms=6)
    assert np.all(np.isfinite(learned.dictionary)) and np.all(np.isfinite(online.dictionary))
