"""Programs of unusual structure, and unusual ways to call the transform."""

import functools
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from sparsecode_jax.flops import (
    FlopCountError,
    SaturatedCounterError,
    count_flops,
    eval_flops,
    tally,
    value_and_flops,
)

from .programs import V, W, newton_sqrt
from .test_oracle import check

SPEED = np.float32(5.0)
POSITIVE = np.abs(V) + np.float32(0.1)
DIAGONAL = W[:3, :3] + 4 * np.eye(3, dtype=np.float32)


class Pair(NamedTuple):
    first: Any
    second: Any = None


def trees(p):
    return Pair(p.first * 2, {"sum": [p.first.sum(), None], "none": ()})


def tree_carry(x):
    start = {"i": Pair(jnp.int32(0)), "x": (x,)}
    step = lambda s: {"i": Pair(s["i"].first + 1), "x": (s["x"][0] * 1.5,)}  # noqa: E731
    return lax.while_loop(lambda s: s["i"].first < 3, step, start)


def nested_branches(x):
    positive = lambda x: lax.cond(x > 1, jnp.sin, lambda y: y * y, x)  # noqa: E731
    return lax.cond(x > 0, positive, lambda x: newton_sqrt(jnp.abs(x) + 0.1), x)


def reversed_scan(x):
    step = lambda c, y: (c + newton_sqrt(y), y * c)  # noqa: E731
    return lax.scan(step, 1.0, x, reverse=True, unroll=2)


def branch_in_loop(x):
    step = lambda s: (s[0] + 1, lax.cond(s[1] > 4, newton_sqrt, lambda y: y * 1.9, s[1]))  # noqa: E731
    return lax.while_loop(lambda s: s[0] < 3, step, (0, x))


def root(x):
    return lax.custom_root(
        lambda y: y * y - x, x, lambda _, y: newton_sqrt(y), lambda g, y: y / g(np.float32(1.0))
    )


def clipped_momentum(tree):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    return optimizer.update(tree, optimizer.init(tree))


def line_search(x):
    search = optax.scale_by_backtracking_linesearch(5)
    f = lambda x: jnp.sum(x * x)  # noqa: E731
    return search.update(2 * x, search.init(x), x, value=f(x), grad=2 * x, value_fn=f)[0]


def stopped_in_scan(x):
    step = lambda c, y: (c * y + lax.stop_gradient(newton_sqrt(jnp.abs(y) + 0.1)), None)  # noqa: E731
    return lax.scan(step, 1.0, x)[0]


AGAINST_THE_ORACLE = {
    "named tuples and None": (trees, Pair(V)),
    "tree in a carry": (tree_carry, V),
    "nothing to do": (lambda x: (1.0, jnp.zeros(3), x), V),
    "no iterations": (lambda x: lax.while_loop(lambda s: s[0] < -9.0, jnp.sin, x), V),
    "nested branches, mapped": (jax.vmap(nested_branches), V),
    "scan backwards": (reversed_scan, POSITIVE),
    "branch in a loop": (branch_in_loop, np.float32(3.0)),
    "jit of jit": (jax.jit(lambda x: jax.jit(newton_sqrt)(x) * 2), SPEED),
    "map in batches": (lambda x: lax.map(newton_sqrt, x, batch_size=3), POSITIVE),
    "associative scan": (lambda x: lax.associative_scan(jnp.multiply, x), W[:2].ravel()),
    "root": (root, SPEED),
    "gradient of a root": (jax.grad(root), SPEED),
    "activations": (lambda x: jax.nn.softmax(jax.nn.gelu(x)) + jax.nn.silu(x), V),
    "one-hot": (lambda x: jax.nn.one_hot(jnp.argmax(x[:3]), 3) @ W, V),
    "clipped momentum": (clipped_momentum, {"w": W, "v": V}),
    "backtracking line search": (line_search, V),
    "stabilized bi-conjugate gradients": (
        lambda a: jax.scipy.sparse.linalg.bicgstab(a, a[0], maxiter=3)[0],
        DIAGONAL,
    ),
    "hessian": (jax.hessian(lambda x: jnp.sum(jnp.sin(W @ x) ** 2)), V[:3]),
    "jacobian of a loop": (jax.jacfwd(lambda a: newton_sqrt(a) * a), SPEED),
    "gradient around a stopped loop": (jax.grad(stopped_in_scan), V),
    "linear transpose": (lambda x: jax.linear_transpose(lambda y: W @ y, V[:3])(x), V[:3]),
    "lanes and constants": (
        lambda x, y: jax.vmap(lambda a, b: newton_sqrt(a) * b, (0, None))(x, y),
        POSITIVE,
        SPEED,
    ),
    "not a number": (lambda x: lax.while_loop(lambda s: s < 4.0, jnp.exp, x * np.nan), SPEED),
}


@pytest.mark.full_effort
@pytest.mark.parametrize("name", AGAINST_THE_ORACLE)
def test_the_oracle_agrees(name):
    fun, *args = AGAINST_THE_ORACLE[name]
    check(fun, *args)
    ours, theirs = jax.jit(value_and_flops(fun))(*args)[0], jax.jit(fun)(*args)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


X8 = np.arange(8, dtype=np.float32)
CLOSED_FORMS = {
    "fft": (jnp.fft.fft, [X8.astype(np.complex64)], 5 * 8 * 3),
    "real fft": (jnp.fft.rfft, [X8], 5 * 8 * 3 // 2),
    "sort of pairs": (lambda x: lax.sort((x, x * 2), num_keys=2), [X8], 8 + 8 * 3),
    "empty": (lambda x: (jnp.sum(x), x @ x.T, jnp.exp(x)), [np.zeros((0, 3))], 0),
    "scan of nothing": (
        lambda x: lax.scan(lambda c, y: (newton_sqrt(c), y), x[0], x[:0]),
        [X8],
        0,
    ),
    "half precision": (lambda x: jnp.dot(x, x), [jnp.ones(8, jnp.bfloat16)], 16),
    "a random key": (lambda k: 2.0 * jax.random.bits(k, (4,)), [jax.random.key(0)], 4),
    "donated": (jax.jit(lambda x: x + 1.0, donate_argnums=0), [X8], 8),
    "triangular": (
        lambda a: jax.scipy.linalg.solve_triangular(a, a[0], lower=True),
        [DIAGONAL],
        9,
    ),
    "predicate over lanes": (
        jax.vmap(
            lambda x: lax.while_loop(lambda s: lax.pmax(s, "i") < 4.0, lambda s: s * 2.0, x),
            axis_name="i",
        ),
        [np.array([0.5, 0.25, 0.75], np.float32)],
        3 * 3 + 4 * 2 + 4,
    ),
}


@pytest.mark.full_effort
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    fun, args, expected = CLOSED_FORMS[name]
    value, count = value_and_flops(fun)(*(jnp.array(x) for x in args))
    assert count.total("all") == expected
    for x, y in zip(jax.tree.leaves(value), jax.tree.leaves(fun(*args)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("policy", "products"), [("dots_saveable", 4), ("nothing_saveable", 5)])
def test_checkpoint_policies(policy, products):
    # Two products forward, two transposed; the second one's input is needed again, or kept.
    layers = jax.checkpoint(
        lambda x: jnp.sum(W @ jnp.sin(W @ x)), policy=getattr(jax.checkpoint_policies, policy)
    )
    assert eval_flops(jax.value_and_grad(layers), V[:3]).total("matmul") == products * 18


class Encoder:
    def __init__(self):
        self.w = jnp.asarray(W)

    def __call__(self, x):
        return self.w @ x

    def scaled(self, x, *, scale=2.0):
        return self.w @ x * scale


def test_callables_methods_and_keywords():
    encoder, x = Encoder(), V[:3]
    assert count_flops(encoder)(x).total() == 18
    assert count_flops(encoder.scaled)(x).total() == 18 + 3
    assert count_flops(encoder.scaled)(x, scale=x).total() == 18 + 3
    assert count_flops(functools.partial(encoder.scaled, scale=3.0))(x=x).total() == 18 + 3
    assert count_flops(lambda: jnp.sin(x))().total() == 3
    assert value_and_flops(lambda x: None)(x)[0] is None
    repeated = functools.partial(lambda n, x: sum(x * i for i in range(n)), 3)
    assert count_flops(repeated)(x).total() == 3 * 6


def test_counts_travel_like_any_other_tree():
    expected = count_flops(newton_sqrt)(SPEED)
    (_, inner), outer = value_and_flops(value_and_flops(newton_sqrt))(SPEED)
    assert inner.total() == outer.total() == expected.total()
    chosen = lax.cond(
        True, count_flops(newton_sqrt), lambda x: count_flops(newton_sqrt)(2 * x), 5.0
    )
    assert chosen.total() == expected.total()
    assert pickle.loads(pickle.dumps(jax.device_get(expected))).total() == expected.total()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), expected, expected)
    assert stacked.total().tolist() == [expected.total()] * 2
    compiled = jax.jit(value_and_flops(newton_sqrt)).lower(SPEED).compile()
    assert compiled(SPEED)[1] == expected
    with jax.disable_jit():
        assert count_flops(newton_sqrt)(SPEED).total() == expected.total()
    with pytest.raises(FlopCountError, match="no values inside a traced function"):
        jax.eval_shape(count_flops(newton_sqrt), SPEED).sum()


def test_wide_indices_and_amounts():
    with jax.enable_x64(True):
        loop = lambda n: lax.while_loop(  # noqa: E731
            lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] * 2.0), (-(2**40), 1.0)
        )
        count = count_flops(loop)(jnp.int64(5 - 2**40))
        assert list(count.trips().values()) == [5]
        assert count.by("dtype") == {"float64": 5}
        much = lambda x: tally(x, jnp.int64(2**33), per_unit=1, name="much")  # noqa: E731
        with pytest.raises(SaturatedCounterError, match="tally much .* ran at least 4294967295"):
            count_flops(much)(1.0).total(work="algorithmic")


def test_long_and_deep_programs():
    def long(x):
        for _ in range(300):
            x = jnp.sin(x) + 1.0
        return x

    assert eval_flops(long, V).total() == 300 * 2 * V.size
    deep = lambda x: x * 2.0  # noqa: E731
    for _ in range(12):
        deep = lambda x, f=deep: lax.scan(lambda c, _: (f(c), None), x, None, length=7)[0]  # noqa: E731
    assert eval_flops(deep, 1.0).total() == 7**12


def test_choice_by_platform_is_the_default_backends_branch():
    def choose(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x * x + x, default=lambda x: x)

    expected = 8 if jax.default_backend() == "cpu" else 0
    assert eval_flops(choose, jnp.ones(4)).total() == expected
    value, count = jax.jit(value_and_flops(choose))(jnp.ones(4))
    assert count.total() == expected
    np.testing.assert_array_equal(value, choose(jnp.ones(4)))
    assert eval_flops(lambda a: 2 * jnp.diagonal(a), jnp.ones((5, 5))).total() == 5
