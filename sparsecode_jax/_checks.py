"""Input checks that several modules share, and the form of their messages.

Shapes and dtypes are checked always; values only when they are concrete, never on tracers.
A message says which function, what is wrong with the values, what is expected, what to do.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax._scaling import LARGEST, SMALLEST
from sparsecode_jax._sharding import one_mesh, to_host

_FLOATS = frozenset(map(jnp.dtype, (jnp.float32, jnp.float64, jnp.float16, jnp.bfloat16)))
_FEW = 1 << 20  # numbers that NumPy looks through before a program would be compiled
_PASS_TRANSPOSE = "If your atoms are columns, pass dictionary.T."


def concrete(x: Any) -> bool:
    """Say whether the value of x can be read now (it is not being traced)."""
    return x is not None and not isinstance(x, jax.core.Tracer)


def real(name: str, *arrays: Any) -> tuple[Any, ...]:
    """Return arrays of real numbers that JAX can read, or raise."""
    return tuple(_real(name, array) for array in arrays)


def _real(name: str, array: Any) -> Any:
    if type(array) is float or (isinstance(array, jax.Array) and array.dtype in _FLOATS):
        return array
    if np.ma.is_masked(array):  # JAX would read what lies under the mask
        raise TypeError(
            f"{name}: got a masked array (shape {array.shape}) with "
            f"{np.ma.count_masked(array)} masked entries; numbers in every place are expected. "
            "Drop those rows, or fill them: array.filled(value)."
        )
    value = array if isinstance(array, jax.Array) else _on_host(array)
    dtype = None if value is None else value.dtype
    if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}: got {dtype} numbers; real numbers are expected. "
            "Stack real and imaginary parts as separate measurements."
        )
    numbers = jnp.bool_, jnp.integer, jnp.floating
    is_number = dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in numbers)
    if not is_number or np.issubdtype(dtype, np.timedelta64):  # an integer, says NumPy
        what = type(array).__name__ if value is None else f"{dtype} of shape {value.shape}"
        raise TypeError(
            f"{name}: got {what}; an array of real numbers is expected. Convert it first: "
            "numpy.asarray(x, 'float32')."
        )
    return value.item() if type(array) in (bool, int, float) else value  # their dtypes are weak


def _on_host(array: Any) -> Any:
    """Return what is no JAX array as NumPy's, in a form that JAX can read; None if it is none."""
    try:
        value = np.asarray(array)
    except Exception:  # of whatever kind: ragged lists, objects with an __array__ of their own
        try:
            return jnp.asarray(array)  # a list of traced numbers
        except Exception:
            return None
    dtype = value.dtype
    if dtype.kind == "f" and dtype.itemsize > 8:
        return value.astype(np.float64)
    long = dtype.kind in "iu" and dtype.itemsize == 8 and jnp.result_type(int).itemsize == 4
    if long and value.size and not -(2**31) <= value.min() <= value.max() < 2**31:
        return value.astype(np.float64)  # JAX would keep the lower 32 bits
    return value if dtype.isnative else value.astype(dtype.newbyteorder("="))


def on_device(array: Any, dtype: Any = None) -> jax.Array:
    """Return ``jnp.asarray(array, dtype)``, which compiles a program for each shape of NumPy's.

    The copy is what that program makes: JAX would go on reading the memory of the caller. What a
    program closes over stays concrete while it is traced, for ``solvers._spread.held`` to see it.
    """
    if isinstance(array, jax.Array) and (
        dtype is None or (array.dtype == dtype and not array.weak_type)
    ):
        return array  # as jnp.asarray does, twenty times as slowly
    if isinstance(array, jax.Array) and concrete(array) and array.dtype.kind in "iu":
        with jax.ensure_compile_time_eval():  # the dictionary that a program closes over
            return jnp.asarray(array, dtype)
    if type(array) is not np.ndarray:
        return jnp.asarray(array, dtype)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype if dtype is None else dtype)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, as in JAX
        copy = np.array(array, dtype)
    with jax.ensure_compile_time_eval():
        return jax.device_put(copy)


def floating(name: str, *arrays: Any) -> tuple[jax.Array, ...]:
    """Cast arrays to one common floating dtype (integers become the default float)."""
    arrays = tuple(map(on_device, real(name, *arrays)))
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    return tuple(on_device(a, dtype) for a in arrays)


def finite(name: str, **arrays: Any) -> None:
    """Raise if a concrete array holds a NaN or an infinity."""
    for label, array in arrays.items():
        if concrete(array) and not all_finite(array):
            bad = ~np.isfinite(to_host(array).astype(np.float64))
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{name}: {label} holds {int(bad.sum())} non-finite numbers (the first at index "
                f"{where}); finite numbers are expected. Clean or drop those rows first."
            )


def all_finite(array: Any) -> bool:
    """Say whether a concrete array holds no NaN and no infinity."""
    if _in_reach(array) and np.size(array) <= _FEW:
        return bool(np.isfinite(np.asarray(array)).all())
    with jax.ensure_compile_time_eval():  # a concrete array may be closed over while tracing
        return bool(_finite_device(array))


def _largest(array: Any) -> float:
    """Return the largest magnitude in a concrete array."""
    if _in_reach(array) and np.size(array) <= _FEW:
        return float(np.max(np.abs(np.asarray(array)), initial=0))
    with jax.ensure_compile_time_eval():
        return float(jnp.max(jnp.abs(array)))


def _in_reach(array: Any) -> bool:
    """Say whether NumPy reads an array where it is."""
    if not isinstance(array, jax.Array):
        return True
    devices = array.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _zero_rows(matrix: Any) -> np.ndarray:
    if _in_reach(matrix) and np.size(matrix) <= _FEW:
        return np.all(np.asarray(matrix) == 0, axis=-1)
    with jax.ensure_compile_time_eval():
        return to_host(_zero_rows_device(matrix))


@jax.jit
def _finite_device(array: Any) -> jax.Array:
    return jnp.all(jnp.isfinite(array))


@jax.jit
def _zero_rows_device(matrix: Any) -> jax.Array:
    return jnp.all(matrix == 0, axis=-1)


def signals_shape(name: str, signals: Any) -> None:
    """Raise unless signals are (..., M) and not empty."""
    if signals.ndim == 0:
        raise ValueError(
            f"{name}: signals are a scalar; an array (..., M) of measurements is expected."
        )
    if signals.size == 0:
        raise ValueError(
            f"{name}: signals are empty (shape {signals.shape}); at least one signal with at least "
            "one measurement is expected. Check the selection that produced them."
        )


def dictionary_matrix(name: str, dictionary: Any) -> None:
    """Raise unless the dictionary is (N, M) with no zero atom."""
    if dictionary.ndim != 2:
        raise ValueError(
            f"{name}: the dictionary has shape {dictionary.shape}; (N, M) with one atom per row is "
            "expected. For a stack of dictionaries use jax.vmap or sweep."
        )
    if 0 in dictionary.shape:
        raise ValueError(
            f"{name}: the dictionary is empty (shape {dictionary.shape}); at least one atom of at "
            "least one measurement is expected."
        )
    if concrete(dictionary):
        zero = np.flatnonzero(_zero_rows(dictionary))
        if zero.size:
            raise ValueError(
                f"{name}: the dictionary has {zero.size} zero atoms (the first is row {zero[0]}); "
                "every atom needs a non-zero norm. Drop those rows or replace them."
            )


def matrix(name: str, label: str, array: Any, minimum: int = 1) -> None:
    """Raise unless an array is (N, M) with at least ``minimum`` rows and one column."""
    shape = array.shape
    if len(shape) != 2 or shape[0] < minimum or shape[1] < 1:
        raise ValueError(
            f"{name}: the {label} has shape {shape}; (N, M) with N >= {minimum} atoms as rows is "
            "expected. For a stack of dictionaries use jax.vmap."
        )


def product(
    name: str, label: str, array: Any, dictionary: Any, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Return arrays whose last axis agrees with one axis of a dictionary (N, M), or raise."""
    array, dictionary = map(on_device, real(name, array, dictionary))
    one_mesh(name, **{label: array, "dictionary": dictionary})
    if not array.ndim or dictionary.ndim != 2 or array.shape[-1] != dictionary.shape[axis]:
        raise ValueError(
            f"{name}: {label} have shape {array.shape} and the dictionary {dictionary.shape}; "
            f"(..., {'NM'[axis]}) and (N, M), one atom per row, are expected. {_PASS_TRANSPOSE}"
        )
    return array, dictionary


def shrinking(
    name: str, x: Any, threshold: Any, of_atoms: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return an array, (..., N) if it must be, and thresholds that broadcast to it, or raise."""
    x, threshold = floating(name, x, threshold)
    if of_atoms and not (x.ndim and x.shape[-1]):
        raise ValueError(
            f"{name}: got an array of shape {x.shape}; (..., N), one entry for each of N >= 1 "
            "atoms, is expected."
        )
    try:
        fits = np.broadcast_shapes(x.shape, threshold.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: the thresholds have shape {threshold.shape}, which does not broadcast to "
            f"{x.shape}; one number, or one for each atom, is expected."
        )
    return x, threshold


def sizes(name: str, label: str, values: Any, minimum: int = 1) -> tuple[int, ...]:
    """Return a tuple of static integers, or raise."""
    if not isinstance(values, tuple):
        raise TypeError(f"{name}: {label} is {values!r}; a tuple of integers is expected.")
    return tuple(count(name, f"an entry of {label}", value, minimum) for value in values)


def samples(name: str, label: str, array: Any, minimum: int = 1) -> None:
    """Raise unless an array is (..., S, N), not empty, with S >= ``minimum``."""
    shape = np.shape(array)
    if len(shape) < 2 or 0 in shape or shape[-2] < minimum:
        raise ValueError(
            f"{name}: the {label} have shape {shape}; a non-empty (..., samples, entries) array "
            f"with at least {minimum} samples is expected."
        )


def objective(
    name: str,
    signals: Any,
    dictionary: Any,
    codes: Any,
    penalty: Any,
    shape: tuple[int, ...] | None = None,
) -> tuple[jax.Array, ...]:
    """Return the arguments of an objective as arrays, or raise: shapes, the penalty's values.

    The shape is that of the codes, where only some of their values are given.
    """
    signals, dictionary, codes = floating(name, signals, dictionary, codes)
    penalty = on_device(*real(name, penalty))
    one_mesh(name, signals=signals, dictionary=dictionary, codes=codes, penalty=penalty)
    signals_shape(name, signals)
    matrix(name, "dictionary", dictionary)
    same_measurements(name, signals, dictionary)
    expected = signals.shape[:-1] + dictionary.shape[:1]
    shape = codes.shape if shape is None else shape
    if shape[-len(expected) :] != expected:  # several codes per signal may be in front
        codes_shape(name, "the codes", jax.ShapeDtypeStruct(shape, codes.dtype), expected)
    penalty_values(name, penalty, dictionary.shape[0])
    return signals, dictionary, codes, penalty


def same_measurements(name: str, signals: Any, dictionary: Any) -> None:
    """Raise unless signals (..., M) and dictionary (N, M) agree on M."""
    if signals.shape[-1] != dictionary.shape[-1]:
        raise ValueError(
            f"{name}: signals have {signals.shape[-1]} measurements (shape {signals.shape}) but "
            f"the dictionary's atoms have {dictionary.shape[-1]} (shape {dictionary.shape}); they "
            f"must agree. {_PASS_TRANSPOSE}"
        )


def takes(name: str, params: Any, signals: Any, num_measurements: int) -> jax.Array:
    """Return signals (..., M) for an encoder of M measurements with such parameters, or raise."""
    signals = on_device(*real(name, signals))
    one_mesh(name, signals=signals, params=params)
    if jnp.ndim(signals) == 0 or jnp.shape(signals)[-1] != num_measurements:
        raise ValueError(
            f"{name}: the signals have shape {jnp.shape(signals)}; (..., {num_measurements}) is "
            "expected, as the encoder was built. Build it for their number of measurements."
        )
    return signals


def penalty_values(name: str, penalty: Any, num_atoms: int) -> None:
    """Raise unless the penalty is () or (N,), finite and not negative."""
    if penalty.shape not in ((), (num_atoms,)):
        raise ValueError(
            f"{name}: the penalty has shape {penalty.shape}; a scalar or one weight per atom "
            f"({num_atoms},) is expected. To try several penalties use sweep."
        )
    finite(name, penalty=penalty)
    if concrete(penalty) and np.any(to_host(penalty) < 0):
        raise ValueError(
            f"{name}: the penalty is negative ({float(np.min(to_host(penalty))):g}); a number "
            ">= 0 is expected."
        )


def positive(name: str, **values: Any) -> None:
    """Raise unless each concrete number is finite and > 0."""
    for label, value in values.items():
        (value,) = real(name, value)
        if concrete(value):
            value = np.asarray(value, dtype=np.float64)
            if not np.all(np.isfinite(value) & (value > 0)):
                raise ValueError(
                    f"{name}: {label} is {value.tolist()}; a finite number > 0 is expected."
                )


def positive_number(name: str, label: str, value: Any) -> None:
    """Raise unless a value is one number and, where it is concrete, finite and > 0."""
    scalar(name, label, *real(name, value))
    positive(name, **{label: value})


def nonnegative(name: str, **values: Any) -> None:
    """Raise unless each concrete number is finite and >= 0."""
    for label, value in values.items():
        scalar(name, label, *real(name, value))
        if concrete(value) and not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name}: {label} is {value}; a finite number >= 0 is expected.")


def fraction(name: str, label: str, value: Any, inside: bool = False) -> None:
    """Raise unless a number is from 0 to 1; strictly between them if it must be inside."""
    scalar(name, label, *real(name, value))
    if not (0 < value < 1 if inside else 0 <= value <= 1):
        expected = "between 0 and 1, both excluded," if inside else "from 0 to 1"
        raise ValueError(f"{name}: {label} is {value}; a number {expected} is expected.")


def full_precision(name: str, label: str, array: Any) -> None:
    """Raise if an array has half precision, which factorizations do not know."""
    if jnp.finfo(array.dtype).bits < 32:
        raise TypeError(
            f"{name}: {label} have dtype {array.dtype}; float32 or float64 is expected, for the "
            "atoms are fitted with few digits to spare. Pass signals.astype('float32')."
        )


def squares(name: str, label: str, largest: float) -> None:
    """Raise unless float32 holds sums of squares of numbers that are 0 or as large as these."""
    if largest and not SMALLEST < largest < LARGEST:
        raise ValueError(
            f"{name}: the largest magnitude of the {label} is {largest:g}; {SMALLEST:.0e} to "
            f"{LARGEST:.0e} is expected, so that float32 holds sums of squares. Divide them by one "
            "number, or check what wrote them."
        )


def function(name: str, label: str, value: Any) -> None:
    """Raise unless a value can be called."""
    if not callable(value):
        raise TypeError(
            f"{name}: {label} is {value!r}; a function is expected, without parentheses after it."
        )


def static(name: str, label: str, value: Any) -> float:
    """Return a number that a program is built from, or raise."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {label} is {value}; a number is expected.")
    (value,) = real(name, value)
    scalar(name, label, value)
    if not concrete(value):
        raise TypeError(
            f"{name}: {label} is traced, but a program is built from it; a number is expected. "
            "Call it outside of jit, vmap and grad."
        )
    return float(value)


def flag(name: str, label: str, value: Any) -> None:
    """Raise unless a value is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {label} is {value!r}; True or False is expected.")


def key(name: str, value: Any) -> None:
    """Raise unless a value is one PRNG key, of the new kind or the old."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (shape == () if typed else _is_key_data(value)):
        what = type(value).__name__ if dtype is None else f"{dtype} of shape {shape}"
        raise TypeError(
            f"{name}: the key is {what}; one PRNG key, such as jax.random.key(0), is expected. For "
            "several use jax.vmap."
        )


def _is_key_data(value: Any) -> bool:
    try:
        return jax.random.wrap_key_data(value).shape == ()
    except (TypeError, ValueError, AttributeError):
        return False


def count(name: str, label: str, value: Any, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
    """Return a static integer of at least ``minimum``, or raise."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: {label} is traced, but it decides shapes; pass a Python integer (under jit, "
            "make it static)."
        )
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name}: {label} is {value!r}; an integer >= {minimum} is expected.")
    if value > maximum:
        raise ValueError(f"{name}: {label} is {value}; at most {maximum} is expected.")
    return int(value)


def codes_shape(name: str, label: str, codes: Any, expected: tuple[int, ...]) -> None:
    """Raise unless codes have the expected shape."""
    if codes.shape != expected:
        raise ValueError(
            f"{name}: {label} have shape {codes.shape}; {expected} (one code per signal, one entry "
            "per atom) is expected."
        )


def lasso(name: str, problem: Any, codes0: Any = None) -> None:
    """Check a whole Lasso problem and its warm start."""
    signals, dictionary, penalty, step_size, _ = problem
    signals_shape(name, signals)
    dictionary_matrix(name, dictionary)
    same_measurements(name, signals, dictionary)
    penalty_values(name, penalty, dictionary.shape[0])
    if step_size.shape != ():
        raise ValueError(
            f"{name}: the step size has shape {step_size.shape}; a scalar is expected. To try "
            "several use sweep."
        )
    positive(name, step_size=step_size)
    finite(name, signals=signals, dictionary=dictionary)
    if codes0 is not None:
        expected = signals.shape[:-1] + dictionary.shape[:1]
        codes_shape(name, "the starting codes", codes0, expected)
        finite(name, codes0=codes0)


def gram_matrix(name: str, value: Any, dictionary: jax.Array) -> jax.Array | None:
    """Return the Gram matrix of a dictionary, if it is given, in its dtype, or raise.

    None, too, if it is of a lower precision, such as of a dictionary in bfloat16.
    """
    if value is None:
        return None
    (value,) = real(name, value)
    given, wanted = (jnp.finfo(jnp.result_type(x)).bits for x in (value, dictionary))
    value = on_device(value, dictionary.dtype)
    if value.shape != 2 * dictionary.shape[:1]:
        raise ValueError(
            f"{name}: the Gram matrix has shape {value.shape} but there are {dictionary.shape[0]} "
            f"atoms; {2 * dictionary.shape[:1]} is expected. dictionaries.prepare makes it."
        )
    return value if given >= wanted else None


def prepared(name: str, problem: Any, codes0: Any) -> tuple[Any, Any]:
    """Return a Lasso and a warm start in the signals' dtype, or raise."""
    signals, dictionary = floating(name, problem.signals, problem.dictionary)
    start = [] if codes0 is None else [codes0]
    given = real(name, problem.penalty, problem.step_size, *start)
    penalty, step_size, *start = (on_device(x, signals.dtype) for x in given)
    gram = gram_matrix(name, problem.gram, dictionary)
    problem = type(problem)(signals, dictionary, penalty, step_size, gram)
    codes0 = start[0] if start else None
    lasso(name, problem, codes0)
    return problem, codes0


def solver(name: str, value: Any) -> None:
    """Raise unless a value is a solver."""
    if not all(hasattr(value, field) for field in ("init", "step", "codes")):
        raise TypeError(
            f"{name}: the solver is {value!r}; a Solver is expected. Call its factory, with "
            "parentheses: solvers.fista()."
        )


def encoder(name: str, value: Any) -> None:
    """Raise unless this is an encoder: functions with the fields of ``types.Encoder``."""
    if not all(callable(getattr(value, field, None)) for field in ("init", "apply")):
        what = "a factory that was not called" if callable(value) else type(value).__name__
        raise TypeError(
            f"{name}: got {what} ({value!r}); an encoder is expected, such as linear(M, N), or "
            "from_flax(module, M) for a Flax module."
        )


def optimizer(name: str, value: Any) -> None:
    """Raise unless an optimizer is a function of the learning rate."""
    if not callable(value):
        raise TypeError(
            f"{name}: the optimizer is {type(value).__name__}; a function of the learning rate is "
            "expected, such as optax.adam itself, with learning_rate= beside it."
        )


def to_tolerance(name: str, problem: Any, tolerance: Any, with_penalty: bool) -> None:
    """Raise unless a gap can certify a tolerance on these signals, where values are concrete."""
    (tolerance,) = real(name, tolerance)
    if jnp.shape(tolerance) != ():
        raise ValueError(
            f"{name}: the tolerance has shape {jnp.shape(tolerance)}; one number for all signals "
            "is expected. To try several use sweep."
        )
    positive(name, tolerance=tolerance)
    limits = jnp.finfo(problem.signals.dtype)
    if concrete(tolerance) and float(tolerance) < 4 * float(limits.eps):
        raise ValueError(
            f"{name}: the tolerance is {float(tolerance):g}, below what {limits.dtype} can "
            f"certify; at least {4 * float(limits.eps):.1g} is expected. Use float64 for less."
        )
    if concrete(problem.signals):
        largest = _largest(problem.signals)
        low, high = float(limits.tiny / limits.eps), float(limits.max * limits.eps)
        if largest and not low < largest < high:
            raise ValueError(
                f"{name}: the largest entry of the signals is {largest:g}, near the end of what "
                f"{limits.dtype} holds; {low:.0e} to {high:.0e} is expected. Divide signals and "
                "penalty by one number, and multiply the codes by it."
            )
    if with_penalty and concrete(problem.penalty) and np.any(to_host(problem.penalty) == 0):
        raise ValueError(
            f"{name}: the penalty is 0 somewhere, where no duality gap certifies a lasso; numbers "
            "> 0 are expected. Run solve for a number of steps, or a pursuit."
        )


def reached(name: str, converged: Any, tolerance: Any, max_steps: int) -> None:
    """Warn of signals that did not reach the tolerance, where values are concrete."""
    missed = int(_number_missing(converged)) if concrete(converged) else 0  # one number is read
    if missed:
        warnings.warn(
            f"{name}: {missed} of {converged.size} signals did not reach the tolerance "
            f"{float(tolerance):g} in {max_steps} steps; raise it, work in float64, or see "
            "solve_to_tolerance, which says which and how far they are.",
            stacklevel=4,  # whoever called the public function, through its wrapper
        )


@jax.jit
def _number_missing(flags: Any) -> jax.Array:
    return jnp.sum(~flags)


def has_penalty(name: str, prox: Any, known: bool) -> None:
    """Raise unless a proximal operator says what its penalty is."""
    function(name, "the proximal operator", prox)
    if not known:
        raise ValueError(
            f"{name}: the proximal operator {prox} does not say what its penalty is; one of "
            "sparsecode_jax.prox, or a callable with value and dual_norm (see prox.ElasticNet), is "
            "expected. If it is the l1 norm set its attribute is_l1 to True; without a penalty run "
            "solve for a number of steps."
        )


def separable(name: str, prox: Any, is_separable: bool) -> None:
    """Raise unless a penalty is a sum over atoms."""
    if not is_separable:
        raise ValueError(
            f"{name}: got the penalty of {prox}; nonnegative_soft_threshold, soft_threshold, one "
            "whose is_l1 is True, or an elastic_net is expected. Use fista or sparsa, and "
            "differentiate through solve."
        )


def num_active(name: str, value: Any, num_atoms: int) -> None:
    """Raise unless K is one integer, and from 0 to N where it is concrete."""
    (value,) = real(name, value)
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(
            f"{name}: num_active is {value}; one integer from 0 to {num_atoms} is expected. To try "
            "several use sweep."
        )
    if concrete(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= num_atoms)):
        raise ValueError(
            f"{name}: num_active is {value} but there are {num_atoms} atoms; an integer from 0 to "
            f"{num_atoms} is expected."
        )


def pursuit(name: str, penalty: Any, value: Any, build: Any) -> Any:
    """Return the solver that is built for K active codes, which stand in the place of a penalty."""
    if penalty is not None:
        raise ValueError(
            f"{name}: both a penalty and num_active are given; exactly one of them is expected."
        )
    count(name, "num_active", value)
    if hasattr(build, "init"):
        raise TypeError(
            f"{name}: num_active is {value} and the solver is built already, with a K of its own; "
            "what builds it is expected, such as solver=orthogonal_matching_pursuit."
        )
    function(name, "solver", build)
    with contextlib.suppress(ValueError):  # of functions that do not say what they take
        parameters = inspect.signature(build).parameters.values()
        if not any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(
                f"{name}: num_active is {value}, but the solver's builder takes no number of "
                "active atoms; one that takes it first is expected, such as "
                "solver=orthogonal_matching_pursuit. Matching pursuit, which may take an atom "
                "again, is run by solve(matching_pursuit(), ..., num_steps=)."
            )
    return build(value)


def offset(name: str, bias: Any, signals: Any) -> Any:
    """Return a bias (M,) of signals (B, M) from what is given: None, "mean" or an array."""
    if bias is None:
        return None
    if isinstance(bias, str):
        if bias != "mean":
            raise ValueError(
                f'{name}: the bias is {bias!r}; "mean", or an array (M,), is expected.'
            )
        return jnp.mean(signals, axis=0)
    real(name, bias)
    bias = on_device(bias, signals.dtype)
    if bias.shape != signals.shape[-1:]:
        raise ValueError(
            f"{name}: the bias has shape {bias.shape}; {signals.shape[-1:]} is expected, one "
            "number for each measurement."
        )
    finite(name, bias=bias)
    return bias


def scalar(name: str, label: str, value: Any) -> None:
    """Raise unless a value is one number."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name}: the {label} has shape {jnp.shape(value)}; one number is expected. To try "
            "several call once for each."
        )


def enough_signals(name: str, num_signals: int, num_atoms: int) -> None:
    """Raise unless there are at least as many signals as atoms to learn."""
    if num_signals < num_atoms:
        raise too_few_signals(name, num_signals, num_atoms)


def too_few_signals(name: str, num_signals: int, num_atoms: int) -> ValueError:
    """Return what is raised where signals are fewer than atoms to learn."""
    return ValueError(
        f"{name}: {num_signals} signals cannot determine {num_atoms} atoms; at least as many "
        "signals as atoms are expected. Pass more signals or a smaller num_atoms."
    )


def num_rows(name: str, label: str, array: Any, num_atoms: int) -> None:
    """Raise unless a dictionary has N atoms."""
    if array.shape[0] != num_atoms:
        raise ValueError(
            f"{name}: {label} has {array.shape[0]} atoms (shape {array.shape}); num_atoms = "
            f"{num_atoms} are expected."
        )


def update(name: str, value: Any) -> None:
    """Raise unless a value is a dictionary update."""
    if not all(hasattr(value, field) for field in ("init", "step", "reset")):
        raise TypeError(
            f"{name}: the update is {value!r}; a DictionaryUpdate is expected. Call its factory, "
            "with parentheses: updates.k_svd()."
        )


def dictionary_shape(
    name: str, dictionary: Any, expected: tuple[int, ...], label: str = "dictionary0"
) -> None:
    """Raise unless a matrix has one row per atom and one column per measurement."""
    if dictionary.shape != expected:
        raise ValueError(
            f"{name}: {label} has shape {dictionary.shape}; {expected}, one row per atom and one "
            "column a measurement, is expected."
        )


def same_tree(name: str, label: str, tree: Any, expected: Any) -> None:
    """Raise unless two pytrees have equal structure, shapes and dtypes."""
    try:
        chex.assert_trees_all_equal_structs(tree, expected)
        chex.assert_trees_all_equal_shapes_and_dtypes(tree, expected)
    except AssertionError as error:
        shapes = jax.tree.map(lambda x: f"{jnp.shape(x)} {jnp.result_type(x)}", expected)
        raise ValueError(
            f"{name}: {label} do not have the structure, shapes and dtypes expected: {shapes}. "
            f"{str(error).strip().splitlines()[-1]}"
        ) from None
