"""What the solvers' fronts say of bad input."""

import functools

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, solvers

from .contracts import PENALTY, N, S, raises, sparse_problem, spoiled

SIGNALS, DICTIONARY, CODES = sparse_problem()
KEY = jax.random.key(0)


def by_sparse_encode(signals, dictionary, penalty, step_size=None, **kwargs):
    kwargs = {"num_steps": 3, **kwargs}
    return sc.sparse_encode(signals, dictionary, penalty, step_size=step_size, **kwargs)


def by_solve(signals, dictionary, penalty, step_size=0.1, **kwargs):
    problem = Lasso(signals, dictionary, penalty, step_size)
    return solvers.solve(solvers.ista(), problem, **{"num_steps": 3, **kwargs})


def by_trajectory(signals, dictionary, penalty, step_size=0.1, **kwargs):
    problem = Lasso(signals, dictionary, penalty, step_size)
    kwargs = {"num_steps": 3, **kwargs}
    return solvers.trajectory(solvers.fista(), problem, record=lambda z: z, **kwargs)


FRONTS = {"sparse_encode": by_sparse_encode, "solve": by_solve, "trajectory": by_trajectory}
each_front = pytest.mark.parametrize("name", FRONTS)


SHAPE_ERRORS = {
    "columns_as_atoms": (
        (SIGNALS, DICTIONARY.T, PENALTY),
        {},
        r"signals have 8 measurements \(shape \(20, 8\)\) but the dictionary's atoms have 16 "
        r"\(shape \(8, 16\)\); they must agree\. If your atoms are columns, pass dictionary\.T\.",
    ),
    "other_measurements": (
        (SIGNALS[:, :7], DICTIONARY, PENALTY),
        {},
        r"signals have 7 measurements .* atoms have 8 .*must agree",
    ),
    "scalar_signal": ((np.float32(1), DICTIONARY, PENALTY), {}, "signals are a scalar; an array"),
    "no_signals": ((SIGNALS[:0], DICTIONARY, PENALTY), {}, r"signals are empty \(shape \(0, 8\)\)"),
    "no_measurements": (
        (SIGNALS[:, :0], DICTIONARY, PENALTY),
        {},
        r"signals are empty \(shape \(20, 0\)\)",
    ),
    "stack": (
        (SIGNALS, np.stack([DICTIONARY] * 2), PENALTY),
        {},
        r"the dictionary has shape \(2, 16, 8\); \(N, M\) .*use jax.vmap or sweep",
    ),
    "one_atom_as_vector": (
        (SIGNALS, DICTIONARY[0], PENALTY),
        {},
        r"the dictionary has shape \(8,\); \(N, M\) with one atom per row",
    ),
    "no_atoms": (
        (SIGNALS, DICTIONARY[:0], PENALTY),
        {},
        r"the dictionary is empty \(shape \(0, 8\)\)",
    ),
    "penalties": (
        (SIGNALS, DICTIONARY, np.ones(3)),
        {},
        r"the penalty has shape \(3,\); a scalar or one weight per atom \(16,\) .*use sweep",
    ),
    "penalty_per_signal": (
        (SIGNALS, DICTIONARY, np.ones((S, 1))),
        {},
        r"the penalty has shape \(20, 1\)",
    ),
    "step_sizes": (
        (SIGNALS, DICTIONARY, PENALTY, np.ones(2)),
        {},
        r"the step size has shape \(2,\); a scalar is expected\. To try several use sweep",
    ),
    "start": (
        (SIGNALS, DICTIONARY, PENALTY),
        {"codes0": CODES[:, :7]},
        r"the starting codes have shape \(20, 7\); \(20, 16\) \(one code per signal",
    ),
    "start_of_other_signals": (
        (SIGNALS, DICTIONARY, PENALTY),
        {"codes0": CODES[0]},
        r"the starting codes have shape \(16,\); \(20, 16\)",
    ),
}
VALUE_ERRORS = {
    "nan_signal": (
        (spoiled(SIGNALS, np.nan), DICTIONARY, PENALTY),
        {},
        r"signals holds 1 non-finite numbers \(the first at index \(2, 3\)\)",
    ),
    "inf_signal": ((spoiled(SIGNALS, -np.inf), DICTIONARY, PENALTY), {}, "signals holds 1 non-fin"),
    "nan_dictionary": (
        (SIGNALS, spoiled(DICTIONARY, np.nan), PENALTY, 0.1),
        {},
        r"dictionary holds 1 non-finite numbers \(the first at index \(2, 3\)\)",
    ),
    "inf_dictionary": (
        (SIGNALS, spoiled(DICTIONARY, np.inf), PENALTY, 0.1),
        {},
        "dictionary holds 1 non-finite",
    ),
    "zero_atom": (
        (SIGNALS, spoiled(DICTIONARY, 0, 5), PENALTY),
        {},
        r"the dictionary has 1 zero atoms \(the first is row 5\); every atom needs",
    ),
    "negative_penalty": (
        (SIGNALS, DICTIONARY, -0.1),
        {},
        r"the penalty is negative \(-0\.1\); a number >= 0 is expected",
    ),
    "one_negative_penalty": (
        (SIGNALS, DICTIONARY, spoiled(np.ones(N), -2, 4)),
        {},
        r"the penalty is negative \(-2\)",
    ),
    "nan_penalty": ((SIGNALS, DICTIONARY, np.nan), {}, "penalty holds 1 non-finite"),
    "zero_step_size": (
        (SIGNALS, DICTIONARY, PENALTY, 0.0),
        {},
        r"step_size is 0\.0; a finite number > 0",
    ),
    "negative_step_size": ((SIGNALS, DICTIONARY, PENALTY, -1.0), {}, r"step_size is -1\.0"),
    "nan_step_size": ((SIGNALS, DICTIONARY, PENALTY, np.nan), {}, "step_size is nan"),
    "nan_start": (
        (SIGNALS, DICTIONARY, PENALTY),
        {"codes0": spoiled(CODES, np.nan)},
        "codes0 holds 1 non-finite",
    ),
}


@each_front
@pytest.mark.parametrize(
    "bad", [*SHAPE_ERRORS.values(), *VALUE_ERRORS.values()], ids=[*SHAPE_ERRORS, *VALUE_ERRORS]
)
def test_fronts_refuse(name, bad):
    args, kwargs, message = bad
    raises(ValueError, f"^{name}: {message}", lambda: FRONTS[name](*args, **kwargs))


def traced(name, args, kwargs):
    """Trace a front with every array a tracer, and run nothing."""
    return jax.eval_shape(lambda a, k: FRONTS[name](*a, **k), args, kwargs)


@each_front
@pytest.mark.parametrize("bad", SHAPE_ERRORS.values(), ids=SHAPE_ERRORS)
def test_shapes_are_checked_under_jit_too(name, bad):
    args, kwargs, message = bad
    raises(ValueError, f"^{name}: {message}", lambda: traced(name, args, kwargs))


@each_front
@pytest.mark.parametrize("bad", VALUE_ERRORS.values(), ids=VALUE_ERRORS)
def test_values_pass_silently_under_jit(name, bad):
    args, kwargs, _ = bad
    codes = jax.tree.leaves(traced(name, args, kwargs))[0]
    assert codes.shape == (S, N)


@each_front
def test_lanes_of_a_wrong_shape_are_told_the_shape_of_a_lane(name):
    stack = np.stack([DICTIONARY.T] * 3)

    def call(dictionary):
        return jax.tree.leaves(FRONTS[name](SIGNALS, dictionary, PENALTY))[0]

    message = rf"^{name}: .*\(shape \(8, 16\)\).*pass dictionary\.T"
    raises(ValueError, message, lambda: jax.vmap(call)(stack))


@each_front
@pytest.mark.parametrize("value", [-1, 2.0, "3", True, np.float32(3)])
def test_num_steps_is_an_integer(name, value):
    message = f"^{name}: num_steps is .*; an integer >= 0 is expected"
    raises(ValueError, message, lambda: FRONTS[name](SIGNALS, DICTIONARY, PENALTY, num_steps=value))


@each_front
def test_numpy_integers_are_integers(name):
    FRONTS[name](SIGNALS, DICTIONARY, PENALTY, num_steps=np.int64(2))


@each_front
def test_num_steps_is_static(name):
    message = f"^{name}: num_steps is traced, but it decides shapes; pass a Python integer"
    call = jax.jit(lambda k: FRONTS[name](SIGNALS, DICTIONARY, PENALTY, num_steps=k))
    raises(TypeError, message, lambda: call(3))


@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_record_every_is_an_integer(value):
    message = r"^trajectory: record_every is .*; an integer >= 1 is expected"
    call = functools.partial(by_trajectory, SIGNALS, DICTIONARY, PENALTY, record_every=value)
    raises(ValueError, message, call)


@each_front
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("which", ["signals", "dictionary", "penalty", "codes0"])
def test_complex_numbers_are_refused(name, which):
    values = {"signals": SIGNALS, "dictionary": DICTIONARY, "penalty": PENALTY, "codes0": CODES}
    values[which] = np.asarray(values[which]) * (1 + 1j)
    message = rf"^{name}: .*complex\d+ numbers; real numbers are expected"
    raises(TypeError, message, lambda: FRONTS[name](**values))
