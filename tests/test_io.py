"""Files: what is written is what is read, whole or not at all."""

import json
import os
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from sparsecode_jax.io import load_checkpoint, load_results, save_checkpoint, save_results


class State(NamedTuple):
    step: Any
    key: Any
    params: Any


def state(seed=0, impl=None):
    key = jax.random.key(seed, impl=impl)
    return State(
        jnp.int32(7),
        jax.random.split(key, 3),
        {
            "weights": (jax.random.normal(key, (4, 3)), None),
            "half": jnp.arange(5, dtype=jnp.bfloat16),
            "flags": np.array([True, False]),
            "special": jnp.asarray([jnp.nan, -jnp.inf, -0.0]),
            "empty": jnp.zeros((0, 2)),
            "scalar": np.float64(1 / 3),
        },
    )


def bits(tree):
    """Turn every leaf into bytes, so that NaN, -0 and keys compare exactly."""

    def leaf(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        return (x.shape, str(x.dtype), x.tobytes())

    return jax.tree.map(leaf, tree)


# --- checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("impl", [None, "rbg"])
def test_a_checkpoint_returns_every_bit(tmp_path, impl):
    tree, path = state(impl=impl), tmp_path / "deep" / "er" / "run.checkpoint"
    save_checkpoint(path, tree, fingerprint="abc")
    loaded = load_checkpoint(path, state(1, impl), fingerprint="abc")
    assert bits(loaded) == bits(tree)
    assert isinstance(loaded, State)
    assert loaded.key.dtype == tree.key.dtype
    chex.assert_trees_all_equal(
        jax.random.normal(loaded.key[1], (3,)), jax.random.normal(tree.key[1], (3,))
    )
    loaded.params["weights"][0][:] = 0  # NumPy leaves are writable
    assert [p.name for p in path.parent.iterdir()] == ["run.checkpoint"]


def test_a_checkpoint_is_read_into_shapes(tmp_path):
    tree = State(jnp.int32(7), jax.random.split(jax.random.key(0), 3), jnp.arange(3.0))
    save_checkpoint(tmp_path / "c", tree, fingerprint="abc")
    shapes = jax.eval_shape(lambda: tree)
    assert bits(load_checkpoint(tmp_path / "c", shapes, fingerprint="abc")) == bits(tree)


def test_a_checkpoint_replaces_the_old_one(tmp_path):
    for seed in (0, 1):
        save_checkpoint(str(tmp_path / "c"), state(seed), fingerprint="abc")
        loaded = load_checkpoint(str(tmp_path / "c"), state(5), fingerprint="abc")
        assert bits(loaded) == bits(state(seed))


@pytest.mark.parametrize(
    ("like", "fingerprint"), [(state(), "other"), (state().params, "abc"), (jnp.zeros(2), "abc")]
)
def test_a_checkpoint_of_another_run_is_refused_and_left(tmp_path, like, fingerprint):
    path = tmp_path / "c"
    save_checkpoint(path, state(), fingerprint="abc")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"load_checkpoint: .*c belongs to another run"):
        load_checkpoint(path, like, fingerprint=fingerprint)
    assert path.read_bytes() == before


def bad_files():
    good = serialization.msgpack_serialize(
        {"fingerprint": "abc", "leaves": {"0": np.arange(30.0), "1": np.arange(3)}}
    )
    rng = np.random.default_rng(0)
    yield from (good[:n] for n in range(0, len(good), 7))
    yield from (rng.bytes(n) for n in range(1, 60))
    yield b"PK\x03\x04 a zip file"
    yield good + b"\x00"
    for content in ({}, {"fingerprint": "abc"}, {"leaves": {}}, [1, 2], "text", 3, np.zeros(3)):
        yield serialization.msgpack_serialize(content)
    for leaves in (3, None, [1, 2]):
        yield serialization.msgpack_serialize({"fingerprint": "abc", "leaves": leaves})


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    path, like = tmp_path / "c", (jnp.zeros(30), jnp.zeros(3))
    unexpected = {}
    for content in bad_files():
        path.write_bytes(content)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            load_checkpoint(path, like, fingerprint="abc")
        message = str(caught.value)
        if not (caught.type is ValueError and "c is not a checkpoint" in message):
            unexpected[content[:20]] = caught.value
        assert path.read_bytes() == content
    assert not unexpected


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_checkpoint(tmp_path / "nothing", state(), fingerprint="abc")


# --- results ---------------------------------------------------------------------------------

ARRAYS = {
    "single": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32),
    "double": np.array([np.nan, np.inf, 1 / 3]),
    "integer": np.arange(4, dtype=np.int64),
    "flag": np.array([True, False]),
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 4)),
    "text": np.array(["sae", "mlp"]),
    "with space/slash": np.arange(2),
}


def test_results_return_every_bit_and_gain_a_manifest(tmp_path):
    manifest = {"config": {"steps": 3}, "axes": ["run"], "note": "ü"}
    paths = save_results(tmp_path / "a" / "known.v2", ARRAYS, manifest)
    assert [p.name for p in paths] == ["known.v2.npz", "known.v2.json"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["known.v2.json", "known.v2.npz"]
    arrays, loaded = load_results(tmp_path / "a" / "known.v2")
    assert bits(arrays) == bits({k: np.asarray(v) for k, v in ARRAYS.items()})
    assert manifest.items() <= loaded.items()
    assert loaded["arrays"] == {name: list(np.shape(x)) for name, x in ARRAYS.items()}
    assert {"python", "sparsecode_jax", "jax", "jaxlib", "numpy"} <= set(loaded["versions"])
    assert loaded["versions"]["jax"] == jax.__version__
    assert loaded["processors"] == os.cpu_count()
    assert jax.default_backend() in loaded["device"]
    assert loaded["commit"] is None or loaded["commit"].strip()


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "self"])
def test_an_array_may_have_any_name(tmp_path, name):
    save_results(tmp_path / "r", {name: np.arange(3), "other": np.arange(2)}, {})
    arrays, _ = load_results(tmp_path / "r")
    assert sorted(arrays) == sorted([name, "other"])
    np.testing.assert_array_equal(arrays[name], np.arange(3))


def test_bfloat16_results_are_read_back_or_refused(tmp_path):
    array = jnp.asarray([1.5, -2], jnp.bfloat16)
    try:
        save_results(tmp_path / "r", {"half": array}, {})
    except ValueError as error:
        assert "'half'" in str(error)  # noqa: PT017
        return
    loaded = load_results(tmp_path / "r")[0]["half"]
    assert loaded.dtype in (ml_dtypes.bfloat16, np.float32)
    np.testing.assert_array_equal(loaded.astype(np.float32), [1.5, -2])


@pytest.mark.parametrize(
    ("arrays", "manifest", "error", "message"),
    [
        (
            {"big": np.array([10**30, None])},
            {},
            ValueError,
            "save_results: 'big' holds Python objects",
        ),
        ({"a": np.arange(3)}, {"config": object()}, TypeError, "not JSON serializable"),
    ],
    ids=["objects", "manifest"],
)
def test_what_cannot_be_written_leaves_the_old_results(tmp_path, arrays, manifest, error, message):
    save_results(tmp_path / "r", {"old": np.arange(2)}, {"version": 1})
    with pytest.raises(error, match=message):
        save_results(tmp_path / "r", arrays, manifest)
    loaded, old = load_results(tmp_path / "r")
    assert (list(loaded), old["version"]) == (["old"], 1)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("missing", ["r.npz", "r.json", None])
def test_missing_results_are_named(tmp_path, missing):
    if missing is not None:
        save_results(tmp_path / "r", {"a": np.arange(2)}, {})
        (tmp_path / missing).unlink()
    message = r"load_results: .*r\.npz and .*r\.json are expected; run the experiment"
    with pytest.raises(FileNotFoundError, match=message):
        load_results(tmp_path / "r")


def test_results_hold_no_pickles(tmp_path):
    np.savez(tmp_path / "r.npz", a=np.array([{}], dtype=object))
    (tmp_path / "r.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_results(tmp_path / "r")


# --- atomicity -------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, broken, error
):
    path = tmp_path / "c"
    save_checkpoint(path, state(), fingerprint="abc")
    before = path.read_bytes()

    def fail(*_, **__):
        raise error("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(error):
            save_checkpoint(path, state(1), fingerprint="abc")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
