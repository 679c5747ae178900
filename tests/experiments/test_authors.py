"""The authors' data and weights, against values printed in their code and result files."""

import numpy as np
import pytest

from experiments import authors, paper

CHECK = {  # seed: first signal, first atom, first support
    20240625: ([-1.3476, -0.4657, -0.3419], [0.3542, -0.3845, -0.6153], [9, 11, 13]),
    20240926: ([0.8967, -0.7955, 0.3930], [0.6641, -0.3332, -0.0998], [0, 2, 4]),
}


@pytest.mark.parametrize("seed", sorted(CHECK))
def test_data_are_the_authors(seed):
    data = authors.data(seed)
    signal, atom, support = CHECK[seed]
    np.testing.assert_allclose(data.train_signals[0, :3], signal, atol=5e-5)
    np.testing.assert_allclose(data.dictionary[0, :3], atom, atol=5e-5)
    np.testing.assert_array_equal(np.flatnonzero(data.train_codes[0]), support)
    assert data.train_signals.shape == data.test_signals.shape == (1024, 8)
    np.testing.assert_array_equal((data.test_codes != 0).sum(axis=1), 3)
    np.testing.assert_allclose(np.linalg.norm(data.dictionary, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(data.test_signals, data.test_codes @ data.dictionary, rtol=1e-5)


def test_zipf_data_follow_the_authors_law():
    """The first samples by a loop that draws as the authors do; the atoms are those of uniform."""
    total = sum(1 / i for i in range(1, 17))
    weights = [1 / i / total for i in range(1, 17)]
    np.testing.assert_allclose(authors.zipf_weights(), weights, rtol=1e-12)
    data = authors.data(20240926, weights=authors.zipf_weights())
    np.random.seed(20240926)
    for row in data.train_codes[:20]:
        expected = np.zeros(16)
        drawn = np.abs(np.random.normal(0, 1, 16))
        for i in np.random.choice(16, 3, replace=False, p=weights):
            expected[i] = drawn[i] * (weights[i] + 0.1)
        np.testing.assert_allclose(row, expected, rtol=1e-6)
    uniform = authors.data(20240926)
    np.testing.assert_array_equal(data.dictionary, uniform.dictionary)
    np.testing.assert_allclose(data.test_signals, data.test_codes @ data.dictionary, rtol=1e-5)
    rates = (data.train_codes > 0).mean(axis=0)
    assert rates[0] > 0.6 > 0.1 > rates[-1] > 0


def test_initial_weights_are_the_authors():
    weights = authors.initial_weights(authors.UNKNOWN_SEED)
    (weight, bias) = weights.layers[0]
    assert bias is None
    np.testing.assert_allclose(weight[0, :3], [0.2007, 0.1201, -0.1106], atol=5e-5)
    # The decoder (M, N) is our dictionary (N, M) transposed.
    np.testing.assert_allclose(weights.dictionary[:3, 0], [1.0699, -0.4413, 1.2137], atol=5e-5)


def test_torch_stream_redraws_the_last_block_of_sizes_that_16_does_not_divide():
    exact, odd = authors.TorchStream(3).normal((16,)), authors.TorchStream(3).normal((24,))
    # The first 8 of 24 come from the first block; its second half is overwritten by the redraw.
    np.testing.assert_array_equal(exact[:8], odd[:8])
    assert not np.isclose(exact[8:], odd[8:16]).any()
    with pytest.raises(ValueError, match="at least 16"):
        authors.TorchStream(0).normal((15,))


def test_runs_start_from_different_weights():
    first = [authors.known_codes_weights(run).layers[0][0][0, 0] for run in range(5)]
    assert len(set(first)) == 5


def test_published_formulas_give_the_published_values():
    """Unit values, for N = 16, M = 8, n = 1024."""
    sizes = (8, 16)
    assert paper.sae_step(*sizes, 1024, learned=False) == 1_392_640
    assert paper.sae_step(*sizes, 1024, learned=True) == 1_785_856
    assert paper.sae_inference(*sizes, 1024) == 540_672
    assert paper.mlp_step(*sizes, 32, 1024, learned=True) == 5_881_856
    assert paper.mlp_inference(*sizes, 32, 1024) == 1_884_160
    assert paper.mlp_step(*sizes, 256, 1024, learned=True) == 40_058_880
    assert paper.mlp_inference(*sizes, 256, 1024) == 13_123_584
    assert paper.sparse_coding_step(*sizes, 1024, learned=True) == 52_477_952
    assert paper.code_optimization(*sizes, 1024, 10_000) == 7_209_107_456


def test_published_formulas_agree_with_the_published_curves():
    """The result files hold training FLOPs of i + 1 updates at logged step i."""
    sae = paper.published("unknown_dictionary")["sae"]
    ours = (sae["step"] + 1) * paper.sae_step(8, 16, 1024, learned=True)
    np.testing.assert_allclose(sae["train_flops"], ours, rtol=1e-5)
    coding = paper.published("unknown_dictionary")["sparse_coding"]
    ours = (coding["step"] + 1) * paper.sparse_coding_step(8, 16, 1024, learned=True)
    np.testing.assert_allclose(coding["train_flops"], ours, rtol=1e-5)
    codes = paper.published("known_codes")["sae"]
    ours = (codes["step"] + 1) * paper.known_codes_sae_step(8, 16, 1024)
    np.testing.assert_allclose(codes["flops"], ours, rtol=1e-5)
