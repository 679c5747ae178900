"""The tables of :mod:`experiments.structured_latents`, and what its methods are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

import sparsecode_jax as sc
from experiments import common, variants
from experiments.crossing import K, N
from experiments.decomposition import split
from experiments.structures import PAPER

if TYPE_CHECKING:
    from experiments.structured_latents import Config

SAMPLES = PAPER.num_train  # of each half
SAE, TOP_K = "ReLU SAE", "TopK SAE"
PENALTY = 0.05  # of lasso codes, for signals of the paper's scale
DEAD = variants.THRESHOLDS[0]  # a latent is dead that no test signal takes above it
METHODS = (
    "learned + lasso", "learned + OMP 3", TOP_K, f"{TOP_K} + lasso", SAE, f"{SAE} + lasso",
    "true + lasso", "true + OMP 3",
)  # fmt: skip
PUBLISHED = ("SAE", "MLP32", "SAE + ITO", "sparse coding")  # as the paper trains them
MLP = "MLP 256"
LARGE_METHODS = (
    "learned + lasso", "learned + OMP 16", TOP_K, f"{TOP_K} + lasso", SAE, f"{SAE} + lasso",
    MLP, f"{MLP} + lasso", "true + lasso", "true + OMP 16",
)  # fmt: skip


def methods_of(config: Config, large: bool) -> tuple[str, ...]:
    """Return the names of methods at a size."""
    if not large:
        return METHODS
    return tuple(name.replace("16", str(config.large.num_active)) for name in LARGE_METHODS)


def _rows(
    names: Sequence[str], values: np.ndarray, columns: Sequence[int], digits: int = 3
) -> list[list[str]]:
    return [
        [name] + [common.estimate(matrix[i], digits) for i in columns]
        for name, matrix in zip(names, values, strict=True)
    ]


def table(names: tuple[str, ...], arrays: dict[str, np.ndarray], config: Config) -> str:
    """Write what was found at the paper's size."""
    every = range(len(METHODS))
    sources = [METHODS.index(m) for m in ("learned + lasso", TOP_K, SAE)]
    encoders = [METHODS.index(m) for m in (TOP_K, SAE)]
    budget = " to ".join(f"{x:.1e}" for x in sorted({arrays["flops"].min(), arrays["flops"].max()}))
    atoms = np.concatenate([arrays["dictionary"], arrays["published_dictionary"]], axis=1)
    dead = np.concatenate([arrays["dead"], arrays["published_dead"]], axis=1)
    theirs = [len(METHODS) + PUBLISHED.index(name) for name in ("SAE", "MLP32", "sparse coding")]
    paper_rows = _rows(names, arrays["published_latent"], range(len(PUBLISHED)))
    return (
        f"Latent MCC on {SAMPLES:,} test signals, {N} features in 8 measurements, "
        f"{len(config.seeds)} data sets (mean and 95 % interval)\n"
        f"{common.format_table(['latents', *METHODS], _rows(names, arrays['latent'], every))}\n\n"
        "Dictionary MCC (|cosine|)\n"
        + common.format_table(
            ["latents", "learned", TOP_K, SAE],
            _rows(names, arrays["dictionary"], sources),
        )
        + f"\n{_compared(names, arrays['latent'])}"
        f"\n\nTraining FLOPs of each dictionary: {budget}. Settings are those chosen on uniform "
        "latents (experiments.decomposition); lasso:\npenalty "
        f"{PENALTY} to a gap of 1e-4; TopK and OMP are told K = {K}.\n\n"
        f"The paper's methods as published, {config.published_steps:,} steps, on the same data "
        f"sets: latent MCC (SAE + ITO, sparse coding: {config.test_steps:,}\nsteps of Adam for "
        "test codes)\n"
        f"{common.format_table(['latents', *PUBLISHED], paper_rows)}\n\n"
        "Their dictionary MCC (|cosine|)\n"
        + common.format_table(
            ["latents", "SAE", "MLP32", "sparse coding"], _rows(names, atoms, theirs)
        )  # fmt: skip
        + "\n"
        + _compared(
            names,
            np.concatenate([arrays["latent"], arrays["published_latent"]], axis=1),
            (*METHODS, *PUBLISHED),
            PUBLISHED,
        )  # fmt: skip
        + f"\n\nLatents of {N} that no test signal takes above {DEAD:g}\n"
        + common.format_table(
            ["latents", TOP_K, SAE, *(f"{name}, as published" for name in PUBLISHED)],
            _rows(names, dead, [*encoders, *range(len(METHODS), dead.shape[1])], 1),
        )
        + "\n\n"
        + _parted(names, arrays)
        + "\n\n"
        + _work(
            (*METHODS, *(f"{name}, as published" for name in PUBLISHED)),
            *(
                np.concatenate([arrays[key], arrays[f"published_{key}"]], axis=1)
                for key in ("latent", "training", "inference")
            ),
        )
        + "\n"
    )


def _parted(names: Sequence[str], arrays: dict[str, np.ndarray]) -> str:
    """Write what of each autoencoder's gap to lasso codes is its dictionary and its inference."""
    at = METHODS.index
    saes = (TOP_K, SAE)
    rows = []
    for i, name in enumerate(names):
        latent = arrays["latent"][i]
        order = ("true + lasso", "learned + lasso", *(f"{sae} + lasso" for sae in saes))
        parts = split(
            saes,
            {"own": np.stack([latent[at(sae)] for sae in saes]),
             "own_true": arrays["own_true"][i],
             "lasso": np.stack([latent[at(method)] for method in order])},
            "lasso",
        )  # fmt: skip
        for sae, (gap, *_, dictionary, inference) in parts.items():
            rows.append([sae, name, *map(common.estimate, (gap, dictionary, inference))])
    return (
        "The gap of latent MCC to lasso codes in the true dictionary: the part of the dictionary "
        "and that of inference\n(each the mean of both orders, as in experiments.decomposition)\n"
        + common.format_table(("autoencoder", "latents", "gap", "dictionary", "inference"), rows)
    )


def _work(
    methods: Sequence[str], latent: np.ndarray, training: np.ndarray, inference: np.ndarray
) -> str:
    """Write the FLOPs of each method, beside the mean of its MCC over the structures."""
    rows = []
    for i, method in enumerate(methods):
        per_signal = inference[:, i]
        low, high = np.nanmin(per_signal), np.nanmax(per_signal)
        failed = int(np.sum(~np.isfinite(latent[:, i])))
        rows.append([
            method, f"{np.max(training[:, i]):.1e}",
            f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}",
            common.estimate(np.mean(latent[:, i], axis=0)), f"{failed} of {latent[:, i].size}",
        ])  # fmt: skip
    return (
        "FLOPs to MCC, measured (convention 'arithmetic'): of training once, and of inference a "
        "test signal, the least and the\nmost of structures and data sets; latent MCC: the mean "
        f"over {len(latent)} structures, 95 % interval over data sets\n"
        + common.format_table(("method", "training", "inference", "latent MCC", "failed"), rows)
    )


def best_way(chosen: dict[str, np.ndarray]) -> int:
    """Return which way of learning explains most, of those that cost no more than the first."""
    within = chosen["flops"] <= chosen["flops"][0]
    return int(np.argmax(np.where(within, chosen["r2"], -np.inf)))


def large_table(
    names: Sequence[str],
    arrays: dict[str, np.ndarray],
    config: Config,
    chosen: dict[str, np.ndarray],
) -> str:
    """Write what was found at the other size."""
    m, n, k, num_train, num_test = config.large
    methods = methods_of(config, True)
    at = methods.index
    saes = (TOP_K, SAE, MLP)
    sources = [at("learned + lasso"), *(at(sae) for sae in saes)]
    latent = arrays["latent"]
    rows = []
    for sae in saes:
        own, lasso = latent[:, at(sae)], latent[:, at(f"{sae} + lasso")]
        true = latent[:, at("true + lasso")]
        for name, *parts in zip(names, true - own, true - lasso, lasso - own, strict=True):
            rows.append([sae, name, *map(common.estimate, parts)])
    ways = [", ".join(way) for way in config.ways]
    tried = []
    for i, name in enumerate(names):
        best = best_way({key: chosen[key][i] for key in ("flops", "r2")})
        marks = ["*" if j == best else "" for j in range(len(ways))]
        tried.append([name, *(f"{x:.4f}{m}" for x, m in zip(chosen["r2"][i], marks, strict=True))])
    share = chosen["flops"] / chosen["flops"][:, :1]
    tried.append(["FLOPs, of the first", *(f"{x:.2f}" for x in np.max(share, axis=0))])
    taken = [
        [name] + [f"{rate:g}" + (f", {penalty:.3g}" if penalty else "") for penalty, rate in found]
        for name, *found in zip(names, *(chosen[sae] for sae in saes), strict=True)
    ]
    every = _rows(names, latent, range(len(methods)))
    return (
        f"N = {n:,}: latent MCC on {num_test:,} test signals, {n:,} features in {m} measurements, "
        f"{k} active, {num_train:,} training signals,\n{len(config.large_seeds)} data sets (mean "
        "and 95 % interval); of latents as in the table above\n"
        f"{common.format_table(['latents', *methods], every)}\n\n"
        "Dictionary MCC (|cosine|)\n"
        + common.format_table(
            ["latents", "learned", *saes], _rows(names, arrays["dictionary"], sources)
        )  # fmt: skip
        + f"\n\nLatents of {n:,} that no test signal takes above {DEAD:g}\n"
        + common.format_table(
            ["latents", *saes], _rows(names, arrays["dead"], sources[1:], 1)
        )  # fmt: skip
        + f"\n{_compared(names, latent, methods, tuple(f'{s} + lasso' for s in saes))}"
        "\n\nThe gap of latent MCC to lasso codes in the true dictionary: the part of the "
        "dictionary (between lasso codes in both)\nand that of inference (between both kinds of "
        "codes in the autoencoder's)\n"
        + common.format_table(("autoencoder", "latents", "gap", "dictionary", "inference"), rows)
        + "\n\n"
        + _work(methods, latent, arrays["training"], arrays["inference"])
        + "\n\nM is where the paper draws the boundary of recovery, 2K ln(N/K). Settings are "
        "chosen on another data set of each\nstructure, seed "
        f"{config.tuning_seed}. Learned: learn_dictionary_online in batches of "
        f"{2 * config.batch_size}, in passes with these codes: 30 steps of FISTA, which\nis the "
        f"budget of all ({float(np.max(chosen['flops'][:, 0])):.3g} FLOPs); lasso: a working set "
        f"of {2 * k} atoms, 2 rounds; refit: as many of these fitted anew. R² of\n{k} codes "
        "by OMP of signals not learned from; * is chosen:\n"
        + common.format_table(("latents", *ways), tried)
        + f"\n\nAutoencoders: batches of {config.batch_size}; learning rate and penalty, by "
        "training R²:\n"
        + common.format_table(("latents", *saes), taken)
        + f"\n\nLasso: penalty {PENALTY} to a gap of 1e-3. TopK, OMP and working sets are told "
        f"K = {k}.\n"
    )


def _compared(
    names: Sequence[str],
    latent: np.ndarray,
    methods: Sequence[str] = METHODS,
    others: Sequence[str] = (f"{TOP_K} + lasso", f"{SAE} + lasso"),
) -> str:
    """Compare learned dictionaries, read by the lasso, with other methods, by data set if many."""
    if latent.shape[-1] < 2:
        return ""
    learned = methods.index("learned + lasso")
    found = {
        (name, other): sc.statistics.compare_pairs(values[learned], values[methods.index(other)])
        for other in others
        for name, values in zip(names, latent, strict=True)
    }
    corrected = sc.statistics.holm([one.p_t for one in found.values()])
    rows = [
        [other, name, f"{one.difference.estimate:+.3f}",
         f"{one.difference.low:+.3f} to {one.difference.high:+.3f}", f"{one.p_t:.2g}", f"{p:.2g}"]
        for ((name, other), one), p in zip(found.items(), corrected, strict=True)
    ]  # fmt: skip
    header = ("learned + lasso less", "latents", "latent MCC", "95 % interval", "t p", "Holm p")
    return "\nPaired by data set; Holm's correction is over all rows\n" + common.format_table(
        header, rows
    )
