"""
Getting started
===============

Signals that are sparse combinations of dictionary atoms go in, and codes come out. This page
encodes synthetic signals, scores the codes against the truth and counts what they cost.
"""

# %%
# A problem whose answer is known
# -------------------------------
#
# Each signal is a non-negative combination of 3 of 32 atoms, seen in 16 measurements.

import jax
import matplotlib.pyplot as plt

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=1000, num_measurements=16, num_atoms=32
)
print("signals   ", problem.signals.shape, "(samples, M)")
print("dictionary", problem.dictionary.shape, "(N, M), one atom per row")
print("codes     ", problem.codes.shape, "(samples, N)")

# %%
# Encode
# ------
#
# ``sparse_encode`` minimizes :math:`\tfrac12\|x - zD\|^2 + \lambda\|z\|_1` over :math:`z \ge 0`.
# A tolerance bounds how far each signal's objective is above its minimum; no reference solution
# is needed for it.

penalty = 0.02
codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, tolerance=1e-5)
gap = sc.objectives.duality_gap(problem.signals, problem.dictionary, codes, penalty)
print(f"largest relative duality gap  {gap.max():.1e}")
print(f"correlation with true codes   {sc.metrics.mcc(problem.codes, codes):.4f}  (MCC)")
explained = sc.metrics.r2(problem.signals, codes @ problem.dictionary)
print(f"variance explained            {explained:.4f}")
print(f"active codes per signal       {sc.metrics.l0(codes, threshold=1e-3):.2f}")

# %%
# The codes of one signal beside the true ones: the penalty makes them a little smaller.

figure, axes = plt.subplots(figsize=(7, 2.5), layout="constrained")
axes.stem(problem.codes[0], linefmt="C7-", markerfmt="C7o", basefmt=" ", label="true")
axes.plot(codes[0], "C3x", label="found")
axes.set(xlabel="atom", ylabel="code")
axes.legend()

# %%
# Count
# -----
#
# Each signal stops when it is done, so the work depends on the data. The FLOP transform counts
# what the program really spends.

encode = lambda x: sc.sparse_encode(x, problem.dictionary, penalty, tolerance=1e-5)
_, count = sc.flops.value_and_flops(encode)(problem.signals)
print(f"{count.total() / len(codes):,.0f} FLOPs per signal")

# %%
# Everything here is a pure function, so ``jit``, ``vmap`` and ``grad`` apply: :doc:`/embedding`.
# If the dictionary is not known, it can be learned:
# :doc:`/generated/tutorials/6_dictionary_learning`.
