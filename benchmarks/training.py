"""Time training beside torch and SAELens: one step of a large autoencoder, and many small models.

Command: ``python -m benchmarks.training`` (about 4 minutes on 2 cores; part of ``make bench``), or
``--quick``. Needs the ``bench`` extra; SAELens's row is left out where it is not installed.

Step: 768 measurements, 6,144 latents, 1,024 signals, float32, Adam, atoms of unit norm; the same
loss in all. Sweep: the paper's size (8 measurements, 16 atoms), all models of a batch in one
program here, one after the other in torch. Contenders run once in each round; a ratio is the median
over rounds of our time over the peer's in that round. CPU time counts both cores.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.problems import machine, measured, report
from benchmarks.programs import Program, models, step
from experiments.common import format_table

M, N, B, K = 768, 6144, 1024, 32
PENALTY, RATE = 0.01, 1e-3


def ours(num_active: int | None, dead_after: int | None = None) -> Callable[[], None]:
    """Return a step of our training, counting dead latents if asked to."""
    return step(N, num_active, dead_after=dead_after).run


def torch_step(signals: np.ndarray, n: int, num_active: int | None, batch: int | None = None):
    """Return an eager step: ReLU with an l1 penalty, or TopK."""
    m = signals.shape[1]
    weight = torch.nn.Parameter(torch.randn(n, m) / m**0.5)
    bias = torch.nn.Parameter(torch.zeros(n))
    atoms = torch.nn.Parameter(torch.randn(n, m))
    optimizer = torch.optim.Adam([weight, bias, atoms], lr=RATE)
    data = torch.tensor(signals)

    def run() -> None:
        x = data if batch is None else data[torch.randint(0, len(data), (batch,))]
        with torch.no_grad():
            atoms.data /= atoms.data.norm(dim=1, keepdim=True)
        latents = x @ weight.T + bias
        if num_active is None:
            codes = torch.relu(latents)
            penalty = PENALTY * codes.sum(-1).mean()
        else:
            values, places = torch.topk(latents, num_active, dim=-1)
            codes = torch.zeros_like(latents).scatter(-1, places, torch.relu(values))
            penalty = 0.0
        loss = 0.5 * ((x - codes @ atoms) ** 2).sum(-1).mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def saelens_step(signals: np.ndarray, num_active: int | None):
    """Return SAELens's own training step (it also clips gradients and counts activity)."""
    from sae_lens import (
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    data = torch.tensor(signals)
    sizes = {"d_in": signals.shape[1], "d_sae": N}
    sae: Any
    if num_active is None:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**sizes, l1_coefficient=PENALTY))
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes, k=num_active))
    config = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=len(data), lr=RATE, lr_end=RATE
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    return lambda: trainer.step(data)


def measure(makers: dict[str, Callable[[], Callable]], rounds: int) -> dict[str, dict]:
    """Run all contenders, interleaved; the first is ours."""
    runs = {label: maker() for label, maker in makers.items()}
    rows: dict[str, dict] = {label: {"wall": [], "cpu": []} for label in runs}
    for turn in range(rounds + 1):
        for label, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:  # the first round warms up
                rows[label]["wall"].append(time.perf_counter() - wall)
                rows[label]["cpu"].append(time.process_time() - cpu)
    mine = next(iter(rows.values()))
    for row in rows.values():
        row["ratio"] = float(np.median(np.asarray(mine["wall"]) / np.asarray(row["wall"])))
        row["cpu_ratio"] = float(np.median(np.asarray(mine["cpu"]) / np.asarray(row["cpu"])))
    return rows


def steps(rounds: int) -> dict[str, dict]:
    """Time one step of each kind."""
    signals = np.random.default_rng(0).normal(size=(B, M)).astype(np.float32)
    weight, rows = jnp.ones((N, M)), jnp.asarray(signals)
    product = jax.jit(lambda x, w: x @ w.T)

    def gemm() -> Callable[[], None]:
        return lambda: product(rows, weight).block_until_ready()

    found = {}
    for kind, active in (("ReLU", None), ("TopK", K)):
        makers: dict[str, Callable[[], Callable]] = {
            "sparsecode_jax": functools.partial(ours, active),
            "torch, eager": functools.partial(torch_step, signals, N, active),
            "one matrix product": gemm,
        }
        if active:
            makers["sparsecode_jax, aux_k"] = functools.partial(ours, active, dead_after=100)
        if importlib.util.find_spec("sae_lens"):
            makers["SAELens"] = functools.partial(saelens_step, signals, active)
        print(f"{kind} step", flush=True)
        found[kind] = measure(makers, rounds)
    return found


def sweep(num_steps: int, rounds: int) -> dict[str, dict]:
    """Time whole trainings of the paper's size: seconds a model for 20,000 steps."""
    rng = np.random.default_rng(1)
    signals = rng.normal(size=(1024, 8)).astype(np.float32)
    found = {}
    for label, batch in (("batch 32", 32), ("full batch, 1,024", None)):
        eager = torch_step(signals, 16, None, batch)
        eager()
        rows: dict[str, list[float]] = {"torch, eager, one": []}
        fits: dict[str, Program] = {}
        for count in (1, 256):
            short = num_steps if batch is not None or count == 1 else max(num_steps // 8, 10)
            fits[f"sparsecode_jax, {count}"] = models(count, batch, short)
            rows[f"sparsecode_jax, {count}"] = []
        torch.set_num_threads(1)  # faster than two at these sizes
        for turn in range(rounds + 1):
            print(f"sweep, {label}: round {turn} of {rounds}", flush=True)
            started = time.perf_counter()
            for _ in range(num_steps // 20):
                eager()
            one = (time.perf_counter() - started) / (num_steps // 20) * 20_000
            each = {"torch, eager, one": one}
            for name, fit in fits.items():
                started = time.perf_counter()
                fit.run()
                seconds = time.perf_counter() - started
                each[name] = seconds / fit.per * 20_000
            if turn:
                for name, seconds in each.items():
                    rows[name].append(seconds)
        mean = {name: float(np.median(seconds)) for name, seconds in rows.items()}
        found[label] = {
            "seconds": mean,
            "models": 256 * mean["torch, eager, one"] / mean["sparsecode_jax, 256"],
            "growth": mean["sparsecode_jax, 256"] / mean["sparsecode_jax, 1"],
        }
    torch.set_num_threads(os.cpu_count() or 1)
    return found


def table(results: dict) -> str:
    """Return the report."""
    parts = [f"{key}: {value}" for key, value in results["machine"].items()]
    for kind, rows in results["steps"].items():
        body = [
            [
                label,
                f"{1e3 * np.median(row['wall']):.0f}",
                f"{1e3 * np.median(row['cpu']):.0f}",
                f"{row['ratio']:.2f}",
                f"{row['cpu_ratio']:.2f}",
            ]
            for label, row in rows.items()
        ]
        parts.append(
            f"\n{kind} step: M = {M}, N = {N}, {B} signals" + (f", K = {K}" * (kind == "TopK"))
        )
        parts.append(format_table(["", "ms", "CPU-ms", "ours / this", "by CPU time"], body))
    body = []
    for label, row in results["sweep"].items():
        for name, seconds in row["seconds"].items():
            body.append([label, name, f"{seconds:.3g}", "", ""])
        body[-1][3:] = [f"{row['models']:.0f}x", f"{row['growth']:.1f}"]
    parts.append("\nmodels of 8 measurements and 16 atoms, 20,000 steps (fewer run, scaled up)")
    head = ["", "", "s for all", "models a second over torch", "time of 256 over 1"]
    parts.append(format_table(head, body))
    parts.append(
        "\nA ReLU step is five products like the one timed, a TopK step one and sparse work. Times "
        "are medians over rounds;\nratios are medians of ratios within a round. SAELens also clips "
        "gradients and counts\nactivity. With aux_k our step counts dead latents, too, and has "
        f"the auxiliary loss of {M // 2} of them."
    )
    return "\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds, short trainings")
    parser.add_argument("--write", type=pathlib.Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    sizes = (400, 1) if args.quick else (4000, 5)
    parts = {"steps": lambda: steps(2 if args.quick else 9), "sweep": lambda: sweep(*sizes)}
    name = f"training{'-quick' if args.quick else ''}"
    found = measured(name, {**machine(), "torch": torch.__version__}, parts)
    report(table(found), args.write)


if __name__ == "__main__":
    main()
