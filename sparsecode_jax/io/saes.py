"""Sparse autoencoders in the folders of SAELens, dictionary_learning and sparsify."""

from __future__ import annotations

import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, encoders, types
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import SparseCodes, dense
from sparsecode_jax.encoders._select import largest, latents_at, scatter
from sparsecode_jax.io._atomic import replacing
from sparsecode_jax.io._sae_formats import CONFIG, FORMAT, WEIGHTS, checked, fitting, read_folder
from sparsecode_jax.io._tensor_files import write_safetensors
from sparsecode_jax.types import Array, ArrayLike, Aux, Encoder, Key, PyTree, Role

__all__ = ["Sae", "as_sae", "load_sae", "save_sae"]


class Sae(NamedTuple):
    """An autoencoder of a folder: as what wrote it computes, and as parts of this package.

    The functions round every operation to the folder's dtype, as SAELens does, under ``jit`` too.
    The parts are the same map in float32 (float64 if the folder is): ``encoder.apply(params, x)``
    gives the codes of x (..., M), and ``codes @ dictionary + bias`` what ``decode`` gives.

    Attributes:
      encode: ``(signals) -> codes``, (..., M) to (..., N). Where the folder reshapes ``hook_z``
        signals are (..., heads, M / heads).
      decode: ``(codes, signals=None) -> signals``, codes as an array or ``SparseCodes``. Where
        signals are normalized, or reshaped, the signals that gave the codes are what the result
        takes its scale and its shape from.
      forward: ``(signals) -> signals``, decode of encode, and what a skip connection adds.
      normalize: ``(signals) -> signals``, flat (..., M) and normalized if the folder does so, in
        float32: what ``codes @ dictionary + bias`` is to be near, if the codes are of a solver.
      encoder: an :class:`~sparsecode_jax.types.Encoder`, with the normalization inside.
      params: the encoder's.
      dictionary: (N, M), one atom per row; of a transcoder (N, M_out). Of a TopK that rescales
        codes by the decoder's norm, the atoms of unit norm that its codes are for.
      bias: the decoder's, (M,) or (M_out,), of normalized signals if they are.
      config: the folder's configuration in the words of SAELens 6.
      tensors: the folder's arrays by the names of SAELens, in its dtype.
    """

    encode: Callable[[ArrayLike], Array]
    decode: Callable[..., Array]
    forward: Callable[[ArrayLike], Array]
    normalize: Callable[[ArrayLike], Array]
    encoder: types.Encoder
    params: PyTree
    dictionary: Array
    bias: Array
    config: dict[str, Any]
    tensors: dict[str, Array]


def load_sae(folder: str | os.PathLike) -> Sae:
    """Read a sparse autoencoder that SAELens, dictionary_learning or sparsify wrote.

    Of SAELens all architectures but ``temporal``, of version 6 and before, and training checkpoints
    of BatchTopK and Matryoshka, which are read as what training ends by saving: a JumpReLU. Nothing
    in a file is executed, and nothing is made in memory that is larger than the files.

    Args:
      folder: with ``cfg.json`` and ``sae_weights.safetensors`` (SAELens), ``config.json`` and
        ``ae.pt`` (dictionary_learning) or ``cfg.json`` and ``sae.safetensors`` (sparsify).

    Returns:
      A :class:`Sae`.

    Raises:
      FileNotFoundError: no such files.
      ValueError: the files are damaged, disagree, or hold what is not read (the message names the
        architecture and the way out) or not finite.

    Example:
      >>> import jax, jax.numpy as jnp, tempfile, sparsecode_jax as sc
      >>> encoder = sc.encoders.top_k(8, 16, num_active=3)
      >>> params = encoder.init(jax.random.key(0))
      >>> ours = sc.io.as_sae(encoder, params, sc.dictionaries.normalize(params.weight))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     sc.io.save_sae(folder, ours)
      ...     sae = sc.io.load_sae(folder)
      >>> sae.config["architecture"], sae.encode(jnp.ones((5, 8))).shape, sae.dictionary.shape
      ('topk', (5, 16), (16, 8))
    """
    try:
        config, tensors = read_folder(folder)
        for name, array in tensors.items():
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{name} is not finite in {array.dtype}; finite numbers are expected"
                )
        return of_tensors(config, tensors)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"load_sae: of the folder {folder}: {error}") from None
    except Exception as error:  # a damaged file can fail in any way
        what = " ".join(str(error).split())[:500] or repr(error)
        raise ValueError(f"load_sae: the folder {folder} cannot be read: {what}.") from None


def save_sae(folder: str | os.PathLike, sae: Sae) -> None:
    """Write a folder that SAELens loads, with the same outputs.

    Args:
      folder: is made if need be; an autoencoder that is in it is replaced.
      sae: from :func:`load_sae`, or from :func:`as_sae` for an encoder and a dictionary of yours.

    Raises:
      ValueError: a part of the autoencoder was replaced, so that it is not that of its tensors, or
        SAELens has no such architecture.
      TypeError: it is no :class:`Sae`.
    """
    if not isinstance(sae, Sae):
        raise TypeError(
            f"save_sae: the autoencoder is a {type(sae).__name__}; a Sae is expected, which "
            "load_sae and as_sae(encoder, params, dictionary, bias) return."
        )
    if "skip_connection" in sae.config:
        raise ValueError(
            "save_sae: SAELens has no architecture that keeps the k largest latents and has a skip "
            "connection; one of its own is expected. Copy the sparsify folder instead."
        )
    config, host = with_its_tensors("save_sae", sae)
    metadata = {"sae_lens_version": FORMAT, **sae.config["metadata"]}
    try:
        text = json.dumps({**config, "metadata": metadata}, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"save_sae: the metadata holds what JSON cannot ({error}); texts, numbers, lists and "
            "dictionaries of them are expected. Leave it out, or write it as a text."
        ) from None
    place = pathlib.Path(folder) / CONFIG
    with replacing(place) as file:  # whenever this ends, no configuration has another's arrays
        file.write(text.encode())
        write_safetensors(
            place.with_name(WEIGHTS), host, before=lambda: place.unlink(missing_ok=True)
        )


def with_its_tensors(name: str, sae: Sae) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the configuration and the arrays of an autoencoder, or raise if its parts are others.

    A skip connection of a TopK, which SAELens does not have, is for the caller to refuse.
    """
    host = {label: np.asarray(value) for label, value in sae.tensors.items()}
    try:
        config = checked(sae.config)
        again = of_tensors(config, fitting(config, host))
    except ValueError as error:
        raise ValueError(f"{name}: {error}; what load_sae or as_sae gave is expected.") from None
    for part in ("encoder", "params", "dictionary", "bias"):
        if not _same(getattr(sae, part), getattr(again, part)):
            raise ValueError(
                f"{name}: the {part} is not the one of the tensors, which decode and are what is "
                "written; parts that belong together are expected. Build a Sae of the new ones "
                "with as_sae(encoder, params, dictionary, bias)."
            )
    return config, host


def _same(one: Any, other: Any) -> bool:
    (ones, tree), (others, other_tree) = jax.tree.flatten(one), jax.tree.flatten(other)
    return tree == other_tree and all(  # type: ignore[operator]
        np.array_equal(a, b, equal_nan=True) if hasattr(a, "shape") else a == b
        for a, b in zip(ones, others, strict=True)
    )


# --- the computation of SAELens, in the dtype of a folder ----------------------------------------


class _Form(NamedTuple):
    """What decides the operations: the configuration without numbers that are arrays."""

    architecture: str
    dtype: str
    centered: bool
    normalize: str
    heads: bool
    rescale: bool
    num_active: int | None
    pursuit: _Pursuit | None


class _Pursuit(NamedTuple):
    """When SAELens's matching pursuit stops."""

    residual_threshold: float
    max_iterations: int
    stop_on_duplicate_support: bool


def _rounded(result: Array, dtype: Any) -> Array:
    """Return the result of an operation as it is kept: compilers would fuse halves unrounded."""
    result = result.astype(dtype)
    return jax.lax.optimization_barrier(result) if jnp.dtype(dtype).itemsize == 2 else result


def _wide(array: Array) -> Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _product(left: Array, right: Array) -> Array:
    """Return left @ right, summed in float32 at least."""
    wide = jnp.promote_types(left.dtype, jnp.float32)
    product = jnp.matmul(
        left, right, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide
    )
    return _rounded(product, left.dtype)


def _quotient(left: Array, right: Array) -> Array:
    """Return left / right: XLA makes a product with the rounded inverse of it in float16."""
    return _rounded(_wide(left) / _wide(right), left.dtype)


def _norm(array: Array, *, keepdims: bool = False) -> Array:
    wide = _wide(array)
    squares = jnp.sum(wide * wide, axis=-1, keepdims=keepdims)
    return _rounded(jnp.sqrt(squares), array.dtype)


def _normalized(kind: str, signals: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return signals as an encoder sees them, and the way back for reconstructions."""
    dtype = signals.dtype
    if kind == "layer_norm":
        mean = _rounded(jnp.mean(_wide(signals), axis=-1, keepdims=True), dtype)
        rest = _rounded(signals - mean, dtype)
        scale = _rounded(jnp.std(_wide(rest), axis=-1, ddof=1, keepdims=True), dtype)
        shifted = _rounded(_wide(scale) + 1e-5, dtype)
        seen = _quotient(rest, shifted)
        return seen, lambda x: _rounded(_rounded(x * scale, dtype) + mean, dtype)
    if kind == "constant_norm_rescale":
        inverse = _rounded(1 / _norm(signals, keepdims=True), dtype)
        scale = _rounded(_wide(inverse) * math.sqrt(signals.shape[-1]), dtype)
        return _rounded(signals * scale, dtype), lambda x: _quotient(x, scale)
    return signals, lambda x: x


def _flat(
    form: _Form,
    name: str,
    tensors: Any,
    signals: ArrayLike,
    num_measurements: int,
    dtype: Any = None,
) -> Array:
    """Return signals (..., M) in a dtype, that of the folder without one."""
    if form.heads:
        (signals,) = _checks.real(name, signals)
        shape = jnp.shape(signals)
        if len(shape) < 2 or shape[-1] * shape[-2] != num_measurements:
            raise ValueError(
                f"{name}: the signals have shape {shape}; (..., heads, d_head) with heads * d_head "
                f"= {num_measurements} is expected, as the folder reshapes hook_z. Pass the heads' "
                "outputs before they are put together."
            )
        signals = jnp.reshape(jnp.asarray(signals), (*shape[:-2], num_measurements))
    return _checks.takes(name, tensors, signals, num_measurements).astype(dtype or form.dtype)


def _of_form(form: _Form, tensors: Mapping[str, Array], signals: Array) -> Array:
    """Return the codes of signals (..., M)."""
    dtype = signals.dtype
    seen = _normalized(form.normalize, signals)[0]
    if form.centered:
        seen = _rounded(seen - as_row(tensors["b_dec"], seen), dtype)
    if form.pursuit is not None:
        return _pursued(form.pursuit, tensors["W_dec"], seen)
    shared = _product(seen, tensors["W_enc"])
    if form.architecture == "gated":
        gate = _rounded(shared + as_row(tensors["b_gate"], shared), dtype)
        scale = _rounded(jnp.exp(tensors["r_mag"]), dtype)
        weight = _rounded(tensors["W_enc"] * scale[None], dtype)
        magnitude = _product(seen, weight)
        magnitude = _rounded(magnitude + as_row(tensors["b_mag"], shared), dtype)
        return (gate > 0).astype(dtype) * jax.nn.relu(magnitude)
    latents = _rounded(shared + as_row(tensors["b_enc"], shared), dtype)
    if form.num_active is None:
        codes = jax.nn.relu(latents)
        if "threshold" in tensors:
            codes = codes * (latents > as_row(tensors["threshold"], latents)).astype(dtype)
        return codes
    if form.rescale:
        latents = _rounded(latents * as_row(_norm(tensors["W_dec"]), latents), dtype)
    signed = form.architecture == "abstopk"
    indices = largest(jnp.abs(latents) if signed else latents, form.num_active)
    values = latents_at(latents, indices)
    values = values if signed else jax.nn.relu(values)
    return scatter(values, indices, latents)


def _pursued(options: _Pursuit, dictionary: Array, signals: Array) -> Array:
    """Return the codes of SAELens's matching pursuit, whose atoms need not have unit norm.

    An atom that is taken again changes its code, and only then the pursuit stops, if it is to.
    """
    flat = signals.reshape(-1, signals.shape[-1])
    dtype, rows = flat.dtype, jnp.arange(flat.shape[0])
    threshold = jnp.asarray(options.residual_threshold, dtype)

    def goes_on(state: Any) -> Array:
        return (state[0] < options.max_iterations) & ~jnp.all(state[4])

    def step(state: Any) -> Any:
        count, residual, codes, support, done = state
        chosen = jnp.argmax(jax.nn.relu(_product(residual, dictionary.T)), axis=-1)
        atoms = dictionary[chosen]
        products = _rounded(residual * atoms, dtype)
        values = jax.nn.relu(_rounded(jnp.sum(_wide(products), axis=-1), dtype))
        values = jnp.where(done, 0, values)
        codes = codes.at[rows, chosen].set(_rounded(codes[rows, chosen] + values, dtype))
        taken = _rounded(values[:, None] * atoms, dtype)
        residual = _rounded(residual - taken, dtype)
        now = codes != 0
        if options.stop_on_duplicate_support:
            done = done | jnp.all(now == support, axis=-1)
        if options.residual_threshold > 0:
            done = done | (_norm(residual) < threshold)
        return count + 1, residual, codes, now, done

    codes = jnp.zeros((flat.shape[0], dictionary.shape[0]), dtype)
    start = (jnp.zeros((), jnp.int32), flat, codes, codes != 0, jnp.zeros(flat.shape[0], bool))
    codes = jax.lax.while_loop(goes_on, step, start)[2]
    return codes.reshape(*signals.shape[:-1], dictionary.shape[0])


def _of_codes(
    form: _Form, tensors: Mapping[str, Array], codes: Array, signals: Array | None
) -> Array:
    """Return the reconstruction, (..., M_out), on the scale of the signals (..., M)."""
    dtype = codes.dtype
    if form.rescale:
        inverse = _rounded(1 / _norm(tensors["W_dec"]), dtype)
        codes = _rounded(codes * as_row(inverse, codes), dtype)
    found = _product(codes, tensors["W_dec"])
    if form.pursuit is None or form.centered:
        found = _rounded(found + as_row(tensors["b_dec"], found), dtype)
    if signals is None or form.architecture.endswith("transcoder"):
        return found
    return _normalized(form.normalize, signals)[1](found)


def _of_both(form: _Form, tensors: Mapping[str, Array], signals: Array) -> Array:
    found = _of_codes(form, tensors, _of_form(form, tensors, signals), signals)
    if "W_skip" in tensors:
        found = _rounded(found + _product(signals, tensors["W_skip"].T), found.dtype)
    return found


_encode_core = functools.partial(jax.jit, static_argnums=0)(_of_form)
_decode_core = functools.partial(jax.jit, static_argnums=0)(_of_codes)
_forward_core = functools.partial(jax.jit, static_argnums=0)(_of_both)


def _encode(form: _Form, tensors: Mapping[str, Array], d_in: int, signals: ArrayLike) -> Array:
    return _encode_core(form, tensors, _flat(form, "encode", tensors, signals, d_in))


def _decode(
    form: _Form,
    tensors: Mapping[str, Array],
    d_in: int,
    codes: ArrayLike | SparseCodes,
    signals: ArrayLike | None = None,
) -> Array:
    codes = _checks.takes("decode", tensors, dense(codes), tensors["W_dec"].shape[0])
    codes = codes.astype(form.dtype)
    transcoder = form.architecture.endswith("transcoder")
    if signals is None:
        if form.normalize != "none" and not transcoder:
            raise ValueError(
                f"decode: the folder normalizes signals by {form.normalize}; the signals that gave "
                "the codes are expected, for their scale. Pass decode(codes, signals)."
            )
        return _decode_core(form, tensors, codes, None)
    flat = _flat(form, "decode", tensors, signals, d_in)
    if flat.shape[:-1] != codes.shape[:-1]:
        raise ValueError(
            f"decode: codes of shape {codes.shape} and signals of shape {jnp.shape(signals)}; the "
            "same leading axes are expected. Pass the signals that gave the codes."
        )
    found = _decode_core(form, tensors, codes, flat)
    return found.reshape(jnp.shape(signals)) if form.heads else found


def _forward(form: _Form, tensors: Mapping[str, Array], d_in: int, signals: ArrayLike) -> Array:
    found = _forward_core(form, tensors, _flat(form, "forward", tensors, signals, d_in))
    return found.reshape(jnp.shape(signals)) if form.heads else found


def _normalize(form: _Form, d_in: int, signals: ArrayLike) -> Array:
    wide = jnp.promote_types(form.dtype, jnp.float32)
    return _normalized(form.normalize, _flat(form, "normalize", None, signals, d_in, wide))[0]


# --- the same as parts of this package -----------------------------------------------------------


def of_tensors(config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Sae:
    """Return the autoencoder of a configuration and its arrays."""
    if config["dtype"] == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            f"the architecture {config['architecture']!r} is in float64, which JAX rounds to "
            "float32 unless it is told otherwise; call "
            "jax.config.update('jax_enable_x64', True) first, or save it as float32"
        )
    architecture = config["architecture"]
    transcoder = architecture.endswith("transcoder")
    normalize = config["normalize_activations"]
    form = _Form(
        architecture=architecture,
        dtype=config["dtype"],
        centered=config["apply_b_dec_to_input"],
        normalize=normalize if normalize in ("layer_norm", "constant_norm_rescale") else "none",
        heads=config["reshape_activations"] == "hook_z" and not transcoder,
        rescale=config.get("rescale_acts_by_decoder_norm", False),
        num_active=config.get("k"),
        pursuit=None,
    )
    if architecture == "matching_pursuit":
        steps = config["max_iterations"] or config["d_in"]
        options = config["residual_threshold"], steps, config["stop_on_duplicate_support"]
        form = form._replace(pursuit=_Pursuit(*options))
    arrays = {name: jnp.asarray(value) for name, value in tensors.items()}
    encoder, params, dictionary, bias = _parts(form, arrays)
    return Sae(
        functools.partial(_encode, form, arrays, config["d_in"]),
        functools.partial(_decode, form, arrays, config["d_in"]),
        functools.partial(_forward, form, arrays, config["d_in"]),
        Bound(_normalize, form, config["d_in"]),  # equal for equal forms: one program for all
        encoder,
        params,
        dictionary,
        bias,
        config,
        arrays,
    )


def _parts(form: _Form, tensors: Mapping[str, Array]) -> tuple[Encoder, PyTree, Array, Array]:
    """Return the encoder, its parameters, the dictionary and the bias."""
    wide = {name: _wide(value) for name, value in tensors.items()}
    dictionary, bias = wide["W_dec"], wide["b_dec"]
    num_atoms, num_measurements = dictionary.shape[0], wide.get("W_enc", dictionary.T).shape[0]
    size = num_measurements, num_atoms
    encoder: Encoder
    params: PyTree
    if form.pursuit is not None:
        encoder, params = _pursuit_encoder(*size, form.pursuit), MatchingPursuitParams(dictionary)
        bias = bias if form.centered else jnp.zeros_like(bias)
    else:
        weight = wide["W_enc"].T
        if form.architecture == "gated":
            encoder = encoders.gated(*size)
            params = encoders.GatedParams(weight, wide["b_gate"], wide["b_mag"], wide["r_mag"])
        elif "threshold" in wide:
            encoder = encoders.jump_relu(*size)
            least = jnp.finfo(weight.dtype).tiny  # at and below 0 a threshold does what 0 does
            level = jnp.log(jnp.maximum(wide["threshold"], least))
            params = encoders.JumpReluParams(weight, wide["b_enc"], level)
        elif form.num_active is not None:
            build = encoders.abs_top_k if form.architecture == "abstopk" else encoders.top_k
            encoder = build(*size, num_active=form.num_active)
            params = encoders.LinearParams(weight, wide["b_enc"])
            if form.rescale:
                norms = _norm(dictionary)
                params = encoders.LinearParams(weight * norms[:, None], wide["b_enc"] * norms)
                dictionary = dictionary / norms[:, None]
        else:
            encoder, params = encoders.linear(*size), encoders.LinearParams(weight, wide["b_enc"])
    if form.centered:
        encoder = encoders.centered(encoder, num_measurements)
        params = encoders.CenteredParams(wide["b_dec"], params)
    return _seeing(encoder, form.normalize), params, dictionary, bias


class MatchingPursuitParams(NamedTuple):
    """The dictionary (N, M) that a matching pursuit takes its atoms from."""

    dictionary: Array


@cached
def _pursuit_encoder(num_measurements: int, num_atoms: int, options: _Pursuit) -> Encoder:
    return Encoder(
        Bound(_pursuit_init, num_measurements, num_atoms),
        Bound(_pursuit_apply, options),
        tie=_pursuit_tie,
        roles=MatchingPursuitParams(Role.TIED),  # type: ignore[arg-type]
    )


def _pursuit_init(num_measurements: int, num_atoms: int, key: Key) -> MatchingPursuitParams:
    atoms = jax.random.normal(key, (num_atoms, num_measurements))
    return MatchingPursuitParams(atoms / _norm(atoms, keepdims=True))


def _pursuit_apply(options: _Pursuit, params: MatchingPursuitParams, signals: Array) -> Array:
    signals = _checks.takes("matching_pursuit", params, signals, params.dictionary.shape[-1])
    return _pursued(options, params.dictionary, signals.astype(params.dictionary.dtype))


def _pursuit_tie(
    params: MatchingPursuitParams, dictionary: Array, bias: Array | None
) -> MatchingPursuitParams:
    return MatchingPursuitParams(dictionary)


@cached
def _seeing(encoder: Encoder, kind: str) -> Encoder:
    """Let an encoder see signals that are normalized one by one."""
    if kind == "none":
        return encoder
    return encoder._replace(
        apply=Bound(_seeing_apply, encoder, kind),
        aux=None if encoder.aux is None else Bound(_seeing_aux, encoder, kind),
    )


def _seeing_apply(encoder: Encoder, kind: str, params: PyTree, signals: Array) -> Array:
    (signals,) = _checks.floating(kind, signals)
    return encoder.apply(params, _normalized(kind, signals)[0])


def _seeing_aux(encoder: Encoder, kind: str, params: PyTree, signals: Array) -> tuple[Array, Aux]:
    assert encoder.aux is not None
    (signals,) = _checks.floating(kind, signals)
    return encoder.aux(params, _normalized(kind, signals)[0])


# --- encoders of this package, in the words of SAELens -------------------------------------------


def as_sae(
    encoder: Encoder,
    params: PyTree,
    dictionary: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Sae:
    """Make an encoder and a dictionary an autoencoder that :func:`save_sae` writes for SAELens.

    Args:
      encoder: ``linear``, ``top_k``, ``abs_top_k``, ``jump_relu`` or ``gated``, alone, ``tied`` or
        ``centered``. **Static**.
      params: the encoder's, concrete.
      dictionary: (N, M), one atom per row, of float16, bfloat16, float32 or float64: the dtype of
        the autoencoder.
      bias: the decoder's, (M,); None for none.
      metadata: JSON values that the folder is to hold, such as ``model_name`` and ``hook_name``.

    Returns:
      A :class:`Sae`. A center that is not the decoder's bias goes into the encoder's bias.

    Raises:
      TypeError: an encoder of which SAELens has no like.
      ValueError: shapes that disagree.
    """
    _checks.encoder("as_sae", encoder)
    (dictionary,) = _checks.floating("as_sae", dictionary)
    dictionary = jnp.asarray(dictionary)
    if dictionary.ndim != 2:
        raise ValueError(
            f"as_sae: the dictionary has shape {dictionary.shape}; (N, M) is expected, one atom "
            "per row. Save the dictionaries of several runs one by one."
        )
    dtype = dictionary.dtype
    normalize, inner = "none", encoder
    if _is(inner.apply, _seeing_apply):
        inner, normalize = _options(inner)
    center = None
    if isinstance(params, encoders.CenteredParams) and _is_centered(inner, dictionary.shape[1]):
        center, params, inner = params.center, params.encoder, _options(inner)[0]
    architecture, settings = _like(inner, params, dictionary.shape)
    for name, array, shape in (
        ("bias", bias, dictionary.shape[1:]),
        ("center", center, dictionary.shape[1:]),
        ("weight", getattr(params, "weight", None), dictionary.shape),
    ):
        if array is not None and jnp.shape(array) != shape:
            raise ValueError(
                f"as_sae: the {name} has shape {jnp.shape(array)} beside a dictionary of shape "
                f"{dictionary.shape}; {shape} is expected. Pass the parts of one autoencoder."
            )
    nothing = jnp.zeros(dictionary.shape[1], dtype)
    vectors = [nothing if x is None else x for x in (bias, center)]
    added, taken = (jnp.asarray(x) for x in _checks.floating("as_sae", *vectors))
    same = np.array_equal(added, taken)
    tied = same and center is not None
    if architecture == "matching_pursuit" and not same:
        raise ValueError(
            "as_sae: a matching pursuit whose center is not the decoder's bias; SAELens has one "
            "b_dec for both, or none. Pass the center as the bias."
        )
    tensors = {"W_dec": dictionary, "b_dec": added}
    tensors |= _arrays_of(architecture, params, None if tied else center)
    host = {name: np.asarray(value) for name, value in tensors.items()}
    config = {
        "architecture": architecture,
        "d_in": dictionary.shape[1],
        "d_sae": dictionary.shape[0],
        "dtype": dtype.name,
        "apply_b_dec_to_input": tied,
        "normalize_activations": normalize,
        "metadata": {**(metadata or {}), "sae_lens_version": FORMAT},
        **settings,
    }
    try:
        config = checked(config)
        return of_tensors(config, fitting(config, host))
    except ValueError as error:
        raise ValueError(f"as_sae: {error}; the parts of one autoencoder are expected.") from None


def _is(function: Callable, bound: Callable) -> bool:
    return isinstance(function, Bound) and function.func is bound


def _is_centered(encoder: Encoder, num_measurements: int) -> bool:
    options = _options(encoder)
    return (
        len(options) == 1
        and isinstance(options[0], Encoder)
        and (encoder.apply == encoders.centered(options[0], num_measurements).apply)
    )


def _options(encoder: Encoder) -> tuple[Any, ...]:
    """Return what the factory of an encoder bound its function to."""
    return getattr(encoder.apply, "args", ())


def _like(encoder: Encoder, params: PyTree, shape: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Return the architecture whose codes are an encoder's, and its settings."""
    size = shape[1], shape[0]
    if _is(encoder.apply, _pursuit_apply):
        return "matching_pursuit", _options(encoder)[0]._asdict()
    option = _options(encoder)[-1] if _options(encoder) else None
    if encoder.apply == encoders.linear(*size).apply:
        return "standard", {}
    if encoder.apply == encoders.gated(*size).apply:
        return "gated", {}
    bandwidth = option if isinstance(option, float) and option > 0 else 1.0
    if encoder.apply == encoders.jump_relu(*size, bandwidth=bandwidth).apply:
        return "jumprelu", {}
    for architecture, build in (("topk", encoders.top_k), ("abstopk", encoders.abs_top_k)):
        static = type(option) is int and 1 <= option <= shape[0]
        if encoder.apply == build(*size, num_active=option if static else None).apply:
            return architecture, {"k": option if static else round(float(params.num_active))}
    raise TypeError(
        f"as_sae: an encoder with parameters {type(params).__name__} is none that SAELens has; "
        "linear, top_k, abs_top_k, jump_relu or gated, alone, tied or centered, is expected. Turn "
        "batch_top_k into jump_relu by batch_top_k_threshold."
    )


def _arrays_of(architecture: str, params: PyTree, center: Array | None) -> dict[str, Array]:
    """Return the arrays of an encoder of signals from which a center is subtracted."""
    if architecture == "matching_pursuit":
        return {}
    moved = 0 if center is None else _product(center, params.weight.T)
    found = {"W_enc": params.weight.T}
    if architecture == "gated":
        scaled = jnp.exp(params.log_magnitude) * moved
        return found | {
            "b_gate": params.gate_bias - moved,
            "b_mag": params.magnitude_bias - scaled,
            "r_mag": params.log_magnitude,
        }
    if architecture == "jumprelu":
        found["threshold"] = jnp.exp(params.log_threshold)
    zeros = jnp.zeros(params.weight.shape[:1], params.weight.dtype)
    return found | {"b_enc": (zeros if params.bias is None else params.bias) - moved}
