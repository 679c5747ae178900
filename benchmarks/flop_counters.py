"""What FLOP counters say about the same programs, and what ours costs at run time.

Command: ``python -m benchmarks.flop_counters`` (2 minutes on 2 cores). Torch's column needs the
``bench`` extra. The truth is a closed form, or an iteration count taken from the run itself times
the closed form of one iteration; for top_k it is comparisons, which "all" alone counts.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import sparsecode_jax as sc
from experiments.common import format_table
from sparsecode_jax.flops import value_and_flops

M, N, LANES, TOLERANCE = 64, 256, 32, 1e-5


class Program(NamedTuple):
    """A program, its arguments, the truth by convention, torch's version of it, and flax's module.

    ``torch(torch, *args)`` runs the one, ``module(nnx, rngs)`` makes the other.
    """

    name: str
    fn: Callable
    args: tuple
    truth: dict[str, int]
    torch: Callable | None = None
    module: Callable | None = None


def ista_step(z: Any, x: Any, d: Any, s: Any) -> Any:
    """Take one signed ISTA step: 4MN + M + 5N operations, s * lambda being a constant."""
    moved = z - s * ((z @ d - x) @ d.T)
    return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - 0.01, 0)


def ista(x: Any, d: Any, s: Any) -> Any:
    """Take 100 steps in a fori_loop."""
    return jax.lax.fori_loop(0, 100, lambda _, z: ista_step(z, x, d, s), jnp.zeros(N))


def ista_until(x: Any, d: Any, s: Any) -> tuple[Any, Any]:
    """Step until the largest change is below a tolerance; return codes and iterations."""

    def keep_going(state: tuple) -> Any:
        z, before, i = state
        return (jnp.max(jnp.abs(z - before)) > TOLERANCE) & (i < 5_000)

    def body(state: tuple) -> tuple:
        z, _, i = state
        return ista_step(z, x, d, s), z, i + 1

    z, _, i = jax.lax.while_loop(keep_going, body, (jnp.zeros(N), jnp.ones(N), jnp.int32(0)))
    return z, i


def programs() -> list[Program]:
    """Return the compared programs with their truth."""
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 8, num_samples=LANES, num_measurements=M, num_atoms=N
    )
    x, d = problem.signals, problem.dictionary
    s = sc.dictionaries.step_size(d)
    step = 4 * M * N + M + 5 * N
    check = 2 * N - 1  # N subtractions and N - 1 maxima; the absolute value is free
    single = int(ista_until(x[0], d, s)[1])
    each = jax.vmap(ista_until, (0, None, None))(x, d, s)[1]
    slowest = int(each.max())
    useful = int(each.sum())
    triangular = jnp.tril(jnp.ones((64, 64))) + jnp.eye(64)
    return [
        Program("ISTA, 100 steps in fori_loop", ista, (x[0], d, s),
                {"matmul": 400 * M * N, "arithmetic": 100 * step}, torch_ista),
        Program(f"ISTA stopped by tolerance ({single} it.)", ista_until, (x[0], d, s),
                {"matmul": 4 * M * N * single, "arithmetic": step * single + check * (single + 1)},
                torch_ista_until),
        Program(f"vmap of it, {LANES} lanes, executed", jax.vmap(ista_until, (0, None, None)),
                (x, d, s),
                {"matmul": 4 * M * N * slowest * LANES,
                 "arithmetic": LANES * (step * slowest + check * (slowest + 1))}),
        Program(f"vmap of it, {LANES} lanes, useful", jax.vmap(ista_until, (0, None, None)),
                (x, d, s),
                {"matmul": 4 * M * N * useful,
                 "arithmetic": step * useful + check * (useful + LANES)}),
        Program("cumsum(axis=1) of 64 x 256", functools.partial(jnp.cumsum, axis=1),
                (jnp.ones((64, 256)),), {"matmul": 0, "arithmetic": 64 * 255}, torch_cumsum),
        Program("top_k(8) of 64 x 256", lambda a: jax.lax.top_k(a, 8), (jnp.ones((64, 256)),),
                {"matmul": 0, "arithmetic": 0, "all": 64 * 256 * 3}, torch_topk),
        Program("triangular_solve, 64 x 64", triangular_solve,
                (triangular, jnp.ones((64, 1))), {"arithmetic": 64 * 64}, torch_triangular),
    ]  # fmt: skip


def triangular_solve(a: Any, b: Any) -> Any:
    """Solve a lower triangular system."""
    return jax.lax.linalg.triangular_solve(a, b, left_side=True, lower=True)


def ours(program: Program) -> str:
    """Return our matmul / arithmetic counts."""
    fn = program.fn
    if program.name.endswith("useful"):
        counted = jax.vmap(value_and_flops(ista_until), (0, None, None))
        count = jax.jit(counted)(*program.args)[1].sum()
    else:
        count = jax.jit(value_and_flops(fn))(*program.args)[1]
    return " / ".join(f"{count.total(c):,}" for c in program.truth)


def xla(program: Program) -> str:
    """Return XLA's cost analysis of the compiled program."""
    analysis = jax.jit(program.fn).lower(*program.args).compile().cost_analysis()
    return f"{(analysis or {}).get('flops', 0):,.0f}"


def roofline(program: Program, *fields: str) -> str:
    """Return fields of jax.experimental.roofline's result (``flops``), once where they agree."""
    from jax.experimental.roofline import roofline

    try:
        result = roofline(program.fn)(*program.args)[1]
    except Exception as error:  # what it refuses, it refuses in many ways
        return type(error).__name__
    numbers = [f"{getattr(result, field):,}" for field in fields or ("flops",)]
    return " / ".join(dict.fromkeys(numbers))


def flax_tabulate(program: Program) -> str:
    """Return the FLOPs column of flax's tabulate for a module that runs the program."""
    from flax import linen

    class Wrapped(linen.Module):
        @linen.compact
        def __call__(self, *args: Any) -> Any:
            return program.fn(*args)

    try:
        text = Wrapped().tabulate(
            jax.random.key(0), *program.args, compute_flops=True, console_kwargs={"width": 400}
        )
    except Exception as error:
        return type(error).__name__
    return _of_the_whole(text)


def nnx_tabulate(program: Program) -> str:
    """Return the FLOPs column of ``nnx.tabulate`` for a module on the program's last argument."""
    from flax import nnx

    if program.module is None:
        return "-"
    module = program.module(nnx, nnx.Rngs(0))
    methods = {kind: dict(vars(kind)) for kind in {type(m) for _, m in nnx.iter_modules(module)}}
    try:
        text = nnx.tabulate(
            module, program.args[-1], compute_flops=True, console_kwargs={"width": 400}
        )
    except Exception as error:
        for kind, before in methods.items():  # else they stay replaced, for all modules to come
            for name, value in dict(vars(kind)).items():
                if name not in before:
                    delattr(kind, name)
                elif value is not before[name]:
                    setattr(kind, name, before[name])
        return type(error).__name__
    return _of_the_whole(text)


def _of_the_whole(table: str) -> str:
    """Return the number in the first row of a table of modules, which is the outermost one's."""
    row = next(line for line in table.splitlines() if line.startswith("│"))
    numbers = [c.strip() for c in row.split("│") if re.fullmatch(r"\s*-?\d+\s*", c)]
    return f"{int(numbers[0]):,}" if numbers else "-"


def torch_count(program: Program) -> str:
    """Return torch's FlopCounterMode on the same program written in torch."""
    try:
        import torch
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return "not installed"
    if program.torch is None:
        return "-"
    args = jax.tree.map(lambda a: torch.from_numpy(jax.device_get(a).copy()), program.args)
    try:
        with FlopCounterMode(display=False) as counter:
            program.torch(torch, *args)
    except Exception as error:
        return type(error).__name__
    return f"{counter.get_total_flops():,}"


def _torch_step(torch: Any, z: Any, x: Any, d: Any, s: Any) -> Any:
    moved = z - s * torch.mv(d, torch.mv(d.T, z) - x)
    return torch.sign(moved) * torch.clamp(torch.abs(moved) - 0.01, min=0)


def torch_ista(torch: Any, x: Any, d: Any, s: Any) -> Any:
    z = torch.zeros(N)
    for _ in range(100):
        z = _torch_step(torch, z, x, d, s)
    return z


def torch_ista_until(torch: Any, x: Any, d: Any, s: Any) -> Any:
    z, before = torch.zeros(N), torch.ones(N)
    while torch.max(torch.abs(z - before)) > TOLERANCE:
        z, before = _torch_step(torch, z, x, d, s), z
    return z


def torch_cumsum(torch: Any, a: Any) -> Any:
    return torch.cumsum(a, dim=1)


def torch_topk(torch: Any, a: Any) -> Any:
    return torch.topk(a, 8)


def torch_triangular(torch: Any, a: Any, b: Any) -> Any:
    return torch.linalg.solve_triangular(a, b, upper=False)


def overhead(fn: Callable, args: tuple, rounds: int = 15, repeats: int = 20) -> tuple[float, bool]:
    """Return counted time over plain time, interleaved, and whether both programs are identical."""
    plain, counted = jax.jit(fn), jax.jit(value_and_flops(fn))
    value = jax.jit(lambda *a: value_and_flops(fn)(*a)[0])
    same = _text(plain, args) == _text(value, args)
    for f in (plain, counted):
        jax.block_until_ready(f(*args))
    ratios = []
    for _ in range(rounds):
        times = []
        for f in (plain, counted):
            start = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(f(*args))
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios), same


def _text(fn: Any, args: tuple) -> str:
    """Return the lowered program without the names of functions."""
    lines = fn.lower(*args).as_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("module @"))


def main(out: pathlib.Path) -> None:
    """Print and write both tables."""
    tools = (ours, xla, roofline, flax_tabulate, torch_count)
    listed = programs()
    rows = [
        (p.name, " / ".join(f"{v:,}" for v in p.truth.values()), *(tool(p) for tool in tools))
        for p in listed
    ]
    header = [f"M={M}, N={N}: truth is matmul / arithmetic (/ all)", "truth", "ours",
              "XLA cost_analysis", "roofline", "flax tabulate", "torch"]  # fmt: skip
    lines = [format_table(header, rows), ""]
    rows = []
    for program in (listed[0], listed[1], listed[2]):
        ratio, same = overhead(program.fn, program.args)
        rows.append((program.name, f"{ratio:.3f}", "yes" if same else "no"))
    header = ["run time, counted / plain (median of 15)", "ratio", "identical StableHLO"]
    lines.append(format_table(header, rows))
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "flop_counters.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results"))
    main(parser.parse_args().out)
