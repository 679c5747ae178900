"""Arguments of counted functions: what is traced, and what is static.

As in ``jax.jit``, every array and number is traced, and what ``static_argnums`` and
``static_argnames`` declare is static. An argument that contains leaves of other kinds (a module
with activation functions or names in it) is taken as Equinox takes it: its arrays are traced, and
all else in it is static, in what the function returns too.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from . import _compat
from .errors import FlopCountError
from .module_names import named_modules

_NUMBERS = (bool, int, float, complex)


class Static(NamedTuple):
    """Positions and names of static arguments."""

    positions: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()


_NONE = Static()


def declared(
    fun: Callable[..., Any],
    argnums: int | Iterable[int] | None,
    argnames: str | Iterable[str] | None,
    caller: str,
) -> Static:
    """Read declarations of static arguments; of one given alone the other follows, as in jit."""
    positions, names = _several(argnums), _several(argnames)
    if not all(isinstance(i, int) for i in positions) or not all(
        isinstance(name, str) for name in names
    ):
        raise FlopCountError(
            f"{caller}: static_argnums is {argnums!r} and static_argnames is {argnames!r}; "
            "expected integers and strings, one or several."
        )
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return Static(frozenset(positions), frozenset(names))
    kinds = {parameter.kind for parameter in parameters}
    order = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    inside = {i for i in positions if -len(order) <= i < len(order)}
    stray: list[Any] = []
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        stray += [i for i in positions if i not in inside]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        stray += [name for name in names if name not in {p.name for p in parameters}]
    if stray:
        raise FlopCountError(
            f"{caller}: the function has no arguments {stray} to be static; it has "
            f"{[p.name for p in parameters]}."
        )
    if argnames is None:
        names = [order[i] for i in inside]
    if argnums is None:
        positions = [order.index(name) for name in names if name in order]
    return Static(frozenset(positions), frozenset(names))


def _several(items: Any) -> list[Any]:
    if items is None:
        return []
    return list(items) if isinstance(items, Iterable) and not isinstance(items, str) else [items]


@jax.tree_util.register_pytree_node_class
class Held:
    """A pytree whose arrays are its leaves; all else in it is static."""

    def __init__(self, arrays: Sequence[Any], rest: "_Rest"):
        self.arrays, self.rest = tuple(arrays), rest

    def tree_flatten(self) -> tuple[tuple[Any, ...], "_Rest"]:
        """Return arrays and the rest."""
        return self.arrays, self.rest

    @classmethod
    def tree_unflatten(cls, rest: "_Rest", arrays: Sequence[Any]) -> "Held":
        """Put them together again."""
        return cls(arrays, rest)

    def open(self) -> Any:
        """Return the pytree itself."""
        arrays = iter(self.arrays)
        leaves = [next(arrays) if x is _ARRAY else x for x in self.rest.leaves]
        return jax.tree.unflatten(self.rest.tree, leaves)


class _Rest:
    """What is static in a pytree; equal where compilation may be shared, as in jit."""

    def __init__(self, tree: Any, leaves: Sequence[Any]):
        self.tree, self.leaves = tree, tuple(leaves)

    def __hash__(self) -> int:
        return hash((self.tree, tuple(map(type, self.leaves))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Rest) or self.tree != other.tree:
            return False
        return all(map(_same, self.leaves, other.leaves))


_ARRAY = object()  # the place of an array
_LEAF = jax.tree.structure(0)  # of an argument that is static as a whole


def _same(x: Any, y: Any) -> bool:
    if x is y or type(x) is not type(y):
        return x is y
    try:
        return bool(x == y)
    except Exception:  # of arrays in it, say
        return False


def tracer(
    fun: Callable[..., Any], caller: str, static: Static = _NONE
) -> Callable[..., tuple[_compat.ClosedJaxpr, list[Any], Any, list[Any]]]:
    """Return ``trace(args, kwargs)``, which returns what ``_compat.program`` does."""

    def opened(*args: Any, **kwargs: Any) -> Any:  # one function, so that it is traced once
        held = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Held)]
        out = fun(*map(_open, args), **{name: _open(arg) for name, arg in kwargs.items()})
        return _held(out) if any(arg.rest.tree != _LEAF for arg in held) else out

    def trace(
        args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[_compat.ClosedJaxpr, list[Any], Any, list[Any]]:
        positions = {i + len(args) if i < 0 else i for i in static.positions}
        args = tuple(_hold(arg, i in positions) for i, arg in enumerate(args))
        kwargs = {name: _hold(arg, name in static.names) for name, arg in kwargs.items()}
        plain = not any(isinstance(arg, Held) for arg in (*args, *kwargs.values()))
        try:
            with named_modules():
                return _compat.program(fun if plain else opened, args, kwargs)
        except Exception as error:
            error.add_note(_NOTE.format(caller=caller))
            raise

    return trace


def unflatten(tree: Any, leaves: Sequence[Any]) -> Any:
    """Return the result of a traced function from its arrays."""
    result = jax.tree.unflatten(tree, leaves)
    return result.open() if isinstance(result, Held) else result


def _open(arg: Any) -> Any:
    return arg.open() if isinstance(arg, Held) else arg


def _hold(arg: Any, is_static: bool) -> Any:
    leaves, tree = jax.tree.flatten(arg)
    if is_static:
        return Held((), _Rest(_LEAF, (arg,)))
    if jax.tree_util.treedef_is_leaf(tree) or all(map(_is_traceable, leaves)):
        return arg
    return _held(arg)


def _held(tree: Any) -> Held:
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    return Held(arrays, _Rest(structure, [_ARRAY if is_array(x) else x for x in leaves]))


_NOTE = (
    "{caller} traces its function as jax.jit does: every argument must be an array (or a pytree of "
    "arrays), Python control flow may not depend on their values, and results must be arrays. "
    "Declare static arguments, value_and_flops(fun, static_argnames='num_steps'), or bind them: "
    "{caller}(functools.partial(fun, num_steps=100))."
)


def is_array(leaf: Any) -> bool:
    """Tell whether a leaf is an array, or stands for one."""
    return (
        isinstance(leaf, jax.Array | np.ndarray | np.generic)
        or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))
        or hasattr(leaf, "__jax_array__")
    )


def _is_traceable(leaf: Any) -> bool:
    return isinstance(leaf, _NUMBERS) or is_array(leaf)
