"""Bad input gets an error that says what is expected and what to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsecode_jax.flops import (
    FlopCountError,
    count_flops,
    eval_flops,
    register_flop_expansion,
    register_flop_rule,
    tally,
    value_and_flops,
)

from . import programs

ONES = jnp.ones(3)


@pytest.mark.parametrize("transform", [value_and_flops, count_flops])
@pytest.mark.parametrize("bad", [3, None, ONES])
def test_something_that_is_not_a_function(transform, bad):
    with pytest.raises(FlopCountError, match=f"{transform.__name__}: expected a function, got"):
        transform(bad)


def test_eval_flops_of_something_that_is_not_a_function():
    with pytest.raises(FlopCountError, match="eval_flops: expected a function, got"):
        eval_flops(ONES, ONES)


@pytest.mark.filterwarnings("ignore:Python iterable type:DeprecationWarning")
def test_generators_and_coroutines():
    def generator(x):
        yield x

    async def coroutine(x):
        return x

    for bad in (generator, coroutine, functools.partial(generator)):
        with pytest.raises(FlopCountError, match="is a generator or a coroutine"):
            value_and_flops(bad)
    with pytest.raises(TypeError, match="traces its function as jax.jit does"):
        value_and_flops(lambda x: (y for y in x))(ONES)


def test_branching_on_a_traced_value():
    with pytest.raises(jax.errors.TracerBoolConversionError, match="value_and_flops traces its"):
        value_and_flops(lambda x: x if x > 0 else -x)(1.0)


def test_static_arguments_must_be_bound():
    solve = jax.jit(lambda x, steps: lax.fori_loop(0, steps, jnp.add, x), static_argnames="steps")
    with pytest.raises(
        Exception, match=r"Declare static arguments.*static_argnames.*functools.partial"
    ):
        value_and_flops(solve)(1.0, steps=3)
    assert value_and_flops(functools.partial(solve, steps=3))(1.0)[1].total() == 3
    with pytest.raises(TypeError, match="every argument must be an array"):
        eval_flops(lambda x, mode: x, 1.0, "fast")
    with pytest.raises(TypeError, match="results must be arrays"):
        value_and_flops(lambda x: "done")(1.0)


def test_unknown_options():
    with pytest.raises(FlopCountError, match="on_unknown is 'zero'; expected one of"):
        value_and_flops(jnp.sin, on_unknown="zero")
    count = count_flops(jnp.sin)(1.0)
    with pytest.raises(FlopCountError, match="unknown convention 'flops'; expected one of"):
        count.total("flops")
    with pytest.raises(FlopCountError, match="unknown classes"):
        count.total({"products": 1})
    with pytest.raises(FlopCountError, match="weights are non-negative integers"):
        count.total(transcendental=0.5)
    with pytest.raises(FlopCountError, match="convention is 3; expected"):
        count.total(3)
    with pytest.raises(FlopCountError, match="unknown group 'line'; expected one of"):
        count.by("line")
    with pytest.raises(TypeError):
        count + 3


def test_bad_registrations():
    with pytest.raises(FlopCountError, match="expected a JAX primitive or its name, got 3"):
        register_flop_rule(3, lambda *_: {})
    with pytest.raises(FlopCountError, match="expected a function for 'p', got 7"):
        register_flop_expansion("p", 7)


def test_bad_tallies():
    with pytest.raises(FlopCountError, match="expected an integer scalar"):
        tally(ONES, 2.5, per_unit=1, name="t")
    with pytest.raises(FlopCountError, match="expected an integer scalar"):
        tally(ONES, jnp.arange(3), per_unit=1, name="t")
    for wrong in ("text", {"a": 1}, [[1], [2, 3]], None, True, np.bool_(True), 10**30, [3]):
        with pytest.raises(FlopCountError, match="expected an integer scalar"):
            tally(ONES, wrong, per_unit=1, name="t")
    for wrong in (2**40, np.int64(2**32 + 1), np.array(-(2**32) - 1)):  # 1 in 32 bits
        with pytest.raises(FlopCountError, match="n is .*; expected at most 2147483647"):
            tally(ONES, wrong, per_unit=1, name="t")
    for wrong in (3, None, ["t"]):
        with pytest.raises(FlopCountError, match="name is .*; expected a text"):
            tally(ONES, 2, per_unit=1, name=wrong)
    with pytest.raises(FlopCountError, match="x has no arrays"):
        tally((), 2, per_unit=1, name="t")
    with pytest.raises(FlopCountError, match="non-negative integers under names among"):
        tally(ONES, 2, per_unit={"dots": 1}, name="t")


def test_differentiating_a_counted_loop_with_its_own_rule():
    counted = value_and_flops(programs.implicit_sqrt)
    assert counted(9.0)[1].total() > 0
    with pytest.raises(FlopCountError, match=r"Count the derivative instead: value_and_flops\(jax"):
        jax.grad(counted, has_aux=True)(9.0)
    assert value_and_flops(jax.grad(programs.implicit_sqrt))(9.0)[1].total() > 0


def test_loops_where_counters_cannot_be_carried_out():
    composed = lax.composite(programs.newton_sqrt, name="test.sqrt")
    with pytest.raises(FlopCountError, match="'composite' .* contains while at programs.py"):
        count_flops(composed)(9.0)
