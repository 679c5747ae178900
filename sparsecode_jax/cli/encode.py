"""``sparsecode-jax encode``: signals of any number, batch by batch, into sparse codes."""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax._processes import is_first, on_first
from sparsecode_jax.cli import inference
from sparsecode_jax.cli.codes import Joined, bar_of, dense_part, encode_batches, filled, sparse_part
from sparsecode_jax.cli.errors import BadInputError, bad_input
from sparsecode_jax.cli.inputs import (
    Atoms,
    Signals,
    Statistics,
    check_penalty,
    check_scale,
    open_dictionary,
    open_signals,
)
from sparsecode_jax.cli.outputs import (
    DENSE,
    Output,
    without_nan,
    write_dense,
    write_npz,
)
from sparsecode_jax.cli.parser import PURSUITS
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.io._atomic import write_bytes
from sparsecode_jax.io.results import manifest_text
from sparsecode_jax.io.runs import wait
from sparsecode_jax.types import Lasso

__all__ = ["run"]

_FRACTION = 0.015  # of the root mean square norm: the default penalty, as of learn_dictionary
_TOLERANCE = 1e-4
_UNUSUAL = 1e-4, 1e4  # norms of atoms: below or above, a warning
_BATCH, _BATCH_CODES = 4096, 2**25


def run(options: argparse.Namespace) -> None:
    """Encode a file."""
    suffixes = (".npz", ".npy", ".json", ".png") if options.dense else (".npz", ".json", ".png")
    inputs = (options.signals, options.dictionary)
    with Output(options.output, suffixes, inputs, "encode") as output:
        _run(options, output)


def _run(options: argparse.Namespace, output: Output) -> None:
    started = time.monotonic()
    signals, atoms = open_signals(options.signals), open_dictionary(options.dictionary)
    with bad_input("encode"):
        _checks.same_measurements("encode", signals.rows, atoms.dictionary)
    num_atoms = len(atoms.dictionary)
    signed = bool(atoms.signed) if options.signed is None else options.signed
    method = inference.choose(
        options.solver, signed=signed, num_active=options.num_active,
        num_steps=options.num_steps, shape=atoms.dictionary.shape,
    )  # fmt: skip
    pursues = method.name in PURSUITS
    for given, name in ((options.penalty, "penalty"), (options.tolerance, "tolerance")):
        if pursues and given is not None:
            raise BadInputError(
                f"--{name} {given:g} is given, but --solver {method.name} stops at --num-active "
                f"atoms; no --{name} is expected with it. Leave it out, or choose another solver."
            )
    size = options.batch_size or min(_BATCH, max(256, _BATCH_CODES // num_atoms))
    num_batches = -(-len(signals.rows) // size)
    size = -(-len(signals.rows) // num_batches)  # as equal as they can be
    statistics = Statistics.by_first("encode", lambda: _look(signals, size, options.quiet))
    penalty = 0.0 if pursues else _penalty(options, atoms, statistics)
    tolerance = None if method.num_steps is not None else options.tolerance or _TOLERANCE
    if tolerance is not None:
        example = np.full((1, 1), statistics.largest, np.float32)
        with bad_input("encode"):
            problem = Lasso(*map(jnp.asarray, (example, atoms.dictionary, penalty, 1.0)))
            _checks.to_tolerance("encode", problem, tolerance, with_penalty=True)
    config = {
        "command": "encode",
        "signals": {
            "file": str(signals.path), "shape": list(signals.array.shape),
            "dtype": str(signals.array.dtype), "crc32_in_float32": f"{statistics.checksum:08x}",
        },
        "dictionary": {
            "file": str(atoms.path), "shape": list(atoms.dictionary.shape), "sha256": atoms.sha256,
        },
        "penalty": None if pursues else penalty,
        "signed": signed,
        "solver": method.name,
        "num_active": options.num_active,
        "num_steps": method.num_steps,
        "tolerance": tolerance,
        "batch_size": size,
    }  # fmt: skip
    output.begin(config, options.overwrite)
    _encode_all(signals, atoms, method, (penalty, tolerance), size, output, options.quiet)

    def publish() -> None:
        result, shapes = _assemble(output, num_batches, signals, num_atoms, options.dense)
        summary = _summary(result, (signals, atoms, statistics), method, options.dense, started)
        if options.figure:
            from sparsecode_jax.cli import plots

            about = f"{signals.path.name}: {len(signals.rows):,} signals, {num_atoms:,} atoms; "
            about += f"{method.name}, " + (
                f"{options.num_active} atoms per signal" if pursues else f"λ = {penalty:.4g}"
            )
            plots.encoded(result, size, len(signals.rows), about, output.staged(".png"))
        text = manifest_text(without_nan({**config, **summary}), shapes)
        write_bytes(output.staged(".json"), text.encode())
        _report(config, summary, output.publish(), atoms)

    on_first("encode", publish, patience=math.inf)


def _summary(
    result: dict[str, Any], inputs: tuple[Signals, Atoms, Statistics], method: inference.Method,
    dense: bool, started: float,
) -> dict[str, Any]:  # fmt: skip
    signals, atoms, statistics = inputs
    step = jnp.asarray(atoms.dictionary)
    once = eval_flops(lambda d: inference.step_size(d, method=method), step).total()
    total = once + result.pop("flops")
    return {
        **{k: float(v) for k, v in result.items() if np.ndim(v) == 0},
        "num_signals": len(signals.rows),
        "r2": 1 - float(result["squared_error"]) / statistics.deviation
        if statistics.deviation
        else None,
        "dead_atoms": int((result["atom_usage"] == 0).sum()),
        "flops": {
            "total": total, "per_signal": total / len(signals.rows), "convention": "arithmetic",
        },
        "seconds_of_the_last_run": time.monotonic() - started,
        "codes": DENSE if dense else "scipy.sparse.load_npz",
    }  # fmt: skip


def _look(signals: Signals, size: int, quiet: bool) -> Statistics:
    """Read everything once: scale, checksum, and that all of it is finite."""

    def batches() -> Any:
        with bar_of(len(signals.rows), 0, "reading", quiet) as bar:
            for start in range(0, len(signals.rows), size):
                yield signals.batch(slice(start, start + size))
                bar.update(min(size, len(signals.rows) - start))

    statistics = Statistics.of(batches())
    check_scale(signals.path, statistics)
    return statistics


def _penalty(options: argparse.Namespace, atoms: Atoms, statistics: Statistics) -> float:
    penalty, why = options.penalty, None
    if penalty is None:
        penalty, why = atoms.penalty_of_learning(), "which the dictionary was learned with"
    if penalty is None:
        penalty = _FRACTION * statistics.rms
        why = f"{_FRACTION} of the signals' root mean square norm"
    check_penalty(penalty, statistics)
    if why and is_first():
        print(f"penalty {penalty:.4g}, {why}")
    return penalty


def _encode_all(
    signals: Signals, atoms: Atoms, method: inference.Method, numbers: tuple[float, float | None],
    size: int, output: Output, quiet: bool,
) -> None:  # fmt: skip
    dictionary = jnp.asarray(atoms.dictionary)
    penalty, tolerance = numbers
    args = (
        dictionary,
        jnp.float32(penalty),
        inference.step_size(dictionary, method=method),
        None if tolerance is None else jnp.float32(tolerance),
    )
    encode = inference.encode_batch(method)

    def one(index: int, bar: tqdm) -> None:
        began = time.monotonic()
        batch = signals.batch(slice(index * size, (index + 1) * size))
        rows = len(batch)
        codes, scores, count = encode(filled(batch, size), *args)
        wait(codes, bar.refresh)
        scores = inference.Scores(*(x[:rows] for x in scores))
        seconds = time.monotonic() - began
        _save(output, index, size, codes[:rows], scores, int(count.total()), seconds)
        bar.set_postfix_str(f"objective {float(scores.objective.mean()):.4g}", refresh=False)

    encode_batches("encode", one, output.done, output, len(signals.rows), size, quiet)


def _save(
    output: Output, index: int, size: int, codes: Any, scores: inference.Scores, flops: int,
    seconds: float,
) -> None:  # fmt: skip
    codes = np.asarray(codes)
    sums = [np.sum(np.asarray(x), dtype=np.float64) for x in scores]
    if not np.isfinite(codes).all() or not np.isfinite(sums).all():
        first = index * size
        raise FloatingPointError(
            f"rows {first} to {first + len(codes) - 1} have codes or objectives that are not "
            "finite; atoms and signals of a scale near 1 are expected. Scale them, or take another "
            "--solver."
        )
    flops_text = np.asarray(str(flops))  # an exact integer of any size
    output.save(
        index, {**sparse_part(codes), "sums": np.asarray([*sums, seconds]), "flops": flops_text}
    )


def _assemble(
    output: Output, num: int, signals: Signals, num_atoms: int, dense: bool
) -> tuple[dict[str, Any], dict[str, tuple]]:
    """Join the parts, one at a time in memory; return statistics and array shapes."""
    rows = len(signals.rows)
    joined = Joined.of(output, num, num_atoms)
    sums = np.stack([part["sums"] for part in joined.rest])
    result: dict[str, Any] = {
        **joined.usage(),
        "batch_objective": sums[:, 0] / joined.sizes,
        "objective": sums[:, 0].sum() / rows,
        "squared_error": sums[:, 1].sum(),
        "mean_steps": sums[:, 2].sum() / rows,
        "converged_fraction": sums[:, 3].sum() / rows,
        "l0": joined.used.sum() / rows,
        "seconds": sums[:, 4].sum(),
        "flops": sum(int(str(part["flops"])) for part in joined.rest),
    }
    arrays: dict[str, Any] = {
        name: result[name]
        for name in ("atom_usage", "atom_mean", "active_atoms", "batch_objective")
    }
    if dense:
        shape = (*signals.array.shape[:-1], num_atoms)
        dense_rows = (dense_part(num_atoms, output.load(index)) for index in range(num))
        write_dense(output.staged(".npy"), shape, dense_rows)
    else:
        arrays = {**joined.matrix(output), **arrays}
    write_npz(output.staged(".npz"), arrays)
    return result, {name: tuple(value.shape) for name, value in arrays.items()}


def _report(config: dict, summary: dict, files: list[pathlib.Path], atoms: Atoms) -> None:
    rate = summary["num_signals"] / max(summary["seconds"], 1e-9)
    r2 = "undefined" if summary["r2"] is None else f"{summary['r2']:.4f}"
    print(
        f"encoded {summary['num_signals']:,} signals in {summary['seconds']:.1f} s "
        f"({rate:,.0f} signals/s, compilation included)\n"
        f"mean objective {summary['objective']:.4g}, R² {r2}, active atoms per signal "
        f"{summary['l0']:.2f} of {len(atoms.dictionary):,}, "
        f"atoms never used {summary['dead_atoms']:,}\n"
        f"FLOPs {summary['flops']['total']:.4g} ({summary['flops']['per_signal']:,.0f} per signal, "
        "convention arithmetic)\nwrote " + ", ".join(map(str, files))
    )
    warn = []
    if summary["converged_fraction"] < 1:
        missed = round((1 - summary["converged_fraction"]) * summary["num_signals"])
        warn.append(f"{missed:,} signals are not within the tolerance {config['tolerance']:g}")
    shortest, longest = atoms.norms
    if shortest < _UNUSUAL[0] or longest > _UNUSUAL[1]:
        warn.append(
            f"the atoms have norms from {shortest:.3g} to {longest:.3g}, where norms near 1 are "
            "usual: penalties weigh and steps move such atoms unlike others; divide each by its "
            "norm" + ("; all codes are 0" if summary["l0"] == 0 else "")
        )
    elif summary["l0"] == 0:
        warn.append("all codes are 0; a smaller --penalty is needed to explain anything")
    for text in warn:
        print(f"sparsecode-jax encode: warning: {text}", file=sys.stderr)
