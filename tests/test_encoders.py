"""The laws that every encoder obeys, one table, and what only some promise."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.flops import eval_flops

from .contracts import M, N, S, as_numpy, docstring, sparse_problem
from .encoder_cases import ENCODERS

each_encoder = pytest.mark.parametrize("case", ENCODERS)


def signals_of(leading, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*leading, M)).astype(np.float32)


@each_encoder
def test_equals_the_same_map_in_numpy_for_any_leading_axes(case):
    encoder = case.encoder()
    params = encoder.init(jax.random.key(1))
    apply = jax.jit(encoder.apply)
    for leading in case.leading:
        signals = signals_of(leading)
        codes = apply(params, signals)
        expected = case.reference(as_numpy(params), signals.astype(np.float64))
        assert codes.shape == (*leading, N)
        assert codes.dtype == jnp.float32
        np.testing.assert_allclose(codes, expected, atol=case.atol)
    chex.assert_trees_all_close(codes, encoder.apply(params, signals), atol=1e-6)


@each_encoder
def test_the_second_call_compiles_nothing(case, compilations):
    encoder = case.encoder()
    params, signals = encoder.init(jax.random.key(1)), jnp.asarray(signals_of(case.leading[0]))
    encoder.apply(params, signals)
    compilations.count = 0
    encoder.apply(params, signals)
    assert compilations.count == 0


@each_encoder
def test_codes_are_not_all_zero_and_negative_only_where_promised(case):
    encoder = case.encoder()
    codes = encoder.apply(encoder.init(jax.random.key(0)), signals_of((S,)))
    assert (float(codes.min()) < 0) == case.signed
    assert float(codes.max()) > 0


@each_encoder
def test_aux_has_the_same_codes(case):
    encoder = case.encoder()
    params, signals = encoder.init(jax.random.key(0)), signals_of((4, 5))
    if encoder.aux is None:
        pytest.skip("nothing besides codes")
    codes, aux = encoder.aux(params, signals)
    chex.assert_trees_all_close(codes, encoder.apply(params, signals), atol=1e-6)
    assert aux.latents.shape == codes.shape
    if aux.active is not None:
        values, indices = np.asarray(aux.active.values), np.asarray(aux.active.indices)
        dense = np.zeros(codes.shape, np.float32)
        np.put_along_axis(dense, indices, values, -1)
        np.testing.assert_allclose(dense, codes, atol=1e-6)
        np.testing.assert_array_equal(aux.active.dense(), dense)
    if aux.gates is not None:
        np.testing.assert_array_equal(np.asarray(aux.gates), np.asarray(codes) > 0)
    if aux.gate_latents is not None:
        active = (np.asarray(aux.gate_latents) > 0) >= (np.asarray(codes) > 0)
        assert active.all()


@each_encoder
def test_tied_parts_are_those_of_the_decoder(case):
    encoder = case.encoder()
    params = encoder.init(jax.random.key(0))
    if encoder.tie is None:
        pytest.skip("shares nothing")
    dictionary, bias = sparse_problem().dictionary, jnp.arange(float(M))
    own = encoder.tie(params, dictionary, bias)
    chex.assert_trees_all_equal_shapes_and_dtypes(own, params)
    changed = [
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (own, params)), strict=True)
    ]
    assert any(changed) and not all(changed)
    same = [x for x in jax.tree.leaves(own) if np.array_equal(x, dictionary)]
    assert len(same) == 1 or np.array_equal(own.center, bias)


@each_encoder
def test_init_depends_on_the_key_alone(case):
    encoder = case.encoder()
    first, again = encoder.init(jax.random.key(3)), encoder.init(jax.random.key(3))
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_close(first, jax.jit(encoder.init)(jax.random.key(3)), atol=1e-6)
    other = encoder.init(jax.random.key(4))
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, other)
    assert all(jax.tree.leaves(same)) != case.random


@each_encoder
def test_vmap_over_parameters_equals_a_loop(case):
    encoder = case.encoder()
    keys = jax.random.split(jax.random.key(0), 3)
    init, apply = jax.jit(encoder.init), jax.jit(encoder.apply)
    params = jax.jit(jax.vmap(encoder.init))(keys)
    alone = [init(key) for key in keys]
    chex.assert_trees_all_close(params, jax.tree.map(lambda *x: jnp.stack(x), *alone), atol=1e-6)
    signals = signals_of((S,))
    mapped = jax.jit(jax.vmap(encoder.apply, in_axes=(0, None)))(params, signals)
    loop = [apply(one, signals) for one in alone]
    chex.assert_trees_all_close(mapped, jnp.stack(loop), atol=case.atol)


@each_encoder
def test_gradients_are_finite_and_reach_every_trained_array(case):
    encoder = case.encoder()
    params = encoder.init(jax.random.key(0))
    slope = jax.jit(jax.grad(lambda p, x: jnp.sum(encoder.apply(p, x) ** 2)))
    for signals in (signals_of((S,)), np.zeros((S, M), np.float32)):
        gradients = slope(params, signals)
        chex.assert_tree_all_finite(gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients, params)
        if np.any(signals):
            named = jax.tree_util.tree_flatten_with_path(gradients)[0]
            still = {jax.tree_util.keystr(p, simple=True) for p, g in named if not np.any(g)}
            assert still == set(case.fixed)


@each_encoder
def test_codes_are_a_warm_start(case):
    encoder = case.encoder()
    signals, dictionary, _ = sparse_problem()
    codes = encoder.apply(encoder.init(jax.random.key(0)), signals)
    start = sc.sparse_encode(signals, dictionary, 0.05, num_steps=0, codes0=codes)
    chex.assert_trees_all_equal(start, codes)


@each_encoder
def test_encoders_are_hashable_programs(case):
    encoder = case.encoder()
    assert hash(encoder) == hash(case.encoder())
    assert case.encoder() is encoder or case.encoder() == encoder


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
            params = jax.eval_shape(case.values[0].encoder().init, jax.random.key(0))
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


def test_unrolled_networks_start_as_ista():
    signals, dictionary, _ = sparse_problem()
    problem = sc.Lasso(signals, dictionary, 0.05, sc.dictionaries.step_size(dictionary))
    expected = sc.solvers.solve(sc.solvers.ista(), problem, num_steps=7)
    lista, start = encoders.lista(M, N, num_layers=7), encoders.lista_params
    codes = lista.apply(start(dictionary, 0.05, num_layers=7), signals)
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    lista_cp, start = encoders.lista_cp(M, N, num_layers=7), encoders.lista_cp_params
    codes = lista_cp.apply(start(dictionary, 0.05, num_layers=7), signals)
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    alista, start = encoders.alista(M, N, num_layers=7), encoders.alista_params
    codes = alista.apply(start(dictionary, 0.05, num_layers=7, weight=dictionary), signals)
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    unrolled = encoders.unrolled(sc.solvers.ista(), M, N, num_steps=7)
    params = encoders.UnrolledParams(jnp.asarray(dictionary), jnp.log(0.05))
    np.testing.assert_allclose(unrolled.apply(params, signals), expected, atol=1e-6)


def test_a_signed_lista_starts_as_signed_ista():
    signals, dictionary, _ = sparse_problem(signed=True)
    prox = sc.prox.soft_threshold
    expected = sc.sparse_encode(
        signals, dictionary, 0.05, solver=sc.solvers.ista(prox=prox), num_steps=5
    )
    encoder = encoders.lista(M, N, num_layers=5, prox=prox)
    codes = encoder.apply(encoders.lista_params(dictionary, 0.05, num_layers=5), signals)
    np.testing.assert_allclose(codes, expected, atol=1e-6)
    assert float(codes.min()) < 0


def test_alista_weights_have_the_least_coherence():
    dictionary = sparse_problem().dictionary.astype(np.float64)
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    with jax.enable_x64(True):
        weight = np.asarray(encoders.alista_weight(dictionary))
    np.testing.assert_allclose(np.sum(weight * dictionary, axis=1), 1, atol=1e-9)
    rng = np.random.default_rng(1)
    least = np.sum((weight @ dictionary.T) ** 2)
    for size in (1e-3, 1.0):
        move = rng.normal(size=weight.shape) * size
        move -= np.sum(move * dictionary, axis=1, keepdims=True) * dictionary
        assert np.sum(((weight + move) @ dictionary.T) ** 2) > least
        # at a constrained minimum the objective has no slope along the constraints
        slope = np.sum((weight @ dictionary.T @ dictionary) * move)
        assert abs(slope) < 1e-9 * size


@pytest.mark.parametrize("factory", [encoders.top_k, encoders.abs_top_k, encoders.batch_top_k])
def test_one_program_sweeps_k(factory):
    encoder = factory(M, N, num_active=None)
    params, signals = encoder.init(jax.random.key(0)), signals_of((S,))
    counts = jnp.arange(1.0, 6.0)
    swept = jax.vmap(lambda k: encoder.apply(params._replace(num_active=k), signals))(counts)
    for k, codes in zip(range(1, 6), swept, strict=True):
        alone = factory(M, N, num_active=k)
        same = encoders.LinearParams(params.weight, params.bias)
        np.testing.assert_allclose(codes, alone.apply(same, signals), atol=1e-6)


def test_a_batch_may_keep_a_mean_that_is_not_whole():
    encoder = encoders.batch_top_k(M, N, num_active=None)
    params, signals = encoder.init(jax.random.key(0)), signals_of((10,))
    codes = encoder.apply(params._replace(num_active=jnp.asarray(2.3)), signals)
    assert int(jnp.sum(codes != 0)) == 23


def test_every_encoder_is_in_the_table_of_laws():
    named = {re.split(r"-bias|-no_bias|\[|-", case.id)[0] for case in ENCODERS}
    helpers = {"batch_top_k_threshold", "as_flax_module"}
    factories = {
        name
        for name in encoders.__all__
        if name[0].islower() and not name.endswith(("_params", "_weight"))
    }
    assert factories - helpers <= named


def test_the_threshold_of_batch_top_k_gives_the_same_codes_and_needs_no_batch():
    encoder = encoders.batch_top_k(M, N, num_active=3)
    params, signals = encoder.init(jax.random.key(0)), signals_of((200,))
    inference = encoders.jump_relu(M, N)
    frozen = encoders.batch_top_k_threshold(params, signals, num_active=3)
    codes = inference.apply(frozen, signals)
    np.testing.assert_allclose(codes, encoder.apply(params, signals), atol=1e-6)
    assert int(jnp.sum(codes != 0)) == 600
    np.testing.assert_allclose(inference.apply(frozen, signals[7]), codes[7], atol=1e-6)


def test_the_threshold_takes_k_from_the_parameters_that_hold_it():
    encoder = encoders.batch_top_k(M, N, num_active=None)
    inference = encoders.jump_relu(M, N)
    params = encoder.init(jax.random.key(0))._replace(num_active=jnp.asarray(2.5))
    signals = signals_of((200,))
    frozen = jax.jit(encoders.batch_top_k_threshold)(params, signals)
    codes = inference.apply(frozen, signals)
    np.testing.assert_allclose(codes, encoder.apply(params, signals), atol=1e-6)
    assert int(jnp.sum(codes != 0)) == 500
    plain = encoders.LinearParams(params.weight, params.bias)
    with pytest.raises(ValueError, match="no num_active, and the parameters hold none"):
        encoders.batch_top_k_threshold(plain, signals)
    with pytest.raises(ValueError, match="num_active is 16.5 but there are 16 atoms"):
        encoders.batch_top_k_threshold(plain, signals, num_active=16.5)


def test_the_threshold_of_a_centered_encoder_is_found_behind_its_center():
    inner = encoders.batch_top_k(M, N, num_active=3)
    encoder, inference = encoders.centered(inner, M), encoders.centered(encoders.jump_relu(M, N), M)
    params = encoder.init(jax.random.key(0))._replace(center=jnp.linspace(-1, 1, M))
    signals = signals_of((50,))
    frozen = encoders.batch_top_k_threshold(params, signals, num_active=3)
    np.testing.assert_allclose(
        inference.apply(frozen, signals), encoder.apply(params, signals), atol=1e-6
    )


def test_jump_relu_thresholds_have_the_straight_through_gradient():
    theta, width = 0.4, 0.2
    encoder = encoders.jump_relu(M, N, threshold0=theta, bandwidth=width)
    params, signals = encoder.init(jax.random.key(0)), signals_of((300,))
    latents = signals @ np.asarray(params.weight).T + np.asarray(params.bias)
    near = np.abs(latents - theta) < width / 2
    slope = jax.grad(lambda p: jnp.sum(encoder.apply(p, signals)))(params)
    expected = -theta / width * near.sum(0) * theta  # the last factor: of the logarithm
    np.testing.assert_allclose(slope.log_threshold, expected, rtol=1e-4)
    slope = jax.grad(lambda p: jnp.sum(encoder.aux(p, signals)[1].gates))(params)
    np.testing.assert_allclose(slope.log_threshold, -1 / width * near.sum(0) * theta, rtol=1e-4)
    assert near.sum(0).min() > 5


def test_gradients_of_top_k_by_rows_are_those_of_the_dense_product():
    signals, dictionary, _ = sparse_problem()
    for factory in (encoders.top_k, encoders.abs_top_k):
        encoder = factory(M, N, num_active=3)
        params = encoder.init(jax.random.key(1))

        def sparse(params, dictionary, signals, encoder=encoder):
            codes, aux = encoder.aux(params, signals)
            batch = sc.training.losses.Batch(signals, dictionary, 0.1, None, aux=aux)
            return sc.training.losses.squared_error(codes, batch)

        def dense(params, dictionary, signals, encoder=encoder):
            kept = jax.lax.stop_gradient(encoder.apply(params, signals) != 0)
            codes = (signals @ params.weight.T + params.bias) * kept
            return 0.5 * jnp.mean(jnp.sum((signals - codes @ dictionary) ** 2, -1))

        got = jax.grad(sparse, argnums=(0, 1, 2))(params, dictionary, signals)
        expected = jax.grad(dense, argnums=(0, 1, 2))(params, dictionary, signals)
        chex.assert_trees_all_close(got, expected, atol=1e-6)


@each_encoder
def test_an_encoder_is_a_flax_layer_and_comes_back(case):
    encoder, signals = case.encoder(), signals_of(case.leading[-1])
    module = encoders.as_flax_module(encoder)
    variables = module.init(jax.random.key(0), signals)
    params = variables["params"]["encoder"]
    chex.assert_trees_all_equal(module.apply(variables, signals), encoder.apply(params, signals))
    back = encoders.from_flax(module, M)
    chex.assert_trees_all_equal(back.apply(variables, signals), encoder.apply(params, signals))


@pytest.mark.parametrize(
    "encoder",
    [
        encoders.lista(M, N, num_layers=2),
        encoders.unrolled(sc.solvers.fista(), M, N, num_steps=5),  # a solver as a layer
    ],
)
def test_an_encoder_or_solver_trains_inside_a_flax_module(encoder):
    signals = signals_of((4, 5))
    model = nn.Sequential([encoders.as_flax_module(encoder), nn.Dense(M)])
    variables = model.init(jax.random.key(0), signals)
    slopes = jax.grad(lambda v: jnp.sum(model.apply(v, signals) ** 2))(variables)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: encoders.top_k(M, N, num_active=17), ValueError, "num_active is 17 but"),
        (lambda: encoders.top_k(M, N, num_active=0), ValueError, "num_active is 0"),
        (lambda: encoders.batch_top_k(M, N, num_active=2.5), ValueError, "num_active is 2.5"),
        (lambda: encoders.jump_relu(M, N, bandwidth=0.0), ValueError, "bandwidth is 0.0"),
        (lambda: encoders.lista(M, N, num_layers=0), ValueError, "num_layers is 0"),
        (lambda: encoders.tied(encoders.mlp(M, N)), TypeError, "has 0 weights to share"),
        (lambda: encoders.unrolled(sc.solvers.fista, M, N, num_steps=3), TypeError, "a Solver is"),
        (lambda: encoders.as_flax_module(encoders.top_k), TypeError, "not called"),
        (lambda: encoders.lista_cp_params(np.eye(3), np.ones(3), num_layers=2), ValueError,
         "penalty has shape \\(3,\\); one number"),
        (lambda: encoders.lista_params(np.eye(3), -1.0, num_layers=2), ValueError, "penalty"),
        (lambda: encoders.alista_params(np.eye(3), 0.1, num_layers=2, weight=np.eye(2)),
         ValueError, "weight has shape \\(2, 2\\); \\(3, 3\\), one row per atom"),
    ],
)  # fmt: skip
def test_errors_of_the_factories(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("tie", [True, False])
def test_a_center_around_refined_codes_is_subtracted_once(tie):
    """The signals less the center have what is left of the bias; both orders are one encoder."""
    signals, dictionary, _ = sparse_problem()
    bias, center = (np.linspace(*ends, M).astype(np.float32) for ends in ((-1, 1), (0.5, -0.2)))
    inner = encoders.linear(M, N)
    outside = encoders.centered(encoders.refined(inner), M, tie=tie)
    inside = encoders.refined(encoders.centered(inner, M, tie=tie))
    params = outside.init(jax.random.key(0))
    weights = params.encoder.encoder
    params = params._replace(center=jnp.asarray(center))
    other = encoders.CenteredParams(params.center, weights)
    other = inside.init(jax.random.key(0))._replace(encoder=other)
    got = outside.apply(outside.tie(params, dictionary, bias), signals)
    expected = inside.apply(inside.tie(other, dictionary, bias), signals)
    assert np.any(got)
    np.testing.assert_allclose(got, expected, atol=1e-6)
