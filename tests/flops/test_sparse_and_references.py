"""Sparse matrices of JAX's own, and mutable references, as they are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import sparse

from sparsecode_jax.flops import (
    UnknownPrimitiveError,
    _compat,
    count_flops,
    eval_flops,
    register_flop_rule,
    rules,
    value_and_flops,
)

from . import oracle
from .test_oracle import check

# Sparse matrices

DENSE = np.zeros((6, 5), np.float32)
DENSE[[0, 1, 3, 5], [1, 2, 0, 4]] = [1.5, -2.0, 0.5, 3.0]
NSE = 4
X, W = np.arange(5, dtype=np.float32), np.ones((5, 3), np.float32)
KINDS = {
    "BCOO": sparse.BCOO.fromdense,
    "BCSR": sparse.BCSR.fromdense,
    "COO": sparse.COO.fromdense,
    "CSR": sparse.CSR.fromdense,
}


@pytest.fixture(autouse=True)
def foreign(monkeypatch):
    """Let the oracle perform sparse operations as JAX compiles them."""
    for p in _compat.lowered_primitives():
        if p.name.startswith(("bco", "bcs", "coo", "csr")) and _compat.lowered_as(p) is not None:
            monkeypatch.setitem(oracle.FOREIGN, p, _compat.lowered_as(p))


@pytest.mark.parametrize("right", [X, W], ids=["vector", "matrix"])
@pytest.mark.parametrize("kind", KINDS)
def test_products_cost_their_stored_elements(kind, right):
    matrix = KINDS[kind](DENSE)
    for counted in (value_and_flops, lambda f: jax.jit(value_and_flops(f))):
        value, count = counted(lambda m, x: m @ x)(matrix, right)
        np.testing.assert_allclose(value, DENSE @ right)
        columns = right.size // 5
        # A product for each stored element and column, and a sum into its row.
        assert count.by("class")["scatter"] == NSE * columns
        products = count.by("class").get("dot_mul", 0) + count.by("class").get("elementwise", 0)
        assert products == NSE * columns


def rebuilt(data, indices, x):
    return jnp.sum((sparse.BCOO((data, indices), shape=(6, 5)) @ x) ** 2)


def test_what_is_sparse_agrees_with_the_oracle():
    matrix = sparse.BCOO.fromdense(DENSE)
    data, indices = np.asarray(matrix.data), np.asarray(matrix.indices)
    for fun in (rebuilt, jax.grad(rebuilt), jax.grad(rebuilt, argnums=2)):
        check(lambda data, x, f=fun: f(data, indices, x), data, X)
    check(lambda d: (sparse.BCOO((d, indices), shape=(6, 5)) * 2.0).todense(), data)
    check(lambda d: sparse.BCOO((d, indices), shape=(6, 5)).sum(0).todense(), data)


def test_products_of_two_and_sampled_products():
    matrix = sparse.BCOO.fromdense(DENSE)
    value, count = value_and_flops(lambda m: (m @ m.T).todense())(matrix)
    np.testing.assert_allclose(value, DENSE @ DENSE.T)
    assert count.by("primitive")["mul"] == NSE**2
    a, b = jnp.ones((6, 7)), jnp.ones((7, 5))
    numbers = (((1,), (0,)), ((), ()))
    sampled = lambda a, b: sparse.bcoo_dot_general_sampled(  # noqa: E731
        a, b, matrix.indices, dimension_numbers=numbers
    )
    assert count_flops(sampled)(a, b).total() == 2 * 7 * NSE
    assert count_flops(lambda a: sparse.BCOO.fromdense(a, nse=NSE).data)(DENSE).total() == 0


def test_every_sparse_operation_has_a_place():
    known = {*rules.INLINED, *rules.OPAQUE, *rules.RULES, *rules.FREE}
    names = {
        p.name
        for module in (sparse.bcoo, sparse.bcsr, sparse.coo, sparse.csr, sparse.linalg)
        for name, p in vars(module).items()
        if isinstance(p, _compat.Primitive) and name.endswith("_p")
    }
    assert len(names) > 20 and names <= known | {"custom_lin"}, names - known


# References


def scaled(x):
    """Scale in place, then add to a sum in a loop of a data-dependent length."""
    ref, total = jax.new_ref(x), jax.new_ref(jnp.float32(0))

    def step(y):
        total[...] += y * 2.0
        return y / 2.0

    ref[...] = ref[...] * 3.0
    ref[0] += 1.0
    return lax.while_loop(lambda y: y > 1.0, step, ref[0]) + total[...]


def values(x):
    """The same without references."""
    first = (x * 3.0)[0] + 1.0
    step = lambda s: (s[0] / 2.0, s[1] + s[0] * 2.0)  # noqa: E731
    last, total = lax.while_loop(lambda s: s[0] > 1.0, step, (first, 0.0))
    return last + total


def test_a_reference_counts_as_what_is_done_to_its_value():
    x = jnp.array([30.0, 2.0])
    _, expected = value_and_flops(values)(x)
    for counted in (value_and_flops(scaled), jax.jit(value_and_flops(scaled))):
        value, count = counted(x)
        np.testing.assert_allclose(value, values(x), rtol=1e-6)
        assert count.total() == expected.total()
        assert list(count.trips().values()) == list(expected.trips().values())
    lanes = jnp.stack([x, 4 * x])
    each = jax.vmap(count_flops(scaled))(lanes).total().tolist()
    assert each == [count_flops(scaled)(lane).total() for lane in lanes]
    executed = count_flops(jax.vmap(scaled))(lanes)
    assert executed.useful_fraction() < 1.0


def test_references_that_are_given_are_changed():
    def fill(ref, y):
        ref[1] = ref[0] * y
        return jnp.sum(ref[...])

    kept = jax.new_ref(jnp.arange(1.0, 5.0))
    value, count = value_and_flops(fill)(kept, 3.0)
    assert value == 1 + 3 + 3 + 4 and count.total() == 1 + 3
    np.testing.assert_array_equal(kept[...], [1.0, 3.0, 3.0, 4.0])
    jax.jit(value_and_flops(fill))(kept, 5.0)
    np.testing.assert_array_equal(kept[...], [1.0, 5.0, 3.0, 4.0])
    assert eval_flops(fill, kept, 7.0).total() == 4
    np.testing.assert_array_equal(kept[...], [1.0, 5.0, 3.0, 4.0])  # nothing ran


def test_references_that_are_closed_over_are_changed():
    log = jax.new_ref(jnp.float32(0))

    def halve(y):
        def step(y):
            log[...] += y
            return y / 2.0

        return lax.while_loop(lambda y: y > 1.0, step, y)

    for times, counted in enumerate((value_and_flops(halve), jax.jit(value_and_flops(halve))), 1):
        _, count = counted(4.0)
        assert count.total() == 2 * 2 and log[...] == times * 6.0


# Exported programs


def test_an_exported_program_is_refused_with_its_line():
    exported = export.export(jax.jit(jnp.sin))(jnp.ones(3))
    with pytest.raises(
        UnknownPrimitiveError, match="test_sparse_and_references.*serialized program; count the fu"
    ):
        eval_flops(lambda x: exported.call(x) * 2.0, jnp.ones(3))


def test_what_is_exported_can_be_given_a_rule(monkeypatch):
    monkeypatch.setattr(rules, "_registry", dict(rules._registry))
    exported = export.export(jax.jit(jnp.sin))(jnp.ones(3))
    costs = {id(exported): {"transcendental": 3}}
    register_flop_rule("call_exported", lambda ins, outs, params: costs[id(params["exported"])])
    assert eval_flops(lambda x: exported.call(x) * 2.0, jnp.ones(3)).total() == 6
