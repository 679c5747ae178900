"""Say which run a checkpoint belongs to."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from sparsecode_jax.types import PyTree

__all__ = ["fingerprint_of"]


def fingerprint_of(settings: str, arrays: PyTree, functions: Iterable[Any]) -> str:
    """Hash what decides a run: settings, arrays (no PRNG keys) and its functions.

    Functions are known by their names, by what they close over or default to, and by the names and
    constants in their code; what a global name stands for is not looked at.
    """
    digest = hashlib.sha256(settings.encode())
    for leaf in jax.tree.leaves(arrays):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # no copy
    for fn in functions:
        digest.update(_name(fn).encode())
    return digest.hexdigest()


def _name(fn: Any, depth: int = 6) -> str:
    """Name a function, with what it closes over and what its code uses, alike in every process."""
    if isinstance(fn, functools.partial):
        args = [_name(arg) for arg in fn.args]
        keywords = [(key, _name(value)) for key, value in sorted(fn.keywords.items())]
        return f"partial({_name(fn.func)}, {args}, {keywords})"
    if fn is None or isinstance(fn, int | float | str):
        return repr(fn)
    if isinstance(fn, tuple) and depth:
        return f"({', '.join(_name(part, depth - 1) for part in fn)})"
    if isinstance(fn, np.ndarray | jax.Array) and not isinstance(fn, jax.core.Tracer):
        return hashlib.sha256(np.asarray(fn).tobytes()).hexdigest()
    if not callable(fn):
        return type(fn).__name__
    held: list[str] = []
    if depth:
        values = [cell.cell_contents for cell in getattr(fn, "__closure__", None) or ()]
        code = getattr(fn, "__code__", None)
        if code is not None:
            values += [*_written(code, fn.__doc__), *(getattr(fn, "__defaults__", None) or ())]
            values += [v for _, v in sorted((getattr(fn, "__kwdefaults__", None) or {}).items())]
            owner = getattr(fn, "__self__", None)
            values += [v for _, v in sorted(getattr(owner, "__dict__", {}).items())]
        elif not isinstance(fn, type):
            values += [v for _, v in sorted(getattr(fn, "__dict__", {}).items())]
        held = [_name(value, depth - 1) for value in values]
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__name__)}"
    return f"{name}{held or ''}"


def _written(code: types.CodeType, doc: str | None) -> list[Any]:
    """Return the names, numbers and texts in a function's code, without its docstring."""
    held: list[Any] = [*code.co_names]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            held += _written(constant, None)
        elif isinstance(constant, int | float | str | tuple) and constant != doc:
            held.append(constant)
    return held
