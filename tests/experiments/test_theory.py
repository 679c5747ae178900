"""What theory says of linear autoencoders and near starts, against brute force."""

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import theory


@pytest.fixture(scope="module")
def covariance():
    factor = np.random.default_rng(0).normal(size=(5, 5))
    return factor @ factor.T / 5


@pytest.mark.parametrize("decay", [0.02, 0.3])
def test_the_least_loss_is_least(covariance, decay):
    """The loss of explicit autoencoders, over a grid of their weights, is never below it."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    grid = np.linspace(0, 1, 2001)
    for count in (1, 2, 5):
        each = values[:, None] * (1 - grid**2) ** 2 + 2 * decay * grid**2
        expected = each[:count].min(axis=1).sum() + values[count:].sum()
        assert theory.least_loss(values, count, decay) == pytest.approx(expected, abs=1e-5)
    found = theory.linear_autoencoder(covariance, 2, decay, seed=1)
    rest = np.eye(5) - found.decoder @ found.encoder
    loss = np.trace(rest @ covariance @ rest.T)
    loss += decay * (np.sum(found.encoder**2) + np.sum(found.decoder**2))
    assert found.loss == pytest.approx(loss)
    assert found.loss == pytest.approx(theory.least_loss(values, 2, decay))
    np.testing.assert_allclose(found.encoder, found.decoder.T, atol=1e-5)


def test_without_decay_encoder_and_decoder_differ(covariance):
    found = theory.linear_autoencoder(covariance, 2, 0.0, seed=1)
    assert np.abs(found.encoder - found.decoder.T).max() > 0.05
    assert found.loss == pytest.approx(np.sort(np.linalg.eigvalsh(covariance))[:3].sum())


@pytest.mark.parametrize("rule", ["arora", "nguyen"])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_near_incoherent_atoms_the_distance_shrinks_as_predicted(rule, rate):
    found = theory.near_start(
        np.eye(32), 2, 0.2, rule=rule, rate=rate, num_steps=2, num_samples=4000, seed=0
    )
    assert found[0] == pytest.approx(0.2)
    np.testing.assert_allclose(found[1:] / found[:-1], 1 - rate, atol=0.08)


def test_what_leaves_for_good_is_infinite():
    found = theory.near_start(
        np.ones((4, 2)) / 2**0.5, 2, 0.3, rule="nguyen", rate=0.9, num_steps=9, num_samples=100,
        seed=0,
    )  # fmt: skip
    assert len(found) == 10 and np.isinf(found[-1])


def test_the_short_version_writes_results_and_tables(tmp_path):
    theory.main(theory.QUICK, tmp_path)
    arrays, _ = sc.io.load_results(tmp_path / theory.NAME)
    assert arrays["linear"].shape == (1, 3, 2, 5) and arrays["near"].shape == (4, 1, 9)
    with_decay = arrays["linear"][:, 1:]
    assert np.abs(with_decay[..., 0]).max() < 1e-9 and with_decay[..., 1].max() < 1e-4
    assert (arrays["near"][:2, 0, -1] < 0.05).all() and (arrays["near"][2:, 0, -1] > 1).all()
    text = (tmp_path / f"{theory.NAME}.txt").read_text()
    assert "1 of 1 diverged" in text and "predicted factor" in text
