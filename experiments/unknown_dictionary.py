"""Unknown codes and dictionary: SAE, MLPs, SAE + inference-time optimisation, sparse coding.

Claim: from the authors' data and weights, latent and dictionary MCC follow the published curves.
The published dictionary MCC is |Pearson| across atom coordinates with the optimal assignment; its
chance level for 16 random atoms in 8 dimensions is .67.

Command: ``python -m experiments.unknown_dictionary`` (16 minutes on 2 cores, most of it the
authors' 10,000-step test optimisation at 80 log points twice; ``--quick`` 15 seconds).
Expected latent MCC: SAE .4656 / .5147 / .5244 at 0 / 1,000 / 10,000; sparse coding .4150 / .3216 /
.3571 / .5987 / .6694 / .6907 at 0 / 1,000 / 5,000 / 10,000 / 20,000 / 39,500, with dictionary MCC
.6740 / .4412 / .5789 / .7850 / .8393 / .8375.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np

import sparsecode_jax as sc
from experiments import common, paper, settings

SETTING = "unknown_dictionary"
TOLERANCE = 0.002
CHECKED = {
    "sae": (0, 1_000, 10_000),
    "sparse_coding": (0, 1_000, 5_000, 10_000, 20_000, 39_500),
}
TEST_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Which methods to train, how long, and at which of the authors' log points to record."""

    methods: tuple[str, ...] = ("sae", "sae_ito", "sparse_coding", "mlp32", "mlp256")
    num_steps: int = 40_000
    logged: tuple[int, ...] = tuple(range(0, 40_000, 500))


QUICK = Config(methods=("sae", "sparse_coding"), num_steps=1_001, logged=(0, 1_000))
HIDDEN: dict[str, tuple[int, ...]] = {"sae": (), "mlp32": (32,), "mlp256": (256,)}


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> bool:  # noqa: B008
    """Run the setting, print the agreement table, write the results; return the agreement."""
    started = time.monotonic()
    with common.stages(out, SETTING, config) as stages:
        problem = settings.data(SETTING)
        arrays: dict[str, np.ndarray] = {"step": np.asarray(config.logged)}
        rows: list[tuple[str, int, float, float, float]] = []
        options: dict[str, Any] = {
            "num_steps": config.num_steps,
            "record_steps": [step + 1 for step in config.logged],  # logged after the update
        }
        dictionaries: dict[str, np.ndarray] = {}
        for method in config.methods:
            if method in HIDDEN:
                hidden = HIDDEN[method]
                checkpoint = stages.file(method)
                fitted = settings.train(SETTING, hidden, checkpoint=checkpoint, **options)
                dictionaries[method] = fitted.records.dictionary
                arrays[f"{method}_mcc"] = settings.encoder_scores(
                    SETTING, hidden, fitted.records.encoder, sc.metrics.mcc
                )
            elif method == "sparse_coding":
                checkpoint = stages.file(method)
                fitted = settings.train(SETTING, method, checkpoint=checkpoint, **options)
                dictionaries[method] = fitted.records
            else:
                dictionaries[method] = dictionaries["sae"]
            if method not in HIDDEN:
                arrays[f"{method}_mcc"] = settings.optimized_scores(
                    stages, method, dictionaries[method], num_steps=TEST_STEPS
                )
            arrays[f"{method}_dictionary_mcc"] = settings.run_scores(
                sc.metrics.pearson_dictionary_mcc, problem.dictionary, dictionaries[method]
            )
            rows += _agreement(method, config.logged, arrays)
        table, agree = common.agreement(rows)
        manifest = {
            "experiment": SETTING,
            "config": dataclasses.asdict(config),
            "axes": ["record", "run"],
            "metric": "latent MCC on 1,024 test signals; dictionary MCC by |Pearson| over "
            "coordinates",
            "seconds": round(time.monotonic() - started, 1),
        }
        paths = sc.io.save_results(out / SETTING, arrays, manifest)
        (out / f"{SETTING}.txt").write_text(table + "\n")
    print(f"\n{table}\n\nwrote {paths[0]} and {paths[1]}")
    return agree


def _agreement(method: str, logged: tuple[int, ...], arrays: dict[str, np.ndarray]) -> list:
    rows = []
    for step in CHECKED.get(method, ()):
        for label, ours, theirs in (
            ("latent MCC", "mcc", "mcc_test"),
            ("dictionary MCC", "dictionary_mcc", "dict_mcc"),
        ):
            if step in logged:
                value = float(arrays[f"{method}_{ours}"][logged.index(step)].mean())
                published = paper.published_at(SETTING, method, step, theirs)
                rows.append((f"{method}, {label}", step, value, published, TOLERANCE))
    return rows


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out)
