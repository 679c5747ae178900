"""
Sweeps on many devices
======================

``sc.sweep`` evaluates a function on a grid of named axes as one program. An axis that is split
over devices is swept where it lies. This page simulates eight devices on a CPU.
"""

# %%
# The flag has to be set before JAX makes its first array. On accelerators leave it out.

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from jax.sharding import NamedSharding, PartitionSpec

import sparsecode_jax as sc

print(len(jax.devices()), "devices")

# %%
# One point of the grid
# ---------------------
#
# A problem is drawn, encoded and scored. The seed, the number of active atoms and the penalty are
# traced.


def score(seed, num_active, penalty):
    problem = sc.synthetic.sample_problem(
        seed, num_active, num_samples=256, num_measurements=16, num_atoms=32
    )
    codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=100)
    return sc.metrics.mcc(problem.codes, codes)


# %%
# The whole grid
# --------------
#
# Eight seeds are split over eight devices, and nothing is communicated. The result stays where it
# was made.

mesh = jax.make_mesh((8,), ("runs",))
seeds = jax.random.split(jax.random.key(0), 8)
scores = sc.sweep(
    score,
    seed=jax.device_put(seeds, NamedSharding(mesh, PartitionSpec("runs"))),
    num_active=jnp.arange(1, 7),
    penalty=jnp.geomspace(0.003, 0.3, 5),
)
print(scores.shape, "split as", scores.sharding.spec)

# %%
# The mean over seeds and a 95 % interval of one cell:

mean = jnp.mean(jax.device_get(scores), axis=0)
cell, half_width = sc.statistics.mean_interval(jax.device_get(scores)[:, 2, 2])
print(f"three active atoms, penalty 0.03: {cell:.4f} ± {half_width:.4f}")

figure, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
image = axes.imshow(mean, origin="lower", aspect="auto")
axes.set(xlabel="penalty", ylabel="active atoms", yticks=range(6), yticklabels=range(1, 7))
axes.set_xticks(range(5), [f"{p:.3f}" for p in jnp.geomspace(0.003, 0.3, 5)])
figure.colorbar(image, label="MCC")

# %%
# Signals, atoms and training data are split in the same way, also over many hosts:
# :doc:`/devices`. A sweep that is too large for memory goes piece by piece and can be resumed
# with ``sc.sweep_chunked``.
