"""Functions with options: what programs such as solvers and encoders are made of."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["Bound"]


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
