"""Input: signals through a memory map, dictionaries, and what one pass over signals says."""

from __future__ import annotations

import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax.cli.errors import BadInputError

__all__ = ["Atoms", "Signals", "Statistics", "open_dictionary", "open_signals"]


def _load(path: pathlib.Path, what: str, **options: Any) -> Any:
    if not path.exists():
        raise BadInputError(f"{path}: no such file; {what} is expected.")
    try:
        return np.load(path, allow_pickle=False, **options)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInputError(
            f"{path} is not readable ({reason}); {what} of plain numbers is expected. Write it "
            "with numpy.save or numpy.savez; convert arrays of Python objects with astype first."
        ) from None


def _plain_numbers(path: pathlib.Path, label: str, array: np.ndarray) -> None:
    if array.dtype.kind not in "biuf":
        raise BadInputError(
            f"{path}: {label} hold {array.dtype} values; real numbers (float, integer or bool) are "
            "expected. Convert them with astype('float32')."
        )


class Signals(NamedTuple):
    """Signals on disk: nothing is read until rows are asked for.

    Attributes:
      path: of the file.
      array: the memory map, (..., M), any real dtype.
      rows: the same as (S, M).
    """

    path: pathlib.Path
    array: np.ndarray
    rows: np.ndarray

    def batch(self, places: slice | np.ndarray) -> np.ndarray:
        """Return some rows in float32, (B, M), or raise BadInputError if any are not finite."""
        with np.errstate(over="ignore"):
            batch = np.ascontiguousarray(self.rows[places], dtype=np.float32)
        if not np.isfinite(batch).all():
            bad = np.argwhere(~np.isfinite(batch))
            row = bad[0, 0] + places.start if isinstance(places, slice) else places[bad[0, 0]]
            raise BadInputError(
                f"{self.path} has {self.rows[row][bad[0, 1]]} at row {row}, column {bad[0, 1]}, "
                f"and {len(np.unique(bad[:, 0]))} such rows among the {len(batch):,} read with it; "
                "numbers that are finite in float32 are expected. Drop or repair those rows."
            )
        return batch


def open_signals(path: str) -> Signals:
    """Map a .npy file of signals, or say what is wrong with it."""
    file = pathlib.Path(path)
    array = _load(file, "a .npy file (S, M) written by numpy.save", mmap_mode="r")
    if not isinstance(array, np.ndarray):
        raise BadInputError(
            f"{file} is an .npz archive ({', '.join(array.files[:5])}); one array in a .npy file "
            "is expected. Save the array of signals alone with numpy.save."
        )
    _plain_numbers(file, "the signals", array)
    if array.ndim < 2 or array.size == 0:
        raise BadInputError(
            f"{file} has shape {array.shape}; a non-empty (S, M), one signal of M measurements per "
            "row, is expected. Reshape it, one signal per row."
        )
    if array.ndim > 2 and not array.flags.c_contiguous:
        raise BadInputError(
            f"{file} has shape {array.shape} in Fortran order; more than two axes are expected in "
            "C order. Save it with numpy.save(path, numpy.ascontiguousarray(x))."
        )
    return Signals(file, array, array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array)


class Statistics(NamedTuple):
    """What one pass over signals says about them.

    Attributes:
      rms: root mean square norm.
      largest: largest magnitude.
      deviation: summed squared deviation from the mean signal.
      checksum: of the rows in float32.
    """

    rms: float
    largest: float
    deviation: float
    checksum: int

    @classmethod
    def of(cls, batches: Iterable[np.ndarray]) -> Statistics:
        """Take (S, M) in batches, one at a time in memory."""
        center, checksum, num, largest, squares = None, 0, 0, 0.0, 0.0
        for batch in batches:
            checksum = zlib.crc32(batch.data, checksum)
            rows = batch.astype(np.float64)
            if center is None:  # sums about it do not cancel
                center = rows.mean(axis=0)
                sums, about = np.zeros_like(center), 0.0
            largest = max(largest, float(np.abs(rows).max()))
            squares += float(np.sum(rows * rows))
            rows -= center
            sums += rows.sum(axis=0)
            about += float(np.sum(rows * rows))
            num += len(rows)
        deviation = max(about - float(sums @ sums) / num, 0.0)
        return cls((squares / num) ** 0.5, largest, deviation, checksum)


class Atoms(NamedTuple):
    """A dictionary file: atoms (N, M), and how they were learned, where the file says so."""

    path: pathlib.Path
    dictionary: np.ndarray
    penalty: float | None
    signed: bool | None
    sha256: str


def open_dictionary(path: str) -> Atoms:
    """Read a dictionary from .npz (under the name 'dictionary') or .npy."""
    file = pathlib.Path(path)
    held = _load(file, "a .npz file with an array 'dictionary', or a .npy file,")
    if isinstance(held, np.ndarray):
        held = {"dictionary": held}
    elif "dictionary" not in held.files:
        raise BadInputError(
            f"{file} has no array 'dictionary' (it has: {', '.join(held.files) or 'none'}); (N, M) "
            "under that name is expected. Write it with numpy.savez(path, dictionary=atoms)."
        )
    array = held["dictionary"]
    _plain_numbers(file, "the atoms", array)
    dictionary = np.ascontiguousarray(array, dtype=np.float32)
    penalty = float(held["penalty"]) if "penalty" in held and held["penalty"].ndim == 0 else None
    signed = bool(held["signed"]) if "signed" in held and held["signed"].ndim == 0 else None
    digest = hashlib.sha256(dictionary.tobytes()).hexdigest()
    return Atoms(file, dictionary, penalty, signed, digest)
