"""The equations of shallow autoencoders against samples, finite differences and a training run."""

import numpy as np
import pytest
from scipy.special import erf

from experiments import shallow_autoencoders as shallow

SPIKES = np.asarray([3.0, 1.5, 0.7])


@pytest.fixture(scope="module")
def state():
    draws = np.random.default_rng(1).standard_normal((3, 2, 3)) * 0.6
    return shallow.Overlaps(draws[0], draws[1], draws[2] @ draws[2].T)


def _summed(encoder, decoder, bulk):
    return shallow.errors(shallow.Overlaps(encoder, decoder, bulk), SPIKES).sum()


def test_errors_are_those_of_an_autoencoder_on_samples(state):
    """An encoder that is zero in the bulk has exactly the fields of the limit, at any size."""
    rng, rest, samples = np.random.default_rng(0), 5, 400_000
    in_bulk = np.linalg.cholesky(state.bulk + 1e-12 * np.eye(2)) @ np.eye(2, rest)
    decoder = np.concatenate([state.decoder, in_bulk], axis=1)
    deviations = np.sqrt(np.append(SPIKES, np.full(rest, 1 / rest)))
    signals = deviations * rng.standard_normal((samples, 3 + rest))
    codes = erf(signals[:, :3] @ state.encoder.T / np.sqrt(2))
    squares = (signals - codes @ decoder) ** 2
    by_direction = np.append(squares[:, :3].mean(axis=0), squares[:, 3:].sum(axis=1).mean())
    np.testing.assert_allclose(by_direction, shallow.errors(state, SPIKES), rtol=0.01)


def _gradient(state, place):
    """Differentiate the summed errors by one field, by central differences."""
    found = np.zeros_like(state[place])
    for where in np.ndindex(found.shape):
        ends = []
        for sign in (1, -1):
            moved = [field.copy() for field in state]
            moved[place][where] += sign * 1e-5
            ends.append(_summed(*moved))
        found[where] = (ends[0] - ends[1]) / 2e-5
    return found


def test_the_equations_descend_the_error(state):
    by_encoder, by_decoder, by_bulk = (-_gradient(state, place) / 2 for place in range(3))
    moved = shallow.velocity(state, SPIKES, tied=False)
    np.testing.assert_allclose(moved.encoder, by_encoder, atol=1e-8)
    np.testing.assert_allclose(moved.decoder, by_decoder, atol=1e-8)
    slope = 2 * by_bulk  # of T = V V', whose rows of V follow half the gradient by V
    np.testing.assert_allclose(moved.bulk, slope @ state.bulk + state.bulk @ slope, atol=1e-8)
    tied = shallow.velocity(state, SPIKES, tied=True)
    np.testing.assert_allclose(tied.encoder, by_encoder + by_decoder, atol=1e-8)
    np.testing.assert_allclose(tied.decoder, tied.encoder)


@pytest.mark.parametrize("tied", [False, True])
def test_a_training_run_follows_the_equations(tied):
    found = shallow.numbers((2000,), (0,), 3.0)
    predicted, (simulated,) = found["predicted"][int(tied)], found["simulated"][int(tied), 0]
    off = simulated.sum(axis=-1) - predicted.sum(axis=-1)
    assert np.abs(off).max() < 0.3  # the error falls from 7.7 to 3.6 meanwhile
    assert predicted[0].sum() > 7 and predicted[-1].sum() < 5


def test_principal_components_come_one_after_the_other_and_tied_weights_stay_above_them():
    times = np.linspace(0, 20, 101)
    principal = 1 + shallow.SPIKES[shallow.NUM_LATENTS :].sum()
    for tied, late in ((False, (0.0, 0.02)), (True, (1.0, 1.5))):
        curves = shallow.predict(
            shallow.start(tied=tied), shallow.SPIKES, np.append(times, shallow.LATE), tied=tied
        )
        by_direction = np.stack([
            shallow.errors(shallow.Overlaps(*each), shallow.SPIKES)
            for each in zip(*curves, strict=True)
        ])  # fmt: skip
        first, second = (np.argmax(by_direction[:, p] < shallow.SPIKES[p] / 2) for p in range(2))
        assert 0 < first < second
        assert by_direction[:-1, 2].min() > 0.95 * shallow.SPIKES[2]
        assert late[0] < by_direction[-1].sum() - principal < late[1]
