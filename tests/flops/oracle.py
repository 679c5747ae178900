"""A counting-scalar oracle: evaluate a jaxpr on floats that count what is done to them.

Nothing here is computed from shapes. Every floating-point number is an object whose operators
increment a counter; control flow runs in Python; a matrix product is a loop. It is slow, it shares
no code with the package, and its values are compared with JAX's, so that it cannot drift.
"""

import functools

import jax
import numpy as np
from jax._src.interpreters import partial_eval

from .counting_scalars import (
    BINARY,
    CHEAP,
    COMPARE,
    TALLY,
    TRANSCENDENTAL,
    Scalar,
    argbest,
    book,
    by_identity,
    by_jax,
    cholesky,
    conv,
    cumulative,
    dot,
    elementwise,
    is_float,
    matrices,
    power,
    reduction,
    scatter_combine,
    top_k,
    triangular_solve,
    unwrap,
    window,
    wrap,
)

# Primitives of other libraries, by the functions that they stand for.
FOREIGN = {}


def run(jaxpr, consts, args):
    """Evaluate an open jaxpr on wrapped values."""
    jaxpr = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom):
        literal = hasattr(atom, "val")
        return wrap(np.asarray(atom.val, atom.aval.dtype)) if literal else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, step(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def call(closed, args):
    if hasattr(closed, "jaxpr"):
        return run(closed.jaxpr, [wrap(c) for c in closed.consts], args)
    return run(closed, [], args)


def loop(eqn, values):
    nc, nb = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    cond_consts, body_consts, carry = values[:nc], values[nc : nc + nb], values[nc + nb :]
    while True:
        (going,) = call(eqn.params["cond_jaxpr"], [*cond_consts, *carry])
        going = np.asarray(going).astype(bool)
        if not going.any():
            return carry
        new = call(eqn.params["body_jaxpr"], [*body_consts, *carry])
        new = [np.array(fresh) for fresh in new]
        if going.ndim:  # finished lanes keep their values
            for old, fresh in zip(carry, new, strict=True):
                for lane in np.ndindex(going.shape):
                    if not going[lane]:
                        fresh[lane] = old[lane]
        carry = new


def scan(eqn, values):
    p = eqn.params
    if "ft_in" in p:  # jax 0.11 and newer
        nc, nk = (len(list(part)) for part in p["ft_in"].unpack()[:2])
    else:
        nc, nk = p["num_consts"], p["num_carry"]
    consts, carry, xs = values[:nc], values[nc : nc + nk], values[nc + nk :]
    order = range(p["length"])
    stacked = {}
    for i in reversed(order) if p["reverse"] else order:
        outs = call(p["jaxpr"], [*consts, *carry, *(np.asarray(x)[i] for x in xs)])
        carry, stacked[i] = outs[:nk], outs[nk:]
    ys = [_stack([stacked[i][j] for i in order]) for j in range(len(stacked[0]))]
    return [*carry, *ys]


def _stack(items):
    items = [np.asarray(item) for item in items]
    out = np.empty((len(items), *items[0].shape), items[0].dtype)
    for i, item in enumerate(items):
        out[i] = item if item.ndim else item.item() if item.dtype != object else item[()]
    return out


def step(eqn, values):
    """Evaluate one equation."""
    name, params = eqn.primitive.name, eqn.params
    values = [v if hasattr(v, "dtype") else np.asarray(v) for v in values]
    if eqn.primitive in FOREIGN:
        fun = functools.partial(FOREIGN[eqn.primitive], **params)
        return call(jax.make_jaxpr(fun)(*(var.aval for var in eqn.invars)), values)
    if name in ("jit", "remat2", "checkpoint"):
        return call(params["jaxpr"], values)
    if name in ("custom_jvp_call", "custom_vjp_call", "closed_call", "eval_jaxpr"):
        return call(params["call_jaxpr"], values)
    if name == "custom_linear_solve":
        sizes = params["const_lengths"]
        skip = sizes.matvec + sizes.vecmat
        solve = values[skip : skip + sizes.solve]
        return call(params["jaxprs"].solve, [*solve, *values[sum(sizes) :]])
    if name == "while":
        return loop(eqn, values)
    if name == "scan":
        return scan(eqn, values)
    if name == "cond":
        which = min(max(int(values[0]), 0), len(params["branches"]) - 1)
        return call(params["branches"][which], values[1:])
    if name == "bitcast_convert_type":  # the bits of a float are an integer, and back
        values = [unwrap(value) for value in values]
    floats = [v for v in values if is_float(v)]
    if not floats:
        outs = by_jax(eqn, values)
        return [o if not hasattr(o, "dtype") or o.dtype != np.float32 else wrap(o) for o in outs]
    return [_array(out) for out in _float_step(eqn, name, params, values)]


def _array(out):
    if isinstance(out, Scalar):
        boxed = np.empty((), object)
        boxed[()] = out
        return boxed
    return out


def _float_step(eqn, name, params, values):
    x = values[0]
    out_shape = eqn.outvars[0].aval.shape
    if name in BINARY:
        return [elementwise(BINARY[name], *values)]
    if name in TRANSCENDENTAL:
        return [elementwise(lambda a: a.unary(TRANSCENDENTAL[name], "transcendental"), x)]
    if name in CHEAP:
        return [elementwise(lambda a: a.unary(CHEAP[name], "compare"), x)]
    if name in COMPARE:
        out = elementwise(lambda a, b: a.compare(b, COMPARE[name]), *values)
        return [out.astype(bool)]
    if name == "sqrt":
        return [elementwise(Scalar.sqrt, x)]
    if name == "one_minus_square":
        return [elementwise(lambda a: Scalar(np.float32(1)) - a * a, x)]
    if name == "square":
        return [elementwise(lambda a: a * a, x)]
    if name == "integer_pow":
        return [elementwise(lambda a: power(a, params["y"]), x)]
    if name == "clamp":  # one operation, as hardware has it

        def clamp(lo, a, hi):
            book("elementwise")
            return Scalar(np.minimum(np.maximum(a.v, lo.v), hi.v))

        return [elementwise(clamp, *values)]
    if name == "select_n":

        def select(which, *cases):
            book("compare")
            return cases[int(which)]

        return [elementwise(select, *values)]
    if name == "is_finite":
        out = elementwise(lambda a: a.compare(a, lambda v, _: np.isfinite(v)), x)
        return [out.astype(bool)]
    if name == "dot_general":
        return [dot(values[0], values[1], params["dimension_numbers"])]
    if name == "conv_general_dilated":
        return [conv(values[0], values[1], out_shape, params)]
    if params.get("axes") == ():  # a reduction of nothing
        return [x]
    if name in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"):
        function = {"sum": "__add__", "max": "max", "min": "min", "prod": "__mul__"}[name[7:]]
        return [reduction(getattr(Scalar, function), x, params["axes"])]
    if name in ("argmax", "argmin"):
        better = np.greater if name == "argmax" else np.less
        return [argbest(better, x, params["axes"][0])]
    if name in ("cumsum", "cummax", "cummin", "cumprod"):
        function = {"sum": "__add__", "max": "max", "min": "min", "prod": "__mul__"}[name[3:]]
        return [cumulative(getattr(Scalar, function), x, params["axis"], params["reverse"])]
    if name in ("reduce_window_sum", "reduce_window_max", "reduce_window_min"):
        function = {"sum": "__add__", "max": "max", "min": "min"}[name[14:]]
        return [window(getattr(Scalar, function), x, out_shape, params)]
    if name in ("scatter-add", "scatter_add", "scatter-mul"):
        function = Scalar.__mul__ if "mul" in name else Scalar.__add__
        return [scatter_combine(function, eqn, values)]
    if name == "triangular_solve":
        return [matrices(lambda a, b: triangular_solve(a, b, params))(*values)]
    if name == "cholesky":
        return [matrices(cholesky)(x)]
    if name == "top_k":
        return list(top_k(x, params["k"]))
    if name == "convert_element_type":
        return [x if params["new_dtype"] == np.float32 else unwrap(x).astype(params["new_dtype"])]
    if name in ("copy", "copy_p", "stop_gradient", "optimization_barrier", "name"):
        return list(values)
    if name in ("reshape", "squeeze", "expand_dims"):
        return [x.reshape(out_shape)]
    if name == "broadcast_in_dim":
        shape = [1] * len(out_shape)
        for axis, place in enumerate(params["broadcast_dimensions"]):
            shape[place] = x.shape[axis]
        return [np.broadcast_to(x.reshape(shape), out_shape).copy()]
    if name == "transpose":
        return [x.transpose(params["permutation"])]
    return by_identity(eqn, values)


def count(fun, *args):
    """Run a function in the oracle.

    Returns:
        ``(outputs, operations by class)``, the outputs as a flat list of NumPy arrays.
    """
    closed = jax.make_jaxpr(fun)(*args)
    if getattr(closed, "is_high", False):
        closed = partial_eval.lower_jaxpr2(closed)
    TALLY.clear()
    leaves = [wrap(leaf) for leaf in jax.tree.leaves(args)]
    outs = run(closed.jaxpr, [wrap(c) for c in closed.consts], leaves)
    return [unwrap(out) for out in outs], {k: v for k, v in TALLY.items() if v}
