"""The laws that every encoder obeys, one table, and what only some promise."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.flops import eval_flops

from .contracts import ENCODERS, M, N, S, as_numpy, docstring, sparse_problem

each_encoder = pytest.mark.parametrize("case", ENCODERS)


def signals_of(leading, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*leading, M)).astype(np.float32)


@each_encoder
def test_equals_the_same_map_in_numpy_for_any_leading_axes(case):
    encoder = case.encoder()
    params = encoder.init(jax.random.key(1))
    for leading in case.leading:
        signals = signals_of(leading)
        codes = encoder.apply(params, signals)
        expected = case.reference(as_numpy(params), signals.astype(np.float64))
        assert codes.shape == (*leading, N)
        assert codes.dtype == jnp.float32
        np.testing.assert_allclose(codes, expected, atol=2e-6)
        chex.assert_trees_all_close(codes, jax.jit(encoder.apply)(params, signals), atol=1e-6)


@each_encoder
def test_codes_are_not_negative_and_not_all_zero(case):
    encoder = case.encoder()
    codes = encoder.apply(encoder.init(jax.random.key(0)), signals_of((S,)))
    assert float(codes.min()) >= 0
    assert float(codes.max()) > 0


@each_encoder
def test_init_depends_on_the_key_alone(case):
    encoder = case.encoder()
    first, again = encoder.init(jax.random.key(3)), encoder.init(jax.random.key(3))
    chex.assert_trees_all_equal(first, again, jax.jit(encoder.init)(jax.random.key(3)))
    other = encoder.init(jax.random.key(4))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, other)
    assert all(jax.tree.leaves(same)) != case.random


@each_encoder
def test_vmap_over_parameters_equals_a_loop(case):
    encoder = case.encoder()
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.vmap(encoder.init)(keys)
    for i, key in enumerate(keys):
        alone = encoder.init(key)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], params), alone, rtol=1e-6)
    signals = signals_of((S,))
    mapped = jax.vmap(encoder.apply, in_axes=(0, None))(params, signals)
    loop = [
        encoder.apply(jax.tree.map(lambda x, i=i: x[i], params), signals) for i in range(len(keys))
    ]
    chex.assert_trees_all_close(mapped, jnp.stack(loop), atol=1e-6)


@each_encoder
def test_gradients_are_finite_and_reach_every_layer(case):
    encoder = case.encoder()
    params = encoder.init(jax.random.key(0))
    for signals in (signals_of((S,)), np.zeros((S, M), np.float32)):
        gradients = jax.jit(jax.grad(lambda p, x: jnp.sum(encoder.apply(p, x) ** 2)))(
            params, signals
        )
        chex.assert_tree_all_finite(gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
        if np.any(signals):
            assert all(float(jnp.max(jnp.abs(g))) > 0 for g in jax.tree.leaves(gradients))


@each_encoder
def test_codes_are_a_warm_start(case):
    encoder = case.encoder()
    signals, dictionary, _ = sparse_problem()
    codes = encoder.apply(encoder.init(jax.random.key(0)), signals)
    start = sc.sparse_encode(signals, dictionary, 0.05, num_steps=0, codes0=codes)
    chex.assert_trees_all_equal(start, codes)


@each_encoder
def test_encoders_are_hashable_programs_without_aux(case):
    encoder = case.encoder()
    assert hash(encoder) == hash(case.encoder())
    assert case.encoder() is encoder
    assert encoder.aux is None


@pytest.mark.parametrize(("s", "m", "n"), [(1, 8, 16), (5, 7, 11), (20, 30, 4)])
@pytest.mark.parametrize("case", [p for p in ENCODERS if p.values[0].cost])
def test_cost(case, s, m, n):
    encoder = case.build(s, m, n)
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    count = eval_flops(encoder.apply, params, jax.ShapeDtypeStruct((s, m), "float32"))
    assert count.total("arithmetic") == case.cost(s, m, n)
    assert case.cost_text[1] in docstring(case.cost_text[0])


@pytest.mark.parametrize("use_bias", [True, False])
def test_an_mlp_without_hidden_layers_is_the_linear_encoder(use_bias):
    linear = encoders.linear(M, N, use_bias=use_bias)
    mlp = encoders.mlp(M, N, hidden=(), use_bias=use_bias)
    params = linear.init(jax.random.key(0))
    same = encoders.MlpParams((params.weight,), (params.bias,))
    signals = signals_of((4, 5))
    np.testing.assert_allclose(
        linear.apply(params, signals), mlp.apply(same, signals), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_are_uniform_within_their_bound(use_bias):
    params = encoders.mlp(25, 400, hidden=(100,), use_bias=use_bias).init(jax.random.key(0))
    assert [w.shape for w in params.weights] == [(100, 25), (400, 100)]
    for weight, fan_in in zip(params.weights, (25, 100), strict=True):
        bound = fan_in**-0.5
        assert 0.99 * bound < float(jnp.max(jnp.abs(weight))) <= bound
        assert abs(float(jnp.mean(weight))) < 4 * bound / np.sqrt(3 * weight.size)
        assert float(jnp.std(weight)) == pytest.approx(bound / 3**0.5, rel=0.05)
    if use_bias:
        assert [b.shape for b in params.biases] == [(100,), (400,)]
        assert float(jnp.max(jnp.abs(params.biases[1]))) > 0.09
    else:
        assert params.biases == (None, None)


def test_parameters_have_one_dtype_in_double_precision():
    with jax.enable_x64(True):
        for case in ENCODERS:
            params = case.values[0].encoder().init(jax.random.key(0))
            assert len({x.dtype for x in jax.tree.leaves(params)}) == 1, case.id


def test_free_codes_start_where_they_are_told_and_ignore_the_signals():
    encoder = encoders.free_codes(S, N, log_codes0=-1.5)
    params = encoder.init(jax.random.key(0))
    codes = encoder.apply(params, signals_of((S,)))
    np.testing.assert_allclose(codes, np.full((S, N), np.exp(-1.5)), rtol=1e-6)
    chex.assert_trees_all_equal(codes, encoder.apply(params, signals_of((S,), seed=1)))


def test_from_flax_runs_any_linen_module():
    class Gated(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.Dense(N)(x)) * nn.sigmoid(nn.Dense(N)(x))

    encoder = encoders.from_flax(Gated(), M)
    params = encoder.init(jax.random.key(0))
    codes = encoder.apply(params, signals_of((4, 5)))
    assert codes.shape == (4, 5, N)
    flat = encoder.apply(params, signals_of((4, 5)).reshape(-1, M))
    chex.assert_trees_all_close(codes.reshape(-1, N), flat, atol=1e-6)
