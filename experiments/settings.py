"""The paper's three settings: data, methods, and their exact starting points."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import sparsecode_jax as sc
from experiments import authors, paper
from sparsecode_jax.training import Autoencoder, Fit, Model, Recipe, losses

M, N, SAMPLES, RUNS = (
    authors.NUM_MEASUREMENTS,
    authors.NUM_ATOMS,
    authors.NUM_SAMPLES,
    authors.NUM_RUNS,
)
LASSO_PENALTY = float(
    sc.objectives.penalty_from_paper(paper.PENALTY, num_measurements=M, num_atoms=N)
)
SETTINGS = ("known_codes", "known_dictionary", "unknown_dictionary")


def data(setting: str, weights: np.ndarray | None = None) -> authors.AuthorsData:
    """Return the authors' data of a setting; ``weights`` are those of Zipf latents."""
    return authors.data(_seed(setting), weights=weights)


def _seed(setting: str) -> int:
    return authors.UNKNOWN_SEED if setting == "unknown_dictionary" else authors.KNOWN_SEED


def method_name(hidden: tuple[int, ...]) -> str:
    """Name an encoder as the published results do: sae, mlp32, ..."""
    return "mlp" + "x".join(map(str, hidden)) if hidden else "sae"


def encoder(setting: str, hidden: tuple[int, ...]) -> sc.Encoder:
    """Return the SAE's encoder (``hidden=()``) or an MLP; only known codes use biases."""
    use_bias = setting == "known_codes"
    if not hidden:
        return sc.encoders.linear(M, N, use_bias=use_bias)
    return sc.encoders.mlp(M, N, hidden=hidden, use_bias=use_bias)


def start(setting: str, hidden: tuple[int, ...]) -> Autoencoder:
    """Return the authors' initial weights of all runs, stacked."""
    if setting == "known_codes":
        weights = [authors.known_codes_weights(run, hidden=hidden) for run in range(RUNS)]
    else:
        learned = setting == "unknown_dictionary"
        weights = [
            authors.initial_weights(_seed(setting) + run, hidden=hidden, learn_dictionary=learned)
            for run in range(RUNS)
        ]
    return stack([Autoencoder(params(hidden, w.layers), w.dictionary) for w in weights])


def params(hidden: tuple[int, ...], layers: tuple) -> Any:
    """Return an encoder's parameters from its layers, (weight, bias) each."""
    if not hidden:
        return sc.encoders.LinearParams(*layers[0])
    return sc.encoders.MlpParams(tuple(w for w, _ in layers), tuple(b for _, b in layers))


def stack(trees: Sequence[Any]) -> Any:
    """Give trees of arrays a leading run axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def train(
    setting: str,
    hidden: tuple[int, ...] | str,
    *,
    num_steps: int,
    record_steps: Sequence[int],
    checkpoint: pathlib.Path | None = None,
    progress: str | None = None,
    run: int | None = None,
    problem: authors.AuthorsData | None = None,
) -> Fit:
    """Train all runs of a method as the authors did and record its parameters.

    Args:
      setting: one of SETTINGS.
      hidden: hidden widths, () for the SAE, or "sparse_coding".
      num_steps: updates.
      record_steps: numbers of updates after which to record.
      checkpoint: file to resume from.
      progress: label of the bar; None names the method.
      run: train this encoder run alone (its run axis has length 1); None trains all together.
      problem: data in the place of the setting's own.

    Returns:
      The fit; records are the Autoencoder (the dictionary alone for sparse coding).
    """
    problem = data(setting) if problem is None else problem
    keys = jax.random.split(jax.random.key(0), RUNS)  # unused by full-batch training
    options: dict[str, Any] = {
        "num_steps": num_steps,
        "record_steps": record_steps,
        "checkpoint": checkpoint,
    }
    if hidden == "sparse_coding":
        codes = sc.encoders.free_codes(SAMPLES, N)
        params0 = stack(
            [
                Autoencoder(codes.init(keys[0]), authors.initial_dictionary(_seed(setting) + run))
                for run in range(RUNS)
            ]
        )
        return sc.training.fit(
            keys,
            codes,
            problem.train_signals,
            model=params0,
            recipe=Recipe(loss=losses.paper),
            penalty=paper.PENALTY,
            record=_dictionary,
            progress=progress or "sparse coding",
            **options,
        )
    assert not isinstance(hidden, str)
    supervised = setting == "known_codes"
    chosen = slice(None) if run is None else slice(run, run + 1)
    own = jax.tree.map(lambda leaf: leaf[chosen], start(setting, hidden))
    fixed = problem.dictionary if setting == "known_dictionary" else None
    signals = problem.train_signals
    return sc.training.fit(
        keys[chosen],
        encoder(setting, hidden),
        (signals, problem.train_codes) if supervised else signals,
        model=Model(own.encoder, own.dictionary, fixed_dictionary=fixed),
        recipe=Recipe(loss=losses.cosine if supervised else losses.paper),
        penalty=paper.PENALTY,
        record=_everything,
        progress=progress or method_name(hidden),
        **options,
    )


def _dictionary(params: Autoencoder) -> Any:
    return params.dictionary


def _everything(params: Autoencoder) -> Autoencoder:
    return params


def encoder_scores(
    setting: str, hidden: tuple[int, ...], params: Any, metric: Callable
) -> np.ndarray:
    """Score an encoder's test codes for parameters with (record, run) axes: (R, runs)."""
    problem = data(setting)
    apply = encoder(setting, hidden).apply
    scores = []
    for record in range(jax.tree.leaves(params)[0].shape[0]):  # a wide MLP's pass is large
        weights = jax.tree.map(lambda leaf, i=record: leaf[i], params)
        scores.append(run_scores(metric, problem.test_codes, _encode(apply, weights, problem[2])))
    return np.stack(scores)


@functools.partial(jax.jit, static_argnames="apply")
def _encode(apply: Callable, params: Any, signals: Any) -> jax.Array:
    return jax.vmap(apply, (0, None))(params, signals)


def paper_solver(num_samples: int = SAMPLES, num_measurements: int = M) -> sc.Solver:
    """Return Adam on log-codes with the authors' epsilon, in units of the lasso's gradient."""
    return sc.solvers.log_adam(epsilon=1e-8 * num_samples * num_measurements / 2)


@functools.partial(jax.jit, static_argnames="num_steps")
def optimize_codes(
    dictionaries: Any,
    signals: Any,
    *,
    num_steps: int,
    learning_rate: float = 3e-3,
    penalty: Any = paper.PENALTY,
) -> jax.Array:
    """Optimize codes as the authors do at test time: Adam on log-codes from exp(-10).

    Args:
      dictionaries: (runs, N, M).
      signals: (S, M), or (runs, S, M) for signals of each run's own.
      num_steps: of Adam.
      learning_rate: of Adam.
      penalty: of the paper's loss, () or (runs,).

    Returns:
      (runs, S, N).
    """
    signals = jnp.asarray(signals)
    num_runs, num_atoms, num_measurements = dictionaries.shape
    solver = paper_solver(signals.shape[-2], num_measurements)
    penalties = jnp.broadcast_to(jnp.asarray(penalty, jnp.float32), (num_runs,))

    def run(dictionary: jax.Array, signals: jax.Array, penalty: jax.Array) -> jax.Array:
        penalty = sc.objectives.penalty_from_paper(
            penalty, num_measurements=num_measurements, num_atoms=num_atoms
        )
        problem = sc.Lasso(signals, dictionary, penalty, jnp.float32(learning_rate))
        return sc.solvers.solve(solver, problem, num_steps=num_steps)

    own = 0 if signals.ndim == 3 else None
    return jax.vmap(run, (0, own, 0))(dictionaries, signals, penalties)


def optimized_scores(
    stages: sc.io.Run, name: str, dictionaries: np.ndarray, *, num_steps: int
) -> np.ndarray:
    """Return the latent MCC of test codes optimized on dictionaries (R, runs, N, M): (R, runs)."""
    problem = data("unknown_dictionary")
    scores = []
    for record in tqdm(range(len(dictionaries)), desc=f"{name} test codes", unit="record"):

        def score(record: int = record) -> dict[str, np.ndarray]:
            codes = optimize_codes(dictionaries[record], problem.test_signals, num_steps=num_steps)
            return {"mcc": run_scores(sc.metrics.mcc, problem.test_codes, codes)}

        scores.append(stages.once(f"{name}-codes-{record}", score)["mcc"])
    return np.stack(scores)


def run_scores(metric: Callable, truth: Any, estimates: Any) -> np.ndarray:
    """Score estimates with leading axes against one truth."""
    estimates = np.asarray(estimates)
    return np.asarray(metric(np.broadcast_to(truth, estimates.shape[:-2] + truth.shape), estimates))
