"""Small programs on which the transform and the oracle must agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

M, N, B = 3, 5, 3
_rng = np.random.default_rng(0)


def _f32(*shape):
    return _rng.normal(size=shape).astype(np.float32)


D = _f32(N, M)
D = jnp.asarray(D / np.linalg.norm(D, axis=1, keepdims=True))
X = _f32(M)
XS = (_f32(B, M) * np.array([[0.1], [1.0], [3.0]])).astype(np.float32)
Z = np.abs(_f32(N))
W = _f32(M, M)
V = _f32(4)


def ista_step(z, x, d=D):
    return jnp.maximum(z - 0.2 * ((z @ d - x) @ d.T) - 0.02, 0)


def ista(x, d=D):
    return lax.fori_loop(0, 6, lambda _, z: ista_step(z, x, d), jnp.zeros(N))


def ista_soft(x):
    def step(z, _):
        v = z - 0.2 * ((z @ D - x) @ D.T)
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - 0.02, 0), None

    return lax.scan(step, jnp.zeros(N), None, length=4)[0]


def ista_tolerance(x):
    def cond(state):
        i, _, change = state
        return (i < 40) & (change > 0.03)

    def body(state):
        i, z, _ = state
        new = ista_step(z, x)
        return i + 1, new, jnp.max(jnp.abs(new - z))

    return lax.while_loop(cond, body, (0, jnp.zeros(N), jnp.inf))


def ista_tolerance_no_index(x):
    def body(state):
        new = ista_step(state[0], x)
        return new, jnp.sum((new - state[0]) ** 2)

    return lax.while_loop(lambda s: s[1] > 0.001, body, (jnp.zeros(N), jnp.inf))


def fista(x):
    def step(state, _):
        z, y, t = state
        new = ista_step(y, x)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return (new, new + (t - 1) / t_new * (new - z), t_new), jnp.sum(new)

    return lax.scan(step, (jnp.zeros(N), jnp.zeros(N), 1.0), None, length=5)


def fista_tolerance(x):
    def body(state):
        k, z, y, t, _ = state
        new = ista_step(y, x)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return k + 1, new, new + (t - 1) / t_new * (new - z), t_new, jnp.linalg.norm(new - z)

    start = (0, jnp.zeros(N), jnp.zeros(N), 1.0, jnp.inf)
    return lax.while_loop(lambda s: (s[4] > 0.05) & (s[0] < 30), body, start)[1]


def coordinate_descent(x):
    gram = D @ D.T

    def sweep(_, state):
        def update(j, state):
            z, r = state
            new = jnp.maximum(z[j] + r[j] - 0.02, 0.0)
            return z.at[j].set(new), r - (new - z[j]) * gram[:, j]

        return lax.fori_loop(0, N, update, state)

    return lax.fori_loop(0, 3, sweep, (jnp.zeros(N), D @ x))[0]


def matching_pursuit(x):
    def body(state):
        k, z, r = state
        scores = D @ r
        best = jnp.argmax(jnp.abs(scores))
        return k + 1, z.at[best].add(scores[best]), r - scores[best] * D[best]

    return lax.while_loop(lambda s: (s[0] < 6) & (s[2] @ s[2] > 0.05), body, (0, jnp.zeros(N), x))


def orthogonal_matching_pursuit(x):
    def body(k, state):
        mask, z = state
        best = jnp.argmax(jnp.where(mask > 0, -jnp.inf, jnp.abs(D @ (x - z @ D))))
        mask = mask.at[best].set(1.0)
        gram = jnp.where(jnp.outer(mask, mask) > 0, D @ D.T, jnp.eye(N))
        factor = lax.linalg.cholesky(gram, symmetrize_input=False)
        y = lax.linalg.triangular_solve(
            factor, ((D @ x) * mask)[:, None], left_side=True, lower=True
        )
        z = lax.linalg.triangular_solve(factor.T, y, left_side=True, lower=False)
        return mask, z[:, 0] * mask

    return lax.fori_loop(0, 2, body, (jnp.zeros(N), jnp.zeros(N)))[1]


def newton_sqrt(a):
    return lax.while_loop(lambda y: jnp.abs(y * y - a) > 0.01 * a, lambda y: 0.5 * (y + a / y), a)


def nested(x):
    def body(state):
        i, z = state
        root = newton_sqrt(1.0 + z[0] ** 2)
        z = lax.cond(i % 2 == 0, lambda z: z * root, lambda z: jnp.tanh(z) + root, z)
        z, _ = lax.scan(lambda c, w: (c + w * c[::-1], None), z, x)
        return i + 1, z / jnp.max(jnp.abs(z))

    return lax.while_loop(lambda s: s[0] < 4, body, (0, x))


def while_in_scan(x):
    return lax.scan(lambda c, a: (c + newton_sqrt(a), c * a), 0.0, jnp.abs(x) + 0.5)


def switch_in_scan(x):
    def step(c, i):
        options = [jnp.sin, lambda c: c * c * c, lambda c: newton_sqrt(jnp.abs(c) + 1.0)]
        return lax.switch(i, options, c), c

    return lax.scan(step, x[0], jnp.array([0, 1, 2, 2, 7, -1]))


def line_search(x):
    def objective(z):
        return jnp.sum((z @ D - x) ** 2)

    def descend(state):
        k, z = state
        g = jax.grad(objective)(z)
        start = objective(z)
        t = lax.while_loop(
            lambda t: objective(z - t * g) > start - 0.3 * t * (g @ g), lambda t: t * 0.5, 4.0
        )
        return k + 1, z - t * g

    return lax.while_loop(lambda s: s[0] < 3, descend, (0, jnp.zeros(N)))[1]


def loop_in_condition(x):
    return lax.while_loop(
        lambda c: newton_sqrt(jnp.sum(c * c)) < 5.0, lambda c: c * 1.5 + 0.1, jnp.abs(x)
    )


def countdown(n, x):
    return lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] - 1, s[1] * 1.1), (n, x))[1]


def loss(d):
    z = ista(X, d)
    return jnp.sum((z @ d - X) ** 2)


def remat_loss(d):
    step = jax.checkpoint(lambda z, _: (ista_step(z, X, d), None))
    z, _ = lax.scan(step, jnp.zeros(N), None, length=3)
    return jnp.sum(jnp.tanh(z))


def hvp(d):
    return jax.jvp(jax.grad(loss), (d,), (jnp.ones_like(d),))[1]


def hvp_reverse(d):
    return jax.grad(lambda d: jnp.vdot(jax.grad(loss)(d), d))(d)


@jax.custom_vjp
def implicit_sqrt(a):
    return newton_sqrt(a)


implicit_sqrt.defvjp(lambda a: (newton_sqrt(a),) * 2, lambda y, g: (g / (2 * y),))


@jax.custom_jvp
def log_abs(x):
    return jnp.log(jnp.abs(x))


@log_abs.defjvp
def _log_abs_jvp(primals, tangents):
    return log_abs(primals[0]), tangents[0] / primals[0]


_MLP = {"w1": _f32(M, 4), "b1": _f32(4), "w2": _f32(4, N), "b2": _f32(N)}
_ADAM = optax.adam(1e-2)


def mlp_step(params, state, xs):
    def objective(p):
        hidden = jax.nn.relu(xs @ p["w1"] + p["b1"])
        codes = jax.nn.relu(hidden @ p["w2"] + p["b2"])
        return jnp.mean((codes @ D - xs) ** 2)

    value, grads = jax.value_and_grad(objective)(params)
    updates, state = _ADAM.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (2, 1), [(2, 1), (3, 0)], lhs_dilation=(1, 2), rhs_dilation=(2, 1)
    )


def grouped_conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=2)


def pooling(x):
    mean = lax.reduce_window(x, 0.0, lax.add, (2, 3), (1, 2), "SAME")
    return mean, lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / np.sqrt(2.0), axis=-1)
    return jnp.einsum("bqk,bkd->bqd", weights, v)


def segments(x):
    return jax.ops.segment_sum(x, jnp.array([0, 2, 0, 1]), num_segments=3)


def polynomial(x):
    return x**7 + x**-3 + x**2 + jnp.sqrt(jnp.abs(x)) + x**0.3 + lax.rsqrt(x * x)


def conjugate_gradients(b):
    return jax.scipy.sparse.linalg.cg(lambda y: 3.0 * y + jnp.sum(y), b, maxiter=20)[0]


PROGRAMS = {
    "ista": (ista, X),
    "ista soft threshold": (ista_soft, X),
    "ista tolerance": (ista_tolerance, X),
    "ista tolerance without index": (ista_tolerance_no_index, X),
    "ista tolerance jitted": (jax.jit(ista_tolerance), X),
    "fista": (fista, X),
    "fista tolerance": (fista_tolerance, X),
    "coordinate descent": (coordinate_descent, X),
    "matching pursuit": (matching_pursuit, X),
    "orthogonal matching pursuit": (orthogonal_matching_pursuit, X),
    "newton": (newton_sqrt, np.float32(9.0)),
    "nested while, cond, scan": (nested, V),
    "while in scan": (while_in_scan, V),
    "switch in scan": (switch_in_scan, V),
    "line search": (line_search, X),
    "loop in a condition": (loop_in_condition, V),
    "countdown": (countdown, np.int32(5), V),
    "dynamic fori_loop": (
        lambda n, x: lax.fori_loop(2, n, lambda i, c: c * 2.0 + i, x),
        np.int32(7),
        V,
    ),
    "vmap ista": (jax.vmap(ista), XS),
    "vmap ista tolerance": (jax.vmap(ista_tolerance), XS),
    "vmap without index": (jax.vmap(ista_tolerance_no_index), XS),
    "vmap nested": (jax.vmap(nested), np.stack([V, 0.1 * V, 3 * V])),
    "vmap while in scan": (jax.vmap(while_in_scan), np.stack([V, 0.1 * V, 30 * V])),
    "vmap switch in scan": (jax.vmap(switch_in_scan), np.stack([V, 0.1 * V, 3 * V])),
    "vmap loop in a condition": (jax.vmap(loop_in_condition), np.stack([V, 0.1 * V, 3 * V])),
    "vmap line search": (jax.vmap(line_search), XS),
    "vmap of vmap": (
        jax.vmap(jax.vmap(newton_sqrt)),
        np.array([[1.0, 4.0, 900.0], [2.0, 5e4, 3.0]], np.float32),
    ),
    "vmap matching pursuit": (jax.vmap(matching_pursuit), XS),
    "grad ista": (jax.grad(loss), D),
    "value and grad of ista": (jax.value_and_grad(loss), D),
    "grad remat": (jax.grad(remat_loss), D),
    "hessian-vector product": (hvp, D),
    "hessian-vector product, reverse over reverse": (hvp_reverse, D),
    "vmap grad": (jax.vmap(jax.grad(lambda x: jnp.sum(ista(x) ** 2))), XS),
    "conjugate gradients": (conjugate_gradients, V),
    "jvp of a while loop": (
        lambda a: jax.jvp(newton_sqrt, (a,), (jnp.float32(1.0),)),
        np.float32(9.0),
    ),
    "custom_vjp value": (implicit_sqrt, np.float32(9.0)),
    "custom_vjp gradient": (jax.grad(implicit_sqrt), np.float32(9.0)),
    "custom_jvp gradient": (jax.grad(lambda x: jnp.sum(log_abs(x) * x)), V),
    "remat of a while loop": (jax.checkpoint(newton_sqrt), np.float32(9.0)),
    "mlp adam step": (mlp_step, _MLP, _ADAM.init(_MLP), XS),
    "conv": (conv, _f32(2, 3, 4, 5), _f32(2, 3, 2, 3)),
    "grouped conv": (grouped_conv, _f32(1, 4, 3, 3), _f32(4, 2, 2, 2)),
    "pooling": (pooling, _f32(4, 5)),
    "grad of pooling": (jax.grad(lambda x: jnp.sum(pooling(x)[0] ** 2)), _f32(4, 5)),
    "attention": (attention, _f32(2, 3, 2), _f32(2, 3, 2), _f32(2, 3, 2)),
    "cumulative": (lambda x: (jnp.cumsum(x, 0), lax.cummax(x, 1), jnp.cumprod(x, 1)), W),
    "segment sum": (segments, V),
    "log-sum-exp, variance": (lambda x: (jax.nn.logsumexp(x), jnp.var(x, axis=0)), W),
    "polynomial": (polynomial, V),
    "clip, where": (lambda x: jnp.where(x > 0, jnp.clip(x, 0.1, 0.5), -x), V),
}
