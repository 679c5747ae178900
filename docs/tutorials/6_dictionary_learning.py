"""
Dictionary learning
===================

Where the dictionary is not known, alternating minimization learns it: codes by a solver, then all
atoms by least squares. It needs no truth, and here the truth is used only to score what was
found.
"""

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import sparsecode_jax as sc
from sparsecode_jax.dictionary_learning import learn_dictionary

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 2, num_samples=1000, num_measurements=8, num_atoms=16
)

# %%
# Learn
# -----
#
# Restarts run as one vmapped program, and the one with the lowest objective is returned. By
# default hops follow, which replace two atoms of the best dictionary and anneal it again; here
# they are not needed.

found = learn_dictionary(
    jax.random.key(1), problem.signals, num_atoms=16, num_restarts=8, num_hops=0, progress=None
)
true = problem.dictionary
print("objectives of the restarts:", found.objectives)
print(f"dictionary MCC {sc.metrics.dictionary_mcc(true, found.dictionary):.4f}")
print(f"code MCC       {sc.metrics.mcc(problem.codes, found.codes):.4f}")
print(f"FLOPs          {found.flops:.2e}")

# %%
# By gradient descent instead
# ---------------------------
#
# A TopK autoencoder that is told the number of active atoms gets the same data.

encoder = sc.encoders.top_k(8, 16, num_active=2)
recipe = sc.training.Recipe(loss=sc.training.losses.squared_error, batch_size=128)
trained = sc.training.fit(
    jax.random.key(1), encoder, problem.signals, num_atoms=16, num_steps=5000, recipe=recipe,
    learning_rate=0.01, progress=None,
)  # fmt: skip
print(f"dictionary MCC {sc.metrics.dictionary_mcc(true, trained.params.dictionary):.4f}")
print(f"FLOPs          {trained.flops:.2e}")

# %%
# The cosines between true and learned atoms, in the order of the best match: a diagonal of ones
# means that every atom was found.

figure, panels = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
learned = {"alternating": found.dictionary, "autoencoder": trained.params.dictionary}
for axes, (name, atoms) in zip(panels, learned.items(), strict=True):
    cosines = true @ atoms.T
    order = jnp.argsort(jnp.argmax(cosines, axis=0))
    image = axes.imshow(cosines[:, order], vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set(title=name, xlabel="learned atom", ylabel="true atom")
figure.colorbar(image, ax=panels, label="cosine")

# %%
# Data that never fit into memory go through ``learn_dictionary_online``; other updates of atoms
# are in ``dictionary_learning.updates``. The guide :doc:`/training` shows both.
