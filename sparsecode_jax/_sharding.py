"""Arrays that lie on many devices: each device works on the signals, or runs, that it holds.

Two kinds of mesh axes exist in JAX. Over *automatic* ones the compiler partitions a program; over
*explicit* ones (what ``jax.make_mesh`` makes) the sharding is part of an array's type and every
operation has to agree with it. Here a program over signals is mapped over devices (``shard_map``),
which is the same for both kinds, and axes over which atoms are split are left to the compiler.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from sparsecode_jax.types import PyTree

__all__ = [
    "Layout",
    "automatic",
    "by_signal",
    "explicit_layout",
    "layout_of",
    "layout_of_axes",
    "layout_of_codes",
    "on_automatic_axes",
    "one_mesh",
    "over_devices",
    "placed",
    "placement",
    "relabeled",
    "to_host",
    "traced_layout",
    "untraced_or_automatic",
    "varying_like",
]

Function = TypeVar("Function", bound=Callable)
_WHOLE = PartitionSpec()


class Layout(NamedTuple):
    """How a batch of signals and a dictionary lie on a mesh; hashable, for programs kept by it.

    Attributes:
      mesh: concrete or abstract.
      rows: the mesh axes of each leading axis of the signals, as in a ``PartitionSpec``.
      others: the mesh axes that are left to the compiler: those over which atoms are split.
    """

    mesh: Any
    rows: tuple
    others: tuple = ()


def placement(x: Any, last: int | None = None) -> tuple[Any, tuple] | None:
    """Return the mesh of an array and its spec, one entry a dimension, if any axis is split.

    What is being traced has a known placement on explicit axes only. With ``last`` only so many
    trailing axes are looked at.
    """
    if isinstance(x, jax.core.Tracer):
        sharding = getattr(jax.typeof(x), "sharding", None)
    else:
        sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    entries = tuple(sharding.spec)
    entries += (None,) * (np.ndim(x) - len(entries))
    entries = entries if last is None else entries[-last:]
    return (sharding.mesh, entries) if any(entries) else None


def by_signal(layout: Layout | None) -> PartitionSpec:
    """Return where an array lies that leads with the signals' leading axes, or the runs' one."""
    return _WHOLE if layout is None else PartitionSpec(*layout.rows)


def one_mesh(name: str, **arrays: PyTree) -> None:
    """Raise unless the concrete arrays of pytrees that lie on a mesh lie on one and the same.

    Meshes are the same if they have the same devices in the same order and, where an axis of
    either is explicit, equal axes. Arrays that are not committed to a device go along with others.

    Args:
      name: of the public function, for messages. **Static**.
      **arrays: pytrees by what they are called in messages.
    """
    if not _is_one(map(_place, jax.tree.leaves(arrays)), alike=True):
        raise _apart(name, arrays, alike=True)


def layout_of(
    name: str, signals: Any, dictionary: Any = None, last: int | None = None
) -> Layout | None:
    """Return how signals (..., M) and a dictionary (N, M) lie on devices; None if on one.

    Args:
      name: of the public function, for messages. **Static**.
      signals: (..., M).
      dictionary: (N, M) or None.
      last: look at so many trailing axes alone, those of one run. **Static**.

    Raises:
      ValueError: measurements that are split, meshes that differ, an axis used twice.
    """
    here = placement(signals, last)
    there = placement(dictionary, last)
    for label, found in (("signals", here), ("dictionary", there)):
        if found is not None and found[1][-1] is not None:
            raise ValueError(
                f"{name}: the measurements of the {label} are split (mesh axis {found[1][-1]!r}, "
                f"spec {PartitionSpec(*found[1])}); they are expected whole on each device. Split "
                "signals over their leading axes, or the dictionary over its atoms: "
                "PartitionSpec('atoms', None)."
            )
    if here is None and there is None:
        return None
    if here is not None and there is not None and not _same_devices(here[0], there[0]):
        raise _elsewhere(name, ("signals", here[0]), ("dictionary", there[0]))
    mesh = (here or there)[0]  # type: ignore[index]
    rows = here[1][:-1] if here else (None,) * ((last or np.ndim(signals)) - 1)
    atoms = names_of(there[1][0]) if there else ()
    if twice := set(atoms) & {axis for entry in rows for axis in names_of(entry)}:
        raise ValueError(
            f"{name}: signals and atoms are both split over the mesh axis {twice.pop()!r}; an axis "
            "can split one of them. Use a mesh of two axes, such as jax.make_mesh((4, 2), "
            "('signals', 'atoms'))."
        )
    return Layout(mesh, rows, atoms)


def layout_of_axes(name: str, axes: dict[str, Any], shared: PyTree = None) -> Layout | None:
    """Return how the leading axes of pytrees lie on devices, as the rows of a grid of them.

    Args:
      name: of the public function, for messages. **Static**.
      axes: a pytree each, all of whose leaves lead with one axis.
      shared: arrays besides that have none of these axes.

    Raises:
      ValueError: meshes that differ, a mesh axis used twice.
    """
    mesh, rows, inner = None, [], set[Any]()
    for axis, value in axes.items():
        found = [place for leaf in jax.tree.leaves(value) if (place := placement(leaf))]
        for place, _ in found:
            mesh = place if mesh is None else mesh
            if not _same_devices(mesh, place):
                raise ValueError(
                    f"{name}: axis {axis!r} lies on {_said(place)} and another one on "
                    f"{_said(mesh)}; one mesh is expected. Put them all on one with jax.device_put."
                )
        rows.append(next((entries[0] for _, entries in found if entries[0]), None))
        inner |= {part for _, entries in found for entry in entries[1:] for part in names_of(entry)}
    for leaf in jax.tree.leaves(shared):
        inner |= {part for entry in (placement(leaf) or (None, ()))[1] for part in names_of(entry)}
    used = [part for entry in rows for part in names_of(entry)]
    if len(set(used)) < len(used):
        raise ValueError(
            f"{name}: two axes are split over the same mesh axis (of {used}); one each is "
            "expected. Split one of them, or use a mesh of two axes."
        )
    if mesh is None or not used:
        return None
    return Layout(mesh, tuple(rows), tuple(sorted(inner - set(used))))


_around: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def traced_layout(layout: Layout | None) -> Iterator[None]:
    """Say, while a program is traced on automatic axes, how its batch and its atoms are laid out.

    The compiler needs to be told for few operations: it gathers what ``top_k`` works on.
    """
    token = _around.set(layout)
    try:
        yield
    finally:
        _around.reset(token)


def layout_of_codes(codes: Any) -> Layout | None:
    """Return how codes (..., N), or the latents before them, lie on devices, where it is known."""
    place = placement(codes)
    if place is not None:
        return Layout(place[0], place[1][:-1], names_of(place[1][-1]))
    if isinstance(codes, jax.core.Tracer):
        return _around.get()
    return None


def explicit_layout(rows: Any, matrix: Any) -> Layout | None:
    """Return how rows (..., K) lie on explicit axes; None if neither they nor the matrix do."""
    for array in (rows, matrix):
        place = placement(array)
        if place is not None and AxisType.Explicit in place[0].axis_types:
            leading = place[1][:-1] if array is rows else (None,) * (rows.ndim - 1)
            return Layout(place[0], leading)
    return None


def over_devices(
    fn: Callable, layout: Layout | None, in_specs: Any, out_specs: Any, *, check: bool = True
) -> Callable:
    """Run a function of arrays on each device's own part; the function itself without a layout.

    Args:
      fn: a pure function of positional pytrees. **Static**.
      layout: of the signals. **Static**.
      in_specs: where the arguments lie, naming no mesh axis of ``layout.others``. **Static**.
      out_specs: where results lie. **Static**.
      check: whether results that are the same everywhere are to be shown to be so; only functions
        that mark what varies (:func:`varying_like`) pass. **Static**.
    """
    if layout is None:
        return fn
    mapped = frozenset(layout.mesh.axis_names) - frozenset(layout.others)

    def run(*args: Any) -> Any:
        around = jax.sharding.get_abstract_mesh()  # a mesh of the context is taken as it is
        left = mapped - frozenset(around.manual_axes)  # runs may be mapped already
        if not left:
            return fn(*args)
        return jax.shard_map(
            fn,
            mesh=None if around.shape else layout.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=left,
            check_vma=check,
        )(*args)

    return run


def on_automatic_axes(fn: Function, name: str | None = None) -> Function:
    """Let a public function take concrete arrays on explicit axes: it works on automatic ones.

    Its results go back onto the mesh of its arguments. So do a context's explicit axes
    (``jax.set_mesh``) become automatic inside. Under a trace everything stays as it is: there the
    types of arrays must agree, and ``over_devices`` sees to it; but what is whole on a mesh and
    closed over by a program that does not know the mesh is a constant of it. Concrete arrays on
    different devices are refused (:func:`one_mesh`).
    """

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        around = jax.sharding.get_abstract_mesh()
        explicit = AxisType.Explicit in around.axis_types
        names = tuple(kwargs)  # a pytree of keywords would be sorted
        leaves, tree = jax.tree.flatten(
            (args, [kwargs[name] for name in names]), is_leaf=lambda x: isinstance(x, Iterator)
        )
        places = [_place(leaf) for leaf in leaves]
        label = name or getattr(fn, "func", fn).__name__  # of a partial, that of its function
        if not _is_one(places):
            named = dict(zip(inspect.signature(fn).parameters, args, strict=False)) | kwargs
            raise _apart(label, named)
        mesh = next((place for place in places if _is_explicit(place)), None)
        if around.manual_axes or (mesh is not None and not around.shape and _is_tracing()):
            leaves = [_constant(label, leaf, around) for leaf in leaves]
            args, values = jax.tree.unflatten(tree, leaves)
            return fn(*args, **dict(zip(names, values, strict=True)))
        if mesh is None and not explicit:
            return fn(*args, **kwargs)
        if _is_tracing() or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return fn(*args, **kwargs)
        context = jax.sharding.get_mesh()
        args, values = jax.tree.unflatten(tree, [_moved(leaf, automatic=True) for leaf in leaves])
        plain = jax.set_mesh(_plain(context)) if explicit else contextlib.nullcontext()
        with plain:
            out = fn(*args, **dict(zip(names, values, strict=True)))
            return jax.tree.map(functools.partial(_moved, mesh=mesh or context), out)

    return run  # type: ignore[return-value]


def automatic(fn: Function) -> Function:
    """Let a function of arrays be partitioned by the compiler, also where axes are explicit.

    Args:
      fn: a pure function of pytrees of arrays, whose results are small: under a trace on explicit
        axes they come out whole on each device. **Static**.
    """
    eager = on_automatic_axes(fn)

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        mesh = _traced_explicit_mesh((args, kwargs))
        if mesh is None:
            return eager(*args, **kwargs)
        return jax.sharding.auto_axes(
            lambda args, kwargs: fn(*args, **kwargs),
            axes=mesh.axis_names,
            out_sharding=NamedSharding(mesh, _WHOLE),
        )(args, kwargs)

    return run  # type: ignore[return-value]


def untraced_or_automatic(name: str, tree: PyTree) -> None:
    """Raise if traced arrays of a pytree are split over explicit axes: sums over these are untyped.

    Args:
      name: of the public function, for messages. **Static**.
      tree: its arguments.
    """
    for leaf in jax.tree.leaves(tree):
        place = placement(leaf) if isinstance(leaf, jax.core.Tracer) else None
        if place is not None and AxisType.Explicit in place[0].axis_types:
            axes = tuple(axis for entry in place[1] for axis in names_of(entry))
            raise ValueError(
                f"{name}: an array {leaf.shape} is split over the explicit mesh axes {axes} of the "
                "program around this call; automatic axes are expected there. Call it through "
                f"jax.sharding.auto_axes(function, axes={axes}, out_sharding=...), or outside of "
                "jit."
            )


def relabeled(tree: PyTree) -> PyTree:
    """Put concrete arrays on explicit axes onto automatic ones, where they are."""
    return jax.tree.map(functools.partial(_moved, automatic=True), tree)


def placed(batch: Any, layout: Layout | None) -> Any:
    """Let a batch, in a program on automatic axes, lie as a layout says."""
    if layout is None:
        return batch
    spec = by_signal(layout)
    inside = jax.sharding.get_abstract_mesh().shape  # of a map over runs, which has other axes
    return jax.lax.with_sharding_constraint(
        batch, spec if inside else NamedSharding(layout.mesh, spec)
    )


def to_host(x: Any) -> np.ndarray:
    """Return an array as NumPy, on every process, whichever devices hold its parts."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        if not x.is_fully_replicated:
            x = _gather(NamedSharding(x.sharding.mesh, _WHOLE))(x)  # type: ignore[attr-defined]
        return np.asarray(x.addressable_data(0))
    return np.asarray(x)


def agreed(number: float) -> float:
    """Return a number that processes measured each for itself, as the first of them has it."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(number)))


@functools.lru_cache(maxsize=64)
def _gather(sharding: NamedSharding) -> Callable:
    return jax.jit(lambda x: x, out_shardings=sharding)


def varying_like(tree: PyTree, *others: Any) -> PyTree:
    """Mark the arrays of a tree as varying over the mesh axes over which any other one varies.

    A loop's carry must have the type that its body returns; a state begins with constants, and a
    step mixes signals into them. Outside of ``shard_map`` this returns the tree.
    """
    axes = frozenset[Any]().union(*(_axes(leaf) for leaf in jax.tree.leaves(others)))
    if not axes:
        return tree

    def vary(leaf: Any) -> Any:
        missing = tuple(axes - _axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def _axes(leaf: Any) -> frozenset[Any]:
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)  # before jax 0.10 the attribute was vma
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying


def names_of(entry: Any) -> tuple:
    """Return the mesh axes of one entry of a spec."""
    if entry is None:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (entry,)


def _said(place: Any, devices: bool = False, axes: bool = False) -> str:
    if not hasattr(place, "axis_names"):
        return f"device {place.id} alone"
    more = ""
    if devices:
        ids = [str(device.id) for device in place.devices.flat]
        more = f" of devices {', '.join(ids[:8])}{', ...' if len(ids) > 8 else ''}"
    if axes:
        more = f" of {'explicit' if _is_explicit(place) else 'automatic'} axes"
    return f"the mesh {dict(place.shape)}{more}"


def _same_devices(one: Any, other: Any) -> bool:
    if isinstance(one, Mesh) and isinstance(other, Mesh):
        return one.axis_names == other.axis_names and np.array_equal(one.devices, other.devices)
    return dict(one.shape) == dict(other.shape)


def _is_tracing() -> bool:
    """Say whether a program is being traced, which JAX says by refusing to name its devices."""
    try:
        jax.sharding.get_mesh()
    except ValueError:
        return True
    return False


def _constant(name: str, leaf: Any, around: Any) -> Any:
    """Return an array of a mesh that a program closes over as one that lies nowhere."""
    place = _place(leaf)
    if not isinstance(place, Mesh) or place.size == 1:
        return leaf
    if leaf.is_fully_replicated:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else to_host(leaf)
    taken = {axis for entry in leaf.sharding.spec for axis in names_of(entry)}
    if around.manual_axes and (_is_explicit(place) or taken & set(around.manual_axes)):
        raise ValueError(
            f"{name}: an array {leaf.shape}, split by {leaf.sharding.spec} over {_said(place)}, is "
            "closed over by a sweep that is split over devices, or by a mapped function; an "
            "argument of these is expected, such as an axis of the sweep. Pass it as one, or put "
            "it on all devices: jax.device_put(array, NamedSharding(mesh, PartitionSpec()))."
        )
    return leaf


def _traced_explicit_mesh(tree: Any) -> Any:
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.core.Tracer):
            mesh = getattr(getattr(jax.typeof(leaf), "sharding", None), "mesh", None)
            if mesh is not None and AxisType.Explicit in mesh.axis_types:
                return mesh
    return None


def _place(leaf: Any) -> Any:
    """Return the mesh of a concrete array, or the device that it is committed to, or None."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return None
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        return sharding.mesh
    alone = isinstance(sharding, SingleDeviceSharding) and leaf.committed
    return next(iter(sharding.device_set)) if alone else None


def _is_explicit(place: Any) -> bool:
    return isinstance(place, Mesh) and AxisType.Explicit in place.axis_types


def _devices_of(place: Any) -> tuple:
    return tuple(place.devices.flat) if isinstance(place, Mesh) else (place,)


def _is_one(places: Iterable[Any], *, alike: bool = False) -> bool:
    """Say whether those that are known are one; equal explicit axes count where they must agree."""
    first = None
    for place in places:
        if place is None or place is first:
            continue
        if first is None:
            first = place
        elif place != first and (
            _devices_of(place) != _devices_of(first)
            or (alike and (_is_explicit(place) or _is_explicit(first)))
        ):
            return False
    return True


def _apart(name: str, arrays: dict[str, PyTree], *, alike: bool = False) -> ValueError:
    """Return the error of pytrees that do not lie on one mesh, with two of their arrays."""
    found = [
        (label + jax.tree_util.keystr(path), place)
        for label, tree in arrays.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if (place := _place(leaf)) is not None
    ]
    other = next(other for other in found if not _is_one((found[0][1], other[1]), alike=alike))
    return _elsewhere(name, found[0], other)


def _elsewhere(name: str, first: tuple[str, Any], second: tuple[str, Any]) -> ValueError:
    """Return the error of two arrays, given by label and place, on different meshes."""
    (one, here), (other, there) = first, second
    said = [_said(place) for place in (here, there)]
    if said[0] == said[1]:
        by_device = _devices_of(here) != _devices_of(there)
        said = [_said(place, devices=by_device, axes=not by_device) for place in (here, there)]
    meshes = [hasattr(place, "axis_names") for place in (here, there)]
    if meshes == [False, True]:  # it is the device's that moves
        one, other, said = other, one, said[::-1]
    where = f"NamedSharding({one}.sharding.mesh, spec)" if any(meshes) else f"{one}.sharding"
    return ValueError(
        f"{name}: {one!r} lies on {said[0]} and {other!r} on {said[1]}; one mesh is expected. Move "
        f"one of them: jax.device_put({other}, {where})."
    )


def _plain(mesh: Mesh) -> Mesh:
    """Return the same devices with automatic axes."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def _moved(leaf: Any, mesh: Mesh | None = None, automatic: bool = False) -> Any:
    """Put an array onto a mesh of the same devices, or onto its own with automatic axes."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return leaf
    if not isinstance(leaf.sharding, NamedSharding):
        return leaf
    if automatic:
        own = _place(leaf)
        if not _is_explicit(own):
            return leaf
        mesh = _plain(own)
    assert mesh is not None
    sharding = NamedSharding(mesh, leaf.sharding.spec)
    if leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _moved(jax.random.key_data(leaf), mesh)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    parts = [shard.data for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)
