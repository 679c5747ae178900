"""The command line: ``sparsecode-jax learn``, ``encode`` and ``flops``.

Exit codes: 0 done, 1 the run failed, 2 the command or its input is wrong (nothing was computed),
130 interrupted (what was computed is kept, and the same command goes on from there). Results go to
files and a summary to stdout; progress, warnings and errors go to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
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
        if is_process:  # a process of its own: do not wait for the computation to end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        return 130
    except BrokenPipeError:  # the reader of stdout has gone
        sys.stderr.close()
        return 1
    except Exception as error:
        if options.debug:
            raise
        text = f"failed: {type(error).__name__}: {one_line(error)}".rstrip(".")
        print(f"{name}: {text} (run it again with --debug for the traceback)", file=sys.stderr)
        return 1
    return 0
