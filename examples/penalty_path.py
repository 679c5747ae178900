"""
A path of penalties
===================

Everything in a problem is traced, so ``vmap`` encodes the same signals for many penalties as one
program. With noise, the penalty that recovers the true codes best is not the one that explains
most.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=500, num_measurements=16, num_atoms=32, noise=0.1
)
penalties = jnp.geomspace(0.003, 1.0, 20)


@jax.jit
@jax.vmap
def score(penalty):
    codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=200)
    r2 = sc.metrics.r2(problem.signals, codes @ problem.dictionary)
    return r2, sc.metrics.l0(codes), sc.metrics.mcc(problem.codes, codes)


r2, l0, mcc = score(penalties)
best = int(mcc.argmax())
print(f"MCC is best, {mcc[best]:.3f}, at penalty {penalties[best]:.3f} with {l0[best]:.1f} codes")

figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
axes.semilogx(penalties, r2, "C0", label="R²")
axes.semilogx(penalties, mcc, "C3", label="MCC")
axes.axvline(penalties[best], color="C3", linestyle=":", linewidth=1)
axes.set(xlabel="penalty", ylabel="R², MCC")
right = axes.twinx()
right.semilogx(penalties, l0, "C7--", label="L0")
right.set(ylabel="active codes per signal (L0)")
figure.legend(loc="outside right upper")
plt.show()
