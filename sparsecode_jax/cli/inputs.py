"""Input: signals through a memory map, dictionaries, and what one pass over signals says."""

from __future__ import annotations

import hashlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._processes import on_first
from sparsecode_jax._scaling import LARGEST, SMALLEST
from sparsecode_jax.cli.errors import BadInputError, bad_input, one_line
from sparsecode_jax.io._archives import check_archive, check_array

__all__ = [
    "Atoms",
    "Signals",
    "Statistics",
    "check_penalty",
    "check_scale",
    "open_dictionary",
    "open_signals",
    "over_devices",
]

_LOWEST, _HIGHEST = 1e-16, 1e16  # of the penalty, times the largest entry
_SHORTEST, _LONGEST = 1e-15, 1e15  # of atoms


def _load(path: pathlib.Path, what: str, **options: Any) -> Any:
    if not path.exists():
        raise BadInputError(f"{path}: no such file; {what} is expected.")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        else:
            check_array(path)
        return np.load(path, allow_pickle=False, **options)
    except Exception as error:  # a damaged file can fail in any way
        raise _unreadable(path, what, error) from None


def _unreadable(path: pathlib.Path, what: str, error: Exception) -> BadInputError:
    return BadInputError(
        f"{path} is not readable ({one_line(error)}); {what} of plain numbers is expected. Write "
        "it with numpy.save or numpy.savez; convert arrays of Python objects with astype first."
    )


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


def over_devices(signals: Signals, places: np.ndarray) -> Any:
    """Return some rows, (S, M), each on as many devices of all processes as divide their number.

    A process reads the rows that its devices have. Of one device this is the array itself.
    """
    num, devices = len(places), jax.device_count()
    parts = math.gcd(num, devices)
    if parts == 1:
        return signals.batch(places)
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((parts, devices // parts), ("signals", "copies"), axis_types=kinds)
    rows = jax.NamedSharding(mesh, jax.P("signals"))
    shape = (num, signals.rows.shape[1])

    def read(at: Any) -> np.ndarray:
        return signals.batch(places[at[0]])

    return jax.make_array_from_callback(shape, rows, read)


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

    @classmethod
    def by_first(cls, name: str, look: Callable[[], Statistics]) -> Statistics:
        """Let the first process read all of the file, and tell the others what it says."""
        return cls(*on_first(name, look, patience=math.inf))


def check_scale(path: pathlib.Path, statistics: Statistics) -> None:
    """Raise unless float32 holds sums of squares of signals."""
    largest = statistics.largest
    if largest == 0:
        raise BadInputError(
            f"{path} holds nothing but zeros; signals with some measurement that is not 0 are "
            "expected. Check what wrote it."
        )
    if not SMALLEST < largest < LARGEST:
        raise BadInputError(
            f"the largest entry of {path} is {largest:g}, too far from 1 for sums of squares in "
            f"float32; {SMALLEST:.0e} to {LARGEST:.0e} is expected. Divide the signals, and "
            "a --penalty that is given, by one number."
        )


def check_penalty(penalty: float, statistics: Statistics) -> None:
    """Raise unless float32 holds the penalty beside the signals."""
    ratio = penalty / statistics.largest
    if not _LOWEST <= ratio <= _HIGHEST:
        raise BadInputError(
            f"the penalty is {penalty:g}, which is {ratio:.0e} times the largest entry of the "
            f"signals; {_LOWEST:g} to {_HIGHEST:g} times is expected, which float32 can hold "
            "beside it. Choose another --penalty."
        )


class Atoms(NamedTuple):
    """A dictionary file: atoms (N, M), and how they were learned, where the file says so.

    Attributes:
      path: of the file.
      dictionary: atoms in float32.
      penalty: as the file has it, unchecked; None if it has none.
      signed: whether codes have either sign.
      sha256: of the atoms.
      norms: the smallest and the largest of an atom.
    """

    path: pathlib.Path
    dictionary: np.ndarray
    penalty: np.ndarray | None
    signed: bool | None
    sha256: str
    norms: tuple[float, float]

    def penalty_of_learning(self) -> float | None:
        """Return the penalty that the file names, None if it names none."""
        if self.penalty is None:
            return None
        number = self.penalty.size == 1 and self.penalty.dtype.kind in "iuf"
        if not (number and np.isfinite(self.penalty).all() and (self.penalty > 0).all()):
            raise BadInputError(
                f"{self.path} holds the penalty {one_line(str(self.penalty))}; one finite number "
                "> 0 is expected. Pass --penalty, which comes before it."
            )
        return float(self.penalty.item())


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
    array = _member(held, "dictionary", file)
    _plain_numbers(file, "the atoms", array)
    norms = _norms(file, array)
    with np.errstate(over="ignore"):
        dictionary = np.ascontiguousarray(array, dtype=np.float32)
    with bad_input("encode"):
        _checks.finite("encode", dictionary=dictionary)
        _checks.dictionary_matrix("encode", dictionary)
    penalty = _member(held, "penalty", file) if "penalty" in held else None
    signed = _member(held, "signed", file) if "signed" in held else None
    if signed is not None and not (signed.size == 1 and signed.dtype.kind in "biu"):
        raise BadInputError(
            f"{file} holds signed = {one_line(str(signed))}; True or False is expected. Leave it "
            "out of the file, and pass --signed or --no-signed."
        )
    digest = hashlib.sha256(dictionary.tobytes()).hexdigest()
    sign = None if signed is None else bool(signed.item())
    return Atoms(file, dictionary, penalty, sign, digest, (norms.min(), norms.max()))


def _member(held: Any, name: str, path: pathlib.Path) -> np.ndarray:
    try:
        return np.asarray(held[name])
    except Exception as error:  # a damaged file can fail in any way
        raise _unreadable(path, f"an array {name!r}", error) from None


def _norms(path: pathlib.Path, atoms: np.ndarray) -> np.ndarray:
    """Return the norms of atoms, or raise if float32 cannot square them."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(np.atleast_1d(atoms).astype(np.float64), axis=-1).ravel()
    held = (norms > _SHORTEST) & (norms < _LONGEST)
    bad = np.flatnonzero(
        ~held & np.isfinite(norms) & (norms != 0)
    )  # those have checks of their own
    if bad.size:
        raise BadInputError(
            f"{bad.size} atoms of {path} have norms below {_SHORTEST:g} or above {_LONGEST:g} (the "
            f"first is row {bad[0]}, of norm {norms[bad[0]]:.3g}), too far from 1 for sums of "
            "squares in float32; norms near 1 are expected. Divide each atom by its norm."
        )
    return norms
