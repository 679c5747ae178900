"""The amortization gap's short version, and its checks of theory against NumPy."""

import itertools

import jax
import matplotlib.image
import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import amortisation_gap, authors, one_pass, starts, theory


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    amortisation_gap.main(amortisation_gap.QUICK, out)
    return out


@pytest.fixture(scope="module")
def parts(quick):
    return amortisation_gap.unpack(sc.io.load_results(quick / "amortisation_gap")[0])


def test_one_layer_stays_behind_layers_and_steps(parts):
    test = {name: float(row["test"]) for name, row in parts["sweep"].items()}
    assert 0.8 < test["one layer|"] < 0.9
    assert test["one layer|"] + 0.05 < test["LISTA|4"]
    assert test["ISTA|1"] < test["ISTA|64"] < test["FISTA|64"]
    assert test["all supports|"] > 0.9999
    assert parts["sweep"]["one layer|"]["flops"] == 2 * 8 * 16 + 2 * 16


def test_one_atom_a_signal_is_the_exception(parts):
    one, three = parts["K"]["bias"]
    assert one > 0.95
    assert three < 0.9
    np.testing.assert_allclose(parts["K"]["TopK"][0], 1, atol=1e-5)
    assert parts["K"]["TopK"][1] < 0.9


def test_rank_bound_holds_and_the_pseudo_inverse_attains_it(parts):
    values = parts["rank"]
    assert all(float(value) >= 8 - 1e-9 for value in values.values())
    np.testing.assert_allclose(values["pseudo-inverse"], 8, atol=1e-9)
    assert values["random, rows scaled, least of 1,000"] > values["the dictionary, rows scaled"]


def test_supports_are_recovered_where_that_is_certain(parts):
    rates, certain = parts["supports"]["rates"], parts["supports"]["certain"].astype(bool)
    assert certain[0, :4].all()
    assert not certain[0, 4:].any()
    assert not certain[1].any()
    assert (rates[certain] == 1).all()
    assert (rates[1] < 0.1).all()  # the paper's dictionary is too coherent
    assert (rates[..., 0] <= rates[..., 1]).all()


def test_report_and_figure_come_from_the_results_alone(quick, monkeypatch):
    text = (quick / "amortisation_gap.txt").read_text()
    (quick / "amortisation_gap.png").unlink()
    (quick / "amortisation_gap.txt").unlink()
    monkeypatch.setattr(one_pass, "sweep", None)  # any computation would fail
    amortisation_gap.report(amortisation_gap.QUICK, quick)
    assert (quick / "amortisation_gap.txt").read_text() == text
    assert matplotlib.image.imread(quick / "amortisation_gap.png").shape[1] > 1000


def test_the_full_sweep_covers_widths_and_depths():
    found = one_pass.encoders(amortisation_gap.Config())
    families = {family for family, _ in found}
    assert families >= {"one layer", "MLP, 1 hidden", "MLP, 3 hidden", "LISTA"}
    params = {name: jax.eval_shape(e.init, jax.random.key(0)) for name, (e, _) in found.items()}
    assert params["MLP, 1 hidden", "1024"].weights[0].shape == (1024, 8)
    assert params["LISTA", "16"].thresholds.shape == (16, 16)


ENCODERS = {
    "linear": (sc.encoders.linear(8, 16), 1),
    "no bias": (sc.encoders.linear(8, 16, use_bias=False), 1),
    "mlp": (sc.encoders.mlp(8, 16, hidden=(20, 24, 16)), 1),
    "residual": (sc.encoders.residual_mlp(8, 16, width=20, num_blocks=2), 1),
    "lista": (sc.encoders.lista(8, 16, num_layers=3), 3),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_start_as_steps_of_ista(name):
    encoder, steps = ENCODERS[name]
    problem = authors.data(authors.KNOWN_SEED, num_samples=20)
    penalty = 0.0 if name == "no bias" else 0.2
    params = encoder.init(jax.random.key(0))
    params = starts.as_ista(params, problem.dictionary, penalty)
    atoms = problem.dictionary.astype(np.float64)
    step = float(sc.dictionaries.step_size(problem.dictionary))
    codes = np.zeros((20, 16))
    for _ in range(steps):
        slope = (codes @ atoms - problem.test_signals) @ atoms.T
        codes = np.maximum(codes - step * slope - step * penalty, 0)
    found = encoder.apply(params, jax.numpy.asarray(problem.test_signals))
    np.testing.assert_allclose(found, codes, atol=2e-6)
    assert (codes > 0).any(axis=0).sum() >= 12


def test_rank_defect_against_eckart_young():
    """The best map of rank M to the identity of N leaves N - M; scaling rows cannot hurt."""
    rng = np.random.default_rng(0)
    atoms, weight = rng.standard_normal((2, 7, 3))
    product = atoms @ weight.T
    expected = sum(
        (float(i == j) - product[i, j]) ** 2 for i, j in itertools.product(range(7), repeat=2)
    )
    np.testing.assert_allclose(theory.rank_defect(atoms, weight), expected)
    best = theory.rank_defect(atoms, theory.scaled(atoms, weight))
    assert 4 <= best < expected
    for factor in (0.9, 1.1):
        assert theory.rank_defect(atoms, factor * theory.scaled(atoms, weight)) > best


def test_separators():
    """In the plane: the atom between two others has no separator, its neighbors have."""
    angles = np.array([0.0, 0.5, 1.0])
    atoms = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = theory.separators(atoms)
    assert np.isnan(rows[1]).all()
    products = rows[[0, 2]] @ atoms.T
    np.testing.assert_allclose(products[[0, 1], [0, 2]], 1)
    assert products[0, 1] <= 1e-9
    assert products[1, 1] <= 1e-9


def test_spikes_and_waves():
    atoms = theory.spikes_and_waves(16)
    gram = np.abs(atoms @ atoms.T - np.eye(32))
    np.testing.assert_allclose(gram.max(), 0.25, atol=1e-6)
    np.testing.assert_allclose(np.diag(atoms @ atoms.T), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("coherence", "distance", "expected"),
    # a (1 - d) > 4 K m (mu + d) with K = 2, m = 1.25, a = 1: mu = .05 allows d < .5 / 11
    [(0.05, 0.045, True), (0.05, 0.046, False), (0.0, 0.09, True), (0.1, 0.0, False)],
)
def test_condition_of_certain_recovery(coherence, distance, expected):
    assert theory.recovers(coherence, 2, distance, 1.0, 1.5) is expected
    assert not theory.recovers(coherence, 2, distance, 0.0, 1.5)


def test_support_recovery_counts_exact_supports():
    """With orthogonal atoms a latent is its code: the threshold decides alone."""
    atoms = np.eye(8)
    exact, best = theory.support_recovery(atoms, 2, 0.0, magnitudes=(1.0, 2.0), num_samples=40)
    assert exact == best == 1
    far, best = theory.support_recovery(atoms, 2, 1.0, magnitudes=(1.0, 2.0), num_samples=40)
    assert far == 0  # the threshold 2 K m = 6 is above every latent
    assert best < 1
