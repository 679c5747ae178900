"""
Which solver
============

The choice depends on what you know: a penalty and a tolerance, a budget of steps, or the number
of active atoms. The guide :doc:`/solvers` has the whole table and timings; this page shows the
reasons.
"""

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import sparsecode_jax as sc

problem = sc.synthetic.sample_problem(
    jax.random.key(0), 8, num_samples=500, num_measurements=64, num_atoms=256, noise=0.02
)
signals, dictionary = problem.signals, problem.dictionary
lasso = sc.Lasso(signals, dictionary, 0.05, sc.dictionaries.step_size(dictionary))

# %%
# To a tolerance
# --------------
#
# Signals differ in how many iterations they need. ``solve_to_tolerance`` says how many each of
# them took. SpaRSA adapts its step to each signal; a working set takes few rounds, each on a few
# gathered atoms.

solvers = {
    "fista, restarted": sc.solvers.fista(restart=sc.solvers.gradient_restart),
    "sparsa": sc.solvers.sparsa(),
    "working_set": sc.solvers.working_set(),
}
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
print(f"{'solver':<18}{'iterations':>12}{'FLOPs per signal':>18}")
for name, solver in solvers.items():

    def run(problem, solver=solver):
        return sc.solvers.solve_to_tolerance(solver, problem, tolerance=1e-3, max_steps=2000)

    (_, info), count = sc.flops.value_and_flops(run)(lasso)
    assert info.converged.all()
    steps = np.sort(np.asarray(info.num_steps))
    print(f"{name:<18}{steps.mean():>12.1f}{count.total() / len(signals):>18,.0f}")
    axes.step(steps, np.linspace(0, 1, len(steps)), label=name)
axes.set(xscale="log", xlabel="iterations", ylabel="fraction of signals done")
axes.legend()

# %%
# ``sparse_encode(tolerance=...)`` chooses between the last two by the number of atoms.
#
# For a fixed number of steps
# ---------------------------
#
# No decision depends on the data, so the cost is known before anything runs.

encode = lambda x: sc.sparse_encode(x, dictionary, 0.05, num_steps=24)
print(f"{sc.flops.eval_flops(encode, signals).total() / len(signals):,.0f} FLOPs per signal")

# %%
# With a number of atoms
# ----------------------
#
# A pursuit adds atoms one by one and needs no penalty. Orthogonal matching pursuit takes the atom
# that is most like the residual; orthogonal least squares, the default, takes the one that lowers
# the error most, which matters where atoms are alike. Here both find the true supports.

for pursuit in (sc.solvers.orthogonal_least_squares, sc.solvers.orthogonal_matching_pursuit):
    codes = sc.sparse_encode(signals, dictionary, num_active=8, solver=pursuit)
    error = sc.objectives.relative_error(signals, dictionary, codes).mean()
    mcc = sc.metrics.mcc(problem.codes, codes)
    print(f"{pursuit.__name__:<28}error {error:.4f}  MCC {mcc:.4f}")

# %%
# If you know neither, ``penalty_for`` finds the penalty at which signals have so many active
# codes on average.

penalty = sc.solvers.penalty_for(signals, dictionary, num_active=8)
codes = sc.sparse_encode(signals, dictionary, penalty, tolerance=1e-5)
print(f"penalty {penalty:.3f}: {sc.metrics.l0(codes, threshold=1e-6):.1f} active codes per signal")
