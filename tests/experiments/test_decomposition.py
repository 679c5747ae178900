"""The decomposition's short version, its budgets and its arithmetic."""

import json

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import crossing, decomposition

SAE = "TopK SAE"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    decomposition.main(decomposition.QUICK, out)
    return out


@pytest.fixture(scope="module")
def scores(quick):
    return sc.io.load_results(quick / "decomposition")[0]


def test_every_cell_is_there(quick, scores):
    flops = json.loads((quick / "decomposition.json").read_text())["inference_flops"]
    for name in flops:
        assert scores[name].shape == (3, 2)  # true, alternating minimization, SAE; two data sets
        assert (scores[name] > 0.3).all()
    assert scores["own"].shape == scores["own_true"].shape == (1, 2)
    text = (quick / "decomposition.txt").read_text()
    for words in ("alternating minimization", "all supports x10", "true atoms alone", SAE):
        assert words in text


def test_facts_that_a_short_version_shows(scores):
    """With the true atoms more inference is better; with the SAE's it hardly is."""
    true, sae = 0, 2
    assert (scores["all supports x10"][true] > 0.999).all()
    assert (scores["FISTA x10"][true] > scores["FISTA"][true]).all()
    assert (scores["FISTA"][true] > scores["one layer"][true] + 0.1).all()
    assert (scores["FISTA"][true] > scores["FISTA"][sae]).all()
    np.testing.assert_allclose(scores["dictionary_mcc"][true], 1, atol=1e-5)
    np.testing.assert_allclose(scores["l0"], 3, atol=0.05)
    assert (scores["own_true"] > 0.6).all()


def test_budgets_hold_and_are_used():
    ways = crossing.plan(decomposition.Config())
    flops = crossing.inference_flops(ways)
    # a FISTA step is 4MN + M + 7N per signal, and 9 and the step size for all of them
    assert 25 * 632 <= ways.middle < 25 * 632 + 16
    assert ways.large == 10 * ways.middle
    for name, value in flops.items():
        assert value <= (ways.large if name.endswith("x10") else ways.middle), name
    for name in ("MLP", "LISTA", "SAE + FISTA"):
        assert flops[name] > ways.middle - 700, name
    for name in ("FISTA x10", "LISTA + FISTA x10"):
        assert flops[name] > ways.large - 700, name
    assert flops["one layer"] == 2 * 8 * 16 + 2 * 16


def test_largest():
    assert crossing.largest(lambda n: 3 + 5 * n, 23) == 4
    assert crossing.largest(lambda n: 3 + 5 * n, 22.9) == 3


def test_parts_add_up():
    rng = np.random.default_rng(0)
    scores = {"own": rng.random((1, 4)), "own_true": rng.random((1, 4)), "S": rng.random((3, 4))}
    gap, solving, atoms, both, dictionary, inference = decomposition.split((SAE,), scores, "S")[SAE]
    np.testing.assert_allclose(gap, scores["S"][0] - scores["own"][0])
    np.testing.assert_allclose(solving + atoms + both, gap)
    np.testing.assert_allclose(dictionary + inference, gap)
    # each part is the average over the two orders in which the two can be replaced
    first = scores["own_true"][0] - scores["own"][0]
    last = scores["S"][0] - scores["S"][2]
    np.testing.assert_allclose(dictionary, (first + last) / 2)


def test_settings_of_an_sae_are_chosen_without_truth():
    config = decomposition.Config(tuning_seeds=(401,), rates=(1e-5, 1e-2))
    tuning = crossing.load(config.tuning_seeds)
    blind = tuning._replace(train_codes=None, test_codes=None, test_signals=None)
    penalty, rate = crossing.choose_sae(SAE, blind, 3e8, config)
    assert (penalty, rate) == (0.0, 1e-2)  # the other hardly learns
