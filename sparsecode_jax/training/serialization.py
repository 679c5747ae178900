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
from sparsecode_jax.training.step import Autoencoder
from sparsecode_jax.types import Array, Encoder, Role

__all__ = ["load", "save"]

_SHORT = "bfloat16"  # in the manifest: the arrays that were


def save(
    path: str | os.PathLike, params: Autoencoder, *, manifest: Mapping[str, Any] | None = None
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write an encoder's parameters with their dictionary to ``path``.npz and ``path``.json.

    Arrays are named by their place: ``encoder.weight``, ``dictionary``, ``bias``. Numbers in
    bfloat16, which NumPy does not know, are written as float32 and named in the manifest;
    :func:`load` gives them back as they were.

    Args:
      path: without suffix.
      params: an :class:`Autoencoder`, such as ``fit(...).params``.
      manifest: JSON values to keep beside it, such as how to build the encoder.

    Returns:
      The two paths.
    """
    named = {name: jnp.asarray(leaf) for name, leaf in _named(params).items()}
    short = [name for name, leaf in named.items() if leaf.dtype == jnp.bfloat16]
    arrays = {n: leaf.astype("float32") if n in short else leaf for n, leaf in named.items()}
    return save_results(path, arrays, {**(manifest or {}), **({_SHORT: short} if short else {})})


def load(path: str | os.PathLike, encoder: Encoder) -> Autoencoder:
    """Read what :func:`save` wrote.

    Args:
      path: without suffix.
      encoder: the encoder that was saved, built anew.

    Returns:
      An :class:`Autoencoder`.

    Raises:
      FileNotFoundError: no such files.
      ValueError: the parameters are of another encoder, of other sizes, or not finite real floats.
    """
    _checks.encoder("load", encoder)
    arrays, manifest = load_results(path)
    short = manifest.get(_SHORT, [])
    if not isinstance(short, list):
        raise ValueError(
            f"load: the manifest of {path} says {short!r} of {_SHORT}; a list of names is "
            "expected. Save the model again."
        )
    own = jax.eval_shape(encoder.init, jax.random.key(0))
    runs = _runs(arrays, own)
    expected = {name: (*runs, *leaf.shape) for name, leaf in _named(Autoencoder(own, None)).items()}
    found = {name: a.shape for name, a in arrays.items() if name.startswith("encoder")}
    if found != expected:
        raise ValueError(
            f"load: {path} holds an encoder with {found}; {expected} is expected by this one. "
            "Build the encoder with the sizes and options that it was trained with."
        )
    _check_decoder(path, arrays, encoder, own, runs)

    roles = _named(Autoencoder(encoder.roles, None))

    def array(name: str) -> Any:
        if name not in arrays:
            return None
        dtype = jnp.bfloat16 if name in short else None
        counts = roles.get(name) is Role.NUM_ACTIVE  # which may be a whole number
        return _weights(path, name, arrays[name], dtype, "fiu" if counts else "f")

    params = jax.tree.unflatten(jax.tree.structure(own), [array(name) for name in expected])
    return Autoencoder(params, array("dictionary"), array("bias"))


def _weights(path: Any, name: str, held: np.ndarray, dtype: Any, kinds: str) -> Array:
    """Return an array of a model, or raise unless its numbers are of a kind, and finite in JAX."""
    what = f"{held.dtype} values"
    if held.dtype.kind in kinds:
        (held,) = _checks.real("load", held)
        array = _checks.on_device(held, dtype)
        if _checks.all_finite(array):
            return array
        what = "numbers that are not finite"
    raise ValueError(
        f"load: {path} holds {what} in {name}; finite real floats are expected. Save the model "
        "again from parameters that were trained."
    )


def _check_decoder(
    path: Any, arrays: Mapping[str, np.ndarray], encoder: Encoder, own: Any, runs: tuple[int, ...]
) -> None:
    """Raise unless dictionary and bias fit the encoder's codes and signals."""
    for name in {"dictionary", "bias"} & arrays.keys():
        shape = arrays[name].shape
        wrong = ValueError(
            f"load: {path} holds a {name} of shape {shape}, which does not fit the encoder's "
            f"signals and codes (runs {runs}). A file written by save is expected; write it "
            "again from the parameters that were trained together."
        )
        if len(shape) != len(runs) + 1 + (name == "dictionary"):
            raise wrong
        signals = jax.ShapeDtypeStruct((encoder.num_signals or 1, shape[-1]), "float32")
        try:
            num_codes = jax.eval_shape(encoder.apply, own, signals).shape[-1]
        except (TypeError, ValueError) as error:  # how encoders refuse signals
            raise wrong from error
        middle = (num_codes,) if name == "dictionary" else ()
        if shape != (*runs, *middle, shape[-1]):
            raise wrong


def _named(params: Autoencoder) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def _runs(arrays: Mapping[str, np.ndarray], own: Any) -> tuple[int, ...]:
    """Return the leading run axes of saved parameters."""
    for name, leaf in _named(Autoencoder(own, None)).items():
        if name in arrays:
            return arrays[name].shape[: max(arrays[name].ndim - leaf.ndim, 0)]
    return ()
