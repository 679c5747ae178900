"""Realistic scale in a short version: streams are what they say, and orderings hold."""

import dataclasses

import jax
import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import realistic_scale as scale

PAPER, WIDE = scale.QUICK.sizes


def problem(size, seed=0):
    return scale.Problem(size, seed, scale.atoms_of(size, seed), scale.placed(1))


@pytest.mark.parametrize("size", scale.QUICK.sizes, ids=["paper", "wide"])
def test_streams_are_rebuilt_from_the_key(size):
    one, again, other = (list(problem(size, seed).epochs(2)) for seed in (0, 0, 1))
    assert len(one) == 2 * size.num_batches
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first.signals, second.signals)
        dense = np.asarray(first.codes.dense())
        atoms = np.asarray(scale.atoms_of(size, 0))
        np.testing.assert_allclose(first.signals, dense @ atoms, atol=1e-4)
    epochs = [
        sorted(float(batch.signals[0, 0]) for batch in part)
        for part in (one[: size.num_batches], one[size.num_batches :])
    ]
    assert epochs[0] == epochs[1]  # the same batches, in another order
    assert not np.allclose(one[0].signals, other[0].signals)
    trained = {float(batch.signals[0, 0]) for batch in one}
    assert trained.isdisjoint(float(batch.signals[0, 0]) for batch in problem(size).test())


def test_latents_fire_as_often_as_stated():
    active = np.concatenate([(b.codes.values != 0).sum(axis=1) for b in problem(PAPER).test()])
    assert (active == PAPER.num_active).all()
    for size in (WIDE, scale.WIDE):
        rates = np.asarray(scale.rates_of(size))
        np.testing.assert_allclose(rates.sum(), size.num_active, rtol=1e-4)
        assert rates.max() <= 0.4 + 1e-6 and rates.min() >= 0 and (np.diff(rates) <= 0).all()
    assert rates[0] > 450 * rates[-1] > 0


def test_the_full_version_is_the_papers():
    paper, wide = scale.FULL.sizes
    assert paper.num_batches * paper.batch_size >= 500_000 <= paper.num_tested
    assert (paper.num_epochs, paper.batch_size, paper.num_active) == (100, 1024, 20)
    assert (wide.num_atoms, wide.num_measurements, wide.width) == (16_384, 768, 16_384)


def test_what_is_not_finite_is_counted(monkeypatch):
    one = problem(dataclasses.replace(PAPER, num_scored=2))
    lost = one.test()[0].signals[:3]

    def read(signals):
        codes = sc.sparse_encode(signals, one.atoms, num_active=4)
        bad = (signals[:, None] == lost[None]).all(axis=-1).any(axis=-1)
        return jax.numpy.where(bad[:, None], jax.numpy.nan, codes)

    found = scale.score(one, read, one.atoms)
    assert found["failed"] == 3 and 0.9 < found["pearson"] < 1

    def fail(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(scale, "methods", lambda *_: {"trained": fail})
    row = scale.measure("trained", one, None)
    assert row["failed"] == one.size.num_tested and np.isnan(row["mcc"])
    text = scale.table(one.size, {"trained": [row, row]}, scale.basis(one))
    assert "2 of 2 failed" in text


def test_the_short_version_writes_results_and_tables(tmp_path):
    scale.main(scale.QUICK, tmp_path)
    assert not (tmp_path / "partial").exists()
    arrays, manifest = sc.io.load_results(tmp_path / scale.NAME)
    rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
    rows = dict(zip(manifest["rows"], rows, strict=True))
    for size in scale.QUICK.sizes:
        start = f"N = {size.num_atoms}, seed 0, "
        lasso, omp, learned, sae, own, fista, product = (
            rows[start + label]
            for label in ("true atoms: lasso", "true atoms: OMP", "online: lasso",
                          "TopK SAE: lasso", "TopK SAE: own encoder", "true atoms: FISTA, 10 steps",
                          "true atoms: one product, K largest")
        )  # fmt: skip
        assert lasso["mcc"] > fista["mcc"] > product["mcc"]
        assert omp["mcc"] > learned["mcc"] > sae["mcc"] > sae["chance"]
        assert learned["dictionary"] > sae["dictionary"]
        m, n = size.num_measurements, size.width
        assert 2 * m * n <= own["flops"] <= 2 * m * n + 4 * n
        assert own["samples"] == size.num_seen(size.num_epochs) and own["training"] > 0
        assert lasso["training"] == 0 and all(row["failed"] == 0 for row in rows.values())
    text = (tmp_path / f"{scale.NAME}.txt").read_text()
    for said in ("trained with codes: MLP 32", "Zipf law", "learn_dictionary: OMP", "FLOPs once"):
        assert said in text
