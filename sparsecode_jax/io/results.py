"""Results: ``name.npz`` with the arrays and ``name.json`` with what they are."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sparsecode_jax.io._archives import check_archive
from sparsecode_jax.io._atomic import replacing, write_bytes

__all__ = ["load_results", "save_results"]

_PACKAGES = ("sparsecode_jax", "jax", "jaxlib", "flax", "optax", "chex", "numpy", "scipy")


def save_results(
    path: str | os.PathLike, arrays: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write arrays to ``path``.npz and a manifest to ``path``.json.

    The manifest gains the versions, the device, the commit (if any) and the shape of every array.

    Args:
      path: without suffix.
      arrays: name to array.
      manifest: JSON values: configuration, axis names in order, seconds, FLOP convention.

    Returns:
      The two paths.

    Raises:
      ValueError: an array of Python objects, which another machine could not read.
    """
    host = {name: np.asarray(value) for name, value in arrays.items()}
    for name, value in host.items():
        if value.dtype.kind in "OV":
            held = "Python objects" if value.dtype.kind == "O" else f"{value.dtype} numbers"
            raise ValueError(
                f"save_results: {name!r} holds {held}, which other readers of .npz do not know; "
                "numbers or strings are expected. Convert with astype (bfloat16 to float32, large "
                "integer counts to float64)."
            )
    path = pathlib.Path(path)
    text = manifest_text(manifest, {name: value.shape for name, value in host.items()})
    npz = path.with_name(path.name + ".npz")
    with replacing(npz) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in host.items():  # savez reserves names
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)
    return npz, write_bytes(path.with_name(path.name + ".json"), text.encode())


def manifest_text(manifest: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a manifest as JSON, with versions, device, commit and the shape of every array."""
    full = {
        **manifest,
        "arrays": {name: list(shape) for name, shape in shapes.items()},
        "versions": _versions(),
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "processors": os.cpu_count(),
        "commit": _commit(),
    }
    return json.dumps(full, indent=2, sort_keys=True) + "\n"


def load_results(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`save_results` wrote.

    Args:
      path: without suffix.

    Returns:
      The arrays by name, and the manifest.

    Raises:
      FileNotFoundError: no such results.
      ValueError: the files are damaged, hold Python objects, or inflate beyond reason.
    """
    path = pathlib.Path(path)
    npz, manifest = path.with_name(path.name + ".npz"), path.with_name(path.name + ".json")
    if not (npz.exists() and manifest.exists()):
        raise FileNotFoundError(
            f"load_results: {npz} and {manifest} are expected; run the experiment that writes them."
        )
    try:
        check_archive(npz)
        with np.load(npz, allow_pickle=False) as file:
            arrays, held = dict(file), json.loads(manifest.read_text())
        if not isinstance(held, dict):
            raise ValueError(f"the manifest is a {type(held).__name__}, not an object")
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"load_results: {npz} and {manifest} cannot be read "
            f"({' '.join(str(error).split())[:200]}); what save_results writes is expected. Run "
            "again what wrote them."
        ) from None
    return arrays, held


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
