"""The table of :mod:`experiments.language_model`: what each inference explains and costs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import sparsecode_jax as sc
from experiments import common

if TYPE_CHECKING:
    from experiments.language_model import Config, Data
    from sparsecode_jax import activations

ROOM = 1.1  # times K: the most active latents of what counts as an inference with K
MLP_ENCODER = "MLP encoder"


def stability(
    rows: Mapping[tuple[str, int], Any], atoms: Mapping[tuple[str, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the dictionary MCC of each pair of seeds, and that of two random dictionaries."""
    found = {}
    for method in dict.fromkeys(method for method, _ in rows):
        ours = [value for (name, _), value in atoms.items() if name == method]
        if len(ours) > 1:
            pairs = itertools.combinations(ours, 2)
            found[method] = np.asarray([float(sc.metrics.dictionary_mcc(*x)) for x in pairs])
    if found:
        chance = sc.metrics.dictionary_mcc_chance(
            jax.random.key(0), next(iter(atoms.values())), num_draws=3
        )
        found["chance"] = np.asarray([float(chance[0])])
    return found


def names_of(columns: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of inferences, as they were kept."""
    return json.loads(columns["names"].tobytes())


def title(config: Config, store: activations.Store) -> str:
    """Return what the figure and the table are of."""
    identity = store.manifest["identity"]
    bits = identity.get("quantization")
    model = identity.get("model", "given activations")
    return (
        f"{model}{f' ({bits} weights)' if bits else ''}, layer {config.layer} {config.site}: "
        f"{config.expansion * store.shape[1]:,} latents in {store.shape[1]} dimensions, "
        f"K = {config.num_active}"
    )


class Curve(NamedTuple):
    """What the inferences of one method explain and cost, means of its seeds.

    Attributes:
      names: of the inferences.
      flops: per token.
      r2: explained variance.
      l0: mean active latents.
      own: the index of the method's own encoder.
      within: whether an inference has as many active latents as asked for, or fewer.
      best: the index of the least error of those, on the tokens that choices are made on.
    """

    names: list[str]
    flops: np.ndarray
    r2: np.ndarray
    l0: np.ndarray
    own: int
    within: np.ndarray
    best: int


def curves(config: Config, rows: Mapping[tuple[str, int], Any]) -> dict[str, Curve]:
    """Return what the inferences of each method explain and cost."""
    found = {}
    for method in dict.fromkeys(method for method, _ in rows):
        ours = [columns for (name, _), columns in rows.items() if name == method]
        means = {key: np.mean([x[key] for x in ours], axis=0)
                 for key in ("flops", "r2", "l0", "choice_error", "choice_l0")}  # fmt: skip
        names, limit = names_of(ours[0]), ROOM * config.num_active
        own = len(names) - 1 if names[-1] == MLP_ENCODER else 0
        within, error = means["l0"] <= limit, means.pop("choice_error")
        chosen = np.where(means.pop("choice_l0") <= limit, error, np.inf)
        found[method] = Curve(names, **means, own=own, within=within, best=int(np.argmin(chosen)))
    return found


def summary(config: Config, rows: Mapping[tuple[str, int], Any]) -> str:
    """Write a row a dictionary: its encoder, that one refitted, the best with K latents."""
    cells = []
    for method, curve in curves(config, rows).items():
        lost = next(columns for (name, _), columns in rows.items() if name == method)["recovered"]
        best, refit = curve.best, curve.names.index("encoder, refit")
        ours = curve.own == 0 and curve.within[refit]  # and not of the largest correlations
        cells.append((
            method, f"{curve.r2[curve.own]:.3f}", f"{curve.l0[curve.own]:.1f}",
            f"{curve.r2[refit]:.3f}" if ours else "", curve.names[best],
            f"{curve.r2[best]:.3f}", f"{curve.l0[best]:.1f}",
            f"{curve.flops[best] / curve.flops[curve.own]:.0f}",
            *("" if np.isnan(lost[i]) else f"{lost[i]:.4f}" for i in (curve.own, best)),
        ))  # fmt: skip
    head = ("dictionary", "own R2", "L0", "refit", "best with K", "R2", "L0", "x FLOPs",
            "loss, own", "loss, best")  # fmt: skip
    return common.format_table(head, cells)


def table(
    config: Config, given: Data, store: activations.Store, rows: dict, stable: dict,
    principal_r2: float, splice: Any,
) -> str:  # fmt: skip
    """Write a row an inference, those of one dictionary together."""
    cells: list[tuple] = []
    for method in dict.fromkeys(method for method, _ in rows):
        ours = {seed: columns for (name, seed), columns in rows.items() if name == method}
        first = next(iter(ours.values()))
        own = curves(config, rows)[method].own
        for i, inference in enumerate(names_of(first)):
            r2 = [columns["r2"][i] for columns in ours.values()]
            recovered = float(first["recovered"][i])
            cells.append((
                method, inference, len(ours), common.estimate(r2), f"{1 - np.mean(r2):.3f}",
                f"{np.mean([c['l0'][i] for c in ours.values()]):.1f}",
                f"{np.mean([c['dead'][i] for c in ours.values()]):.3f}",
                "" if np.isnan(recovered) else f"{recovered:.4f}", f"{first['flops'][i]:.2e}",
                f"{first['flops'][i] / first['flops'][own]:.1f}", f"{first['training_flops']:.1e}",
            ))  # fmt: skip
    head = ("dictionary", "codes by", "n", "R2", "NMSE", "L0", "dead", "loss recovered",
            "FLOPs a token", "x encoder", "training FLOPs")  # fmt: skip
    chance = float(stable["chance"][0]) if "chance" in stable else np.nan
    steady = [(method, len(values), common.estimate(values), f"{chance:.3f}")
              for method, values in stable.items() if method != "chance"]  # fmt: skip
    lines = [
        title(config, store),
        f"{store.shape[0]:,} tokens of {len(np.unique(store.documents))} documents, sequences "
        f"of {config.context}; left out: "
        + ", ".join(f"{count:,} {reason}" for reason, count in given.left_out.items())
        + f". {len(given.train):,} to train on,",
        f"{config.num_scored:,} of other documents to score, {config.num_choice:,} of those to "
        "choose penalties and thresholds on. Equal training FLOPs. The penalty",
        "of ReLU, JumpReLU, gated and MLP is steered to K in training. Random atoms and learned "
        "ones have no encoder, that of the MLP stands last: for these the",
        "encoder is of the K largest correlations.",
        "R2: mean of seeds with a 95 % t interval; FLOPs and loss recovered are of the first seed. "
        f"R2 of {config.num_active} principal directions: {principal_r2:.3f}.",
        "",
        summary(config, rows),
        "",
        f"Best: the least error on the tokens to choose on, of inferences with at most {ROOM:g} K "
        "latents there. All of them:",
        "",
        common.format_table(head, cells),
    ]
    if splice is not None and splice.has_loss:
        entropy = [x["cross_entropy"] for x in (splice.untouched, splice.with_zeros,
                                                splice.with_mean)]  # fmt: skip
        lines += [
            "",
            f"Loss recovered: 1 is the model itself ({entropy[0]:.3f} nats a token), 0 is zeros in "
            f"the place of activations ({entropy[1]:.3f}); their mean has {entropy[2]:.3f}. On "
            f"{splice.num_tokens:,} tokens.",
        ]
    elif splice is not None:
        lines += ["", "Loss recovered: mean cosine of the sentence embedding with the untouched "
                  f"model's; zeros have {splice.with_zeros['cosine']:.3f}, the mean activation "
                  f"{splice.with_mean['cosine']:.3f}."]  # fmt: skip
    if steady:
        columns = ("dictionary", "pairs", "MCC", "chance")
        lines += ["", "Stability: dictionary MCC between two seeds",
                  common.format_table(columns, steady)]  # fmt: skip
    return "\n".join(lines) + "\n"
