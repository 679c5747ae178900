"""Time what users wait for: the import, first calls, eager calls, and programs beside their limits.

    python -m benchmarks.waits [--quick] [--write docs/results/waits.txt]

Part of ``make bench`` (about 10 minutes on 2 cores); needs nothing but the package's extra
``experiments``. Finished parts are kept in ``results/bench`` and not run again.

The import is timed in interpreters of its own, with and without the package, in turn. Eager calls
and the same calls jitted run in turn, on ready arrays. A first call is traced, lowered and
compiled from shapes, nothing read from a cache. Steps are those that the default solver took for
each signal. Programs (benchmarks/programs.py) are set beside what their FLOPs would take at the
rate of one large matrix product, timed in the same rounds.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from benchmarks.problems import SCALES, draw, large_product, machine, measured, report
from benchmarks.programs import PROGRAMS, SEED
from experiments.common import format_table

# M, N, K, signals of first calls.
SIZES = {
    **{x: (*SCALES[x][:3], 256) for x in ("a", "b", "c")},
    "wide": (768, 16_384, 64, 256),
}
QUICK_SIZES = {"a": SIZES["a"]}
QUICK_PROGRAMS = ("lasso a", "OLS a")


def imports(rounds: int) -> dict[str, float]:
    """Return the median seconds of importing jax, the package after it, and all of its rooms."""
    timed = """
import time
before = time.perf_counter()
import jax, jax.numpy
print(time.perf_counter() - before)
before = time.perf_counter()
import sparsecode_jax as sc
print(time.perf_counter() - before)
for name in sc.__all__:
    getattr(sc, name)
print(time.perf_counter() - before)
"""
    found = []
    for _ in range(rounds + 1):  # the first writes what Python compiles
        done = subprocess.run(
            [sys.executable, "-c", timed], capture_output=True, text=True, check=True
        )
        found.append([float(x) for x in done.stdout.split()])
    medians = np.median(found[1:], axis=0)
    return dict(zip(("jax", "over", "all"), map(float, medians), strict=True))


def eager(rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of eager calls and of the same calls jitted, on 1,024 ready signals."""
    problem = draw(SCALES["a"], SEED, False)
    signals, atoms = jnp.asarray(problem.signals), jnp.asarray(problem.dictionary)
    penalty = jnp.float32(problem.penalty)
    calls: dict[str, Callable] = {
        "tolerance=1e-3": lambda x, d: sc.sparse_encode(x, d, penalty, tolerance=1e-3),
        "num_steps=20": lambda x, d: sc.sparse_encode(x, d, penalty, num_steps=20),
        "num_active=3": lambda x, d: sc.sparse_encode(x, d, num_active=3),
    }
    found = {}
    for name, call in calls.items():
        both: dict[str, Callable] = {"eager": call, "jitted": jax.jit(call)}
        seconds: dict[str, list[float]] = {key: [] for key in both}
        for turn in range(rounds + 3):
            for key, run in both.items():
                started = time.perf_counter()
                jax.block_until_ready(run(signals, atoms))
                if turn >= 3:
                    seconds[key].append(time.perf_counter() - started)
        found[name] = {key: 1e3 * float(np.median(each)) for key, each in seconds.items()}
        more = np.asarray(seconds["eager"]) - np.asarray(seconds["jitted"])
        found[name]["over"] = 1e3 * float(np.median(more))
    return found


def public_calls(size: tuple[int, int, int, int]) -> dict[str, tuple[Callable, tuple]]:
    """Return the calls that are compiled, by name, with shapes of their arguments."""
    m, n, k, batch = size
    s = sc.solvers
    signals, atoms = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, m), (n, m)))
    codes = jax.ShapeDtypeStruct((batch, n), jnp.float32)
    calls: dict[str, tuple[Callable, tuple]] = {
        "sparse_encode(tolerance=)": (
            lambda x, d: sc.sparse_encode(x, d, 0.1, tolerance=1e-4), (signals, atoms)
        ),
        "its gradient": (
            jax.grad(lambda d, x: jnp.sum(sc.sparse_encode(x, d, 0.1, tolerance=1e-4))),
            (atoms, signals),
        ),
        "refit": (
            lambda z, x, d: s.refit(z, x, d, num_active=k, prox=sc.prox.soft_threshold),
            (codes, signals, atoms),
        ),
        "mcc": (lambda z: sc.metrics.mcc(z, z), (codes,)),
    }  # fmt: skip
    solvers = {
        "ista": s.ista(), "fista": s.fista(), "sparsa": s.sparsa(), "lca": s.lca(),
        "log_adam": s.log_adam(), "coordinate_descent": s.coordinate_descent(),
        "working_set": s.working_set(min(m, n)), "matching_pursuit": s.matching_pursuit(),
        "orthogonal_matching_pursuit": s.orthogonal_matching_pursuit(k),
        "orthogonal_least_squares": s.orthogonal_least_squares(k),
        "gradient_pursuit": s.gradient_pursuit(k), "cosamp": s.cosamp(k),
        "subspace_pursuit": s.subspace_pursuit(k),
        "iterative_hard_thresholding": s.iterative_hard_thresholding(k),
    }  # fmt: skip
    for name, solver in solvers.items():
        calls[f"solve({name})"] = (
            lambda x, d, solver=solver: s.solve(solver, sc.Lasso(x, d, 0.1, 0.1), num_steps=k),
            (signals, atoms),
        )
    e, losses = sc.encoders, sc.training.losses
    for name, encoder, loss in (
        ("linear", e.linear(m, n), losses.lasso),
        ("top_k", e.top_k(m, n, num_active=k), losses.squared_error),
        ("top_k, aux_k", e.top_k(m, n, num_active=k), losses.aux_k(num_aux=m // 2)),
        ("batch_top_k", e.batch_top_k(m, n, num_active=k), losses.squared_error),
        ("jump_relu", e.jump_relu(m, n), losses.lasso),
        ("gated", e.gated(m, n), losses.lasso),
        ("lista", e.lista(m, n, num_layers=3), losses.lasso),
    ):
        aux = name.endswith("aux_k")
        recipe = sc.training.Recipe(loss=loss, dead_after=100 if aux else None)

        def step(
            x: Any, d: Any, encoder: Any = encoder, recipe: Any = recipe, aux: bool = aux
        ) -> Any:
            data = sc.training.TrainData(x, None, None, jnp.float32(0.1), jnp.float32(1e-3))
            params = sc.training.Autoencoder(encoder.init(jax.random.key(0)), d)
            state = sc.training.init_state(
                jax.random.key(1), params, data, num_latents=n if aux else None
            )
            return sc.training.train_step(state, data, encoder=encoder, recipe=recipe)

        calls[f"train_step({name})"] = step, (signals, atoms)
    return calls


def first_calls(size: tuple[int, int, int, int]) -> dict[str, float]:
    """Return the seconds of tracing, lowering and compiling each call."""
    found = {}
    for name, (call, shapes) in public_calls(size).items():
        jax.clear_caches()
        started = time.perf_counter()
        jax.jit(call).lower(*shapes).compile()
        found[name] = time.perf_counter() - started
        print(f"    {name:40} {found[name]:6.2f} s", flush=True)
    return found


def distribution(scale: str) -> dict[str, Any]:
    """Return how the default solver's steps are spread over signals, coherent atoms too."""
    found: dict[str, Any] = {}
    for coherent in (False, True):
        problem = draw(SCALES[scale], SEED, coherent)
        signals, atoms = jnp.asarray(problem.signals), jnp.asarray(problem.dictionary)
        solver, options = sc.solvers.default_solver(atoms)
        lasso = sc.Lasso(signals, atoms, problem.penalty, sc.dictionaries.step_size(atoms))

        @jax.jit
        def run(lasso: Any, solver: Any = solver, options: Any = options,
                tolerance: float = problem.tolerance) -> Any:  # fmt: skip
            return sc.solvers.solve_to_tolerance(solver, lasso, tolerance=tolerance, **options)[
                1
            ].num_steps

        steps = np.asarray(run(lasso))
        order = np.argsort(steps, kind="stable")
        # The same number of signals twice, and the fastest 99 of 100 in the place of all.
        most = jnp.asarray(np.resize(order[: int(0.99 * len(order))], len(order)))
        both: dict[str, list[float]] = {"all": [], "99 of 100": []}
        for turn in range(12):
            for name, rows in (("all", signals), ("99 of 100", signals[most])):
                started = time.perf_counter()
                jax.block_until_ready(run(lasso._replace(signals=rows)))
                if turn > 1:
                    both[name].append(time.perf_counter() - started)
        ratios = np.asarray(both["all"]) / np.asarray(both["99 of 100"])
        slowest = np.sort(steps)[-max(len(steps) // 100, 1) :]
        found["coherent" if coherent else "incoherent"] = {
            "quantiles": [float(q) for q in np.quantile(steps, (0.5, 0.9, 0.99, 1.0))],
            "share": float(slowest.sum()) / float(steps.sum()),
            "ratio": float(np.median(ratios)),
        }
    return found


def limits(name: str, rounds: int) -> dict[str, Any]:
    """Time a program and a large matrix product in turn; add what it reserves and the peak."""
    product, operations = large_product()
    program = PROGRAMS[name]()
    program.run()
    program.run()
    mine, limit = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        program.run()
        mine.append((time.perf_counter() - started) / program.per)
        started = time.perf_counter()
        for _ in range(5):
            product()
        limit.append((time.perf_counter() - started) / 5 / operations)
    found: dict[str, Any] = {"seconds": float(np.median(mine)), "unit": program.unit}
    if program.flops is not None:
        flops = program.flops() / program.per
        found |= {
            "flops": flops, "limit": float(np.median(flops * np.asarray(limit) / np.asarray(mine)))
        }  # fmt: skip
    if program.temporaries is not None:
        found["temporaries"] = program.temporaries()
    status = pathlib.Path("/proc/self/status")  # of this program alone; getrusage has its parent's
    if status.exists():
        found["peak"] = 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])  # type: ignore[index]
    return found


def in_process(name: str, rounds: int) -> dict[str, Any]:
    """Measure a program in an interpreter of its own, whose peak of memory is its own."""
    code = (
        "import json; from benchmarks.waits import limits; "
        f"print(json.dumps(limits({name!r}, {rounds})))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"waits: {name} ended with {done.returncode}; what it said is above")
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    """Return the report."""
    parts = [f"{key}: {value}" for key, value in found["machine"].items()]
    each = found["imports"]
    parts.append(
        f"\nimport sparsecode_jax: {each['over']:.2f} s after import jax ({each['jax']:.2f} s); "
        f"with every name of it used once {each['all']:.2f} s"
    )
    rows = [
        [name, *(f"{row[key]:.2f}" for key in ("eager", "jitted", "over"))]
        for name, row in found["eager"].items()
    ]
    parts.append("\nsparse_encode of 1,024 signals, scale a, on ready arrays, ms")
    parts.append(format_table(["", "eager", "jitted", "eager - jitted"], rows))
    sizes = [key.removeprefix("first-") for key in found if key.startswith("first-")]
    names = list(found[f"first-{sizes[0]}"])
    rows = [[name, *(f"{found[f'first-{s}'][name]:.1f}" for s in sizes)] for name in names]
    heads = [f"{s}: {SIZES[s][0]} x {SIZES[s][1]:,}" for s in sizes]
    parts.append("\nfirst calls: tracing, lowering and compiling, 256 signals, s")
    parts.append(format_table(["", *heads], rows))
    rows = []
    for scale in (key.removeprefix("steps-") for key in found if key.startswith("steps-")):
        for kind, row in found[f"steps-{scale}"].items():
            rows.append([
                scale, kind, *(f"{q:g}" for q in row["quantiles"]), f"{row['share']:.2f}",
                f"{row['ratio']:.2f}",
            ])  # fmt: skip
    head = ["scale", "atoms", "median", "90 %", "99 %", "most", "share", "time with / without"]
    parts.append(
        "\nsteps (at c: rounds) of the default solver per signal; the slowest percent's share of "
        "all steps, and the time of\nthe batch over that of as many signals without that percent"
    )
    parts.append(format_table(head, rows))
    rows = []
    for name in (key.removeprefix("program-") for key in found if key.startswith("program-")):
        row = found[f"program-{name}"]
        mib = f"{row['temporaries'] / 2**20:.0f}" if "temporaries" in row else ""
        flops = [f"{row['flops']:.3g}", f"{row['limit']:.0%}"] if "flops" in row else ["", ""]
        rows.append([
            name, f"{1e6 * row['seconds']:.4g} a {row['unit']}", *flops, mib,
            f"{row['peak'] / 2**20:.0f}" if "peak" in row else "",
        ])  # fmt: skip
    head = ["program", "us", "FLOPs", "of the limit", "temporaries, MiB", "peak, MiB"]
    parts.append("\nprograms beside the rate of a 2,048 x 2,048 matrix product")
    parts.append(format_table(head, rows))
    parts.append(
        "\nOf the limit: what the FLOPs would take at the product's rate over what the program "
        "took, median over rounds\nin which both ran. Temporaries: what the compiled program "
        "reserves. Peak: of the process, with JAX's own 300 MiB\nand the data."
    )
    return "\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="scale a, few rounds")
    parser.add_argument("--write", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    sizes = QUICK_SIZES if args.quick else SIZES
    programs = QUICK_PROGRAMS if args.quick else tuple(PROGRAMS)
    parts: dict[str, Callable[[], Any]] = {
        "imports": lambda: imports(2 if args.quick else 9),
        "eager": lambda: eager(10 if args.quick else 200),
        **{f"first-{key}": functools.partial(first_calls, size) for key, size in sizes.items()},
        **{f"steps-{key}": functools.partial(distribution, key) for key in sizes if key in SCALES},
        **{
            f"program-{name}": functools.partial(in_process, name, 2 if args.quick else 5)
            for name in programs
        },
    }
    found = measured(f"waits{'-quick' if args.quick else ''}", machine(), parts)
    report(table(found), args.write)


if __name__ == "__main__":
    main()
