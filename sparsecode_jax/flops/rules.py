"""The table of counting rules, and the way to extend it.

Every primitive JAX can lower has exactly one place: a rule, a structural handler (in
``analyze``), a program that stands for it, the list of operations that cost nothing, or the list of
opaque operations, which raise because their shapes do not determine their work.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from . import _compat, rules_array, rules_elementwise, rules_linalg
from .conventions import CLASSES
from .errors import FlopCountError
from .rules_elementwise import Rule

RULES: dict[str, Rule] = {
    **rules_elementwise.RULES,
    **rules_array.RULES,
    **rules_linalg.RULES,
}
COLLECTIVES = rules_array.COLLECTIVES

_FREE = """
after_all ag_done ag_start all_gather all_gather_done all_gather_invariant all_gather_reduced
all_gather_reduced_start all_gather_start all_to_all all_to_all_done all_to_all_start and axis_index
bitcast_convert_type broadcast_in_dim broadcast_to check clz complex concatenate
convert_element_type copy copy_p create_linear create_token dce_sink debug_callback debug_print
device_put dim_as_value dimension_size dynamic_slice dynamic_update_slice empty empty2 from_edtype
full_to_shard gather imag inspect_sharding iota iota_2x32_shape layout_constraint
lu_pivots_to_permutation mulhi name not optimization_barrier or pad pbroadcast pbroadcast_done
pbroadcast_dynamic pbroadcast_start pgather philox2x32 philox4x32 pin platform_index
population_count ppermute ppermute_done ppermute_start precv preduced psend pvary ragged_all_to_all
random_bits random_clone random_fold_in random_seed random_split random_unwrap random_wrap real
reduce_and reduce_or reduce_precision reduce_xor reduced_vary_cast reduced_vary_cast_p relayout
reshape reshard rev rng_bit_generator rng_uniform shape_assertion shard_to_full sharding_constraint
shift_left shift_right_arithmetic shift_right_logical slice split squeeze stack stage stop_gradient
threefry2x32 threefry4x32 tie tile to_edtype transpose unpin unreachable unstack vary_unreduced_cast
vary_unreduced_cast_p with_memory_space_constraint xla_metadata_value xor
"""
#: Layout, conversion, communication without arithmetic, integers, random bits, printing.
FREE: frozenset[str] = frozenset(_FREE.split())

_FUSED = "is a fused vendor kernel whose algorithm is not in the program"
_PALLAS = "runs a hand-written kernel"
_OLD = "is a construct that later releases of JAX write otherwise"
_ASYNC = "is one half of an asynchronous collective"
_INLINED = """
bcoo_dot_general bcoo_dot_general_sampled bcoo_extract bcoo_fromdense bcoo_sort_indices
bcoo_spdot_general bcoo_sum_duplicates bcoo_todense bcoo_transpose bcsr_dot_general bcsr_extract
bcsr_fromdense bcsr_todense coo_fromdense coo_matmat coo_matvec coo_todense csr_fromdense
csr_matmat csr_matvec csr_todense equinox.maybe_set equinox.nonbatchable
equinox.nondifferentiable_backward equinox.nontraceable equinox.select_if_vmap equinox.unvmap_all
equinox.unvmap_any equinox.unvmap_max equinox.vprim lineax.linear_solve random_gamma run_state
"""
#: Operations that are counted, and run if they loop, as the function of JAX that each is lowered
#: to. Those with an owner belong to libraries that somebody else has imported.
INLINED: frozenset[str] = frozenset(_INLINED.split())
#: Modules whose callbacks raise, or draw a progress bar, and compute nothing.
REPORTING = (
    "equinox._errors",
    "equinox.internal._progress_meter",
    "diffrax._progress_meter",
)
#: Operations whose work their shapes do not determine, with the reason.
OPAQUE: Mapping[str, str] = {
    "call_exported": "runs a serialized program; count the function that was exported",
    **dict.fromkeys(("coo_spmm", "coo_spmv", "csr_spmm", "csr_spmv", "spsolve"), _FUSED),
    **dict.fromkeys(("core_map", "mosaic_gpu_p", "mpmd_map"), _PALLAS),
    **dict.fromkeys(("run_scoped", "tpu_custom_call"), _PALLAS),
    "cudnn_fusion": _FUSED,
    "custom_lin": "is a placeholder of linearization that never runs",
    "custom_transpose_call": _OLD,
    "dot_product_attention_bwd": _FUSED,
    "dot_product_attention_bwd_wrapper": _FUSED,
    "dot_product_attention_fp8_bwd": _FUSED,
    "dot_product_attention_fp8_bwd_wrapper": _FUSED,
    "dot_product_attention_fp8_fwd": _FUSED,
    "dot_product_attention_fp8_fwd_wrapper": _FUSED,
    "dot_product_attention_fwd": _FUSED,
    "dot_product_attention_fwd_wrapper": _FUSED,
    "ffi_call": "runs foreign code",
    "psum_done": _ASYNC,
    "psum_invariant_start": _ASYNC,
    "psum_start": _ASYNC,
    "reduce_scatter_done": _ASYNC,
    "reduce_scatter_start": _ASYNC,
    "scaled_dot": _FUSED,
    "scaled_matmul": _FUSED,
    "scaled_matmul_wrapper": _FUSED,
    "xla_pmap": _OLD,
    "unreduced_pmax": _ASYNC,
    "unreduced_pmin": _ASYNC,
    "unreduced_psum": _ASYNC,
    "unreduced_psum_start": _ASYNC,
    "unreduced_reduce_scatter": _ASYNC,
    "unreduced_reduce_scatter_start": _ASYNC,
}


class Registered(NamedTuple):
    """What a user registered for a primitive: a rule, or a function that stands for it."""

    kind: str
    function: Callable[..., Any]


RULE, EXPANSION, INLINE = "rule", "expansion", "inline"
_registry: dict[Any, Registered] = {}  # by primitive, or by name: whatever is called so
_changed: dict[str, int] = {}  # the version that last touched a name


def registry_version() -> int:
    """Return a number that changes with every registration, for caches."""
    return max(_changed.values(), default=0)


def registered(primitive: Any) -> Registered | None:
    """Return what is registered for a primitive itself or, failing that, for its name."""
    return _registry.get(primitive) or _registry.get(primitive.name)


def inlined(primitive: Any, name: str) -> Callable[..., Any] | None:
    """Return the function a primitive is counted and run as, if there is one."""
    if (own := registered(primitive)) is not None:
        return own.function if own.kind == INLINE else None
    return _compat.lowered_as(primitive) if name in INLINED else None


def changed_since(names: frozenset[str], version: int) -> list[str]:
    """Return which operations were registered, or registered anew, since a version."""
    return sorted(name for name in names & _changed.keys() if _changed[name] > version)


def register_flop_rule(
    primitive: Any,
    rule: Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], Mapping[str, int]],
) -> None:
    """Register how many operations a primitive performs.

    Args:
        primitive: a JAX primitive, or its name. **Static**.
        rule: called as ``rule(inputs, outputs, params)`` with objects that have ``shape`` and
            ``dtype``; returns a mapping from names in ``CLASSES`` to non-negative integers.
            **Static**.

    Raises:
        FlopCountError: if ``rule`` is not callable or ``primitive`` has no name.

    Example:
        >>> register_flop_rule("my_kernel", lambda ins, outs, params: {"elementwise": 7})
    """
    _register(RULE, primitive, rule, "register_flop_rule")


def register_flop_expansion(primitive: Any, fun: Callable[..., Any]) -> None:
    """Register a function as which a primitive is to be counted.

    Args:
        primitive: a JAX primitive, or its name. **Static**.
        fun: called as ``fun(*inputs, **params)``; it is traced at the operands' shapes and never
            run, and must have a static amount of work. **Static**.

    Raises:
        FlopCountError: if ``fun`` is not callable or ``primitive`` has no name.

    Example:
        >>> register_flop_expansion("my_softplus", lambda x: jax.numpy.logaddexp(x, 0.0))
    """
    _register(EXPANSION, primitive, fun, "register_flop_expansion")


def register_flop_inline(primitive: Any, fun: Callable[..., Any]) -> None:
    """Register a function that runs in place of a primitive where its loops are counted.

    For a primitive whose work depends on values. ``register_flop_expansion`` is for a static amount
    of work: it leaves the primitive itself in the program.

    Args:
        primitive: a JAX primitive, or its name. **Static**.
        fun: called as ``fun(*inputs, **params)``; it must return what the primitive returns.
            **Static**.

    Raises:
        FlopCountError: if ``fun`` is not callable or ``primitive`` has no name. Where the function
            is used, if it returns other shapes or dtypes than the primitive.

    Example:
        >>> def halve(x): return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)
        >>> register_flop_inline("my_halving", halve)
    """
    _register(INLINE, primitive, fun, "register_flop_inline")


def _register(kind: str, primitive: Any, function: Any, caller: str) -> None:
    name = primitive if isinstance(primitive, str) else getattr(primitive, "name", None)
    if not isinstance(name, str):
        raise FlopCountError(f"{caller}: expected a JAX primitive or its name, got {primitive!r}.")
    if not callable(function):
        raise FlopCountError(f"{caller}: expected a function for {name!r}, got {function!r}.")
    _changed[name] = registry_version() + 1
    _registry[primitive] = Registered(kind, function)


def checked(caller: str, costs: Mapping[str, Any]) -> dict[str, Any]:
    """Return costs as Python integers, which cannot overflow, without the zeros.

    Args:
        caller: what to call their origin in an error. **Static**.
        costs: operations by class; integers of NumPy are converted. Fractions, of work that
            devices share, come from rules of this package alone. **Static**.

    Raises:
        FlopCountError: for anything else.
    """
    exact: dict[str, Any] = {}
    for cost_class, amount in costs.items():
        try:
            number = amount if isinstance(amount, Fraction) else operator.index(amount)
        except TypeError:
            number = -1
        if cost_class not in CLASSES or number < 0:
            raise FlopCountError(
                f"{caller} {{{cost_class!r}: {amount!r}}}; expected non-negative integers under "
                f"names among {list(CLASSES)}."
            )
        if number:
            exact[cost_class] = number
    return exact
