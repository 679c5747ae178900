"""Checkpoints: a pytree of arrays and a fingerprint in one file."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import numpy as np

from sparsecode_jax.io._atomic import write_bytes
from sparsecode_jax.types import PyTree

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | os.PathLike, tree: PyTree, *, fingerprint: str) -> None:
    """Write a pytree of arrays, PRNG keys included, replacing the file in one stroke.

    Args:
      path: the file.
      tree: a pytree of arrays.
      fingerprint: says which run it belongs to; checked on loading.
    """
    from flax import serialization  # on use: importing flax takes a second

    leaves = jax.tree.leaves(tree)
    content = {
        "fingerprint": fingerprint,
        "leaves": {str(i): np.asarray(_key_data(leaf)) for i, leaf in enumerate(leaves)},
        "keys": {
            str(i): str(jax.random.key_impl(leaf)) for i, leaf in enumerate(leaves) if _is_key(leaf)
        },
    }
    write_bytes(path, serialization.msgpack_serialize(content))


def load_checkpoint(path: str | os.PathLike, like: PyTree, *, fingerprint: str) -> PyTree:
    """Read a pytree written by :func:`save_checkpoint`.

    Args:
      path: the file.
      like: a pytree of the expected structure; leaves may be arrays or shapes.
      fingerprint: the one it was saved with.

    Returns:
      The pytree, with NumPy leaves and PRNG keys.

    Raises:
      ValueError: the file is not a checkpoint, or belongs to another run.
    """
    from flax import serialization

    try:
        content: Any = serialization.msgpack_restore(pathlib.Path(path).read_bytes())
        found, leaves, keys = content["fingerprint"], content["leaves"], content["keys"]
        arrays = [leaves[str(i)] for i in range(len(leaves))]
        if not all(isinstance(x, np.ndarray | np.generic) for x in arrays):
            raise ValueError("entries that are no arrays")
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"load_checkpoint: {path} is not a checkpoint ({error}); a file written by "
            "save_checkpoint is expected. Delete it to start afresh, or pass another path."
        ) from None
    templates, structure = jax.tree.flatten(like)
    if found != fingerprint or len(leaves) != len(templates):
        raise ValueError(
            f"load_checkpoint: {path} belongs to another run: its data, settings or initial "
            "weights differ from this one's. Pass another path, or delete the file to start afresh."
        )
    restored = [
        jax.random.wrap_key_data(array, impl=keys[str(i)])
        if str(i) in keys
        else np.array(array)  # writable
        for i, array in enumerate(arrays)
    ]
    return jax.tree.unflatten(structure, restored)


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_data(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x
