"""Learn and infer latents that are not uniform: Zipf, correlated, hierarchical, tailed, on circles.

Claim: the paper's conclusion does not hang on its uniform latents. At its size (16 features in 8
measurements, about 3 active, 1,024 training signals) ``learn_dictionary`` with lasso codes has a
higher mean latent MCC than sparse autoencoders of equal training FLOPs under every structure, and
what is lost is told apart: the same inference in the true dictionary is the ceiling. Under the
authors' Zipf law, where rare features are seen a few times, the dictionary is what is missing (.75,
ceiling .94); where features are pairs on circles neither (.44 of .48): codes of one sign cannot
follow a circle.

Beside them at that size: the paper's SAE, MLP, SAE + ITO and sparse coding as published, for the
published 40,000 steps, which are more FLOPs. The same structures at N = 1,024: 16 active, M = 134,
where the paper draws its boundary of recovery (2K ln(N/K)), 20,000 training signals,
``learn_dictionary_online``, and autoencoders of as many training FLOPs at least. ITO and sparse
coding as published are left out there for their cost: 10,000 steps of all test signals, and 40,000
of all training signals.

At the paper's size methods have the settings that ``experiments.decomposition`` chose on uniform
latents; signals are scaled to the root mean square of those. At N = 1,024 every method chooses its
settings on another data set of the same structure, without its truth: autoencoders by the training
R² of their K largest codes, the learner by the R² of K pursued codes of signals it has not seen.
What it chooses is the codes of its passes, three at most: those of a small working set, or these
fitted anew without the penalty; it spends at most, and autoencoders spend, the FLOPs of one pass
with 30 steps of FISTA. Its trials are whole runs, those of autoencoders a quarter of one. The lasso
keeps its penalty. TopK and the pursuit are told K, and so is the working set, of 2K atoms.

Command: ``python -m experiments.structured_latents`` (``--sizes large`` took 78 minutes beside
other work, ``--sizes paper`` 21; finished structures are kept; ``--quick`` 45
seconds). Expected: the first tables of docs/results/structured_latents.txt; under the authors' Zipf
law the paper's methods .56 to .62. At N = 1,024 (structured_latents_large.txt there) the learner is
ahead of the TopK autoencoder's atoms, read by the lasso too, in each of the eight structures (.826,
.754 in the mean; .828, .818 under the Zipf law).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import sparsecode_jax as sc
from experiments import accounts, authors, common, paper, settings, variants
from experiments.contenders import CHOSEN
from experiments.crossing import (
    SAES,
    N,
    Sae,
    choose_sae,
    counted,
    encode,
    encoder_flops,
    train_sae,
)
from experiments.structured_latents_report import (
    DEAD,
    METHODS,
    MLP,
    PENALTY,
    PUBLISHED,
    SAE,
    SAMPLES,
    TOP_K,
    best_way,
    large_table,
    methods_of,
    table,
)
from experiments.structures import PAPER, STRUCTURES, Size, draw
from sparsecode_jax.training import losses

NAME = "structured_latents"
SETTINGS = CHOSEN | {SAE: {"penalty": 0.2, "learning_rate": 0.01}}
CODES: dict[str, Callable[[int], dict[str, Any]]] = {  # of a pass over K active codes
    "FISTA": lambda k: {"num_steps": 30},
    "lasso": lambda k: {"solver": sc.solvers.working_set((2 * k,)), "num_steps": 2},
    "refit": lambda k: {**CODES["lasso"](k), "refit": 2 * k},
}
LARGE = Size(math.ceil(paper.recovery_boundary(1024, 16)), 1024, 16, 20_000, 1_000)


@dataclasses.dataclass(frozen=True)
class Config:
    """Structures, fresh data sets of each, and the learner's budget, as in ``decomposition``.

    Attributes:
      structures: names; none takes all.
      seeds: of the data sets at the paper's size.
      num_restarts: of ``learn_dictionary``, whose FLOPs are every SAE's training budget.
      num_rounds: the same.
      num_hops: the same.
      sizes: "paper" and "large".
      published_steps: of training the paper's methods.
      test_steps: of their test codes.
      large: the other size.
      large_seeds: of its data sets.
      ways: there, the passes of the online learner that are tried, each named by its codes (see
        ``CODES``). The FLOPs of the first are every method's training budget.
      tuning_seed: of a data set of each structure on which settings are chosen there.
      tuning_fraction: of the training budget, for each setting that is tried.
      most_penalties: how many penalties are tried.
      rates: the learning rates tried.
      batch_size: of the autoencoders; that of the learner is twice as large.
    """

    structures: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (501, 502, 503, 504, 505)
    num_restarts: int = 4
    num_rounds: int = 100
    num_hops: int = 4
    sizes: tuple[str, ...] = ("paper", "large")
    published_steps: int = 40_000
    test_steps: int = 10_000
    large: Size = LARGE
    large_seeds: tuple[int, ...] = (601, 602, 603, 604, 605)
    ways: tuple[tuple[str, ...], ...] = (
        ("FISTA",), ("lasso",) * 3, ("lasso", "lasso", "refit"), ("lasso", "refit", "refit"),
        ("refit",) * 3,
    )  # fmt: skip
    tuning_seed: int = 701
    tuning_fraction: float = 0.25
    most_penalties: int = 2
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    batch_size: int = 250


QUICK = Config(
    ("Zipf (the authors')",), (501,), num_restarts=2, num_rounds=10, num_hops=0,
    published_steps=20, test_steps=20, large=Size(40, 64, 4, 400, 200), large_seeds=(601,),
    ways=(("FISTA",), ("lasso", "refit")), most_penalties=1, rates=(3e-3,), batch_size=50,
)  # fmt: skip


class Learner(NamedTuple):
    """What learns at a size: dictionaries, autoencoders of as many FLOPs, and their settings."""

    learn: Callable[..., Any]
    saes: dict[str, Sae]
    settings: dict[str, dict[str, float]]
    options: dict[str, Any]  # of training autoencoders
    budget: float | None = None  # their FLOPs; those of the learner if None


def _on_paper(config: Config) -> Learner:
    learn = functools.partial(
        sc.dictionary_learning.learn_dictionary, jax.random.key(0), num_atoms=N,
        num_restarts=config.num_restarts, num_rounds=config.num_rounds, num_hops=config.num_hops,
        progress=None,
    )  # fmt: skip
    return Learner(learn, {name: SAES[name] for name in (TOP_K, SAE)}, SETTINGS, {})


def _on_large(config: Config) -> Learner:
    m, n, k, num_train, _ = config.large

    def learn(signals: np.ndarray, way: Sequence[str]) -> Any:
        batches = np.array_split(signals, num_train // (2 * config.batch_size))
        before: dict[str, Any] = {}
        flops = 0
        for codes, passes in itertools.groupby(way):
            found = sc.dictionary_learning.learn_dictionary_online(
                jax.random.key(0), batches, num_atoms=n, num_epochs=len(list(passes)),
                progress=None, **CODES[codes](k), **before,
            )  # fmt: skip
            update = sc.dictionary_learning.updates.block_coordinate(prior=n)
            before = {"dictionary0": found.dictionary, "update": update}
            flops += found.flops or 0
        return found._replace(flops=flops)

    # Penalties are those of the lasso, in the paper's units, and four times as much.
    penalties = tuple(float(PENALTY * factor * 2 * n / m) for factor in (1, 4))
    hidden = (min(256, 4 * n),)
    saes = {
        TOP_K: Sae(sc.encoders.top_k(m, n, num_active=k), losses.squared_error, (0.0,)),
        SAE: Sae(sc.encoders.linear(m, n), losses.paper, penalties),
        MLP: Sae(sc.encoders.mlp(m, n, hidden=hidden), losses.paper, penalties, random_start=True),
    }
    return Learner(learn, saes, {}, {"num_atoms": n, "batch_size": config.batch_size})


def choose(structure: str, config: Config) -> dict[str, np.ndarray]:
    """Choose at N = 1,024, without any truth: the learner's passes, each autoencoder's settings.

    Args:
      structure: of the latents.
      config: of the experiment.

    Returns:
      ``flops`` of each of ``config.ways`` and ``r2`` of K pursued codes in what it learned, of
      signals that it has not seen; penalty and learning rate by autoencoder.
    """
    learner, k = _on_large(config), config.large.num_active
    tuning = draw(structure, (config.tuning_seed,), config.large)
    unseen = tuning.test_signals[0]
    flops, r2 = [], []
    for way in config.ways:
        found = learner.learn(tuning.train_signals[0], way)
        pursuit = sc.solvers.orthogonal_matching_pursuit
        codes = sc.sparse_encode(unseen, found.dictionary, num_active=k, solver=pursuit)
        flops.append(float(found.flops))
        r2.append(float(sc.metrics.r2(unseen, codes @ found.dictionary)))
    return {"flops": np.asarray(flops), "r2": np.asarray(r2)} | {
        name: np.asarray(choose_sae(
            name, tuning, config.tuning_fraction * flops[0], config, sae=sae, num_active=k,
            **learner.options,
        ))
        for name, sae in learner.saes.items()
    }  # fmt: skip


def chosen_learner(config: Config, chosen: dict[str, np.ndarray]) -> Learner:
    """Return what learns with the settings that :func:`choose` found."""
    base = _on_large(config)
    way = config.ways[best_way(chosen)]
    settings_ = {
        name: dict(zip(("penalty", "learning_rate"), map(float, chosen[name]), strict=True))
        for name in base.saes
    }
    return base._replace(
        learn=lambda signals: base.learn(signals, way), settings=settings_,
        budget=float(chosen["flops"][0]),
    )  # fmt: skip


def score(truth: np.ndarray, found: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return latent MCC and number of dead latents by data set; NaN where codes are not finite."""
    found = np.asarray(found)
    good = np.isfinite(found).all(axis=(1, 2))
    mcc = [
        float(sc.metrics.mcc(t, f)) if fine else np.nan
        for t, f, fine in zip(truth, found, good, strict=True)
    ]
    dead = np.where(good, np.sum(np.max(found, axis=1) <= DEAD, axis=-1), np.nan)
    return np.asarray(mcc), dead


def score_atoms(truth: np.ndarray, found: Any) -> np.ndarray:
    """Return dictionary MCC (|cosine|) by data set; NaN where atoms are not finite."""
    pairs = zip(truth, np.asarray(found), strict=True)
    return np.asarray([
        float(sc.metrics.dictionary_mcc(t, f)) if np.isfinite(f).all() else np.nan
        for t, f in pairs
    ])  # fmt: skip


def measure(
    structure: str, config: Config, size: Size, learner: Learner, *, on_true: bool
) -> dict[str, np.ndarray]:
    """Return what every method scores, (methods, data sets), and its FLOPs.

    Args:
      structure: of the latents.
      config: of the experiment.
      size: of the problem.
      learner: of that size.
      on_true: whether autoencoders are also trained with the true dictionary, for ``own_true``.
    """
    large = size != PAPER
    methods = methods_of(config, large)
    data = draw(structure, config.large_seeds if large else config.seeds, size)
    learned = [learner.learn(signals) for signals in data.train_signals]
    flops = float(learned[0].flops)
    budget = learner.budget or flops
    atoms = {"learned": np.stack([found.dictionary for found in learned]), "true": data.dictionary}
    training = {"learned": flops, "true": 0.0}
    codes: dict[str, Any] = {}
    own_true = []
    for name, sae in learner.saes.items():
        options = {
            **learner.settings[name], **learner.options, "sae": sae,
            "num_steps": sc.training.MaxFlops(budget),
        }  # fmt: skip
        fitted = train_sae(name, data.train_signals, **options)
        atoms[name] = np.asarray(fitted.params.dictionary)
        training[name] = float(fitted.flops or np.nan)
        apply = sae.encoder.apply
        codes[name] = encode(apply, fitted.params.encoder, data.test_signals)
        if on_true:
            given = train_sae(name, data.train_signals, fixed=data.dictionary, **options)
            again = encode(apply, given.params.encoder, data.test_signals)
            own_true.append(score(data.test_codes, again)[0])
    rows: dict[str, list[Any]] = {
        name: [] for name in ("latent", "dead", "dictionary", "training", "inference")
    }
    for method in methods:
        source, _, way = method.partition(" + ")
        if way:
            tolerance = 1e-3 if large else 1e-4
            kind: dict[str, Any] = {"penalty": PENALTY, "tolerance": tolerance}
            if way.startswith("OMP"):
                pursuit = sc.solvers.orthogonal_matching_pursuit
                kind = {"num_active": size.num_active, "solver": pursuit}
            pairs = [
                counted(x, d, **kind) if np.isfinite(d).all()
                else (np.full((len(x), size.num_atoms), np.nan), np.nan)
                for x, d in zip(data.test_signals, atoms[source], strict=True)
            ]  # fmt: skip
            found, work = np.stack([c for c, _ in pairs]), [w for _, w in pairs]
        else:
            found = codes[method]
            one = encoder_flops(learner.saes[method].encoder, size.num_measurements)
            work = [one] * len(found)
        latent, dead = score(data.test_codes, found)
        values = {
            "latent": latent, "dead": dead, "training": training[source], "inference": work,
            "dictionary": score_atoms(data.dictionary, atoms[source]),
        }  # fmt: skip
        for name, value in values.items():
            rows[name].append(value)
    result = {name: np.asarray(values) for name, values in rows.items()}
    result["flops"] = np.asarray(flops)
    return result | ({"own_true": np.asarray(own_true)} if on_true else {})


def as_published(structure: str, config: Config) -> dict[str, np.ndarray]:
    """Train the paper's methods as published, from the authors' initial weights of five runs."""
    data = draw(structure, config.seeds)
    count = len(config.seeds)
    given = variants.Runs(
        authors.AuthorsData(*data), tuple(authors.UNKNOWN_SEED + run for run in range(count)),
        np.full(count, paper.PENALTY, np.float32),
    )  # fmt: skip
    ito = accounts.inference(settings.paper_solver(), config.test_steps).measured / SAMPLES
    rows: dict[str, tuple[Any, ...]] = {}
    for label, method in zip(("SAE", "MLP32", "sparse coding"), variants.METHODS, strict=True):
        fitted = variants.train(
            method, given, num_steps=config.published_steps, learning_rate=1e-3
        )  # fmt: skip
        codes = variants.infer_codes(method, given, fitted.params, num_steps=config.test_steps)
        quality = score_atoms(data.dictionary, fitted.params.dictionary)
        flops = float(fitted.flops or np.nan)
        work = ito
        if method != variants.SPARSE_CODING:
            hidden = (32,) if method == "mlp32" else ()
            work = accounts.encoding("unknown_dictionary", hidden).measured / SAMPLES
        rows[label] = (*score(data.test_codes, codes), quality, flops, [work] * count)
        if method == "sae":
            codes = settings.optimize_codes(
                fitted.params.dictionary, data.test_signals, num_steps=config.test_steps
            )
            rows["SAE + ITO"] = (*score(data.test_codes, codes), quality, flops, [ito] * count)
    columns = zip(*(rows[name] for name in PUBLISHED), strict=True)
    names = ("latent", "dead", "dictionary", "training", "inference")
    return {f"published_{n}": np.asarray(c) for n, c in zip(names, columns, strict=True)}


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, print the tables, write the results."""
    started = time.monotonic()
    names = config.structures or tuple(STRUCTURES)
    with common.stages(out, NAME, config) as run:
        arrays: dict[str, np.ndarray] = {}
        text = ""

        def every(part: str, work: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
            found = [
                run.once(f"{part}-{number}", functools.partial(work, name))
                for number, name in enumerate(names)
            ]
            return {key: np.stack([row[key] for row in found]) for key in found[0]}

        if "paper" in config.sizes:
            options: dict[str, Any] = {"learner": _on_paper(config), "on_true": True}
            arrays = every(
                "structure", lambda name: measure(name, config=config, size=PAPER, **options)
            )
            arrays |= every("published", lambda name: as_published(name, config))
            text = table(names, arrays, config)
        if "large" in config.sizes:
            chosen = every("choice", lambda name: choose(name, config))
            by_name = {
                name: {key: value[i] for key, value in chosen.items()}
                for i, name in enumerate(names)
            }
            found = every("large", lambda name: measure(
                name, config=config, size=config.large, on_true=False,
                learner=chosen_learner(config, by_name[name]),
            ))  # fmt: skip
            arrays |= {f"large_{key}": value for key, value in found.items()}
            arrays |= {f"choice_{key}": value for key, value in chosen.items()}
            text += ("\n\n" if text else "") + large_table(names, found, config, chosen)
        axes = ["structure", "method", "data set"]
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config), "structures": list(names),
            "methods": list(METHODS), "published_methods": list(PUBLISHED),
            "large_methods": list(methods_of(config, True)),
            "axes": {
                key: axes[: value.ndim] for key, value in arrays.items()
                if not key.startswith("choice")
            },
            "choices": "structure by way (choice_flops, choice_r2); penalty and learning rate",
            "flops": f"training of each dictionary; convention {accounts.CONVENTION!r}",
            "inference": "FLOPs a test signal",
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        sc.io.save_results(out / NAME, arrays, manifest)
        (out / f"{NAME}.txt").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument(
        "--sizes", nargs="+", choices=Config.sizes, default=Config.sizes, help="which to run (all)"
    )
    args = options.parse_args()
    chosen = dataclasses.replace(QUICK if args.quick else Config(), sizes=tuple(args.sizes))
    main(chosen, args.out)
