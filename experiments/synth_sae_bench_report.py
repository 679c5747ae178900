"""The table and the figure of :mod:`experiments.synth_sae_bench`, published numbers beside them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import sparsecode_jax as sc
from experiments import common, plots

if TYPE_CHECKING:
    from experiments.synth_sae_bench import Config

# F1, MCC, uniqueness, explained variance: width 4,096, L0 25, 200M samples, version 2.
PUBLISHED = {
    "Matryoshka": (0.8793, 0.7927, 0.9987, 0.7792),
    "BatchTopK": (0.7316, 0.7574, 0.9837, 0.7923),
    "JumpReLU": (0.7317, 0.7527, 0.9885, 0.7951),
    "standard": (0.5562, 0.6039, 0.8976, 0.7654),
    "matching pursuit": (0.4464, 0.6930, 0.8281, 0.8351),
}


class Case(NamedTuple):
    """One dictionary and one way to read it."""

    method: str
    seed: int
    budget: int
    way: str

    def label(self) -> str:
        """Return what the case is called in the results."""
        trained = f" {self.budget}" if self.budget else ""
        return f"{self.method} {self.seed}{trained}: {self.way}"


def write(config: Config, rows: dict[Case, dict[str, float]], path: pathlib.Path) -> str:
    """Write numbers and manifest to a path, and the table, which is returned, beside it."""
    columns = list(next(iter(rows.values())))
    arrays = {key: np.asarray([row[key] for row in rows.values()]) for key in columns}
    manifest = {
        "experiment": path.name, "config": dataclasses.asdict(config),
        "axes": {key: ["case"] for key in columns}, "cases": [case.label() for case in rows],
        "flops": "inference per sample; training in training_flops; convention 'arithmetic'",
        "seconds": round(float(arrays["seconds"].sum()), 1),
    }  # fmt: skip
    sc.io.save_results(path, arrays, manifest)
    text = table(config, rows)
    path.with_suffix(".txt").write_text(text)
    return text


def table(config: Config, rows: dict[Case, dict[str, float]]) -> str:
    """Write the rows out, those of one dictionary together, and the published ones below."""
    head = ("dictionary", "samples", "codes by", "F1", "precision", "recall", "EV", "L0", "MCC",
            "unique", "dead", "training FLOPs", "per sample", "once")  # fmt: skip
    cells = []
    for (method, seed, budget, way), row in rows.items():
        numbers = [f"{row[key]:.4f}" for key in ("f1", "precision", "recall", "explained_variance")]
        rest = [f"{row['l0']:.1f}", f"{row['mcc']:.4f}", f"{row['uniqueness']:.4f}",
                f"{row['dead_fraction']:.4f}"]  # fmt: skip
        trained = f"{row['training_flops']:.2e}" if budget else "known"
        label = method if len(config.seeds) == 1 else f"{method} {seed}"
        cells.append((label, f"{budget:,}", way, *numbers, *rest, trained, f"{row['flops']:.2e}",
                      f"{row['once']:.2e}"))  # fmt: skip
    published = [
        (name, f"{f1:.4f}", f"{mcc:.4f}", f"{unique:.4f}", f"{ev:.4f}")
        for name, (f1, mcc, unique, ev) in PUBLISHED.items()
    ]
    lines = [
        f"SynthSAEBench (a statistical twin, version 2): {config.num_features:,} features in "
        f"{config.num_measurements} measurements,",
        f"width {config.width:,}, L0 {config.num_active}; scored on {config.num_scored:,} samples "
        "that nothing was",
        f"trained on or chosen by; training seeds {list(config.seeds)}.",
        "True atoms: those of the most frequent features, which have the width asked for. Learned: "
        "alternating",
        f"minimization, lasso codes of L0 {config.num_active} fitted anew on their supports. Dead "
        "latents count as F1 0.",
        f"In groups: {' to '.join(f'{size:,}' for size in config.prefixes)} atoms, the new ones "
        f"from what those before leave of the first {config.groups_samples:,}",
        "samples or less, then all together, with deflation, from all samples.",
        "Leave-one-out: of codes with a mean L0 of "
        f"{config.num_proposed}, those are kept that leave {config.num_active}. FLOPs of inference "
        "per sample, and once for a dictionary.",
        "",
        common.format_table(head, cells),
        "",
        "Published (arXiv 2602.14687, the published model, 200M samples, 5 seeds, own encoders):",
        "",
        common.format_table(("SAE", "F1", "MCC", "unique", "EV"), published),
    ]
    return "\n".join(lines) + "\n"


def draw(rows: dict[Case, dict[str, float]], path: pathlib.Path) -> None:
    """Draw F1 against the FLOPs of training, each dictionary read by the lasso."""
    found: dict[tuple[str, int], dict[float, float]] = {}
    for (method, seed, budget, way), row in rows.items():
        if way == "lasso":
            flops = row["training_flops"] if budget else 0.0
            found.setdefault((method, seed), {})[flops] = row["f1"]
    ceiling = found.pop(("true atoms", 0))[0.0]
    several = len({seed for _, seed in found}) > 1
    curves = {
        f"{method} {seed}" if several else method: (list(curve), list(curve.values()))
        for (method, seed), curve in found.items()
    }
    if not curves:
        return
    levels = {"true atoms": ceiling} | {
        f"published {name}, 200M samples": PUBLISHED[name][0]
        for name in ("Matryoshka", "BatchTopK", "standard")
    }
    title = "SynthSAEBench, a statistical twin; published: the published model, own encoders"
    plots.scores_of_training(curves, levels, title, path)
