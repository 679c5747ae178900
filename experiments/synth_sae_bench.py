"""Score encoders, solvers and refinements on a twin of SynthSAEBench-16k, FLOPs beside F1.

Claim: on the field's benchmark (16,384 features in 768 measurements, Zipf, hierarchical,
correlated; arXiv 2602.14687) what limits a trained autoencoder can be told apart: the same
dictionary is read by its own encoder, by the lasso and by orthogonal matching pursuit, each with
refinements, at an equal mean number of active latents, and so are the true atoms of the most
frequent features, whose rows are the ceiling of inference at that width, and dictionaries learned
by alternating minimization: at once, and in groups, a few atoms first and more from what they
leave, then all together with ``updates.deflated`` against atoms that are sums of features. Refined:
the recipe of the benchmark's best entries, a Matryoshka autoencoder that takes one step of ISTA.

Data: ``synthetic.synth_sae_bench``, version 2: a statistical twin of the published model, not the
same numbers. Width 4,096, L0 25. Thresholds and penalties are chosen on samples that are not
scored; dead latents count as F1 0, as in the published table.

Command: ``python -m experiments.synth_sae_bench`` (hours on 2 cores, most of them training;
finished parts and checkpoints are kept until the table is written; ``--quick`` 50 CPU seconds at
1,000 features). Of ``--samples 250000 500000`` the second budget goes on where the first ended;
groups read the first 250,000, before all atoms together read all, and "refined" begins anew, since
its schedules span the run.
Expected: docs/results/synth_sae_bench.txt has ``--methods learned TopK --samples 250000 500000``
(an hour): F1 with the true atoms .76 by OMP, .93 by the lasso, .95 refined; with learned atoms .57
by OMP, .68 by the lasso, after both budgets; with the autoencoder's at most .06 and .12.
docs/results/synth_sae_bench_groups.txt has ``--methods "in groups"`` with ``--samples 250000 524288
1048576`` (an hour): .78, .82, .84 by the lasso. docs/results/synth_sae_bench_autoencoders.txt has
``--methods BatchTopK Matryoshka refined --samples 1048576`` (an hour): .18, .17, .04 by the lasso.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import common
from experiments import synth_sae_bench_report as report
from sparsecode_jax import encoders, metrics, solvers, training
from sparsecode_jax.dictionary_learning import updates
from sparsecode_jax.encoders import JumpReluParams, LinearParams
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.io import Run

NAME = "synth_sae_bench"
DRAWS, CHOICE, SCORED = 1, 2, 3  # streams of samples: trained on, chosen by, reported


@dataclasses.dataclass(frozen=True)
class Config:
    """One twin and one budget; ``methods`` that are trained, besides the true atoms."""

    num_features: int = 16_384
    num_measurements: int = 768
    num_roots: int = 128
    width: int = 4096
    num_active: int = 25
    num_proposed: int = 40
    max_active: int = 112
    batch_size: int = 1024
    num_samples: tuple[int, ...] = (2_000_000,)  # trained on; each goes on where the last ended
    num_choice: int = 2048
    num_scored: int = 10_240
    prefixes: tuple[int, ...] = (128, 512, 2048, 4096)
    learning_rate: float = 3e-4
    num_refitted: int = 64  # codes per signal of the dictionary learner
    forgetting: float = 2.0
    groups_active: tuple[float, ...] = (8, 6, 7, 4)  # of the atoms between two prefixes
    groups_samples: int = 250_000  # each group reads at most so many
    groups_batch: int = 2048  # signals of one update of atoms in groups
    prior: float = 1.0  # signals per atom that the atoms of groups count as, when all are updated
    max_coherence: float = 0.2
    refined_prefixes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096)
    annealed_from: float = 60.0  # active latents of "refined" at first; at the end num_active
    step_size: float = 0.25
    tilt: float = 0.01
    num_warmup: int = 1000  # of its learning rate; a tenth of the steps if these are fewer
    methods: tuple[str, ...] = (
        "in groups", "learned", "TopK", "BatchTopK", "Matryoshka", "refined",
    )  # fmt: skip
    seeds: tuple[int, ...] = (0,)


QUICK = Config(
    num_features=1000, num_measurements=64, num_roots=10, width=128, num_active=5, num_proposed=10,
    max_active=80, batch_size=256, num_samples=(5_000,), num_choice=256, num_scored=256,
    prefixes=(32, 128), learning_rate=3e-3, num_refitted=16, groups_active=(3, 2),
    groups_samples=10_000, groups_batch=512, refined_prefixes=(32, 128), annealed_from=10.0,
    methods=("in groups", "learned", "Matryoshka", "refined"),
)  # fmt: skip


class Trained(NamedTuple):
    """A dictionary with its bias, and an encoder if it has one."""

    dictionary: np.ndarray
    bias: np.ndarray
    weight: np.ndarray | None = None
    encoder_bias: np.ndarray | None = None
    flops: float = 0.0
    step_size: float = 0.0  # of the step that the encoder takes after its first pass, if it does


# --- data ----------------------------------------------------------------------------------------


def twin(config: Config) -> sc.synthetic.FeatureModel:
    """Draw the model that all seeds and methods share."""
    return sc.synthetic.synth_sae_bench(
        jax.random.key(0), num_features=config.num_features,
        num_measurements=config.num_measurements, num_roots=config.num_roots,
    )  # fmt: skip


def samples(
    config: Config, model: sc.synthetic.FeatureModel, stream: int, count: int, seed: int = 0
) -> Iterator[sc.synthetic.FeatureSamples]:
    """Draw batches of a stream, always the same ones."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), stream), seed)
    for number in range(-(-count // config.batch_size)):
        batch = sc.synthetic.sample_features(
            jax.random.fold_in(key, number), model, num_samples=config.batch_size,
            max_active=config.max_active,
        )  # fmt: skip
        if dropped := int(batch.num_dropped):
            raise RuntimeError(
                f"{dropped} active features found no slot of {config.max_active}; none is expected "
                "to be left out. Raise max_active."
            )
        yield batch


# --- dictionaries --------------------------------------------------------------------------------

Stream = Callable[..., Iterator[jax.Array]]  # the same signals at each call, or the first ones


def true_atoms(config: Config, model: sc.synthetic.FeatureModel) -> Trained:
    """Return the atoms of the features that fire most often, in samples that are not scored."""
    counts = np.zeros(config.num_features)
    for batch in samples(config, model, CHOICE, 20 * config.num_choice, seed=1):
        used = np.asarray(batch.codes.values) > 0
        counts += np.bincount(np.asarray(batch.codes.indices)[used], minlength=len(counts))
    most = np.sort(np.argsort(-counts, kind="stable")[: config.width])
    assert model.bias is not None
    return Trained(np.asarray(model.dictionary)[most], np.asarray(model.bias))


def train(
    method: str, config: Config, model: sc.synthetic.FeatureModel, seed: int, budget: int, run: Run
) -> Trained:
    """Learn a dictionary from so many samples, going on from where a smaller budget ended."""
    ways = {"learned": _learned, "in groups": _in_groups, "refined": _stepping}
    learn = ways.get(method, _autoencoder)

    def signals(count: int = budget) -> Iterator[jax.Array]:
        return (batch.signals for batch in samples(config, model, DRAWS, count, seed))

    kept = run.file(f"training-{method}-{seed}-{budget}")
    least = config.groups_samples if method == "in groups" else 0  # with fewer, other groups
    before = [run.file(f"training-{method}-{seed}-{less}") for less in config.num_samples]
    sizes = zip(before, config.num_samples, strict=True)
    done = [file for file, less in sizes if least <= less < budget and method != "refined"]
    if not kept.exists() and done and done[-1].exists():
        shutil.copyfile(done[-1], kept)
    return learn(method, config, signals, seed, budget, run, kept, f"{method} {seed}, {budget:,}")


def _learned(
    method: str, config: Config, signals: Stream, seed: int, budget: int, run: Run,
    kept: pathlib.Path, label: str,
) -> Trained:  # fmt: skip
    """Alternate codes of the lasso, fitted anew on their supports, with updates of the atoms."""
    found = sc.dictionary_learning.learn_dictionary_online(
        jax.random.key(seed), signals(), num_atoms=config.width, target_l0=config.num_active,
        refit=config.num_refitted, bias="mean",
        solver=solvers.working_set((config.num_refitted,)), num_steps=2,
        update=updates.block_coordinate(forgetting=config.forgetting), checkpoint=kept,
        progress=label,
    )  # fmt: skip
    assert found.bias is not None
    return Trained(np.asarray(found.dictionary), np.asarray(found.bias), flops=float(found.flops))


def _in_groups(
    method: str, config: Config, signals: Stream, seed: int, budget: int, run: Run,
    kept: pathlib.Path, label: str,
) -> Trained:  # fmt: skip
    """Learn the first atoms alone, then more from what they leave, at last all of them together.

    Where a parent hardly fires without one of its children, the sum of both is the sparser atom. A
    few atoms cannot spend one on each child: they become the parents, which the next ones lack; and
    updates that deflate keep it so. Groups read the first samples; more of them serve all together.
    """
    few = min(budget, config.groups_samples)
    if config.groups_batch % config.batch_size or trained_on(config, method, few) == 0:
        raise ValueError(
            f"groups_batch is {config.groups_batch}; a multiple of batch_size "
            f"({config.batch_size}), and at most as many as the {few} samples, is expected."
        )
    first = itertools.islice(signals(), -(-config.width // config.batch_size))
    bias = jnp.mean(jnp.concatenate(list(first)), axis=0)
    sizes = np.diff(config.prefixes, prepend=0).tolist()
    groups: list[tuple[sc.dictionaries.Prepared, jax.Array, int]] = []
    flops = 0.0

    def joined(count: int) -> Iterator[jax.Array]:
        """Join whole numbers of batches: a larger budget has the same ones, and more."""
        stream, size = signals(count), config.groups_batch // config.batch_size
        while len(several := list(itertools.islice(stream, size))) == size:
            yield jnp.concatenate(several) - bias

    def left() -> Iterator[jax.Array]:
        for rest in joined(few):
            for group in groups:
                rest = _left(rest, *group)
            yield rest

    def learn(number: int, room: int) -> dict[str, Any]:
        found = sc.dictionary_learning.learn_dictionary_online(
            jax.random.fold_in(jax.random.key(seed), number), left(), num_atoms=sizes[number],
            target_l0=config.groups_active[number], refit=room,
            solver=solvers.working_set((room,)), num_steps=2,
            update=updates.block_coordinate(forgetting=config.forgetting),
            checkpoint=run.file(f"training-{method}-{seed}-{few}-group-{number}"),
            progress=f"{label}, group {number + 1} of {len(sizes)}",
        )  # fmt: skip
        one = jax.ShapeDtypeStruct((config.groups_batch, config.num_measurements), np.float32)
        before = sum(
            eval_flops(functools.partial(_left, room=room), one, atoms, penalty).total()
            for atoms, penalty, room in groups
        )
        flops = float(found.flops) + before * (found.num_signals / config.groups_batch)
        return {"dictionary": found.dictionary, "penalty": found.penalty, "flops": flops}

    for number, (size, count) in enumerate(zip(sizes, config.groups_active, strict=True)):
        room = min(size, max(16, min(config.num_refitted, int(4 * count))))
        part = f"{method}-{seed}-{few}-group-{number}"
        found = run.once(part, functools.partial(learn, number, room))
        flops += float(found["flops"])
        atoms = sc.dictionaries.prepare(found["dictionary"])
        flops += eval_flops(sc.dictionaries.prepare, atoms.dictionary).total()
        groups.append((atoms, jnp.asarray(found["penalty"]), room))
    whole = sc.dictionary_learning.learn_dictionary_online(
        jax.random.fold_in(jax.random.key(seed), len(sizes)), joined(budget),
        num_atoms=config.width, penalty=groups[-1][1], target_l0=config.num_active,
        refit=config.num_refitted, solver=solvers.working_set((config.num_refitted,)), num_steps=2,
        update=updates.deflated(
            updates.block_coordinate(
                forgetting=config.forgetting, prior=config.prior * config.width
            ),
            max_coherence=config.max_coherence,
        ),
        dictionary0=jnp.concatenate([atoms.dictionary for atoms, _, _ in groups]),
        checkpoint=kept, progress=f"{label}, all",
    )  # fmt: skip
    flops += float(whole.flops)
    return Trained(np.asarray(whole.dictionary), np.asarray(bias), flops=flops)


@functools.partial(jax.jit, static_argnames="room")
def _left(
    signals: jax.Array, atoms: sc.dictionaries.Prepared, penalty: jax.Array, room: int
) -> jax.Array:
    """Return what the atoms leave: lasso codes, fitted anew on their supports."""
    solver = solvers.working_set((room,))
    codes = sc.sparse_encode(signals, atoms, penalty, solver=solver, num_steps=2)
    codes = solvers.refit(slots(codes, room), signals, atoms)
    return signals - sc.dictionaries.reconstruct(codes, atoms.dictionary)


def _autoencoder(
    method: str, config: Config, signals: Stream, seed: int, budget: int, run: Run,
    kept: pathlib.Path, label: str,
) -> Trained:  # fmt: skip
    """Train an autoencoder as SAELens does by default: tied start, Adam, no schedule."""
    size = config.num_measurements, config.width
    family = encoders.top_k if method == "TopK" else encoders.batch_top_k
    loss: Any = training.losses.squared_error
    if method == "Matryoshka":
        loss = training.losses.matryoshka(config.prefixes)
    atoms = _start(config, seed)
    params = LinearParams(atoms, jnp.zeros(config.width))
    encoder, recipe = family(*size, num_active=config.num_active), training.Recipe(loss=loss)
    fit = _fit(config, encoder, params, recipe, atoms, signals, seed, kept, label)
    return _trained(fit, fit.params.encoder)


def _stepping(
    method: str, config: Config, signals: Stream, seed: int, budget: int, run: Run,
    kept: pathlib.Path, label: str,
) -> Trained:  # fmt: skip
    """Train as the benchmark's best entries do: schedules of rate and K span the whole run."""
    losses, schedules = training.losses, training.schedules
    steps = -(-budget // config.batch_size)
    rate = schedules.linear_decay(
        steps, num_warmup=max(1, min(config.num_warmup, steps // 10)), num_decay=max(1, steps // 3)
    )
    recipe = training.Recipe(
        loss=losses.matryoshka(
            config.refined_prefixes, losses.tilted(config.tilt), detached=True, by_frequency=True
        ),
        optimizer=schedules.scheduled(optax.adam, rate), frequency_decay=0.99,
        active_schedule=schedules.linear(steps, first=config.annealed_from / config.num_active),
    )  # fmt: skip
    inner = encoders.batch_top_k(config.num_measurements, config.width, num_active=None)
    encoder = encoders.refined(inner, step_size=config.step_size)
    atoms = _start(config, seed)
    own = encoders.TopKParams(atoms, jnp.zeros(config.width), jnp.float32(config.num_active))
    params = encoders.RefinedParams(atoms, jnp.zeros(config.num_measurements), own)
    fit = _fit(config, encoder, params, recipe, atoms, signals, seed, kept, label)
    return _trained(fit, fit.params.encoder.encoder, config.step_size)


def _start(config: Config, seed: int) -> jax.Array:
    """Draw the atoms that an autoencoder begins with, in its encoder and its decoder."""
    return sc.dictionaries.random(
        jax.random.key(100 + seed), num_atoms=config.width, num_measurements=config.num_measurements
    )


def _fit(
    config: Config, encoder: sc.Encoder, params: Any, recipe: training.Recipe, atoms: jax.Array,
    signals: Stream, seed: int, kept: pathlib.Path, label: str,
) -> training.Fit:  # fmt: skip
    bias = jnp.zeros(config.num_measurements)
    start = training.Model(encoder=params, dictionary=atoms, bias=bias)
    return training.fit(
        jax.random.key(seed), encoder, signals(), recipe=recipe, model=start,
        learning_rate=config.learning_rate, checkpoint=kept, progress=label,
    )  # fmt: skip


def _trained(fit: training.Fit, own: Any, step_size: float = 0.0) -> Trained:
    return Trained(
        np.asarray(fit.params.dictionary), np.asarray(fit.params.bias), np.asarray(own.weight),
        np.asarray(own.bias), float(fit.flops or 0), step_size,
    )  # fmt: skip


# --- inference -----------------------------------------------------------------------------------

Encode = Callable[[jax.Array], sc.SparseCodes]


def slots(codes: jax.Array, room: int) -> sc.SparseCodes:
    """Keep the largest codes of each signal, by value and place."""
    return sc.SparseCodes.from_dense(codes, num_active=min(room, codes.shape[-1]))


def own(params: Trained, threshold: float, room: int) -> Encode:
    """Read codes by the autoencoder's encoder, with one threshold for all latents."""
    width, num_measurements = params.dictionary.shape
    encoder = encoders.jump_relu(num_measurements, width)
    values = JumpReluParams(
        jnp.asarray(params.weight), jnp.asarray(params.encoder_bias),
        jnp.full(width, jnp.log(threshold)),
    )  # fmt: skip
    return lambda signals: slots(encoder.apply(values, signals), room)


def own_step(params: Trained, count: float, room: int) -> Encode:
    """Read codes by the encoder and its step, the largest of a batch, so many on average."""
    width, num_measurements = params.dictionary.shape
    inner = encoders.batch_top_k(num_measurements, width, num_active=None)
    encoder = encoders.refined(inner, step_size=params.step_size)
    dictionary, bias, weight, encoder_bias = map(jnp.asarray, params[:4])
    values = encoders.RefinedParams(
        dictionary, bias, encoders.TopKParams(weight, encoder_bias, jnp.float32(count))
    )
    return lambda signals: slots(encoder.apply(values, signals), room)


def bisect(count: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return where a falling count of active codes is nearest to the target, in log scale."""
    for _ in range(14):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if count(middle) > target else (low, middle)
    return float(np.sqrt(low * high))


def readers(params: Trained, signals: jax.Array, config: Config) -> dict[str, Encode]:
    """Return ways to read codes at the same mean number of active ones, chosen on given signals.

    ``signals`` are less the bias. Each proposes more codes than asked for, and leave-one-out keeps
    as many as asked for; or it gives as many by itself.
    """
    atoms, room = jnp.asarray(params.dictionary), 4 * config.num_proposed
    target, proposed = config.num_active, config.num_proposed
    proposals: dict[str, tuple[Encode, Encode]] = {}
    if params.weight is not None:
        centered = signals + jnp.asarray(params.bias)  # the encoder knows signals as they are
        latents = jax.nn.relu(centered @ params.weight.T + jnp.asarray(params.encoder_bias))

        def at(count: float) -> Encode:
            if params.step_size:
                read = own_step(params, count, room)
                return lambda x: read(x + jnp.asarray(params.bias))
            threshold = bisect(
                lambda t: float(jnp.mean(jnp.sum(latents > t, axis=1))), count, 1e-4, 1e3
            )
            read = own(params, threshold, room)
            return lambda x: read(x + jnp.asarray(params.bias))

        proposals["own encoder"] = at(target), at(proposed)

    def pursuit(count: int) -> Encode:
        build = solvers.orthogonal_matching_pursuit
        return lambda x: slots(sc.sparse_encode(x, atoms, num_active=count, solver=build), count)

    def lasso(count: float) -> Encode:
        solver = solvers.working_set((room,))

        def codes(x: jax.Array, penalty: jax.Array | float) -> jax.Array:
            return sc.sparse_encode(x, atoms, penalty, solver=solver, num_steps=2)

        few = signals[:256]
        penalty = bisect(
            lambda p: float(metrics.l0(codes(few, p))), count, 1e-2, float(jnp.max(few @ atoms.T))
        )
        return lambda x: slots(codes(x, penalty), room)

    proposals["OMP"] = pursuit(target), pursuit(proposed)
    proposals["lasso"] = lasso(target), lasso(proposed)
    found: dict[str, Encode] = {}
    for name, (enough, more) in proposals.items():
        found[name] = enough
        if name != "OMP":  # whose codes are refitted already
            found[f"{name}, refit"] = functools.partial(_refit, enough, atoms)
        codes = more(signals)
        threshold = bisect(functools.partial(_kept, codes, signals, atoms), target, 1e-3, 1e2)
        found[f"{name}, leave-one-out, refit"] = functools.partial(_refined, more, atoms, threshold)
    return found


def _refit(read: Encode, atoms: jax.Array, signals: jax.Array) -> sc.SparseCodes:
    return solvers.refit(read(signals), signals, atoms)


def _kept(codes: sc.SparseCodes, signals: jax.Array, atoms: jax.Array, threshold: float) -> float:
    return float(metrics.l0(solvers.leave_one_out(codes, signals, atoms, threshold=threshold)))


def _refined(
    read: Encode, atoms: jax.Array, threshold: float, signals: jax.Array
) -> sc.SparseCodes:
    kept = solvers.leave_one_out(read(signals), signals, atoms, threshold=threshold)
    return solvers.refit(kept, signals, atoms)


def score(
    params: Trained, read: Encode, config: Config, model: sc.synthetic.FeatureModel
) -> dict[str, Any]:
    """Score codes of samples that nothing was chosen on; count FLOPs per sample."""
    atoms, bias = jnp.asarray(params.dictionary), jnp.asarray(params.bias)

    def batches() -> Iterator[tuple]:
        for batch in samples(config, model, SCORED, config.num_scored):
            codes = read(batch.signals - bias)
            yield (
                batch.signals,
                batch.codes,
                codes,
                sc.dictionaries.reconstruct(codes, atoms) + bias,
            )

    started = time.monotonic()
    found = metrics.score_features(
        batches(), true_dictionary=model.dictionary, dictionary=params.dictionary
    )
    one, two = (
        eval_flops(read, jax.ShapeDtypeStruct((size, config.num_measurements), np.float32)).total()
        for size in (1, 2)
    )
    scores = {k: v for k, v in found._asdict().items() if np.ndim(v) == 0}
    means = {k: float(np.mean(getattr(found, k))) for k in ("f1", "precision", "recall")}
    seconds = time.monotonic() - started
    return {**scores, **means, "flops": two - one, "once": 2 * one - two, "seconds": seconds}


# --- command --------------------------------------------------------------------------------------


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, write results and table."""
    rows: dict[report.Case, dict[str, float]] = {}
    # What one method gave is kept for a run of others.
    same = dataclasses.replace(config, methods=(), seeds=(), num_samples=())
    with common.stages(out, NAME, same) as run:
        model = twin(config)
        atoms = run.once("atoms", lambda: {"dictionary": model.dictionary})["dictionary"]
        model = dataclasses.replace(model, dictionary=jnp.asarray(atoms))
        choice = jnp.concatenate(
            [batch.signals for batch in samples(config, model, CHOICE, config.num_choice)]
        )
        trained = itertools.product(config.methods, config.seeds, config.num_samples)
        for method, seed, budget in [("true atoms", 0, 0), *trained]:
            find = functools.partial(_dictionary, method, config, model, seed, budget, run)
            name = f"{method}-{seed}-{budget}"
            params = Trained(
                **{k: v if v.ndim else float(v) for k, v in run.once(name, find).items()}
            )
            for way, read in readers(params, choice - jnp.asarray(params.bias), config).items():
                found = functools.partial(score, params, read, config, model)
                numbers = {k: float(v) for k, v in run.once(f"{name}-{way}", found).items()}
                case = report.Case(method, seed, budget, way)
                whole = trained_on(config, method, budget)
                rows[case] = {**numbers, "trained_on": whole, "training_flops": params.flops}
                print(f"{case.label()}: F1 {numbers['f1']:.4f}", flush=True)
                text = report.write(config, rows, out / NAME)  # what there is, after each row
            report.draw(rows, out / f"{NAME}.png")
        print("\n" + text)


def trained_on(config: Config, method: str, budget: int) -> int:
    """Return how many samples a budget stands for: those of whole batches."""
    whole = -(-budget // config.batch_size) * config.batch_size
    several = config.groups_batch if method == "in groups" else config.batch_size
    return whole // several * several


def _dictionary(
    method: str, config: Config, model: sc.synthetic.FeatureModel, seed: int, budget: int, run: Run
) -> dict[str, Any]:
    if method == "true atoms":
        found = true_atoms(config, model)
    else:
        found = train(method, config, model, seed, budget, run)
    return {k: v for k, v in found._asdict().items() if v is not None}


if __name__ == "__main__":
    options = common.parser(__doc__, compiles=True)
    options.add_argument(
        "--samples", type=int, nargs="+", help="samples to train on, from few to many (2,000,000)"
    )
    options.add_argument(
        "--methods", nargs="+", choices=Config.methods, help="which to train (all)"
    )
    options.add_argument("--seeds", type=int, nargs="+", help="training seeds (0)")
    arguments = options.parse_args()
    chosen = QUICK if arguments.quick else Config()
    if arguments.samples is not None:
        chosen = dataclasses.replace(chosen, num_samples=tuple(sorted(arguments.samples)))
    if arguments.seeds is not None:
        chosen = dataclasses.replace(chosen, seeds=tuple(arguments.seeds))
    if arguments.methods is not None:
        chosen = dataclasses.replace(chosen, methods=tuple(arguments.methods))
    main(chosen, arguments.out)
