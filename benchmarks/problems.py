"""Problems that benchmarks solve, how they are drawn, and the gap of codes in float64."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax.io import Run
from sparsecode_jax.io._atomic import write_bytes

OUT = pathlib.Path("results/bench")
GEMM = "float32 GEMM"  # of a machine: measured, and so no part of what it is


class Scale(NamedTuple):
    """Sizes, the gap to reach, and what is solved with how many atoms."""

    num_measurements: int
    num_atoms: int
    num_active: int
    num_signals: int
    tolerance: float


# The paper's size, an image patch's, a language model's; a and c with many signals.
SCALES = {
    "a": Scale(8, 16, 3, 1024, 1e-3),
    "b": Scale(64, 256, 8, 4096, 1e-3),
    "c": Scale(768, 6144, 32, 512, 1e-5),
    "a, many": Scale(8, 16, 3, 65_536, 1e-3),
    "c, many": Scale(768, 6144, 32, 4096, 1e-5),
}


class Problem(NamedTuple):
    """Signals (B, M), dictionary (N, M), the penalty, the gap to reach, atoms a signal."""

    signals: np.ndarray
    dictionary: np.ndarray
    penalty: float
    tolerance: float
    num_active: int


def processor() -> str:
    """Return the name of this machine's processor."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def once(run: Run, part: str, fn: Callable[[], Any]) -> Any:
    """Return the JSON values that ``fn()`` measures, from disk if they were measured before."""
    kept = run.once(part, lambda: {"json": np.asarray(json.dumps(fn()))})
    return json.loads(str(kept["json"]))


def worst_gap(problem: Problem, codes: Any) -> float:
    """Return the largest relative duality gap (primal - dual) / (|x|^2 / 2), in float64 NumPy."""
    codes = np.asarray(codes, np.float64)
    signals = np.asarray(problem.signals[: len(codes)], np.float64)
    dictionary = np.asarray(problem.dictionary, np.float64)
    residual = signals - codes @ dictionary
    largest = np.maximum((residual @ dictionary.T).max(axis=1), 1e-300)
    energy = (residual**2).sum(axis=1)
    best = (signals * residual).sum(axis=1) / np.maximum(energy, 1e-300)
    scale = np.clip(best, 0, problem.penalty / largest)
    half = 0.5 * (signals**2).sum(axis=1)
    primal = 0.5 * energy + problem.penalty * codes.sum(axis=1)
    dual = half - 0.5 * ((signals - scale[:, None] * residual) ** 2).sum(axis=1)
    return float(np.max((primal - dual) / half))


def draw(scale: Scale, seed: int, coherent: bool) -> Problem:
    """Draw half-normal codes in a dictionary of Gaussian atoms, or of atoms around N/8 centers."""
    m, n, k, batch, tolerance = scale
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n, m))
    if coherent:
        centers = rng.normal(size=(n // 8, m))
        atoms = centers[rng.integers(0, len(centers), n)] + 0.7 * atoms
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((batch, n))
    for row in codes:
        row[rng.choice(n, k, replace=False)] = np.abs(rng.normal(size=k))
    signals = (codes @ atoms).astype(np.float32)
    atoms = atoms.astype(np.float32)
    penalty = 0.1 * float((signals @ atoms.T).max(axis=1).mean())
    return Problem(signals, atoms, penalty, tolerance, k)


def large_product() -> tuple[Callable[[], Any], int]:
    """Return a run of a 2,048 x 2,048 float32 product, which waits for it, and its operations."""
    size = 2048
    square = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    product(square).block_until_ready()
    return lambda: product(square).block_until_ready(), 2 * size**3


def machine() -> dict[str, Any]:
    """Describe this machine: processor, cores, versions, and its matrix product rate."""
    run, operations = large_product()
    times = []
    for _ in range(7):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return {
        "cpu": processor(), "cores": os.cpu_count(),
        GEMM: f"{operations / min(times) / 1e9:.0f} GFLOP/s (2048 x 2048, jax)",
        "python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__,
    }  # fmt: skip


def measured(
    name: str, described: dict[str, Any], parts: dict[str, Callable[[], Any]], **settings: Any
) -> dict[str, Any]:
    """Return what each part measures on the machine described; what was measured before is kept."""
    identity = {key: value for key, value in described.items() if key != GEMM} | settings
    found = {}
    with Run(OUT / name, identity, name=name) as run:
        for part, fn in {"machine": lambda: described, **parts}.items():
            print(part, flush=True)
            found[part] = once(run, part, fn)
    return found


def report(text: str, path: pathlib.Path | None) -> None:
    """Print a table, and write it to a file if one is named."""
    print("\n" + text)
    if path is not None:
        write_bytes(path, text.encode())
