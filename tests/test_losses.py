"""Training losses against NumPy, and what their gradients reach."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.training import losses
from sparsecode_jax.training.losses import Batch

from .contracts import M, N, S, as_numpy, sparse_problem

SIGNALS, DICTIONARY, TRUE = sparse_problem()
BIAS = np.linspace(-0.3, 0.4, M).astype(np.float32)
PENALTY = 0.07


def setting(encoder, *, bias=BIAS, dictionary=DICTIONARY, dead=None):
    """Return codes and a batch with everything in it, and both in float64 NumPy."""
    params = encoder.init(jax.random.key(2))
    codes, aux = encoder.aux(params, SIGNALS)
    batch = Batch(SIGNALS, dictionary, jnp.float32(PENALTY), TRUE, bias, aux, dead)
    rows = as_numpy((SIGNALS, dictionary, codes))
    return codes, batch, rows


def half_square(x):
    return 0.5 * np.mean(np.sum(np.square(x), axis=-1))


def residual(rows, bias=BIAS):
    signals, dictionary, codes = rows
    return signals - codes @ dictionary - (0 if bias is None else bias)


DENSE = encoders.linear(M, N)
SPARSE = encoders.top_k(M, N, num_active=3)


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no_bias", "bias"])
@pytest.mark.parametrize("encoder", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_errors_and_penalties(encoder, bias):
    long = (DICTIONARY * np.linspace(0.5, 2, N)[:, None]).astype(np.float32)
    codes, batch, rows = setting(encoder, bias=bias, dictionary=long)
    error, size = half_square(residual(rows, bias)), np.mean(np.sum(np.abs(rows[2]), -1))
    ridge = half_square(rows[2])
    weighted = np.mean(np.sum(np.abs(rows[2]) * np.linalg.norm(long, axis=1), -1))
    for loss, expected in (
        (losses.squared_error, error),
        (losses.lasso, error + PENALTY * size),
        (losses.l1, error + PENALTY * weighted),
        (losses.elastic_net(0.5), error + PENALTY * (size + 0.5 * ridge)),
        (losses.paper, 2 * error / M + PENALTY * size / N),
    ):
        np.testing.assert_allclose(loss(codes, batch), expected, rtol=1e-5)


def test_l0_counts_the_active_latents():
    codes, batch, rows = setting(encoders.jump_relu(M, N, threshold0=0.3))
    active = np.mean(np.sum(rows[2] > 0, -1))
    assert 1 < active < N
    np.testing.assert_allclose(
        losses.l0(codes, batch), half_square(residual(rows)) + PENALTY * active, rtol=1e-5
    )


def test_gated_trains_gates_by_a_decoder_that_does_not_move():
    encoder = encoders.gated(M, N)
    codes, batch, rows = setting(encoder)
    params = as_numpy(encoder.init(jax.random.key(2)))
    gates = np.maximum(rows[0] @ params.weight.T + params.gate_bias, 0)
    expected = half_square(residual(rows)) + PENALTY * np.mean(np.sum(gates, -1))
    expected += half_square(residual((rows[0], rows[1], gates)))
    np.testing.assert_allclose(losses.gated(codes, batch), expected, rtol=1e-5)

    def of_decoder(dictionary, bias):
        return losses.gated(codes, batch._replace(dictionary=dictionary, bias=bias))

    atoms, bias = jax.grad(of_decoder, argnums=(0, 1))(DICTIONARY, BIAS)
    np.testing.assert_allclose(atoms, -rows[2].T @ residual(rows) / S, atol=1e-5)
    np.testing.assert_allclose(bias, -residual(rows).mean(0), atol=1e-5)
    slope = jax.grad(lambda p: losses.gated(*_given(encoder, p, batch)))(
        encoder.init(jax.random.key(2))
    )
    assert float(jnp.abs(slope.gate_bias).max()) > 0


def _given(encoder, params, batch):
    codes, aux = encoder.aux(params, SIGNALS)
    return codes, batch._replace(aux=aux)


@pytest.mark.parametrize("dead", [3, N // 2, N], ids=["two", "more", "all"])
@pytest.mark.parametrize("encoder", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_aux_k_decodes_the_largest_dead_latents(encoder, dead):
    dead = np.isin(np.arange(N), np.arange(1, N, 3)[:2] if dead == 3 else np.arange(dead))
    codes, batch, rows = setting(encoder, dead=jnp.asarray(dead))
    latents = np.where(dead, np.asarray(batch.aux.latents, np.float64), 0)
    kept = np.zeros_like(latents)
    places = np.argsort(-latents, axis=-1)[:, :2]
    np.put_along_axis(kept, places, np.take_along_axis(np.maximum(latents, 0), places, -1), -1)
    left = residual(rows) - kept @ rows[1]
    expected = half_square(residual(rows)) + 0.25 * half_square(left)
    loss = losses.aux_k(num_aux=2, weight=0.25)
    np.testing.assert_allclose(loss(codes, batch), expected, rtol=1e-5)
    assert losses.aux_k(num_aux=2, weight=0.25) is loss

    def of_params(params, name):
        codes, batch_ = _given(encoder, params, batch)
        return {"whole": loss, "plain": losses.squared_error}[name](codes, batch_)

    params = encoder.init(jax.random.key(2))
    whole, plain = (jax.grad(of_params)(params, name) for name in ("whole", "plain"))
    moved = np.any(np.asarray(whole.weight) != np.asarray(plain.weight), axis=1)
    assert moved[dead].any() and not moved[~dead].any()  # the residual has no gradient
    # As is decoded by rows: the gradient by the dictionary is what the kept latents leave.
    slope = jax.grad(lambda d: loss(codes, batch._replace(dictionary=d)))(DICTIONARY)
    plain = jax.grad(lambda d: losses.squared_error(codes, batch._replace(dictionary=d)))(
        DICTIONARY
    )
    np.testing.assert_allclose(slope - plain, -0.25 * kept.T @ left / S, rtol=1e-4, atol=1e-6)


def test_aux_k_costs_nearly_the_same_however_many_latents_are_dead():
    """What ``fit`` charges for each step is what it takes with more than ``num_aux`` dead."""
    loss = losses.aux_k(num_aux=2)
    codes, given, _ = setting(DENSE)

    def of(dead, latents, dictionary):
        aux = given.aux._replace(latents=latents)
        return loss(codes, given._replace(dictionary=dictionary, aux=aux, dead=dead))

    slopes = jax.value_and_grad(of, argnums=(1, 2))
    latents = given.aux.latents
    totals = []
    for num_dead in (0, 2, 3, N):
        dead = jnp.arange(N) < num_dead
        totals.append(sc.flops.count_flops(slopes)(dead, latents, DICTIONARY).total())
    static = functools.partial(slopes, np.ones(N, bool))
    totals.append(sc.flops.eval_flops(static, latents, DICTIONARY).total())
    none, few, more, every, charged = totals
    assert more == every == charged and none == few == charged + 2 * (M + S), totals


def test_aux_k_without_dead_latents_moves_nothing():
    codes, batch, _ = setting(SPARSE, dead=jnp.zeros(N, bool))
    loss = losses.aux_k(num_aux=2)

    def slope(fn):
        return jax.grad(lambda d: fn(codes, batch._replace(dictionary=d)))(DICTIONARY)

    np.testing.assert_allclose(slope(loss), slope(losses.squared_error), atol=1e-7)


@pytest.mark.parametrize("encoder", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_matryoshka_is_the_mean_over_prefixes(encoder):
    codes, batch, (signals, dictionary, rows) = setting(encoder)
    sizes = (2, 5, N)
    expected = np.mean(
        [
            half_square(residual((signals, dictionary[:m], rows[:, :m])))
            + PENALTY * np.mean(np.sum(np.abs(rows[:, :m]), -1))
            for m in sizes
        ]
    )
    loss = losses.matryoshka(sizes, losses.lasso)
    np.testing.assert_allclose(loss(codes, batch), expected, rtol=1e-5)
    whole = losses.matryoshka((N,), losses.lasso)
    np.testing.assert_allclose(whole(codes, batch), losses.lasso(codes, batch), rtol=1e-6)


@pytest.mark.parametrize("tilt", [1e-4, 0.7, 50.0])
def test_tilted_errors_are_between_their_mean_and_the_largest(tilt):
    codes, batch, rows = setting(DENSE)
    errors = 0.5 * np.sum(residual(rows) ** 2, axis=-1)
    expected = (special.logsumexp(tilt * errors) - np.log(S)) / tilt
    np.testing.assert_allclose(losses.tilted(tilt)(codes, batch), expected, rtol=1e-4)
    if tilt < 1e-3:
        np.testing.assert_allclose(expected, errors.mean(), rtol=1e-3)
    if tilt > 10:
        assert errors.max() - np.log(S) / tilt <= expected <= errors.max()
    slope = jax.grad(lambda bias: losses.tilted(tilt)(codes, batch._replace(bias=bias)))(BIAS)
    weights = special.softmax(tilt * errors)
    np.testing.assert_allclose(slope, -weights @ residual(rows), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_detached_prefixes_teach_each_latent_by_the_first_that_has_it(encoder):
    sizes, params = (2, 5, N), encoder.init(jax.random.key(2))

    def slopes(loss):
        def value(params, dictionary):
            codes, aux = encoder.aux(params, SIGNALS)
            batch = Batch(SIGNALS, dictionary, jnp.float32(PENALTY), None, BIAS, aux)
            return loss(codes, batch)

        return value(params, DICTIONARY), jax.grad(value, argnums=(0, 1))(params, DICTIONARY)

    def alone(size):
        def loss(codes, batch):
            rest = batch.signals - codes[:, :size] @ batch.dictionary[:size] - BIAS
            error = 0.5 * jnp.mean(jnp.sum(rest**2, -1))
            return (error + PENALTY * jnp.mean(jnp.sum(jnp.abs(codes[:, :size]), -1))) / 3

        return slopes(loss)

    def errors(size):
        def loss(codes, batch):
            part = SIGNALS - codes[:, :size] @ DICTIONARY[:size] - BIAS
            return 0.5 * jnp.mean(jnp.sum(part**2, -1))

        return slopes(loss)

    value, (by_params, by_atoms) = slopes(losses.matryoshka(sizes, losses.lasso, detached=True))
    codes = encoder.apply(params, SIGNALS)  # the penalty is of each latent once
    error = sum(errors(size)[0] for size in sizes) / 3
    each = PENALTY * jnp.mean(jnp.sum(jnp.abs(codes), -1)) / 3
    np.testing.assert_allclose(value, error + each, rtol=1e-5)
    for begin, end in zip((0, *sizes), sizes, strict=False):
        _, (own, atoms) = alone(end)
        for got, expected in ((by_params.weight, own.weight), (by_atoms, atoms)):
            assert np.any(expected[begin:end])
            np.testing.assert_allclose(got[begin:end], expected[begin:end], atol=1e-6)


@pytest.mark.parametrize("encoder", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_prefixes_by_frequency_are_those_of_latents_in_that_order(encoder):
    codes, batch, (signals, dictionary, rows) = setting(encoder, dead=jnp.arange(N) > 7)
    frequency = np.random.default_rng(0).permutation(N) / N
    order, sizes = np.argsort(-frequency), (2, 5, N)
    expected = np.mean([
        half_square(residual((signals, dictionary[order[:m]], rows[:, order[:m]])))
        for m in sizes
    ])  # fmt: skip
    loss = losses.matryoshka(sizes, by_frequency=True)
    batch = batch._replace(frequency=jnp.asarray(frequency, jnp.float32))
    np.testing.assert_allclose(loss(codes, batch), expected, rtol=1e-5)
    together = losses.matryoshka(sizes, detached=True, by_frequency=True)
    np.testing.assert_allclose(together(codes, batch), expected, rtol=1e-5)
    same = batch._replace(frequency=jnp.linspace(1, 0, N))
    plain = losses.matryoshka(sizes)(codes, batch)
    np.testing.assert_allclose(loss(codes, same), plain, rtol=1e-6)
    assert abs(float(plain) - expected) > 1e-3


@pytest.mark.parametrize("dead", [np.arange(N) > 7, np.ones(N, bool)], ids=["some", "all"])
def test_by_frequency_it_is_the_same_for_arrays_of_numpy_and_of_jax(dead):
    codes, batch, _ = setting(DENSE, dead=dead)
    frequency = np.random.default_rng(1).permutation(N).astype(np.float32)
    given = batch._replace(true_codes=np.asarray(TRUE), frequency=frequency)
    traced = jax.jit(lambda loss, batch: loss(codes, batch), static_argnums=0)
    for inner in (losses.cosine, losses.aux_k(num_aux=3)):
        loss = losses.matryoshka((5, N), inner, by_frequency=True)
        np.testing.assert_allclose(loss(codes, given), traced(loss, given), rtol=1e-5)


def test_matryoshka_cuts_gates_and_dead_latents_too():
    encoder = encoders.jump_relu(M, N, threshold0=0.3)
    codes, batch, (signals, dictionary, rows) = setting(encoder, dead=jnp.arange(N) > 7)
    loss = losses.matryoshka((4, N), losses.aux_k(losses.l0, num_aux=N, weight=0.0))
    expected = np.mean(
        [
            half_square(residual((signals, dictionary[:m], rows[:, :m])))
            + PENALTY * np.mean(np.sum(rows[:, :m] > 0, -1))
            for m in (4, N)
        ]
    )
    np.testing.assert_allclose(loss(codes, batch), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "encoder", "error", "message"),
    [
        (lambda: losses.l0, DENSE, ValueError, "losses.l0: the encoder has no gates"),
        (lambda: losses.gated, DENSE, ValueError, "losses.gated: the encoder has no gate latents"),
        (lambda: losses.l0, encoders.gated(M, N), ValueError, "one such as jump_relu"),
        (lambda: losses.gated, encoders.jump_relu(M, N), ValueError, "one such as gated"),
        (lambda: losses.aux_k(num_aux=2), DENSE, ValueError, "give fit a Recipe with dead_after"),
        (lambda: losses.aux_k(num_aux=0), DENSE, ValueError, "num_aux is 0"),
        (lambda: losses.matryoshka([4, N]), DENSE, TypeError, "a tuple such as"),
        (lambda: losses.matryoshka((8, 4)), DENSE, ValueError, "increasing numbers"),
        (lambda: losses.matryoshka(()), DENSE, ValueError, "increasing numbers"),
        (lambda: losses.matryoshka((4, 8)), DENSE, ValueError, "not the number of latents, 16"),
        (
            lambda: losses.matryoshka((4, N), by_frequency=True), DENSE, ValueError,
            "pass frequency_decay",
        ),
        (lambda: losses.tilted(0.0), DENSE, ValueError, "tilt is 0.0"),
        (lambda: losses.elastic_net(-1.0), DENSE, ValueError, "ratio is -1.0"),
    ],
)  # fmt: skip
def test_losses_say_what_they_miss(loss, encoder, error, message):
    codes, batch, _ = setting(encoder)
    with pytest.raises(error, match=message):
        loss()(codes, batch)
