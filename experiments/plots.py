"""Figures, drawn from results alone."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.cm
import matplotlib.colors
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure  # no pyplot: no display, no global state

import sparsecode_jax as sc
from experiments import paper

CONVENTION = (
    "measured FLOPs: convention 'arithmetic' (a multiply-add is 2, other float operations 1, "
    "comparisons and data movement 0)"
)
# One color a family, from Okabe and Ito's color-blind safe palette.
STYLE: dict[str, tuple[str, str, str, str]] = {  # label, color, line, marker
    "sae": ("SAE", "#56B4E9", "-", "o"),
    "mlp32": ("MLP, 32 hidden", "#0072B2", "-", "s"),
    "mlp256": ("MLP, 256 hidden", "#003f66", "-", "D"),
    "ito": ("ITO (Adam on log-codes)", "#D55E00", "-", ""),
    "ista": ("ISTA", "#F0E442", "-", ""),
    "fista": ("FISTA", "#009E73", "-", ""),
    "fista_restart": ("FISTA + restart", "#00573f", "--", ""),
    "sparsa": ("SpaRSA", "#8fbc3f", "-", ""),
    "ols": ("orthogonal least squares, 1-6 atoms", "black", "-", "*"),
    "omp": ("orthogonal matching pursuit, 1-6 atoms", "#7f7f7f", "-", "x"),
    "exhaustive": ("exhaustive search, 1-4 atoms", "#8c510a", "-", "P"),
    "topk_sae": ("TopK SAE", "#b2182b", "-", "P"),
    "jump_relu_sae": ("JumpReLU SAE", "#8c510a", "-", "X"),
    "gated_sae": ("gated SAE", "#7f7f7f", "-", "d"),
    "lista": ("LISTA, 2-16 layers", "#E69F00", "-", "^"),
    "alternating": ("alternating minimization + FISTA", "black", "-", "*"),
    "sae_fista": ("SAE + FISTA (warm start)", "#CC79A7", "-", "v"),
    "trained_sae_fista": ("trained SAE + FISTA", "#882255", "-", "v"),
    "fresh_ito": ("ITO, 5 fresh data sets", "#D55E00", ":", ""),
    "fresh_fista": ("FISTA, 5 fresh data sets", "#009E73", ":", ""),
    "fresh_sae": ("SAE, 5 fresh data sets", "#56B4E9", ":", ""),
    "sae_ito": ("SAE + ITO", "#D55E00", "-", "o"),
    "sparse_coding": ("sparse coding (Adam codes)", "#E69F00", "-", "^"),
    "fista_restart_on_sae": ("FISTA, SAE's dictionary", "#009E73", "-", "o"),
    "fista_restart_on_sparse_coding": ("FISTA, sparse coding's dictionary", "#5d3a9b", "-", "^"),
}
KNOWN = (
    "sae", "mlp32", "mlp256", "ito", "ista", "fista", "fista_restart", "sparsa", "ols", "omp",
    "exhaustive", "topk_sae", "lista", "sae_fista", "trained_sae_fista", "fresh_sae", "fresh_ito",
    "fresh_fista",
)  # fmt: skip
UNKNOWN = (
    "sae", "mlp32", "mlp256", "sae_ito", "sparse_coding", "fista_restart_on_sae",
    "fista_restart_on_sparse_coding", "sae_fista", "topk_sae", "jump_relu_sae", "gated_sae",
    "alternating",
)  # fmt: skip
ACCOUNTS = {"published": "paper's formulas", "measured": "measured from the program"}


def pareto(curves: Mapping[str, Mapping[str, Any]], path: pathlib.Path) -> pathlib.Path:
    """Draw MCC against FLOPs: settings as rows, FLOP accounts as columns."""
    figure, axes = _subplots((13, 10.5), 2, 2, sharey="row", sharex=True)
    panels = (("known", KNOWN, "known dictionary"), ("unknown", UNKNOWN, "unknown dictionary"))
    for row, (panel, methods, title) in zip(axes, panels, strict=True):
        for axis, (account, meaning) in zip(row, ACCOUNTS.items(), strict=True):
            for method in methods:
                if method in curves[panel]:
                    _line(axis, curves[panel][method], account, *STYLE[method])
            if account == "published":
                _published(axis, panel)
            if panel == "known":
                axis.axhline(0.9667, color="black", linewidth=0.6, linestyle=(0, (2, 3)))
            axis.set_xscale("log")
            axis.set_title(f"{title}; FLOPs: {meaning}", fontsize=11)
            axis.grid(alpha=0.25)
            axis.tick_params(labelbottom=True, labelleft=True)
            axis.set_xlabel("FLOPs, training + inference for 1,024 test signals")
            axis.set_ylabel("latent MCC on test signals")
        row[0].set_ylim(0.2, 1.02)
        handles, labels = row[0].get_legend_handles_labels()
        row[1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9)
    caption = (
        "Bands: 95 % interval over 5 initial weights on the authors' data, or over 5 fresh data "
        "sets (dotted curves); ITO, ISTA and FISTA are deterministic there (n = 1).\nPenalty and "
        "steps of a solver are chosen on the training half. Dotted horizontal line: MCC .9667, the "
        f"published ITO after 19,900 steps. Crosses: published values.\nMethods for which the "
        "paper has no formula keep their measured FLOPs on the left. Alternating minimization has "
        f"5 keys in the place of initial weights.\n{CONVENTION[0].upper()}{CONVENTION[1:]}."
    )
    figure.text(0.01, 0.005, caption, fontsize=9, va="bottom")
    figure.tight_layout(rect=(0, 0.075, 1, 1))
    return _write(figure, path)


def _line(
    axis: Any, curve: Any, account: str, label: str, color: str, line: str, marker: str
) -> None:
    mean, half = sc.statistics.mean_interval(curve.mcc)
    work = np.asarray(getattr(curve, account))
    axis.plot(work, mean, line, color=color, marker=marker or None, markersize=4, label=label)
    if np.isfinite(half).all() and line != "":
        axis.fill_between(work, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


def _published(axis: Any, panel: str) -> None:
    first = True
    for curves in paper.published(f"{panel}_dictionary").values():
        work = curves.get("train_flops", 0) + curves.get("test_flops", 0) + curves.get("flops", 0)
        keep = np.unique(np.geomspace(1, len(work), 12).astype(int) - 1)
        label = "published values" if first else None
        axis.plot(
            work[keep], curves["mcc_test"][keep], "x", color="0.35", markersize=4, label=label
        )
        first = False


TRUTH_FREE = {  # label, color, marker
    "sae": ("SAE, one pass", "#56B4E9", "o"),
    "sae_fista": ("SAE + FISTA (warm start)", "#CC79A7", "v"),
    "fista_on_sae": ("FISTA, SAE's dictionary", "#009E73", "s"),
    "fista": ("FISTA, learned dictionary", "#E69F00", "^"),
}


def truth_free(result: Any, title: str, path: pathlib.Path) -> pathlib.Path:
    """Draw R² against L0, and against FLOPs a signal at the middle penalty."""
    figure, (left, right) = _subplots((12, 5), 1, 2)
    middle = len(result.penalties) // 2
    for method, (label, color, marker) in TRUTH_FREE.items():
        l0, r2, work = result.l0[method], result.r2[method], result.flops[method]
        hollow = "none" if method == "sae_fista" else color  # it may lie on another curve
        left.plot(
            l0[:, -1], r2[:, -1], "-", color=color, marker=marker, markersize=9,
            markerfacecolor=hollow, zorder=3 if hollow == "none" else 2, label=label,
        )  # fmt: skip
        line = "" if len(work) == 1 else "-"
        every = marker if len(work) == 1 else None
        right.plot(work, r2[middle], line or "none", color=color, marker=every, label=label)
    left.set_xlabel("L0: active atoms per signal")
    left.set_ylabel("R² on test signals")
    left.set_title(f"{title}: {len(result.penalties)} penalties")
    right.set_xlabel("inference FLOPs a signal, measured")
    right.set_ylabel("R² on test signals")
    right.set_xscale("log")
    right.set_ylim(max(0.0, right.get_ylim()[0]), min(1.02, right.get_ylim()[1]))
    right.set_title(f"along the solver's steps, penalty {result.penalties[middle]:.3g}")
    for axis in (left, right):
        axis.grid(alpha=0.25)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.06))
    figure.text(0.01, 0.01, f"One seed. {CONVENTION}.", fontsize=8)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return _write(figure, path)


def mosaic(result: Any, side: int, path: pathlib.Path) -> pathlib.Path:
    """Draw the atoms of the middle penalty's dictionaries, each scaled to its largest entry."""
    middle = len(result.penalties) // 2
    figure, axes = _subplots((12, 6.5), 1, 2)
    titles = {"sae": "SAE", "fista": "sparse coding (FISTA codes)"}
    for axis, (method, title) in zip(axes, titles.items(), strict=True):
        atoms = np.asarray(result.dictionaries[method][middle], dtype=np.float32)
        columns = int(np.ceil(np.sqrt(len(atoms))))
        canvas = np.zeros((columns * (side + 1) + 1, columns * (side + 1) + 1))
        for i, atom in enumerate(atoms):
            row, column = divmod(i, columns)
            top, left = row * (side + 1) + 1, column * (side + 1) + 1
            tile = atom.reshape(side, side) / max(np.abs(atom).max(), 1e-12)
            canvas[top : top + side, left : left + side] = tile
        axis.imshow(canvas, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(f"{len(atoms)} atoms of {side}x{side}, {title}")
        axis.axis("off")
    figure.tight_layout()
    return _write(figure, path)


ENCODERS = {  # family: color, line, marker
    "one layer": ("black", "none", "*"),
    "MLP, 1 hidden": ("#56B4E9", "-", "o"),
    "MLP, 2 hidden": ("#0072B2", "-", "s"),
    "MLP, 3 hidden": ("#003f66", "-", "D"),
    "residual MLP of 64": ("#CC79A7", "-", "v"),
    "LISTA": ("#E69F00", "-", "^"),
    "ISTA": ("#D55E00", "-", "x"),
    "FISTA": ("#009E73", "-", "+"),
}


def amortization(rows: Mapping[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Draw MCC against FLOPs a signal and against layers, a curve a family of encoders."""
    figure, axes = _subplots((12, 6), 1, 2, sharey=True)
    labels = {"flops": "inference FLOPs a signal", "depth": "layers, or steps of the solver"}
    for axis, (quantity, label) in zip(axes, labels.items(), strict=True):
        for family, (color, line, marker) in ENCODERS.items():
            mine = [row for name, row in rows.items() if name.split("|")[0] == family]
            if mine:
                axis.plot(
                    [float(row[quantity]) for row in mine], [float(row["test"]) for row in mine],
                    linestyle=line if quantity == "flops" or "MLP, " not in family else "none",
                    color=color, marker=marker, markersize=11 if marker == "*" else 6,
                    zorder=4 if marker == "*" else 3, label=family,
                )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("latent MCC on test signals")
    axes[0].set_title("amortization gap, known dictionary (N = 16, M = 8, K = 3)", fontsize=11)
    axes[1].set_title("the same by depth", fontsize=11)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=4, bbox_to_anchor=(0.5, 0.07))
    caption = (
        "Encoders are trained with the true codes of fresh signals; the learning rate of each, and "
        "the penalty of ISTA and FISTA at each depth, are chosen on the training half.\n"
        f"{CONVENTION[0].upper()}{CONVENTION[1:]}."
    )
    figure.text(0.01, 0.012, caption, fontsize=8.5, va="bottom")
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    return _write(figure, path)


def penalties(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], config: Any, path: pathlib.Path
) -> pathlib.Path:
    """Draw squared error and latent MCC against L0, a curve a method, a point a penalty."""
    figure, axes = _subplots((12, 5.6), 1, 2)
    quantities = {"mse": "1,000 times the mean squared error", "latent_mcc": "latent MCC"}
    for axis, (quantity, label) in zip(axes, quantities.items(), strict=True):
        for method, values in ours.items():
            name, color, line, marker = STYLE[method]
            mean, half = sc.statistics.mean_interval(values[quantity])
            active = values["l0_0.001"].mean(axis=1)
            if quantity == "mse":
                axis.plot(active, mean, line, color=color, marker=marker, label=name)
            else:
                axis.errorbar(
                    active, mean, half if np.isfinite(half).all() else None, color=color,
                    marker=marker, capsize=2, elinewidth=0.8, label=name,
                )  # fmt: skip
            axis.plot(
                theirs[method]["l0_0.001"], theirs[method][quantity], "x", color=color,
                markersize=8, label=f"{name}, published",
            )  # fmt: skip
        axis.set_xlabel("L0: codes above .001 per test signal")
        axis.set_ylabel(f"{label}, test signals")
        axis.grid(alpha=0.25)
    axes[0].set_yscale("log")
    axes[1].axvline(3, color="black", linewidth=0.6, linestyle=(0, (2, 3)))
    axes[1].set_ylim(0, 1)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 0.06))
    points = ", ".join(f"{p:g}" for p in config.penalties)
    figure.text(
        0.01, 0.012, f"A point is a penalty: {points}. Bars: 95 % t intervals over "
        f"{config.num_runs} data sets. Dotted: the true L0 of 3.", fontsize=8.5, va="bottom",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.18, 1, 1))
    return _write(figure, path)


def phases(
    panels: Mapping[str, Any], config: Any, label: str, path: pathlib.Path, *, signed: bool = False
) -> pathlib.Path:
    """Draw contours over N and M: a row for each K, a column for each panel (K, M, N)."""
    atoms, measurements = config.num_atoms, config.num_measurements
    num_rows, num_columns = len(config.num_active), len(panels)
    figure = Figure((3.1 * num_columns + 1.6, 2.7 * num_rows + 0.9), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    norm, colors = _shades(list(panels.values()), signed)
    for row, (i, k) in zip(axes, enumerate(config.num_active), strict=True):
        for axis, (title, values) in zip(row, panels.items(), strict=True):
            _contours(axis, atoms, measurements, values[i], norm, colors)
            for (y, m), (x, n) in itertools.product(enumerate(measurements), enumerate(atoms)):
                axis.annotate(
                    f"{values[i, y, x]:+.2f}" if signed else f"{values[i, y, x]:.2f}", (n, m),
                    xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8,
                    bbox={"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.6},
                )  # fmt: skip
            reach = np.geomspace(max(k, atoms[0] / 1.3), atoms[-1] * 1.3, 200)
            axis.plot(reach, paper.recovery_boundary(reach, k), "r--", linewidth=1.5)
            for set_scale, set_limits, set_ticks, points in (
                (axis.set_xscale, axis.set_xlim, axis.set_xticks, atoms),
                (axis.set_yscale, axis.set_ylim, axis.set_yticks, measurements),
            ):
                set_scale("log", base=2)
                set_limits(points[0] / 1.3, points[-1] * 1.3)
                set_ticks(points, [str(point) for point in points])
            axis.set_title(f"{title}, K = {k}", fontsize=9)
        row[0].set_ylabel("measurements M")
    for axis in axes[-1]:
        axis.set_xlabel("atoms N")
    _phase_legend(figure, axes, norm, colors, label)
    return _write(figure, path)


def fine_phases(values: Any, config: Any, path: pathlib.Path) -> pathlib.Path:
    """Draw contours of latent MCC (M, K) over K and M, N fixed."""
    figure = Figure((7.5, 5), layout="constrained")
    axis = figure.subplots()
    norm, colors = _shades([values], False)
    _contours(axis, config.num_active, config.num_measurements, values, norm, colors)
    reach = np.linspace(config.num_active[0], config.num_active[-1], 200)
    axis.plot(reach, paper.recovery_boundary(config.num_atoms, reach), "r--", linewidth=1.5)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_xlabel("active atoms K")
    axis.set_ylabel("measurements M")
    axis.set_title(f"known dictionary of {config.num_atoms} atoms, lasso", fontsize=11)
    _phase_legend(figure, axis, norm, colors, "latent MCC")
    return _write(figure, path)


def _shades(values: list[Any], signed: bool) -> tuple[Any, str]:
    if not signed:
        return matplotlib.colors.Normalize(0, 1), "viridis"
    limit = np.ceil(10 * max(0.1, np.nanmax(np.abs(values)))) / 10
    return matplotlib.colors.Normalize(-limit, limit), "RdBu"


def _contours(axis: Any, x: Any, y: Any, values: Any, norm: Any, colors: str) -> None:
    style = {"cmap": colors, "norm": norm}
    if min(len(x), len(y)) > 1:
        levels = np.linspace(norm.vmin, norm.vmax, 21)
        axis.contourf(x, y, values, levels, **style)
        axis.contour(x, y, values, levels[::2], colors="black", linewidths=0.4)
    axis.scatter(*np.meshgrid(x, y), c=values, s=14, edgecolors="black", linewidths=0.5, **style)


def _phase_legend(figure: Any, axes: Any, norm: Any, colors: str, label: str) -> None:
    shades = matplotlib.cm.ScalarMappable(norm, colors)
    figure.colorbar(shades, ax=axes, label=f"{label}, mean over data sets")
    line = matplotlib.lines.Line2D([], [], color="red", linestyle="--", label="M = 2K ln(N/K)")
    figure.legend(handles=[line], loc="outside lower center", fontsize=9)


def inferences(curves: Mapping[str, Any], title: str, path: pathlib.Path) -> pathlib.Path:
    """Draw R² against FLOPs a token: each dictionary's encoder, and the best for each cost."""
    figure, axis = _subplots((10, 6.5))
    colors = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#8c510a", "black",
              "#9a9a9a", "#cccccc")  # fmt: skip
    for (label, curve), color in zip(curves.items(), colors, strict=False):
        flops, r2 = curve.flops, curve.r2
        order = np.argsort(flops, kind="stable")
        order = order[curve.within[order] & (r2[order] > 0)]  # what is below explains nothing
        best = np.maximum.accumulate(r2[order])
        rising = np.flatnonzero(np.r_[True, np.diff(best) > 0])
        axis.plot(flops[order][rising], best[rising], "-", color=color, linewidth=1.5, label=label)
        axis.plot(flops[order], r2[order], ".", color=color, alpha=0.5, markersize=5)
        fill = color if curve.within[curve.own] else "white"  # more latents than the others
        axis.plot(flops[curve.own], r2[curve.own], "o", color=color, markersize=9,
                  markerfacecolor=fill)  # fmt: skip
    axis.set_xscale("log")
    axis.set_ylim(max(0.0, axis.get_ylim()[0]), min(1.0, axis.get_ylim()[1]))
    axis.set_xlabel(f"FLOPs a token, {CONVENTION}", fontsize=9)
    axis.set_ylabel("R² of tokens of held-out documents")
    axis.set_title(title + "\nlarge points: own encoders (hollow: with more "
                   "latents than K); lines: the best with K, up to a cost",
                   fontsize=10)  # fmt: skip
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    return _write(figure, path)


def scores_of_training(
    curves: Mapping[str, tuple[Any, Any]],
    levels: Mapping[str, float],
    title: str,
    path: pathlib.Path,
) -> pathlib.Path:
    """Draw F1 against the FLOPs of training, and levels that need none or do not say theirs."""
    figure, axis = _subplots((9, 6))
    colors = itertools.cycle(("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"))
    for (label, (flops, f1)), color in zip(curves.items(), colors, strict=False):
        axis.plot(flops, f1, "o-", color=color, label=label)
    for (label, level), line in zip(levels.items(), ("-", "--", "-.", ":"), strict=False):
        axis.axhline(level, color="#7f7f7f", linewidth=1, linestyle=line, label=label)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    exponents = np.log10([work for flops, _ in curves.values() for work in flops])
    axis.set_xlim(10 ** np.floor(exponents.min() - 0.1), 10 ** np.ceil(exponents.max() + 0.1))
    axis.set_ylim(0, 1)
    axis.set_xlabel(f"FLOPs of training, {CONVENTION}", fontsize=8)
    axis.set_ylabel("F1 of lasso codes, dead latents count as 0")
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)
    return _write(figure, path)


SENSING = {  # color, line, marker
    "least_norm": ("#7f7f7f", ":", ""),
    "linear": ("black", "--", "s"),
    "cosine": ("#56B4E9", "-", "o"),
    "fista": ("#009E73", "-", "o"),
    "weighted": ("#00573f", "-", "v"),
    "omp": ("#8c510a", "-", "x"),
    "lista": ("#E69F00", "-", "^"),
    "unrolled": ("#D55E00", "-", "D"),
    "alone": ("#CC79A7", ":", "D"),
}


def compressed_sensing(
    arrays: Mapping[str, Any], config: Any, labels: Mapping[str, str], at: int, path: pathlib.Path
) -> pathlib.Path:
    """Draw PSNR against the rate of measurement, and against FLOPs at one rate."""
    figure, (left, right) = _subplots((12, 5.6), 1, 2)
    for name, (color, line, marker) in SENSING.items():
        mean, half = sc.statistics.mean_interval(arrays[f"psnr/{name}"].T)
        bars = half if np.isfinite(half).all() else None
        left.errorbar(
            [100 * rate for rate in config.rates], mean, bars, color=color, linestyle=line,
            marker=marker or None, markersize=5, capsize=2, label=labels[name],
        )  # fmt: skip
        steps = [f"{name}_{count}" for count in config.solver_steps[:-1]]
        points = [x for x in (*steps, name) if f"psnr/{x}" in arrays]
        right.plot(
            [arrays[f"flops/{x}"][0, at] for x in points],
            [arrays[f"psnr/{x}"][:, at].mean() for x in points],
            line if len(points) > 1 else "none", color=color, marker=marker or "P", markersize=7,
        )  # fmt: skip
    left.set_xlabel("measurements, % of pixels")
    right.set_xscale("log")
    right.set_xlabel(f"FLOPs of a patch, measured, at {config.rates[at]:.0%}")
    for axis in (left, right):
        axis.set_ylabel("PSNR on held-out images, dB")
        axis.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=4,
                  bbox_to_anchor=(0.5, 0.04))  # fmt: skip
    count = len(config.seeds)
    caption = f"Bars: 95 % t intervals over {count} seeds. " if count > 1 else "One seed. "
    figure.text(0.01, 0.012, f"{caption}FLOPs: inference alone. {CONVENTION}.", fontsize=8)
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    return _write(figure, path)


def recovered(pictures: Mapping[str, Any], title: str, path: pathlib.Path) -> pathlib.Path:
    """Draw images in gray, each under its name."""
    columns = (len(pictures) + 1) // 2
    figure, axes = _subplots((2.4 * columns, 10), 2, columns)
    for axis, (label, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(label, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(title)
    figure.tight_layout()
    return _write(figure, path)


def _subplots(size: tuple[float, float], *grid: int, **shared: Any) -> tuple[Figure, Any]:
    figure = Figure(size)
    return figure, figure.subplots(*grid, **shared)


def _write(figure: Any, path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
