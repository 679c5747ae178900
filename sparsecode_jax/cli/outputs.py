"""Output: parts of a run that can go on, and files that are never half written."""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax.cli.errors import BadInputError, InterruptedRunError
from sparsecode_jax.io._atomic import write_bytes

__all__ = [
    "DENSE",
    "Output",
    "Partial",
    "Stream",
    "output_path",
    "wait",
    "without_nan",
    "write_dense",
    "write_npz",
]

DENSE = "array (..., N) in .npy"  # what a manifest says of codes
_SUFFIXES = (".npz", ".json", ".npy", ".png")


class Output(NamedTuple):
    """Where a run writes.

    Attributes:
      path: without suffix.
      stale: files of an earlier run that the new one takes the place of, once it is finished.
    """

    path: pathlib.Path
    stale: tuple[pathlib.Path, ...]


def output_path(
    text: str, suffixes: tuple[str, ...], overwrite: bool, inputs: tuple[pathlib.Path, ...]
) -> Output:
    """Return where the files of a run go, or say why they cannot.

    Args:
      text: as given; a suffix that one is tempted to type is dropped.
      suffixes: of the files that a finished run leaves.
      overwrite: whether those of an earlier run are replaced.
      inputs: files that never are.
    """
    path = pathlib.Path(text)
    if not path.name or path.is_dir():
        raise BadInputError(f"--output {text} is a folder; a name in it is expected.")
    if path.name in _SUFFIXES:
        raise BadInputError(f"--output {text} is a suffix; a name is expected, without suffix.")
    path = path.with_suffix("") if path.suffix in _SUFFIXES else path
    found = [file for s in suffixes if (file := pathlib.Path(f"{path}{s}")).exists()]
    for file in found:
        if any(file.samefile(other) for other in inputs):
            raise BadInputError(
                f"--output {text} would replace the input {file}; another name is expected."
            )
        if file.is_dir():
            raise BadInputError(f"--output {text} would replace the folder {file}; another name is "
                                "expected.")  # fmt: skip
    # Without the manifest, which comes last, files beside parts are of a run cut short.
    manifest = pathlib.Path(f"{path}.json")
    going_on = _folder(path).exists() and manifest not in found
    if found and not overwrite and not going_on:
        raise BadInputError(
            f"{', '.join(map(str, found))} there already; a new name is expected. Choose another "
            "--output, or pass --overwrite to replace what is there."
        )
    _check_writable(text, path)
    dense = pathlib.Path(f"{path}.npy")
    if dense not in found and dense.exists() and _wrote_dense(manifest):
        found += [] if any(dense.samefile(other) for other in inputs) else [dense]
    return Output(path, tuple(found))


def _check_writable(text: str, path: pathlib.Path) -> None:
    """Raise unless a folder can be made beside the output; none is left there."""
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    try:
        os.rmdir(tempfile.mkdtemp(dir=above, prefix=".sparsecode-jax-"))
    except OSError as error:
        raise BadInputError(
            f"--output {text} cannot be written ({error.strerror}: {above}); a name in a folder "
            "that can be written to is expected."
        ) from None


def _wrote_dense(manifest: pathlib.Path) -> bool:
    """Say whether an earlier run wrote codes as an array, which is then its own to replace."""
    try:
        return json.loads(manifest.read_text())["codes"] == DENSE
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _folder(output: pathlib.Path) -> pathlib.Path:
    return output.with_name(output.name + ".partial")


def wait(arrays: Any, show: Callable[[], Any]) -> None:
    """Wait for a computation in short naps: Ctrl-C is heard at once, and time is shown to pass."""
    import jax

    shown = time.monotonic()
    for leaf in jax.tree.leaves(arrays):
        while not getattr(leaf, "is_ready", lambda: True)():
            time.sleep(0.005)
            if time.monotonic() > shown + 1:
                show()
                shown = time.monotonic()


class Partial:
    """A folder of finished parts beside the output, so that an interrupted run can go on.

    As a context it leaves no folder without parts behind. The files of the result are staged in it
    and take their places together: what an earlier run wrote stays until then.

    Args:
      output: of the run, without suffix.
      config: what decides every part, JSON values; parts of another config are not mixed in.
      overwrite: drop what is there.
    """

    def __init__(self, output: Output, config: Mapping, overwrite: bool):
        self.output, self.folder = output, _folder(output.path)
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
        before = self.folder / "config.json"
        held = json.loads(before.read_text()) if before.exists() and self._any() else None
        if held is not None and held != json.loads(text):
            if not overwrite:
                changed = [k for k in sorted({*held, *config}) if held.get(k) != config.get(k)]
                was = ", ".join(f"{k} was {held.get(k)}, is {config.get(k)}" for k in changed)
                raise BadInputError(
                    f"{self.folder} holds parts of a different run ({was}); the options and files "
                    "of that run are expected, which then goes on. Choose another --output, or "
                    "pass --overwrite to drop them."
                )
            shutil.rmtree(self.folder)
            held = None
        if held is None:
            write_bytes(before, text.encode())

    def path(self, index: int) -> pathlib.Path:
        """Return where a part is."""
        return self.folder / f"{index:08d}.npz"

    def done(self, index: int) -> bool:
        """Say whether a part is finished."""
        return self.path(index).exists()

    def save(self, index: int, arrays: Mapping[str, Any]) -> None:
        """Write a part, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(self.path(index), buffer.getvalue())

    def load(self, index: int, name: str) -> np.ndarray:
        """Read one array of one part."""
        with np.load(self.path(index), allow_pickle=False) as part:
            return part[name]

    def column(self, num: int, name: str) -> Iterator[np.ndarray]:
        """Read one array of each part, one at a time."""
        for index in range(num):
            yield self.load(index, name)

    def save_rounds(self, index: int, num: int, seconds: float, arrays: list[np.ndarray]) -> None:
        """Write what the first rounds of an unfinished part left, whole or not at all."""
        temporary = self.folder / "rounds.npz"  # may be large: not in memory once more
        named: dict[str, Any] = {f"array_{i}": array for i, array in enumerate(arrays)}
        np.savez(temporary, num=num, seconds=seconds, **named)
        os.replace(temporary, self._rounds(index))

    def rounds(self, index: int) -> int:
        """Return how many rounds of an unfinished part are kept."""
        return int(self._of_rounds(index, "num"))

    def seconds(self, index: int) -> float:
        """Return the seconds that those rounds took."""
        return float(self._of_rounds(index, "seconds"))

    def _of_rounds(self, index: int, name: str) -> Any:
        if self.done(index) or not self._rounds(index).exists():
            return 0
        with np.load(self._rounds(index), allow_pickle=False) as kept:
            return kept[name]

    def load_rounds(self, index: int, num_arrays: int) -> list[np.ndarray]:
        """Read what those rounds left."""
        with np.load(self._rounds(index), allow_pickle=False) as kept:
            return [kept[f"array_{i}"] for i in range(num_arrays)]

    def drop_rounds(self, index: int) -> None:
        """Drop them: the part is finished."""
        self._rounds(index).unlink(missing_ok=True)

    def _rounds(self, index: int) -> pathlib.Path:
        return self.folder / f"{index:08d}.rounds.npz"

    def kept(self, what: str) -> str:
        """Say what is left of an interrupted run."""
        if not self._any():
            return "no part was finished yet, so nothing is kept."
        return f"{what} are kept in {self.folder}; the same command goes on from there."

    def staged(self, suffix: str) -> pathlib.Path:
        """Return where a file of the result is written before it takes its place."""
        return self.folder / f"result{suffix}"

    def publish(self) -> list[pathlib.Path]:
        """Put the staged files in their places, the manifest last, and drop everything else."""
        ready = [suffix for suffix in _SUFFIXES if self.staged(suffix).exists()]
        places = {suffix: pathlib.Path(f"{self.output.path}{suffix}") for suffix in ready}
        dropped = [file for file in self.output.stale if file not in places.values()]
        for file in (*dropped, places[".json"]):  # files without a manifest are of a run cut short
            file.unlink(missing_ok=True)
        for suffix in sorted(ready, key=lambda suffix: suffix == ".json"):
            os.replace(self.staged(suffix), places[suffix])
        self.remove()
        return list(places.values())

    def remove(self) -> None:
        """Drop the parts: the run is finished."""
        shutil.rmtree(self.folder)

    def _any(self) -> bool:
        return any(self.folder.glob("[0-9]*.npz"))

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        kept = self.kept("all parts")
        if not self._any():
            shutil.rmtree(self.folder, ignore_errors=True)
        if kind is KeyboardInterrupt:  # while the result was put together
            raise InterruptedRunError(kept) from None


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
