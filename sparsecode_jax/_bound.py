"""Functions with options: what programs such as solvers and encoders are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Bound", "cached"]

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Bound(functools.partial):
    """A module's function with its first arguments; equal to another of the same, and pickled.

    Programs are static: JAX keeps what it compiled by their hash, so that a solver which was
    pickled and read again in the same process runs the same program.
    """

    def _parts(self) -> tuple[Any, ...]:
        return self.func, self.args, tuple(sorted(self.keywords.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())


def cached(build: Factory) -> Factory:
    """Let a factory give the same program for the same arguments.

    Arguments that cannot be kept, such as lists, go to the factory, which says what is wrong.
    """
    kept = functools.lru_cache(maxsize=None, typed=True)(build)

    @functools.wraps(build)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            hash((args, tuple(kwargs.values())))
        except TypeError:
            return build(*args, **kwargs)
        return kept(*args, **kwargs)

    return run  # type: ignore[return-value]
