"""The command line: ``sparsecode-jax learn``, ``encode`` and ``flops``.

Exit codes: 0 done, 1 the run failed, 2 the command or its input is wrong (nothing was computed),
130 interrupted, 143 by SIGTERM (what was computed is kept, and the same command goes on from
there). Results go to files and a summary to stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from sparsecode_jax import _processes
from sparsecode_jax.cli.errors import BadInputError, InterruptedRunError, bad_input, one_line
from sparsecode_jax.cli.parser import PROGRAM, parse

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: the words after the program's name; None takes those of the process.

    Returns:
      The exit code.
    """
    if argv is None:
        _prepare_process()
    try:
        options = parse(argv)
    except SystemExit as stop:  # --help, --version and usage errors
        return int(stop.code or 0)
    name = f"{PROGRAM} {options.command}"
    with warnings.catch_warnings():

        def show(message: Warning | str, *_: object, **__: object) -> None:
            if not options.distributed or _processes.is_first():
                print(f"{name}: warning: {one_line(message)}", file=sys.stderr)

        warnings.showwarning = show
        code = _run(name, options, is_process=argv is None)
    if code and options.distributed and argv is None and not _processes.together("leaving"):
        _leave(code)  # the others wait for this process, and hear of its end so
    return code


def _run(name: str, options: argparse.Namespace, is_process: bool) -> int:
    """Run a command and say what stopped it, in one line."""
    try:
        if options.distributed:
            with bad_input(name):
                _processes.join(name)
            _be_one_of_many(options, is_process)
        # A command's own imports wait until its arguments are known to be right.
        command = importlib.import_module(f"sparsecode_jax.cli.{options.module}")
        command.run(options)
    except BadInputError as error:
        if options.debug and error.__cause__:
            raise error.__cause__ from None
        _say(options, f"{name}: {' '.join(str(error).splitlines())}")
        return 2
    except KeyboardInterrupt as stop:
        kept = f"; {stop}" if isinstance(stop, InterruptedRunError) else ""
        _say(options, f"\n{name}: interrupted{kept}")
        code = 143 if _terminated else 130
        if is_process:  # a process of its own: do not wait for the computation to end
            if options.distributed:
                _processes.together("leaving")
            _leave(code)
        return code
    except Exception as error:
        if options.debug:
            raise
        text = f"failed: {type(error).__name__}: {one_line(error)}".rstrip(".")
        _say(options, f"{name}: {text} (run it again with --debug for the traceback)")
        return 1
    return 0


def _say(options: argparse.Namespace, text: str) -> None:
    """Print what stops a command; of several processes that stop, one does."""
    if not options.distributed or _processes.says_it():
        print(text, file=sys.stderr)


def _be_one_of_many(options: argparse.Namespace, is_process: bool) -> None:
    """Let the first process alone speak; what libraries print beside it goes nowhere."""
    if not _processes.is_first():
        options.quiet = True
    if is_process:
        if _processes.is_first():
            sys.stdout = _outlet(os.dup(1), sys.stdout)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _leave(code: int) -> NoReturn:
    """End this process now, whatever its devices are doing."""
    with contextlib.suppress(OSError):  # their readers may have gone
        sys.stdout.flush()
        sys.stderr.flush()
    if _processes.is_joined_first():
        time.sleep(0.5)  # the others end before the service that they depend on
    os._exit(code)


_terminated: list[int] = []


def _prepare_process() -> None:
    """Let SIGTERM keep what Ctrl-C keeps, and open closed streams, so that no file gets theirs."""

    def stop(number: int, _: object) -> None:
        _terminated.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed by who called, as 2>&- does
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _outlet(1, sys.stdout), _outlet(2, sys.stderr)


class _Outlet(io.FileIO):
    """A stream whose reader may go: what is written then goes nowhere, and the work goes on."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def _outlet(number: int, like: TextIO | None) -> io.TextIOWrapper:
    """Return a stream of text to a file descriptor, a line at a time, encoded as another is."""
    raw = io.BufferedWriter(_Outlet(number, "w", closefd=False))
    encoding, errors = getattr(like, "encoding", None), getattr(like, "errors", None)
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=True)
