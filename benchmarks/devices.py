"""One device beside two: sweeps, training and encoding on simulated devices of one CPU.

    python -m benchmarks.devices [--quick] [--write docs/results/devices.txt]

Two host devices share the cores that one device has alone, so this shows what it costs, or brings,
to split a program there; it says nothing of two accelerators. Each round starts an interpreter with
one device and one with two, in turn, and the median over rounds of the ratio of their times is
reported. Compilation is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

NAMES = {
    "sweep": "sweep: FISTA of 100 steps and its MCC, 256 seeds (M = 8, N = 16, 1,024 signals)",
    "fit": "fit: 256 autoencoders of the paper's size, batches of 32, 2,000 steps",
    "encode": "encode: SpaRSA of 20 steps, M = 768, N = 6,144, 1,024 signals",
}


def measure(quick: bool) -> dict[str, float]:
    """Time each program on all devices of this interpreter, in seconds."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    import sparsecode_jax as sc

    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    runs, num_steps, atoms, batch = (8, 20, 256, 64) if quick else (256, 2000, 6144, 1024)
    keys = jax.device_put(jax.random.split(jax.random.key(0), runs), rows)

    def score(seed):  # noqa: ANN001, ANN202 - a key to a scalar
        problem = sc.synthetic.sample_problem(
            seed, 3, num_samples=batch, num_measurements=8, num_atoms=16
        )
        codes = sc.sparse_encode(problem.signals, problem.dictionary, 0.02, num_steps=100)
        return sc.metrics.mcc(problem.codes, codes)

    signals = sc.synthetic.sample_problem(
        jax.random.key(1), 3, num_samples=1024, num_measurements=8, num_atoms=16
    ).signals
    dictionary = sc.dictionaries.random(
        jax.random.key(2), num_atoms=atoms, num_measurements=atoms // 8
    )
    wide = jax.device_put(jax.random.normal(jax.random.key(3), (batch, atoms // 8)), rows)
    step = sc.dictionaries.step_size(dictionary)
    sparsa, encoder = sc.solvers.sparsa(), sc.encoders.linear(8, 16)

    recipe = sc.training.Recipe(batch_size=32)

    def train(num_steps):  # noqa: ANN001, ANN202
        return sc.training.fit(
            keys, encoder, signals, num_atoms=16, num_steps=num_steps, recipe=recipe, progress=None
        ).params

    def encode():  # noqa: ANN202
        return sc.sparse_encode(wide, dictionary, 0.5, num_steps=20, solver=sparsa, step_size=step)

    programs = {
        "sweep": lambda: sc.sweep(score, seed=keys),
        "fit": lambda: train(num_steps),
        "encode": encode,
    }
    seconds = {}
    for name, program in programs.items():
        jax.block_until_ready(train(2) if name == "fit" else program())
        began = time.perf_counter()
        jax.block_until_ready(program())
        seconds[name] = time.perf_counter() - began
    return seconds


def child(devices: int, quick: bool) -> dict[str, float]:
    """Measure in an interpreter that has so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.devices", "--child", *["--quick"] * quick]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=pathlib.Path, help="file for the table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(options.quick)))
        return
    import jax

    from benchmarks.problems import processor

    rounds = []
    for number in range(1 if options.quick else options.rounds):
        rounds.append((child(1, options.quick), child(2, options.quick)))
        print(f"round {number + 1}: {rounds[-1]}", flush=True)
    lines = [
        f"Two host devices beside one, {os.cpu_count()} cores of {processor()}, jax "
        f"{jax.__version__}, Python {sys.version.split()[0]}; python -m benchmarks.devices",
        f"Median of {len(rounds)} interleaved rounds; below 1 two devices are faster.",
        "",
        f"{'one, s':>8} {'two, s':>8} {'two / one':>10}",
    ]
    for name, title in NAMES.items():
        one, two = (np.array([pair[i][name] for pair in rounds]) for i in (0, 1))
        ratio = np.median(two / one)
        lines.append(f"{np.median(one):8.2f} {np.median(two):8.2f} {ratio:10.2f}  {title}")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
