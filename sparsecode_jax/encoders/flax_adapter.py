"""Flax linen modules as encoders, and encoders as Flax linen modules."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from sparsecode_jax import _checks
from sparsecode_jax.types import Array, Encoder, Key, PyTree

__all__ = ["as_flax_module", "from_flax"]


def from_flax(module: Any, num_measurements: int) -> Encoder:
    """Turn a Flax linen module that maps (..., M) to (..., N) into an encoder.

    Build it once and keep it: each call makes a new program.

    Args:
      module: a ``flax.linen.Module`` whose ``__call__`` takes the signals alone. **Static**.
      num_measurements: M. **Static**.

    Returns:
      An :class:`~sparsecode_jax.types.Encoder` whose params are the module's variables.

    Raises:
      TypeError: the module has no ``init`` and ``apply``, or is a class, not an instance.

    Example:
      >>> import flax.linen as nn, jax, sparsecode_jax as sc
      >>> module = nn.Sequential([nn.Dense(16), nn.relu])
      >>> encoder = sc.encoders.from_flax(module, num_measurements=8)
      >>> params = encoder.init(jax.random.key(0))
      >>> encoder.apply(params, jax.numpy.ones((5, 8))).shape
      (5, 16)
    """
    _checks.count("from_flax", "num_measurements", num_measurements)
    if isinstance(module, type) or not (hasattr(module, "init") and hasattr(module, "apply")):
        raise TypeError(
            f"from_flax: got {module!r}; an instance of a flax.linen Module is expected, such as "
            "nn.Dense(16)."
        )

    # Modules need not be hashable: a program is known by this very encoder.
    init, apply = (functools.partial(fn, module, num_measurements) for fn in (_init, _apply))
    return Encoder(init, apply)


def _init(module: Any, num_measurements: int, key: Key) -> PyTree:
    return module.init(key, jnp.zeros((1, num_measurements)))


def _apply(module: Any, num_measurements: int, params: PyTree, signals: Array) -> Array:
    signals = _checks.takes("from_flax", params, signals, num_measurements)
    return module.apply(params, signals)


def as_flax_module(encoder: Encoder) -> Any:
    """Turn an encoder into a Flax linen module, a layer from (..., M) to (..., N).

    A solver is a layer too: ``as_flax_module(unrolled(solver, M, N, num_steps=...))``.

    Args:
      encoder: any :class:`~sparsecode_jax.types.Encoder`. **Static**.

    Returns:
      A ``flax.linen.Module`` with one parameter, ``encoder``, that holds the encoder's params.

    Raises:
      TypeError: something that is not an encoder, such as a factory that was not called.

    Example:
      >>> import flax.linen as nn, jax, sparsecode_jax as sc
      >>> encoder = sc.encoders.top_k(8, 16, num_active=3)
      >>> model = nn.Sequential([sc.encoders.as_flax_module(encoder), nn.Dense(8)])
      >>> variables = model.init(jax.random.key(0), jax.numpy.ones((5, 8)))
      >>> model.apply(variables, jax.numpy.ones((5, 8))).shape
      (5, 8)
    """
    _checks.encoder("as_flax_module", encoder)
    return _module_class()(encoder)


@functools.cache
def _module_class() -> Any:
    import flax.linen as nn  # on use: importing flax takes a second

    class EncoderModule(nn.Module):
        """An encoder as a layer."""

        encoder: Encoder

        @nn.compact
        def __call__(self, signals: Array) -> Array:
            return self.encoder.apply(self.param("encoder", self.encoder.init), signals)

    return EncoderModule
