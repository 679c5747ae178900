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
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.learning import Autoencoder, TrainData, init_state, losses, train_step

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
    if hidden == "sparse_coding":
        encoder = sc.encoders.free_codes(SAMPLES, N)
        published = paper.sparse_coding_step(M, N, SAMPLES, learned=learned)
    else:
        assert not isinstance(hidden, str)
        encoder = settings.encoder(setting, hidden)
        if hidden:
            published = paper.mlp_step(M, N, hidden[0], SAMPLES, learned=learned)
        else:
            published = paper.sae_step(M, N, SAMPLES, learned=learned)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = Autoencoder(
        jax.eval_shape(encoder.init, key),
        _shape(N, M) if learned else None,
    )
    supervised = setting == "known_codes"
    data = TrainData(
        _shape(SAMPLES, M),
        _shape(SAMPLES, N) if supervised else None,
        _shape(N, M) if setting == "known_dictionary" else None,
        _shape(),
        _shape(),
    )
    state = jax.eval_shape(init_state, key, params, data)
    step = functools.partial(
        train_step, encoder=encoder, loss=losses.cosine if supervised else losses.paper
    )
    return Flops(published, eval_flops(step, state, data).total(CONVENTION))


@functools.cache
def encoding(setting: str, hidden: tuple[int, ...]) -> Flops:
    """Count one pass of an encoder over the 1,024 test signals."""
    encoder = settings.encoder(setting, hidden)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(encoder.init, key)
    measured = eval_flops(encoder.apply, params, _shape(SAMPLES, M)).total(CONVENTION)
    if hidden:
        return Flops(paper.mlp_inference(M, N, hidden[0], SAMPLES), measured)
    return Flops(paper.sae_inference(M, N, SAMPLES), measured)


def inference(solver: sc.Solver, num_steps: int, *, warm: bool = False) -> Flops:
    """Count ``num_steps`` of a solver on the 1,024 test signals, its step size included."""
    first = _inference(solver, 0, warm)
    step = _inference(solver, 1, warm) - first
    published = paper.code_optimization(M, N, SAMPLES, num_steps)
    return Flops(published, first + num_steps * step)


@functools.cache
def _inference(solver: sc.Solver, num_steps: int, warm: bool) -> int:
    def run(signals: Any, dictionary: Any, penalty: Any, codes0: Any) -> Any:
        return sc.sparse_encode(
            signals, dictionary, penalty, solver=solver, num_steps=num_steps, codes0=codes0
        )

    codes0 = _shape(SAMPLES, N) if warm else None
    return eval_flops(run, _shape(SAMPLES, M), _shape(N, M), _shape(), codes0).total(CONVENTION)
