"""Figures of the commands: the one place of the package that imports matplotlib, on use."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["encoded", "improved", "learned"]

_BLUE, _ORANGE, _GRAY = "#0072B2", "#D55E00", "#9a9a9a"  # of Okabe and Ito's safe palette


def learned(result: Mapping[str, Any], about: str, path: pathlib.Path) -> None:
    """Draw the objective of every restart, after each hop and refined, and the usage of atoms."""
    figure, (left, right) = _panels(2)
    values = np.sort(np.asarray(result["objectives"], float))[::-1]
    hops = np.append(values[-1], np.asarray(result["hops"], float))
    num, last = len(values), len(values) + len(hops) - 1
    left.plot(np.arange(1, num + 1), values, "o-", color=_GRAY, markersize=5, label="restarts")
    if last > num:
        left.plot(np.arange(num, last + 1), hops, "o-", color=_BLUE, markersize=5, label="hops")
    refined = last > num  # after hops, at a smaller penalty: the objective may rise a little
    left.plot(last + refined, result["objective"], "o", color=_ORANGE, markersize=8,
              label="the result, refined at 0.3 λ" if refined else "the result")  # fmt: skip
    low, high = left.get_ylim()  # a difference of a thousandth is not to look like much
    left.set_ylim(min(low, 0.98 * result["objective"]), max(high, 1.02 * result["objective"]))
    left.set_xlabel("restart, from worst to best" + (", then hop" if last > num else ""))
    left.set_ylabel("mean objective,  ½|x − zD|² + λ|z|₁")
    left.set_title("Objective of restarts" + (" and after each hop" if last > num else ""))
    left.legend()
    left.locator_params(axis="x", integer=True)
    _usage(right, result["atom_usage"])
    _save(figure, f"{about}; λ = {float(result['penalty']):.4g}", path)


def encoded(
    result: Mapping[str, Any], size: int, num_signals: int, about: str, path: pathlib.Path
) -> None:
    """Draw the objective along the file, the active atoms per signal, and the usage of atoms."""
    figure, (left, middle, right) = _panels(3)
    edges = np.minimum(size * np.arange(len(result["batch_objective"]) + 1), num_signals)
    left.stairs(result["batch_objective"], edges, color=_BLUE, linewidth=1.5, baseline=None)
    left.axhline(
        result["objective"], color=_ORANGE, linewidth=1, linestyle="--", label="mean of all"
    )
    low, high = left.get_ylim()
    left.set_ylim(min(low, 0.9 * result["objective"]), max(high, 1.1 * result["objective"]))
    left.set_xlabel("row of the file")
    left.set_ylabel("mean objective of a batch,  ½|x − zD|² + λ|z|₁")
    left.set_title("Objective along the file")
    left.legend()
    active = np.asarray(result["active_atoms"])
    last = int(np.flatnonzero(active)[-1])
    middle.bar(np.arange(last + 1), active[: last + 1] / num_signals, width=1.0, color=_BLUE,
               edgecolor="white", linewidth=0.5 if last < 60 else 0)  # fmt: skip
    middle.axvline(result["l0"], color=_ORANGE, linewidth=1, linestyle="--",
                   label=f"mean, {result['l0']:.2f}")  # fmt: skip
    middle.set_xlabel("active atoms of a signal")
    middle.set_ylabel("fraction of signals")
    middle.set_title("Sparsity")
    middle.legend()
    middle.locator_params(axis="x", integer=True)
    _usage(right, result["atom_usage"])
    _save(figure, about, path)


def improved(frontier: Any, max_flops: float | None, about: str, path: pathlib.Path) -> None:
    """Draw explained variance against operations per signal, and what is efficient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.25, which="both")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    order = np.argsort(frontier.flops)
    order = order[frontier.efficient[order]]
    axis.step(frontier.flops[order], frontier.r2[order], where="post", color=_BLUE, alpha=0.5)
    for row, name in enumerate(frontier.names):
        at = frontier.flops[row], frontier.r2[row]
        color = _ORANGE if row == frontier.best else _BLUE if frontier.efficient[row] else _GRAY
        axis.plot(*at, "o", color=color, markersize=9 if row == frontier.best else 6,
                  label=f"{name}: R² {at[1]:.4f}, {at[0]:.2g} FLOPs", zorder=3)  # fmt: skip
        axis.annotate(str(row + 1), at, (4, 4), textcoords="offset points", fontsize=9)
    if max_flops is not None:
        axis.axvline(max_flops, color=_ORANGE, linewidth=1, linestyle="--")
    axis.set_xscale("log")
    axis.set_xlabel("operations per signal")
    axis.set_ylabel("explained variance, R²")
    handles, labels = axis.get_legend_handles_labels()
    numbered = [f"{row + 1}  {label}" for row, label in enumerate(labels)]
    axis.legend(handles, numbered, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9)
    axis.set_title("Codes for the same dictionary")
    _save(figure, about, path)


def _panels(num: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(5.2 * num, 4.2), layout="constrained")
    axes = figure.subplots(1, num)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _usage(axis: Any, usage: np.ndarray) -> None:
    ordered = np.sort(usage)[::-1]
    dead = int((ordered == 0).sum())
    axis.stairs(ordered, np.arange(len(ordered) + 1) + 0.5, fill=True, color=_BLUE, alpha=0.8)
    axis.set_xlim(0.5, len(ordered) + 0.5)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("atom, from most to least used")
    axis.set_ylabel("fraction of signals that use it")
    axis.set_title(f"Usage of atoms ({dead:,} of {len(ordered):,} never used)")
    axis.locator_params(axis="x", integer=True)


def _save(figure: Any, caption: str, path: pathlib.Path) -> None:
    figure.supxlabel(caption, fontsize=10, color="#444444")
    figure.savefig(path, dpi=150)
