"""Check and cast what :func:`~sparsecode_jax.training.fit` is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._sharding import Layout, layout_of_axes, one_mesh, relabeled, to_host
from sparsecode_jax.io._identity import chained, other_batches
from sparsecode_jax.training._draws import split_batch
from sparsecode_jax.training.step import Autoencoder, Model, Recipe, TrainData, bound
from sparsecode_jax.types import ArrayLike, Encoder, Key, Role

__all__ = [
    "Axes",
    "Batches",
    "Signals",
    "check_record_steps",
    "checked_recipe",
    "model_of",
    "prepare",
    "prepare_key",
    "read",
]


class Axes(NamedTuple):
    """Which inputs have a run axis, and how runs lie on devices: hashable, so it can be static."""

    runs: int | None
    data: Any  # a TrainData of 0 (has the axis) and None
    layout: Layout | None = None


class Signals(NamedTuple):
    """What is trained on: an array, a sampler or a host iterator.

    Attributes:
      signals: all of them, or for a sampler or iterator one batch to know shapes and scale by.
      true_codes: theirs, or None.
      sampler: ``(key, step) -> batch``, or None.
      stream: batches on the host, the first included, or None.
    """

    signals: Any
    true_codes: Any
    sampler: Callable | None
    stream: Iterator | None


def model_of(model: Any) -> Model:
    """Return a model, if need be of the parameters of an earlier fit."""
    if model is None or isinstance(model, Model):
        return model or Model()
    if isinstance(model, Autoencoder):
        return Model(*model)
    raise TypeError(
        f"fit: the model is a {type(model).__name__}; a Model or an Autoencoder is expected, such "
        "as Model(fixed_dictionary=atoms) or fit(...).params."
    )


def prepare_key(key: Key) -> Key:
    """Return typed keys, () or (R,)."""
    if not hasattr(key, "dtype"):
        raise TypeError(
            f"fit: the key is {key!r}; a PRNG key such as jax.random.key(0) is expected."
        )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        try:
            key = jax.random.wrap_key_data(key)
        except (TypeError, ValueError):
            raise TypeError(
                f"fit: the key has dtype {key.dtype} and shape {np.shape(key)}; a PRNG key such as "
                "jax.random.key(0) is expected."
            ) from None
    if key.ndim > 1 or 0 in key.shape:
        raise ValueError(
            f"fit: keys of shape {key.shape}; one key, or a vector of keys is expected."
        )
    return key


def read(key: Key, signals: Any, batch_size: int | None) -> Signals:
    """Tell an array from a sampler and from a host iterator, and look at one batch."""
    sampler = signals if callable(signals) else None
    stream = signals if sampler is None and hasattr(signals, "__next__") else None
    if sampler is None and stream is None:
        array = hasattr(signals, "dtype") or isinstance(signals, list | tuple)
        if hasattr(signals, "__iter__") and not array:
            raise TypeError(
                f"fit: signals are a {type(signals).__name__}; an array, a pair (signals, "
                "true_codes), a function (key, step) or an iterator is expected. For a loader that "
                "starts anew each time pass iter(loader)."
            )
        if isinstance(signals, list) and any(hasattr(one, "dtype") for one in signals):
            raise TypeError(
                f"fit: signals are a list of {len(signals)} arrays; an array, or a tuple (signals, "
                "true_codes), is expected. For a batch per step pass iter(batches), for all of "
                "them at once numpy.concatenate(batches)."
            )
        pair = isinstance(signals, tuple) and len(signals) == 2
        array, codes = signals if pair else split_batch(signals)
        return Signals(array, codes, None, None)
    if batch_size is not None:
        raise ValueError(
            f"fit: signals are a stream of batches, and batch_size is {batch_size}; none is "
            "expected. Let each batch have its size."
        )
    if sampler is not None:
        first = sampler(jax.random.fold_in(key.ravel()[0], 0), jnp.int32(0))
    else:
        assert stream is not None
        first = next(stream, None)
        if first is None:
            raise ValueError(
                "fit: the stream of signals is empty; an iterator of arrays (B, M) is expected."
            )
        stream = itertools.chain([first], stream)
    batch, codes = split_batch(relabeled(first))
    if np.ndim(batch) != 2:
        raise ValueError(
            f"fit: the first batch of the stream has shape {np.shape(batch)}; (B, M) is expected."
        )
    return Signals(batch, codes, sampler, stream)


class Batches:
    """The batches of a host iterator, one per step, from where a run stands.

    ``digest`` is the checksum of those taken, 32 bytes, where ``hashing`` is asked for.
    """

    def __init__(self, stream: Iterator, data: TrainData, *, hashing: bool):
        self._stream = stream
        self._hashing = hashing
        self._dtype = data.penalty.dtype
        assert data.signals is not None
        self._shape = data.signals.shape
        self.digest = np.zeros(32, np.uint8)

    def skip(self, count: int, digest: np.ndarray, checkpoint: Any) -> None:
        """Pass over what a resumed run has seen, or say that it has not."""
        for batch in itertools.islice(self._stream, count):
            self._add(batch)
        if not np.array_equal(self.digest, digest):
            raise other_batches("fit", checkpoint, count)

    def _add(self, batch: Any) -> None:
        if self._hashing:
            self.digest = chained(self.digest, split_batch(batch))

    def upcoming(self, data: TrainData) -> TrainData:
        """Return the next batch, and leave it."""
        batch = next(self._stream, None)
        if batch is None:
            return data
        self._stream = itertools.chain([batch], self._stream)
        return self._put(batch, data)

    def take(self, count: int, data: TrainData) -> Iterator[TrainData]:
        """Give so many batches, or as many as there are."""
        for batch in itertools.islice(self._stream, count):
            self._add(batch)
            yield self._put(batch, data)

    def _put(self, batch: Any, data: TrainData) -> TrainData:
        signals, true_codes = split_batch(relabeled(batch))
        one_mesh("fit", signals=data.signals, batch=signals)
        if np.ndim(signals) != 2 or np.shape(signals)[1] != self._shape[1]:
            raise ValueError(
                f"fit: a batch of the stream has shape {np.shape(signals)}; (B, {self._shape[1]}), "
                "as the first, is expected."
            )
        _checks.real("fit", signals, *(() if true_codes is None else (true_codes,)))
        signals = jnp.asarray(signals, self._dtype)
        _checks.finite("fit", signals=signals)
        codes = None if true_codes is None else jnp.asarray(true_codes, self._dtype)
        return data._replace(signals=signals, true_codes=codes)


def prepare(
    key: Key,
    encoder: Encoder,
    source: Signals,
    num_atoms: int | None,
    model: Model,
    penalty: ArrayLike,
    learning_rate: ArrayLike,
    target_l0: ArrayLike | None,
) -> tuple[TrainData, Autoencoder, Axes, int]:
    """Check and cast the inputs; say which of them have a run axis, and the number of latents."""
    runs = key.shape[0] if key.ndim else None
    (signals,) = _checks.floating("fit", source.signals)
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

    dtype = jnp.promote_types(signals.dtype, jnp.float32)  # half precision would lose digits

    _checks.real("fit", penalty, learning_rate)

    def cast(array: Any) -> Any:
        if array is None:
            return None
        (array,) = _checks.real("fit", array)  # a cast would drop imaginary parts and masks
        return jnp.asarray(array, dtype)

    fixed = model.fixed_dictionary
    data = TrainData(
        signals, cast(source.true_codes), cast(fixed), cast(penalty), cast(learning_rate),
        cast(target_l0),
    )  # fmt: skip
    ndims = {"signals": 2, "true_codes": 2, "dictionary": 2, "penalty": 0, "learning_rate": 0,
             "target_l0": 0}  # fmt: skip
    axes: dict[str, Any] = {k: axis(k, getattr(data, k), n) for k, n in ndims.items()}
    in_axes = data._replace(**axes)
    _checks.positive("fit", learning_rate=data.learning_rate)
    _checks.finite("fit", penalty=data.penalty)
    if np.any(to_host(data.penalty) < 0):
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
    params = _start(key, encoder, data, num_atoms, model, runs)
    num_latents = _check_widths(encoder, data, params, runs)
    if data.target_l0 is not None:
        _check_target(data, num_latents)
    if source.sampler is not None:
        data = data._replace(signals=None, true_codes=None)
        in_axes = in_axes._replace(signals=None, true_codes=None)
    return data, params, Axes(runs, in_axes, _layout(key, data, in_axes)), num_latents


def _check_target(data: TrainData, num_latents: int) -> None:
    """Raise unless a penalty can be steered to the L0 that is asked for."""
    _checks.positive("fit", target_l0=data.target_l0)
    if (most := float(np.max(to_host(data.target_l0)))) > num_latents:
        raise ValueError(
            f"fit: target_l0 is {most:g} but there are {num_latents} latents; at most {num_latents}"
            " is expected."
        )
    if np.any(to_host(data.penalty) == 0):
        raise ValueError(
            "fit: the penalty is 0 and target_l0 is given; a number > 0, where it begins, is "
            "expected."
        )


def _layout(keys: Key, data: TrainData, in_axes: TrainData) -> Layout | None:
    """Return how runs lie on devices, if keys or data of each run are split over them."""
    if not keys.ndim:
        return None
    by_run = [x for x, axis in zip(data, in_axes, strict=True) if axis == 0]
    shared = [x for x, axis in zip(data, in_axes, strict=True) if axis is None]
    return layout_of_axes("fit", {"key": [keys, *by_run]}, shared)


def _start(
    key: Key,
    encoder: Encoder,
    data: TrainData,
    num_atoms: int | None,
    model: Model,
    runs: int | None,
) -> Autoencoder:
    """Draw the parameters, or take and check those that are given."""
    assert data.signals is not None
    if model.bias is not None and not isinstance(model.bias, str):
        _checks.real("fit", model.bias)
    parts = model._replace(bias=None if isinstance(model.bias, str) else model.bias)
    _checks.real("fit", *jax.tree.leaves(tuple(parts)))
    given = model.dictionary is not None
    if given and data.dictionary is not None:
        raise ValueError(
            "fit: both a dictionary to learn and a fixed_dictionary in the model; pass one."
        )
    if num_atoms is not None and data.dictionary is not None:
        raise ValueError(
            "fit: both num_atoms= (to learn a dictionary) and a fixed_dictionary in the model; "
            "pass one."
        )
    whole = given or data.dictionary is not None or model.encoder is not None
    if not whole and num_atoms is None:
        raise ValueError(
            "fit: neither num_atoms= (to learn a dictionary) nor a dictionary in the model; pass "
            "one of them."
        )
    draws = num_atoms if not given else None
    drawn = _draw(key, encoder, draws, data.signals.shape[-1])

    def take(part: Any, like: Any) -> Any:
        """Give every run a part that has no run axis."""
        part = jnp.asarray(part)
        short = runs is not None and part.ndim == np.ndim(like) - 1
        return jnp.broadcast_to(part, (runs, *part.shape)) if short else part

    params = drawn
    if model.encoder is not None:
        expected = jax.eval_shape(lambda k: _draw(k, encoder, None, 0).encoder, key)
        own = jax.tree.map(jnp.asarray, model.encoder)
        if str(jax.tree.structure(own)) == str(jax.tree.structure(expected)):
            own = jax.tree.map(take, own, expected)
        _checks.same_tree("fit", "the encoder's parameters in the model", own, expected)
        params = params._replace(encoder=own)
    if given:
        like = jax.ShapeDtypeStruct((*key.shape, 1, 1), float)
        params = params._replace(dictionary=take(model.dictionary, like))
    dtype = data.penalty.dtype
    if isinstance(model.bias, str):
        if model.bias != "mean":
            raise ValueError(
                f'fit: the bias in the model is {model.bias!r}; "mean", or an array (M,), is '
                "expected."
            )
        mean = jnp.mean(data.signals, axis=-2, dtype=dtype)
        params = params._replace(bias=jnp.broadcast_to(mean, (*key.shape, mean.shape[-1])))
    elif model.bias is not None:
        like = jax.ShapeDtypeStruct((*key.shape, 1), float)
        params = params._replace(bias=take(model.bias, like))
    if given or model.bias is not None:
        _check_decoder(params, num_atoms, data.signals.shape[-1], runs)
    return params


def _check_decoder(
    params: Autoencoder, num_atoms: int | None, num_measurements: int, runs: int | None
) -> None:
    """Check the shapes and values of a given dictionary and bias."""
    leading = () if runs is None else (runs,)
    dictionary, bias = params.dictionary, params.bias
    if dictionary is not None:
        rows = dictionary.shape[-2] if num_atoms is None and dictionary.ndim > 1 else num_atoms
        expected = (*leading, rows, num_measurements)
        if dictionary.shape != expected:
            raise ValueError(
                f"fit: the dictionary in the model has shape {dictionary.shape}; {expected} is "
                "expected (runs, atoms, measurements)."
            )
        _checks.finite("fit", dictionary=dictionary)
        for one in dictionary if runs is not None else (dictionary,):
            _checks.dictionary_matrix("fit", one)
    if bias is not None and bias.shape != (*leading, num_measurements):
        raise ValueError(
            f"fit: the bias in the model has shape {bias.shape}; {(*leading, num_measurements)} is "
            "expected."
        )


def _check_widths(encoder: Encoder, data: TrainData, params: Autoencoder, runs: int | None) -> int:
    """Raise unless encoder, dictionaries and true codes agree on N; return N."""

    def shape(tree: Any, has_runs: bool) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[has_runs:], x.dtype), tree)

    assert data.signals is not None
    one = shape(params, runs is not None)
    if one.dictionary is None and data.dictionary is not None:
        one = one._replace(dictionary=shape(data.dictionary, data.dictionary.ndim == 3))
    signals = jax.ShapeDtypeStruct(data.signals.shape[-2:], data.penalty.dtype)
    try:
        codes: Any = jax.eval_shape(lambda p, x: encoder.apply(bound(encoder, p), x), one, signals)
    except (TypeError, ValueError) as error:  # shapes, said by the encoder or by JAX
        raise ValueError(
            f"fit: the encoder cannot take signals of shape {signals.shape}; one built for "
            f"{signals.shape[-1]} measurements is expected. It says: {str(error).splitlines()[0]}"
        ) from None
    for label, other in (("dictionary", params.dictionary), ("dictionary", data.dictionary)):
        if other is not None and other.shape[-2] != codes.shape[-1]:
            raise ValueError(
                f"fit: the encoder gives {codes.shape[-1]} codes but the {label} has "
                f"{other.shape[-2]} atoms (shape {other.shape}); they must agree."
            )
    if data.true_codes is not None and data.true_codes.shape[-1] != codes.shape[-1]:
        raise ValueError(
            f"fit: the encoder gives {codes.shape[-1]} codes but true_codes have "
            f"{data.true_codes.shape[-1]}; they must agree. "
            "Give the signals alone where codes are of other latents."
        )
    return codes.shape[-1]


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


def checked_recipe(recipe: Any, params: Autoencoder, encoder: Encoder) -> Recipe:
    """Return a recipe with plain numbers, or raise where a static option has no meaning."""
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"fit: the recipe is a {type(recipe).__name__}; a Recipe is expected, such as "
            "Recipe(batch_size=256)."
        )
    _checks.optimizer("fit", recipe.optimizer)
    if params.dictionary is None and not recipe.unit_atoms:
        raise ValueError(
            "fit: unit_atoms=False with a dictionary that is not learned; it is about learned "
            "atoms. Leave it out."
        )
    for label in ("batch_size", "dead_after", "resample_every"):
        if getattr(recipe, label) is not None:
            _checks.count("fit", label, getattr(recipe, label))
    _checks.function("fit", "the loss", recipe.loss)
    for label in ("penalty_schedule", "active_schedule"):
        if (schedule := getattr(recipe, label)) is None:
            continue
        _checks.function("fit", label, schedule)
        found = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        if getattr(found, "shape", None) != ():
            raise ValueError(
                f"fit: {label} gives {found} for a step; one number, a factor, is expected."
            )
    counts = Role.NUM_ACTIVE in jax.tree.leaves(encoder.roles)
    if recipe.active_schedule is not None and not counts:
        raise ValueError(
            "fit: active_schedule with an encoder that has no number of active codes among its "
            "parameters (Role.NUM_ACTIVE); one is expected, such as top_k(M, N, num_active=None)."
        )
    _checks.flag("fit", "unit_atoms", recipe.unit_atoms)
    recipe = recipe._replace(
        average_decay=_decay("average_decay", recipe.average_decay),
        frequency_decay=_decay("frequency_decay", recipe.frequency_decay),
    )
    if recipe.resample_every is not None and recipe.dead_after is None:
        raise ValueError(
            "fit: resample_every without dead_after; give the Recipe dead_after, too, the steps "
            "without activity after which a latent is dead."
        )
    return recipe


def _decay(label: str, decay: Any) -> float | None:
    """Return a decay as a plain number, for an array has no hash, or raise."""
    if decay is None:
        return None
    number = _checks.static("fit", label, decay)
    if not 0 < number < 1:
        raise ValueError(
            f"fit: {label} is {decay}; a number between 0 and 1 is expected, such as 0.999."
        )
    return number


def check_record_steps(
    record: Callable | None, record_steps: Sequence[int], num_steps: int
) -> list[int]:
    """Return the record steps as integers, in order and within the run."""
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
