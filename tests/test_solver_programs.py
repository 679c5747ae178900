"""Solvers as programs: shapes, dtypes, transformations, trajectories, the front, compilations."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.objectives import duality_gap, kkt_residual, lasso
from sparsecode_jax.prox import soft_threshold

from .contracts import (
    PENALTY,
    PROXIMAL,
    SOLVERS,
    M,
    N,
    S,
    as_numpy,
    docstring,
    numpy_ista,
    sparse_problem,
)

each_solver = pytest.mark.parametrize("case", SOLVERS)
each_proximal = pytest.mark.parametrize("case", PROXIMAL)

gap = jax.jit(duality_gap, static_argnames="prox")
kkt = jax.jit(kkt_residual, static_argnames="prox")
objective = jax.jit(lasso)


def identity(codes):
    return codes


def certificate(case, problem, codes):
    return float(gap(*problem[:2], codes, problem.penalty, prox=case.prox).max())


# --- shapes, dtypes and transformations ----------------------------------------------------------


@each_solver
def test_leading_axes_agree(case):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        batch = case.solve(problem, 60)
        one = case.solve(problem._replace(signals=problem.signals[3]), 60)
        stack = case.solve(problem._replace(signals=problem.signals.reshape(4, 5, M)), 60)
    assert one.shape == (N,)
    assert stack.shape == (4, 5, N)
    np.testing.assert_allclose(one, batch[3], atol=1e-11)
    np.testing.assert_allclose(stack.reshape(S, N), batch, atol=1e-11)


@each_solver
@pytest.mark.parametrize("x64", [False, True])
def test_dtype_is_kept(case, x64):
    wide = np.float64 if x64 else np.float32
    narrow = ["float32", *(["bfloat16"] if case.proximal else [])]
    with jax.enable_x64(x64):
        for dtype in ["float64", *narrow] if x64 else narrow:
            problem = case.lasso(jnp.dtype(dtype))
            assert case.solve(problem, 3).dtype == jnp.dtype(dtype)
            # The numbers beside the signals and the dictionary do not decide.
            loose = problem._replace(penalty=wide(PENALTY), step_size=wide(problem.step_size))
            codes0 = np.zeros((S, N), wide)
            assert case.solve(loose, 3, codes0).dtype == jnp.dtype(dtype)


@each_proximal
def test_bfloat16_comes_within_its_precision_of_the_float32_objective(case):
    problem = case.lasso()
    single = objective(*problem[:2], case.solve(problem, 100), problem.penalty)
    codes = case.solve(case.lasso(jnp.bfloat16), 100).astype(jnp.float32)
    half = objective(*problem[:2], codes, problem.penalty)
    energy = 0.5 * jnp.sum(problem.signals**2, axis=-1)
    assert float(jnp.max((half - single) / energy)) < 2**-7  # bfloat16 keeps 8 bits


@each_solver
def test_numpy_inputs_are_accepted(case):
    problem = case.lasso()
    numpy = as_numpy(problem, np.float32)
    codes0 = np.full((S, N), 0.1, np.float32)
    from_numpy = case.solve(numpy, 20, codes0)
    assert isinstance(from_numpy, jax.Array)
    chex.assert_trees_all_equal(from_numpy, case.solve(problem, 20, jnp.asarray(codes0)))


@each_solver
def test_vmap_over_dictionaries_and_penalties_equals_a_loop(case):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        stack = jnp.stack([case.lasso(jnp.float64, seed).dictionary for seed in range(3)])
        penalties = jnp.asarray([0.01, 0.1, 1.0])

        def encode(dictionary, penalty):
            return sc.sparse_encode(
                problem.signals, dictionary, penalty, solver=case.solver, num_steps=40,
                step_size=case.step_size,
            )  # fmt: skip

        mapped = jax.vmap(encode)(stack, penalties)
        loop = jnp.stack([encode(d, p) for d, p in zip(stack, penalties, strict=True)])
        both = jax.jit(jax.vmap(jax.vmap(encode, (None, 0)), (0, None)))(stack, penalties)
    assert both.shape == (3, 3, S, N)
    np.testing.assert_allclose(mapped, loop, atol=1e-10)
    np.testing.assert_allclose(jnp.diagonal(both).transpose(2, 0, 1), loop, atol=1e-10)


@each_solver
def test_a_penalty_for_each_atom(case):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        constant = case.solve(problem._replace(penalty=jnp.full(N, PENALTY)), 100)
        np.testing.assert_allclose(
            constant, case.solve(problem, 100), atol=1e-12 * case.rounding[1]
        )
        weights = jnp.asarray(np.linspace(0.01, 0.3, N)).at[5].set(100.0)
        weighted = problem._replace(penalty=weights)
        if not case.proximal:  # a larger weight needs shorter steps in log-codes
            weighted = weighted._replace(step_size=jnp.float64(1e-3))
        codes = case.solve(weighted)
        assert certificate(case, weighted, codes) < case.gap[1]
    np.testing.assert_allclose(codes[:, 5], 0, atol=0 if case.proximal else 1e-7)
    assert np.max(np.abs(np.delete(codes, 5, axis=1))) > 0.3


@each_solver
def test_gradients_agree_with_finite_differences(case):
    @jax.jit
    def loss(problem):
        return jnp.sum(jnp.sin(3 * case.solve(problem, 12)))

    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        problem = problem._replace(signals=problem.signals[:2], penalty=jnp.full(N, PENALTY))
        gradient = jax.jit(jax.grad(loss))(problem)
        for field in problem._fields[: 3 if case.sizeless else 4]:
            x, g = np.asarray(getattr(problem, field)), np.asarray(getattr(gradient, field))
            assert np.max(np.abs(g)) > 1e-8
            direction = rng.normal(size=x.shape)
            sides = [
                float(loss(problem._replace(**{field: jnp.asarray(x + shift * direction)})))
                for shift in (1e-6, -1e-6)
            ]
            slope = (sides[0] - sides[1]) / 2e-6
            assert float(np.sum(g * direction)) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@each_solver
def test_gradients_are_finite(case):
    problem = case.lasso()
    start = case.solve(problem, 0)
    places = {
        "zero codes": (problem._replace(penalty=jnp.float32(100)), start),
        "zero signals": (problem._replace(signals=jnp.zeros_like(problem.signals)), start),
        "zero penalty": (problem._replace(penalty=jnp.float32(0)), start),
        "optimum": (problem, case.solve(problem)),
    }

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def gradient(signals, dictionary, penalty, codes0):
        codes = sc.sparse_encode(
            signals, dictionary, penalty, solver=case.solver, num_steps=30, codes0=codes0,
            step_size=case.step_size,
        )  # fmt: skip
        return jnp.sum((codes - 1) ** 2), codes

    for place, (at, codes0) in places.items():
        gradients, codes = gradient(*at[:3], codes0)
        chex.assert_tree_all_finite(gradients)
        if place == "zero codes" and case.proximal:
            np.testing.assert_array_equal(codes, np.zeros((S, N)))


def test_log_adam_gradients_stay_finite_after_codes_underflow():
    case = SOLVERS[-1].values[0]
    problem = case.lasso()._replace(step_size=jnp.float32(0.1))

    def loss(penalty):
        return jnp.sum(case.solve(problem._replace(penalty=penalty), 2000) ** 2)

    chex.assert_tree_all_finite(jax.grad(loss)(jnp.float32(PENALTY)))


# --- trajectories --------------------------------------------------------------------------------


@each_solver
@pytest.mark.parametrize(("num_steps", "record_every"), [(7, 3), (2, 5)])
def test_records_equal_separate_solves(case, num_steps, record_every):
    with jax.enable_x64(True):
        problem = case.lasso(jnp.float64)
        codes, records = solvers.trajectory(
            case.solver, problem, num_steps=num_steps, record=identity, record_every=record_every
        )
        assert records.shape == (num_steps // record_every, S, N)
        np.testing.assert_allclose(codes, case.solve(problem, num_steps), atol=1e-12)
        for i, recorded in enumerate(records):
            expected = case.solve(problem, (i + 1) * record_every)
            np.testing.assert_allclose(recorded, expected, atol=1e-12)


def test_a_record_is_any_pytree_and_a_trajectory_starts_warm():
    signals, dictionary, truth = sparse_problem()
    problem = Lasso(signals, dictionary, PENALTY, 0.1)
    codes0 = np.full((S, N), 0.2, np.float32)
    codes, records = solvers.trajectory(
        solvers.fista(), problem, num_steps=4, record_every=2, codes0=codes0,
        record=lambda z: {"mcc": sc.metrics.mcc(truth, z), "l0": (sc.metrics.l0(z),)},
    )  # fmt: skip
    expected = solvers.solve(solvers.fista(), problem, num_steps=4, codes0=codes0)
    chex.assert_trees_all_close(codes, expected, atol=1e-6)
    assert jax.tree.map(jnp.shape, records) == {"mcc": (2,), "l0": ((2,),)}
    assert float(records["mcc"][-1]) == pytest.approx(float(sc.metrics.mcc(truth, codes)), abs=1e-5)


# --- the front -----------------------------------------------------------------------------------


@each_solver
def test_sparse_encode_is_solve_with_the_solvers_own_step_size(case):
    problem = case.lasso()
    choose = case.solver.step_size or sc.dictionaries.step_size
    step_size = choose(problem.dictionary)
    expected = case.solve(problem._replace(step_size=step_size), 40)
    codes = sc.sparse_encode(*problem[:3], solver=case.solver, num_steps=40)
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=5e-6)
    if case.sizeless:
        return
    halved = sc.sparse_encode(
        *problem[:3], solver=case.solver, num_steps=40, step_size=step_size / 2
    )
    assert float(jnp.max(jnp.abs(halved - codes))) > 1e-3 * float(jnp.max(codes))


def test_defaults_of_the_front():
    signals, dictionary, _ = sparse_problem()
    default = sc.sparse_encode(signals, dictionary, PENALTY, num_steps=30)
    fista = sc.sparse_encode(signals, dictionary, PENALTY, num_steps=30, solver=solvers.fista())
    chex.assert_trees_all_equal(default, fista)
    assert float(default.min()) >= 0
    assert float(solvers.log_adam().step_size(jnp.asarray(dictionary))) == pytest.approx(3e-3)


def test_integers_are_cast_to_floats():
    codes = sc.sparse_encode(np.array([3, 4]), np.eye(2, dtype=int), 1, num_steps=50)
    assert codes.dtype == jnp.float32
    np.testing.assert_allclose(codes, [2, 3], atol=1e-5)


def test_mixed_dtypes_meet_in_the_wider_one():
    signals, dictionary, _ = sparse_problem()
    half = sc.sparse_encode(jnp.asarray(signals, jnp.bfloat16), dictionary, PENALTY, num_steps=3)
    assert half.dtype == jnp.float32
    with jax.enable_x64(True):
        double = sc.sparse_encode(signals, dictionary.astype(np.float64), PENALTY, num_steps=3)
    assert double.dtype == np.float64


def test_a_dictionary_is_used_as_it_is():
    signals, dictionary, _ = as_numpy(sparse_problem())
    scales = np.linspace(0.5, 2, N)
    run = {"solver": solvers.fista(restart=solvers.gradient_restart), "num_steps": 2000}
    with jax.enable_x64(True):
        codes = sc.sparse_encode(signals, dictionary, PENALTY, **run)
        scaled = sc.sparse_encode(signals, scales[:, None] * dictionary, PENALTY * scales, **run)
    np.testing.assert_allclose(np.asarray(scaled) * scales, codes, atol=1e-9)


def test_solvers_compose_under_jit_with_concrete_arrays_closed_over():
    signals, dictionary, _ = sparse_problem()
    expected = sc.sparse_encode(signals, dictionary, PENALTY, num_steps=20)
    inside = jax.jit(lambda p: sc.sparse_encode(signals, dictionary, p, num_steps=20))(PENALTY)
    outside = jax.jit(lambda x: sc.sparse_encode(x, dictionary, PENALTY, num_steps=20))(signals)
    # Three programs: the step size, folded to a constant, differs in its last two bits.
    chex.assert_trees_all_close(expected, inside, outside, atol=1e-5)


# --- programs ------------------------------------------------------------------------------------


def test_the_compilation_counter_counts(compilations):
    jax.jit(lambda x: x + 12345.0)(1.0)
    assert compilations.count >= 1


@each_solver
def test_the_second_call_compiles_nothing(case, compilations):
    problem = case.lasso()
    codes0 = np.full((S, N), 0.1, np.float32)

    def calls(problem, codes0, step_size):
        case.solve(problem, 13)
        case.solve(problem, 13, codes0)
        solvers.trajectory(case.solver, problem, num_steps=13, record=identity)
        sc.sparse_encode(*problem[:3], solver=case.solver, num_steps=13)
        sc.sparse_encode(*problem[:3], solver=case.solver, num_steps=13, step_size=step_size)

    calls(problem, codes0, 0.01)
    assert compilations.count >= 1
    jax.tree.map(jnp.asarray, as_numpy(problem, np.float32))  # moving NumPy arrays is a program
    compilations.count = 0
    calls(problem, codes0, 0.01)
    assert compilations.count == 0
    other = Lasso(2 * np.asarray(problem.signals), np.asarray(problem.dictionary)[::-1], 0.2, 0.02)
    calls(other, codes0 + 1, 0.03)
    assert compilations.count == 0


@each_solver
def test_program_size_does_not_depend_on_the_number_of_steps(case):
    problem = case.lasso()

    def programs(num_steps):
        run = {"num_steps": num_steps}
        return [
            str(jax.make_jaxpr(fn)(problem))
            for fn in (
                lambda p: solvers.solve(case.solver, p, **run),
                lambda p: solvers.trajectory(case.solver, p, record=identity, **run),
                lambda p: sc.sparse_encode(*p[:3], solver=case.solver, **run),
            )
        ]

    for short, long in zip(programs(10), programs(1000), strict=True):
        assert "length=10\n" in short
        assert len(short.splitlines()) == len(long.splitlines())


def test_factories_return_one_program():
    assert solvers.ista() is solvers.ista()
    assert solvers.fista(prox=soft_threshold) is solvers.fista(prox=soft_threshold)
    assert solvers.log_adam(epsilon=1e-6) is solvers.log_adam(epsilon=1e-6)
    assert solvers.log_adam(epsilon=1e-6) != solvers.log_adam()
    for case in SOLVERS:
        hash(case.values[0].solver)


@each_solver
def test_every_product_asks_for_the_highest_precision(case):
    text = str(jax.make_jaxpr(lambda p: case.solve(p, 5))(case.lasso()))
    products = 2 + case.start_products  # reconstruct, correlate: nothing is unrolled
    assert text.count("dot_general[") == products
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == products


@each_solver
@pytest.mark.parametrize(("s", "m", "n"), [(1, 8, 16), (5, 7, 11), (20, 30, 4)])
def test_cost(case, s, m, n):
    shapes = ((s, m), (n, m), (), ())
    problem = Lasso(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
    state = jax.eval_shape(case.solver.init, problem)
    start = eval_flops(case.solver.init, problem).total("arithmetic")
    assert start == case.start_cost(s, m, n)
    step = eval_flops(case.solver.step, state, problem).total("arithmetic")
    assert step == case.cost(s, m, n)
    assert case.cost_text[1] in docstring(case.cost_text[0])


@each_proximal
def test_cost_of_a_run_is_the_start_and_the_steps_and_nothing_else(case):
    problem = case.lasso()
    run = functools.partial(solvers.solve, case.solver, num_steps=10)
    expected = case.start_cost(S, M, N) + 10 * case.cost(S, M, N)
    assert eval_flops(lambda p: run(p), problem).total("arithmetic") == expected
    front = eval_flops(
        lambda x, d: sc.sparse_encode(x, d, PENALTY, solver=case.solver, num_steps=10), *problem[:2]
    )
    choose = case.solver.step_size or sc.dictionaries.step_size
    step_size = eval_flops(choose, problem.dictionary)
    products, rest = front.total("matmul"), front.total("arithmetic")
    if not case.sizeless:
        products, rest = products - step_size.total("matmul"), rest - step_size.total("arithmetic")
    assert products == (case.start_products + 20) * S * 2 * M * N
    assert rest == expected


@pytest.mark.parametrize("case", [p for p in PROXIMAL if "signed" in p.id])
def test_the_documented_cost_of_signed_codes(case):
    factory = case.cost_text[0]
    assert "N more with soft_threshold" in docstring(factory)


def test_cost_of_a_log_adam_run_includes_its_codes():
    problem = SOLVERS[-1].values[0].lasso()
    run = eval_flops(lambda p: solvers.solve(solvers.log_adam(), p, num_steps=10), problem)
    step = SOLVERS[-1].values[0].cost(S, M, N)
    assert run.total("arithmetic") == 10 * step + S * N  # the last exponential


def test_ista_obeys_its_convergence_bound():
    """L |z0 - z*|^2 / 2k, for every k and signal."""
    with jax.enable_x64(True):
        case = SOLVERS[0].values[0]
        problem = case.lasso(jnp.float64)
        _, path = solvers.trajectory(case.solver, problem, num_steps=200, record=identity)
        best = numpy_ista(*as_numpy(problem[:4]), 20_000, signed=False)
        excess = objective(*problem[:2], path, PENALTY) - objective(*problem[:2], best, PENALTY)
        bound = jnp.sum(best**2, -1) / problem.step_size / 2
    steps = np.arange(1, 201)[:, None]
    assert np.all(np.asarray(excess) <= np.asarray(bound) / steps)


@pytest.mark.full_effort  # where the compiler folds constants
@pytest.mark.parametrize("kind", [jnp.float32, np.float32, np.float64, int])
def test_a_dictionary_that_a_program_closes_over_is_not_folded(kind):
    """XLA would form the Gram matrix while it compiles: minutes for 2,304 atoms."""
    dictionary = sc.dictionaries.random(jax.random.key(0), num_atoms=96, num_measurements=32)
    if kind is not jnp.float32:  # of NumPy
        dictionary = np.asarray(8 * dictionary if kind is int else dictionary, kind)
    signals = jnp.ones((4, 32))

    def folded(program):
        text = jax.jit(program).lower(signals).compile().as_text()
        return re.search(r"f32\[96,96\]\S* constant\(", text) is not None

    assert folded(lambda x: x @ dictionary.T @ (dictionary @ dictionary.T))  # it can be seen
    pursuit = sc.solvers.matching_pursuit()
    lasso = sc.Lasso(signals, dictionary, jnp.float32(0.1), jnp.float32(0.1))
    for program in (
        lambda x: sc.sparse_encode(x, dictionary, 0.1, num_steps=3, solver=pursuit),
        lambda x: sc.sparse_encode(x, dictionary, num_active=2),
        lambda x: sc.sparse_encode(x, sc.dictionaries.prepare(dictionary), num_active=2),
        lambda x: sc.solvers.solve(pursuit, lasso._replace(signals=x), num_steps=3),
        lambda x: sc.solvers.trajectory(
            pursuit, lasso._replace(signals=x), num_steps=3, record=jnp.sum
        ),
        lambda x: sc.solvers.solve_to_tolerance(
            sc.solvers.coordinate_descent(), lasso._replace(signals=x), tolerance=0.1, max_steps=3
        ),
    ):
        assert not folded(program)
        np.testing.assert_allclose(
            jax.tree.leaves(jax.jit(program)(signals))[0],
            jax.tree.leaves(program(signals))[0],
            atol=1e-5,
        )
