"""Output: parts of a run that can go on, and files that are never half written."""

from __future__ import annotations

import io
import json
import os
import pathlib
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax.cli.errors import BadInputError
from sparsecode_jax.io._atomic import write_bytes

__all__ = ["Partial", "Stream", "output_path", "wait", "write_dense", "write_npz"]


def output_path(
    text: str, suffixes: tuple[str, ...], overwrite: bool, inputs: tuple[pathlib.Path, ...]
) -> pathlib.Path:
    """Return an output without suffix, or say why its files cannot be written.

    Args:
      text: as given; a suffix that one is tempted to type is dropped.
      suffixes: of the files that a finished run leaves.
      overwrite: whether those of an earlier run are replaced.
      inputs: files that never are.
    """
    path = pathlib.Path(text)
    if not path.name or path.is_dir():
        raise BadInputError(f"--output {text} is a folder; a name in it is expected.")
    path = path.with_suffix("") if path.suffix in {".npz", ".npy", ".json"} else path
    found = [file for s in suffixes if (file := pathlib.Path(f"{path}{s}")).exists()]
    for file in found:
        if any(file.samefile(other) for other in inputs):
            raise BadInputError(
                f"--output {text} would replace the input {file}; another name is expected."
            )
    # Without the manifest, which comes last, files beside parts are of a run cut short.
    going_on = _folder(path).exists() and pathlib.Path(f"{path}.json") not in found
    if found and not overwrite and not going_on:
        raise BadInputError(
            f"{', '.join(map(str, found))} there already; a new name is expected. Choose another "
            "--output, or pass --overwrite to replace what is there."
        )
    return path


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

    Args:
      output: of the run, without suffix.
      config: what decides every part, JSON values; parts of another config are not mixed in.
      overwrite: drop what is there.
    """

    def __init__(self, output: pathlib.Path, config: Mapping, overwrite: bool):
        self.folder = _folder(output)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        before = self.folder / "config.json"
        held = json.loads(before.read_text()) if before.exists() else None
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

    def remove(self) -> None:
        """Drop the parts: the run is finished."""
        shutil.rmtree(self.folder)


class Stream(NamedTuple):
    """An array that is written piece by piece: its shape, dtype and pieces, in order."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Stream]) -> None:
    """Write an .npz without holding it in memory; equal arrays give equal bytes."""
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
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
    with _replacing(path) as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        flat, place = out.reshape(-1, shape[-1]), 0
        for batch in rows:
            flat[place : place + len(batch)] = batch
            place += len(batch)
        out.flush()


class _replacing:  # noqa: N801
    """Give a temporary path beside a file; put it in the file's place if all goes well."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __enter__(self) -> pathlib.Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name + ".")
        os.close(handle)
        self.temporary = pathlib.Path(name)
        return self.temporary

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        os.chmod(self.temporary, 0o644)
        os.replace(self.temporary, self.path)
