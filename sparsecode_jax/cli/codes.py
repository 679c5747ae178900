"""Codes of a file, batch by batch: the parts that are kept, and the sparse matrix they become."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax.cli.outputs import Output, Stream

__all__ = ["Joined", "dense_part", "sparse_part"]


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
