"""Curves of methods that came after the paper's: LISTA, later SAEs, alternating minimization.

None has a formula in the paper, so its measured FLOPs stand in both accounts. Penalties and rates
of the SAEs are those that ``experiments.decomposition`` chooses on other data sets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import accounts, authors, settings, starts
from experiments.accounts import Flops
from experiments.crossing import SAES, encode, encoder_flops, keys, train_sae
from experiments.curves import Curve, Problems, curve, efficient, select, trajectories
from experiments.settings import RUNS, SAMPLES, M, N
from sparsecode_jax.training import Autoencoder, Model, Recipe, losses

CHOSEN: dict[str, dict[str, float]] = {  # by experiments.decomposition, on its tuning data sets
    "TopK SAE": {"learning_rate": 0.01},
    "JumpReLU SAE": {"penalty": 0.03, "learning_rate": 0.01},
    "gated SAE": {"penalty": 0.3, "learning_rate": 0.03},
}
METHODS = {"TopK SAE": "topk_sae", "JumpReLU SAE": "jump_relu_sae", "gated SAE": "gated_sae"}


def _identity(params: Autoencoder) -> Autoencoder:
    return params


def _work(fitted: sc.training.Fit, encoder: sc.Encoder) -> list[Flops]:
    """Charge training up to each record, and one pass over the test signals."""
    assert fitted.record_flops is not None
    one_pass = SAMPLES * encoder_flops(encoder)
    totals = [round(flops + one_pass) for flops in fitted.record_flops]
    return [Flops(total, total) for total in totals]


def _scores(apply: Callable, records: Any, data: authors.AuthorsData, half: str) -> np.ndarray:
    """Score the codes of recorded encoders (records, runs) on one half: the same shape."""
    signals, truth = getattr(data, f"{half}_signals"), getattr(data, f"{half}_codes")
    count = len(jax.tree.leaves(records)[0])
    runs = jax.tree.leaves(records)[0].shape[1]
    repeated = np.broadcast_to(signals, (runs, *signals.shape))
    scores = []
    for i in range(count):
        codes = encode(apply, jax.tree.map(lambda x, i=i: x[i], records), repeated)
        scores.append(settings.run_scores(sc.metrics.mcc, truth, codes))
    return np.stack(scores)


def lista_fit(config: Any, stages: sc.io.Run, num_layers: int) -> Any:
    """Train LISTA on the lasso of the known dictionary, from ISTA: a lane a penalty and run."""
    problem = settings.data("known_dictionary")
    encoder = sc.encoders.lista(M, N, num_layers=num_layers)
    penalty = np.repeat(np.float32(config.lista_penalties), RUNS)
    lanes = jax.random.split(jax.random.key(0), len(penalty))
    params = jax.vmap(starts.as_ista, (0, None, 0))(
        jax.vmap(encoder.init)(lanes), jnp.asarray(problem.dictionary), penalty
    )
    return encoder, sc.training.fit(
        lanes, encoder, problem.train_signals,
        model=Model(params, fixed_dictionary=problem.dictionary),
        recipe=Recipe(losses.lasso, batch_size=128), penalty=penalty, learning_rate=3e-3,
        num_steps=config.lista_steps[-1], record=_identity, record_steps=config.lista_steps,
        checkpoint=stages.file(f"known-lista-{num_layers}"),
        progress=f"known dictionary, LISTA of {num_layers} layers",
    )  # fmt: skip


def known_dictionary(config: Any, stages: sc.io.Run) -> dict[str, Curve]:
    """Return the curves of LISTA, five orders of its batches, and of a TopK SAE, full batch.

    Both start at the known dictionary, LISTA as ISTA, so no weights are drawn. Layers, penalty and
    training of LISTA are chosen on the training half, as a solver's steps are.
    """
    problem = settings.data("known_dictionary")
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    work: list[Flops] = []
    options: list[tuple[float, int]] = []
    steps = config.lista_steps
    for layers in config.lista_layers:
        encoder, fitted = lista_fit(config, stages, layers)
        for half, scores in (("train", train), ("test", test)):
            mcc = _scores(encoder.apply, fitted.records.encoder, problem, half)
            scores.append(mcc.reshape(len(steps), -1, RUNS).swapaxes(0, 1).reshape(-1, RUNS))
        for penalty in config.lista_penalties:
            work += _work(fitted, encoder)
            options += [(penalty, step) for step in steps]
    measured = np.asarray([w.measured for w in work])
    chosen = efficient(measured, np.concatenate(train).mean(axis=1))
    curves = {"lista": select(chosen, options, work, np.concatenate(test))}
    sae = SAES["TopK SAE"]
    record = [s for s in config.record_steps if s <= config.known_steps]
    fitted = train_sae(
        "TopK SAE", problem.train_signals[None], num_steps=record[-1],
        fixed=problem.dictionary[None], record=_identity, record_steps=record,
        checkpoint=stages.file("known-topk-sae"), **CHOSEN["TopK SAE"],
    )  # fmt: skip
    mcc = _scores(sae.encoder.apply, fitted.records.encoder, problem, "test")
    work = _work(fitted, sae.encoder)
    return curves | {"topk_sae": curve(record, work, mcc)}


def unknown_dictionary(config: Any, stages: sc.io.Run, penalty: float) -> dict[str, Curve]:
    """Return the curves of later SAEs and of alternating minimization, five runs each.

    Args:
      config: of the main job.
      stages: of the main job.
      penalty: of FISTA with restart, for the codes in dictionaries of alternating minimization.
    """
    problem = settings.data("unknown_dictionary")
    curves: dict[str, Curve] = {}
    record = tuple(s for s in config.record_steps if s <= config.unknown_steps)
    for name in config.later_saes:
        method = METHODS[name]
        fitted = train_sae(
            name, np.stack([problem.train_signals] * RUNS), num_steps=record[-1], record=_identity,
            record_steps=record, checkpoint=stages.file(f"unknown-{method}"), **CHOSEN[name],
        )  # fmt: skip
        apply = SAES[name].encoder.apply
        mcc = _scores(apply, fitted.records.encoder, problem, "test")
        work = _work(fitted, SAES[name].encoder)
        curves[method] = curve(record, work, mcc)
        atoms = _atom_scores(problem, fitted.records.dictionary)
        curves[f"{method}_dictionary"] = curve(record, work, atoms)
    return curves | _alternations(config, stages, penalty, problem)


def _atom_scores(problem: authors.AuthorsData, dictionaries: Any) -> np.ndarray:
    return settings.run_scores(
        sc.metrics.pearson_dictionary_mcc, problem.dictionary, np.asarray(dictionaries)
    )


def _alternations(
    config: Any, stages: sc.io.Run, penalty: float, problem: authors.AuthorsData
) -> dict[str, Curve]:
    """Alternate within growing budgets: (restarts, rounds, hops)."""
    restart = sc.solvers.fista(restart=sc.solvers.gradient_restart)
    inference = accounts.inference(restart, config.dictionary_steps).measured
    found = []
    for budget in config.alternations:

        def learn(budget: tuple[int, int, int] = budget) -> dict[str, Any]:
            restarts, rounds, hops = budget
            print(f"alternating minimization: {restarts} restarts, {hops} hops ...", flush=True)
            runs = [
                sc.dictionary_learning.learn_dictionary(
                    key, problem.train_signals, num_atoms=N,
                    num_restarts=restarts, num_rounds=rounds, num_hops=hops,
                )
                for key in keys(RUNS)
            ]  # fmt: skip
            atoms = np.stack([run.dictionary for run in runs])
            return {"atoms": atoms, "flops": np.asarray(runs[0].flops)}

        found.append(stages.once("alternations-" + "-".join(map(str, budget)), learn))
    atoms = np.stack([f["atoms"] for f in found])
    score = functools.partial(
        trajectories, solver=restart,
        num_steps=config.dictionary_steps, record_every=config.dictionary_steps,
    )  # fmt: skip
    signals, codes = (np.stack([x] * RUNS) for x in (problem.test_signals, problem.test_codes))
    mcc = [
        np.asarray(score(Problems(signals, codes, stack), jnp.asarray([penalty])))[0, :, 0]
        for stack in atoms
    ]
    totals = [int(f["flops"]) + inference for f in found]
    work = [Flops(total, total) for total in totals]
    rounds = [restarts * count for restarts, count, _ in config.alternations]
    return {
        "alternating": curve(rounds, work, mcc, penalty),
        "alternating_dictionary": curve(rounds, work, _atom_scores(problem, atoms), penalty),
    }
