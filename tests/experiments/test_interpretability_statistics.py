"""The published interpretability scores: what they are, and the short version's table."""

import itertools

import numpy as np

import sparsecode_jax as sc
from experiments import interpretability_statistics as scores


def test_attainable_scores_are_macro_f1_of_few_labels():
    found = set()
    for positive, negative in itertools.product(range(3), repeat=2):
        truth = [True] * positive + [False] * negative
        for said in itertools.product([True, False], repeat=len(truth)):
            f1 = []
            for label in (True, False):
                hits = sum(t == s == label for t, s in zip(truth, said, strict=True))
                wrong = sum(t != s for t, s in zip(truth, said, strict=True))
                f1.append(2 * hits / (2 * hits + wrong) if hits else 0.0)
            found.add(round(sum(f1) / 2, 9))
    np.testing.assert_allclose(scores.attainable(2), sorted(found), atol=1e-9)


def test_the_published_scores():
    published = scores.scores()
    assert {name: len(values) for name, values in published.items()} == {"sae": 200, "mlp": 200}
    np.testing.assert_allclose([v.mean() for v in published.values()], [0.639, 0.686], atol=5e-4)
    impossible = {name: int(np.sum(~scores.is_attainable(v))) for name, v in published.items()}
    assert impossible == {"sae": 147, "mlp": 87}


def test_the_least_detectable_difference_has_the_power():
    found = scores.detectable(0.3, 20)
    assert abs(sc.statistics.power(found, 0.3, 20, num_groups=2) - 0.8) < 1e-6


def test_the_short_version_has_the_published_p_values(tmp_path):
    scores.main(scores.QUICK, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / scores.NAME)
    np.testing.assert_allclose(arrays["tests"][0, :2], [0.041, 0.079], atol=5e-4)
    assert manifest["scores"] == ["all", "attainable"]
    text = (tmp_path / f"{scores.NAME}.txt").read_text()
    assert "147 of the SAE's scores, 87 of the MLP's" in text
    assert "nan" not in text
