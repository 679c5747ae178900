"""Files of arrays and manifests, looked at before anything in them is made in memory."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import numpy as np

__all__ = ["check_archive", "check_array", "parsed"]

_LARGE, _RATIO = 2**28, 200  # bytes that inflate to this and by more than so many times


def check_archive(path: str | os.PathLike) -> None:
    """Raise unless every array of an .npz is as large as its entry, and all inflate within reason.

    Raises:
      ValueError: an entry is no array of plain numbers or texts, claims another size than it has,
        or is a small file that inflates to a very large one, as may all of them together.
    """
    with zipfile.ZipFile(path) as archive:
        held, total = os.path.getsize(path), sum(info.file_size for info in archive.infolist())
        for info in archive.infolist():
            if info.file_size > max(_LARGE, _RATIO * info.compress_size):
                raise ValueError(
                    f"{info.filename} inflates from {info.compress_size:,} to {info.file_size:,} "
                    "bytes"
                )
            with archive.open(info) as entry:
                if _claimed(entry, info.filename) != info.file_size - entry.tell():
                    raise ValueError(f"{info.filename} does not have the size that it claims")
        if total > max(_LARGE, _RATIO * held):
            raise ValueError(f"its entries inflate from {held:,} to {total:,} bytes together")


def check_array(path: str | os.PathLike) -> None:
    """Raise ValueError unless an .npy holds an array of plain numbers, and all that it claims."""
    with open(path, "rb") as file:
        if _claimed(file, "it") > os.path.getsize(path) - file.tell():
            raise ValueError("it does not have the size that it claims")


def _claimed(file: Any, name: str) -> int:
    """Read the header of an .npy and return how many bytes of numbers it says that there are."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects in its dtype")
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} does not have the size that it claims")
    return int(np.prod(shape, dtype=object)) * dtype.itemsize


def parsed(text: str | bytes) -> Any:
    """Return what JSON says, or raise ValueError, however deeply it is nested."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
