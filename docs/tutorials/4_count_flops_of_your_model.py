"""
Count the FLOPs of your model
=============================

``sparsecode_jax.flops`` counts the operations of any JAX function exactly. It knows nothing of
sparse coding, and loops that stop by a tolerance are counted as they ran.
"""

# %%
# From shapes alone
# -----------------
#
# Here is a multilayer perceptron in Flax. Nothing is computed: shapes decide its work.

import flax.linen as nn
import jax
import jax.numpy as jnp

from sparsecode_jax import flops


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(256, name="hidden")(nn.LayerNorm()(x)))
        return nn.log_softmax(nn.Dense(10, name="logits")(x))


model = Classifier()
batch = jax.ShapeDtypeStruct((32, 64), jnp.float32)
params = jax.eval_shape(model.init, jax.random.key(0), batch)
count = flops.eval_flops(model.apply, params, batch)
print(f"{count.total():,} operations, {count.total('matmul'):,} of them in matrix products")
for scope, operations in count.by("scope").items():
    print(f"  {scope or '(none)':<28}{operations:>12,}")

# %%
# A training step
# ---------------
#
# Count the derivative and not the function. Each product of the forward pass has two of the same
# size in its derivative, one for the weights and one for the inputs.


def loss(params, x, labels):
    scores = model.apply(params, x)
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))


labels = jax.ShapeDtypeStruct((32,), jnp.int32)
step = flops.eval_flops(jax.grad(loss), params, batch, labels)
print(f"{step.total('matmul') / count.total('matmul'):.2f} times the forward pass")

# %%
# Loops that depend on the data
# -----------------------------
#
# Newton's method for a square root stops when it is accurate enough. ``value_and_flops`` runs the
# function and counts, and a count is a pytree: ``vmap`` gives one for each lane.


def square_root(a):
    done = lambda x: jnp.abs(x * x - a) <= 1e-5 * a
    return jax.lax.while_loop(lambda x: ~done(x), lambda x: (x + a / x) / 2, jnp.ones_like(a))


numbers = jnp.array([1.0, 2.0, 100.0, 1e6])
roots, lanes = jax.vmap(flops.value_and_flops(square_root))(numbers)
print("roots            ", roots)
print("useful operations", lanes.total())
_, executed = flops.value_and_flops(jax.vmap(square_root))(numbers)
print(f"executed in lock step {executed.total()}, of which {executed.useful_fraction():.0%} useful")

# %%
# What a count means, conventions, bytes moved and limits are in :doc:`/flops`.
