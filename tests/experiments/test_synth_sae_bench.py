"""The benchmark's twin, in a short version: what its table says holds of its numbers."""

import dataclasses

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import synth_sae_bench as bench

pytestmark = pytest.mark.full_effort  # with the least it takes twice as long
# The short version, with two budgets.
CONFIG = dataclasses.replace(bench.QUICK, num_samples=(5_000, 10_000), num_scored=512)
WAYS = ("OMP", "OMP, leave-one-out, refit", "lasso", "lasso, refit", "lasso, leave-one-out, refit")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    bench.main(CONFIG, out)
    return out


@pytest.fixture(scope="module")
def rows(quick):
    arrays, manifest = sc.io.load_results(quick / bench.NAME)
    numbers = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
    return dict(zip(manifest["cases"], numbers, strict=True))


GROUPS = ("in groups 0 5000", "in groups 0 10000")
LEARNED = ("learned 0 5000", "learned 0 10000")
TRAINED = ("Matryoshka 0 5000", "Matryoshka 0 10000", "refined 0 5000", "refined 0 10000")


def test_every_dictionary_is_read_in_every_way(rows):
    expected = {
        f"{name}: {way}" for name in ("true atoms 0", *GROUPS, *LEARNED, *TRAINED) for way in WAYS
    }
    own = ("own encoder", "own encoder, refit", "own encoder, leave-one-out, refit")
    assert set(rows) == expected | {f"{name}: {way}" for name in TRAINED for way in own}


def test_codes_are_compared_at_one_number_of_active_ones(rows):
    for label, row in rows.items():
        assert abs(row["l0"] - CONFIG.num_active) < 1.5, label
        assert row["num_samples"] == 512


def test_true_atoms_are_the_ceiling_and_refinement_raises_it(rows):
    for way in WAYS:
        for name in (*GROUPS, *LEARNED, *TRAINED):
            assert rows[f"true atoms 0: {way}"]["f1"] > rows[f"{name}: {way}"]["f1"]
        assert rows[f"true atoms 0: {way}"]["mcc"] > 0.999
    plain, refined = (rows[f"true atoms 0: {way}"] for way in WAYS[:2])
    assert refined["f1"] > plain["f1"]
    lasso, fitted = (rows[f"true atoms 0: {way}"] for way in WAYS[2:4])
    assert fitted["explained_variance"] > lasso["explained_variance"] + 0.05


def test_learning_by_turns_needs_fewer_samples_than_an_autoencoder(rows):
    for learned in (GROUPS, LEARNED):
        few, many = (rows[f"{name}: {WAYS[-1]}"]["f1"] for name in learned)
        assert many > few > rows[f"{TRAINED[1]}: {WAYS[-1]}"]["f1"] + 0.1


def test_training_and_inference_are_charged_apart(rows):
    n, m = CONFIG.width, CONFIG.num_measurements
    own = rows[f"{TRAINED[1]}: own encoder"]
    assert 2 * m * n <= own["flops"] < 2.2 * m * n + 4 * n
    step = rows[f"{TRAINED[3]}: own encoder"]["flops"]  # decodes, and encodes what is left
    assert 6 * m * n <= step < 6.2 * m * n + 8 * n
    for name in (GROUPS, LEARNED, TRAINED[:2], TRAINED[2:]):  # what went on too
        half, whole = (rows[f"{each}: OMP"]["training_flops"] for each in name)
        np.testing.assert_allclose(whole, 2 * half, rtol=0.03)
        assert whole > 4 * m * n * 10_000
    assert rows["true atoms 0: OMP"]["training_flops"] == 0
    assert rows["true atoms 0: OMP"]["once"] >= 2 * m * n * n  # the Gram matrix
    assert rows["true atoms 0: lasso"]["flops"] > 3 * 2 * m * n  # before, and after each round


def test_more_samples_go_on_from_fewer_as_if_these_had_not_been(tmp_path):
    """Eleven batches are five updates of two, and one that waits for the larger budget."""
    few, many = 11 * 256, 16 * 256
    small = dataclasses.replace(CONFIG, groups_samples=10 * 256, num_samples=(few, many))
    model = bench.twin(small)
    whole = [bench.trained_on(small, "in groups", budget) for budget in (few, many)]
    assert whole == [10 * 256, many]
    found = []
    for place, budgets in (("both", (few, many)), ("one", (many,))):
        config = dataclasses.replace(small, num_samples=budgets)
        with sc.io.Run(tmp_path / place, {}, name="test") as run:
            found += [bench.train("in groups", config, model, 0, count, run) for count in budgets]
    np.testing.assert_array_equal(found[1].dictionary, found[2].dictionary)
    assert found[1].flops == found[2].flops > found[0].flops
    assert np.max(np.abs(found[1].dictionary - found[0].dictionary)) > 0.01
    config = dataclasses.replace(small, groups_batch=300)
    with pytest.raises(ValueError, match=r"groups_batch is 300; a multiple of batch_size \(256\)"):
        bench.train("in groups", config, model, 0, few, run)


def test_the_table_says_twin_version_and_seeds(quick):
    text = (quick / f"{bench.NAME}.txt").read_text()
    for said in ("twin, version 2", "scored on 512 samples", "seeds [0]", "  10,000  "):
        assert said in text
    assert (quick / f"{bench.NAME}.png").stat().st_size > 10_000


def test_a_sample_without_room_is_no_sample(quick):
    config = CONFIG
    model = bench.twin(config)
    narrow = dataclasses.replace(config, max_active=12)
    with pytest.raises(RuntimeError, match="found no slot of 12"):
        next(bench.samples(narrow, model, bench.SCORED, 256))
    one, again = (next(bench.samples(config, model, bench.SCORED, 256)) for _ in range(2))
    np.testing.assert_array_equal(one.signals, again.signals)
    other = next(bench.samples(config, model, bench.CHOICE, 256))
    assert not np.allclose(one.signals, other.signals)
