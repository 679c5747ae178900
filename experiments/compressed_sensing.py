"""Recover images from few random projections: solvers, LISTA and one unrolled network.

Claim: on these images nothing is ahead of the best linear map. One unrolled network, trained end to
end for all rates, has its PSNR at 5 to 20 % of the measurements (within .3 dB, which three seeds do
not tell apart) for 45 times its FLOPs, and is .5 and 1.8 dB below it at 30 and 50 %. It is level
with 100 steps of FISTA for a tenth of their FLOPs. To serve all rates costs it nothing: it is not
below the same network trained at 20 % alone, even there (+.35 dB, -.04 to +.75), and 1 to 4 dB
above it at the other rates.

Data: scikit-learn's two sample photographs in gray. Everything is learned on the left three
quarters of both; the right quarters are recovered in patches that do not overlap. Of a patch of 144
pixels the mean is measured, and the rest by the first rows of a random orthonormal matrix, without
noise: 5 % are the mean and 6 projections.

Methods: the least-norm image (zero-filled: the transpose of the projections); the best linear map
for the covariance of training patches; FISTA with the cosine basis; FISTA and OMP with a dictionary
learned online, penalty and number of atoms chosen for each rate on training patches; FISTA with a
penalty of each atom's own, in inverse proportion to its codes of whole patches; LISTA, which
sees the measurements with zeros in the place of those that were not made; an unrolled network, T
steps of FISTA whose dictionary, step sizes, momenta and thresholds are trained, and which knows the
projections and the rate. LISTA and the network are trained to recover pixels, each on all numbers
of measurements at once; the network, besides, at 20 % alone.

Command: ``python -m experiments.compressed_sensing`` (13 minutes on 2 cores, finished seeds are
kept; ``--quick`` half a minute). Expected: docs/results/compressed_sensing.txt and its figures.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import common
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.training import Model, Recipe
from sparsecode_jax.types import Role

NAME = "compressed_sensing"
SIDE = 12
PIXELS = SIDE * SIDE
PICTURED, MIDDLE = 1, 2  # rates that are shown, and at which FLOPs are compared
PENALTY0 = 0.003  # where networks begin
SIGNED = sc.prox.soft_threshold
FISTA = sc.solvers.fista(prox=SIGNED, restart=sc.solvers.gradient_restart)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured and learned.

    Attributes:
      rates: measurements over pixels, increasing.
      seeds: of projections, patches, dictionary and training.
      num_atoms: N of the learned dictionary.
      num_patches: to learn the dictionary and the covariance from.
      penalties: to choose from.
      solver_steps: of FISTA, each a point of the curve against FLOPs.
      actives: numbers of atoms of OMP to choose from.
      num_layers: of LISTA and of the network.
      num_steps: training steps of each.
      batch_size: patches a step.
    """

    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_atoms: int = 288
    num_patches: int = 20_000
    penalties: tuple[float, ...] = (0.03, 0.01, 0.003, 0.001, 0.0003)
    solver_steps: tuple[int, ...] = (10, 30, 100)
    actives: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    num_layers: int = 8
    num_steps: int = 2_000
    batch_size: int = 128

    @property
    def counts(self) -> tuple[int, ...]:
        """Return how many projections there are of a patch besides its mean, by rate."""
        return tuple(round(rate * PIXELS) - 1 for rate in self.rates)


QUICK = Config(
    rates=(0.05, 0.1, 0.2), seeds=(0,), num_atoms=160, num_patches=2_000,
    penalties=(0.01, 0.003), solver_steps=(3,), actives=(2,), num_layers=2, num_steps=20,
    batch_size=32,
)  # fmt: skip


# --- images --------------------------------------------------------------------------------------


@functools.cache
def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Return left and right parts of both in gray, (2, H, W) of 0 to 1."""
    from sklearn.datasets import load_sample_images

    gray = np.stack(load_sample_images().images).mean(axis=-1, dtype=np.float32) / 255
    left, right = np.split(gray, [3 * gray.shape[2] // 4], axis=2)
    return left, right[:, : right.shape[1] // SIDE * SIDE, : right.shape[2] // SIDE * SIDE]


def cut(images: np.ndarray) -> np.ndarray:
    """Cut images (2, H, W) into patches (S, P) that do not overlap."""
    count, height, width = images.shape
    tiles = images.reshape(count, height // SIDE, SIDE, width // SIDE, SIDE)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(-1, PIXELS)


def joined(patches: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Put patches together again: undo :func:`cut`."""
    count, height, width = like.shape
    tiles = np.reshape(patches, (count, height // SIDE, width // SIDE, SIDE, SIDE))
    return tiles.transpose(0, 1, 3, 2, 4).reshape(like.shape)


def psnr(patches: np.ndarray, recovered: Any) -> float:
    """Return the mean over the two images of the peak signal-to-noise ratio, in decibels.

    Args:
      patches: (S, P), the first image's first.
      recovered: (S, P), less the mean of each patch, which was measured.
    """
    got = np.clip(np.asarray(recovered) + patches.mean(axis=1, keepdims=True), 0, 1)
    errors = np.square(patches - got, dtype=np.float64).reshape(2, -1).mean(axis=1)
    return float(np.mean(-10 * np.log10(errors)))


def training_patches(seed: int, count: int) -> np.ndarray:
    """Draw patches (S, P) from the left parts, as many of each photograph."""
    rng = np.random.default_rng(seed)
    windows = np.lib.stride_tricks.sliding_window_view(photographs()[0], (SIDE, SIDE), axis=(1, 2))
    which = np.arange(count) * 2 // count
    rows, columns = (rng.integers(0, size, count) for size in windows.shape[1:3])
    return windows[which, rows, columns].reshape(count, PIXELS)


def centered(patches: Any) -> Any:
    """Take the mean of each patch off."""
    return patches - patches.mean(axis=-1, keepdims=True)


def projections(seed: int, count: int) -> np.ndarray:
    """Return random orthonormal rows that do not see the mean, (count, P)."""
    drawn = centered(np.random.default_rng([seed, 1]).normal(size=(PIXELS - 1, PIXELS)))
    return np.linalg.qr(drawn.T)[0].T[:count].astype(np.float32)


def cosines() -> np.ndarray:
    """Return the orthonormal cosine basis of patches without mean, (P - 1, P)."""
    places, orders = np.arange(SIDE) + 0.5, np.arange(SIDE)[:, None]
    one = np.cos(np.pi * places * orders / SIDE) * np.sqrt(np.where(orders == 0, 1, 2) / SIDE)
    return np.kron(one, one)[1:].astype(np.float32)


# --- solvers -------------------------------------------------------------------------------------


def linear_map(projection: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Return the linear map (m, P) of least mean squared error for the patches' covariance."""
    covariance = patches.T.astype(np.float64) @ patches / len(patches)
    seen = projection @ covariance @ projection.T
    ridge = 1e-6 * np.trace(seen) / len(seen) * np.eye(len(seen))
    return np.linalg.solve(seen + ridge, projection @ covariance).astype(np.float32)


class Known(NamedTuple):
    """What a solver is given at a rate: atoms (N, m), what they are of (N, P), and its step."""

    atoms: Any
    dictionary: Any
    step_size: Any


@functools.partial(jax.jit, static_argnames=("solver", "num_steps"))
def by_solver(measured: Any, given: Known, penalty: Any, solver: sc.Solver, num_steps: int) -> Any:
    """Recover by a solver on the projected atoms."""
    problem = sc.Lasso(measured, given.atoms, penalty, given.step_size)
    return sc.solvers.solve(solver, problem, num_steps=num_steps) @ given.dictionary


def learn(patches: np.ndarray, config: Config, seed: int) -> np.ndarray:
    """Learn a dictionary (N, P) of signed codes from the patches."""
    order = np.random.default_rng([seed, 2]).permutation(len(patches))
    batches = np.array_split(patches[order], max(1, len(patches) // 400))
    found = sc.dictionary_learning.learn_dictionary_online(
        jax.random.key(seed), batches, num_atoms=config.num_atoms, solver=FISTA, num_steps=50,
        penalty=0.05, num_epochs=2, progress=None,
    )  # fmt: skip
    return np.asarray(found.dictionary)


# --- networks ------------------------------------------------------------------------------------


class ListaParams(NamedTuple):
    """LISTA's matrices, the dictionary that its codes are of; given as in the other network."""

    layers: sc.encoders.ListaParams
    dictionary: Any
    projection: Any
    between: Any


class UnrolledParams(NamedTuple):
    """Of T layers.

    Attributes:
      dictionary: (N, P), in which the residual is measured.
      decoder: (N, P), which the codes recover the patch by.
      log_step: (T, 2), at the rate 1 and its slope in the logarithm of the rate.
      log_threshold: (T, N), at the rate 1.
      slope: (T,), of the thresholds in the logarithm of the rate.
      momentum: (T,).
      projection: (m, P), given.
      between: the least and the largest number of projections to be trained on, (2,), given.
    """

    dictionary: Any
    decoder: Any
    log_step: Any
    log_threshold: Any
    slope: Any
    momentum: Any
    projection: Any
    between: Any


@jax.jit
def lista_network(params: ListaParams, measured: Any) -> Any:
    """Recover patches (S, P) from measurements with zeros behind, (S, m)."""
    encoder = sc.encoders.lista(
        measured.shape[-1], params.dictionary.shape[0],
        num_layers=params.layers.thresholds.shape[0], prox=SIGNED,
    )  # fmt: skip
    return encoder.apply(params.layers, measured) @ params.dictionary


@jax.jit
def unrolled_network(
    params: UnrolledParams, measured: Any, atoms: Any, count: Any, made: Any = 1
) -> Any:
    """Recover patches (S, P) from measurements (S, m) by projected atoms (N, m).

    Args:
      params: trained.
      measured: (S, m), zeros behind.
      atoms: the dictionary times the projections.
      count: how many projections were made, () or (S, 1).
      made: (S, m), 1 where they were and 0 behind, unless the atoms are 0 there.
    """
    rate = jnp.log((count + 1) / PIXELS)
    codes = jnp.zeros((*measured.shape[:-1], atoms.shape[0]), measured.dtype)

    def layer(carry: tuple[Any, Any], now: tuple[Any, ...]) -> tuple[tuple[Any, Any], None]:
        codes, before = carry
        log_step, log_threshold, slope, momentum = now
        ahead = codes + momentum * (codes - before)
        residual = (measured - ahead @ atoms) * made
        step = jnp.exp(log_step[0] + log_step[1] * rate)
        threshold = jnp.exp(log_threshold + slope * rate)
        return (SIGNED(ahead + step * (residual @ atoms.T), threshold), codes), None

    layers = (params.log_step, params.log_threshold, params.slope, params.momentum)
    (codes, _), _ = jax.lax.scan(layer, (codes, codes), layers)
    return codes @ params.decoder


def start_lista(dictionary: Any, projection: Any, between: Any, depth: int) -> ListaParams:
    """Begin at ISTA on all measurements."""
    layers = sc.encoders.lista_params(dictionary @ projection.T, PENALTY0, num_layers=depth)
    return ListaParams(layers, *map(jnp.asarray, (dictionary, projection, between)))


def start_unrolled(dictionary: Any, projection: Any, between: Any, depth: int) -> UnrolledParams:
    """Begin at FISTA with the learned dictionary."""
    dictionary, projection, between = map(jnp.asarray, (dictionary, projection, between))
    step = jnp.log(sc.dictionaries.step_size(dictionary @ projection.T))
    layer = jnp.arange(depth, dtype=jnp.float32)
    return UnrolledParams(
        dictionary, dictionary, jnp.tile(jnp.stack([step, 0 * step]), (depth, 1)),
        jnp.tile(step + jnp.log(PENALTY0), (depth, len(dictionary))), 0 * layer,
        layer / (layer + 3), projection, between,
    )  # fmt: skip


def _measured(params: Any, given: Any) -> tuple[Any, Any, Any]:
    """Measure patches (S, P + 1) whose last entry, 0 to 1, says by how many projections.

    Returns:
      Measurements with zeros behind (S, m), how many were made (S, 1), and which (S, m).
    """
    low, high = params.between
    count = jnp.floor(low * ((high + 1) / low) ** given[:, -1:])
    made = (jnp.arange(params.projection.shape[0]) < count).astype(given.dtype)
    return (given[:, :-1] @ params.projection.T) * made, count, made


def _train_lista(params: ListaParams, given: Any) -> Any:
    return lista_network(params, _measured(params, given)[0])


def _train_unrolled(params: UnrolledParams, given: Any) -> Any:
    atoms = params.dictionary @ params.projection.T
    measured, count, made = _measured(params, given)
    return unrolled_network(params, measured, atoms, count, made)


@functools.cache
def encoder_of(network: Callable, start: Callable, config: Config) -> sc.Encoder:
    """Return a network as an encoder that gives pixels, its start random."""

    def init(key: Any) -> Any:
        atoms = sc.dictionaries.random(key, num_atoms=config.num_atoms, num_measurements=PIXELS)
        most = config.counts[-1]
        return start(atoms, projections(0, most), np.float32([1, most]), config.num_layers)

    trained = jax.tree.map(lambda _: Role.SHARED, jax.eval_shape(init, jax.random.key(0)))
    roles = trained._replace(projection=Role.FROZEN, between=Role.FROZEN)
    return sc.Encoder(init, network, roles=roles)


def squared_error(recovered: Any, batch: Any) -> Any:
    """Return the squared error of recovered patches, which stand in the place of codes."""
    return jnp.mean(jnp.sum(jnp.square(recovered - batch.true_codes), axis=-1))


@functools.cache
def sampler(batch_size: int) -> Callable:
    """Return a function that draws patches, and numbers that say how they are measured."""
    left = jnp.asarray(photographs()[0])

    def draw(key: Any, step: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, 3)
        room = jnp.asarray(left.shape[1:]) - SIDE + 1
        corners = jnp.floor(jax.random.uniform(keys[0], (batch_size, 2)) * room).astype(int)
        which = jax.random.randint(keys[1], (batch_size, 1), 0, len(left))
        places = jnp.concatenate([which, corners], axis=1)
        tiles = jax.vmap(lambda place: jax.lax.dynamic_slice(left, place, (1, SIDE, SIDE)))(places)
        patches = centered(tiles.reshape(batch_size, PIXELS))
        share = jax.random.uniform(keys[2], (batch_size, 1))
        return jnp.concatenate([patches, share], axis=1), patches

    return draw


@functools.cache
def cosine_decay(num_steps: int) -> Callable:
    """Return Adam whose learning rate falls to zero along a cosine."""

    def optimizer(rate: Any) -> optax.GradientTransformation:
        return optax.adam(lambda step: rate * (1 + jnp.cos(jnp.pi * step / num_steps)) / 2)

    return optimizer


def train(
    network: Callable,
    start: Callable,
    begin: tuple,
    learning_rate: float,
    config: Config,
    checkpoint: pathlib.Path,
) -> Any:
    """Train a network end to end, from the dictionary, for the projections and numbers of them."""
    found = sc.training.fit(
        jax.random.key(0), encoder_of(network, start, config), sampler(config.batch_size),
        model=Model(start(*begin, config.num_layers)), num_steps=config.num_steps,
        recipe=Recipe(squared_error, cosine_decay(config.num_steps)),
        learning_rate=learning_rate, checkpoint=checkpoint, progress=checkpoint.stem,
    )  # fmt: skip
    return found.params.encoder


# --- the comparison ------------------------------------------------------------------------------


LABELS = {
    "least_norm": "least norm (zero-filled)", "linear": "best linear map",
    "cosine": "FISTA, cosine basis", "fista": "FISTA, learned dictionary",
    "weighted": "FISTA, penalties by atom", "omp": "OMP, learned dictionary",
    "lista": "LISTA, one for all rates", "unrolled": "unrolled, one for all rates",
    "alone": "unrolled, for 20 % alone",
}  # fmt: skip
PAIRS = (("unrolled", "linear"), ("unrolled", "weighted"), ("unrolled", "lista"),
         ("weighted", "linear"), ("weighted", "fista"), ("unrolled", "alone"))  # fmt: skip


def measure(config: Config, seed: int, run: sc.io.Run) -> dict[str, np.ndarray]:
    """Learn everything by one seed, and recover the test images at every rate.

    All rates are one program each: projections that are not made are rows of zeros. Operations are
    counted without them.
    """
    counts, right = config.counts, photographs()[1]
    test, patches = cut(right), training_patches(seed, config.num_patches)
    choice = patches[np.linspace(0, len(patches) - 1, len(test)).astype(int)]
    patches = centered(patches)
    projection = projections(seed, counts[-1])
    learned = run.once(f"atoms-{seed}", lambda: {"atoms": learn(patches, config, seed)})["atoms"]
    codes = sc.sparse_encode(
        centered(choice), learned, 0.01, solver=FISTA, num_steps=config.solver_steps[-1]
    )
    used = np.abs(codes).mean(axis=0) / np.abs(codes).mean()
    dictionaries = {
        "cosine": (cosines(), 1.0), "fista": (learned, 1.0), "weighted": (learned, 1 / (used + 0.1))
    }  # fmt: skip
    whole, alone = (counts[0], counts[-1]), (counts[MIDDLE], counts[MIDDLE])
    networks = {
        name: train(
            network, start, (learned, projection, np.float32(between)), rate, config,
            run.file(f"{name}-{seed}"),
        )
        for name, network, start, between, rate in (
            ("lista", _train_lista, start_lista, whole, 1e-3),  # at 2e-3 its loss stays high
            ("unrolled", _train_unrolled, start_unrolled, whole, 2e-3),
            ("alone", _train_unrolled, start_unrolled, alone, 2e-3),
        )
    }  # fmt: skip
    found: dict[str, list] = {}

    def note(key: str, value: Any) -> None:
        found.setdefault(key, []).append(value)

    for count in counts:
        made = (np.arange(counts[-1]) < count).astype(np.float32)[:, None] * projection
        short = projection[:count]
        methods = _methods(config, made, count, patches, dictionaries, networks)
        shorter = _methods(config, short, count, patches, dictionaries, networks, steps=False)
        shape = jax.ShapeDtypeStruct((len(test), count), jnp.float32)
        for name, options in methods.items():
            on = 0
            if len(options) > 1:
                given = centered(choice) @ made.T
                on = int(np.argmax([psnr(choice, recover(given)) for recover in options.values()]))
            option = list(options)[on]
            recovered = np.asarray(options[option](centered(test) @ made.T))
            note(f"psnr/{name}", psnr(test, recovered))
            note(f"option/{name}", option)
            note(f"flops/{name}", eval_flops(shorter[name][option], shape).total() / len(test))
            if count == counts[PICTURED] and name in LABELS:
                picture = joined(recovered + test.mean(axis=1, keepdims=True), right)[0]
                found[f"picture/{name}"] = list(picture.astype(np.float16))
    return {name: np.asarray(values) for name, values in found.items()}


def _methods(
    config: Config,
    rows: np.ndarray,
    count: int,
    patches: np.ndarray,
    dictionaries: dict[str, tuple],
    networks: dict[str, Any],
    *,
    steps: bool = True,
) -> dict[str, dict[float, Callable]]:
    """Return what recovers patches from their projections on rows, by method and its option.

    The option of FISTA is the penalty, that of OMP the number of atoms; others have one, 0.
    ``steps=False`` leaves step sizes out, where operations are counted.
    """
    methods: dict[str, dict[float, Callable]] = {
        "least_norm": {0: functools.partial(_times, rows)},
        "linear": {0: functools.partial(_times, linear_map(rows, patches))},
    }
    for name, (dictionary, weights) in dictionaries.items():
        atoms = dictionary @ rows.T
        given = Known(atoms, dictionary, sc.dictionaries.step_size(atoms) if steps else 1.0)
        for number in config.solver_steps[-1 if name == "cosine" else 0 :]:
            point = name if number == config.solver_steps[-1] else f"{name}_{number}"
            methods[point] = {
                penalty: functools.partial(
                    by_solver,
                    given=given,
                    penalty=penalty * weights,
                    solver=FISTA,
                    num_steps=number,
                )
                for penalty in config.penalties
            }
    methods["omp"] = {
        active: functools.partial(
            by_solver, given=given, penalty=1.0, num_steps=active,
            solver=sc.solvers.orthogonal_matching_pursuit(active, prox=SIGNED),
        )
        for active in config.actives if active <= count
    }  # fmt: skip
    lista = networks["lista"]
    cut_to = lista.layers._replace(weights=lista.layers.weights[..., : len(rows)])
    methods["lista"] = {0: functools.partial(lista_network, lista._replace(layers=cut_to))}
    for name in ("unrolled", "alone"):
        atoms = networks[name].dictionary @ rows.T
        network = functools.partial(unrolled_network, networks[name], atoms=atoms, count=count)
        methods[name] = {0: network}
    return methods


def _times(matrix: np.ndarray, measured: Any) -> Any:
    return measured @ matrix


def table(arrays: dict[str, np.ndarray], config: Config) -> str:
    """Return the report: quality by rate, quality against operations, and differences."""
    rates = [f"{rate:.0%}" for rate in config.rates]
    rows = [
        [label, *(common.estimate(column, 2) for column in arrays[f"psnr/{name}"].T)]
        for name, label in LABELS.items()
    ]
    points = [
        (name, f"{LABELS[name]}, {steps} steps", f"{name}_{steps}")
        for name in ("fista", "weighted") for steps in config.solver_steps[:-1]
    ]  # fmt: skip
    points += [(name, LABELS[name], name) for name in LABELS]
    curve = sorted(
        (float(arrays[f"flops/{key}"][0, MIDDLE]), label, key) for _, label, key in points
    )
    work = [
        [label, f"{flops:,.0f}", common.estimate(arrays[f"psnr/{key}"][:, MIDDLE], 2)]
        for flops, label, key in curve
    ]
    compared, p_values = [], []
    if len(config.seeds) > 1:
        for first, second in PAIRS:
            for i, rate in enumerate(rates):
                one = sc.statistics.compare_pairs(
                    arrays[f"psnr/{first}"][:, i], arrays[f"psnr/{second}"][:, i]
                )
                p_values.append(one.p_t)
                compared.append([
                    f"{LABELS[first]} - {LABELS[second]}", rate, f"{one.difference.estimate:+.2f}",
                    f"{one.difference.low:+.2f} to {one.difference.high:+.2f}", f"{one.p_t:.2g}",
                ])  # fmt: skip
    text = (
        "PSNR in decibels by rate of measurement, mean of the two held-out images\n"
        f"{common.format_table(('method', *rates), rows)}\n\n"
        f"At {rates[MIDDLE]}: operations of a patch, measured, and PSNR\n"
        f"{common.format_table(('method', 'FLOPs', 'PSNR'), work)}\n"
    )
    if compared:
        holm = sc.statistics.holm(p_values)
        compared = [[*row, f"{p:.2g}"] for row, p in zip(compared, holm, strict=True)]
        header = ("difference", "rate", "decibels", "95 % interval", "t p", "Holm p")
        text += f"\nPaired by seed\n{common.format_table(header, compared)}\n"
    chosen = ", ".join(
        f"{rate}: "
        + " and ".join(
            "/".join(f"{x:g}" for x in np.unique(arrays[f"option/{name}"][:, i]))
            for name in ("weighted", "omp")
        )
        for i, rate in enumerate(rates)
    )
    notes = (
        f"Patches of {SIDE}x{SIDE} pixels; {', '.join(map(str, config.counts))} projections and "
        f"the mean; {len(config.seeds)} seeds (projections, training patches, starts), means with "
        "95 % t intervals over seeds; the two images are the same for all seeds. FISTA has "
        f"{config.solver_steps[-1]} steps where no number is given; LISTA and networks have "
        f"{config.num_layers} layers, {config.num_steps:,} training steps of {config.batch_size} "
        f"patches. {config.num_atoms} atoms from {config.num_patches:,} patches. Chosen on "
        "training patches, the penalty by atom (times its weight) and OMP's number of atoms: "
        f"{chosen}. FLOPs: inference, convention 'arithmetic'; what a rate needs once (projected "
        "atoms, step sizes, the linear map) is not charged."
    )
    return f"{text}\n{textwrap.fill(notes, 110)}\n"


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Run what is missing, print the table, draw the figures, write the results."""
    from experiments import plots

    started = time.monotonic()
    with common.stages(out, NAME, config) as run:
        by_seed = [
            run.once(f"seed-{seed}", functools.partial(measure, config, seed, run))
            for seed in config.seeds
        ]
        pictures = {name: by_seed[0][name] for name in by_seed[0] if name.startswith("picture/")}
        arrays = {
            name: np.stack([one[name] for one in by_seed]) for name in by_seed[0].keys() - pictures
        }
        text = table(arrays, config)
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config), "axes": ["seed", "rate"],
            "metric": "PSNR in decibels on held-out right quarters of two photographs",
            "flops": "inference, a patch; convention 'arithmetic'",
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        sc.io.save_results(out / NAME, arrays | pictures, manifest)
        (out / f"{NAME}.txt").write_text(text)
        plots.compressed_sensing(arrays, config, LABELS, MIDDLE, out / f"{NAME}.png")
        shown = {"original": photographs()[1][0]}
        shown |= {label: pictures[f"picture/{name}"] for name, label in LABELS.items()}
        title = f"{config.rates[PICTURED]:.0%} of the measurements"
        plots.recovered(shown, title, out / f"{NAME}_images.png")
    print("\n" + text)


if __name__ == "__main__":
    args = common.parser(__doc__, compiles=True).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
