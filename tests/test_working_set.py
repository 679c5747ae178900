"""The working set against scikit-learn, where it has to grow, where it cannot, and odd problems."""

import importlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso as SklearnLasso

from sparsecode_jax import Lasso, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import (
    elastic_net,
    group_soft_threshold,
    nonnegative_soft_threshold,
    soft_threshold,
)
from sparsecode_jax.solvers import solve_to_tolerance, working_set

from .contracts import docstring, numpy_gap

module = importlib.import_module("sparsecode_jax.solvers.working_set")  # the name is the function
M, N, S = 24, 60, 6
PENALTY = 0.05
WEIGHTS = np.linspace(0.02, 0.2, N)
OPERATORS = {
    "nonnegative": (nonnegative_soft_threshold, {"signed": False}),
    "signed": (soft_threshold, {"signed": True}),
    "elastic_net": (elastic_net(0.5), {"signed": False, "ridge": 0.5}),
    "elastic_net_signed": (
        elastic_net(0.5, prox=soft_threshold), {"signed": True, "ridge": 0.5},
    ),
}  # fmt: skip
each_operator = pytest.mark.parametrize(("prox", "numpy"), OPERATORS.values(), ids=OPERATORS)


def coherent(num_atoms=N, num_measurements=M, *, signed=False, seed=0):
    """Draw atoms around six centers, and signals of ten of them with noise."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(6, num_measurements))
    dictionary = centers[np.arange(num_atoms) % 6] + 0.5 * rng.normal(
        size=(num_atoms, num_measurements)
    )
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.zeros((S, num_atoms))
    for row in codes:
        row[rng.choice(num_atoms, 10)] = 0.3 + rng.random(10)
    if signed:
        codes *= rng.choice([-1, 1], size=codes.shape)
    noise = 0.02 * rng.normal(size=(S, num_measurements))
    return codes @ dictionary + noise, dictionary


def solve(
    signals, dictionary, penalty, *, sizes=(4, 32), tolerance=1e-10, max_steps=200,
    codes0=None, **settings,
):  # fmt: skip
    with jax.enable_x64(True):
        problem = Lasso(*(jnp.asarray(x) for x in (signals, dictionary, penalty, 1.0)))
        codes, info = solve_to_tolerance(
            working_set(sizes, **settings), problem, tolerance=tolerance, max_steps=max_steps,
            codes0=codes0,
        )  # fmt: skip
    return np.asarray(codes), info


@pytest.mark.parametrize("signed", [False, True])
def test_equals_the_lasso_of_scikit_learn(signed):
    """With supports larger than the first sizes, so that the set has to grow."""
    signals, dictionary = coherent(signed=signed)
    model = SklearnLasso(
        alpha=PENALTY / M, fit_intercept=False, positive=not signed, tol=1e-14, max_iter=1_000_000
    )
    theirs = np.stack([model.fit(dictionary.T, x).coef_ for x in signals])
    prox = soft_threshold if signed else nonnegative_soft_threshold
    codes, info = solve(signals, dictionary, PENALTY, prox=prox, tolerance=1e-12)
    assert np.all(info.converged)
    assert np.min(np.sum(theirs != 0, axis=1)) > 4
    assert np.any(codes < 0) == signed
    np.testing.assert_allclose(codes, theirs, atol=1e-6)


@each_operator
def test_reaches_the_optimum_of_each_penalty(prox, numpy):
    penalty = WEIGHTS if prox in (soft_threshold, OPERATORS["elastic_net"][0]) else PENALTY
    signals, dictionary = coherent(signed=numpy["signed"])
    codes, info = solve(signals, dictionary, penalty, prox=prox)
    assert np.all(info.converged)
    gap = numpy_gap(signals, dictionary, codes, penalty, **numpy)
    assert np.all(gap <= 1.1e-10)
    np.testing.assert_allclose(info.gap, gap, atol=1e-13)


def test_too_many_nonzeros_are_told():
    signals, dictionary = coherent()
    full, _ = solve(signals, dictionary, 1e-3)
    wide = np.sum(full != 0, axis=1) > 6
    assert np.any(wide)
    codes, info = solve(signals, dictionary, 1e-3, sizes=(2, 4), max_steps=30)
    np.testing.assert_array_equal(np.asarray(info.num_steps)[wide], 30)
    assert not np.any(np.asarray(info.converged)[wide])
    assert np.all(np.asarray(info.gap)[wide] > 1e-8)
    assert np.all(np.isfinite(codes)) and np.all(np.sum(codes != 0, axis=1) <= 4)
    gap = numpy_gap(signals, dictionary, codes, 1e-3, signed=False)
    np.testing.assert_allclose(info.gap, gap, rtol=1e-6)


def _odd():
    """Duplicate atoms; one set of all atoms; fewer atoms than sizes; one atom."""
    signals, dictionary = coherent(20)
    yield "duplicates", signals, np.concatenate([dictionary, dictionary[:10]]), (4, 30)
    yield "all atoms", signals, dictionary, (20,)
    yield "few atoms", signals, dictionary[:5], (4, 8, 16)
    yield "one atom", signals, dictionary[:1], (1,)
    yield "one measurement", signals[:, :1], dictionary[:, :1], (1, 2)
    yield "shrinking sizes", signals, dictionary, (16, 4, 20)


@pytest.mark.parametrize(("name", "signals", "dictionary", "sizes"), list(_odd()))
def test_odd_problems(name, signals, dictionary, sizes):
    codes, info = solve(signals, dictionary, PENALTY, sizes=sizes, tolerance=1e-9)
    assert np.all(info.converged)
    gap = numpy_gap(signals, dictionary, codes, PENALTY, signed=False)
    assert np.all(gap <= 1.1e-9)


@pytest.mark.full_effort  # a round may raise a gap of 1e-10, by how much depends on rounding
def test_warm_starts():
    """From the optimum one round suffices; a dense start gives up its smallest codes."""
    signals, dictionary = coherent()
    optimum, cold = solve(signals, dictionary, PENALTY, sizes=(32,), tolerance=1e-13)
    again, info = solve(signals, dictionary, PENALTY, sizes=(32,), codes0=optimum, tolerance=1e-9)
    np.testing.assert_array_equal(info.num_steps, 1)
    assert np.all(np.asarray(cold.num_steps) > 1)
    np.testing.assert_allclose(again, optimum, atol=1e-5)
    dense = np.linspace(1, 2, S * N).reshape(S, N)
    codes, info = solve(signals, dictionary, PENALTY, sizes=(32,), codes0=dense)
    assert np.all(info.converged)
    np.testing.assert_allclose(codes, optimum, atol=1e-4)
    start = working_set((4, 8)).init(Lasso(signals, dictionary, PENALTY, 1.0), jnp.asarray(dense))
    assert set(np.asarray(start.support[0]).tolist()) == set(range(N - 8, N))
    residual = signals - np.where(np.arange(N) >= N - 8, dense, 0) @ dictionary
    np.testing.assert_allclose(start.residual, residual, atol=1e-4)


def test_zero_signals_and_a_penalty_above_every_correlation():
    signals, dictionary = coherent()
    for x, penalty in ((0 * signals, PENALTY), (signals, 100.0)):
        codes, info = solve(x, dictionary, penalty)
        np.testing.assert_array_equal(codes, 0)
        np.testing.assert_array_equal(info.num_steps, 1)


def test_bad_arguments():
    for call, message in (
        (lambda: working_set(()), "the number of sizes is 0; an integer >= 1 is expected"),
        (lambda: working_set((8, 0)), "working_set: an entry of sizes is 0; an integer >= 1"),
        (lambda: working_set(inner_steps=0), "working_set: inner_steps is 0; an integer >= 1"),
        (
            lambda: working_set(prox=group_soft_threshold(2)),
            "working_set: got the penalty of GroupSoftThreshold.*elastic_net is expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert working_set() is working_set()
    hash(working_set())


@pytest.mark.parametrize(("m", "n", "w", "inner"), [(8, 40, 6, 3), (5, 12, 4, 7)])
def test_cost(m, n, w, inner):
    shapes = ((S, m), (n, m), (), ())
    problem = Lasso(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
    solver = working_set((w,), inner_steps=inner)
    state = jax.eval_shape(solver.init, problem)
    assert eval_flops(solver.init, problem).total("matmul") == S * 2 * m * n
    step = eval_flops(solver.step, state, problem).total("matmul")
    expected = 2 * m * n + 2 * m * w**2 + 2 * m * w + 2 * w**2 * inner + 4 * w**2
    assert step == S * expected
    text = docstring(working_set)
    assert "2MN per signal to start; a signal and round of size W 2MN to correlate" in text
    assert "2MW^2 + 2MW for the Gram matrix and the residual (2MW where the problem has the" in text
    assert "2W^2 per inner step and 4W^2 before them" in text


def test_one_round_equals_proximal_gradient_on_the_same_atoms():
    """All atoms in the set and many inner steps: the small problem is the whole problem."""
    signals, dictionary = coherent(12)
    codes, _ = solve(
        signals, dictionary, PENALTY, sizes=(12,), inner_steps=2000, max_steps=1, tolerance=1e-3
    )
    with jax.enable_x64(True):
        step = 1 / np.linalg.norm(dictionary, 2) ** 2
        problem = Lasso(*map(jnp.asarray, (signals, dictionary, PENALTY, step)))
        fista = solvers.fista(restart=solvers.gradient_restart)
        expected = solvers.solve(fista, problem, num_steps=3000)
    np.testing.assert_allclose(codes, expected, atol=1e-8)


@pytest.mark.parametrize("leading", [(5,), (3, 2)])
def test_a_round_in_blocks_of_signals_equals_one_of_all(monkeypatch, leading):
    """Also where the last block is not full, and over two rounds of different sizes."""
    signals, dictionary = coherent()
    signals = signals[: np.prod(leading)].reshape(*leading, M)
    with jax.enable_x64(True):
        problem = Lasso(*map(jnp.asarray, (signals, dictionary, PENALTY, 1.0)))
        solver = working_set((4, 8))

        def two_rounds():  # a function of its own each time: a compiled one would be kept
            step = jax.jit(lambda state: solver.step(state, problem))
            return step(step(solver.init(problem)))

        expected = two_rounds()
        monkeypatch.setattr(module, "_MOST_ENTRIES", 2 * 8 * M)  # four signals, then two
        blocks = two_rounds()
    assert blocks.support.shape == (*leading, 8)
    chex.assert_trees_all_close(blocks, expected, atol=1e-12)


def test_memory_does_not_grow_with_the_gathered_atoms_of_all_signals():
    """The largest array of a round has the entries allowed, whatever the number of signals."""

    def largest(batch, width):
        shapes = ((batch, 64), (2048, 64), (), ())
        problem = Lasso(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
        solver = working_set((width,))
        text = jax.jit(solver.step).lower(jax.eval_shape(solver.init, problem), problem).as_text()
        found = re.findall(r"tensor<([0-9x]+)xf32>", text)
        return max(np.prod([int(n) for n in shape.split("x")], dtype=np.int64) for shape in found)

    assert largest(2**11, 128) == 2**11 * 128 * 128 <= module._MOST_ENTRIES
    assert largest(2**13, 256) <= module._MOST_ENTRIES < 2**13 * 256 * 256


@pytest.mark.full_effort
def test_a_wide_dictionary_takes_half_a_gigabyte_at_most():
    shapes = (512, 768), (6144, 768)
    signals, atoms = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    encode = jax.jit(lambda x, d: solvers.sparse_encode(x, d, 0.1, tolerance=1e-5))
    memory = encode.lower(signals, atoms).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**29


def test_a_number_stands_for_sizes_that_grow_to_it():
    assert working_set(200) == working_set()
    assert working_set(1000) == working_set((32, 32, 64, 96, 128, 256, 512, 1024))
    with pytest.raises(ValueError, match="sizes is 0; an integer >= 1"):
        working_set(0)
