"""Closed forms, laws, and composition with JAX's own transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from sparsecode_jax.flops import (
    FlopCount,
    FlopCountError,
    count_flops,
    eval_flops,
    tally,
    value_and_flops,
)
from sparsecode_jax.flops.loop_index import loop_index

from . import programs
from .programs import PROGRAMS

M, N = 16, 32
D = jax.random.normal(jax.random.key(0), (N, M)) / 4
X = jax.random.normal(jax.random.key(1), (M,))
STEP, PENALTY = np.float32(0.1), np.float32(0.01)


def step(z, x=X, s=STEP, lam=PENALTY):
    return jnp.maximum(z - s * ((z @ D - x) @ D.T) - s * lam, 0)


def scanned(z, length=7):
    return lax.scan(lambda z, _: (step(z), None), z, None, length=length)[0]


def looped(z, length):
    return lax.fori_loop(0, length, lambda _, z: step(z), z)


def stablehlo(fun, *args):
    def main(*args):
        return fun(*args)

    return jax.jit(main).lower(*args).as_text()


# Closed forms


def test_ista_step_has_its_closed_form():
    count = count_flops(step)(jnp.zeros(N))
    assert count.total() == 4 * M * N + M + 4 * N
    assert count.total("matmul") == 4 * M * N
    assert count.total("all") == count.total()


def test_soft_threshold_step_has_its_closed_form():
    def signed(z):
        v = z - 0.1 * ((z @ D - X) @ D.T)
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - 0.01, 0)

    count = eval_flops(signed, jnp.zeros(N))
    assert count.total() == 4 * M * N + M + 5 * N
    assert count.total("all") == count.total() + 2 * N  # sign and abs


def test_published_figures_for_ista():
    d = jax.ShapeDtypeStruct((256, 64), jnp.float32)

    def ista(z, x, d):
        def signed(_, z):
            v = z - 0.1 * ((z @ d - x) @ d.T)
            return jnp.sign(v) * jnp.maximum(jnp.abs(v) - 0.01, 0)

        return lax.fori_loop(0, 100, signed, z)

    z, x = (jax.ShapeDtypeStruct((n,), jnp.float32) for n in (256, 64))
    count = eval_flops(ista, z, x, d)
    assert (count.total("matmul"), count.total()) == (6_553_600, 6_688_000)


def test_totals_do_not_overflow():
    def long(z):
        return lax.scan(lambda z, _: (scanned(z, 10**6), None), z, None, length=10**9)[0]

    each = eval_flops(step, jnp.zeros(N)).total()
    assert eval_flops(long, jnp.zeros(N)).total() == 10**15 * each


# Laws


def test_scan_is_linear_in_its_length():
    each = count_flops(step)(jnp.zeros(N)).total("all")
    for length in (0, 1, 5):
        assert eval_flops(lambda z: scanned(z, length), jnp.zeros(N)).total("all") == length * each  # noqa: B023


def test_unrolled_scanned_and_looped_agree():
    def unrolled(z):
        for _ in range(7):
            z = step(z)
        return z

    z = jnp.zeros(N)
    expected = count_flops(unrolled)(z).by("class", "all")
    assert count_flops(scanned)(z).by("class", "all") == expected
    assert count_flops(looped)(z, 7).by("class", "all") == expected
    assert count_flops(jax.jit(looped))(z, 7).by("class", "all") == expected


def test_unroll_does_not_change_the_count():
    fun = lambda z, unroll: lax.scan(  # noqa: E731
        lambda z, _: (step(z), None), z, None, length=6, unroll=unroll
    )[0]
    counts = [eval_flops(functools.partial(fun, unroll=u), jnp.zeros(N)) for u in (1, 2, 6)]
    assert len({count.total() for count in counts}) == 1


def test_while_condition_runs_once_more_than_its_body():
    fun = lambda x: lax.while_loop(lambda x: jnp.exp(x) < 50.0, lambda x: x * 2.0, x)  # noqa: E731
    _, count = value_and_flops(fun)(jnp.float32(0.5))
    assert count.by("primitive", "all") == {"exp": 4, "lt": 4, "mul": 3}


@pytest.mark.parametrize("fun", [programs.ista_tolerance, programs.ista_tolerance_no_index])
def test_lanes_in_lock_step_execute_at_least_their_useful_work(fun):
    useful = jax.vmap(count_flops(fun))(programs.XS)
    value, executed = value_and_flops(jax.vmap(fun))(programs.XS)
    assert useful.sum().total("all") <= executed.total("all")
    trips = np.array(list(useful.trips().values())[0])
    assert list(executed.trips().values()) == [trips.max()]
    assert len(set(trips)) > 1
    assert executed.useful_fraction() == pytest.approx(trips.sum() / (trips.max() * len(trips)))
    # The body's share of the executed work that lanes needed is what the lanes counted.
    assert executed.useful_fraction("matmul") * executed.total("matmul") == pytest.approx(
        useful.sum().total("matmul")
    )


def test_useful_fraction_of_nested_batched_loops():
    def fun(x):
        inner = lambda y: lax.while_loop(lambda y: y < 8.0, lambda y: y * 2.0, y)  # noqa: E731
        return lax.while_loop(
            lambda s: s[0] < x, lambda s: (s[0] + 1.0, s[1] + inner(s[0] + 1.0)), (0.0, 0.0)
        )

    xs = jnp.array([1.0, 3.0])
    count = value_and_flops(jax.vmap(fun))(xs)[1]
    # Inner trips at s[0] = 0, 1, 2 are 3, 2, 2; the short lane waits with y = 2, which needs 2.
    outer, inner = 3, 3 + 2 + 2
    assert sorted(count.trips().values()) == [outer, inner]
    # An outer iteration costs a lane 3 operations, its comparison and the inner loop's last one;
    # an inner iteration one of each.
    active, executed = 5 * (3 + 1) + 2 * (3 + 7), 5 * 2 * outer + 2 * 2 * inner
    assert count.useful_fraction("all") == pytest.approx(active / executed)


def test_lanes_of_unrelated_axes_are_not_matched():
    def fun(x, y):
        def outer(s):
            inner = lax.while_loop(
                lambda c: c[0] < y, lambda c: (c[0] + 1.0, c[1] + x), (0.0, s[1])
            )
            return s[0] + 1.0, inner[1]

        return lax.while_loop(lambda s: s[0] < x, outer, (0.0, 0.0))

    both = jax.vmap(jax.vmap(fun, (None, 0)), (0, None))
    x = jnp.array([1.0, 3.0])
    same = count_flops(both)(x, x)
    assert sorted(same.trips().values()) == [3, 9]
    with pytest.raises(FlopCountError, match="lanes cannot be matched"):
        same.useful_fraction()
    other = count_flops(both)(x, jnp.array([3.0, 1.0, 2.0]))
    # An outer iteration costs 2 operations over 2 lanes, active 1 + 3 times of 2 * 3. An inner one
    # costs 9 over 2 * 3 lanes, active (1 + 3) * (3 + 1 + 2) times of 6 * 9.
    useful, executed = 2 * 4 / 2 + 9 * 24 / 6, 2 * 3 + 9 * 9
    assert other.useful_fraction() == pytest.approx(useful / executed)


def test_work_that_lanes_share_is_executed_once():
    fun = lambda x: x + jnp.sum(jnp.sin(X))  # noqa: E731
    xs = jnp.ones(3)
    assert count_flops(jax.vmap(fun))(xs).total() == 2 * M - 1 + 3
    assert jax.vmap(count_flops(fun))(xs).sum().total() == 3 * (2 * M - 1 + 1)


def test_an_unread_carry_of_a_while_loop_counts():
    loop = lambda x: lax.fori_loop(0, x, lambda i, s: (s[0] * 2.0, jnp.sin(s[1])), (1.0, 1.0))[0]  # noqa: E731
    # JAX's own elimination of dead code keeps such a carry until release 0.11 and drops it after.
    kept = "sine" in jax.jit(loop).lower(3).as_text()
    assert count_flops(loop)(3).by("primitive") == {"mul": 3, **({"sin": 3} if kept else {})}


STATIC = [
    name for name in PROGRAMS if len(eval_flops(PROGRAMS[name][0], *PROGRAMS[name][1:]).table) == 1
]


def test_there_are_static_and_dynamic_programs():
    assert len(STATIC) >= 15 and len(PROGRAMS) - len(STATIC) >= 15


def assert_same_bits(ours, theirs):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert x.dtype == y.dtype and x.weak_type == y.weak_type
        np.testing.assert_array_equal(x, y)


# XLA rounds conjugate gradients otherwise when the compiled program has one more output.
DYNAMIC = [name for name in PROGRAMS if name not in STATIC]
SENSITIVE = {"conjugate gradients"}


@pytest.mark.full_effort
@pytest.mark.parametrize("name", sorted(SENSITIVE))
def test_a_dropped_count_does_not_change_a_bit_of_the_values(name):
    fun, *args = PROGRAMS[name]
    dropped = jax.jit(lambda *args: value_and_flops(fun)(*args)[0])
    assert_same_bits(dropped(*args), jax.jit(fun)(*args))


@pytest.mark.full_effort
@pytest.mark.parametrize("name", [name for name in DYNAMIC if name not in SENSITIVE])
def test_counting_loops_does_not_change_a_bit_of_the_values(name):
    fun, *args = PROGRAMS[name]
    assert_same_bits(jax.jit(value_and_flops(fun))(*args)[0], jax.jit(fun)(*args))


@pytest.mark.full_effort
@pytest.mark.parametrize("name", ["fista", "mlp adam step", "nested while, cond, scan"])
def test_counting_a_jitted_function_does_not_change_a_bit(name):
    fun, *args = PROGRAMS[name]
    assert_same_bits(value_and_flops(jax.jit(fun))(*args)[0], jax.jit(fun)(*args))


@pytest.mark.parametrize("name", STATIC)
def test_static_programs_lower_to_identical_stablehlo(name):
    fun, *args = PROGRAMS[name]
    counted = stablehlo(lambda *args: value_and_flops(fun)(*args)[0], *args)
    assert counted == stablehlo(fun, *args)


def test_a_loop_index_is_reused_as_its_counter():
    text = stablehlo(lambda x: value_and_flops(programs.ista_tolerance)(x)[0], programs.X)
    assert text == stablehlo(programs.ista_tolerance, programs.X)
    other = stablehlo(lambda x: value_and_flops(programs.ista_tolerance_no_index)(x), programs.X)
    assert "ui32" in other


@pytest.mark.parametrize(
    "loop",
    [
        # Indices that do not bound the loop, or step by more than one, must not be used.
        lambda x: lax.while_loop(
            lambda s: s[1] < 40.0, lambda s: (s[0] + 1, s[1] * 2.0), (jnp.int32(2**31 - 3), x)
        ),
        lambda x: lax.while_loop(lambda s: s[0] < 14, lambda s: (s[0] + 2, s[1] * 2.0), (2, x)),
        lambda x: lax.while_loop(
            lambda s: (s[0] < 3) | (s[1] < 40.0), lambda s: (s[0] + 1, s[1] * 2.0), (0, x)
        ),
        lambda x: lax.while_loop(lambda s: s[0] > -6, lambda s: (s[0] - 1, s[1] * 2.0), (0, x)),
    ],
)
def test_trips_do_not_depend_on_what_the_index_does(loop):
    _, count = value_and_flops(loop)(jnp.float32(1.0))
    assert list(count.trips().values()) == [6]
    assert count.by("primitive")["mul"] == 6


@pytest.mark.parametrize(
    ("cond", "body", "expected"),
    [
        (lambda i, x: i < 9, lambda i, x: i + 1, (0, 1)),
        (lambda i, x: (x < 9.0) & (i < 9), lambda i, x: i + 1, (0, 1)),
        (lambda i, x: i > -9, lambda i, x: i - 1, (0, -1)),
        (lambda i, x: x < 9.0, lambda i, x: i + 1, None),  # may wrap around
        (lambda i, x: (i < 9) | (x < 9.0), lambda i, x: i + 1, None),
        (lambda i, x: i <= 2**31 - 1, lambda i, x: i + 1, None),
        (lambda i, x: i < 9, lambda i, x: i - 1, None),
        (lambda i, x: i < 9, lambda i, x: i + 2, None),
        (lambda i, x: i < 9, lambda i, x: i + (x > 3.0), None),
    ],
)
def test_only_an_index_that_cannot_wrap_around_is_reused(cond, body, expected):
    start = (np.int32(0), np.float32(1))
    closed = [
        jax.make_jaxpr(lambda i, x: cond(i, x))(*start),
        jax.make_jaxpr(lambda i, x: (body(i, x), x * 2.0))(*start),
    ]
    assert loop_index(*closed, 0, 0) == expected


# Composition


def test_composes_with_jit_vmap_scan_and_grad():
    fun, x = programs.ista_tolerance, programs.X
    expected = count_flops(fun)(x)
    assert jax.jit(count_flops(fun))(x) == expected
    assert count_flops(jax.jit(fun))(x).total() == expected.total()

    batched = jax.vmap(count_flops(fun))(programs.XS)
    singles = [count_flops(fun)(x) for x in programs.XS]
    assert batched.total().tolist() == [single.total() for single in singles]
    assert batched.sum() == functools.reduce(FlopCount.__add__, singles).sum()

    _, stacked = lax.scan(lambda c, x: (c, count_flops(fun)(x)), None, programs.XS)
    assert stacked.total().tolist() == batched.total().tolist()

    carried, _ = lax.scan(
        lambda c, x: (c + count_flops(fun)(x), None), count_flops(fun)(programs.XS[0]), programs.XS
    )
    assert carried.total() == singles[0].total() + batched.sum().total()


def test_static_counts_keep_their_lanes():
    lanes = jax.vmap(jax.vmap(count_flops(step)))(jnp.zeros((2, 3, N)))
    each = count_flops(step)(jnp.zeros(N)).total()
    assert lanes.total().shape == (2, 3)
    assert lanes.sum().total() == 6 * each
    assert lanes.by("class", "matmul")["dot_mul"].shape == (2, 3)


def test_gradients_pass_through_counted_functions():
    loss = lambda d: jnp.sum(programs.ista(programs.X, d) ** 2)  # noqa: E731
    expected = jax.grad(loss)(programs.D)
    gradient, count = jax.grad(value_and_flops(loss), has_aux=True)(programs.D)
    np.testing.assert_array_equal(gradient, expected)
    assert count == count_flops(loss)(programs.D)

    both = lambda a: programs.implicit_sqrt(a) * 1.0  # noqa: E731
    _, count = value_and_flops(jax.grad(both))(jnp.float32(9.0))
    assert list(count.trips().values()) == [
        count_flops(programs.newton_sqrt)(9.0).trips().popitem()[1]
    ]


def test_forward_derivatives_pass_through_a_counted_loop():
    (value, _), (tangent, _) = jax.jvp(value_and_flops(programs.newton_sqrt), (9.0,), (1.0,))
    expected = jax.jvp(programs.newton_sqrt, (9.0,), (1.0,))
    np.testing.assert_array_equal((value, tangent), expected)


def test_static_derivative_rules_survive_in_a_dynamic_program():
    @jax.custom_vjp
    def straight(x):
        return jnp.round(x)

    straight.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

    def fun(x):
        trips = lax.stop_gradient(programs.newton_sqrt(x))
        return straight(3.0 * x) + jax.nn.relu(x) + trips

    gradient, _ = jax.grad(value_and_flops(fun), has_aux=True)(2.0)
    assert gradient == 4.0


def test_a_loop_inside_a_linear_solve_is_counted():
    a = jnp.eye(4) * 3.0 + 1.0

    def solve(b):
        return jax.scipy.sparse.linalg.cg(lambda y: a @ y, b)[0]

    b = jnp.arange(4.0)
    value, count = value_and_flops(solve)(b)
    np.testing.assert_array_equal(value, solve(b))
    trips = list(count.trips().values())
    assert trips == [2]  # two distinct eigenvalues
    lanes = jax.vmap(count_flops(solve))(jnp.stack([b, jnp.ones(4)]))
    assert list(lanes.trips().values())[0].tolist() == [2, 1]


def test_the_second_call_compiles_nothing():
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    scale = jnp.float32(0.9)
    for fun in (
        jax.jit(programs.ista_tolerance),
        programs.ista_tolerance_no_index,
        jax.jit(lambda x: programs.line_search(scale * x)),
        programs.fista,
    ):
        counted = value_and_flops(fun)
        first = counted(programs.X)[1]
        compiled.clear()
        assert counted(programs.X)[1] == first
        assert not [name for name in compiled if "backend_compile" in name]


def test_closed_over_tracers_and_keyword_arguments():
    def outer(x, y):
        return value_and_flops(lambda *, a: jnp.sum(a * y))(a=x)

    value, count = jax.vmap(outer)(jnp.ones((3, 4)), jnp.ones((3, 4)))
    assert value.tolist() == [4.0] * 3
    assert count.total().tolist() == [4 + 3] * 3

    def dynamic(x, y):
        return count_flops(lambda a: lax.while_loop(lambda c: c < y, lambda c: c * 2.0, a))(x)

    counts = jax.vmap(dynamic)(jnp.ones(2), jnp.array([4.0, 16.0]))
    assert counts.total().tolist() == [2, 4]


def test_dead_code_is_not_counted():
    def fun(x):
        _ = jnp.exp(x) @ jnp.ones((4, 4))
        return x + 1.0

    assert count_flops(fun)(jnp.ones(4)).total() == 4


def test_sum_over_devices_of_shard_map():
    mesh = AbstractMesh((4,), ("device",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("device")
    x = jax.ShapeDtypeStruct((8, 3), jnp.float32)
    fun = jax.shard_map(
        lambda x: lax.psum(jnp.sum(x * 2.0, axis=0), "device"),
        mesh=mesh,
        in_specs=spec,
        out_specs=PartitionSpec(),
    )
    count = eval_flops(fun, x)
    # Products over all devices, sums within each, and three sums an element across the four.
    assert count.by("primitive")["mul"] == 24
    assert count.by("class")["reduce"] == 4 * 3 + 3 * 3


def test_collectives_over_a_vmapped_axis():
    fun = lambda x: x - lax.psum(x, "lane")  # noqa: E731
    outside = jax.vmap(fun, axis_name="lane")
    assert count_flops(outside)(jnp.ones(5)).total() == 5 + 4
    with pytest.raises(FlopCountError, match="no one lane performs its operations"):
        jax.vmap(count_flops(fun), axis_name="lane")(jnp.ones(5))


def test_named_scopes_break_a_count_down():
    def fun(x):
        with jax.named_scope("encode"):
            y = jnp.tanh(x)
        with jax.named_scope("decode"), jax.named_scope("inner"):
            return lax.while_loop(lambda c: jnp.sum(c) < 9.0, lambda c: c * 2.0, y)

    count = count_flops(fun)(jnp.ones(3))
    scopes = count.by("scope")
    assert scopes["encode"] == 3
    assert set(scopes) == {"encode", "decode/inner"}
    (label,) = count.trips()
    assert "decode/inner" in label and "test_transform.py" in label


def test_tally_books_algorithmic_work():
    def fun(z):
        def body(s):
            i, z = s
            active = jnp.count_nonzero(z)
            return i + 1, tally(z * 0.5, active, per_unit={"dot_mul": 3}, name="active")

        return lax.while_loop(lambda s: s[0] < 4, body, (0, z))[1]

    z = jnp.array([0.0, 1.0, 2.0])
    count = count_flops(fun)(z)
    assert count.by("primitive", "matmul", work="algorithmic") == {"active": 4 * 2 * 3}
    # What is executed is the dense product, and nothing adds the two up.
    assert count.by("primitive") == {"mul": 4 * 3}
    assert count.total() == sum(count.by("class").values()) == 12
    assert count.total(work="algorithmic") == 24
    assert "algorithmic (tally)" in str(count) and "algorithmic" not in str(
        count_flops(step)(jnp.zeros(N))
    )
    with pytest.raises(FlopCountError, match="total: work is 'all'; expected one of"):
        count.total(work="all")
    lanes = jax.vmap(count_flops(fun))(jnp.stack([z, jnp.zeros(3)]))
    assert lanes.total("matmul", work="algorithmic").tolist() == [24, 0]
    batched = count_flops(jax.vmap(fun))(jnp.stack([z, z]))
    assert batched.total("matmul", work="algorithmic") == 48
    assert (batched + count).total(work="algorithmic") == 48 + 24
    constant = jax.vmap(lambda z: tally(z, 3, per_unit=2, name="each lane"))
    assert count_flops(constant)(z).total(work="algorithmic") == 3 * 3 * 2
    gradient = jax.grad(lambda z: jnp.sum(tally(z * z, 1, per_unit=1, name="t")))(z)
    np.testing.assert_array_equal(gradient, 2 * z)
    assert "tally" not in stablehlo(lambda z: tally(z, 1, per_unit=1, name="t"), z)


def test_executions_beside_an_unknown_operation_are_printed_as_numbers():
    def fun(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.lax.fori_loop(0, 3, lambda _, y: y + jax.pure_callback(np.sin, shape, y), x)

    _, count = value_and_flops(fun, on_unknown="defer")(jnp.ones(3))
    row = next(line for line in str(count).splitlines() if line.startswith("root"))
    assert row.split()[1] == "1" and row.endswith("pure_callback")
