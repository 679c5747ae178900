"""Floats that count what is done to them, and array operations written as loops over them."""

import itertools
import math
from collections import Counter
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

TALLY = Counter()
_MODE = ["elementwise"]
f32 = np.float32


@contextmanager
def mode(name):
    """Book additions, products and comparisons under another class for a while."""
    _MODE.append(name)
    try:
        yield
    finally:
        _MODE.pop()


def book(default, dot=None):
    """Count one operation under its own class, unless a mode says otherwise."""
    where = _MODE[-1]
    if where == "dot":
        TALLY[dot] += 1
    elif where == "free":
        pass
    else:
        TALLY[default if where == "elementwise" else where] += 1


class Scalar:
    """A float32 that counts."""

    __slots__ = ("v",)

    def __init__(self, v):
        self.v = f32(v)

    def _arithmetic(self, other, function, dot=None):
        book("elementwise", dot)
        return Scalar(function(self.v, other.v))

    def __add__(self, other):
        return self._arithmetic(other, np.add, "dot_add")

    def __sub__(self, other):
        return self._arithmetic(other, np.subtract)

    def __mul__(self, other):
        return self._arithmetic(other, np.multiply, "dot_mul")

    def __truediv__(self, other):
        return self._arithmetic(other, np.divide)

    def max(self, other):
        return self._arithmetic(other, np.maximum)

    def min(self, other):
        return self._arithmetic(other, np.minimum)

    def sqrt(self):
        book("elementwise")
        return Scalar(np.sqrt(self.v))

    def compare(self, other, function):
        book("compare")
        return bool(function(self.v, other.v))

    def unary(self, function, kind):
        book(kind)
        return Scalar(function(self.v))


def wrap(array):
    """Turn a float array into an object array of counting scalars; leave others alone."""
    array = np.asarray(array)
    if array.dtype != np.float32:
        return array
    out = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        out[index] = Scalar(array[index])
    return out


def unwrap(array):
    """Undo ``wrap``."""
    array = np.asarray(array)
    if array.dtype != object:
        return array
    out = np.empty(array.shape, np.float32)
    for index in np.ndindex(array.shape):
        out[index] = array[index].v
    return out


def is_float(array):
    return np.asarray(array).dtype == object


def elementwise(function, *arrays):
    """Apply a Python function to broadcast elements (scalars broadcast, as in a jaxpr)."""
    arrays = np.broadcast_arrays(*arrays)
    out = np.empty(arrays[0].shape, object)
    for index in np.ndindex(out.shape):
        out[index] = function(*(array[index] for array in arrays))
    return out


BINARY = {
    "add": Scalar.__add__,
    "add_any": Scalar.__add__,
    "sub": Scalar.__sub__,
    "mul": Scalar.__mul__,
    "div": Scalar.__truediv__,
    "max": Scalar.max,
    "min": Scalar.min,
    "pow": lambda a, b: a.unary(lambda v: np.power(v, getattr(b, "v", b)), "transcendental"),
}
TRANSCENDENTAL = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sin": np.sin,
    "cos": np.cos,
    "logistic": lambda v: 1 / (1 + np.exp(-v)),
    "rsqrt": lambda v: 1 / np.sqrt(v),
    "erf": math.erf,
}
CHEAP = {"neg": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor}
COMPARE = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def by_jax(eqn, values):
    """Let JAX evaluate an equation without floats."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # before jax 0.10
    out = eqn.primitive.bind(*functions, *(jnp.asarray(v) for v in values), **params)
    return [_plain(o) for o in (out if eqn.primitive.multiple_results else [out])]


def _plain(value):
    return value if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else np.asarray(value)


def by_identity(eqn, values):
    """Move floats around as JAX moves their serial numbers."""
    pool, operands = [], []
    for value in values:
        if is_float(value):
            ids = np.arange(len(pool), len(pool) + value.size, dtype=np.int32)
            pool.extend(value.reshape(-1))
            operands.append(ids.reshape(value.shape))
        else:
            operands.append(value)
    params = dict(eqn.params)
    if "fill_value" in params:
        params["fill_value"] = -1
    out = eqn.primitive.bind(*(jnp.asarray(o) for o in operands), **params)
    outs = out if eqn.primitive.multiple_results else [out]
    results = []
    for ids in map(np.asarray, outs):
        result = np.empty(ids.shape, object)
        for index in np.ndindex(ids.shape):
            known = 0 <= ids[index] < len(pool)
            result[index] = pool[ids[index]] if known else Scalar(np.nan)
        results.append(result)
    return results


def fold(function, items):
    items = list(items)
    result = items[0]
    for item in items[1:]:
        result = function(result, item)
    return result


def lines(array, axes):
    """Yield (output index, elements) of a reduction over axes."""
    kept = [a for a in range(array.ndim) if a not in axes]
    moved = array.transpose([*kept, *axes])
    shape = moved.shape[: len(kept)]
    for index in np.ndindex(shape):
        yield shape, index, moved[index].reshape(-1)


def reduction(function, array, axes):
    out = None
    for shape, index, items in lines(array, axes):
        if out is None:
            out = np.empty(shape, object)
        with mode("reduce"):
            out[index] = fold(function, items)
    return out


def argbest(better, array, axis):
    out = None
    for shape, index, items in lines(array, [axis]):
        if out is None:
            out = np.empty(shape, np.int32)
        best = 0
        for place in range(1, len(items)):
            with mode("search"):
                if items[place].compare(items[best], better):
                    best = place
        out[index] = best
    return out


def cumulative(function, array, axis, reverse):
    out = array.copy()
    moved = np.moveaxis(out, axis, -1)
    for index in np.ndindex(moved.shape[:-1]):
        line = moved[index][::-1] if reverse else moved[index]
        for place in range(1, len(line)):
            with mode("reduce"):
                line[place] = function(line[place - 1], line[place])
    return out


def dot(lhs, rhs, dimension_numbers):
    (lc, rc), (lb, rb) = dimension_numbers
    lf = [a for a in range(lhs.ndim) if a not in (*lc, *lb)]
    rf = [a for a in range(rhs.ndim) if a not in (*rc, *rb)]
    left, right = lhs.transpose([*lb, *lf, *lc]), rhs.transpose([*rb, *rf, *rc])
    batch = [lhs.shape[a] for a in lb]
    rows, columns = [lhs.shape[a] for a in lf], [rhs.shape[a] for a in rf]
    out = np.empty([*batch, *rows, *columns], object)
    for b in np.ndindex(*batch):
        for r in np.ndindex(*rows):
            for c in np.ndindex(*columns):
                pairs = zip(np.ravel(left[b + r]), np.ravel(right[b + c]), strict=True)
                with mode("dot"):
                    out[b + r + c] = fold(Scalar.__add__, [x * y for x, y in pairs])
    return out


def conv(lhs, rhs, out_shape, params):
    numbers = params["dimension_numbers"]
    groups, batch_groups = params["feature_group_count"], params["batch_group_count"]
    lhs = lhs.transpose(numbers.lhs_spec)
    rhs = rhs.transpose(numbers.rhs_spec)
    shape = [out_shape[a] for a in numbers.out_spec]
    out = np.empty(shape, object)
    per_group, per_batch_group = shape[1] // groups, shape[1] // batch_groups
    for index in np.ndindex(*shape):
        n, feature, *place = index
        products = []
        for tap in np.ndindex(*rhs.shape[2:]):
            where = []
            for axis, (p, t) in enumerate(zip(place, tap, strict=True)):
                x = p * params["window_strides"][axis] + t * params["rhs_dilation"][axis]
                x -= params["padding"][axis][0]
                inside = x % params["lhs_dilation"][axis] == 0
                x //= params["lhs_dilation"][axis]
                where.append(x if inside and 0 <= x < lhs.shape[2 + axis] else None)
            if None in where:
                continue
            row = n + shape[0] * (feature // per_batch_group)
            for c in range(rhs.shape[1]):
                channel = (feature // per_group) * rhs.shape[1] + c
                with mode("dot"):
                    products.append(lhs[(row, channel, *where)] * rhs[(feature, c, *tap)])
        with mode("dot"):
            out[index] = fold(Scalar.__add__, products) if products else Scalar(0)
    return out.transpose(np.argsort(numbers.out_spec))


def window(function, array, out_shape, params):
    out = np.empty(out_shape, object)
    for index in np.ndindex(*out_shape):
        inside = []
        for tap in np.ndindex(*params["window_dimensions"]):
            where = []
            for axis, (p, t) in enumerate(zip(index, tap, strict=True)):
                x = p * params["window_strides"][axis] - params["padding"][axis][0]
                x += t * params["window_dilation"][axis]
                assert params["base_dilation"][axis] == 1
                where.append(x)
            if all(0 <= x < n for x, n in zip(where, array.shape, strict=True)):
                inside.append(array[tuple(where)])
        with mode("reduce"):
            out[index] = fold(function, inside)
    return out


def scatter_combine(function, eqn, values):
    """Find where each update lands by scattering it alone, then combine in order."""
    operand, indices, updates = values
    zeros = jnp.zeros(operand.shape, jnp.int32)
    params = dict(eqn.params, update_jaxpr=None, update_consts=())
    dims = params["dimension_numbers"]
    eye = jnp.eye(updates.size, dtype=jnp.int32).reshape(updates.size, *updates.shape)
    landed = jax.vmap(lambda u: jax.lax.scatter_add(zeros, jnp.asarray(indices), u, dims))(eye)
    out = operand.copy().reshape(-1)
    for update, mask in zip(updates.reshape(-1), np.asarray(landed), strict=True):
        for place in np.flatnonzero(mask):
            with mode("scatter"):
                out[place] = function(out[place], update)
    return out.reshape(operand.shape)


def top_k(array, k):
    """Return the k largest of each line of the last axis, the first of equals, and their places."""
    places = np.argsort(-unwrap(array), axis=-1, kind="stable")[..., :k]
    length = array.shape[-1]
    rounds = (k - 1).bit_length()  # halvings that place an item among the k best so far
    for _ in range(array.size // length * (length * rounds if k > 1 else length - 1)):
        book("search")
    return np.take_along_axis(array, places, axis=-1), places.astype(np.int32)


def matrices(function):
    """Make a function of matrices one of stacks of them."""

    def stacked(*arrays):
        if arrays[0].ndim == 2:
            return function(*arrays)
        results = [stacked(*matrix) for matrix in zip(*arrays, strict=True)]
        out = np.empty((len(results), *results[0].shape), object)
        for i, result in enumerate(results):
            out[i] = result
        return out

    return stacked


def triangular_solve(a, b, params):
    assert params["left_side"]
    if params["transpose_a"]:
        a = a.T
    n, columns = b.shape
    order = range(n) if params["lower"] != params["transpose_a"] else reversed(range(n))
    out = np.empty(b.shape, object)
    done = []
    for i in order:
        for c in range(columns):
            with mode("nominal"):
                x = b[i, c]
                for j in done:
                    x = x - a[i, j] * out[j, c]
                out[i, c] = x if params["unit_diagonal"] else x / a[i, i]
        done.append(i)
    return out


def cholesky(a):
    n = a.shape[0]
    out = np.empty(a.shape, object)
    for i, j in itertools.product(range(n), range(n)):
        out[i, j] = Scalar(0)
    with mode("nominal"):
        for j in range(n):
            for i in range(j, n):
                x = a[i, j]
                for k in range(j):
                    x = x - out[i, k] * out[j, k]
                out[i, j] = x.sqrt() if i == j else x / out[j, j]
    return out


def power(x, exponent):
    result, square, left = None, x, abs(exponent)
    while left:
        if left & 1:
            result = square if result is None else result * square
        left >>= 1
        if left:
            square = square * square
    result = Scalar(1) if result is None else result
    return Scalar(1) / result if exponent < 0 else result
