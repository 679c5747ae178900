"""Autoencoders on disk."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax.io.results import load_results, save_results
from sparsecode_jax.learning.step import Autoencoder
from sparsecode_jax.types import Encoder

__all__ = ["load", "save"]


def save(
    path: str | os.PathLike, params: Autoencoder, *, manifest: Mapping[str, Any] | None = None
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write an encoder's parameters with their dictionary to ``path``.npz and ``path``.json.

    Arrays are named by their place: ``encoder.weight``, ``dictionary``, ``bias``. Half-precision
    numbers that NumPy does not know are kept as float32.

    Args:
      path: without suffix.
      params: an :class:`Autoencoder`, such as ``fit(...).params``.
      manifest: JSON values to keep beside it, such as how to build the encoder.

    Returns:
      The two paths.
    """
    arrays = {}
    for name, leaf in _named(params).items():
        leaf = jnp.asarray(leaf)
        arrays[name] = np.asarray(leaf.astype("float32") if leaf.dtype == jnp.bfloat16 else leaf)
    return save_results(path, arrays, manifest or {})


def load(path: str | os.PathLike, encoder: Encoder) -> Autoencoder:
    """Read what :func:`save` wrote.

    Args:
      path: without suffix.
      encoder: the encoder that was saved, built anew.

    Returns:
      An :class:`Autoencoder`.

    Raises:
      FileNotFoundError: no such files.
      ValueError: the parameters are of another encoder, or of other sizes.
    """
    _checks.encoder("load", encoder)
    arrays, _ = load_results(path)
    own = jax.eval_shape(encoder.init, jax.random.key(0))
    runs = _runs(arrays, own)
    expected = {name: (*runs, *leaf.shape) for name, leaf in _named(Autoencoder(own, None)).items()}
    found = {name: a.shape for name, a in arrays.items() if name.startswith("encoder")}
    if found != expected:
        raise ValueError(
            f"load: {path} holds an encoder with {found}; {expected} is expected by this one. "
            "Build the encoder with the sizes and options that it was trained with."
        )
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    params = jax.tree.unflatten(jax.tree.structure(own), leaves)
    rest = [jnp.asarray(arrays[n]) if n in arrays else None for n in ("dictionary", "bias")]
    return Autoencoder(params, *rest)


def _named(params: Autoencoder) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _runs(arrays: Mapping[str, np.ndarray], own: Any) -> tuple[int, ...]:
    """Return the leading run axes of saved parameters."""
    for name, leaf in _named(Autoencoder(own, None)).items():
        if name in arrays:
            return arrays[name].shape[: max(arrays[name].ndim - leaf.ndim, 0)]
    return ()
