"""One of several processes whose runs keep checkpoints; tests/test_kept.py starts them.

python -m tests.kept PORT NUM_PROCESSES PROCESS FOLDER ACTION
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import sys

import jax
import jax.experimental.multihost_utils
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import _sweep
from sparsecode_jax._sharding import to_host
from sparsecode_jax.io import _spread, runs

STEPS, ROUNDS, BATCHES = 20, 20, 6
KEY = 0


class Stop(Exception):
    """A run is interrupted at the same place everywhere."""


def mesh_of(*names):
    from jax.sharding import AxisType

    shape = (jax.device_count(),) + (1,) * (len(names) - 1)
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def global_array(array):
    """Put the rows of a file that this process is to work on onto its devices."""
    from jax.sharding import NamedSharding, PartitionSpec

    rows = NamedSharding(mesh_of("rows"), PartitionSpec("rows"))
    return jax.make_array_from_callback(array.shape, rows, lambda index: np.array(array[index]))


def fit(signals, checkpoint, stop=None):
    def hear(news):
        if stop is not None and news.step >= stop:
            raise Stop(f"at {news.step}")

    found = sc.training.fit(
        jax.random.key(KEY), sc.encoders.linear(16, 24), global_array(signals), num_atoms=24,
        num_steps=STEPS, recipe=sc.training.Recipe(batch_size=16),
        model=sc.training.Model(bias="mean"), record=lambda p: p.dictionary[:2],
        record_steps=[0, 10], callback=hear, checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    return {"dictionary": found.params.dictionary, "losses": found.losses, "records": found.records}


def each(signals, checkpoint, stop=None):
    """Runs that lie on devices of their own: keys and parameters are split, too."""

    def hear(news):
        if stop is not None and news.step >= stop:
            raise Stop(f"at {news.step}")

    keys = jax.random.split(jax.random.key(KEY), 4)
    keys = jax.random.wrap_key_data(global_array(np.asarray(jax.random.key_data(keys))))
    found = sc.training.fit(
        keys, sc.encoders.linear(16, 24), signals, num_atoms=24, num_steps=STEPS, callback=hear,
        recipe=sc.training.Recipe(batch_size=8), checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    return {"dictionary": found.params.dictionary}


def learn(signals, checkpoint, stop=None):
    def hear(news):
        if stop is not None and news.round >= stop:
            raise Stop(f"at {news.round}")

    found = sc.dictionary_learning.learn_dictionary(
        jax.random.key(KEY), global_array(signals), num_atoms=24, num_restarts=2, num_hops=0,
        num_rounds=ROUNDS, callback=hear, checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    return {"dictionary": found.dictionary, "codes": found.codes}


def online(signals, checkpoint, stop=None):
    def batches():
        for index in range(BATCHES):
            if stop is not None and index >= stop / 5:
                raise Stop(f"at {index}")
            yield global_array(np.roll(signals, index, axis=0))

    found = sc.dictionary_learning.learn_dictionary_online(
        jax.random.key(KEY), batches(), num_atoms=24, num_steps=5, checkpoint=checkpoint,
        progress=None,
    )  # fmt: skip
    return {"dictionary": found.dictionary, "objectives": found.objectives}


def score(seed, scale):
    problem = sc.synthetic.sample_problem(seed, 3, num_samples=16, num_measurements=8, num_atoms=12)
    codes = sc.sparse_encode(problem.signals, problem.dictionary, 0.1 * scale, num_steps=5)
    return {"mean": jax.numpy.mean(codes)}


def sweep(signals, checkpoint, stop=None):
    """A sweep whose seeds lie on devices of their own, four points at a time."""
    keys = jax.random.split(jax.random.key(KEY), 8)
    keys = jax.random.wrap_key_data(global_array(np.asarray(jax.random.key_data(keys))))
    chunks = [0]

    def heard(x):
        chunks[0] += 1
        if stop is not None and chunks[0] > stop / 5:
            raise Stop(f"at {chunks[0]}")
        return to_host(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sweep, "to_host", heard)
        axes = {"seed": keys, "scale": np.linspace(1, 2, 2)}
        return sc.sweep_chunked(score, chunk_size=4, checkpoint=checkpoint, progress=None, **axes)


TASKS = {"fit": fit, "each": each, "learn": learn, "online": online, "sweep": sweep}


def interrupted(signals, *names):
    """Interrupt runs half way; each writes what it has."""
    said = {}
    for name in names:
        try:
            TASKS[name](signals, name, 10)
        except Stop as error:
            said[name] = getattr(error, "__notes__", [])  # a sweep keeps all it has anyway
    return said


def resumed(signals, *paths):
    """Go on with runs to their ends; return what is found, and what is without interruption."""
    found = {}
    for path in paths:
        task = TASKS[path.partition("-")[0]]
        for case, values in (("found", task(signals, path)), ("again", task(signals, path))):
            found |= {f"{case}/{path}/{k}": to_host(v) for k, v in values.items()}
        expected = task(signals, None)
        found |= {f"expected/{path}/{k}": to_host(v) for k, v in expected.items()}
    return found


def killed(signals, path, process, count):
    """Write after every chunk, and let a process die at some operation on files of a write."""
    left = [count]

    def counted(fn):
        def call(*args, **kwargs):
            if jax.process_index() == process:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return fn(*args, **kwargs)

        return call

    handler = _spread.require("test")[0].PyTreeCheckpointHandler
    handler.save, handler.finalize = counted(handler.save), counted(handler.finalize)
    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    runs.SAVE_SECONDS, runs._SAVE_SHARE = 0, 0
    TASKS[path.partition("-")[0]](signals, path)


def refused(signals):
    """Try what is refused, and return what this process hears."""
    global KEY
    said = {}

    @contextlib.contextmanager
    def heard(name):
        try:
            yield
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"

    runs._SEEN_SECONDS = 0.5
    index = jax.process_index()
    KEY = 1
    with heard("another run"):
        fit(signals, "fit")
    KEY = 1 + index
    with heard("other arguments"):
        fit(signals, "new")
    KEY = 0
    with heard("no shared folder"):
        fit(signals, pathlib.Path(f"own-{index}") / "run")
    with contextlib.ExitStack() as other:
        if index == 0:
            lock = os.open("held.lock", os.O_RDWR | os.O_CREAT)
            other.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(lock, b"process 7 on another")
        with heard("busy"):
            fit(signals, "held")
    split = global_array(signals)
    atoms = global_array(np.eye(16, dtype=np.float32))
    recipe = sc.training.Recipe(batch_size=15)
    omp = sc.solvers.orthogonal_matching_pursuit(3)
    with heard("a batch that does not divide"):
        sc.training.fit(
            jax.random.key(0), sc.encoders.linear(16, 24), split, num_atoms=24, num_steps=1,
            recipe=recipe, progress=None,
        )  # fmt: skip
    with heard("one axis for two"):
        sc.sparse_encode(split, atoms, 0.1, num_steps=2)
    with heard("atoms that are split"):
        sc.solvers.solve(omp, sc.Lasso(signals, atoms, 0.1, 0.1), num_steps=3)
    if index == 0:
        shutil.copy("fit", "moved")
    jax.experimental.multihost_utils.sync_global_devices("moved")
    with heard("without its arrays"):
        fit(signals, "moved")
    pathlib.Path("damaged").write_bytes(b"nothing")
    with heard("damaged"):
        fit(signals, "damaged")
    handler = _spread.require("test")[0].PyTreeCheckpointHandler

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with heard("full disk of one"), pytest.MonkeyPatch.context() as patch:
        if index == 1:
            patch.setattr(handler, "save", full)
        fit(signals, "full")
    with heard("no orbax"), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "orbax.checkpoint", None)
        fit(signals, "without")
    with heard("error of one"), sc.io.Run("one", {}, name="one") as run:
        if index == 1:
            raise ArithmeticError("of process 1")
        run.has("part")
    return said


def all_of(signals):
    """Interrupt runs, try what is refused, and end by a kill inside a write."""
    save("notes", interrupted(signals, "fit", "each", "learn", "sweep"))
    save("refused", refused(signals))
    killed(signals, "fit-killed", 1, 1)


def save(name, said):
    pathlib.Path(f"{name}-{jax.process_index()}.json").write_text(json.dumps(said))


def main(port, num, index, folder, action, *words):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(num) > 1:
        address = f"localhost:{port}"
        jax.distributed.initialize(address, int(num), int(index), heartbeat_timeout_seconds=10)
    os.chdir(folder)
    signals = np.load("signals.npy")
    if action == "interrupted":
        save("notes", interrupted(signals, *words))
    elif action == "killed":
        killed(signals, words[0], *map(int, words[1:]))
    elif action == "all":
        all_of(signals)
    else:
        np.savez(f"found-{num}-{index}.npz", **resumed(signals, *words))


if __name__ == "__main__":
    main(*sys.argv[1:])
