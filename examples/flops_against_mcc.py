"""
FLOPs against MCC
=================

Run solvers step by step, and plot how well the codes correlate with the true ones against the
floating-point operations spent. The transform counts them from the program; nothing is estimated.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 3, num_samples=1000, num_measurements=16, num_atoms=32
)
step_size = sc.dictionaries.step_size(problem.dictionary)
lasso = sc.Lasso(problem.signals, problem.dictionary, jnp.float32(0.02), step_size)


def mcc(codes):
    return sc.metrics.mcc(problem.codes, codes)


def flops(solver, num_steps):
    run = lambda lasso: sc.solvers.solve(solver, lasso, num_steps=num_steps)
    return sc.flops.eval_flops(run, lasso).total() / len(problem.signals)


contenders = {
    "ISTA": (sc.solvers.ista(), 60),
    "FISTA": (sc.solvers.fista(), 60),
    "orthogonal matching pursuit": (sc.solvers.orthogonal_matching_pursuit(6), 6),
    "orthogonal least squares": (sc.solvers.orthogonal_least_squares(6), 6),
}
figure, axes = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
for name, (solver, num_steps) in contenders.items():
    every = max(1, num_steps // 20)
    _, curve = sc.solvers.trajectory(
        solver, lasso, num_steps=num_steps, record=mcc, record_every=every
    )
    spent = [flops(solver, n) for n in range(every, num_steps + 1, every)]
    axes.semilogx(spent, curve, ".-", markersize=4, label=name)
    best = int(curve.argmax())
    print(f"{name:<28}best MCC {curve[best]:.4f} for {spent[best]:,.0f} FLOPs a signal")
axes.set(xlabel="FLOPs per signal", ylabel="MCC with the true codes")
axes.legend()
plt.show()
