"""Draw the paper's phase diagram: its three methods, and dictionaries of alternating minimization.

Claim: ``learn_dictionary``, with its defaults, is at or above the published sparse coding
in latent MCC in every cell with K = 3 and K = 9, and at .95 or more wherever M >= 2K ln(N/K), the
boundary that the paper draws. It holds in 21 of 24 cells; not for M = 8, K = 9 and 32 atoms or
more, where more atoms are active than there are measurements. Nothing is claimed yet of the paper's
methods, of K = 15 and of the finer grid: the kept table predates them.

As published: N in 16, 32, 64, 128, M in 8, 16, 32, K in 3, 9, 15; the SAE and the MLP with 32
hidden units, with encoder biases, at a rate of 1e-3, sparse coding at 3e-3, its test codes by
10,000 steps at 1e-3; 50,000 steps (25,000 for K = 15), three data sets. No values were published
for K = 15. The finer grid is ours: 32 atoms that are known, K from 1 to 20 on an axis of one
program, the lasso, its penalty chosen for each K and M on the training half.

Command: ``python -m experiments.phase_diagram`` (estimated from short runs, on 2 busy cores:
4 hours, 40 minutes of them the SAE, 75 the MLP, 35 sparse coding, 75 learned dictionaries, 10 the
finer grid; resumable; ``--methods``, ``--atoms``, ``--measurements`` and ``--active`` run a part,
``--fine`` the finer grid alone; ``--quick`` 40 seconds). Expected: docs/results/phase_diagram.txt,
whose numbers ``--methods learned --active 3 9`` makes again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import sparsecode_jax as sc
from experiments import common, paper, plots, variants

NAME = "phase_diagram"
FINE = f"{NAME}_fine"
FIRST_SEED = 20240927
LEARNED = "learned"
METHODS = (*variants.METHODS, LEARNED)
RATES = {"sae": 1e-3, "mlp32": 1e-3, variants.SPARSE_CODING: 3e-3}
TEST_RATE = 1e-3  # of sparse coding's test codes
TOLERANCE = 1e-4  # of codes in learned dictionaries
GOAL = 0.95  # within the boundary

Cell = tuple[int, int, int]  # N, M, K


@dataclasses.dataclass(frozen=True)
class Config:
    """The published cells and settings; the learner's defaults."""

    methods: tuple[str, ...] = METHODS
    num_atoms: tuple[int, ...] = (16, 32, 64, 128)
    num_measurements: tuple[int, ...] = (8, 16, 32)
    num_active: tuple[int, ...] = (3, 9, 15)
    num_runs: int = 3
    num_steps: int = 50_000  # half of them for K = 15
    test_steps: int = 10_000
    num_rounds: int = 100  # of the learner
    num_hops: int | None = None


@dataclasses.dataclass(frozen=True)
class Fine:
    """The finer grid: known dictionaries, and K on an axis of one program."""

    num_atoms: int = 32
    num_measurements: tuple[int, ...] = tuple(range(4, 30, 2))
    num_active: tuple[int, ...] = tuple(range(1, 21))
    penalties: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03)
    num_runs: int = 3
    num_samples: int = 1024  # of each half
    num_steps: int = 200


QUICK = Config(
    num_atoms=(16,), num_measurements=(16,), num_active=(3, 15), num_runs=2, num_steps=400,
    test_steps=200, num_rounds=20, num_hops=0,
)  # fmt: skip
QUICK_FINE = Fine(
    num_measurements=(8, 28), num_active=(1, 3, 12), penalties=(0.01, 0.1), num_runs=2,
    num_samples=256, num_steps=100,
)  # fmt: skip


def published() -> dict[str, dict[Cell, dict[str, float]]]:
    """Return the published means and deviations: method, cell, column."""
    rows = json.loads((paper.PUBLISHED / f"{NAME}.json").read_text())["rows"]
    found: dict[str, dict[Cell, dict[str, float]]] = {method: {} for method in METHODS}
    for row in rows:
        cell = row["num_atoms"], row["num_measurements"], row["num_active"]
        found[row["method"]][cell] = row
    return found


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, print the table, draw the figures, write the results."""
    started = time.monotonic()
    cells = cells_of(config)
    shape = (
        len(config.num_active), len(config.num_measurements), len(config.num_atoms),
        config.num_runs,
    )  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    bar = tqdm(total=len(config.methods) * len(cells), desc=NAME, unit="cell")
    with common.stages(out, NAME, config) as stages, bar:
        for method in config.methods:
            found = []
            for cell in cells:
                found.append(measure(stages, config, method, cell))
                bar.set_postfix_str(f"done {method} {cell}")
                bar.update()
            arrays |= {
                f"{method}/{key}": np.stack([one[key] for one in found]).reshape(shape)
                for key in found[0]
            }
            axes = ["K", "M", "N", "data set"]
            variants.write(out, NAME, config, arrays, table(arrays, config), axes, started)
            figures(arrays, config, out)


def cells_of(config: Config) -> list[Cell]:
    """Return the cells in the order of the axes of results."""
    grid = itertools.product(config.num_active, config.num_measurements, config.num_atoms)
    return [(n, m, k) for k, m, n in grid]


def measure(stages: sc.io.Run, config: Config, method: str, cell: Cell) -> dict[str, np.ndarray]:
    """Train a method on a cell's data sets and score it, keeping the result as a part."""
    n, m, k = cell
    seeds = tuple(FIRST_SEED + run for run in range(config.num_runs))
    given = variants.runs(
        seeds, seeds, (paper.PENALTY,) * len(seeds), num_atoms=n, num_measurements=m, num_active=k
    )
    part = f"{method}-{n}-{m}-{k}"
    if method == LEARNED:
        return stages.once(part, functools.partial(learn, config, given))
    return variants.measure(
        stages, part, method, given, num_steps=config.num_steps // (2 if k == 15 else 1),
        learning_rate=RATES[method], test_steps=config.test_steps, test_rate=TEST_RATE,
        use_bias=True, score=scores,
    )  # fmt: skip


def learn(config: Config, given: variants.Runs) -> dict[str, np.ndarray]:
    """Learn dictionaries on the training halves; score them, and the true ones, on test halves."""
    data = given.data
    found = [
        sc.dictionary_learning.learn_dictionary(
            jax.random.key(0), signals, num_atoms=data.dictionary.shape[-2],
            num_rounds=config.num_rounds, num_hops=config.num_hops,
        )
        for signals in data.train_signals
    ]  # fmt: skip

    def codes(dictionaries: Any) -> np.ndarray:
        return np.stack([
            sc.sparse_encode(signals, dictionary, one.penalty, tolerance=TOLERANCE)
            for signals, dictionary, one in zip(data.test_signals, dictionaries, found, strict=True)
        ])  # fmt: skip

    atoms = np.stack([one.dictionary for one in found])
    return {
        **scores(given, atoms, codes(atoms)),
        "true_dictionary": np.asarray(sc.metrics.mcc(data.test_codes, codes(data.dictionary))),
        "flops": np.asarray([float(one.flops) for one in found]),
    }


def scores(given: variants.Runs, dictionary: Any, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Score every run, and what unrelated codes and atoms score by the same matching."""
    found = variants.scores(given, dictionary, codes)
    key, data = jax.random.key(0), given.data
    found["latent_chance"] = np.asarray([
        sc.metrics.mcc_chance(key, truth, one)[0] if np.isfinite(score) else np.nan
        for truth, one, score in zip(data.test_codes, codes, found["latent_mcc"], strict=True)
    ])  # fmt: skip
    found["dict_chance"] = np.asarray([
        sc.metrics.dictionary_mcc_chance(key, atoms, metric=sc.metrics.pearson_dictionary_mcc)[0]
        for atoms in data.dictionary
    ])  # fmt: skip
    return found


def by_cell(arrays: dict[str, np.ndarray], config: Config, name: str) -> dict[Cell, np.ndarray]:
    """Return the runs of each cell."""
    values = arrays[name].reshape(-1, config.num_runs)
    return dict(zip(cells_of(config), values, strict=True))


def table(arrays: dict[str, np.ndarray], config: Config) -> str:
    """Write a row a method and cell, published values and chance beside ours."""
    before = published()
    methods = [method for method in METHODS if f"{method}/latent_mcc" in arrays]
    rows: list[list[Any]] = []
    for method in methods:
        got = {
            key: by_cell(arrays, config, f"{method}/{key}")
            for key in ("latent_mcc", "latent_chance", "dict_mcc", "dict_chance", "dead", "mse",
                        "flops")
        }  # fmt: skip
        for cell in cells_of(config):
            row: list[Any] = [label(method), *cell]
            for key in ("latent", "dict"):
                theirs = before[method].get(cell, {}).get(f"{key}_mcc")
                row += [
                    common.estimate(got[f"{key}_mcc"][cell]),
                    "" if theirs is None else f"{theirs:.3f}",
                    f"{np.nanmean(got[f'{key}_chance'][cell]):.3f}",
                ]
            row += [common.estimate(got["dead"][cell], 2)]
            row += [common.estimate(1e3 * got["mse"][cell], 2)]
            rows.append([*row, f"{got['flops'][cell][0]:.1e}", config.num_runs])
    header = (
        "method", "N", "M", "K", "latent MCC", "published", "chance", "dictionary MCC", "published",
        "chance", "dead", "1,000 MSE", "FLOPs", "n",
    )  # fmt: skip
    lines = [
        f"{common.format_table(header, rows)}\n",
        f"{config.num_runs} data sets (n; seeds 20240927 + run), {config.num_steps:,} steps (half "
        f"for K = 15), test codes of sparse coding by {config.test_steps:,} Adam\nsteps; means "
        "with 95 % t intervals on 1,024 test signals. Published: means of 3 runs; none for K = 15 "
        "and\nfor learned dictionaries. Chance, by the same matching: codes of shuffled signals, "
        "random atoms.\nDictionary MCC: |Pearson| over coordinates, as published, optimal "
        "assignment. Dead: fraction of latents that no\ntest signal takes above .001. Runs that "
        "are not finite are counted as failed. FLOPs: training of a run, with\nrestarts, hops and "
        "refinement for alternating minimization, convention 'arithmetic'.",
    ]
    if config.num_runs > 1:
        lines += [_agreement(arrays, config, method) for method in methods if before[method]]
    if variants.SPARSE_CODING in methods and len(methods) > 1 and config.num_runs > 1:
        lines.append(_compared(arrays, config, methods))
    if LEARNED in methods:
        lines.append(_goals(arrays, config))
    return "\n".join(lines) + "\n"


def label(method: str) -> str:
    """Return what a method is called in tables and figures."""
    return "alternating minimization" if method == LEARNED else variants.label(method)


def _agreement(arrays: dict[str, np.ndarray], config: Config, method: str) -> str:
    """Say in how many cells the published latent MCC is inside our interval."""
    before, inside, off = published()[method], [], []
    for cell, values in by_cell(arrays, config, f"{method}/latent_mcc").items():
        if cell in before:
            mean, half = sc.statistics.mean_interval(values)
            off.append(abs(float(mean) - before[cell]["latent_mcc"]))
            inside.append(off[-1] <= half)
    if not off:
        return f"{label(method)}: no values were published of these cells."
    return (
        f"{label(method)}: the published mean latent MCC is inside our interval in {sum(inside)} "
        f"of {len(off)} cells; means differ by {np.nanmedian(off):.3f} in the median and "
        f"{np.nanmax(off):.3f} at most."
    )


def _compared(arrays: dict[str, np.ndarray], config: Config, methods: list[str]) -> str:
    """Compare methods with sparse coding in every cell, paired by data set."""
    base = by_cell(arrays, config, f"{variants.SPARSE_CODING}/latent_mcc")
    found = {
        (method, cell): sc.statistics.compare_pairs(values, base[cell])
        for method in methods if method != variants.SPARSE_CODING
        for cell, values in by_cell(arrays, config, f"{method}/latent_mcc").items()
    }  # fmt: skip
    corrected = dict(
        zip(found, sc.statistics.holm([one.p_t for one in found.values()]), strict=True)
    )
    failed = sum(np.isnan(one.difference.estimate) for one in found.values())
    rows = []
    for method, k in itertools.product(methods, config.num_active):
        mine = [case for case in found if case[0] == method and case[1][2] == k]
        if mine:
            means = np.asarray([found[case].difference.estimate for case in mine])
            sure = np.asarray([corrected[case] < 0.05 for case in mine])
            rows.append([
                label(method), k, len(mine), f"{np.nanmean(means):+.3f}",
                f"{np.nanmin(means):+.3f} to {np.nanmax(means):+.3f}", int((means > 0).sum()),
                int((sure & (means > 0)).sum()), int((sure & (means < 0)).sum()),
            ])  # fmt: skip
    header = (
        "less sparse coding", "K", "cells", "mean", "least to most", "ahead", "p < .05",
        "behind, p < .05",
    )  # fmt: skip
    return (
        "\nDifferences in latent MCC to sparse coding, paired by data set; p: of the t test after "
        f"Holm's correction\nover all {len(found)} comparisons, {failed} of which have a run that "
        "is not finite: these have no difference\n"
        f"{common.format_table(header, rows)}"
    )


def _goals(arrays: dict[str, np.ndarray], config: Config) -> str:
    """Compare learned dictionaries with the published sparse coding and with the true ones."""
    before = published()[variants.SPARSE_CODING]
    truth = by_cell(arrays, config, f"{LEARNED}/true_dictionary")
    rows: list[list[Any]] = []
    for cell, values in by_cell(arrays, config, f"{LEARNED}/latent_mcc").items():
        n, m, k = cell
        row = [*cell, common.estimate(values), f"{min(values):.3f}", common.estimate(truth[cell])]
        if cell in before:
            theirs = before[cell]["latent_mcc"]
            goal = max(theirs, GOAL) if m >= paper.recovery_boundary(n, k) else theirs
            row += [f"{theirs:.3f}", f"{goal:.3f}", "yes" if np.mean(values) >= goal else "NO"]
        rows.append(row + [""] * (9 - len(row)))
    header = ("N", "M", "K", "latent MCC", "lowest", "true dictionary", "published", "goal", "met")
    return (
        "\nAlternating minimization: true dictionary, the same inference with it; published, "
        "sparse coding; goal, the published\nvalue, and .95 wherever M >= 2K ln(N/K)\n"
        f"{common.format_table(header, rows)}"
    )


def figures(arrays: dict[str, np.ndarray], config: Config, out: pathlib.Path) -> None:
    """Draw latent MCC by method, and differences to sparse coding."""
    means = {
        method: arrays[f"{method}/latent_mcc"].mean(axis=-1)
        for method in METHODS
        if f"{method}/latent_mcc" in arrays
    }
    panels = {label(method): values for method, values in means.items()}
    plots.phases(panels, config, "latent MCC", out / f"{NAME}.png")
    base = means.pop(variants.SPARSE_CODING, None)
    if base is not None and means:
        panels = {f"{label(method)} - sparse coding": v - base for method, v in means.items()}
        path = out / f"{NAME}_differences.png"
        plots.phases(panels, config, "difference in latent MCC", path, signed=True)


def fine(config: Fine = Fine(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run the finer grid, a program for each M, print the table, draw and write."""
    started = time.monotonic()
    found = []
    with common.stages(out, FINE, config) as stages:
        for m in tqdm(config.num_measurements, desc=FINE, unit="M"):
            found.append(stages.once(f"{m}", functools.partial(sweep_active, config, m)))
        arrays = {key: np.stack([one[key] for one in found]) for key in found[0]}
        axes = ["M", "K", "data set"]
        variants.write(out, FINE, config, arrays, fine_table(arrays, config), axes, started)
        plots.fine_phases(arrays["latent_mcc"].mean(axis=-1), config, out / f"{FINE}.png")


def sweep_active(config: Fine, num_measurements: int) -> dict[str, np.ndarray]:
    """Solve the lasso for every K, seed and penalty in one program; score at the best penalty."""
    solver = sc.solvers.fista(restart=sc.solvers.gradient_restart)

    def solve(k: jax.Array, seed: jax.Array, penalty: jax.Array) -> tuple[jax.Array, jax.Array]:
        problem = sc.synthetic.sample_problem(
            jax.random.key(seed), k, num_samples=2 * config.num_samples,
            num_measurements=num_measurements, num_atoms=config.num_atoms,
        )  # fmt: skip
        codes = sc.sparse_encode(
            problem.signals, problem.dictionary, penalty, solver=solver, num_steps=config.num_steps
        )
        return problem.codes, codes

    truth, codes = sc.sweep(
        solve, k=jnp.asarray(config.num_active), seed=jnp.arange(config.num_runs),
        penalty=jnp.asarray(config.penalties),
    )  # fmt: skip
    (train, test), (train_codes, test_codes) = (np.split(x, 2, axis=-2) for x in (truth, codes))
    chosen = np.argmax(np.mean(sc.metrics.mcc(train, train_codes), axis=1), axis=-1)

    def at_chosen(values: Any) -> np.ndarray:
        return np.take_along_axis(np.asarray(values), chosen[:, None, None], axis=-1)[..., 0]

    others = np.roll(test_codes, 1, axis=-2)  # of another signal each
    return {
        "latent_mcc": at_chosen(sc.metrics.mcc(test, test_codes)),
        "latent_chance": at_chosen(sc.metrics.mcc(test, others)),
        "penalty": np.asarray(config.penalties)[chosen],
    }


def fine_table(arrays: dict[str, np.ndarray], config: Fine) -> str:
    """Write a row for each K, and up to which K each M is enough."""
    rows = [
        [k, *(common.estimate(values[i]) for values in arrays["latent_mcc"])]
        for i, k in enumerate(config.num_active)
    ]
    bounds = []
    for m, values in zip(config.num_measurements, arrays["latent_mcc"], strict=True):
        good = values.mean(axis=-1) >= GOAL
        within = m >= paper.recovery_boundary(config.num_atoms, np.asarray(config.num_active))
        bounds.append([m, *(_first_run(config.num_active, kept) for kept in (good, within))])
    header = ("K", *(f"M = {m}" for m in config.num_measurements))
    chance = arrays["latent_chance"].mean(axis=-1)
    penalties = ", ".join(f"{penalty:g}" for penalty in config.penalties)
    return (
        f"{common.format_table(header, rows)}\n\nLatent MCC on {config.num_samples:,} test "
        f"signals, {config.num_atoms} known atoms, means over {config.num_runs} data sets with "
        f"95 % t intervals: the lasso by\n{config.num_steps} steps of FISTA, its penalty chosen "
        f"for each K and M on the training half among {penalties}. Chance (codes\nof other "
        f"signals): {np.min(chance):.3f} to {np.max(chance):.3f}. Nothing was published.\n\nThe "
        f"largest K up to which the mean is {GOAL} or more, and M >= 2K ln(N/K)\n"
        f"{common.format_table(('M', 'mean', 'boundary'), bounds)}\n"
    )


def _first_run(numbers: tuple[int, ...], kept: np.ndarray) -> int | str:
    """Return the last number before the first that is not kept."""
    count = len(numbers) if kept.all() else int(np.argmin(kept))
    return numbers[count - 1] if count else "none"


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    for flag, values, what in (
        ("atoms", Config.num_atoms, "N"), ("measurements", Config.num_measurements, "M"),
        ("active", Config.num_active, "K"),
    ):  # fmt: skip
        parser.add_argument(
            f"--{flag}", dest=f"num_{flag}", type=int, nargs="+", choices=values, help=what
        )
    parser.add_argument("--fine", action="store_true", help="the finer grid alone")
    arguments = vars(parser.parse_args())
    quick, only_fine = arguments.pop("quick"), arguments.pop("fine")
    folder = arguments.pop("out") / ("quick" if quick else "")
    part = {key: tuple(values) for key, values in arguments.items() if values}
    if not only_fine:
        main(dataclasses.replace(QUICK if quick else Config(), **part), folder)
    if only_fine or not part:
        fine(QUICK_FINE if quick else Fine(), folder)
