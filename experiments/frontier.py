"""The curves of the main job: every method's MCC at every amount of work.

A curve is (work, MCC). Work is training plus inference for the 1,024 test signals, in both FLOP
accounts; MCC has a last axis of runs: five initial weights on the authors' one data set, or five
fresh data sets, or one where the method is deterministic.

A solver has a penalty and a number of steps to choose, SAE + FISTA also the point of training to
start from. Its curve runs along the operating points that are best for their work on the training
half, and reports them on the test half; on fresh data the same points are used again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import accounts, authors, common, settings
from experiments.accounts import Flops
from experiments.curves import (
    GREEDY,
    Curve,
    Problems,
    curve,
    efficient,
    greedy,
    select,
    solver_steps,
    stopped,
    trajectories,
)
from experiments.settings import RUNS
from sparsecode_jax.training import Model, Recipe, losses

RESTART = sc.solvers.fista(restart=sc.solvers.gradient_restart)
SOLVERS = {
    "ista": sc.solvers.ista(),
    "fista": sc.solvers.fista(),
    "fista_restart": RESTART,
    "sparsa": sc.solvers.sparsa(),
}
RECORD_EVERY = {"ista": 10, "fista": 1, "fista_restart": 1, "sparsa": 1}
HIDDEN: dict[str, tuple[int, ...]] = {"sae": (), "mlp32": (32,), "mlp256": (256,)}
FRESH_SEEDS = (1, 2, 3, 4, 5)  # data sets on which nothing was chosen
WIDE = "mlp256"  # trained in the background: it takes as long as all else


def train(config: Any, stages: sc.io.Run, setting: str, method: str, run: int | None = None) -> Any:
    """Train a method and record its parameters at the configured steps; one run, or all."""
    last = config.known_steps if setting == "known_dictionary" else config.unknown_steps
    steps = [s for s in config.record_steps if s <= last]
    return settings.train(
        setting,
        HIDDEN.get(method, method),
        num_steps=steps[-1],
        record_steps=steps,
        checkpoint=stages.file(f"{setting}-{method}-{run}"),
        progress=f"{setting.replace('_', ' ')}, {method}" + ("" if run is None else f", run {run}"),
        run=run,
    )


def train_wide(config: Any, stages: sc.io.Run) -> dict[str, Callable[[], Any]]:
    """Train the widest encoder of both settings in the background, run after run.

    One run's activations fit the cache, five do not: in turn they take half the time.
    """

    def runs(setting: str) -> Any:
        fits = [train(config, stages, setting, WIDE, run) for run in range(RUNS)]
        records = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *[f.records for f in fits])
        return fits[0]._replace(records=records)

    known = common.in_background(lambda: runs("known_dictionary"))

    def after() -> Any:
        known()
        return runs("unknown_dictionary")

    return {"known_dictionary": known, "unknown_dictionary": common.in_background(after)}


def encoder_curve(setting: str, method: str, steps: Sequence[int], mcc: Any) -> Curve:
    """Pack an encoder's MCC at numbers of training updates."""
    hidden = HIDDEN[method]
    step, encode = accounts.training_step(setting, hidden), accounts.encoding(setting, hidden)
    return curve(steps, [step.times(s).plus(encode) for s in steps], mcc)


def _one(signals: Any, codes: Any, dictionary: Any) -> Problems:
    return Problems(signals[None], codes[None], dictionary[None])


def _fresh() -> tuple[Problems, Problems]:
    """Return the training and test halves of the fresh data sets."""
    sets = [authors.data(seed) for seed in FRESH_SEEDS]
    train = Problems(*(np.stack([getattr(s, f) for s in sets]) for f in _FIELDS["train"]))
    return train, Problems(*(np.stack([getattr(s, f) for s in sets]) for f in _FIELDS["test"]))


_FIELDS = {half: (f"{half}_signals", f"{half}_codes", "dictionary") for half in ("train", "test")}


def known_dictionary(config: Any, stages: sc.io.Run, wide: Callable[[], Any]) -> dict[str, Curve]:
    """Return the curves of the known-dictionary panel; ``fresh_*`` are on the fresh data sets."""
    setting = "known_dictionary"
    problem = settings.data(setting)
    train_set = _one(problem.train_signals, problem.train_codes, problem.dictionary)
    test_set = _one(problem.test_signals, problem.test_codes, problem.dictionary)
    fresh_train, fresh_test = _fresh()
    steps = [s for s in config.record_steps if s <= config.known_steps]
    curves: dict[str, Curve] = {}
    for method in ("sae", "mlp32"):
        weights = train(config, stages, setting, method).records.encoder
        mcc = settings.encoder_scores(setting, HIDDEN[method], weights, sc.metrics.mcc)
        curves[method] = encoder_curve(setting, method, steps, mcc)
        if method == "sae":
            sae = weights
    fresh_sae = _train_fresh(fresh_train, steps, stages)
    apply = settings.encoder(setting, ()).apply
    codes = jax.vmap(jax.vmap(apply), (0, None))(fresh_sae, fresh_test.signals)
    truth = np.broadcast_to(fresh_test.codes, codes.shape)
    curves["fresh_sae"] = encoder_curve(setting, "sae", steps, sc.metrics.mcc(truth, codes))

    solver = settings.paper_solver()
    ito_steps = solver_steps(config.ito_steps, 100)
    work = [accounts.inference(solver, s) for s in ito_steps]
    for name, problems in (("ito", test_set), ("fresh_ito", fresh_test)):

        def ito(problems: Problems = problems) -> dict[str, Any]:
            penalty = jnp.full((1,), settings.LASSO_PENALTY)
            options = {"num_steps": config.ito_steps, "record_every": 100}
            rate = jnp.float32(1e-3)
            return {"mcc": trajectories(problems, penalty, rate, solver=solver, **options)[0].T}

        print(f"known dictionary, {name}: {config.ito_steps:,} Adam steps ...", flush=True)
        curves[name] = curve(
            ito_steps, work, stages.once(f"known-{name}", ito)["mcc"], settings.LASSO_PENALTY
        )

    grid = jnp.asarray(config.penalties)
    for name, solver in SOLVERS.items():
        print(f"known dictionary, {name}: {len(grid)} penalties ...", flush=True)
        every = RECORD_EVERY[name]
        counts = solver_steps(every * config.solver_steps, every)
        run = functools.partial(
            trajectories, solver=solver, num_steps=counts[-1], record_every=every
        )
        options = [(penalty, step) for penalty in config.penalties for step in counts]
        work = [accounts.inference(solver, step) for _, step in options]
        on_train = np.asarray(run(train_set, grid)).ravel()
        chosen = efficient(np.asarray([w.measured for w in work]), on_train)
        for prefix, problems in (("", test_set), ("fresh_", fresh_test)):
            mcc = np.moveaxis(np.asarray(run(problems, grid)), 1, -1)
            curves[prefix + name] = select(chosen, options, work, mcc)

    for name in GREEDY:
        print(f"known dictionary, {name} ...", flush=True)
        tests = {"": test_set, "fresh_": fresh_test}
        curves |= greedy(name, train_set, tests, most=config.most_atoms)
        if name in ("ols", "omp"):
            curves |= stopped(name, train_set, tests, most=config.most_atoms)

    # SAE + true inference-time optimization: FISTA with restart from the codes of the SAE.
    print("known dictionary, SAE + FISTA ...", flush=True)
    counts = solver_steps(config.warm_steps, 1)
    points = [
        (record, penalty, step)
        for record in range(len(steps))
        for penalty in config.penalties
        for step in counts
    ]
    train_step, encode = accounts.training_step(setting, ()), accounts.encoding(setting, ())
    work = [
        train_step.times(steps[record])
        .plus(encode)
        .plus(accounts.inference(RESTART, step, warm=True))
        for record, _, step in points
    ]
    scores = {}
    for half, problems in (("train", train_set), ("test", test_set)):
        repeated = Problems(*(np.repeat(x, RUNS, axis=0) for x in problems))
        scores[half] = np.stack(
            [
                _warm(repeated, jax.tree.map(lambda x, r=r: x[r], sae), grid, counts[-1])
                for r in range(len(steps))
            ]
        )  # (records, penalties, runs, steps)
    on_train = scores["train"].mean(axis=2)
    total = np.asarray([w.measured for w in work]).reshape(on_train.shape)
    mcc = np.moveaxis(scores["test"], 2, -1)
    options = [(penalty, step) for _, penalty, step in points]
    curves["sae_fista"] = select(efficient(total, on_train), options, work, mcc)
    # The efficient start is the SAE before training, which costs too much for 1,024 signals; so
    # also start from the SAE that scores best on the training half.
    codes = jax.vmap(jax.vmap(apply, (0, None)), (0, None))(sae, problem.train_signals)
    best = int(np.argmax(settings.run_scores(sc.metrics.mcc, problem.train_codes, codes).mean(1)))
    offset = best * on_train[0].size
    chosen = offset + efficient(total[best], on_train[best])
    curves["trained_sae_fista"] = select(chosen, options, work, mcc)

    mcc = settings.encoder_scores(setting, HIDDEN[WIDE], wide().records.encoder, sc.metrics.mcc)
    curves[WIDE] = encoder_curve(setting, WIDE, steps, mcc)
    return curves


def _warm(problems: Problems, weights: Any, penalties: Any, num_steps: int) -> np.ndarray:
    apply = settings.encoder("known_dictionary", ()).apply
    codes0 = jax.vmap(apply)(weights, problems.signals)
    return np.asarray(
        trajectories(problems, penalties, None, codes0, solver=RESTART, num_steps=num_steps)
    )


def _train_fresh(train: Problems, steps: list[int], stages: sc.io.Run) -> Any:
    fitted = sc.training.fit(
        jax.random.split(jax.random.key(1), len(FRESH_SEEDS)),
        settings.encoder("known_dictionary", ()),
        train.signals,
        model=Model(fixed_dictionary=train.dictionaries),
        recipe=Recipe(loss=losses.paper),
        num_steps=steps[-1],
        record=_encoder,
        record_steps=steps,
        checkpoint=stages.file("known-fresh-sae"),
        progress="known dictionary, sae on fresh data",
    )
    return fitted.records


def _encoder(params: sc.training.Autoencoder) -> Any:
    return params.encoder


def unknown_dictionary(
    config: Any, stages: sc.io.Run, penalties: dict[str, float], wide: Callable[[], Any]
) -> dict[str, Curve]:
    """Return the curves of the unknown-dictionary panel.

    Nothing is chosen by MCC here, since the truth is unknown: solvers run ``dictionary_steps``
    steps with the penalties chosen on the known dictionary's training signals. ``*_dictionary``
    are curves of the (Pearson) dictionary MCC.
    """
    setting = "unknown_dictionary"
    problem = settings.data(setting)
    steps = [s for s in config.record_steps if s <= config.unknown_steps]
    curves: dict[str, Curve] = {}
    dictionaries: dict[str, np.ndarray] = {}
    trained: dict[str, list[Flops]] = {}

    def add(method: str, fitted: Any) -> Any:
        step = accounts.training_step(setting, HIDDEN.get(method, method))
        trained[method] = [step.times(s) for s in steps]
        weights = fitted.records.encoder if method in HIDDEN else None
        if method in HIDDEN:
            mcc = settings.encoder_scores(setting, HIDDEN[method], weights, sc.metrics.mcc)
            curves[method] = encoder_curve(setting, method, steps, mcc)
        found = fitted.records.dictionary if method in HIDDEN else fitted.records
        dictionaries[method] = found
        metric = sc.metrics.pearson_dictionary_mcc
        scores = settings.run_scores(metric, problem.dictionary, found)
        curves[f"{method}_dictionary"] = curve(steps, trained[method], scores)
        return weights

    sae = add("sae", train(config, stages, setting, "sae"))
    for method in ("mlp32", "sparse_coding"):
        add(method, train(config, stages, setting, method))

    for source, name in (("sae", "sae_ito"), ("sparse_coding", "sparse_coding")):
        mcc = settings.optimized_scores(
            stages, name, dictionaries[source], num_steps=config.test_steps
        )
        inference = accounts.inference(settings.paper_solver(), config.test_steps)
        work = [w.plus(inference) for w in trained[source]]
        curves[name] = curve(steps, work, mcc, settings.LASSO_PENALTY)

    encode = accounts.encoding(setting, ())
    apply = settings.encoder(setting, ()).apply
    warm = np.asarray(jax.vmap(jax.vmap(apply, (0, None)), (0, None))(sae, problem.test_signals))
    jobs = [(source, name, None) for source in ("sae", "sparse_coding") for name in SOLVERS]
    for source, name, codes0 in [*jobs, ("sae", "fista_restart", warm)]:
        label = f"{name}_on_{source}" if codes0 is None else "sae_fista"
        print(f"unknown dictionary, {label} ...", flush=True)
        count = config.dictionary_steps
        ends = []
        for record, stack in enumerate(dictionaries[source]):
            problems = Problems(
                np.repeat(problem.test_signals[None], RUNS, axis=0),
                np.repeat(problem.test_codes[None], RUNS, axis=0),
                stack,
            )
            start = None if codes0 is None else codes0[record]
            found = trajectories(
                problems, jnp.asarray([penalties[name]]), None, start,
                solver=SOLVERS[name], num_steps=count, record_every=count,
            )  # fmt: skip
            ends.append(np.asarray(found)[0, :, 0])
        inference = accounts.inference(SOLVERS[name], count, warm=codes0 is not None)
        if codes0 is not None:
            inference = inference.plus(encode)
        work = [w.plus(inference) for w in trained[source]]
        curves[label] = curve(steps, work, ends, penalties[name])
    add(WIDE, wide())
    return curves
