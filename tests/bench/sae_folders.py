"""Folders of small autoencoders that the packages of others wrote, with what those compute.

``python -m tests.bench.sae_folders tests/saes.tar.xz`` writes the ones that are kept there. Those
of dictionary_learning (0.1.0) and sparsify (1.3.3) are written where these packages are installed.
Signals are such that no two latents tie for the last place: PyTorch then takes any.
"""

import contextlib
import io
import json
import pathlib
import sys
import tarfile
import tempfile
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in the bench extra: make bench installs it")
saelens = pytest.importorskip("sae_lens", reason="SAELens is in the bench extra")

M, N, K, OUT, HEADS = 6, 12, 3, 4, 2
BASE = {"d_in": M, "d_sae": N, "metadata": {"sae_lens_version": "6.0.0"}}
OF_K = {"k": K, "apply_b_dec_to_input": True}
OF_NORM = {**OF_K, "rescale_acts_by_decoder_norm": True}
OUTSIDE = {"d_out": OUT, "apply_b_dec_to_input": False}
LAYER, CONSTANT = ({"normalize_activations": x} for x in ("layer_norm", "constant_norm_rescale"))
HOOK_Z = {
    "reshape_activations": "hook_z",
    "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.3.attn.hook_z"},
}
PURSUIT = {"residual_threshold": 0.5, "max_iterations": 6, "stop_on_duplicate_support": False}
SAELENS = {  # architecture, settings
    "standard": ("standard", {}),
    "standard_uncentered": ("standard", {"apply_b_dec_to_input": False}),
    "standard_average": ("standard", {"normalize_activations": "expected_average_only_in"}),
    "standard_hook_z": ("standard", HOOK_Z),
    "standard_float64": ("standard", {"dtype": "float64"}),
    "topk": ("topk", OF_K),
    "topk_of_norm": ("topk", OF_NORM),
    "topk_layer_norm": ("topk", {**OF_K, **LAYER}),
    "topk_hook_z_layer_norm": ("topk", {**OF_NORM, **LAYER, **HOOK_Z}),
    "abstopk": ("abstopk", OF_K),
    "abstopk_of_norm": ("abstopk", OF_NORM),
    "jumprelu": ("jumprelu", {}),
    "jumprelu_constant_norm": ("jumprelu", CONSTANT),
    "gated": ("gated", {}),
    "gated_whitened": ("gated", {"normalize_activations": "covariance_whitening"}),
    "matching_pursuit": ("matching_pursuit", {"residual_threshold": 0.0}),
    "matching_pursuit_repeats": ("matching_pursuit", PURSUIT),
    "matching_pursuit_uncentered": ("matching_pursuit", {"apply_b_dec_to_input": False}),
    "transcoder": ("transcoder", OUTSIDE),
    "transcoder_layer_norm": ("transcoder", {**OUTSIDE, **LAYER}),
    "skip_transcoder": ("skip_transcoder", OUTSIDE),
    "jumprelu_transcoder": ("jumprelu_transcoder", OUTSIDE),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", {**OUTSIDE, **CONSTANT}),
}
HALVES = {
    "standard": ("standard", {}),
    "topk_of_norm": ("topk", OF_NORM),
    "topk_layer_norm": ("topk", {**OF_K, **LAYER}),
    "abstopk": ("abstopk", OF_K),
    "jumprelu_constant_norm": ("jumprelu", CONSTANT),
    "gated": ("gated", {}),
    "matching_pursuit_repeats": ("matching_pursuit", PURSUIT),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", OUTSIDE),
}
for _name, _case in HALVES.items():
    for _dtype in ("float16", "bfloat16"):
        SAELENS[f"{_name}_{_dtype}"] = (_case[0], {**_case[1], "dtype": _dtype})
OLD = {  # configurations of before version 6
    "old_standard": {"hook_point": "blocks.1.hook_resid_pre", "normalize_activations": True},
    "old_hook_z": {"hook_point": "blocks.3.attn.hook_z", "activation_fn_str": "relu"},
    "old_topk": {
        "hook_name": "blocks.2.hook_mlp_out",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": "layer_norm",
        "sae_lens_training_version": "3.13.0",
    },
    "old_gated": {"architecture": "gated", "hook_name": "blocks.2.hook_mlp_out"},
}
TRAINING = {
    "batchtopk": {"rescale_acts_by_decoder_norm": True},
    "batchtopk_plain": {"rescale_acts_by_decoder_norm": False},
    "batchtopk_scaled": {"rescale_acts_by_decoder_norm": True, "scaling_factor": 0.37},
    "matryoshka_batchtopk": {"matryoshka_widths": [5, N]},
}
DICTIONARIES = (
    *("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder"),
    *("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"),
)
SPARSIFY = {"sparsify": {}, "sparsify_transcoder": {"transcode": True, "skip_connection": True}}


def signals(name):
    """Return signals of a case, as float32."""
    rng = np.random.default_rng([7, *map(ord, name)])
    found = rng.normal(size=(6, M)) * rng.uniform(0.5, 3, (6, 1)) + 0.3
    return (found.reshape(6, HEADS, M // HEADS) if "hook_z" in name else found).astype(np.float32)


def fill(model, name):
    """Give every array of a model random numbers of its dtype."""
    rng = np.random.default_rng([*map(ord, name), 1])
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = 0.5 if value.ndim > 1 else 0.2
            drawn = rng.normal(size=tuple(value.shape)) * scale
            value.copy_(torch.tensor(abs(drawn) if key == "threshold" else drawn))
    return model


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def outputs(model, name):
    """Return what a model of SAELens computes: signals, codes, reconstructions."""
    x = torch.tensor(signals(name)).to(model.dtype)
    with torch.no_grad():
        codes, found = model.encode(x), model(x)
    wide = [array.to(torch.float64).numpy() for array in (codes, found)]
    return {"signals": signals(name), "codes": wide[0], "forward": wide[1]}


def read(folder, name):
    """Return what SAELens computes with a folder."""
    with quiet():
        return outputs(saelens.SAE.load_from_disk(folder), name)


def write_saelens(folder, name):
    architecture, settings = SAELENS[name]
    with quiet():
        model = saelens.SAE.from_dict({"architecture": architecture, **BASE, **settings})
        fill(model, name).save_model(folder)
    return read(folder, name)


def write_old(folder, name):
    settings = OLD[name]
    kind = "gated" if name == "old_gated" else "standard"
    with quiet():
        fill(saelens.SAE.from_dict({"architecture": kind, **BASE}), name).save_model(folder)
    old = {"d_in": M, "d_sae": N, "dtype": "torch.float32", "model_name": "gpt2-small", **settings}
    (folder / "cfg.json").write_text(json.dumps(old))
    return read(folder, name)


def write_training(folder, name):
    architecture = name.removesuffix("_plain").removesuffix("_scaled")
    settings = {**TRAINING[name]}
    factor = settings.pop("scaling_factor", None)
    names = {"batchtopk": "BatchTopK", "matryoshka_batchtopk": "MatryoshkaBatchTopK"}
    prefix = f"{names[architecture]}TrainingSAE"
    with quiet():
        config = getattr(saelens, f"{prefix}Config")(d_in=M, d_sae=N, k=K, **settings)
        model = fill(getattr(saelens, prefix)(config), name)
        model.topk_threshold.fill_(0.71)
        model.save_model(folder)
        if factor is not None:
            scaler = {"scaling_factor": factor, "has_whitening": False}
            (folder / "activation_scaler.json").write_text(json.dumps(scaler))
            model.fold_activation_norm_scaling_factor(factor)
        ended = folder / "ended"
        model.save_inference_model(ended)
        found = read(ended, name)
    for path in ended.iterdir():
        path.unlink()
    ended.rmdir()
    return found


def write_dictionary(folder, name):
    """Write a folder of dictionary_learning, whose ``load_dictionary`` reads it again."""
    base = pytest.importorskip("dictionary_learning.dictionary")
    modules = [base] + [
        pytest.importorskip(f"dictionary_learning.trainers.{part}")
        for part in ("top_k", "batch_top_k", "matryoshka_batch_top_k")
    ]
    build = next(getattr(m, name) for m in modules if hasattr(m, name))
    options = [M, N] + [K] * name.endswith(("TopK", "TopKSAE"))
    model = fill(build(*options, *([[5, N - 5]] * name.startswith("Matryoshka"))), name)
    if hasattr(model, "threshold") and "K" in name:
        model.threshold.fill_(0.35)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": M, "dict_size": N, "k": K, "layer": 3}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    with quiet():
        again = build.from_pretrained(folder / "ae.pt")
        x = torch.tensor(signals(name))
        with torch.no_grad():
            codes, found = again.encode(x), again(x)
    return {"signals": signals(name), "codes": codes.numpy(), "forward": found.numpy()}


def write_sparsify(folder, name):
    package = pytest.importorskip("sparsify")
    config = package.SparseCoderConfig(num_latents=N, k=K, **SPARSIFY[name])
    model = fill(package.SparseCoder(M, config), name)
    model.save_to_disk(folder)
    x = torch.tensor(signals(name))
    with torch.no_grad():
        top, forward = model.encode(x), model(x).sae_out
        codes = torch.zeros(len(x), N).scatter(-1, top.top_indices, top.top_acts)
    return {"signals": signals(name), "codes": codes.numpy(), "forward": forward.numpy()}


WRITERS = {
    **dict.fromkeys(SAELENS, write_saelens),
    **dict.fromkeys(OLD, write_old),
    **dict.fromkeys(TRAINING, write_training),
    **dict.fromkeys(DICTIONARIES, write_dictionary),
    **dict.fromkeys(SPARSIFY, write_sparsify),
}


def write(folder, name):
    """Write the folder of a case and return what the package that wrote it computes."""
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[name](folder, name)


def keep(path):
    """Write every case into one archive, with ``expected.npz`` in each folder."""
    with tempfile.TemporaryDirectory() as root, tarfile.open(path, "w:xz") as archive:
        for name in WRITERS:
            folder = pathlib.Path(root) / name
            np.savez(folder / "expected.npz", **write(folder, name))
        archive.add(root, ".", filter=lambda info: info.replace(mtime=0, deep=False))


if __name__ == "__main__":
    keep(sys.argv[1])
