"""Learn the paper's unknown dictionary by alternating minimization, beside published values.

Claim: ``learn_dictionary``, with its defaults, recovers the dictionary of the paper's
unknown-dictionary setting on every learner seed, for fewer FLOPs (restarts, hops and refinement
charged, measured) than the paper's formula gives for the training of the published SAE; the latent
MCC that is left to gain is then the solver's, not the dictionary's.

Command: ``python -m experiments.dictionary_learning`` (2 minutes on 2 cores; ``--quick`` 10
seconds). Expected: on the paper's data dictionary MCC 1.0000 and latent MCC .9855 (true dictionary:
.9854) on all five runs; on ten other data sets dictionary MCC .9997 or more and latent MCC at most
.0023 below that of the true dictionary on nine; on one (209) .9953 and .0136 below: its search ends
in a minimum that is not the lowest (docs/targets.md). Published (data
seed 20240926): SAE .566 latent MCC for 7.05e10 FLOPs by the paper's formula; sparse coding .691
latent, .837 dictionary.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import authors, common, paper

NAME = "dictionary_learning"
TOLERANCE = 1e-5  # of the codes that are scored


@dataclasses.dataclass(frozen=True)
class Config:
    """Learner seeds on the paper's data, and other data seeds, on which nothing was chosen."""

    learner_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data_seeds: tuple[int, ...] = (201, 202, 203, 204, 205, 206, 207, 208, 209, 210)
    num_rounds: int = 100
    num_restarts: int = 16
    num_hops: int = 6


QUICK = Config(learner_seeds=(0,), data_seeds=(201,), num_rounds=60, num_restarts=4, num_hops=1)
COLUMNS = ("dictionary", "pearson", "latent", "ceiling", "flops")


def measure(config: Config, data_seed: int, learner_seed: int) -> dict[str, float]:
    """Learn on one data set's training half and score on its test half."""
    problem = authors.data(data_seed)
    found = sc.dictionary_learning.learn_dictionary(
        jax.random.key(learner_seed),
        problem.train_signals,
        num_atoms=authors.NUM_ATOMS,
        num_rounds=config.num_rounds,
        num_restarts=config.num_restarts,
        num_hops=config.num_hops,
    )

    def latent(dictionary: object) -> float:
        codes = sc.sparse_encode(
            problem.test_signals, jnp.asarray(dictionary), found.penalty, tolerance=TOLERANCE
        )
        return float(sc.metrics.mcc(problem.test_codes, codes))

    return {
        "dictionary": float(sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary)),
        "pearson": float(sc.metrics.pearson_dictionary_mcc(problem.dictionary, found.dictionary)),
        "latent": latent(found.dictionary),
        "ceiling": latent(problem.dictionary),
        "flops": float(found.flops),
    }


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run every case, print the table, write the results."""
    started = time.monotonic()
    cases = [(authors.UNKNOWN_SEED, seed) for seed in config.learner_seeds]
    cases += [(seed, 0) for seed in config.data_seeds]
    done = common.measured(NAME, cases, config, functools.partial(measure, config), out)
    rows = [(*case, *(done[case][name] for name in COLUMNS)) for case in cases]
    columns = zip(("data_seed", "learner_seed", *COLUMNS), zip(*rows, strict=True), strict=True)
    arrays = {name: np.asarray(column, dtype=np.float64) for name, column in columns}
    sc.io.save_results(
        out / NAME,
        arrays,
        {
            "experiment": NAME,
            "config": dataclasses.asdict(config),
            "axes": {name: ["case"] for name in arrays},
            "flops": "training: restarts, hops and refinement; convention 'arithmetic'",
            "seconds": round(time.monotonic() - started, 1),
        },
    )
    text = table(rows, config)
    print("\n" + text)
    (out / f"{NAME}.txt").write_text(text)


def table(rows: list[tuple[float, ...]], config: Config) -> str:
    """Return the report."""
    header = (
        "data seed", "learner", "dictionary MCC |cosine|", "|Pearson|", "latent MCC",
        "true dictionary", "FLOPs",
    )  # fmt: skip
    text = common.format_table(
        header,
        [
            (f"{d:.0f}", f"{s:.0f}", *(f"{x:.4f}" for x in scores), f"{flops:.2e}")
            for d, s, *scores, flops in rows
        ],
    )
    parts = {
        "the paper's, learner keys": rows[: len(config.learner_seeds)],
        "others, data sets": rows[len(config.learner_seeds) :],
    }
    summary = []
    for label, part in ((label, part) for label, part in parts.items() if part):
        scores = np.asarray(part)[:, 2:6]  # without seeds and FLOPs
        below = scores[:, 3] - scores[:, 2]
        cells = [common.estimate(column, 4) for column in (*scores.T, below)]
        summary.append([label, len(part), *cells])
    means = common.format_table(("data", "n", *header[2:6], "below it"), summary)
    sae, sparse_coding = (
        f"{paper.published_at('unknown_dictionary', method, 39_500):.3f}".removeprefix("0")
        for method in ("sae", "sparse_coding")
    )
    return (
        f"{text}\n\nMeans with 95 % t intervals over n runs\n{means}\n\n"
        f"Learned on 1,024 training signals, {config.num_restarts} restarts of "
        f"{config.num_rounds} rounds, {config.num_hops} hops and refinement, all charged; scored "
        "on 1,024 test signals.\nThe first "
        f"{len(config.learner_seeds)} rows are the paper's data. 'true dictionary': latent MCC of "
        f"the same solver and penalty with the true dictionary.\nPublished: SAE {sae} latent MCC "
        f"for 7.05e10 FLOPs (the paper's formula), sparse coding {sparse_coding}.\n"
    )


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
