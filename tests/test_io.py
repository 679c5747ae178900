"""Files: what is written is what is read, whole or not at all."""

import io
import json
import os
import re
import traceback
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from sparsecode_jax.io import load_checkpoint, load_results, save_checkpoint, save_results
from sparsecode_jax.io.checkpoints import identity_in


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
    save_checkpoint(path, tree, identity={"run": "abc"})
    loaded = load_checkpoint(path, state(1, impl), identity={"run": "abc"})
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
    save_checkpoint(tmp_path / "c", tree, identity={"run": "abc"})
    shapes = jax.eval_shape(lambda: tree)
    assert bits(load_checkpoint(tmp_path / "c", shapes, identity={"run": "abc"})) == bits(tree)


def test_a_checkpoint_replaces_the_old_one(tmp_path):
    for seed in (0, 1):
        save_checkpoint(str(tmp_path / "c"), state(seed), identity={"run": "abc"})
        loaded = load_checkpoint(str(tmp_path / "c"), state(5), identity={"run": "abc"})
        assert bits(loaded) == bits(state(seed))


@pytest.mark.parametrize("identity", [{"seed": 1}, {"seed": 0, "record": "ab"}, {}])
def test_a_checkpoint_of_another_run_is_refused_and_left(tmp_path, identity):
    path = tmp_path / "c"
    save_checkpoint(path, state(), identity={"seed": 0})
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"load_checkpoint: .*c belongs to another run \((seed|rec)"
    ):
        load_checkpoint(path, state(), identity=identity)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "like",
    [
        state().params,
        jnp.zeros(2),
        state()._replace(step=jnp.zeros(3, jnp.int32)),
        state()._replace(step=jnp.int8(7)),
        state()._replace(key=jax.random.split(jax.random.key(0), 4)),
        state()._replace(key=jnp.int32(7)),
    ],
    ids=["structure", "array", "shape", "dtype", "keys", "no_key"],
)
def test_other_arrays_under_an_equal_identity_are_refused(tmp_path, like):
    save_checkpoint(tmp_path / "c", state(), identity={})
    with pytest.raises(ValueError, match=r"load_checkpoint: .*c holds .* it is damaged, or"):
        load_checkpoint(tmp_path / "c", like, identity={})


def test_a_dimension_may_be_left_open(tmp_path):
    save_checkpoint(tmp_path / "c", {"a": np.arange(3)}, identity={})
    like = {"a": jax.ShapeDtypeStruct((-1,), np.arange(3).dtype)}
    assert load_checkpoint(tmp_path / "c", like, identity={})["a"].tolist() == [0, 1, 2]


HEADER = {"format": 2, "identity": {}, "leaves": [["0", "float64", None], ["1", "int64", None]]}


def archive(header=HEADER, entries=None, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("checkpoint.json", header if isinstance(header, str) else json.dumps(header))
        for name, content in (
            {"0": npy(np.arange(30.0)), "1": npy(np.arange(3))} | (entries or {})
        ).items():
            if content is not None:
                file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


class Opens:
    """An object whose pickle makes a file when it is loaded."""

    def __reduce__(self):
        return open, ("executed", "w")


def claims(shape, descr="<f8"):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def bad_files():
    good = archive()
    rng = np.random.default_rng(0)
    yield from (good[:n] for n in range(0, len(good), 7))
    yield from (rng.bytes(n) for n in range(1, 60))
    for place in range(40, len(good) - 300, 11):  # what is in the entries
        yield good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :]
    yield b"PK\x03\x04 a zip file"
    yield serialization.msgpack_serialize({"fingerprint": "abc", "leaves": {"0": np.arange(30.0)}})
    for content in ({}, [1, 2], "text", 3, None, True, {"format": 2}, "{", "\x00", "[" * 10_000):
        yield archive(content)
    for leaves in (
        3,
        None,
        [1, 2],
        {"0": 1},
        [["0", "float64"]],
        [[0, [], {}]],
        [["0", "float64", 7]],
    ):
        yield archive({**HEADER, "leaves": leaves})
    for name, value in (("format", 1), ("format", None), ("identity", 3), ("identity", None)):
        yield archive({**HEADER, name: value})
    yield archive(entries={"0": None})
    yield archive(compression=zipfile.ZIP_DEFLATED)  # may inflate without bound
    yield archive(entries={"0": npy([Opens()], allow_pickle=True)})
    for shape in ((10**12,), (-30,), (2**62, 8), (30.5,), "30", (31,)):
        yield archive(entries={"0": claims(shape) + bytes(240)})
    yield archive(entries={"0": claims((30,), "|O") + bytes(240)})


def test_files_that_are_no_checkpoint_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, like = tmp_path / "c", (np.zeros(30), np.zeros(3, int))
    path.write_bytes(archive())
    right = load_checkpoint(path, like, identity={})
    unexpected = {}
    for content in bad_files():
        path.write_bytes(content)
        tracemalloc.start()
        try:
            found = load_checkpoint(path, like, identity={})
            good = bits(found) == bits(right)  # a changed date
        except Exception as error:
            message, is_ours = str(error), type(error) is ValueError
            good = is_ours and re.search("c is (not a checkpoint|damaged)", message)
            good = good and "\n" not in message and len(message) < 600
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if not good or peak > 2**23:
            unexpected[content[:20]] = peak, traceback.format_exc()
        assert path.read_bytes() == content
    assert not unexpected
    assert [p.name for p in tmp_path.iterdir()] == ["c"]  # nothing was executed


def test_files_of_no_run_have_no_identity(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(archive())
    assert identity_in(path) == {}
    encrypted = bytearray(path.read_bytes())
    encrypted[6] |= 1  # the flag, in the entry and in the directory
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with zipfile.ZipFile(tmp_path / "deep", "w") as file:
        file.writestr("checkpoint.json", "[" * 100_000)
    for content in (bytes(encrypted), (tmp_path / "deep").read_bytes(), b"text"):
        path.write_bytes(content)
        assert identity_in(path) is None


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_checkpoint(tmp_path / "nothing", state(), identity={})


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "c", state(), identity={})
        save_results(tmp_path / "r", {"a": np.arange(3)}, {})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o666 & ~umask}


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "far" / "real")
    for seed in (0, 1):
        save_checkpoint(tmp_path / "c", state(seed), identity={})
        assert (tmp_path / "c").is_symlink() and (tmp_path / "far" / "real").is_file()
    assert bits(load_checkpoint(tmp_path / "c", state(), identity={})) == bits(state(1))


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


def bomb(*names, claim=None):
    """Return an archive of entries that inflate from a few kilobytes to 300 MB together."""
    buffer, size = io.BytesIO(), 300 // len(names)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            header = {"descr": "<f8", "fortran_order": False, "shape": claim or (125_000 * size,)}
            with file.open(name, "w") as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for _ in range(1 if claim else size):
                    entry.write(bytes(10**6))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("npz", "manifest", "said"),
    [
        (None, "{", "cannot be read"),
        (None, "[1]", "the manifest is a list"),
        (None, "3", "the manifest is a int"),
        (None, "[" * 10_000, "cannot be read"),
        (b"PK text", "{}", "cannot be read"),
        (bomb("a.npy"), "{}", "a.npy inflates from"),
        (bomb("a.npy", "b.npy", "c.npy"), "{}", "its entries inflate from"),
        (bomb("a.npy", claim=(10**12,)), "{}", "a.npy does not have the size that it claims"),
        (bomb("a.npy", claim=(-125_000,)), "{}", "a.npy does not have the size that it claims"),
        ("pickle", "{}", "a.npy holds Python objects"),
    ],
)
def test_damaged_and_malicious_results_are_one_line(tmp_path, monkeypatch, npz, manifest, said):
    monkeypatch.chdir(tmp_path)
    save_results("r", {"a": np.arange(3)}, {})
    if npz == "pickle":
        np.savez("r.npz", a=np.array([Opens()], dtype=object))
    elif npz is not None:
        (tmp_path / "r.npz").write_bytes(npz)
    (tmp_path / "r.json").write_text(manifest)
    tracemalloc.start()
    with pytest.raises(ValueError, match="load_results: ") as caught:
        load_results("r")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert peak < 2**24 and sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.npz"]


# --- atomicity -------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["fsync", "replace", "open"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, broken, error
):
    path = tmp_path / "c"
    save_checkpoint(path, state(), identity={"run": "abc"})
    before = path.read_bytes()

    def fail(*_, **__):
        raise error("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(error):
            save_checkpoint(path, state(1), identity={"run": "abc"})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
