"""How many steps learned ISTA saves: the comparison of Gregor and LeCun, 2010, on image patches.

Claim: trained to predict the codes that a sparse coder converges to, few layers of LISTA do the
work of many steps: 3 layers that of 16 steps of ISTA or 9 of FISTA for codes as long as the signal,
of 24 or 12 for codes four times as long. Solvers go on to any accuracy; trained layers do not: from
3 to 7 layers the error falls from .080 to .055, and of long codes two of three trainings of 7
layers ended at .88 and .96, without finding what 5 layers have (.34).

The setting is theirs (10 x 10 patches, 100 and 400 signed codes, error of the codes), not the data:
whitened patches of scikit-learn's two photographs, a dictionary learned online, and the penalty at
which a tenth of the smaller code is active. Every layer has matrices of its own, starts as ISTA and
is trained on the codes of training patches; errors are of patches from another part of the images.

Command: ``python -m experiments.learned_ista`` (under an hour on 2 cores, 54 minutes beside other
work; resumable; ``--quick`` half a minute). Expected: docs/results/learned_ista.txt.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from experiments import common, natural_images
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.training import Model, Recipe, schedules
from sparsecode_jax.training.losses import Batch

NAME = "learned_ista"
SOLVERS = {
    "ISTA": sc.solvers.ista(prox=soft_threshold),
    "FISTA": sc.solvers.fista(prox=soft_threshold),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison.

    Attributes:
      side: of a patch; M is its square.
      atoms: N, one for each part of the table.
      layers: of LISTA.
      seeds: of patches, dictionary and training.
      num_patches: for training; a quarter as many are tested on.
      num_active: codes of a patch at the penalty, in the first dictionary.
      num_epochs: of the learner of the dictionary.
      num_steps: of training.
      batch_size: signals of a step of training.
      learning_rate: of its start; it falls to 0 along a straight line.
      most: steps of the solvers.
    """

    side: int = 10
    atoms: tuple[int, ...] = (100, 400)
    layers: tuple[int, ...] = (1, 2, 3, 5, 7)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_patches: int = 20_000
    num_active: float = 10.0
    num_epochs: int = 3
    num_steps: int = 5_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    most: int = 200


QUICK = Config(
    side=6, atoms=(36,), layers=(1, 3), seeds=(0, 1), num_patches=1_000, num_active=4.0,
    num_epochs=1, num_steps=300, most=60,
)  # fmt: skip


def code_error(codes: jax.Array, batch: Batch) -> jax.Array:
    """Return the mean over signals of the squared distance to the true codes."""
    assert batch.true_codes is not None
    return jnp.mean(jnp.sum((codes - batch.true_codes) ** 2, axis=-1))


def problem(config: Config, num_atoms: int, seed: int) -> dict[str, np.ndarray]:
    """Learn a dictionary; return it with the penalty, and signals with their codes."""
    train, test = natural_images.patches(config.num_patches, seed, config.side)
    key = jax.random.key(seed)
    learn = functools.partial(
        sc.dictionary_learning.learn_dictionary_online, key, progress=None,
        solver=SOLVERS["FISTA"], num_epochs=config.num_epochs,
    )  # fmt: skip
    batches = lambda epoch: np.array_split(train, max(len(train) // 1000, 1))  # noqa: E731
    first = learn(batches, num_atoms=config.atoms[0]).dictionary
    penalty = sc.solvers.penalty_for(
        test[:1000], first, num_active=config.num_active, prox=soft_threshold
    )
    found = learn(batches, num_atoms=num_atoms, penalty=penalty).dictionary
    encode = functools.partial(
        sc.sparse_encode, dictionary=found, penalty=penalty, tolerance=1e-5,
        solver=sc.solvers.sparsa(prox=soft_threshold),
    )  # fmt: skip
    return {
        "dictionary": np.asarray(found), "penalty": np.asarray(penalty), "train": train,
        "test": test, "train_codes": np.asarray(encode(train)), "codes": np.asarray(encode(test)),
    }  # fmt: skip


def relative_error(codes: Any, true_codes: np.ndarray) -> float:
    """Return the squared error of codes as a share of what it is for codes of 0."""
    true_codes = np.asarray(true_codes, np.float64)
    return float(np.sum((np.asarray(codes, np.float64) - true_codes) ** 2) / np.sum(true_codes**2))


def of_solvers(given: dict[str, np.ndarray], config: Config) -> np.ndarray:
    """Return errors of ISTA and FISTA after 1, 2, ... steps, (2, most)."""
    atoms, signals, true_codes = given["dictionary"], given["test"], jnp.asarray(given["codes"])
    step = sc.dictionaries.step_size(atoms)
    lasso = sc.Lasso(jnp.asarray(signals), jnp.asarray(atoms), jnp.asarray(given["penalty"]), step)

    def record(codes: jax.Array) -> jax.Array:
        return jnp.sum((codes - true_codes) ** 2) / jnp.sum(true_codes**2)

    return np.stack([
        sc.solvers.trajectory(solver, lasso, num_steps=config.most, record=record)[1]
        for solver in SOLVERS.values()
    ])  # fmt: skip


def of_lista(given: dict[str, np.ndarray], config: Config, num_layers: int, seed: int) -> float:
    """Train LISTA on the training codes; return its error on the test patches."""
    num_atoms, num_measurements = given["dictionary"].shape
    encoder = sc.encoders.lista(
        num_measurements, num_atoms, num_layers=num_layers, prox=soft_threshold
    )
    start = sc.encoders.lista_params(given["dictionary"], given["penalty"], num_layers=num_layers)
    decay = schedules.linear(config.num_steps, first=1.0, last=0.0)
    fitted = sc.training.fit(
        jax.random.key(seed), encoder, (given["train"], given["train_codes"]),
        model=Model(encoder=start, fixed_dictionary=given["dictionary"]),
        num_steps=config.num_steps, learning_rate=config.learning_rate,
        recipe=Recipe(code_error, schedules.scheduled(optax.adam, decay), config.batch_size),
        progress=f"{num_atoms} codes, {num_layers} layers, seed {seed}",
    )  # fmt: skip
    return relative_error(encoder.apply(fitted.params.encoder, given["test"]), given["codes"])


def numbers(config: Config, num_atoms: int, seed: int, stages: sc.io.Run) -> dict[str, np.ndarray]:
    """Return errors in one dictionary, of solvers (2, most) and LISTA (layers,); active codes."""
    label = f"{num_atoms}-{seed}"
    given = stages.once(f"problem-{label}", lambda: problem(config, num_atoms, seed))

    def error(depth: int) -> dict[str, np.ndarray]:
        return {"error": np.asarray(of_lista(given, config, depth, seed))}

    layers = [
        stages.once(f"lista-{label}-{depth}", functools.partial(error, depth))["error"]
        for depth in config.layers
    ]
    active = np.asarray(np.mean(np.sum(np.abs(given["codes"]) > 1e-6, axis=1)))
    return {"solvers": of_solvers(given, config), "lista": np.asarray(layers), "active": active}


def steps_to(curve: np.ndarray, error: float) -> float:
    """Return how many steps a solver takes to an error; infinity if these steps do not."""
    there = np.flatnonzero(curve <= error)
    return float(there[0] + 1) if len(there) else np.inf


def flops(config: Config, num_atoms: int, num_layers: int) -> tuple[int, list[int]]:
    """Return FLOPs per signal of LISTA, and of each solver's step."""
    num_measurements = config.side**2
    sizes = {"num_measurements": num_measurements, "num_atoms": num_atoms}
    encoder = sc.encoders.lista(**sizes, num_layers=num_layers, prox=soft_threshold)
    shape = jax.ShapeDtypeStruct
    rows, atoms = (
        shape((1, num_measurements), "float32"),
        shape((num_atoms, num_measurements), "float32"),
    )
    scalar = shape((), "float32")
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    own = sc.flops.eval_flops(encoder.apply, params, rows).total()

    def cost(solver: sc.Solver, num_steps: int) -> int:
        solve = functools.partial(sc.solvers.solve, solver, num_steps=num_steps)
        return sc.flops.eval_flops(solve, sc.Lasso(rows, atoms, scalar, scalar)).total()

    return own, [cost(solver, 2) - cost(solver, 1) for solver in SOLVERS.values()]


def table(config: Config, found: dict[tuple[int, int], dict[str, np.ndarray]]) -> str:
    """Compare LISTA of each depth with the steps that reach its error."""
    rows = []
    for num_atoms in config.atoms:
        runs = [found[num_atoms, seed] for seed in config.seeds]
        for i, depth in enumerate(config.layers):
            own, each = flops(config, num_atoms, depth)
            errors = np.array([run["lista"][i] for run in runs])
            taken = np.array(
                [[steps_to(c, run["lista"][i]) for c in run["solvers"]] for run in runs]
            )
            same = np.array([run["solvers"][:, depth - 1] for run in runs])
            failed = int(np.sum(~(errors < same[:, 0])))  # above ISTA, which is where it starts
            rows.append([
                num_atoms, depth, common.estimate(errors),
                *(common.estimate(column) for column in same.T),
                f"{failed} of {len(runs)}",
                *("-" if failed else _steps(column, config.most) for column in taken.T),
                f"{own:,}",
                "-" if failed else _steps(taken[:, 1] * each[1], config.most * each[1]),
            ])  # fmt: skip
    header = (
        "codes", "layers", "LISTA", "ISTA, as many steps", "FISTA, as many steps", "failed",
        "ISTA steps to LISTA's error", "FISTA steps", "FLOPs, LISTA", "FISTA",
    )  # fmt: skip
    active = ", ".join(
        f"{common.estimate([found[n, seed]['active'] for seed in config.seeds], digits=1)} of {n}"
        for n in config.atoms
    )
    return (
        f"Squared error of codes of {config.side} x {config.side} patches, as a share of that of "
        f"codes of 0, {len(config.seeds)} runs each, 95 % t intervals\n"
        f"{common.format_table(header, rows)}\n\nActive codes a patch: {active}. FLOPs are per "
        "signal, without training.\nFailed: trainings that end above ISTA with as many steps, "
        "which is where they start; they are in the mean, and steps are not\ncompared then.\n"
    )


def _steps(values: np.ndarray, most: float) -> str:
    """Return the mean, and how many are beyond what was run."""
    inside = values[values <= most]
    if len(inside) < len(values):
        return f"over {most:,.0f} in {len(values) - len(inside)} of {len(values)}"
    return f"{np.mean(inside):,.0f}"


def main(config: Config = Config(), out: pathlib.Path = common.RESULTS) -> None:  # noqa: B008
    """Train, compare, print and write the table and the numbers."""
    started = time.monotonic()
    with common.stages(out, NAME, config) as stages:
        found = {
            (num_atoms, seed): numbers(config, num_atoms, seed, stages)
            for num_atoms in config.atoms
            for seed in config.seeds
        }
        text = table(config, found)
        manifest = {
            "experiment": NAME, "config": dataclasses.asdict(config),
            "axes": {"solvers": ["atoms", "seed", "solver", "step"], "lista": [
                "atoms", "seed", "layers"]},
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        arrays = {
            name: np.stack([
                np.stack([found[n, seed][name] for seed in config.seeds]) for n in config.atoms
            ])
            for name in ("solvers", "lista", "active")
        }  # fmt: skip
        sc.io.save_results(out / NAME, arrays, manifest)
        (out / f"{NAME}.txt").write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    main(QUICK if args.quick else Config(), args.out / "quick" if args.quick else args.out)
