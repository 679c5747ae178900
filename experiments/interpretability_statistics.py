"""Test the published interpretability scores again, and say what follows from them.

Claim: the paper's F1 of 200 latents of an SAE (.639) and of an MLP (.686), both of GPT-2 small, do
not decide which is easier to interpret. Welch's and a permutation test give p = .041, Mann-Whitney
.079; the effect is small (Hedges' g .20) and such samples find one of that size in half of all
cases. 147 of the SAE's scores and 87 of the MLP's are values that the authors' scorer, macro-F1 of
at most 10 + 10 texts, cannot give, so the scores were not all made in one way; among those that it
can give, the SAE is ahead (.746 against .700). Whichever test is chosen, it is about latents of two
trained models: with one model of each kind nothing is said about kinds of model.

Command: ``python -m experiments.interpretability_statistics`` (20 seconds; ``--quick`` 10).
Expected: docs/results/interpretability_statistics.txt.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

import sparsecode_jax as sc
from experiments import common, paper

NAME = "interpretability_statistics"
MOST_TEXTS = 10  # of each label, in one call of the authors' scorer
PUBLISHED_P = {"Welch": 0.041, "Mann-Whitney": 0.079}


@dataclasses.dataclass(frozen=True)
class Config:
    """Draws of the permutation test and of the bootstrap."""

    num_draws: int = 99_999


QUICK = Config(num_draws=999)


def scores() -> dict[str, np.ndarray]:
    """Return the published macro-F1 of each latent, by model."""
    content = json.loads((paper.PUBLISHED / "gpt2_autointerp_f1.json").read_text())["f1"]
    return {name: np.asarray(values) for name, values in content.items()}


def attainable(most: int = MOST_TEXTS) -> np.ndarray:
    """Return every macro-F1 that labels of at most ``most`` texts of each kind can have."""

    def f1(hits: int, errors: int) -> float:
        return 2 * hits / (2 * hits + errors) if hits + errors else 0.0

    return np.unique([
        (f1(hits, positive - hits + negative - passes)
         + f1(passes, positive - hits + negative - passes)) / 2
        for positive in range(most + 1) for negative in range(most + 1)
        for hits in range(positive + 1) for passes in range(negative + 1)
    ])  # fmt: skip


def is_attainable(values: np.ndarray) -> np.ndarray:
    """Say which values the scorer can give, to rounding."""
    return np.any(np.abs(values[:, None] - attainable()) < 1e-9, axis=1)


def detectable(deviation: float, count: int, target: float = 0.8) -> float:
    """Return the least difference that groups of ``count`` show with a power of ``target``."""
    low, high = 0.0, 10 * deviation
    for _ in range(50):
        middle = (low + high) / 2
        reached = sc.statistics.power(middle, deviation, count, num_groups=2) >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Test, print the tables, write the results."""
    published = scores()
    kept = {name: values[is_attainable(values)] for name, values in published.items()}
    options = {"num_draws": config.num_draws}
    found = {
        "all": sc.statistics.compare_groups(published["mlp"], published["sae"], **options),
        "attainable": sc.statistics.compare_groups(kept["mlp"], kept["sae"], **options),
    }
    text = table(published, kept, found, config)
    arrays = {
        "tests": np.asarray([[one.p_welch, one.p_mann_whitney, one.p_permutation,
                              one.effect_size, one.superiority] for one in found.values()]),
    }  # fmt: skip
    manifest = {
        "experiment": NAME, "config": dataclasses.asdict(config),
        "axes": {"tests": ["scores", "Welch p, Mann-Whitney p, permutation p, g, superiority"]},
        "scores": list(found),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    sc.io.save_results(out / NAME, arrays, manifest)
    (out / f"{NAME}.txt").write_text(text)
    print("\n" + text)


def table(
    published: dict[str, np.ndarray],
    kept: dict[str, np.ndarray],
    found: dict[str, sc.statistics.GroupComparison],
    config: Config,
) -> str:
    """Write the tests, the deciles and what the numbers allow to conclude."""
    one, rest = found["all"], found["attainable"]
    options = {"num_draws": min(config.num_draws, 9_999)}
    means = {
        name: sc.statistics.bootstrap_interval(values, **options)
        for name, values in published.items()
    }
    rows: list[list[Any]] = [
        ["latents: SAE, MLP", *(f"{x.num_second}, {x.num_first}" for x in (one, rest)), "200, 200"],
        ["mean F1: SAE", f"{published['sae'].mean():.3f}", f"{kept['sae'].mean():.3f}", ".639"],
        ["mean F1: MLP", f"{published['mlp'].mean():.3f}", f"{kept['mlp'].mean():.3f}", ".686"],
        ["difference", *(f"{x.difference.estimate:+.3f}" for x in (one, rest)), ""],
        ["95 % interval, Welch", *(_ends(x.difference) for x in (one, rest)), ""],
        ["95 % interval, bootstrap", *(_ends(x.bootstrap) for x in (one, rest)), ""],
        ["Hedges' g", *(f"{x.effect_size:.2f}" for x in (one, rest)), ""],
        ["P(MLP above SAE)", *(f"{x.superiority:.3f}" for x in (one, rest)), ""],
        ["p, Welch", *(f"{x.p_welch:.3f}" for x in (one, rest)), f"{PUBLISHED_P['Welch']}"],
        ["p, Mann-Whitney", *(f"{x.p_mann_whitney:.3f}" for x in (one, rest)),
         f"{PUBLISHED_P['Mann-Whitney']}"],
        ["p, permutation", *(f"{x.p_permutation:.3f}" for x in (one, rest)), ""],
    ]  # fmt: skip
    deviation = float(np.sqrt((np.var(published["sae"], ddof=1)
                               + np.var(published["mlp"], ddof=1)) / 2))  # fmt: skip
    difference, count = one.difference.estimate, one.num_first
    deciles = [
        [f"{level:.0%}", *(_decile(values, level, options) for values in published.values())]
        for level in np.arange(0.1, 0.95, 0.1)
    ]
    impossible = {name: int(np.sum(~is_attainable(v))) for name, v in published.items()}
    return (
        "Macro-F1 of latents of GPT-2 small, residual stream before block 9\n"
        + common.format_table(["", "all", "attainable only", "published"], rows)
        + "\n\nDeciles of the scores, with 95 % bootstrap intervals\n"
        + common.format_table(["below it", *(name.upper() for name in published)], deciles)
        + f"\n\nMeans with bootstrap intervals: SAE {_all(means['sae'])}, MLP {_all(means['mlp'])}."
        f"\nPower of Welch's test with {count} latents each to find the difference that was seen: "
        f"{sc.statistics.power(difference, deviation, count, num_groups=2):.2f};\n"
        f"{sc.statistics.seeds_needed(difference, deviation, num_groups=2)} latents each for a "
        f"power of .8; with {count} a power of .8 begins at a difference of "
        f"{detectable(deviation, count):.3f}.\n"
        f"Not attainable by one call of the authors' scorer ({MOST_TEXTS} + {MOST_TEXTS} texts at "
        f"most): {impossible['sae']} of the SAE's scores, {impossible['mlp']} of the MLP's.\n"
        f"Permutations and bootstrap samples: {config.num_draws:,} ({options['num_draws']:,} for "
        "deciles and means).\nWhat follows: tests of all scores fall on both sides of .05, so the "
        "choice of test decides; those of the attainable\nscores have the other sign. What does "
        "not: latents of one trained SAE and one trained MLP are the sample. Whether MLPs\nare "
        "easier to interpret needs several trained models of each kind, and scores that one scorer "
        "made.\n"
    )


def _decile(values: np.ndarray, level: float, options: dict[str, int]) -> str:
    def quantile(runs: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.quantile(runs, level, axis=axis)

    return _all(sc.statistics.bootstrap_interval(values, statistic=quantile, **options))


def _ends(interval: sc.statistics.Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def _all(interval: sc.statistics.Interval) -> str:
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
