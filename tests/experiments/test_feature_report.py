"""The page on latents: contexts against loops in plain Python, escaping, nothing from elsewhere."""

import html.parser
import types

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import feature_report
from sparsecode_jax import activations

M, N, VOCABULARY = 8, 24, 30
WORDS = [f"w{i}" for i in range(VOCABULARY - 2)] + ["<b>&", "\n"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    def blocks(skip):
        for number in range(skip, 6):
            draw = np.random.default_rng(number)
            signals = draw.normal(size=(60, M))
            positions = np.arange(60) % 20  # three sequences of one document
            tokens = draw.integers(0, VOCABULARY, 60)
            yield activations.Block(signals, tokens, positions, np.full(60, number // 2))

    folder = tmp_path_factory.mktemp("store")
    return activations.write(folder, blocks, identity={}, dtype="float32", progress=None)


@pytest.fixture(scope="module")
def sae():
    encoder = sc.encoders.top_k(M, N, num_active=3)
    params = encoder.init(jax.random.key(0))
    return sc.io.as_sae(encoder, params, sc.dictionaries.normalize(params.weight))


def test_codes_are_those_of_the_encoder_in_batches(store, sae, monkeypatch):
    monkeypatch.setattr(feature_report, "BATCH", 50)
    rows = np.arange(5, 300, 2)
    found = feature_report.codes(sae, store, rows).toarray()
    expected = np.zeros((360, N), np.float32)
    expected[rows] = sae.encode(store.rows(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_features_against_loops(store, sae):
    rows = np.arange(360)
    found = feature_report.codes(sae, store, rows)
    dense = found.toarray()
    latent = int(np.argmax((dense > 0).sum(0)))
    (one,) = feature_report.features([latent], found, store, WORDS, 360)
    column = dense[:, latent]
    active = [i for i in range(360) if column[i] > 0]
    assert one.density == len(active) / 360
    assert one.mean == pytest.approx(np.mean(column[active]))
    assert one.largest == column.max() and one.counts.sum() == len(active)
    best = {}
    for i in active:
        document = store.documents[i]
        if document not in best or column[i] > column[best[document]]:
            best[document] = i
    first = sorted(best.values(), key=lambda i: -column[i])
    for context, row in zip(one.top, first, strict=False):
        start = row - min(store.positions[row], feature_report.AROUND)
        stop = row + 1
        while stop < min(360, row + 13) and store.positions[stop] != 0:
            stop += 1
        assert context.tokens == tuple(WORDS[store.tokens[i]] for i in range(start, stop))
        np.testing.assert_allclose(context.values, column[start:stop], rtol=1e-6)
        assert context.center == row - start
    assert len(one.top) == feature_report.NUM_TOP and len(one.deciles) == 10
    values = [context.values[context.center] for context in one.deciles]
    edges = np.array_split(np.sort(column[active]), 10)
    assert all(part[0] <= value <= part[-1] for value, part in zip(values, edges, strict=True))


def test_a_latent_that_is_never_active_is_said_to_be(store, sae):
    found = feature_report.codes(sae, store, np.arange(2))
    dead = int(np.flatnonzero(np.diff(found.indptr) == 0)[0])
    (one,) = feature_report.features([dead], found, store, WORDS, 2)
    assert one.density == 0 and not one.top and not one.deciles


def test_logits_are_those_of_the_unembedding():
    described = [feature_report.Feature(1, 0.1, 1.0, np.ones(3, int), 1.0, (), ())]
    dictionary = np.eye(4)[:3]
    unembedding = np.random.default_rng(0).normal(size=(VOCABULARY, 4))
    (one,) = feature_report.with_logits(described, dictionary, unembedding, WORDS)
    order = np.argsort(unembedding[:, 1])
    assert one.raised == tuple(WORDS[i] for i in order[::-1][:8])
    assert one.lowered == tuple(WORDS[i] for i in order[:8])


class Checked(html.parser.HTMLParser):
    """Counts elements, and keeps what they would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.counts = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":  # which has no end
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes(store, sae, tmp_path):
    torch_like = types.SimpleNamespace(get_output_embeddings=lambda: None)
    tokenizer = types.SimpleNamespace(decode=lambda ids: WORDS[ids[0]])
    model = activations.LanguageModel("toy", torch_like, tokenizer)
    path = feature_report.write(
        tmp_path / "page.html", sae, store, model, "A <title>", num_latents=5
    )
    text = path.read_text()
    parser = Checked()
    parser.feed(text)
    assert not parser.open and parser.counts["section"] == 5 and "script" not in parser.counts
    assert all(link.startswith("#l") for link in parser.loads)
    assert "&lt;b&gt;&amp;" in text and "<b>&<" not in text and "A &lt;title&gt;" in text
    assert "↵" in text and "http" not in text
