"""Data-dependent loops inside shard_map, on two devices in an interpreter of their own."""

import os
import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from sparsecode_jax.flops import count_flops, value_and_flops

def inner(y):
    return lax.while_loop(lambda y: jnp.sum(y) < 20.0, lambda y: y * 2.0, y)

def outer(y):
    y = inner(y) / 3.0
    y = lax.cond(jnp.sum(y) > 10.0, jnp.tanh, lambda y: y * 1.5 + 1.0, y)
    return lax.scan(lambda c, w: (c + jnp.max(inner(w + y)), w), y, jnp.ones((2, 2)))[0]

def body(x, shared):
    def step(state):
        i, y = state
        return i + 1, outer(y) + (lax.psum(jnp.sum(y), "device") * 0.01 if shared else 0.0)
    return lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]

mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
spec = jax.P("device")
x = jnp.array([1.0, 2.0, 9.0, 7.0])

def mapped(fun, check):
    return jax.shard_map(fun, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check)

for check in (True, False):
    value, count = value_and_flops(jax.jit(mapped(inner, check)))(x)
    assert value.tolist() == [8.0, 16.0, 18.0, 14.0]
    assert list(count.trips().values()) == [3 + 1]
    assert count.by("primitive", "all") == {"mul": 8, "lt": 6, "reduce_sum": 6}
    assert count.bytes_moved()[0] == 4 * (8 + 8) + 6 * (8 + 1)

    if not check:
        continue
    # Without communication the count is the sum of what each device counts alone.
    alone = lambda x: body(x, shared=False)
    whole = jax.jit(value_and_flops(mapped(alone, check)))(x)
    parts = [value_and_flops(jax.jit(alone))(part) for part in x.reshape(2, 2)]
    np.testing.assert_array_equal(whole[0], np.concatenate([part[0] for part in parts]))
    separate = parts[0][1].total("all"), parts[1][1].total("all")
    assert separate[0] != separate[1]
    assert whole[1].total("all") == sum(separate)
    assert sum(whole[1].trips().values()) == sum(
        sum(part[1].trips().values()) for part in parts
    )
    # Two devices share one sum in each of three iterations, none of them half a sum.
    shared = value_and_flops(mapped(lambda x: body(x, shared=True), check))(x)[1]
    by = shared.by("primitive")
    assert {by.get("psum"), by.get("psum_invariant")} == {3, None}

# In groups of one device nothing is summed, in one group of both each of two elements once.
for groups, sums in (([[0], [1]], 0), ([[0, 1]], 2), (None, 2)):
    grouped = lambda x, g=groups: lax.psum(x, "device", axis_index_groups=g)
    count = count_flops(mapped(grouped, False))(x)
    assert count.total() == sums, (groups, count.total())

lanes = jnp.stack([x, 3.0 * x])
executed = count_flops(jax.vmap(mapped(inner, True)))(lanes)
assert list(executed.trips().values()) == [3 + 1]
assert executed.useful_fraction("all") == (3 + 2 + 1 + 0) / 8
print("done")
"""


def test_counters_of_loops_add_up_over_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env)
    assert run.stdout.strip() == "done", run.stderr
