"""A curve of losses that never has more points than it may."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from sparsecode_jax._sharding import to_host
from sparsecode_jax.types import Array

__all__ = ["Curve"]

_POINTS = 1000


class Curve:
    """The losses of a run at no more than 1,000 steps, as far apart as its length so far asks for.

    ``values`` lie on the device, (1000,) of each run; entry i is the loss of step (i + 1) * every,
    before its update.
    """

    def __init__(self, loss: Array):
        self.values = jnp.repeat(jnp.zeros_like(loss)[..., None], _POINTS, axis=-1)  # lies as it
        self.every = 1

    def room(self, done: int) -> int:
        """Return the step up to which there is room, after making some if need be."""
        while _POINTS * self.every <= done:
            if _POINTS * self.every == done:  # full: every second stays
                odd = self.values[..., 1::2]
                self.values = jnp.concatenate([odd, jnp.zeros_like(odd)], axis=-1)
            self.every *= 2
        return _POINTS * self.every

    def points(self, done: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps (T,) and the losses there, (T,) and the run axis."""
        steps = np.arange(1, done // self.every + 1) * self.every
        values = to_host(self.values)[..., : len(steps)]
        return steps, np.moveaxis(values, -1, 0)
