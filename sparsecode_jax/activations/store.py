"""Activations on disk: shards that are memory-mapped, with the token that each row is of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax.io._archives import check_archive, parsed
from sparsecode_jax.io._atomic import replacing, write_bytes
from sparsecode_jax.io.runs import Run

__all__ = [
    "Block",
    "Selection",
    "Store",
    "load",
    "select",
    "split_documents",
    "verify",
    "write",
]

FORMAT = 1
MANIFEST = "manifest.json"
LABELS = "tokens", "positions", "documents"
_SHARD = 65_536  # tokens
_DTYPES = "float16", "float32"
_BUFFER = 65_536  # rows that a shuffled reader has in memory


class Block(NamedTuple):
    """Activations of some tokens, as they are written.

    Attributes:
      signals: (T, M).
      tokens: ids in the model's vocabulary, (T,).
      positions: in the sequence that the model saw, from 0, (T,).
      documents: numbers of the texts that the tokens are of, (T,).
    """

    signals: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    documents: np.ndarray


@dataclasses.dataclass(frozen=True)
class Store:
    """Activations on disk, one row per token. Labels are in memory, signals are memory maps.

    Attributes:
      folder: where it is.
      manifest: what was captured: model, layer, texts, dtype, checksums.
      shards: (T_i, M) each, in order, of the dtype on disk.
      tokens: ids in the model's vocabulary, (S,).
      positions: in the sequence that the model saw, (S,).
      documents: numbers of the texts, (S,).
      norms: of the signals, float32, (S,).
    """

    folder: pathlib.Path
    manifest: dict[str, Any]
    shards: tuple[np.ndarray, ...]
    tokens: np.ndarray
    positions: np.ndarray
    documents: np.ndarray
    norms: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(S, M)."""
        return len(self.tokens), self.manifest["num_measurements"]

    def rows(self, indices: Any) -> np.ndarray:
        """Read rows in the order of ``indices``, a slice or integers, as float32 (n, M).

        Raises:
          IndexError: there is no such row.
        """
        if isinstance(indices, slice):
            indices = np.arange(len(self.tokens))[indices]
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
            raise TypeError(
                f"rows: the indices are {indices.dtype} of shape {indices.shape}; integers (n,) or "
                "a slice are expected. Turn a mask into indices by numpy.flatnonzero(mask)."
            )
        indices = indices.astype(np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self.tokens):
            raise IndexError(
                f"rows: indices from {indices.min()} to {indices.max()}; 0 to "
                f"{len(self.tokens) - 1} are expected, the tokens of {self.folder}."
            )
        found = np.empty((len(indices), self.shape[1]), np.float32)
        starts = np.cumsum([0, *map(len, self.shards)])
        order = np.argsort(indices, kind="stable")  # files are read forwards
        bounds = np.searchsorted(indices[order], starts)
        for shard, start, low, high in zip(
            self.shards, starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            places = order[low:high]
            found[places] = shard[indices[places] - start]
        return found

    def batches(
        self,
        indices: np.ndarray,
        *,
        batch_size: int,
        seed: int | None = 0,
        num_epochs: int | None = 1,
    ) -> Iterator[np.ndarray]:
        """Read rows in batches, shuffled anew in each epoch.

        The order is a permutation of all rows; some 65,536 are in memory at a time.

        Args:
          indices: of rows, (n,), such as ``select(store).rows``.
          batch_size: the last batch of an epoch that would have fewer is left out.
          seed: of the order, which is that of ``indices`` for None.
          num_epochs: passes over the rows; None never ends.

        Returns:
          An iterator of float32 arrays (batch_size, M), for ``fit`` and
          ``learn_dictionary_online``.
        """
        indices = np.asarray(indices)
        if not len(indices):
            raise ValueError("batches: no rows; at least batch_size of them are expected.")
        _checks.count("batches", "batch_size", batch_size, maximum=len(indices))
        return self._batches(indices, batch_size, seed, num_epochs)

    def _batches(
        self, indices: np.ndarray, size: int, seed: int | None, num_epochs: int | None
    ) -> Iterator[np.ndarray]:
        epoch, whole = 0, len(indices) // size * size
        buffer = max(1, _BUFFER // size) * size
        while num_epochs is None or epoch < num_epochs:
            order = indices
            if seed is not None:
                order = np.random.default_rng((seed, epoch)).permutation(indices)
            for start in range(0, whole, buffer):
                rows = self.rows(order[start : min(start + buffer, whole)])
                for first in range(0, len(rows), size):
                    yield rows[first : first + size]
            epoch += 1


def write(
    folder: Any,
    blocks: Callable[[int], Iterable[Block]],
    *,
    identity: Mapping[str, Any],
    dtype: str = "float16",
    shard_size: int = _SHARD,
    max_tokens: int | None = None,
    progress: str | None = "activations",
) -> Store:
    """Write activations to disk; killed and called again, go on without a token lost or repeated.

    Args:
      folder: of the store. If it holds a finished one of the same identity that one is returned.
      blocks: ``(skip) -> iterable`` of :class:`Block`, without the first ``skip`` of them, the same
        at each call.
      identity: what decides the activations, as JSON values: kept in the manifest.
      dtype: on disk, "float16" or "float32".
      shard_size: tokens after which a file is closed, at the end of a block.
      max_tokens: to stop at, exactly; None takes all blocks.
      progress: label of the progress bar, None for no bar.

    Returns:
      The :class:`Store`.

    Raises:
      ValueError: a store of another identity is there; blocks that disagree in width, or with their
        labels; no token at all.
      FloatingPointError: activations that are not finite, or too large for float16.
      BusyError: another process writes there.
      OSError: the disk is full; what was written is kept.
    """
    name = "write"
    folder = pathlib.Path(folder)
    if dtype not in _DTYPES:
        raise ValueError(f"{name}: dtype is {dtype!r}; one of {', '.join(_DTYPES)} is expected.")
    _checks.count(name, "shard_size", shard_size)
    if max_tokens is not None:
        _checks.count(name, "max_tokens", max_tokens)
    whole = json.loads(json.dumps({
        **identity, "format": FORMAT, "dtype": dtype, "max_tokens": max_tokens,
    }))  # fmt: skip
    with Run(folder / "progress.npz", whole, name=name) as run:
        if (folder / MANIFEST).exists():
            there = load(folder)
            held = there.manifest["identity"]
            other = [k for k in {**whole, **held} if k not in held or whole.get(k) != held[k]]
            if other:
                raise ValueError(
                    f"{name}: {folder} holds activations of another kind ({', '.join(other)}); the "
                    "same arguments or an empty folder is expected. Pass another folder."
                )
            return there
        kept = run.load() if run.has() else {"sizes": np.zeros(0, np.int64), "blocks": np.int64(0)}
        sizes, done = np.asarray(kept["sizes"]).tolist(), int(kept["blocks"])
        bar = tqdm(total=max_tokens, initial=sum(sizes), desc=progress, unit=" tokens",
                   unit_scale=True, disable=progress is None)  # fmt: skip
        with bar:
            try:
                _shards(run, folder, blocks, sizes, done, dtype, shard_size, max_tokens, bar)
            except OSError as error:
                error.add_note(
                    f"{name}: {folder} keeps {sum(sizes):,} tokens; the same call goes on from "
                    "there."
                )
                raise
        if not sizes:
            raise ValueError(f"{name}: the blocks hold no token; at least one is expected.")
        width = int(np.load(_shard(folder, 0), mmap_mode="r").shape[1])
        files = [
            path for i in range(len(sizes)) for path in (_shard(folder, i), _labels(folder, i))
        ]
        manifest = {
            "identity": whole, "num_tokens": sum(sizes), "num_measurements": width,
            "sizes": sizes, "sha256": {path.name: _sha256(path) for path in files},
        }  # fmt: skip
        write_bytes(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        run.remove()
    return load(folder)


def _shards(
    run: Run, folder: pathlib.Path, blocks: Callable[[int], Iterable[Block]], sizes: list[int],
    done: int, dtype: str, shard_size: int, max_tokens: int | None, bar: tqdm,
) -> None:  # fmt: skip
    """Write the shards that are missing; ``sizes`` grows with each."""
    waiting: list[Block] = []
    width = int(np.load(_shard(folder, 0), mmap_mode="r").shape[1]) if sizes else None
    left = None if max_tokens is None else max_tokens - sum(sizes)

    def close() -> None:
        joined = Block(*(np.concatenate(part) for part in zip(*waiting, strict=True)))
        _save(folder, len(sizes), joined, dtype)
        sizes.append(len(joined.tokens))
        run.save({"sizes": np.asarray(sizes, np.int64), "blocks": np.int64(done)})
        waiting.clear()

    if left == 0:
        return
    for block in blocks(done):
        checked = _checked(block, width)
        width, done = checked.signals.shape[1], done + 1
        if left is not None:
            checked = Block(*(part[:left] for part in checked))
            left -= len(checked.tokens)
        bar.update(len(checked.tokens))
        waiting.append(checked)
        if sum(len(part.tokens) for part in waiting) >= shard_size or left == 0:
            close()
        if left == 0:
            return
    if any(len(part.tokens) for part in waiting):
        close()


def _checked(block: Block, width: int | None) -> Block:
    signals = np.asarray(block.signals)
    labels = [np.asarray(getattr(block, name)) for name in LABELS]
    if signals.ndim != 2 or any(label.shape != signals.shape[:1] for label in labels):
        raise ValueError(
            f"write: a block has signals of shape {signals.shape} and labels of shapes "
            f"{[label.shape for label in labels]}; (T, M) and (T,) are expected."
        )
    for name, label in zip(LABELS, labels, strict=True):
        whole = np.issubdtype(label.dtype, np.integer)
        if label.size and not (whole and 0 <= label.min() <= label.max() < 2**31):
            raise ValueError(
                f"write: the {name} of a block are {label.dtype} from {label.min()} to "
                f"{label.max()}; integers from 0 to 2**31 - 1 are expected. Number them anew."
            )
    if width is not None and signals.shape[1] != width:
        raise ValueError(
            f"write: a block has {signals.shape[1]} measurements and one before it {width}; one "
            "width is expected. Capture one place of one model."
        )
    return Block(signals, *labels)


def _save(folder: pathlib.Path, number: int, block: Block, dtype: str) -> None:
    wide = np.asarray(block.signals, np.float32)
    bad = np.asarray(~np.isfinite(wide).all(axis=1))
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype)
    wrong = bad | ~np.isfinite(narrow).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        where = f"position {block.positions[row]} of document {block.documents[row]}"
        if bad[row]:
            raise FloatingPointError(
                f"write: {int(bad.sum())} activations are not finite, the first at {where}; finite "
                "numbers are expected. Check the model and its dtype."
            )
        raise FloatingPointError(
            f"write: the activation at {where} has entries up to {np.abs(wide[row]).max():.3g}, "
            "more than float16 holds; pass dtype='float32', and another folder."
        )
    with replacing(_shard(folder, number), alone=True) as file:
        np.save(file, narrow)
    with replacing(_labels(folder, number), alone=True) as file:
        arrays = {name: np.asarray(getattr(block, name), np.int32) for name in LABELS}
        np.savez(file, norms=np.linalg.norm(wide, axis=1).astype(np.float32), **arrays)  # type: ignore[arg-type]


def _shard(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"shard-{number:05d}.npy"


def _labels(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"shard-{number:05d}-labels.npz"


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(folder: Any) -> Store:
    """Open a store that :func:`write` or :func:`capture` finished.

    Shapes and dtypes are checked; :func:`verify` reads all and compares checksums.

    Raises:
      FileNotFoundError: there is none, or it is not finished.
      ValueError: files are damaged.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).exists():
        begun = (folder / "progress.npz").exists()
        raise FileNotFoundError(
            f"load: {folder} has no {MANIFEST}; a store is expected"
            + (". It is not finished: capture it with the same arguments." if begun else ".")
        )
    try:
        manifest = parsed((folder / MANIFEST).read_bytes())
        sizes, width = list(manifest["sizes"]), manifest["num_measurements"]
        dtype = manifest["identity"]["dtype"]
        counts, sums = (*sizes, width), list(manifest["sha256"].values())
        if not sizes or not all(type(n) is int and n > 0 for n in counts):
            raise ValueError(f"sizes {sizes} of {width} measurements")
        if not all(isinstance(text, str) for text in (dtype, *sums)):
            raise ValueError("dtype and checksums that are no texts")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"load: {folder / MANIFEST} is no manifest of a store ({error!r}); write it anew."
        ) from None
    shards, labels = [], []
    for number, size in enumerate(sizes):
        path = _shard(folder, number)
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
            path = _labels(folder, number)
            check_archive(path)
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in (*LABELS, "norms")}
        except Exception as error:  # a damaged file can fail in any way
            raise ValueError(
                f"load: {path} cannot be read ({' '.join(str(error).split())[:200]}); copy or "
                "capture the store again."
            ) from None
        if shard.shape != (size, width) or shard.dtype != dtype:
            raise ValueError(
                f"load: {_shard(folder, number)} has shape {shard.shape} and dtype {shard.dtype}; "
                f"({size}, {width}) and {dtype} are expected by the manifest. Copy or capture the "
                "store again."
            )
        odd = {name: value.shape for name, value in found.items() if value.shape != (size,)}
        if odd:
            raise ValueError(
                f"load: {path} holds labels of shapes {odd}; ({size},), one for each token, is "
                "expected by the manifest. Copy or capture the store again."
            )
        shards.append(shard)
        labels.append(found)
    joined = {name: np.concatenate([part[name] for part in labels]) for name in labels[0]}
    return Store(folder, manifest, tuple(shards), **joined)


def verify(store: Store) -> None:
    """Read every file of a store and compare it with the checksum of the manifest.

    Raises:
      ValueError: a file is not what was written.
    """
    for file, expected in store.manifest["sha256"].items():
        if _sha256(store.folder / file) != expected:
            raise ValueError(
                f"verify: {store.folder / file} is not what was written: its checksum differs. "
                "Copy or capture the store again."
            )


class Selection(NamedTuple):
    """Which tokens to use, and how many of which kind are left out.

    Attributes:
      rows: indices into the store, ascending, (n,).
      median_norm: of the tokens at the positions that are used.
      num_early: tokens left out for their position.
      num_outliers: tokens left out for their norm.
    """

    rows: np.ndarray
    median_norm: float
    num_early: int
    num_outliers: int


def select(
    store: Store,
    *,
    documents: Sequence[int] | np.ndarray | None = None,
    min_position: int = 1,
    max_norm_ratio: float | None = 3.0,
) -> Selection:
    """Leave out the tokens on which a model parks attention: enormous, few, and all the variance.

    In the residual stream of many models the first position, and some delimiters, have norms a
    hundred times the median: R² would be that of a dozen tokens.

    Args:
      store: of activations.
      documents: numbers of those to use; None uses all. The median is of them, too.
      min_position: the first position that is used.
      max_norm_ratio: of a norm to the median norm, of what is used; None uses all.

    Raises:
      ValueError: nothing is left.
    """
    name = "select"
    _checks.count(name, "min_position", min_position, minimum=0)
    if (
        max_norm_ratio is not None
        and not _checks.static(name, "max_norm_ratio", max_norm_ratio) > 0
    ):
        raise ValueError(f"{name}: max_norm_ratio is {max_norm_ratio}; a number > 0 is expected.")
    ours = np.ones(len(store.tokens), bool)
    if documents is not None:
        ours = np.isin(store.documents, np.asarray(documents))
    late = ours & (store.positions >= min_position)
    if not late.any():
        raise ValueError(
            f"{name}: of {len(store.tokens):,} tokens none is of the documents that were asked for "
            f"and at position {min_position} or later; at least one is expected."
        )
    median = float(np.median(store.norms[late]))
    usual = late if max_norm_ratio is None else late & (store.norms <= max_norm_ratio * median)
    if not usual.any():
        raise ValueError(
            f"{name}: no token has a norm within {max_norm_ratio:g} of the median, {median:g}; a "
            "ratio of at least 1 is expected."
        )
    return Selection(
        np.flatnonzero(usual), median, int(ours.sum() - late.sum()), int(late.sum() - usual.sum())
    )


def split_documents(
    store: Store, fraction: float = 0.1, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split the documents at random: tokens of one document are never on both sides.

    Args:
      store: of activations.
      fraction: of the documents, to be held out.
      seed: of the draw.

    Returns:
      Numbers of the documents to train on, and of those that are held out, ascending.

    Raises:
      ValueError: fewer than 2 documents, or a fraction that is not inside of (0, 1).
    """
    name = "split_documents"
    _checks.fraction(name, "fraction", fraction, inside=True)
    there = np.unique(store.documents)
    if len(there) < 2:
        raise ValueError(
            f"{name}: the store has {len(there)} document; at least 2 are expected. Cut the text."
        )
    count = min(len(there) - 1, max(1, round(fraction * len(there))))
    order = np.random.default_rng(seed).permutation(there)
    return np.sort(order[count:]), np.sort(order[:count])
