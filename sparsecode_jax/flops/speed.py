"""Model FLOPs utilization: counted operations over what the hardware could have done."""

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any

from .count import Convention, FlopCount
from .errors import FlopCountError

_HOPPER = {"float32": 67e12, **dict.fromkeys(("bfloat16", "float16"), 989.5e12)}
_HOPPER |= dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8"), 1979e12)
_AMPERE = {"float32": 19.5e12, "bfloat16": 312e12, "float16": 312e12, "int8": 624e12}
#: Dense operations a second of a chip, by the dtype of what is multiplied, from the makers' data
#: sheets: NVIDIA's datasheets of the A100, the H100 and the H200 Tensor Core GPU (SXM; those of the
#: last two print tensor figures with sparsity, which are twice these; float32 is without TF32), and
#: the pages "TPU v5e" and "TPU v6e" of the Cloud TPU documentation.
PEAK_FLOPS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        name: MappingProxyType(peaks)
        for name, peaks in {
            "A100 SXM": _AMPERE,
            "H100 SXM": _HOPPER,
            "H200 SXM": _HOPPER,
            "TPU v5e": {"bfloat16": 197e12, "int8": 393e12},
            "TPU v6e": {"bfloat16": 918e12, "int8": 1836e12},
        }.items()
    }
)


def mfu(
    count: FlopCount,
    seconds: float,
    peak: float | Mapping[str, float],
    *,
    convention: Convention = "matmul",
) -> Any:
    """Return the fraction of the hardware's operations that counted ones made up.

    Args:
        count: of everything that ran in that time, over all chips. **Static**.
        seconds: how long it took. **Static**.
        peak: operations a second of all chips together, one number, or one for each dtype of what
            is multiplied, such as ``PEAK_FLOPS["H100 SXM"]``: work in several dtypes is then held
            against the time that each would take at its own peak. **Static**.
        convention: as in ``FlopCount.total``; products alone by default. **Static**.

    Returns:
        A float, or an array of them for batched counters.

    Raises:
        FlopCountError: if a number is not positive, if ``peak`` lacks a dtype that was counted, or
            as ``FlopCount.total``.

    Example:
        >>> count = eval_flops(lambda x: x @ x, jax.ShapeDtypeStruct((1000, 1000), "bfloat16"))
        >>> mfu(count, 1e-5, {"bfloat16": 400e12})
        0.5
    """
    by_dtype = count.by("dtype", convention)
    peaks = peak if isinstance(peak, Mapping) else dict.fromkeys(by_dtype, peak)
    for name, number in (("seconds", seconds), *(("peak", peaks[d]) for d in peaks)):
        if not (isinstance(number, int | float) and isfinite(number) and number > 0):
            raise FlopCountError(f"mfu: {name} is {number!r}; expected a positive number.")
    if missing := sorted(set(by_dtype) - set(peaks)):
        raise FlopCountError(
            f"mfu: there are operations in {missing}, and peak has {sorted(peaks)}. Give the "
            "peak of every dtype that is counted, or one number."
        )
    return sum((n / peaks[dtype] for dtype, n in by_dtype.items()), 0.0) / seconds
