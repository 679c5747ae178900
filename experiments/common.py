"""What the experiments share: stages that survive interruption, tables, the command line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import sparsecode_jax as sc
from sparsecode_jax.io import Run, save_results

RESULTS = pathlib.Path("results")


@contextlib.contextmanager
def stages(out: pathlib.Path, name: str, config: Any) -> Iterator[Run]:
    """Keep finished stages and training checkpoints until the whole experiment is written.

    An interrupted experiment, started again with the same configuration and the same code, skips
    its finished stages and resumes the training it was in.

    Args:
      out: the results folder.
      name: of the experiment.
      config: a dataclass; another configuration never sees these stages.
    """
    identity = {"experiment": name, "config": repr(config), "code": code_of(_all())}
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    folder = pathlib.Path(out) / "partial" / f"{name}-{digest}"
    if folder.exists():
        print(f"resuming from {folder} (delete it to start afresh)", flush=True)
    with Run(folder, identity, name=name) as run:
        yield run
        run.remove()


def code_of(files: Iterable[pathlib.Path]) -> str:
    """Return the checksum of the library and of files besides."""
    digest = hashlib.sha256()
    for file in (*files, *sorted(pathlib.Path(sc.__file__).parent.rglob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _all() -> list[pathlib.Path]:
    """Return the files of the experiments."""
    return sorted(pathlib.Path(__file__).parent.rglob("*.py"))


def in_background(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``fn`` in a thread and return a function that waits for its result or error.

    Small training steps keep one core busy, so two at once finish sooner. The thread is a daemon:
    interrupting the program does not wait for it.
    """
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["value"] = fn()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    return result


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def estimate(values: Any, digits: int = 3) -> str:
    """Write the mean of runs and the half-width of its 95 % interval; failed runs are counted."""
    values = np.ravel(np.asarray(values, np.float64))
    failed = int(np.sum(~np.isfinite(values)))
    if failed:
        return f"{failed} of {len(values)} failed"
    mean, half = sc.statistics.mean_interval(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f"±{half:.{digits}f}")


_AGREEMENT = (
    "Ours: mean of n runs with its 95 % t interval. The tolerance is for the difference of means; "
    "2 sd: two standard deviations\nof the published runs, where rounding has taken runs apart."
)


def agreement(
    rows: Sequence[tuple[str, int, Any, float, float]],
) -> tuple[str, bool]:
    """Compare means of our runs with published ones.

    Args:
      rows: (quantity, published step, ours of each run, published, tolerance).

    Returns:
      A table, with the 95 % t interval of each mean of several runs, and whether every difference
      is within its tolerance.
    """
    cells, agree = [], True
    for quantity, step, ours, theirs, tolerance in rows:
        difference = abs(float(np.mean(ours)) - theirs)
        good = bool(difference <= tolerance)
        agree &= good
        cells.append(
            (
                quantity,
                f"{step:,}",
                np.size(ours),
                estimate(ours, 4),
                f"{theirs:.4f}",
                f"{difference:.5f}",
                f"{tolerance:.4f}",
                "yes" if good else "NO",
            )
        )
    header = ("quantity", "step", "n", "ours", "published", "difference", "tolerance", "agrees")
    return f"{format_table(header, cells)}\n\n{_AGREEMENT}", agree


def welch_table(label: str, ours: np.ndarray, others: Mapping[str, np.ndarray]) -> str:
    """Compare a method's runs with those of others that share no weights with it, by Welch's test.

    Args:
      label: of the method.
      ours: latent MCC of its runs, (R,).
      others: that of others, by name.

    Returns:
      A table with a row for each of the others; Holm's correction is over all rows.
    """
    found = [sc.statistics.compare_groups(ours, theirs) for theirs in others.values()]
    corrected = sc.statistics.holm([one.p_welch for one in found])
    rows = [
        (name, f"{one.difference.estimate:+.3f}",
         f"{one.difference.low:+.3f} to {one.difference.high:+.3f}", f"{one.p_welch:.2g}",
         f"{p:.2g}")
        for name, one, p in zip(others, found, corrected, strict=True)
    ]  # fmt: skip
    header = (f"{label} less", "latent MCC", "95 % interval", "Welch p", "Holm p")
    return format_table(header, rows)


def measured(
    name: str,
    cases: Sequence[tuple[int, ...]],
    config: Any,
    measure: Callable[..., dict[str, float]],
    out: pathlib.Path,
) -> dict[tuple[int, ...], dict[str, float]]:
    """Measure every case, keeping each as it is done; return the numbers of all."""
    done = {}
    with stages(out, name, config) as run, tqdm(total=len(cases), desc=name, unit="case") as bar:
        for case in cases:
            label = "-".join(map(str, case))
            kept = run.once(label, functools.partial(measure, *case))
            done[case] = {key: float(value) for key, value in kept.items()}
            bar.set_postfix_str(f"done {label}")
            bar.update()
    return done


def report_cases(
    name: str,
    done: dict[tuple[int, ...], dict[str, float]],
    axis: str,
    table: str,
    config: dict[str, Any],
    out: pathlib.Path,
) -> None:
    """Write what :func:`measured` returned, a column each number, and print and write its table.

    Args:
      name: of the experiment.
      done: numbers of each case.
      axis: what the numbers of a case's label are.
      table: the report.
      config: of the experiment.
      out: the results folder.
    """
    columns = list(next(iter(done.values())))
    arrays = {key: np.asarray([row[key] for row in done.values()]) for key in columns}
    manifest = {
        "experiment": name, "config": config,
        "axes": {key: ["case"] for key in columns} | {"case": ["case", axis]},
        "flops": "training: restarts, hops and refinement; convention 'arithmetic'",
        "seconds": round(float(arrays["seconds"].sum()), 1),
    }  # fmt: skip
    save_results(out / name, {**arrays, "case": np.asarray(list(done))}, manifest)
    (out / f"{name}.txt").write_text(table)
    print("\n" + table)


def parser(doc: str | None, *, compiles: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all experiments have.

    Args:
      doc: of the module.
      compiles: the short version takes most of its time to compile: XLA is to optimize little.
    """
    result = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--out", type=pathlib.Path, default=RESULTS, help="results folder")
    result.add_argument(
        "--quick", action=_Hasty if compiles else "store_true", help="a short version for tests"
    )
    return result


class _Hasty(argparse.Action):
    """Set the flag, and XLA's flags, which it reads before the first program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, dest, nargs=0, default=False, **options)

    def __call__(self, parser: Any, namespace: Any, *_: Any) -> None:
        setattr(namespace, self.dest, True)
        flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
        if jax.__version__.startswith("0.10."):  # XLA stops at a flag that it does not know
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
