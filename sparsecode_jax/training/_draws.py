"""The signals of a training step: all, drawn from an array, or from a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax._sharding import Layout, placed
from sparsecode_jax._sparse import dense
from sparsecode_jax.types import Array, Key

__all__ = ["draw_batch", "random_rows", "split_batch"]


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Return the signals of a batch and their true codes, or None.

    Codes by value and place are made dense, which costs nothing where a loss does not look at them.
    """
    if hasattr(batch, "signals"):
        return batch.signals, dense(getattr(batch, "codes", None))
    if isinstance(batch, tuple | list) and len(batch) == 2 and np.ndim(batch[0]) == 2:
        return batch[0], dense(batch[1])
    return batch, None


def draw_batch(
    key: Key,
    step: Array,
    data: Any,
    batch_size: int | None,
    sampler: Callable[[Key, Array], Any] | None,
    layout: Layout | None = None,
) -> tuple[Array, Array | None]:
    """Return the signals of a step and their true codes if there are any.

    ``data`` is a :class:`~sparsecode_jax.training.TrainData`.
    """
    signals, true_codes = data.signals, data.true_codes
    if sampler is not None:
        drawn = sampler(jax.random.fold_in(key, step), step)
        signals, true_codes = split_batch(drawn)
    elif batch_size is not None:
        assert signals is not None
        rows = random_rows(jax.random.fold_in(key, step), batch_size, signals.shape[0])
        signals = placed(signals[rows], layout)
        true_codes = None if true_codes is None else placed(true_codes[rows], layout)
    assert signals is not None
    signals = signals.astype(jnp.promote_types(signals.dtype, data.penalty.dtype))
    return signals, true_codes


def random_rows(key: Key, count: int, num_rows: int) -> Array:
    """Draw row numbers with replacement, (count,) of int32.

    The upper half of the 64-bit product of 32 random bits and ``num_rows``: a row's probability is
    off by less than 2**-32. ``jax.random.randint`` draws twice the bits and divides, which a sweep
    of small models feels.
    """
    bits = jax.random.bits(key, (count,), jnp.uint32)
    high, low = bits >> 16, bits & 0xFFFF
    upper, lower = jnp.uint32(num_rows >> 16), jnp.uint32(num_rows & 0xFFFF)
    middle = high * lower + ((low * lower) >> 16)
    carry = (middle & 0xFFFF) + low * upper
    return (high * upper + (middle >> 16) + (carry >> 16)).astype(jnp.int32)
