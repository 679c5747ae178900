"""Programs of libraries that nobody here wrote, against the oracle of floats that count.

The oracle computes every operation from scalars and costs none from shapes; values are compared
too. Equinox, Optimistix, Lineax and Diffrax have files of their own, with their statistics.
"""

import importlib
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ..flops.test_oracle import check

X = np.linspace(-1.2, 1.3, 6, dtype=np.float32)
P = np.abs(X) + np.float32(0.3)
M = (np.arange(12, dtype=np.float32).reshape(3, 4) - 5.5) / 4
W = np.cos(np.arange(24, dtype=np.float32)).reshape(4, 6) / 2
IDS = np.array([0, 2, 1])
PROGRAMS = {}


def programs(library):
    """Collect what a function of a library returns: names, functions and their arguments."""
    names = library.split()

    def collect(make):
        if all(importlib.util.find_spec(name) for name in names):
            for name, case in make(*map(importlib.import_module, names)).items():
                PROGRAMS[f"{names[-1]}: {name}"] = case
        else:
            PROGRAMS[f"{names[-1]}: not installed"] = None
        return make

    return collect


def minimized(optimizer):
    """Take two steps of an optimizer of the optax kind on a small loss."""

    def run(x):
        loss = lambda x: jnp.sum(jnp.tanh(x) * x)  # noqa: E731
        state = optimizer.init(x)
        for _ in range(2):
            updates, state = optimizer.update(jax.grad(loss)(x), state, x)
            x = x + updates
        return x

    return run, X


@programs("optax")
def _(optax):
    found = {
        name: minimized(getattr(optax, name)(0.1))
        for name in [
            "adam",
            "adamw",
            "sgd",
            "rmsprop",
            "adagrad",
            "adamax",
            "lion",
            "lamb",
            "nadam",
            "radam",
            "yogi",
            "adabelief",
            "amsgrad",
            "novograd",
        ]
    }
    found["adafactor"] = minimized(optax.adafactor(0.1))
    found["clipped"] = minimized(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)))
    found["momentum"] = minimized(optax.sgd(0.1, momentum=0.9, nesterov=True))
    losses = optax.losses
    found |= {
        "cosine schedule": (optax.cosine_decay_schedule(0.1, 10), np.float32(3.0)),
        "huber": (losses.huber_loss, X, P),
        "log cosh": (losses.log_cosh, X, P),
        "cross entropy": (lambda x: losses.softmax_cross_entropy_with_integer_labels(x, IDS), M),
        "binary cross entropy": (losses.sigmoid_binary_cross_entropy, X, (X > 0).astype("f")),
        "cosine": (losses.cosine_similarity, X, P),
        "hinge": (losses.hinge_loss, X, np.sign(X)),
        "kl": (losses.kl_divergence, np.log(P), P),
        "gradient of a loss": (jax.grad(lambda x: losses.huber_loss(x, P).sum()), X),
        "lookahead of the norm": (optax.global_norm, M),
    }
    return found


@programs("flax.linen")
def _(nn):
    def applied(module, x):
        params = module.init(jax.random.key(0), x)
        return (lambda params, x: module.apply(params, x)), params, x

    image = np.sin(np.arange(2 * 5 * 5 * 2, dtype=np.float32)).reshape(2, 5, 5, 2)
    found = {
        "dense": applied(nn.Dense(3), M),
        "mlp": applied(nn.Sequential([nn.Dense(5), nn.gelu, nn.Dense(2)]), M),
        "conv": applied(nn.Conv(3, (3, 3)), image),
        "strided conv": applied(nn.Conv(3, (2, 2), strides=2, padding="VALID"), image),
        "grouped conv": applied(nn.Conv(4, (3, 3), feature_group_count=2), image),
        "layer norm": applied(nn.LayerNorm(), M),
        "rms norm": applied(nn.RMSNorm(), M),
        "group norm": applied(nn.GroupNorm(2), M),
        "batch norm": applied(nn.BatchNorm(use_running_average=True), M),
        "attention": applied(nn.MultiHeadDotProductAttention(2), M),
        "lstm": applied(nn.RNN(nn.LSTMCell(3)), M[None]),
        "gru": applied(nn.RNN(nn.GRUCell(3)), M[None]),
        "embedding": applied(nn.Embed(5, 3), IDS),
        "max pool": (lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), image),
        "mean pool": (lambda x: nn.avg_pool(x, (2, 2)), image),
        "bilinear": applied(nn.DenseGeneral((2, 2), axis=(0, 1)), M),
    }
    mlp, params, _ = found["mlp"]
    found["gradient"] = (jax.grad(lambda p, x: jnp.sum(mlp(p, x) ** 2)), params, M)
    for name in [
        "gelu",
        "silu",
        "softplus",
        "celu",
        "selu",
        "log_softmax",
        "soft_sign",
        "hard_swish",
        "glu",
    ]:
        found[name] = (getattr(nn, name), M)
    return found


@programs("haiku")
def _(hk):
    def applied(make, x):
        net = hk.without_apply_rng(hk.transform(lambda x: make()(x)))
        return net.apply, net.init(jax.random.key(0), x), x

    def rolled(core):
        def run(x):
            cell = core()
            return hk.dynamic_unroll(cell, x, cell.initial_state(None))[0]

        net = hk.without_apply_rng(hk.transform(run))
        return net.apply, net.init(jax.random.key(0), M), M

    found = {
        "linear": applied(lambda: hk.Linear(3), M),
        "mlp": applied(lambda: hk.nets.MLP([5, 2]), M),
        "layer norm": applied(lambda: hk.LayerNorm(-1, True, True), M),
        "conv": applied(lambda: hk.Conv1D(2, 3), M[None]),
        "lstm": rolled(lambda: hk.LSTM(3)),
        "gru": rolled(lambda: hk.GRU(3)),
        "vanilla recurrence": rolled(lambda: hk.VanillaRNN(3)),
        "attention": applied(
            lambda: lambda x: hk.MultiHeadAttention(2, 3, w_init_scale=1.0)(x, x, x), M
        ),
    }
    mlp, params, _ = found["mlp"]
    found["gradient"] = (jax.grad(lambda p, x: jnp.sum(mlp(p, x) ** 2)), params, M)
    return found


@programs("chex rlax")
def _(chex, rlax):
    rewards, discounts = X[:4], P[:4]
    return {
        "lambda returns": (rlax.lambda_returns, rewards, discounts, P[1:5], np.float32(0.9)),
        "n-step": (
            lambda r, d, v: rlax.n_step_bootstrapped_returns(r, d, v, 2), X[:4], P[:4], M[0],
        ),
        "td": (rlax.td_learning, *map(np.float32, (0.5, 1.0, 0.9, 0.3))),
        "q": (lambda q, t: rlax.q_learning(q, 1, 1.0, 0.9, t), M[0], M[1]),
        "double q": (lambda q, t: rlax.double_q_learning(q, 1, 1.0, 0.9, t, q), M[0], M[1]),
        "policy gradient": (
            lambda x, a: rlax.policy_gradient_loss(x, IDS, a, jnp.ones(3)), M, P[:3],
        ),
        "entropy": (lambda x: rlax.entropy_loss(x, jnp.ones(3)), M),
        "advantages": (
            lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, 0.9, v),
            rewards, discounts, X[:5],
        ),
        "huber": (rlax.huber_loss, X),
        "signed": (rlax.signed_hyperbolic, X),
    }  # fmt: skip


@programs("distrax")
def _(distrax):
    return {
        "normal": (lambda x: distrax.Normal(0.5, 2.0).log_prob(x), X),
        "diagonal": (lambda x: distrax.MultivariateNormalDiag(X, P).log_prob(x), P),
        "laplace": (lambda x: distrax.Laplace(0.5, 2.0).log_prob(x), X),
        "logistic": (lambda x: distrax.Logistic(0.5, 2.0).log_prob(x), X),
        "categorical": (lambda x: distrax.Categorical(logits=x).log_prob(IDS), M),
        "entropy": (lambda x: distrax.Categorical(logits=x).entropy(), M),
        "bernoulli": (lambda x: distrax.Bernoulli(logits=x).log_prob(jnp.ones(6)), X),
        "gumbel": (lambda x: distrax.Gumbel(0.5, 2.0).log_prob(x), X),
        "kl": (lambda a: distrax.Normal(a, 1.0).kl_divergence(distrax.Normal(0.0, 2.0)), X),
        "affine": (lambda x: distrax.ScalarAffine(0.5, 2.0).forward_and_log_det(x), X),
        "tanh": (lambda x: distrax.Tanh().forward_and_log_det(x), X),
    }


@programs("jraph")
def _(jraph):
    graph = lambda nodes: jraph.GraphsTuple(  # noqa: E731
        nodes=nodes, edges=None, globals=None, n_node=jnp.array([3]), n_edge=jnp.array([4]),
        senders=jnp.array([0, 1, 2, 0]), receivers=jnp.array([1, 2, 0, 2]),
    )  # fmt: skip
    segments = jnp.array([0, 0, 1, 1, 1, 2])
    return {
        "convolution": (
            lambda nodes: jraph.GraphConvolution(lambda n: n @ W)(graph(nodes)).nodes, M,
        ),
        "segment sum": (lambda x: jraph.segment_sum(x, segments, 3), X),
        "segment mean": (lambda x: jraph.segment_mean(x, segments, 3), X),
        "segment variance": (lambda x: jraph.segment_variance(x, segments, 3), X),
    }  # fmt: skip


@programs("jaxopt")
def _(jaxopt):
    loss = lambda x, a: jnp.sum(jnp.tanh(x - a) * (x - a))  # noqa: E731
    run = lambda solver: lambda x, a: solver.run(x, a).params  # noqa: E731
    steps = {"maxiter": 3, "implicit_diff": False}
    return {
        "gradient descent": (run(jaxopt.GradientDescent(loss, stepsize=0.1, **steps)), X, P),
        "accelerated": (
            run(jaxopt.GradientDescent(loss, stepsize=0.1, acceleration=True, **steps)), X, P,
        ),
        "huber": (jaxopt.loss.huber_loss, X, P),
        "projection on a ball": (lambda x: jaxopt.projection.projection_l2_ball(x, 0.5), X),
        "box": (lambda x: jaxopt.projection.projection_box(x, (-0.5, 0.5)), X),
        "lasso": (lambda x: jaxopt.prox.prox_lasso(x, 0.1), X),
        "elastic net": (lambda x: jaxopt.prox.prox_elastic_net(x, (0.1, 0.2)), X),
        "ridge": (lambda x: jaxopt.prox.prox_ridge(x, 0.1), X),
    }  # fmt: skip


@programs("einops")
def _(einops):
    return {
        "reduced": (lambda x: einops.reduce(x, "(a b) c -> a c", "mean", b=3), M),
        "largest": (lambda x: einops.reduce(x, "a b -> b", "max"), M),
        "contracted": (lambda x, w: einops.einsum(x, w, "a b, b c -> c a"), M, W),
    }


@programs("tinygp")
def _(tinygp):
    kernels = tinygp.kernels

    def process(x, y):
        return tinygp.GaussianProcess(kernels.ExpSquared(0.7), x, diag=0.1).log_probability(y)

    return {
        "squared exponential": (lambda x: kernels.ExpSquared(0.7)(x, x), X),
        "matern": (lambda x: (2.0 * kernels.Matern32(0.7))(x, x), X),
        "rational": (lambda x: kernels.RationalQuadratic(alpha=0.5)(x, x), X),
        "periodic": (lambda x: kernels.ExpSineSquared(scale=0.7, gamma=1.0)(x, x), X),
        "likelihood": (lambda y: process(X, y), P),
    }


def test_there_are_a_hundred_of_at_least_eight_libraries():
    missing = [name for name, case in PROGRAMS.items() if case is None]
    if missing:
        pytest.skip(f"{missing}: install '.[flops-outside]'")
    assert len(PROGRAMS) >= 100 and len({name.partition(":")[0] for name in PROGRAMS}) >= 8


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_agrees_with_the_oracle(name):
    if PROGRAMS[name] is None:
        pytest.skip('install ".[flops-outside]"')
    fun, *args = PROGRAMS[name]
    check(fun, *args)
