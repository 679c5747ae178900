"""
Roofline
========

What bounds a program, arithmetic or memory? Operations per byte, from nothing fused to each loop's
body fused into one kernel, against what a chip can do: here an NVIDIA H100 SXM, 67 TFLOP/s in
float32 and 3.35 TB/s (its data sheet). A program that stays left of the ridge waits for memory.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import sparsecode_jax as sc

PEAK, BANDWIDTH = sc.flops.PEAK_FLOPS["H100 SXM"]["float32"], 3.35e12
M, N, K, BATCH = 768, 6144, 32, 4096

x = jax.ShapeDtypeStruct((BATCH, M), jnp.float32)
atoms = jax.ShapeDtypeStruct((N, M), jnp.float32)
encoder = sc.encoders.top_k(M, N, num_active=K)
params = jax.eval_shape(encoder.init, jax.random.key(0))
pursuit = sc.solvers.orthogonal_matching_pursuit(K)


def lasso(x, atoms):
    return sc.sparse_encode(x, atoms, 0.1, num_steps=20, step_size=1.0)


def omp(x, atoms):
    return sc.sparse_encode(x, atoms, 0.0, solver=pursuit, num_steps=K, step_size=1.0)


programs = {
    "TopK encoder": (encoder.apply, params, x),
    "FISTA, 20 steps": (lasso, x, atoms),
    f"OMP, {K} atoms": (omp, x, atoms),
}
figure, axes = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
intensity = np.geomspace(1, 1e3, 500)
axes.loglog(intensity, np.minimum(PEAK, BANDWIDTH * intensity), "k", linewidth=1)
for number, (name, (function, *arguments)) in enumerate(programs.items()):
    low, high = sc.flops.eval_flops(function, *arguments).arithmetic_intensity()
    along = np.geomspace(low, high)
    roof = np.minimum(PEAK, BANDWIDTH * along)
    axes.plot(along, roof, linewidth=14 - 5 * number, solid_capstyle="butt", label=name)
    print(f"{name:<16}{low:8.2f} unfused to {high:8.2f} FLOPs a byte fused")
axes.set(xlabel="operations per byte", ylabel="FLOP/s at most")
axes.legend(loc="lower right")
plt.show()
