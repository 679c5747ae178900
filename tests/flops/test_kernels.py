"""Hand-written kernels with a static grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import (
    FlopCountError,
    UnknownPrimitiveError,
    count_flops,
    eval_flops,
    value_and_flops,
)

pl = pytest.importorskip("jax.experimental.pallas")

X = jnp.arange(64.0).reshape(8, 8)


def call(kernel, rows=2):
    block = pl.BlockSpec((rows, 8), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    return pl.pallas_call(
        kernel,
        grid=(8 // rows,),
        in_specs=[block],
        out_specs=block,
        out_shape=shape,
        interpret=True,
    )


def affine(x, out):
    @pl.when(pl.program_id(0) == 0)
    def _():
        x[0, 0] = 1.0

    out[...] = jnp.tanh(x[...]) * 2.0


def test_a_kernel_counts_once_for_each_point_of_its_grid():
    value, count = value_and_flops(call(affine))(X)
    np.testing.assert_allclose(value, jnp.tanh(X.at[0, 0].set(1.0)) * 2.0, rtol=1e-6)
    assert count.by("primitive") == {"tanh": 64, "mul": 64}
    assert count.bytes_moved() == (2 * 256, 2 * 256)
    lanes = jnp.stack([X, X, X])
    assert count_flops(jax.vmap(call(affine)))(lanes).total() == 3 * count.total()
    assert jax.vmap(count_flops(call(affine)))(lanes).total().tolist() == [128] * 3


def test_loops_and_updates_in_a_kernel():
    def kernel(x, out):
        out[...] = jnp.zeros_like(out)

        def step(i, carry):
            out[...] += x[...]
            return carry * 2.0

        x[0, 0] = lax.fori_loop(0, 5, step, 1.0)

    assert count_flops(call(kernel))(X).by("primitive") == {"add": 5 * 64, "mul": 5 * 4}


def test_added_updates_count_an_operation_an_element():
    from jax._src.state.primitives import ref_addupdate

    def kernel(x, out):
        out[...] = x[...]
        ref_addupdate(out, (), x[...])

    value, count = value_and_flops(call(kernel))(X)
    np.testing.assert_array_equal(value, 2 * X)
    assert count.by("primitive") == {"addupdate": 64}


def test_blocks_fetched_again_count_above():
    whole = pl.BlockSpec((8, 8), lambda i: (0, 0))
    part = pl.BlockSpec((2, 8), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    fun = pl.pallas_call(
        kernel, grid=(4,), in_specs=[part, whole], out_specs=part, out_shape=shape, interpret=True
    )
    count = eval_flops(fun, X, X)
    assert count.total() == 2 * 8**3
    assert count.bytes_moved() == (3 * 256, (2 + 4) * 256)


def test_kernels_whose_work_depends_on_values():
    def loop(x, out):
        out[...] = lax.while_loop(lambda y: y[0, 0] < 9.0, lambda y: y * 2.0, x[...])

    with pytest.raises(FlopCountError, match="'pallas_call' .* contains while at test_kernels.py"):
        count_flops(call(loop))(X)

    def branch(x, out):
        out[...] = lax.cond(pl.program_id(0) > x[0, 0], jnp.sin, lambda y: y, x[...])

    with pytest.raises(FlopCountError, match="contains cond branch"):
        count_flops(call(branch))(X)

    def host(x, out):
        out[...] = jax.pure_callback(np.sin, x, x[...])

    with pytest.raises(UnknownPrimitiveError, match=r"'pure_callback' \(at test_kernels.py"):
        eval_flops(call(host), X)


def test_branches_by_program_id_count_where_they_are_taken():
    def branch(x, out):
        out[...] = x[...]

        @pl.when(pl.program_id(0) == pl.num_programs(0) - 1)
        def _():
            out[...] = jnp.tanh(x[...])

        out[...] = lax.switch(pl.program_id(0) % 3, [jnp.sin, jnp.cos, lambda y: y], out[...])

    value, count = value_and_flops(call(branch))(X)
    np.testing.assert_allclose(value, call(branch)(X))
    assert count.by("primitive") == {"tanh": 16, "sin": 2 * 16, "cos": 16} and len(count.table) == 1
    lanes = jnp.stack([X, X, X])
    assert count_flops(jax.vmap(call(branch)))(lanes).total() == 3 * count.total()


def test_loops_to_a_program_id_count_point_by_point():
    def kernel(x, out):
        point = pl.program_id(0)
        out[...] = x[...]

        def step(i, total):
            @pl.when((i & 1 == 0) | (point == 3))
            def _():
                out[...] += x[...] * 2.0

            return total + 1.0

        out[0, 0] += lax.fori_loop(0, jnp.minimum(2 * point, 5), step, 0.0)

        def again(carry):  # a loop in a scan, over what the scan carries
            i, y = carry
            return lax.while_loop(lambda s: s[0] < point, lambda s: (s[0] + 1, s[1] * 3.0), (i, y))

        scanned = lax.scan(lambda c, _: (again(c), None), (0, 1.0), None, length=2)[0][1]
        out[1, 0] += scanned

    steps = [min(2 * point, 5) for point in range(4)]
    taken = [sum(i % 2 == 0 or point == 3 for i in range(n)) for point, n in enumerate(steps)]
    count = eval_flops(call(kernel), X)
    added, multiplied = sum(taken) * 16, sum(taken) * 16 + sum(range(4))
    assert count.by("primitive") == {"add": added + sum(steps) + 4 * 2, "mul": multiplied}
    np.testing.assert_allclose(value_and_flops(call(kernel))(X)[0], call(kernel)(X))


def test_axes_that_do_not_matter_multiply():
    def fun(x, heads=64):
        def kernel(x, out):
            step = lambda i, y: y + x[...] @ x[...]  # noqa: E731
            out[...] = lax.fori_loop(0, pl.program_id(1) + 1, step, jnp.zeros((8, 8)))

        block = pl.BlockSpec((None, 8, 8), lambda h, i: (h, 0, 0))
        shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
        return pl.pallas_call(
            kernel, grid=(heads, 6), in_specs=[block], out_specs=block, out_shape=shape
        )(x)

    shape = jax.ShapeDtypeStruct((64, 8, 8), jnp.float32)
    assert eval_flops(fun, shape).total("matmul") == 64 * 2 * 8**3 * sum(range(1, 7))

    def long(x, out):
        out[0, 0] = lax.fori_loop(0, 10**6 * pl.program_id(0), lambda i, y: y * 2.0, 1.0)

    with pytest.raises(FlopCountError, match="takes more than 200,000 steps .* Count a smaller"):
        eval_flops(call(long), X)


def test_a_grid_known_at_run_time():
    def fun(x, n):
        def kernel(x, out):
            out[...] = x[...] * 2.0

        block = pl.BlockSpec((1, 8), lambda i: (i, 0))
        shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        return pl.pallas_call(
            kernel, grid=(n,), in_specs=[block], out_specs=block, out_shape=shape, interpret=True
        )(x)

    with pytest.raises(FlopCountError, match="its grid .* is known only at run time"):
        eval_flops(fun, X, np.int32(3))
