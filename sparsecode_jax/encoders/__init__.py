"""Encoders: one-pass maps from signals to codes, as pairs of pure functions.

The dictionary is not inside the encoder, so true, learned and foreign dictionaries cross freely
with every encoder, and an encoder's codes are any solver's warm start (``codes0``).
"""

from sparsecode_jax.encoders.flax_adapter import from_flax
from sparsecode_jax.encoders.free_codes import FreeCodesParams, free_codes
from sparsecode_jax.encoders.linear import LinearParams, linear
from sparsecode_jax.encoders.mlp import MlpParams, mlp

__all__ = [
    "FreeCodesParams",
    "LinearParams",
    "MlpParams",
    "free_codes",
    "from_flax",
    "linear",
    "mlp",
]
