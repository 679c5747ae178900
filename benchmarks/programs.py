"""Programs that benchmarks time by name, written with public calls so that older commits run them.

Everything that a program needs is made when it is built; its run waits for the result. Programs of
the library alone: what they are compared with is another commit, or the limit of the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from benchmarks.problems import SCALES, Problem, draw

SEED, COHERENT = 101, 103  # of instances, as in benchmarks.solvers


def _temporaries(compiled: Any, *args: Any) -> int:
    return compiled.lower(*args).compile().memory_analysis().temp_size_in_bytes


class Program(NamedTuple):
    """What is timed.

    Attributes:
      run: does it once, and waits.
      per: how many of ``unit`` a run is.
      unit: a signal, a step, a round, ...
      flops: arithmetic operations of a run, None if nothing counts them here.
      temporaries: bytes that the compiled program reserves beside its inputs and outputs, if it is
        one program.
    """

    run: Callable[[], Any]
    per: int
    unit: str
    flops: Callable[[], float] | None = None
    temporaries: Callable[[], int] | None = None


def encoding(problem: Problem, encode: Callable, *, prepared: bool = False) -> Program:
    """Compile ``(signals, atoms) -> codes`` for a problem."""
    atoms = jnp.asarray(problem.dictionary)
    args = jnp.asarray(problem.signals), sc.dictionaries.prepare(atoms) if prepared else atoms
    compiled = jax.jit(encode)

    def flops() -> float:
        return float(sc.flops.value_and_flops(encode)(*args)[1].total())

    return Program(
        lambda: jax.block_until_ready(compiled(*args)), len(problem.signals), "signal", flops,
        functools.partial(_temporaries, compiled, *args),
    )  # fmt: skip


def lasso(scale: str, *, prepared: bool = False, coherent: bool = False) -> Program:
    """Encode to the gap of the scale by the library's own choice of solver."""
    problem = draw(SCALES[scale], COHERENT if coherent else SEED, coherent)

    def encode(signals: Any, atoms: Any) -> Any:
        return sc.sparse_encode(signals, atoms, problem.penalty, tolerance=problem.tolerance)

    return encoding(problem, encode, prepared=prepared)


def pursuit(scale: str, name: str) -> Program:
    """Run a non-negative pursuit of the scale's K atoms."""
    problem = draw(SCALES[scale], SEED, False)
    build = getattr(sc.solvers, name)

    def encode(signals: Any, atoms: Any) -> Any:
        return sc.sparse_encode(signals, atoms, num_active=problem.num_active, solver=build)

    return encoding(problem, encode)


def step(
    num_latents: int, num_active: int | None, *, dead_after: int | None = None, m: int = 768
) -> Program:
    """Take a step of training on 1,024 signals: ReLU with a penalty, or TopK; its state donated."""
    rng = np.random.default_rng(0)
    signals = jnp.asarray(rng.normal(size=(1024, m)).astype(np.float32))
    training = sc.training
    loss: Any = training.losses.lasso if num_active is None else training.losses.squared_error
    encoder = sc.encoders.linear(m, num_latents)
    if num_active is not None:
        encoder = sc.encoders.top_k(m, num_latents, num_active=num_active)
    if dead_after is not None:
        loss = training.losses.aux_k(num_aux=m // 2)
    dictionary = sc.dictionaries.random(
        jax.random.key(1), num_atoms=num_latents, num_measurements=m
    )
    params = training.Autoencoder(encoder.init(jax.random.key(0)), dictionary)
    data = training.TrainData(signals, None, None, jnp.float32(0.01), jnp.float32(1e-3))
    state = training.init_state(
        jax.random.key(2), params, data, num_latents=None if dead_after is None else num_latents
    )
    recipe = training.Recipe(loss=loss, dead_after=dead_after)
    one = functools.partial(training.train_step, encoder=encoder, recipe=recipe)
    compiled = jax.jit(one, donate_argnums=0)
    like = jax.eval_shape(lambda x: x, (state, data))
    held = [state]

    def run() -> None:
        held[0] = jax.block_until_ready(compiled(held[0], data))

    def flops() -> float:
        return float(sc.flops.eval_flops(one, *like).total())

    return Program(
        run, 1, "step", None if dead_after else flops,
        functools.partial(_temporaries, compiled, *like),
    )  # fmt: skip


def models(num_models: int, batch_size: int | None, num_steps: int) -> Program:
    """Train autoencoders of the paper's size, all in one program."""
    signals = np.random.default_rng(1).normal(size=(1024, 8)).astype(np.float32)
    keys, encoder = jax.random.split(jax.random.key(0), num_models), sc.encoders.linear(8, 16)
    recipe = sc.training.Recipe(batch_size=batch_size)

    def run() -> Any:
        found = sc.training.fit(
            keys, encoder, signals, num_atoms=16, num_steps=num_steps, recipe=recipe, progress=None
        )
        return jax.block_until_ready(found)

    return Program(run, num_steps, "step", lambda: num_models * float(run().flops))


def search(num_atoms: int, num_active: int, num_rounds: int) -> Program:
    """Learn a dictionary of 5,000 signals by rounds without hops, of one start."""
    m = int(np.ceil(2 * num_active * np.log(num_atoms / num_active)))
    problem = sc.synthetic.sample_problem(
        jax.random.key(0), num_active, num_samples=5000, num_measurements=m, num_atoms=num_atoms
    )

    def run() -> Any:
        found = sc.dictionary_learning.learn_dictionary(
            jax.random.key(1), problem.signals, num_atoms=num_atoms, num_rounds=num_rounds,
            num_restarts=1, num_hops=0, progress=None,
        )  # fmt: skip
        return jax.block_until_ready(found)

    return Program(run, num_rounds, "round", lambda: float(run().flops))


def online(num_atoms: int, num_batches: int, **options: Any) -> Program:
    """Learn a dictionary of 768 measurements from batches of 1,024 signals."""
    rng = np.random.default_rng(2)
    batches = rng.normal(size=(num_batches, 1024, 768)).astype(np.float32)
    atoms = rng.normal(size=(num_atoms, 768)).astype(np.float32)

    def run() -> Any:
        found = sc.dictionary_learning.learn_dictionary_online(
            jax.random.key(1), list(batches), num_atoms=num_atoms, dictionary0=atoms, progress=None,
            **options,
        )  # fmt: skip
        return jax.block_until_ready(found)

    return Program(run, num_batches, "batch", lambda: float(run().flops))


def _sparse_online(num_atoms: int) -> Program:
    return online(
        num_atoms, 2, target_l0=25.0, refit=64, solver=sc.solvers.working_set((64,)), num_steps=2
    )


PROGRAMS: dict[str, Callable[[], Program]] = {
    "lasso a": functools.partial(lasso, "a"),
    "lasso a, 65,536 signals": functools.partial(lasso, "a, many"),
    "lasso b": functools.partial(lasso, "b"),
    "lasso c": functools.partial(lasso, "c"),
    "lasso c, 4,096 signals": functools.partial(lasso, "c, many"),
    "lasso c, prepared": functools.partial(lasso, "c", prepared=True),
    "lasso b, coherent atoms": functools.partial(lasso, "b", coherent=True),
    "lasso c, coherent atoms": functools.partial(lasso, "c", coherent=True),
    "OLS a": functools.partial(pursuit, "a", "orthogonal_least_squares"),
    "OLS b": functools.partial(pursuit, "b", "orthogonal_least_squares"),
    "OLS c": functools.partial(pursuit, "c", "orthogonal_least_squares"),
    "OMP c": functools.partial(pursuit, "c", "orthogonal_matching_pursuit"),
    "ReLU, 6,144 latents": functools.partial(step, 6144, None),
    "TopK, 6,144 latents": functools.partial(step, 6144, 32),
    "TopK, 6,144 latents, aux_k": functools.partial(step, 6144, 32, dead_after=100),
    "TopK, 16,384 latents, K = 64": functools.partial(step, 16_384, 64),
    "256 models, batches of 32": functools.partial(models, 256, 32, 2000),
    "256 models, all signals": functools.partial(models, 256, None, 200),
    "learn_dictionary, 1,000 atoms": functools.partial(search, 1000, 10, 20),
    "learn_dictionary_online, 1,024 atoms": functools.partial(online, 1024, 2),
    "learn_dictionary_online, 4,096 atoms, to an L0": functools.partial(_sparse_online, 4096),
    "learn_dictionary_online, 16,384 atoms, to an L0": functools.partial(_sparse_online, 16_384),
}
