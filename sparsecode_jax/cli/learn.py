"""``sparsecode-jax learn``: a dictionary from signals on disk, by restarts and then hops."""

from __future__ import annotations

import argparse
import functools
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax.cli import restarts
from sparsecode_jax.cli.errors import InterruptedRunError, bad_input
from sparsecode_jax.cli.inputs import Signals, Statistics, check_penalty, check_scale, open_signals
from sparsecode_jax.cli.outputs import Partial, output_path, wait, without_nan
from sparsecode_jax.flops import FlopCount, eval_flops
from sparsecode_jax.io import save_results
from sparsecode_jax.learning import Learned, learn_dictionary
from sparsecode_jax.learning._chunks import Chunks, restart_in_chunks
from sparsecode_jax.learning.alternating import SETTLE_ROUNDS, default_counts
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import sparsa
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = ["learn_once", "run"]

_SUFFIXES = (".npz", ".json", ".png")
_SIGNALS_AN_ATOM, _FEWEST_SIGNALS, _MOST_CODES = 100, 10_000, 2**26
_NOT_FINITE = {
    "restarts": "none of the {} restarts has finite numbers",
    "settling": "settling has numbers that are not finite",
}


def learn_once(
    key: Key,
    signals: Array,
    penalty: float | None,
    best: ArrayLike | None = None,
    *,
    num_copies: int = 1,
    settles: bool = False,
    num_atoms: int,
    num_rounds: int,
    num_steps: int,
    signed: bool,
) -> Learned:
    """Learn from one random start; from the best dictionary so far hop in copies, or settle it."""
    return learn_dictionary(
        key, signals, num_atoms=num_atoms, penalty=penalty, num_rounds=num_rounds,
        num_steps=num_steps, num_restarts=num_copies,
        num_hops=0 if best is None or settles else 1,
        num_settling=SETTLE_ROUNDS * num_rounds if settles else 0,
        dictionary0=best, solver=_solver(signed),
    )  # fmt: skip


def _chunks(
    key: Key, signals: Array, penalty: float | None, *, signed: bool, **sizes: int
) -> Chunks:
    return restart_in_chunks(key, signals, penalty=penalty, solver=_solver(signed), **sizes)


def _solver(signed: bool) -> Solver:
    return sparsa(prox=soft_threshold) if signed else sparsa()


def count_parts(
    num_signals: int,
    num_measurements: int,
    counts: tuple[int, int],
    sizes: dict[str, Any],
    has_penalty: bool = False,
) -> list[tuple[int, FlopCount]]:
    """Count a restart, a hop and settling from shapes alone, each with how often it happens."""
    num_restarts, num_hops = counts
    key = jax.eval_shape(lambda: jax.random.key(0))
    signals = jax.ShapeDtypeStruct((num_signals, num_measurements), "float32")
    best = jax.ShapeDtypeStruct((sizes["num_atoms"], num_measurements), "float32")

    def one(key: Key, signals: Array, best: Array | None = None, **options: Any) -> Any:
        penalty = 1.0 if has_penalty else None
        found = learn_once(key, signals, penalty, best, **options, **sizes)
        return found.dictionary, found.codes, found.objective

    parts = [(num_restarts, eval_flops(one, key, signals))]
    if num_hops:
        hop = functools.partial(one, num_copies=num_restarts)
        parts.append((num_hops, eval_flops(hop, key, signals, best)))
        parts.append((1, eval_flops(functools.partial(one, settles=True), key, signals, best)))
    return parts


def run(options: argparse.Namespace) -> None:
    """Learn a dictionary from a file."""
    started = time.monotonic()
    signals = open_signals(options.signals)
    output = output_path(options.output, _SUFFIXES, options.overwrite, (signals.path,))
    rows, places = _draw(signals, options)
    with bad_input("learn"):
        _checks.enough_signals("learn", len(rows), options.num_atoms)
    statistics = Statistics.of([rows])
    check_scale(signals.path, statistics)
    if options.penalty is not None:
        check_penalty(options.penalty, statistics)
    sizes: dict[str, Any] = {
        "num_atoms": options.num_atoms, "num_rounds": options.num_rounds,
        "num_steps": options.num_steps, "signed": options.signed,
    }  # fmt: skip
    counts = default_counts(options.num_atoms, options.num_restarts, options.num_hops)
    num_restarts, num_hops = counts
    config = {
        "command": "learn",
        "signals": {
            "file": str(signals.path), "shape": list(signals.array.shape),
            "dtype": str(signals.array.dtype), "learned_from": len(rows),
            "drawn_at_random": places is not None,
            "crc32_in_float32": f"{statistics.checksum:08x}",
        },
        **sizes,
        "penalty_given": options.penalty,
        "num_restarts": num_restarts,
        "num_hops": num_hops,
        "seed": options.seed,
    }  # fmt: skip
    with Partial(output, config, options.overwrite) as partial:
        values = _learn_all(rows, counts, sizes, partial, options)
        result, summary = _assemble(partial, values, counts, statistics)
        result["signed"] = np.asarray(options.signed)
        if places is not None:
            result["rows"] = places
        parts = count_parts(len(rows), rows.shape[1], counts, sizes, options.penalty is not None)
        summary["flops"] = {
            "total": sum(n * count.total() for n, count in parts), "convention": "arithmetic",
        }  # fmt: skip
        summary["seconds_of_the_last_run"] = time.monotonic() - started
        if options.figure:
            from sparsecode_jax.cli import plots

            about = f"{signals.path.name}: {len(rows):,} signals, {options.num_atoms:,} atoms"
            plots.learned(result, about, partial.staged(".png"))
        save_results(partial.staged(""), result, without_nan({**config, **summary}))
        files = partial.publish()
    _report(config, summary, files)


def _assemble(
    partial: Partial, values: np.ndarray, counts: tuple[int, int], statistics: Statistics
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and scores of the result, given the objective of every part."""
    num_restarts, num_hops = counts
    searches = values[: sum(counts)]
    best = _best(searches)
    last = len(values) - 1 if num_hops else best  # settling, which no objective judges
    result = {
        name: partial.load(last, name)
        for name in ("dictionary", "objective", "atom_usage", "atom_mean", "penalty")
    }
    missing = np.full_like(result["dictionary"], np.nan)
    result["dictionaries"] = np.stack([
        partial.load(index, "dictionary") if partial.done(index) else missing
        for index in range(num_restarts)
    ])  # fmt: skip
    result["objectives"] = values[:num_restarts]
    result["hops"] = np.array(
        [searches[_best(searches[: i + 1])] for i in range(num_restarts, len(searches))],
        values.dtype,
    )
    error, deviation = float(partial.load(last, "error")), statistics.deviation
    done = [index for index in range(len(values)) if partial.done(index)]
    return result, {
        "best_restart": _best(values[:num_restarts]),
        "best_hop": best - num_restarts if best >= num_restarts else None,
        "objective": float(result["objective"]),
        "penalty": float(result["penalty"]),
        "r2": 1 - error / deviation if deviation else None,
        "l0": float(result["atom_usage"].sum()),
        "dead_atoms": int((result["atom_usage"] == 0).sum()),
        "seconds": float(sum(partial.load(index, "seconds") for index in done)),
    }


def _draw(signals: Signals, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray | None]:
    """Read all signals, or a random subset if there are more than can be learned from."""
    num = len(signals.rows)
    most = options.max_signals
    if most is None:
        most = max(_FEWEST_SIGNALS, _SIGNALS_AN_ATOM * options.num_atoms)
        most = max(min(most, _MOST_CODES // options.num_atoms), options.num_atoms)
    if num <= most:
        return signals.batch(slice(0, num)), None
    rng = np.random.default_rng(options.seed)
    places = np.sort(rng.choice(num, most, replace=False, shuffle=False))
    print(
        f"learning from {most:,} of the {num:,} signals, drawn at random (--max-signals for more)"
    )
    return signals.batch(places), places


def _learn_all(
    rows: np.ndarray, counts: tuple[int, int], sizes: dict, partial: Partial,
    options: argparse.Namespace,
) -> np.ndarray:  # fmt: skip
    """Run and save the parts that are not there yet; return the objective of all, or NaN."""
    num_restarts, num_hops = counts
    num_searches, num = sum(counts), _num_parts(counts)
    values = np.full(num, np.nan, np.float32)
    done = np.array([partial.done(index) for index in range(num)])
    for index in range(num):
        if done[index]:
            values[index] = partial.load(index, "objective")
    if done.any() or any(map(partial.rounds, range(num_restarts))):
        print(f"going on: {_so_far(done, counts, partial)} are in {partial.folder}")
    key = jax.random.key(options.seed)
    device_rows = jax.numpy.asarray(rows)

    chunk = restarts.chunk_size(rows.shape, sizes)
    in_rounds = chunk < sizes["num_rounds"]  # else a restart is short

    def learn(index: int, bar: tqdm) -> Learned:
        part_key = jax.random.fold_in(key, index)
        if index < num_restarts and in_rounds:
            chunks = _chunks(part_key, device_rows, options.penalty, **sizes)
            return restarts.restart(chunks, partial, index, chunk, bar)
        if index < num_restarts:
            return learn_once(part_key, device_rows, options.penalty, **sizes)
        best = partial.load(_best(values[: min(index, num_searches)]), "dictionary")
        how: dict[str, Any] = {"num_copies": num_restarts}
        how = how if index < num_searches else {"settles": True}
        return learn_once(part_key, device_rows, options.penalty, best, **how, **sizes)

    stages = (
        ("restarts", range(num_restarts)),
        ("hops", range(num_restarts, num_searches)),
        ("settling", range(num_searches, num)),
    )
    try:
        for what, part in stages:
            if not part:
                continue
            unit, each = what, 1
            before = int(done[part].sum())
            if what == "restarts" and in_rounds:
                unit, each = "rounds", sizes["num_rounds"]
                before = before * each + sum(map(partial.rounds, part))
            with tqdm(total=each * len(part), initial=before, desc="learning", unit=f" {unit}",
                      disable=options.quiet, file=sys.stderr) as bar:  # fmt: skip
                for index in part:
                    if done[index]:
                        continue
                    began = time.monotonic() - partial.seconds(index)
                    found = learn(index, bar)
                    wait((found.dictionary, found.codes, found.objective), bar.refresh)
                    arrays = _part(rows, found, time.monotonic() - began)
                    if all(np.isfinite(array).all() for array in arrays.values()):
                        partial.save(index, arrays)
                        values[index], done[index] = found.objective, True
                        best = values[index if index == num_searches else _best(values)]
                        bar.set_postfix_str(f"objective {best:.4g}")
                    partial.drop_rounds(index)
                    bar.update(0 if unit == "rounds" else 1)
            if not done[part].any() and what != "hops":
                raise FloatingPointError(
                    f"{_NOT_FINITE[what].format(len(part))}; choose another --penalty, or scale "
                    "the signals."
                )
    except KeyboardInterrupt:
        raise InterruptedRunError(partial.kept(_so_far(done, counts, partial))) from None
    return values


def _num_parts(counts: tuple[int, int]) -> int:
    """Return the number of parts: restarts, hops, and settling if there are hops."""
    return sum(counts) + (counts[1] > 0)


def _so_far(done: np.ndarray, counts: tuple[int, int], partial: Partial) -> str:
    num_restarts, num_hops = counts
    text = f"{done[:num_restarts].sum()} of {num_restarts} restarts"
    num_rounds = sum(map(partial.rounds, range(num_restarts)))
    if num_rounds:
        return f"{text} and {num_rounds} rounds of the next"
    if not num_hops:
        return text
    settled = ", all settled," if done[-1] else ""
    return f"{text} and {done[num_restarts : sum(counts)].sum()} of {num_hops} hops{settled}"


def _best(values: np.ndarray) -> int:
    """Return the place of the smallest objective; NaN is where a part was not finite."""
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


def _part(rows: np.ndarray, found: Learned, seconds: float) -> dict[str, np.ndarray]:
    codes, dictionary = np.asarray(found.codes), np.asarray(found.dictionary)
    used = (codes != 0).sum(axis=0)
    with np.errstate(all="ignore"):  # what is not finite is not kept
        residuals = rows - codes @ dictionary
        error = np.sum(residuals**2, dtype=np.float64)
    return {
        "dictionary": dictionary,
        "objective": np.asarray(found.objective),
        "penalty": np.asarray(found.penalty),
        "atom_usage": used / len(rows),
        "atom_mean": np.abs(codes).sum(axis=0) / np.maximum(used, 1),
        "error": error,
        "seconds": np.asarray(seconds),
    }


def _report(config: dict, summary: dict, files: list[pathlib.Path]) -> None:
    r2 = "undefined" if summary["r2"] is None else f"{summary['r2']:.4f}"
    print(
        f"learned {config['num_atoms']:,} atoms from {config['signals']['learned_from']:,} signals "
        f"in {summary['seconds']:.1f} s, {config['num_restarts']} restarts and "
        f"{config['num_hops']} hops{', then settled' if config['num_hops'] else ''}\n"
        f"mean objective {summary['objective']:.4g} at penalty {summary['penalty']:.4g}, R² {r2}, "
        f"active atoms a signal {summary['l0']:.2f}, atoms never used {summary['dead_atoms']:,}\n"
        f"FLOPs {summary['flops']['total']:.4g} (convention arithmetic)\n"
        "wrote " + ", ".join(map(str, files))
    )
    if summary["l0"] == 0:
        print(
            "sparsecode-jax learn: warning: all codes are 0, so nothing was learned: the atoms are "
            "signals drawn at random; a smaller --penalty is needed",
            file=sys.stderr,
        )
