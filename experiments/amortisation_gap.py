"""Measure the best that one pass can do, how depth closes the gap, and where theory is sharp.

Claim (Theorem 3.1 of the paper): an encoder that is a linear map of the M measurements and then
acts on each latent alone cannot recover N > M sparse latents, however well it is trained. So one
layer is trained with the true codes, to convergence, beside wider, deeper and unrolled encoders and
beside 1 to 1,024 steps of ISTA; the rank bound behind the theorem, K = 1 as its exception, and the
theorem that one ReLU layer near the dictionary recovers supports are checked numerically.

Command: ``python -m experiments.amortisation_gap`` (6 minutes; resumable; ``--quick`` half a
minute). Expected, latent MCC on the test half of the paper's data: one layer .880 from every
start; one hidden layer .945 (16 wide) to .993 (1,024), three of 256 .9996; LISTA of 2, 4, 8 layers
.958, .986, .996; ISTA of 1, 16, 1,024 steps .73, .91, .986; FISTA of 1,024 .9925. At K = 1 the
layer has .979, and 4 of the 16 atoms can be decoded exactly.

Encoders maximize the cosine similarity of every latent with its true one (the paper's loss for
known codes), with biases, on fresh signals of the paper's dictionary, more than they can remember,
and some on the paper's 1,024 signals. Each is trained from several starts and learning rates; the
one that is reported, and the penalty of ISTA, are chosen on the paper's training half.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

import sparsecode_jax as sc
from experiments import authors, common, one_pass, plots
from experiments.one_pass import GAUSSIAN, HADAMARD, K, M, N

NAME = "amortisation_gap"
SUPPORTS = (  # dictionary, M, K; "paper" has N = 16 and half-normal magnitudes
    (HADAMARD, 1024, 1), (HADAMARD, 1024, 3), (HADAMARD, 1024, 10), (HADAMARD, 1024, 30),
    (HADAMARD, 64, 1), (HADAMARD, 64, 3), (GAUSSIAN, 1024, 1), (GAUSSIAN, 1024, 3),
    (GAUSSIAN, 1024, 10), ("paper", M, 1), ("paper", M, K),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
      num_fresh: fresh training signals.
      steps: updates.
      batch_size: signals an update.
      rates: learning rates of the encoders that start as steps of ISTA.
      random_rates: of those that start from random weights.
      mlps: hidden widths.
      residual: (width, blocks).
      layers: of LISTA.
      depths: steps of ISTA and FISTA.
      actives: K of the exception.
      few: families that are trained on the paper's 1,024 signals as well.
      supports: dictionary, M and K of each case of support recovery.
      support_samples: signals a rate of support recovery.
    """

    num_fresh: int = 131_072
    steps: int = 3000
    batch_size: int = 256
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    random_rates: tuple[float, ...] = (3e-3,)
    mlps: tuple[tuple[int, ...], ...] = (
        (16,), (64,), (256,), (1024,), (16, 16), (64, 64), (256, 256),
        (16, 16, 16), (64, 64, 64), (256, 256, 256),
    )  # fmt: skip
    residual: tuple[tuple[int, int], ...] = ((64, 1), (64, 2), (64, 4), (64, 8))
    layers: tuple[int, ...] = (1, 2, 4, 8, 16)
    depths: tuple[int, ...] = tuple(2**i for i in range(11))
    actives: tuple[int, ...] = (1, 2, 3, 4)
    few: tuple[str, ...] = ("one layer", "MLP, 1 hidden", "LISTA")
    supports: tuple[tuple[str, int, int], ...] = SUPPORTS
    support_samples: int = 500


QUICK = Config(
    num_fresh=4096,
    steps=300,
    batch_size=256,
    rates=(1e-2,),
    random_rates=(),
    mlps=(),
    residual=(),
    layers=(4,),
    depths=(1, 64),
    actives=(1, 3),
    few=(),
    supports=((HADAMARD, 64, 1), ("paper", M, K)),
    support_samples=50,
)


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Train, solve, check, print the tables, draw the figure, write the results."""
    started = time.monotonic()
    with common.stages(out, NAME, config) as stages:
        data = authors.data(authors.KNOWN_SEED)
        rows = one_pass.sweep(config, stages)
        for name in one_pass.SOLVERS:
            print(f"{name}: {len(config.depths)} depths ...", flush=True)
            for depth in config.depths:
                rows[f"{name}|{depth}"] = one_pass.solver_row(data, name, depth)
        exhaustive = sc.sparse_encode(
            data.test_signals, data.dictionary, 0.0, solver=sc.solvers.exhaustive(K), num_steps=1
        )
        rows["all supports|"] = {"test": np.asarray(sc.metrics.mcc(data.test_codes, exhaustive))}
        by_k = stages.once("exception", lambda: one_pass.exception(config, stages))
        print("the checks of theory ...", flush=True)
        rank = one_pass.rank_bound(data.dictionary, by_k["weight, bias"])
        apart, exact = one_pass.one_atom(data.dictionary)
        supports = stages.once("supports", lambda: one_pass.supports(config))
        arrays = {f"sweep|{name}|{key}": x for name, row in rows.items() for key, x in row.items()}
        for part, table in (("rank", rank), ("K", by_k), ("supports", supports)):
            arrays |= {f"{part}|{name}": value for name, value in table.items()}
        arrays |= {"cone|atoms": np.asarray(apart), "cone|score": np.asarray(exact)}
        sc.io.save_results(
            out / NAME,
            arrays,
            {
                "experiment": NAME,
                "config": dataclasses.asdict(config),
                "axes": {
                    "sweep|family|size|runs": ["run"],
                    "K": ["active atoms"],
                    "supports|rates": ["case", "distance", "threshold"],
                },
                "flops": "measured, convention 'arithmetic', a signal",
                "seconds": round(time.monotonic() - started, 1),
            },
        )
    report(config, out)


def unpack(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the saved arrays by part; those of the sweep by encoder and quantity."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in arrays.items():
        part, name = key.split("|", 1)
        if part == "sweep":
            name, quantity = name.rsplit("|", 1)
            parts.setdefault(part, {}).setdefault(name, {})[quantity] = value
        else:
            parts.setdefault(part, {})[name] = value
    return parts


def report(config: Config, out: pathlib.Path) -> None:
    """Print the tables and draw the figure, from the results alone."""
    parts = unpack(sc.io.load_results(out / NAME)[0])
    figure = plots.amortization(parts["sweep"], out / f"{NAME}.png")
    tables = (
        sweep_table(parts["sweep"]),
        theory_tables(parts, config),
        support_table(parts["supports"], config),
        NOTES.format(
            config=config,
            rates=", ".join(f"{x:g}" for x in config.rates),
            random_rates=", ".join(f"{x:g}" for x in config.random_rates) or "none",
        ),
    )
    text = "\n\n".join(tables) + "\n"
    (out / f"{NAME}.txt").write_text(text)
    print(f"\n{text}\nwrote {figure}")


def sweep_table(rows: dict[str, dict[str, np.ndarray]]) -> str:
    """Return a row for each encoder and depth of a solver."""

    def number(row: dict[str, np.ndarray], key: str, form: str = ".4f") -> str:
        return format(row[key].item(), form) if key in row else "-"

    cells = []
    for name, row in rows.items():
        spread = f"{row['runs'].min():.3f}-{row['runs'].max():.3f}" if "runs" in row else "-"
        cells.append(
            (
                name.replace("|", " ").strip(),
                number(row, "depth", ",d"),
                number(row, "flops", ",.0f"),
                number(row, "train"),
                number(row, "test"),
                spread,
                number(row, "few_train"),
                number(row, "few_test"),
                number(row, "penalty", "g"),
            )
        )
    header = (
        "encoder", "layers", "FLOPs a signal", "MCC, train half", "MCC, test half", "runs",
        "1,024 signals: train", "test", "penalty",
    )  # fmt: skip
    return f"Latent MCC, known dictionary, K = {K}\n{common.format_table(header, cells)}"


def theory_tables(parts: dict[str, dict[str, Any]], config: Config) -> str:
    """Return the tables of the rank bound and of its exception."""
    rank = [(name, f"{float(value):.4f}") for name, value in parts["rank"].items()]
    ways = ("bias", "no bias", "TopK", "FISTA")
    by_k = [
        (str(k), *(f"{float(parts['K'][way][i]):.4f}" for way in ways))
        for i, k in enumerate(config.actives)
    ]
    last = f"FISTA, {config.depths[-1]:,} steps"
    header = ("K", "one layer", "without bias", "TopK, not trained", last)
    cone = parts["cone"]
    return (
        f"The rank bound: ||I - D W'||^2 >= N - M = {N - M} for every weight W (N, M)\n"
        + common.format_table(("weight", "||I - D W'||^2"), rank)
        + "\n\nThe exception, K = 1: latent MCC on the test half\n"
        + common.format_table(header, by_k)
        + f"\nAtoms outside the cone of all others: {int(cone['atoms'])} of {N}; at K = 1 one ReLU "
        "without bias decodes these exactly\n(linear programs; correlation with the true codes "
        f"{float(cone['score']):.6f}), and no others.\nTopK: the K largest correlations with the "
        "atoms, which is one pass but does not act on each latent alone."
    )


def support_table(supports: dict[str, np.ndarray], config: Config) -> str:
    """Return the rates of support recovery."""
    columns = [supports[name] for name in ("coherence", "rates", "certain")]
    cells = []
    for (name, size, k), mu, rates, certain in zip(config.supports, *columns, strict=True):
        found = [
            f"{first:.2f}{'*' if sure else ''} / {best:.2f}"
            for (first, best), sure in zip(rates, certain, strict=True)
        ]
        cells.append((name, str(size), str(k), f"{mu:.3f}", *found))
    header = (
        "dictionary", "M", "K", "coherence", *(f"δ = {d:g}" for d in one_pass.DISTANCES)
    )  # fmt: skip
    return (
        "One ReLU layer near the dictionary: how often the support is recovered exactly, of "
        f"{config.support_samples:,} signals\n" + common.format_table(header, cells)
    )


NOTES = """The paper's known dictionary (N = 16, M = 8). Encoders maximize the cosine with the true
codes: {config.steps:,} Adam updates of {config.batch_size} of {config.num_fresh:,} fresh signals.
Each starts as steps of ISTA, with learning rates {rates}, and from random
weights, with {random_rates}, one key each; the run shown is best on the train half (on which
only those of '1,024 signals' are trained), 'runs' is the range of all on the test half, no
interval: what a start can reach is the question, not its mean. Penalties
of ISTA and FISTA are chosen on the train half. FLOPs are measured, convention 'arithmetic'.
'all supports': non-negative least squares on every support of at most 3 atoms.
Supports: weight rows at distance δ from the atoms, in random directions; magnitudes U(1, 2), N = 2M
('paper': the paper's half-normal ones and dictionary); latents max(Wx - ε, 0) with
ε = 2 K m (μ + δ), μ the coherence and m the mean magnitude / with the best single ε.
*: a (1 - δ) > 4 K m (μ + δ), a the least magnitude, so that recovery is certain."""


if __name__ == "__main__":
    args = common.parser(__doc__, compiles=True).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
