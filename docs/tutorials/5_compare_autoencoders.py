"""
Train and compare sparse autoencoders
=====================================

Autoencoders differ in how they make codes sparse. To compare them, each is trained for the same
number of FLOPs at several levels of sparsity, and scored on signals that it has not seen.
"""

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import sparsecode_jax as sc
from sparsecode_jax.training import MaxFlops, Model, Recipe, fit, losses, scores

M, N = 16, 32
problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=3000, num_measurements=M, num_atoms=N
)
scale = jnp.sqrt(jnp.mean(problem.signals**2))
signals = problem.signals / scale
train, test, true_codes = signals[:2000], signals[2000:], problem.codes[2000:]
budget = MaxFlops(1e9)

# %%
# Many runs as one program
# ------------------------
#
# Four penalties, or four numbers of active codes, are four runs of one ``fit``: whatever has a
# leading axis of runs is trained together.

keys = jax.random.split(jax.random.key(1), 4)


def train_all(encoder, params=None, **options):
    atoms = jax.vmap(lambda key: sc.dictionaries.random(key, num_atoms=N, num_measurements=M))(keys)
    model = Model(jax.vmap(encoder.init)(keys) if params is None else params, atoms)
    runs = fit(
        keys, encoder, train, model=model, num_steps=budget, learning_rate=0.01, progress=None,
        **options,
    )  # fmt: skip
    record = scores(encoder, test, true_codes=true_codes)
    return runs, jax.vmap(record)(runs.params)


results = {}
penalties = jnp.array([0.02, 0.05, 0.1, 0.2])
results["ReLU"] = train_all(
    sc.encoders.linear(M, N), penalty=penalties, recipe=Recipe(batch_size=128)
)
variable = sc.encoders.top_k(M, N, num_active=None)
params = jax.vmap(variable.init)(keys)._replace(num_active=jnp.array([2.0, 3, 4, 6]))
results["TopK"] = train_all(
    variable, params, recipe=Recipe(loss=losses.squared_error, batch_size=128)
)
results["JumpReLU"] = train_all(
    sc.encoders.jump_relu(M, N, bandwidth=0.1),
    penalty=penalties / 2,
    recipe=Recipe(loss=losses.l0, batch_size=128),
)

# %%
# What was found
# --------------
#
# For comparison, a pursuit is given the true dictionary: orthogonal least squares, K atoms each.

print(f"{'encoder':<10}{'steps':>6}{'L0':>8}{'R²':>8}{'MCC':>8}")
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, (runs, found) in results.items():
    steps = int(runs.state.step.max())
    for l0, r2, mcc in zip(found["l0"], found["r2"], found["mcc"], strict=True):
        print(f"{name:<10}{steps:>6}{l0:>8.1f}{r2:>8.3f}{mcc:>8.3f}")
    order = jnp.argsort(found["l0"])
    axes.plot(found["l0"][order], found["r2"][order], "o-", label=name)
pursuit = sc.Lasso(test, problem.dictionary, jnp.float32(0), jnp.float32(1))  # it has no penalty
_, bound = sc.solvers.trajectory(
    sc.solvers.orthogonal_least_squares(3),
    pursuit,
    num_steps=3,
    record=lambda codes: sc.metrics.r2(test, codes @ problem.dictionary),
)
axes.plot((1, 2, 3), bound, "k:", label="pursuit, true atoms")
axes.set(xlabel="active codes per signal (L0)", ylabel="R² on held-out signals")
axes.legend()

# %%
# The guide :doc:`/training` has every encoder and its loss, dead latents, schedules, callbacks
# and checkpoints.
