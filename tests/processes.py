"""One of several processes that run the library together; tests/test_processes.py starts them.

python -m tests.processes PORT NUM_PROCESSES PROCESS KIND OUT
"""

import os
import pathlib
import socket
import subprocess
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


def start(module, num, *words):
    """Start processes of one program, that have one device each: PORT NUM PROCESS WORDS."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, port, str(num), str(i), *map(str, words)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(num)
    ]  # fmt: skip


def main(port: str, num: str, process: str, kind: str, out: str) -> None:
    """Join the others, run what tests/test_processes.py compares, and save it."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(num) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(num), int(process))
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import sparsecode_jax as sc
    from sparsecode_jax._sharding import to_host

    types = {"automatic": AxisType.Auto, "explicit": AxisType.Explicit}
    mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(types[kind],))
    rows = NamedSharding(mesh, PartitionSpec("rows"))

    def own(array):
        """Put the rows of a file that this process is to work on onto its devices."""
        return jax.make_array_from_callback(array.shape, rows, lambda index: np.array(array[index]))

    folder = pathlib.Path(out)
    signals = own(np.load(folder / "signals.npy", mmap_mode="r"))
    dictionary = np.load(folder / "dictionary.npy")
    keys = jax.random.split(jax.random.key(1), 4)
    each = jax.random.wrap_key_data(own(np.asarray(jax.random.key_data(keys))))
    penalties = np.array([0.01, 0.1], np.float32)

    def score(seed, penalty):
        problem = sc.synthetic.sample_problem(
            seed, 3, num_samples=16, num_measurements=8, num_atoms=12
        )
        codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=10)
        return sc.metrics.mcc(problem.codes, codes)

    train = {"num_atoms": 24, "progress": None}
    encoder = sc.encoders.linear(16, 24)
    found = {
        "steps": sc.sparse_encode(signals, dictionary, 0.05, num_steps=20),
        "tolerance": sc.sparse_encode(signals, dictionary, 0.05, tolerance=1e-4),
        "sweep": sc.sweep(score, seed=each, penalty=penalties),
        "chunks": sc.sweep_chunked(
            score, chunk_size=4, progress=None, seed=each, penalty=penalties
        ),
        "one_step": sc.training.fit(keys[0], encoder, signals, num_steps=1, **train).params,
        "runs": sc.training.fit(each, encoder, np.load(folder / "signals.npy"), num_steps=5,
                                recipe=sc.training.Recipe(batch_size=8), **train).params,
        "batches": sc.training.fit(keys[0], encoder, signals, num_steps=20,
                                   recipe=sc.training.Recipe(batch_size=16), **train).params,
        "dictionary": sc.dictionary_learning.learn_dictionary(
            keys[0], signals, num_atoms=24, num_restarts=1, num_hops=0, num_rounds=20
        ).dictionary,
        "online": sc.dictionary_learning.learn_dictionary_online(
            keys[0], [signals] * 2, num_atoms=24, progress=None
        ).dictionary,
    }  # fmt: skip
    found["mcc"] = sc.metrics.mcc(own(np.load(folder / "codes.npy", mmap_mode="r")), found["steps"])
    broken = np.load(folder / "signals.npy")
    broken[33, 2] = np.nan
    try:
        sc.sparse_encode(own(broken), dictionary, 0.05, num_steps=20)
    except ValueError as error:
        message = str(error)
    leaves = {
        f"{name}{i}": to_host(leaf)
        for name, tree in found.items()
        for i, leaf in enumerate(jax.tree.leaves(tree))
    }
    np.savez(folder / f"{kind}-{num}-{process}.npz", message=message, **leaves)


if __name__ == "__main__":
    main(*sys.argv[1:])
