"""The paper's FLOP formulas, transcribed, and its published curves.

Formulas and numbers: arXiv 2411.13117 and the result files of its public code
(repository charlieoneill11/sparse-inference). Letters as there: M measurements, N atoms, h hidden
width, n signals, T steps, I = 1 if the dictionary is learned.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import numpy as np

PENALTY = 0.01  # of the paper's loss
PUBLISHED = pathlib.Path(__file__).parent / "published"


@functools.cache
def published(experiment: str) -> dict[str, Any]:
    """Return the published curves of an experiment: method to named arrays."""
    content = json.loads((PUBLISHED / f"{experiment}.json").read_text())
    return {
        method: {name: np.asarray(values) for name, values in curves.items()}
        for method, curves in content["methods"].items()
    }


def published_at(experiment: str, method: str, step: int, column: str = "mcc_test") -> float:
    """Return one published value at a logged step."""
    curves = published(experiment)[method]
    (index,) = np.flatnonzero(curves["step"] == step)
    return float(curves[column][index])


def compared(
    experiment: str, method: str, step: int, label: str, scores: Any, tolerance: float | None,
    column: str = "mcc_test",
) -> tuple[str, int, Any, float, float]:  # fmt: skip
    """Return a row of the agreement table: the score of each run beside the published mean.

    After tens of thousands of steps rounding has taken encoders into other minima: without a
    tolerance two standard deviations of the published runs are allowed.
    """
    if tolerance is None:
        label = f"{label}, 2 sd"
        tolerance = 2 * published_at(experiment, method, step, f"{column}_std")
    theirs = published_at(experiment, method, step, column)
    return f"{method}, {label}", step, scores, theirs, tolerance


def recovery_boundary(N: Any, K: Any) -> Any:  # noqa: N803
    """Return the measurements that the paper's phase diagram draws as enough, K of N active."""
    return 2 * K * np.log(N / K)


def sae_step(M: int, N: int, n: int, *, learned: bool) -> int:  # noqa: N803
    """Return the published FLOPs of one SAE training step."""
    I = int(learned)  # noqa: E741, N806
    forward = 4 * M * N + N + I * M * N
    loss = N + (2 * M * N + N) + 2 * M * N
    update = 2 * (M * N + N) + I * 2 * M * N
    return n * (forward + loss + update)


def sae_inference(M: int, N: int, n: int) -> int:  # noqa: N803
    """Return the published FLOPs of encoding n signals with the SAE."""
    return n * (4 * M * N + N)


def mlp_step(M: int, N: int, h: int, n: int, *, learned: bool) -> int:  # noqa: N803
    """Return the published FLOPs of one training step of a one-hidden-layer MLP."""
    I = int(learned)  # noqa: E741, N806
    forward = 2 * M * h + h + 2 * h * N + N + 2 * M * N + I * M * N
    loss = N + (2 * h * N + N) + h + (2 * M * h + h) + 2 * M * N
    update = 2 * (M * h + h + h * N + N) + I * 2 * M * N
    return n * (forward + loss + update)


def mlp_inference(M: int, N: int, h: int, n: int) -> int:  # noqa: N803
    """Return the published FLOPs of encoding n signals with the MLP."""
    return n * (2 * M * h + h + 2 * h * N + N + 2 * M * N)


def code_optimization(M: int, N: int, n: int, T: int) -> int:  # noqa: N803
    """Return the published FLOPs of T steps of optimizing codes at test time."""
    return n * ((M * N + N) + T * (4 * M * N + 2 * M + 11 * N))


def sparse_coding_step(M: int, N: int, n: int, *, learned: bool) -> int:  # noqa: N803
    """Return the published FLOPs of one sparse-coding training step.

    The loss and update terms already hold the batch and are multiplied by it once more: the
    published count is far too large. It is transcribed as it stands.
    """
    I = int(learned)  # noqa: E741, N806
    forward = I * 3 * M * N + N + 2 * M * N
    return (3 * forward + (2 * M + N) * n + N * n + I * M * N) * n


def known_codes_sae_step(M: int, N: int, n: int) -> int:  # noqa: N803
    """Return the published FLOPs of one SAE step of the known-codes notebook (no decoder)."""
    return n * (6 * M * N + 5 * N)
