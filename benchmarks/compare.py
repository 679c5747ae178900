"""Show what a change did: time the library's programs in two commits, in turn, as ratios.

    python -m benchmarks.compare [--base COMMIT] [--only "lasso c" "TopK"] [--rounds 7]

Command: ``make bench-compare BASE=COMMIT`` (BASE is the last commit if it is not said; all programs
took ten minutes with --rounds 5, on 2 cores). The base is checked out into a temporary folder. Of
each program two processes run it, in turn, one with the package of this working tree and one with
the base's; the programs are this tree's (benchmarks/programs.py). Reported is the median over
rounds of the time now over the time of the base, the least and the greatest of these ratios, FLOPs,
and what the first run took with compilation. A program that the base cannot run says what it raised
there.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def worker(package: str) -> None:
    """Build and run programs as lines of standard input say; answer each with a line of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what programs print goes with the errors
    import sparsecode_jax as sc

    here = str(pathlib.Path(str(sc.__file__)).parents[1])
    if pathlib.Path(here) != pathlib.Path(package):
        raise SystemExit(f"compare: the package is {here}, not {package}")
    from benchmarks.programs import PROGRAMS

    program: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        try:
            if "build" in order:
                program = PROGRAMS[order["build"]]()
                program.run()
                answer: dict[str, Any] = {"first": time.perf_counter() - started}
                program.run()  # the second may compile what depends on how the first ended
            elif "flops" in order:
                answer = {"flops": program.flops and program.flops() / program.per}
            else:
                program.run()
                answer = {"seconds": (time.perf_counter() - started) / program.per}
                answer["unit"] = program.unit
        except Exception as error:  # noqa: BLE001 - told, in the place of a time
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=out, flush=True)


class _Side:
    """A process that has one of the two packages."""

    def __init__(self, package: pathlib.Path):
        # The package's folder first; benchmarks are this tree's, whose folder has no package there.
        code = (
            f"import sys; sys.path[:0] = [{str(package)!r}]; import sparsecode_jax; "
            f"sys.path[0] = {str(ROOT)!r}; from benchmarks.compare import worker; "
            f"worker({str(package)!r})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=tempfile.gettempdir(),
        )  # fmt: skip

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("compare: a process ended without an answer; what it said is above")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(name: str, base: pathlib.Path, rounds: int) -> dict[str, Any]:
    """Run a program in both, in turn."""
    sides = {"base": _Side(base), "now": _Side(ROOT)}
    try:
        row: dict[str, Any] = {}
        for key, side in sides.items():
            row[key] = side.ask(build=name)
            if "error" in row[key]:
                return {"failed": {key: row[key]["error"]}}
        ratios, seconds = [], []
        for turn in range(rounds):
            order = list(sides)[:: 1 if turn % 2 else -1]
            found = {key: sides[key].ask() for key in order}
            row["unit"] = found["now"]["unit"]
            seconds.append(found["now"]["seconds"])
            ratios.append(found["now"]["seconds"] / found["base"]["seconds"])
        row |= {"ratios": ratios, "seconds": seconds}
        for key, side in sides.items():
            row[key] |= side.ask(flops=True)
        return row
    finally:
        for side in sides.values():
            side.close()


def table(found: dict[str, dict[str, Any]], base: str) -> str:
    """Return a row a program."""
    import numpy as np

    from experiments.common import format_table

    rows, failed = [], []
    for name, row in found.items():
        if "failed" in row:
            said = "; ".join(f"{key}: {error}" for key, error in row["failed"].items())
            rows.append([name, "did not run", "", "", "", ""])
            failed.append(f"{name} did not run ({said})\n")
            continue
        ratios = np.asarray(row["ratios"])
        before, now = (row[key].get("flops") for key in ("base", "now"))
        rows.append([
            name, f"{np.median(ratios):.3g}", f"{ratios.min():.3g} to {ratios.max():.3g}",
            f"{1e6 * np.median(row['seconds']):.4g} a {row['unit']}",
            f"{row['now']['first']:.1f} ({row['base']['first']:.1f})",
            f"{now / before:.4g}" if before and now else "",
        ])  # fmt: skip
    header = ("", f"now / {base}", "rounds", "us now", "first run, s (base)", "FLOPs / base")
    return (
        f"{format_table(header, rows)}\n\nTime now over time of the base, median and range over "
        "rounds in which both ran; below 1 the change is faster.\nThe first run compiles.\n"
        + "".join(failed)
    )


def chosen(only: Sequence[str] | None) -> list[str]:
    """Return the names of programs that begin with what is asked for."""
    from benchmarks.programs import PROGRAMS

    names = [name for name in PROGRAMS if not only or name.startswith(tuple(only))]
    if not names:
        raise SystemExit(f"compare: no program begins with {only}; there are {list(PROGRAMS)}")
    return names


def main(argv: list[str] | None = None) -> None:
    """Check the base out, run every program in both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="HEAD", help="a commit; by default the last one")
    parser.add_argument("--only", nargs="+", help="programs whose names begin so")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    names = chosen(args.only)
    git = ["git", "-C", str(ROOT)]
    said = subprocess.run(
        [*git, "rev-parse", "--short", f"{args.base}^{{commit}}"], capture_output=True, text=True
    )
    if said.returncode:
        raise SystemExit(f"compare: --base {args.base} is no commit here: {said.stderr.strip()}")
    commit = said.stdout.strip()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.Popen(
            [*git, "archive", commit, "sparsecode_jax"], stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "x", "-C", folder], stdin=archive.stdout, check=True)
        if archive.wait():
            raise SystemExit(f"compare: git archive of {commit} failed")
        for name in names:
            print(f"{name} ...", flush=True)
            found[name] = measure(name, pathlib.Path(folder).resolve(), args.rounds)
            print(table({name: found[name]}, commit).splitlines()[2], flush=True)
    print("\n" + table(found, commit))


if __name__ == "__main__":
    main()
