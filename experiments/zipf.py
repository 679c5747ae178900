"""Draw the paper's latents by the authors' Zipf law, in its three settings, as they train.

Claim: the paper's conclusion holds on them, with lower values. Supervised, nothing reaches the
lasso in the dictionary of least squares (.948): SAE .603, MLPs of 32 to 1,024 units .575 to .853.
With the dictionary known the SAE ends at a latent MCC of .733, the MLPs at .763 and .842 and ITO at
.875, below the lasso in the same dictionary (.949; .977 with ITO's own penalty). Unknown, sparse
coding (.590) is ahead of the SAE (.520) and its ITO (.510), and learned dictionaries read by the
lasso (.718) of all, which the true one leaves far behind (.962).

As published: the authors' data seeds, initial weights, penalty, rates and steps; supports are drawn
with weights in proportion to 1/i without replacement, and half-normal magnitudes are multiplied by
the weight plus .1. No numbers were published: the published ones of uniform latents stand beside
ours. Ours, besides: the lasso and a pursuit of 3 atoms in the true dictionary (with known codes, in
that of least squares on the training half), and in learned ones. The lasso's penalty is the one of
``experiments.structured_latents``, in proportion to the root mean square of the training signals;
nothing is chosen here.

Command: ``python -m experiments.zipf`` (52 minutes on 2 cores, beside much other work; resumable;
``--settings`` runs some; ``--quick`` half a minute). Expected: docs/results/zipf.txt.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import accounts, authors, common, paper, settings
from experiments.crossing import K, counted, encode, keys
from experiments.settings import RUNS, SAMPLES, N
from sparsecode_jax.flops import value_and_flops

NAME = "zipf"
SPARSE_CODING, ITO = "sparse_coding", "sae_ito"
PUBLISHED = {
    "known_codes": ("sae", "mlp32", "mlp256", "mlp1024"),
    "known_dictionary": ("sae", "mlp32", "mlp256", "ito"),
    "unknown_dictionary": ("sae", "mlp32", "mlp256", ITO, SPARSE_CODING),
}
LAST = {"known_codes": 19_990, "known_dictionary": 19_900, "unknown_dictionary": 39_500}
TITLES = {
    "known_codes": "Known codes, supervised: signed correlation of each latent with its own",
    "known_dictionary": "Known dictionary: latent MCC",
    "unknown_dictionary": "Unknown codes and dictionary: latent MCC",
}
PENALTY = 0.05  # of the lasso, for signals with a root mean square norm of sqrt(K)
DEAD = 1e-3  # a latent is dead that is never above it


@dataclasses.dataclass(frozen=True)
class Config:
    """Names of settings, how long to train at most, and the budget of alternating minimization."""

    names: tuple[str, ...] = settings.SETTINGS
    most_steps: int | None = None  # of training and of codes; None takes the published ones
    test_steps: int = 10_000
    widest: int = 1024
    num_restarts: int = 16
    num_rounds: int = 100
    num_hops: int = 6


QUICK = Config(most_steps=101, test_steps=101, widest=32, num_restarts=2, num_rounds=20, num_hops=0)


class Scores(NamedTuple):
    """A method's scores and work.

    Attributes:
      mcc: (records, runs), at the steps of its setting; one record of what has no steps.
      dead: latents, of each run at the last record.
      training: FLOPs of a run.
      inference: FLOPs a test signal.
      dictionary: (runs,) |cosine| MCC of the last atoms; NaN where none are learned.
    """

    mcc: np.ndarray
    dead: np.ndarray
    training: np.ndarray
    inference: np.ndarray
    dictionary: np.ndarray


def steps(setting: str, config: Config) -> tuple[int, ...]:
    """Return the published steps that are recorded."""
    last = LAST[setting]
    if config.most_steps is not None:
        last = min(last, config.most_steps - 1)
    return tuple(step for step in (100, 1_000, 10_000) if step < last) + (last,)


def scored(
    setting: str,
    problem: authors.AuthorsData,
    records: list[Any],
    *,
    training: float,
    inference: float,
    atoms: Any = None,
) -> Scores:
    """Score test codes (runs, S, N) of every record; a run that is not finite has NaN."""
    metric = sc.metrics.latent_correlation if setting == "known_codes" else sc.metrics.mcc
    mcc = []
    for codes in map(np.asarray, records):
        good = np.isfinite(codes).all(axis=(1, 2))
        safe = np.where(good[:, None, None], codes, problem.test_codes)
        mcc.append(np.where(good, settings.run_scores(metric, problem.test_codes, safe), np.nan))
    runs = len(mcc[-1])
    found = np.full(runs, np.nan)
    if atoms is not None:
        good = np.isfinite(atoms).all(axis=(1, 2))
        safe = np.where(good[:, None, None], atoms, problem.dictionary)
        found = settings.run_scores(sc.metrics.dictionary_mcc, problem.dictionary, safe)
        found = np.where(good, found, np.nan)
    return Scores(
        np.stack(mcc), np.sum(np.max(records[-1], axis=1) <= DEAD, axis=-1), np.float64(training),
        np.float64(inference), found,
    )  # fmt: skip


def published(
    setting: str, method: str, problem: authors.AuthorsData, config: Config, run: sc.io.Run
) -> Scores:
    """Train a method of the paper as published, and encode the test signals at every record."""
    logged = steps(setting, config)
    if method == "ito":
        return optimized(problem, logged)
    trained = "sae" if method == ITO else method
    hidden = (int(trained.removeprefix("mlp")),) if trained.startswith("mlp") else ()
    kind: Any = method if method == SPARSE_CODING else hidden
    fitted = settings.train(
        setting, kind, num_steps=logged[-1] + 1, record_steps=[step + 1 for step in logged],
        checkpoint=run.file(f"{setting}-{trained}"), problem=problem,
        progress=f"{setting.replace('_', ' ')}, {trained}",
    )  # fmt: skip
    atoms: Any = None
    if setting == "unknown_dictionary":
        atoms = fitted.records if method == SPARSE_CODING else fitted.records.dictionary
    if method in (ITO, SPARSE_CODING):
        records = [
            settings.optimize_codes(part, problem.test_signals, num_steps=config.test_steps)
            for part in atoms
        ]
        inference = accounts.inference(settings.paper_solver(), config.test_steps)
    else:
        apply, params = settings.encoder(setting, hidden).apply, fitted.records.encoder
        signals = np.broadcast_to(problem.test_signals, (RUNS, *problem.test_signals.shape))
        records = [
            encode(apply, jax.tree.map(lambda x, i=i: x[i], params), signals)
            for i in range(len(logged))
        ]
        inference = accounts.encoding(setting, hidden)
    return scored(
        setting, problem, records, atoms=None if atoms is None else np.asarray(atoms[-1]),
        training=accounts.training_step(setting, kind).measured * (logged[-1] + 1),
        inference=inference.measured / SAMPLES,
    )  # fmt: skip


def optimized(problem: authors.AuthorsData, logged: tuple[int, ...]) -> Scores:
    """Optimize codes in the true dictionary as published; a step is an update, and all runs one."""
    records = [
        settings.optimize_codes(
            problem.dictionary[None], problem.test_signals, num_steps=step, learning_rate=1e-3
        )
        for step in logged
    ]
    work = accounts.inference(settings.paper_solver(), logged[-1]).measured / SAMPLES
    return scored("known_dictionary", problem, records, training=0, inference=work)


def ours(
    setting: str, problem: authors.AuthorsData, config: Config, run: sc.io.Run
) -> dict[str, Scores]:
    """Encode the test signals in the true dictionary, or in those learned for each of five keys."""
    norm = math.sqrt(np.mean(np.sum(np.square(problem.train_signals), axis=1)))
    penalty = PENALTY * norm / math.sqrt(K)
    ways: dict[str, dict[str, Any]] = {
        "lasso": {"penalty": penalty, "tolerance": 1e-4},
        f"OMP {K}": {"num_active": K, "solver": sc.solvers.orthogonal_matching_pursuit},
    }
    if setting == "known_dictionary":
        ways["lasso of ITO"] = {"penalty": settings.LASSO_PENALTY, "tolerance": 1e-4}

    def of(atoms: np.ndarray, training: float, way: str, *, learned: bool) -> Scores:
        found = [counted(problem.test_signals, one, **ways[way]) for one in atoms]
        return scored(
            setting, problem, [np.stack([codes for codes, _ in found])], training=training,
            inference=float(np.mean([flops for _, flops in found])),
            atoms=atoms if learned else None,
        )  # fmt: skip

    atoms, cost, source = problem.dictionary, 0.0, "true"
    if setting == "known_codes":
        found, count = value_and_flops(_least_squares)(problem.train_codes, problem.train_signals)
        atoms, cost, source = np.asarray(found), count.total(accounts.CONVENTION), "least squares"
    scores = {
        f"{source} + {way}": of(atoms[None], cost, way, learned=setting == "known_codes")
        for way in ways
    }
    if setting != "unknown_dictionary":
        return scores

    def learn() -> dict[str, np.ndarray]:
        print("alternating minimization ...", flush=True)
        fits = [
            sc.dictionary_learning.learn_dictionary(
                key, problem.train_signals, num_atoms=N, num_restarts=config.num_restarts,
                num_rounds=config.num_rounds, num_hops=config.num_hops,
            )
            for key in keys(RUNS)
        ]  # fmt: skip
        return {
            "atoms": np.stack([fit.dictionary for fit in fits]),
            "flops": np.asarray(float(fits[0].flops)),
        }

    kept = run.once("learned", learn)
    learned = {
        f"learned + {way}": of(kept["atoms"], float(kept["flops"]), way, learned=True)
        for way in ways
    }
    return learned | scores


def _least_squares(codes: Any, signals: Any) -> Any:
    return jnp.linalg.solve(codes.T @ codes, codes.T @ signals)


def measure(setting: str, config: Config, run: sc.io.Run) -> dict[str, Scores]:
    """Return the scores of every method of a setting, keeping each as it is done."""
    problem = settings.data(setting, authors.zipf_weights())
    found = {}
    for method in PUBLISHED[setting]:
        if method.startswith("mlp") and int(method.removeprefix("mlp")) > config.widest:
            continue

        def work(method: str = method) -> dict[str, Any]:
            return published(setting, method, problem, config, run)._asdict()

        found[method] = Scores(**run.once(f"{setting}-{method}-scores", work))
    return found | ours(setting, problem, config, run)


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, print the tables, write the results."""
    started = time.monotonic()
    with common.stages(out, NAME, config) as run:
        found = {setting: measure(setting, config, run) for setting in config.names}
        arrays = {
            f"{setting}/{method}/{name}": np.asarray(value)
            for setting, methods in found.items()
            for method, scores in methods.items()
            for name, value in scores._asdict().items()
        }
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config),
            "axes": {"mcc": ["record", "run"], "dead": ["run"], "dictionary": ["run"]},
            "records": {setting: list(steps(setting, config)) for setting in config.names},
            "flops": f"measured, convention {accounts.CONVENTION!r}",
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        sc.io.save_results(out / NAME, arrays, manifest)
        text = report(found, config)
        (out / f"{NAME}.txt").write_text(text)
    print("\n" + text)


def report(found: dict[str, dict[str, Scores]], config: Config) -> str:
    """Return a table of each setting, and of the learned dictionaries against the others."""
    parts = [table(setting, methods, config) for setting, methods in found.items()]
    if "unknown_dictionary" in found:
        parts.append(compared(found["unknown_dictionary"]))
    return "\n\n".join(parts) + "\n\n" + NOTES.format(config=config, steps=f"{config.test_steps:,}")


NOTES = """The authors' Zipf law on their data seeds, one data set a setting: N = 16, M = 8, K = 3,
1,024 training and 1,024 test signals. ±: 95 % t interval over n initial weights (learned: keys);
what is computed in a given dictionary is deterministic, n = 1. At a logged step of training there
has been one update more; ITO's steps are updates of codes. Uniform latents, published: at the last
step. No values were published for Zipf latents. FLOPs: measured, convention 'arithmetic'; training
of one run, inference of a test signal, at the last step. Dead: mean number of latents, of 16, that
no test signal takes above .001. Atoms: dictionary MCC, |cosine|. sae_ito, sparse_coding: test codes
by {steps} steps of Adam. Learned: {config.num_restarts} restarts of {config.num_rounds} rounds, \
{config.num_hops} hops, refinement. Lasso: the penalty of
structured_latents, to a gap of 1e-4; 'lasso of ITO' is what ITO minimizes. OMP is told K = 3.
"""


def table(setting: str, methods: dict[str, Scores], config: Config) -> str:
    """Write a row a method: scores along the training, at the end, and the work."""
    logged = steps(setting, config)
    rows = []
    for method, scores in methods.items():
        several = len(scores.mcc) > 1 or len(logged) == 1
        early = [common.estimate(row) for row in scores.mcc[:-1]] if several else []
        theirs = ""
        if method in PUBLISHED[setting] and logged[-1] == LAST[setting]:
            theirs = f"{paper.published_at(setting, method, logged[-1]):.3f}"
        rows.append([
            method, scores.mcc.shape[1], *(early or ["-"] * (len(logged) - 1)),
            common.estimate(scores.mcc[-1]), theirs or "-",
            "-" if np.isnan(scores.dictionary).all() else common.estimate(scores.dictionary),
            f"{np.mean(scores.dead):.1f}", f"{float(scores.training):.1e}",
            f"{float(scores.inference):,.0f}",
        ])  # fmt: skip
    header = (
        "method", "n", *(f"step {step:,}" for step in logged), "uniform, published", "atoms",
        "dead", "training", "inference",
    )  # fmt: skip
    return f"{TITLES[setting]}\n{common.format_table(header, rows)}"


def compared(methods: dict[str, Scores]) -> str:
    """Compare learned dictionaries, read by the lasso, with the paper's methods at their end."""
    best = methods["learned + lasso"].mcc[-1]
    others = [method for method in PUBLISHED["unknown_dictionary"] if method in methods]
    values = {other: methods[other].mcc[-1] for other in others}
    rows = common.welch_table("learned + lasso", best, values)
    return (
        f"Unknown codes and dictionary, the last step, {RUNS} runs each on one data set; Holm's "
        f"correction is over all rows\n{rows}"
    )


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument(
        "--settings", nargs="+", choices=settings.SETTINGS, default=settings.SETTINGS,
        help="which to run (all)",
    )  # fmt: skip
    args = options.parse_args()
    chosen = dataclasses.replace(QUICK if args.quick else Config(), names=tuple(args.settings))
    main(chosen, args.out)
