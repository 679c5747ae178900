"""Check and cast what :func:`~sparsecode_jax.learning.fit` is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax.learning.step import Autoencoder, TrainData
from sparsecode_jax.types import ArrayLike, Encoder, Key

__all__ = ["Axes", "check_record_steps", "prepare"]


class Axes(NamedTuple):
    """Which inputs have a run axis: hashable, so that it can be static."""

    runs: int | None
    data: Any  # a TrainData of 0 (has the axis) and None


def prepare(
    key: Key,
    encoder: Encoder,
    signals: ArrayLike,
    num_atoms: int | None,
    dictionary: ArrayLike | None,
    true_codes: ArrayLike | None,
    params0: Autoencoder | None,
    penalty: ArrayLike,
    learning_rate: ArrayLike,
) -> tuple[Key, TrainData, Autoencoder, Axes]:
    """Check and cast the inputs; say which of them have a run axis."""
    if not hasattr(key, "dtype"):
        raise TypeError(
            f"fit: the key is {key!r}; a PRNG key such as jax.random.key(0) is expected."
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim > 1:
        raise ValueError(
            f"fit: keys of shape {key.shape}; one key, or a vector of keys is expected."
        )
    runs = key.shape[0] if key.ndim else None
    (signals,) = _checks.floating("fit", signals)
    _checks.signals_shape("fit", signals)
    _checks.finite("fit", signals=signals)

    def axis(label: str, array: Any, ndim: int) -> int | None:
        if array is None or array.ndim == ndim:
            return None
        if runs is None or array.ndim != ndim + 1 or array.shape[0] != runs:
            raise ValueError(
                f"fit: {label} of shape {array.shape} with "
                f"{'one run' if runs is None else f'{runs} runs'}; {ndim} axes are expected, or "
                f"{ndim + 1} with the runs first. Runs are counted by the keys given."
            )
        return 0

    def cast(array: Any) -> Any:
        return None if array is None else jnp.asarray(array, signals.dtype)

    data = TrainData(
        signals, cast(true_codes), cast(dictionary), cast(penalty), cast(learning_rate)
    )
    ndims = {"signals": 2, "true_codes": 2, "dictionary": 2, "penalty": 0, "learning_rate": 0}
    axes: dict[str, Any] = {k: axis(k, getattr(data, k), n) for k, n in ndims.items()}
    in_axes = data._replace(**axes)
    _checks.positive("fit", learning_rate=data.learning_rate)
    _checks.finite("fit", penalty=data.penalty)
    if np.any(np.asarray(data.penalty) < 0):
        raise ValueError(f"fit: the penalty is {data.penalty}; a number >= 0 is expected.")
    if data.dictionary is not None:
        _checks.same_measurements("fit", signals, data.dictionary)
        _checks.finite("fit", dictionary=data.dictionary)
        for one in data.dictionary if in_axes.dictionary == 0 else (data.dictionary,):
            _checks.dictionary_matrix("fit", one)
    if data.true_codes is not None:
        _checks.finite("fit", true_codes=data.true_codes)
    if num_atoms is not None:
        _checks.count("fit", "num_atoms", num_atoms)
    if data.true_codes is not None and data.true_codes.shape[-2] != signals.shape[-2]:
        raise ValueError(
            f"fit: {signals.shape[-2]} signals but {data.true_codes.shape[-2]} true codes; one row "
            "of codes per signal is expected."
        )
    learned = [dictionary is not None, num_atoms is not None]
    if params0 is None:
        if sum(learned) != 1:
            raise ValueError(
                "fit: pass exactly one of dictionary= (to keep it fixed) and num_atoms= (to learn "
                "one)."
            )
        params = _draw(key, encoder, num_atoms, signals.shape[-1])
    else:
        params = Autoencoder(*jax.tree.map(jnp.asarray, tuple(params0)))
        if params.dictionary is not None and dictionary is not None:
            raise ValueError(
                "fit: both a fixed dictionary= and a dictionary to learn in params0; pass one."
            )
        expected = jax.eval_shape(lambda k: _draw(k, encoder, None, 0).encoder, key)
        _checks.same_tree("fit", "the encoder's params0", params.encoder, expected)
    codes = _codes_shape(
        encoder,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[runs is not None :], x.dtype),
                     params.encoder),
        jax.ShapeDtypeStruct(signals.shape[-2:], signals.dtype),
    )  # fmt: skip
    for label, other in (("dictionary", params.dictionary), ("dictionary", data.dictionary)):
        if other is not None and other.shape[-2] != codes.shape[-1]:
            raise ValueError(
                f"fit: the encoder gives {codes.shape[-1]} codes but the {label} has "
                f"{other.shape[-2]} atoms (shape {other.shape}); they must agree."
            )
    if data.true_codes is not None and data.true_codes.shape[-1] != codes.shape[-1]:
        raise ValueError(
            f"fit: the encoder gives {codes.shape[-1]} codes but true_codes have "
            f"{data.true_codes.shape[-1]}; they must agree."
        )
    return key, data, params, Axes(runs, in_axes)


def _codes_shape(encoder: Encoder, params: Any, signals: jax.ShapeDtypeStruct) -> Any:
    try:
        return jax.eval_shape(encoder.apply, params, signals)
    except TypeError as error:  # from JAX: shapes that cannot be multiplied
        raise ValueError(
            f"fit: the encoder cannot take signals of shape {signals.shape}: {error}. Build it for "
            f"{signals.shape[-1]} measurements.".replace("\n", " ")
        ) from None


def _draw(key: Key, encoder: Encoder, num_atoms: int | None, num_measurements: int) -> Autoencoder:
    def one(key: Key) -> Autoencoder:
        encoder_key, dictionary_key = jax.random.split(key)
        if num_atoms is None:
            return Autoencoder(encoder.init(encoder_key), None)
        return Autoencoder(
            encoder.init(encoder_key),
            dictionaries.random(
                dictionary_key, num_atoms=num_atoms, num_measurements=num_measurements
            ),
        )

    return jax.vmap(one)(key) if key.ndim else one(key)


def check_record_steps(
    record: Callable | None, record_steps: Sequence[int], num_steps: int
) -> list[int]:
    integers = all(
        isinstance(s, int | np.integer) and not isinstance(s, bool) for s in record_steps
    )
    steps = [int(step) for step in record_steps] if integers else list(record_steps)
    if (record is None) != (not steps):
        raise ValueError("fit: record and record_steps go together; pass both or neither.")
    if (
        not integers
        or steps != sorted(set(steps))
        or (steps and not 0 <= steps[0] <= steps[-1] <= num_steps)
    ):
        raise ValueError(
            f"fit: record_steps are {steps}; increasing integers from 0 to num_steps ({num_steps}) "
            "are expected."
        )
    return steps
