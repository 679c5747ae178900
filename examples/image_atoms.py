"""
Atoms of images
===============

Learn a dictionary from whitened patches of "dead leaves": discs of random size and brightness
that hide one another, which have the edges and the power spectrum of natural images. The atoms
become edges.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import sparsecode_jax as sc

SIDE = 8
rng = np.random.default_rng(0)


def dead_leaves(size=256, num_discs=1500):
    rows, columns = np.mgrid[:size, :size]
    image = np.zeros((size, size))
    radii = 1 / np.sqrt(rng.uniform(1 / 80**2, 1 / 3**2, num_discs))  # density r^-3
    for radius, y, x in zip(radii, *rng.uniform(0, size, (2, num_discs)), strict=True):
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.uniform()
    return image


def whiten(image):
    frequencies = np.fft.fftfreq(len(image))
    radius = np.hypot(frequencies[:, None], frequencies)
    spectrum = np.fft.fft2(image) * radius * np.exp(-((radius / 0.4) ** 4))
    return np.fft.ifft2(spectrum).real


image = dead_leaves()
windows = np.lib.stride_tricks.sliding_window_view(whiten(image), (SIDE, SIDE)).reshape(-1, SIDE**2)
patches = rng.permutation(windows)[:3000].astype(np.float32)
patches -= patches.mean(axis=1, keepdims=True)
patches /= patches.std()
found = sc.dictionary_learning.learn_dictionary(
    jax.random.key(0), patches, num_atoms=64, penalty=1.0, num_rounds=40, num_restarts=1,
    solver=sc.solvers.sparsa(prox=sc.prox.soft_threshold), progress=None,
)  # fmt: skip
r2 = sc.metrics.r2(patches, found.codes @ found.dictionary)
print(f"R² {r2:.3f} with {sc.metrics.l0(found.codes, threshold=1e-6):.1f} of 64 atoms per patch")

figure = plt.figure(figsize=(8, 4), layout="constrained")
left, right = figure.subfigures(1, 2)
left.subplots().imshow(image, cmap="gray")
for axes, atom in zip(right.subplots(8, 8).ravel(), found.dictionary, strict=True):
    axes.imshow(atom.reshape(SIDE, SIDE), cmap="gray")
for axes in figure.axes:
    axes.set_axis_off()
plt.show()
