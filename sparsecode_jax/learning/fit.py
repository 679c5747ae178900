"""Train encoders and dictionaries: a pure step, many runs at once, exact resume."""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax.io.checkpoints import load_checkpoint, save_checkpoint
from sparsecode_jax.learning import losses
from sparsecode_jax.learning._fingerprint import fingerprint_of
from sparsecode_jax.learning._inputs import Axes, check_record_steps, prepare
from sparsecode_jax.learning.step import (
    Autoencoder,
    Loss,
    Optimizer,
    TrainData,
    TrainState,
    init_state,
    project,
    train_step,
)
from sparsecode_jax.types import Array, ArrayLike, Encoder, Key, PyTree

__all__ = ["Fit", "fit"]

_CHUNK_SECONDS = 0.5  # how long to stay on the device between looks at the loss
_CHECKPOINT_SECONDS = 5.0


class Fit(NamedTuple):
    """What :func:`fit` returns.

    Attributes:
      params: encoder parameters and dictionary (unit atoms if learned).
      steps: the recorded numbers of updates, (R,).
      records: what ``record`` returned, stacked along a leading axis R; None without ``record``.
      state: the final training state.
    """

    params: Autoencoder
    steps: np.ndarray
    records: PyTree
    state: TrainState


def fit(
    key: Key,
    encoder: Encoder,
    signals: ArrayLike,
    *,
    num_steps: int,
    num_atoms: int | None = None,
    dictionary: ArrayLike | None = None,
    true_codes: ArrayLike | None = None,
    params0: Autoencoder | None = None,
    loss: Loss = losses.paper,
    penalty: ArrayLike = 0.01,
    optimizer: Optimizer = optax.adam,
    learning_rate: ArrayLike = 1e-3,
    batch_size: int | None = None,
    record: Callable[[Autoencoder], PyTree] | None = None,
    record_steps: Sequence[int] = (),
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "fit",
) -> Fit:
    """Train an encoder, and a dictionary if it is learned; a batch of keys trains a batch of runs.

    One program is compiled and run in chunks of about half a second; records, checkpoints and the
    progress bar live between chunks and do not change a bit of the result. Runs differ by their
    key and by whatever else has a leading run axis.

    Args:
      key: one PRNG key, or a vector of R keys for R runs trained together. **Traced**.
      encoder: **Static**.
      signals: (S, M), or (R, S, M) for data of each run's own. **Traced**.
      num_steps: gradient steps. **Static**.
      num_atoms: N, to learn a dictionary from a random start. **Static**.
      dictionary: (N, M) or (R, N, M), to keep one fixed. **Traced**.
      true_codes: (S, N) or (R, S, N), for losses that use them. **Traced**.
      params0: where to start; its dictionary, if there is one, is learned. With R runs its leaves
        have a leading axis R. None draws from the key. **Traced**.
      loss: ``(codes, Batch) -> ()``; see :mod:`~sparsecode_jax.learning.losses`. **Static**.
      penalty: () or (R,). **Traced**.
      optimizer: ``(learning_rate) -> optax.GradientTransformation``, such as ``optax.adam``. Keep
        one function object: a fresh lambda is a new program. **Static**.
      learning_rate: () or (R,). **Traced**.
      batch_size: signals a step; None means all. **Static**.
      record: ``(Autoencoder) -> pytree``, taken at ``record_steps``. **Static**.
      record_steps: increasing numbers of updates, from 0 to ``num_steps``. **Static**.
      checkpoint: a file. If it exists the run continues from it, and ends bit-identical to an
        uninterrupted one; it is rewritten every few seconds. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`Fit`; with R runs all leaves but ``steps`` have a run axis (after the record axis).

    Raises:
      ValueError: shapes that disagree, non-finite signals, a checkpoint of another run.
      FloatingPointError: the loss of a run became non-finite; the last checkpoint is kept.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> problem = sc.synthetic.sample_problem(
      ...     keys[0], 2, num_samples=64, num_measurements=8, num_atoms=16)
      >>> result = sc.learning.fit(
      ...     keys, sc.encoders.linear(8, 16), problem.signals, num_atoms=16, num_steps=5,
      ...     progress=None)
      >>> result.params.dictionary.shape
      (3, 16, 8)
    """
    _checks.count("fit", "num_steps", num_steps, minimum=0)
    keys, data, params, axes = prepare(
        key, encoder, signals, num_atoms, dictionary, true_codes, params0, penalty, learning_rate
    )
    if batch_size is not None:
        _checks.count("fit", "batch_size", batch_size)
    steps = check_record_steps(record, record_steps, num_steps)
    state = _init(keys, params, data, optimizer=optimizer, axes=axes)
    records = _empty_records(state.params, data, record, len(steps), axes)
    fingerprint = ""
    if checkpoint is not None:
        functions = (encoder.apply, loss, optimizer)
        arrays = (state._replace(key=jax.random.key_data(state.key)), data)
        fingerprint = fingerprint_of(f"{steps} {batch_size}", arrays, functions)
        if pathlib.Path(checkpoint).exists():
            like = (state, records)
            state, records = load_checkpoint(checkpoint, like, fingerprint=fingerprint)
    done = int(np.max(state.step))
    if done > num_steps:
        raise ValueError(
            f"fit: {checkpoint} is at step {done}, beyond num_steps ({num_steps}). Pass num_steps "
            f">= {done}, or another path."
        )
    taken = sum(step < done for step in steps)  # a record due now is taken again: it is the same

    run = functools.partial(
        _run, encoder=encoder, loss=loss, optimizer=optimizer, batch_size=batch_size, axes=axes
    )
    chunk, saved = 1, time.monotonic()
    with tqdm(
        total=num_steps, initial=done, desc=progress, unit="step",
        disable=progress is None,
    ) as bar:  # fmt: skip
        while True:
            if taken < len(steps) and steps[taken] == done:
                entry = _record(state.params, data, record=record, axes=axes)
                for slot, value in zip(
                    jax.tree.leaves(records), jax.tree.leaves(entry), strict=True
                ):
                    slot[taken] = value
                taken += 1
            finished = done >= num_steps
            if checkpoint is not None and (
                finished or time.monotonic() - saved > _CHECKPOINT_SECONDS
            ):
                save_checkpoint(checkpoint, (state, records), fingerprint=fingerprint)
                saved = time.monotonic()
            if finished:
                break
            target = steps[taken] if taken < len(steps) else num_steps
            length = min(chunk, target - done)
            started = time.monotonic()
            state = jax.block_until_ready(run(state, data, length))
            if length == chunk:  # aim at _CHUNK_SECONDS; a new length costs no compilation
                elapsed = max(time.monotonic() - started, 1e-9)
                chunk = max(1, min(10 * chunk, int(chunk * _CHUNK_SECONDS / elapsed)))
            done += length
            _require_finite(state, done, length, checkpoint)
            bar.update(length)
            bar.set_postfix_str(f"loss {float(jnp.mean(state.loss)):.4g}", refresh=False)
    final = _complete(state.params, data, axes)
    return Fit(final, np.asarray(steps, dtype=np.int64), records, state)


def _over_runs(fn: Callable, axes: Axes, *leading: int | None) -> Callable:
    """Map a function of (..., data) over runs, if there are several."""
    return fn if axes.runs is None else jax.vmap(fn, in_axes=(*leading, axes.data))


@functools.partial(jax.jit, static_argnames=("optimizer", "axes"))
def _init(
    key: Key, params: Autoencoder, data: TrainData, *, optimizer: Optimizer, axes: Axes
) -> TrainState:
    return _over_runs(functools.partial(init_state, optimizer=optimizer), axes, 0, 0)(
        key, params, data
    )


@functools.partial(jax.jit, static_argnames=("encoder", "loss", "optimizer", "batch_size", "axes"))
def _run(
    state: TrainState,
    data: TrainData,
    num_steps: Array,
    *,
    encoder: Encoder,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int | None,
    axes: Axes,
) -> TrainState:
    step = _over_runs(
        functools.partial(
            train_step, encoder=encoder, loss=loss, optimizer=optimizer, batch_size=batch_size
        ),
        axes,
        0,
    )
    # The trip count is traced: one program for every chunk length, so that where a run was cut
    # into chunks cannot change its bits.
    return jax.lax.fori_loop(0, num_steps, lambda _, state: step(state, data), state)


@functools.partial(jax.jit, static_argnames=("record", "axes"))
def _record(params: Autoencoder, data: TrainData, *, record: Callable, axes: Axes) -> PyTree:
    return _over_runs(lambda p, d: record(_full(p, d)), axes, 0)(params, data)


@functools.partial(jax.jit, static_argnames="axes")
def _complete(params: Autoencoder, data: TrainData, axes: Axes) -> Autoencoder:
    return _over_runs(_full, axes, 0)(params, data)


def _full(params: Autoencoder, data: TrainData) -> Autoencoder:
    if params.dictionary is None:
        return params._replace(dictionary=data.dictionary)
    return project(params)


def _empty_records(
    params: Autoencoder, data: TrainData, record: Callable | None, count: int, axes: Axes
) -> PyTree:
    """Allocate one slot a record, on the host."""
    if record is None:
        return None
    entry = jax.eval_shape(functools.partial(_record, record=record, axes=axes), params, data)
    return jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), entry)


def _require_finite(state: TrainState, done: int, length: int, checkpoint: Any) -> None:
    bad = np.flatnonzero(~np.isfinite(np.atleast_1d(np.asarray(state.loss))))
    if bad.size:
        saved = checkpoint is not None and pathlib.Path(checkpoint).exists()
        kept = f" {checkpoint} holds the state of an earlier step." if saved else ""
        when = f"at step {done}" if length == 1 else f"by step {done}"
        raise FloatingPointError(
            f"fit: the loss of run {bad[0]} (of {np.size(state.loss)}) is not finite {when}; "
            "a finite loss is expected. Lower the learning rate, or clip gradients with "
            f"optax.chain.{kept}"
        )
