"""Checkpoints: the arrays of a pytree, and what decides the run they are of, in one file.

Arrays that span processes lie beside it (``_spread.py``), and the file names their folder.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from sparsecode_jax import _processes
from sparsecode_jax._sharding import to_host
from sparsecode_jax.io import _spread
from sparsecode_jax.io._archives import parsed
from sparsecode_jax.io._atomic import replacing
from sparsecode_jax.types import PyTree

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = 2
_HEADER = "checkpoint.json"
_MOST_HEADER = 2**22  # bytes


def save_checkpoint(
    path: str | os.PathLike, tree: PyTree, *, identity: Mapping[str, Any], alone: bool = False
) -> None:
    """Write a pytree of arrays, PRNG keys included, replacing the file in one stroke.

    If there are several processes, all of them call it: each writes its part of arrays that span
    processes into the folder ``path.arrays``, and the first of them writes the file.

    Args:
      path: the file; a link is followed.
      tree: a pytree of arrays.
      identity: what decides them, by name: JSON values. It is compared on loading.
      alone: whether a lock keeps others from writing the file.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [_key_data(leaf) for _, leaf in leaves]
    header: dict[str, Any] = {
        "format": FORMAT,
        "identity": dict(identity),
        "leaves": [
            [_name(where), str(_dtype(leaf)), _implementation(leaf)] for where, leaf in leaves
        ],
    }
    spread = {str(i): array for i, array in enumerate(arrays) if _spread.spans(array)}
    if spread:
        header["spread"] = {
            "folder": _spread.write(path, spread, _spread_in(path)),
            "shapes": {index: list(array.shape) for index, array in spread.items()},
        }

    def write() -> None:
        with replacing(path, alone=alone) as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_HEADER, json.dumps(header))
            for index, array in enumerate(arrays):
                if str(index) not in spread:
                    with archive.open(f"{index}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, _plain(array), allow_pickle=False)
        _spread.keep_only(path, header.get("spread", {}).get("folder"))

    _processes.on_first("save_checkpoint", write)


def load_checkpoint(
    path: str | os.PathLike, like: PyTree = None, *, identity: Mapping[str, Any]
) -> PyTree:
    """Read a pytree written by :func:`save_checkpoint`, by any number of processes.

    Nothing in the file is executed, and nothing larger than the file is made in memory. If there
    are several processes, all of them call it.

    Args:
      path: the file.
      like: a pytree of the expected structure, shapes and dtypes; leaves may be arrays or shapes,
        in which a dimension of -1 has any length. What it has on a mesh comes to lie as it does.
        None takes what is there, as a dict of arrays by name.
      identity: the one it was saved with.

    Returns:
      The pytree, with NumPy leaves, PRNG keys and, on a mesh, arrays of JAX.

    Raises:
      ValueError: the file is not a checkpoint, or belongs to another run.
    """
    return _processes.on_all("load_checkpoint", lambda: _load(path, like, identity))


def _load(path: str | os.PathLike, like: PyTree, identity: Mapping[str, Any]) -> PyTree:
    expected, structure = jax.tree_util.tree_flatten_with_path(like)
    places: list[NamedSharding | None]
    try:
        with zipfile.ZipFile(path) as archive:
            header = _header(archive)
            _same_run(path, header["identity"], identity)
            leaves = header["leaves"]
            places = [_place(leaf) for _, leaf in expected] if like is not None else []
            places += [None] * (len(leaves) - len(places))
            spread = header.get("spread", {"shapes": {}})
            there: dict[str, Any] = {}
            if spread["shapes"]:
                wanted = {index: places[int(index)] for index in spread["shapes"]}
                there = _spread.read(path, spread["folder"], wanted)
            arrays = [
                _typed(
                    there[str(index)] if str(index) in there else _array(archive, index),
                    place,
                    *leaf[1:],
                )
                for index, (leaf, place) in enumerate(zip(leaves, places, strict=False))
            ]
    except (FileNotFoundError, ImportError, _OtherRunError):
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"load_checkpoint: {path} is not a checkpoint ({' '.join(str(error).split())[:200]}); "
            "a file written by save_checkpoint is expected. Delete it to start afresh, or pass "
            "another path."
        ) from None
    names = [name for name, _, _ in leaves]
    if like is None:
        return dict(zip(names, arrays, strict=True))
    found = [(k, np.shape(x), str(_dtype(x))) for k, x in zip(names, arrays, strict=True)]
    fitting = [(_name(k), np.shape(x), str(_dtype(x))) for k, x in expected]
    if len(found) != len(fitting) or not all(map(_fits, found, fitting)):
        odd = [
            f"{name} {dtype}{list(shape)}"
            for name, shape, dtype in found
            if not any(_fits((name, shape, dtype), other) for other in fitting)
        ]
        raise ValueError(
            f"load_checkpoint: {path} holds {', '.join(odd[:3]) or 'too little'}, where the run it "
            "says it is of has none: it is damaged, or the tree it is read like is another; a "
            "whole checkpoint, and the tree that was saved, are expected. Pass that tree; or "
            "delete the file to start afresh, or pass another path."
        )
    return jax.tree.unflatten(structure, arrays)


def identity_in(path: str | os.PathLike) -> dict[str, Any] | None:
    """Return the identity that a file was saved with; None if it is no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _header(archive)["identity"]
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _spread_in(path: str | os.PathLike) -> str | None:
    """Return the folder of arrays that a file names."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _header(archive)["spread"]["folder"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Say in what two identities differ, with the values where they are short."""
    names = [k for k in {**expected, **found} if found.get(k) != expected.get(k)]

    def said(name: str) -> str:
        was, now = found.get(name), expected.get(name)
        plain = [
            x is None or isinstance(x, int | float | str) and len(str(x)) < 32 for x in (was, now)
        ]
        return f"{name} was {was}, is {now}" if all(plain) else name

    return [said(name) for name in names]


class _OtherRunError(ValueError):
    """The file is a checkpoint, of another run."""


def _same_run(path: Any, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differs = difference(found, json.loads(json.dumps(dict(expected))))
    if differs:
        raise _OtherRunError(
            f"load_checkpoint: {path} belongs to another run ({', '.join(differs)}); one of the "
            "same run is expected. Pass another path, or delete the file to start afresh."
        )


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    if _HEADER not in archive.namelist():
        raise ValueError(f"it has no {_HEADER}")
    info = archive.getinfo(_HEADER)
    if info.file_size > _MOST_HEADER or any(
        x.compress_type != zipfile.ZIP_STORED for x in archive.infolist()
    ):
        raise ValueError("entries are compressed")
    try:
        header = parsed(archive.read(info))
    except (RuntimeError, NotImplementedError) as error:  # it is encrypted, or of another kind
        raise ValueError(str(error)) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    leaves: Any = header.get("leaves")
    well = isinstance(header.get("identity"), dict) and isinstance(leaves, list)
    if not well or not all(isinstance(leaf, list) and len(leaf) == 3 for leaf in leaves):
        raise ValueError("its header is not of this format")
    return header


def _array(archive: zipfile.ZipFile, index: int) -> np.ndarray:
    """Read an array whose size is that of its entry, which is not compressed."""
    info = archive.getinfo(f"{index}.npy")
    with archive.open(info) as entry:
        version = np.lib.format.read_magic(entry)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, stored = reader(entry)
        size = int(np.prod(shape, dtype=object)) * stored.itemsize
        if stored.hasobject or min(shape, default=0) < 0 or size > info.file_size:
            raise ValueError(f"array {index} is not {size} bytes of plain numbers")
        data = bytearray(entry.read())
    array = np.frombuffer(data, stored)  # writable
    return array.reshape(shape, order="F" if fortran_order else "C")


def _typed(array: Any, place: NamedSharding | None, dtype: str, implementation: str | None) -> Any:
    """Return what was stored as it was: of its dtype, a key, and where it is expected to lie."""
    if isinstance(array, np.ndarray) and array.dtype.kind == "V":
        array = array.view(np.dtype(dtype))
    if isinstance(array, np.ndarray) and place is not None:
        plain = array
        array = jax.make_array_from_callback(plain.shape, place, lambda index: plain[index])
    if implementation is not None:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
    return array


def _place(like: Any) -> NamedSharding | None:
    """Return where a leaf lies, if that is on a mesh; of keys, where their numbers do."""
    numbers = _key_data(like) if isinstance(like, jax.Array) else like
    sharding = getattr(numbers, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _plain(array: Any) -> np.ndarray:
    """Return an array on the host, of a dtype that NumPy has."""
    array = to_host(array)
    return array.view(f"V{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _fits(found: tuple[str, tuple, str], wanted: tuple[str, tuple, str]) -> bool:
    """Say whether an array is the one that is expected; -1 stands for any length."""
    (name, shape, dtype), (as_named, sizes, as_typed) = found, wanted
    same = len(shape) == len(sizes) and all(
        size in (n, -1) for n, size in zip(shape, sizes, strict=True)
    )
    return same and (name, dtype) == (as_named, as_typed)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _implementation(x: Any) -> str | None:
    return str(jax.random.key_impl(x)) if _is_key(x) else None


def _key_data(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x
