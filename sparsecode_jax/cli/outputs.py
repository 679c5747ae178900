"""Output: parts of a run that can go on, and files that are never half written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax import _processes
from sparsecode_jax.cli.errors import BadInputError, InterruptedRunError, bad_input
from sparsecode_jax.io._archives import parsed
from sparsecode_jax.io._atomic import replacing, write_bytes
from sparsecode_jax.io._spread import delete
from sparsecode_jax.io.checkpoints import difference, identity_in
from sparsecode_jax.io.runs import Run

__all__ = [
    "DENSE",
    "Output",
    "Stream",
    "without_nan",
    "write_dense",
    "write_npz",
]

DENSE = "array (..., N) in .npy"  # what a manifest says of codes
_SUFFIXES = (".npz", ".json", ".npy", ".png")
_JOURNAL = "publish.json"


class Output:
    """Where a command writes: first beside the output, which the result then replaces at once.

    As a context it keeps every other command from the same output. The parts, in ``NAME.partial``,
    are of one run each: their names begin with its checksum, and each has its options in it. When
    all is ready, ``publish.json`` says so; whoever comes next finishes what a kill left after that.
    Over processes all make the same calls, but for those that read or write parts and files: these
    are the first one's, inside ``_processes.on_first``.

    Args:
      text: the output as given; a suffix that one is tempted to type is dropped.
      suffixes: of the files that a finished run may leave.
      inputs: files that are never replaced.
      name: of the command, for messages.
    """

    def __init__(self, text: str, suffixes: tuple[str, ...], inputs: tuple[str, ...], name: str):
        path = pathlib.Path(text)
        if not path.name or path.is_dir():
            raise BadInputError(f"--output {text} is a folder; a name in it is expected.")
        if path.name in _SUFFIXES:
            raise BadInputError(f"--output {text} is a suffix; a name is expected, without suffix.")
        self.path = path.with_suffix("") if path.suffix in _SUFFIXES else path
        self.folder = self.path.with_name(self.path.name + ".partial")
        self._text, self._suffixes, self._inputs = text, suffixes, tuple(map(pathlib.Path, inputs))
        self._run = Run(self.folder, {}, name=name)
        self._mark, self._dropped = "", list[pathlib.Path]()

    def __enter__(self) -> Output:
        try:
            with bad_input(self._run.name):
                self._run.__enter__()
        except OSError as error:
            raise BadInputError(
                f"--output {self._text} cannot be written ({error.strerror or error}: "
                f"{self.path.absolute().parent}); a name in a folder that can be written to is "
                "expected."
            ) from None
        try:
            _processes.on_first(self._run.name, self._look)
        except BaseException:
            self._run.__exit__(None, None, None)
            raise
        return self

    def _look(self) -> None:
        self._finish()
        self._stale = self._existing()

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        kept = self.kept("all parts")
        if _processes.is_first():
            if self._mark and not self._parts():
                for file in self.folder.glob(f"{self._mark}-*"):
                    delete(file)
            with contextlib.suppress(OSError):  # it is not there, or holds something
                self.folder.rmdir()
        self._run.__exit__(kind, error, None)
        if kind is KeyboardInterrupt:  # while the result was put together
            raise InterruptedRunError(kept) from None

    def begin(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Say what decides the result, and go on from parts of the same run; refuse to mix.

        Args:
          config: what decides every part, JSON values.
          overwrite: run beside what an earlier run left, and take its place in the end.
        """
        text = json.dumps(config, sort_keys=True, allow_nan=False)
        self._run.identity |= json.loads(text)
        self._mark = hashlib.sha256(text.encode()).hexdigest()[:10]
        _processes.on_first(self._run.name, lambda: self._begin(overwrite))

    def _begin(self, overwrite: bool) -> None:
        own, others = self._parts(), self._others()
        for file in own:
            if file != self.checkpoint():  # which has an identity of its own
                with bad_input(self._run.name):
                    self._run.check(file.stem)
        if self._stale and not overwrite and not (own and not self._has_manifest()):
            raise BadInputError(
                f"{', '.join(map(str, self._stale))} there already; a new name is expected. Choose "
                "another --output, or pass --overwrite to replace what is there."
            )
        if others and not own and not overwrite:
            raise BadInputError(
                f"{self.folder} holds {self._said(others)}; the options and files of that run are "
                "expected, which then goes on. Choose another --output, or pass --overwrite to "
                "replace it."
            )
        self._dropped = others if overwrite else []
        self._run.save({}, f"{self._mark}-run")

    def checkpoint(self) -> pathlib.Path:
        """Return where a function of the library keeps its state."""
        return self.folder / f"{self._mark}-state.npz"

    def part(self, index: int) -> str:
        """Return the name of a part."""
        return f"{self._mark}-{index:08d}"

    def done(self, index: int) -> bool:
        """Say whether a part is finished."""
        return self._run.has(self.part(index))

    def save(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Write a part, whole or not at all."""
        self._run.save(dict(arrays), self.part(index))

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Read a part."""
        return self._run.load(part=self.part(index))

    def column(self, num: int, name: str) -> Iterator[np.ndarray]:
        """Read one array of each part, one at a time."""
        for index in range(num):
            yield self.load(index)[name]

    def kept(self, what: str) -> str:
        """Say what is left of an interrupted run."""
        if not self._parts():
            return "no part was finished yet, so nothing is kept."
        return f"{what} are kept in {self.folder}; the same command goes on from there."

    def staged(self, suffix: str) -> pathlib.Path:
        """Return where a file of the result is written before it takes its place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{self._mark}-result{suffix}"

    def publish(self) -> list[pathlib.Path]:
        """Put the staged files in their places, the manifest last, and then drop the parts.

        What other runs left goes with them only if this one was told to overwrite it.
        """
        ready = [suffix for suffix in _SUFFIXES if self.staged(suffix).exists()]
        stale = [file.suffix for file in self._stale if file.suffix not in ready]
        names = {suffix: self.staged(suffix).name for suffix in ready}
        over = [*self.folder.glob(f"{self._mark}-*"), *self._dropped]
        parts = [file.name for file in over]
        journal = json.dumps({"ready": names, "drop": stale, "parts": parts})
        write_bytes(self.folder / _JOURNAL, journal.encode())
        self._finish()
        return [pathlib.Path(f"{self.path}{suffix}") for suffix in ready]

    def _finish(self) -> None:
        """Do what the journal says that is not done yet; every step may be done again."""
        journal = self.folder / _JOURNAL
        if not journal.exists():
            return
        said = _read_journal(journal)
        staged = {suffix: self.folder / name for suffix, name in said["ready"].items()}
        left = {suffix: file for suffix, file in staged.items() if file.exists()}
        if ".json" in left:  # files without a manifest are of a run cut short
            self._place(".json").unlink(missing_ok=True)
            for suffix in said["drop"]:
                self._place(suffix).unlink(missing_ok=True)
        for suffix in sorted(left, key=lambda suffix: suffix == ".json"):
            _move(left[suffix], self._place(suffix))
        for file in self.folder.glob("*"):
            if file.name in said["parts"]:
                delete(file)
        journal.unlink()
        with contextlib.suppress(OSError):  # another run has parts in it
            self.folder.rmdir()

    def _parts(self) -> list[pathlib.Path]:
        """Return the files of this run that it can go on from."""
        if not self._mark:
            return []
        found = sorted(self.folder.glob(f"{self._mark}-*.npz"))
        return [file for file in found if not file.stem.endswith(("-run", "-result"))]

    def _others(self) -> list[pathlib.Path]:
        """Return what other runs have left."""
        mine = set(self.folder.glob(f"{self._mark}-*")) if self._mark else set()
        return sorted(set(self.folder.glob("*")) - mine)

    def _place(self, suffix: str) -> pathlib.Path:
        return pathlib.Path(os.path.realpath(f"{self.path}{suffix}"))

    def _existing(self) -> list[pathlib.Path]:
        """Return the files that a finished run takes the place of."""
        places = [pathlib.Path(f"{self.path}{suffix}") for suffix in self._suffixes]
        found = [file for file in places if file.exists()]
        for file in found:
            if any(other.exists() and file.samefile(other) for other in self._inputs):
                raise BadInputError(
                    f"--output {self._text} would replace the input {file}; another name is "
                    "expected."
                )
            if file.is_dir():
                raise BadInputError(
                    f"--output {self._text} would replace the folder {file}; another name is "
                    "expected."
                )
        dense = pathlib.Path(f"{self.path}.npy")
        if dense not in found and dense.exists() and self._wrote_dense():
            mine = any(other.exists() and dense.samefile(other) for other in self._inputs)
            found += [] if mine else [dense]
        return found

    def _has_manifest(self) -> bool:
        return pathlib.Path(f"{self.path}.json") in self._stale

    def _wrote_dense(self) -> bool:
        """Say whether an earlier run wrote codes as an array, which is then its own to replace."""
        try:
            return parsed(pathlib.Path(f"{self.path}.json").read_bytes())["codes"] == DENSE
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _said(self, files: list[pathlib.Path]) -> str:
        """Say which run parts are of, by what differs."""
        marks = [file for file in files if file.stem.endswith("-run")]
        found = next(filter(None, map(identity_in, marks)), None)
        if found is None:
            return f"{files[0].name}, which is of no run that can go on"
        return f"parts of a different run ({', '.join(difference(found, self._run.identity))})"


def _read_journal(path: pathlib.Path) -> dict[str, Any]:
    """Read what ``publish`` wrote, or raise BadInputError if it cannot have written that."""
    try:
        said = parsed(path.read_bytes())
    except (OSError, ValueError):
        said = None
    if not _is_journal(said):
        raise BadInputError(
            f"{path} is damaged; names of files of one run in that folder are expected in it. "
            "Delete that file: the same command then goes on from what is beside it."
        )
    return said


def _is_journal(said: Any) -> bool:
    """Say whether a JSON value is of the form that ``publish`` writes."""
    if not isinstance(said, dict) or said.keys() != {"ready", "drop", "parts"}:
        return False
    ready, drop, parts = said["ready"], said["drop"], said["parts"]
    if [type(ready), type(drop), type(parts)] != [dict, list, list]:
        return False
    mark = str(ready.get(".json")).partition("-")[0]
    return (
        re.fullmatch("[0-9a-f]{10}", mark) is not None
        and all(suffix in _SUFFIXES for suffix in [*ready, *drop])
        and ready == {suffix: f"{mark}-result{suffix}" for suffix in ready}
        and all(isinstance(name, str) and _is_plain(name) for name in parts)
    )


def _is_plain(name: str) -> bool:
    """Say whether a name is of something in a folder, and not the journal."""
    return os.path.basename(name) == name and name not in ("", ".", "..", _JOURNAL)


def _move(source: pathlib.Path, place: pathlib.Path) -> None:
    """Let a file take the place of another in one stroke, also on another disk (by a link)."""
    if source.stat().st_dev == place.parent.stat().st_dev:
        os.replace(source, place)
        return
    with source.open("rb") as file, replacing(place, alone=True) as out:
        shutil.copyfileobj(file, out)
    source.unlink()


def without_nan(values: Any) -> Any:
    """Return JSON values in which null stands for numbers that are not finite."""
    if isinstance(values, Mapping):
        return {name: without_nan(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_nan(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


class Stream(NamedTuple):
    """An array that is written piece by piece: its shape, dtype and pieces, in order."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Stream]) -> None:
    """Write an .npz without holding it in memory; equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in arrays.items():
            if not isinstance(value, Stream):
                value = Stream(value.shape, value.dtype, [value])
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type, info._compresslevel = zipfile.ZIP_DEFLATED, 1  # type: ignore[attr-defined]
            descr = np.lib.format.dtype_to_descr(np.dtype(value.dtype))
            header = {"descr": descr, "fortran_order": False, "shape": value.shape}
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for piece in value.pieces:
                    file.write(np.ascontiguousarray(piece, dtype=value.dtype).tobytes())


def write_dense(path: pathlib.Path, shape: tuple[int, ...], rows: Iterable[np.ndarray]) -> None:
    """Write rows (B, N), batch by batch, as one .npy of the given shape (..., N)."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    flat, place = out.reshape(-1, shape[-1]), 0
    for batch in rows:
        flat[place : place + len(batch)] = batch
        place += len(batch)
    out.flush()
