"""What theory says of linear autoencoders and near starts, against brute force."""

import numpy as np
import pytest
import scipy.linalg

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


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_fast_hadamard_transform_against_the_matrix(size):
    values = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    found = theory.hadamard_transform(values)
    assert found.dtype == np.float32
    expected = values @ scipy.linalg.hadamard(size) / size**0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("power", [0.2, 0.4])
def test_supports_found_are_those_of_weights_that_are_worst_for_each_signal(power):
    """Dense: rows lean away from the signal at active atoms, towards it at the others."""
    size, margin, num_signals = 512, 0.25, 40
    atoms, rng = theory.spikes_and_waves(size // 2), np.random.default_rng(7)
    num_active, distance = round(size**power), size ** -(power + margin)
    coherence = sc.dictionaries.coherence(atoms)
    found = np.zeros(2, int)
    for _ in range(num_signals):
        codes = np.zeros(size)
        support = rng.choice(size, num_active, replace=False)
        codes[support] = rng.uniform(1, 2, num_active)
        signal = codes @ atoms
        leaning = np.where(codes > 0, -distance, distance)
        latents = (atoms + np.outer(leaning, signal / np.linalg.norm(signal))) @ signal
        bias = 2 * num_active * 1.5 * (coherence + distance)
        found[0] += np.array_equal(np.maximum(latents - bias, 0) > 0, codes > 0)
        found[1] += {*np.argsort(latents)[-num_active:]} == {*support}
    assert found.tolist() == theory.supports_found(size, power, margin, num_signals, 7).tolist()
    assert 0 < found[0 if power < 0.3 else 1] < num_signals  # it could be more and less


def test_supports_are_found_for_certain_from_one_size_on_if_and_only_if_p_is_below_a_half():
    start = theory.certain_from(0.2, 0.25)
    assert theory.supports_found(2**start, 0.2, 0.25, 30, 0)[0] == 30
    for size, expected in ((2**start, True), (2 ** (start - 1), False)):
        distance = size**-0.45
        found = theory.recovers((2 / size) ** 0.5, round(size**0.2), distance, 1.0, 2.0)
        assert found is expected
    # 4 K m (mu + delta) is 6 (h^-.05 √2 + h^-.25) at p = .45: below 1 where h^.05 > 6 √2
    assert theory.certain_from(0.45, 0.25) == np.ceil(np.log2(6 * 2**0.5) / 0.05)
    for power in (0.5, 0.6):
        assert theory.certain_from(power, 0.25) is None
        for i in (8, 11, 14):
            assert not theory.supports_found(2**i, power, 0.25, 20, 0)[0]
        assert not theory.supports_found(2**14, power, 0.25, 20, 0)[1]


def test_the_short_version_writes_results_and_tables(tmp_path):
    theory.main(theory.QUICK, tmp_path)
    arrays, _ = sc.io.load_results(tmp_path / theory.NAME)
    assert arrays["linear"].shape == (1, 3, 2, 5) and arrays["near"].shape == (4, 1, 9)
    with_decay = arrays["linear"][:, 1:]
    assert np.abs(with_decay[..., 0]).max() < 1e-9 and with_decay[..., 1].max() < 1e-4
    assert (arrays["near"][:2, 0, -1] < 0.05).all() and (arrays["near"][2:, 0, -1] > 1).all()
    assert arrays["supports"].shape == (3, 2, 2)
    text = (tmp_path / f"{theory.NAME}.txt").read_text()
    assert "1.00 [0.83, 1.00]*" in text and "h = 2^14, n = 20" in text
    assert "1 of 1 diverged" in text and "predicted factor" in text
