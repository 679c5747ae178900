"""
Codes beside the truth
======================

Encode noisy signals in a known dictionary, and look at the codes beside those that made the
signals.
"""

import jax
import matplotlib.pyplot as plt

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=1000, num_measurements=16, num_atoms=32, noise=0.02
)
codes = sc.sparse_encode(problem.signals, problem.dictionary, 0.05, tolerance=1e-5)
print(f"MCC {sc.metrics.mcc(problem.codes, codes):.3f}")

figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axes, (name, z) in zip(panels, {"true": problem.codes, "found": codes}.items(), strict=False):
    image = axes.imshow(z[:40], aspect="auto", vmin=0, vmax=2, cmap="magma")
    axes.set(title=f"{name} codes", xlabel="atom", ylabel="signal")
figure.colorbar(image, ax=panels[:2])
panels[2].plot(problem.codes.ravel(), codes.ravel(), ".", markersize=2)
panels[2].axline((0, 0), slope=1, color="C7", linewidth=1)
panels[2].set(title="all of them", xlabel="true code", ylabel="found code")
plt.show()
