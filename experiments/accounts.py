"""FLOPs of every method in two accounts: the paper's formulas, and ours measured.

"published" transcribes the paper's hand formulas (:mod:`experiments.paper`). "measured" counts the
program that runs, with :func:`sparsecode_jax.flops.eval_flops`, in the "arithmetic" convention:
every float addition, multiplication, division, square root, minimum, maximum and transcendental
is 1, a product of matrices 2 per multiply-add; comparisons and data movement are 0.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import sparsecode_jax as sc
from experiments import paper, settings
from experiments.settings import SAMPLES, M, N
from sparsecode_jax.flops import FlopCount, eval_flops
from sparsecode_jax.training import Autoencoder, Recipe, TrainData, init_state, losses, train_step

CONVENTION = "arithmetic"


class Flops(NamedTuple):
    """One amount in both accounts."""

    published: int
    measured: int

    def times(self, count: int) -> Flops:
        """Multiply both accounts."""
        return Flops(self.published * count, self.measured * count)

    def plus(self, other: Flops) -> Flops:
        """Add both accounts."""
        return Flops(self.published + other.published, self.measured + other.measured)


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@functools.cache
def training_step(setting: str, hidden: tuple[int, ...] | str) -> Flops:
    """Count one training step of one run on the 1,024 training signals."""
    learned = setting == "unknown_dictionary"
    if isinstance(hidden, str):
        published = paper.sparse_coding_step(M, N, SAMPLES, learned=learned)
    elif hidden:
        published = paper.mlp_step(M, N, hidden[0], SAMPLES, learned=learned)
    else:
        published = paper.sae_step(M, N, SAMPLES, learned=learned)
    return Flops(published, count_training_step(setting, hidden).total(CONVENTION))


def count_training_step(setting: str, hidden: tuple[int, ...] | str) -> FlopCount:
    """Count one training step from shapes alone; ``hidden`` may be "sparse_coding"."""
    if isinstance(hidden, str):
        encoder = sc.encoders.free_codes(SAMPLES, N)
    else:
        encoder = settings.encoder(setting, hidden)
    learned, supervised = setting == "unknown_dictionary", setting == "known_codes"
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = Autoencoder(jax.eval_shape(encoder.init, key), _shape(N, M) if learned else None)
    data = TrainData(
        signals=_shape(SAMPLES, M),
        true_codes=_shape(SAMPLES, N) if supervised else None,
        dictionary=_shape(N, M) if setting == "known_dictionary" else None,
        penalty=_shape(),
        learning_rate=_shape(),
    )
    state = jax.eval_shape(init_state, key, params, data)
    recipe = Recipe(loss=losses.cosine if supervised else losses.paper)
    return eval_flops(functools.partial(train_step, encoder=encoder, recipe=recipe), state, data)


@functools.cache
def encoding(setting: str, hidden: tuple[int, ...]) -> Flops:
    """Count one pass of an encoder over the 1,024 test signals."""
    measured = count_encoding(setting, hidden).total(CONVENTION)
    if hidden:
        return Flops(paper.mlp_inference(M, N, hidden[0], SAMPLES), measured)
    return Flops(paper.sae_inference(M, N, SAMPLES), measured)


def count_encoding(setting: str, hidden: tuple[int, ...]) -> FlopCount:
    """Count one pass of an encoder from shapes alone."""
    encoder = settings.encoder(setting, hidden)
    params = jax.eval_shape(encoder.init, jax.eval_shape(lambda: jax.random.key(0)))
    return eval_flops(encoder.apply, params, _shape(SAMPLES, M))


@functools.cache
def pursuit(solver: sc.Solver, num_steps: int) -> Flops:
    """Count a pursuit on the 1,024 test signals; without a published formula, as measured."""

    def run(signals: Any, dictionary: Any) -> Any:
        return sc.sparse_encode(
            signals, dictionary, 0.0, solver=solver, num_steps=num_steps, step_size=1.0
        )

    measured = eval_flops(run, _shape(SAMPLES, M), _shape(N, M)).total(CONVENTION)
    return Flops(measured, measured)


def inference(solver: sc.Solver, num_steps: int, *, warm: bool = False) -> Flops:
    """Count ``num_steps`` of a solver on the 1,024 test signals, its step size included."""
    first = _inference(solver, 0, warm)
    step = _inference(solver, 1, warm) - first
    published = paper.code_optimization(M, N, SAMPLES, num_steps)
    return Flops(published, first + num_steps * step)


@functools.cache
def _inference(solver: sc.Solver, num_steps: int, warm: bool) -> int:
    return count_inference(solver, num_steps, warm=warm).total(CONVENTION)


def count_inference(solver: sc.Solver, num_steps: int, *, warm: bool = False) -> FlopCount:
    """Count a solver from shapes alone."""
    encode = functools.partial(sc.sparse_encode, solver=solver, num_steps=num_steps)
    codes0 = _shape(SAMPLES, N) if warm else None
    return eval_flops(encode, _shape(SAMPLES, M), _shape(N, M), _shape(), codes0=codes0)
