"""Compare one-pass encoding and iterative inference on signals whose codes nobody knows.

Four methods, each at several penalties trained together as one batch of runs:

* SAE: a ReLU sparse autoencoder trained on the lasso objective;
* SAE + FISTA: FISTA with restart on the SAE's dictionary from the SAE's codes;
* FISTA, SAE's dictionary: the same from zero;
* FISTA, learned dictionary: a dictionary learned by sparse coding (codes by FISTA, dictionary by
  Adam), no encoder.

What can be measured without truth: R² against L0, and against FLOPs a signal.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import common
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import Autoencoder, Recipe, losses

SOLVER = sc.solvers.fista(restart=sc.solvers.gradient_restart)
TRAINING_SOLVER_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train and evaluate.

    Attributes:
      num_atoms: N; None means 4M. penalty: the middle lasso penalty; None finds one by
      ``target_l0``. target_l0: active atoms per signal that the middle penalty should give FISTA on
      a dictionary of
        random training signals; None means M/8.
      factors: trained penalties as multiples of the middle one.
      sae_steps: training steps of the SAE.
      dictionary_steps: training steps of sparse coding.
      batch_size: signals a training step.
      solver_steps: FISTA steps at test time.
      num_test: test signals used.
      seed: of the split, the initial weights and the batches.
    """

    num_atoms: int | None = None
    penalty: float | None = None
    target_l0: float | None = None
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    sae_steps: int = 2_500
    dictionary_steps: int = 200
    batch_size: int = 256
    solver_steps: int = 100
    num_test: int = 2_000
    seed: int = 0


QUICK = Config(sae_steps=30, dictionary_steps=5, solver_steps=10, num_test=64, batch_size=32)


class Comparison(NamedTuple):
    """Results by method, for each penalty: R² and L0 (penalties, points), FLOPs a signal (points,).

    Attributes:
      penalties: (P,).
      r2: method to (P, points).
      l0: method to (P, points).
      flops: method to (points,), measured inference FLOPs a signal.
      training: method to measured training FLOPs of one run.
      dictionaries: method to (P, N, M).
      dead: method to (P,), fraction of atoms no test signal uses.
    """

    penalties: np.ndarray
    r2: dict[str, np.ndarray]
    l0: dict[str, np.ndarray]
    flops: dict[str, np.ndarray]
    training: dict[str, float]
    dictionaries: dict[str, np.ndarray]
    dead: dict[str, np.ndarray]


def load_signals(path: pathlib.Path) -> np.ndarray:
    """Read a float array (samples, M) from a .npy file, or say what is wrong with it."""
    where = f"--signals {path}"
    if not path.exists():
        raise SystemExit(f"{where}: no such file; a .npy file written by numpy.save is expected.")
    try:
        signals = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SystemExit(
            f"{where}: not a readable .npy array ({error}); write it with numpy.save."
        ) from None
    if not isinstance(signals, np.ndarray) or not np.issubdtype(signals.dtype, np.floating):
        kind = getattr(signals, "dtype", type(signals).__name__)
        raise SystemExit(f"{where}: holds {kind}; a float array is expected (use .astype).")
    if signals.ndim != 2:
        raise SystemExit(
            f"{where}: has shape {signals.shape}; (samples, measurements) is expected. Flatten "
            "each sample with reshape(len(signals), -1)."
        )
    samples, measurements = signals.shape
    if samples < 20 or measurements < 2:
        raise SystemExit(
            f"{where}: has shape {signals.shape}; at least 20 samples of 2 measurements are needed."
        )
    if not np.isfinite(signals).all():
        bad = int((~np.isfinite(signals)).any(axis=1).sum())
        raise SystemExit(f"{where}: {bad} samples hold non-finite numbers; drop or repair them.")
    if not np.any(signals != signals[0]):
        raise SystemExit(f"{where}: all samples are equal; there is nothing to explain.")
    return signals.astype(np.float32)


def split(signals: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle and split four to one into training and test signals."""
    order = np.random.default_rng(seed).permutation(len(signals))
    test = max(1, len(signals) // 5)
    return signals[order[test:]], signals[order[:test]]


def scale(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide both by one number so that training signals have unit mean squared norm."""
    size = np.sqrt(np.mean(np.sum(train.astype(np.float64) ** 2, axis=1)))
    return (train / size).astype(np.float32), (test / size).astype(np.float32)


def compare(train: np.ndarray, test: np.ndarray, config: Config, stages: sc.io.Run) -> Comparison:
    """Train and evaluate all methods; train (S, M) and test (T, M) are scaled signals."""
    num_measurements = train.shape[1]
    num_atoms = config.num_atoms or 4 * num_measurements
    test = test[: config.num_test]
    key = jax.random.key(config.seed)
    rng = np.random.default_rng(config.seed)
    norms = np.linalg.norm(train, axis=1)
    usable = np.flatnonzero(norms > 1e-3 * norms.max())
    picks = rng.choice(usable, num_atoms, replace=num_atoms > len(usable))
    noise = 0.01 * rng.standard_normal((num_atoms, num_measurements)).astype(np.float32)
    atoms = np.asarray(sc.dictionaries.normalize(train[picks] / norms[picks, None] + noise))
    penalty = config.penalty or find_penalty(
        train[rng.choice(len(train), min(512, len(train)), replace=False)],
        atoms,
        config.target_l0 or max(1.0, num_measurements / 8),
    )
    penalties = penalty * np.asarray(config.factors, dtype=np.float32)
    runs = len(penalties)
    keys = jax.random.split(key, runs)
    atoms_runs = np.broadcast_to(atoms, (runs, *atoms.shape))
    batch = min(config.batch_size, len(train))

    encoder = sc.encoders.linear(num_measurements, num_atoms)
    # The SAE starts as matched filters: its encoder is its dictionary.
    linear = sc.encoders.LinearParams(atoms_runs, np.zeros((runs, num_atoms), np.float32))
    sae = sc.training.fit(
        keys, encoder, train, model=Autoencoder(linear, atoms_runs), penalty=penalties,
        recipe=Recipe(losses.lasso, batch_size=batch), num_steps=config.sae_steps,
        checkpoint=stages.file("sae"), progress=f"SAE, {runs} penalties",
    )  # fmt: skip
    coding = sc.training.fit(
        keys, _nothing(num_atoms), train, model=Autoencoder((), atoms_runs), penalty=penalties,
        recipe=Recipe(fista_loss, batch_size=batch), learning_rate=5e-3,
        num_steps=config.dictionary_steps, checkpoint=stages.file("sparse-coding"),
        progress=f"sparse coding, {runs} penalties",
    )  # fmt: skip

    sae_codes = jax.vmap(encoder.apply, (0, None))(sae.params.encoder, test)
    curves = {
        "sae": _scores(test, sae.params.dictionary, sae_codes[:, None]),
        "sae_fista": _curve(test, sae.params.dictionary, penalties, sae_codes, config),
        "fista_on_sae": _curve(test, sae.params.dictionary, penalties, None, config),
        "fista": _curve(test, coding.params.dictionary, penalties, None, config),
    }
    encode = _flops_a_signal(encoder.apply, _first(sae.params.encoder), test)
    cold, step = _solver_flops(test, atoms)
    steps = cold + step * np.arange(1, config.solver_steps + 1)
    trained = {
        "sae": _training_flops(sae, train, encoder, losses.lasso, batch) * config.sae_steps,
        "fista": _training_flops(coding, train, _nothing(num_atoms), fista_loss, batch)
        * config.dictionary_steps,
    }
    dictionaries = {
        "sae": np.asarray(sae.params.dictionary),
        "fista": np.asarray(coding.params.dictionary),
    }
    return Comparison(
        penalties=penalties,
        r2={name: r2 for name, (r2, _, _) in curves.items()},
        l0={name: l0 for name, (_, l0, _) in curves.items()},
        flops={
            "sae": np.asarray([encode]),
            "sae_fista": encode + steps,
            "fista_on_sae": steps,
            "fista": steps,
        },
        training={
            "sae": trained["sae"], "sae_fista": trained["sae"], "fista_on_sae": trained["sae"],
            "fista": trained["fista"],
        },
        dictionaries=dictionaries,
        dead={name: dead for name, (_, _, dead) in curves.items()},
    )  # fmt: skip


def fista_loss(codes: jax.Array, batch: losses.Batch) -> jax.Array:
    """Return the lasso at FISTA's codes: its gradient in the dictionary is sparse coding's.

    The codes minimize the lasso, so (envelope theorem) they are constants for the gradient.
    """
    dictionary = jnp.asarray(jax.lax.stop_gradient(batch.dictionary))
    step = sc.dictionaries.step_size(dictionary)
    problem = sc.Lasso(batch.signals, dictionary, batch.penalty, step)
    found = sc.solvers.solve(SOLVER, problem, num_steps=TRAINING_SOLVER_STEPS, codes0=codes)
    return losses.lasso(jax.lax.stop_gradient(found), batch)


@functools.cache
def _nothing(num_atoms: int) -> sc.Encoder:
    """Return an encoder without parameters that starts FISTA from zero."""
    return sc.Encoder(
        lambda key: (), lambda params, signals: jnp.zeros((*signals.shape[:-1], num_atoms))
    )


def find_penalty(signals: np.ndarray, dictionary: np.ndarray, target_l0: float) -> float:
    """Bisect for the penalty at which FISTA's codes have ``target_l0`` active atoms per signal."""
    low, high = 1e-5, float(np.abs(signals @ dictionary.T).max())
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        codes = sc.sparse_encode(signals, dictionary, middle, solver=SOLVER, num_steps=50)
        if float(sc.metrics.l0(codes)) > target_l0:
            low = middle
        else:
            high = middle
    return float(np.sqrt(low * high))


def _curve(
    test: np.ndarray, dictionaries: Any, penalties: Any, codes0: Any, config: Config
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = [
        _run_curve(
            test, dictionaries[i], penalties[i], None if codes0 is None else codes0[i],
            num_steps=config.solver_steps,
        )
        for i in range(len(penalties))
    ]  # fmt: skip
    r2, l0, dead = (np.stack([np.asarray(s[i]) for s in scores]) for i in range(3))
    return r2, l0, dead


@functools.partial(jax.jit, static_argnames="num_steps")
def _run_curve(
    test: Any, dictionary: Any, penalty: Any, codes0: Any, *, num_steps: int
) -> tuple[Any, Any, Any]:
    def record(codes: Any) -> tuple[Any, Any]:
        reconstruction = sc.dictionaries.reconstruct(codes, dictionary)
        return sc.metrics.r2(test, reconstruction), sc.metrics.l0(codes)

    problem = sc.Lasso(test, dictionary, penalty, sc.dictionaries.step_size(dictionary))
    codes, (r2, l0) = sc.solvers.trajectory(
        SOLVER, problem, num_steps=num_steps, record=record, codes0=codes0
    )
    return r2, l0, sc.metrics.dead_fraction(codes)


def _scores(
    test: np.ndarray, dictionaries: Any, codes: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score codes (P, points, T, N) on dictionaries (P, N, M)."""
    reconstruction = jnp.einsum("pktn,pnm->pktm", codes, dictionaries)
    target = jnp.broadcast_to(test, reconstruction.shape)
    dead = sc.metrics.dead_fraction(codes[:, -1])
    return (
        np.asarray(sc.metrics.r2(target, reconstruction)),
        np.asarray(sc.metrics.l0(codes)),
        np.asarray(dead),
    )


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _flops_a_signal(fn: Any, params: Any, signals: np.ndarray) -> float:
    return eval_flops(fn, params, signals).total() / len(signals)


def _solver_flops(signals: np.ndarray, dictionary: np.ndarray) -> tuple[float, float]:
    """Return FLOPs a signal of the step size (shared by the test signals) and of one step."""

    def run(num_steps: int) -> int:
        encode = functools.partial(sc.sparse_encode, solver=SOLVER, num_steps=num_steps)
        return eval_flops(encode, signals, dictionary, 0.1).total()

    start, one = run(0), run(1)
    return start / len(signals), (one - start) / len(signals)


def _training_flops(fitted: Any, train: np.ndarray, encoder: Any, loss: Any, batch: int) -> int:
    """Count one training step of one run."""
    data = sc.training.TrainData(train, None, None, np.float32(1), np.float32(1))
    recipe = Recipe(loss, batch_size=batch)
    step = functools.partial(sc.training.train_step, encoder=encoder, recipe=recipe)
    return eval_flops(step, _first(fitted.state), data).total()


METHODS = {
    "sae": "SAE, one pass",
    "sae_fista": "SAE + FISTA (warm start)",
    "fista_on_sae": "FISTA, SAE's dictionary",
    "fista": "FISTA, learned dictionary",
}


def table(result: Comparison) -> str:
    """Return one row for each method and penalty, at the last step."""
    rows = [
        (
            label,
            f"{penalty:.3g}",
            f"{result.l0[name][i, -1]:.2f}",
            f"{result.r2[name][i, -1]:.4f}",
            f"{result.dead[name][i]:.3f}",
            f"{result.flops[name][-1]:.2e}",
            f"{result.training[name]:.2e}",
        )
        for name, label in METHODS.items()
        for i, penalty in enumerate(result.penalties)
    ]
    header = ("method", "penalty", "L0", "R²", "dead atoms", "FLOPs a signal", "training FLOPs")
    return common.format_table(header, rows)


def save(
    out: pathlib.Path, name: str, result: Comparison, config: Config, started: float, **more: Any
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write the comparison's arrays and manifest."""
    arrays = {"penalties": result.penalties}
    for field in ("r2", "l0", "flops", "training", "dictionaries", "dead"):
        for method, value in getattr(result, field).items():
            dtype = np.float16 if field == "dictionaries" else None  # for the mosaic alone
            arrays[f"{field}.{method}"] = np.asarray(value, dtype=dtype)
    manifest = {
        "experiment": name,
        "config": dataclasses.asdict(config),
        "axes": {"r2, l0": ["penalty", "point"], "flops": ["point"], "dead": ["penalty"]},
        "flops": "measured, convention 'arithmetic', inference FLOPs a signal",
        "seconds": round(time.monotonic() - started, 1),
        **more,
    }
    return sc.io.save_results(out / name, arrays, manifest)


def load(out: pathlib.Path, name: str) -> Comparison:
    """Read what :func:`save` wrote."""
    arrays, _ = sc.io.load_results(out / name)
    fields: dict[str, Any] = {"penalties": arrays.pop("penalties")}
    for key, value in arrays.items():
        field, method = key.split(".")
        fields.setdefault(field, {})[method] = value
    return Comparison(**fields)


def own_data(path: pathlib.Path, config: Config, out: pathlib.Path) -> None:
    """Run the comparison on a user's array and report it.

    Defaults: one fifth of the samples for testing, signals scaled to unit mean squared norm (not
    centered), N = 4M atoms, the penalty at which codes have about M/8 active atoms.
    """
    from experiments import plots

    started = time.monotonic()
    if config.num_atoms is not None and config.num_atoms < 2:
        raise SystemExit(f"--num-atoms is {config.num_atoms}; an integer >= 2 is expected.")
    if config.penalty is not None and not 0 < config.penalty < float("inf"):
        raise SystemExit(f"--penalty is {config.penalty}; a finite number > 0 is expected.")
    signals = load_signals(path)
    train, test = scale(*split(signals, config.seed))
    print(
        f"{len(train):,} training and {len(test):,} test signals of {train.shape[1]} measurements"
    )
    name = f"own_data_{path.stem}"
    digest = hashlib.sha256(signals.tobytes()).hexdigest()
    with common.stages(out, name, (config, digest)) as stages:
        result = compare(train, test, config, stages)
        paths = save(out, name, result, config, started, signals=path.name, sha256=digest)
    text = table(result)
    figure = plots.truth_free(load(out, name), path.name, out / f"{name}.png")
    print(f"\n{text}\n\nwrote {paths[0]}, {paths[1]}, {figure}")
