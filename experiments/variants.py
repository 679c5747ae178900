"""The paper's methods with data, penalties, sizes and biases of each run's own."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from experiments import authors, settings
from sparsecode_jax.training import Autoencoder, Fit, Recipe, losses

SPARSE_CODING = "sparse_coding"
METHODS = ("sae", "mlp32", SPARSE_CODING)
LABELS = {"sae": "SAE", SPARSE_CODING: "sparse coding"}
THRESHOLDS = (1e-3, 1e-4, 1e-5, 0.0)  # above which the authors call a code active
ROWS = ("train_signals", "train_codes", "test_signals", "test_codes", "dictionary")


class Runs(NamedTuple):
    """What differs between runs that are trained as one program.

    Attributes:
      data: every array with a leading run axis.
      seeds: of the initial weights.
      penalties: of the paper's loss.
    """

    data: authors.AuthorsData
    seeds: tuple[int, ...]
    penalties: np.ndarray


def runs(
    data_seeds: tuple[int, ...],
    seeds: tuple[int, ...],
    penalties: tuple[float, ...],
    **sizes: int,
) -> Runs:
    """Draw the authors' data of each run; equal seeds have equal data."""
    drawn = {seed: authors.data(seed, **sizes) for seed in set(data_seeds)}
    data = authors.AuthorsData(
        *(np.stack([getattr(drawn[seed], name) for seed in data_seeds]) for name in ROWS)
    )
    return Runs(data, seeds, np.asarray(penalties, np.float32))


def of_penalties(penalties: tuple[float, ...], num_runs: int) -> Runs:
    """Draw the same data sets and starts for each penalty: (penalties, runs), flattened."""
    seeds = tuple(authors.UNKNOWN_SEED + run for run in range(num_runs)) * len(penalties)
    return runs(seeds, seeds, tuple(np.repeat(penalties, num_runs)))


def label(method: str) -> str:
    """Return what a method is called in tables."""
    return LABELS.get(method, method.upper())


def _encoder(method: str, use_bias: bool, dictionary: np.ndarray) -> sc.Encoder:
    num_atoms, num_measurements = dictionary.shape[-2:]
    if method == "sae":
        return sc.encoders.linear(num_measurements, num_atoms, use_bias=use_bias)
    return sc.encoders.mlp(
        num_measurements, num_atoms, hidden=(_hidden(method),), use_bias=use_bias
    )


def _hidden(method: str) -> int:
    return int(method.removeprefix("mlp"))


def _start(method: str, given: Runs, use_bias: bool) -> Autoencoder:
    num_atoms, num_measurements = given.data.dictionary.shape[-2:]
    sizes = {"num_measurements": num_measurements, "num_atoms": num_atoms}
    if method == SPARSE_CODING:
        num_samples = given.data.train_signals.shape[-2]
        codes = sc.encoders.free_codes(num_samples, num_atoms).init(jax.random.key(0))
        first = [
            Autoencoder(codes, authors.initial_dictionary(seed, **sizes)) for seed in given.seeds
        ]
    else:
        hidden = () if method == "sae" else (_hidden(method),)
        first = []
        for seed in given.seeds:
            drawn = authors.initial_weights(seed, hidden=hidden, use_bias=use_bias, **sizes)
            first.append(Autoencoder(settings.params(hidden, drawn.layers), drawn.dictionary))
    return settings.stack(first)


def train(
    method: str,
    given: Runs,
    *,
    num_steps: int,
    learning_rate: float,
    use_bias: bool = False,
    checkpoint: pathlib.Path | None = None,
) -> Fit:
    """Train a method (sae, mlp32, ..., sparse_coding) on every run's data, dictionary unknown."""
    signals = given.data.train_signals
    if method == SPARSE_CODING:
        encoder = sc.encoders.free_codes(signals.shape[-2], given.data.dictionary.shape[-2])
    else:
        encoder = _encoder(method, use_bias, given.data.dictionary)
    return sc.training.fit(
        jax.random.split(jax.random.key(0), len(given.seeds)),  # unused by full-batch training
        encoder, signals, model=_start(method, given, use_bias), num_steps=num_steps,
        recipe=Recipe(loss=losses.paper), penalty=given.penalties, learning_rate=learning_rate,
        checkpoint=checkpoint, progress=label(method),
    )  # fmt: skip


def infer_codes(
    method: str,
    given: Runs,
    params: Autoencoder,
    *,
    num_steps: int,
    learning_rate: float = 3e-3,
    use_bias: bool = False,
) -> np.ndarray:
    """Encode the test signals: one pass, or Adam on fresh codes for sparse coding; (R, S, N)."""
    signals = given.data.test_signals
    if method == SPARSE_CODING:
        codes = settings.optimize_codes(
            params.dictionary, signals, num_steps=num_steps, learning_rate=learning_rate,
            penalty=given.penalties,
        )  # fmt: skip
        return np.asarray(codes)
    apply = jax.jit(jax.vmap(_encoder(method, use_bias, given.data.dictionary).apply))
    return np.asarray(apply(params.encoder, jnp.asarray(signals)))


def scores(given: Runs, dictionary: Any, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Score test codes and dictionaries of every run; each number has shape (R,).

    Returns:
      ``mse`` (mean over samples and measurements), ``mean_abs_code`` and ``l0_...`` (fraction of
      codes above a threshold; means over samples and latents), ``dead`` (fraction of latents that
      no test signal takes above the largest threshold), ``latent_mcc``, and ``dict_mcc``
      (|Pearson| over coordinates, as published) and ``dict_cosine`` (|cosine|), both by optimal
      assignment. Of a run whose codes or dictionary are not finite all are NaN.
    """
    atoms = np.asarray(dictionary)
    good = np.isfinite(codes).all(axis=(1, 2)) & np.isfinite(atoms).all(axis=(1, 2))
    codes, atoms = (
        np.where(good[:, None, None], found, truth)
        for found, truth in ((codes, given.data.test_codes), (atoms, given.data.dictionary))
    )
    error = np.einsum("rsn,rnm->rsm", codes, atoms) - given.data.test_signals
    found = {
        "mse": np.mean(error**2, axis=(1, 2)),
        "mean_abs_code": np.mean(np.abs(codes), axis=(1, 2)),
        **{f"l0_{t:g}": np.mean(np.abs(codes) > t, axis=(1, 2)) for t in THRESHOLDS},
        "dead": sc.metrics.dead_fraction(codes, threshold=THRESHOLDS[0]),
        "latent_mcc": sc.metrics.mcc(given.data.test_codes, codes),
        "dict_mcc": sc.metrics.pearson_dictionary_mcc(given.data.dictionary, atoms),
        "dict_cosine": sc.metrics.dictionary_mcc(given.data.dictionary, atoms),
    }
    return {name: np.where(good, np.float64(value), np.nan) for name, value in found.items()}


def measure(
    stages: sc.io.Run,
    part: str,
    method: str,
    given: Runs,
    *,
    num_steps: int,
    learning_rate: float,
    test_steps: int,
    test_rate: float = 3e-3,
    use_bias: bool = False,
    score: Callable[[Runs, Any, np.ndarray], dict[str, np.ndarray]] = scores,
) -> dict[str, np.ndarray]:
    """Train a method and score it, keeping the result as a part; its FLOPs are those of a run."""

    def work() -> dict[str, Any]:
        fitted = train(
            method, given, num_steps=num_steps, learning_rate=learning_rate, use_bias=use_bias,
            checkpoint=stages.file(f"{part}-training"),
        )  # fmt: skip
        codes = infer_codes(
            method, given, fitted.params, num_steps=test_steps, learning_rate=test_rate,
            use_bias=use_bias,
        )  # fmt: skip
        found = score(given, fitted.params.dictionary, codes)
        return {**found, "flops": np.full(len(given.seeds), float(fitted.flops or np.nan))}

    return stages.once(part, work)


def write(
    out: pathlib.Path,
    name: str,
    config: Any,
    arrays: dict[str, np.ndarray],
    text: str,
    axes: list[str],
    started: float,
) -> None:
    """Write numbers, manifest and table, and print the table."""
    manifest = {
        "experiment": name, "config": dataclasses.asdict(config), "axes": axes,
        "metrics": "on 1,024 test signals; see experiments/variants.py",
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    sc.io.save_results(out / name, arrays, manifest)
    (out / f"{name}.txt").write_text(text)
    print("\n" + text)
