"""``sparsecode-jax learn``: a dictionary from signals on disk, by restarts and then hops."""

from __future__ import annotations

import argparse
import functools
import math
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._processes import is_first, on_first
from sparsecode_jax._sharding import to_host
from sparsecode_jax.cli.errors import InterruptedRunError, bad_input
from sparsecode_jax.cli.inputs import (
    Signals,
    Statistics,
    check_penalty,
    check_scale,
    open_signals,
    over_devices,
)
from sparsecode_jax.cli.outputs import Output, without_nan
from sparsecode_jax.dictionary_learning import Learned, LearningProgress, learn_dictionary
from sparsecode_jax.dictionary_learning.search import default_counts
from sparsecode_jax.io import save_results
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import sparsa

__all__ = ["run"]

_SUFFIXES = (".npz", ".json", ".png")
_SIGNALS_AN_ATOM, _FEWEST_SIGNALS, _MOST_CODES = 100, 10_000, 2**26


def run(options: argparse.Namespace) -> None:
    """Learn a dictionary from a file."""
    with Output(options.output, _SUFFIXES, (options.signals,), "learn") as output:
        _run(options, output)


def _run(options: argparse.Namespace, output: Output) -> None:
    started = time.monotonic()
    signals = open_signals(options.signals)
    places, drawn = _draw(signals, options)
    with bad_input("learn"):
        _checks.enough_signals("learn", len(places), options.num_atoms)
    rows = functools.cache(lambda: signals.batch(places))
    statistics = Statistics.by_first("learn", lambda: Statistics.of([rows()]))
    check_scale(signals.path, statistics)
    if options.penalty is not None:
        check_penalty(options.penalty, statistics)
    num_restarts, num_hops = default_counts(
        options.num_atoms, options.num_restarts, options.num_hops
    )
    sizes: dict[str, Any] = {
        "num_atoms": options.num_atoms, "num_rounds": options.num_rounds,
        "num_steps": options.num_steps, "num_restarts": num_restarts, "num_hops": num_hops,
    }  # fmt: skip
    config = {
        "command": "learn",
        "signals": {
            "file": str(signals.path), "shape": list(signals.array.shape),
            "dtype": str(signals.array.dtype), "learned_from": len(places),
            "drawn_at_random": drawn,
            "crc32_in_float32": f"{statistics.checksum:08x}",
        },
        **sizes,
        "signed": options.signed,
        "penalty_given": options.penalty,
        "seed": options.seed,
    }  # fmt: skip
    output.begin(config, options.overwrite)
    data = over_devices(signals, places) if options.distributed else rows()
    found, seconds = _learn(data, sizes, options, output)
    host: Any = {name: to_host(x) for name, x in found._asdict().items() if name != "flops"}
    found = found._replace(**host)

    def publish() -> None:
        result, summary = _assemble(rows(), found, statistics)
        result["signed"] = np.asarray(options.signed)
        if drawn:
            result["rows"] = places
        summary["seconds"] = seconds
        summary["seconds_of_the_last_run"] = time.monotonic() - started
        if options.figure:
            from sparsecode_jax.cli import plots

            about = f"{signals.path.name}: {len(signals.rows):,} signals, "
            plots.learned(result, f"{about}{options.num_atoms:,} atoms", output.staged(".png"))
        save_results(output.staged(""), result, without_nan({**config, **summary}))
        _report(config, summary, output.publish())

    on_first("learn", publish, patience=math.inf)


def _learn(
    rows: Any, sizes: dict[str, Any], options: argparse.Namespace, output: Output
) -> tuple[Learned, float]:
    """Call the library, and say what an interruption leaves; return the seconds it took, too."""
    heard: list[LearningProgress] = []

    def hear(news: LearningProgress) -> None:
        heard[:] = [news]

    if is_first() and output.checkpoint().exists():
        print(f"going on with what is in {output.folder}")
    began = time.monotonic()
    try:
        found = learn_dictionary(
            jax.random.key(options.seed), rows, penalty=options.penalty, **sizes,
            solver=sparsa(prox=soft_threshold) if options.signed else sparsa(),
            callback=hear, checkpoint=output.checkpoint(),
            progress=None if options.quiet else "learning",
        )  # fmt: skip
    except KeyboardInterrupt:
        what = f"{heard[0].round} of {heard[0].num_rounds} rounds" if heard else "all rounds"
        raise InterruptedRunError(output.kept(what)) from None
    if not np.isfinite(found.objectives).any():
        raise FloatingPointError(
            f"none of the {len(found.objectives)} restarts has finite numbers; choose another "
            "--penalty, or scale the signals."
        )
    return found, heard[0].seconds if heard else time.monotonic() - began


def _assemble(
    rows: np.ndarray, found: Learned, statistics: Statistics
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and scores of the result."""
    codes, dictionary = np.asarray(found.codes), np.asarray(found.dictionary)
    used = (codes != 0).sum(axis=0)
    error = float(np.sum((rows - codes @ dictionary) ** 2, dtype=np.float64))
    objectives, hops = np.asarray(found.objectives), np.asarray(found.hops)
    best = int(np.nanargmin(objectives))
    better = np.flatnonzero(hops < objectives[best])
    result = {
        "dictionary": dictionary,
        "objective": np.asarray(found.objective),
        "penalty": np.asarray(found.penalty),
        "atom_usage": used / len(rows),
        "atom_mean": np.abs(codes).sum(axis=0) / np.maximum(used, 1),
        "dictionaries": np.asarray(found.dictionaries),
        "objectives": objectives,
        "hops": hops,
    }
    return result, {
        "best_restart": best,
        "best_hop": int(np.argmin(hops)) if len(better) else None,
        "objective": float(found.objective),
        "penalty": float(found.penalty),
        "r2": 1 - error / statistics.deviation if statistics.deviation else None,
        "l0": float(result["atom_usage"].sum()),
        "dead_atoms": int((used == 0).sum()),
        "flops": {"total": found.flops, "convention": "arithmetic"},
    }


def _draw(signals: Signals, options: argparse.Namespace) -> tuple[np.ndarray, bool]:
    """Choose all signals, or a random subset if there are more than can be learned from."""
    num = len(signals.rows)
    most = options.max_signals
    if most is None:
        most = max(_FEWEST_SIGNALS, _SIGNALS_AN_ATOM * options.num_atoms)
        most = max(min(most, _MOST_CODES // options.num_atoms), options.num_atoms)
    if num <= most:
        return np.arange(num), False
    rng = np.random.default_rng(options.seed)
    places = np.sort(rng.choice(num, most, replace=False, shuffle=False))
    if is_first():
        print(
            f"learning from {most:,} of the {num:,} signals, drawn at random (--max-signals for "
            "more)"
        )
    return places, True


def _report(config: dict, summary: dict, files: list[pathlib.Path]) -> None:
    r2 = "undefined" if summary["r2"] is None else f"{summary['r2']:.4f}"
    print(
        f"learned {config['num_atoms']:,} atoms from {config['signals']['learned_from']:,} signals "
        f"in {summary['seconds']:.1f} s, {config['num_restarts']} restarts and "
        f"{config['num_hops']} hops{', then refined' if config['num_hops'] else ''}\n"
        f"mean objective {summary['objective']:.4g} at penalty {summary['penalty']:.4g}, R² {r2}, "
        f"active atoms per signal {summary['l0']:.2f}, atoms never used {summary['dead_atoms']:,}\n"
        f"FLOPs {summary['flops']['total']:.4g} (convention arithmetic)\n"
        "wrote " + ", ".join(map(str, files))
    )
    if summary["l0"] == 0:
        print(
            "sparsecode-jax learn: warning: all codes are 0, so nothing was learned: the atoms are "
            "signals drawn at random; a smaller --penalty is needed",
            file=sys.stderr,
        )
