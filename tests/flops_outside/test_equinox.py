"""Equinox as shipped: checks that raise, its three while loops and their gradients, modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax.flops import FlopCountError, UnknownPrimitiveError, count_flops, value_and_flops

from ..flops import oracle
from ..flops.test_oracle import check

eqx = pytest.importorskip("equinox", reason='install ".[flops-outside]"')
internal = pytest.importorskip("equinox.internal")

X = jnp.array([0.5, 1.0, 2.0], jnp.float32)


@pytest.fixture(autouse=True)
def foreign(monkeypatch):
    """Let the oracle perform Equinox's primitives as their own implementations say."""
    for p in (
        *(internal.unvmap_all_p, internal.unvmap_any_p, internal.unvmap_max_p),
        *(internal.maybe_set_p, internal.select_if_vmap_p, internal.nonbatchable_p),
        *(internal.nontraceable_p, internal.nondifferentiable_backward_p),
    ):
        monkeypatch.setitem(oracle.FOREIGN, p, p.impl)


# Checks


def checked(x):
    x = eqx.error_if(x, jnp.any(x < 0), "negative")
    return jnp.sqrt(x) * 2.0


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, eqx.filter_jit, jax.vmap])
def test_a_check_costs_its_condition(wrap):
    value, count = value_and_flops(wrap(checked))(X)
    np.testing.assert_allclose(value, 2 * np.sqrt(X), rtol=1e-6)
    assert count.total() == 6 and count.total("all") == 6 + 3
    assert count.trips() == {} and len(count.table) == 1


def test_a_check_still_raises_and_is_differentiated():
    with pytest.raises(Exception, match="negative"):
        jax.block_until_ready(jax.jit(value_and_flops(checked))(-X))
    check(jax.grad(lambda x: jnp.sum(checked(x))), X)
    check(jax.vmap(jax.grad(checked)), X)


def test_callbacks_of_others_are_refused_still():
    fun = lambda x: eqx.filter_pure_callback(np.sin, x, result_shape_dtypes=x)  # noqa: E731
    with pytest.raises(UnknownPrimitiveError, match="'pure_callback' .*runs Python code"):
        count_flops(fun)(X)


# Loops

KINDS = {
    "lax": {},
    "checkpointed": {"max_steps": 16, "checkpoints": 3},
    "bounded": {"max_steps": 16},
}


def loop(kind):
    def halve(x):
        go = lambda s: jnp.sum(s) > 1.0  # noqa: E731
        step = lambda s: s / 2.0 + 0.01 * jnp.sin(s)  # noqa: E731
        return internal.while_loop(go, step, x, kind=kind, **KINDS[kind])

    return halve


@pytest.mark.parametrize("kind", KINDS)
def test_loops_agree_with_the_oracle(kind):
    run = loop(kind)
    check(run, 8 * X)
    check(jax.vmap(run), jnp.stack([X, 8 * X]))
    if kind != "lax":
        check(jax.grad(lambda x: jnp.sum(run(x))), 8 * X)


def test_lanes_that_equinox_keeps_in_step_count_what_they_execute():
    """Its loops go on until no lane goes on: part of the program of each lane, as it is written."""
    run, lanes = loop("lax"), jnp.stack([X, 8 * X])
    alone = [count_flops(run)(x).total() for x in lanes]
    assert alone[0] < alone[1]
    assert jax.vmap(count_flops(run))(lanes).total().tolist() == [alone[1]] * 2
    assert jax.lax.map(count_flops(run), lanes).total().tolist() == alone


@pytest.mark.parametrize("kind", ["lax", "checkpointed"])
def test_a_loop_counts_its_steps(kind):
    steps, x = 0, np.asarray(8 * X)
    while x.sum() > 1.0:
        steps, x = steps + 1, x / np.float32(2) + np.float32(0.01) * np.sin(x)
    count = jax.jit(value_and_flops(loop(kind)))(8 * X)[1]
    assert steps > 1 and list(count.trips().values()) == [steps]
    # Equinox evaluates the condition once before the loop, in every body and in every condition.
    assert count.total() == steps * 12 + (1 + steps + steps + 1) * 2


@pytest.mark.parametrize("num_steps", [1, 5, 12])
def test_checkpointed_gradients_count_what_is_computed_again(num_steps):
    ran = []

    def step(state):
        x, i = state
        jax.debug.callback(lambda _: ran.append(1), x)
        return jnp.tanh(x), i + 1

    def run(x):
        go = lambda s: s[1] < num_steps  # noqa: E731
        options = {"kind": "checkpointed", "max_steps": 12, "checkpoints": 2}
        return internal.while_loop(go, step, (x, 0), **options)[0]

    _, count = jax.jit(value_and_flops(jax.grad(run)))(0.5)
    jax.effects_barrier()
    # Executions of the body, forward, again, and while it is differentiated.
    assert count.by("primitive")["tanh"] == len(ran) >= 2 * num_steps


def test_a_scan_of_equinox():
    def step(carry, x):
        return carry + x * x, carry

    run = lambda x: internal.scan(step, 0.0, x, kind="checkpointed", checkpoints=2)[0]  # noqa: E731
    check(run, X)
    check(jax.grad(run), X)


def test_counts_are_not_differentiated_through_loops():
    with pytest.raises(FlopCountError, match="Count the derivative instead"):
        jax.grad(value_and_flops(loop("checkpointed")), has_aux=True)(jnp.float32(8.0))


# Modules


def test_modules():
    model = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
    x = jnp.ones(4)
    forward = 2 * (4 * 8 + 8 * 8 + 8 * 3)
    for fun in (lambda m, x: m(x), eqx.filter_jit(lambda m, x: m(x))):
        assert count_flops(fun)(model, x).total("matmul") == forward
    grads = eqx.filter_grad(lambda m, x: jnp.sum(m(x)))
    # Forward without the last layer, whose value nobody asked for; backward the weights of three
    # layers, and the inputs of two.
    expected = (forward - 2 * 8 * 3) + forward + 2 * (8 * 8 + 8 * 3)
    assert count_flops(grads)(model, x).total("matmul") == expected
