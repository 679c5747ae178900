"""Modules of flax.linen, flax.nnx and haiku: where their operations are, by name."""

import jax
import jax.numpy as jnp
import pytest

from sparsecode_jax.flops import count_flops, eval_flops

REASON = 'install ".[flops-outside]"'
nnx = pytest.importorskip("flax.nnx", reason=REASON)
linen = pytest.importorskip("flax.linen", reason=REASON)
hk = pytest.importorskip("haiku", reason=REASON)

X = jnp.ones((3, 4))
FORWARD = {"first": 2 * 3 * 4 * 8, "second": 2 * 3 * 8 * 2}
# Backward: the weights of both layers, and the inputs of the second.
BOTH = {"first": 2 * FORWARD["first"], "second": 3 * FORWARD["second"]}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, name="second")(jnp.tanh(linen.Dense(8, name="first")(x)))


def named(operations):
    return {key.rpartition("/")[2]: n for key, n in operations.items()}


def test_nnx():
    net = Net(nnx.Rngs(0))
    graph, state = nnx.split(net)
    for count in (
        count_flops(lambda m, x: m(x))(net, X),
        count_flops(lambda x: net(x))(X),
        count_flops(lambda s, x: nnx.merge(graph, s)(x))(state, X),
        count_flops(nnx.jit(lambda m, x: m(x)))(net, X),
    ):
        assert count.by("module", "matmul") == {f"Net/{k}": n for k, n in FORWARD.items()}
    gradient = count_flops(nnx.grad(lambda m, x: jnp.sum(m(x) ** 2)))(net, X)
    assert named(gradient.by("module", "matmul")) == BOTH
    assert set(gradient.as_dict("matmul")["parts"]) == {"forward", "backward"}


def test_linen():
    net = LinenNet()
    params = net.init(jax.random.key(0), X)
    assert named(eval_flops(net.apply, params, X).by("module", "matmul")) == FORWARD
    loss = lambda params, x: jnp.sum(net.apply(params, x) ** 2)  # noqa: E731
    assert named(eval_flops(jax.grad(loss), params, X).by("module", "matmul")) == BOTH


def test_haiku():
    def forward(x):
        return hk.Linear(2, name="second")(jnp.tanh(hk.Linear(8, name="first")(x)))

    net = hk.without_apply_rng(hk.transform(forward))
    params = net.init(jax.random.key(0), X)
    assert named(eval_flops(net.apply, params, X).by("module", "matmul")) == FORWARD
    loss = lambda params, x: jnp.sum(net.apply(params, x) ** 2)  # noqa: E731
    assert named(eval_flops(jax.grad(loss), params, X).by("module", "matmul")) == BOTH
