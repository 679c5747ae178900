"""Encoders trained with true codes, and the checks of theory, on the paper's known dictionary."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import authors, starts, theory
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import Model, Recipe, losses, schedules

M, N, K = authors.NUM_MEASUREMENTS, authors.NUM_ATOMS, authors.NUM_ACTIVE
PENALTIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
SOLVERS = {"ISTA": sc.solvers.ista(), "FISTA": sc.solvers.fista()}
HADAMARD, GAUSSIAN = "identity and Hadamard", "Gaussian"
START_PENALTY = 0.1  # of the ISTA that encoders start as
DISTANCES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MAGNITUDES = (1.0, 2.0)


def encoders(config: Any) -> dict[tuple[str, str], tuple[sc.Encoder, int]]:
    """Return every encoder by (family, size), with its number of layers."""
    found: dict[tuple[str, str], tuple[sc.Encoder, int]] = {
        ("one layer", ""): (sc.encoders.linear(M, N), 1)
    }
    for hidden in config.mlps:
        family = f"MLP, {len(hidden)} hidden"
        found[family, str(hidden[0])] = (sc.encoders.mlp(M, N, hidden=hidden), len(hidden) + 1)
    for width, blocks in config.residual:
        encoder = sc.encoders.residual_mlp(M, N, width=width, num_blocks=blocks)
        found[f"residual MLP of {width}", f"{blocks} blocks"] = encoder, 2 * blocks + 2
    for layers in config.layers:
        found["LISTA", str(layers)] = sc.encoders.lista(M, N, num_layers=layers), layers
    return found


def fresh(config: Any, dictionary: np.ndarray, num_active: int) -> Any:
    """Draw signals that are in neither half of the paper's data."""
    return sc.synthetic.sample_problem(
        jax.random.key(num_active), num_active, num_samples=config.num_fresh,
        num_measurements=M, num_atoms=N, dictionary=dictionary,
    )  # fmt: skip


def train(
    config: Any, encoder: sc.Encoder, signals: Any, codes: Any, dictionary: Any, label: str
) -> Any:
    """Train an encoder with true codes, once a learning rate and start; return its parameters."""
    rates = np.asarray([*config.rates, *config.random_rates], np.float32)
    keys = jax.random.split(jax.random.key(0), len(rates))
    params = [encoder.init(key) for key in keys]
    for i in range(len(config.rates)):
        params[i] = starts.as_ista(params[i], dictionary, START_PENALTY)
    start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    schedule = schedules.cosine(config.steps, num_warmup=config.steps // 30)
    recipe = Recipe(losses.cosine, schedules.scheduled(optax.adam, schedule), config.batch_size)
    return sc.training.fit(
        keys, encoder, (signals, codes), model=Model(start), recipe=recipe,
        num_steps=config.steps, learning_rate=rates, progress=label,
    ).params.encoder  # fmt: skip


def score(encoder: sc.Encoder, params: Any, data: authors.AuthorsData) -> dict[str, np.ndarray]:
    """Return MCC on the training and test halves of the run that is best on the training half."""
    mcc = {}
    for half in ("train", "test"):
        signals, truth = getattr(data, f"{half}_signals"), getattr(data, f"{half}_codes")
        codes = jax.jit(jax.vmap(encoder.apply, (0, None)))(params, signals)
        mcc[half] = np.asarray(sc.metrics.mcc(np.broadcast_to(truth, codes.shape), codes))
    best = int(np.argmax(mcc["train"]))
    return {
        "train": mcc["train"][best],
        "test": mcc["test"][best],
        "runs": mcc["test"],
        "best": np.asarray(best),
    }


def flops(encoder: sc.Encoder) -> float:
    """Return FLOPs a signal."""
    params = jax.eval_shape(encoder.init, jax.eval_shape(lambda: jax.random.key(0)))
    signals = jax.ShapeDtypeStruct((authors.NUM_SAMPLES, M), np.float32)
    return eval_flops(encoder.apply, params, signals).total() / authors.NUM_SAMPLES


def sweep(config: Any, stages: sc.io.Run) -> dict[str, dict[str, np.ndarray]]:
    """Train every encoder on fresh signals, and on the paper's 1,024."""
    data = authors.data(authors.KNOWN_SEED)
    drawn = fresh(config, data.dictionary, K)
    rows: dict[str, dict[str, np.ndarray]] = {}
    for (family, size), (encoder, depth) in encoders(config).items():

        def run(encoder: sc.Encoder = encoder, name: str = f"{family} {size}") -> dict[str, Any]:
            args = (drawn.signals, drawn.codes, data.dictionary, name)
            found = score(encoder, train(config, encoder, *args), data)
            if not name.startswith(config.few):
                return found
            args = (data.train_signals, data.train_codes, data.dictionary, f"{name}, 1,024 signals")
            few = score(encoder, train(config, encoder, *args), data)
            return {**found, **{f"few_{key}": value for key, value in few.items()}}

        rows[f"{family}|{size}"] = {
            **stages.once(f"{family} {size}", run),
            "flops": np.asarray(flops(encoder)),
            "depth": np.asarray(depth),
        }
    return rows


@functools.partial(jax.jit, static_argnames=("solver", "num_steps"))
def solve(signals: Any, dictionary: Any, *, solver: sc.Solver, num_steps: int) -> jax.Array:
    """Encode signals with every penalty: (P, S, N)."""
    run = functools.partial(sc.sparse_encode, solver=solver, num_steps=num_steps)
    return jax.vmap(run, (None, None, 0))(signals, dictionary, jnp.asarray(PENALTIES))


def solver_row(data: authors.AuthorsData, name: str, depth: int) -> dict[str, np.ndarray]:
    """Return the MCC of ``depth`` steps at the penalty that is best on the training half."""
    run = functools.partial(solve, solver=SOLVERS[name], num_steps=depth)
    mcc = {}
    for half in ("train", "test"):
        codes = run(getattr(data, f"{half}_signals"), data.dictionary)
        truth = np.broadcast_to(getattr(data, f"{half}_codes"), codes.shape)
        mcc[half] = np.asarray(sc.metrics.mcc(truth, codes))
    best = int(np.argmax(mcc["train"]))
    encode = functools.partial(sc.sparse_encode, solver=SOLVERS[name], num_steps=depth)
    count = eval_flops(encode, data.test_signals, data.dictionary, 0.1).total()
    return {
        "train": mcc["train"][best],
        "test": mcc["test"][best],
        "penalty": np.asarray(PENALTIES[best]),
        "flops": np.asarray(count / len(data.test_signals)),
        "depth": np.asarray(depth),
    }


def exception(config: Any, stages: sc.io.Run) -> dict[str, np.ndarray]:
    """Train one layer for several K; (K,) scores of each way, and the weights at K = 3."""
    found: dict[str, list[Any]] = {name: [] for name in ("bias", "no bias", "TopK", "FISTA")}
    kept = {}
    for num_active in config.actives:
        data = authors.data(authors.KNOWN_SEED, num_active=num_active)
        drawn = fresh(config, data.dictionary, num_active)
        for name in ("bias", "no bias"):
            encoder = sc.encoders.linear(M, N, use_bias=name == "bias")
            args = (drawn.signals, drawn.codes, data.dictionary, f"K = {num_active}, {name}")
            params = train(config, encoder, *args)
            scores = score(encoder, params, data)
            found[name].append(scores["test"])
            if num_active == K:
                kept[f"weight, {name}"] = params.weight[int(scores["best"])]
        choose = sc.encoders.top_k(M, N, num_active=num_active, use_bias=False)
        weight = sc.encoders.LinearParams(jnp.asarray(data.dictionary), None)
        chosen = choose.apply(weight, jnp.asarray(data.test_signals))
        found["TopK"].append(sc.metrics.mcc(data.test_codes, chosen))
        found["FISTA"].append(solver_row(data, "FISTA", config.depths[-1])["test"])
    return {**{name: np.asarray(value) for name, value in found.items()}, **kept}


def rank_bound(dictionary: np.ndarray, trained: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rank defect of random, trained and optimal weights."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((1000, N, M)) / np.sqrt(M)
    best = [theory.rank_defect(dictionary, theory.scaled(dictionary, w)) for w in random]
    weights = {
        "the dictionary": dictionary,
        "the dictionary, rows scaled": theory.scaled(dictionary, dictionary),
        "the best trained layer, rows scaled": theory.scaled(dictionary, trained),
        "pseudo-inverse": np.linalg.pinv(np.asarray(dictionary, np.float64)).T,
    }
    return {
        "random, least of 1,000": np.min([theory.rank_defect(dictionary, w) for w in random]),
        "random, rows scaled, least of 1,000": np.min(best),
        **{name: np.asarray(theory.rank_defect(dictionary, w)) for name, w in weights.items()},
    }


def one_atom(dictionary: np.ndarray) -> tuple[int, float]:
    """Count the atoms that one ReLU without bias can tell from all others, and score them."""
    rows = theory.separators(dictionary)
    apart = np.isfinite(rows[:, 0])
    data = authors.data(authors.KNOWN_SEED, num_active=1)
    codes = np.maximum(data.test_signals @ rows[apart].T, 0)
    score = sc.metrics.latent_correlation(data.test_codes[:, apart], codes.astype(np.float32))
    return int(apart.sum()), float(score)


def supports(config: Any) -> dict[str, np.ndarray]:
    """Return coherence (case,), and rates and whether recovery is certain (case, distance)."""
    rates, certain, coherence = [], [], []
    for name, size, num_active in config.supports:
        if name == HADAMARD:
            atoms = theory.spikes_and_waves(size)
        elif name == GAUSSIAN:
            key = jax.random.key(0)
            atoms = np.asarray(
                sc.dictionaries.random(key, num_atoms=2 * size, num_measurements=size)
            )
        else:
            atoms = authors.data(authors.KNOWN_SEED).dictionary
        low_high = None if name == "paper" else MAGNITUDES
        mu = float(sc.dictionaries.coherence(atoms))
        coherence.append(mu)
        rates.append(
            [
                theory.support_recovery(
                    atoms, num_active, d, magnitudes=low_high, num_samples=config.support_samples
                )
                for d in DISTANCES
            ]
        )
        low, high = low_high or (0.0, np.inf)  # half-normal magnitudes come arbitrarily near 0
        certain.append([theory.recovers(mu, num_active, d, low, high) for d in DISTANCES])
    return {
        "coherence": np.asarray(coherence),
        "rates": np.asarray(rates),
        "certain": np.asarray(certain),
    }
