"""Encoders: one-pass maps from signals to codes, as pairs of pure functions.

The dictionary is not inside the encoder, so true, learned and foreign dictionaries cross freely
with every encoder, and an encoder's codes are any solver's warm start (``codes0``). An encoder
that uses the dictionary itself (``tied``, the unrolled ones) keeps a copy, which training puts in.
"""

from sparsecode_jax.encoders.alista import AlistaParams, alista, alista_params, alista_weight
from sparsecode_jax.encoders.flax_adapter import as_flax_module, from_flax
from sparsecode_jax.encoders.free_codes import FreeCodesParams, free_codes
from sparsecode_jax.encoders.gated import GatedParams, gated
from sparsecode_jax.encoders.jump_relu import JumpReluParams, jump_relu
from sparsecode_jax.encoders.linear import LinearParams, linear
from sparsecode_jax.encoders.lista import ListaParams, lista, lista_params
from sparsecode_jax.encoders.lista_cp import ListaCpParams, lista_cp, lista_cp_params
from sparsecode_jax.encoders.mlp import MlpParams, mlp
from sparsecode_jax.encoders.refined import RefinedParams, refined
from sparsecode_jax.encoders.residual_mlp import ResidualMlpParams, residual_mlp
from sparsecode_jax.encoders.top_k import (
    TopKParams,
    abs_top_k,
    batch_top_k,
    batch_top_k_threshold,
    top_k,
)
from sparsecode_jax.encoders.unrolled import UnrolledParams, unrolled
from sparsecode_jax.encoders.wrappers import CenteredParams, centered, normalized, tied

__all__ = [
    "AlistaParams",
    "CenteredParams",
    "FreeCodesParams",
    "GatedParams",
    "JumpReluParams",
    "LinearParams",
    "ListaCpParams",
    "ListaParams",
    "MlpParams",
    "RefinedParams",
    "ResidualMlpParams",
    "TopKParams",
    "UnrolledParams",
    "abs_top_k",
    "alista",
    "alista_params",
    "alista_weight",
    "as_flax_module",
    "batch_top_k",
    "batch_top_k_threshold",
    "centered",
    "free_codes",
    "from_flax",
    "gated",
    "jump_relu",
    "linear",
    "lista",
    "lista_cp",
    "lista_cp_params",
    "lista_params",
    "mlp",
    "normalized",
    "refined",
    "residual_mlp",
    "tied",
    "top_k",
    "unrolled",
]
