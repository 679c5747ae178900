"""Recover dictionaries of 1,000 and 10,000 atoms from ever more samples.

Claim: what "Stop Probing, Start Coding" (arXiv 2603.28744) calls the bottleneck, learning the
dictionary, is a matter of samples and of the learner. A dictionary and n signals of k atoms each
are N(M - 1) + nk free numbers, and the signals are nM: up to n = N(M - 1)/(M - k) wrong supports
have as many free numbers as there are data, so that sparsity alone cannot tell them from the right
ones. ``learn_dictionary``, with its defaults, recovers the atoms at 4.5 times that number of
signals (MCC .98) and does not at 2.3 times, where it stays below the published learner: .37
in and .24 out of distribution against .76 and .48 (whose codes were fitted on the samples that
are scored in distribution). Its smallest case, 1,000 samples, is at less than half of the bound.

Data: as published. M = ceil(2k ln(N/k)) measurements, Gaussian atoms of unit norm, k = 10 active
codes of Uniform(0, 1). In distribution half of the samples hold latent 0 and k - 1 partners from
the first half of the others, the rest k latents but not 0; out of distribution latent 0 meets
partners from the second half alone. Of n samples one half is learned from and the other scored,
with n/2 out of distribution.

Scores, as published: MCC over the latents that are ever active and as many codes, those of the
largest variance; accuracy of a logistic regression for "latent 0 above .5", fitted on the scored
half; AUC of the one code that is best there. Chance: the MCC with the codes of other samples.

Command: ``python -m experiments.sample_complexity`` (1,000 atoms, three data sets; half an hour on
2 cores, finished cases are kept; ``--large`` 10,000 atoms from 5,000 and 20,000 samples instead,
``--all`` from 100,000 too, many hours; ``--quick`` 20 seconds).
Expected: docs/results/sample_complexity.txt.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

import sparsecode_jax as sc
from experiments import common
from sparsecode_jax.dictionary_learning import learn_dictionary, learn_dictionary_online

NAME = "sample_complexity"
NUM_ACTIVE = 10
TOLERANCE = 1e-4  # of the codes that are scored
LARGE = tuple((10_000, n, 0) for n in (5000, 20_000, 100_000))
CASES = tuple((1000, n, seed) for n in (1000, 2000, 3000, 5000, 10_000) for seed in (0, 1, 2))
# Best learned, mean of 3 seeds: MCC in distribution, out of it (results/ of the authors' code).
PUBLISHED = {
    (1000, 1000): (0.567, 0.366), (1000, 5000): (0.763, 0.475), (10_000, 5000): (0.549, 0.498),
    (10_000, 10_000): (0.413, 0.336),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Cases (N, n, seed of the data) and the length of the search."""

    cases: tuple[tuple[int, int, int], ...] = CASES
    num_rounds: int = 100
    num_restarts: int | None = None  # the learner's default: one from 513 atoms on, no hops
    num_hops: int | None = None
    num_epochs: int = 20  # of the online learner


QUICK = Config(((100, 150, 0), (100, 2000, 0)), num_restarts=2, num_hops=0, num_epochs=2)


class Split(NamedTuple):
    """Codes and signals of one part of the data."""

    codes: np.ndarray
    signals: np.ndarray


def bound(num_atoms: int, num_measurements: int, num_active: int) -> float:
    """Return the number of signals up to which unknowns are as many as numbers of the data."""
    return num_atoms * (num_measurements - 1) / (num_measurements - num_active)


def draw(num_atoms: int, num_samples: int, seed: int) -> tuple[np.ndarray, list[Split]]:
    """Draw a dictionary and the samples to learn from, to score, and out of distribution."""
    rng = np.random.default_rng(seed)
    half, k = num_atoms // 2, NUM_ACTIVE
    size = math.ceil(2 * k * math.log(num_atoms / k))
    dictionary = rng.normal(size=(num_atoms, size))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)

    def sample(outside: bool) -> np.ndarray:
        codes = np.zeros(num_atoms, np.float32)
        if outside:
            places = np.append(half + rng.choice(num_atoms - half, k - 1, replace=False), 0)
        elif rng.random() < 0.5:
            places = np.append(1 + rng.choice(num_atoms - half - 1, k - 1, replace=False), 0)
        else:
            places = 1 + rng.choice(num_atoms - 1, k, replace=False)
        codes[places] = rng.uniform(size=k)
        return codes

    parts = [
        np.stack([sample(outside) for _ in range(num_samples // 2)])
        for outside in (False, False, True)
    ]
    atoms = dictionary.astype(np.float32)
    return atoms, [Split(codes, codes @ atoms) for codes in parts]


def learn(config: Config, num_atoms: int, signals: np.ndarray) -> tuple[Any, float, float]:
    """Return dictionary, penalty and FLOPs; with fewer signals than atoms, from random atoms."""
    key = jax.random.key(0)
    if len(signals) >= num_atoms:
        found = learn_dictionary(
            key, signals, num_atoms=num_atoms, num_rounds=config.num_rounds,
            num_restarts=config.num_restarts, num_hops=config.num_hops,
        )  # fmt: skip
        return found.dictionary, float(found.penalty), float(found.flops)
    online = learn_dictionary_online(
        key, np.array_split(signals, max(1, len(signals) // 512)), num_atoms=num_atoms,
        num_epochs=config.num_epochs, num_steps=100,
        dictionary0=sc.dictionaries.random(
            key, num_atoms=num_atoms, num_measurements=signals.shape[1]
        ),
    )  # fmt: skip
    return online.dictionary, float(online.penalty), float(online.flops)


def published_mcc(true: np.ndarray, codes: np.ndarray) -> float:
    """Return the MCC of the latents that vary and as many codes, those of the largest variance."""
    varies = true.var(axis=0) > 1e-8
    largest = np.argsort(-codes.var(axis=0), kind="stable")[: varies.sum()]
    return float(sc.metrics.mcc(true[:, varies], codes[:, largest]))


def areas(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each code's area under the ROC curve for labels, or one less it if that is larger."""
    ranks = stats.rankdata(codes, axis=0)
    count = labels.sum()
    area = (ranks[labels].sum(axis=0) - count * (count + 1) / 2) / (count * (len(labels) - count))
    return np.maximum(area, 1 - area)


def scores(atoms: Any, penalty: float, scored: Split, outside: Split) -> dict[str, float]:
    """Return MCC, chance, accuracy and AUC on the scored half and out of distribution."""
    found, labels = {}, {}
    codes = {}
    for name, part in (("in", scored), ("out", outside)):
        codes[name] = np.asarray(
            sc.sparse_encode(part.signals, atoms, penalty, tolerance=TOLERANCE)
        )
        labels[name] = part.codes[:, 0] > 0.5
        found[f"mcc_{name}"] = published_mcc(part.codes, codes[name])
        found[f"chance_{name}"] = published_mcc(part.codes, np.roll(codes[name], 1, axis=0))
    probe = LogisticRegression(C=np.inf, max_iter=1000).fit(codes["in"], labels["in"])
    best = int(np.argmax(areas(codes["in"], labels["in"])))
    for name in codes:
        found[f"accuracy_{name}"] = float(probe.score(codes[name], labels[name]))
        found[f"auc_{name}"] = float(areas(codes[name][:, best : best + 1], labels[name])[0])
    return found


def measure(config: Config, num_atoms: int, num_samples: int, seed: int) -> dict[str, float]:
    """Learn from one half; score the other and the samples out of distribution."""
    dictionary, (train, scored, outside) = draw(num_atoms, num_samples, seed)
    started = time.monotonic()
    atoms, penalty, flops = learn(config, num_atoms, train.signals)
    jax.block_until_ready(atoms)
    seconds = time.monotonic() - started
    true = scores(jnp.asarray(dictionary), penalty, scored, outside)
    return {
        **scores(atoms, penalty, scored, outside),
        **{f"true_{name}": value for name, value in true.items()},
        "dictionary": float(sc.metrics.dictionary_mcc(dictionary, atoms)),
        "flops": flops,
        "seconds": seconds,
    }


def table(config: Config, done: dict[tuple[int, ...], dict[str, float]]) -> str:
    """Return the report: one row a number of atoms and samples, means and intervals over data."""
    columns = ("mcc_in", "mcc_out", "chance_out", "true_mcc_out", "dictionary", "accuracy_out",
               "auc_out", "true_accuracy_out", "true_auc_out")  # fmt: skip
    rows = []
    for atoms, samples in dict.fromkeys((n, count) for n, count, _ in config.cases):
        runs = [run for (n, count, _), run in done.items() if (n, count) == (atoms, samples)]
        size = math.ceil(2 * NUM_ACTIVE * math.log(atoms / NUM_ACTIVE))
        needed = bound(atoms, size, NUM_ACTIVE)
        cells = [common.estimate([run[key] for run in runs]) for key in columns]
        theirs = PUBLISHED.get((atoms, samples))
        rows.append([
            f"{atoms:,}", f"{samples:,}", f"{samples / 2 / needed:.2f}", len(runs), *cells,
            "" if theirs is None else f"{theirs[0]:.3f} {theirs[1]:.3f}",
            f"{np.mean([run['flops'] for run in runs]):.2e}",
        ])  # fmt: skip
    header = ("N", "samples", "of bound", "n", "MCC in", "MCC out", "chance out", "true out",
              "dictionary", "accuracy out", "AUC out", "true accuracy", "true AUC",
              "published in, out", "FLOPs")  # fmt: skip
    return (
        f"Dictionaries of N atoms, k = {NUM_ACTIVE}, learned from half of the samples.\n"
        "of bound: signals learned from over N(M - 1)/(M - k), up to which there are as many "
        "unknowns as numbers,\nwhatever the supports. n: data sets; ±: 95 % t interval over "
        "them. MCC of codes in and out of distribution;\nchance: with other samples' codes; true: "
        "with the true dictionary; dictionary: MCC of the atoms.\npublished: the best learned "
        "method of arXiv 2603.28744, mean of 3 seeds. FLOPs: of learning, 'arithmetic'.\n\n"
        f"{common.format_table(header, rows)}\n"
    )


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, print the table, write the results."""
    done = common.measured(NAME, config.cases, config, functools.partial(measure, config), out)
    text = table(config, done)
    common.report_cases(NAME, done, "N, samples, seed", text, dataclasses.asdict(config), out)


if __name__ == "__main__":
    options = common.parser(__doc__)
    options.add_argument(
        "--large", action="store_true", help="10,000 atoms instead, 5,000 and 20,000 samples"
    )
    options.add_argument("--all", action="store_true", help="10,000 atoms, up to 100,000 samples")
    args = options.parse_args()
    if args.quick:
        main(QUICK, args.out / "quick")
    elif args.large or args.all:
        main(Config(cases=LARGE if args.all else LARGE[:2]), args.out / "large")
    else:
        main(Config(), args.out)
