"""Sweeps: one trace, the axes in order, and lanes that do not know of each other."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import sweep, sweep_chunked

from .contracts import M, N

sweep_module = importlib.import_module("sparsecode_jax._sweep")
PENALTIES = np.array([0.01, 0.05, 0.1, 0.3], np.float32)


def solve(key, penalty, num_active):
    problem = sc.synthetic.sample_problem(
        key, num_active, num_samples=12, num_measurements=M, num_atoms=N
    )
    codes = sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=30)
    return {"codes": codes, "l0": sc.metrics.l0(codes)}


def draw(key, penalty, num_active):
    codes = jnp.arange(N) < num_active
    return {"codes": codes * penalty, "sum": jax.random.normal(key, (3,)) * penalty + num_active}


def axes(keys=2, penalties=4, actives=3):
    return {
        "key": jax.random.split(jax.random.key(0), keys),
        "penalty": PENALTIES[:penalties],
        "num_active": np.arange(1, 1 + actives),
    }


@pytest.mark.full_effort
def test_axes_come_in_the_order_of_the_keywords():
    def weigh(a, b, c):
        return {"sum": 100 * a + 10 * b + c, "row": jnp.full(5, a)}

    a, b, c = jnp.arange(2), jnp.arange(3), jnp.arange(4)
    expected = 100 * a[:, None, None] + 10 * b[None, :, None] + c
    out = sweep(weigh, a=a, b=b, c=c)
    assert out["row"].shape == (2, 3, 4, 5)
    chex.assert_trees_all_equal(out["sum"], expected)
    turned = sweep(weigh, c=c, a=a, b=b)["sum"]
    chex.assert_trees_all_equal(turned, expected.transpose(2, 0, 1))
    chunked = sweep_chunked(weigh, c=c, a=a, b=b, chunk_size=5, progress=None)["sum"]
    np.testing.assert_array_equal(chunked, turned)


def test_a_function_is_traced_exactly_once_and_compiled_once(compilations):
    traces = []

    def fn(a, b, c):
        traces.append(1)
        return a * b + c

    grid = {"a": jnp.arange(3.0), "b": jnp.arange(4.0), "c": jnp.arange(5.0)}
    sweep(fn, **grid)
    assert len(traces) == 1
    compilations.count = 0
    sweep(fn, **jax.tree.map(lambda x: np.asarray(x) + 1, grid))
    assert (len(traces), compilations.count) == (1, 0)
    traces.clear()
    sweep_chunked(fn, chunk_size=7, progress=None, **grid)  # 60 points: the last chunk is padded
    assert len(traces) == 1
    compilations.count = 0
    sweep_chunked(fn, chunk_size=7, progress=None, **grid)
    assert (len(traces), compilations.count) == (1, 0)


def test_a_lane_equals_its_solo_run():
    grid = axes()
    out = sweep(solve, **grid)
    assert out["codes"].shape == (2, 4, 3, 12, N)
    for lane in ((0, 0, 0), (1, 3, 2), (0, 2, 1)):
        entry = [v[i] for v, i in zip(grid.values(), lane, strict=True)]
        alone = solve(**dict(zip(grid, entry, strict=True)))
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, lane=lane: x[lane], out), alone, rtol=1e-5, atol=1e-6
        )


def test_lanes_do_not_change_when_the_grid_grows():
    small, large = sweep(solve, **axes(penalties=2, actives=1)), sweep(solve, **axes())
    chex.assert_trees_all_close(
        small, jax.tree.map(lambda x: x[:, :2, :1], large), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("chunk_size", [1, 6, 7, 24, 1000])
def test_chunks_equal_the_whole(chunk_size):
    whole = sweep(draw, **axes())
    chunked = sweep_chunked(draw, chunk_size=chunk_size, progress=None, **axes())
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(chunked))
    chex.assert_trees_all_equal_shapes_and_dtypes(whole, jax.tree.map(jnp.asarray, chunked))
    chex.assert_trees_all_close(whole, chunked, rtol=1e-5, atol=1e-6)


def test_an_axis_may_be_a_pytree():
    def fn(setting, seed):
        return setting["scale"] * setting["vector"].sum() + jax.random.normal(seed)

    setting = {"scale": jnp.arange(3.0), "vector": jnp.arange(6.0).reshape(3, 2)}
    seeds = jax.random.split(jax.random.key(0), 2)
    expected = setting["scale"] * setting["vector"].sum(axis=1)
    expected = expected[:, None] + jax.vmap(jax.random.normal)(seeds)
    chex.assert_trees_all_close(sweep(fn, setting=setting, seed=seeds), expected, rtol=1e-6)
    chunked = sweep_chunked(fn, setting=setting, seed=seeds, chunk_size=4, progress=None)
    np.testing.assert_allclose(chunked, expected, rtol=1e-6)


def test_outputs_keep_their_structure_and_dtypes():
    def fn(a):
        return (a > 1, {"half": a.astype(jnp.bfloat16), "none": None}, jnp.int8(3))

    a = jnp.arange(3.0)
    flag, named, small = sweep(fn, a=a)
    assert named["none"] is None
    assert (flag.dtype, named["half"].dtype, small.dtype) == (bool, jnp.bfloat16, jnp.int8)
    chunked = sweep_chunked(fn, a=a, chunk_size=2, progress=None)
    chex.assert_trees_all_equal(jax.tree.map(jnp.asarray, chunked), (flag, named, small))


def test_keyword_names_are_free():
    out = sweep(
        lambda fn, names, values: fn + names + values,
        fn=np.ones(2),
        names=np.ones(1),
        values=np.ones(1),
    )
    assert out.shape == (2, 1, 1)
    np.testing.assert_array_equal(out, np.full((2, 1, 1), 3))


@pytest.mark.parametrize("chunk_size", [np.int64(2), np.int32(2)])
def test_chunk_size_may_be_a_numpy_integer(chunk_size):
    out = sweep_chunked(lambda a: a, chunk_size=chunk_size, progress=None, a=np.arange(3))
    np.testing.assert_array_equal(out, np.arange(3))


def run_sweep(fn, **kwargs):
    return sweep(fn, **kwargs)


def run_chunked(fn, **kwargs):
    return sweep_chunked(fn, chunk_size=2, progress=None, **kwargs)


@pytest.mark.parametrize(
    ("name", "run"), [("sweep", run_sweep), ("sweep_chunked", run_chunked)], ids=["whole", "chunks"]
)
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "no axis given; pass at least one, such as seed=keys"),
        ({"a": jnp.zeros((0, 3))}, "axis 'a' has leading lengths .*'0'"),
        ({"a": 3.0}, "axis 'a' has leading lengths .*a fixed value belongs in the function"),
        ({"a": jnp.float32(1)}, "axis 'a' has leading lengths .*'None'"),
        ({"a": [1.0, 2.0]}, "axis 'a' .*Wrap a list with jnp.asarray"),
        ({"a": None}, "axis 'a' has leading lengths"),
        ({"a": (jnp.zeros(2), jnp.zeros(3))}, "axis 'a' has leading lengths .*'2', '3'"),
        ({"b": jnp.zeros(2), "a": ()}, "axis 'a' has leading lengths"),
    ],
    ids=["none", "empty", "float", "scalar", "list", "None", "unequal", "no_leaves"],
)
def test_errors(name, run, grid, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        run(lambda **kwargs: 0, **grid)


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, "3", None, True])
def test_bad_chunk_sizes(chunk_size):
    with pytest.raises(ValueError, match=r"^sweep_chunked: chunk_size is .*; an integer >= 1"):
        sweep_chunked(lambda a: a, chunk_size=chunk_size, progress=None, a=jnp.zeros(2))


def test_an_interrupted_sweep_goes_on_with_the_next_chunk(tmp_path, monkeypatch):
    computed = []

    def fn(a, b):
        return {"sum": a + b, "half": (a * b).astype(jnp.bfloat16)}

    swept, axes = sweep_module._sweep_points, {"a": jnp.arange(3.0), "b": jnp.arange(4.0)}

    def stop(*args, **kwargs):
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args[-1])):
            return swept(*args, **kwargs)  # asked for shapes
        if len(computed) == 2:
            computed.append("stopped")
            raise KeyboardInterrupt
        computed.append("chunk")
        return swept(*args, **kwargs)

    def run(fn=fn, **changed):
        kwargs = {"chunk_size": 5, "progress": None, **axes, **changed}
        return sweep_chunked(fn, checkpoint=tmp_path / "sweep", **kwargs)

    expected = sweep_chunked(fn, chunk_size=5, progress=None, **axes)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "_sweep_points", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(list((tmp_path / "sweep").iterdir())) == 2
    found = run()
    assert found["half"].dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    counted = len(computed)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_module, "_sweep_points", stop)
        jax.tree.map(np.testing.assert_array_equal, run(), expected)
    assert len(computed) == counted  # nothing was left to do
    for differs, change in (
        ("a", {"a": jnp.arange(3.0) + 1}),
        ("function", {"fn": lambda a, b: {"sum": a - b, "half": (a * b).astype(jnp.bfloat16)}}),
        ("chunk_size", {"chunk_size": 6}),
    ):
        with pytest.raises(ValueError, match=rf"sweep_chunked: .*another run \({differs}"):
            run(**change)
