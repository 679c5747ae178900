"""The command line: ``sparsecode-jax learn``, ``encode`` and ``flops``.

Exit codes: 0 done, 1 the run failed, 2 the command or its input is wrong (nothing was computed),
130 interrupted, 143 by SIGTERM (what was computed is kept, and the same command goes on from
there). Results go to files and a summary to stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from sparsecode_jax.cli.errors import BadInputError, InterruptedRunError, one_line
from sparsecode_jax.cli.parser import PROGRAM, parse

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
            print(f"{name}: warning: {one_line(message)}", file=sys.stderr)

        warnings.showwarning = show
        return _run(name, options, is_process=argv is None)


def _run(name: str, options: argparse.Namespace, is_process: bool) -> int:
    """Run a command and say what stopped it, in one line."""
    try:
        # A command's own imports wait until its arguments are known to be right.
        command = importlib.import_module(f"sparsecode_jax.cli.{options.module}")
        command.run(options)
    except BadInputError as error:
        if options.debug and error.__cause__:
            raise error.__cause__ from None
        print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        kept = f"; {stop}" if isinstance(stop, InterruptedRunError) else ""
        print(f"\n{name}: interrupted{kept}", file=sys.stderr)
        code = 143 if _terminated else 130
        if is_process:  # a process of its own: do not wait for the computation to end
            with contextlib.suppress(OSError):  # their readers may have gone
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        return code
    except BrokenPipeError:  # the reader of stdout has gone; what was written to files is there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that flushing it at exit does not fail
        return 1
    except Exception as error:
        if options.debug:
            raise
        text = f"failed: {type(error).__name__}: {one_line(error)}".rstrip(".")
        print(f"{name}: {text} (run it again with --debug for the traceback)", file=sys.stderr)
        return 1
    return 0


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
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.dup(1), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.dup(2), "w")
