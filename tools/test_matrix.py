"""Run the tests on every interpreter found and every supported release of JAX.

    python tools/test_matrix.py             all rows, then docs/results/test_matrix.txt
    python tools/test_matrix.py --newest    what breaks first, on the newest interpreter alone

Each row has an environment of its own in .matrix/, made once. A row that was run on the same code
is not run again, so an interrupted matrix goes on where it stopped. The exit status is 1 if a row
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".matrix"
KEPT = ROOT / "results" / "test_matrix.json"
TABLE = ROOT / "docs" / "results" / "test_matrix.txt"

PYTHONS = ("3.11", "3.12", "3.13")
# The releases of JAX and the newest Flax that goes with each; constraints.txt pins all the rest.
RELEASES = {"0.10.1": "0.12.8", "0.11.2": "0.12.12", "0.12.0.1": "0.12.12"}
NEWEST, OLDEST = "0.12.0.1", "0.10.1"
NO_NEWER = {"3.11": ("0.10.1",)}  # jax 0.11 and 0.12 need Python 3.12

CORE = (
    "tests/flops tests/test_environment.py tests/test_layers.py tests/test_docs.py "
    "tests/test_solvers.py tests/test_solver_programs.py tests/test_greedy.py "
    "tests/test_pursuit.py tests/test_tolerance.py tests/test_encoders.py "
    "tests/test_architectures.py tests/test_devices.py"
)
FIRST = (
    "tests/test_environment.py tests/test_layers.py tests/test_docs.py tests/test_readme.py "
    "tests/test_solvers.py tests/flops/test_rules.py tests/flops/test_oracle.py"
)
LONGEST_PAGES = "training.md or checkpoints.md or language_models.md or benchmark.md"
SUITES = {
    "whole": ["tests"],
    "core": CORE.split(),
    "first": [*FIRST.split(), "-k", f"not ({LONGEST_PAGES})"],
}


class Row(NamedTuple):
    """One environment and the tests to run in it."""

    python: str
    release: str
    suite: str

    @property
    def name(self) -> str:
        """What the environment is called."""
        return f"py{self.python}-jax{self.release}"


def interpreters() -> dict[str, str]:
    """Return the interpreters of supported versions on this machine, by version."""
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}") for version in PYTHONS]
    candidates += sorted(map(str, pyenv.glob("versions/*/bin/python3")))
    found: dict[str, str] = {}
    for path in filter(None, [*candidates, sys.executable]):
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([path, "-c", program], capture_output=True, text=True)
        version = said.stdout.strip()
        if said.returncode == 0 and version in PYTHONS:
            found.setdefault(version, path)
    return {version: found[version] for version in PYTHONS if version in found}


def rows_of(found: dict[str, str]) -> list[Row]:
    """Return the rows of the matrix: all tests at both ends, what may break between them."""
    first, last = min(found, key=PYTHONS.index), max(found, key=PYTHONS.index)
    ends = {(first, OLDEST), (last, NEWEST)}
    return [
        Row(python, release, "whole" if (python, release) in ends else "core")
        for python in found
        for release in NO_NEWER.get(python, RELEASES)
    ]


def environment(row: Row, interpreter: str) -> pathlib.Path:
    """Make the environment of a row unless it is there; return its interpreter."""
    folder = ENVIRONMENTS / row.name
    python = folder / "bin" / "python"
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not re.match(r"(jax|jaxlib|flax)==", line)
    ]
    pins += [f"{name}=={row.release}" for name in ("jax", "jaxlib")]
    pins += [f"flax=={RELEASES[row.release]}"]
    made, wanted_by = folder / "made", "\n".join([*pins, (ROOT / "pyproject.toml").read_text()])
    if not made.exists() or made.read_text() != wanted_by:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(pins) + "\n")
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        wanted = ["-c", str(constraints), "-e", f"{ROOT}[test]"]
        subprocess.run([str(python), *install, *wanted], check=True)
        made.write_text(wanted_by)
    return python


def run(row: Row, python: pathlib.Path, workers: int) -> dict:
    """Run the tests of a row and return what they said."""
    # Of the few files that come first one, of the pages, takes longer than all others together.
    dist = "load" if row.suite == "first" else "loadfile"
    command = [str(python), "-m", "pytest", "-q", "-n", str(workers), "--dist", dist]
    command += ["-m", "not slow", "--least-effort", "-p", "no:cacheprovider", *SUITES[row.suite]]
    log = ENVIRONMENTS / f"{row.name}.log"
    started, tested = time.monotonic(), code()
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with log.open("w") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env)
    last = log.read_text().rstrip().rpartition("\n")[2]
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    version = [str(python), "-c", "import platform; print(platform.python_version())"]
    return {
        **row._asdict(),
        "code": tested,
        "commit": git("rev-parse", "--short", "HEAD"),
        "exit": done.returncode,
        "counts": counts,
        "seconds": round(time.monotonic() - started),
        "version": subprocess.run(version, capture_output=True, text=True).stdout.strip(),
    }


def git(*arguments: str) -> str:
    """Return what a git command says of this checkout."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def code() -> str:
    """Return what names all that the tests run on, as it stands: git's names of the trees."""
    table = TABLE.relative_to(ROOT).as_posix()
    if git("status", "--porcelain", "--", ".", f":!{table}"):
        return f"changed at {time.time()}"  # never the same again
    tested = ("sparsecode_jax", "tests", "experiments", "benchmarks", "examples", "pyproject.toml",
              "constraints.txt", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")  # fmt: skip
    listed = git("ls-tree", "-r", "HEAD", "docs").splitlines()
    pages = [line for line in listed if line.endswith((".md", ".py"))]
    return "\n".join([git("rev-parse", *(f"HEAD:{path}" for path in tested)), *pages])


def table(rows: list[dict]) -> str:
    """Write the rows out."""
    heads = f"{'Python':<8}{'jax':<10}{'tests':<7}{'passed':>7}{'failed':>7}{'skipped':>8}{'s':>7}"
    lines = [
        "What was run on which Python and which release of JAX (CPU, Linux), by make test-matrix:",
        "whole: the test suite; core: counting FLOPs, solvers, encoders, eight devices, docs.",
        "The slow tests are not among them, and programs are compiled with the least effort.",
        "Releases between those listed are allowed by the pins and were not run.",
        "",
        f"{heads}  commit",
    ]
    for row in rows:
        counts = row["counts"]
        failed = counts.get("failed", 0) + counts.get("error", 0)
        lines.append(
            f"{row['version']:<8}{row['release']:<10}{row['suite']:<7}{counts.get('passed', 0):>7}"
            f"{failed:>7}{counts.get('skipped', 0):>8}{row['seconds']:>7}  {row['commit']}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the rows that are missing."""
    parser = argparse.ArgumentParser(description="run the tests on every Python and JAX")
    parser.add_argument("--newest", action="store_true", help="only what breaks first")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--only", help="rows whose name holds this, such as py3.13")
    options = parser.parse_args()
    found = interpreters()
    missing = [version for version in PYTHONS if version not in found]
    print(f"Python {', '.join(found)} found; {', '.join(missing) or 'none'} not.", flush=True)
    if options.newest:
        python = max(found, key=PYTHONS.index, default="")
        if not python or python in NO_NEWER:
            print(f"No Python newer than 3.11 was found, so nothing was run on jax {NEWEST}.")
            return 0
        rows = [Row(python, NEWEST, "first")]
    else:
        rows = [row for row in rows_of(found) if (options.only or "") in row.name]
    kept = {} if not KEPT.exists() else json.loads(KEPT.read_text())
    bad = 0
    for number, row in enumerate(rows, 1):
        name = f"{row.name}-{row.suite}"
        known = kept.get(name)
        again = known is None or known["code"] != code() or known["exit"] != 0
        print(f"{number} of {len(rows)}  {name}: {'running' if again else 'kept'}", flush=True)
        if again:
            try:
                known = run(row, environment(row, found[row.python]), options.workers)
            except subprocess.CalledProcessError as error:
                print(f"    {name} cannot be installed: {error}", flush=True)
                bad += 1
                continue
            kept[name] = known
            KEPT.parent.mkdir(exist_ok=True)
            fresh = KEPT.with_suffix(".new")
            fresh.write_text(json.dumps(kept, indent=1))
            fresh.replace(KEPT)
        bad += known["exit"] != 0
        print(f"    {known['counts']} in {known['seconds']} s", flush=True)
        if known["exit"]:
            print((ENVIRONMENTS / f"{row.name}.log").read_text()[-6000:], flush=True)
    if not options.newest:
        names = [f"{row.name}-{row.suite}" for row in rows_of(found)]
        TABLE.write_text(table([kept[name] for name in names if name in kept]))
        print(f"wrote {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
