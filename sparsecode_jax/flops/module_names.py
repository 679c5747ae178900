"""Names of modules that do not name themselves: flax.nnx, if somebody has imported it.

Modules of flax.linen and haiku enter a named scope when they are called. Those of flax.nnx do not,
so their classes do it while a function is traced: under the attribute by which the module around
holds them, or else the name of their class.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import jax

_callers: ContextVar[tuple[Any, ...]] = ContextVar("modules being called", default=())
_lock = Lock()
_entered = 0  # times, also by other threads: classes are changed by the first, restored by the last
_originals: list[tuple[Any, Callable[..., Any]]] = []


@contextmanager
def named_modules() -> Iterator[None]:
    """Let modules of flax.nnx enter scopes of their own names."""
    global _entered
    with _lock:
        if (_entered := _entered + 1) == 1 and (nnx := sys.modules.get("flax.nnx")) is not None:
            _originals.extend((cls, vars(cls)["__call__"]) for cls in _with_calls(nnx.Module))
            for cls, call in _originals:
                cls.__call__ = _named(call)
    try:
        yield
    finally:
        with _lock:
            if (_entered := _entered - 1) == 0:
                for cls, call in _originals:
                    cls.__call__ = call
                _originals.clear()


def _with_calls(cls: Any) -> Iterator[Any]:
    """Yield the classes that can be called, among this one and all that derive from it."""
    seen, pending = set(), [cls]
    while pending:
        one = pending.pop()
        if one not in seen:
            seen.add(one)
            pending += one.__subclasses__()
            if callable(vars(one).get("__call__")):
                yield one


def _named(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def named(module: Any, *args: Any, **kwargs: Any) -> Any:
        around = _callers.get()
        if around and around[-1] is module:  # a call of the class that it derives from
            return call(module, *args, **kwargs)
        token = _callers.set((*around, module))
        try:
            with jax.named_scope(_name(module, around[-1] if around else None)):
                return call(module, *args, **kwargs)
        finally:
            _callers.reset(token)

    return named


def _name(module: Any, holder: Any) -> str:
    """Return the attribute of the holder that a module is, ``blocks_2`` if it is in a list."""
    for name, value in vars(holder).items() if holder is not None else ():
        if value is module:
            return name
        try:
            items = value.items() if hasattr(value, "items") else enumerate(value)
            places = [place for place, item in items if item is module]
        except TypeError:  # nothing that holds modules
            continue
        if places:
            return f"{name}_{places[0]}"
    return type(module).__name__
