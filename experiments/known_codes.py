"""Known codes: encoders trained by supervision, as in the paper.

Claim: trained on the authors' data from the authors' weights, the encoders follow the published
curves of the signed per-latent correlation on test signals.

Command: ``python -m experiments.known_codes`` (6 minutes on 2 cores; ``--quick`` 10 seconds).
Expected, mean of 5 runs at steps 100 / 1,000 / 19,990: SAE .2733 / .8592 / .8624; final MLP32
.9006, MLP256 .8998, MLP1024 .9501, each with a spread over runs of .01 to .05.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

import numpy as np

import sparsecode_jax as sc
from experiments import common, paper, settings

SETTING = "known_codes"


@dataclasses.dataclass(frozen=True)
class Config:
    """Which encoders to train, and for how long."""

    hidden: tuple[tuple[int, ...], ...] = ((), (32,), (256,), (1024,))
    num_steps: int = 20_000


QUICK = Config(hidden=((), (32,), (256,)), num_steps=1_001)


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> bool:  # noqa: B008
    """Run the setting, print the agreement table, write the results; return the agreement."""
    started = time.monotonic()
    with common.stages(out, SETTING, config) as stages:
        arrays: dict[str, np.ndarray] = {}
        rows = []
        for hidden in config.hidden:
            name = settings.method_name(hidden)
            logged = [int(s) for s in paper.published(SETTING)[name]["step"]]
            logged = [s for s in logged if s < config.num_steps]
            fitted = settings.train(
                SETTING,
                hidden,
                num_steps=config.num_steps,
                record_steps=[s + 1 for s in logged],  # the authors log after the update
                checkpoint=stages.file(name),
            )
            scores = settings.encoder_scores(
                SETTING, hidden, fitted.records.encoder, sc.metrics.latent_correlation
            )
            arrays[f"{name}_step"] = np.asarray(logged)
            arrays[f"{name}_mcc"] = scores
            rows += _agreement(name, hidden, logged, scores)
        table, agree = common.agreement(rows)
        manifest = {
            "experiment": SETTING,
            "config": dataclasses.asdict(config),
            "axes": ["record", "run"],
            "metric": "signed Pearson correlation of each latent with its own, averaged",
            "seconds": round(time.monotonic() - started, 1),
        }
        paths = sc.io.save_results(out / SETTING, arrays, manifest)
        (out / f"{SETTING}.txt").write_text(table + "\n")
    print(f"\n{table}\n\nwrote {paths[0]} and {paths[1]}")
    return agree


def _agreement(name: str, hidden: tuple[int, ...], logged: list[int], scores: np.ndarray) -> list:
    steps = (10, 100, 19_990) if hidden else (100, 1_000, 19_990)
    return [
        paper.compared(
            SETTING, name, step, "correlation", scores[logged.index(step)],
            None if hidden and step == 19_990 else 0.0005,
        )
        for step in steps if step in logged
    ]  # fmt: skip


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out)
