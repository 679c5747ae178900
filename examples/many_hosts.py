"""
Many hosts
==========

Encode a file and train an autoencoder on many hosts: the same program runs on each of them. ::

    srun python examples/many_hosts.py signals.npy CHECKPOINT    (under SLURM)
    python examples/many_hosts.py signals.npy                    (one host alone)

JAX finds the other processes from the cluster's environment variables. Each process reads only
its own rows of the file, and only the first one prints. The training goes on from CHECKPOINT, a
path that all hosts share, if it is given, also on another number of hosts.
"""

import os
import sys

import jax

if __name__ == "__main__":
    if os.environ.get("JAX_PLATFORMS") == "cpu":  # accelerators bring their own transport
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        jax.distributed.initialize()

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import sparsecode_jax as sc


def main(path: str, checkpoint: str | None = None, num_atoms: int = 64) -> None:
    """Encode the rows of a file in a random dictionary, then train an autoencoder on them."""
    mesh = jax.make_mesh((jax.device_count(),), ("signals",))
    rows = NamedSharding(mesh, PartitionSpec("signals"))
    file = np.load(path, mmap_mode="r")
    whole = file[: len(file) // jax.device_count() * jax.device_count()]  # the same on each device
    signals = jax.make_array_from_callback(whole.shape, rows, lambda i: np.array(whole[i]))

    dictionary = sc.dictionaries.random(
        jax.random.key(0), num_atoms=num_atoms, num_measurements=file.shape[1]
    )
    codes = sc.sparse_encode(signals, dictionary, 0.1, tolerance=1e-4)
    encoder = sc.encoders.top_k(file.shape[1], num_atoms, num_active=4)
    trained = sc.training.fit(
        jax.random.key(1), encoder, signals, num_atoms=num_atoms, num_steps=200,
        recipe=sc.training.Recipe(batch_size=64),  # each device takes its part of a batch
        checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    score = sc.metrics.r2(signals, codes @ dictionary)
    own = encoder.apply(trained.params.encoder, signals) @ trained.params.dictionary
    if jax.process_index() == 0:
        print(f"{len(whole)} signals on {jax.device_count()} devices, {jax.process_count()} hosts")
    for name, value in (("lasso, random atoms", score), ("trained", sc.metrics.r2(signals, own))):
        if jax.process_index() == 0:
            print(f"R2, {name}: {float(value):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
