"""Codes of a file, batch by batch: the parts that are kept, and the sparse matrix they become."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from sparsecode_jax._processes import is_first, on_all, on_first
from sparsecode_jax.cli.errors import InterruptedRunError
from sparsecode_jax.cli.outputs import Output, Stream

__all__ = ["Joined", "bar_of", "dense_part", "encode_batches", "filled", "sparse_part"]


def bar_of(total: int, done: int, what: str, quiet: bool) -> tqdm:
    """Return a progress bar of signals."""
    return tqdm(total=total, initial=done, desc=what, unit=" signals", unit_scale=True,
        disable=quiet, file=sys.stderr)  # fmt: skip


def filled(batch: np.ndarray, size: int) -> np.ndarray:
    """Return a batch of one size for all, so that there is one program: the last is filled up."""
    short = size - len(batch)
    return np.pad(batch, [(0, short), *[(0, 0)] * (batch.ndim - 1)], mode="edge")


def encode_batches(
    name: str,
    encode: Callable[[int, tqdm], None],
    is_done: Callable[[int], bool],
    output: Output,
    num_signals: int,
    size: int,
    quiet: bool,
) -> int:
    """Encode and keep the batches that are not there yet: of several processes each its own.

    Args:
      name: of the command.
      encode: keeps the batch of an index.
      is_done: says whether the batch of an index is kept.
      output: where they are kept.
      num_signals: S.
      size: of a batch.
      quiet: whether no progress is shown.

    Returns:
      The number of batches.
    """
    num = -(-num_signals // size)

    def look() -> list[bool]:
        return [is_done(index) for index in range(num)]

    def signals(indices: list[int]) -> int:
        return sum(min(size, num_signals - index * size) for index in indices)

    def all_of(own: list[int]) -> None:
        for index in own:
            encode(index, bar)

    while not all(done := on_first(name, look)):  # or somebody removed the folder meanwhile
        if any(done) and is_first():
            print(f"going on: {sum(done)} of {num} batches are in {output.folder}")
        left, together = [i for i, there in enumerate(done) if not there], jax.process_count()
        try:
            there = signals([i for i, kept in enumerate(done) if kept])
            with bar_of(num_signals, there, "encoding", quiet) as bar:
                for first in range(0, len(left), together):
                    at_once = left[first : first + together]
                    own = at_once[jax.process_index() :][:1]
                    on_all(name, functools.partial(all_of, own))
                    for index in at_once:
                        done[index] = True
                    bar.update(signals(at_once))
        except KeyboardInterrupt:
            raise InterruptedRunError(output.kept(f"{sum(done)} of {num} batches")) from None
    return num


def sparse_part(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that keep the codes of a batch, (B, N)."""
    rows, columns = np.nonzero(codes)
    return {
        "data": codes[rows, columns],
        "indices": columns.astype(np.int32),
        "counts": np.bincount(rows, minlength=len(codes)),
    }


def dense_part(num_atoms: int, part: dict[str, np.ndarray]) -> np.ndarray:
    """Return the codes of a batch, (B, N), that a part keeps."""
    counts = part["counts"]
    out = np.zeros((len(counts), num_atoms), np.float32)
    out[np.repeat(np.arange(len(counts)), counts), part["indices"]] = part["data"]
    return out


class Joined(NamedTuple):
    """What all parts say together, one of them at a time in memory.

    Attributes:
      num: of parts.
      used: how often each latent is active, (N,).
      magnitude: the sum of each latent's magnitudes, (N,).
      active: how many signals have 0, 1, ... N active latents.
      counts: active latents of each signal, (S,).
      sizes: signals of each part.
      rest: what else each part keeps.
    """

    num: int
    used: np.ndarray
    magnitude: np.ndarray
    active: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    rest: list[dict[str, np.ndarray]]

    @classmethod
    def of(cls, output: Output, num: int, num_atoms: int) -> Joined:
        """Read parts."""
        used, magnitude = np.zeros(num_atoms), np.zeros(num_atoms)
        active, lengths, rest = np.zeros(num_atoms + 1, np.int64), [], []
        for part in map(output.load, range(num)):
            data, indices, counts = (part.pop(name) for name in ("data", "indices", "counts"))
            rest.append(part)
            used += np.bincount(indices, minlength=num_atoms)
            magnitude += np.bincount(indices, np.abs(data), minlength=num_atoms)
            active += np.bincount(counts, minlength=num_atoms + 1)
            lengths.append(counts)
        sizes = np.asarray([len(counts) for counts in lengths])
        return cls(num, used, magnitude, active, np.concatenate(lengths), sizes, rest)

    def usage(self) -> dict[str, np.ndarray]:
        """Return how latents are used."""
        return {
            "atom_usage": self.used / len(self.counts),
            "atom_mean": self.magnitude / np.maximum(self.used, 1),
            "active_atoms": self.active,
        }

    def matrix(self, output: Output) -> dict[str, Any]:
        """Return the codes by the names and types of ``scipy.sparse.save_npz``."""
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        entries = (int(indptr[-1]),)
        return {
            "indices": Stream(entries, np.int32, output.column(self.num, "indices")),
            "indptr": indptr,
            "format": np.asarray(b"csr"),
            "shape": np.asarray([len(self.counts), len(self.used)]),
            "data": Stream(entries, np.float32, output.column(self.num, "data")),
        }
