"""Time the solvers beside their peers, on the same problems, interleaved.

Command: ``make bench`` (about 25 minutes on 2 cores), or ``python -m benchmarks.solvers --quick``.
Needs the ``bench`` extra. Every contender reaches the same relative duality gap, within 3 %, on
every signal that it is given, checked in float64; slow peers are given fewer signals. All of them
run once in each round, so that what else the machine does meets them alike; a ratio is the median
over rounds of our time a signal over the peer's in that round.
Finished instances are kept in ``results/bench`` and not run again.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from benchmarks import peers  # sets the environment that SPAMS needs, before NumPy loads
from benchmarks.problems import SCALES, Problem, draw, machine, measured, report, worst_gap
from benchmarks.programs import encoding
from experiments.common import format_table

INSTANCES = ((101, False), (102, False), (103, True))  # seed, coherent; not used for tuning


def ours(
    problem: Problem, solver: Any, *, check_every: int = 5, prepared: bool = False
) -> tuple[Callable, int]:
    """Our solver by its one call, compiled; None is what ``sparse_encode`` chooses itself."""

    def encode(signals: Any, atoms: Any) -> Any:
        if solver is None:
            return sc.sparse_encode(signals, atoms, problem.penalty, tolerance=problem.tolerance)
        step = sc.dictionaries.step_size(atoms) if solver.step_size is None else 1.0
        lasso = sc.Lasso(signals, atoms, problem.penalty, step)
        return sc.solvers.solve_to_tolerance(
            solver, lasso, tolerance=problem.tolerance, max_steps=5000, check_every=check_every
        )[0]

    return timed(problem, encode, prepared)


def our_pursuit(
    problem: Problem, solver: Callable, *, prepared: bool = False
) -> tuple[Callable, int]:
    """Return a signed pursuit of K atoms, compiled."""
    build = functools.partial(solver, prox=sc.prox.soft_threshold)

    def encode(signals: Any, atoms: Any) -> Any:
        return sc.sparse_encode(signals, atoms, num_active=problem.num_active, solver=build)

    return timed(problem, encode, prepared)


def timed(problem: Problem, encode: Callable, prepared: bool) -> tuple[Callable, int]:
    """Return a run of ours that is waited for, and how many signals it encodes."""
    program = encoding(problem, encode, prepared=prepared)
    run = lambda: program.run()  # noqa: E731
    run.count = program.flops  # type: ignore[attr-defined]
    return run, program.per


def contenders(name: str, problem: Problem) -> dict[str, dict[str, Callable]]:
    """Return makers by task and name; the first of a task is ours that ratios are of."""
    s = sc.solvers
    lasso: dict[str, Callable] = {
        "sparse_encode": functools.partial(ours, solver=None),
        "sparse_encode, prepared": functools.partial(ours, solver=None, prepared=True),
        "sparsa": functools.partial(ours, solver=s.sparsa()),
        "fista, restart": functools.partial(ours, solver=s.fista(restart=s.gradient_restart)),
        "fista": functools.partial(ours, solver=s.fista()),
        "working_set": functools.partial(ours, solver=s.working_set(), check_every=1),
        "SPAMS, 2 threads": functools.partial(peers.spams_lasso, threads=2, gram=False),
        "SPAMS, 1 thread": functools.partial(peers.spams_lasso, threads=1, gram=False),
        "SPAMS, Gram given": functools.partial(peers.spams_lasso, threads=2, gram=True),
        "jaxopt": peers.jaxopt_lasso,
        "torch FISTA": peers.torch_fista,
        "scikit-learn": peers.scikit_learn_lasso,
        "celer": peers.celer_lasso,
    }
    if name == "a":
        lasso["coordinate_descent"] = functools.partial(ours, solver=s.coordinate_descent())
    if name.endswith("many"):  # what the number of signals changes: our chunks, peers' threads
        kept = ["sparse_encode", "sparse_encode, prepared", *(x for x in lasso if "SPAMS" in x)]
        return {"lasso": {x: lasso[x] for x in [*kept, *["jaxopt"] * (name == "a, many")]}}
    if name == "c":  # minutes each: the table says so
        for slow in ("fista", "jaxopt", "torch FISTA"):
            del lasso[slow]
    ols, omp = s.orthogonal_least_squares, s.orthogonal_matching_pursuit
    return {
        "lasso": lasso,
        "ORMP": {
            "orthogonal_least_squares": functools.partial(our_pursuit, solver=ols),
            "OLS, prepared": functools.partial(our_pursuit, solver=ols, prepared=True),
            "SPAMS omp, 2 threads": functools.partial(peers.spams_ormp, threads=2),
        },
        "OMP": {
            "orthogonal_matching_pursuit": functools.partial(our_pursuit, solver=omp),
            "OMP, prepared": functools.partial(our_pursuit, solver=omp, prepared=True),
            "scikit-learn omp": peers.scikit_learn_omp,
        },
    }


def measure(task: str, problem: Problem, makers: dict[str, Callable], rounds: int) -> dict:
    """Run all contenders of a task, interleaved; return their times a signal, gaps and FLOPs."""
    rows: dict[str, dict] = {}
    runs = {}
    for label, maker in makers.items():
        started = time.perf_counter()
        run, count = maker(problem)
        codes = np.asarray(run())
        row: dict[str, Any] = {"first": time.perf_counter() - started, "seconds": []}
        if task == "lasso":
            row["gap"] = worst_gap(problem, codes)
        if hasattr(run, "count"):
            row["flops"] = int(run.count()) / count
        row["support"] = float((codes != 0).sum(axis=1).mean())
        rows[label], runs[label] = row, (run, count, codes)
        print(f"    {label:28} first run {row['first']:7.2f} s", flush=True)
    for turn in range(rounds):
        for label, (run, count, _) in runs.items():
            started = time.perf_counter()
            run()
            rows[label]["seconds"].append((time.perf_counter() - started) / count)
        print(f"    round {turn + 1} of {rounds}", flush=True)
    reference = next(iter(runs))
    mine = runs[reference][2] != 0
    for label, (_, count, codes) in runs.items():
        here = np.asarray(rows[reference]["seconds"]) / np.asarray(rows[label]["seconds"])
        rows[label]["ratio"] = float(np.median(here))
        rows[label]["microseconds"] = 1e6 * float(np.median(rows[label]["seconds"]))
        same = np.mean(np.all(mine[:count] == (codes != 0), axis=1))
        rows[label]["same_support"] = float(same)
    return rows


def memory(num_signals: int = 4096) -> str:
    """Return the memory of scale c beyond its inputs, measured in a process of its own."""
    code = f"""
import threading, time, jax
import sparsecode_jax as sc
from benchmarks.problems import SCALES, draw
p = draw(SCALES["c"]._replace(num_signals={num_signals}), 101, False)
x, d = jax.numpy.asarray(p.signals), jax.numpy.asarray(p.dictionary)
encode = jax.jit(lambda x, d: sc.sparse_encode(x, d, p.penalty, tolerance=1e-5))
compiled = encode.lower(x, d).compile()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**30
before, seen, stop = resident(), [], threading.Event()
def watch():
    while not stop.is_set():
        seen.append(resident())
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
compiled(x, d).block_until_ready()
stop.set()
thread.join()
size = compiled.memory_analysis()
print(f"{num_signals} signals: {{max(seen) - before:.2f}} GiB more resident at the peak; the "
      f"program reserves {{(size.temp_size_in_bytes + size.output_size_in_bytes) / 2**30:.2f}} GiB")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def compile_seconds() -> str:
    """Return how long K = 32 pursuits take to compile at scale c, and twice the steps."""
    scale = SCALES["c"]
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    lasso = sc.Lasso(
        shape(64, scale.num_measurements), shape(scale.num_atoms, scale.num_measurements),
        shape(), shape(),
    )  # fmt: skip
    said = []
    for steps in (32, 64):
        solver = sc.solvers.orthogonal_least_squares(steps, prox=sc.prox.soft_threshold)
        started = time.perf_counter()
        solve = functools.partial(sc.solvers.solve, solver, num_steps=steps)
        jax.jit(lambda p, solve=solve: solve(p)).lower(lasso).compile()
        said.append(f"K = {steps}: {time.perf_counter() - started:.1f} s")
    return ", ".join(said)


def table(results: dict) -> str:
    """Return the report: one table a scale and task, median over instances of the ratios."""
    parts = [f"{key}: {value}" for key, value in results["machine"].items()]
    for name in SCALES:
        runs = [results[f"{name}-{seed}"] for seed, _ in INSTANCES if f"{name}-{seed}" in results]
        if not runs:
            continue
        for task in runs[0]:
            rows = []
            for label in runs[0][task]:
                each = [run[task][label] for run in runs]
                gaps = [row["gap"] for row in each if "gap" in row]
                flops = [row["flops"] for row in each if "flops" in row]
                last = f"{max(gaps):.1e}" if gaps else f"{min(r['same_support'] for r in each):.3f}"
                rows.append([
                    label,
                    f"{np.median([row['microseconds'] for row in each]):.4g}",
                    " / ".join(f"{row['ratio']:.3g}" for row in each),
                    last,
                    f"{np.median(flops):.3g}" if flops else "",
                ])  # fmt: skip
            scale = SCALES[name]
            ending = f", gap <= {scale.tolerance:g}" if task == "lasso" else ""
            parts.append(
                f"\n{task}, scale {name}: M = {scale.num_measurements}, N = {scale.num_atoms}, "
                f"K = {scale.num_active}, {scale.num_signals} signals{ending}"
            )
            head = ["", "us a signal", f"{next(iter(runs[0][task]))} / this, by instance"]
            head += ["worst gap" if task == "lasso" else "same support", "FLOPs a signal"]
            parts.append(format_table(head, rows))
    for key in ("memory", "compile"):
        if key in results:
            parts.append(f"\n{key}: {results[key]}")
    parts.append(
        "\nInstances: two with incoherent Gaussian atoms, then one with coherent atoms. Times are "
        "medians over rounds;\nratios are medians of ratios within a round. FLOPs: measured, "
        'convention "arithmetic".\nscikit-learn and celer: float64, one thread, 256 signals (16 at '
        "scale c), time a signal. jaxopt and torch: the first\niteration count, of a series "
        "growing by 1.3, that reaches the gap. SPAMS's omp is given eps = 0. Prepared: Gram matrix "
        "and step size are\nmade before; so is SPAMS's Gram matrix where it is given."
    )
    return "\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", nargs="+", default=list(SCALES), choices=list(SCALES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="scale a, one instance, two rounds")
    parser.add_argument("--write", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    scales, instances = (args.scales, INSTANCES) if not args.quick else (["a"], INSTANCES[:1])
    rounds = 2 if args.quick else args.rounds

    def instance(name: str, seed: int, coherent: bool) -> dict[str, Any]:
        problem = draw(SCALES[name], seed, coherent)
        found = {}
        for task, makers in contenders(name, problem).items():
            print(f"  {task}", flush=True)
            found[task] = measure(task, problem, makers, rounds)
        return found

    parts = {
        f"{name}-{seed}": functools.partial(instance, name, seed, coherent)
        for name in scales
        for seed, coherent in instances
    }
    name = f"solvers{'-quick' if args.quick else ''}"
    results = measured(name, machine(), parts, rounds=rounds)
    if "c" in scales:
        results["memory"], results["compile"] = memory(), compile_seconds()
    report(table(results), args.write)


if __name__ == "__main__":
    main()
