"""Runs that can be interrupted: one writer, an identity in every part, parts that are whole."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sparsecode_jax import _processes
from sparsecode_jax._sharding import agreed
from sparsecode_jax.io import _spread, checkpoints
from sparsecode_jax.types import PyTree

__all__ = ["BusyError", "Pace", "Run", "of_any_number", "wait"]

SAVE_SECONDS = 5.0  # between two times that an unfinished part is written
_SAVE_SHARE = 20  # as many times the seconds that writing it takes
_SEEN_SECONDS = 10.0  # until a file is seen by all processes that share its folder


class BusyError(ValueError):
    """Another process works on the run."""


class Run:
    """A run on disk, which goes on where it was interrupted, and of which there is one at a time.

    It is used as a context, which holds a lock (``path.lock``) that the operating system releases
    when the process ends, however it ends. What is kept is written whole or not at all, with the
    identity of the run, and is taken up again only by a run of the same identity. Where a
    run spans processes, all of them make the same calls. The first one holds the lock and writes;
    each writes the parts of arrays that it alone has. If one of them raises here, all do.

    Args:
      path: a file, for a run that keeps one state; a folder, for one that keeps parts by name. None
        keeps nothing.
      identity: what decides the result, by name: numbers, texts and checksums.
      name: of the function, for messages.

    Raises:
      BusyError: on entering, if another process, or another run of this one, has the lock.
      ValueError: on entering with a path, if processes do not share its folder or the identity.
      ImportError: the same, if the run spans processes and orbax-checkpoint is not installed.

    Example:
      >>> import tempfile, numpy as np, sparsecode_jax as sc
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for _ in range(2):  # computed once
      ...         with sc.io.Run(f"{folder}/run", {"seed": 0}, name="example") as run:
      ...             print(run.has("sums"), run.once("sums", lambda: {"x": np.arange(3)})["x"])
      False [0 1 2]
      True [0 1 2]
    """

    def __init__(self, path: str | os.PathLike | None, identity: Mapping[str, Any], *, name: str):
        self.path = None if path is None else pathlib.Path(path)
        self.identity = {"format": checkpoints.FORMAT, **identity}
        self.name = name
        self._lock: int | None = None
        self._made: list[pathlib.Path] = []
        self._pending: tuple[PyTree, str] | None = None
        self._saved, self._cost = time.monotonic(), 0.0
        self._kept = ""

    def __enter__(self) -> Run:
        if self.path is not None:
            with contextlib.ExitStack() as undo:
                undo.callback(self._release)
                holder, identity = _processes.on_first(self.name, self._lock_it)
                _processes.on_all(self.name, lambda: self._join(holder, identity))
                undo.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        try:
            if error is not None and self.path is not None:
                where = None if self._pending is None else self._pending[1]
                if _processes.fails_alike(error, where) and where is not None:
                    self._write_pending()
            if error is not None and self._kept:
                error.add_note(
                    f"{self.name}: {self.path} keeps {self._kept}; the same call goes on from it."
                )
        finally:
            self._release()

    def file(self, part: str | None = None) -> pathlib.Path:
        """Return where a part is, or a state."""
        assert self.path is not None
        if self.path.is_dir() if part is None else self.path.is_file():
            there, wanted = ("folder", "file") if part is None else ("file", "folder")
            raise ValueError(
                f"{self.name}: {self.path} is a {there}; the path of a {wanted} is expected. "
                "Choose another path."
            )
        return self.path if part is None else self.path / f"{part}.npz"

    def has(self, part: str | None = None) -> bool:
        """Say whether a part, or a state, is kept."""
        if self.path is None:
            return False
        return _processes.on_first(self.name, self.file(part).exists)

    def load(self, like: PyTree = None, part: str | None = None) -> PyTree:
        """Return a part, or a state: as :func:`~sparsecode_jax.io.load_checkpoint` does.

        Raises:
          ValueError: it is of another run, or damaged; it is left as it is.
        """
        try:
            return checkpoints.load_checkpoint(self.file(part), like, identity=self.identity)
        except ValueError as error:
            message = str(error).removeprefix("load_checkpoint: ")
            raise ValueError(f"{self.name}: {message}") from None

    def check(self, part: str | None = None) -> None:
        """Raise as ``load`` does if a part is of another run, or of none."""
        found = checkpoints.identity_in(self.file(part))
        if found is None or checkpoints.difference(found, self.identity):
            self.load(part=part)

    def save(self, tree: PyTree, part: str | None = None) -> None:
        """Write a part, or the state, in one stroke."""
        if self.path is None:
            return
        began = time.monotonic()
        _processes.on_first(self.name, self._still_lock_it)
        checkpoints.save_checkpoint(self.file(part), tree, identity=self.identity, alone=True)
        self._saved = time.monotonic()
        self._cost, self._pending = self._saved - began, None

    def keep(self, tree: PyTree, what: str) -> None:
        """Write the state if it is time to; else do so when the run is interrupted.

        Args:
          tree: the state.
          what: what it is, such as "40 of 100 steps".
        """
        if self.path is None:
            return
        self._pending = tree, what
        due = time.monotonic() - self._saved > max(SAVE_SECONDS, _SAVE_SHARE * self._cost)
        if agreed(due):
            self._write_pending()

    def once(self, part: str, fn: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Return the arrays that ``fn()`` computes, from disk if they were computed before."""
        if not self.has(part):
            arrays = {name: np.asarray(value) for name, value in fn().items()}
            if self.path is None:
                return arrays
            self.save(arrays, part)
        return self.load(part=part)

    def remove(self) -> None:
        """Delete what is kept."""
        self._pending, self._kept = None, ""
        if (path := self.path) is not None:
            _processes.on_first(self.name, lambda: _spread.delete(path))

    def _write_pending(self) -> None:
        assert self._pending is not None
        tree, what = self._pending
        self._pending = None
        self.save(tree)
        self._kept = what

    def _lock_it(self) -> tuple[str, dict[str, Any]]:
        """Take the lock; return what it says, and what decides the run."""
        assert self.path is not None
        lock = _lock_path(self.path)
        self._made = [folder for folder in lock.parents if not folder.exists()]
        self._lock, holder = _acquire(lock, self.path, self.name)
        return holder, self.identity

    def _still_lock_it(self) -> None:
        """Take the lock again if it was deleted, or raise if another run has taken it since."""
        assert self.path is not None
        lock = _lock_path(self.path)
        if self._lock is not None and not _is_at(self._lock, lock):
            mine, (self._lock, _) = self._lock, _acquire(lock, self.path, self.name)
            os.close(mine)

    def _join(self, holder: str, identity: dict[str, Any]) -> None:
        """Raise unless this process sees the lock of the first, and is of the same run."""
        assert self.path is not None
        count, index = jax.process_count(), jax.process_index()
        if count > 1:
            _spread.require(self.name)
        if index == 0:
            return
        own = json.loads(json.dumps(self.identity))
        if differs := checkpoints.difference(identity, own):
            raise ValueError(
                f"{self.name}: process {index} of {count} has another run than process 0 "
                f"({', '.join(differs)}); one run is expected of all. Pass the same arguments on "
                "every process."
            )
        began = time.monotonic()
        while not _says(_lock_path(self.path), holder):
            if time.monotonic() > began + _SEEN_SECONDS:
                raise ValueError(
                    f"{self.name}: process {index} of {count} does not see in {self.path.parent} "
                    "what process 0 writes there; a folder that all processes share is expected. "
                    "Pass a path on a file system of all hosts."
                )
            time.sleep(0.05)

    def _release(self) -> None:
        """Give the lock up, if this process has it."""
        if self._lock is not None and self.path is not None:
            lock = _lock_path(self.path)
            if _is_at(self._lock, lock):  # not that of a run which came when this one was deleted
                lock.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None
            for folder in self._made:
                with contextlib.suppress(OSError):  # it holds something now
                    folder.rmdir()


class Pace:
    """How many steps to stay on the device before looking up: as take about so many seconds.

    All processes of a run take the same: what communicates has to be launched alike everywhere.
    """

    def __init__(self, seconds: float):
        self.seconds, self.length, self._began = seconds, 1, 0.0

    def next(self, left: int) -> int:
        """Return how many steps to take now, of those that are left."""
        self._began = time.monotonic()
        return min(self.length, left)

    def took(self, steps: int) -> None:
        """Learn from how long they took."""
        if steps == self.length:
            elapsed = agreed(max(time.monotonic() - self._began, 1e-9))
            self.length = max(1, min(10 * steps, int(steps * self.seconds / elapsed)))


def of_any_number(like: PyTree) -> PyTree:
    """Return what ``Run.load`` takes for arrays (..., *) whose first axis has any length."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((-1, *x.shape[1:]), x.dtype), like)


def wait(arrays: PyTree, show: Callable[[], Any] = lambda: None) -> PyTree:
    """Wait for a computation in short naps: Ctrl-C is heard at once, and time is shown to pass."""
    shown, nap = time.monotonic(), 1e-5
    for leaf in jax.tree.leaves(arrays):
        while not getattr(leaf, "is_ready", lambda: True)():
            time.sleep(nap)
            nap = min(2 * nap, 5e-3)
            if time.monotonic() > shown + 1:
                show()
                shown = time.monotonic()
    return jax.block_until_ready(arrays)  # raises what went wrong


def _lock_path(path: pathlib.Path) -> pathlib.Path:
    real = pathlib.Path(os.path.realpath(path))
    return real.with_name(real.name + ".lock")


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Say whether a path still is the file that is open."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _says(lock: pathlib.Path, holder: str) -> bool:
    with contextlib.suppress(OSError):
        return lock.read_text() == holder
    return False


def _acquire(lock: pathlib.Path, path: pathlib.Path, name: str) -> tuple[int, str]:
    """Return the descriptor of a file that this run alone has locked, and what is in it."""
    import fcntl  # of POSIX systems; a run that keeps nothing does not need it

    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BusyError(
                f"{name}: {path} is being written by {holder}; one run at a time is expected. Wait "
                "for it to end, stop it, or choose another path."
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(descriptor, lock):  # the one before deletes it at its end
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            os.ftruncate(descriptor, 0)
            os.write(descriptor, holder.encode())
            return descriptor, holder
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who holds a lock, which writes its name just after taking it."""
    for _ in range(50):
        time.sleep(0.01)
        text = os.pread(descriptor, 200, 0).decode(errors="replace")
        if text:
            return text
    return "another process"
