"""Dictionary learning from batches, for data that do not fit in memory."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks, dictionaries, objectives
from sparsecode_jax._sharding import on_automatic_axes, one_mesh, relabeled, to_host
from sparsecode_jax.dictionary_learning._replacement import (
    WIDE,
    average_moments,
    code_moments,
    renew_atoms,
    rms_norm,
    start_from_signals,
)
from sparsecode_jax.dictionary_learning.alternating import encode, solver_and_steps
from sparsecode_jax.dictionary_learning.updates import (
    DictionaryUpdate,
    block_coordinate,
    projected_gradient,
)
from sparsecode_jax.flops import FlopCountError, eval_flops
from sparsecode_jax.io._identity import as_given, chained, digest_of, other_batches, program_of
from sparsecode_jax.io.runs import Run
from sparsecode_jax.metrics import l0
from sparsecode_jax.prox import keeps_negatives
from sparsecode_jax.solvers import fista
from sparsecode_jax.solvers import refit as fit_on_support
from sparsecode_jax.types import Array, ArrayLike, Key, PyTree, Solver

__all__ = ["LearnedOnline", "learn_dictionary_online"]

_PENALTY = 0.1  # as a fraction of the root mean square norm of the first signals
_STEPS = 30  # of the solver of a lasso, per batch: 100 learn no better dictionaries
_MEMORY = 2.0  # signals per atom over which its codes' moments are averaged
_GAIN = 0.3  # of the penalty's logarithm per batch


class LearnedOnline(NamedTuple):
    """What :func:`learn_dictionary_online` found.

    Attributes:
      dictionary: unit atoms, (N, M).
      penalty: the l1 weight, in the units of the signals, the last one where it was steered; 0 with
        ``num_active``.
      objectives: the mean lasso objective of each batch when it came, before its update, (T,).
      num_signals: how many were seen.
      flops: arithmetic operations of all batches; None if they cannot be counted, as of a working
        set of several sizes.
      bias: (M,), so that signals are near ``codes @ dictionary + bias``; None where none was asked.
    """

    dictionary: Array
    penalty: Array
    objectives: np.ndarray
    num_signals: int
    flops: int | None
    bias: Array | None = None


class _State(NamedTuple):
    dictionary: Array
    update: PyTree
    moments: Array  # of each atom's codes, (2, N), averaged over the last batches
    penalty: Array  # relative to the scale of the signals


Batches = Iterable[ArrayLike] | Callable[[int], Iterable[ArrayLike]]


@on_automatic_axes
def learn_dictionary_online(
    key: Key,
    batches: Batches,
    *,
    num_atoms: int,
    penalty: ArrayLike | None = None,
    num_active: int | None = None,
    target_l0: ArrayLike | None = None,
    refit: int | None = None,
    bias: ArrayLike | str | None = None,
    num_steps: int | None = None,
    num_epochs: int = 1,
    solver: Solver | Callable[[int], Solver] | None = None,
    update: DictionaryUpdate | None = None,
    dictionary0: ArrayLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "learn_dictionary_online",
) -> LearnedOnline:
    r"""Learn a dictionary from batches of signals, each in memory only while it is used.

    .. math:: \min_{D}\ \mathrm{E}_x \min_{z \ge 0} \tfrac12\|x - zD\|^2 + \lambda\|z\|_1,
       \qquad \|d_j\| = 1

    For each batch: codes by the solver, from zero, fitted anew on their supports if asked for; one
    update of the atoms; atoms that few signals have used for long, and the weaker of two that are
    almost the same, give way to residuals of the batch, drawn by their energy.
    The first atoms are drawn from the signals of as many batches as it takes to have N. One
    program is compiled for each batch size.

    Args:
      key: PRNG key: which signals the atoms begin as. **Traced**.
      batches: of host arrays (B, M), of any sizes B: an iterable, or ``(epoch) -> iterable``, which
        may shuffle each epoch in its own, repeatable, order. **Traced** one by one.
      num_atoms: N. **Static**.
      penalty: the l1 weight, (); None takes .1 of the root mean square norm of the first signals,
        those the atoms are drawn from. **Traced**.
      num_active: K, the most active codes per signal, in the place of a penalty: codes are those of
        a pursuit, and what is minimized is half the squared error. **Static**.
      target_l0: the mean number of active codes per signal, to which the penalty is steered from
        batch to batch, beginning at ``penalty``; None keeps the penalty. Of the codes as they are
        after ``num_steps``: exact ones may have fewer. **Traced**.
      refit: how many codes per signal, the largest, are fitted anew without a penalty before the
        update, as by :func:`~sparsecode_jax.solvers.refit`; None updates by the shrunken codes.
        **Static**.
      bias: b of ``x - b``, which is coded: "mean" of the first signals, or (M,). **Traced**.
      num_steps: solver steps per batch; None takes 30, or K. **Static**.
      num_epochs: passes over the batches. **Static**.
      solver: None takes ``fista()``, non-negative; for a thousand atoms ``working_set((W,))``, W of
        twice the active codes, and two steps do as much for a quarter of the FLOPs. With
        ``num_active`` it is what builds the pursuit; None takes ``orthogonal_least_squares``.
        **Static**.
      update: from :mod:`~sparsecode_jax.dictionary_learning.updates`; None takes
        ``block_coordinate()``, which remembers all batches in (N, N + M) numbers, and above 8,192
        atoms ``projected_gradient()``, which remembers none. **Static**.
      dictionary0: atoms to begin with, (N, M), scaled to unit norm. **Traced**.
      checkpoint: a file. If it exists the run passes over the batches it has seen, and ends
        bit-identical to an uninterrupted one; it is rewritten every few seconds. Over processes
        all pass it. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.

    Returns:
      A :class:`LearnedOnline`; codes are had by ``sparse_encode(signals - bias, dictionary,
      penalty, tolerance=1e-4)``, or with ``num_active`` in the place of penalty and tolerance.

    Raises:
      ValueError: a batch of another shape, or with non-finite numbers, fewer signals than atoms, a
        generator with several epochs, both num_active and a penalty, target_l0 or refit, a
        checkpoint of another run.
      TypeError: half precision, or what is no solver or no update.

    **Cost**: a batch: ``num_steps`` solver steps and their start, one ``dictionaries.step_size``,
    4BMN + 7BM + 2BN for objective and residuals, BN for ``target_l0``, 4BN for moments, the refit,
    2MN^2 for a Gram matrix that it shares with the solver (up to 8,192 atoms, where N^2 is at most
    4BK^2 for K refitted codes), the update, 2MN^2 for cosines; ``flops`` has the count.

    References:
      Mairal, Bach, Ponce, Sapiro, 2010, Algorithm 1.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 2, num_samples=2000, num_measurements=8, num_atoms=12)
      >>> found = sc.dictionary_learning.learn_dictionary_online(
      ...     jax.random.key(1), problem.signals.reshape(20, 100, 8), num_atoms=12, progress=None)
      >>> found.dictionary.shape, found.num_signals
      ((12, 8), 2000)
    """
    name = "learn_dictionary_online"
    _checks.count(name, "num_atoms", num_atoms)
    _checks.count(name, "num_epochs", num_epochs)
    solver, num_steps = solver_and_steps(
        name, solver, num_steps, penalty=penalty, num_active=num_active, num_atoms=num_atoms,
        default=fista(), default_steps=_STEPS,
    )  # fmt: skip
    if update is None:
        update = projected_gradient() if num_atoms > WIDE else block_coordinate()
    _checks.update(name, update)
    _checks.key(name, key)
    target = _target_l0(name, target_l0, num_active, num_atoms)
    _check_refit(name, refit, num_active, num_atoms, solver)
    if penalty is not None:
        (penalty,) = _checks.real(name, penalty)
    _iterable_again(name, batches, num_epochs)
    stream = _epochs(batches, num_epochs)
    first, stream = _first_signals(name, stream, 1 if dictionary0 is not None else num_atoms)
    offset = _checks.offset(name, bias, first)
    shift = jnp.zeros_like(first[0]) if offset is None else offset
    centered = first if offset is None else first - offset[None]
    scale = rms_norm(centered)  # the learner works on signals of unit root mean square norm
    if num_active is not None:
        relative = jnp.zeros((), first.dtype)
    else:
        relative = jnp.asarray(_PENALTY if penalty is None else penalty / scale, first.dtype)
        _checks.scalar(name, "penalty", relative)
        _checks.positive(name, penalty=relative if penalty is None else penalty)
    if dictionary0 is None:
        dictionary = start_from_signals(key, centered / scale, num_atoms)
    else:
        dictionary = _given(name, dictionary0, first, num_atoms)
    moments = jnp.ones((2, num_atoms), first.dtype)
    state = _State(dictionary, update.init(dictionary), moments, relative)
    run = functools.partial(
        _step, solver=solver, update=update, num_steps=num_steps, num_refitted=refit
    )

    identity: dict[str, Any] = {}
    if checkpoint is not None:
        identity = {
            "key": digest_of(key),
            "first signals": digest_of(first),
            "penalty": None if penalty is None else float(to_host(penalty)),
            "bias": as_given(bias),
            "dictionary0": None if dictionary0 is None else digest_of(dictionary),
            "num_atoms": num_atoms,
            "num_steps": num_steps,
            "target_l0": None if target is None else float(to_host(target)),
            "learning step": program_of(run, key, state, first, shift, scale, target),
        }
    values: list[float] = []
    digest = np.zeros(32, np.uint8)  # of the batches seen
    sizes: collections.Counter[int] = collections.Counter()
    with Run(checkpoint, identity, name=name) as kept:
        done, seen = 0, digest
        if kept.has():
            like = (state, jax.ShapeDtypeStruct((-1,), np.float64), digest)
            state, loaded, seen = kept.load(like)
            _checks.finite(name, **{f"{checkpoint}": state.dictionary})
            values = loaded.tolist()
            done = len(values)
        bar = tqdm(
            total=_length(batches, num_epochs), desc=progress, unit="batch",
            disable=progress is None,
        )  # fmt: skip
        with bar:
            for index, batch in enumerate(stream):
                if checkpoint is not None:
                    digest = chained(digest, batch)
                if index == done - 1 and not np.array_equal(digest, seen):
                    raise other_batches(name, checkpoint, done)
                if index >= done:
                    signals = _signals(name, f"batch {index}", batch, first)
                    one_mesh(name, dictionary=state.dictionary, **{f"batches[{index}]": signals})
                    draw = jax.random.fold_in(key, index)
                    state, value = run(draw, state, signals, shift, scale, target)
                    values.append(float(value))
                    _finite_loss(name, f"batch {index}", values[-1])
                    kept.keep((state, np.asarray(values), digest), f"{index + 1} batches")
                sizes[np.shape(batch)[0]] += 1
                bar.update()
                bar.set_postfix_str(f"objective {np.mean(values[-100:]):.4g}", refresh=False)
        _not_beyond(name, checkpoint, done, sizes.total())
        kept.save((state, np.asarray(values), digest))

    def cost(size: int) -> int:
        signals = jax.ShapeDtypeStruct((size, first.shape[-1]), first.dtype)
        return int(eval_flops(run, key, state, signals, shift, scale, target).total())

    flops: int | None = None
    with contextlib.suppress(FlopCountError):
        flops = sum(cost(size) * count for size, count in sizes.items())
    return LearnedOnline(
        dictionary=jnp.asarray(state.dictionary),
        penalty=scale * state.penalty,
        objectives=np.asarray(values),
        num_signals=sum(size * count for size, count in sizes.items()),
        flops=flops,
        bias=offset,
    )


@functools.partial(jax.jit, static_argnames=("solver", "update", "num_steps", "num_refitted"))
def _step(
    key: Key,
    state: _State,
    signals: Array,
    bias: Array,
    scale: Array,
    target_l0: Array | None,
    *,
    solver: Solver,
    update: DictionaryUpdate,
    num_steps: int,
    num_refitted: int | None,
) -> tuple[_State, Array]:
    """Learn from one batch; the objective is that before the atoms are updated."""
    signals = (signals - bias[None]) / scale
    dictionary, update_state, moments, penalty = state
    products = None  # of atoms, which solver and refit share where signals are not too few
    if num_refitted is not None and _shares(len(signals), num_refitted, dictionary.shape[0]):
        products = dictionaries.correlate(dictionary, dictionary)
    codes = encode(solver, signals, dictionary, penalty, num_steps, gram=products)
    value = scale**2 * jnp.mean(objectives.lasso(signals, dictionary, codes, penalty))
    if target_l0 is not None:
        penalty = objectives.steered_penalty(penalty, l0(codes), target_l0, _GAIN)
    if num_refitted is not None:
        prox = solver.prox
        assert prox is not None
        atoms = dictionaries.Prepared(dictionary, jnp.ones_like(penalty), products)
        codes = fit_on_support(codes, signals, atoms, num_active=num_refitted, prox=prox)
    update_state, dictionary, codes = update.step(update_state, signals, dictionary, codes)
    kept = math.exp(-signals.shape[0] / (_MEMORY * dictionary.shape[0]))
    moments = kept * moments + (1 - kept) * code_moments(codes)
    dictionary, _, new = renew_atoms(key, signals, dictionary, codes, moments=moments)
    if update.reset is not None:
        update_state = update.reset(update_state, new)
    return _State(dictionary, update_state, average_moments(moments, new), penalty), value


def _shares(batch_size: int, num_refitted: int, num_atoms: int) -> bool:
    """Say whether products of all atoms cost less than those of each signal's atoms."""
    return num_atoms <= WIDE and 4 * batch_size * num_refitted**2 >= num_atoms**2


def _epochs(batches: Batches, num_epochs: int) -> Iterator[ArrayLike]:
    for epoch in range(num_epochs):
        yield from batches(epoch) if callable(batches) else batches


def _length(batches: Any, num_epochs: int) -> int | None:
    return num_epochs * len(batches) if hasattr(batches, "__len__") else None


def _first_signals(name: str, stream: Iterator, needed: int) -> tuple[Array, Iterator]:
    """Read as many batches as have the signals needed, and put them back in front."""
    read: list[ArrayLike] = []
    first: list[Array] = []
    while (found := sum(map(len, first))) < needed:
        batch = next(stream, None)
        if batch is None:
            raise _checks.too_few_signals(name, found, needed)
        read.append(batch)
        like = first[0] if first else None
        first.append(_signals(name, f"batch {len(first)}", batch, like))
        one_mesh(name, **{"batches[0]": first[0], f"batches[{len(first) - 1}]": first[-1]})
    return jnp.concatenate(first), itertools.chain(read, stream)


def _signals(name: str, label: str, batch: ArrayLike, like: Array | None) -> Array:
    """Check a batch and put it on the device, in the dtype of the first."""
    (signals,) = _checks.floating(name, relabeled(batch))
    _checks.samples(name, label, signals)
    if signals.ndim != 2:
        raise ValueError(
            f"{name}: {label} has shape {signals.shape}; (signals, measurements) is expected. Put "
            "its leading axes into one, or iterate over them: batches of signals come one by one."
        )
    _checks.full_precision(name, label, signals)
    _checks.finite(name, **{label: signals})
    if like is None:
        return signals
    _checks.same_measurements(name, signals, like)
    return signals.astype(like.dtype)


def _given(name: str, dictionary: ArrayLike, signals: Array, num_atoms: int) -> Array:
    _checks.real(name, dictionary)
    one_mesh(name, signals=signals, dictionary0=dictionary)
    dictionary = jnp.asarray(dictionary, signals.dtype)
    _checks.dictionary_matrix(name, dictionary)
    _checks.same_measurements(name, signals, dictionary)
    _checks.num_rows(name, "dictionary0", dictionary, num_atoms)
    _checks.finite(name, dictionary0=dictionary)
    return dictionaries.normalize(dictionary)


def _target_l0(
    name: str, target: ArrayLike | None, num_active: int | None, num_atoms: int
) -> Array | None:
    """Return the mean number of active codes that the penalty is steered to, if it is."""
    if target is None:
        return None
    if num_active is not None:
        raise ValueError(
            f"{name}: target_l0 is given with num_active, which has no penalty to steer; one of "
            "them is expected. A pursuit has num_active codes per signal at most."
        )
    (target,) = _checks.floating(name, target)
    _checks.scalar(name, "target_l0", target)
    _checks.positive(name, target_l0=target)
    if float(to_host(target)) > num_atoms:
        raise ValueError(
            f"{name}: target_l0 is {float(to_host(target)):g} but there are {num_atoms} atoms; at "
            f"most {num_atoms} is expected."
        )
    return target


def _check_refit(
    name: str, num_refitted: int | None, num_active: int | None, num_atoms: int, solver: Solver
) -> None:
    """Raise unless codes can be fitted anew on their supports, where that is asked for."""
    if num_refitted is None:
        return
    if num_active is not None:
        raise ValueError(
            f"{name}: refit is given with num_active, whose codes are least squares already; one "
            "of them is expected."
        )
    if _checks.count(name, "refit", num_refitted) > num_atoms:
        raise ValueError(
            f"{name}: refit is {num_refitted} but there are {num_atoms} atoms; at most {num_atoms} "
            "is expected."
        )
    if solver.prox is None:
        raise ValueError(
            f"{name}: refit is given, but the solver does not say its proximal operator (prox), "
            "and so not whether codes may be negative; one that does, such as fista(), is expected."
        )
    keeps_negatives(name, solver.prox)


def _finite_loss(name: str, where: str, value: float) -> None:
    """Raise if a loss is no longer a finite number."""
    if not np.isfinite(value):
        raise FloatingPointError(
            f"{name}: the objective of {where} is {value}; a finite number is expected. Take a "
            "solver with a smaller step, or a smaller learning rate."
        )


def _iterable_again(name: str, batches: Any, num_epochs: int) -> None:
    """Raise unless batches can be passed over as often as is asked."""
    if not callable(batches) and num_epochs > 1 and iter(batches) is batches:
        raise ValueError(
            f"{name}: batches are a generator, which ends after one of {num_epochs} epochs; a list "
            "or a function (epoch) -> iterable is expected."
        )


def _not_beyond(name: str, path: Any, done: int, available: int) -> None:
    """Raise if a checkpoint has seen more batches than there are."""
    if done > available:
        raise ValueError(
            f"{name}: {path} has seen {done} batches, but there are {available}; at least as many "
            "are expected. Pass the same batches, or another path."
        )
