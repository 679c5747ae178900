"""What stops a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["BadInputError", "InterruptedRunError", "bad_input", "one_line"]


class BadInputError(Exception):
    """The command or a file it names is wrong: what is wrong, what is expected, what to do."""


class InterruptedRunError(KeyboardInterrupt):
    """The run was interrupted; the message says what is kept."""


@contextlib.contextmanager
def bad_input(name: str) -> Iterator[None]:
    """Turn what the library's checks raise under a name into a :class:`BadInputError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise BadInputError(str(error).removeprefix(f"{name}: ")) from None


def one_line(error: BaseException | Warning | str) -> str:
    """Return the first paragraph of a message as one line, not endless."""
    text = " ".join(str(error).strip().partition("\n\n")[0].split()) or "no message"
    return text if len(text) <= 400 else text[:397] + "..."
