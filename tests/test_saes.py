"""Folders of autoencoders that SAELens, dictionary_learning and sparsify wrote.

``saes.tar.xz`` has one of each kind with what these packages compute; the real packages wrote it
(``tests/bench/sae_folders.py``).
"""

import io
import json
import os
import pathlib
import pickle
import re
import struct
import tarfile
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.io._tensor_files import read_safetensors, write_safetensors

ARCHIVE = pathlib.Path(__file__).with_name("saes.tar.xz")
with tarfile.open(ARCHIVE) as _archive:
    NAMES = sorted({name.split("/")[1] for name in _archive.getnames() if name.count("/") == 2})
HALVES = ("float16", "bfloat16")
M, N = 6, 12
SIGNALS = jax.random.normal(jax.random.key(0), (9, M))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("saes")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture
def folder(root, tmp_path):
    """Return a function that copies a folder, to be spoiled."""

    def copy(name):
        for path in (root / name).iterdir():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        return tmp_path / name

    return copy


def expected_of(folder):
    """Return what the package that wrote a folder computes: signals, codes, forward."""
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def wide(array):
    return np.asarray(array).astype(np.float64)


def close(found, expected, tolerance):
    """Raise unless numbers agree, to the tolerance times one more than the largest."""
    np.testing.assert_allclose(
        wide(found), expected, rtol=0, atol=tolerance * (1 + abs(expected).max())
    )


def tolerance_of(dtype):
    return float(jnp.finfo(dtype).eps) if dtype in HALVES else 1e-6  # halves: one unit


def flat(sae, signals):
    """Return signals (..., M), normalized as the encoder sees them, and the deviation and mean."""
    x = wide(signals).reshape(len(signals), M)
    if sae.config["normalize_activations"] == "layer_norm":
        mean, scale = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        return x, (x - mean) / (scale + 1e-5), scale, mean
    if sae.config["normalize_activations"] == "constant_norm_rescale":
        scale = np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(M)
        return x, x / scale, scale, 0
    return x, x, 1, 0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_what_wrote_it(root, name):
    with jax.enable_x64(name.endswith("float64")):
        sae, expected = sc.io.load_sae(root / name), expected_of(root / name)
        signals, dtype = expected["signals"], sae.config["dtype"]
        assert sae.encode(signals).dtype == sae.forward(signals).dtype == jnp.dtype(dtype)
        for encode in (sae.encode, jax.jit(sae.encode)):
            close(encode(signals), expected["codes"], tolerance_of(dtype))
            assert np.array_equal(wide(encode(signals)) != 0, expected["codes"] != 0)
        for forward in (sae.forward, jax.jit(sae.forward)):
            close(forward(signals), expected["forward"], tolerance_of(dtype))
        if dtype in HALVES:
            assert np.array_equal(sae.encode(signals), jax.jit(sae.encode)(signals))
            # Processors sum products in another order, which may turn a rounding.
            assert np.mean(wide(sae.encode(signals)) == expected["codes"]) > 0.99
        found = sae.decode(sae.encode(signals), signals)
        if "W_skip" in sae.tensors:
            found = wide(found) + wide(signals) @ wide(sae.tensors["W_skip"]).T
        close(found, expected["forward"], 4 * tolerance_of(dtype))
        sparse = sc.SparseCodes.from_dense(sae.encode(signals), num_active=N)
        assert np.array_equal(sae.decode(sparse, signals), sae.decode(sae.encode(signals), signals))
        one = sae.encode(signals[0]), sae.forward(signals[0])
        close(one[0], expected["codes"][0], tolerance_of(dtype))
        close(one[1], expected["forward"][0], tolerance_of(dtype))
        assert sae.encode(signals[:0]).shape == (0, N)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_are_the_same_map(root, name):
    with jax.enable_x64(name.endswith("float64")):
        sae, expected = sc.io.load_sae(root / name), expected_of(root / name)
        signals, seen, scale, mean = flat(sae, expected["signals"])
        tolerance = 8 * float(jnp.finfo(sae.config["dtype"]).eps)
        codes = sae.encoder.apply(sae.params, jnp.asarray(signals, sae.dictionary.dtype))
        close(codes, expected["codes"], tolerance)
        again = wide(codes) @ wide(sae.dictionary) + wide(sae.bias)
        close(sae.normalize(expected["signals"]), seen, tolerance_of("float32"))
        assert sae.normalize(expected["signals"]).dtype == sae.dictionary.dtype
        if "transcoder" not in name:
            again = again * scale + mean
        if "W_skip" in sae.tensors:
            again += signals @ wide(sae.tensors["W_skip"]).T
        close(again.reshape(expected["forward"].shape), expected["forward"], 2 * tolerance)
        fresh = sae.encoder.init(jax.random.key(0))
        assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, sae.params)
        if sae.encoder.aux is not None:
            assert np.array_equal(sae.encoder.aux(sae.params, jnp.asarray(signals))[0], codes)
        assert np.all(np.isfinite(jax.tree.leaves(jax.tree.map(lambda x: x.sum(), sae.params))))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sparsify_transcoder"])
def test_what_is_saved_is_loaded_with_the_same_bits(root, tmp_path, name):
    with jax.enable_x64(name.endswith("float64")):
        sae = sc.io.load_sae(root / name)
        sc.io.save_sae(tmp_path / "new", sae)
        again = sc.io.load_sae(tmp_path / "new")
        assert {p.name for p in (tmp_path / "new").iterdir()} == {
            "cfg.json",
            "sae_weights.safetensors",
        }
        assert again.config["metadata"]["sae_lens_version"] == "6.0.0" or "old" not in name
        metadata = {**again.config["metadata"]}
        for key, value in sae.config["metadata"].items():
            assert metadata[key] == value
        assert {**again.config, "metadata": 0} == {**sae.config, "metadata": 0}
        assert sae.tensors.keys() == again.tensors.keys()
        for key, value in sae.tensors.items():
            assert value.dtype == again.tensors[key].dtype
            assert np.array_equal(value, again.tensors[key])
        signals = expected_of(root / name)["signals"]
        assert np.array_equal(sae.forward(signals), again.forward(signals))
        third = pickle.loads(pickle.dumps(sae))
        assert np.array_equal(sae.forward(signals), third.forward(signals))
        assert third.encoder == sae.encoder


def test_signals_and_codes_that_do_not_fit(root):
    sae = sc.io.load_sae(root / "topk_layer_norm")
    with pytest.raises(ValueError, match=r"encode: the signals have shape \(9, 7\)"):
        sae.encode(jnp.ones((9, 7)))
    with pytest.raises(TypeError, match="forward: got <U4"):
        sae.forward("text")
    with pytest.raises(ValueError, match="decode: the folder normalizes signals by layer_norm"):
        sae.decode(jnp.ones((9, N)))
    with pytest.raises(ValueError, match="the same leading axes"):
        sae.decode(jnp.ones((9, N)), jnp.ones((8, M)))
    sae = sc.io.load_sae(root / "standard_hook_z")
    for shape in ((9, M), (M,), (9, 2, 4)):
        with pytest.raises(ValueError, match=r"heads \* d_head = 6 is expected"):
            sae.encode(jnp.ones(shape))
    assert sae.decode(jnp.ones((9, N))).shape == (9, M)
    assert sae.forward(jnp.ones((4, 9, 2, 3))).shape == (4, 9, 2, 3)
    assert sc.io.load_sae(root / "transcoder_layer_norm").decode(jnp.ones((9, N))).shape == (9, 4)


# --- encoders of ours ----------------------------------------------------------------------------

OURS = {
    "linear": encoders.linear(M, N),
    "linear_unbiased": encoders.linear(M, N, use_bias=False),
    "top_k": encoders.top_k(M, N, num_active=3),
    "top_k_learned": encoders.top_k(M, N, num_active=None),
    "abs_top_k": encoders.abs_top_k(M, N, num_active=3),
    "jump_relu": encoders.jump_relu(M, N, threshold0=0.3, bandwidth=0.2),
    "gated": encoders.gated(M, N),
    "tied": encoders.tied(encoders.top_k(M, N, num_active=2)),
    "centered": encoders.centered(encoders.tied(encoders.gated(M, N)), M),
    "centered_jump_relu": encoders.centered(encoders.jump_relu(M, N, threshold0=0.1), M),
}


def drawn(encoder):
    params = encoder.init(jax.random.key(3))
    keys = iter(jax.random.split(jax.random.key(4), 9))
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape) * (x.ndim > 0), params
    )


@pytest.mark.parametrize("center", ["bias", "other", "alone"])
@pytest.mark.parametrize("name", OURS)
def test_an_encoder_of_ours_becomes_an_autoencoder(tmp_path, name, center):
    encoder, params = OURS[name], drawn(OURS[name])
    dictionary = sc.dictionaries.random(jax.random.key(1), num_atoms=N, num_measurements=M)
    bias = jnp.linspace(-1, 1, M) if center != "alone" else None
    if isinstance(params, encoders.CenteredParams) and center == "bias":
        params = params._replace(center=bias)
    sae = sc.io.as_sae(encoder, params, dictionary, bias, metadata={"model_name": "ours"})
    codes = encoder.apply(params, SIGNALS)
    close(sae.encode(SIGNALS), wide(codes), 1e-6)
    expected = wide(codes @ dictionary + (0 if bias is None else bias))
    close(sae.forward(SIGNALS), expected, 1e-6)
    tied = center == "bias" and name.startswith("centered")
    assert sae.config["apply_b_dec_to_input"] == tied
    sc.io.save_sae(tmp_path, sae)
    again = sc.io.load_sae(tmp_path)
    assert np.array_equal(again.encode(SIGNALS), sae.encode(SIGNALS))
    assert again.config["metadata"]["model_name"] == "ours"
    half = sc.io.as_sae(encoder, params, dictionary.astype(jnp.bfloat16), bias)
    assert half.forward(SIGNALS).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", [n for n in NAMES if "transcoder" not in n and "64" not in n])
def test_parts_make_the_autoencoder_again(root, name):
    sae = sc.io.load_sae(root / name)
    again = sc.io.as_sae(sae.encoder, sae.params, sae.dictionary, sae.bias)
    signals = expected_of(root / name)["signals"].reshape(-1, M)
    if sae.config["dtype"] == "float32" and "hook_z" not in name:
        close(again.forward(signals), wide(sae.forward(signals)), 1e-5)
    close(again.encode(signals), wide(sae.encoder.apply(sae.params, jnp.asarray(signals))), 1e-5)


def test_what_cannot_be_an_autoencoder_of_saelens(root, tmp_path):
    dictionary = jnp.eye(N, M)
    for encoder in (encoders.mlp(M, N), encoders.batch_top_k(M, N, num_active=2)):
        with pytest.raises(TypeError, match="is none that SAELens has; .*batch_top_k_threshold"):
            sc.io.as_sae(encoder, encoder.init(jax.random.key(0)), dictionary)
    encoder = encoders.linear(M, N)
    params = encoder.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"weight has shape \(12, 6\) beside a dictionary of"):
        sc.io.as_sae(encoder, params, jnp.eye(5, M))
    with pytest.raises(ValueError, match=r"bias has shape \(5,\)"):
        sc.io.as_sae(encoder, params, dictionary, jnp.ones(5))
    with pytest.raises(ValueError, match="one atom per row"):
        sc.io.as_sae(encoder, params, jnp.ones((2, N, M)))
    with pytest.raises(TypeError, match="save_sae: the autoencoder is a Array|ArrayImpl"):
        sc.io.save_sae(tmp_path, dictionary)
    pursuit = sc.io.load_sae(root / "matching_pursuit")
    with pytest.raises(ValueError, match="center is not the decoder's bias"):
        sc.io.as_sae(pursuit.encoder, pursuit.params, pursuit.dictionary, 1 + pursuit.bias)
    sae = sc.io.as_sae(encoder, params, dictionary)
    for change in (
        {"dictionary": 2 * dictionary},
        {"bias": sae.bias + 1},
        {"params": params._replace(bias=params.bias + 1)},
        {"encoder": encoders.gated(M, N)},
    ):
        with pytest.raises(ValueError, match=f"save_sae: the {next(iter(change))} is not the one"):
            sc.io.save_sae(tmp_path / "no", sae._replace(**change))
    learned = encoders.top_k(M, N, num_active=None)
    none = learned.init(jax.random.key(0))._replace(num_active=jnp.zeros(()))
    with pytest.raises(ValueError, match="as_sae: k is '0' in the configuration"):
        sc.io.as_sae(learned, none, dictionary)
    of_bytes = sc.io.as_sae(encoder, params, dictionary, metadata={"model": b"gpt2"})
    with pytest.raises(ValueError, match="save_sae: the metadata holds what JSON cannot"):
        sc.io.save_sae(tmp_path / "no", of_bytes)
    with pytest.raises(ValueError, match="save_sae: SAELens has no architecture"):
        sc.io.save_sae(tmp_path / "no", sc.io.load_sae(root / "sparsify_transcoder"))
    assert not (tmp_path / "no").exists()


# --- what is refused -----------------------------------------------------------------------------


def refused(folder, *words):
    """Raise unless the folder is refused in one line that has the words."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        sc.io.load_sae(folder)
    text = str(caught.value)
    assert text.startswith("load_sae: ") and "\n" not in text and len(text) < 800, text
    for word in words:
        assert word in text, text
    return text


def change(path, **keys):
    config = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"architecture": "temporal"}, ("'temporal'", "encode with SAELens")),
        ({"architecture": "crosscoder"}, ("'crosscoder'", "matching_pursuit", "convert it")),
        ({"architecture": None}, ("no architecture",)),
        ({"architecture": ["topk"]}, ("['topk']",)),
        ({"d_in": None}, ("no d_in",)),
        ({"d_in": 7}, ("W_enc has the shape (6, 12)", "(7, 12)")),
        ({"d_sae": 10**12}, ("d_sae is '1000000000000'",)),
        ({"d_sae": 2**30}, ("W_enc has the shape (6, 12)",)),
        ({"d_sae": "12"}, ("d_sae is '12'",)),
        ({"d_sae": True}, ("d_sae is 'True'",)),
        ({"k": None}, ("no k",)),
        ({"k": 13}, ("k is 13 of 12 latents",)),
        ({"k": -1}, ("k is '-1'",)),
        ({"dtype": "float8_e4m3fn"}, ("dtype is 'float8_e4m3fn'", "bfloat16")),
        ({"dtype": 3}, ("dtype is '3'",)),
        ({"normalize_activations": "batch"}, ("normalize_activations is 'batch'", "layer_norm")),
        ({"reshape_activations": "hook_q"}, ("reshape_activations is 'hook_q'",)),
        ({"apply_b_dec_to_input": 1}, ("apply_b_dec_to_input is '1'",)),
        ({"metadata": [1]}, ("metadata is '[1]'",)),
        ({"metadata": {"sae_lens_version": "new"}}, ("sae_lens_version is 'new'",)),
        ({"architecture": "gated"}, ("has no b_gate, b_mag, r_mag and has b_enc besides",)),
        ({"architecture": "transcoder", "d_out": 6}, ("apply_b_dec_to_input is true",)),
        ({"architecture": "transcoder"}, ("no d_out",)),
        ({"architecture": "batchtopk"}, ("topk_threshold", "training checkpoint")),
        ({"metadata": {}, "activation_fn_str": "tanh-relu", "architecture": "standard"}, ("tanh",)),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(folder, keys, words):
    path = folder("topk")
    change(path / "cfg.json", **keys)
    refused(path, *words)


def test_a_training_checkpoint_that_says_it_is_huge(folder):
    path = folder("batchtopk")
    change(path / "cfg.json", d_sae=2**30)
    tracemalloc.start()
    refused(path, "W_enc has the shape (6, 12)")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    change(path / "cfg.json", d_sae=12)
    tensors = read_safetensors(path / "sae_weights.safetensors")
    spoiled = tensors | {"topk_threshold": np.ones(2)}
    write_safetensors(path / "sae_weights.safetensors", spoiled)
    refused(path, "topk_threshold has the shape (2,)")


def test_a_float64_folder_without_float64(root):
    refused(root / "standard_float64", "float64", "jax_enable_x64")


def test_a_folder_without_an_autoencoder(tmp_path):
    refused(tmp_path, "no cfg.json with sae_weights.safetensors (SAELens)", str(tmp_path))
    refused(tmp_path / "nothing")


def test_other_kinds_that_are_refused(folder):
    path = folder("batchtopk_scaled")
    change(path / "activation_scaler.json", has_whitening=True)
    refused(path, "whitened")
    change(path / "activation_scaler.json", has_whitening=False, scaling_factor=-1.0)
    refused(path, "scaling_factor is '-1.0'")
    path = folder("AutoEncoder")
    for name in ("CrossCoder", None, 3):
        change(path / "config.json", trainer={"dict_class": name})
        refused(path, "dict_class")
    change(path / "config.json", trainer={"dict_class": "GatedAutoEncoder"})
    refused(path, "ae.pt has no gate_bias, which is expected of a GatedAutoEncoder")
    change(path / "config.json", trainer={"dict_class": "AutoEncoder", "dict_size": 13})
    refused(path, "dict_size is 13 in config.json and 12 in ae.pt")
    path = folder("sparsify")
    change(path / "cfg.json", activation="groupmax")
    refused(path, "groupmax", "encode with sparsify")
    path = folder("standard")
    tensors = read_safetensors(path / "sae_weights.safetensors")
    scaling = {"scaling_factor": np.full(N, 2, np.float32)}
    write_safetensors(path / "sae_weights.safetensors", tensors | scaling)
    refused(path, "finetuning", "multiply W_dec")
    ones = {"scaling_factor": np.ones(N, np.float32)}
    write_safetensors(path / "sae_weights.safetensors", tensors | ones)
    sc.io.load_sae(path)
    whole = {"b_enc": np.zeros(N, np.int32)}
    write_safetensors(path / "sae_weights.safetensors", tensors | whole)
    refused(path, "b_enc holds int32 numbers")
    for wrong in (np.nan, -np.inf, 1e300):
        spoiled = {"b_enc": np.full(N, wrong)}
        write_safetensors(path / "sae_weights.safetensors", tensors | spoiled)
        refused(path, "b_enc is not finite in float32; finite numbers are expected")


def test_old_training_checkpoints_hold_the_logarithm_of_the_threshold(folder):
    path = folder("jumprelu")
    expected = expected_of(path)
    tensors = read_safetensors(path / "sae_weights.safetensors")
    tensors["log_threshold"] = np.log(tensors.pop("threshold"))
    write_safetensors(path / "sae_weights.safetensors", tensors)
    close(sc.io.load_sae(path).encode(expected["signals"]), expected["codes"], 1e-6)


def test_thresholds_of_nothing_and_less(folder):
    path = folder("jumprelu")
    tensors = read_safetensors(path / "sae_weights.safetensors")
    tensors["threshold"] = np.linspace(-1, 1, N, dtype=np.float32).round(1)
    tensors["threshold"][3:6] = 0
    write_safetensors(path / "sae_weights.safetensors", tensors)
    sae = sc.io.load_sae(path)
    latents = (SIGNALS - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    expected = np.where(latents > np.maximum(tensors["threshold"], 0), latents, 0)
    close(sae.encode(SIGNALS), expected, 1e-6)
    close(sae.encoder.apply(sae.params, SIGNALS), expected, 1e-6)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(sae.params))
    slope = jax.grad(lambda p: jnp.sum(sae.encoder.apply(p, SIGNALS) ** 2))(sae.params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(slope))


def test_what_is_loaded_is_counted_and_differentiated(root):
    for name in ("topk", "standard_bfloat16", "matching_pursuit"):
        sae = sc.io.load_sae(root / name)
        least = 2 * 9 * M * N  # one product with the dictionary at the least
        assert sc.flops.count_flops(sae.encode)(SIGNALS).total() >= least
        if name != "matching_pursuit":  # a loop until it is done
            slope = jax.grad(lambda x, sae=sae: sae.forward(x).astype(jnp.float32).sum())(SIGNALS)
            assert np.any(slope != 0)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("topk", "cfg.json"),
        ("topk", "sae_weights.safetensors"),
        ("AutoEncoderTopK", "ae.pt"),
        ("AutoEncoderTopK", "config.json"),
        ("sparsify", "sae.safetensors"),
    ],
)
def test_files_that_end_early_or_are_spoiled(folder, name, file):
    """Whatever bytes are lost or changed: a folder, or one line; never much memory."""
    path = folder(name)
    whole = (path / file).read_bytes()
    for size in {0, 1, 7, 8, 9, *range(0, len(whole), len(whole) // 15), len(whole) - 1}:
        (path / file).write_bytes(whole[:size])
        refused(path)
    (path / file).write_bytes(whole + b"x" * 9)
    if file != "ae.pt":  # archives may have bytes behind them
        refused(path)
    rng = np.random.default_rng(0)
    told: list[str] = []
    tracemalloc.start()
    for _ in range(150):
        spoiled = bytearray(whole)
        for place in rng.integers(min(len(whole), 700), size=rng.integers(1, 4)):
            spoiled[place] = rng.integers(256)
        (path / file).write_bytes(spoiled)
        try:
            sc.io.load_sae(path)
        except (ValueError, FileNotFoundError) as error:
            told.append(str(error))
    assert len(told) > 20 and all(re.fullmatch("load_sae: .*", text) for text in told)
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 24]}, ("(0, 4611",)),
        ({"dtype": "F32", "shape": [6], "data_offsets": [0, 2**62]}, ("lies in the bytes",)),
        ({"dtype": "F32", "shape": [6], "data_offsets": [8, 32]}, ("(0, 24) are expected",)),
        ({"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]}, ("whole numbers",)),
        ({"dtype": "F32", "shape": [6.0], "data_offsets": [0, 24]}, ("whole numbers",)),
        ({"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}, ("F8_E4M3",)),
        ({"dtype": ["F32"], "shape": [6], "data_offsets": [0, 24]}, ("dtype",)),
        ({"dtype": "F32", "shape": [6]}, ("data_offsets",)),
        ({"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}, ("24 bytes", "says 20")),
        ([], ("has no dtype",)),
    ],
)  # fmt: skip
def test_headers_of_safetensors_that_lie(folder, entry, words):
    path = folder("topk")
    header = json.dumps({"W_enc": entry}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(24)
    (path / "sae_weights.safetensors").write_bytes(data)
    refused(path, *words)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**7) + b"{}",
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 15) + b'{"a":1,"a":2}  ',
        struct.pack("<Q", 2) + b"\xff\xfe",
    ],
    ids=["huge", "long", "deep", "null", "twice", "no text"],
)
def test_headers_of_safetensors_that_are_none(folder, data):
    path = folder("topk")
    (path / "sae_weights.safetensors").write_bytes(data)
    refused(path)


class Runs:
    """An object whose pickle makes a folder when it is read as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive_of(data, entries=(), compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("ae/data.pkl", data)
        for name, content in entries:
            archive.writestr(f"ae/{name}", content)
    return file.getvalue()


def test_pickles_with_code_are_refused_and_not_executed(folder, tmp_path):
    path, victim = folder("AutoEncoder"), tmp_path / "victim"
    state = {"encoder.weight": Runs(victim)}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (path / "ae.pt").write_bytes(archive_of(pickle.dumps(state, protocol)))
        refused(path, "mkdir", "nothing was executed", "torch.save(model.state_dict(), path)")
    call = f"(S'{victim}'\nios\nmkdir\n.".encode()  # the operation INST of old pickles
    (path / "ae.pt").write_bytes(archive_of(call))
    refused(path, "nothing was executed")
    for operation in (b"\x82\x01", b"i__builtin__\neval\n", b"\x81", b"o", b"\x97"):
        (path / "ae.pt").write_bytes(archive_of(b"\x80\x02}" + operation + b"."))
        refused(path)
    (path / "ae.pt").write_bytes(pickle.dumps(state))  # no archive
    refused(path, "ae.pt is truncated, or of a torch before 1.6")
    assert not victim.exists()
    pickle.loads(pickle.dumps(state))
    assert victim.exists()  # the object does what is feared of it


def rebuilt(shape, strides, count, offset=0, kind="FloatStorage", key="0"):
    """Return the pickle of a dictionary with one array, written operation by operation."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def text(word):
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def numbers(found):
        return b"(" + b"".join(map(number, found)) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    view = number(offset) + numbers(shape) + numbers(strides) + b"\x89}"
    return (
        b"\x80\x02}" + text("bias") + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage + number(count) + b"tQ" + view + b"tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": [2**40], "strides": [0]}, ("does not fit",)),
        ({"shape": [2**40], "strides": [1]}, ("does not fit",)),
        ({"shape": [6], "strides": [-1]}, ("strides",)),
        ({"shape": [6], "strides": [2]}, ("does not fit",)),
        ({"shape": [6], "strides": [1], "offset": 1}, ("does not fit",)),
        ({"shape": [6], "strides": [1], "offset": -1}, ("offset",)),
        ({"shape": [6], "strides": [1, 1]}, ()),
        ({"shape": [6], "strides": [1], "count": 2**40}, ("24 bytes", "1099511627776 numbers")),
        ({"shape": [6], "strides": [1], "kind": "QInt8Storage"}, ("QInt8Storage",)),
        ({"shape": [6], "strides": [1], "key": "../0"}, ("not known",)),
        ({"shape": [6], "strides": [1], "key": "7"}, ("has no data/7",)),
        ({"shape": [6], "strides": [1]}, ("has no encoder.weight",)),
    ],
)
def test_arrays_that_are_larger_than_their_bytes(folder, options, words):
    path = folder("AutoEncoder")
    entries = [("data/0", bytes(24))]
    (path / "ae.pt").write_bytes(archive_of(rebuilt(**{"count": 6, **options}), entries))
    refused(path, *words)


def test_pickles_that_would_be_long_to_print_or_to_hash(folder):
    path = folder("AutoEncoder")
    laughs = b")" + b"q\x00h\x00\x86" * 25  # pairs of pairs of pairs
    word = b"X\x01\x00\x00\x00a"
    tracemalloc.start()
    for data in (
        laughs + b"Q",
        b"(" + word + laughs + b"\x93",
        b"}" + laughs + b"Ns",
        laughs + b")R",
        b"}" + word + laughs + b"s",
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + 4 * laughs + b"tR",
        b"(X\x07\x00\x00\x00storage" + 4 * laughs + b"tQ",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + 3 * laughs + b"tQ",
    ):
        (path / "ae.pt").write_bytes(archive_of(b"\x80\x02" + data + b"."))
        refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_archives_that_inflate(folder):
    path = folder("AutoEncoder")
    data = rebuilt([2**22], [1], 2**22)
    entries = [("data/0", bytes(2**24))]
    (path / "ae.pt").write_bytes(archive_of(data, entries, zipfile.ZIP_DEFLATED))
    assert re.search("data.pkl is compressed", refused(path))
    with zipfile.ZipFile(path / "ae.pt", "w") as archive:
        archive.writestr("ae/data.pkl", data)
        archive.writestr("ae/data/0", bytes(2**24), zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    refused(path, "data/0 is compressed")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_folder_never_has_the_configuration_of_one_and_the_arrays_of_another(
    root, tmp_path, monkeypatch
):
    old, new = (sc.io.load_sae(root / name) for name in NAMES[:2])
    sc.io.save_sae(tmp_path, old)
    replace = os.replace

    def stop(source, target):
        if target.name == "cfg.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        sc.io.save_sae(tmp_path, new)
    with pytest.raises(FileNotFoundError):
        sc.io.load_sae(tmp_path)
