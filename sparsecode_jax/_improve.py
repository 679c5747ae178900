"""Better codes for the dictionary of a sparse autoencoder, and what they cost."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sparsecode_jax import _checks, dictionaries, solvers
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import SparseCodes
from sparsecode_jax.flops import eval_flops, value_and_flops
from sparsecode_jax.io._identity import digest_of
from sparsecode_jax.io.runs import Run
from sparsecode_jax.io.saes import Sae, with_its_tensors
from sparsecode_jax.prox import nonnegative_soft_threshold, soft_threshold
from sparsecode_jax.types import Array, ArrayLike, Lasso, PyTree, Solver

__all__ = ["Frontier", "improve"]

_CHOICE = 1024  # signals that penalties, thresholds and the recommendation are chosen on, at most
_LEVELS = 0.3, 0.15, 0.08, 0.04, 0.02  # penalties, of the mean largest correlation
_MORE = 1.6  # times as many atoms are proposed as leave-one-out keeps
_BATCH, _BATCH_CODES = 1024, 2**25
_WITH_GRAM = 8192  # atoms up to which an algorithm may make an array (N, N)

Inference = Callable[[ArrayLike], Array]


class Frontier(NamedTuple):
    """What each way to read codes explains, and costs. ``print`` shows it as a table.

    Arrays have an entry per inference, (I,). Scores are of signals that nothing was chosen on.

    Attributes:
      names: of the inferences; the first is the autoencoder's own encoder.
      r2: explained variance of the reconstructions, as :func:`~sparsecode_jax.metrics.r2`.
      l0: mean number of active latents.
      dead_fraction: of the latents, those that no signal uses.
      loss_recovered: what the function of that name returned; None without one.
      flops: arithmetic operations per signal, signals in and codes out, as measured.
      flops_once: once for a dictionary: step size, norms and products of atoms.
      choice_error: squared error per signal, of those that choices are made on.
      choice_l0: mean number of active latents, of the same.
      seconds: per signal, norms and products of atoms included, compilation and decoding not.
      numbers: the penalty or the threshold that was chosen; NaN where there is none.
      best: the index of the recommendation: the largest R² within ``max_flops``, both of the
        signals that choices are made on.
      efficient: whether no other inference explains as much for less, or more for as much.
      num_active: K.
      num_signals: how many were scored.
      inferences: functions ``(signals) -> codes``, (..., M) to (..., N).
      skipped: inferences that were not run, each with the reason.
    """

    names: tuple[str, ...]
    r2: np.ndarray
    l0: np.ndarray
    dead_fraction: np.ndarray
    loss_recovered: np.ndarray | None
    flops: np.ndarray
    flops_once: np.ndarray
    choice_error: np.ndarray
    choice_l0: np.ndarray
    seconds: np.ndarray
    numbers: np.ndarray
    best: int
    efficient: np.ndarray
    num_active: int
    num_signals: int
    inferences: tuple[Inference, ...]
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Return a table; * marks what is efficient, > the recommendation."""
        columns: list[tuple[str, Any]] = [
            ("R2", [f"{x:.4f}" for x in self.r2]),
            ("L0", [f"{x:.1f}" for x in self.l0]),
            ("dead", [f"{x:.4f}" for x in self.dead_fraction]),
            ("FLOPs", [f"{x:.3g}" for x in self.flops]),
            ("once", [f"{x:.3g}" for x in self.flops_once]),
            ("us", [f"{1e6 * x:.0f}" for x in self.seconds]),
        ]
        if self.loss_recovered is not None:
            columns.insert(1, ("loss", [f"{x:.4f}" for x in self.loss_recovered]))
        width = max(map(len, self.names))
        lines = ["   " + "codes by".ljust(width) + "".join(f"  {name:>9}" for name, _ in columns)]
        for row, name in enumerate(self.names):
            mark = (">" if row == self.best else " ") + ("*" if self.efficient[row] else " ")
            cells = "".join(f"  {values[row]:>9}" for _, values in columns)
            lines.append(f"{mark} {name.ljust(width)}{cells}")
        lines += [f"   {name.ljust(width)}  not run: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


class _Way(NamedTuple):
    """How codes are read; static, but for one number.

    Attributes:
      name: in the table.
      solver: None takes the encoder's codes.
      num_steps: of the solver.
      warm: whether it begins at the encoder's codes, with the number as its penalty.
      thins: whether leave-one-out drops codes, with the number as its threshold.
      kept: the most codes that are fitted anew; None leaves codes as they are.
    """

    name: str
    solver: Solver | None = None
    num_steps: int = 0
    warm: bool = False
    thins: bool = False
    kept: int | None = None


class _Parts(NamedTuple):
    """What a way reads: unit atoms (N', M) without those that are 0, and their norms."""

    params: PyTree
    bias: Array
    atoms: Array
    norms: Array
    places: Array | None  # of the atoms in the dictionary, None if none is 0
    step_size: Array
    gram: Array | None


def improve(
    sae: Sae,
    signals: ArrayLike,
    *,
    num_active: int | None = None,
    max_flops: float | None = None,
    num_steps: Sequence[int] = (5, 20),
    num_choice: int | None = None,
    batch_size: int | None = None,
    loss_recovered: Callable[[Inference], float] | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "improve",
) -> Frontier:
    """Find better codes for the dictionary of an autoencoder: explained variance against FLOPs.

    The same dictionary is read by the autoencoder's own encoder, in float32; ISTA, FISTA and SpaRSA
    from the encoder's codes; OMP, OLS and gradient pursuit; and OMP of 1.6 K atoms thinned by
    :func:`~sparsecode_jax.solvers.leave_one_out`. Codes that are not the best on their support are
    fitted anew by :func:`~sparsecode_jax.solvers.refit`. At most K of them are active, K on average
    if they are thinned; of an encoder's own, which may be more, at most 4 K are. All scores are of
    what ``sae.decode`` makes of the codes.

    The first signals are not scored: penalties (of five, the one that explains the most),
    thresholds and the recommendation are chosen on them. Order signals by document, so that no
    document is on both sides.

    Args:
      sae: from :func:`~sparsecode_jax.io.load_sae` or :func:`~sparsecode_jax.io.as_sae`.
      signals: a host array or a memory map (S, M), or (S, heads, d_head) where the autoencoder
        reshapes them; read block by block.
      num_active: K; None takes the encoder's own mean number of active latents, rounded.
        **Static**.
      max_flops: per signal, of the recommendation; None for no limit.
      num_steps: of the solvers that begin at the encoder's codes, one inference for each.
        **Static**.
      num_choice: signals to choose on; None takes a fifth of them, at most 1,024.
      batch_size: signals in a block; None takes 1,024, fewer above 32,768 atoms. **Static**.
      loss_recovered: ``(reconstruct) -> number``, which is given each inference and decoder as a
        function of signals (..., M), to be put into a model in the place of its activations.
      checkpoint: a file that keeps the scores of each inference, so that a run that was
        interrupted goes on. It does not know ``loss_recovered``: take another file for another.
      progress: label of the progress bar, None for no bar.

    Returns:
      A :class:`Frontier`.

    Raises:
      TypeError: the first argument is no Sae.
      ValueError: a transcoder, whose dictionary is not of its signals, or a skip connection; parts
        of an autoencoder that were replaced; signals of another width, not finite, all the same, or
        too large or small for sums of squares; fewer than 10 of them; a budget below the cheapest
        inference; a checkpoint of another run.

    **Cost**: each inference of all signals, four more times of those to choose on where there is a
    penalty. Besides the signals' block, arrays of ``batch_size`` by N; pursuits and refits share an
    array (N, N), and pursuits keep KN numbers per signal, on CPU for some signals at a time. Above
    8,192 atoms there is no such array: both cost more, and gradient pursuit is left out.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> encoder = sc.encoders.top_k(8, 16, num_active=3)
      >>> params = encoder.init(jax.random.key(0))
      >>> sae = sc.io.as_sae(encoder, params, sc.dictionaries.normalize(params.weight))
      >>> signals = jax.random.normal(jax.random.key(1), (200, 8))
      >>> frontier = sc.improve(sae, signals, num_steps=[5], progress=None)
      >>> frontier.names[0], frontier.num_active, frontier.r2[frontier.best] > frontier.r2[0]
      ('encoder', 3, np.True_)
    """
    name = "improve"
    rows = _checked(name, sae, signals)
    num_atoms = sae.dictionary.shape[0]
    if num_active is not None:
        _checks.count(name, "num_active", num_active, maximum=num_atoms)
    if max_flops is not None and not _checks.static(name, "max_flops", max_flops) > 0:
        raise ValueError(f"{name}: max_flops is {max_flops}; a number > 0 is expected.")
    if not isinstance(num_steps, (tuple, list)) or len(set(num_steps)) < len(num_steps):
        raise ValueError(
            f"{name}: num_steps is {num_steps!r}; a list of different integers is expected."
        )
    for count in num_steps:
        _checks.count(name, "num_steps", count)
    if loss_recovered is not None:
        _checks.function(name, "loss_recovered", loss_recovered)
    chosen = min(_CHOICE, len(rows) // 5) if num_choice is None else num_choice
    _checks.count(name, "num_choice", chosen, minimum=2, maximum=len(rows) - 2)
    choice, scored = rows[:chosen], rows[chosen:]
    size = min(_BATCH, max(16, _BATCH_CODES // num_atoms)) if batch_size is None else batch_size
    size = min(_checks.count(name, "batch_size", size), max(len(choice), len(scored)))
    deviation = _deviation(name, rows, chosen, size, sae.config["normalize_activations"])
    reader = _Reader(name, sae, size)
    own = reader.scores(_Way("encoder"), np.nan, choice)
    if num_active is None:
        num_active = max(1, round(own["active"] / chosen))
    ways, skipped = _ways(reader, num_active, int(own["most"]), tuple(num_steps))

    identity = {} if checkpoint is None else {
        "signals": digest_of(rows), "autoencoder": digest_of(sae.tensors),
        "configuration": {k: v for k, v in sae.config.items() if k != "metadata"},
        "num_active": num_active, "num_choice": chosen, "batch_size": size,
        "inferences": [way.name for way in ways], "loss_recovered": loss_recovered is not None,
    }  # fmt: skip
    bar = tqdm(total=len(ways) * len(rows), desc=progress, unit=" signals", unit_scale=True,
               disable=progress is None)  # fmt: skip
    with Run(checkpoint, identity, name=name) as run, bar:
        kept = run.load() if run.has() else {}
        results = [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]
        bar.update(len(results) * len(rows))
        for way in ways[len(results) :]:
            bar.set_postfix_str(way.name)
            results.append(_result(reader, way, num_active, choice, scored, loss_recovered))
            run.save(_columns(results))
            bar.update(len(rows))
    columns, names = _columns(results), tuple(way.name for way in ways)
    r2 = 1 - columns["error"] / deviation
    return Frontier(
        names=names, r2=r2, l0=columns["active"] / len(scored), dead_fraction=columns["dead"],
        loss_recovered=columns.get("recovered"), flops=columns["flops"],
        flops_once=columns["once"], choice_error=columns["choice_error"] / chosen,
        choice_l0=columns["choice_active"] / chosen, seconds=columns["seconds"],
        numbers=columns["number"],
        best=_recommended(
            name, names, columns["choice_flops"], columns["choice_error"], max_flops
        ),
        efficient=_efficient(columns["flops"], r2), num_active=num_active,
        num_signals=len(scored),
        inferences=tuple(
            functools.partial(reader.codes, way, float(number))
            for way, number in zip(ways, columns["number"], strict=True)
        ),
        skipped=tuple(skipped),
    )  # fmt: skip


def _columns(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {key: np.asarray([result[key] for result in results]) for key in results[0]}


def _checked(name: str, sae: Any, signals: ArrayLike) -> np.ndarray:
    """Return signals with one leading axis, or raise."""
    if not isinstance(sae, Sae):
        raise TypeError(
            f"{name}: the autoencoder is a {type(sae).__name__}; a Sae is expected, which "
            "load_sae and as_sae(encoder, params, dictionary, bias) return."
        )
    architecture = sae.config["architecture"]
    if architecture.endswith("transcoder") or "transcode" in sae.config:
        raise ValueError(
            f"{name}: the autoencoder is a transcoder, whose dictionary is not of the signals that "
            "it encodes; one that reconstructs its signals is expected."
        )
    if "skip_connection" in sae.config:
        raise ValueError(
            f"{name}: the autoencoder has a skip connection, so that its codes are not of the "
            "signals alone; one without is expected."
        )
    with_its_tensors(name, sae)
    (signals,) = _checks.real(name, signals)
    shape, width = np.shape(signals), sae.config["d_in"]
    heads = sae.config["reshape_activations"] == "hook_z"
    event = shape[-2:] if heads else shape[-1:]
    if len(shape) <= len(event) or np.prod(event, dtype=int) != width:
        expected = f"(S, heads, d_head) with heads * d_head = {width}" if heads else f"(S, {width})"
        raise ValueError(
            f"{name}: the signals have shape {shape}; {expected} is expected, the activations that "
            "the autoencoder was trained on. Check the layer and the model."
        )
    rows = np.asarray(signals).reshape(-1, *event)
    if len(rows) < 10:
        raise ValueError(
            f"{name}: {len(rows)} signals; at least 10 are expected, some to choose on and some to "
            "score."
        )
    return rows


def _ways(
    reader: _Reader, num_active: int, most: int, num_steps: tuple[int, ...]
) -> tuple[list[_Way], list[tuple[str, str]]]:
    num_atoms, num_measurements = reader.parts.atoms.shape
    prox = reader.prox
    kept = min(num_active, num_atoms, num_measurements)
    room = max(1, min(most, 4 * num_active, num_measurements, num_atoms))
    ways = [_Way("encoder"), _Way("encoder, refit", kept=room)]
    for label, build in (("ISTA", solvers.ista), ("FISTA", solvers.fista),
                         ("SpaRSA", solvers.sparsa)):  # fmt: skip
        for count in num_steps:
            solver = build(prox=prox)
            ways.append(_Way(f"encoder, {label} {count}, refit", solver, count, True, kept=kept))
    omp, ols = solvers.orthogonal_matching_pursuit, solvers.orthogonal_least_squares
    for label, pursuit in (("OMP", omp), ("OLS", ols)):
        ways.append(_Way(label, pursuit(kept, prox=prox), kept))
    skipped = []
    if num_atoms <= _WITH_GRAM:
        gradient = solvers.gradient_pursuit(kept, prox=prox)
        ways.append(_Way("gradient pursuit, refit", gradient, kept, kept=kept))
    else:
        reason = f"its array of {num_atoms:,} x {num_atoms:,} is left out above {_WITH_GRAM:,}"
        skipped.append(("gradient pursuit, refit", reason))
    more = min(round(_MORE * kept + 0.5), num_atoms, num_measurements)
    if more > kept:
        solver = omp(more, prox=prox)
        ways.append(_Way(f"OMP {more}, leave-one-out, refit", solver, more, False, True, more))
    return ways, skipped


class _Reader:
    """Reads codes of one autoencoder, in blocks of one size."""

    def __init__(self, name: str, sae: Sae, size: int):
        self.signed = sae.config["architecture"] == "abstopk"
        self.prox = soft_threshold if self.signed else nonnegative_soft_threshold
        self.sae, self.size = sae, size
        norms = np.linalg.norm(np.asarray(sae.dictionary, np.float64), axis=1)
        alive = np.flatnonzero(norms > 0)
        if not len(alive):
            raise ValueError(f"{name}: every atom is 0; a dictionary that was trained is expected.")
        self.steps: dict[Any, Array] = {}  # made once
        self.gram: Array | None = None  # made once, too
        self.counted: dict[_Way, tuple[int, int]] = {}  # for penalties that are tried, the same
        whole = len(alive) == len(norms)
        atoms = sae.dictionary if whole else sae.dictionary[alive]
        self.parts = _Parts(
            params=sae.params, bias=sae.bias, atoms=dictionaries.normalize(atoms),
            norms=jnp.asarray(norms[alive], atoms.dtype),
            places=None if whole else jnp.asarray(alive), step_size=jnp.zeros((), atoms.dtype),
            gram=None,
        )  # fmt: skip

    def step_size(self, way: _Way) -> Callable[[Array], Array] | None:
        """Return what makes a way's step size, None where nothing does."""
        if not way.warm or way.solver is None:
            return None
        return way.solver.step_size or dictionaries.step_size  # one for all that have none

    def products(self, way: _Way) -> bool:
        """Say whether a way is given the products of all atoms: pursuits and refits, if few."""
        pursues = way.solver is not None and not way.warm
        return (pursues or way.kept is not None) and len(self.parts.atoms) <= _WITH_GRAM

    def run(self, way: _Way, number: float, block: ArrayLike) -> Any:
        """Return codes (B, N) and their count."""
        make, parts = self.step_size(way), self.parts
        if self.products(way):
            if self.gram is None:
                with jax.ensure_compile_time_eval():
                    self.gram = jax.jit(dictionaries.correlate)(parts.atoms, parts.atoms)
            parts = parts._replace(gram=self.gram)
        if make is not None:
            if make not in self.steps:
                with jax.ensure_compile_time_eval():  # kept, so no number of a trace
                    self.steps[make] = jax.jit(make)(parts.atoms)
            parts = parts._replace(step_size=self.steps[make])
        return _read(
            parts, jnp.asarray(number, parts.bias.dtype), block, way=way, encoder=self.sae.encoder,
            normalize=self.sae.normalize, prox=self.prox,
        )  # fmt: skip

    def centered(self, block: np.ndarray) -> Array:
        """Return signals as the atoms see them."""
        rows = self.sae.normalize(block)
        return rows - as_row(self.parts.bias, rows)

    def once(self, way: _Way, block: np.ndarray) -> tuple[int, int]:
        """Return the operations for a dictionary: before all blocks, and in each."""
        if way not in self.counted:
            self.counted[way] = self._once(way, block)
        return self.counted[way]

    def _once(self, way: _Way, block: np.ndarray) -> tuple[int, int]:
        make = self.step_size(way)
        atoms = self.parts.atoms
        before = 0 if make is None else eval_flops(make, atoms).total()
        if self.products(way):
            before += eval_flops(dictionaries.correlate, atoms, atoms).total()
        own = way.solver is None or way.warm  # of which the refit alone does anything once
        if own and way.kept is None:
            return before, 0

        def refit(centered: Array) -> Array:
            gram = jnp.zeros((len(atoms), len(atoms)), atoms.dtype) if self.products(way) else None
            known = dictionaries.Prepared(atoms, jnp.ones((), atoms.dtype), gram)
            codes = jnp.zeros((len(centered), len(atoms)), centered.dtype)
            return solvers.refit(codes, centered, known, num_active=way.kept, prox=self.prox)

        # Refits and pursuits, whose work depends on no values.
        read, rows = (refit, atoms) if own else (lambda x: self.run(way, np.nan, x)[0], block)
        one, two = (
            eval_flops(read, _like(rows, size)).total() for size in (self.size, 2 * self.size)
        )
        return before, 2 * one - two

    def codes(self, way: _Way, number: float, signals: ArrayLike) -> Array:
        """Return the codes of any signals, (..., N)."""
        heads = self.sae.config["reshape_activations"] == "hook_z"
        (array,) = _checks.floating("improve", signals)
        leading = array.shape[: -2 if heads else -1]
        event = array.shape[len(leading) :]
        found = self.run(way, number, array.reshape(-1, *event))[0]
        return found.reshape(*leading, found.shape[-1])

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Give blocks of one size, the last filled up, and how many of their rows are signals."""
        for start in range(0, len(rows), self.size):
            block = _block(rows[start : start + self.size])
            short = self.size - len(block)
            yield np.pad(block, [(0, short), *[(0, 0)] * (block.ndim - 1)], "edge"), len(block)

    def scores(self, way: _Way, number: float, rows: np.ndarray) -> dict[str, Any]:
        """Return sums over rows: squared error, active codes, operations, seconds."""
        error, active, most, flops, seconds, in_each = 0.0, 0, 0, 0.0, 0.0, None
        used = np.zeros(len(self.sae.dictionary), np.int64)
        for block, count in self.blocks(rows):
            in_each = self.once(way, block)[1] if in_each is None else in_each
            began = time.monotonic()
            codes, counted = jax.block_until_ready(self.run(way, number, block))
            seconds += (time.monotonic() - began) * count / self.size
            flops += (counted.total() - in_each) * count / self.size
            found = self.sae.decode(codes, block)
            errors, counts, uses = _sums(block, found, codes, count)
            error += float(np.sum(np.asarray(errors, np.float64)))
            active, most = active + int(np.sum(counts)), max(most, int(np.max(counts)))
            used = used + np.asarray(uses)
        return {
            "error": error, "active": active, "most": most, "flops": flops / len(rows),
            "seconds": seconds / len(rows), "dead": np.mean(used == 0), "in_each": in_each,
        }  # fmt: skip


def _like(block: Any, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *block.shape[1:]), block.dtype)


@functools.partial(jax.jit, static_argnames=("way", "encoder", "normalize", "prox"))
def _read(
    parts: _Parts, number: Array, signals: Array, *, way: _Way, encoder: Any, normalize: Callable,
    prox: Callable,
) -> Any:  # fmt: skip
    def codes(parts: _Parts, number: Array, signals: Array) -> Array:
        rows = signals.reshape(len(signals), -1).astype(parts.bias.dtype)
        if way.solver is None or way.warm:
            own = encoder.apply(parts.params, rows)
            if way.solver is None and way.kept is None:
                return own
            started = own if parts.places is None else own[:, parts.places]
            started = started * as_row(parts.norms, started)
        centered = normalize(signals).astype(parts.bias.dtype)
        centered = centered - as_row(parts.bias, centered)
        if way.solver is None:
            found = started
        else:
            penalty = number if way.warm else jnp.zeros_like(number)
            problem = Lasso(centered, parts.atoms, penalty, parts.step_size, parts.gram)
            found = solvers.solve(
                way.solver, problem, num_steps=way.num_steps, codes0=started if way.warm else None
            )
        if way.thins:
            found = solvers.leave_one_out(found, centered, parts.atoms, threshold=number)
        if way.kept is not None:
            atoms = dictionaries.Prepared(parts.atoms, parts.step_size, parts.gram)
            found = solvers.refit(found, centered, atoms, num_active=way.kept, prox=prox)
        found = found / as_row(parts.norms, found)
        if parts.places is None:
            return found
        num_atoms = encoder.apply(parts.params, rows[:1]).shape[-1]
        return jnp.zeros((len(rows), num_atoms), found.dtype).at[:, parts.places].set(found)

    return value_and_flops(codes)(parts, number, signals)


@functools.partial(jax.jit, static_argnames="count")
def _sums(signals: Array, found: Array, codes: Array, count: int) -> tuple[Array, Array, Array]:
    """Return the squared error and the active codes of each signal, and the uses of each latent."""
    wide = jnp.promote_types(found.dtype, jnp.float32)
    difference = (signals.astype(wide) - found.astype(wide)).reshape(len(signals), -1)[:count]
    active = codes[:count] != 0
    return jnp.sum(difference**2, axis=1), jnp.sum(active, axis=1), jnp.sum(active, axis=0)


def _result(
    reader: _Reader, way: _Way, num_active: int, choice: np.ndarray, scored: np.ndarray,
    loss_recovered: Callable[[Inference], float] | None,
) -> dict[str, Any]:  # fmt: skip
    """Choose a way's number, and score it."""
    number, on_choice = _chosen(reader, way, num_active, choice)
    result = reader.scores(way, number, scored)
    before = reader.once(way, choice[:1])[0]
    result |= {
        "number": number, "once": float(before + result.pop("in_each")),
        "choice_error": on_choice["error"], "choice_flops": on_choice["flops"],
        "choice_active": on_choice["active"],
    }  # fmt: skip
    if loss_recovered is not None:

        def reconstruct(signals: ArrayLike) -> Array:
            return reader.sae.decode(reader.codes(way, number, signals), signals)

        result["recovered"] = _checks.static(
            "improve", "what loss_recovered returns", loss_recovered(reconstruct)
        )
    return result


def _chosen(
    reader: _Reader, way: _Way, num_active: int, choice: np.ndarray
) -> tuple[float, dict[str, Any]]:
    """Return the penalty or the threshold, and the scores of the choice with it."""
    if way.warm:
        atoms, largest = reader.parts.atoms, 0.0
        for block, count in reader.blocks(choice):
            rows = reader.centered(block)[:count]
            products = dictionaries.correlate(rows, atoms)
            products = jnp.abs(products) if reader.signed else products
            largest += float(jnp.sum(jnp.max(products, axis=1)))
        scale = max(largest / len(choice), float(jnp.finfo(atoms.dtype).tiny))
        tried = [(level * scale, reader.scores(way, level * scale, choice)) for level in _LEVELS]
        return min(tried, key=lambda found: _or_infinity(found[1]["error"]))
    number = np.nan
    if way.thins:
        number = _threshold(reader, way, num_active, choice)
    return number, reader.scores(way, number, choice)


def _or_infinity(error: float) -> float:
    return error if np.isfinite(error) else np.inf


def _threshold(reader: _Reader, way: _Way, num_active: int, choice: np.ndarray) -> float:
    """Return the threshold of leave-one-out at which the mean number of codes is K."""
    proposed = way._replace(thins=False, kept=None)
    blocks = []
    for block, count in reader.blocks(choice):
        codes = reader.run(proposed, np.nan, block)[0]
        codes = codes if reader.parts.places is None else codes[:, reader.parts.places]
        codes = (codes * as_row(reader.parts.norms, codes))[:count]
        sparse = SparseCodes.from_dense(codes, num_active=way.num_steps)
        blocks.append((sparse, reader.centered(block)[:count]))
    low, high = 0.0, max(float(jnp.max(jnp.abs(codes.values))) for codes, _ in blocks)
    for _ in range(20):
        middle = (low + high) / 2
        left = sum(
            int(jnp.sum(solvers.leave_one_out(
                codes, rows, reader.parts.atoms, threshold=middle).values != 0))
            for codes, rows in blocks
        )  # fmt: skip
        low, high = (middle, high) if left > num_active * len(choice) else (low, middle)
    return high


def _deviation(name: str, rows: np.ndarray, skipped: int, size: int, normalized: str) -> float:
    """Return the summed squared deviation from the mean signal; check those skipped, too."""
    center, sums, about, largest = None, np.zeros(rows[0].size), 0.0, 0.0
    for start in [*range(0, skipped, size), *range(skipped, len(rows), size)]:
        stop = min(start + size, skipped if start < skipped else len(rows))
        block = _block(rows[start:stop]).reshape(stop - start, -1).astype(np.float64)
        wrong = ~np.isfinite(block).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"{name}: signal {start + int(np.argmax(wrong))} is not finite; finite numbers are "
                "expected. Leave such signals out."
            )
        zero = ~block.any(axis=1)
        if zero.any() and normalized == "constant_norm_rescale":
            raise ValueError(
                f"{name}: signal {start + int(np.argmax(zero))} is all zeros, whose norm the "
                "autoencoder divides by; others are expected. Leave such signals out."
            )
        largest = max(largest, float(np.abs(block).max()))
        if start >= skipped:
            center = block.mean(axis=0) if center is None else center  # sums do not cancel
            block = block - center
            sums, about = sums + block.sum(axis=0), about + np.sum(block * block)
    _checks.squares(name, "signals", largest)
    deviation = float(about - sums @ sums / (len(rows) - skipped))
    if not deviation > 1e-24 * largest**2:  # that is rounding
        raise ValueError(
            f"{name}: the {len(rows) - skipped} signals that are scored are all the same, so that "
            "there is nothing to explain; others are expected. Check what wrote them."
        )
    return deviation


def _block(rows: np.ndarray) -> np.ndarray:
    """Return rows of a file in memory, in float32 unless they are wider."""
    return np.asarray(rows, np.promote_types(np.float32, rows.dtype))


def _recommended(
    name: str, names: Sequence[str], flops: np.ndarray, errors: np.ndarray, max_flops: float | None
) -> int:
    """Return the least error within the budget; what is not finite comes last."""
    within = np.ones(len(flops), bool) if max_flops is None else flops <= max_flops
    if not within.any():
        cheapest = int(np.argmin(flops))
        raise ValueError(
            f"{name}: max_flops is {max_flops:g} per signal, but the cheapest inference, "
            f"{names[cheapest]}, takes {flops[cheapest]:,.0f}; at least that is expected."
        )
    errors = np.where(within, errors, np.inf)
    if not np.isfinite(errors).any():
        raise FloatingPointError(
            f"{name}: no reconstruction is finite; weights that are finite, and signals of the "
            "scale that the autoencoder was trained on, are expected."
        )
    return int(np.nanargmin(errors))


def _efficient(flops: np.ndarray, r2: np.ndarray) -> np.ndarray:
    """Say of each inference that no other explains as much for less, or more for as much."""
    cheap = flops <= flops[:, None]  # of row i: column j is as cheap, and explains as much
    good = np.nan_to_num(r2, nan=-np.inf) >= r2[:, None]
    other = (flops < flops[:, None]) | (r2 > r2[:, None])
    return np.isfinite(r2) & ~(cheap & good & other).any(axis=1)
