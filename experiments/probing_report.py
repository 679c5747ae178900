"""The table of :mod:`experiments.probing`: what probes of each inference's latents reach."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import sparsecode_jax as sc
from experiments import common

if TYPE_CHECKING:
    from experiments.probing import Config, Rows, Texts

NONE = "none"


def table(found: Mapping[str, Mapping[str, np.ndarray]], config: Config) -> str:
    """Write a row an inference: areas, their differences from those of the own encoder."""
    compared: dict[tuple[str, int, int], sc.statistics.PairedComparison] = {}
    for name, columns in found.items():
        for i in range(1, len(columns["auc"]) if name != NONE else 0):
            for j in range(len(config.sizes)):
                pair = columns["auc"][i, :, j], columns["auc"][0, :, j]
                compared[name, i, j] = sc.statistics.compare_pairs(*pair)
    values = [one.p_permutation for one in compared.values()]
    corrected = dict(zip(compared, sc.statistics.holm(values) if values else (), strict=True))
    rows = []
    for name, columns in found.items():
        for i, way in enumerate(json.loads(columns["names"].tobytes())):
            cells: list[str] = []
            for j in range(len(config.sizes)):
                one = compared.get((name, i, j))
                cells += [common.estimate(columns["auc"][i, :, j])]
                cells += ["", ""] if one is None else [
                    f"{one.difference.estimate:+.3f} ({one.difference.low:+.3f} to "
                    f"{one.difference.high:+.3f})", f"{corrected[name, i, j]:.2g}",
                ]  # fmt: skip
            numbers = f"{columns['r2'][i]:.3f}", f"{columns['l0'][i]:.1f}"
            rows.append(
                (
                    name,
                    way,
                    f"{columns['latents'][i]:,}",
                    *cells,
                    *numbers,
                    f"{columns['flops'][i]:.2e}",
                )
            )
    areas = [x for k in config.sizes for x in (f"AUC, k = {k}", "less the encoder's", "p")]
    head = ("dictionary", "codes by", "latents", *areas, "R2", "L0", "FLOPs a token")
    return common.format_table(head, rows)


def write(
    config: Config, title: str, given: Texts, rows: Rows, found: Mapping[str, Any],
    path: pathlib.Path,
) -> None:  # fmt: skip
    """Write areas, manifest and table."""
    arrays = {f"{name}/{key}": value for name, columns in found.items()
              for key, value in columns.items() if key != "names"}  # fmt: skip
    names = {name: json.loads(columns["names"].tobytes()) for name, columns in found.items()}
    manifest = {
        "experiment": "probing", "config": dataclasses.asdict(config), "names": names,
        "tasks": given.names, "left_out": rows.left_out, "axes": {"auc": ["codes", "task", "k"]},
    }  # fmt: skip
    sc.io.save_results(path, arrays, manifest)
    text = "\n".join([
        title,
        f"Probes of k latents on {len(given.names)} tasks of two classes, of {given.num_tasks} "
        f"with enough texts of at most {config.longest} characters; {config.num_train} texts of",
        f"each to choose latents and fit on, {config.num_test} to score. Of {len(given.texts):,} "
        "last tokens are left out: "
        + ", ".join(f"{count:,} {reason}" for reason, count in rows.left_out.items()) + ".",
        "AUC: mean over tasks with a 95 % t interval; beside it the mean difference from the "
        "dictionary's own encoder with its interval, and p of flipping",
        "the signs of differences, after Holm for the whole table. R2, L0 and FLOPs are of "
        "training texts on which no penalty was chosen.",
        "", table(found, config), "",
        f"All measurements at once: AUC {common.estimate(found[NONE]['all'])}.",
        f"Tasks: {', '.join(given.names)}.",
    ])  # fmt: skip
    path.with_name(f"{path.name}.txt").write_text(text + "\n")
    print("\n" + text, flush=True)
