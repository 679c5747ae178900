"""Train TopK autoencoders by SAELens and here, from the same weights on the same batches.

Real activations, a store of ``sparsecode_jax.activations``; both center and scale them alike, begin
at the same unit atoms (encoder and decoder), clip gradients to a norm of 1 and take Adam at one
constant rate without weight decay and batches in one order, let atoms have any norm, and are scored
on tokens of documents that neither has seen. SAELens's step is its own: it multiplies latents by
their atoms' norms before the largest are chosen. Its auxiliary loss on dead latents and ours are
on, each with its own coefficient.

Command: ``python -m benchmarks.saelens_top_k STORE`` (the ``bench`` extra; 1,000 steps of three
seeds, 37 minutes on 2 cores beside other work). It prints R² of both, seed by seed, the
paired difference with its 95 % interval, and seconds a step as a ratio. Expected:
docs/results/saelens_top_k.txt, on a store that ``python -m experiments.language_model --layer 9``
captured.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

import sparsecode_jax as sc
from sparsecode_jax import activations
from sparsecode_jax.training import Model, Recipe, fit, losses

RATE, BATCH, DEAD_AFTER = 3e-4, 1024, 200


def clipped(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Take Adam's steps of clipped gradients, as SAELens does."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def batches(signals: np.ndarray, seed: int, num_steps: int) -> Iterator[np.ndarray]:
    """Give the batches that both train on."""
    rng, order = np.random.default_rng(seed), np.zeros(0, int)
    for _ in range(num_steps):
        if len(order) < BATCH:
            order = rng.permutation(len(signals))
        yield signals[order[:BATCH]]
        order = order[BATCH:]


def ours(
    signals: np.ndarray, atoms: np.ndarray, num_active: int, seed: int, num_steps: int
) -> tuple[sc.io.Sae, float]:
    """Train here; return the autoencoder and seconds a step, the first ones left out."""
    num_atoms, num_measurements = atoms.shape
    inner = sc.encoders.top_k(num_measurements, num_atoms, num_active=num_active)
    encoder = sc.encoders.centered(inner, num_measurements)
    params = sc.encoders.CenteredParams(
        jnp.zeros(num_measurements),
        sc.encoders.LinearParams(jnp.asarray(atoms), jnp.zeros(num_atoms)),
    )
    recipe = Recipe(
        loss=losses.aux_k(num_aux=num_measurements // 2), optimizer=clipped,
        dead_after=DEAD_AFTER, unit_atoms=False,
    )  # fmt: skip
    model = Model(encoder=params, dictionary=atoms, bias=jnp.zeros(num_measurements))
    seen: list[tuple[int, float]] = []
    found = fit(
        jax.random.key(seed), encoder, batches(signals, seed, num_steps), model=model,
        num_steps=num_steps, recipe=recipe, learning_rate=RATE, progress=f"ours, seed {seed}",
        callback=lambda progress: seen.append((progress.step, progress.seconds)),
    ).params  # fmt: skip
    steps, seconds = np.diff(np.asarray(seen, float)[len(seen) // 4 :].T)
    sae = sc.io.as_sae(encoder, found.encoder, found.dictionary, found.bias)
    return sae, float(np.median(seconds / steps))


def theirs(
    signals: np.ndarray, atoms: np.ndarray, num_active: int, seed: int, num_steps: int
) -> tuple[TopKTrainingSAE, float]:
    """Train by SAELens; return the autoencoder and seconds a step, the first ones left out."""
    num_atoms, num_measurements = atoms.shape
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=num_measurements, d_sae=num_atoms, k=num_active)
    )
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor(atoms))
        sae.W_enc.copy_(torch.tensor(atoms.T.copy()))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    config = SAETrainerConfig(
        total_training_samples=num_steps * BATCH, train_batch_size_samples=BATCH, lr=RATE,
        lr_end=RATE, dead_feature_window=DEAD_AFTER, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    times = [time.perf_counter()]
    for step, batch in enumerate(batches(signals, seed, num_steps), 1):
        trainer.step(torch.tensor(batch))
        trainer.n_training_steps += 1
        times.append(time.perf_counter())
        if step % 50 == 0:
            print(f"SAELens, seed {seed}: step {step} of {num_steps}", flush=True)
    return sae, float(np.median(np.diff(times)[num_steps // 4 :]))


def described(store: activations.Store) -> str:
    """Say which activations these are."""
    identity = store.manifest["identity"]
    return ", ".join(f"{key} {identity[key]}" for key in ("model", "module"))


def main() -> None:
    """Train both for each seed, and print what came out."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("store", type=pathlib.Path, help="a folder of activations")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--expansion", type=int, default=4)
    options.add_argument("--num-active", type=int, default=32)
    options.add_argument("--write", type=pathlib.Path, help="also write the table to this file")
    arguments = options.parse_args()
    store = activations.load(arguments.store)
    kept, held_out = activations.split_documents(store)
    signals = store.rows(activations.select(store, documents=kept).rows)
    how = activations.normalization(signals)
    signals = np.asarray(how.apply(signals))
    scored = activations.select(store, documents=held_out).rows[:16_384]
    test = np.asarray(how.apply(store.rows(scored)))
    num_atoms = arguments.expansion * signals.shape[1]
    lines = [
        f"TopK autoencoders of {num_atoms:,} latents, K = {arguments.num_active}, "
        f"{arguments.steps:,} steps of {BATCH:,} of {len(signals):,} tokens, by SAELens and here, "
        f"from the\nsame weights on the same batches; R² of {len(test):,} held-out tokens. "
        f"Activations: {described(store)}.\n"
    ]
    r2: dict[str, list[float]] = {"ours": [], "SAELens": []}
    for seed in arguments.seeds:
        atoms = np.asarray(sc.dictionaries.random(
            jax.random.key(100 + seed), num_atoms=num_atoms, num_measurements=signals.shape[1]
        ))  # fmt: skip
        rest = atoms, arguments.num_active, seed, arguments.steps
        mine, my_seconds = ours(signals, *rest)
        other, other_seconds = theirs(signals, *rest)
        with torch.no_grad():
            again = other(torch.tensor(test)).numpy()
        r2["ours"].append(float(sc.metrics.r2(test, mine.forward(test))))
        r2["SAELens"].append(float(sc.metrics.r2(test, again)))
        lines.append(
            f"seed {seed}: R² {r2['ours'][-1]:.4f} ours, {r2['SAELens'][-1]:.4f} SAELens; a step "
            f"of ours takes {my_seconds / other_seconds:.2f} of its time"
        )
        print(lines[-1], flush=True)
    if len(arguments.seeds) > 1:
        found = sc.statistics.compare_pairs(r2["ours"], r2["SAELens"]).difference
        lines.append(
            f"ours - SAELens: {found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f}, 95 % t "
            "interval of pairs)"
        )
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
