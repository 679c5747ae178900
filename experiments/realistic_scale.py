"""Read and learn codes at realistic scale: 1,000 latents as in the paper, and 16,384 by a Zipf law.

Question: do the paper's conclusions hold at its own large setting (N = 1,000 latents, K = 20
active, in M = 200 measurements), of which it gives no numbers, and at N = 16,384, M = 768 with 64
active on average, the most frequent 500 times as often as the rarest? With the dictionary known,
pursuits and the lasso, which train nothing, stand beside encoders that are trained with true codes;
with the dictionary unknown, alternating minimization beside autoencoders, whose atoms are read by
their own encoders and by pursuits.

Data: half-normal codes, at N = 1,000 exactly K of them, uniformly; random unit atoms. Codes are
kept by value and place, and the 16,384 latents are streamed: each batch is rebuilt from a key, and
no array has a number for each latent and each sample but on the test set. Known codes as published:
the loss is less the mean cosine of each latent's column over a minibatch of 1,024, Adam, 1e-3.

Scores are of the latents that fire at least 20 times on the test set: Pearson's is signed, of each
latent with its own, and MCC matches latents (Hungarian, absolute correlations). Penalties and rates
are chosen on training signals, without their codes: those whose K largest codes explain most.

Command: ``python -m experiments.realistic_scale`` (50 minutes on 2 cores beside other work, 5.9 GB:
51,200 training samples at N = 1,000 and three data sets, 65,536 samples at N = 16,384, one data
set, 4,096 atoms learned). ``--full``: 500,000 samples and 100 epochs, and 16,384 atoms from
1,048,576 samples, a day, by an estimate, not run; ``--devices 4`` splits batches over so many
devices; ``--quick`` 43 seconds of one core. Finished rows and checkpoints of training are kept
until the table is written.
Expected at N = 1,000: signed Pearson .865 by one layer trained with codes, .998 by 30 steps of
FISTA, 1.000 by OMP; dictionary unknown, MCC .802 by the TopK autoencoder's encoder, .929 by OMP in
its atoms, .993 in the online learner's, .999 in those of ``learn_dictionary``. At N = 16,384: .809
by one product with the true atoms, .962 by 30 steps of FISTA, 1.000 by the lasso; of so few samples
nothing learns the atoms (.126 by the TopK autoencoder's encoder, .262 by OMP in the online
learner's).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import sparse

import sparsecode_jax as sc
from experiments import common
from sparsecode_jax import encoders, metrics, solvers, synthetic, training
from sparsecode_jax.dictionary_learning import learn_dictionary, learn_dictionary_online, updates
from sparsecode_jax.flops import FlopCountError, count_flops, eval_flops

NAME = "realistic_scale"
DRAWS, SCORED = 1, 2  # streams of samples: trained on, reported
TOLERANCE = 1e-3  # of the lasso that is solved to a gap
LEAST = 20  # times that a latent has to fire on the test set to be scored
COLUMNS = {
    "pearson": "Pearson", "mcc": "MCC", "chance": "chance", "dictionary": "dictionary", "f1": "F1",
    "r2": "R2", "l0": "L0", "dead": "dead", "failed": "failed", "flops": "FLOPs a signal",
    "training": "training FLOPs", "samples": "samples",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Size:
    """One setting: its latents, how many samples it has, and what is trained on them."""

    num_atoms: int = 1000
    num_measurements: int = 200
    num_active: int = 20
    zipf: bool = False  # fire independently, with a mean of num_active; else exactly so many
    seeds: tuple[int, ...] = (0, 1, 2)  # of data sets
    batch_size: int = 1024
    num_batches: int = 50  # of an epoch
    num_epochs: int = 10
    num_scored: int = 10  # batches of the test set
    num_matched: int = 10_240  # test samples by which latents are matched
    held: bool = True  # the training batches, in memory; else they are drawn anew
    hidden: tuple[tuple[int, ...], ...] = ((), (32,), (256,))  # of encoders trained with codes
    steps: tuple[int, ...] = (10, 30, 100)  # of FISTA
    penalties: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    num_choice: int = 256  # training signals on which penalties and rates are chosen
    width: int = 1000  # of learned dictionaries
    autoencoders: tuple[str, ...] = ("TopK SAE", "ReLU SAE")
    rates: tuple[float, ...] = (1e-3, 3e-3)  # of autoencoders
    searched: int = 8  # batches that learn_dictionary reads; 0 leaves it out
    num_rounds: int = 40
    online_epochs: int = 2
    joined: int = 1  # batches of one update of the online learner
    refit: int | None = None  # codes a signal of the online learner with steered penalty

    @property
    def num_tested(self) -> int:
        """Return the number of test samples."""
        return self.num_scored * self.batch_size

    def num_seen(self, epochs: int) -> int:
        """Return the number of samples of so many epochs."""
        return epochs * self.num_batches * self.batch_size


PAPER = Size()
WIDE = Size(
    num_atoms=16_384, num_measurements=768, num_active=64, zipf=True, seeds=(0,), batch_size=512,
    num_batches=128, num_epochs=1, num_scored=8, num_matched=4096, held=False, hidden=(),
    steps=(10, 30), width=4096, autoencoders=("TopK SAE",), searched=0, online_epochs=1, joined=4,
    refit=96,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Both settings."""

    sizes: tuple[Size, ...] = (PAPER, WIDE)


_SHORT: dict[str, Any] = {  # where shapes agree a program is compiled once
    "num_measurements": 40, "num_active": 4, "seeds": (0,), "batch_size": 256, "num_matched": 1024,
    "num_scored": 4, "steps": (10,), "penalties": (0.05, 0.1), "num_choice": 256, "width": 100,
    "rates": (3e-3,),
}  # fmt: skip
QUICK = Config((
    dataclasses.replace(
        PAPER, num_atoms=100, num_batches=4, hidden=((), (32,)), searched=2, num_rounds=5, **_SHORT
    ),
    dataclasses.replace(WIDE, num_atoms=200, num_batches=8, joined=2, refit=12, **_SHORT),
))  # fmt: skip
FULL = Config((
    dataclasses.replace(PAPER, num_batches=489, num_epochs=100, num_scored=489, num_matched=51_200),
    dataclasses.replace(
        WIDE, num_batches=2048, num_scored=32, num_matched=10_240, steps=(10, 30, 100),
        width=16_384, refit=128,
    ),
))  # fmt: skip


# --- data ----------------------------------------------------------------------------------------

Place = Callable[[Any], jax.Array]  # puts a batch where it is worked on
Encode = Callable[[jax.Array], jax.Array]


class Batch(NamedTuple):
    """Signals (B, M), and their codes by value and place, on the host."""

    signals: np.ndarray
    codes: sc.SparseCodes


class Problem(NamedTuple):
    """A setting, the seed of its data, and its true atoms."""

    size: Size
    seed: int
    atoms: jax.Array
    place: Place

    def epochs(self, count: int) -> Iterator[Batch]:
        """Give the training batches, each epoch in an order of its own."""
        size = self.size
        for epoch in range(count):
            for number in np.random.default_rng([self.seed, epoch]).permutation(size.num_batches):
                if size.held:
                    yield _held(size, self.seed, DRAWS, size.num_batches)[number]
                else:
                    yield _batch(size, self.seed, DRAWS, int(number))

    def test(self) -> list[Batch]:
        """Return the test set."""
        return _held(self.size, self.seed, SCORED, self.size.num_scored)

    def signals(self, count: int) -> np.ndarray:
        """Return the first training signals."""
        size = self.size
        needed = range(-(-count // size.batch_size))
        batches = (_batch(size, self.seed, DRAWS, number).signals for number in needed)
        return np.concatenate(list(batches))[:count]


@functools.cache
def atoms_of(size: Size, seed: int) -> jax.Array:
    """Draw the true dictionary of a data set."""
    return sc.dictionaries.random(
        jax.random.key(seed), num_atoms=size.num_atoms, num_measurements=size.num_measurements
    )


@functools.lru_cache(maxsize=2)  # the training and the test set of one problem
def _held(size: Size, seed: int, stream: int, count: int) -> list[Batch]:
    return [_batch(size, seed, stream, number) for number in range(count)]


def _batch(size: Size, seed: int, stream: int, number: int) -> Batch:
    """Draw a batch by its number, always the same one."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1000 + seed), stream), number)
    signals, codes, dropped = _draw(key, atoms_of(size, seed), size)
    if int(dropped):
        raise RuntimeError(f"{int(dropped)} active latents found no slot; none is expected to.")
    return Batch(np.asarray(signals), jax.tree.map(np.asarray, codes))


@functools.partial(jax.jit, static_argnames="size")
def _draw(key: jax.Array, atoms: jax.Array, size: Size) -> synthetic.FeatureSamples:
    if size.zipf:
        model = synthetic.FeatureModel(atoms, rates_of(size), magnitudes=synthetic.half_normal)
        slots = min(size.num_atoms, 2 * size.num_active + 16)
        return synthetic.sample_features(key, model, num_samples=size.batch_size, max_active=slots)
    problem = synthetic.sample_problem(
        key, size.num_active, num_samples=size.batch_size, num_atoms=size.num_atoms,
        num_measurements=size.num_measurements, dictionary=atoms,
    )  # fmt: skip
    codes = sc.SparseCodes.from_dense(problem.codes, num_active=size.num_active)
    return synthetic.FeatureSamples(problem.signals, codes, jnp.int32(0))


def rates_of(size: Size) -> jax.Array:
    """Return firing probabilities that sum up to K and of which the largest is .4, or less."""
    with jax.ensure_compile_time_eval():
        shape = float(jnp.sum(synthetic.zipf(size.num_atoms, largest=1.0, smallest=0.0)))
    largest = min(0.4, size.num_active / shape)  # the sum is linear in both ends
    smallest = max(0.0, (size.num_active - largest * shape) / (size.num_atoms - shape))
    return synthetic.zipf(size.num_atoms, largest=largest, smallest=smallest)


def placed(num_devices: int) -> Place:
    """Return what splits a batch over devices, or leaves it where it is."""
    if num_devices == 1:
        return jnp.asarray
    # Automatic axes, as of what training returns, whose encoders then read what is placed so.
    mesh = jax.make_mesh((num_devices,), ("signals",), axis_types=(AxisType.Auto,))
    return lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("signals")))


# --- scores --------------------------------------------------------------------------------------


def score(problem: Problem, encode: Encode, atoms: Any, **work: float) -> dict[str, float]:
    """Score codes of the test set in a dictionary; count the FLOPs of a signal.

    Signals whose codes are not finite get none, and are counted.

    Args:
      problem: whose test set it is.
      encode: reads codes.
      atoms: the dictionary, ``problem.atoms`` itself where it is known.
      work: ``training`` FLOPs and ``samples`` trained on, none by default.
    """
    started, known, few = time.monotonic(), atoms is problem.atoms, problem.size.num_matched
    test, atoms = problem.test(), jnp.asarray(atoms)
    codes = np.empty((problem.size.num_tested, len(atoms)), np.float32)
    for batch, own in zip(test, np.split(codes, len(test)), strict=True):
        own[:] = encode(problem.place(batch.signals))
    finite = np.isfinite(codes).all(axis=1)
    codes[~finite] = 0

    def parts() -> Iterator[tuple]:
        for batch, own in zip(test, np.split(codes, len(test)), strict=True):
            yield batch.signals, batch.codes, own, sc.dictionaries.reconstruct(own, atoms)

    scores = metrics.score_features(parts(), true_dictionary=problem.atoms, dictionary=atoms)
    true, latents = truth(problem)
    matched = true[:, latents][:few].toarray(), codes[:few]
    pearson = chance = np.nan
    if known:  # in blocks of columns: the test set may be large
        blocks = np.array_split(latents, -(-len(latents) // 128))
        values = [metrics.latent_correlation(true[:, b].toarray(), codes[:, b]) for b in blocks]
        pearson = float(np.average(values, weights=[len(block) for block in blocks]))
    else:
        chance = float(metrics.mcc_chance(jax.random.key(0), *matched, num_draws=1)[0])
    return {
        "pearson": pearson, "mcc": float(metrics.mcc(*matched)), "chance": chance,
        "dictionary": scores.mcc, "f1": float(np.mean(scores.f1)),
        "r2": scores.explained_variance, "l0": scores.l0, "dead": scores.dead_fraction,
        "failed": float(np.sum(~finite)), "flops": per_signal(encode, test[0].signals),
        "training": 0.0, "samples": 0.0, **work,
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def truth(problem: Problem) -> tuple[Any, np.ndarray]:
    """Return the true codes of the test set by column, and the latents that are scored."""
    true = sparse.vstack([batch.codes.to_scipy() for batch in problem.test()]).tocsc()
    return true, np.flatnonzero(np.diff(true.indptr) >= LEAST)


def per_signal(encode: Encode, signals: np.ndarray) -> float:
    """Count the FLOPs of a batch, over its signals; run it where values decide how many."""
    try:
        return float(eval_flops(encode, signals).total() / len(signals))
    except FlopCountError:
        return float(count_flops(encode)(signals).total() / len(signals))


def choose(
    problem: Problem, options: tuple[float, ...], read: Callable[[float], tuple[Encode, Any]]
) -> float:
    """Return the option whose K largest codes explain most of the first training signals.

    Args:
      problem: whose signals they are.
      options: penalties, or rates.
      read: gives what reads codes by an option, and the atoms that they are of.
    """
    signals = problem.signals(problem.size.num_choice)

    def explained(option: float) -> float:
        encode, atoms = read(option)
        codes = np.asarray(encode(problem.place(signals)))
        largest = sc.SparseCodes.from_dense(codes, num_active=problem.size.num_active)
        return float(metrics.r2(signals, sc.dictionaries.reconstruct(largest, atoms)))

    return max(options, key=explained) if len(options) > 1 else options[0]


def ways(problem: Problem, atoms: Any) -> dict[str, Callable[[], Encode]]:
    """Return ways to read codes in a dictionary, which train nothing: builders by name."""
    size, atoms = problem.size, jnp.asarray(atoms)
    prepared = functools.cache(lambda: sc.dictionaries.prepare(atoms, max_atoms=size.num_atoms))

    def product() -> Encode:
        encoder = encoders.top_k(atoms.shape[1], len(atoms), num_active=size.num_active)
        return functools.partial(encoder.apply, encoders.LinearParams(atoms, None))

    def pursuit(solver: Any) -> Encode:
        return lambda x: sc.sparse_encode(x, prepared(), num_active=size.num_active, solver=solver)

    def lasso(**options: Any) -> Encode:
        def read(penalty: float) -> Encode:
            return lambda x: sc.sparse_encode(x, prepared(), penalty, **options)

        return read(choose(problem, size.penalties, lambda penalty: (read(penalty), atoms)))

    return {
        "one product, K largest": product,
        **{f"FISTA, {n} steps": functools.partial(lasso, num_steps=n) for n in size.steps},
        "lasso": functools.partial(lasso, tolerance=TOLERANCE),
        "OMP": functools.partial(pursuit, solvers.orthogonal_matching_pursuit),
        "OLS": functools.partial(pursuit, solvers.orthogonal_least_squares),
    }


# --- training ------------------------------------------------------------------------------------


def supervised(problem: Problem, hidden: tuple[int, ...], run: sc.io.Run) -> dict[str, float]:
    """Train an encoder with true codes, as the paper does, and score it."""
    size = problem.size
    shape = size.num_measurements, size.num_atoms
    encoder = encoders.mlp(*shape, hidden=hidden) if hidden else encoders.linear(*shape)
    label = f"codes-{problem.seed}-{sum(hidden)}"
    fitted = training.fit(
        jax.random.key(problem.seed), encoder,
        ((problem.place(x), problem.place(z.dense())) for x, z in problem.epochs(size.num_epochs)),
        model=training.Model(fixed_dictionary=problem.atoms),
        recipe=training.Recipe(loss=training.losses.cosine), checkpoint=run.file(label),
        progress=label,
    )  # fmt: skip
    scores = score(
        problem, functools.partial(encoder.apply, fitted.params.encoder), problem.atoms,
        training=float(fitted.flops or np.nan), samples=float(size.num_seen(size.num_epochs)),
    )  # fmt: skip
    return {**scores, "r2": np.nan}  # the loss knows no scale


def own_encoder(size: Size, name: str) -> sc.Encoder:
    """Return the encoder of an autoencoder."""
    if name == "TopK SAE":
        return encoders.top_k(size.num_measurements, size.width, num_active=size.num_active)
    return encoders.linear(size.num_measurements, size.width)


def autoencoder(problem: Problem, name: str, run: sc.io.Run) -> dict[str, Any]:
    """Train an autoencoder at each rate, from one tied start, and return the chosen one."""
    size, seed, encoder = problem.size, problem.seed, own_encoder(problem.size, name)
    atoms = sc.dictionaries.random(
        jax.random.key(100 + seed), num_atoms=size.width, num_measurements=size.num_measurements
    )
    start = training.Model(encoders.LinearParams(atoms, jnp.zeros(size.width)), atoms)
    loss: Any = training.losses.squared_error
    options: dict[str, Any] = {}
    if name == "ReLU SAE":
        loss, options = training.losses.lasso, {"target_l0": size.num_active, "penalty": 0.1}

    @functools.cache
    def fit(rate: float) -> training.Fit:
        label = f"{name}-{size.num_atoms}-{seed}-{rate}"
        signals = (problem.place(batch.signals) for batch in problem.epochs(size.num_epochs))
        return training.fit(
            jax.random.key(seed), encoder, signals, recipe=training.Recipe(loss=loss), model=start,
            learning_rate=rate, checkpoint=run.file(label), progress=label, **options,
        )  # fmt: skip

    def read(rate: float) -> tuple[Encode, Any]:
        params = fit(rate).params
        return functools.partial(encoder.apply, params.encoder), params.dictionary

    best = fit(choose(problem, size.rates, read))
    return {
        "atoms": best.params.dictionary, "weight": best.params.encoder.weight,
        "bias": best.params.encoder.bias, "training": len(size.rates) * float(best.flops or np.nan),
        "samples": size.num_seen(size.num_epochs),
    }  # fmt: skip


def alternating(problem: Problem, name: str, run: sc.io.Run) -> dict[str, Any]:
    """Learn a dictionary by alternating minimization, from some signals or from a stream."""
    size, key = problem.size, jax.random.key(problem.seed)
    label = f"{name}-{size.num_atoms}-{problem.seed}"
    kept: dict[str, Any] = {"checkpoint": run.file(label), "progress": label}
    if name == "learn_dictionary":
        signals = problem.signals(size.searched * size.batch_size)  # few: on one device
        found: Any = learn_dictionary(
            key, signals, num_atoms=size.width, num_rounds=size.num_rounds, **kept
        )
        return {"atoms": found.dictionary, "training": found.flops, "samples": len(signals)}
    options: dict[str, Any] = {}
    if size.refit is not None:
        options = {
            "target_l0": size.num_active, "refit": size.refit, "num_steps": 2,
            "solver": solvers.working_set((size.refit,)),
            "update": updates.block_coordinate(forgetting=2.0),
        }  # fmt: skip

    def joined() -> Iterator[jax.Array]:
        stream = problem.epochs(size.online_epochs)
        while several := list(itertools.islice(stream, size.joined)):
            yield problem.place(np.concatenate([batch.signals for batch in several]))

    found = learn_dictionary_online(key, joined(), num_atoms=size.width, **options, **kept)
    flops = np.nan if found.flops is None else found.flops
    return {"atoms": found.dictionary, "training": flops, "samples": found.num_signals}


# --- report --------------------------------------------------------------------------------------


def methods(problem: Problem, run: sc.io.Run) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what is to be measured in a setting, by the label of its row."""
    size = problem.size
    found: dict[str, Callable[[], dict[str, float]]] = {}
    for hidden in size.hidden:
        label = "MLP " + "x".join(map(str, hidden)) if hidden else "one layer"
        found[f"trained with codes: {label}"] = functools.partial(supervised, problem, hidden, run)

    def known(build: Callable[[], Encode]) -> dict[str, float]:
        return score(problem, build(), problem.atoms)

    for way, build in ways(problem, problem.atoms).items():
        found[f"true atoms: {way}"] = functools.partial(known, build)

    def learned(name: str, way: str) -> dict[str, float]:
        learn = autoencoder if name in size.autoencoders else alternating
        part = run.once(
            f"{name}-{size.num_atoms}-{problem.seed}-learned",
            functools.partial(learn, problem, name, run),
        )
        if way == "own encoder":
            params = encoders.LinearParams(jnp.asarray(part["weight"]), jnp.asarray(part["bias"]))
            encode: Encode = functools.partial(own_encoder(size, name).apply, params)
        else:
            encode = ways(problem, part["atoms"])[way]()
        work = {key: float(part[key]) for key in ("training", "samples")}
        return score(problem, encode, part["atoms"], **work)

    for name in (*size.autoencoders, *(("learn_dictionary",) if size.searched else ()), "online"):
        own = ("own encoder",) if name in size.autoencoders else ()
        for way in (*own, "lasso", "OMP"):
            found[f"{name}: {way}"] = functools.partial(learned, name, way)
    return found


def measure(label: str, problem: Problem, run: sc.io.Run) -> dict[str, float]:
    """Measure a row; one whose training ends in numbers that are not finite has failed."""
    try:
        return methods(problem, run)[label]()
    except FloatingPointError as error:
        print(f"{label}: {error}", flush=True)
        lost = dict.fromkeys((*COLUMNS, "seconds"), np.nan)
        return {**lost, "failed": float(problem.size.num_tested)}


def basis(problem: Problem) -> dict[str, float]:
    """Return what a table says of its data: latents scored, a dictionary's MCC by chance, FLOPs."""
    size = problem.size
    prepare = functools.partial(sc.dictionaries.prepare, max_atoms=size.num_atoms)
    chance, _ = metrics.dictionary_mcc_chance(
        jax.random.key(0), problem.atoms, num_atoms=size.width, num_draws=1,
        metric=metrics.matched_dictionary_mcc,
    )  # fmt: skip
    once = eval_flops(prepare, problem.atoms).total()
    latents = len(truth(problem)[1])
    return {"latents": float(latents), "chance": float(chance), "once": float(once)}


Rows = dict[str, list[dict[str, float]]]  # of a setting: by label, the numbers of each data set


def table(size: Size, rows: Rows, known: dict[str, float]) -> str:
    """Return the table of a setting: means over data sets, with 95 % intervals."""

    def cell(label: str, key: str, values: list[float]) -> str:
        told, free = label.startswith(("trained", "true")), label.startswith("true")
        without = {"pearson": not told, "chance": told, "r2": told and not free, "training": free,
                   "samples": free}  # fmt: skip
        if without.get(key):
            return ""
        if key in ("flops", "training", "samples"):
            return f"{np.mean(values):.2e}"
        return f"{sum(values):.0f}" if key == "failed" else common.estimate(values)

    cells = [
        [label, len(runs), *(cell(label, key, [run[key] for run in runs]) for key in COLUMNS)]
        for label, runs in rows.items()
    ]
    law = "on average, by a Zipf law" if size.zipf else "exactly, uniformly"
    return (
        f"N = {size.num_atoms:,}, M = {size.num_measurements}, K = {size.num_active} active {law}; "
        f"{size.num_tested:,} test samples, on\nwhich {known['latents']:,.0f} latents fire "
        f"at least {LEAST} times. {size.width:,} atoms are learned (MCC of random\nones: "
        f"{known['chance']:.3f}). Gram matrix and step size of the true atoms take "
        f"{known['once']:.1e} FLOPs once, which\nFLOPs a signal leave out.\n\n"
        f"{common.format_table(('method', 'n', *COLUMNS.values()), cells)}\n"
    )


NOTES = f"""n: data sets; ±: 95 % t interval over them, none of one. Pearson: signed, of each latent
with its own; MCC: matched, absolute, and by chance, with the codes of other samples; dictionary:
MCC by |cosine| over matched atoms; F1 of supports, mean over latents, dead ones as 0; dead: latents
that no test sample activates; failed: signals whose codes are not finite, of all data sets. FLOPs:
measured, 'arithmetic'; of autoencoders, of all rates together. lasso: to a gap of {TOLERANCE:g}.
Pursuits and TopK are told K, the ReLU autoencoder is steered to it.
"""


def main(
    config: Config = Config(),  # noqa: B008
    out: pathlib.Path = common.RESULTS,
    num_devices: int = 1,
) -> None:
    """Run what is missing, print the tables, write the results."""
    found: dict[str, dict[str, float]] = {}
    texts = [NOTES]
    with common.stages(out, NAME, config) as run:
        for number, size in enumerate(config.sizes):
            rows: Rows = {}
            for seed in size.seeds:
                problem = Problem(size, seed, atoms_of(size, seed), placed(num_devices))
                known = run.once(f"basis-{number}-{seed}", functools.partial(basis, problem))
                for label in methods(problem, run):
                    row = functools.partial(measure, label, problem, run)
                    kept = run.once(f"{number}-{seed}-{label}", row)
                    numbers = {key: float(value) for key, value in kept.items()}
                    rows.setdefault(label, []).append(numbers)
                    found[f"N = {size.num_atoms}, seed {seed}, {label}"] = numbers
                    print(f"N = {size.num_atoms}, seed {seed}, {label}: MCC {numbers['mcc']:.4f}, "
                          f"{numbers['seconds']:.0f} s", flush=True)  # fmt: skip
            texts.append(table(size, rows, {key: float(value) for key, value in known.items()}))
        arrays = {key: np.asarray([row[key] for row in found.values()]) for key in numbers}
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config), "rows": list(found),
            "axes": {key: ["row"] for key in arrays},
            "flops": "of a signal, and of training; convention 'arithmetic'",
            "seconds": round(float(np.nansum(arrays["seconds"])), 1),
        }  # fmt: skip
        sc.io.save_results(out / NAME, arrays, manifest)
        (out / f"{NAME}.txt").write_text("\n".join(texts))
    print("\n" + "\n".join(texts))


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument(
        "--full", action="store_true", help="the paper's samples and epochs; a day"
    )
    options.add_argument("--devices", type=int, default=1, help="over which batches are split")
    args = options.parse_args()
    chosen = QUICK if args.quick else FULL if args.full else Config()
    main(chosen, args.out, args.devices)
