"""A long restart of ``learn``: its rounds are seen to go by, and kept when it is interrupted."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sparsecode_jax.cli.outputs import Partial, wait
from sparsecode_jax.learning import Learned
from sparsecode_jax.learning._chunks import Chunks

__all__ = ["chunk_size", "restart"]

_WORK = 2e10  # operations of a chunk, about a second
_EVERY = 60.0  # seconds between two times that rounds are kept


def chunk_size(shape: tuple[int, ...], sizes: dict[str, Any]) -> int:
    """Return how many rounds to run at once: all, or a divisor that takes about a second."""
    (num, width), num_atoms, num_rounds = shape, sizes["num_atoms"], sizes["num_rounds"]
    work = num * num_atoms * (4 * width * (sizes["num_steps"] + 2) + 2 * num_atoms)
    most = min(max(int(_WORK / work), 1), num_rounds)
    return next(size for size in range(most, 0, -1) if num_rounds % size == 0)


def restart(chunks: Chunks, partial: Partial, index: int, size: int, bar: tqdm) -> Learned:
    """Run all rounds but those that an interrupted run kept, and finish."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(chunks.begin))
    num, spent, began = partial.rounds(index), partial.seconds(index), time.monotonic()
    if num:
        kept = (jax.numpy.asarray(leaf) for leaf in partial.load_rounds(index, len(leaves)))
        carried = jax.tree.unflatten(structure, kept)
    else:
        carried = chunks.begin()
    saved, since = num, began

    def keep() -> None:
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(carried)]
        if num > saved and all(np.isfinite(array).all() for array in arrays):
            partial.save_rounds(index, num, spent + time.monotonic() - began, arrays)

    try:
        while num < chunks.num_rounds:
            length = min(size, chunks.num_rounds - num)
            ahead = chunks.advance(carried, num, length)
            wait(ahead, bar.refresh)
            carried, num = ahead, num + length
            bar.update(length)
            bar.set_postfix_str(f"objective {float(chunks.scale**2 * carried[1][0]):.4g}")
            if time.monotonic() > since + _EVERY:
                keep()
                saved, since = num, time.monotonic()
        found = chunks.finish(carried)
        wait((found.dictionary, found.codes, found.objective), bar.refresh)
    except KeyboardInterrupt:
        keep()
        raise
    return found
