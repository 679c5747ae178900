"""Running to a tolerance: shapes, starts, dtypes, transformations and programs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import solve_to_tolerance

from .contracts import M, N, S, as_numpy, sparse_problem
from .tolerance import CASES, some


@pytest.mark.full_effort  # equal numbers of steps in programs of other shapes
@some("sparsa", "omp")
@pytest.mark.parametrize("chunk_size", [1, 3])
def test_any_chunk_size(case, chunk_size):
    with jax.enable_x64(True):
        codes, info = case.run(chunk_size=chunk_size)
        expected, like = case.run(chunk_size=S + 1)
    np.testing.assert_array_equal(info.num_steps, like.num_steps)
    np.testing.assert_allclose(codes, expected, atol=1e-6)


@some("fista")
def test_leading_axes(case):
    with jax.enable_x64(True):
        problem = case.problem()
        codes, info = case.run()
        one, alone = case.run(problem._replace(signals=problem.signals[3]))
        stack, both = case.run(problem._replace(signals=problem.signals.reshape(4, 5, M)))
    assert (one.shape, stack.shape) == ((N,), (4, 5, N))
    for field, single, many in zip(info, alone, both, strict=True):
        assert (field.shape, single.shape, many.shape) == ((S,), (), (4, 5))
        np.testing.assert_allclose(many.reshape(S), field, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(single, field[3], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(one, codes[3], atol=1e-6)
    np.testing.assert_allclose(stack.reshape(S, N), codes, atol=1e-6)
    assert (info.num_steps.dtype, info.converged.dtype) == (jnp.int32, jnp.bool_)


@some("fista", "working set")
def test_too_few_steps_are_told(case):
    codes, info = case.run(case.problem(jnp.float32), max_steps=1, check_every=2, tolerance=1e-6)
    slow = ~np.asarray(info.converged)
    np.testing.assert_array_equal(np.asarray(info.num_steps)[slow], 2)  # a multiple of check_every
    assert np.all(np.asarray(info.gap)[slow] > 1e-6)
    assert np.any(slow) and np.all(np.isfinite(codes))


@some("fista", "sparsa")
def test_warm_starts(case):
    """Already optimal, a signal stops at the first look; others go on from where they start."""
    with jax.enable_x64(True):
        optimum, _ = case.run(tolerance=1e-12, max_steps=5000)
        codes, info = case.run(codes0=optimum)
        np.testing.assert_array_equal(info.num_steps, case.check_every)
        np.testing.assert_allclose(codes, optimum, atol=1e-5)
        start = jnp.where(jnp.arange(S)[:, None] % 2 == 0, optimum, jnp.ones((S, N)))
        codes, info = case.run(codes0=start.reshape(4, 5, N), problem=case.problem()._replace(
            signals=case.problem().signals.reshape(4, 5, M)))  # fmt: skip
    steps = np.asarray(info.num_steps).reshape(S)
    assert np.all(steps[::2] == case.check_every) and np.all(steps[1::2] > case.check_every)
    assert np.all(case.measure(case.problem(), np.asarray(codes).reshape(S, N)) <= case.tolerance)


@some("sparsa", "working set", "omp", "log_adam")
def test_zero_signals_are_done_at_once_and_hold_nobody_up(case):
    problem = case.problem(jnp.float32)
    zero = problem._replace(signals=problem.signals.at[::3].set(0))
    codes, info = case.run(zero)
    assert np.all(np.asarray(info.converged)[::3])
    if case.step_size is None:
        np.testing.assert_array_equal(info.num_steps[::3], case.check_every)
        np.testing.assert_array_equal(codes[::3], 0)
    measured = case.measure(problem, codes)[1::3]
    np.testing.assert_array_equal(np.asarray(info.converged)[1::3], measured <= case.tolerance)


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 1e-3])
def test_signed_pursuit_stops_where_scikit_learn_does(tolerance):
    signals, dictionary, _ = as_numpy(sparse_problem(signed=True))
    solver = solvers.orthogonal_matching_pursuit(M, prox=soft_threshold)
    with jax.enable_x64(True):
        problem = Lasso(signals, dictionary, 0.0, 1.0)
        codes, info = solve_to_tolerance(solver, problem, tolerance=tolerance, max_steps=M)
    for x, code, steps in zip(signals, codes, info.num_steps, strict=True):
        theirs = orthogonal_mp(dictionary.T, x, tol=tolerance * (x @ x))
        assert np.count_nonzero(theirs) == steps
        np.testing.assert_array_equal(np.flatnonzero(theirs), np.flatnonzero(code))
        np.testing.assert_allclose(code, theirs, atol=1e-10)


@pytest.mark.parametrize("name", ["sparsa", "working set"])
def test_single_precision(name):
    case = CASES[name]
    problem = case.problem(jnp.float32)
    codes, info = case.run(problem, tolerance=1e-5, max_steps=2000)
    assert codes.dtype == info.gap.dtype == jnp.float32
    assert np.all(case.measure(problem, codes) <= 1.1e-5)


# --- transformations -------------------------------------------------------------------------


@pytest.mark.full_effort  # equal numbers of steps in programs of other shapes
@some("fista", "sparsa")
def test_jit_and_vmap_over_dictionaries_and_penalties(case):
    with jax.enable_x64(True):
        problem = case.problem()
        stack = jnp.stack([problem.dictionary, problem.dictionary[:, ::-1]])
        penalties = jnp.asarray([0.02, 0.1])

        def encode(dictionary, penalty):
            return case.run(problem._replace(dictionary=dictionary, penalty=penalty), chunk_size=7)

        both = jax.jit(jax.vmap(jax.vmap(encode, (None, 0)), (0, None)))(stack, penalties)
        loop = [[encode(d, p) for p in penalties] for d in stack]
    for i, row in enumerate(loop):
        for j, (codes, info) in enumerate(row):
            np.testing.assert_array_equal(both[1].num_steps[i, j], info.num_steps)
            np.testing.assert_allclose(both[0][i, j], codes, atol=1e-6)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from sparsecode_jax import Lasso, solvers
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
dictionary = rng.normal(size=(12, 6))
dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
signals = jnp.asarray(np.abs(rng.normal(size=(10, 12))) * (rng.random((10, 12)) < 0.2) @ dictionary)
mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
spec = jax.P("device")
all_solvers = (
    solvers.fista(), solvers.sparsa(), solvers.working_set((4, 8)), solvers.lca(),
    solvers.orthogonal_matching_pursuit(3), solvers.subspace_pursuit(2), solvers.matching_pursuit(),
    solvers.coordinate_descent(), solvers.iterative_hard_thresholding(3), solvers.cosamp(2),
)
for solver in all_solvers:
    def encode(x):
        problem = Lasso(x, dictionary, 0.05, 0.1)
        return solvers.solve_to_tolerance(
            solver, problem, tolerance=1e-4, max_steps=900, chunk_size=3
        )
    mapped = jax.shard_map(encode, mesh=mesh, in_specs=spec, out_specs=spec)
    codes, info = jax.jit(mapped)(signals)
    expected, like = encode(signals)
    np.testing.assert_array_equal(info.num_steps, like.num_steps)
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    assert len(codes.devices()) == 2
    assert solver.prox is None or len(set(info.num_steps.tolist())) > 1
    fixed = jax.shard_map(
        lambda x: solvers.solve(solver, Lasso(x, dictionary, 0.05, 0.1), num_steps=3),
        mesh=mesh, in_specs=spec, out_specs=spec,
    )
    same = solvers.solve(solver, Lasso(signals, dictionary, 0.05, 0.1), num_steps=3)
    np.testing.assert_allclose(jax.jit(fixed)(signals), same, atol=1e-6)
print("done")
"""


def test_signals_on_two_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=env)
    assert run.stdout.strip() == "done", run.stderr


def test_another_tolerance_compiles_nothing(compilations):
    case = CASES["sparsa"]
    problem = case.problem(jnp.float32)

    def calls(tolerance):
        case.run(problem, tolerance=tolerance)
        sc.sparse_encode(*problem[:3], tolerance=tolerance)

    calls(1e-2)
    assert compilations.count >= 1
    compilations.count = 0
    calls(1e-2)
    calls(1e-3)
    assert compilations.count == 0
