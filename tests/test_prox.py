"""Every proximal operator against brute force, and the laws of proximal operators."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import ElasticNet

import sparsecode_jax as sc
from sparsecode_jax import prox, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold

from .contracts import PROXES, M, N, as_numpy, docstring, sparse_problem

NET = prox.elastic_net(0.5, prox=soft_threshold)
proxes = pytest.mark.parametrize("case", PROXES)
each_sign = pytest.mark.parametrize("nonnegative", [True, False], ids=["nonnegative", "signed"])


@proxes
def test_minimizes_its_objective_by_brute_force(case):
    rng = np.random.default_rng(0)
    grid = np.linspace(-6, 6, 240_001)  # spacing 5e-5
    for x, t in zip(rng.normal(scale=2, size=50), np.abs(rng.normal(size=50)), strict=True):
        objective = 0.5 * (grid - x) ** 2 + t * case.penalty(grid)
        best = grid[np.argmin(objective)]
        assert float(case.prox(jnp.float32(x), jnp.float32(t))) == pytest.approx(best, abs=6e-5)


@proxes
def test_equals_the_formula_in_numpy(case):
    x = np.random.default_rng(1).normal(size=(100, 7)).astype(np.float32)
    t = np.abs(np.random.default_rng(2).normal(size=7)).astype(np.float32)
    chex.assert_trees_all_close(case.prox(x, t), case.reference(x, t), atol=1e-6)


@proxes
def test_is_firmly_non_expansive(case):
    rng = np.random.default_rng(3)
    x, y = rng.normal(scale=3, size=(2, 10_000))
    t = np.abs(rng.normal(size=10_000))
    with jax.enable_x64(True):
        moved = np.asarray(case.prox(x, t)) - np.asarray(case.prox(y, t))
    assert moved.dtype == np.float64
    assert np.all(moved**2 <= moved * (x - y) + 1e-12)
    assert np.all(np.abs(moved) <= np.abs(x - y) + 1e-12)


@proxes
def test_threshold_zero_projects_onto_the_feasible_set(case):
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    feasible = np.where(np.isfinite(case.penalty(x)), x, 0)
    np.testing.assert_array_equal(case.prox(x, 0.0), feasible)


@proxes
def test_below_the_threshold_codes_are_exactly_zero(case):
    x = np.linspace(-1, 1, 1001, dtype=np.float32)
    np.testing.assert_array_equal(case.prox(x, jnp.float32(1)), np.zeros_like(x))


@proxes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_keeps_dtype_and_shape(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
        for threshold in (0.5, jnp.asarray(0.5, dtype), jnp.full(4, 0.5, dtype)):
            out = case.prox(x, threshold)
            assert (out.dtype, out.shape) == (x.dtype, x.shape)


@proxes
def test_gradients_are_finite_everywhere(case):
    x = jnp.asarray([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    for t in (0.0, 1.0):
        chex.assert_tree_all_finite(
            jax.grad(lambda x, t: jnp.sum(case.prox(x, t)), argnums=(0, 1))(x, t)
        )


@proxes
def test_gradient_is_one_above_the_threshold_and_zero_below(case):
    gradient = jax.vmap(jax.grad(case.prox), in_axes=(0, None))(jnp.asarray([0.3, 2.0]), 1.0)
    np.testing.assert_allclose(gradient, [0, 1 / (1 + case.ridge)], rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "text", "operations"),
    [
        (prox.nonnegative_soft_threshold, "2 arithmetic operations per entry", 2),
        (prox.soft_threshold, "3 arithmetic operations per entry, and one negation", 3),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_cost(fn, text, operations, shape):
    count = eval_flops(fn, jnp.zeros(shape), 0.1)
    assert count.total("arithmetic") == operations * np.prod(shape)
    assert text in docstring(fn)


# --- elastic nets ----------------------------------------------------------------------------


@each_sign
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_cost_of_the_elastic_net_beyond_its_prox(nonnegative, shape):
    inner = nonnegative_soft_threshold if nonnegative else soft_threshold

    def extra(threshold):
        fns = (prox.elastic_net(0.5, prox=inner), inner)
        counts = [eval_flops(fn, jnp.zeros(shape), threshold).total("arithmetic") for fn in fns]
        return counts[0] - counts[1]

    assert extra(jnp.full(shape, 0.1)) == 3 * np.prod(shape)
    assert extra(jnp.float32(0.1)) == np.prod(shape) + 2
    text = docstring(prox.elastic_net)
    assert "3 arithmetic operations per entry more than ``prox`` for a threshold per entry" in text
    assert "for a scalar threshold 1 per entry and 2" in text


def _elastic_solvers():
    makers = {
        "fista": functools.partial(solvers.fista, restart=solvers.gradient_restart),
        "sparsa": solvers.sparsa,
        "coordinate_descent": solvers.coordinate_descent,
        "working_set": functools.partial(solvers.working_set, (4, 8, N)),
    }
    return pytest.mark.parametrize("make", makers.values(), ids=makers)


@_elastic_solvers()
@pytest.mark.parametrize(
    ("nonnegative", "alpha", "l1_ratio"), [(True, 0.01, 0.5), (False, 0.02, 0.9)]
)
def test_elastic_net_of_scikit_learn(make, nonnegative, alpha, l1_ratio):
    """The conversion that the docstring states."""
    text = docstring(prox.elastic_net)
    assert "penalty = alpha * l1_ratio * M and ratio = (1 - l1_ratio) / l1_ratio" in text
    signals, dictionary, _ = as_numpy(sparse_problem(signed=not nonnegative, num_samples=4))
    model = ElasticNet(
        alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, positive=nonnegative, tol=1e-12,
        max_iter=100_000,
    )  # fmt: skip
    theirs = model.fit(dictionary.T, signals.T).coef_
    inner = nonnegative_soft_threshold if nonnegative else soft_threshold
    penalty = prox.elastic_net((1 - l1_ratio) / l1_ratio, prox=inner)
    with jax.enable_x64(True):
        ours = sc.sparse_encode(
            signals, dictionary, alpha * l1_ratio * M, solver=make(prox=penalty), num_steps=1000
        )
    assert np.any(theirs < -0.01) != nonnegative
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


# --- groups ----------------------------------------------------------------------------------


def numpy_group_norms(z, size):
    return np.linalg.norm(z.reshape(*z.shape[:-1], -1, size), axis=-1)


@each_sign
@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_groups_minimize_their_objective(nonnegative, per_group, size):
    """Against scipy, from the answer and from elsewhere: neither start finds less."""
    rng = np.random.default_rng(size)
    weights = np.repeat(rng.uniform(1, 3, size=6 // size), size) if per_group else np.float64(1.5)
    group_weights = weights[::size].copy() if per_group else weights
    if per_group and size > 1:
        weights[1::size] = 100.0  # only the first atom's weight counts
    bounds = [(0 if nonnegative else None, None)] * 6

    def objective(z, x):
        return 0.5 * np.sum((z - x) ** 2) + np.sum(group_weights * numpy_group_norms(z, size))

    operator = prox.group_soft_threshold(size, nonnegative=nonnegative)
    zeros = 0
    for x in rng.normal(scale=1.5, size=(6, 6)):
        with jax.enable_x64(True):
            found = np.asarray(operator(jnp.asarray(x), jnp.asarray(weights)))
        assert not nonnegative or found.min() >= 0
        zeros += np.sum(found == 0)
        starts = found, np.maximum(found, 0) + 0.1, np.abs(rng.normal(size=6))
        best = [
            scipy.optimize.minimize(objective, z, x, bounds=bounds, method="L-BFGS-B")
            for z in starts
        ]
        least = min(best, key=lambda result: result.fun)
        assert objective(found, x) <= least.fun + 1e-9
        np.testing.assert_allclose(found, least.x, atol=2e-3)
    assert 0 < zeros < 36


@each_sign
def test_groups_of_one_atom_are_soft_thresholds(nonnegative):
    x = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    threshold = np.linspace(0.1, 1, 6, dtype=np.float32)
    single = nonnegative_soft_threshold if nonnegative else soft_threshold
    grouped = prox.group_soft_threshold(1, nonnegative=nonnegative)
    np.testing.assert_allclose(grouped(x, threshold), single(x, threshold), atol=1e-6)


@each_sign
def test_groups_are_firmly_non_expansive_and_keep_dtype(nonnegative):
    operator = prox.group_soft_threshold(3, nonnegative=nonnegative)
    x, y = np.random.default_rng(3).normal(scale=2, size=(2, 500, 6))
    with jax.enable_x64(True):
        moved = np.asarray(operator(jnp.asarray(x), 0.7)) - np.asarray(
            operator(jnp.asarray(y), 0.7)
        )
    assert np.all((moved**2).sum(1) <= (moved * (x - y)).sum(1) + 1e-12)
    half = operator(jnp.asarray(x, jnp.bfloat16), jnp.bfloat16(0.7))
    assert (half.dtype, half.shape) == (jnp.bfloat16, x.shape)


@each_sign
@pytest.mark.parametrize("threshold", [0.0, 1.0, np.full(6, 0.5, np.float32)])
def test_gradients_of_groups_are_finite_at_zero_and_at_the_kink(nonnegative, threshold):
    operator = prox.group_soft_threshold(3, nonnegative=nonnegative)
    for x in (np.zeros(6), np.array([1.0, 0, 0, 0.5, 0, 0]), np.arange(-3.0, 3)):
        x = jnp.asarray(x, jnp.float32)
        fns = [lambda x, t: jnp.sum(operator(x, t)), operator.value]
        if np.all(threshold):  # without weight the dual norm is infinite
            fns.append(operator.dual_norm)
        for fn in fns:
            chex.assert_tree_all_finite(jax.grad(fn, argnums=(0, 1))(x, jnp.asarray(threshold) + 0))


# --- what every penalty says of itself -------------------------------------------------------

_PENALTIES = {
    "l1": (nonnegative_soft_threshold, soft_threshold, 0.0, 1),
    "elastic_net": (
        prox.elastic_net(0.7), prox.elastic_net(0.7, prox=soft_threshold), 0.7, 1,
    ),
    "groups": (
        prox.group_soft_threshold(3), prox.group_soft_threshold(3, nonnegative=False), 0.0, 3,
    ),
}  # fmt: skip
each_penalty = pytest.mark.parametrize("penalty", _PENALTIES.values(), ids=_PENALTIES)
WEIGHTS = {
    "scalar": np.float64(0.3),
    "per_atom": np.repeat(np.random.default_rng(5).uniform(0.2, 2, size=4), 3),
}
each_weight = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@each_sign
@each_penalty
@each_weight
def test_value_and_ridge(nonnegative, penalty, weights):
    operator, ridge, size = penalty[0 if nonnegative else 1], *penalty[2:]
    codes = np.random.default_rng(0).normal(size=(5, 12))
    codes = np.maximum(codes, 0) if nonnegative else codes
    per_group = weights if weights.ndim == 0 else weights[::size]
    expected = np.sum(per_group * numpy_group_norms(codes, size), axis=-1)
    expected += 0.5 * ridge * np.sum(weights * codes**2, axis=-1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(prox.value(operator, codes, weights), expected, rtol=1e-12)
        np.testing.assert_allclose(prox.ridge(operator, weights), ridge * weights, rtol=1e-12)
    assert prox.separable(operator) == (size == 1)
    assert not prox.separable(None)


@each_sign
@each_penalty
@each_weight
def test_dual_norm_is_the_polar_gauge(nonnegative, penalty, weights):
    """The least bound b with <c, z> <= b value(z), of the penalty without its squares."""
    operator, size = penalty[0 if nonnegative else 1], penalty[3]
    rng = np.random.default_rng(1)
    for c in [*rng.normal(size=(5, 12)), -np.arange(12.0)]:
        with jax.enable_x64(True):
            bound = float(prox.dual_norm(operator, jnp.asarray(c), jnp.asarray(weights)))
        # Candidates: random codes, and in each group the direction of the correlations.
        z = rng.normal(size=(200, 12)) * rng.integers(0, 2, size=(200, 12))
        along = np.kron(np.eye(4), np.ones(3)) * c if size > 1 else np.diag(np.sign(c))
        z = np.concatenate([z, along])
        z = np.maximum(z, 0) if nonnegative else z
        per_group = weights if weights.ndim == 0 else weights[::size]
        values = np.sum(per_group * numpy_group_norms(z, size), axis=-1)
        products = z @ c
        assert np.all(products <= bound * values + 1e-12)
        largest = np.max(products[values > 0] / values[values > 0], initial=0)
        assert bound == pytest.approx(max(largest, 0), rel=1e-12)


def test_an_atom_without_penalty_allows_no_correlation():
    weights = jnp.asarray([0.0, 1.0, 1.0, 1.0])
    for operator in (nonnegative_soft_threshold, prox.elastic_net(1.0)):
        assert prox.dual_norm(operator, jnp.asarray([0.5, 1, 0, 0]), weights) == jnp.inf
        assert prox.dual_norm(operator, jnp.asarray([-0.5, 3, 0, 0]), weights) == 3
        assert prox.dual_norm(operator, jnp.zeros(4), weights) == 0
    grouped = prox.group_soft_threshold(2)
    assert prox.dual_norm(grouped, jnp.asarray([0.0, 0.1, 0, 0]), weights) == jnp.inf


@pytest.mark.parametrize("ratio", [-0.1, np.nan, np.inf])
def test_a_ratio_is_a_finite_number_from_zero(ratio):
    message = rf"elastic_net: ratio is {ratio}; a finite number >= 0 is expected\."
    with pytest.raises(ValueError, match=message):
        prox.elastic_net(ratio)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_group_size_is_a_positive_integer(size):
    message = rf"group_soft_threshold: group_size is {size}; an integer >= 1 is expected\."
    with pytest.raises(ValueError, match=message):
        prox.group_soft_threshold(size)


def test_a_group_size_divides_the_number_of_atoms():
    operator = prox.group_soft_threshold(3)
    message = r"8 atoms \(shape \(2, 8\)\) are not a multiple of the group size 3\. Order"
    for call in (operator, operator.value, operator.dual_norm):
        with pytest.raises(ValueError, match=message):
            call(jnp.zeros((2, 8)), jnp.float32(1))


def test_operators_are_built_once():
    assert prox.elastic_net(0.5) is prox.elastic_net(0.5)
    assert prox.group_soft_threshold(2) is prox.group_soft_threshold(2)
    assert len({prox.elastic_net(0.5), prox.elastic_net(0.6), prox.group_soft_threshold(2)}) == 3


def shrink(x, threshold):
    return soft_threshold(x, threshold)


def says_so(x, threshold):
    return soft_threshold(x, threshold)


says_so.is_l1 = True


def test_what_an_operator_says_decides_and_not_what_it_is():
    many = jax.ShapeDtypeStruct((1024, 8), "float32")
    x = jnp.asarray([[1.0, -2.0, 0.5, 0.0]])
    for silent in (shrink, functools.partial(soft_threshold)):
        assert not prox.separable(silent)
        assert solvers.default_solver(many, prox=silent)[0] == solvers.sparsa(prox=silent)
        with pytest.raises(ValueError, match="does not say what its penalty is.* set its .*is_l1"):
            prox.value(silent, x, 0.1)
        with pytest.raises(ValueError, match=r"got the penalty of .*whose is_l1 is True"):
            prox.elastic_net(0.5, prox=silent)
    assert prox.separable(says_so)
    assert solvers.default_solver(many, prox=says_so)[0] == solvers.working_set(8, prox=says_so)
    for one, other in ((says_so, soft_threshold), (prox.elastic_net(0.5, prox=says_so), NET)):
        for fn in (prox.value, prox.dual_norm):
            np.testing.assert_array_equal(fn(one, x, 0.1), fn(other, x, 0.1))
    for operator in (soft_threshold, nonnegative_soft_threshold):
        again = pickle.loads(pickle.dumps(operator))
        assert again is operator and prox.separable(again) and operator.__name__ in repr(operator)


def test_an_elastic_net_of_another_penalty_is_refused():
    with pytest.raises(ValueError, match="elastic_net: got the penalty of"):
        prox.elastic_net(0.5, prox=prox.group_soft_threshold(4))
