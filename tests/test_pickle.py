"""Programs are values: equal if their options are, and pickled; what comes back is the same."""

import pickle
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from sparsecode_jax import Lasso, encoders, prox, solvers
from sparsecode_jax.dictionary_learning import updates
from sparsecode_jax.training import losses, schedules

from .contracts import SOLVERS, M, N, S, sparse_problem
from .encoder_cases import ENCODERS
from .test_numbers import EVERY

SIGNALS, DICTIONARY, CODES = sparse_problem()
LOSSES = {
    "lasso": losses.lasso,
    "elastic_net": losses.elastic_net(0.3),
    "tilted": losses.tilted(0.2),
    "aux_k": losses.aux_k(losses.lasso, num_aux=3),
    "matryoshka": losses.matryoshka((4, N), losses.elastic_net(0.3)),
}
SCHEDULES = {
    "warmup": schedules.warmup(7),
    "cosine": schedules.cosine(9, num_warmup=2, last=0.1),
    "linear": schedules.linear(7, first=3.0, last=0.5),
    "linear_decay": schedules.linear_decay(9, num_warmup=2),
}
UPDATES = {
    "method_of_optimal_directions": updates.method_of_optimal_directions(),
    "k_svd": updates.k_svd(),
    "approximate_k_svd": updates.approximate_k_svd(),
    "block_coordinate": updates.block_coordinate(forgetting=3.0),
    "neural_update": updates.neural_update(learning_rate=0.1),
    "projected_gradient": updates.projected_gradient(learning_rate=0.1),
    "decorrelated": updates.decorrelated(
        updates.neural_update(learning_rate=0.1), max_coherence=0.8, num_rotations=3
    ),
    "deflated": updates.deflated(updates.block_coordinate(prior=5.0), max_coherence=0.8),
}
PROXES = {
    "elastic_net": prox.elastic_net(0.3, prox=prox.soft_threshold),
    "groups": prox.group_soft_threshold(2, nonnegative=False),
}
OTHER = {
    "scheduled": schedules.scheduled(optax.adam, schedules.warmup(7)),
    "log_adam": solvers.log_adam(epsilon=1e-6),
    "working_set_of_a_net": solvers.working_set((3, 5), prox=PROXES["elastic_net"]),
    "centered": encoders.centered(encoders.tied(encoders.gated(M, N)), M, tie=False),
}
EVERYTHING = EVERY | LOSSES | SCHEDULES | UPDATES | PROXES | OTHER
OURS = [case for case in ENCODERS if case.id != "from_flax"]  # a module is pickled if Flax's can be
EVERYTHING |= {case.id: case.values[0].encoder() for case in OURS}
EVERYTHING |= {case.id: case.values[0].solver for case in SOLVERS}


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_read_back_is_equal(name):
    program = EVERYTHING[name]
    again = pickle.loads(pickle.dumps(program))
    assert again == program and hash(again) == hash(program)


@pytest.mark.parametrize("module", [losses, schedules, updates])
def test_every_factory_is_in_a_table(module):
    factories = {name for name in module.__all__ if hasattr(getattr(module, name), "__wrapped__")}
    assert factories and factories <= EVERYTHING.keys()


def test_programs_of_other_options_are_others():
    assert len(set(EVERYTHING.values())) >= len(EVERYTHING) - 12  # some stand in two tables
    assert solvers.cosamp(2) != solvers.cosamp(3) != solvers.subspace_pursuit(3)
    assert encoders.top_k(M, N, num_active=3) != encoders.abs_top_k(M, N, num_active=3)
    assert losses.elastic_net(0.3) != losses.elastic_net(0.4)
    warm = [schedules.scheduled(optax.adam, schedules.warmup(n)) for n in (7, 8)]
    assert warm[0] != warm[1]


@pytest.mark.parametrize("name", EVERY)
def test_a_solver_that_is_read_back_is_the_same_program(name, compilations):
    lasso = Lasso(SIGNALS, DICTIONARY, np.float32(0.05), np.float32(0.1))
    expected = solvers.solve(EVERY[name], lasso, num_steps=3)
    compilations.count = 0
    again = pickle.loads(pickle.dumps(EVERY[name]))
    np.testing.assert_array_equal(solvers.solve(again, lasso, num_steps=3), expected)
    assert compilations.count == 0


@pytest.mark.parametrize("case", OURS)
def test_an_encoder_that_is_read_back_computes_the_same_bits(case):
    encoder = case.encoder()
    again = pickle.loads(pickle.dumps(encoder))
    params = encoder.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again.init(jax.random.key(0)), params)
    codes = jax.jit(encoder.apply)(params, SIGNALS)
    np.testing.assert_array_equal(jax.jit(again.apply)(params, SIGNALS), codes)


def test_losses_schedules_and_updates_that_are_read_back_compute_the_same_bits():
    latents = CODES - 0.1
    batch = losses.Batch(
        SIGNALS, DICTIONARY, np.float32(0.05), CODES, aux=encoders.linear(M, N).aux(
            encoders.LinearParams(DICTIONARY, None), SIGNALS)[1], dead=np.arange(N) % 2 == 0,
    )  # fmt: skip
    for loss in LOSSES.values():
        again = pickle.loads(pickle.dumps(loss))
        assert jax.jit(again)(latents, batch) == jax.jit(loss)(latents, batch)
    for schedule in SCHEDULES.values():
        again = pickle.loads(pickle.dumps(schedule))
        np.testing.assert_array_equal(again(np.arange(12)), schedule(np.arange(12)))
    for update in UPDATES.values():
        again = pickle.loads(pickle.dumps(update))
        got = [u.step(u.init(DICTIONARY), SIGNALS, DICTIONARY, CODES)[1] for u in (again, update)]
        np.testing.assert_array_equal(*got)


def test_another_process_reads_them(tmp_path):
    solver, encoder = solvers.sparsa(prox=PROXES["elastic_net"]), encoders.top_k(M, N, num_active=3)
    lasso = Lasso(SIGNALS, DICTIONARY, np.float32(0.05), np.float32(0.1))
    path = tmp_path / "programs.pickle"
    path.write_bytes(pickle.dumps((solver, encoder, lasso)))
    script = (
        "import pickle, sys, jax, numpy as np, sparsecode_jax as sc;"
        "solver, encoder, lasso = pickle.load(open(sys.argv[1], 'rb'));"
        "codes = sc.solvers.solve(solver, lasso, num_steps=3);"
        "more = encoder.apply(encoder.init(jax.random.key(0)), lasso.signals);"
        "np.savez(sys.argv[2], codes=codes, more=more)"
    )
    subprocess.run([sys.executable, "-c", script, path, tmp_path / "out.npz"], check=True)
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(out["codes"], solvers.solve(solver, lasso, num_steps=3))
    params = encoder.init(jax.random.key(0))
    np.testing.assert_array_equal(out["more"], encoder.apply(params, SIGNALS))
    assert out["more"].shape == (S, N)
