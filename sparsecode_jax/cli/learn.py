"""``sparsecode-jax learn``: a dictionary from signals on disk, restart by restart."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax.cli.errors import BadInputError, InterruptedRunError, bad_input
from sparsecode_jax.cli.inputs import Signals, Statistics, open_signals
from sparsecode_jax.cli.outputs import Partial, output_path, wait
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.io import save_results
from sparsecode_jax.learning import Learned, learn_dictionary
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.solvers import fista
from sparsecode_jax.types import Array, Key

__all__ = ["learn_once", "run"]

_SUFFIXES = (".npz", ".json", ".png")
_SIGNALS_AN_ATOM, _FEWEST_SIGNALS, _MOST_CODES = 100, 10_000, 2**26


def learn_once(
    key: Key,
    signals: Array,
    penalty: float | None,
    *,
    num_atoms: int,
    num_rounds: int,
    num_steps: int,
    signed: bool,
) -> Learned:
    """Learn from one random start: the one place to put another learner, such as an online one."""
    return learn_dictionary(
        key, signals, num_atoms=num_atoms, penalty=penalty, num_rounds=num_rounds,
        num_steps=num_steps, num_restarts=1,
        solver=fista(prox=soft_threshold) if signed else fista(),
    )  # fmt: skip


def count_restart(
    num_signals: int, num_measurements: int, sizes: dict[str, Any], has_penalty: bool = False
) -> Any:
    """Count the operations of one restart, from shapes alone."""
    signals = jax.ShapeDtypeStruct((num_signals, num_measurements), "float32")

    def one(key: Key, signals: Array) -> Any:
        found = learn_once(key, signals, 1.0 if has_penalty else None, **sizes)
        return found.dictionary, found.codes, found.objective

    return eval_flops(one, jax.eval_shape(lambda: jax.random.key(0)), signals)


def run(options: argparse.Namespace) -> None:
    """Learn a dictionary from a file."""
    started = time.monotonic()
    signals = open_signals(options.signals)
    output = output_path(options.output, _SUFFIXES, options.overwrite, (signals.path,))
    rows, places = _draw(signals, options)
    with bad_input():
        _checks.enough_signals("learn", len(rows), options.num_atoms)
    statistics = Statistics.of([rows])
    if statistics.largest == 0:
        raise BadInputError(
            f"{signals.path} holds nothing but zeros; signals with some measurement that is not 0 "
            "are expected. Check what wrote it."
        )
    sizes: dict[str, Any] = {
        "num_atoms": options.num_atoms, "num_rounds": options.num_rounds,
        "num_steps": options.num_steps, "signed": options.signed,
    }  # fmt: skip
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
        "num_restarts": options.num_restarts,
        "seed": options.seed,
    }  # fmt: skip
    partial = Partial(output, config, options.overwrite)
    _learn_all(rows, sizes, partial, options)
    columns = {
        name: np.stack(list(partial.column(options.num_restarts, name)))
        for name in ("dictionary", "objective", "atom_usage", "atom_mean", "penalty", "error",
                     "seconds")
    }  # fmt: skip
    values = columns["objective"]
    if not np.isfinite(values).any():
        raise FloatingPointError(
            "no restart has a finite objective; scale the signals, or choose another --penalty."
        )
    best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
    result = {
        "dictionary": columns["dictionary"][best],
        "dictionaries": columns["dictionary"],
        "objectives": values,
        "atom_usage": columns["atom_usage"][best],
        "atom_mean": columns["atom_mean"][best],
        "penalty": columns["penalty"][best],
        "signed": np.asarray(options.signed),
    }
    if places is not None:
        result["rows"] = places
    count = count_restart(len(rows), rows.shape[1], sizes, has_penalty=options.penalty is not None)
    summary = {
        "best_restart": best,
        "objective": float(values[best]),
        "penalty": float(result["penalty"]),
        "r2": 1 - float(columns["error"][best]) / statistics.deviation
        if statistics.deviation
        else None,
        "l0": float(result["atom_usage"].sum()),
        "dead_atoms": int((result["atom_usage"] == 0).sum()),
        "flops": {"total": options.num_restarts * count.total(), "convention": "arithmetic"},
        "seconds": float(columns["seconds"].sum()),
        "seconds_of_the_last_run": time.monotonic() - started,
    }
    files = []
    if options.figure:
        from sparsecode_jax.cli import plots

        about = f"{signals.path.name}: {len(rows):,} signals, {options.num_atoms:,} atoms"
        files.append(plots.learned(result, about, f"{output}.png"))
    files = [*save_results(output, result, {**config, **summary}), *files]
    partial.remove()
    _report(config, summary, files)


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
    rows: np.ndarray, sizes: dict, partial: Partial, options: argparse.Namespace
) -> None:
    """Run and save the restarts that are not there yet."""
    num = options.num_restarts
    done = [partial.done(index) for index in range(num)]
    if any(done):
        print(f"going on: {sum(done)} of {num} restarts are in {partial.folder}")
    values = [float(x) for i in range(num) if done[i] for x in [_objective(partial, i)]]
    key = jax.random.key(options.seed)
    device_rows = jax.numpy.asarray(rows)
    try:
        with tqdm(total=num, initial=sum(done), desc="learning", unit=" restarts",
                  disable=options.quiet, file=sys.stderr) as bar:  # fmt: skip
            for index in range(num):
                if done[index]:
                    continue
                began = time.monotonic()
                found = learn_once(
                    jax.random.fold_in(key, index), device_rows, options.penalty, **sizes
                )
                wait((found.dictionary, found.codes, found.objective), bar.refresh)
                values.append(float(found.objective))
                partial.save(index, _part(rows, found, time.monotonic() - began))
                done[index] = True
                bar.update()
                bar.set_postfix_str(f"best objective {np.nanmin(values):.4g}")
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"{sum(done)} of {num} restarts are kept in {partial.folder}; the same command goes on "
            "from there."
        ) from None


def _objective(partial: Partial, index: int) -> np.ndarray:
    with np.load(partial.path(index), allow_pickle=False) as part:
        return part["objective"]


def _part(rows: np.ndarray, found: Learned, seconds: float) -> dict[str, np.ndarray]:
    codes, dictionary = np.asarray(found.codes), np.asarray(found.dictionary)
    used = (codes != 0).sum(axis=0)
    return {
        "dictionary": dictionary,
        "objective": np.asarray(found.objective),
        "penalty": np.asarray(found.penalty),
        "atom_usage": used / len(rows),
        "atom_mean": np.abs(codes).sum(axis=0) / np.maximum(used, 1),
        "error": np.sum((rows - codes @ dictionary) ** 2, dtype=np.float64),
        "seconds": np.asarray(seconds),
    }


def _report(config: dict, summary: dict, files: list[pathlib.Path]) -> None:
    r2 = "undefined" if summary["r2"] is None else f"{summary['r2']:.4f}"
    print(
        f"learned {config['num_atoms']:,} atoms from {config['signals']['learned_from']:,} signals "
        f"in {summary['seconds']:.1f} s, {config['num_restarts']} restarts\n"
        f"mean objective {summary['objective']:.4g} at penalty {summary['penalty']:.4g}, R² {r2}, "
        f"active atoms a signal {summary['l0']:.2f}, atoms never used {summary['dead_atoms']:,}\n"
        f"FLOPs {summary['flops']['total']:.4g} (convention arithmetic)\n"
        "wrote " + ", ".join(map(str, files))
    )
