"""
Train a TopK autoencoder
========================

Train an autoencoder that keeps the K largest latents of each signal, with its loss, and its
scores on held-out signals along the way.
"""

import jax
import matplotlib.pyplot as plt

import sparsecode_jax as sc
from sparsecode_jax import training

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=3000, num_measurements=16, num_atoms=32
)
train, test = problem.signals[:2000], problem.signals[2000:]
encoder = sc.encoders.top_k(16, 32, num_active=4)
recipe = training.Recipe(
    loss=training.losses.aux_k(num_aux=8),  # latents that are dead for 100 steps learn the residual
    dead_after=100,
    batch_size=256,
)
result = training.fit(
    jax.random.key(1),
    encoder,
    train,
    num_atoms=32,
    num_steps=2000,
    recipe=recipe,
    learning_rate=0.01,
    record_steps=range(0, 2001, 100),
    record=training.scores(encoder, test, true_codes=problem.codes[2000:]),
    progress=None,
)
print(f"R² {result.records['r2'][-1]:.3f}, dead {result.records['dead'][-1]:.0%}")
print(f"{result.flops:.2e} FLOPs")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.semilogy(result.loss_steps, result.losses, linewidth=1)
left.set(xlabel="step", ylabel="loss of the batch")
for name, label in {"r2": "R²", "mcc": "MCC"}.items():
    right.plot(result.steps, result.records[name], label=label)
right.set(xlabel="step", ylabel="on held-out signals", ylim=(0, 1))
right.legend()
plt.show()
