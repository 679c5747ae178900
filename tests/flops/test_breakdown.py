"""Where operations are: trees, rows, utilization; and what counts pay for: carries and budgets."""

import sys
from threading import Barrier, Thread
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import (
    CONVENTIONS,
    PEAK_FLOPS,
    FlopCount,
    FlopCountError,
    budget,
    count_flops,
    eval_flops,
    mfu,
    value_and_flops,
    with_flop_budget,
)
from sparsecode_jax.flops.breakdown import place_of
from sparsecode_jax.flops.counters import from_words

from .programs import newton_sqrt

# Trees and rows


@pytest.mark.parametrize(
    ("scope", "place"),
    [
        ("", ("not differentiated", ())),
        ("a/b", ("not differentiated", ("a", "b"))),
        ("jvp(Net)/Dense_0", ("forward", ("Net", "Dense_0"))),
        ("jvp()", ("forward", ())),
        ("transpose(jvp(Net))/Dense_0", ("backward", ("Net", "Dense_0"))),
        ("vmap(transpose(jvp()))/Net", ("backward", ("Net",))),
        ("step/transpose(jvp(a/b))/c", ("backward", ("step", "a/b", "c"))),
        ("transpose(jvp())/rematted_computation/Net", ("recomputed", ("Net",))),
        ("my f(x)/g", ("not differentiated", ("my f(x)", "g"))),
    ],
)
def test_places(scope, place):
    assert place_of(scope) == place


def layers(w, x):
    with jax.named_scope("net"):
        for name in ("first", "second"):
            with jax.named_scope(name):
                x = jnp.tanh(w @ x)
        return jnp.sum(x)


def step(w, x):
    gradient = jax.grad(layers)(w, x)
    with jax.named_scope("update"):
        return w - 0.1 * gradient


W, X = jnp.ones((8, 8)), jnp.ones(8)


def check_sums(node):
    if node["parts"]:
        assert sum(part["operations"] for part in node["parts"].values()) == node["operations"]
        sizes = [part["operations"] for part in node["parts"].values()]
        assert sizes == sorted(sizes, reverse=True)
    for part in node["parts"].values():
        check_sums(part)


def test_a_training_step_as_a_tree():
    count = eval_flops(step, W, X)
    tree = count.as_dict("matmul")
    # Forward two products; backward two for the weights, and one to get past the second layer.
    assert tree["operations"] == count.total("matmul") == 5 * 128
    assert set(tree["parts"]) == {"forward", "backward"}
    forward = tree["parts"]["forward"]["parts"]["net"]["parts"]
    assert {name: part["operations"] for name, part in forward.items()} == {
        "first": 128,
        "second": 128,
    }
    whole = count.as_dict()
    assert whole["operations"] == count.total() and whole["share"] == 1.0
    assert set(whole["parts"]) == {"forward", "backward", "not differentiated"}
    assert whole["parts"]["not differentiated"]["parts"]["update"]["operations"] == 2 * 64
    check_sums(whole)
    assert count.as_dict(depth=0)["parts"] == {}
    assert all(not part["parts"] for part in count.as_dict(depth=1)["parts"].values())
    for convention in CONVENTIONS:
        rows = count.rows(convention)
        assert sum(row["operations"] for row in rows) == count.total(convention)
    assert rows[0]["path"][0] == "net" and rows[0]["dtype"] == "float32"


def test_the_tree_prints_sorted_with_shares():
    count = eval_flops(step, W, X)
    lines = [line.split() for line in count.tree("matmul", depth=2).splitlines()]
    assert lines == [
        ["scope", "operations", "share"],
        ["backward", "384", "60.0", "%"],
        ["net", "384", "60.0", "%"],
        ["forward", "256", "40.0", "%"],
        ["net", "256", "40.0", "%"],
    ]
    assert "\n  update " in str(count)
    assert "scope" not in str(eval_flops(jnp.sin, X))  # nothing is named


def test_modules_of_flax_name_themselves():
    nn = pytest.importorskip("flax.linen")
    net = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    params = net.init(jax.random.key(0), X)
    parts = eval_flops(net.apply, params, X).as_dict("matmul")["parts"]["Sequential"]["parts"]
    assert {k: v["operations"] for k, v in parts.items()} == {"layers_0": 64, "layers_2": 16}


def test_scopes_have_their_parameters_beside_their_operations():
    """The same numbers of parameters as flax's own summary has, and products that are right."""
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.SelfAttention(num_heads=2)(nn.LayerNorm()(x))
            return nn.Dense(3)(x)

    x = jnp.ones((5, 7, 4))
    variables = jax.eval_shape(Block().init, jax.random.key(0), x)
    count = eval_flops(Block().apply, variables, x)
    lines = count.tree("matmul", params=variables["params"], depth=2).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["scope"] == ["parameters", "operations", "share"]
    attention = 4 * (4 * 4 + 4)
    assert cells["Block"][0] == f"{attention + 2 * 4 + 4 * 3 + 3}"
    assert cells["SelfAttention_0"][0] == f"{attention}"
    assert cells["Dense_0"][:2] == ["15", f"{2 * 5 * 7 * 4 * 3}"]
    whole = count.tree("matmul", params=variables["params"], depth=None).splitlines()
    assert [line.split()[1] for line in whole if line.split()[0] == "query"] == ["20"]

    def loss(params):
        return jnp.sum(Block().apply({"params": params}, x) ** 2)

    params = variables["params"]
    tree = eval_flops(jax.grad(loss), params).tree("matmul", params=params).splitlines()
    by_phase = [line.split()[1] for line in tree if line.split()[0] == "Dense_0"]
    assert by_phase == ["15", "15"]  # forward and backward
    phases = [line.split() for line in tree if line.startswith(("forward", "backward"))]
    assert len(phases) == 2 and all(len(cells) == 4 for cells in phases)  # no parameters there
    assert "parameters" not in count.tree("matmul")
    assert all(len(line.split()) == 4 for line in count.tree("matmul", params={}).splitlines()[1:])


def test_parameters_are_found_by_whole_names():
    @jax.named_scope("first")
    def first(w, x):
        return x @ w

    @jax.named_scope("first_2")
    def second(w, x):
        return x @ w

    params = {"first": jnp.ones((8, 2)), "first_2": {"kernel": jnp.ones((2, 4))}}

    @jax.named_scope("loss")
    def loss(x):
        return jnp.sum(x)

    def run(params, x):
        return loss(second(params["first_2"]["kernel"], first(params["first"], x)) + 1)

    lines = [line.split() for line in eval_flops(run, params, X).tree(params=params).splitlines()]
    sizes = {cells[0]: cells[1] for cells in lines if len(cells) == 5}
    assert sizes == {"first": "16", "first_2": "8"}
    assert {cells[0] for cells in lines if len(cells) == 4} == {"scope", "loss", "(itself)"}


class Module:
    """Stands for flax.nnx.Module: holds modules, and does not name itself."""


class Scale(Module):
    def __call__(self, x):
        return x * 2.0


class Twice(Scale):
    def __call__(self, x):
        return super().__call__(super().__call__(x))


class Block(Module):
    def __init__(self):
        self.first, self.rest, self.by_name = Scale(), [Scale(), Twice()], {"last": Scale()}
        self.width = 3

    def __call__(self, x):
        for part in (self.first, *self.rest, self.by_name["last"], Scale()):
            x = part(x)
        return jnp.sum(x)


@pytest.fixture
def nnx(monkeypatch):
    module = ModuleType("flax.nnx")
    module.Module = Module
    monkeypatch.setitem(sys.modules, "flax.nnx", module)


def test_modules_that_do_not_name_themselves_are_named_by_what_holds_them(nnx):
    calls = Scale.__call__, Twice.__call__, Block.__call__
    count = eval_flops(lambda x: Block()(x), X)
    scale = {"first": 8, "rest_0": 8, "rest_1": 16, "by_name_last": 8, "Scale": 8}
    expected = {"Block": 7, **{f"Block/{name}": n for name, n in scale.items()}}
    assert count.by("module") == expected
    assert (Scale.__call__, Twice.__call__, Block.__call__) == calls
    gradient = eval_flops(jax.grad(lambda x: Block()(x)), X)
    assert gradient.by("module")["Block/first"] == 8  # a product with a number: backward alone
    assert sum(gradient.by("module").values()) == gradient.total()
    with pytest.raises(ZeroDivisionError):
        eval_flops(lambda x: Block()(x) / (1 // 0), X)
    assert (Scale.__call__, Twice.__call__, Block.__call__) == calls


def test_two_threads_name_modules_and_leave_them_as_they_were(nnx):
    calls, barrier, counts = Block.__call__, Barrier(2), []

    def run():
        def traced(x):  # one of its own: JAX traces a function once at a time
            barrier.wait(20)
            y = Block()(x)
            barrier.wait(20)
            return y

        counts.append(eval_flops(traced, X).by("module")["Block/rest_1"])

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [16, 16] and Block.__call__ is calls


def test_lanes_are_added_up():
    lanes = jax.vmap(count_flops(newton_sqrt))(jnp.array([4.0, 9.0]))
    assert lanes.as_dict()["operations"] == lanes.sum().total()
    assert isinstance(lanes.tree(), str)


# Utilization


def test_utilization():
    square = lambda x: x @ x  # noqa: E731
    half, full = (
        eval_flops(square, jax.ShapeDtypeStruct((100, 100), d)) for d in ("bfloat16", "float32")
    )
    assert mfu(half, 0.5, 8e6) == 0.5
    assert mfu(half, 0.5, {"bfloat16": 8e6, "int8": 1.0}) == 0.5
    np.testing.assert_allclose(mfu(half + full, 1.0, {"bfloat16": 8e6, "float32": 4e6}), 0.75)
    lanes = jax.vmap(count_flops(square))(jnp.ones((2, 10, 10)))
    assert mfu(lanes, 1.0, 4000.0).tolist() == [0.5, 0.5]
    assert mfu(eval_flops(jnp.sin, X), 1.0, 1.0) == 0.0
    assert 0 < mfu(half, 1.0, PEAK_FLOPS["H100 SXM"]) < 1
    for chip, peaks in PEAK_FLOPS.items():
        assert peaks["bfloat16"] > 1e14, chip
    with pytest.raises(FlopCountError, match=r"operations in \['float32'\], and peak has"):
        mfu(full, 1.0, PEAK_FLOPS["TPU v5e"])
    for bad in (0, -1.0, float("nan"), "fast"):
        with pytest.raises(FlopCountError, match="mfu: seconds is .* expected a positive number"):
            mfu(half, bad, 1e12)


# Carries


def test_counts_in_a_carry():
    counted = value_and_flops(newton_sqrt)

    def body(carry, x):
        total, last = carry
        value, count = counted(x)
        return (total + count, value), None

    xs = jnp.array([4.0, 9.0, 2.0])
    expected = sum(count_flops(newton_sqrt)(x).total() for x in xs)
    for like in (
        eval_flops(newton_sqrt, 1.0),
        jax.eval_shape(count_flops(newton_sqrt), 1.0),
        count_flops(newton_sqrt)(1.0),
    ):
        zero = FlopCount.zeros_like(like)
        assert zero.total() == 0
        (total, _), _ = jax.jit(lambda z, xs: lax.scan(body, (z, 0.0), xs))(zero, xs)
        assert total.total() == expected
    lanes = FlopCount.zeros_like(jax.vmap(count_flops(newton_sqrt))(xs))
    assert lanes.total().tolist() == [0, 0, 0]
    other = FlopCount.zeros_like(eval_flops(jnp.sin, 1.0))
    with pytest.raises(FlopCountError, match="counts of two programs are added inside a traced"):
        jax.jit(lambda x: other + counted(x)[1])(1.0)
    with pytest.raises(FlopCountError, match="Start from FlopCount.zeros_like"):
        jax.jit(lambda x: like.sum() + counted(x)[1])(1.0)


# Budgets


def descend(x):
    """A step with a line search: the number of halvings depends on where it is."""
    slope = jnp.sum(x**2)
    size = lax.while_loop(
        lambda s: jnp.sum((x - s * x) ** 4) > (1 - 0.1 * s) * jnp.sum(x**4), lambda s: s / 2, 1.9
    )
    return x - size * x + 0.001 * slope


def by_hand(fun, x, limit, convention):
    spent = 0
    while True:
        following, count = value_and_flops(jax.jit(fun))(x)
        if spent + count.total(convention) > limit:
            return x, spent
        x, spent = following, spent + count.total(convention)


@pytest.mark.parametrize("limit", [0, 10, 500, 1234])
@pytest.mark.parametrize("convention", ["arithmetic", "all"])
def test_a_budget_ends_a_loop_where_a_loop_in_python_ends(limit, convention):
    x = jnp.array([3.0, -1.0, 0.5])
    expected, spent = by_hand(descend, x, limit, convention)
    state, count = jax.jit(with_flop_budget(descend, limit, convention=convention))(x)
    assert count.total(convention) == spent <= limit
    np.testing.assert_allclose(state, expected, rtol=1e-5)


def test_every_lane_has_a_budget_of_its_own():
    xs = jnp.array([[3.0, -1.0, 0.5], [0.1, 0.2, 8.0]])
    _, lanes = jax.jit(jax.vmap(with_flop_budget(descend, 700)))(xs)
    assert lanes.total().tolist() == [by_hand(descend, x, 700, "arithmetic")[1] for x in xs]


def test_steps_that_cost_the_same_are_a_plain_loop():
    fun = lambda x, w: jnp.tanh(w @ x)  # noqa: E731
    each = 2 * 64 + 8
    run = with_flop_budget(fun, 10 * each + each - 1)
    state, count = run(X, W)
    assert count.total() == 10 * each
    expected = lax.fori_loop(0, 10, lambda _, x: fun(x, W), X)
    np.testing.assert_allclose(state, expected, rtol=1e-6)
    text = jax.jit(lambda x, w: run(x, w)[0]).lower(X, W).as_text()
    assert "ui32" not in text
    assert with_flop_budget(fun, each - 1)(X, W)[1].total() == 0


def test_budgets_beyond_32_bits():
    def heavy(x):  # 4.8e10 operations where x is positive, one product where it is not
        work = lambda x: lax.scan(  # noqa: E731
            lambda c, _: (lax.scan(lambda d, _: (d * 1.0, None), c, None, length=200_000)[0], None),
            x, None, length=240_000,
        )[0]  # fmt: skip
        return lax.cond(x > 0, work, lambda x: x * 1.0, x) - 1.0

    count = eval_flops(heavy, 1.0)
    costs = [budget._cost(block, CONVENTIONS["arithmetic"]) for block in count.table]
    assert sorted(costs) == [1, 1, 48_000_000_000]
    for large in (3, 2**31, 2**40 + 12345, 2**63):
        words = [[n & 0xFFFFFFFF, n >> 32] for n in (7, large, 5)]
        made = FlopCount(tuple(from_words(jnp.array(w, jnp.uint32)) for w in words), count.table)
        digits = budget._spent(made, costs)
        total = sum(int(d) << (16 * i) for i, d in enumerate(digits))
        assert total == made.total()
        for limit, expected in ((total, True), (total - 1, False), (0, False), (2**200, True)):
            assert bool(budget._at_most(digits, limit)) is expected


def test_bad_budgets():
    for bad in (-1, 2.5, None):
        with pytest.raises(FlopCountError, match="with_flop_budget: budget is .* non-negative"):
            with_flop_budget(jnp.sin, bad)
    with pytest.raises(FlopCountError, match="a step costs 0 operations"):
        with_flop_budget(lambda x: x.T, 10)(W)
    with pytest.raises(FlopCountError, match="expected fewer than 2147483648"):
        with_flop_budget(jnp.sin, 2**40)(1.0)
    # A loop whose steps come to cost nothing ends, too.
    still = lambda x: lax.cond(x > 1.0, lambda x: x / 2.0, lambda x: x, x)  # noqa: E731
    state, count = jax.jit(with_flop_budget(still, 100))(64.0)
    assert state == 1.0 and count.total() == 6
