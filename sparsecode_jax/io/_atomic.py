"""Files that are the old one or the new one, whole, at any instant."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO

__all__ = ["replacing", "write_bytes"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, alone: bool = False) -> Iterator[IO[bytes]]:
    """Give a new file that takes the place of ``path``, or of what it links to, when all went well.

    Args:
      path: its folder is made if need be; the file has the permissions that the umask leaves.
      alone: nobody else writes this path (a lock is held): the unfinished file then has one name,
        so that one which a kill left behind is taken over by the next writer.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = ".new" if alone else f".{secrets.token_hex(4)}.new"
    temporary = path.with_name(path.name + ending)
    flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if alone else os.O_EXCL)
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> pathlib.Path:
    """Write a file in one stroke."""
    with replacing(path) as file:
        file.write(data)
    return pathlib.Path(path)
