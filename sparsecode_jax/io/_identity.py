"""What decides a result, in short texts that two runs can be compared by."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from sparsecode_jax._sharding import to_host
from sparsecode_jax.types import PyTree

__all__ = ["as_given", "chained", "digest_of", "other_batches", "program_of"]

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def as_given(value: Any) -> str | None:
    """Return what identifies an argument that is None, a word, or an array."""
    return value if value is None or isinstance(value, str) else digest_of(np.asarray(value))


def digest_of(tree: PyTree) -> str:
    """Return the checksum of the arrays of a pytree, PRNG keys included, and of its structure."""
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        _add(digest, leaf)
    return digest.hexdigest()[:32]


def program_of(fn: Callable, *args: Any) -> str:
    """Return the checksum of what a JAX function computes of arguments of these shapes.

    It is that of its jaxpr, with every array that the function holds: where it is written does not
    matter, and what a global name stands for does. Functions under ``jax.jit`` count by name, too.
    Where the arguments lie on devices does not matter. Of functions that run on the host (those of
    ``pure_callback`` and ``io_callback``) it is that of their code and of what they close over.
    """
    closed = jax.make_jaxpr(fn)(*jax.tree.map(_shape, args))
    # Subprograms that JAX calls later (rules of derivatives) show as addresses of functions.
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed)).encode())
    for array in _arrays(closed):
        _add(digest, array)
    for function in _host_functions(closed):
        _add_function(digest, function)
    return digest.hexdigest()[:32]


def chained(before: np.ndarray, batch: PyTree) -> np.ndarray:
    """Return the checksum of a stream, 32 bytes, one batch further."""
    digest = hashlib.sha256(before.tobytes())
    for leaf in jax.tree.leaves(batch):
        _add(digest, leaf)
    return np.frombuffer(digest.digest(), np.uint8)


def other_batches(name: str, path: Any, count: int) -> ValueError:
    """Say that a stream is not the one that a checkpoint is of."""
    return ValueError(
        f"{name}: {path} belongs to another run (the first {count} batches differ); the same "
        "batches in the same order are expected. Pass another path, or delete the file to start "
        "afresh."
    )


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x


def _add(digest: Any, leaf: Any) -> None:
    is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
    array = np.ascontiguousarray(to_host(jax.random.key_data(leaf) if is_key else leaf))
    digest.update(f"{np.shape(leaf)}{getattr(leaf, 'dtype', array.dtype)}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)  # no copy


def _arrays(program: Any) -> Iterator[Any]:
    """Give the arrays that a jaxpr and its subprograms hold, in order."""
    for held, eqns in _programs(program):
        yield from held
        for eqn in eqns:
            for var in eqn.invars:
                if np.ndim(getattr(var, "val", 0)):
                    yield var.val


def _host_functions(program: Any) -> Iterator[Any]:
    for _, eqns in _programs(program):
        for eqn in eqns:
            if eqn.primitive.name in ("pure_callback", "io_callback"):
                given = eqn.params["callback"]
                yield getattr(given, "callback_func", given)


def _programs(program: Any) -> Iterator[tuple[Any, Any]]:
    """Give the constants and the equations of a jaxpr and of its subprograms, in order."""
    jaxpr = getattr(program, "jaxpr", program)
    yield getattr(program, "consts", ()), jaxpr.eqns
    for eqn in jaxpr.eqns:
        for _, value in sorted(eqn.params.items()):
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                    yield from _programs(part)


def _add_function(digest: Any, value: Any, above: tuple = ()) -> None:
    """Add a Python function by its code, and what it holds by value."""
    if any(value is other for other in above):
        return  # a function that closes over itself
    above = (*above, value)
    if isinstance(value, functools.partial):
        value = (value.func, value.args, sorted(value.keywords.items()))
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        value = (value.__code__, cells, value.__defaults__, value.__kwdefaults__)
    if isinstance(value, types.CodeType):
        digest.update(value.co_code)
        value = (value.co_names, value.co_consts)
    if isinstance(value, tuple | list):
        for part in value:
            _add_function(digest, part, above)
    elif isinstance(value, np.ndarray | jax.Array) and value.dtype != object:
        _add(digest, value)
    else:
        said = sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)
        digest.update(_ADDRESS.sub("", str(said)).encode())
