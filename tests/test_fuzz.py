"""Every public call on wrong and unusual arguments: told by our own message, or right, or NaN.

A call with one argument changed (or two, from seeds) must raise a ValueError or TypeError that
begins with the function's name, or return what float64 returns, or NaN where a NaN went in. A fault
is printed as a line that repeats it: ``run("metrics.mcc", codes="nan", mode="jit")``.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from sparsecode_jax.flops import FlopCountError

from .fuzz_table import CALLS, WITHOUT, Call

MODULES = (
    "", "activations", "dictionaries", "dictionary_learning", "dictionary_learning.updates",
    "encoders", "flops", "io", "metrics", "objectives", "prox", "solvers", "statistics",
    "synthetic", "training", "training.losses", "training.schedules",
)  # fmt: skip
SCALES = {"1e-30": 1e-30, "1e-20": 1e-20, "1e20": 1e20, "1e30": 1e30}

# --- what is made of an argument -----------------------------------------------------------------


def _spoil(x, value):
    x = np.array(x, np.float32)
    place = (2, 3)[: x.ndim] if x.ndim < 3 else (0,) * (x.ndim - 2) + (2, 3)
    x[tuple(min(i, n - 1) for i, n in zip(place, x.shape, strict=True))] = value
    return x


def _strided(x):
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


KINDLESS = {
    "text": lambda x: "text",
    "dict": lambda x: {"a": 1.0},
    "ragged": lambda x: [[1.0, 2.0], [3.0]],
    "function": lambda x: len,
    "none": lambda x: None,
}
WRONG_ARRAYS = {
    **KINDLESS,
    "objects": lambda x: x.astype(object),
    "dates": lambda x: np.zeros(x.shape, "datetime64[s]"),
    "durations": lambda x: np.ones(x.shape, "timedelta64[s]"),
    "words": lambda x: x.astype(str),
    "word_lists": lambda x: x.astype(str).tolist(),
    "records": lambda x: np.zeros(x.shape, [("a", "f4")]),
    "complex": lambda x: x + 1j,
    "masked": lambda x: np.ma.masked_array(x, x == x.flat[0]),
    "keys": lambda x: jax.random.split(jax.random.key(0), x.shape),
    "sparse": lambda x: scipy.sparse.csr_array(np.atleast_2d(x)),
    "huge_integers": lambda x: np.full(x.shape, 10**30, object).tolist(),
}
SAME_ARRAYS = {
    "list": lambda x: x.tolist(),
    "fortran": lambda x: np.asfortranarray(x),
    "strided": _strided,
    "jax": jnp.asarray,
    "unmasked": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "float64": lambda x: x.astype(np.float64),
    "big_endian": lambda x: x.astype(">f4"),
}
ROUNDED_ARRAYS = {
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "int32": lambda x: np.rint(3 * x).astype(np.int32),
    "uint8": lambda x: np.abs(np.rint(3 * x)).astype(np.uint8),
    "int64": lambda x: np.rint(3 * x).astype(np.int64),
    "bool": lambda x: x > 0.1,
}
JUDGED_ARRAYS = {
    **{f"empty{a}": (lambda x, a=a: np.take(x, [], axis=a)) for a in (0, 1)},
    **{f"less{a}": (lambda x, a=a: np.delete(x, 0, axis=a)) for a in (0, 1)},
    **{f"one{a}": (lambda x, a=a: np.take(x, [0], axis=a)) for a in (0,)},
    "deeper": lambda x: x[None],
    "pair": lambda x: np.stack([x, 0.5 * x]),
    "row": lambda x: x[0],
    "entry": lambda x: x.flat[1],
    "transposed": lambda x: x.T.copy(),
    "zeros": np.zeros_like,
    "negative": lambda x: -x,
    "float": lambda x: 1.0,
    **{f"scale{n}": (lambda x, s=s: x * np.float32(s)) for n, s in SCALES.items()},
}
NO_NUMBERS = {
    "nan": lambda x: _spoil(x, np.nan),
    "inf": lambda x: _spoil(x, np.inf),
    "minus_inf": lambda x: _spoil(x, -np.inf),
}
NUMBERS = {
    "refuse": {
        **KINDLESS, "word": lambda x: "0.1", "complex": lambda x: x + 1j, "key": lambda x:
        jax.random.key(0), "date": lambda x: np.datetime64("2020-01-01"),
        "huge_integer": lambda x: 10**400,
    },
    "rounded": {"float16": lambda x: np.float16(x), "bool": lambda x: True, "one": lambda x: 1},
    "same": {
        "float": float, "float64": np.float64, "jax": jnp.asarray,
        "array": lambda x: np.asarray(x),
    },
    "judge": {
        "negative": lambda x: -x, "zero": lambda x: 0.0, "big_integer": lambda x: 2**40,
        "pair": lambda x: np.array([x, x]), "single": lambda x: np.array([x]), "list": lambda x:
        [float(x)], "empty": lambda x: np.zeros(0, np.float32), "wide": lambda x:
        np.full((2, 3), x), **{f"scale{n}": (lambda x, s=s: np.float32(x * s))
                               for n, s in SCALES.items()},
    },
    "spoiled": {"nan": lambda x: np.nan, "inf": lambda x: np.inf},
}  # fmt: skip
COUNTS = {
    "refuse": {
        **KINDLESS, "word": lambda x: "3", "fraction": lambda x: 2.5, "float": float,
        "true": lambda x: True, "negative": lambda x: -1, "nan": lambda x: np.nan,
        "huge": lambda x: 10**30, "complex": lambda x: 2 + 0j, "list": lambda x: [x],
        "float_array": lambda x: np.float32(x),
    },
    "any": {"zero": lambda x: 0, "one": lambda x: 1, "array": np.asarray, "jax": jnp.asarray},
    "same": {"int64": np.int64, "uint8": np.uint8},
}  # fmt: skip
LAWS: dict[str, dict[str, dict]] = {
    "array": {
        "refuse": WRONG_ARRAYS, "same": SAME_ARRAYS, "rounded": ROUNDED_ARRAYS,
        "judge": JUDGED_ARRAYS, "spoiled": NO_NUMBERS,
    },
    "shaped": {"refuse": KINDLESS, "judge": {"row": lambda x: x[0], "empty": lambda x: x[:0]}},
    "number": NUMBERS,
    "static": {
        **NUMBERS, "same": {"float": float, "float64": np.float64}, "any": {"array": np.asarray,
        "jax": jnp.asarray},
    },
    "count": COUNTS,
    "key": {
        "refuse": {
            **KINDLESS, "integer": lambda x: 3, "floats": lambda x: np.zeros(2, np.float32),
            "several": lambda x: jax.random.split(x, 3), "words": lambda x: np.zeros(3, np.uint32),
        },
        "same": {"raw": lambda x: jax.random.key_data(x)},
    },
    "function": {"refuse": {
        "text": lambda x: "text", "none": lambda x: None, "number": lambda x: 3, "array": lambda x:
        np.zeros(3), "list": lambda x: [x],
    }},
    "program": {"refuse": {**KINDLESS, "number": lambda x: 3, "list": lambda x: [x]}},
    "shape": {
        "refuse": {
            **KINDLESS, "negative": lambda x: (-1, *x[1:]), "fraction": lambda x: (2.5, *x[1:]),
            "huge": lambda x: (10**30, *x[1:]), "true": lambda x: (True, *x[1:]),
        },
        "any": {"list": list, "empty": lambda x: (), "zero": lambda x: (0, *x[1:]),
                "number": lambda x: 3},
    },
    "axis": {
        "refuse": {**KINDLESS, "far": lambda x: 7, "fraction": lambda x: 0.5, "true": lambda x:
                   True, "huge": lambda x: 10**30},
        "any": {"pair": lambda x: (0, 1), "last": lambda x: -1, "list": lambda x: [0]},
    },
    "flag": {"any": {"none": lambda x: None, "text": lambda x: "text", "array": lambda x:
             np.zeros(2)}},
    "bias": {"refuse": {"text": lambda x: "text", "dict": lambda x: {}, "ragged": lambda x: [[1.0],
             [1.0, 2.0]], "pair": lambda x: np.zeros(2), "complex": lambda x: np.zeros(4) + 1j}},
    "word": {"refuse": {"number": lambda x: 3, "list": lambda x: [x], "none": lambda x: None}},
    "derived": {"refuse": WRONG_ARRAYS, "same": SAME_ARRAYS, "spoiled": NO_NUMBERS},
    "axes": {"refuse": {n: f for n, f in WRONG_ARRAYS.items() if n not in ("complex", "keys")}},
    "chunk": {"refuse": {n: f for n, f in COUNTS["refuse"].items() if n != "huge"}},
    # Of flops.tally: units of work, of which there may be less than none, and operations a unit.
    "units": {
        **COUNTS, "refuse": {n: f for n, f in COUNTS["refuse"].items() if n != "negative"},
    },
    "operations": {
        **COUNTS,
        "refuse": {n: f for n, f in COUNTS["refuse"].items() if n not in ("huge", "true")},
    },
    "other": {},
}  # fmt: skip


UNDER_JIT = (
    "empty0", "less1", "deeper", "row", "float", "zero", "negative", "pair", "nan", "inf",
    *(f"scale{name}" for name in SCALES),
)  # fmt: skip


# Of fit, which takes several keys, and functions in the place of signals.
LAWS["keys"] = {"refuse": {n: f for n, f in LAWS["key"]["refuse"].items() if n != "several"}}
LAWS["source"] = {
    law: {n: f for n, f in table.items() if n != "function"} for law, table in LAWS["array"].items()
}


def changes(line: Call, name: str) -> dict[str, tuple[str, Any]]:
    """Return what is made of an argument: names of changes to (law, new value)."""
    value, found = line.args[name], {}
    for law, table in LAWS[line.kind(name)].items():
        for change, make in table.items():
            if change == "none" and name in line.optional:
                continue
            if getattr(value, "ndim", 0) < 2 and change in (
                "sparse",
                "transposed",
                "empty1",
                "less1",
                "row",
            ):
                continue
            found[change] = law, functools.partial(make, value)
    return found


# --- the law -------------------------------------------------------------------------------------


def leaves(tree: Any) -> list[np.ndarray]:
    out = []
    for leaf in jax.tree.leaves(tree):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, (np.ndarray, jax.Array, np.generic, float, int)):
            out.append(np.asarray(leaf).astype(np.float64))
    return out


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, jax.Array, np.floating, float)) and not (
        isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    )


@functools.cache
def jitted(fn: Callable, names: tuple[str, ...]) -> Callable:
    """Return a function of (all arguments, the traced ones), compiled once for each shape."""
    kept: dict = {}

    def run(args: dict, traced: dict) -> Any:
        rest = {n: a for n, a in args.items() if n not in names}
        key = tuple((n, id(a)) for n, a in rest.items())
        if key not in kept:
            kept[key] = jax.jit(lambda traced: fn(**traced, **rest)), rest
        return kept[key][0](traced)

    return run


def call_with(line: Call, args: dict[str, Any], mode: str) -> Any:
    """Run a call: eager, or under jit with its arrays traced; warnings of others are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"[a-z_]+: .* did not reach the tolerance", UserWarning)
        # what tests of exponents at the ends of the range are bound to meet in NumPy itself
        if mode == "jit":
            traced = {n: a for n, a in args.items() if is_array(a) and line.kind(n) != "static"}
            return jax.block_until_ready(jitted(line.fn, tuple(traced))(args, traced))
        return jax.block_until_ready(line.fn(**args))


def reference(line: Call, args: dict[str, Any]) -> list[np.ndarray] | Exception:
    """Return the answer in float64."""
    with jax.enable_x64(True):
        wide = {
            n: (np.asarray(a, np.float64) if is_array(a) or isinstance(a, list) else a)
            for n, a in args.items()
        }
        wide = {n: args[n] if line.kind(n) == "static" else a for n, a in wide.items()}
        try:
            return leaves(call_with(line, wide, "jit" if line.traced else "plain"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            return error


def differs(got: list, expected: list, tolerance: float, rounding: float = 0) -> str | None:
    """Say how answers differ, or None; ``rounding`` is that of what is expected."""
    if [x.shape for x in got] != [x.shape for x in expected]:
        return f"shapes {[x.shape for x in got]}, expected {[x.shape for x in expected]}"
    for one, other in zip(got, expected, strict=True):
        other = np.where(np.abs(other) > 3.3e38, np.copysign(np.inf, other), other)
        finite = np.isfinite(other)
        largest = np.max(np.abs(other[finite]), initial=0)
        with np.errstate(invalid="ignore"):
            near = np.abs(one - other) <= tolerance * largest + max(rounding, 1e-37)
        fine = np.where(finite, near, (one == other) | (np.isnan(one) & np.isnan(other)))
        fine |= (np.abs(other) > 1e38) & (np.abs(one) > 1e38)
        if not np.all(fine):
            place = tuple(int(i) for i in np.argwhere(~fine)[0])
            return f"{one[place]:.6g} at {place}, expected {other[place]:.6g} (largest {largest:g})"
    return None


def is_ours(line_name: str, line: Call, error: Exception) -> bool:
    names = {re.sub(r"\(.*", "", line_name).split(".")[-1], *line.via}
    if line_name.startswith(("solve(", "apply(")):
        names |= {re.sub(r".*\(|\)", "", line_name), "solve"}
    if not isinstance(error, (ValueError, TypeError, FloatingPointError, FlopCountError)):
        return False
    found = re.match(r"((?:[a-z]+\.)?[a-z0-9_]+): .{10}", str(error), re.DOTALL)
    return bool(found) and found[1].split(".")[-1] in names


SEEN: Counter = Counter()


def run(line_name: str, mode: str = "plain", **named: str) -> str | None:
    """Run a call with named changes of its arguments; return the fault, or None."""
    line = CALLS[line_name]
    made = {name: changes(line, name)[change] for name, change in named.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, about strange numbers
        args = {**line.args, **{name: make() for name, (_, make) in made.items()}}
    law = next(iter(made.values()))[0] if len(made) == 1 else "any"
    try:
        result = call_with(line, args, mode)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        if is_ours(line_name, line, error) and law != "same":
            SEEN["told"] += 1
            return None
        if is_ours(line_name, line, error):
            return f"refused: {error}"
        return f"{type(error).__name__}: {str(error)[:150]}"
    return _judge(line, args, law, mode, named, result)


def _judge(line: Call, args: dict, law: str, mode: str, named: dict, result: Any) -> str | None:
    got = leaves(result)
    if law == "refuse":
        return "accepted"
    if law == "any" or (law == "judge" and line.drawn):
        SEEN["something"] += 1
        return None
    name, rounding = next(iter(named)), 0.0
    if law == "spoiled":
        return _judge_spoiled(line, args, name, mode, got)
    if law == "same":
        expected = leaves(call_with(line, line.args, "plain"))
        tolerance = 1e-6
    elif law == "rounded":
        plain = {**line.args, name: np.asarray(args[name]).astype(np.float32)}
        expected = leaves(call_with(line, plain, "plain"))
        tolerance = 2e-2 if "float16" in named[name] else 1e-6
    else:
        expected, tolerance = reference(line, args), max(2e-3, line.near)
        rounding = 0.0 if "scale" in named[name] else 1e-15  # of arguments of order 1
        absurd = "scale1e" in named[name] or named[name] == "big_integer"
        if absurd and any(np.any(~np.isfinite(x)) for x in got):
            SEEN["overflow"] += 1  # and says so
            return None
    if isinstance(expected, Exception):
        return f"accepted, but float64 raises {str(expected)[:150]}"
    fault = differs(got, expected, tolerance, rounding)
    if fault is None:
        SEEN["right"] += 1
    return fault


def _judge_spoiled(line: Call, args: dict, name: str, mode: str, got: list) -> str | None:
    spoiled = ~np.isfinite(np.asarray(args[name], np.float64))
    is_nan = np.any(np.isnan(np.asarray(args[name], np.float64)))
    if line.unmoved:
        return None
    clean = leaves(call_with(line, line.args, "plain"))
    expected = reference(line, args)
    for place, (one, before) in enumerate(zip(got, clean, strict=True)):
        if not is_nan and not isinstance(expected, Exception):
            other = expected[place]
            if np.all(np.isclose(one, other, 1e-3, 1e-3) | ~np.isfinite(one)):
                continue
        if name in line.rows and before.ndim:
            row = np.flatnonzero(spoiled.reshape(len(spoiled), -1).any(axis=1))
            if one.ndim and len(one) == len(spoiled):
                rest = np.delete(np.arange(len(one)), row)
                if not np.allclose(one[rest], before[rest], line.near, line.near / 10):
                    return "other rows changed"
                one = one[row]
        if not any(np.any(~np.isfinite(x)) for x in got) or (
            name in line.rows and not np.any(~np.isfinite(one))
        ):
            return f"no NaN for {'NaN' if is_nan else 'infinity'}"
    SEEN["nan" if is_nan else "not finite"] += 1
    return None


def cases(line_name: str) -> list[tuple[str, dict[str, str]]]:
    """Return (mode, changes): the call as it is, then of one argument at a time."""
    line = CALLS[line_name]
    found: list[tuple[str, dict[str, str]]] = [("plain", {})]
    for name in line.args:
        for change in changes(line, name):
            found.append(("plain", {name: change}))
            if line.traced and line.kind(name) in ("array", "number") and change in UNDER_JIT:
                found.append(("jit", {name: change}))
    return found


def pairs(line_name: str, number: int) -> list[tuple[str, dict[str, str]]]:
    """Return changes of two arguments at a time, from seeds."""
    line = CALLS[line_name]
    options = [(n, c) for n in line.args for c in changes(line, n)]
    found = []
    for seed in range(number if options else 0):
        rng = np.random.default_rng([seed, *line_name.encode()])
        (one, a), (two, b) = (options[i] for i in rng.integers(len(options), size=2))
        if one != two:
            found.append(("plain", {one: a, two: b}))
    return found


def faults(line_name: str, some: list[tuple[str, dict[str, str]]]) -> list[str]:
    found = []
    for mode, named in some:
        fault = run(line_name, mode, **named)
        SEEN["calls"] += 1
        if fault is not None:
            keywords = "".join(f", {n}={c!r}" for n, c in named.items())
            found.append(f"run({line_name!r}, {mode!r}{keywords})  # {fault}")
    return found


# --- tests ---------------------------------------------------------------------------------------


def test_every_public_call_has_a_line_or_a_reason():
    for module in MODULES:
        found = importlib.import_module(f"sparsecode_jax.{module}".rstrip("."))
        for name in found.__all__:
            value = getattr(found, name)
            record = isinstance(value, type) and (
                hasattr(value, "_fields") or issubclass(value, Exception)
            )
            if not callable(value) or record or hasattr(value, "total"):
                continue
            full = f"{module.split('.')[-1]}.{name}".lstrip(".")
            assert full in CALLS or full in WITHOUT, f"{full}: no line in tests/fuzz_table.py"


def test_a_call_without_arguments_is_made_as_it_is():
    some = cases("updates.k_svd") + pairs("updates.k_svd", 20)
    assert some == [("plain", {})] and not faults("updates.k_svd", some)


@pytest.mark.parametrize(
    "module", ["dictionaries", "encoders", "metrics", "objectives", "prox", "solvers", "sparse"]
)
def test_what_is_no_input_is_told(module):
    """A sample of the slow test below: every third of what must be refused."""
    found = []
    for line_name in CALLS:
        if line_name.startswith(module):
            line = CALLS[line_name]
            some = [(m, n) for m, n in cases(line_name) for a, c in n.items()
                    if m == "plain" and changes(line, a)[c][0] == "refuse"]  # fmt: skip
            found += faults(line_name, some[::3])
    assert not found, "\n" + "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("line_name", CALLS)
def test_every_change_of_an_argument_is_told_or_answered(line_name):
    found = faults(line_name, cases(line_name) + pairs(line_name, 20))
    assert not found, "\n" + "\n".join(found)


def main(pattern: str = "") -> None:
    """Print the faults of the calls whose names match."""
    total = 0
    for line_name in CALLS:
        if re.search(pattern, line_name):
            found = faults(line_name, cases(line_name) + pairs(line_name, 20))
            total += len(found)
            print(f"## {line_name}: {len(found)}", *found, sep="\n", flush=True)
    print(total, "faults", dict(SEEN))


if __name__ == "__main__":
    main(*sys.argv[1:])
