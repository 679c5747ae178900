"""Folders of autoencoders, as one configuration and the arrays of SAELens's names and shapes."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sparsecode_jax.io._tensor_files import read_json, read_safetensors, read_torch

__all__ = ["ARCHITECTURES", "CONFIG", "FORMAT", "WEIGHTS", "checked", "fitting", "read_folder"]

CONFIG, WEIGHTS, FORMAT = "cfg.json", "sae_weights.safetensors", "6.0.0"
_LINEAR = ("W_enc", "b_enc", "W_dec", "b_dec")
ARCHITECTURES = {  # the arrays of each
    "standard": _LINEAR,
    "topk": _LINEAR,
    "abstopk": _LINEAR,
    "jumprelu": (*_LINEAR, "threshold"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
    "matching_pursuit": ("W_dec", "b_dec"),
    "transcoder": _LINEAR,
    "skip_transcoder": (*_LINEAR, "W_skip"),
    "jumprelu_transcoder": (*_LINEAR, "threshold"),
    "jumprelu_skip_transcoder": (*_LINEAR, "threshold", "W_skip"),
}
_DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
_CHOICES = {
    "dtype": tuple(_DTYPES),
    "normalize_activations": (
        *("none", "expected_average_only_in", "covariance_whitening"),
        *("layer_norm", "constant_norm_rescale"),
    ),
    "reshape_activations": ("none", "hook_z"),
}
_TOP_K = ("topk", "abstopk")
_BATCH_TOP_K = ("batchtopk", "matryoshka_batchtopk")

Config = dict[str, Any]
Tensors = dict[str, np.ndarray]


def _get(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    found = config.get(key, default)
    if found is None:
        raise ValueError(f"the configuration has no {key}")
    return found


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    found = _get(config, key, default)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) is not int or not 1 <= found < 2**31:
        raise ValueError(f"{key} is {str(found)[:60]!r} in the configuration; a count is expected")
    return found


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    found = config.get(key, default)
    if not isinstance(found, bool):
        raise ValueError(
            f"{key} is {str(found)[:60]!r} in the configuration; true or false is expected"
        )
    return found


def _choice(config: Mapping[str, Any], key: str, default: str) -> str:
    found = config.get(key, default)
    if not isinstance(found, str) or found not in _CHOICES[key]:
        raise ValueError(
            f"{key} is {str(found)[:60]!r} in the configuration; one of "
            f"{', '.join(_CHOICES[key])} is expected"
        )
    return found


def _inner(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(
            f"{key} is {str(found)[:60]!r} in the configuration; an object is expected"
        )
    return found


def _known(architecture: Any) -> str:
    if architecture == "temporal":
        raise ValueError(
            "the architecture is 'temporal', whose encoder attends over positions and so is no "
            "function of one signal; encode with SAELens and use its codes with sparsecode_jax"
        )
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(
            f"the architecture is {str(architecture)[:60]!r}; one of {', '.join(ARCHITECTURES)} is "
            "expected: convert it to one of these, or encode with what wrote it"
        )
    return architecture


def checked(raw: Mapping[str, Any]) -> Config:
    """Return the configuration of an autoencoder in the words of SAELens 6, complete.

    Keys that it has no use for are left out; the metadata is kept. ``skip_connection`` is there for
    a sparsify folder alone: SAELens has no TopK autoencoder with a W_skip.
    """
    architecture = _known(_get(raw, "architecture"))
    transcoder = architecture.endswith("transcoder")
    text = raw.get("dtype", "float32")
    dtype = {"dtype": text.removeprefix("torch.") if isinstance(text, str) else text}
    config: Config = {
        "architecture": architecture,
        "d_in": _count(raw, "d_in"),
        "d_sae": _count(raw, "d_sae"),
        "dtype": _choice(dtype, "dtype", "float32"),
        "device": "cpu",
        "apply_b_dec_to_input": _flag(raw, "apply_b_dec_to_input", True),
        "normalize_activations": _choice(raw, "normalize_activations", "none"),
        "reshape_activations": _choice(raw, "reshape_activations", "none"),
        "metadata": _inner(raw, "metadata"),
    }
    if transcoder:
        config["d_out"] = _count(raw, "d_out")
        if config["apply_b_dec_to_input"]:
            raise ValueError(
                f"apply_b_dec_to_input is true for the architecture {architecture!r}, whose b_dec "
                "is of the outputs; false is expected"
            )
    if architecture in _TOP_K:
        config["k"] = _count(raw, "k")
        if config["k"] > config["d_sae"]:
            raise ValueError(
                f"k is {config['k']} of {config['d_sae']} latents; at most all are kept"
            )
        config["rescale_acts_by_decoder_norm"] = _flag(raw, "rescale_acts_by_decoder_norm", False)
    if architecture == "matching_pursuit":
        threshold = raw.get("residual_threshold", 1e-2)
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise ValueError(f"residual_threshold is {str(threshold)[:60]!r}; a number is expected")
        config["residual_threshold"] = float(threshold)
        config["max_iterations"] = None
        if raw.get("max_iterations") is not None:
            config["max_iterations"] = _count(raw, "max_iterations")
        config["stop_on_duplicate_support"] = _flag(raw, "stop_on_duplicate_support", True)
    return config


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    d_in, d_sae = config["d_in"], config["d_sae"]
    d_out = config.get("d_out", d_in)
    shapes = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_out),
        "b_dec": (d_out,),
        "W_skip": (d_out, d_in),
    }
    names = (*ARCHITECTURES[config["architecture"]], *(["W_skip"] * ("skip_connection" in config)))
    return {name: shapes.get(name, (d_sae,)) for name in names}


def fitting(config: Config, tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Return the arrays in the configuration's dtype, if they are those of its architecture."""
    architecture, shapes = config["architecture"], _shapes(config)
    if shapes.keys() != tensors.keys():
        missing, more = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
        found = f"has no {', '.join(sorted(missing))}" if missing else ""
        found += " and " if missing and more else ""
        found += f"has {', '.join(sorted(more))} besides"[:200] if more else ""
        raise ValueError(
            f"the file of weights {found}; {', '.join(shapes)} are expected of the architecture "
            f"{architecture!r}"
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{name} has the shape {tensors[name].shape}, where the configuration says {shape} "
                f"(d_in {config['d_in']}, d_sae {config['d_sae']})"
            )
    dtype = _DTYPES[config["dtype"]]
    return {name: _cast(name, tensors[name], dtype) for name in shapes}


def _cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype not in _DTYPES.values():
        raise ValueError(f"{name} holds {array.dtype} numbers; floats are expected")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def read_folder(folder: str | os.PathLike) -> tuple[Config, Tensors]:
    """Read the folder of an autoencoder of SAELens, dictionary_learning or sparsify.

    Raises:
      FileNotFoundError: there is none in it.
      ValueError: it is damaged, or of a kind that is not read.
    """
    folder = pathlib.Path(folder)
    for files, read in (
        ((CONFIG, WEIGHTS), _saelens),
        (("config.json", "ae.pt"), _dictionary_learning),
        ((CONFIG, "sae.safetensors"), _sparsify),
    ):
        if all((folder / name).is_file() for name in files):
            config, tensors = read(folder)
            return config, fitting(config, tensors)
    raise FileNotFoundError(
        f"it has no {CONFIG} with {WEIGHTS} (SAELens), no config.json with ae.pt "
        f"(dictionary_learning) and no {CONFIG} with sae.safetensors (sparsify)"
    )


# --- SAELens -------------------------------------------------------------------------------------


def _saelens(folder: pathlib.Path) -> tuple[Config, Tensors]:
    raw = read_json(folder / CONFIG)
    version = raw.get("sae_lens_version") or _inner(raw, "metadata").get("sae_lens_version")
    major = re.match(r"\d+", version) if isinstance(version, str) else None
    if version and not major:
        raise ValueError(f"sae_lens_version is {str(version)[:60]!r}; a version is expected")
    if not major or int(major[0]) < 6:
        raw = _of_before_6(raw)
    tensors = read_safetensors(folder / WEIGHTS)
    if "log_threshold" in tensors:  # training checkpoints of before
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not np.allclose(scaling.astype(np.float64), 1):
        raise ValueError(
            f"the architecture {raw.get('architecture')!r} has a scaling_factor of finetuning, "
            "which SAELens 6 refuses too: multiply W_dec by it and leave it out"
        )
    if raw.get("architecture") in _BATCH_TOP_K:
        return _of_training(folder, raw, tensors)
    return checked(raw), tensors


def _of_before_6(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of before version 6 in the words of version 6."""
    names = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    new = {names.get(key, key): value for key, value in raw.items()}
    metadata = {**_inner(new, "metadata")}
    activation, options = new.pop("activation_fn", "relu"), _inner(new, "activation_fn_kwargs")
    new.setdefault("architecture", "standard")
    if options.get("k") is not None and "topk" in (activation, new["architecture"]):
        new["architecture"], new["k"] = "topk", options["k"]
    elif activation != "relu" and new["architecture"] == "standard":
        raise ValueError(
            f"the architecture 'standard' has the activation {str(activation)[:60]!r}, which "
            "SAELens 6 would read as relu; relu or topk is expected: encode with the SAELens that "
            "wrote it"
        )
    hook = new.get("hook_name")
    if "reshape_activations" not in new:
        of_heads = isinstance(hook, str) and "hook_z" in hook
        new["reshape_activations"] = "hook_z" if of_heads else "none"
    normalize = new.get("normalize_activations")
    if normalize is None or isinstance(normalize, bool):
        new["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    for key, value in new.items():
        if key not in (
            "architecture",
            "d_in",
            "d_sae",
            "dtype",
            "device",
            "k",
            "metadata",
        ) and not (key.startswith(("apply_", "normalize_", "reshape_", "activation_fn"))):
            metadata.setdefault(key, value)
    return {**new, "metadata": {**metadata, "sae_lens_version": FORMAT}}


def _of_training(
    folder: pathlib.Path, raw: Mapping[str, Any], tensors: Tensors
) -> tuple[Config, Tensors]:
    """Read a training checkpoint of BatchTopK as what training ends by saving: a JumpReLU."""
    config = checked({**raw, "architecture": "jumprelu"})
    expected = {*_LINEAR, "topk_threshold"}
    if tensors.keys() != expected:
        raise ValueError(
            f"the file of weights has {', '.join(sorted(tensors))[:200]}; "
            f"{', '.join(sorted(expected))} are expected of a training checkpoint of "
            f"{raw['architecture']!r}"
        )
    threshold = tensors.pop("topk_threshold")
    if threshold.shape != ():
        raise ValueError(f"topk_threshold has the shape {threshold.shape}; one number is expected")
    shape = (config["d_sae"],)
    tensors = fitting(config, {**tensors, "threshold": np.broadcast_to(threshold, shape)})
    level, dtype = float(threshold), _DTYPES[config["dtype"]]
    rescale = _flag(raw, "rescale_acts_by_decoder_norm", True)
    scaler = folder / "activation_scaler.json"
    if scaler.is_file():
        scaling = read_json(scaler)
        if scaling.get("has_whitening"):
            raise ValueError(
                f"it is a training checkpoint of {raw['architecture']!r} whose activations are "
                "whitened; finish the training, which folds the whitening into the weights"
            )
        factor = scaling.get("scaling_factor")
        if factor is not None:
            if not isinstance(factor, (int, float)) or not factor > 0:
                raise ValueError(
                    f"scaling_factor is {str(factor)[:60]!r}; a number > 0 is expected"
                )
            tensors["W_enc"] = (tensors["W_enc"] * dtype.type(factor)).astype(dtype)
            for name in ("W_dec", "b_dec"):
                tensors[name] = (tensors[name] / dtype.type(factor)).astype(dtype)
            level = level / factor if rescale else level
            config["normalize_activations"] = "none"
    if rescale:
        wide = tensors["W_dec"].astype(np.promote_types(dtype, np.float32))
        norms = np.maximum(np.sqrt((wide * wide).sum(-1)).astype(dtype), dtype.type(1e-8))
        tensors["W_enc"] = (tensors["W_enc"] * norms).astype(dtype)
        tensors["b_enc"] = (tensors["b_enc"] * norms).astype(dtype)
        tensors["W_dec"] = (tensors["W_dec"] / norms[:, None]).astype(dtype)
    tensors["threshold"] = np.full(shape, level).astype(dtype)
    return config, tensors


# --- dictionary_learning -------------------------------------------------------------------------

_CLASSES = {  # architecture, whether the bias is subtracted, names of SAELens for theirs
    "AutoEncoder": ("standard", True, {"b_dec": "bias"}),
    "AutoEncoderNew": ("standard", False, {"b_dec": "decoder.bias"}),
    "AutoEncoderTopK": ("topk", True, {}),
    "BatchTopKSAE": ("jumprelu", True, {}),
    "GatedAutoEncoder": (
        *("gated", True),
        {"b_gate": "gate_bias", "b_mag": "mag_bias", "b_dec": "decoder_bias"},
    ),
    "JumpReluAutoEncoder": ("jumprelu", False, {}),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, {}),
}


def _dictionary_learning(folder: pathlib.Path) -> tuple[Config, Tensors]:
    raw = read_json(folder / "config.json")
    trainer = _inner(raw, "trainer")
    kind = _get(trainer, "dict_class")
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise ValueError(
            f"the dict_class is {str(kind)[:60]!r}; one of {', '.join(_CLASSES)} is expected: "
            "encode with dictionary_learning and use its codes with sparsecode_jax"
        )
    architecture, centered, names = _CLASSES[kind]
    held = read_torch(folder / "ae.pt")
    tensors: Tensors = {}
    for name in ARCHITECTURES[architecture]:
        theirs = names.get(name, name)
        turned = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}.get(name)
        if theirs in held:
            tensors[name] = held.pop(theirs)
        elif turned in held:
            tensors[name] = held.pop(turned).T
        elif name == "b_enc" and "encoder.bias" in held:
            tensors[name] = held.pop("encoder.bias")
        else:
            raise ValueError(f"ae.pt has no {turned or theirs}, which is expected of a {kind}")
    for name in ("k", "threshold", "group_sizes"):  # of training, or of no effect on the codes
        value = held.pop(name, None)
        if name == "k" and value is not None and int(value) != trainer.get("k", int(value)):
            raise ValueError(f"k is {int(value)} in ae.pt and {trainer['k']} in config.json")
        if name == "k" and value is not None:
            trainer = {**trainer, "k": int(value)}
    if held:
        raise ValueError(f"ae.pt has {', '.join(sorted(held))[:200]}, which no {kind} has")
    d_in, d_sae = tensors["W_enc"].shape if tensors["W_enc"].ndim == 2 else (0, 0)
    for key, size in (("activation_dim", d_in), ("dict_size", d_sae)):
        if trainer.get(key, size) != size:
            raise ValueError(f"{key} is {trainer[key]} in config.json and {size} in ae.pt")
    if architecture == "jumprelu" and tensors["threshold"].shape == ():
        tensors["threshold"] = np.full((d_sae,), tensors["threshold"])
    if kind == "AutoEncoder":
        tensors = _of_unit_atoms(tensors)
    metadata = {
        key: trainer[key] for key in ("lm_name", "layer", "submodule_name") if key in trainer
    }
    config: Config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "apply_b_dec_to_input": centered,
        "metadata": {**metadata, "dict_class": kind},
    }
    if architecture == "topk":
        config["k"] = trainer.get("k")
    return checked(config), tensors


def _of_unit_atoms(tensors: Tensors) -> Tensors:
    """Scale atoms to unit norm, as dictionary_learning does when it reads an AutoEncoder."""
    norms = np.sqrt((tensors["W_dec"] * tensors["W_dec"]).sum(-1))
    if np.allclose(norms, 1, rtol=1e-5, atol=1e-8):
        return tensors
    scaled = {"W_dec": tensors["W_dec"] / norms[:, None], "b_enc": tensors["b_enc"] * norms}
    return {**tensors, "W_enc": tensors["W_enc"] * norms, **scaled}


# --- sparsify ------------------------------------------------------------------------------------


def _sparsify(folder: pathlib.Path) -> tuple[Config, Tensors]:
    raw = read_json(folder / CONFIG)
    held = read_safetensors(folder / "sae.safetensors")
    activation = raw.get("activation", "topk")
    if activation != "topk":
        raise ValueError(
            f"the architecture of sparsify has the activation {str(activation)[:60]!r}; topk is "
            "expected: encode with sparsify and use its codes with sparsecode_jax"
        )
    signed, skip = _flag(raw, "signed", False), _flag(raw, "skip_connection", False)
    transcode = _flag(raw, "transcode", False)
    d_in = _count(raw, "d_in")
    latents = raw.get("num_latents") or d_in * _count(raw, "expansion_factor", 32)
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    if skip:
        names["W_skip"] = "W_skip"
    if held.keys() != set(names.values()):
        raise ValueError(
            f"sae.safetensors has {', '.join(sorted(held))[:200]}; {', '.join(names.values())} are "
            "expected"
        )
    tensors = {name: held[theirs] for name, theirs in names.items()}
    tensors["W_enc"] = tensors["W_enc"].T
    config = {
        "architecture": "abstopk" if signed else "topk",
        "d_in": d_in,
        "d_sae": latents,
        "k": _count(raw, "k", 32),
        "dtype": next((n for n, d in _DTYPES.items() if d == tensors["W_enc"].dtype), "float32"),
        "apply_b_dec_to_input": not transcode,
        "metadata": {"hook_name": folder.name},
    }
    said = {"skip_connection": skip, "transcode": transcode}
    return checked(config) | {name: True for name, value in said.items() if value}, tensors
