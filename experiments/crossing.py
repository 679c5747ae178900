"""Dictionaries crossed with ways of inference, each within a budget of FLOPs a signal."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import authors, starts
from sparsecode_jax.flops import eval_flops, value_and_flops
from sparsecode_jax.training import MaxFlops, Model, Recipe, losses, schedules

M, N, K = authors.NUM_MEASUREMENTS, authors.NUM_ATOMS, authors.NUM_ACTIVE
FISTA = sc.solvers.fista()
FISTAS = ("FISTA", "FISTA x10")


class Sae(NamedTuple):
    """An SAE, and the settings among which its own are chosen.

    Its encoder starts at its dictionary, unless it is to be as published.
    """

    encoder: sc.Encoder
    loss: Callable
    penalties: tuple[float, ...]
    rates: tuple[float, ...] | None = None  # None: those of the configuration
    random_start: bool = False


SAES = {
    "ReLU SAE, as published": Sae(
        sc.encoders.linear(M, N, use_bias=False), losses.paper, (0.01,), (1e-3,), random_start=True
    ),
    "ReLU SAE": Sae(sc.encoders.linear(M, N), losses.paper, (0.2, 0.05, 0.5, 1.0)),
    "TopK SAE": Sae(sc.encoders.top_k(M, N, num_active=K), losses.squared_error, (0.0,)),
    "JumpReLU SAE": Sae(
        sc.encoders.jump_relu(M, N, threshold0=0.1, bandwidth=0.1),
        losses.l0,
        (0.1, 0.01, 0.03, 0.2),
    ),
    "gated SAE": Sae(sc.encoders.gated(M, N), losses.gated, (0.3, 0.03, 0.1, 0.6)),
}
PENALTIES = (0.05, 0.01, 0.02, 0.1, 0.2)


class Data(NamedTuple):
    """Data sets, stacked: signals (R, S, M), codes (R, S, N), dictionaries (R, N, M)."""

    train_signals: np.ndarray
    train_codes: np.ndarray
    test_signals: np.ndarray
    test_codes: np.ndarray
    dictionary: np.ndarray


def load(seeds: tuple[int, ...]) -> Data:
    """Stack the data sets of these seeds."""
    return Data(*map(np.stack, zip(*map(authors.data, seeds), strict=True)))


def keys(count: int) -> jax.Array:
    """Return the keys of runs."""
    return jax.random.split(jax.random.key(0), count)


def train_sae(
    name: str,
    signals: np.ndarray,
    *,
    fixed: Any = None,
    sae: Sae | None = None,
    num_atoms: int = N,
    batch_size: int | None = None,
    **options: Any,
) -> Any:
    """Train an SAE on each of (R, S, M) signals.

    Args:
      name: of SAES, or what the SAE is called.
      signals: (R, S, M).
      fixed: a dictionary to keep, (R, N, M).
      sae: in the place of the named one, for another size.
      num_atoms: N of a dictionary that is learned.
      batch_size: None takes all signals in each step.
      options: of ``training.fit``.
    """
    sae, runs = sae or SAES[name], keys(len(signals))
    if not sae.random_start:
        draw = functools.partial(
            sc.dictionaries.random, num_atoms=num_atoms, num_measurements=signals.shape[-1]
        )
        atoms = jax.vmap(draw)(runs) if fixed is None else jnp.asarray(fixed)
        params = jax.vmap(starts.at_dictionary)(jax.vmap(sae.encoder.init)(runs), atoms)
        learned = atoms if fixed is None else None
        options["model"] = Model(params, learned, fixed_dictionary=fixed)
    elif fixed is None:
        options["num_atoms"] = num_atoms
    else:
        options["model"] = Model(fixed_dictionary=fixed)
    label = f"{name}, {'its' if fixed is None else 'true'} dictionary, {len(runs)} runs"
    recipe = Recipe(loss=sae.loss, batch_size=batch_size)
    return sc.training.fit(runs, sae.encoder, signals, recipe=recipe, progress=label, **options)


def choose_sae(
    name: str,
    tuning: Data,
    max_flops: float,
    config: Any,
    *,
    sae: Sae | None = None,
    num_active: int = K,
    **options: Any,
) -> tuple[float, float]:
    """Return the penalty and learning rate that explain most with K codes per training signal."""
    sae = sae or SAES[name]
    penalties = sae.penalties[: config.most_penalties]
    grid = list(itertools.product(penalties, sae.rates or config.rates))
    if len(grid) == 1:
        return grid[0]
    count = len(tuning.dictionary)
    signals = np.concatenate([tuning.train_signals] * len(grid))
    penalty, rate = np.repeat(np.asarray(grid, np.float32), count, axis=0).T
    fitted = train_sae(
        name, signals, num_steps=MaxFlops(max_flops), penalty=penalty, learning_rate=rate,
        sae=sae, **options,
    )  # fmt: skip
    signals = signals[:, : authors.NUM_SAMPLES]  # enough to compare
    codes = encode(sae.encoder.apply, fitted.params.encoder, signals)
    least = np.sort(codes, axis=-1)[..., -num_active, None]
    kept = np.where(np.asarray(codes) >= least, codes, 0)
    r2 = sc.metrics.r2(signals, kept @ np.asarray(fitted.params.dictionary))
    return grid[int(np.argmax(np.reshape(r2, (len(grid), count)).mean(axis=1)))]


@functools.partial(jax.jit, static_argnames="apply")
def encode(apply: Callable, params: Any, signals: Any) -> jax.Array:
    """Encode (R, S, M) signals with R encoders."""
    return jax.vmap(apply)(params, signals)


@functools.partial(jax.jit, static_argnames=("solver", "num_steps"))
def solve(
    signals: Any, dictionary: Any, penalty: Any, codes0: Any, *, solver: sc.Solver, num_steps: int
) -> jax.Array:
    """Encode (R, S, M) signals in R dictionaries, from zero (None) or from (R, S, N) codes."""

    def one(signals: Any, dictionary: Any, codes0: Any) -> jax.Array:
        return sc.sparse_encode(
            signals, dictionary, penalty, solver=solver, num_steps=num_steps, codes0=codes0
        )

    return jax.vmap(one)(signals, dictionary, codes0)


def solver_flops(solver: sc.Solver, num_steps: int) -> float:
    """Return FLOPs a signal, of 1,024 signals that share the step size or the Gram matrix."""
    run = functools.partial(sc.sparse_encode, solver=solver, num_steps=num_steps)
    shape = jax.ShapeDtypeStruct((authors.NUM_SAMPLES, M), np.float32)
    atoms = jax.ShapeDtypeStruct((N, M), np.float32)
    return eval_flops(run, shape, atoms, 0.1).total() / authors.NUM_SAMPLES


def counted(signals: Any, dictionary: Any, **options: Any) -> tuple[np.ndarray, float]:
    """Return codes by ``sparse_encode`` with these options, and the FLOPs it took a signal."""
    codes, count = _counting(tuple(sorted(options.items())))(signals, dictionary)
    return np.asarray(codes), count.total() / len(signals)


@functools.cache
def _counting(options: tuple[tuple[str, Any], ...]) -> Callable:
    return jax.jit(value_and_flops(functools.partial(sc.sparse_encode, **dict(options))))


def encoder_flops(encoder: sc.Encoder, num_measurements: int = M) -> float:
    """Return FLOPs a signal."""
    params = jax.eval_shape(encoder.init, jax.eval_shape(lambda: jax.random.key(0)))
    signals = jax.ShapeDtypeStruct((authors.NUM_SAMPLES, num_measurements), np.float32)
    return eval_flops(encoder.apply, params, signals).total() / authors.NUM_SAMPLES


def largest(cost: Callable[[int], float], budget: float) -> int:
    """Return the largest n whose cost, which grows linearly in n, is within the budget."""
    first, second = cost(1), cost(2)
    return int((budget - first) // (second - first)) + 1


class Plan(NamedTuple):
    """The ways of inference within the budgets: numbers of steps, and encoders."""

    middle: float
    large: float
    fista: tuple[int, int]
    warm: tuple[int, int]
    encoders: dict[str, sc.Encoder]


def plan(config: Any) -> Plan:
    """Fit every way of inference into its budget."""
    middle = solver_flops(FISTA, config.fista_steps)
    large = 10 * middle
    fista = functools.partial(solver_flops, FISTA)
    width = largest(lambda n: encoder_flops(sc.encoders.mlp(M, N, hidden=(n,))), middle)
    layers = largest(lambda n: encoder_flops(sc.encoders.lista(M, N, num_layers=n)), middle)
    encoders = {
        "one layer": sc.encoders.linear(M, N),
        "MLP": sc.encoders.mlp(M, N, hidden=(width,)),
        "LISTA": sc.encoders.lista(M, N, num_layers=layers),
    }
    dearest = max(encoder_flops(sae.encoder) for sae in SAES.values())
    warm = (
        largest(fista, middle - dearest),
        largest(fista, large - encoder_flops(encoders["LISTA"])),
    )
    return Plan(middle, large, (config.fista_steps, largest(fista, large)), warm, encoders)


def amortize(
    name: str, plan: Plan, signals: np.ndarray, dictionary: Any, penalty: Any, config: Any
) -> Any:
    """Train an encoder for each fixed dictionary on the lasso itself; no codes are needed."""
    encoder, runs = plan.encoders[name], keys(len(signals))
    penalty = jnp.broadcast_to(jnp.float32(penalty), runs.shape)
    params = jax.vmap(encoder.init)(runs)
    params = jax.vmap(starts.as_ista)(params, jnp.asarray(dictionary), penalty)
    optimizer = schedules.scheduled(optax.adam, schedules.cosine(config.encoder_steps))
    return sc.training.fit(
        runs, encoder, signals, model=Model(params, fixed_dictionary=dictionary),
        recipe=Recipe(losses.lasso, optimizer, config.batch_size), penalty=penalty,
        num_steps=config.encoder_steps, learning_rate=3e-3,
        progress=f"{name}, {len(runs)} dictionaries",
    ).params.encoder  # fmt: skip


def choose_penalties(plan: Plan, tuning: Data, config: Any) -> dict[str, float]:
    """Return the best penalty of each way of inference, with the true dictionary."""
    count = len(tuning.dictionary)
    tried = PENALTIES[: config.most_penalties]
    if len(tried) == 1:
        return dict.fromkeys((*FISTAS, *plan.encoders), tried[0])
    scores: dict[str, np.ndarray] = {}
    for name, steps in zip(FISTAS, plan.fista, strict=True):
        codes = [
            solve(tuning.test_signals, tuning.dictionary, p, None, solver=FISTA, num_steps=steps)
            for p in tried
        ]
        scores[name] = np.stack([sc.metrics.mcc(tuning.test_codes, c) for c in codes])
    repeated = Data(*(np.concatenate([x] * len(tried)) for x in tuning))
    penalty = np.repeat(np.asarray(tried, np.float32), count)
    for name, encoder in plan.encoders.items():
        params = amortize(name, plan, repeated.train_signals, repeated.dictionary, penalty, config)
        codes = encode(encoder.apply, params, repeated.test_signals)
        mcc = sc.metrics.mcc(repeated.test_codes, codes)
        scores[name] = np.reshape(mcc, (len(tried), count))
    return {name: tried[int(np.argmax(s.mean(axis=1)))] for name, s in scores.items()}


def inference(
    plan: Plan, penalties: dict[str, float], data: Data, dictionaries: np.ndarray, own: np.ndarray,
    config: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the latent MCC of every way of inference, (dictionary, data set).

    Args:
      plan: steps and encoders.
      penalties: of each way.
      data: R data sets.
      dictionaries: (P, R, N, M).
      own: test codes of the SAEs' own encoders, for the last of the P dictionaries, (., R, S, N).
      config: of training.
    """
    count, runs = dictionaries.shape[:2]
    atoms = dictionaries.reshape(-1, N, M)
    train, test, truth = (
        np.concatenate([x] * count)
        for x in (data.train_signals, data.test_signals, data.test_codes)
    )

    def run(solver: sc.Solver, num_steps: int, penalty: float, codes0: Any = None) -> jax.Array:
        return solve(test, atoms, penalty, codes0, solver=solver, num_steps=num_steps)

    codes: dict[str, Any] = {}
    for name, encoder in plan.encoders.items():
        params = amortize(name, plan, train, atoms, penalties[name], config)
        codes[name] = encode(encoder.apply, params, test)
    middle, large = (penalties[name] for name in FISTAS)
    first = np.array(codes["one layer"]).reshape(count, runs, *codes["one layer"].shape[1:])
    first[count - len(own) :] = own
    codes["FISTA"] = run(FISTA, plan.fista[0], middle)
    codes["SAE + FISTA"] = run(FISTA, plan.warm[0], middle, first.reshape(truth.shape))
    codes[f"OMP {K}"] = run(sc.solvers.orthogonal_matching_pursuit(num_active=K), K, 0.0)
    codes[f"ORMP {K}"] = run(sc.solvers.orthogonal_least_squares(num_active=K), K, 0.0)
    codes["FISTA x10"] = run(FISTA, plan.fista[1], large)
    codes["LISTA + FISTA x10"] = run(FISTA, plan.warm[1], large, codes["LISTA"])
    codes["all supports x10"] = run(sc.solvers.exhaustive(num_active=K), 1, 0.0)
    return {
        name: np.reshape(sc.metrics.mcc(truth, value), (count, runs))
        for name, value in codes.items()
    }


def inference_flops(plan: Plan) -> dict[str, float]:
    """Return FLOPs a signal of every way of inference but the SAEs' own."""
    encoders = {name: encoder_flops(encoder) for name, encoder in plan.encoders.items()}
    dearest = max(encoder_flops(sae.encoder) for sae in SAES.values())
    omp, ormp = sc.solvers.orthogonal_matching_pursuit, sc.solvers.orthogonal_least_squares
    return {
        **encoders,
        "FISTA": plan.middle,
        "SAE + FISTA": dearest + solver_flops(FISTA, plan.warm[0]),
        f"OMP {K}": solver_flops(omp(num_active=K), K),
        f"ORMP {K}": solver_flops(ormp(num_active=K), K),
        "FISTA x10": solver_flops(FISTA, plan.fista[1]),
        "LISTA + FISTA x10": encoders["LISTA"] + solver_flops(FISTA, plan.warm[1]),
        "all supports x10": solver_flops(sc.solvers.exhaustive(num_active=K), 1),
    }
