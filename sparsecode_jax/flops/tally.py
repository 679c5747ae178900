"""Book algorithmic work whose amount is a number of the program."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _compat
from .conventions import ELEMENTWISE
from .errors import FlopCountError
from .rules import checked

_tally_p = _compat.identity_primitive("flops_tally")


def tally(x: Any, n: Any, *, per_unit: int | Mapping[str, int], name: str) -> Any:
    """Return ``x`` unchanged and book ``n`` units of work.

    For algorithms whose useful work is less than their dense arrays: an active set of ``n`` atoms
    inside a mask. The tally is algorithmic work, apart from what the dense program executes:
    ``total(work="algorithmic")``, and ``by("primitive", work="algorithmic")`` under ``name``. It
    never enters ``total()``. Where nothing counts it costs nothing.

    Args:
        x: any pytree of arrays that the program goes on to use. **Traced**.
        n: number of units, a non-negative integer scalar; negative numbers count as 0.
            **Traced**.
        per_unit: operations a unit, an integer (class ``"elementwise"``) or a mapping from class
            names to integers. **Static**.
        name: what to book it under. **Static**.

    Returns:
        ``x``.

    Raises:
        FlopCountError: if ``x`` has no arrays, ``n`` is not an integer scalar or out of the range
            of JAX's integers, a class is unknown, or the name is no text.

    Example:
        >>> def step(z): return tally(z, (z != 0).sum(), per_unit={"dot_mul": 2}, name="active")
        >>> count = count_flops(step)(jax.numpy.array([0.0, 1.0, 2.0]))
        >>> count.by("primitive", "matmul", work="algorithmic"), count.total("matmul")
        ({'active': 4}, 0)
    """
    units = per_unit if isinstance(per_unit, Mapping) else {ELEMENTWISE: per_unit}
    units = checked("tally: per_unit is", units)
    number = _units(n)
    if not isinstance(name, str):
        raise FlopCountError(f"tally: name is {name!r}; expected a text, such as 'active atoms'.")
    leaves, tree = jax.tree.flatten(x)
    if not leaves:
        raise FlopCountError(
            "tally: x has no arrays; pass a value that the program goes on to use."
        )
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    outs = _tally_p.bind(number, *arrays, per_unit=tuple(sorted(units.items())), name=name)
    return jax.tree.unflatten(tree, outs)


def _units(n: Any) -> Any:
    """Return an integer scalar as JAX's, or raise."""
    number = np.asarray(n) if isinstance(n, int) else n
    is_array = isinstance(number, (np.ndarray, np.generic, jax.Array))
    if not is_array or number.ndim or not jnp.issubdtype(number.dtype, jnp.integer):
        kind = f"has shape {n.shape} and dtype {n.dtype}" if hasattr(n, "dtype") else f"is {n!r}"
        raise FlopCountError(
            f"tally: n {kind}; expected an integer scalar, such as jnp.count_nonzero(mask)."
        )
    most = jnp.iinfo(jax.dtypes.canonicalize_dtype(number.dtype)).max
    if not isinstance(number, jax.Array) and abs(int(number)) > most:  # JAX would keep lower bits
        raise FlopCountError(
            f"tally: n is {n}; expected at most {most} in magnitude, which JAX's integers hold. "
            "Enable x64, or count larger units."
        )
    return jnp.asarray(number)
