"""SAELens's own evaluator as oracle, where it is installed (the ``bench`` extra).

It counts in float32 (exact below 16.8 million samples), divides counts and averages F1 over latents
in float32, takes cosines in float32, adds norms and squares in float32 within a batch and in double
precision over batches; the variance is the mean square minus the square of the mean.
"""

import numpy as np
import pytest

from sparsecode_jax import SparseCodes, metrics

torch = pytest.importorskip("torch", reason="PyTorch is in the bench extra: make bench installs it")
theirs = pytest.importorskip("sae_lens.synthetic", reason="SAELens is in the bench extra")

S, M, N = 700, 24, 60


class Recorded:
    """An autoencoder, and a generator of true codes, that give what they were given, in order."""

    def __init__(self, dictionary, bias, codes, true_codes):
        self.W_dec, self.bias = torch.tensor(dictionary), torch.tensor(bias)
        self.codes, self.true_codes, self.encoded, self.sampled = codes, true_codes, 0, 0

    def eval(self):
        pass

    def sample(self, size):
        self.sampled += size
        return torch.tensor(self.true_codes[self.sampled - size : self.sampled])

    def encode(self, signals):
        self.encoded += len(signals)
        return torch.tensor(self.codes[self.encoded - len(signals) : self.encoded])

    def decode(self, codes):
        return codes @ self.W_dec + self.bias


def draw(latents, seed):
    """Return true dictionary, dictionary, true codes, codes: signed, with dead latents."""
    rng = np.random.default_rng(seed)
    true_dictionary = rng.normal(size=(N, M))
    nearest = rng.integers(N, size=latents)
    dictionary = true_dictionary[nearest] * rng.uniform(-2, 2, (latents, 1))
    dictionary += 0.3 * rng.normal(size=dictionary.shape)
    true_codes = (rng.random((S, N)) < 0.1) * rng.uniform(0.2, 3, (S, N))
    codes = true_codes[:, nearest] * (rng.random((S, latents)) < 0.8)
    codes += (rng.random((S, latents)) < 0.03) * rng.normal(size=(S, latents))
    codes[:, :5] = 0
    true_codes[17] = 0
    arrays = true_dictionary, dictionary, true_codes, codes
    return tuple(x.astype(np.float32) for x in arrays)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("batch_size", [None, 128])
@pytest.mark.parametrize("latents", [40, 60, 90])
def test_every_score_is_that_of_saelens(latents, batch_size, sparse):
    true_dictionary, dictionary, true_codes, codes = draw(latents, latents)
    bias = np.linspace(-0.5, 0.5, M, dtype=np.float32)
    features = theirs.FeatureDictionary(N, M, bias=True, initializer=None, seed=0)
    features.feature_vectors.data = torch.tensor(true_dictionary)
    model = Recorded(dictionary, bias, codes, true_codes)
    expected = theirs.eval_sae_on_synthetic_data(
        model, features, model, num_samples=S, batch_size=batch_size
    )
    with torch.no_grad():
        signals = features(torch.tensor(true_codes)).numpy()
        reconstruction = model.decode(torch.tensor(codes)).numpy()

    def batches(size=100):
        for start in range(0, S, size):
            parts = (x[start : start + size] for x in (signals, true_codes, codes, reconstruction))
            x, z, found, y = parts
            if sparse:
                z, found = SparseCodes.from_dense(z), SparseCodes.from_dense(found)
            yield x, z, found, y

    named = {"true_dictionary": true_dictionary, "dictionary": dictionary}
    scores = metrics.score_features(batches(), **named)
    for ours, other in (
        (scores.f1.mean(), expected.classification.f1_score),
        (scores.precision.mean(), expected.classification.precision),
        (scores.recall.mean(), expected.classification.recall),
        (scores.mcc, expected.mcc),
        (scores.uniqueness, expected.uniqueness),
        (scores.explained_variance, expected.explained_variance),
        (scores.l0, expected.sae_l0),
        (scores.true_l0, expected.true_l0),
        (scores.dead_fraction * latents, expected.dead_latents),
        (scores.shrinkage, expected.shrinkage),
        (metrics.latent_f1(true_codes, codes, **named).mean(), expected.classification.f1_score),
        (metrics.matched_dictionary_mcc(true_dictionary, dictionary), expected.mcc),
        (metrics.uniqueness(true_dictionary, dictionary), expected.uniqueness),
        (metrics.r2(signals, reconstruction), expected.explained_variance),
        (metrics.shrinkage(signals, reconstruction), expected.shrinkage),
        (metrics.l0(codes), expected.sae_l0),
        (metrics.dead_fraction(codes) * latents, expected.dead_latents),
    ):
        assert float(ours) == pytest.approx(other, abs=1e-6, rel=1e-6)
    assert expected.dead_latents >= 5 and 0.3 < expected.mcc < 1 and expected.uniqueness < 1
    assert 0.3 < expected.classification.f1_score < 0.9
