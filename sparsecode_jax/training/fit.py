"""Train encoders and dictionaries: a pure step, many runs at once, exact resume."""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    layout_of,
    names_of,
    on_automatic_axes,
    over_devices,
    to_host,
)
from sparsecode_jax.io._identity import digest_of, program_of
from sparsecode_jax.io.runs import Pace, Run, wait
from sparsecode_jax.training import losses
from sparsecode_jax.training._inputs import (
    Axes,
    Batches,
    check_recipe,
    check_record_steps,
    prepare,
    prepare_key,
    read,
)
from sparsecode_jax.training._work import ENDLESS, count_work, number_of_steps, shapes_of_one_run
from sparsecode_jax.training.resampling import check_resampling, resample
from sparsecode_jax.training.step import (
    Autoencoder,
    Loss,
    Optimizer,
    Recipe,
    Schedule,
    TrainData,
    TrainState,
    bound,
    init_state,
    project,
    train_step,
)
from sparsecode_jax.types import Array, ArrayLike, Encoder, Key, PyTree

__all__ = ["Fit", "Progress", "fit"]

_CHUNK_SECONDS = 0.5  # how long to stay on the device between looks at the loss


class Fit(NamedTuple):
    """What :func:`fit` returns.

    Attributes:
      params: encoder parameters, dictionary (unit atoms if learned) and decoder bias, for signals
        as they were given; averaged, if ``average_decay`` was given.
      steps: the recorded numbers of updates, (R,).
      records: what ``record`` returned, stacked along a leading axis R; None without ``record``.
      state: the final training state.
      losses: of the last step before each record, (R,) and the run axis; NaN before the first step.
      flops: arithmetic operations of one run, resampling included; None if they cannot be counted.
      record_flops: those so far at each record, (R,); None if they cannot be counted.
    """

    params: Autoencoder
    steps: np.ndarray
    records: PyTree
    state: TrainState
    losses: np.ndarray
    flops: int | None
    record_flops: np.ndarray | None


class Progress(NamedTuple):
    """What a callback of :func:`fit` is told.

    Attributes:
      step: updates so far.
      loss: of the last step, () or (R,).
      flops: arithmetic operations of one run so far, or None.
      seconds: since ``fit`` began.
      params: what ``fit`` would return now, to take metrics of, such as
        :func:`~sparsecode_jax.training.scores`.
    """

    step: int
    loss: np.ndarray
    flops: int | None
    seconds: float
    params: Autoencoder


@on_automatic_axes
def fit(
    key: Key,
    encoder: Encoder,
    signals: ArrayLike | Callable | Iterator,
    *,
    num_steps: int | None = None,
    max_flops: float | None = None,
    num_atoms: int | None = None,
    dictionary: ArrayLike | None = None,
    true_codes: ArrayLike | None = None,
    params0: Autoencoder | None = None,
    decoder_bias: bool = False,
    normalize: bool = False,
    loss: Loss = losses.paper,
    penalty: ArrayLike = 0.01,
    penalty_schedule: Schedule | None = None,
    optimizer: Optimizer = optax.adam,
    learning_rate: ArrayLike = 1e-3,
    learning_rate_schedule: Schedule | None = None,
    max_gradient_norm: float | None = None,
    average_decay: float | None = None,
    batch_size: int | None = None,
    unit_atoms: bool = True,
    project_gradient: bool = False,
    dead_after: int | None = None,
    resample_every: int | None = None,
    record: Callable[[Autoencoder], PyTree] | None = None,
    record_steps: Sequence[int] = (),
    callback: Callable[[Progress], Any] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "fit",
) -> Fit:
    """Train an encoder, and a dictionary if it is learned; a batch of keys trains a batch of runs.

    One program is compiled and run in chunks of about half a second; records, callbacks,
    checkpoints and the progress bar live between chunks and do not change a bit of the result. Runs
    differ by their key and by whatever else has a leading run axis.

    Args:
      key: one PRNG key, or a vector of R keys for R runs trained together. **Traced**.
      encoder: **Static**.
      signals: (S, M), or (R, S, M) for data of each run's own; or a function ``(key, step) ->
        (B, M)`` that draws a batch on the device; or a host iterator of batches (B, M), shared by
        all runs (on resume its first batches are skipped). Batches may be ``(signals,
        true_codes)`` or a ``SparseProblem``. The scale of ``normalize``, the start of
        ``decoder_bias`` and the FLOPs of a step are those of the first batch. **Traced**.
      num_steps: gradient steps; None for ``max_flops``, or until an iterator ends. **Static**.
      max_flops: train as many steps as fit into this many arithmetic operations a run, to compare
        methods at equal compute. **Static**.
      num_atoms: N, to learn a dictionary from a random start. **Static**.
      dictionary: (N, M) or (R, N, M), to keep one fixed. **Traced**.
      true_codes: (S, N) or (R, S, N), for losses that use them. **Traced**.
      params0: where to start; its dictionary, if there is one, is learned. With R runs its leaves
        have a leading axis R. None draws from the key. **Traced**.
      decoder_bias: learn a bias of the decoder, from the signals' mean;
        :func:`~sparsecode_jax.encoders.centered` lets the encoder subtract it. **Static**.
      normalize: divide the signals by their root mean square entry; the parameters returned and
        recorded have it folded in. **Static**.
      loss: ``(codes, Batch) -> ()``; see :mod:`~sparsecode_jax.training.losses`. **Static**.
      penalty: () or (R,). **Traced**.
      penalty_schedule: ``(step) -> factor``, see :mod:`~sparsecode_jax.training.schedules`.
        **Static**.
      optimizer: ``(learning_rate) -> optax.GradientTransformation``, such as ``optax.adam``. Keep
        one function object: a fresh lambda is a new program. **Static**.
      learning_rate: () or (R,). **Traced**.
      learning_rate_schedule: ``(step) -> factor``; the optimizer is rebuilt with each rate, so one
        that keeps the rate in its state (``optax.inject_hyperparams``) does not see it. **Static**.
      max_gradient_norm: clip longer gradients. **Static**.
      average_decay: return the exponential moving average of the parameters. **Static**.
      batch_size: signals a step; None means all. **Static**.
      unit_atoms: keep learned atoms at unit norm. **Static**.
      project_gradient: take the part along its atom out of each atom's gradient. **Static**.
      dead_after: steps without activity after which a latent is dead. **Static**.
      resample_every: restart the dead latents every so many steps (but not at the last), with
        their optimizer state reset; needs ``dead_after``. **Static**.
      record: ``(Autoencoder) -> pytree``, taken at ``record_steps``, such as
        :func:`~sparsecode_jax.training.scores`. **Static**.
      record_steps: increasing numbers of updates, from 0 to ``num_steps``. **Static**.
      callback: told a :class:`Progress` after each chunk; the run stops there if it returns True
        (for several runs: all of them True).
      checkpoint: a file. If it exists the run continues from it, and ends bit-identical to an
        uninterrupted one; it is rewritten every few seconds. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`Fit`; with R runs all leaves but ``steps`` have a run axis (after the record axis).

    Raises:
      ValueError: shapes that disagree, non-finite signals, options that contradict each other, a
        checkpoint of another run.
      FloatingPointError: the loss of a run became non-finite; the last checkpoint is kept.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> problem = sc.synthetic.sample_problem(
      ...     keys[0], 2, num_samples=64, num_measurements=8, num_atoms=16)
      >>> result = sc.training.fit(
      ...     keys, sc.encoders.linear(8, 16), problem.signals, num_atoms=16, num_steps=5,
      ...     progress=None)
      >>> result.params.dictionary.shape
      (3, 16, 8)
    """
    began = time.monotonic()
    _checks.encoder("fit", encoder)
    _checks.optimizer("fit", optimizer)
    if num_steps is not None:
        _checks.count("fit", "num_steps", num_steps, minimum=0)
    keys = prepare_key(key)
    source = read(keys, signals, true_codes, batch_size)
    data, params, axes, num_latents = prepare(
        keys, encoder, source, num_atoms, dictionary, params0, penalty, learning_rate,
        decoder_bias, normalize,
    )  # fmt: skip
    recipe = Recipe(
        loss, optimizer, batch_size, source.sampler, penalty_schedule, learning_rate_schedule,
        max_gradient_norm, average_decay, unit_atoms, project_gradient, dead_after,
        _batch_layout(data, params, batch_size),
    )  # fmt: skip
    check_recipe(recipe, resample_every, params)
    if resample_every is not None:
        check_resampling(params)
    counts = num_latents if dead_after is not None else None
    state = _init(keys, params, data, recipe=recipe, num_latents=counts, axes=axes)
    work = count_work(state, data, encoder, recipe, axes, resample_every)
    num_steps = number_of_steps(num_steps, max_flops, work, source.stream)
    steps = check_record_steps(record, record_steps, num_steps)
    take = record and functools.partial(
        _record, record=record, encoder=encoder, recipe=recipe, axes=axes
    )
    records = _empty_records(take, state, data, len(steps))
    seen = np.full((len(steps), *np.shape(state.loss)), np.nan, state.loss.dtype)
    identity: dict[str, Any] = {}
    if checkpoint is not None:
        given = state, data, encoder, recipe, axes, record, resample_every
        identity = {**_identity(*given), "record_steps": steps}
    run = functools.partial(_run, encoder=encoder, recipe=recipe, axes=axes)
    done, seen_of_stream, pace = 0, np.zeros(32, np.uint8), Pace(_CHUNK_SECONDS)
    with Run(checkpoint, identity, name="fit") as kept:
        if kept.has():
            like = (state, records, seen, seen_of_stream)
            state, records, seen, seen_of_stream = kept.load(like)
            for leaf in jax.tree.leaves(state.params):
                _checks.finite("fit", **{f"{checkpoint}": leaf})
            done = int(np.max(to_host(state.step)))
        if done > num_steps:
            raise ValueError(
                f"fit: {checkpoint} is at step {done}, beyond num_steps ({num_steps}). Pass "
                f"num_steps >= {done}, or another path."
            )
        batches = None
        if source.stream is not None:
            batches = Batches(source.stream, data, hashing=checkpoint is not None)
            batches.skip(done, seen_of_stream, checkpoint)
        taken = sum(step < done for step in steps)  # a record due now is taken again: the same
        bar = tqdm(
            total=None if num_steps == ENDLESS else num_steps, initial=done, desc=progress,
            unit="step", disable=progress is None,
        )  # fmt: skip
        with bar:
            while True:
                if taken < len(steps) and steps[taken] == done:
                    entry = take(state, data) if take else None
                    for slot, value in zip(
                        jax.tree.leaves(records), jax.tree.leaves(entry), strict=True
                    ):
                        slot[taken] = to_host(value)
                    seen[taken] = to_host(state.loss)
                    taken += 1
                if batches is not None:
                    seen_of_stream = batches.digest
                now = (state, records, seen, seen_of_stream)
                if done >= num_steps:
                    kept.save(now)
                    break
                kept.keep(now, f"step {done}")
                target = steps[taken] if taken < len(steps) else num_steps
                if resample_every is not None:
                    target = min(target, (done // resample_every + 1) * resample_every)
                    if done and done % resample_every == 0:
                        here = data if batches is None else batches.upcoming(data)
                        state = _resample(state, here, encoder=encoder, recipe=recipe, axes=axes)
                length = pace.next(target - done)
                if batches is None:
                    state = run(state, data, length)
                else:
                    for batch in batches.take(length, data):
                        state = run(state, batch, 1)
                state = wait(state, bar.refresh)
                pace.took(length)  # a new length costs no compilation
                ran = int(np.max(to_host(state.step))) - done
                done += ran
                loss_now = to_host(state.loss)
                _require_finite(loss_now, done, length)
                bar.update(ran)
                bar.set_postfix_str(f"loss {float(np.mean(loss_now)):.4g}", refresh=False)
                answer = None
                if callback is not None:
                    params = _complete(state, data, encoder=encoder, recipe=recipe, axes=axes)
                    seconds = time.monotonic() - began
                    news = Progress(done, loss_now, work.total(done), seconds, params)
                    answer = callback(news)
                stopped = answer is not None and bool(np.all(answer))
                if stopped or ran < length:
                    if ran < length and num_steps != ENDLESS:
                        warnings.warn(
                            f"fit: the stream of signals ended after {done} of {num_steps} steps; "
                            "what was trained by then is returned. Pass more batches, or fewer "
                            "steps.",
                            stacklevel=2,
                        )
                    num_steps = done
    steps = steps[:taken]
    records = jax.tree.map(lambda x: x[:taken], records)
    final = _complete(state, data, encoder=encoder, recipe=recipe, axes=axes)
    at = np.asarray(steps, dtype=np.int64)
    return Fit(final, at, records, state, seen[:taken], work.total(done), work.at(at))


def _identity(
    state: TrainState,
    data: TrainData,
    encoder: Encoder,
    recipe: Recipe,
    axes: Axes,
    record: Callable | None,
    resample_every: int | None,
) -> dict[str, Any]:
    """Return what decides a run; how its arrays lie on devices does not."""
    recipe = recipe._replace(layout=None)
    one = shapes_of_one_run(state, data, axes)
    found: dict[str, Any] = {
        name: digest_of(value) for name, value in data._asdict().items() if value is not None
    }
    step = functools.partial(train_step, encoder=encoder, **recipe._asdict())
    plain = {k: v for k, v in recipe._asdict().items() if isinstance(v, int | float)}
    return {
        "key": digest_of(state.key),
        **found,
        "initial parameters": digest_of(state.params),
        **plain,
        "resample_every": resample_every,
        "training step": program_of(step, *one),
        "record": record and program_of(lambda s, d: record(_full(s, d, encoder, recipe)), *one),
    }


def _over_runs(fn: Callable, axes: Axes, *leading: int | None) -> Callable:
    """Map a function of (..., data) over runs, if there are several, on the devices they lie on."""
    if axes.runs is None:
        return fn
    mapped = jax.vmap(fn, in_axes=(*leading, axes.data))
    runs, whole = by_signal(axes.layout), PartitionSpec()
    data = type(axes.data)(*(whole if axis is None else runs for axis in axes.data))
    specs = (*(whole if axis is None else runs for axis in leading), data)
    return over_devices(mapped, axes.layout, specs, runs, check=False)


def _batch_layout(data: TrainData, params: Autoencoder, batch_size: int | None) -> Layout | None:
    """Return how a batch and the atoms lie: as the signals and the dictionary they come from."""
    layout = layout_of("fit", data.signals, params.dictionary, last=2)
    if layout is None or (layout.rows == (None,) and not layout.others):
        return None
    shared = names_of(layout.rows[0])
    devices = math.prod(layout.mesh.shape[axis] for axis in shared)
    if batch_size is not None and batch_size % devices:
        raise ValueError(
            f"fit: batches of {batch_size} signals do not divide over the {devices} devices that "
            f"the signals are split over (mesh axes {shared}); a multiple is expected. Pass "
            f"batch_size={-(-batch_size // devices) * devices}."
        )
    return layout


@functools.partial(jax.jit, static_argnames=("recipe", "num_latents", "axes"))
def _init(
    key: Key,
    params: Autoencoder,
    data: TrainData,
    *,
    recipe: Recipe,
    num_latents: int | None,
    axes: Axes,
) -> TrainState:
    start = functools.partial(
        init_state,
        optimizer=recipe.optimizer,
        average=recipe.average_decay is not None,
        num_latents=num_latents,
    )
    return _over_runs(start, axes, 0, 0)(key, params, data)


@functools.partial(jax.jit, static_argnames=("encoder", "recipe", "axes"))
def _run(
    state: TrainState,
    data: TrainData,
    num_steps: Array,
    *,
    encoder: Encoder,
    recipe: Recipe,
    axes: Axes,
) -> TrainState:
    one = functools.partial(train_step, encoder=encoder, **recipe._asdict())
    step = _over_runs(one, axes, 0)
    # The trip count is traced: one program for every chunk length, so that where a run was cut
    # into chunks cannot change its bits.
    return jax.lax.fori_loop(0, num_steps, lambda _, state: step(state, data), state)


@functools.partial(jax.jit, static_argnames=("encoder", "recipe", "axes"))
def _resample(
    state: TrainState, data: TrainData, *, encoder: Encoder, recipe: Recipe, axes: Axes
) -> TrainState:
    one = functools.partial(resample, encoder=encoder, recipe=recipe)
    return _over_runs(one, axes, 0)(state, data)


@functools.partial(jax.jit, static_argnames=("encoder", "recipe", "axes"))
def _complete(
    state: TrainState, data: TrainData, *, encoder: Encoder, recipe: Recipe, axes: Axes
) -> Autoencoder:
    return _over_runs(functools.partial(_full, encoder=encoder, recipe=recipe), axes, 0)(
        state, data
    )


def _full(state: TrainState, data: TrainData, encoder: Encoder, recipe: Recipe) -> Autoencoder:
    """Return the parameters for use: averaged, projected, shared parts put in, scale folded in."""
    params = state.params
    if state.average is not None and recipe.average_decay is not None:
        weight = 1 - recipe.average_decay ** jnp.maximum(state.step, 1)
        mean = jax.tree.map(lambda x: (x / weight).astype(x.dtype), state.average)
        params = jax.tree.map(lambda p, a: jnp.where(state.step > 0, a, p), params, mean)
    if params.dictionary is None:
        params = params._replace(dictionary=data.dictionary)
    elif recipe.unit_atoms:
        params = project(params)
    params = params._replace(encoder=bound(encoder, params))
    if data.scale is None or encoder.rescale is None:
        return params
    bias = None if params.bias is None else data.scale * params.bias
    return params._replace(encoder=encoder.rescale(params.encoder, data.scale), bias=bias)


@functools.partial(jax.jit, static_argnames=("record", "encoder", "recipe", "axes"))
def _record(
    state: TrainState,
    data: TrainData,
    *,
    record: Callable,
    encoder: Encoder,
    recipe: Recipe,
    axes: Axes,
) -> PyTree:
    full = functools.partial(_full, encoder=encoder, recipe=recipe)
    return _over_runs(lambda s, d: record(full(s, d)), axes, 0)(state, data)


def _empty_records(take: Callable | None, state: TrainState, data: TrainData, count: int) -> PyTree:
    """Allocate one slot a record, on the host."""
    if take is None:
        return None
    entry = jax.eval_shape(take, state, data)
    return jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), entry)


def _require_finite(loss: np.ndarray, done: int, length: int) -> None:
    bad = np.flatnonzero(~np.isfinite(np.atleast_1d(loss)))
    if bad.size:
        when = f"at step {done}" if length == 1 else f"by step {done}"
        raise FloatingPointError(
            f"fit: the loss of run {bad[0]} (of {np.size(loss)}) is not finite {when}; "
            "a finite loss is expected. Lower the learning rate, or pass max_gradient_norm=1.0 to "
            "clip gradients."
        )
