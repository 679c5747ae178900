"""What stops a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["BadInputError", "InterruptedRunError", "bad_input"]


class BadInputError(Exception):
    """The command or a file it names is wrong: what is wrong, what is expected, what to do."""


class InterruptedRunError(KeyboardInterrupt):
    """The run was interrupted; the message says what is kept."""


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Turn what the library's checks raise into a :class:`BadInputError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise BadInputError(str(error)) from None
