"""
From an autoencoder's weights to better codes
=============================================

The encoder of a sparse autoencoder makes codes in one pass. Its decoder is a dictionary, in which
an iterative solver finds better codes, with nothing trained anew. All this needs is four arrays.
"""

# %%
# Four arrays
# -----------
#
# Most checkpoints hold ``W_enc`` (M, N), ``b_enc`` (N,), ``W_dec`` (N, M) and ``b_dec`` (M,).
# Here they come from a short training run; with your own, load them and go on from there.

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=2000, num_measurements=16, num_atoms=32, noise=0.02
)
encoder = sc.encoders.centered(sc.encoders.linear(16, 32), 16)
trained = sc.training.fit(
    jax.random.key(1), encoder, problem.signals[:1000], num_atoms=32, num_steps=2000, penalty=0.1,
    model=sc.training.Model(bias="mean"), learning_rate=0.01, progress=None,
).params  # fmt: skip
W_enc, b_enc = trained.encoder.encoder.weight.T, trained.encoder.encoder.bias
W_dec, b_dec = trained.dictionary, trained.bias

# %%
# The encoder's own codes
# -----------------------


def encode(x):
    return jax.nn.relu((x - b_dec) @ W_enc + b_enc)


def report(name, codes):
    r2 = sc.metrics.r2(signals, codes @ dictionary + b_dec)
    print(f"{name:<24}R² {r2:.4f}   L0 {sc.metrics.l0(codes, threshold=1e-6):.2f}")
    return r2


signals, dictionary = problem.signals[1000:], W_dec
start = encode(signals)
own = report("encoder", start)
num_active = float(sc.metrics.l0(start, threshold=1e-6))

# %%
# Better codes, as sparse
# -----------------------
#
# The solver works on the signals less the decoder's bias. ``penalty_for`` finds the penalty at
# which codes are as sparse as the encoder's, and ``codes0`` begins at them.

centered = signals - b_dec
penalty = sc.solvers.penalty_for(centered, dictionary, num_active=num_active)
exact = sc.sparse_encode(centered, dictionary, penalty, tolerance=1e-5, codes0=start)
report("lasso", exact)

# %%
# The penalty shrinks codes. ``refit`` keeps the atoms in use and fits their codes anew; a pursuit
# chooses atoms for the squared error from the beginning. Both are told a number of atoms.

count = round(num_active)
refit = sc.solvers.refit(start, centered, dictionary, num_active=count)
report("encoder, refit", refit)
report("lasso, refit", sc.solvers.refit(exact, centered, dictionary, num_active=count))
report("orthogonal pursuit", sc.sparse_encode(centered, dictionary, num_active=count))

# %%
# What each step buys
# -------------------
#
# From the encoder's codes and from zero, the objective against the number of steps:

lasso = sc.Lasso(centered, dictionary, penalty, sc.dictionaries.step_size(dictionary))
objective = lambda z: jnp.mean(sc.objectives.lasso(centered, dictionary, z, penalty))
least = objective(exact)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, codes0 in (("from the encoder's codes", start), ("from zero", jnp.zeros_like(start))):
    _, curve = sc.solvers.trajectory(
        sc.solvers.fista(), lasso, num_steps=40, record=objective, codes0=codes0
    )
    axes.semilogy(range(41), jnp.array([objective(codes0), *curve]) - least, label=name)
axes.set(xlabel="steps of FISTA", ylabel="objective less the least")
axes.legend()
