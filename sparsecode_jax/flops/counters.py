"""Counters that leave a program: 64 bits, of a dtype that refuses foreign arithmetic.

Additions of JAX wrap without a word, so that ``jax.tree.map(jnp.add, a, b)`` of two counts would
be wrong once a counter passed 32 bits, and means and differences of counts would look like counts.
JAX's extended dtypes, the dtypes of random keys, have no arithmetic: a counter is an array of one,
which travels through ``jit``, ``vmap``, ``scan`` and ``cond`` as any array does, and which ``add``,
``neg`` or ``mean`` reject. Its two words of 32 bits are the low and the high half of a number.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np

from .tallies import SATURATED, saturating_add

_IMPL: Any = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=None,  # type: ignore[arg-type]
    split=None,  # type: ignore[arg-type]
    random_bits=None,  # type: ignore[arg-type]
    fold_in=None,  # type: ignore[arg-type]
    name="flop_counter",
    tag="FLOP counter",
)


def counter(number: Any) -> Any:
    """Make a counter of a saturating one of 32 bits."""
    full = number == SATURATED
    if isinstance(number, np.generic | np.ndarray):
        high = np.where(full, SATURATED, np.uint32(0))
        return from_words(np.stack([number, high], axis=-1))
    return from_words(jnp.stack([number, jnp.where(full, SATURATED, np.uint32(0))], axis=-1))


def from_words(words: Any) -> Any:
    """Make a counter of its words, an array of uint32 whose last axis has length 2."""
    return jax.random.wrap_key_data(words, impl=_IMPL)


def zeros(shape: Sequence[int]) -> Any:
    """Return counters at zero."""
    return from_words(jnp.zeros((*shape, 2), jnp.uint32))


def is_counter(leaf: Any) -> bool:
    """Tell whether a leaf is a counter, with a value or without."""
    return getattr(leaf, "dtype", None) == _dtype()


def words_of(counter: Any) -> Any:
    """Return the words of a counter, low and high along the last axis."""
    return jax.random.key_data(counter)


def add(a: Any, b: Any) -> Any:
    """Add two counters; a sum that does not fit saturates the high word."""
    x, y = words_of(a), words_of(b)
    low = x[..., 0] + y[..., 0]
    carry = (low < x[..., 0]).astype(jnp.uint32)
    high = saturating_add(saturating_add(x[..., 1], y[..., 1]), carry)
    return from_words(jnp.stack([low, high], axis=-1))


@cache
def _dtype() -> Any:
    return jax.eval_shape(from_words, jax.ShapeDtypeStruct((2,), "uint32")).dtype
