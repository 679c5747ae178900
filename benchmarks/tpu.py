"""Compile every program of the library for a TPU, ahead of time and without having one.

Command: ``make accelerators`` (about an hour on 2 cores), or ``python -m benchmarks.tpu --quick``.
Needs the ``tpu`` extra: libtpu holds the compiler, which describes a slice of TPU v5e and compiles
for it on any Linux machine. Nothing is run. For each program the table has what the compiler says
of its memory, and how much is in it that a TPU does slowly: sorts, transpositions, loops, gathers
between chips, and calls of what XLA has no instruction for.
Finished programs are kept in ``results/tpu.json`` and not compiled again while the program, its
sizes and the versions of jax and libtpu are the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

# Read when jax and libtpu are loaded: ask no cloud which machine this is, and use no chip.
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip to be alone with
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import sparsecode_jax as sc
from experiments.common import format_table
from sparsecode_jax.dictionary_learning import online, updates
from sparsecode_jax.io import BusyError, Run
from sparsecode_jax.io._atomic import write_bytes
from sparsecode_jax.training import Autoencoder, Recipe, TrainData, init_state, losses, train_step

TOPOLOGY = "v5e:2x2"
KINDS = ("sort", "transpose", "while", "all-gather")
MEBIBYTE = 2**20


class Sizes(NamedTuple):
    """Measurements, atoms, signals, and active atoms of pursuits and TopK."""

    m: int
    n: int
    b: int
    k: int

    def __str__(self) -> str:
        return f"M={self.m:,}, N={self.n:,}, B={self.b:,}, K={self.k}"


SCALE_C = Sizes(768, 6144, 4096, 32)
LEARNER = Sizes(64, 1024, 4096, 8)  # the learner factors N x N, which takes minutes to compile at c
TINY = Sizes(16, 32, 64, 4)


class Program(NamedTuple):
    """A program and the shapes of its arguments.

    With ``sharded`` the leading axis of the first argument is split over the four chips and the
    others are on all of them; otherwise everything is on one chip.
    """

    name: str
    fn: Callable
    args: tuple
    sizes: Sizes
    sharded: bool = False


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def keys(*shape: int) -> jax.ShapeDtypeStruct:
    return array(*shape, dtype=jax.eval_shape(lambda: jax.random.key(0)).dtype)


def solver_programs(sizes: Sizes) -> Iterator[Program]:
    """Yield every solver for a number of steps, two to a tolerance, and refit."""
    s = sc.solvers
    iterative = {
        "fista": (s.fista(), 24),
        "fista, restart": (s.fista(restart=s.gradient_restart), 24),
        "sparsa": (s.sparsa(), 24),
        "ista": (s.ista(), 24),
        "lca": (s.lca(), 24),
        "log_adam": (s.log_adam(), 24),
        "coordinate_descent": (s.coordinate_descent(), 24),
        "working_set": (s.working_set(), 6),
    }
    k = sizes.k
    pursuits = {
        "matching_pursuit": (s.matching_pursuit(), k),
        "orthogonal_matching_pursuit": (s.orthogonal_matching_pursuit(k), k),
        "orthogonal_least_squares": (s.orthogonal_least_squares(k), k),
        "gradient_pursuit": (s.gradient_pursuit(k), k),
        "iterative_hard_thresholding": (s.iterative_hard_thresholding(k), 24),
        "subspace_pursuit": (s.subspace_pursuit(k), 6),
        "cosamp": (s.cosamp(k), 6),
    }
    # All subsets: 2,516 of up to 3 of 24 atoms, not those of thousands.
    few = sizes._replace(m=16, n=24, k=3)
    for name, (solver, steps) in {**iterative, **pursuits, "exhaustive": (None, 1)}.items():
        at = few if solver is None else sizes
        run = functools.partial(
            s.solve, s.exhaustive(few.k) if solver is None else solver, num_steps=steps
        )
        lasso = sc.Lasso(array(at.b, at.m), array(at.n, at.m), array(), array())
        yield Program(f"{name}, {steps} step{'s' * (steps > 1)}", run, (lasso,), at)

    x, d = array(sizes.b, sizes.m), array(sizes.n, sizes.m)
    until = {"sparse_encode, tolerance": None, "sparsa, tolerance": s.sparsa()}
    for name, solver in until.items():
        encode = functools.partial(sc.sparse_encode, tolerance=1e-5, solver=solver)
        yield Program(name, encode, (x, d, array()), sizes)
    lasso = sc.Lasso(x, d, array(), array())
    pursuit = s.orthogonal_matching_pursuit(k)
    until_error = functools.partial(
        s.solve_to_tolerance, pursuit, tolerance=1e-3, max_steps=k, check_every=1
    )
    yield Program("orthogonal_matching_pursuit, tolerance", until_error, (lasso,), sizes)
    refit = functools.partial(s.refit, num_active=k)
    yield Program("refit", refit, (array(sizes.b, sizes.n), x, d), sizes)

    def slope(x: Any, d: Any, penalty: Any) -> Any:
        codes = sc.sparse_encode(x, d, penalty, tolerance=1e-5, solver=s.sparsa())
        return jnp.sum(codes * codes)

    gradient = jax.grad(slope, argnums=(0, 1, 2))
    yield Program("sparsa, tolerance: implicit gradient", gradient, (x, d, array()), sizes)


def all_encoders(sizes: Sizes) -> dict[str, sc.Encoder]:
    """Return every encoder by its name; hidden layers are as wide as the signals."""
    e, m, n, k = sc.encoders, sizes.m, sizes.n, sizes.k
    counted = {
        factory.__name__: factory(m, n, num_active=k)
        for factory in (e.top_k, e.abs_top_k, e.batch_top_k)
    }
    traced = {
        f"{factory.__name__}, traced K": factory(m, n, num_active=None)
        for factory in (e.top_k, e.abs_top_k, e.batch_top_k)
    }
    pursuits = {
        "matching_pursuit": sc.solvers.matching_pursuit(),
        "orthogonal_matching_pursuit": sc.solvers.orthogonal_matching_pursuit(k),
    }
    pursuing = {
        f"unrolled {name}": e.unrolled(solver, m, n, num_steps=k)
        for name, solver in pursuits.items()
    }
    layered = {
        factory.__name__: factory(m, n, num_layers=4) for factory in (e.lista, e.lista_cp, e.alista)
    }
    dense = nn.Sequential([nn.Dense(n), nn.relu])
    return {
        "linear": e.linear(m, n),
        "jump_relu": e.jump_relu(m, n),
        "gated": e.gated(m, n),
        "mlp": e.mlp(m, n, hidden=(m,)),
        "residual_mlp": e.residual_mlp(m, n, width=m),
        "tied": e.tied(e.linear(m, n)),
        "centered": e.centered(e.linear(m, n), m),
        "from_flax": e.from_flax(dense, num_measurements=m),
        "free_codes": e.free_codes(sizes.b, n),
        **counted,
        **traced,
        **pursuing,
        **layered,
        "unrolled": e.unrolled(sc.solvers.fista(), m, n, num_steps=8),
    }


def encoder_programs(sizes: Sizes) -> Iterator[Program]:
    """Yield the forward pass of every encoder."""
    for name, encoder in all_encoders(sizes).items():
        params = jax.eval_shape(encoder.init, keys())
        yield Program(f"encoder {name}", encoder.apply, (params, array(sizes.b, sizes.m)), sizes)


def training_programs(sizes: Sizes) -> Iterator[Program]:
    """Yield a gradient step, Adam's update included, of each family of encoders."""
    encoders = all_encoders(sizes)
    special = {
        "jump_relu": losses.l0,
        "gated": losses.gated,
        "top_k": losses.squared_error,
        "batch_top_k": losses.squared_error,
        "top_k, traced K": losses.squared_error,
    }
    plain = ("linear", "mlp", "residual_mlp", "lista", "lista_cp", "alista", "unrolled",
             "unrolled orthogonal_matching_pursuit", "free_codes")  # fmt: skip
    for name, loss in {**special, **dict.fromkeys(plain, losses.lasso)}.items():
        yield training(sizes, name, encoders[name], loss)
    again = losses.aux_k(num_aux=sizes.m // 2)
    yield training(sizes, "top_k with aux_k", encoders["top_k"], again, dead_after=100)


def training(
    sizes: Sizes, name: str, encoder: sc.Encoder, loss: Callable, dead_after: int | None = None
) -> Program:
    data = TrainData(array(sizes.b, sizes.m), None, None, array(), array())
    params = Autoencoder(jax.eval_shape(encoder.init, keys()), array(sizes.n, sizes.m))
    latents = None if dead_after is None else sizes.n
    start = functools.partial(init_state, num_latents=latents)
    state = jax.eval_shape(start, keys(), params, data)
    recipe = Recipe(loss=loss, dead_after=dead_after)
    step = functools.partial(train_step, encoder=encoder, recipe=recipe)
    return Program(f"training step {name}", step, (state, data), sizes)


def learner_programs(sizes: Sizes) -> Iterator[Program]:
    """Yield a round of alternating minimization with each update, and a step of the online one."""
    sizes = LEARNER if sizes == SCALE_C else sizes
    x, d = array(sizes.b, sizes.m), array(sizes.n, sizes.m)
    each = {
        "method_of_optimal_directions": updates.method_of_optimal_directions(),
        "approximate_k_svd": updates.approximate_k_svd(),
        "block_coordinate": updates.block_coordinate(),
        "projected_gradient": updates.projected_gradient(),
        "k_svd": updates.k_svd(),
    }
    for name, update in each.items():
        turn = functools.partial(
            sc.dictionary_learning.alternate,
            num_steps=10,
            update=update,
            replacing=True,
            momentum=0.9,
        )
        yield Program(f"learner's round, {name}", turn, (x, d, array(1)), sizes)
    update = updates.block_coordinate()
    state = online._State(d, jax.eval_shape(update.init, d), array(2, sizes.n), array())
    step = functools.partial(
        online._step,
        solver=sc.solvers.fista(),
        update=update,
        num_steps=online._STEPS,
        num_refitted=None,
    )
    numbers = array(sizes.m), array(), array()  # bias, scale, the L0 aimed at
    yield Program("online learner's step", step, (keys(), state, x, *numbers), sizes)


def sharded_programs(sizes: Sizes, mesh: Mesh) -> Iterator[Program]:
    """Yield programs over the four chips: a sweep, and signals in four parts."""
    small = sizes._replace(m=64, n=256, b=512, k=8) if sizes == SCALE_C else sizes

    def score(seed: Any, penalty: Any) -> Any:
        problem = sc.synthetic.sample_problem(
            seed, small.k, num_samples=small.b, num_measurements=small.m, num_atoms=small.n
        )
        codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=100)
        return sc.metrics.mcc(problem.codes, codes)

    def swept(seed: Any, penalty: Any) -> Any:
        return sc.sweep(score, seed=seed, penalty=penalty)

    yield Program("4 chips: sweep of 8 seeds, 4 penalties", swept, (keys(8), array(4)), small, True)
    args = array(sizes.b, sizes.m), array(sizes.n, sizes.m), array()
    fixed = functools.partial(sc.sparse_encode, num_steps=24)
    yield Program("4 chips: fista, 24 steps", fixed, args, sizes, True)
    until = functools.partial(sc.sparse_encode, tolerance=1e-5, solver=sc.solvers.sparsa())
    specs = (P("chip"), P(), P())
    apart = jax.shard_map(until, mesh=mesh, in_specs=specs, out_specs=specs[0])
    yield Program("4 chips: sparsa, tolerance, in shard_map", apart, args, sizes, True)


def programs(sizes: Sizes, mesh: Mesh) -> list[Program]:
    """Return every program."""
    return [
        *solver_programs(sizes),
        *sharded_programs(sizes, mesh),
        *learner_programs(sizes),
        *training_programs(sizes),
        *encoder_programs(sizes),
    ]


QUICK = ("fista, 24 steps", "sparse_encode, tolerance", "encoder top_k", "training step linear")


@contextlib.contextmanager
def as_on_a_tpu() -> Iterator[None]:
    """Let the library choose chunks as where the program would run, not as on this host."""
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        yield


def placed(program: Program, mesh: Mesh) -> tuple:
    """Return the shapes of the arguments, on one chip or as the program splits them."""

    def put(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    if not program.sharded:
        return put(program.args, SingleDeviceSharding(mesh.devices.flat[0]))
    first, *others = program.args
    split = put(first, NamedSharding(mesh, P("chip")))
    return split, *(put(arg, NamedSharding(mesh, P())) for arg in others)


def lowered(program: Program, mesh: Mesh) -> tuple[Any, str]:
    """Return the lowered program and a digest of its text; what does not lower raises."""
    with as_on_a_tpu():
        found = jax.jit(program.fn).lower(*placed(program, mesh))
    return found, hashlib.sha256(found.as_text().encode()).hexdigest()[:16]


def compiled(program: Any) -> dict[str, Any]:
    """Compile a lowered program; return its memory and what is in it."""
    found = program.compile()
    memory, text = found.memory_analysis(), found.as_text()
    calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    return {
        "temporaries": memory.temp_size_in_bytes / MEBIBYTE,
        "arguments": (memory.argument_size_in_bytes + memory.output_size_in_bytes) / MEBIBYTE,
        "counts": {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in KINDS},
        "calls": dict(sorted(calls.items())),
    }


def first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def row_of(program: Program, mesh: Mesh, kept: dict | None) -> tuple[dict, bool]:
    """Return the row of a program, and whether it is one that was kept."""
    started = time.perf_counter()
    row: dict[str, Any] = {"sizes": str(program.sizes), "digest": None}
    try:
        lowering, row["digest"] = lowered(program, mesh)
        if kept and all(kept[key] == row[key] for key in row):
            return kept, True
        started = time.perf_counter()
        row |= compiled(lowering)
    except Exception as error:  # whatever stops a program is what its row says
        row["error"] = first_line(error)
    return {**row, "seconds": time.perf_counter() - started}, False


def cells(name: str, row: dict) -> list[str]:
    if "error" in row:
        return [name, "no", f"{row['seconds']:.0f}", *[""] * (3 + len(KINDS))]
    size = f"{row['temporaries']:,.{1 if row['temporaries'] < 10 else 0}f}"
    counts = [str(row["counts"][kind]) for kind in KINDS]
    calls = str(sum(row["calls"].values()))
    return [
        name, "yes", f"{row['seconds']:.0f}", size, f"{row['arguments']:,.0f}", *counts, calls
    ]  # fmt: skip


def table(results: dict, command: str, sizes: Sizes, left: list[str]) -> str:
    """Return the report: one row a program, and the names of those that are left to compile."""
    rows = results["rows"]
    failed = {name: row["error"] for name, row in rows.items() if "error" in row}
    other = collections.defaultdict(list)
    calls: collections.Counter[str] = collections.Counter()
    for name, row in rows.items():
        calls.update(row.get("calls", {}))
        if row["sizes"] != str(sizes):
            other[row["sizes"]].append(name)
    head = ["", "compiles", "s", "temporaries", "arguments", *KINDS, "calls"]
    parts = [
        f"{len(rows)} of {len(rows) + len(left)} programs, compiled ahead of time for TPU "
        f"{TOPOLOGY} by jax {results['jax']} and libtpu {results['libtpu']}.\n"
        f"Nothing was run on a TPU.\nCommand: {command}\n"
        f"Sizes: {sizes}, float32.",
        "Seconds are of XLA's compilation, on a machine that did other work besides (at most); "
        "temporaries, and\narguments with results, are MiB in the 16 GiB of one chip, without what "
        "XLA keeps in its vector memory: one\narray of 96 MiB of fista's. The other columns count "
        "instructions of the optimized program, those inside of\nfusions included; calls are "
        "custom calls.",
        format_table(head, [cells(name, row) for name, row in rows.items()]),
        *(f"At {at}: {'; '.join(names)}." for at, names in other.items()),
        "Custom calls in all: " + ", ".join(f"{k} {n}" for k, n in calls.most_common()) + ".",
        "Refused by the compiler:"
        + ("".join(f"\n{k}: {v}" for k, v in failed.items()) or " none."),
    ]
    if left:
        parts.append(f"Not tried yet (the command goes on with them): {'; '.join(left)}.")
    wide = [textwrap.fill(part, 100) if "\n" not in part else part for part in parts]
    return "\n\n".join(wide) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Compile what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, four programs")
    parser.add_argument("--only", help="programs whose name contains this; writes no table")
    parser.add_argument("--kept", action="store_true", help="the table of what is kept, as it is")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--write", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    try:
        libtpu = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            "benchmarks.tpu: libtpu, which holds the compiler for TPUs, is not installed; the one "
            f"for jax {jax.__version__} is expected, so install it by: pip install -c "
            'constraints.txt ".[tpu]".'
        ) from None
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    mesh = Mesh(devices, ("chip",))
    sizes = TINY if args.quick else SCALE_C
    chosen = programs(sizes, mesh)
    if args.quick:
        chosen = [p for p in chosen if p.name in QUICK]
    if args.only:
        chosen = [p for p in chosen if args.only in p.name]
    path = args.out / ("tpu-quick.json" if args.quick else "tpu.json")
    try:
        with Run(path, {}, name="benchmarks.tpu"):
            _main(args, path, chosen, mesh, sizes, libtpu)
    except BusyError as error:
        raise SystemExit(str(error)) from None


def _main(
    args: argparse.Namespace,
    path: pathlib.Path,
    chosen: list[Program],
    mesh: Mesh,
    sizes: Sizes,
    libtpu: str,
) -> None:
    versions = {"jax": jax.__version__, "libtpu": libtpu}
    kept = json.loads(path.read_text()) if path.exists() else {}
    if {key: kept.get(key) for key in versions} != versions:
        kept = {**versions, "rows": {}}
    rows = kept["rows"]
    for number, program in enumerate([] if args.kept else chosen, 1):
        row, old = row_of(program, mesh, rows.get(program.name))
        rows[program.name] = row
        write_bytes(path, json.dumps(kept, indent=1).encode())
        said = row.get("error") or f"{row['temporaries']:,.1f} MiB of temporaries"
        when = "kept" if old else f"{row['seconds']:.0f} s"
        print(f"{number:3} of {len(chosen)}  {program.name}: {said} ({when})", flush=True)
    if args.only:
        return
    kept["rows"] = {program.name: rows[program.name] for program in chosen if program.name in rows}
    left = [program.name for program in chosen if program.name not in rows]
    written = "--quick" if args.quick else "--write docs/results/tpu.txt"
    command = f"python -m benchmarks.tpu {written}"
    text = table(kept, command, sizes, left)
    print("\n" + text)
    if args.write:
        write_bytes(args.write, text.encode())


if __name__ == "__main__":
    main()
