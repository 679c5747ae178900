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
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks
from sparsecode_jax._sharding import (
    Layout,
    agreed,
    layout_of,
    names_of,
    on_automatic_axes,
    one_mesh,
    to_host,
)
from sparsecode_jax.io._identity import digest_of, program_of
from sparsecode_jax.io.runs import Pace, Run, wait
from sparsecode_jax.training import _programs
from sparsecode_jax.training._curve import Curve
from sparsecode_jax.training._inputs import (
    Batches,
    check_record_steps,
    checked_recipe,
    model_of,
    prepare,
    prepare_key,
    read,
)
from sparsecode_jax.training._programs import Program, returned
from sparsecode_jax.training._work import (
    ENDLESS,
    MaxFlops,
    count_work,
    number_of_steps,
    shapes_of_one_run,
)
from sparsecode_jax.training.resampling import check_resampling
from sparsecode_jax.training.step import (
    Autoencoder,
    Model,
    Recipe,
    Source,
    TrainData,
    TrainState,
)
from sparsecode_jax.types import ArrayLike, Encoder, Key, PyTree

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
      losses: at ``loss_steps``, each before its step's update, (T,) and the run axis.
      loss_steps: at most 1,000 numbers of updates, evenly apart, (T,).
      flops: arithmetic operations of one run, resampling included; None if they cannot be counted.
      record_flops: those so far at each record, (R,); None if they cannot be counted.
    """

    params: Autoencoder
    steps: np.ndarray
    records: PyTree
    state: TrainState
    losses: np.ndarray
    loss_steps: np.ndarray
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
    signals: ArrayLike | Callable | Iterator | tuple,
    *,
    num_atoms: int | None = None,
    num_steps: int | MaxFlops | None = None,
    recipe: Recipe = Recipe(),
    model: Model | Autoencoder | None = None,
    penalty: ArrayLike = 0.01,
    target_l0: ArrayLike | None = None,
    learning_rate: ArrayLike = 1e-3,
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
      signals: (S, M), or (R, S, M) for data of each run's own, or a pair of these and their true
        codes (..., S, N), for losses that use them; or a function ``(key, step) -> (B, M)`` that
        draws a batch on the device; or a host iterator of batches (B, M), shared by all runs (on
        resume its first batches are skipped). Batches may be pairs, too, or a ``SparseProblem``.
        The mean that a bias begins at and the FLOPs of a step are those of the first batch.
        **Traced**.
      num_atoms: N, to learn a dictionary from a random start. **Static**.
      num_steps: gradient steps, or a :class:`MaxFlops`; None until an iterator ends. **Static**.
      recipe: loss, optimizer, batch size and the other static choices. **Static**.
      model: the parts that are given: where to begin, a bias, a dictionary that is kept fixed; an
        :class:`Autoencoder`, such as ``fit(...).params``, is where to begin. **Traced**.
      penalty: () or (R,). **Traced**.
      target_l0: the mean number of active codes, to which the penalty is steered from step to step,
        beginning at ``penalty``, () or (R,): its logarithm moves by up to .01 a step, and by a
        factor of a million in all. The loss has to use the penalty; where it ended is in
        ``state.penalty``. None keeps the penalty. **Traced**.
      learning_rate: () or (R,). **Traced**.
      record: ``(Autoencoder) -> pytree``, taken at ``record_steps``, such as
        :func:`~sparsecode_jax.training.scores`. **Static**.
      record_steps: increasing numbers of updates, from 0 to ``num_steps``. **Static**.
      callback: told a :class:`Progress` after each chunk; the run stops there if it returns True
        (for several runs: all of them True).
      checkpoint: a file. If it exists the run continues from it, and ends bit-identical to an
        uninterrupted one; it is rewritten every few seconds, and when the run is interrupted. A
        checkpoint of another run is refused by what differs. Over processes all pass it, and arrays
        that span them lie in the folder ``checkpoint.arrays``. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`Fit`; with R runs all leaves but the steps have a run axis (after the record axis).

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
    if num_steps is not None and not isinstance(num_steps, MaxFlops):
        num_steps = _checks.count("fit", "num_steps", num_steps, minimum=0)
    keys = prepare_key(key)
    given = read(keys, signals, getattr(recipe, "batch_size", None))
    model = model_of(model)
    data, params, axes, num_latents = prepare(
        keys, encoder, given, num_atoms, model, penalty, learning_rate, target_l0
    )
    recipe = checked_recipe(recipe, params, encoder)
    if recipe.resample_every is not None:
        check_resampling(encoder)
    layout = _batch_layout(data, params, recipe.batch_size)
    _apart_from_runs(axes.layout, layout)
    program = Program(encoder, recipe, Source(given.sampler, layout), axes)
    counted = recipe.dead_after is not None or recipe.frequency_decay is not None
    counts = num_latents if counted else None
    state = _programs.begin(keys, params, data, program=program, num_latents=counts)
    work = count_work(state, data, program)
    total = number_of_steps(num_steps, work, given.stream)
    steps = check_record_steps(record, record_steps, total)
    complete = functools.partial(_programs.complete, program=program)
    take = record and functools.partial(_programs.record_of, record=record, program=program)
    records = _empty_records(take, state, data, len(steps))
    curve = Curve(state.loss)
    identity: dict[str, Any] = {}
    if checkpoint is not None:
        identity = {**_identity(state, data, program, record), "record_steps": steps}
        if isinstance(model.bias, str):
            # A mean over signals has other last bits where they lie on other devices.
            start = state.params._replace(bias=None)
            identity |= {"initial parameters": digest_of(start), "bias": model.bias}
    done, digest, pace = 0, np.zeros(32, np.uint8), Pace(_CHUNK_SECONDS)
    with Run(checkpoint, identity, name="fit") as kept:
        if kept.has():
            state, records, curve.values, digest = kept.load((state, records, curve.values, digest))
            for leaf in jax.tree.leaves(state.params):
                _checks.finite("fit", **{f"{checkpoint}": leaf})
            done = int(np.max(to_host(state.step)))
        if done > total:
            raise ValueError(
                f"fit: {checkpoint} is at step {done}, beyond num_steps ({total}). Pass num_steps "
                f">= {done}, or another path."
            )
        batches = None
        if given.stream is not None:
            batches = Batches(given.stream, data, hashing=checkpoint is not None)
            batches.skip(done, digest, checkpoint)
        taken = sum(step < done for step in steps)  # a record due now is taken again: the same
        bar = tqdm(
            total=None if total == ENDLESS else total, initial=done, desc=progress, unit="step",
            disable=progress is None,
        )  # fmt: skip
        with bar:
            while True:
                if taken < len(steps) and steps[taken] == done:
                    assert take is not None
                    for slot, value in zip(
                        jax.tree.leaves(records), jax.tree.leaves(take(state, data)), strict=True
                    ):
                        slot[taken] = to_host(value)
                    taken += 1
                digest = digest if batches is None else batches.digest
                now = (state, records, curve.values, digest)
                if done >= total:
                    kept.save(now)
                    break
                kept.keep(now, f"step {done}")
                target = min(steps[taken] if taken < len(steps) else total, curve.room(done))
                every = recipe.resample_every
                if every is not None:
                    target = min(target, (done // every + 1) * every)
                    if done and done % every == 0:
                        here = data if batches is None else batches.upcoming(data)
                        state = _programs.revive(state, here, program=program)
                length = pace.next(target - done)
                pieces = [(data, length)]
                if batches is not None:
                    pieces = [(batch, 1) for batch in batches.take(length, data)]
                for number, (piece, count) in enumerate(pieces):
                    where = done + number, count, curve.every
                    state, curve.values = _programs.run(
                        state, curve.values, piece, *where, program=program
                    )
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
                    seconds, params = time.monotonic() - began, complete(state, data)
                    answer = callback(Progress(done, loss_now, work.total(done), seconds, params))
                if callback is not None and agreed(answer is not None and bool(np.all(answer))):
                    total = done
                elif ran < length:
                    if total != ENDLESS:
                        warnings.warn(
                            f"fit: the stream of signals ended after {done} of {total} steps; what "
                            "was trained by then is returned. Pass more batches, or fewer steps.",
                            stacklevel=2,
                        )
                    total = done
    at = np.asarray(steps[:taken], dtype=np.int64)
    loss_steps, losses_seen = curve.points(done)
    return Fit(
        params=complete(state, data),
        steps=at,
        records=jax.tree.map(lambda x: x[:taken], records),
        state=state,
        losses=losses_seen,
        loss_steps=loss_steps,
        flops=work.total(done),
        record_flops=work.at(at),
    )


def _identity(
    state: TrainState, data: TrainData, program: Program, record: Callable | None
) -> dict[str, Any]:
    """Return what decides a run; how its arrays lie on devices does not."""
    one = shapes_of_one_run(state, data, program.axes)
    program = program._replace(source=program.source._replace(layout=None))
    given = {k: digest_of(v) for k, v in data._asdict().items() if v is not None}
    plain = {k: v for k, v in program.recipe._asdict().items() if isinstance(v, int | float)}
    return {
        "key": digest_of(state.key),
        **given,
        "initial parameters": digest_of(state.params),
        **plain,
        "training step": program_of(program.step(), *one),
        "record": record and program_of(lambda s, d: record(returned(program, s, d)), *one),
    }


def _batch_layout(data: TrainData, params: Autoencoder, batch_size: int | None) -> Layout | None:
    """Return how a batch and the atoms lie: as the signals and the dictionary they come from."""
    one_mesh("fit", signals=data.signals, model=params)  # of the first batch of a stream, too
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


def _apart_from_runs(runs: Layout | None, batch: Layout | None) -> None:
    """Raise if a mesh axis splits runs and what each of them trains on."""
    if runs is None or batch is None:
        return
    used = {axis for entry in runs.rows for axis in names_of(entry)}
    shared = [*(axis for entry in batch.rows for axis in names_of(entry)), *batch.others]
    if twice := [axis for axis in shared if axis in used]:
        raise ValueError(
            f"fit: runs are split over the mesh axis {twice[0]!r}, and so are their signals or "
            "atoms; an axis can split one of them. Use a mesh of two axes, such as "
            "jax.make_mesh((4, 2), ('runs', 'signals')), or put the signals on all devices: "
            "jax.device_put(signals, NamedSharding(mesh, PartitionSpec()))."
        )


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
            "a finite loss is expected. Lower the learning rate, or clip gradients: chain "
            "optax.clip_by_global_norm(1.0) before the recipe's optimizer."
        )
