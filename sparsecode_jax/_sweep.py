"""Sweeps: one compiled program over a grid of named axes. Works on any JAX function."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from tqdm import tqdm

from sparsecode_jax._sharding import (
    Layout,
    by_signal,
    layout_of_axes,
    names_of,
    on_automatic_axes,
    over_devices,
    to_host,
)
from sparsecode_jax.io._identity import digest_of, program_of
from sparsecode_jax.io.runs import Run, of_any_number, wait

__all__ = ["sweep", "sweep_chunked"]


@on_automatic_axes
def sweep(fn: Callable[..., Any], /, **axes: Any) -> Any:
    """Evaluate ``fn`` on the grid of all combinations of the named axes, in one program.

    ``fn`` is called by keyword with one entry of each axis, inside nested ``jax.vmap``, and is
    traced exactly once. Compiled programs are kept per function object, so pass the same function
    (not a fresh lambda) to sweep again without compiling.

    Args:
      fn: a pure function of keyword arguments. **Static**.
      **axes: one array (or pytree of arrays) per axis, the swept values along its leading axis:
        keys, penalties, numbers of active atoms, learning rates. One that is split over the devices
        of a mesh is swept where it lies, without communication. **Traced**.

    Returns:
      The outputs of ``fn``, each leaf with one leading axis per keyword, in the order given, split
      over devices as the axes are.

    Raises:
      ValueError: no axis, an axis without values, leaves of one axis of unequal length, or axes on
        different meshes.

    Example:
      >>> import jax.numpy as jnp, sparsecode_jax as sc
      >>> sc.sweep(lambda a, b: a * b, a=jnp.arange(2), b=jnp.arange(3)).shape
      (2, 3)
    """
    _axis_lengths("sweep", fn, axes)
    return _sweep(fn, tuple(axes), tuple(axes.values()), layout_of_axes("sweep", axes))


@functools.partial(jax.jit, static_argnames=("fn", "names", "layout"))
def _sweep(
    fn: Callable[..., Any], names: tuple[str, ...], values: tuple[Any, ...], layout: Layout | None
) -> Any:
    def mapped(*entries: Any) -> Any:
        return fn(**dict(zip(names, entries, strict=True)))

    for position in reversed(range(len(names))):  # the last name becomes the innermost axis
        in_axes = [0 if i == position else None for i in range(len(names))]
        mapped = jax.vmap(mapped, in_axes=in_axes)
    if layout is None:
        return mapped(*values)
    specs = tuple(PartitionSpec(entry) for entry in layout.rows)
    return over_devices(mapped, layout, specs, by_signal(layout), check=False)(*values)


@on_automatic_axes
def sweep_chunked(
    fn: Callable[..., Any],
    /,
    *,
    chunk_size: int,
    checkpoint: str | os.PathLike | None = None,
    progress: str | None = "sweep",
    **axes: Any,
) -> Any:
    """Evaluate ``fn`` on the grid like :func:`sweep`, at most ``chunk_size`` points at a time.

    The results are moved to host memory chunk by chunk, so device memory holds one chunk. One
    program is compiled; the last chunk is padded with its own first point. If axes are split over
    devices, each device evaluates its part of a chunk.

    Args:
      fn: a pure function of keyword arguments. **Static**.
      chunk_size: grid points evaluated at once; a multiple of the devices that axes are split
        over. **Static**.
      checkpoint: a folder for the results of each chunk. Those that are there are not computed
        again; a sweep of another function, of other axes or other chunks is refused. **Static**.
      progress: label of the progress bar, None for no bar. **Static**.
      **axes: as in :func:`sweep`.

    Returns:
      As :func:`sweep`, with NumPy leaves.

    Raises:
      ValueError: as :func:`sweep`, and for a checkpoint of another sweep.
    """
    lengths = _axis_lengths("sweep_chunked", fn, axes)
    is_integer = isinstance(chunk_size, int | np.integer) and not isinstance(chunk_size, bool)
    if not is_integer or chunk_size < 1:
        raise ValueError(
            f"sweep_chunked: chunk_size is {chunk_size!r}; an integer >= 1 is expected."
        )
    total = math.prod(lengths)
    chunk_size = min(int(chunk_size), total)
    layout = _points(layout_of_axes("sweep_chunked", axes), chunk_size)
    names, values = tuple(axes), tuple(axes.values())
    results = []
    identity: dict[str, Any] = {}
    if checkpoint is not None:
        one = {name: jax.tree.map(lambda x: x[0], value) for name, value in axes.items()}
        identity = {
            **{name: digest_of(value) for name, value in axes.items()},
            "function": program_of(lambda entries: fn(**entries), one),
            "chunk_size": chunk_size,
        }
    bar = tqdm(total=total, desc=progress, unit="point", disable=progress is None)
    with Run(checkpoint, identity, name="sweep_chunked") as run, bar:
        for start in range(0, total, chunk_size):
            keep, part = min(chunk_size, total - start), f"{start:010d}"
            points = np.arange(start, start + chunk_size)
            points = np.where(points < total, points, start)
            index = tuple(jnp.asarray(i) for i in np.unravel_index(points, lengths))
            swept = functools.partial(_sweep_points, fn, names, layout=layout)
            if run.has(part):
                like = of_any_number(jax.eval_shape(swept, values, index))
                out = run.load(like, part)
            else:
                out = jax.tree.map(lambda x, n=keep: to_host(x)[:n], wait(swept(values, index)))
                run.save(out, part)
            results.append(out)
            bar.update(keep)
    return jax.tree.map(
        lambda *parts: np.concatenate(parts).reshape(lengths + parts[0].shape[1:]), *results
    )


def _points(layout: Layout | None, chunk_size: int) -> Layout | None:
    """Return the layout of the points of a chunk, over all devices that axes are split over."""
    if layout is None:
        return None
    parts = tuple(axis for entry in layout.rows for axis in names_of(entry))
    devices = math.prod(dict(layout.mesh.shape)[axis] for axis in parts)
    if chunk_size % devices:
        raise ValueError(
            f"sweep_chunked: {chunk_size} points at a time do not divide over the {devices} "
            f"devices of the mesh axes {parts}; a multiple is expected. Pass chunk_size="
            f"{-(-chunk_size // devices) * devices}, or axes that are not split."
        )
    return layout._replace(rows=(parts,))


@functools.partial(jax.jit, static_argnames=("fn", "names", "layout"))
def _sweep_points(
    fn: Callable[..., Any], names: tuple[str, ...], values: Any, index: Any, layout: Layout | None
) -> Any:
    def chunk(values: Any, index: Any) -> Any:
        def point(*entry: Any) -> Any:
            arguments = {
                name: jax.tree.map(lambda x, i=i: x[i], value)
                for name, value, i in zip(names, values, entry, strict=True)
            }
            return fn(**arguments)

        return jax.vmap(point)(*index)

    points, whole = by_signal(layout), PartitionSpec()
    return over_devices(chunk, layout, (whole, points), points, check=False)(values, index)


def _axis_lengths(name: str, fn: Any, axes: dict[str, Any]) -> tuple[int, ...]:
    if not callable(fn):
        raise TypeError(
            f"{name}: got {type(fn).__name__} to evaluate; a function of keyword arguments is "
            "expected."
        )
    if not axes:
        raise ValueError(f"{name}: no axis given; pass at least one, such as seed=keys.")
    lengths = []
    for axis, value in axes.items():
        leaves = jax.tree.leaves(value)
        masked = any(isinstance(x, np.ma.MaskedArray) for x in leaves)
        if masked or any(
            getattr(x, "dtype", np.dtype(float)).kind in "OSUMmV"
            for x in leaves
            if isinstance(x, np.ndarray)
        ):
            raise TypeError(
                f"{name}: axis {axis!r} holds what is no plain array of numbers; such arrays, or "
                "PRNG keys, are expected. Convert it with numpy.asarray(x, 'float32')."
            )
        sizes = {x.shape[0] if getattr(x, "ndim", 0) else None for x in leaves}
        if len(sizes) != 1 or None in sizes or 0 in sizes:
            raise ValueError(
                f"{name}: axis {axis!r} has leading lengths {sorted(map(str, sizes))}; arrays with "
                "one common leading length of at least 1 are expected. Wrap a list with "
                "jnp.asarray; a fixed value belongs in the function."
            )
        lengths.append(leaves[0].shape[0])
    return tuple(lengths)
