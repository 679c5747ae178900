"""The one module of this sub-package that touches JAX internals.

docs/results/test_matrix.txt lists the releases that the tests pass on. What differs between them is
told by what is there, never by a version number. Primitives belong to JAX, or to a library that is
known here, if one of its modules holds them (``name_of``), and are then told apart by name, because
their Python objects move between releases and some names differ (``jit`` and ``pjit``, ``remat2``
and ``checkpoint``). The private names imported below were seen in 0.10.1, 0.11.2 and 0.12.0.1.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.extend.core as jex
from jax._src import core, source_info_util
from jax._src.interpreters import ad, batching, mlir, pxla
from jax._src.interpreters import partial_eval as pe
from jax._src.sharding_impls import UNSPECIFIED
from jax._src.util import weakref_lru_cache

Jaxpr = jex.Jaxpr
ClosedJaxpr = jex.ClosedJaxpr  # from 0.11 on the same class as Jaxpr
Eqn = jex.JaxprEqn
Literal = jex.Literal
Var = jex.Var
Primitive = jex.Primitive
Tracer = jax.core.Tracer

weak_cache = weakref_lru_cache

_names: "WeakKeyDictionary[Primitive, str]" = WeakKeyDictionary()
#: Whose primitives are known, if somebody has imported them: JAX's last, for others hold them too.
_OWNERS = ("lineax", "equinox", "jax")


def name_of(eqn: Eqn) -> str:
    """Return the name of an operation of JAX's own, or ``owner.name`` of a known library's.

    It is "" for any other, whatever that is called.
    """
    primitive = eqn.primitive
    if primitive not in _names:
        _names[primitive] = ""
        modules = list(sys.modules.items())
        for owner in _OWNERS:
            prefix = "" if owner == "jax" else f"{owner}."
            for place, module in modules:
                if place.partition(".")[0] == owner:
                    found = [x for x in list(vars(module).values()) if isinstance(x, Primitive)]
                    _names.update({one: prefix + one.name for one in found})
    return _names[primitive]


def lowered_as(primitive: Primitive) -> Callable[..., Any] | None:
    """Return the function of JAX that a primitive is compiled as, None if there is none."""
    rule = getattr(mlir._lowerings.get(primitive), "rule", None)
    if getattr(rule, "__code__", None) is not mlir.lower_fun(abs).__code__:
        return None
    return inspect.getclosurevars(rule).nonlocals["fun"]  # type: ignore[arg-type]


def calls_into(eqn: Eqn, modules: Sequence[str]) -> bool:
    """Tell whether a callback runs a function that is defined in one of these modules."""
    callback = eqn.params["callback"]
    names = getattr(getattr(callback, "callback_func", callback), "__globals__", None)
    return any(names is vars(sys.modules[m]) for m in modules if m in sys.modules)


def open_jaxpr(jaxpr: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """Split a closed jaxpr into jaxpr and constants; an open one has no constants."""
    if isinstance(jaxpr, ClosedJaxpr):
        return jaxpr.jaxpr, jaxpr.consts
    return jaxpr, ()


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """Return how many leading inputs of a scan are constants, and how many then are carried."""
    if "ft_in" in params:  # from 0.11 on: the inputs as a tree (constants, carry, slices)
        constants, carry, _ = (list(part) for part in params["ft_in"].unpack())
        return len(constants), len(carry)
    return params["num_consts"], params["num_carry"]


def manual_axes(params: dict[str, Any]) -> frozenset[Any]:
    """Return the mesh axes a shard_map maps over; ``manual_axes`` until 0.11."""
    return params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]


def is_jaxpr(value: Any) -> bool:
    """Tell whether a parameter is a jaxpr, open or closed."""
    return isinstance(value, Jaxpr | ClosedJaxpr)


def params_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if is_jaxpr(item):
                yield item


def eliminate_dead_code(jaxpr: Jaxpr) -> Jaxpr:
    """Drop equations that no output needs, keeping every input and output.

    JAX remembers the result, which from 0.12 on is ``jaxpr`` itself if nothing is dropped. A weak
    cache of our own would then hold its key, and the arrays that it closes over, forever.
    """
    return pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def program(fun: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, list[Any], Any, list]:
    """Trace a function of pytrees.

    Operations that stand for a program (``jax.lax.custom_root`` from jax 0.11 on) are written out,
    and mutable references made values, as ``jax.jit`` does before it lowers them.

    Returns:
        Its jaxpr, its operands, the tree of its results, and the references that it may change:
        their final values are further results of the jaxpr.
    """
    jaxpr, shapes = jax.make_jaxpr(fun, return_shape=True)(*args, **kwargs)
    jaxpr, leaves, changed = _written_out(jaxpr), jax.tree.leaves((args, kwargs)), []
    avals = [*jaxpr.in_avals, *map(aval_of, jaxpr.consts)]
    if any(map(is_reference, avals)) or any(map(_makes_references, jaxpr.effects)):
        jaxpr, _, mutation = pxla._discharge_refs(jaxpr)
        leaves = [*leaves, *mutation.in_mut]
        changed = [leaves[place] for place in mutation.out_mut if place is not None]
        leaves = [leaf[...] if is_reference(aval_of(leaf)) else leaf for leaf in leaves]
    return jaxpr, leaves, jax.tree.structure(shapes), changed


def _written_out(jaxpr: Any) -> Any:
    return pe.lower_jaxpr2(jaxpr) if getattr(jaxpr, "is_high", False) else jaxpr


def _makes_references(effect: Any) -> bool:
    return isinstance(effect, core.InternalMutableArrayEffect)


def is_reference(aval: Any) -> bool:
    """Tell whether an abstract value is a mutable reference."""
    return type(aval).__name__ == "AbstractRef"


def referenced(aval: Any) -> Any:
    """Return the abstract value of the array that a reference refers to."""
    return getattr(aval, "inner_aval", aval)


def trace(fun: Callable[..., Any], avals: Sequence[Any]) -> ClosedJaxpr:
    """Trace a flat function of arrays at exactly the given abstract values."""
    return _written_out(jax.make_jaxpr(fun)(*avals))


def hoist_consts(jaxpr: ClosedJaxpr) -> tuple[Jaxpr, Sequence[Any]]:
    """Turn the constants of a closed jaxpr into leading inputs."""
    return pe.convert_constvars_jaxpr(jaxpr.jaxpr), jaxpr.consts


def aval_of(value: Any) -> Any:
    """Return the abstract value (shape, dtype, weak type) of an array or tracer."""
    return core.typeof(value)


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run a jaxpr equation by equation, as JAX itself does when inlining one."""
    return core.eval_jaxpr(jaxpr, consts, *args)


def bind(eqn: Eqn, args: Sequence[Any]) -> list[Any]:
    """Apply an equation's primitive unchanged, under its own source line and scope."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # before jax 0.10
    with equation_context(eqn):
        out = eqn.primitive.bind(*functions, *args, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def bind_with(eqn: Eqn, args: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """Apply an equation's (multiple-result) primitive with other parameters."""
    with equation_context(eqn):
        return list(eqn.primitive.bind(*args, **params))


class equation_context:  # noqa: N801 - used as a function
    """Enter the source line, scope and configuration an equation was traced under."""

    def __init__(self, eqn: Eqn):
        stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
        self._user = source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)
        self._config = eqn.ctx.manager

    def __enter__(self) -> None:
        self._user.__enter__()
        self._config.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._config.__exit__(*exc)
        self._user.__exit__(*exc)


def jit_params(params: dict[str, Any], jaxpr: ClosedJaxpr, num_extra: int) -> dict[str, Any]:
    """Adapt the parameters of a jit equation to a jaxpr with ``num_extra`` more outputs."""
    return {
        **params,
        "jaxpr": jaxpr,
        "out_shardings": (*params["out_shardings"], *[UNSPECIFIED] * num_extra),
        "out_layouts": (*params["out_layouts"], *[None] * num_extra),
    }


def shard_map_like(eqn: Eqn, fun: Callable[..., Any], num_extra: int) -> Callable[..., Any]:
    """Map ``fun`` over devices as an equation does; extra outputs are stacked over all of them."""
    params, mapped = eqn.params, manual_axes(eqn.params)
    manual = tuple(axis for axis in params["mesh"].axis_names if axis in mapped)
    return jax.shard_map(
        fun,
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=[*params["out_specs"], *[jax.P(manual)] * num_extra],
        axis_names=set(manual),
        check_vma=params["check_vma"],
    )


def scope_of(eqn: Eqn) -> str:
    """Return the named scope of an equation, relative to the jaxpr it is in."""
    return str(eqn.source_info.name_stack)


def scopes_of(eqns: Sequence[Eqn]) -> list[str]:
    """Return the named scope of each equation; many share one object, which is read once."""
    stacks = [eqn.source_info.name_stack for eqn in eqns]
    scopes = {id(stack): str(stack) for stack in {id(stack): stack for stack in stacks}.values()}
    return [scopes[id(stack)] for stack in stacks]


def source_of(eqn: Eqn) -> str:
    """Return ``file.py:line (function)`` of an equation, without the directory."""
    summary = source_info_util.summarize(eqn.source_info)
    place, _, function = summary.partition(" ")
    return f"{place.replace(chr(92), '/').rsplit('/', 1)[-1]} {function}".strip()


def calling_line() -> str:
    """Return ``file.py:line (function)`` of what called into this package, outside of JAX."""
    own = tuple(f"{Path(file).resolve().parent}{os.sep}" for file in (__file__, jax.__file__))
    for frame, line in traceback.walk_stack(sys._getframe()):
        if not frame.f_code.co_filename.startswith((*own, "<")):
            return f"{Path(frame.f_code.co_filename).name}:{line} ({frame.f_code.co_name})"
    return "an unknown line"


def lowered_primitives() -> frozenset[Primitive]:
    """All primitives that JAX can lower on some platform."""
    tables = [mlir._lowerings, *mlir._platform_specific_lowerings.values()]
    return frozenset(primitive for table in tables for primitive in table)


def identity_primitive(name: str) -> Primitive:
    """Make a primitive that returns all its operands but the first, and lowers to nothing."""
    primitive = Primitive(name)
    _names[primitive] = name
    primitive.multiple_results = True

    def values(first: Any, *rest: Any, **_: Any) -> list[Any]:
        del first
        return list(rest)

    def batch(args: Sequence[Any], dims: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        first, *rest = args
        if dims[0] is None:  # each lane has its own
            size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
            first = jax.lax.broadcast(first, (size,))
        return primitive.bind(first, *rest, **params), list(dims[1:])

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
        return primitive.bind(*primals, **params), list(tangents[1:])

    primitive.def_impl(values)
    primitive.def_abstract_eval(values)
    mlir.register_lowering(primitive, mlir.lower_fun(values, multiple_results=True))
    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
    return primitive


def committed_device(values: Sequence[Any]) -> Any:
    """Return the device that some array is committed to, where operations on them run, or None."""
    for value in values:
        if isinstance(value, jax.Array) and not isinstance(value, Tracer) and value.committed:
            return next(iter(value.devices()))
    return None


def platform_of(device: Any) -> str:
    """Name the platform of a device; with None, of the one that JAX takes by itself.

    That may be "", the default backend, which is not started before its name is needed.
    """
    device = jax.config.jax_default_device if device is None else device  # type: ignore
    return device if isinstance(device, str) else getattr(device, "platform", "")


def platform_branch(platforms: Sequence[tuple[str, ...] | None], platform: str) -> int:
    """Return which branch of a ``platform_dependent`` a platform runs."""
    names = {platform}
    if platform == "gpu":
        version = jax.devices("gpu")[0].client.platform_version
        names.add("rocm" if "rocm" in version.lower() else "cuda")
    for index, choice in enumerate(platforms):
        if choice is None or names & set(choice):
            return index
    return len(platforms) - 1
