"""Atomic file replacement."""

from __future__ import annotations

import os
import pathlib
import tempfile

__all__ = ["write_bytes"]


def write_bytes(path: str | os.PathLike, data: bytes) -> pathlib.Path:
    """Write a file so that at any instant it is the old one or the new one, whole."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    return path
