"""Check and time the library on one NVIDIA GPU beside torch, on the same machine, interleaved.

Command: ``python -m benchmarks.accelerator`` from a checkout, about 8 minutes; ``--quick`` is a
minute of small sizes on any machine. Needs jax with CUDA and, for the ratios, torch with CUDA;
nothing has to be installed besides what the library imports.

Checks come first: gaps and supports against float64 on the host. Then each row runs ours and
torch's once a round, so that what else the machine does meets both alike; a ratio is the median
over rounds of our time over torch's in that round. Torch runs in the fastest of several ways (see
``--torch``). Products are float32 at the highest precision on both sides, and in training rows
TF32 is allowed on both sides. Work is counted by our own transform, outside of the timing, and
shown as a share of what this device reached in the same run for a large product of matrices, and
for bytes. A row is kept as soon as it is measured: run again to go on.
"""

from __future__ import annotations

import os

# JAX would take three quarters of the GPU's memory at its start, and torch needs some of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import argparse
import functools
import gc
import importlib.metadata
import json
import math
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from benchmarks import torch_peers
from benchmarks.accelerator_rows import FULL, QUICK, Row, Work, rows
from benchmarks.problems import processor
from experiments.common import format_table
from sparsecode_jax.io import BusyError, Run
from sparsecode_jax.io._atomic import write_bytes

MOST_ROUNDS, FEWEST_ROUNDS = 15, 3
SHORTEST = 0.03  # seconds a timing should last; shorter work is repeated in it


def said_by(*command: str) -> str:
    """Return what a command prints, or nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def machine(torch_version: str) -> dict[str, Any]:
    """Describe the device and the versions: rows of another machine are not kept."""
    device, config = jax.devices()[0], cast(Any, jax.config)
    query = "--query-gpu=driver_version"
    on_gpu = device.platform == "gpu"
    driver = said_by("nvidia-smi", query, "--format=csv,noheader") if on_gpu else ""
    return {
        "device": device.device_kind if on_gpu else f"CPU ({processor()})",
        "platform": device.platform,
        "driver": driver.splitlines()[0] if driver else "-",
        "jax": jax.__version__, "jaxlib": importlib.metadata.version("jaxlib"),
        "runtime": device.client.platform_version.replace("\n", ", "),
        "torch": torch_version, "numpy": np.__version__, "python": platform.python_version(),
        "sparsecode_jax": sc.__version__,
        "jax_default_matmul_precision": str(config.jax_default_matmul_precision),
    }  # fmt: skip


def fastest(run: Callable[[], Any], times: int = 7) -> float:
    """Return the shortest of a few timings, after a warm-up."""
    jax.block_until_ready(run())
    return min(seconds_of(run, jax.block_until_ready, 1) for _ in range(times))


def limits(on_gpu: bool, quick: bool) -> dict[str, float]:
    """Measure what this device reaches: FLOP/s of a large product, bytes/s of a copy."""
    size = 1024 if quick or not on_gpu else 8192
    square = jnp.ones((size, size), jnp.float32)
    found = {}
    for name, precision in (("float32", "highest"), ("TF32", "default")):
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        if on_gpu or name == "float32":  # a CPU has no TF32
            found[name] = 2 * size**3 / fastest(functools.partial(product, square, square))
    long = jnp.ones(2**20 if quick else 2**28 if on_gpu else 2**25, jnp.float32)
    moved = jax.jit(lambda x: x + 1)  # a plain copy could be left out
    found["bytes"] = 2 * long.nbytes / fastest(lambda: moved(long))
    return found


def seconds_of(run: Callable[[], Any], wait: Callable[[Any], Any], repeats: int) -> float:
    """Return the seconds of one run, of several that are waited for together."""
    started = time.perf_counter()
    for _ in range(repeats):
        out = run()
    wait(out)
    return (time.perf_counter() - started) / repeats


def reason(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"


class Clock:
    """How much of the time is left, for the run and for a row of it."""

    def __init__(self, seconds: float):
        self.deadline = time.perf_counter() + seconds

    def left(self) -> float:
        """Return the seconds left, negative when they are used up."""
        return self.deadline - time.perf_counter()


def best_peer(
    work: Work, ways: dict[str, torch_peers.Tools], wait: Callable, clock: Clock
) -> tuple[Callable[[], Any] | None, dict[str, str]]:
    """Return torch's fastest run of this work, None if all fail, and what each way said."""
    best: tuple[float, Any] = math.inf, None
    said = {}
    for label, tools in ways.items():
        if best[1] is not None and clock.left() < 0:
            said[label] = "not tried"
            continue
        try:
            run = work.peer(tools)
            for _ in range(2):
                wait(run())
            spent = seconds_of(run, wait, 2)
        except Exception as error:  # compilers and captures fail in many ways
            said[label] = f"failed ({reason(error)})"
            print(f"    torch, {label}: {said[label]}", flush=True)
            continue
        said[label] = f"{1e3 * spent:.4g} ms"
        best = min(best, (spent, run), key=lambda found: found[0])
    return best[1], said


def measure(work: Work, ways: dict, wait: Callable, clock: Clock, most: int) -> dict[str, Any]:
    """Time a row, interleaved; a torch that fails is recorded beside our own times."""
    record: dict[str, Any] = {}
    mine = work.run()
    contenders = {"ours": (work.run, jax.block_until_ready)}
    theirs = None
    if ways:
        run, record["ways"] = best_peer(work, ways, wait, clock)
        if run is None:
            record["failure"] = "torch: " + "; ".join(record["ways"].values())
        else:
            theirs = run()
            contenders["torch"] = run, wait
    record["result"] = work.judge(mine, theirs)
    del mine, theirs
    repeats = {}
    for label, (run, ready) in contenders.items():
        ready(run())
        once = seconds_of(run, ready, 1)
        repeats[label] = min(max(math.ceil(SHORTEST / once), 1), 50) if most > 2 else 1
    seconds: dict[str, list[float]] = {label: [] for label in contenders}
    while len(seconds["ours"]) < most:
        for label, (run, ready) in contenders.items():
            seconds[label].append(seconds_of(run, ready, repeats[label]))
        if clock.left() < 0 and len(seconds["ours"]) >= min(FEWEST_ROUNDS, most):
            break
    record |= {"seconds": seconds, "repeats": repeats}
    count = work.flops()
    return record | {"flops": int(count.total()), "bytes": int(count.bytes_moved()[0])}


def summary(record: dict[str, Any], products: str, limit: dict[str, float]) -> dict[str, Any]:
    """Add medians, spreads, the ratio, and shares of what the device reaches."""
    seconds = {label: np.asarray(each) for label, each in record["seconds"].items()}
    median = {label: float(np.median(each)) for label, each in seconds.items()}
    spread = {label: np.percentile(each, [25, 75]).tolist() for label, each in seconds.items()}
    found: dict[str, Any] = {
        "median": median,
        "quartiles": spread,
        "products": products,
        "limits": limit,
    }
    if "torch" in seconds:
        ratios = seconds["ours"] / seconds["torch"]
        found |= {
            "ratio": float(np.median(ratios)),
            "ratio_quartiles": np.percentile(ratios, [25, 75]).tolist(),
        }
    rate = record["flops"] / median["ours"]
    found |= {"flops_per_second": rate, "flop_share": rate / limit[products]}
    return record | found | {"byte_share": record["bytes"] / median["ours"] / limit["bytes"]}


class Session:
    """What a run knows: options, the machine, torch, limits, and the records kept so far."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.clock = args, Clock(args.seconds)
        self.rows = rows(QUICK if args.quick else FULL)
        self.platform = jax.default_backend()
        self.torch, version = torch_peers.load(self.platform)
        self.machine = machine(version)
        self.on_gpu = self.platform == "gpu"
        self.commit = said_by("git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD")
        self.limits = limits(self.on_gpu, args.quick)
        if args.quick and self.torch is not None:
            self.torch.set_num_threads(1)  # on small arrays threads wait for one another
        names = args.torch or (["eager"] if args.quick else torch_peers.WAYS)
        self.ways = torch_peers.ways(self.torch, self.platform, names) if self.torch else {}
        self.path = args.out.with_suffix(".json")
        self.records = self.kept()

    def identity(self, row: Row) -> dict[str, Any]:
        """Return what must be the same for an earlier record to stand for this row."""
        return {"machine": self.machine, "sizes": row.sizes, "quick": self.args.quick}

    def kept(self) -> dict[str, dict]:
        """Return the records of an earlier run on this machine, at these sizes."""
        if not self.path.exists():
            return {}
        stored = json.loads(self.path.read_text())["rows"]
        wanted = {row.name: self.identity(row) for row in self.rows}
        return {k: v for k, v in stored.items() if v["identity"] == wanted.get(k)}

    def record(self, row: Row) -> dict[str, Any]:
        """Return what is known of a row; nothing if it was not run."""
        return self.records.get(row.name, {})

    def failed(self, row: Row) -> bool:
        """Say whether a row was run and failed: it is tried again in the next run."""
        return "failure" in self.record(row)

    def wait(self, _: Any) -> None:
        """Wait for what torch has begun."""
        if self.torch is not None and self.on_gpu:
            self.torch.cuda.synchronize()

    def run(self, row: Row, seconds: float) -> dict[str, Any]:
        """Check or measure a row; an error becomes its record."""
        record: dict[str, Any] = {"identity": self.identity(row), "title": row.title}
        record["commit"] = self.commit
        try:
            if row.check is not None:
                text, passed = row.check()
                return record | {"result": text} | ({} if passed else {"failure": f"{text}."})
            if self.torch is not None:
                self.torch.set_float32_matmul_precision("high" if row.training else "highest")
            most = 2 if self.args.quick else MOST_ROUNDS
            assert row.build is not None
            clock = Clock(seconds)
            record |= measure(row.build(), self.ways, self.wait, clock, most)
            products = "TF32" if row.training and self.on_gpu else "float32"
            return summary(record, products, self.limits)
        except Exception as error:  # out of memory, or a program that this device refuses
            return record | {"failure": reason(error)}
        finally:
            gc.collect()
            if self.torch is not None and self.on_gpu:
                self.torch.cuda.empty_cache()

    def write(self, left_out: list[str]) -> str:
        """Write all that is known so far, and return the table."""
        known = [row for row in self.rows if self.record(row)]
        text = table(self, known, left_out)
        manifest = {"machine": self.machine, "limits": self.limits, "rows": self.records}
        write_bytes(self.path, json.dumps(manifest, indent=1).encode())
        write_bytes(self.args.out, text.encode())
        return text


def head(session: Session) -> list[str]:
    found, limit = session.machine, session.limits
    lines = [f"{key}: {value}" for key, value in found.items()]
    tf32 = f"{limit['TF32'] / 1e12:.4g} TFLOP/s, TF32 allowed; " if "TF32" in limit else ""
    lines.append(
        f"measured limits: product of matrices {limit['float32'] / 1e12:.4g} TFLOP/s, float32 at "
        f"highest precision; {tf32}x + 1 {limit['bytes'] / 1e9:.4g} GB/s"
    )
    if session.on_gpu:
        lines.append(
            'products: float32 ("highest" on both sides); training rows: TF32 allowed on both '
            'sides (jax: its default; torch: "high")'
        )
    else:
        lines.append("This is a CPU: nothing here says how fast an accelerator is.")
    if session.args.quick:
        lines.append("Small sizes (--quick): times are mostly those of starting programs.")
    return lines


def table(session: Session, shown: list[Row], left_out: list[str]) -> str:
    """Return the report: checks, times, what failed, what was left out."""
    records = [(row.name, session.records[row.name]) for row in shown]
    checks = [
        [f"{name}: {record['title']}", record["result"], "NO" if "failure" in record else "yes"]
        for name, record in records
        if "result" in record and "seconds" not in record
    ]
    timed = [[name, *cells(record)] for name, record in records if "seconds" in record]
    parts = head(session)
    if checks:
        parts += ["", format_table(["check", "result", "passes"], checks)]
    if timed:
        columns = ["", "ours, ms", "torch, ms", "ours / torch", "quartiles"]
        columns += ["GFLOP/s", "of products", "of bytes", "result"]
        parts += ["", format_table(columns, timed)]
        parts += ["", *(about(name, r) for name, r in records if "seconds" in r)]
    parts += ["", *(f"failed: {n}: {r['failure']}" for n, r in records if "failure" in r)]
    if left_out:
        parts.append(f"left out, time being used up (run again): {', '.join(left_out)}")
    parts.append(
        "Times are medians over rounds, ratios medians of ratios within a round. GFLOP/s: ours, "
        'counted, convention "arithmetic".\n"of products" and "of bytes": shares of the measured '
        "limits, the bytes by a lower bound that knows of no cache, so that\nthe share can pass "
        "100%. learn_dictionary: in torch the same numbers of steps, from another start and "
        "without renewing atoms."
    )
    return "\n".join(parts) + "\n"


def about(name: str, record: dict[str, Any]) -> str:
    """Return what a timed row is, and how torch could run it."""
    ways = ", ".join(f"{way} {said}" for way, said in record.get("ways", {}).items())
    return f"{name}: {record['title']}" + f"; torch: {ways}" * bool(ways)


def cells(record: dict[str, Any]) -> list[str]:
    """Return a timed row's columns."""
    median = record["median"]
    shown = [f"{1e3 * median['ours']:.4g}", "-", "-", "-"]
    if "ratio" in record:
        low, high = record["ratio_quartiles"]
        shown[1:4] = (
            f"{1e3 * median['torch']:.4g}",
            f"{record['ratio']:.3g}",
            f"{low:.3g}-{high:.3g}",
        )
    shown += [f"{record['flops_per_second'] / 1e9:.4g}", f"{record['flop_share']:.1%}"]
    return [*shown, f"{record['byte_share']:.1%}", record["result"]]


def options(argv: list[str] | None) -> argparse.Namespace:
    names = [row.name for row in rows(FULL)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, eager torch, two rounds")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=480.0, help="start no row after them")
    parser.add_argument("--torch", nargs="+", choices=torch_peers.WAYS, help="how torch may run")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/accelerator.txt"))
    args = parser.parse_args(argv)
    if args.out.suffix == ".json":
        parser.error("--out names the table; the manifest beside it ends in .json.")
    known = [row.name for row in rows(QUICK if args.quick else FULL)]
    for name in args.rows or ():
        if name not in known:
            parser.error(f"there is no row {name!r}; the rows are {', '.join(known)}.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; return 1 if a row failed or was left out."""
    args = options(argv)
    try:
        with Run(args.out.with_suffix(".json"), {}, name="benchmarks.accelerator"):
            return _main(args)
    except BusyError as error:
        sys.exit(str(error))


def _main(args: argparse.Namespace) -> int:
    session = Session(args)
    print("\n".join(head(session)), flush=True)
    wanted = [row for row in session.rows if not args.rows or row.name in args.rows]
    missing = [row for row in wanted if not session.record(row) or session.failed(row)]
    if len(missing) < len(wanted):
        print(f"{len(wanted) - len(missing)} rows are kept from {session.path}", flush=True)
    left_out: list[str] = []
    for turn, row in enumerate(missing):
        left = session.clock.left()
        if left <= 0:
            left_out = [row.name for row in missing[turn:]]
            break
        print(f"{row.name}: {row.title}", flush=True)
        started = time.perf_counter()
        record = session.run(row, left / (len(missing) - turn))
        record["spent"] = round(time.perf_counter() - started, 2)
        session.records[row.name] = record
        said = f"failed: {record['failure']}" if session.failed(row) else record["result"]
        print(f"    {said or 'done'} ({record['spent']:.1f} s)", flush=True)
        session.write(left_out)
    print("\n" + session.write(left_out))
    return int(any(map(session.failed, wanted)) or bool(left_out))


if __name__ == "__main__":
    sys.exit(main())
