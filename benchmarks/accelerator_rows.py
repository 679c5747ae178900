"""The rows of the accelerator benchmark: what is checked, what is timed, and at which sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sparsecode_jax as sc
from benchmarks import torch_peers
from benchmarks.problems import Problem, Scale, draw, worst_gap
from sparsecode_jax.dictionary_learning._stages import (
    JUDGING,
    MOMENTUM,
    POLISHING,
    annealing,
    penalties,
    turning_points,
)
from sparsecode_jax.flops import FlopCount, eval_flops, value_and_flops
from sparsecode_jax.training import Autoencoder, Recipe, TrainData, init_state, losses, train_step

SEED = 201  # an instance on which nothing was tuned
PENALTY, RATE = 0.01, 1e-3  # of the training rows
SLACK = 1.03  # a gap certified in float32 may be so much larger in float64
NEAR_TIE = 1e-5  # of the signal's norm: float32 cannot tell scores so close apart
LEAST_SAME = 0.9  # of the signals have the same support in torch, or one of both is wrong
RIDGE = 1e-5  # of the least squares in learn_dictionary


class Sizes(NamedTuple):
    """Everything that ``--quick`` makes smaller."""

    b: Scale
    c: Scale
    few: int | None  # signals of a smaller batch at scale c
    reference: int  # signals whose pursuits are repeated in float64
    step: Scale  # of a training step
    models: Scale  # of one model of the sweep
    num_models: int
    batch: int
    steps: int  # of the sweep, a run
    rounds: int  # of learn_dictionary


FULL = Sizes(
    Scale(64, 256, 8, 4096, 1e-5), Scale(768, 6144, 32, 4096, 1e-5), 512, 256,
    Scale(768, 6144, 32, 4096, 0.0), Scale(8, 16, 3, 1024, 0.0), 1024, 32, 100, 8,
)  # fmt: skip
QUICK = Sizes(
    Scale(16, 32, 3, 64, 1e-5), Scale(24, 300, 3, 32, 1e-5), None, 16,
    Scale(16, 64, 4, 64, 0.0), Scale(8, 16, 3, 64, 0.0), 16, 8, 5, 2,
)  # fmt: skip


class Work(NamedTuple):
    """A timed row, ready to run.

    Attributes:
      run: does our work once and returns arrays, without waiting.
      flops: our FLOPs of one run, counted outside of the timing.
      peer: ``(tools) -> run``, the same work in torch.
      judge: ``(our arrays, torch's or None) -> text``, how good the results are.
    """

    run: Callable[[], Any]
    flops: Callable[[], FlopCount]
    peer: Callable[[torch_peers.Tools], Callable[[], Any]]
    judge: Callable[[Any, Any], str]


class Row(NamedTuple):
    """One line of the table; a check has ``check() -> (text, passed)`` and is not timed."""

    name: str
    title: str
    sizes: dict[str, Any]
    build: Callable[[], Work] | None = None
    check: Callable[[], tuple[str, bool]] | None = None
    training: bool = False  # TF32 is allowed there, on both sides


@functools.lru_cache(maxsize=4)
def problem_of(scale: Scale) -> Problem:
    return draw(scale, SEED, False)


@functools.lru_cache(maxsize=4)
def on_device(scale: Scale) -> tuple[jax.Array, jax.Array]:
    problem = problem_of(scale)
    return jnp.asarray(problem.signals), jnp.asarray(problem.dictionary)


@functools.cache
def lasso_program(scale: Scale) -> Callable:
    """Return what ``sparse_encode`` runs, compiled, with the flags of convergence that it drops."""
    penalty = problem_of(scale).penalty

    def encode(signals: Any, atoms: Any) -> tuple[Any, Any]:
        solver, options = sc.solvers.default_solver(atoms)
        step_size = (solver.step_size or sc.dictionaries.step_size)(atoms)
        codes, info = sc.solvers.solve_to_tolerance(
            solver, sc.Lasso(signals, atoms, penalty, step_size), tolerance=scale.tolerance,
            **options,
        )  # fmt: skip
        return codes, info.converged

    return jax.jit(encode)


@functools.cache
def pursuit_program(name: str, num_active: int) -> Callable:
    make = getattr(sc.solvers, name)
    solver = make(num_active, prox=sc.prox.soft_threshold)

    def encode(signals: Any, atoms: Any) -> Any:
        return sc.solvers.solve(solver, sc.Lasso(signals, atoms, 0.0, 1.0), num_steps=num_active)

    return jax.jit(encode)


def check_lasso(scale: Scale) -> tuple[str, bool]:
    """Say what gap the codes have in float64, and how many signals were said to have converged."""
    codes, converged = lasso_program(scale)(*on_device(scale))
    codes = np.asarray(codes)
    gap = worst_gap(problem_of(scale), codes)
    share = float(np.mean(np.asarray(converged)))
    good = bool(np.isfinite(codes).all() and gap <= SLACK * scale.tolerance)
    beyond = ", beyond the tolerance by float32's rounding" * (good and gap > scale.tolerance)
    return f"worst gap {gap:.3e}{beyond}; said to have converged: {share:.2%}", good


def check_pursuit(scale: Scale, name: str, num_signals: int) -> tuple[str, bool]:
    """Compare supports with the same pursuit in float64, where no score was nearly a tie."""
    codes = np.asarray(pursuit_program(name, scale.num_active)(*on_device(scale)))
    expected, margin = reference_supports(
        problem_of(scale), num_signals, name == "orthogonal_least_squares"
    )
    same = np.all((codes[:num_signals] != 0) == expected, axis=1)
    clear = margin > NEAR_TIE
    text = f"equal supports: {int(same.sum())} of {num_signals} signals"
    if not clear.all():
        text += (
            f"; {int((~clear).sum())} met a near tie, {int((~clear & ~same).sum())} differ there"
        )
    return text, bool(np.isfinite(codes).all() and same[clear].all())


def reference_supports(
    problem: Problem, num_signals: int, best_error: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Run a pursuit in float64 NumPy.

    Args:
      problem: the first ``num_signals`` of whose signals are coded.
      num_signals: how many.
      best_error: whether atoms are chosen as orthogonal least squares does.

    Returns:
      Supports (B, N), and by how much of a signal's norm the best score led at the closest step.
    """
    atoms = problem.dictionary.astype(np.float64)
    signals = problem.signals[:num_signals].astype(np.float64)
    norms, residual = np.linalg.norm(signals, axis=1), signals.copy()
    outside, chosen = (
        np.ones((len(signals), len(atoms))),
        np.zeros((len(signals), len(atoms)), bool),
    )
    margin, rows = np.full(len(signals), np.inf), np.arange(len(signals))
    basis: list[np.ndarray] = []
    for _ in range(problem.num_active):
        scores = np.abs(residual @ atoms.T)
        if best_error:
            scores /= np.sqrt(np.maximum(outside, 1e-30))
        scores[chosen | (outside <= 1e-6)] = -1
        second, best = np.partition(scores, -2)[:, -2:].T
        margin = np.minimum(margin, (best - second) / norms)
        atom = np.argmax(scores, axis=1)
        chosen[rows, atom] = True
        new = atoms[atom]
        for _ in range(2):
            for old in basis:
                new = new - (new * old).sum(axis=1, keepdims=True) * old
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        basis.append(new)
        residual -= (residual * new).sum(axis=1, keepdims=True) * new
        outside -= (new @ atoms.T) ** 2
    return chosen, margin


def lasso_work(scale: Scale) -> Work:
    problem, args, program = problem_of(scale), on_device(scale), lasso_program(scale)

    def judge(ours: Any, theirs: Any) -> str:
        said = f"worst gap {worst_gap(problem, ours[0]):.2e}"
        if theirs is not None:
            said += f", torch {worst_gap(problem, theirs.cpu().numpy()):.2e}"
        return said

    return Work(
        lambda: program(*args),
        lambda: jax.jit(value_and_flops(program))(*args)[1],
        functools.partial(torch_peers.lasso, problem=problem),
        judge,
    )


def pursuit_work(scale: Scale, name: str) -> Work:
    problem, args = problem_of(scale), on_device(scale)
    program = pursuit_program(name, scale.num_active)

    def judge(ours: Any, theirs: Any) -> str:
        if theirs is None:
            return ""
        same = np.all((np.asarray(ours) != 0) == (theirs.cpu().numpy() != 0), axis=1)
        said = f"same support as torch: {same.mean():.2%}"
        if same.mean() < LEAST_SAME:
            raise ArithmeticError(f"{said}, at least {LEAST_SAME:.0%} is expected.")
        return said

    peer = functools.partial(
        torch_peers.pursuit, problem=problem, best_error=name == "orthogonal_least_squares"
    )
    return Work(lambda: program(*args), lambda: eval_flops(program, *args), peer, judge)


def finite_loss(ours: Any, theirs: Any) -> str:
    """Refuse a training that went astray."""
    if not np.isfinite(np.asarray(ours)).all():
        raise ArithmeticError("the loss of our training step is not finite.")
    return ""


def step_work(scale: Scale, top_k: bool) -> Work:
    """Return one training step on one batch, its state donated."""
    m, n, k, batch, _ = scale
    signals = np.random.default_rng(SEED).normal(size=(batch, m)).astype(np.float32)
    encoder = sc.encoders.top_k(m, n, num_active=k) if top_k else sc.encoders.linear(m, n)
    loss = losses.squared_error if top_k else losses.lasso
    atoms = sc.dictionaries.random(jax.random.key(1), num_atoms=n, num_measurements=m)
    data = TrainData(jnp.asarray(signals), None, None, jnp.float32(PENALTY), jnp.float32(RATE))
    start = init_state(jax.random.key(2), Autoencoder(encoder.init(jax.random.key(0)), atoms), data)
    one = functools.partial(train_step, encoder=encoder, recipe=Recipe(loss=loss))
    shapes, step = jax.eval_shape(lambda: start), jax.jit(one, donate_argnums=0)
    held = [start]

    def run() -> Any:
        held[0] = step(held[0], data)
        return held[0].loss

    peer = functools.partial(
        torch_peers.training_step, signals=signals, num_atoms=n, num_active=k if top_k else None,
        penalty=PENALTY, rate=RATE,
    )  # fmt: skip
    return Work(run, lambda: eval_flops(one, shapes, data), peer, finite_loss)


def sweep_work(scale: Scale, num_models: int, batch: int | None, num_steps: int) -> Work:
    """Return some steps of many models at once, in one program."""
    m, n, _, num_signals, _ = scale
    signals = np.random.default_rng(SEED).normal(size=(num_signals, m)).astype(np.float32)
    encoder = sc.encoders.linear(m, n)
    data = TrainData(jnp.asarray(signals), None, None, jnp.float32(PENALTY), jnp.float32(RATE))
    one = functools.partial(
        train_step, data=data, encoder=encoder, recipe=Recipe(losses.lasso, batch_size=batch)
    )

    def begin(key: Any) -> Any:
        atoms = sc.dictionaries.random(key, num_atoms=n, num_measurements=m)
        return init_state(key, Autoencoder(encoder.init(key), atoms), data)

    def advance(state: Any) -> Any:
        many = jax.vmap(one)
        return jax.lax.scan(lambda state, _: (many(state), None), state, length=num_steps)[0]

    start = jax.jit(jax.vmap(begin))(jax.random.split(jax.random.key(0), num_models))
    shapes, steps = jax.eval_shape(lambda: start), jax.jit(advance, donate_argnums=0)
    held = [start]

    def run() -> Any:
        held[0] = steps(held[0])
        return held[0].loss

    peer = functools.partial(
        torch_peers.sweep, signals=signals, num_models=num_models, num_atoms=n, batch=batch,
        num_steps=num_steps, penalty=PENALTY, rate=RATE,
    )  # fmt: skip
    return Work(run, lambda: eval_flops(advance, shapes), peer, finite_loss)


def dictionary_work(scale: Scale, num_rounds: int, num_steps: int = 8) -> Work:
    """Return ``learn_dictionary`` with one restart, by FISTA and least squares."""
    signals = problem_of(scale).signals
    signals = signals / np.sqrt(np.mean(np.sum(signals**2, axis=1)))  # the learner's own units
    x, key = jnp.asarray(signals), jax.random.key(0)
    _, first, last = penalties(x, None)

    def learn(key: Any, x: Any) -> tuple[Any, Any]:
        found = sc.dictionary_learning.learn_dictionary(
            key, x, num_atoms=scale.num_atoms, num_rounds=num_rounds, num_steps=num_steps,
            num_restarts=1, num_hops=0, num_refinement_rounds=0, solver=sc.solvers.fista(),
        )  # fmt: skip
        return found.dictionary, found.codes

    def objective(found: tuple) -> float:
        atoms, codes = (np.asarray(a, np.float64) for a in found)
        error = 0.5 * ((signals - codes @ atoms) ** 2).sum(axis=1)
        return float(np.mean(error + float(last) * codes.sum(axis=1)))

    def judge(ours: Any, theirs: Any) -> str:
        said = f"objective {objective(ours):.4f}"
        if theirs is not None:
            said += f", torch {objective(tuple(a.cpu().numpy() for a in theirs)):.4f}"
        return said

    numbers = jnp.arange(num_rounds)
    falling = annealing(first, last, *turning_points(num_rounds), numbers)[0]
    schedule = np.append(np.asarray(falling), np.float32(last))
    peer = functools.partial(
        torch_peers.learn, signals=signals, num_atoms=scale.num_atoms,
        penalties=schedule, num_steps=num_steps,
        last_steps=(JUDGING + POLISHING) * num_steps, momentum=MOMENTUM, ridge=RIDGE,
    )  # fmt: skip
    program = jax.jit(learn)
    return Work(lambda: program(key, x), lambda: eval_flops(learn, key, x), peer, judge)


def rows(sizes: Sizes) -> list[Row]:
    """Return all rows in the order in which they run: the checks first."""
    solved = {"b": sizes.b, "c": sizes.c}
    if sizes.few is not None:
        solved[f"c-{sizes.few}"] = sizes.c._replace(num_signals=sizes.few)
    chosen = {"omp": "orthogonal_matching_pursuit", "ols": "orthogonal_least_squares"}
    checks, timed, part = [], [], functools.partial
    for name, scale in solved.items():
        about, title = scale._asdict(), f"lasso, {described(scale)}"
        checks.append(Row(f"check-lasso-{name}", title, about, check=part(check_lasso, scale)))
        timed.append(Row(f"lasso-{name}", title, about, part(lasso_work, scale)))
    for name, scale in (("b", sizes.b), ("c", sizes.c)):
        for short, solver in chosen.items():
            about = scale._asdict() | {"reference": sizes.reference}
            title = f"{solver}, {described(scale)}"
            check = part(check_pursuit, scale, solver, sizes.reference)
            checks.append(Row(f"check-{short}-{name}", title, about, check=check))
            timed.append(Row(f"{short}-{name}", title, about, part(pursuit_work, scale, solver)))
    for name, top_k in (("topk-step", True), ("relu-step", False)):
        title = f"{'TopK' if top_k else 'ReLU'} training step, {described(sizes.step)}"
        build = part(step_work, sizes.step, top_k)
        timed.append(Row(name, title, sizes.step._asdict(), build, training=True))
    for name, batch in (("sweep-batch", sizes.batch), ("sweep-full", None)):
        about = {"models": sizes.num_models, "batch": batch, "steps": sizes.steps}
        shown = f"batches of {batch}" if batch else "all signals a step"
        title = (
            f"{sizes.num_models:,} models, {shown}, {sizes.steps} steps, {described(sizes.models)}"
        )
        build = part(sweep_work, sizes.models, sizes.num_models, batch, sizes.steps)
        about |= sizes.models._asdict()
        timed.append(Row(name, title, about, build, training=True))
    about = sizes.b._asdict() | {"rounds": sizes.rounds}
    title = f"learn_dictionary, {sizes.rounds} rounds, {described(sizes.b)}"
    timed.append(Row("dictionary", title, about, part(dictionary_work, sizes.b, sizes.rounds)))
    return checks + timed


def described(scale: Scale) -> str:
    return (
        f"M = {scale.num_measurements}, N = {scale.num_atoms:,}, K = {scale.num_active}, "
        f"{scale.num_signals:,} signals"
    )
