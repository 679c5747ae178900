"""Stores of activations: nothing lost or repeated, outliers counted, documents on one side."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import sparsecode_jax as sc
from sparsecode_jax import activations

M = 6


def blocks(skip=0, count=10, size=7, width=M):
    """Blocks whose rows say which token they are of."""
    for number in range(skip, count):
        tokens = np.arange(number * size, (number + 1) * size)
        rng = np.random.default_rng(number)
        signals = rng.normal(size=(size, width)).astype(np.float32)
        signals[:, 0] = tokens
        yield activations.Block(signals, tokens, tokens % 5, tokens // 10)


def written(folder, **options):
    options = {"identity": {"model": "none"}, "shard_size": 20, "progress": None, **options}
    return activations.write(folder, blocks, **options)


def test_what_is_written_is_read(tmp_path):
    store = written(tmp_path)
    assert store.shape == (70, M)
    assert [len(shard) for shard in store.shards] == [21, 21, 21, 7]
    whole = np.concatenate([block.signals for block in blocks()])
    rows = np.random.default_rng(0).integers(0, 70, 200)
    np.testing.assert_array_equal(store.rows(rows), whole.astype(np.float16)[rows])
    np.testing.assert_array_equal(store.rows(slice(None)), whole.astype(np.float16))
    np.testing.assert_array_equal(store.tokens, np.arange(70))
    np.testing.assert_array_equal(store.positions, np.arange(70) % 5)
    np.testing.assert_array_equal(store.documents, np.arange(70) // 10)
    np.testing.assert_allclose(store.norms, np.linalg.norm(whole, axis=1), rtol=1e-6)
    assert written(tmp_path, dtype="float16").shape == (70, M)  # the finished one
    activations.verify(store)


def test_float32_keeps_every_bit(tmp_path):
    store = written(tmp_path, dtype="float32")
    whole = np.concatenate([block.signals for block in blocks()])
    np.testing.assert_array_equal(store.rows(slice(None)), whole)


@pytest.mark.parametrize("limit", [1, 20, 21, 34, 70])
def test_max_tokens_is_exact(tmp_path, limit):
    store = written(tmp_path, max_tokens=limit)
    np.testing.assert_array_equal(store.tokens, np.arange(limit))


@pytest.mark.parametrize("stop", range(10))
def test_an_interrupted_store_goes_on(tmp_path, stop):
    asked = []

    def broken(skip):
        asked.append(skip)
        for number, block in enumerate(blocks(skip), skip):
            if number == stop and len(asked) == 1:
                raise KeyboardInterrupt
            yield block

    options = {"identity": {"model": "none"}, "shard_size": 20, "progress": None}
    with pytest.raises(KeyboardInterrupt):
        activations.write(tmp_path / "a", broken, **options)
    with pytest.raises(FileNotFoundError, match="not finished|has no manifest"):
        activations.load(tmp_path / "a")
    found = activations.write(tmp_path / "a", broken, **options)
    whole = written(tmp_path / "b")
    assert asked[1] == stop // 3 * 3  # blocks of whole shards are not run again
    assert found.manifest == whole.manifest  # and with it the checksum of every file
    assert not [path for path in (tmp_path / "a").iterdir() if path.suffix in (".new", ".lock")]


KILLED = """
import sys, time, numpy as np
from sparsecode_jax import activations
def blocks(skip):
    for i in range(skip, 40):
        time.sleep(0.02)
        tokens = np.arange(i * 7, i * 7 + 7)
        signals = np.tile(tokens[:, None].astype(np.float32), (1, 6))
        yield activations.Block(signals, tokens, tokens % 5, tokens // 10)
print("begun", flush=True)
activations.write(sys.argv[1], blocks, identity={}, shard_size=20, progress=None)
"""


def test_a_killed_process_loses_and_repeats_no_token(tmp_path):
    for wait in (0.15, 0.3, 0.45):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, capture_output=True)
    store = activations.load(tmp_path)
    np.testing.assert_array_equal(store.tokens, np.arange(280))
    np.testing.assert_array_equal(store.rows(slice(None))[:, 0], np.arange(280))


def test_batches_are_a_permutation_of_each_epoch(tmp_path):
    store = written(tmp_path)
    rows = np.arange(3, 70)
    found = list(store.batches(rows, batch_size=10, num_epochs=2))
    assert [batch.shape for batch in found] == [(10, M)] * 12
    epochs = np.split(np.concatenate(found)[:, 0].astype(int), 2)
    for epoch in epochs:
        assert len(set(epoch)) == 60 and set(epoch) <= set(rows)
    assert list(epochs[0]) != list(epochs[1])
    again = list(store.batches(rows, batch_size=10, num_epochs=2))
    np.testing.assert_array_equal(np.stack(found), np.stack(again))
    ordered = np.concatenate(list(store.batches(rows, batch_size=10, seed=None)))[:, 0]
    np.testing.assert_array_equal(ordered, rows[:60])


def test_a_small_buffer_gives_the_same_batches(tmp_path, monkeypatch):
    store = written(tmp_path)
    whole = list(store.batches(np.arange(70), batch_size=8))
    monkeypatch.setattr(sys.modules["sparsecode_jax.activations.store"], "_BUFFER", 16)
    np.testing.assert_array_equal(whole, list(store.batches(np.arange(70), batch_size=8)))


def test_a_store_is_a_stream_of_fit_and_of_the_online_learner(tmp_path):
    store = written(tmp_path)
    encoder = sc.encoders.top_k(M, 8, num_active=2)
    stream = store.batches(np.arange(70), batch_size=10, num_epochs=None)
    found = sc.training.fit(
        jax.random.key(0), encoder, stream, num_atoms=8, num_steps=9, progress=None
    )
    assert found.params.dictionary.shape == (8, M)
    learned = sc.dictionary_learning.learn_dictionary_online(
        jax.random.key(0),
        lambda epoch: store.batches(np.arange(70), batch_size=10, seed=epoch),
        num_atoms=8, num_epochs=2, progress=None,
    )  # fmt: skip
    assert learned.num_signals == 140


def test_outliers_are_left_out_and_counted(tmp_path):
    def some(skip):
        rng = np.random.default_rng(0)
        signals = rng.normal(size=(1000, M)).astype(np.float32)
        signals[::100] *= 1000  # the first position of each document
        signals[55] *= 50
        places = np.arange(1000)
        yield activations.Block(signals, places, places % 100, places // 100)

    store = activations.write(tmp_path, some, identity={}, dtype="float32", progress=None)
    norms = np.linalg.norm(store.rows(slice(None)), axis=1)
    found = activations.select(store)
    usual = np.arange(1000) % 100 > 0
    median = np.median(norms[usual])
    np.testing.assert_allclose(found.median_norm, median, rtol=1e-6)
    np.testing.assert_array_equal(found.rows, np.flatnonzero(usual & (norms <= 3 * median)))
    assert 55 not in found.rows
    assert (found.num_early, found.num_outliers) == (10, np.sum(usual & (norms > 3 * median)))
    all_of = activations.select(store, min_position=0, max_norm_ratio=None)
    assert len(all_of.rows) == 1000 and all_of.num_early == all_of.num_outliers == 0
    some_of = activations.select(store, documents=[2, 5])
    assert set(store.documents[some_of.rows]) == {2, 5} and some_of.num_early == 2


def test_documents_are_on_one_side(tmp_path):
    store = written(tmp_path)
    ours, others = activations.split_documents(store, 0.3, seed=1)
    assert len(others) == 2 and not set(ours) & set(others)
    assert sorted([*ours, *others]) == list(range(7))
    assert list(activations.split_documents(store, 0.3, seed=2)[1]) != list(others)


@pytest.mark.parametrize("center", ["mean", "geometric_median", None])
def test_normalization(center):
    rng = np.random.default_rng(0)
    rows = (5 + rng.normal(size=(400, M)) * np.arange(1, M + 1)).astype(np.float32)
    rows[:4] += 1e3
    how = activations.normalization(rows, center=center)
    if center == "mean":
        np.testing.assert_allclose(how.center, rows.mean(0), rtol=1e-5)
    elif center is None:
        np.testing.assert_array_equal(how.center, 0)
    else:
        wide = rows.astype(np.float64)
        best = scipy.optimize.minimize(
            lambda c: np.linalg.norm(wide - c, axis=1).sum(), wide.mean(0), method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000},
        )  # fmt: skip
        np.testing.assert_allclose(how.center, best.x, atol=1e-3)
        assert np.linalg.norm(how.center - 5) < 0.1 * np.linalg.norm(rows.mean(0) - 5)
    done = how.apply(rows)
    assert done.dtype == np.float32
    np.testing.assert_allclose(np.mean(np.square(done, dtype=np.float64)), 1, rtol=1e-5)


ENCODERS = {
    "standard": lambda: sc.encoders.linear(M, 9),
    "topk": lambda: sc.encoders.top_k(M, 9, num_active=3),
    "abstopk": lambda: sc.encoders.abs_top_k(M, 9, num_active=3),
    "jumprelu": lambda: sc.encoders.jump_relu(M, 9, threshold0=0.4),
    "gated": lambda: sc.encoders.gated(M, 9),
}


@pytest.mark.parametrize("is_centered", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_folding_is_normalizing_before_and_after(name, is_centered, tmp_path):
    keys = jax.random.split(jax.random.key(len(name)), 6)
    encoder = ENCODERS[name]()
    if is_centered:
        encoder = sc.encoders.centered(encoder, M)
    params = jax.tree.map(
        lambda x, k=keys[0]: x + 0.3 * jax.random.normal(k, jnp.shape(x)), encoder.init(keys[1])
    )
    bias = jax.random.normal(keys[2], (M,))
    if is_centered:
        params = params._replace(center=bias)
    dictionary = jax.random.normal(keys[3], (9, M))
    sae = sc.io.as_sae(encoder, params, dictionary, bias)
    how = activations.Normalization(np.asarray(10 * jax.random.normal(keys[4], (M,))), 7.5)
    folded = activations.fold(sae, how)
    signals = 20 * jax.random.normal(keys[5], (50, M))
    codes = how.scale * sae.encode(how.apply(signals))
    assert np.mean(np.asarray(codes) != 0) > 0.1
    np.testing.assert_allclose(folded.encode(signals), codes, atol=1e-4)
    expected = how.scale * np.asarray(sae.forward(how.apply(signals))) + how.center
    np.testing.assert_allclose(folded.forward(signals), expected, atol=1e-4)
    sc.io.save_sae(tmp_path, folded)
    np.testing.assert_array_equal(
        sc.io.load_sae(tmp_path).forward(signals), folded.forward(signals)
    )
    assert folded.config["architecture"] == name


def test_a_matching_pursuit_is_folded_with_its_threshold():
    config = {
        "architecture": "matching_pursuit", "d_in": M, "d_sae": 9, "dtype": "float32",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations":
        "none", "residual_threshold": 0.5, "max_iterations": 4, "stop_on_duplicate_support": True,
        "metadata": {},
    }  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {"W_dec": rng.normal(size=(9, M)).astype(np.float32),
               "b_dec": rng.normal(size=M).astype(np.float32)}  # fmt: skip
    tensors["W_dec"] /= np.linalg.norm(tensors["W_dec"], axis=1, keepdims=True)
    sae = sc.io.saes.of_tensors(config, tensors)
    how = activations.Normalization(rng.normal(size=M).astype(np.float32), 3.0)
    signals = rng.normal(size=(60, M)).astype(np.float32) * 5
    codes = activations.fold(sae, how).encode(signals)
    np.testing.assert_allclose(codes, 3 * sae.encode(how.apply(signals)), atol=1e-4)
    assert len(set(np.count_nonzero(codes, axis=1))) > 1  # the threshold stops some earlier


def test_what_cannot_be_folded_is_refused():
    how = activations.Normalization(np.zeros(M, np.float32), 1.0)
    encoder = sc.encoders.linear(M, 9)
    params = encoder.init(jax.random.key(0))
    sae = sc.io.as_sae(encoder, params, params.weight)
    with pytest.raises(TypeError, match=r"^fold: the autoencoder is a dict; a Sae is expected"):
        activations.fold({}, how)
    with pytest.raises(TypeError, match=r"^fold: the normalization is a tuple"):
        activations.fold(sae, (0, 1))
    with pytest.raises(ValueError, match=r"^fold: the center has shape \(5,\); \(6,\) is expected"):
        activations.fold(sae, activations.Normalization(np.zeros(5), 1.0))
    seeing = sc.io.saes.of_tensors(
        {**sae.config, "normalize_activations": "layer_norm"},
        {k: np.asarray(v) for k, v in sae.tensors.items()},
    )
    with pytest.raises(ValueError, match="'layer_norm'; one that takes signals as they are"):
        activations.fold(seeing, how)


# --- bad input -----------------------------------------------------------------------------------


def one(signals, tokens=None, positions=None, documents=None):
    labels = np.arange(len(signals))
    parts = (labels if part is None else part for part in (tokens, positions, documents))
    return lambda skip: iter([activations.Block(signals, *parts)][skip:])


def test_activations_that_cannot_be_kept_are_refused(tmp_path):
    options = {"identity": {}, "progress": None}
    bad = np.ones((4, M), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(
        FloatingPointError,
        match=r"^write: 1 activations are not finite, the first at position 2 of document 2",
    ):
        activations.write(tmp_path / "a", one(bad), **options)
    large = np.ones((4, M), np.float32)
    large[3, 1] = 7e4
    with pytest.raises(FloatingPointError, match=r"up to 7e\+04, more than float16 holds; pass"):
        activations.write(tmp_path / "b", one(large), **options)
    assert activations.write(tmp_path / "b2", one(large), dtype="float32", **options).shape == (
        4,
        M,
    )
    with pytest.raises(ValueError, match=r"^write: dtype is 'int8'; one of float16, float32"):
        activations.write(tmp_path / "c", one(large), dtype="int8", **options)
    with pytest.raises(ValueError, match=r"^write: the blocks hold no token"):
        activations.write(tmp_path / "d", lambda skip: iter(()), **options)
    with pytest.raises(ValueError, match=r"signals of shape \(4, 6\) and labels of shapes"):
        activations.write(tmp_path / "e", one(large, tokens=np.arange(3)), **options)
    with pytest.raises(ValueError, match=r"has 3 measurements and one before it 6; one width"):
        activations.write(
            tmp_path / "f", lambda skip: iter([*blocks(0, 1), *blocks(1, 2, width=3)][skip:]),
            **options,
        )  # fmt: skip


@pytest.mark.parametrize("labels", [[2**32 + 1, 0], [-1, 0], [0.5, 1.5]])
def test_labels_that_would_wrap_are_refused(tmp_path, labels):
    signals = np.ones((2, M), np.float32)
    with pytest.raises(
        ValueError, match=r"^write: the documents of a block are \w+ from .* Number"
    ):
        activations.write(
            tmp_path, one(signals, documents=np.asarray(labels)), identity={}, progress=None
        )


def test_blocks_of_another_width_are_refused_after_a_shard_too(tmp_path):
    with pytest.raises(ValueError, match=r"has 3 measurements and one before it 6; one width"):
        activations.write(
            tmp_path, lambda skip: iter([*blocks(0, 3), *blocks(3, 4, width=3)][skip:]),
            identity={}, shard_size=20, progress=None,
        )  # fmt: skip


def test_another_run_is_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(ValueError, match=r"holds activations of another kind \(model\)"):
        written(tmp_path, identity={"model": "another"})
    with pytest.raises(ValueError, match=r"holds activations of another kind \(max_tokens\)"):
        written(tmp_path, max_tokens=3)
    with pytest.raises(ValueError, match=r"holds activations of another kind \(model\)"):
        written(tmp_path, identity={})
    assert written(tmp_path, shard_size=5).shape == (70, M)  # how it is cut does not matter


def test_an_unfinished_run_of_another_kind_is_refused(tmp_path):
    def stops(skip):
        yield from blocks(0, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        activations.write(tmp_path, stops, identity={"model": "a"}, shard_size=20, progress=None)
    with pytest.raises(ValueError, match=r"^write: .*belongs to another run \(model was a, is b\)"):
        written(tmp_path, identity={"model": "b"})


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    module = sys.modules["sparsecode_jax.activations.store"]
    save, calls = module._save, []

    def full(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return save(*args)

    monkeypatch.setattr(module, "_save", full)
    with pytest.raises(OSError, match="No space left") as error:
        written(tmp_path)
    assert "keeps 42 tokens; the same call goes on from there" in error.value.__notes__[0]
    np.testing.assert_array_equal(written(tmp_path).tokens, np.arange(70))


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "pickle",
        "shape",
        "manifest",
        "deep",
        "sizes",
        "no sizes",
        "sums",
        "missing",
        "inflates",
        "labels",
    ],
)
def test_damaged_stores_are_refused(tmp_path, damage):
    written(tmp_path)
    shard = tmp_path / "shard-00001.npy"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-5])
    elif damage == "pickle":
        np.save(shard, np.asarray([{}, []], object), allow_pickle=True)
    elif damage == "shape":
        np.save(shard, np.zeros((21, M + 1), np.float16))
    elif damage == "manifest":
        (tmp_path / "manifest.json").write_text("[1")
    elif damage == "deep":
        (tmp_path / "manifest.json").write_text("[" * 100_000)
    elif damage == "sizes":
        said = json.loads((tmp_path / "manifest.json").read_text())
        (tmp_path / "manifest.json").write_text(json.dumps({**said, "sizes": 3}))
    elif damage in ("no sizes", "sums"):
        said = json.loads((tmp_path / "manifest.json").read_text())
        changed = {"sizes": []} if damage == "no sizes" else {"sha256": {"shard-00000.npy": 3}}
        (tmp_path / "manifest.json").write_text(json.dumps({**said, **changed}))
    elif damage in ("inflates", "labels"):
        file = tmp_path / "shard-00001-labels.npz"
        with np.load(file) as held:
            labels = {**held, "norms": np.zeros(2**28 if damage == "inflates" else 3, np.int8)}
        np.savez_compressed(file, **labels)
    else:
        (tmp_path / "shard-00002-labels.npz").unlink()
    said = "cannot be read|are expected|no manifest|is expected by the manifest"
    with pytest.raises(ValueError, match=rf"^load: .*({said})") as error:
        activations.load(tmp_path)
    assert ("inflates from" in str(error.value)) == (damage == "inflates")
    assert ("holds labels of shapes {'norms': (3,)}" in str(error.value)) == (damage == "labels")


def test_a_changed_file_is_found(tmp_path):
    store = written(tmp_path)
    path = tmp_path / "shard-00001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^verify: .*shard-00001.npy is not what was written"):
        activations.verify(store)
    sums = json.loads((tmp_path / "manifest.json").read_text())["sha256"]
    first = (tmp_path / "shard-00000.npy").read_bytes()
    assert sums["shard-00000.npy"] == hashlib.sha256(first).hexdigest()


def test_selections_of_nothing_are_refused(tmp_path):
    store = written(tmp_path)
    with pytest.raises(ValueError, match=r"^select: of 70 tokens none is of the documents"):
        activations.select(store, documents=[99])
    with pytest.raises(ValueError, match=r"^select: no token has a norm within 1e-09"):
        activations.select(store, max_norm_ratio=1e-9)
    with pytest.raises(ValueError, match=r"^split_documents: fraction is 1"):
        activations.split_documents(store, 1.0)
    with pytest.raises(IndexError, match=r"^rows: indices from 0 to 70; 0 to 69 are expected"):
        store.rows(np.arange(71))
    with pytest.raises(TypeError, match=r"^rows: the indices are bool of shape \(70,\); integers"):
        store.rows(np.ones(70, bool))
    with pytest.raises(TypeError, match=r"^rows: the indices are int64 of shape \(\); integers"):
        store.rows(5)
    assert store.rows([]).shape == (0, M)
    with pytest.raises(ValueError, match=r"^batches: no rows; at least batch_size"):
        store.batches(np.zeros(0, int), batch_size=1, num_epochs=None)
    with pytest.raises(ValueError, match=r"^batches: batch_size is 71"):
        store.batches(np.arange(70), batch_size=71)


def test_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One\nstill one.\n\n\nTwo.\r\n\r\nThree\n")
    assert activations.read_texts(path) == ["One\nstill one.", "Two.", "Three"]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "One\\u2028more"}\n\n{"text": "Two", "n": 1}\n')
    assert activations.read_texts(lines) == ["One\u2028more", "Two"]
    path.write_bytes("Gr\xfc\xdfe\n\nCaf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^read_texts: line 1 of .* is not UTF-8 \(byte 2\)"):
        activations.read_texts(path)
    lines.write_text('{"text": "One"}\n{"txt": "Two"}\n')
    with pytest.raises(ValueError, match=r'^read_texts: line 2 of .* no JSON object with a "text"'):
        activations.read_texts(lines)
    path.write_text("\n \n")
    with pytest.raises(ValueError, match=r"^read_texts: .* holds no document"):
        activations.read_texts(path)


def test_without_pytorch_the_extra_is_named():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import sparsecode_jax as sc\n"
        "sc.activations.load_model('smollm2')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert 'ImportError: load_model: torch is not installed; language models need the extra lm: ' \
        'pip install "sparsecode_jax[lm]".' in found.stderr  # fmt: skip
