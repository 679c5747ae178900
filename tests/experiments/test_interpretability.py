"""The protocol of detection and fuzzing, with scripted answerers whose scores are known."""

import re

import numpy as np
import pytest
import scipy.sparse

from experiments import feature_report, interpretability
from sparsecode_jax import activations

WORDS = [f" w{i}" for i in range(40)]
RULES = {0: {3, 4}, 1: {7}}  # tokens on which a latent is active


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    def blocks(skip):
        for number in range(skip, 30):
            draw = np.random.default_rng(number)
            tokens = draw.integers(0, len(WORDS), 64)
            signals = draw.normal(size=(64, 4))
            yield activations.Block(signals, tokens, np.arange(64), np.full(64, number))

    folder = tmp_path_factory.mktemp("store")
    store = activations.write(folder, blocks, identity={}, dtype="float32", progress=None)
    rng, dense = np.random.default_rng(0), np.zeros((len(store.tokens), 2))
    for latent, tokens in RULES.items():
        active = np.isin(store.tokens, list(tokens))
        dense[active, latent] = rng.random(active.sum()) + 0.1
    found = scipy.sparse.csc_array(dense)
    described = feature_report.features([0, 1], found, store, WORDS, len(dense))
    rows = np.arange(len(dense))
    return described, feature_report.without([0, 1], found, store, WORDS, rows)


def listed(question):
    return re.findall(r"^(\d+)\. (.*)$", question, re.MULTILINE)


def knowing(question):
    """Answer by the rule: name the marked words, then say where they are, or are marked."""
    if question.startswith("Each text"):
        return " ".join(sorted(set(re.findall(r"w\d+", " ".join(
            re.findall(r"<<(.*?)>>", question))))))  # fmt: skip
    words = set(question.split("\n")[0].partition(": ")[2].split())
    right = []
    for number, text in listed(question):
        marks = set(re.findall(r"w\d+", " ".join(re.findall(r"<<(.*?)>>", text))))
        if marks <= words if "<<" in text else words & set(text.split()):
            right.append(number)
    return ", ".join(right) or "none"


def test_who_knows_the_rule_is_always_right(given):
    judged = interpretability.judge(knowing, *given, seed=0)
    assert [one.latent for one in judged] == [0, 1]
    assert judged[0].explanation == "w3 w4" and judged[1].explanation == "w7"
    for one in judged:
        assert one.detection == one.fuzzing == 1
        assert set(one.found[np.isfinite(one.found)]) == {1.0}


@pytest.mark.parametrize("answer", ["none", ", ".join(map(str, range(1, 30)))])
def test_one_answer_for_all_is_chance(given, answer):
    def same(question):
        count = len(listed(question))
        return ", ".join(a for a in answer.split(", ") if not a.isdigit() or int(a) <= count)

    for one in interpretability.judge(same, *given, seed=0):
        assert one.detection == one.fuzzing == 0.5


def test_who_guesses_is_at_chance(given):
    rng = np.random.default_rng(0)

    def guess(question):
        return ", ".join(n for n, _ in listed(question) if rng.random() < 0.5) or "none"

    scores = [
        (one.detection, one.fuzzing)
        for seed in range(30)
        for one in interpretability.judge(guess, *given, seed=seed)
    ]
    np.testing.assert_allclose(np.mean(scores, axis=0), 0.5, atol=0.05)


def test_answers_that_cannot_be_read_are_counted(given):
    judged = interpretability.judge(lambda _: "I could not say.", *given, seed=0)
    assert all(np.isnan([one.detection, one.fuzzing]).all() for one in judged)
    known = interpretability.judge(knowing, *given, seed=0)
    text = interpretability.report({"a": [*known, judged[0]]})
    assert "2 of 6 answers unreadable" in text and "detection 1.000" in text
    assert "fuzzing 1.000 (1.000 to 1.000) of 2" in text
    assert interpretability.parsed(" 2, 5 and 3.\n", 5) == [2, 3, 5]
    assert interpretability.parsed("In texts 2 and 5", 5) is None
    assert interpretability.parsed("2, 6", 5) is None
    assert interpretability.parsed("None.", 5) == []
    assert interpretability.parsed("None of the 5 texts.", 5) is None


def test_what_explains_is_not_asked_for(given):
    described, _ = given
    tops = [{x.sequence for x in one.top} for one in described]
    texts = [
        {interpretability.plain(x) for x in one.deciles if x.sequence in top}
        for one, top in zip(described, tops, strict=True)
    ]
    asked = []

    def note(question):
        asked.extend(text for _, text in listed(question) if "<<" not in text)
        return "none"

    interpretability.judge(note, *given, seed=0)
    assert any(texts) and asked and not set.union(*texts) & set(asked)


def test_no_text_is_marked_rightly_and_wrongly_in_one_question(given):
    def note(question):
        texts = [re.sub("<<|>>", "", text) for _, text in listed(question) if "<<" in text]
        assert len(texts) == len(set(texts))
        return "none"

    interpretability.judge(note, *given, seed=0)


def test_dictionaries_are_compared(given):
    good = interpretability.judge(knowing, *given, seed=0)
    bad = interpretability.judge(lambda _: "none", *given, seed=0)
    text = interpretability.report({"good": good * 6, "bad": bad * 6})
    line = next(line for line in text.split("\n") if line.startswith("good - bad, detection"))
    assert "+0.500" in line
    assert "detected by tenth of the values: 1.00" in text


def test_latents_without_a_text_are_refused(given):
    described, quiet = given
    with pytest.raises(ValueError, match=r"^judge: latent 0 has 0 texts with it, besides"):
        interpretability.judge(knowing, [described[0]._replace(deciles=())], quiet[:1], seed=0)
    with pytest.raises(ValueError, match=r"and 0 without; at least 2 and 1 are expected"):
        interpretability.judge(knowing, described[:1], [[]], seed=0)


def test_marks_join_neighbors():
    context = feature_report.Context((" a", " b", " c", " d"), (0.0, 1.0, 2.0, 0.0), 2)
    assert interpretability.marked(context) == "a<< b c>> d"
    assert interpretability.plain(context) == "a b c d"
