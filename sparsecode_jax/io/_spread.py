"""Arrays that span processes, in a folder beside the checkpoint that they are of.

Each process writes its own part, by orbax-checkpoint, into a folder that is new each time; the file
of the checkpoint then names it in one stroke, and what is not named any more is deleted.
"""

from __future__ import annotations

import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sparsecode_jax import _processes

__all__ = ["delete", "folder_of", "keep_only", "read", "require", "spans", "write"]


def spans(x: Any) -> bool:
    """Say whether some part of an array lies with another process."""
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def folder_of(path: str | os.PathLike) -> pathlib.Path:
    """Return the folder of the arrays of a checkpoint that span processes."""
    return pathlib.Path(os.path.realpath(path) + ".arrays")


def require(name: str) -> Any:
    """Import orbax-checkpoint, which nothing else needs."""
    try:
        import orbax.checkpoint
        from etils import epath  # comes with it: its paths
    except ImportError:
        raise ImportError(
            f"{name}: checkpoints of several processes are written and read by orbax-checkpoint, "
            "which is not installed; it is expected to be there. Install it: pip install "
            '"sparsecode_jax[distributed]".'
        ) from None
    return orbax.checkpoint, epath.Path


def write(path: str | os.PathLike, arrays: Mapping[str, jax.Array], used: str | None) -> str:
    """Write arrays, each process its own parts; return the name of their folder.

    Args:
      path: of the checkpoint.
      arrays: by name.
      used: the folder that the checkpoint names until now.
    """
    name = "save_checkpoint"
    orbax, as_path = require(name)
    handler = orbax.PyTreeCheckpointHandler()

    def begin() -> str:
        keep_only(path, used)  # what a kill has left goes
        new = secrets.token_hex(4)
        (folder_of(path) / new).mkdir(parents=True)
        return new

    new = _processes.on_first(name, begin)
    place = as_path(folder_of(path) / new)
    args = orbax.args.PyTreeSave(dict(arrays))
    try:
        _processes.on_all(name, lambda: handler.save(place, args=args))
        _processes.on_first(name, lambda: handler.finalize(place))
    except BaseException:
        if _processes.is_first():
            keep_only(path, used)
        raise
    return new


def read(
    path: str | os.PathLike, name: str, wanted: Mapping[str, jax.sharding.Sharding | None]
) -> dict[str, Any]:
    """Read arrays, each process the parts that its devices are to have.

    Args:
      path: of the checkpoint.
      name: of their folder.
      wanted: where each is to lie; None reads it as NumPy.
    """
    orbax, as_path = require("load_checkpoint")
    if not (folder_of(path) / name).exists():
        raise ValueError(f"its arrays, which move with it, are missing: {folder_of(path) / name}")
    how = {
        label: orbax.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else orbax.ArrayRestoreArgs(sharding=sharding)
        for label, sharding in wanted.items()
    }
    args = orbax.args.PyTreeRestore(restore_args=how)
    return orbax.PyTreeCheckpointHandler().restore(as_path(folder_of(path) / name), args=args)


def keep_only(path: str | os.PathLike, name: str | None) -> None:
    """Delete all folders of arrays but one."""
    folder = folder_of(path)
    if folder.exists():
        for other in folder.iterdir():
            if other.name != name:
                shutil.rmtree(other)
        if name is None:
            folder.rmdir()


def delete(path: pathlib.Path) -> None:
    """Delete a file with its arrays, or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        keep_only(path, None)
